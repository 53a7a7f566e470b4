//! The gate of a pair: who may execute clients' commands, in two atomics that workers read once a batch.
//!
//! The control thread is the only writer. It *grants* ([`PairGate::set`]) in small portions of time
//! (`until`), so a process that was stopped wakes up with an expired grant and executes nothing
//! before its control thread has looked at the network.
//!
//! A planned handover needs more: that nobody is inside a batch any more. Each worker raises a flag
//! before it looks at the grant and lowers it behind the batch; closing the gate and then seeing all
//! flags down ([`PairGate::drained`]) therefore proves that nothing more will be recorded. Flag and
//! grant are `SeqCst` on both sides: either the worker sees the closed gate or the closer sees the flag.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_replication::node::GateView;
use tandem_replication::time::Mono;
use tokio::sync::watch;

use super::receipts::Receipts;
use crate::server::gate::{Admission, BoxFuture, Confirmation, Gate, Receipt, Upstream};

/// What a backup does with commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackupRequests {
    /// Everything goes to the master.
    #[default]
    Proxy,
    /// Reads are answered here, from what has arrived; everything else goes to the master.
    LocalReads,
    /// Everything is refused.
    Reject,
}

const SERVE: u8 = 0;
const PARK: u8 = 1;
const FORWARD: u8 = 2;
const REFUSE: u8 = 3;

/// A flag on a cache line of its own: workers must not slow each other down.
#[repr(align(64))]
#[derive(Default)]
struct Inside(AtomicBool);

/// How a forwarded command reaches the node that serves.
pub type OpenUpstream = Box<dyn Fn() -> BoxFuture<'static, std::io::Result<Box<dyn Upstream>>> + Send + Sync>;

/// The gate of a node that has a peer.
pub struct PairGate {
    /// One of the constants above.
    mode: AtomicU8,
    /// Up to when `SERVE` holds, in the clock's microseconds.
    until: AtomicU64,
    inside: Box<[Inside]>,
    clock: Arc<dyn Fn() -> Mono + Send + Sync>,
    backup_requests: BackupRequests,
    park_limit: Duration,
    /// Why nobody serves, behind `SERVER_ERROR `.
    reason: Mutex<&'static str>,
    /// Counts changes of the mode. Moves also when an expired grant is renewed: parked connections
    /// wait for it.
    term: watch::Sender<u64>,
    upstream: OpenUpstream,
    /// For writes that wait for the backup, if any do.
    receipts: Option<Arc<Receipts>>,
}

impl PairGate {
    /// A closed gate in front of `workers` workers. `clock` is the one that grants are made in.
    pub fn new(
        workers: usize,
        clock: Arc<dyn Fn() -> Mono + Send + Sync>,
        backup_requests: BackupRequests,
        park_limit: Duration,
        upstream: OpenUpstream,
    ) -> Self {
        Self {
            mode: AtomicU8::new(PARK),
            until: AtomicU64::new(0),
            inside: (0..workers).map(|_| Inside::default()).collect(),
            clock,
            backup_requests,
            park_limit,
            reason: Mutex::new("no master yet: this node has just started"),
            term: watch::Sender::new(0),
            upstream,
            receipts: None,
        }
    }

    /// Some writes wait for the backup.
    pub fn with_receipts(self, receipts: Option<Arc<Receipts>>) -> Self {
        Self { receipts, ..self }
    }

    /// Opens, extends or closes. Called by the control thread only.
    pub fn set(&self, view: GateView) {
        let before = (self.mode.load(Ordering::SeqCst), self.admits());
        match view {
            GateView::Serve { until } => {
                self.until.store(until.0, Ordering::SeqCst);
                self.mode.store(SERVE, Ordering::SeqCst);
            }
            // The grant stays: what was executed under it before the gate closed is still streamed
            // to the peer before the role goes, so it may be acknowledged until the grant runs out.
            GateView::Park => {
                self.close(PARK, "no master at this moment: a failover or switchover is under way")
            }
            GateView::Forward => {
                self.until.store(0, Ordering::SeqCst);
                self.close(FORWARD, "the master does not answer");
            }
            GateView::Refuse(reason) => {
                self.until.store(0, Ordering::SeqCst);
                self.close(REFUSE, reason);
            }
        }
        let after = (self.mode.load(Ordering::SeqCst), self.admits());
        if before != after {
            self.term.send_modify(|term| *term += u64::from(before.0 != after.0));
        }
    }

