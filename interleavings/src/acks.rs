//! Replies that wait for the backup: whoever holds some is woken when it has what they promise.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;
use tandem_replication::backlog::Backlog;
use tandemd::server::gate::{Confirmation, Receipt};

product! { acks acks_wake_too_soon acks_forget_a_wish }

/// Both ends of it.
trait Acks: Send + Sync + 'static {
    fn new() -> Self;
    fn set_bell(&self, worker: usize, ring: Box<dyn Fn() + Send + Sync>);
    fn hear(&self, applied: &[u64], followed: bool);
    fn await_news(&self, worker: usize);
    fn outcome(&self, receipt: &Receipt) -> Option<Confirmation>;
}

macro_rules! acks {
    ($name:ident) => {
        impl Acks for $name::Receipts {
            fn new() -> Self {
                let patience = Duration::from_secs(1);
                let policy = $name::AckPolicy { all: true, patience, ..Default::default() };
                Self::new(policy, Arc::new(Backlog::new(1, 4096)), WORKERS)
            }
            fn set_bell(&self, worker: usize, ring: Box<dyn Fn() + Send + Sync>) {
                self.set_bell(worker, ring);
            }
            fn hear(&self, applied: &[u64], followed: bool) {
                self.hear(Some(applied), followed);
            }
            fn await_news(&self, worker: usize) {
                self.await_news(worker);
            }
            fn outcome(&self, receipt: &Receipt) -> Option<Confirmation> {
                self.outcome(receipt, false)
            }
        }
    };
}
acks!(acks);
acks!(acks_wake_too_soon);
acks!(acks_forget_a_wish);

const WORKERS: usize = 2;

/// How a worker sleeps. Whoever is not woken sleeps for ever, which the scheduler notices.
#[derive(Default)]
struct Bed(Mutex<bool>, Condvar);

impl Bed {
    fn ring(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.0.lock().expect("no panic");
        while !*rung {
            rung = self.1.wait(rung).expect("no panic");
        }
        *rung = false;
    }
}

/// Holds replies for that sequence, as `server::held` does, until it is known how it ends.
fn hold<A: Acks>(acks: &A, bed: &Bed, worker: usize, sequence: u64) -> Confirmation {
    let mut receipt = Receipt::default();
    receipt.add(0, sequence);
    loop {
        acks.await_news(worker);
        match acks.outcome(&receipt) {
            Some(how) => return how,
            None => bed.sleep(),
        }
    }
}

/// The backup acknowledges one after the other, and goes.
fn wait_for_the_backup<A: Acks>() {
    let acks = Arc::new(A::new());
    acks.hear(&[0], true);
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (acks, bed) = (Arc::clone(&acks), Arc::new(Bed::default()));
            let rung = Arc::clone(&bed);
            acks.set_bell(worker, Box::new(move || rung.ring()));
            thread::spawn(move || {
                assert_eq!(hold(&*acks, &bed, worker, 1), Confirmation::Confirmed);
                assert_eq!(hold(&*acks, &bed, worker, 2), Confirmation::Confirmed);
                assert_eq!(hold(&*acks, &bed, worker, 3), Confirmation::Degraded);
            })
        })
        .collect();
    acks.hear(&[1], true);
    acks.hear(&[2], true);
    acks.hear(&[2], false);
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
}

#[test]
fn whoever_waits_for_the_backup_is_woken_when_it_has_what_was_promised() {
    crate::try_orders(wait_for_the_backup::<acks::Receipts>);
}

#[test]
fn planted_bugs_are_found() {
    crate::find_bug("waking before knowing", wait_for_the_backup::<acks_wake_too_soon::Receipts>);
    crate::find_bug("forgetting a wish", wait_for_the_backup::<acks_forget_a_wish::Receipts>);
}
