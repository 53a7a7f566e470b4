//! What a node says of itself and of its peer: the body of `GET /status`.
//!
//! The format is versioned: fields are only added, and a reader ignores those it does not know.
//! `format` rises when one changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node's view of the pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of this format: [`Status::FORMAT`].
    pub format: u32,
    /// The node that was asked.
    pub node: Node,
    /// The other one, as this one last heard of it; absent without a peer.
    pub peer: Option<Node>,
    /// The link between them; absent without a peer.
    pub link: Option<Link>,
    /// The arbiter, as this node knows it; absent without one.
    pub arbiter: Option<Arbiter>,
    /// What an operator should put right: settings in which the nodes contradict each other, failovers
    /// that are paused, a node that does not know whether it is the only master. One sentence each.
    pub warnings: Vec<String>,
    /// Who may send control requests: `token` (whoever has the token) or `local` (whoever is on the
    /// machine, but no web page).
    pub control: String,
}

impl Status {
    /// The format written today.
    pub const FORMAT: u32 = 1;

    /// Whether this node executes commands itself.
    pub fn is_master(&self) -> bool {
        self.node.role == "master" || self.node.role == "standalone"
    }

    /// One sentence for each setting in which the nodes contradict each other.
    pub fn contradictions(&self) -> Vec<String> {
        let Some(peer) = &self.peer else { return Vec::new() };
        let differing = self.node.settings.iter().filter_map(|(name, here)| {
            let there = peer.settings.get(name)?;
            let text = format!("{name} is {here} on this node and {there} on the other: give both the same");
            (here != there).then_some(text)
        });
        let mut found: Vec<String> = differing.collect();
        // What is in force now, whoever has changed it since the start.
        if let (Some(here), Some(there)) = (self.node.memory_limit_bytes, peer.memory_limit_bytes)
            && here != there
        {
            let [here, there] = [here, there].map(|bytes| bytes >> 20);
            found.push(format!(
                "-m is {here} MiB on this node and {there} MiB on the other: give both the same, or the smaller one evicts what the other keeps"
            ));
        }
        if self.node.preferred && peer.preferred {
            found.push(
                "both nodes are --preferred: the role would go back to whoever lost it; keep one".to_owned(),
            );
        }
        found
    }

    /// Whether both nodes hold the same items, but for changes on their way.
    pub fn is_synced(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up && link.synced)
    }
}

/// Whom the nodes ask when they cannot ask each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Arbiter {
    /// What it is and where, as `--arbiter` says it.
    pub name: String,
    /// It answered last; absent before the first answer.
    pub reachable: Option<bool>,
    /// Who may serve by its word, as far as this node knows: `this node`, `the other node`, or empty: nobody, or it
    /// is not known. A pair that is well needs it for neither.
    pub grant: String,
    /// This node's ends in so many milliseconds, unless it is renewed.
    pub grant_ms: Option<u64>,
}

/// One node. What the peer has not told yet is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Where it is, for people: its host and client port, or its name.
    pub address: String,
    /// `master`, `backup`, `standalone`, or the name of a state on the way; empty if never heard.
    pub role: String,
    /// Of the master it is or follows.
    pub epoch: u64,
    /// Why it has this role.
    pub role_reason: Option<String>,
    /// Since when, in seconds.
    pub role_for_secs: Option<f64>,
    /// Clients' requests are answered here, be it by handing them on.
    pub ready: bool,
    /// Items now.
    pub items: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory it may use, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Share of reads that found their item since the start, 0 to 1.
    pub hit_ratio: Option<f64>,
    /// The same of the last seconds.
    pub recent_hit_ratio: Option<f64>,
    /// Reads per second, lately.
    pub reads_per_second: Option<f64>,
    /// Writes per second, lately.
    pub writes_per_second: Option<f64>,
    /// Items put out to make room, since the start.
    pub evictions: Option<u64>,
    /// The same per second, lately.
    pub evictions_per_second: Option<f64>,
    /// Client connections now.
    pub connections: Option<u64>,
    /// Most client connections there may be.
    pub connections_max: Option<u64>,
    /// How long requests took inside the server, by command, since the start. Sampled.
    pub latency: BTreeMap<String, Latency>,
    /// An operator paused failovers here: this node takes and gives no role by itself.
    pub failover_paused: bool,
    /// Where its admin port listens.
    pub admin: Option<String>,
    /// It should be master when both are well.
    pub preferred: bool,
    /// Settings that both nodes of a pair should have alike.
    pub settings: BTreeMap<String, String>,
    /// Age of its process, in seconds.
    pub uptime_secs: Option<u64>,
    /// Its program's version.
    pub version: Option<String>,
}

