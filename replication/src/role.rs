//! Who is master: one table.
//!
//! A node observes much, but only what changes its role is a [`Trigger`], and what it does then is in
//! [`ROWS`], with the reason that is logged. No other code decides about roles. A pair of state and
//! trigger without a row is ignored; `tests/role_table.rs` says which those are.
//!
//! The promise: of two nodes that hear each other, in the end exactly one is master, and it is the
//! one with the greater [`Claim`]. Only facts that do not move while a message is under way are
//! compared, so both nodes come to the same result.

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

/// What may change a state. Computed from observations by [`crate::node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// The wait at the start is over and nobody else is there.
    Alone,
    /// The peer is certainly dead, or silent for too long; see [`crate::liveness`].
    PeerDead,
    /// The peer is a new process now: what it held is gone.
    PeerRestarted,
    /// The same, of a backup's master, with an arbiter: nothing may follow from it alone.
    LostMaster,
    /// The peer is master with a greater claim.
    StrongerMaster,
    /// The peer is master with a smaller claim.
    WeakerMaster,
    /// The peer is not master, does not wait to become it again, and has a smaller claim.
    WeakerPassive,
    /// The peer has heard this node since it began to doubt, and does not dispute its role.
    PeerAgrees,
    /// The peer is heard but does not hear this node, and will soon take over.
    PeerDeaf,
    /// With an arbiter: neither it nor the peer backs this node any more.
    Forsaken,
    /// This process did not run for a while.
    WasLate,
    /// The copy is complete and level.
    Synced,
    /// The master no longer has what this node misses: everything is copied.
    FellBehind,
    /// The role shall go to the peer.
    Yield,
    /// Nothing is executing, and the peer has everything.
    Drained,
    /// The handover is refused, or takes too long before anything was offered.
    YieldFailed,
    /// The peer does not say whether it took over.
    OfferUnanswered,
    /// The master offers its role, and this node has everything.
    OfferReceived,
    /// An operator makes this node master.
    Forced,
    /// The process shall end.
    Stop,
}

/// What else happens with a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Take an epoch above all others, begin a history, save it, then serve.
    NewEpoch,
    /// Serve again, in the same epoch.
    Resume,
    /// Ask the peer for its stream.
    Follow,
    /// Offer the role, with the position that makes it lossless.
    Offer,
    /// Say goodbye.
    Farewell,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// In this state,
    pub from: State,
    /// when this happens,
    pub on: Trigger,
    /// the node becomes this
    pub to: State,
    /// and does that,
    pub effects: &'static [Effect],
    /// because.
    pub why: &'static str,
}

impl Row {
    /// The node makes itself master, and nobody asked it to.
    pub fn is_own_promotion(&self) -> bool {
        let told = matches!(self.on, Trigger::Forced | Trigger::OfferReceived);
        self.effects.contains(&Effect::NewEpoch) && !told
    }
}

/// The row for `on` in `from`, and its number. `None`: it changes nothing.
pub fn row(from: State, on: Trigger) -> Option<(usize, &'static Row)> {
    ROWS.iter().enumerate().find(|(_, row)| row.from == from && row.on == on)
}

