//! What others see of the pair: one plain struct, for tables, statistics and log lines.

use serde::{Deserialize, Serialize};

use crate::liveness::Verdict;
use crate::role::State;
use crate::time::{Mono, Span};
use crate::verify::Findings;

/// What a node says of itself in every heartbeat, for the tables on the other side. Facts for
/// people: no decision depends on it, but for `progress`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Items in its store.
    pub items: u64,
    /// Bytes they and their overhead take.
    pub bytes: u64,
    /// Bytes it may take.
    pub limit: u64,
    /// Reads per second, lately.
    pub reads_rate: u32,
    /// Writes per second, lately.
    pub writes_rate: u32,
    /// Since its process began, in seconds.
    pub uptime_secs: u64,
    /// The program's version.
    pub release: String,
    /// Batches its workers have finished: a node whose heart beats while this stands still is wedged.
    pub progress: u64,
    /// What else the host has to say of itself, in its own encoding; at most [`SUMMARY_BYTES_MAX`].
    pub summary: String,
}

/// A longer [`Load::summary`] is not sent: heartbeats are small.
pub const SUMMARY_BYTES_MAX: usize = 8 << 10;

/// Everything there is to know about the pair from this node's side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairStatus {
    /// What this node is.
    pub role: RoleView,
    /// The control link is up.
    pub control_up: bool,
    /// The data link is up.
    pub data_up: bool,
    /// The second path for heartbeats is up; `None` if there is to be none.
    pub second_up: Option<bool>,
    /// What the peer said it is, last.
    pub peer_state: Option<State>,
    /// The epoch it named.
    pub peer_epoch: u64,
    /// What it said of itself, last.
    pub peer_load: Option<Load>,
    /// How long it has been silent; `None` if it was never heard.
    pub peer_silent: Option<Span>,
    /// What is believed of it; `None` if it was never met.
    pub peer_verdict: Option<Verdict>,
    /// An operator said that this node is to take no role by itself; see
    /// [`Operator::PauseFailover`](crate::node::Operator::PauseFailover).
    pub failover_paused: bool,
    /// The peer holds, or is, a complete copy and could take over.
    pub in_sync: bool,
    /// Comparisons of the backup with the master.
    pub verify: VerifyStatus,
    /// Changes the peer has not acknowledged (on a master), or that are known to be missing here.
    pub lag_records: u64,
    /// Their bytes, as far as the backlog knows.
    pub lag_bytes: u64,
    /// For how long the follower has not been level.
    pub lag: Span,
    /// For a node that is told to: whether it, as a backup, executes commands now.
    pub accepts: Option<bool>,
    /// Hints about items in use that were recorded for the backup.
    pub hints: u64,
    /// Bytes the backlog holds now.
    pub backlog_bytes: u64,
    /// The copy or catch-up that is being sent.
    pub copy: Option<Progress>,
    /// The last epoch is safe on disk (always true without a state directory).
    pub state_saved: bool,
    /// What is known of the arbiter, with one.
    pub arbiter: Option<ArbiterStatus>,
    /// Everything counted since the process began.
    pub counters: Counters,
}

/// What a node knows of its arbiter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArbiterStatus {
    /// It answered last; `None` before the first time.
    pub heard: Option<bool>,
    /// This node may serve by its word, for so long still.
    pub granted: Option<Span>,
    /// It refused that last: its word is the other node's, or may be.
    pub refused: bool,
}

impl PairStatus {
    /// The two hear of each other, over whichever path.
    pub fn is_linked(&self) -> bool {
        self.control_up || self.second_up == Some(true)
    }
}

/// How far a copy or a catch-up is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Items the walk came by (a catch-up sends few of them).
    pub items: u64,
    /// How many there are, about.
    pub items_total: u64,
    /// Bytes sent for it.
    pub bytes: u64,
    /// Since it began, or went on.
    pub elapsed: Span,
    /// Everything is sent, not only what was missed.
    pub whole: bool,
}

impl Progress {
    /// Of a hundred.
    pub fn percent(&self) -> u64 {
        (self.items * 100).checked_div(self.items_total).unwrap_or(100).min(100)
    }

    /// Items per second.
    pub fn rate(&self) -> u64 {
        self.items.saturating_mul(1_000_000) / self.elapsed.0.max(1)
    }

    /// How long it will take, if it goes on so.
    pub fn left(&self) -> Option<Span> {
        let missing = self.items_total.saturating_sub(self.items);
        (self.items > 0).then(|| self.elapsed.scaled(missing, self.items))
    }
}

/// What comparisons of the two nodes found; only a master makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyStatus {
    /// One is under way.
    pub running: bool,
    /// What the last one found.
    pub last: Option<Findings>,
    /// How long ago that was.
    pub age: Span,
}

/// What is counted, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Copies begun in full, sent or received.
    pub full_copies: u64,
    /// Streams continued without a copy, sent or received.
    pub partial_resyncs: u64,
    /// Catch-ups begun, sent or received: only what was missed.
    pub catch_ups: u64,
    /// Copies and catch-ups that were cut and went on where they were, sent or received.
    pub resumed_copies: u64,
    /// Items forgotten because their master died while this node caught up: they might have been stale.
    pub suspects_dropped: u64,
    /// Changes taken over from a follower that had made them as master.
    pub merged: u64,
    /// Changes taken over from a backup that executes its clients' commands itself.
    pub accepted: u64,
    /// Keys that both nodes had changed while neither heard of the other.
    pub conflicts: u64,
    /// Times this node became master.
    pub promotions: u64,
    /// Planned handovers this node gave or took.
    pub switchovers: u64,
    /// Times the control link came up again.
    pub reconnects: u64,
    /// Times the data link was made anew because nothing came over it though the peer was heard.
    pub stalls: u64,
    /// Changes sent.
    pub changes_sent: u64,
    /// Changes applied.
    pub changes_applied: u64,
    /// Bytes of changes and chunks sent.
    pub bytes_sent: u64,
    /// Bytes of changes and chunks applied.
    pub bytes_applied: u64,
    /// Items of the backup that had diverged from this master's and were stated anew.
    pub diverged: u64,
}

/// What this node is, since when and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleView {
    /// The state.
    pub state: State,
    /// Of the master, this node or the one it follows; otherwise the highest it knows.
    pub epoch: u64,
    /// Why it is that: the row of the table that fired last.
    pub why: &'static str,
    /// When that was.
    pub since: Mono,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_rate() {
        let half = Progress {
            items: 500,
            items_total: 1000,
            elapsed: Span::from_millis(2000),
            ..Progress::default()
        };
        assert_eq!((half.percent(), half.rate(), half.left()), (50, 250, Some(Span::from_millis(2000))));
        assert_eq!((Progress::default().percent(), Progress::default().left()), (100, None));
    }
}
