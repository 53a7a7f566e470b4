//! What the admin port shows of this node and lets people do with it, put together from its parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tandem_replication::driver::{Remote, Snapshot};
use tandem_replication::liveness::Verdict;
use tandem_replication::node::Operator;
use tandem_replication::status::Load;

use crate::admin::events::EventLog;
use crate::admin::metrics::{self, Distribution, Metric};
use crate::admin::report::{Arbiter, Link, Node, Samples, Status};
use crate::admin::{AdminSource, BoxFuture, Verb};
use crate::logs;
use crate::replica::report;
use crate::stats::Stats;
use crate::stats::latency::Kind;

use super::meter::Meter;
use super::recorder::Columns;

/// This node, as the admin port sees it.
pub(super) struct View {
    pub(super) meter: Arc<Meter>,
    pub(super) stats: Arc<Stats>,
    pub(super) pair: Option<Remote>,
    pub(super) events: EventLog,
    pub(super) columns: Columns,
    /// Where clients find the peer: what it told last, also when it is gone; 0 before it told.
    pub(super) peer_port: AtomicU16,
}

impl View {
    /// One wish after the other; what is said at the end.
    fn ask(&self, wish: Operator, done: &'static str) -> BoxFuture<'_, Result<String, String>> {
        let Some(pair) = self.pair.clone() else {
            return Box::pin(async { Err("this node has no peer; start it with -x PEER".to_string()) });
        };
        Box::pin(async move { pair.command(wish).await.map(|()| done.to_owned()) })
    }

    /// The peer's host as this node knows it, with the port for clients that the peer told. Before it told one, where
    /// its replication listens.
    fn peer_address(&self, snapshot: &Snapshot) -> String {
        let told = |load: &Load| {
            let node: Node = serde_json::from_str(&load.summary).ok()?;
            node.address.rsplit_once(':')?.1.parse().ok()
        };
        if let Some(port) = snapshot.pair.peer_load.as_ref().and_then(told) {
            self.peer_port.store(port, Ordering::Relaxed);
        }
        let dialled = snapshot.peer.clone().unwrap_or_default();
        match (dialled.rsplit_once(':'), self.peer_port.load(Ordering::Relaxed)) {
            (None, _) | (_, 0) => dialled,
            (Some((host, _)), port) => format!("{host}:{port}"),
        }
    }

    fn demote(&self) -> BoxFuture<'_, Result<String, String>> {
        match self.status().node.role.as_str() {
            "backup" => Box::pin(std::future::ready(Ok("this node is backup already".to_owned()))),
            "master" => self.ask(Operator::Switchover, "this node is backup now"),
            role => {
                let why = format!("this node is {role}: only a master can give its role away");
                Box::pin(std::future::ready(Err(why)))
            }
        }
    }
}

impl AdminSource for View {
    fn status(&self) -> Status {
        let mut status = Status { format: Status::FORMAT, node: self.meter.node(), ..Status::default() };
        let Some(pair) = &self.pair else { return status };
        let snapshot = pair.status();
        let mut peer = peer(&snapshot);
        peer.address = self.peer_address(&snapshot);
        status.peer = Some(peer);
        status.link = Some(link(&snapshot, self.stats.proxied_requests()));
        status.arbiter = arbiter(&snapshot);
        status.warnings = warnings(&status, snapshot.pair.arbiter.is_some());
        status
    }

    fn metrics(&self) -> Vec<Metric> {
        let numbers = self.stats.numbers(&self.meter.snapshot());
        let numbers = numbers.into_iter().map(|(name, grows, value)| {
            let (name, value) = as_prometheus_names_it(name, value);
            let help = format!("memcached's statistic {name}");
            let (kind, ending) =
                if grows { (metrics::Kind::Counter, "_total") } else { (metrics::Kind::Gauge, "") };
            Metric { kind, ..Metric::gauge(format!("memcached_{name}{ending}"), help, value) }
        });
        let mut all: Vec<Metric> = numbers.collect();
        all.push(latency(&self.stats));
        all
    }