    fn close(&self, mode: u8, reason: &'static str) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.mode.store(mode, Ordering::SeqCst);
    }

    /// Whether no worker is inside a batch. Meaningful after the gate was closed.
    pub fn drained(&self) -> bool {
        self.inside.iter().all(|inside| !inside.0.load(Ordering::SeqCst))
    }

    fn granted(&self) -> bool {
        (self.clock)().0 < self.until.load(Ordering::SeqCst)
    }

    /// Whether a batch would be anything but parked.
    fn admits(&self) -> bool {
        match self.mode.load(Ordering::SeqCst) {
            SERVE => self.granted(),
            PARK => false,
            _ => true,
        }
    }

    fn raise(&self, worker: usize, up: bool) {
        if let Some(inside) = self.inside.get(worker) {
            inside.0.store(up, Ordering::SeqCst);
        }
    }
}

impl Gate for PairGate {
    fn enter(&self, worker: usize) -> Admission {
        self.raise(worker, true);
        let admission = match self.mode.load(Ordering::SeqCst) {
            SERVE if self.granted() => {
                if let Some(receipts) = &self.receipts {
                    receipts.begin();
                }
                return Admission::Serve;
            }
            SERVE | PARK => Admission::Park,
            FORWARD => match self.backup_requests {
                BackupRequests::Proxy => Admission::Forward,
                BackupRequests::LocalReads => return Admission::ServeReads,
                BackupRequests::Reject => Admission::Refuse("this node is the backup; write to its peer"),
            },
            _ => Admission::Refuse(*self.reason.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        self.raise(worker, false);
        admission
    }

    fn leave(&self, worker: usize) -> bool {
        let acknowledged = self.still_holds();
        self.raise(worker, false);
        acknowledged
    }

    fn still_holds(&self) -> bool {
        // A backup's local reads rest on no grant.
        let local_read =
            self.backup_requests == BackupRequests::LocalReads && self.mode.load(Ordering::SeqCst) == FORWARD;
        self.granted() || local_read
    }

    fn receipt(&self, durable: bool) -> Option<Receipt> {
        self.receipts.as_ref()?.end(durable)
    }

    fn set_bell(&self, worker: usize, ring: Box<dyn Fn() + Send + Sync>) {
        if let Some(receipts) = &self.receipts {
            receipts.set_bell(worker, ring);
        }
    }

    fn await_news(&self, worker: usize) {
        if let Some(receipts) = &self.receipts {
            receipts.await_news(worker);
            receipts.press();
        }
    }

    fn outcome(&self, receipt: &Receipt, waited: Duration) -> Option<Confirmation> {
        let Some(receipts) = &self.receipts else { return Some(Confirmation::Confirmed) };
        // What only this node has it acknowledges only while it serves. Whether it does may be about to be found out.
        let limit = receipts.patience();
        let is_unsure = !receipts.is_strict() && !self.still_holds() && waited < limit + self.park_limit;
        if is_unsure && !receipts.has(receipt) {
            return None;
        }
        receipts.outcome(receipt, waited >= limit)
    }

    fn confirm_limit(&self) -> Duration {
        self.receipts.as_ref().map_or(Duration::ZERO, |receipts| receipts.patience())
    }

    fn confirmed(&self, receipt: Receipt) -> BoxFuture<'_, Confirmation> {
        match &self.receipts {
            Some(receipts) => Box::pin(async {
                let how = receipts.confirm(receipt).await;
                if how == Confirmation::Degraded && !self.still_holds() {
                    let _changed_or_not = tokio::time::timeout(self.park_limit, self.changed()).await;
                }
                how
            }),
            None => Box::pin(std::future::ready(Confirmation::Confirmed)),
        }
    }

    fn is_strict(&self) -> bool {
        self.receipts.as_ref().is_some_and(|receipts| receipts.is_strict())
    }

    fn serves(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == SERVE && self.granted()
    }

    fn term(&self) -> u64 {
        *self.term.borrow()
    }

    fn ended(&self, term: u64) -> BoxFuture<'_, ()> {
        let mut watch = self.term.subscribe();
        Box::pin(async move {
            // The sender lives as long as `self`.
            let _never_gone = watch.wait_for(|now| *now != term).await;
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut term = self.term.subscribe();
        Box::pin(async move {
            // Subscribed before looking, so no opening is missed.
            while !self.admits() {
                if term.changed().await.is_err() {
                    return;
                }
            }
        })
    }

    fn park_limit(&self) -> Duration {
        self.park_limit
    }

    fn park_reason(&self) -> &'static str {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upstream(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Upstream>>> {
        (self.upstream)()
    }
}

impl std::fmt::Debug for PairGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairGate")
            .field("mode", &self.mode)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gate whose clock is a number the test sets.
    fn gate(backup_requests: BackupRequests) -> (PairGate, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(100));
        let clock = Arc::clone(&time);
        let gate = PairGate::new(
            2,
            Arc::new(move || Mono(clock.load(Ordering::SeqCst))),
            backup_requests,
            Duration::from_millis(250),
            Box::new(|| Box::pin(async { Err(std::io::Error::other("no upstream here")) })),
        );
        (gate, time)
    }

    #[test]
    fn a_stopped_process_wakes_up_behind_a_closed_gate() {
        let (gate, time) = gate(BackupRequests::Proxy);
        assert_eq!(gate.enter(0), Admission::Park, "closed until the control thread grants");
        gate.set(GateView::Serve { until: Mono(200) });
        assert_eq!(gate.enter(0), Admission::Serve);
        time.store(200, Ordering::SeqCst);
        assert!(!gate.leave(0), "what was executed before a pause is not acknowledged behind it");
        assert_eq!(gate.enter(0), Admission::Park);
    }

    #[test]
    fn a_handover_waits_for_the_batch_that_is_inside() {
        let (gate, _) = gate(BackupRequests::Proxy);
        gate.set(GateView::Serve { until: Mono(200) });
        assert_eq!(gate.enter(1), Admission::Serve);
        gate.set(GateView::Park);
        assert!(!gate.drained());
        assert!(gate.leave(1), "it is streamed before the role goes, so it may be acknowledged");
        assert!(gate.drained());
        assert_eq!(gate.enter(1), Admission::Park);
        assert!(gate.drained(), "a refused batch is not inside");
    }

    #[test]
    fn a_deposed_master_acknowledges_nothing() {
        let (gate, _) = gate(BackupRequests::Proxy);
        gate.set(GateView::Serve { until: Mono(200) });
        assert_eq!(gate.enter(0), Admission::Serve);
        gate.set(GateView::Forward);
        assert!(!gate.leave(0));
        assert_eq!(gate.enter(0), Admission::Forward);
    }

    #[test]
    fn a_backup_does_with_commands_what_it_was_told() {
        let (local, _) = gate(BackupRequests::LocalReads);
        local.set(GateView::Forward);
        assert_eq!(local.enter(0), Admission::ServeReads);
        assert!(local.leave(0));
        let (reject, _) = gate(BackupRequests::Reject);
        reject.set(GateView::Forward);
        assert!(matches!(reject.enter(0), Admission::Refuse(_)));
        reject.set(GateView::Refuse("left the pair"));
        assert_eq!(reject.enter(0), Admission::Refuse("left the pair"));
    }

    #[tokio::test]
    async fn a_stream_to_the_master_is_good_for_one_term() {
        let (gate, _) = gate(BackupRequests::Proxy);
        gate.set(GateView::Forward);
        let term = gate.term();
        gate.set(GateView::Forward);
        assert_eq!(gate.term(), term, "nothing changed");
        gate.set(GateView::Serve { until: Mono(200) });
        gate.ended(term).await;
        let term = gate.term();
        gate.set(GateView::Serve { until: Mono(300) });
        assert_eq!(gate.term(), term, "a longer grant is no new term");
    }

    #[tokio::test]
    async fn a_parked_request_goes_on_when_somebody_serves() {
        let (gate, _) = gate(BackupRequests::Proxy);
        let gate = Arc::new(gate);
        let parked = Arc::clone(&gate);
        let waiting = tokio::spawn(async move { parked.changed().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gate.set(GateView::Serve { until: Mono(200) });
        waiting.await.unwrap();
        // And one that comes late does not wait at all.
        gate.changed().await;
    }
}
