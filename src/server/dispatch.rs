//! Requests that are not about one item.

use std::sync::atomic::Ordering;

use super::dump::Dump;
use super::session::{Action, Session};
use super::worker::Shared;
use super::{ConnectionState, Peer, Service};
use crate::command::{Deadline, Exptime, Now};
use crate::logs;
use crate::protocol::{Form, Output, Session as Asked};
use crate::stats::{Family, Shape, family};

/// Answers `asked`. Returns what the connection has to wait for, if anything.
pub(super) fn answer(
    session: &mut Session,
    asked: &Asked<'_>,
    form: &Form<'_>,
    now: Now,
    shared: &Shared,
    out: &mut Output,
) -> Option<Action> {
    let service = &*shared.service;
    match asked {
        Asked::Version => form.version(super::VERSION, out),
        Asked::Quit => {
            form.goodbye(out);
            session.said_goodbye = true;
            return Some(Action::Close);
        }
        Asked::Stats(words) => stats(session, words, form, now, service, out),
        Asked::FlushAll(exptime) => {
            service.engine.flush(flush_instant(*exptime, now), now);
            form.done("OK", out);
        }
        Asked::FlushForbidden => {
            shared.cell().flush_refused.add(1);
            form.flush_forbidden(out);
        }
        Asked::Verbosity(level) => {
            service.verbosity.store(*level, Ordering::Relaxed);
            logs::set_level(logs::level_of_verbosity(*level));
            form.done("OK", out);
        }
        Asked::CacheMemlimit(megabytes) => {
            service.engine.set_limit(megabytes << 20);
            tracing::info!("a client set the memory limit to {megabytes} MB (cache_memlimit)");
            form.done("OK", out);
        }
        Asked::Shutdown(graceful) => {
            (service.on_shutdown)(*graceful);
            return Some(Action::Close);
        }
        Asked::LruCrawler(words) => crawler(session, words, form, service, out),
        Asked::Slabs(words) => slabs(words, form, service.stats.shape(), out),
        Asked::Lru(words) => lru(words, form, service.stats.shape(), out),
        Asked::Watch(_) if !service.config.watch_enabled => {
            form.client_error("watch commands not allowed", out)
        }
        Asked::Watch(words) => match super::watch::kinds(words) {
            Some(kinds) => return Some(Action::Watch(kinds)),
            None => form.unknown(out),
        },
        Asked::RefreshCerts => match service.reload_certificates() {
            None => form.line("Error TLS not enabled", out),
            Some(Ok(())) => form.done("OK", out),
            Some(Err(error)) => {
                tracing::error!("{error}; the certificates of before stay in force");
                form.line("Error the certificates cannot be read; the server's log says why", out);
            }
        },
        Asked::SaslList if service.config.sasl => form.sasl_mechanisms("PLAIN", out),
        Asked::SaslAuth { mechanism, data } if service.config.sasl => {
            shared.cell().auth_cmds.add(1);
            let plain = if *mechanism == b"PLAIN" { super::auth::plain(data) } else { None };
            if plain.is_some_and(|(user, password)| service.auth.admits(user, password)) {
                form.authenticated(out);
            } else {
                shared.cell().auth_errors.add(1);
                form.auth_failure(out);
            }
        }
        Asked::SaslStep if service.config.sasl => form.auth_failure(out),
        Asked::SaslList | Asked::SaslAuth { .. } | Asked::SaslStep => form.unknown(out),
    }
    None
}

/// When a `flush_all` takes effect: at once, or at that engine second.
fn flush_instant(exptime: Option<Exptime>, now: Now) -> Option<u32> {
    match exptime {
        None => None,
        Some(exptime) => match exptime.deadline(now) {
            Deadline::NEVER | Deadline::PAST => None,
            Deadline(secs) if secs <= now.secs => None,
            Deadline(secs) => Some(secs),
        },
    }
}

