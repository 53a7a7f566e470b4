//! Buffers cut into pieces, for what is left of a large value behind its last whole chunk.
//!
//! Intuition: pieces are cut from the smallest hole that has room; where none has, from two or three of the
//! largest, so that little is left over. What comes back grows together with its neighbours, and a buffer that is
//! whole again is anybody's. No value's memory comes from the allocator, which could not give it to others.
//!
//! Promise: each buffer that is cut is paid for as a whole, from when it is taken until it is whole again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Pieces begin and end at multiples of this, but for the end of their buffer.
const GRAIN: usize = 64;
/// A value's rest is cut into this many at most.
pub(super) const PIECES_MAX: usize = 4;
/// A hole is filled with the first part of a rest if it takes at least this fraction of it.
const LEAST_PART: usize = 8;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pieces {
    buffer_bytes: usize,
    holes: Mutex<Holes>,
}

/// What is free of the buffers that are cut.
#[derive(Debug, Default)]
struct Holes {
    by_address: BTreeMap<usize, BytesMut>,
    /// Length and address.
    by_length: BTreeSet<(usize, usize)>,
    bytes: usize,
    /// How many buffers are cut.
    buffers: usize,
}

impl Pieces {
    pub(super) fn new(buffer_bytes: usize) -> Self {
        Self { buffer_bytes, holes: Mutex::new(Holes::default()) }
    }

    /// Pieces that have `len` bytes together, or a little more; at most a buffer's. `more` makes a buffer that is
    /// paid for, if there is memory.
    pub(super) fn take(&self, len: usize, more: impl Fn() -> Option<Box<[u8]>>) -> Option<Vec<BytesMut>> {
        debug_assert!(len <= self.buffer_bytes);
        let mut holes = self.holes.lock();
        let mut taken = Vec::with_capacity(1);
        let mut left = len;
        loop {
            if let Some(piece) = holes.cut(left) {
                taken.push(piece);
                return Some(taken);
            }
            if taken.len() + 1 < PIECES_MAX
                && let Some(piece) = holes.largest(len / LEAST_PART)
            {
                left -= piece.len();
                taken.push(piece);
                continue;
            }
            let Some(buffer) = more() else {
                for piece in taken {
                    holes.put(piece);
                }
                return None;
            };
            holes.buffers += 1;
            let whole = Bytes::from(buffer).try_into_mut();
            holes.put(whole.expect("nobody else has the buffer"));
        }
    }

    /// Takes a piece back, as long as it was. Answers the buffer, to be paid back, if it is whole again.
    pub(super) fn put(&self, piece: BytesMut) -> Option<Box<[u8]>> {
        let mut holes = self.holes.lock();
        let at = holes.put(piece);
        let whole = holes.by_address[&at].len() == self.buffer_bytes;
        let buffer = whole.then(|| holes.remove(at))?;
        holes.buffers -= 1;
        drop(holes);
        Some(Vec::from(buffer).into_boxed_slice())
    }

    /// Bytes of cut buffers that are in no value.
    pub(super) fn idle_bytes(&self) -> usize {
        self.holes.lock().bytes
    }

    /// How many buffers are cut.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> usize {
        self.holes.lock().buffers
    }
}

impl Holes {
    /// A piece of that many bytes, from the smallest hole that has them.
    fn cut(&mut self, len: usize) -> Option<BytesMut> {
        let &(_, at) = self.by_length.range((len, 0)..).next()?;
        let mut piece = self.remove(at);
        let rounded = len.next_multiple_of(GRAIN);
        if rounded < piece.len() {
            self.insert(piece.split_off(rounded));
        }
        Some(piece)
    }

    /// The largest hole, if it has that many bytes.
    fn largest(&mut self, least: usize) -> Option<BytesMut> {
        let &(_, at) = self.by_length.last().filter(|(len, _)| *len >= least.max(GRAIN))?;
        Some(self.remove(at))
    }

