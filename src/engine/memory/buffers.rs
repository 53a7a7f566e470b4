//! Buffers that nobody uses now, for whoever needs one next.
//!
//! A segment and a chunk of a large value are equally long. What one gives up the other takes over, in
//! whichever thread: the allocator keeps each thread's memory apart, and would let the process grow while
//! small values give way to large ones.
//!
//! Promise: what is kept and what the budget has lent are together never more than the limit for long.

use parking_lot::Mutex;

use crate::engine::budget::Budget;

/// Buffers that upkeep frees in a slice.
const FREED_PER_SLICE: usize = 64;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Buffers {
    buffer_bytes: usize,
    spare: Mutex<Vec<Box<[u8]>>>,
}

impl Buffers {
    pub(super) const fn new(buffer_bytes: usize) -> Self {
        Self { buffer_bytes, spare: Mutex::new(Vec::new()) }
    }

    pub(super) const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// A buffer, paid for by the caller. What is in it is nobody's concern: not always zeros.
    pub(super) fn take(&self) -> Box<[u8]> {
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| vec![0; self.buffer_bytes].into_boxed_slice())
    }

    /// Keeps a buffer whose cost was given back, while the limit leaves room for it.
    pub(super) fn keep(&self, buffer: Box<[u8]>, budget: &Budget) {
        if buffer.len() != self.buffer_bytes {
            return;
        }
        let mut spare = self.spare.lock();
        if self.fits(spare.len() + 1, budget) {
            spare.push(buffer);
        }
    }

    /// Frees some of what others have needed the room of. Whether there is more of it.
    pub(super) fn trim(&self, budget: &Budget) -> bool {
        let mut spare = self.spare.lock();
        let mut freed = Vec::new();
        while freed.len() < FREED_PER_SLICE && !self.fits(spare.len(), budget) {
            freed.extend(spare.pop());
        }
        let more = !self.fits(spare.len(), budget);
        drop(spare);
        more
    }

    fn fits(&self, count: usize, budget: &Budget) -> bool {
        count == 0 || budget.used() + (count * self.buffer_bytes) as u64 <= budget.limit()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        (self.spare.lock().len() * self.buffer_bytes) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_gives_way_to_what_is_lent() {
        let (budget, buffers) = (Budget::new(100), Buffers::new(10));
        assert!(budget.acquire(70));
        for _ in 0..5 {
            buffers.keep(vec![1; 10].into(), &budget);
        }
        assert_eq!(buffers.bytes(), 30);
        buffers.keep(vec![1; 9].into(), &budget);
        assert_eq!((buffers.bytes(), buffers.take()), (30, vec![1; 10].into()));
        assert!(budget.acquire(25));
        assert!(!buffers.trim(&budget));
        assert_eq!((buffers.bytes(), buffers.take()), (0, vec![0; 10].into()));
    }
}