    fn samples(&self, from: u64) -> Samples {
        self.columns.from(from)
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn act(&self, verb: Verb) -> BoxFuture<'_, Result<String, String>> {
        match verb {
            Verb::Switchover => self.ask(Operator::Switchover, "the roles have changed"),
            Verb::Promote { force } => self.ask(Operator::Promote { force }, "this node is master now"),
            Verb::Demote => self.demote(),
            Verb::Resync => self.ask(Operator::Resync, "everything is copied anew; /status has the progress"),
            Verb::PauseFailover => self.ask(
                Operator::PauseFailover,
                "this node takes and gives no role by itself until it is resumed or restarted",
            ),
            Verb::Verify => {
                self.ask(Operator::Verify, "all items are being compared; /status has what is found")
            }
            Verb::ResumeFailover => self.ask(Operator::ResumeFailover, "failovers are possible again"),
            Verb::LogLevel(level) => {
                let result = logs::set_level_by_name(&level);
                Box::pin(std::future::ready(result.map(|()| format!("the log's level is {level}"))))
            }
        }
    }
}

/// memcached's name, but for those with endings and units that mean something else to Prometheus.
fn as_prometheus_names_it(name: &'static str, value: f64) -> (&'static str, f64) {
    match name {
        "read_buf_count" => ("read_bufs", value),
        "response_obj_count" => ("response_objs", value),
        "time_in_listen_disabled_us" => ("time_in_listen_disabled_seconds", value / 1e6),
        name => (name, value),
    }
}

fn latency(stats: &Stats) -> Metric {
    let distributions = Kind::ALL.into_iter().map(|kind| {
        let times = stats.times(kind);
        Distribution {
            labels: vec![("command", kind.name().to_owned())],
            buckets: times.cumulative(),
            sum: times.sum.as_secs_f64(),
            count: times.measured(),
        }
    });
    Metric::histogram(
        "tandem_request_duration_seconds",
        "Time of requests inside the server, without the network. One batch in thirty-two is measured.",
        distributions.collect(),
    )
}

/// The peer, as it says of itself; without a link only what is known from before. Its address is for the caller to say.
fn peer(snapshot: &Snapshot) -> Node {
    let pair = &snapshot.pair;
    let reached = pair.is_linked() && !report::lost(snapshot);
    let load = pair.peer_load.clone().filter(|_| reached);
    let (heard, load) = (load.is_some(), load.unwrap_or_default());
    let state = pair.peer_state.filter(|_| reached).map(|state| state.name());
    // One of another version may say it in other words: what is not understood is not known.
    let mut node: Node = serde_json::from_str(&load.summary).unwrap_or_default();
    if Some(node.role.as_str()) != state {
        // Measured before its role changed.
        (node.role_reason, node.role_for_secs, node.epoch) = (None, None, pair.peer_epoch);
    }
    let known = |value: u64| heard.then_some(value);
    Node {
        role: state.unwrap_or(if reached { "" } else { "unreachable" }).to_string(),
        items: known(load.items),
        memory_bytes: known(load.bytes),
        memory_limit_bytes: known(load.limit),
        reads_per_second: heard.then_some(f64::from(load.reads_rate)),
        writes_per_second: heard.then_some(f64::from(load.writes_rate)),
        uptime_secs: known(load.uptime_secs),
        version: snapshot.peer_release.clone().or_else(|| heard.then(|| load.release.clone())),
        ready: reached && node.ready,
        ..node
    }
}

