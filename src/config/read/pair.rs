//! What concerns the other node, and the admin port.

use std::path::PathBuf;
use std::time::Duration;

use super::Reader;
use crate::config::values::{Given, Origin};
use crate::config::{
    Ack, BackupRequests, EXIT_USAGE, Failback, Host, HostPort, Pair, Problem, Profile, bytes, flags,
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
        let insecure = self.flag("insecure-replication");
        if psk_file.is_none()
            && !insecure
            && let Some(open) = listen.iter().find(|listen| !is_loopback(&listen.host))
        {
            self.problem(
                EXIT_USAGE,
                format!(
                    "the replication listener on {} can be reached from outside without a key: give both nodes --psk-file FILE \
                     (`tandemctl genkey` makes one), bind it to loopback with --replication-listen, or say --insecure-replication",
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
        Some(Pair {
            peer,
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
            backup_requests: self.choice(
                "backup-requests",
                &[
                    ("proxy", BackupRequests::Proxy),
                    ("local-reads", BackupRequests::LocalReads),
                    ("reject", BackupRequests::Reject),
                ],
            ),
            ack: self.ack(),
            verify_interval: self.duration("verify-interval", Duration::from_secs(3600)),
            backlog_bytes,
            psk_file,
            insecure,
        })
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
