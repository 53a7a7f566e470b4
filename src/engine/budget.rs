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
    /// The part of `used` that belongs to descriptions that were given back. They come from the allocator, whose
    /// holes only other descriptions fit, so nothing else is bought for it.
    kept: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            large: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
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

    /// Takes bytes for descriptions: of those that were given back, else as [`Budget::acquire`].
    fn acquire_description(&self, bytes: u64) -> bool {
        let reused =
            self.kept.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |kept| kept.checked_sub(bytes));
        reused.is_ok() || self.acquire(bytes)
    }

    /// Bytes of descriptions that nobody has now.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Gives what is kept for descriptions back: the limit was lowered.
    pub(crate) fn forget_kept(&self) {
        self.release(self.kept.swap(0, Ordering::AcqRel));
    }

    /// Bytes of large values, those that only replies still hold included.
    pub(crate) fn large(&self) -> u64 {
        self.large.load(Ordering::Relaxed)
    }
}

/// A part of the budget for a large value, given back when dropped: memory, and what describes it.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    memory: u64,
    description: u64,
}

impl Charge {
    /// Takes that many bytes for a large value's memory and for its description.
    pub(crate) fn take(budget: &Arc<Budget>, memory: u64, description: u64) -> Option<Self> {
        if !budget.acquire(memory) {
            return None;
        }
        if !budget.acquire_description(description) {
            budget.release(memory);
            return None;
        }
        budget.large.fetch_add(memory + description, Ordering::Relaxed);
        Some(Self { budget: Arc::clone(budget), memory, description })
    }

    /// Splits that many bytes off.
    pub(crate) fn split(&mut self, memory: u64, description: u64) -> Self {
        debug_assert!(memory <= self.memory && description <= self.description);
        self.memory -= memory;
        self.description -= description;
        Self { budget: Arc::clone(&self.budget), memory, description }
    }

    /// Adds another part to it.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.memory += std::mem::take(&mut other.memory);
        self.description += std::mem::take(&mut other.description);
    }

    /// Gives all of it back, before it is dropped.
    pub(crate) fn end(&mut self) {
        let (memory, description) = (std::mem::take(&mut self.memory), std::mem::take(&mut self.description));
        self.budget.large.fetch_sub(memory + description, Ordering::Relaxed);
        self.budget.kept.fetch_add(description, Ordering::AcqRel);
        self.budget.release(memory);
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
        let mut charge = Charge::take(&budget, 60, 0).unwrap();
        assert!(!budget.acquire(41));
        assert!(budget.acquire(40));
        let part = charge.split(20, 0);
        drop(charge);
        assert_eq!((budget.used(), budget.large()), (60, 20));
        drop(part);
        budget.release(40);
        assert_eq!((budget.used(), budget.large()), (0, 0));
        assert!(!budget.acquire(u64::MAX));
    }

    #[test]
    fn what_was_a_description_is_only_lent_for_descriptions() {
        let budget = Arc::new(Budget::new(100));
        drop(Charge::take(&budget, 60, 10));
        assert_eq!((budget.used(), budget.kept(), budget.large()), (10, 10, 0));
        assert!(!budget.acquire(91), "it is not there for memory");
        let again = Charge::take(&budget, 90, 10);
        assert!(again.is_some());
        assert!(Charge::take(&budget, 0, 1).is_none());
        drop(again);
        budget.forget_kept();
        assert_eq!(budget.used(), 0);
    }
}