/// The table.
pub const ROWS: &[Row] = &[
    Row {
        from: State::Boot,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "a master is serving",
    },
    Row {
        from: State::Boot,
        on: Trigger::WeakerMaster,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "this copy holds more than the master's",
    },
    Row {
        from: State::Boot,
        on: Trigger::WeakerPassive,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "nobody is serving and this node's claim is greater",
    },
    Row {
        from: State::Boot,
        on: Trigger::Alone,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "nobody else is there",
    },
    Row {
        from: State::Boot,
        on: Trigger::Forced,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "an operator promoted this node",
    },
    Row {
        from: State::Joining,
        on: Trigger::Synced,
        to: State::Backup,
        effects: &[],
        why: "it holds everything",
    },
    Row {
        from: State::Joining,
        on: Trigger::PeerDead,
        to: State::Boot,
        effects: &[],
        why: "lost the master before the copy was complete",
    },
    Row {
        from: State::Joining,
        on: Trigger::PeerRestarted,
        to: State::Boot,
        effects: &[],
        why: "the master restarted before the copy was complete",
    },
    Row {
        from: State::Joining,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "the master began a new epoch",
    },
    Row {
        from: State::Joining,
        on: Trigger::FellBehind,
        to: State::Joining,
        effects: &[],
        why: "what it misses begins to come",
    },
    Row {
        from: State::Joining,
        on: Trigger::Forced,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "an operator promoted this node",
    },
    Row {
        from: State::Backup,
        on: Trigger::PeerDead,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "lost the master",
    },
    Row {
        from: State::Backup,
        on: Trigger::PeerRestarted,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "the master restarted without its data",
    },
    Row {
        from: State::Backup,
        on: Trigger::LostMaster,
        to: State::Boot,
        effects: &[],
        why: "the master restarted without its data, and there is an arbiter to ask",
    },
    Row {
        from: State::Backup,
        on: Trigger::WeakerMaster,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "this copy holds more than the master's",
    },
    Row {
        from: State::Backup,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "the master began a new epoch",
    },
    Row {
        from: State::Backup,
        on: Trigger::FellBehind,
        to: State::Joining,
        effects: &[],
        why: "behind: what it misses begins to come",
    },
    Row {
        from: State::Backup,
        on: Trigger::OfferReceived,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "the master handed over",
    },
    Row {
        from: State::Backup,
        on: Trigger::Forced,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "an operator promoted this node",
    },
    Row {
        from: State::Master,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "two masters met and the other's claim is greater",
    },
    Row {
        from: State::Master,
        on: Trigger::PeerDeaf,
        to: State::Doubt,
        effects: &[],
        why: "the backup does not hear this node and may take over",
    },
    Row {
        from: State::Master,
        on: Trigger::Forsaken,
        to: State::Doubt,
        effects: &[],
        why: "neither the backup nor the arbiter confirms that this node is master",
    },
    Row {
        from: State::Master,
        on: Trigger::WasLate,
        to: State::Doubt,
        effects: &[],
        why: "this process did not run for a while",
    },
    Row { from: State::Master, on: Trigger::Yield, to: State::Draining, effects: &[], why: "handing over" },
    Row {
        from: State::Draining,
        on: Trigger::Drained,
        to: State::Offered,
        effects: &[Effect::Offer],
        why: "everything has arrived at the peer",
    },
    Row {
        from: State::Draining,
        on: Trigger::YieldFailed,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the handover failed before anything was offered",
    },
    Row {
        from: State::Draining,
        on: Trigger::PeerDead,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer died before it was offered anything",
    },
    Row {
        from: State::Draining,
        on: Trigger::PeerRestarted,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer restarted before it was offered anything",
    },
    Row {
        from: State::Draining,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "two masters met and the other's claim is greater",
    },
    Row {
        from: State::Draining,
        on: Trigger::PeerDeaf,
        to: State::Doubt,
        effects: &[],
        why: "the backup does not hear this node and may take over",
    },
    Row {
        from: State::Draining,
        on: Trigger::WasLate,
        to: State::Doubt,
        effects: &[],
        why: "this process did not run for a while",
    },
    Row {
        from: State::Offered,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "the peer took over",
    },
    Row {
        from: State::Offered,
        on: Trigger::YieldFailed,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer declined",
    },
    Row {
        from: State::Offered,
        on: Trigger::PeerDead,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer died with the offer",
    },
    Row {
        from: State::Offered,
        on: Trigger::PeerRestarted,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer restarted with the offer",
    },
    Row {
        from: State::Offered,
        on: Trigger::OfferUnanswered,
        to: State::Doubt,
        effects: &[],
        why: "the peer does not say whether it took over",
    },
    Row {
        from: State::Offered,
        on: Trigger::WasLate,
        to: State::Doubt,
        effects: &[],
        why: "this process did not run for a while",
    },
    Row {
        from: State::Doubt,
        on: Trigger::StrongerMaster,
        to: State::Joining,
        effects: &[Effect::Follow],
        why: "the peer took over",
    },
    Row {
        from: State::Doubt,
        on: Trigger::PeerAgrees,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer does not dispute it",
    },
    Row {
        from: State::Doubt,
        on: Trigger::PeerDead,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "nobody else can be serving",
    },
    Row {
        from: State::Doubt,
        on: Trigger::PeerRestarted,
        to: State::Master,
        effects: &[Effect::Resume],
        why: "the peer restarted without its data",
    },
    Row {
        from: State::Doubt,
        on: Trigger::Forced,
        to: State::Master,
        effects: &[Effect::NewEpoch],
        why: "an operator promoted this node",
    },
    Row {
        from: State::Boot,
        on: Trigger::Stop,
        to: State::Stopped,
        effects: &[Effect::Farewell],
        why: "asked to stop",
    },
    Row {
        from: State::Joining,
        on: Trigger::Stop,
        to: State::Stopped,
        effects: &[Effect::Farewell],
        why: "asked to stop",
    },
    Row {
        from: State::Backup,
        on: Trigger::Stop,
        to: State::Stopped,
        effects: &[Effect::Farewell],
        why: "asked to stop",
    },
    Row {
        from: State::Master,
        on: Trigger::Stop,
        to: State::Stopped,
        effects: &[Effect::Farewell],
        why: "asked to stop",
    },
    Row {
        from: State::Doubt,
        on: Trigger::Stop,
        to: State::Stopped,
        effects: &[Effect::Farewell],
        why: "asked to stop",
    },
];

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Boot,
        Self::Joining,
        Self::Backup,
        Self::Master,
        Self::Draining,
        Self::Offered,
        Self::Doubt,
        Self::Stopped,
    ];

    /// As logs and tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Joining => "joining",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Draining => "draining",
            Self::Offered => "offered",
            Self::Doubt => "doubt",
            Self::Stopped => "stopped",
        }
    }

    /// It holds a history of its own, which others may follow.
    pub fn leads(self) -> bool {
        matches!(self, Self::Master | Self::Draining | Self::Offered | Self::Doubt)
    }

    /// It follows a master.
    pub fn follows(self) -> bool {
        matches!(self, Self::Joining | Self::Backup)
    }
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Alone,
        Self::PeerDead,
        Self::PeerRestarted,
        Self::LostMaster,
        Self::StrongerMaster,
        Self::WeakerMaster,
        Self::WeakerPassive,
        Self::PeerAgrees,
        Self::PeerDeaf,
        Self::Forsaken,
        Self::WasLate,
        Self::Synced,
        Self::FellBehind,
        Self::Yield,
        Self::Drained,
        Self::YieldFailed,
        Self::OfferUnanswered,
        Self::OfferReceived,
        Self::Forced,
        Self::Stop,
    ];
}

