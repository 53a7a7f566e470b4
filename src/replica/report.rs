//! The pair's state in the words of `stats replication`.

use std::time::{SystemTime, UNIX_EPOCH};

use tandem_replication::driver::{self, Snapshot};
use tandem_replication::liveness::Verdict;

use super::receipts::AckCounts;

/// Everything `stats replication` shows, in order.
pub fn rows(
    snapshot: &Snapshot,
    proxied_requests: u64,
    acks: Option<AckCounts>,
) -> Vec<(&'static str, String)> {
    let pair = &snapshot.pair;
    let counters = &pair.counters;
    let mut rows = vec![
        ("role", pair.role.state.name().to_string()),
        ("link", if linked(snapshot) { "up" } else { "down" }.to_string()),
        ("peer", snapshot.peer.clone().unwrap_or_else(|| "none yet".to_string())),
        ("peer_role", pair.peer_state.map_or("unknown", |state| state.name()).to_string()),
        ("epoch", pair.role.epoch.to_string()),
        ("synced", if pair.in_sync { "yes" } else { "no" }.to_string()),
        ("lag_records", pair.lag_records.to_string()),
        ("lag_bytes", pair.lag_bytes.to_string()),
        ("lag_ms", pair.lag.as_millis().to_string()),
        ("backlog_bytes", pair.backlog_bytes.to_string()),
        ("full_copies", counters.full_copies.to_string()),
        ("partial_resyncs", counters.partial_resyncs.to_string()),
        ("catch_ups", counters.catch_ups.to_string()),
        ("resumed_copies", counters.resumed_copies.to_string()),
        ("suspects_dropped", counters.suspects_dropped.to_string()),
        ("accepted_changes", counters.accepted.to_string()),
        ("heal_merged", counters.merged.to_string()),
        ("heal_conflicts", counters.conflicts.to_string()),
        ("promotions", counters.promotions.to_string()),
        ("switchovers", counters.switchovers.to_string()),
        ("stalls", counters.stalls.to_string()),
        ("reconnects", counters.reconnects.to_string()),
        ("changes_sent", counters.changes_sent.to_string()),
        ("changes_applied", counters.changes_applied.to_string()),
        ("bytes_sent", counters.bytes_sent.to_string()),
        ("hints", pair.hints.to_string()),
        ("verified_items", pair.verify.last.map_or(0, |last| last.items).to_string()),
        ("diverged_items", counters.diverged.to_string()),
        ("proxied_requests", proxied_requests.to_string()),
        ("refused_strangers", snapshot.refused.to_string()),
        ("ignored_frames", snapshot.ignored_frames.to_string()),
        ("last_role_change", since_unix(snapshot).to_string()),
        ("last_role_reason", pair.role.why.to_string()),
    ];
    if let Some(acks) = acks {
        rows.push(("ack_confirmed", acks.confirmed.to_string()));
        rows.push(("ack_degraded", acks.degraded.to_string()));
        rows.push(("ack_refused", acks.refused.to_string()));
    }
    if let Some(accepts) = pair.accepts {
        rows.push(("accepts", if accepts { "yes" } else { "no" }.to_string()));
    }
    if let Some(up) = pair.second_up {
        rows.push(("heartbeat_path", if up { "up" } else { "down" }.to_string()));
    }
    if let Some(arbiter) = pair.arbiter {
        rows.push(("arbiter", if arbiter.heard.unwrap_or(false) { "up" } else { "down" }.to_string()));
        rows.push(("arbiter_grant", if arbiter.granted.is_some() { "yes" } else { "no" }.to_string()));
        rows.extend(arbiter.granted.map(|left| ("arbiter_grant_ms", left.as_millis().to_string())));
    }
    if let Some(copy) = pair.copy {
        rows.push(("copy_kind", if copy.whole { "full" } else { "missed" }.to_string()));
        rows.push(("copy_items", copy.items.to_string()));
        rows.push(("copy_items_total", copy.items_total.to_string()));
        rows.push(("copy_percent", copy.percent().to_string()));
        rows.push(("copy_bytes", copy.bytes.to_string()));
        rows.push(("copy_items_per_second", copy.rate().to_string()));
        rows.extend(
            copy.left().map(|left| ("copy_seconds_left", left.as_millis().div_ceil(1000).to_string())),
        );
    }
    if let Some(problem) = problem(snapshot) {
        rows.push(("problem", problem));
    }
    rows
}

/// Whether the nodes talk to each other. Connections to a peer that hangs stay open for long.
pub fn linked(snapshot: &Snapshot) -> bool {
    snapshot.pair.control_up && snapshot.pair.data_up && !lost(snapshot)
}

/// Whether the peer is silent for so long that it counts as dead, or known to be.
pub fn lost(snapshot: &Snapshot) -> bool {
    matches!(snapshot.pair.peer_verdict, Some(Verdict::Silent | Verdict::Certain))
}

/// What an operator has to look at, if anything.
pub fn problem(snapshot: &Snapshot) -> Option<String> {
    snapshot.state_problem.clone().or_else(|| snapshot.link_problem.clone())
}

/// When the role changed last, in unix seconds.
fn since_unix(snapshot: &Snapshot) -> u64 {
    let age = driver::now().since(snapshot.pair.role.since);
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    unix.saturating_sub(age.as_millis() / 1000)
}
