//! Two nodes in virtual time: a world of processes, connections and faults, all from one seed.
//!
//! [`World`] runs the real nodes over a made-up network and judges what clients were told
//! ([`oracle`]). Scenario scripts and the simulation are both drivers of it.

mod arbiter;
mod clients;
mod faults;
pub mod model;
mod network;
pub mod oracle;
pub mod random;
pub mod script;
pub mod store;
mod watch;
mod world;

pub use arbiter::Arbiter;
pub use faults::StateFault;
pub use network::{Direction, Network};
pub use random::Random;
pub use store::{MapStore, Wish};
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
    /// The delete of an item that is not there is not recorded: the peer may have it.
    SkipDeleteMisses,
    /// A frame with a wrong bit is believed.
    TrustBits,
    /// One of a hundred changes is acknowledged but not applied.
    LoseSome,
    /// A master's lease outlasts its backup's patience.
    LeaseTooLong,
    /// Part of a copy counts as all of it when its source is lost.
    PartIsWhole,
    /// A follower ignores flushes.
    IgnoreFlush,
    /// A delayed flush is not part of a copy.
    ForgetPendingFlush,
    /// A follower ignores touches.
    IgnoreTouch,
    /// A follower misreads when items expire.
    MisreadDeadlines,
    /// An emptied store still refuses what is older than its last flush.
    KeepFloor,
    /// Both nodes take epochs of the same parity.
    SameParity,
    /// A deposed master says that it stands where it took over.
    DenyOwnWrites,
    /// A handover is offered while commands are still being executed.
    IgnoreBatches,
    /// A doubting master believes what its peer said before it doubted.
    AgreeTooEasily,
    /// An offer is taken however long it was under way.
    TakeLateOffers,
    /// A master whose backup died waits for it.
    GuardForever,
    /// A silent peer is never asked.
    NeverAsk,
    /// The backlog takes twice its budget.
    DoubleBacklog,
    /// Whoever asks to continue gets a copy.
    AlwaysCopy,
    /// Every history has the same name.
    OneHistory,
    /// The role goes back and forth without a pause.
    PingPong,
    /// The version clock stands still.
    FrozenVersions,
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
    /// The newer write wins though the operator wants the winner's.
    MergeForTheWinner,
    /// Keys that only the one node changed that follows now are taken for changed by both.
    InvalidateMore,
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
    /// A backup that accepts is sent its own writes back.
    EchoBack,
    /// It forgets what it deleted as soon as that is done.
    ForgetTombstones,
    /// It forgets what it had yet to tell when the link is reset.
    ForgetTail,
    /// It forgets that when it is promoted.
    ForgetTailAtPromotion,
    /// With an arbiter, a node that holds nothing does not wait for one that may hold more.
    LeadEmpty,
    /// A data connection that leads nowhere is waited for.
    WaitForStalled,
    /// A lost control connection is a lost peer, whatever is heard over the second path.
    TrustOnePath,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 55] = [
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
        Self::SkipDeleteMisses,
        Self::TrustBits,
        Self::LoseSome,
        Self::LeaseTooLong,
        Self::PartIsWhole,
        Self::IgnoreFlush,
        Self::ForgetPendingFlush,
        Self::IgnoreTouch,
        Self::MisreadDeadlines,
        Self::KeepFloor,
        Self::SameParity,
        Self::DenyOwnWrites,
        Self::IgnoreBatches,
        Self::AgreeTooEasily,
        Self::TakeLateOffers,
        Self::GuardForever,
        Self::NeverAsk,
        Self::DoubleBacklog,
        Self::AlwaysCopy,
        Self::OneHistory,
        Self::PingPong,
        Self::FrozenVersions,
        Self::KeepSuffix,
        Self::TrustSuspects,
        Self::ForgetMissed,
        Self::SkipComparison,
        Self::MergeBlindly,
        Self::MergeForTheWinner,
        Self::InvalidateMore,
        Self::AskNobody,
        Self::GrantFromAnswer,
        Self::ServeUnbacked,
        Self::BackedByAnybody,
        Self::TrustRefusals,
        Self::ForgetLease,
        Self::EchoBack,
        Self::ForgetTombstones,
        Self::ForgetTail,
        Self::ForgetTailAtPromotion,
        Self::LeadEmpty,
        Self::WaitForStalled,
        Self::TrustOnePath,
    ];
}
