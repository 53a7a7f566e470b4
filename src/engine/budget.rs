//! One number that bounds all memory of an engine.
//!
//! Whoever wants memory takes it from the budget first and allocates then; whoever frees memory gives
//! it back afterwards. So what is in use never exceeds the limit, not even for a moment (but for a
//! limit that was lowered, which maintenance then catches up with).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much memory there is, and how much of it is taken.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// The part of `used` that belongs to large values.
    large: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0), large: AtomicU64::new(0) }
    }

    /// Takes that many bytes, or nothing.
    pub(crate) fn acquire(&self, bytes: u64) -> bool {
        let limit = self.limit();
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&used| used <= limit)
            })
            .is_ok()
    }

    /// Gives bytes back.
    pub(crate) fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "more was given back than taken");
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes of large values, those that only replies still hold included.
    pub(crate) fn large(&self) -> u64 {
        self.large.load(Ordering::Relaxed)
    }
}

/// A part of the budget for a large value, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Takes that many bytes for a large value.
    pub(crate) fn take(budget: &Arc<Budget>, bytes: u64) -> Option<Self> {
        budget.acquire(bytes).then(|| {
            budget.large.fetch_add(bytes, Ordering::Relaxed);
            Self { budget: Arc::clone(budget), bytes }
        })
    }

    /// Splits that many bytes off.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        debug_assert!(bytes <= self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Charge {
    /// Gives all of it back, before it is dropped.
    pub(crate) fn end(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budget.large.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.release(bytes);
    }

    /// What it was taken from.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lent_beyond_the_limit() {
        let budget = Arc::new(Budget::new(100));
        let mut charge = Charge::take(&budget, 60).unwrap();
        assert!(!budget.acquire(41));
        assert!(budget.acquire(40));
        let part = charge.split(20);
        drop(charge);
        assert_eq!((budget.used(), budget.large()), (60, 20));
        drop(part);
        budget.release(40);
        assert_eq!((budget.used(), budget.large()), (0, 0));
        assert!(!budget.acquire(u64::MAX));
    }
}
