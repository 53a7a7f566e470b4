//! What the admin port shows of this node, put together from its parts.

use std::sync::Arc;

use tandem_replication::driver::{self, Remote, Snapshot};
use tandem_replication::node::Operator;

use crate::admin::metrics::Metric;
use crate::admin::report::{Link, Node, Status};
use crate::admin::{AdminSource, BoxFuture};
use crate::replica::report;
use crate::server::VERSION;
use crate::server::clock::Clock;
use crate::stats::Stats;

/// This node, as the admin port sees it.
pub(super) struct View {
    pub(super) address: String,
    pub(super) stats: Arc<Stats>,
    pub(super) clock: Arc<Clock>,
    pub(super) pair: Option<Remote>,
}

impl View {
    fn node(&self) -> Node {
        let snapshot = self.stats.snapshot(self.clock.now());
        let commands = &snapshot.engine.commands;
        let reads = commands.get_hits + commands.get_misses;
        Node {
            address: self.address.clone(),
            role: "standalone".to_string(),
            ready: true,
            items: Some(snapshot.engine.curr_items),
            memory_bytes: Some(snapshot.engine.used),
            memory_limit_bytes: Some(snapshot.engine.limit),
            hit_ratio: (reads > 0).then(|| commands.get_hits as f64 / reads as f64),
            connections: Some(snapshot.curr_connections),
            uptime_secs: Some(u64::from(self.clock.now().secs)),
            version: Some(VERSION.to_string()),
            ..Node::default()
        }
    }

    fn command(&self, wish: Operator) -> BoxFuture<'_, Result<(), String>> {
        let Some(pair) = self.pair.clone() else {
            return Box::pin(async { Err("this node has no peer; start it with -x PEER".to_string()) });
        };
        Box::pin(async move { pair.command(wish).await })
    }
}

impl AdminSource for View {
    fn status(&self) -> Status {
        let mut status = Status { format: Status::FORMAT, node: self.node(), peer: None, link: None };
        let Some(pair) = &self.pair else { return status };
        let snapshot = pair.status();
        let role = &snapshot.pair.role;
        status.node.role = role.state.name().to_string();
        status.node.epoch = role.epoch;
        status.node.role_reason = Some(role.why.to_string());
        status.node.role_for_secs = Some(driver::now().since(role.since).as_millis() as f64 / 1000.0);
        status.node.ready = ready(&snapshot);
        status.peer = Some(peer(&snapshot));
        status.link = Some(link(&snapshot, self.stats.proxied_requests()));
        status
    }

    fn metrics(&self) -> Vec<Metric> {
        let numbers = self.stats.numbers(self.clock.now());
        numbers
            .into_iter()
            .map(|(name, grows, value)| {
                let help = format!("memcached's statistic {name}");
                if grows {
                    Metric::counter(format!("memcached_{name}_total"), help, value as u64)
                } else {
                    Metric::gauge(format!("memcached_{name}"), help, value)
                }
            })
            .collect()
    }

    fn switchover(&self) -> BoxFuture<'_, Result<(), String>> {
        self.command(Operator::Switchover)
    }

    fn promote(&self, force: bool) -> BoxFuture<'_, Result<(), String>> {
        self.command(Operator::Promote { force })
    }
}

/// Whether a client that comes here is served, by this node or through it.
fn ready(snapshot: &Snapshot) -> bool {
    match snapshot.pair.role.state.name() {
        "master" => true,
        "backup" | "joining" => snapshot.proxy.is_some() && snapshot.pair.control_up,
        _ => false,
    }
}

fn peer(snapshot: &Snapshot) -> Node {
    let pair = &snapshot.pair;
    let load = pair.peer_load.clone().unwrap_or_default();
    let heard = pair.peer_load.is_some();
    let known = |value: u64| heard.then_some(value);
    Node {
        address: snapshot.peer.clone().unwrap_or_default(),
        role: match (pair.control_up, pair.peer_state) {
            (true, Some(state)) => state.name().to_string(),
            (true, None) => String::new(),
            (false, _) => "unreachable".to_string(),
        },
        epoch: pair.peer_epoch,
        items: known(load.items),
        memory_bytes: known(load.bytes),
        memory_limit_bytes: known(load.limit),
        reads_per_second: heard.then_some(f64::from(load.reads_rate)),
        writes_per_second: heard.then_some(f64::from(load.writes_rate)),
        uptime_secs: known(load.uptime_secs),
        version: snapshot.peer_release.clone().or_else(|| heard.then(|| load.release.clone())),
        ready: pair.control_up,
        ..Node::default()
    }
}

fn link(snapshot: &Snapshot, proxied_requests: u64) -> Link {
    let pair = &snapshot.pair;
    let counters = &pair.counters;
    Link {
        up: report::linked(snapshot),
        problem: report::problem(snapshot),
        silent_ms: pair.peer_silent.map(|silent| silent.as_millis()),
        synced: pair.in_sync,
        lag_records: pair.lag_records,
        lag_bytes: pair.lag_bytes,
        lag_ms: pair.lag.as_millis(),
        backlog_bytes: pair.backlog_bytes,
        copy: pair.copy,
        full_copies: counters.full_copies,
        partial_resyncs: counters.partial_resyncs,
        promotions: counters.promotions,
        switchovers: counters.switchovers,
        reconnects: counters.reconnects,
        changes_sent: counters.changes_sent,
        changes_applied: counters.changes_applied,
        proxied_requests,
        refused_strangers: snapshot.refused,
    }
}