    fn insert(&mut self, hole: BytesMut) {
        let at = address(&hole);
        self.bytes += hole.len();
        self.by_length.insert((hole.len(), at));
        self.by_address.insert(at, hole);
    }

    fn remove(&mut self, at: usize) -> BytesMut {
        let hole = self.by_address.remove(&at).expect("there is a hole at this address");
        self.by_length.remove(&(hole.len(), at));
        self.bytes -= hole.len();
        hole
    }

    /// Makes a hole of a piece and its free neighbours; answers where it begins.
    fn put(&mut self, piece: BytesMut) -> usize {
        let mut hole = piece;
        let before = self.by_address.range(..address(&hole)).next_back();
        if let Some((&at, neighbour)) = before
            && at + neighbour.len() == address(&hole)
        {
            hole = self.join(at, hole, true);
        }
        let behind = address(&hole) + hole.len();
        if self.by_address.contains_key(&behind) {
            hole = self.join(behind, hole, false);
        }
        let at = address(&hole);
        self.insert(hole);
        at
    }

    /// A hole and its neighbour at `at`; they stay apart if they are of two buffers.
    fn join(&mut self, at: usize, hole: BytesMut, neighbour_first: bool) -> BytesMut {
        let neighbour = self.remove(at);
        let (mut first, second) = if neighbour_first { (neighbour, hole) } else { (hole, neighbour) };
        match first.try_unsplit(second) {
            Ok(()) => first,
            Err(second) => {
                let (hole, neighbour) = if neighbour_first { (second, first) } else { (first, second) };
                self.insert(neighbour);
                hole
            }
        }
    }
}

fn address(bytes: &BytesMut) -> usize {
    bytes.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const BUFFER: usize = 992;

    #[test]
    fn pieces_are_apart_and_their_buffer_is_whole_again_in_the_end() {
        let pieces = Pieces::new(BUFFER);
        let made = Cell::new(0);
        let more = || {
            made.set(made.get() + 1);
            (made.get() <= 6).then(|| vec![0; BUFFER].into_boxed_slice())
        };
        let mut held: Vec<(u8, Vec<BytesMut>)> = Vec::new();
        let mut whole = 0;
        for round in 0..2000_usize {
            let mark = round as u8;
            if round % 3 == 2 && !held.is_empty() {
                let (mark, back) = held.swap_remove(round * 7 % held.len());
                assert!(back.iter().all(|piece| piece.iter().all(|&byte| byte == mark)), "nobody else wrote");
                for piece in back {
                    if pieces.put(piece).is_some() {
                        whole += 1;
                        made.set(made.get().min(6) - 1);
                    }
                }
            } else if let Some(mut taken) = pieces.take(round * 37 % BUFFER + 1, more) {
                assert!(taken.len() <= PIECES_MAX);
                assert!(taken.iter().map(|piece| piece.len()).sum::<usize>() > round * 37 % BUFFER);
                taken.iter_mut().for_each(|piece| piece.fill(mark));
                held.push((mark, taken));
            }
            let lent: usize = held.iter().flat_map(|(_, pieces)| pieces).map(|piece| piece.len()).sum();
            assert_eq!(pieces.idle_bytes() + lent, pieces.buffers() * BUFFER, "nothing is lost");
        }
        for (_, back) in held {
            back.into_iter().for_each(|piece| whole += usize::from(pieces.put(piece).is_some()));
        }
        assert!(whole > 6 && pieces.buffers() == 0 && pieces.idle_bytes() == 0);
    }

    #[test]
    fn values_that_do_not_divide_a_buffer_leave_no_more_than_an_eighth_of_one() {
        let pieces = Pieces::new(BUFFER);
        let held: Vec<_> =
            (0..100).map(|_| pieces.take(600, || Some(vec![0; BUFFER].into())).expect("memory")).collect();
        assert!(held.iter().all(|pieces| pieces.len() <= 3));
        assert!(pieces.buffers() <= 100 * 640 / BUFFER + 2, "{} buffers", pieces.buffers());
    }
}
