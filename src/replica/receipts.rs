//! Acknowledgements for those who want to know that the backup has it too.
//!
//! By default nobody waits for the backup. A site may ask that some writes do: all of them (`--ack`),
//! those of one listener (`--sync-port`), or those of some keys (`--ack-prefix`). Such a write is
//! executed and recorded as ever; what waits is its reply, until the backup has applied it. The
//! wait is bounded: then the reply goes all the same and is counted, or becomes an error if that was
//! asked for (`--ack-strict`). Nothing else waits: not the engine, not other connections, not the gate.
//!
//! [`Recorder`](super::Recorder) notes what a worker's batch recorded, in that worker's thread; behind
//! the batch the gate makes a [`Receipt`] of the notes.
//!
//! A worker holds many replies and waits for sockets. So it is woken as a whole: it says that it wants to be
//! ([`Receipts::await_news`]), then looks; the pair's thread notes what the backup has, then looks who wants to be
//! woken. Both are `SeqCst`: either the worker sees the news or the pair's thread sees the wish.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tandem_replication::backlog::Backlog;
use tokio::sync::watch;

use crate::server::gate::{Confirmation, Receipt};

/// Which writes wait, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckPolicy {
    /// All of them.
    pub all: bool,
    /// Those of keys that begin so.
    pub prefixes: Vec<Vec<u8>>,
    /// A listener's clients want it, whatever the key.
    pub listener: bool,
    /// No longer than this.
    pub patience: Duration,
    /// Then an error, instead of the reply.
    pub strict: bool,
}

impl AckPolicy {
    /// Whether anybody may ever wait.
    pub fn is_asked_for(&self) -> bool {
        self.all || self.listener || !self.prefixes.is_empty()
    }

    fn covers(&self, key: Option<&[u8]>) -> bool {
        self.all || key.is_some_and(|key| self.prefixes.iter().any(|prefix| key.starts_with(prefix)))
    }
}

/// How the waits ended, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckCounts {
    /// The backup had it in time.
    pub confirmed: u64,
    /// It had not, and the reply went all the same.
    pub degraded: u64,
    /// It had not, and the client was told so.
    pub refused: u64,
}

/// What the backup has, and who wants to know.
pub struct Receipts {
    policy: AckPolicy,
    backlog: Arc<Backlog>,
    /// Last sequence the backup applied, per shard.
    applied: Box<[AtomicU64]>,
    /// It will acknowledge more.
    followed: AtomicBool,
    /// Somebody waits and did not say so yet.
    urgent: AtomicBool,
    /// Moves with every acknowledgement.
    heard: watch::Sender<()>,
    bells: Box<[WorkerBell]>,
    confirmed: AtomicU64,
    degraded: AtomicU64,
    refused: AtomicU64,
}

