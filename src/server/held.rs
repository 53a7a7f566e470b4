//! Replies that a worker keeps until another node has what they promise.
//!
//! Intuition: a connection whose replies must wait stays where it is, with its work put aside, and is on a list.
//! The worker goes on with the others; with the next acknowledgement it is woken, once for all of its
//! connections, looks through the list and lets those go whose time has come. What such a connection sends
//! meanwhile stays unread, or unanswered: its replies keep their order, and nothing grows.
//!
//! Promise: nobody waits longer than the gate says, whether or not the other node is ever heard again.
//! (Longer than [`Gate::confirm_limit`](super::gate::Gate::confirm_limit) only while nobody knows whether this node
//! may still acknowledge anything.)

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::gate::{Confirmation, Receipt};
use super::limits;
use super::worker::Shared;

/// The connections of a worker whose replies wait.
#[derive(Debug)]
pub(super) struct Held {
    shared: Rc<Shared>,
    /// In the order in which they began to wait.
    waiting: VecDeque<Waiting>,
    /// Numbers those who wait, so that nobody is taken for who had the same place before.
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    released: Released,
    receipt: Receipt,
    since: Instant,
}

/// Whose replies need not wait any longer, and how that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    pub(super) place: u32,
    /// As [`Held::hold`] said.
    pub(super) number: u64,
    pub(super) how: Confirmation,
}

impl Held {
    /// Nobody waits.
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        let bell = shared.bell();
        shared.service.gate.set_bell(shared.index, Box::new(move || bell.ring()));
        Self { shared, waiting: VecDeque::new(), last: 0 }
    }

    /// The connection at `place` has to wait until another node has what the receipt names: the number, never 0,
    /// under which it is released. Or it has not.
    pub(super) fn hold(&mut self, place: u32, receipt: Receipt) -> Result<u64, Confirmation> {
        let gate = &*self.shared.service.gate;
        // Before the look, so that whatever comes behind it is told.
        gate.await_news(self.shared.index);
        if let Some(how) = gate.outcome(&receipt, Duration::ZERO) {
            return Err(how);
        }
        self.last += 1;
        let released = Released { place, number: self.last, how: Confirmation::Degraded };
        self.waiting.push_back(Waiting { released, receipt, since: Instant::now() });
        Ok(self.last)
    }

    /// How long a worker may sleep without looking here.
    pub(super) fn patience(&self) -> Option<Duration> {
        let left = self.left()?;
        Some(if left.is_zero() { limits::HELD_LONGER } else { left })
    }

    /// Somebody has waited long enough.
    pub(super) fn is_due(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// How long who has waited longest has to wait at most, mostly.
    fn left(&self) -> Option<Duration> {
        let waited = self.waiting.front()?.since.elapsed();
        Some(self.shared.service.gate.confirm_limit().saturating_sub(waited))
    }

    /// Takes those off the list who need not wait any longer.
    pub(super) fn release(&mut self, into: &mut Vec<Released>) {
        if self.waiting.is_empty() {
            return;
        }
        let gate = &*self.shared.service.gate;
        gate.await_news(self.shared.index);
        let now = Instant::now();
        self.waiting.retain(|waiting| {
            let outcome = gate.outcome(&waiting.receipt, now.saturating_duration_since(waiting.since));
            into.extend(outcome.map(|how| Released { how, ..waiting.released }));
            outcome.is_none()
        });
    }
}

/// The shorter of two times, of which either may have no end.
pub(super) fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
