//! What a node says of itself and of its peer: the body of `GET /status`.
//!
//! The format is versioned: fields are only added, and a reader ignores those it does not know.
//! `format` rises when one changes its meaning.

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
}

impl Status {
    /// The format written today.
    pub const FORMAT: u32 = 1;

    /// Whether this node executes commands itself.
    pub fn is_master(&self) -> bool {
        self.node.role == "master" || self.node.role == "standalone"
    }

    /// Whether both nodes hold the same items, but for changes on their way.
    pub fn is_synced(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up && link.synced)
    }
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
    /// Reads per second, lately.
    pub reads_per_second: Option<f64>,
    /// Writes per second, lately.
    pub writes_per_second: Option<f64>,
    /// Client connections now.
    pub connections: Option<u64>,
    /// Age of its process, in seconds.
    pub uptime_secs: Option<u64>,
    /// Its program's version.
    pub version: Option<String>,
}

/// The link between the nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The nodes talk to each other.
    pub up: bool,
    /// Why not, or what is wrong with the state directory or a stranger on the replication port.
    pub problem: Option<String>,
    /// For how long the peer has been silent, in milliseconds; absent if it was never heard.
    pub silent_ms: Option<u64>,
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
    /// Copies begun in full.
    pub full_copies: u64,
    /// Streams continued without one.
    pub partial_resyncs: u64,
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
