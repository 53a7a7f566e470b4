//! The engine's budget: what is lent never exceeds the limit, not even for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::thread;

product! { budget budget_looks_then_takes }

trait Lender: Send + Sync + 'static {
    fn new(limit: u64) -> Self;
    fn acquire(&self, bytes: u64) -> bool;
    fn release(&self, bytes: u64);
    fn used(&self) -> u64;
}

macro_rules! lender {
    ($name:ident) => {
        impl Lender for $name::Budget {
            fn new(limit: u64) -> Self {
                Self::new(limit)
            }
            fn acquire(&self, bytes: u64) -> bool {
                self.acquire(bytes)
            }
            fn release(&self, bytes: u64) {
                self.release(bytes);
            }
            fn used(&self) -> u64 {
                self.used()
            }
        }
    };
}
lender!(budget);
lender!(budget_looks_then_takes);

const LIMIT: u64 = 100;

/// Three that want more than there is: what they hold is never more than the limit, and all comes back.
fn lend<L: Lender>() {
    let budget = Arc::new(L::new(LIMIT));
    // Not seen by the scheduler: what is held, for certain.
    let held = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = [60, 50, 40]
        .map(|bytes| {
            let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
            thread::spawn(move || {
                for _ in 0..2 {
                    if budget.acquire(bytes) {
                        let all = held.fetch_add(bytes, Ordering::Relaxed) + bytes;
                        assert!(all <= LIMIT, "{all} bytes of {LIMIT} are lent");
                        assert!(budget.used() <= LIMIT, "more is counted than there is");
                        held.fetch_sub(bytes, Ordering::Relaxed);
                        budget.release(bytes);
                    }
                }
            })
        })
        .into();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    assert_eq!(budget.used(), 0, "all came back");
}

/// A large value's charge is split and ends in two threads.
fn split() {
    let lender = Arc::new(budget::Budget::new(LIMIT));
    let mut whole = budget::Charge::take(&lender, 60, 20).expect("there is room");
    let part = whole.split(25, 5);
    let other = Arc::clone(&lender);
    let dropping = thread::spawn(move || drop(part));
    let taking = thread::spawn(move || drop(budget::Charge::take(&other, 30, 10)));
    drop(whole);
    dropping.join().expect("a thread");
    taking.join().expect("a thread");
    assert_eq!((lender.used(), lender.large()), (lender.kept(), 0), "all came back");
    assert!((20..=30).contains(&lender.kept()), "what is kept for descriptions is what was one");
}

#[test]
fn what_is_lent_never_exceeds_the_limit() {
    crate::try_orders(lend::<budget::Budget>);
    crate::try_orders(split);
    println!("{} orders of a split charge", crate::try_one_by_one(split));
}

#[test]
fn a_budget_that_looks_and_then_takes_is_found() {
    crate::find_bug("a budget that looks, then takes", lend::<budget_looks_then_takes::Budget>);
}