/// How a worker is woken. On a cache line of its own: workers must not slow each other down.
#[repr(align(64))]
#[derive(Default)]
struct WorkerBell {
    /// It is to be woken with the next news.
    wanted: AtomicBool,
    ring: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What the batch that this thread is in the middle of has recorded.
#[derive(Default)]
struct Notes {
    open: bool,
    wanted: bool,
    receipt: Receipt,
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

impl Receipts {
    /// Nothing is acknowledged yet. For `workers` workers.
    pub fn new(policy: AckPolicy, backlog: Arc<Backlog>, workers: usize) -> Self {
        let shards = backlog.last().len();
        Self {
            policy,
            backlog,
            applied: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            followed: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            heard: watch::Sender::new(()),
            bells: (0..workers).map(|_| WorkerBell::default()).collect(),
            confirmed: AtomicU64::new(0),
            degraded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// This thread begins a batch: what it records from now on is noted.
    pub fn begin(&self) {
        NOTES.with_borrow_mut(|notes| {
            notes.open = true;
            notes.wanted = false;
            notes.receipt.clear();
        });
    }

    /// A change of `key` was recorded, maybe by a batch.
    pub fn note(&self, shard: usize, sequence: u64, key: Option<&[u8]>) {
        NOTES.with_borrow_mut(|notes| {
            if notes.open {
                notes.wanted |= self.policy.covers(key);
                notes.receipt.add(shard, sequence);
            }
        });
    }

    /// Before a change of `key` is recorded, which wakes who sends it: whether that is in a hurry.
    pub fn foresee(&self, key: Option<&[u8]>) {
        if self.policy.covers(key) {
            self.hurry();
        }
    }

    fn hurry(&self) {
        if !self.urgent.load(Ordering::SeqCst) {
            self.urgent.store(true, Ordering::SeqCst);
        }
    }

    /// The batch is over. What it recorded, if the reply has to wait for it: `durable` says that the
    /// connection wants that of all its writes.
    pub fn end(&self, durable: bool) -> Option<Receipt> {
        NOTES.with_borrow_mut(|notes| {
            notes.open = false;
            let waits = (durable || notes.wanted) && !notes.receipt.is_empty();
            waits.then(|| std::mem::take(&mut notes.receipt))
        })
    }

    /// What the backup has, by the pair's thread. `None`: nothing is known of it any more. What it had it had: sequences go on, and
    /// who waits may hear of the last acknowledgement only when the role is gone already.
    pub fn hear(&self, applied: Option<&[u64]>, followed: bool) {
        self.know(applied, followed);
        self.wake();
    }

    fn know(&self, applied: Option<&[u64]>, followed: bool) {
        for (cell, applied) in self.applied.iter().zip(applied.unwrap_or_default()) {
            cell.store(*applied, Ordering::SeqCst);
        }
        self.followed.store(followed, Ordering::SeqCst);
    }

    fn wake(&self) {
        for bell in &self.bells {
            if bell.wanted.load(Ordering::SeqCst)
                && bell.wanted.swap(false, Ordering::SeqCst)
                && let Some(ring) = bell.ring.get()
            {
                ring();
            }
        }
        self.heard.send_replace(());
    }

    /// How that worker is woken. Only the first call has an effect.
    pub fn set_bell(&self, worker: usize, ring: Box<dyn Fn() + Send + Sync>) {
        if let Some(bell) = self.bells.get(worker) {
            let _first = bell.ring.set(ring);
        }
    }

    /// That worker is woken with the next news, once.
    pub fn await_news(&self, worker: usize) {
        if let Some(bell) = self.bells.get(worker)
            && !bell.wanted.load(Ordering::SeqCst)
        {
            bell.wanted.store(true, Ordering::SeqCst);
        }
    }

    /// Somebody waits for that from now on: whoever sends changes is to know.
    pub fn press(&self) {
        self.hurry();
        self.backlog.nudge();
    }

    /// Whether somebody began to wait since the last call.
    pub fn hurries(&self) -> bool {
        self.urgent.load(Ordering::SeqCst) && self.urgent.swap(false, Ordering::SeqCst)
    }

    /// Whether the backup has all of it.
    pub fn has(&self, receipt: &Receipt) -> bool {
        let has = |(shard, sequence): &(usize, u64)| {
            self.applied.get(*shard).is_some_and(|applied| applied.load(Ordering::SeqCst) >= *sequence)
        };
        receipt.marks().iter().all(has)
    }

    /// Waits until the backup has it all, within limits.
    pub async fn confirm(&self, receipt: Receipt) -> Confirmation {
        let mut heard = self.heard.subscribe();
        self.press();
        let deadline = tokio::time::sleep(self.policy.patience);
        tokio::pin!(deadline);
        loop {
            if let Some(outcome) = self.outcome(&receipt, deadline.is_elapsed()) {
                return outcome;
            }
            tokio::select! {
                _ = heard.changed() => {}
                () = &mut deadline => {}
            }
        }
    }

    /// What became of replies that wait for it, and counts that; `None` while they have to wait.
    pub fn outcome(&self, receipt: &Receipt, expired: bool) -> Option<Confirmation> {
        // Looked at first: a backup that goes may have acknowledged it just before.
        let followed = self.followed.load(Ordering::SeqCst);
        let (count, outcome) = if self.has(receipt) {
            (&self.confirmed, Confirmation::Confirmed)
        } else if followed && !expired {
            return None;
        } else if self.policy.strict {
            (&self.refused, Confirmation::Refused)
        } else {
            // Nobody will, or not in time.
            (&self.degraded, Confirmation::Degraded)
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(outcome)
    }

    /// How long replies wait.
    pub fn patience(&self) -> Duration {
        self.policy.patience
    }

    /// Whether a reply that cannot be confirmed becomes an error.
    pub fn is_strict(&self) -> bool {
        self.policy.strict
    }

    /// How the waits ended.
    pub fn counts(&self) -> AckCounts {
        AckCounts {
            confirmed: self.confirmed.load(Ordering::Relaxed),
            degraded: self.degraded.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