/// How long requests of one kind took inside the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many were measured; that is a sample, not all of them.
    pub measured: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1000 took no longer.
    pub p999_us: f64,
}

/// The link between the nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The nodes talk to each other.
    pub up: bool,
    /// Why not, or what is wrong with the state directory or a stranger on the replication port.
    pub problem: Option<String>,
    /// Heartbeats pass over the second path (`--heartbeat-peer`); absent without one.
    pub heartbeat_path_up: Option<bool>,
    /// For how long the peer has been silent, in milliseconds; absent if it was never heard.
    pub silent_ms: Option<u64>,
    /// What this node believes of the peer: `alive`, `suspect`, `silent` (nothing heard for too long: it
    /// may be dead or cut off) or `gone` (no such process any more); empty if it was never met.
    pub peer_is: String,
    /// The backup holds everything the master had and could take over.
    pub synced: bool,
    /// Changes not acknowledged yet.
    pub lag_records: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// For how long the backup has been behind, in milliseconds.
    pub lag_ms: u64,
    /// Bytes of recent changes kept for a peer that was away for a moment.
    pub backlog_bytes: u64,
    /// A copy under way: items so far and in all.
    pub copy: Option<(u64, u64)>,
    /// Its bytes so far.
    pub copy_bytes: u64,
    /// How many seconds it will take, if it goes on so.
    pub copy_seconds_left: Option<u64>,
    /// Copies begun in full.
    pub full_copies: u64,
    /// Streams continued without one.
    pub partial_resyncs: u64,
    /// Catch-ups begun: only what was missed.
    pub catch_ups: u64,
    /// Copies and catch-ups that were cut and went on where they were.
    pub resumed_copies: u64,
    /// Items forgotten because the master died while this node caught up.
    pub suspects_dropped: u64,
    /// Changes taken over from a node that had served apart.
    pub heal_merged: u64,
    /// Keys that both nodes had changed.
    pub heal_conflicts: u64,
    /// Bytes of changes and copies sent.
    pub bytes_sent: u64,
    /// Times this node became master.
    pub promotions: u64,
    /// Planned handovers.
    pub switchovers: u64,
    /// Times the link came up again.
    pub reconnects: u64,
    /// Changes sent.
    pub changes_sent: u64,
    /// Changes applied.
    pub changes_applied: u64,
    /// Requests handed to the master.
    pub proxied_requests: u64,
    /// Strangers sent away from the replication port.
    pub refused_strangers: u64,
    /// Messages of a later release that this one does not know and may ignore.
    pub ignored_frames: u64,
    /// The backup is being compared with the master.
    pub verifying: bool,
    /// Items that the last comparison looked at.
    pub verified_items: u64,
    /// How long ago it ended, in seconds; absent if there was none.
    pub verified_secs_ago: Option<f64>,
    /// Items of the backup that were found to differ, and sent anew.
    pub diverged_items: u64,
}

/// The answer to a control request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// What happened, or why not.
    pub message: String,
}

/// What happened, as `/history` and `/events` tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Grows, also over restarts of the node.
    pub id: u64,
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// `role` (this node's), `peer` (the other one's), `link`, `copy` or `warning`.
    pub kind: String,
    /// One sentence.
    pub text: String,
    /// The role, or the state of the link or copy, before.
    pub from: String,
    /// And after.
    pub to: String,
    /// Of the master, with changes of roles.
    pub epoch: u64,
}

/// Numbers of the last minutes, one column per second, oldest first: what the page draws.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Samples {
    /// Number of the first column here.
    pub first: u64,
    /// When the last column was taken, in unix milliseconds.
    pub at_ms: u64,
    /// This node.
    pub node: Vec<Sample>,
    /// The other one, as it said of itself.
    pub peer: Vec<Sample>,
    /// For how long the backup had been behind, in milliseconds; `null` without a link.
    pub lag_ms: Vec<Option<u64>>,
}

/// One node in one second; `null` is what was not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Its role.
    pub role: String,
    /// Reads per second.
    pub reads: Option<f64>,
    /// Writes per second.
    pub writes: Option<f64>,
    /// Share of the reads of the last seconds that hit.
    pub hit_ratio: Option<f64>,
    /// Evictions per second.
    pub evictions: Option<f64>,
    /// Bytes in use.
    pub memory_bytes: Option<u64>,
}
