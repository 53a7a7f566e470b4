//! Who is master: one table.

use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Looks for a master, or for nobody being there.
    #[default]
    Boot,
    /// Follows a master but does not hold all of its items yet.
    Joining,
    /// Holds all items and follows their changes: can take over at any moment.
    Backup,
    /// Executes commands.
    Master,
    /// Was master; executes nothing while what it has streams to the peer.
    Draining,
    /// Was master; has offered its role and does not know whether it was taken.
    Offered,
    /// Was master until it lost track of time or of its peer; executes nothing until it knows.
    Doubt,
    /// Has said goodbye.
    Stopped,
}

/// What a node's standing rests on. The greater claim wins: a node that holds items never yields to
/// one that does not, then the higher epoch counts. Frozen when a node becomes master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// What it held when it took its role (a master), or holds (anybody else).
    pub data: Data,
    /// Its memory of epochs outlives its process.
    pub settled: bool,
    /// Of the master it is or last followed.
    pub epoch: u64,
    /// Breaks the tie.
    pub node_id: u128,
}

/// How much a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Data {
    /// Nothing.
    #[default]
    Empty,
    /// Part of a copy.
    Partial,
    /// Everything its master had.
    Complete,
}
