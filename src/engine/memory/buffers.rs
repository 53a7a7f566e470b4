//! Buffers that nobody uses now, for whoever needs one next.
//!
//! A segment and a chunk of a large value are equally long, and what is left of a value behind its last whole
//! chunk is in pieces of such a buffer. What one gives up the other takes over, in whichever thread: the allocator
//! keeps each thread's memory apart, and would let the process grow when the values' sizes change.
//!
//! Promise: what is kept and what the budget has lent are together never more than the limit for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;

use super::pieces::Pieces;
use crate::engine::budget::Budget;

/// Buffers that upkeep frees in a slice.
const FREED_PER_SLICE: usize = 64;
/// Bytes of buffers that upkeep has ready at most while more and more are needed.
const STOCK_BYTES_MAX: usize = 8 << 20;
/// Buffers that upkeep makes in a slice.
const MADE_PER_SLICE: usize = 64;
/// Buffers that are kept beyond the limit, in case their cost is just being given back.
const ON_THEIR_WAY: usize = 1;
/// Bytes charged for a buffer that is cut into pieces beyond its own: what is known of its holes.
const CUT_OVERHEAD: usize = 128;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Buffers {
    buffer_bytes: usize,
    budget: Arc<Budget>,
    spare: Mutex<Vec<Box<[u8]>>>,
    /// How many were asked for since upkeep came last.
    asked: AtomicUsize,
    pieces: Pieces,
    /// Bytes of values in pieces.
    lent: AtomicU64,
}

impl Buffers {
    pub(super) fn new(buffer_bytes: usize, budget: Arc<Budget>) -> Self {
        let (spare, pieces) = (Mutex::new(Vec::new()), Pieces::new(buffer_bytes));
        Self { buffer_bytes, budget, spare, asked: AtomicUsize::new(0), pieces, lent: AtomicU64::new(0) }
    }

    pub(super) const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// What memory is paid from.
    pub(super) const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A buffer, paid for by the caller. What is in it is nobody's concern: not always zeros.
    pub(super) fn take(&self) -> Box<[u8]> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| vec![0; self.buffer_bytes].into_boxed_slice())
    }

    /// Keeps a buffer. Only then its cost may be given back: whoever gets that finds the buffer, and makes no other.
    pub(super) fn keep(&self, buffer: Box<[u8]>) {
        if buffer.len() == self.buffer_bytes {
            self.spare.lock().push(buffer);
        }
    }

    /// Pieces for `len` bytes of a value, at most a buffer's, if there is memory. The last one may be longer.
    pub(super) fn take_pieces(&self, len: usize) -> Option<Vec<BytesMut>> {
        let more = || self.budget.acquire(self.cut_cost()).then(|| self.take());
        let taken = self.pieces.take(len, more)?;
        self.lent.fetch_add(len as u64, Ordering::Relaxed);
        Some(taken)
    }

    /// Takes a piece back that had `len` bytes of a value.
    pub(super) fn keep_piece(&self, piece: BytesMut, len: usize) {
        self.lent.fetch_sub(len as u64, Ordering::Relaxed);
        if let Some(buffer) = self.pieces.put(piece) {
            self.keep(buffer);
            self.budget.release(self.cut_cost());
        }
    }

    /// Bytes of values that are in pieces.
    pub(super) fn lent_bytes(&self) -> u64 {
        self.lent.load(Ordering::Relaxed)
    }

    /// Bytes of buffers that are cut which belong to no value.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.pieces.idle_bytes() as u64
    }

    /// What a buffer that is cut costs the budget.
    const fn cut_cost(&self) -> u64 {
        (self.buffer_bytes + CUT_OVERHEAD) as u64
    }

    /// What all of them cost.
    #[cfg(test)]
    pub(super) fn cut_bytes(&self) -> u64 {
        self.pieces.buffers() as u64 * self.cut_cost()
    }

    /// Makes some buffers beforehand, if others were needed lately and there is room for more: twice as many as in the
    /// last slice. The kernel has found their memory before a worker writes to it. Whether it made any.
    pub(super) fn stock(&self) -> bool {
        let asked = self.asked.swap(0, Ordering::Relaxed);
        let wanted = (2 * asked).min(STOCK_BYTES_MAX / self.buffer_bytes);
        let mut made = 0;
        while made < MADE_PER_SLICE && self.has_less_than(wanted) {
            // Written to, each page of it: zeros the kernel would only promise.
            self.keep(vec![u8::MAX; self.buffer_bytes].into_boxed_slice());
            made += 1;
        }
        made > 0
    }

    fn has_less_than(&self, wanted: usize) -> bool {
        let count = self.spare.lock().len();
        count < wanted && self.fits(count + 1)
    }

    /// Frees some of what others have needed the room of. Whether there is more of it.
    pub(super) fn trim(&self) -> bool {
        let mut spare = self.spare.lock();
        // A few may be on their way: kept, and not given back yet.
        let too_many = |count: usize| count > ON_THEIR_WAY && !self.fits(count - ON_THEIR_WAY);
        let mut freed = Vec::new();
        while freed.len() < FREED_PER_SLICE && too_many(spare.len()) {
            freed.extend(spare.pop());
        }
        let more = too_many(spare.len());
        drop(spare);
        more
    }

    fn fits(&self, count: usize) -> bool {
        count == 0 || self.budget.used() + (count * self.buffer_bytes) as u64 <= self.budget.limit()
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
    fn buffers_are_made_beforehand_while_they_are_needed_and_there_is_room() {
        let budget = Arc::new(Budget::new(100));
        let buffers = Buffers::new(10, Arc::clone(&budget));
        assert!(!buffers.stock());
        for _ in 0..3 {
            assert!(budget.acquire(10));
            buffers.take();
        }
        assert!(buffers.stock());
        assert_eq!((buffers.bytes(), buffers.stock()), (60, false));
        for _ in 0..6 {
            assert!(budget.acquire(10));
            assert_eq!(buffers.take(), vec![u8::MAX; 10].into());
        }
        assert!(buffers.stock());
        assert_eq!((buffers.bytes(), buffers.stock()), (10, false), "no more than the limit leaves room for");
    }

    #[test]
    fn what_is_kept_gives_way_to_what_is_lent() {
        let budget = Arc::new(Budget::new(100));
        let buffers = Buffers::new(10, Arc::clone(&budget));
        for _ in 0..10 {
            buffers.keep(vec![1; 10].into());
        }
        buffers.keep(vec![1; 9].into());
        assert!(!buffers.trim());
        assert_eq!((buffers.bytes(), buffers.take()), (100, vec![1; 10].into()));
        assert!(budget.acquire(95));
        assert!(!buffers.trim());
        assert_eq!(buffers.bytes(), 10 * ON_THEIR_WAY as u64);
        assert_eq!(buffers.take(), vec![1; 10].into());
        budget.release(95);
        while buffers.bytes() > 0 {
            buffers.take();
        }
        assert_eq!(buffers.take(), vec![0; 10].into());
    }
}