/// What a node's standing rests on. The greater claim wins.
///
/// A node that holds everything a master had never yields to one that began with less; of masters
/// that began with nothing, the older has gathered more; then the higher epoch counts. While a node
/// is master its claim stays or grows. That is enough for two masters never to yield to each other:
/// the one that yields saw a claim above its own, and the other's has not sunk since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// What it held when it took its role (a master), or holds (anybody else).
    pub data: Data,
    /// A master that did not begin with everything: for how many times `dead_after` it has been one.
    pub age: u32,
    /// In which its data were, or are, made.
    pub epoch: u64,
    /// What it knows of epochs outlives its process.
    pub settled: bool,
    /// Breaks the tie.
    pub node_id: u128,
}

impl Claim {
    /// More items than `other` has, whoever is right about epochs.
    pub fn holds_more_than(&self, other: &Self) -> bool {
        let held = |claim: &Self| (claim.data == Data::Complete, claim.age, claim.data);
        held(self) > held(other)
    }
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |claim: &Self| {
            let Self { data, age, epoch, settled, node_id } = *claim;
            (data == Data::Complete, age, data, epoch, settled, node_id)
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
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

/// The next epoch that only a node in `slot` may take: above `seen`, and of the slot's parity, so that
/// two nodes never take the same one.
pub fn next_epoch(seen: u64, slot: u8) -> u64 {
    let next = seen + 1;
    next + u64::from(next % 2 != u64::from(slot))
}