fn stats(
    session: &mut Session,
    words: &[u8],
    form: &Form<'_>,
    now: Now,
    service: &Service,
    out: &mut Output,
) {
    let stats = &service.stats;
    let mut tell = |name: &str, value: &str| form.stat(name, value, out);
    match family(words) {
        Family::General => stats.general(now, &mut tell),
        Family::Settings => stats.settings(service.verbosity.load(Ordering::Relaxed), now, &mut tell),
        Family::Items => stats.items(now, &mut tell),
        Family::Slabs => stats.slabs(now, &mut tell),
        Family::Connections => connections(service, now, &mut tell),
        Family::Replication => stats.replication(&mut tell),
        Family::Reset => {
            stats.reset();
            form.done("RESET", out);
            return;
        }
        Family::Sizes => match service.sizes_tracked() {
            true => {
                session.dump = Some(Box::new(Dump::sizes()));
                return;
            }
            false => tell("sizes_status", "disabled"),
        },
        Family::Cachedump(words) => {
            cachedump(session, words, form, service, out);
            return;
        }
        Family::Detail(word) => {
            detail(word, form, service, out);
            return;
        }
        Family::Unknown => {
            form.unknown(out);
            return;
        }
    }
    form.stat_end(out);
}

fn detail(word: &[u8], form: &Form<'_>, service: &Service, out: &mut Output) {
    let detail = &service.stats.detail;
    match word {
        _ if !service.config.dump_enabled => form.client_error("stats detail not allowed", out),
        b"on" | b"off" => {
            detail.on.store(word == b"on", Ordering::Relaxed);
            form.done("OK", out);
        }
        b"dump" => {
            detail.dump(|line| form.line(line, out));
            form.stat_end(out);
        }
        _ => form.client_error("usage: stats detail on|off|dump", out),
    }
}

fn cachedump(session: &mut Session, words: &[u8], form: &Form<'_>, service: &Service, out: &mut Output) {
    if !service.config.dump_enabled {
        return form.client_error("stats cachedump not allowed", out);
    }
    let mut words = words.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (Some(class), Some(limit)) = (words.next(), words.next()) else {
        return form.client_error("bad command line", out);
    };
    let (Some(class), Some(limit)) = (number(class), number(limit)) else {
        return form.client_error("bad command line format", out);
    };
    match u8::try_from(class) {
        Ok(class) if class < 64 => session.dump = Some(Box::new(Dump::class(class, limit))),
        _ => form.client_error("Illegal slab id", out),
    }
}

fn connections(service: &Service, now: Now, tell: &mut dyn FnMut(&str, &str)) {
    for (descriptor, address) in &service.listening {
        let is_udp = address.starts_with("udp:");
        if is_udp {
            tell(&format!("{descriptor}:UDP"), "UDP");
        }
        tell(&format!("{descriptor}:addr"), address);
        let state = if is_udp { "conn_read" } else { "conn_listening" };
        tell(&format!("{descriptor}:state"), state);
        tell(&format!("{descriptor}:secs_since_last_cmd"), &now.secs.to_string());
    }
    for info in service.everybody().places.iter().flatten() {
        let descriptor = info.descriptor;
        let (address, local) = match &info.peer {
            Peer::Tcp(peer, local) => (
                format!("tcp:{}", super::listener::shown(peer)),
                service.listening.get(usize::from(*local)).map(|(_, name)| name.clone()).unwrap_or_default(),
            ),
            Peer::Unix => (
                "unix:".to_owned(),
                service.listening.first().map(|(_, name)| name.clone()).unwrap_or_default(),
            ),
            Peer::Proxied(peer) => (format!("tcp:{}", super::listener::shown(peer)), "proxy".to_owned()),
        };
        let state = match info.state.load(Ordering::Relaxed) {
            s if s == ConnectionState::Waiting as u8 => "conn_read",
            s if s == ConnectionState::Working as u8 => "conn_parse_cmd",
            s if s == ConnectionState::Watching as u8 => "conn_watch",
            _ => "conn_mwrite",
        };
        let idle = now.secs.saturating_sub(info.last_command.load(Ordering::Relaxed));
        tell(&format!("{descriptor}:addr"), &address);
        tell(&format!("{descriptor}:listen_addr"), &local);
        tell(&format!("{descriptor}:state"), state);
        tell(&format!("{descriptor}:secs_since_last_cmd"), &idle.to_string());
    }
}

