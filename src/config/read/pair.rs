//! What concerns the other node, and the admin port.

use std::path::PathBuf;
use std::time::Duration;

use tandem_replication::keys::{KeyFiles, TlsFiles};

use super::Reader;
use crate::config::values::{Given, Origin};
use crate::config::{
    Ack, Arbiter, BackupRequests, EXIT_USAGE, EtcdAccess, Failback, Heal, Host, HostPort, Pair, Problem,
    Profile, Witness, bytes, flags,
};
use crate::server::Listen;

impl Reader<'_> {
    pub(super) fn pair(&mut self, client_listen: &[Listen]) -> Option<Pair> {
        let port = self.text("replication-port");
        let peer = self.text("peer");
        let listen = self.texts("replication-listen");
        if port.is_none() && peer.is_none() && listen.is_empty() {
            for id in flags::PAIR_ONLY {
                let is_asked = |given: &Given| {
                    // A switch that is off asks for nothing.
                    let is_off = given.values == ["no"] && id != "start-alone";
                    given.origin != Origin::of_service_manager() && !is_off
                };
                if self.values.get(id).is_some_and(is_asked) {
                    self.problem(EXIT_USAGE, format!("--{id} concerns a pair, but there is none: add -x HOST (or -X PORT to wait for the peer)"));
                }
            }
            return None;
        }
        let port = port.map_or(11212, |text| {
            text.trim().parse::<u16>().ok().filter(|port| *port > 0).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("-X {text}: the replication port takes a number from 1 to 65535"),
                );
                11212
            })
        });
        let peer = peer.and_then(|text| self.address("-x", &text)).inspect(|peer| {
            if peer.host == Host::Any {
                self.problems
                    .push(Problem::new(EXIT_USAGE, "-x *: the peer takes a name or an address".to_owned()));
            }
        });
        let mut listen: Vec<HostPort> = listen
            .iter()
            .flat_map(|list| list.split([',', ';']))
            .filter_map(|element| self.address("--replication-listen", element.trim()))
            .collect();
        if listen.is_empty() {
            let host = |listen: &Listen| listen.host.clone().map_or(Host::Any, Host::Name);
            listen = client_listen.iter().map(|listen| HostPort { host: host(listen), port: None }).collect();
            listen.dedup();
        }
        if listen.is_empty() {
            listen.push(HostPort { host: Host::Any, port: None });
        }
        let psk_file = self.text("psk-file").map(PathBuf::from);
        if let Some(path) = &psk_file
            && let Err(error) = std::fs::File::open(path)
        {
            self.problem(
                EXIT_USAGE,
                format!(
                    "--psk-file {}: {error}; make a key with `tandemctl genkey` and let this user read it",
                    path.display()
                ),
            );
        }
        let tls = self.replication_tls(peer.as_ref().map(|peer| &peer.host));
        let keys = KeyFiles { secrets: psk_file, tls };
        let insecure = self.flag("insecure-replication");
        if keys == KeyFiles::default()
            && !insecure
            && let Some(open) = listen.iter().find(|listen| !is_loopback(&listen.host))
        {
            self.problem(
                EXIT_USAGE,
                format!(
                    "the replication listener on {} can be reached from outside without a key: give both nodes --psk-file FILE \
                     (`tandemctl genkey` makes one) or certificates (--replication-tls-cert), bind it to loopback with --replication-listen, or say --insecure-replication",
                    open.host
                ),
            );
        }
        let profile =
            self.choice("profile", &[("fast", Profile::Fast), ("lan", Profile::Lan), ("wan", Profile::Wan)]);
        let (interval, deadline) = profile.timing();
        let heartbeat_interval = self.duration("heartbeat-interval", interval);
        let dead_after = self.duration("dead-after", deadline);
        if heartbeat_interval.is_zero() || dead_after < heartbeat_interval * 3 {
            self.problem(
                EXIT_USAGE,
                format!(
                    "--dead-after {}ms with --heartbeat-interval {}ms: the deadline must be at least three heartbeats, and those more than 0",
                    dead_after.as_millis(), heartbeat_interval.as_millis()
                ),
            );
        }
        let backlog_bytes = match self.text("backlog") {
            None => (16 << 20).max(self.memory_bytes_or_default() / 16),
            Some(text) => bytes(&text, 1 << 20).filter(|bytes| *bytes >= 1 << 20).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("--backlog {text}: takes a number of megabytes, at least 1"),
                );
                16 << 20
            }),
        };
        let backup_requests = self.choice(
            "backup-requests",
            &[
                ("proxy", BackupRequests::Proxy),
                ("local-reads", BackupRequests::LocalReads),
                ("reject", BackupRequests::Reject),
                ("accept", BackupRequests::Accept),
            ],
        );
        let heal = self.choice(
            "heal",
            &[("newest", Heal::Newest), ("winner", Heal::Winner), ("invalidate", Heal::Invalidate)],
        );
        let arbiter = self.arbiter();
        if backup_requests == BackupRequests::Accept {
            self.check_accept(heal, arbiter.is_some());
        }
        let heartbeat_peer = self.text("heartbeat-peer");
        let heartbeat_peer = heartbeat_peer.and_then(|text| self.address("--heartbeat-peer", &text));
        if let Some(second) = &heartbeat_peer {
            if second.host == Host::Any {
                let text =
                    "--heartbeat-peer *: it takes the other node's name or address on a second network";
                self.problem(EXIT_USAGE, text.to_owned());
            }
            if peer.as_ref().is_some_and(|peer| peer.host == second.host) {
                let text = format!(
                    "--heartbeat-peer {second}: that is the address of -x; name the other node's address on another network"
                );
                self.problem(EXIT_USAGE, text);
            }
        }
        Some(Pair {
            peer,
            heartbeat_peer,
            port,
            listen,
            state_dir: self.text("state-dir").map(PathBuf::from),
            profile,
            heartbeat_interval,
            dead_after,
            failback: self.choice(
                "failback",
                &[("auto", Failback::Auto), ("manual", Failback::Manual), ("never", Failback::Never)],
            ),
            failback_delay: self.duration("failback-delay", Duration::from_secs(60)),
            preferred: self.flag("preferred"),
            start_alone: self.choice("start-alone", &[("yes", YesNo(true)), ("no", YesNo(false))]).0,
            backup_requests,
            heal,
            ack: self.ack(),
            verify_interval: self.duration("verify-interval", Duration::from_secs(3600)),
            backlog_bytes,
            keys,
            arbiter,
            on_role_change: self.program("on-role-change"),
            fence_command: self.program("fence-command"),
            insecure,
        })
    }

    /// Where both nodes take writes, some other promises cannot be kept.
    fn check_accept(&mut self, heal: Heal, arbitrated: bool) {
        if arbitrated {
            let text =
                "--arbiter promises one writer, --backup-requests accept wants two: choose one of them";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        if self.text("repcached-peer").is_some() {
            let text = "--repcached-peer: a repcached has one partner; join it with --backup-requests proxy, then set accept";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        if heal != Heal::Newest {
            let text = "--heal: with --backup-requests accept the newer write of a key counts, so only `newest` is possible";
            self.problem(EXIT_USAGE, text.to_owned());
        }
    }

    /// Certificates for the link: all three files or none.
    fn replication_tls(&mut self, peer: Option<&Host>) -> Option<TlsFiles> {
        const FILES: [&str; 3] = ["replication-tls-cert", "replication-tls-key", "replication-tls-ca"];
        let files = FILES.map(|id| self.text(id).map(PathBuf::from));
        let name = self.text("replication-tls-name");
        if files.iter().all(Option::is_none) {
            if name.is_some() {
                let text = format!("--replication-tls-name needs certificates: --{}", FILES.join(", --"));
                self.problem(EXIT_USAGE, text);
            }
            return None;
        }
        for (id, path) in FILES.iter().zip(&files) {
            let problem = match path {
                None => format!("--{id}: missing; certificates need --{}", FILES.join(", --")),
                Some(path) => match std::fs::File::open(path) {
                    Ok(_) => continue,
                    Err(error) => format!("--{id} {}: {error}; let this user read it", path.display()),
                },
            };
            self.problem(EXIT_USAGE, problem);
        }
        let name = name.or_else(|| match peer {
            Some(Host::Name(name)) => Some(name.clone()),
            _ => None,
        });
        if name.is_none() {
            let text = "--replication-tls-name: without -x, say the name in the peer's certificate";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        let [certificate, key, authority] = files;
        Some(TlsFiles { certificate: certificate?, key: key?, authority: authority?, name: name? })
    }

    fn arbiter(&mut self) -> Option<Arbiter> {
        let access = self.etcd_access();
        let text = self.text("arbiter")?;
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("etcd" | "etcds"), rest)) => (scheme, rest),
            Some((scheme, _)) => {
                let text = format!(
                    "--arbiter {text}: {scheme}:// is unknown; name an etcd as etcd://HOST:PORT, under TLS as \
                     etcds://HOST:PORT, a witness as HOST:PORT"
                );
                self.problem(EXIT_USAGE, text);
                return None;
            }
            None => ("", &*text),
        };
        let (list, name) = match rest.split_once('/') {
            Some((list, name)) if !scheme.is_empty() && !name.is_empty() => (list, name),
            Some((list, _)) if !scheme.is_empty() => (list, "tandem"),
            _ => (rest, "tandem"),
        };
        let mut addresses = Vec::new();
        for element in list.split(',').map(str::trim) {
            let address = self.address("--arbiter", element)?;
            if address.host == Host::Any {
                self.problem(EXIT_USAGE, format!("--arbiter {text}: `*` is no address"));
                return None;
            }
            addresses.push(address);
        }
        if scheme.is_empty() && addresses.len() % 2 == 0 {
            let text = format!(
                "--arbiter {text}: {} witnesses; name one, or three of which two must agree",
                addresses.len()
            );
            self.problem(EXIT_USAGE, text);
        }
        if scheme != "etcds"
            && let Some(flag) = access.first_flag()
        {
            let text = format!(
                "--{flag}: is for an etcd that speaks TLS; name it as --arbiter etcds://HOST:PORT, or leave --{flag} away"
            );
            self.problem(EXIT_USAGE, text);
        }
        Some(match scheme {
            "" => Arbiter::Witnesses(addresses),
            _ => Arbiter::Etcd {
                addresses,
                name: name.to_owned(),
                access: EtcdAccess { tls: scheme == "etcds", ..access },
            },
        })
    }

    /// The files for an etcd, each of which can be read.
    fn etcd_access(&mut self) -> EtcdAccess {
        let mut file = |id: &str| {
            let path = self.text(id).map(PathBuf::from)?;
            if let Err(error) = std::fs::File::open(&path) {
                let text = format!("--{id} {}: {error}; let this user read it", path.display());
                self.problem(EXIT_USAGE, text);
            }
            Some(path)
        };
        let (authorities, user) = (file("arbiter-tls-ca"), file("arbiter-auth-file"));
        let identity = match (file("arbiter-tls-cert"), file("arbiter-tls-key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (certificate, _) => {
                let (given, missing) = match certificate {
                    Some(_) => ("cert", "key"),
                    None => ("key", "cert"),
                };
                let text = format!("--arbiter-tls-{given}: needs --arbiter-tls-{missing} FILE beside it");
                self.problem(EXIT_USAGE, text);
                None
            }
        };
        let access = EtcdAccess { tls: false, authorities, identity, user };
        if self.text("arbiter").is_none()
            && let Some(flag) = access.first_flag()
        {
            let text = format!("--{flag}: there is no arbiter; name it with --arbiter etcds://HOST:PORT");
            self.problem(EXIT_USAGE, text);
        }
        access
    }

    /// A program to be run as it is, without a shell.
    fn program(&mut self, id: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(id)?);
        match path.metadata() {
            Ok(file) if file.is_file() && path.is_absolute() => {}
            Err(error) => {
                self.problem(EXIT_USAGE, format!("--{id} {}: {error}; name a program", path.display()))
            }
            Ok(_) => self.problem(
                EXIT_USAGE,
                format!("--{id} {}: takes the absolute path of one program, no arguments", path.display()),
            ),
        }
        Some(path)
    }

    /// `--witness`: a third node that only answers who may serve.
    pub(super) fn witness(&mut self) -> Option<Witness> {
        if !self.flag("witness") {
            return None;
        }
        for id in ["peer", "arbiter", "admin", "repcached-peer"] {
            if self.values.get(id).is_some() {
                self.problem(
                    EXIT_USAGE,
                    format!("--{id}: a witness (--witness) has no such thing; remove it"),
                );
            }
        }
        if self.text("replication-port").is_none() && self.texts("replication-listen").is_empty() {
            self.problem(
                EXIT_USAGE,
                "--witness: say where nodes ask it, with -X PORT or --replication-listen".to_owned(),
            );
        }
        let state_dir = self.text("state-dir").map(PathBuf::from);
        if state_dir.is_none() {
            let text = "--witness needs --state-dir DIR: it must not forget to whom it gave its word";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        Some(Witness { state_dir: state_dir.unwrap_or_default() })
    }

    /// Received is applied here: a backup applies what it receives in the same step.
    fn ack(&mut self) -> Ack {
        let all = self
            .choice("ack", &[("async", Waits(false)), ("received", Waits(true)), ("applied", Waits(true))]);
        let lists = self.texts("ack-prefix");
        let prefixes: Vec<String> =
            lists.iter().flat_map(|list| list.split(',')).map(|prefix| prefix.trim().to_owned()).collect();
        if prefixes.iter().any(String::is_empty) {
            self.problem(
                EXIT_USAGE,
                "--ack-prefix with an empty prefix means every key: say --ack applied".to_owned(),
            );
        }
        let timeout = self.duration("ack-timeout", Duration::from_millis(50));
        let longest = Duration::from_secs(10);
        if timeout.is_zero() || timeout > longest {
            self.problem(EXIT_USAGE, format!("--ack-timeout {}ms: takes 1ms to 10s", timeout.as_millis()));
        }
        let ack = Ack { all: all.0, prefixes, timeout, strict: self.flag("ack-strict") };
        if ack.strict && !ack.all && ack.prefixes.is_empty() && self.text("sync-port").is_none() {
            self.problem(
                EXIT_USAGE,
                "--ack-strict without writes that wait: add --ack applied, --ack-prefix or --sync-port"
                    .to_owned(),
            );
        }
        ack
    }

    pub(super) fn repcached(&mut self) -> Option<HostPort> {
        let text = self.text("repcached-peer")?;
        let peer = self.address("--repcached-peer", &text)?;
        if peer.host == Host::Any {
            self.problem(EXIT_USAGE, "--repcached-peer *: it takes a name or an address".to_owned());
        }
        Some(peer)
    }

    pub(super) fn admin(&mut self, paired: bool) -> Option<HostPort> {
        match self.text("admin").as_deref() {
            None if paired => Some(HostPort { host: Host::Name("127.0.0.1".to_owned()), port: Some(11213) }),
            None | Some("off") => None,
            Some(text) => {
                let address = self.address("--admin", text)?;
                if address.port.is_none() {
                    self.problem(
                        EXIT_USAGE,
                        format!("--admin {text}: the admin port needs a port, as in 127.0.0.1:11213"),
                    );
                }
                Some(address)
            }
        }
    }
}

/// Whether all writes wait.
#[derive(Clone, Copy, Default)]
struct Waits(bool);

/// yes unless no.
#[derive(Clone, Copy)]
struct YesNo(bool);

impl Default for YesNo {
    fn default() -> Self {
        Self(true)
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Any => false,
        Host::Name(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}
