//! Two nodes in virtual time: a world of processes, connections and faults, all from one seed.
//!
//! [`World`] runs the real nodes over a made-up network and judges what clients were told
//! ([`oracle`]). Scenario scripts and the simulation are both drivers of it.

mod arbiter;
mod network;
pub mod oracle;
pub mod random;
pub mod script;
pub mod store;
mod world;

pub use arbiter::Arbiter;
pub use network::{Direction, Network};
pub use random::Random;
pub use store::MapStore;
pub use world::{Options, Process, World};

/// Bugs, each one line, that tests switch on to see that they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A peer that answers clients is taken for silent.
    DisbelieveAnswers,
    /// A process that was stopped goes on as if nothing had happened.
    IgnoreLateness,
    /// A backup does not notice that its master is a new, empty process.
    IgnoreRestart,
    /// A master's lease runs from when it heard its backup.
    LeaseFromHearing,
    /// Claims are compared by epoch, whatever the nodes hold.
    CompareEpochsOnly,
    /// A handover is offered before the peer has everything, and taken without a look.
    HandOverUnchecked,
    /// A handover without an answer is waited for, for ever.
    WaitForEver,
    /// A promotion takes the highest epoch seen instead of one above it.
    ReuseEpoch,
    /// A promoted node serves before its epoch is saved.
    ServeBeforeSaving,
    /// A master serves on though its backup does not hear it.
    ServeTheDeaf,
    /// A full copy does not begin with nothing.
    KeepLeftovers,
    /// A copy counts as complete from its beginning.
    SyncedTooSoon,
    /// A follower skips deletes.
    SkipDeletes,
    /// A master that was replaced follows without telling what only it has.
    KeepSuffix,
    /// A node promoted in the middle of a catch-up serves what may be stale.
    TrustSuspects,
    /// What the backlog overwrites before the peer has it is not noted.
    ForgetMissed,
    /// A catch-up does not ask for what is gone at the master.
    SkipComparison,
    /// What a replaced master tells is merged without a look at what was deleted meanwhile.
    MergeBlindly,
    /// With an arbiter, nobody asks it before a promotion.
    AskNobody,
    /// A grant is counted from when its answer came.
    GrantFromAnswer,
    /// A master serves on when neither its peer nor the arbiter backs it.
    ServeUnbacked,
    /// A peer backs a node whatever it is itself.
    BackedByAnybody,
    /// With an arbiter, ports that refuse are believed to prove a death.
    TrustRefusals,
    /// The arbiter forgets its lease when it is started again.
    ForgetLease,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::DisbelieveAnswers,
        Self::IgnoreLateness,
        Self::IgnoreRestart,
        Self::LeaseFromHearing,
        Self::CompareEpochsOnly,
        Self::HandOverUnchecked,
        Self::WaitForEver,
        Self::ReuseEpoch,
        Self::ServeBeforeSaving,
        Self::ServeTheDeaf,
        Self::KeepLeftovers,
        Self::SyncedTooSoon,
        Self::SkipDeletes,
        Self::KeepSuffix,
        Self::TrustSuspects,
        Self::ForgetMissed,
        Self::SkipComparison,
        Self::MergeBlindly,
        Self::AskNobody,
        Self::GrantFromAnswer,
        Self::ServeUnbacked,
        Self::BackedByAnybody,
        Self::TrustRefusals,
        Self::ForgetLease,
    ];
}