fn link(snapshot: &Snapshot, proxied_requests: u64) -> Link {
    let pair = &snapshot.pair;
    let counters = &pair.counters;
    Link {
        up: report::linked(snapshot),
        problem: report::problem(snapshot),
        heartbeat_path_up: pair.second_up,
        silent_ms: pair.peer_silent.map(|silent| silent.as_millis()),
        peer_is: pair.peer_verdict.map_or("", verdict).to_owned(),
        synced: pair.in_sync,
        lag_records: pair.lag_records,
        lag_bytes: pair.lag_bytes,
        lag_ms: pair.lag.as_millis(),
        backlog_bytes: pair.backlog_bytes,
        copy: pair.copy.map(|copy| (copy.items, copy.items_total)),
        copy_bytes: pair.copy.map_or(0, |copy| copy.bytes),
        copy_seconds_left: pair.copy.and_then(|copy| copy.left()).map(|left| left.as_millis().div_ceil(1000)),
        full_copies: counters.full_copies,
        partial_resyncs: counters.partial_resyncs,
        catch_ups: counters.catch_ups,
        resumed_copies: counters.resumed_copies,
        suspects_dropped: counters.suspects_dropped,
        heal_merged: counters.merged,
        heal_conflicts: counters.conflicts,
        bytes_sent: counters.bytes_sent,
        promotions: counters.promotions,
        switchovers: counters.switchovers,
        reconnects: counters.reconnects,
        changes_sent: counters.changes_sent,
        changes_applied: counters.changes_applied,
        proxied_requests,
        refused_strangers: snapshot.refused,
        ignored_frames: snapshot.ignored_frames,
        verifying: pair.verify.running,
        verified_items: pair.verify.last.map_or(0, |last| last.items),
        verified_secs_ago: pair.verify.last.map(|_| pair.verify.age.as_millis() as f64 / 1e3),
        diverged_items: counters.diverged,
    }
}

fn arbiter(snapshot: &Snapshot) -> Option<Arbiter> {
    let known = snapshot.pair.arbiter?;
    let grant = match (known.granted, known.refused) {
        (Some(_), _) => "this node",
        (None, true) => "the other node",
        (None, false) => "",
    };
    Some(Arbiter {
        name: snapshot.arbiter.clone().unwrap_or_default(),
        reachable: known.heard,
        grant: grant.to_owned(),
        grant_ms: known.granted.map(|left| left.as_millis()),
    })
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Alive => "alive",
        Verdict::Suspect => "suspect",
        Verdict::Silent => "silent",
        Verdict::Certain => "gone",
    }
}

/// Contradictions first: they are there before anything happens.
fn warnings(status: &Status, arbitrated: bool) -> Vec<String> {
    let (node, peer) = (&status.node, status.peer.as_ref());
    let mut warnings = status.contradictions();
    let paused = |node: &Node, which| {
        node.failover_paused.then(|| {
            format!("failovers are paused on {which} node: `tandemctl resume-failover` there ends it")
        })
    };
    warnings.extend(paused(node, "this"));
    warnings.extend(peer.and_then(|peer| paused(peer, "the other")));
    let takes_writes = node.settings.get("--backup-requests").is_some_and(|how| how == "accept");
    if matches!(node.role.as_str(), "backup" | "joining")
        && status.link.as_ref().is_some_and(|link| !link.up)
        && !takes_writes
    {
        let way = if node.failover_paused {
            "failovers are paused, so nothing happens by itself: `tandemctl promote` makes this node master"
        } else {
            "it takes over as soon as it may; `tandemctl promote` says why not yet"
        };
        warnings.push(format!(
            "clients of this node get errors: it is {} and reaches no master; {way}",
            node.role
        ));
    }
    // With an arbiter it would have had to give up its role.
    if !arbitrated && status.is_master() && status.link.as_ref().is_some_and(|link| link.peer_is == "silent")
    {
        warnings.push(
            "the other node is silent, not known to be dead: if it lives behind a cut network, it serves, too"
                .to_owned(),
        );
    }
    if node.role == "master" && peer.is_some_and(|peer| peer.role == "master") {
        warnings.push("both nodes are master: the one with the lower epoch is about to follow".to_owned());
    }
    warnings
}