fn crawler(session: &mut Session, words: &[u8], form: &Form<'_>, service: &Service, out: &mut Output) {
    let mut words = words.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    match (words.next().unwrap_or_default(), words.next()) {
        (b"metadump" | b"mgdump", _) if !service.config.dump_enabled => {
            form.line("ERROR metadump not allowed", out)
        }
        (kind @ (b"metadump" | b"mgdump"), Some(which)) => match Dump::lines(kind == b"metadump", which) {
            Some(dump) => session.dump = Some(Box::new(dump)),
            None => form.line("BADCLASS invalid class id", out),
        },
        (b"enable" | b"disable", None) => form.done("OK", out),
        (b"sleep", Some(micros)) => match number(micros) {
            Some(micros) if micros <= 1_000_000 => form.done("OK", out),
            Some(_) => form.client_error("sleep must be one second or less", out),
            None => form.client_error("bad command line format", out),
        },
        (b"tocrawl", Some(count)) => match number(count) {
            Some(_) => form.done("OK", out),
            None => form.client_error("bad command line format", out),
        },
        // What has expired is found by upkeep anyway.
        (b"crawl", Some(which)) => match Dump::lines(true, which) {
            Some(_) => form.done("OK", out),
            None => form.line("BADCLASS invalid class id", out),
        },
        _ => form.unknown(out),
    }
}

/// Slab classes are only shown here, not kept; the commands that move pages are answered as a server
/// with nothing to move would.
fn slabs(words: &[u8], form: &Form<'_>, shape: &Shape, out: &mut Output) {
    let words: Vec<&[u8]> = words.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
    match words[..] {
        [b"automove", b"ratio" | b"freeratio" | b"window", ref value @ ..] => match value.first() {
            Some(value) if decimal(value).is_some() => form.done("OK", out),
            _ => form.unknown(out),
        },
        [b"automove", level, ..] => match number(level) {
            Some(0..=2) => form.done("OK", out),
            Some(_) => form.unknown(out),
            None => form.client_error("bad command line format", out),
        },
        [b"reassign", _, _] if !shape.slab_reassign => form.client_error("slab reassignment disabled", out),
        [b"reassign", source, target] => match (signed(source), signed(target)) {
            (Some(source), Some(target)) if source == target => {
                form.line("SAME src and dst class are identical", out);
            }
            (Some(-1..=63), Some(0..=63)) => form.line("NOSPARE source class has no spare pages", out),
            (Some(_), Some(_)) => form.line("BADCLASS invalid src or dst class id", out),
            _ => form.client_error("bad command line format", out),
        },
        _ => form.unknown(out),
    }
}

/// There is one policy for all; memcached's knobs are accepted where they make sense to memcached.
fn lru(words: &[u8], form: &Form<'_>, shape: &Shape, out: &mut Output) {
    let words: Vec<&[u8]> = words.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
    match words[..] {
        [b"tune", hot, warm, hot_age, warm_age, ..] => {
            match (number(hot), number(warm), decimal(hot_age), decimal(warm_age)) {
                (Some(hot), Some(warm), Some(_), Some(_)) if hot.saturating_add(warm) > 80 => {
                    form.line("ERROR hot and warm pcts must not exceed 80", out);
                }
                (Some(_), Some(_), Some(hot), Some(warm)) if hot <= 0.0 || warm <= 0.0 => {
                    form.line("ERROR hot/warm age factors must be greater than 0", out);
                }
                (Some(_), Some(_), Some(_), Some(_)) => form.done("OK", out),
                _ => form.unknown(out),
            }
        }
        [b"mode", b"flat" | b"segmented", ..] if shape.lru_maintainer => form.done("OK", out),
        [b"temp_ttl", ttl, ..] if shape.lru_maintainer && signed(ttl).is_some() => form.done("OK", out),
        _ => form.unknown(out),
    }
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn signed(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn decimal(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

impl Service {
    fn sizes_tracked(&self) -> bool {
        self.stats.sizes_tracked()
    }
}
