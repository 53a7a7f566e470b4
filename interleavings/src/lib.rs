//! What threads share, run in every order that a scheduler thinks of.
//!
//! The ring of changes, the pair's gate, what the backup acknowledged and the engine's budget are the product's files, word by word
//! (`build.rs`); only their locks and atomics are the scheduler's, which decides at each of them which
//! thread goes on. Orders are drawn at random, or with few changes of thread at unlucky moments, or follow
//! one after the other. A failure prints the order, to be replayed with
//! `shuttle::replay`.
//!
//! The scheduler knows no weak memory: it finds steps in a wrong order, not an ordering that is too weak.
//! Where that matters the product asks for `SeqCst`.
//!
//! `TANDEM_INTERLEAVINGS=n` tries n orders of each story instead of a thousand.
#![cfg(test)]

/// A file of the product, or the same with a bug.
macro_rules! product {
    ($($name:ident)*) => {$(
        #[allow(unused, missing_docs, unreachable_pub, clippy::let_and_return, reason = "the product uses it")]
        mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    )*};
}
mod acks;
mod budget;
mod gate;
mod ring;

use std::panic::AssertUnwindSafe;

use shuttle::Config;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};

/// What the product's files find instead of the standard library's.
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
    // Set once, before there are threads; and a counter that nobody waits for.
    pub(crate) use std::sync::{Arc, OnceLock, PoisonError};
}

/// What the product's files expect at their place.
mod change {
    pub(crate) use tandem_replication::change::*;
}
mod dirty {
    pub(crate) use tandem_replication::dirty::DirtyMap;
}
mod server {
    pub(crate) use tandemd::server::gate;
}
mod receipts {
    pub(crate) use tandemd::replica::receipts::Receipts;
}

fn orders() -> usize {
    std::env::var("TANDEM_INTERLEAVINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn config() -> Config {
    let mut config = Config::new();
    config.failure_persistence = shuttle::FailurePersistence::Print;
    config
}

/// Tells the story in many orders; fails if one of them goes wrong.
fn try_orders(story: fn()) {
    let orders = orders();
    let random = RandomScheduler::new_from_seed(1, orders / 2);
    shuttle::Runner::new(random, config()).run(story);
    // The longer the story, the more changes of thread it needs at the right moment.
    for depth in 1..=5 {
        let unlucky = PctScheduler::new_from_seed(depth as u64, depth, orders / 10);
        shuttle::Runner::new(unlucky, config()).run(story);
    }
}

/// Tells the story in one order after the other, until there is none left or there were enough; how many.
fn try_one_by_one(story: fn()) -> usize {
    shuttle::Runner::new(DfsScheduler::new(Some(20 * orders()), false), config()).run(story)
}

/// A bug was put there: the orders find it.
fn find_bug(name: &str, story: fn()) {
    let found = std::panic::catch_unwind(AssertUnwindSafe(|| try_orders(story)));
    let why = found.expect_err(&format!("{name} was not found"));
    let why = why.downcast_ref::<String>().cloned();
    let why = why.unwrap_or_default();
    println!("{name}: found, {}", why.lines().next().unwrap_or_default());
}
