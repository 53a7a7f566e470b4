//! Replies on their way to a client: formatted bytes, with large values spliced in by reference.
//!
//! Small things are copied into one growing buffer, which is initialised once, so that a piece costs a
//! look at its end and a few moves. A value in [`Pages`] is never copied: its chunks
//! are remembered with the offset at which they belong, and [`Output::slices`] presents everything
//! in order for one vectored write. A partial write moves a cursor; nothing is shifted.

use std::io::IoSlice;

use bytes::Bytes;

use crate::command::{Pages, Value};

/// Replies that wait to be written. See the module's documentation.
#[derive(Debug, Default)]
pub struct Output {
    /// Room for what is copied, of which `filled` bytes are taken.
    room: Vec<u8>,
    filled: usize,
    /// Chunks of large values, each with what was `filled` when it was put here.
    pages: Vec<(usize, Bytes)>,
    /// Bytes in `pages`.
    pages_len: usize,
    /// How much of what was copied was written.
    written: usize,
    /// How many of `pages` were written.
    pages_written: usize,
    /// How much of the chunk after those was written.
    chunk_written: usize,
    /// How much of everything was written.
    advanced: usize,
}

impl Output {
    /// Capacity that survives [`Output::clear`].
    pub const KEPT_CAPACITY: usize = 256 * 1024;
    /// Capacity of one that is used at all.
    const FIRST_CAPACITY: usize = 512;

    /// Nothing to write yet.
    pub const fn new() -> Self {
        Self {
            room: Vec::new(),
            filled: 0,
            pages: Vec::new(),
            pages_len: 0,
            written: 0,
            pages_written: 0,
            chunk_written: 0,
            advanced: 0,
        }
    }

    /// Bytes that are still to be written.
    pub const fn len(&self) -> usize {
        self.filled + self.pages_len - self.advanced
    }

    /// Whether nothing is left to be written.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that were put here since the last [`Output::clear`], written or not.
    pub const fn total(&self) -> usize {
        self.filled + self.pages_len
    }

    /// Forgets everything, and gives memory back beyond [`Output::KEPT_CAPACITY`].
    #[inline]
    pub fn clear(&mut self) {
        self.filled = 0;
        if self.room.len() > Self::KEPT_CAPACITY {
            self.room.truncate(Self::KEPT_CAPACITY);
            self.room.shrink_to_fit();
        }
        self.written = 0;
        self.advanced = 0;
        if !self.pages.is_empty() {
            self.pages.clear();
            self.pages.shrink_to(16);
            self.pages_len = 0;
            self.pages_written = 0;
            self.chunk_written = 0;
        }
    }

    /// Makes room for `additional` bytes at once.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        if additional > self.room.len() - self.filled {
            self.grow(additional);
        }
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        let wanted = (self.filled + additional).max(self.room.len() * 2).max(Self::FIRST_CAPACITY);
        self.room.resize(wanted, 0);
    }

    /// Copies `bytes` to the end.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.pen(bytes.len()).put(bytes);
    }

    /// A decimal number at the end.
    #[inline]
    pub fn number(&mut self, number: u64) {
        self.pen(20).number(number);
    }

    /// For several small pieces at the end, of at most `most` bytes together.
    #[inline]
    pub(super) fn pen(&mut self, most: usize) -> Pen<'_> {
        self.reserve(most);
        let room = &mut self.room[self.filled..];
        Pen { end: self.filled + room.len(), room, filled: &mut self.filled }
    }

    /// A value at the end: copied if inline, shared if in pages.
    #[inline]
    pub fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Inline(bytes) => self.extend(bytes),
            Value::Pages(pages) => self.pages(pages),
        }
    }

    /// A large value at the end, shared.
    pub fn pages(&mut self, pages: &Pages) {
        for chunk in pages.chunks().iter().filter(|chunk| !chunk.is_empty()) {
            self.pages.push((self.filled, chunk.clone()));
            self.pages_len += chunk.len();
        }
    }

    /// Takes back everything behind `total` (as [`Output::total`] said earlier): replies that must not
    /// go out after all. What was written already stays.
    pub fn truncate(&mut self, total: usize) {
        while self.total() > total.max(self.advanced) {
            let excess = self.total() - total.max(self.advanced);
            match self.pages.last_mut() {
                Some((offset, chunk)) if *offset == self.filled => {
                    if chunk.len() <= excess {
                        self.pages_len -= chunk.len();
                        self.pages.pop();
                    } else {
                        chunk.truncate(chunk.len() - excess);
                        self.pages_len -= excess;
                    }
                }
                last => {
                    let floor = last.map_or(0, |(offset, _)| *offset);
                    self.filled = floor.max(self.filled.saturating_sub(excess));
                }
            }
        }
    }

    /// Bytes of room there are for what is copied.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.room.capacity()
    }

    /// What was copied.
    #[inline]
    fn copied(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    /// What is still to be written, in order, for a vectored write: fills `slices` from the front and
    /// returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut put = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slot) = slices.get_mut(filled) else { return false };
            *slot = IoSlice::new(bytes);
            filled += 1;
            true
        };
        let mut position = self.written;
        let mut skip = self.chunk_written;
        for (offset, chunk) in self.pages.iter().skip(self.pages_written) {
            if !put(self.copied().get(position..*offset).unwrap_or_default()) {
                return filled;
            }
            position = *offset;
            if !put(chunk.get(skip..).unwrap_or_default()) {
                return filled;
            }
            skip = 0;
        }
        put(self.copied().get(position..).unwrap_or_default());
        filled
    }

    /// What is still to be written, if it is in one piece, as all but large values are.
    #[inline]
    pub fn piece(&self) -> Option<&[u8]> {
        if self.pages.is_empty() { self.copied().get(self.written..) } else { None }
    }

    /// `count` more bytes were written.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "more was written than there was");
        let mut left = count.min(self.len());
        self.advanced += left;
        while let Some((offset, chunk)) = self.pages.get(self.pages_written) {
            let plain = left.min(offset - self.written);
            self.written += plain;
            left -= plain;
            if self.written < *offset {
                return;
            }
            let part = left.min(chunk.len() - self.chunk_written);
            self.chunk_written += part;
            left -= part;
            if self.chunk_written < chunk.len() {
                return;
            }
            self.chunk_written = 0;
            self.pages_written += 1;
        }
        self.written += left;
    }

    /// Everything that is still to be written, copied into one piece (for datagrams and tests).
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let mut slices = vec![IoSlice::new(&[]); self.pages.len() * 2 + 1];
        let count = self.slices(&mut slices);
        for slice in slices.iter().take(count) {
            all.extend_from_slice(slice);
        }
        all
    }
}

/// Writes one piece behind the other into room that is there already.
pub(super) struct Pen<'o> {
    /// What is left of it.
    room: &'o mut [u8],
    /// Where it ends.
    end: usize,
    /// Told when all pieces are there.
    filled: &'o mut usize,
}

impl Drop for Pen<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.filled = self.end - self.room.len();
    }
}

impl Pen<'_> {
    /// Copies `bytes`.
    #[inline(always)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let (taken, room) = std::mem::take(&mut self.room).split_at_mut(bytes.len());
        taken.copy_from_slice(bytes);
        self.room = room;
    }

    /// Writes a decimal number.
    #[inline(always)]
    pub(super) fn number(&mut self, number: u64) {
        // Most are lengths, and a call costs more than three digits. What is written behind the digits is
        // written over.
        match (DECIMALS.get(number as usize), self.room.first_chunk_mut()) {
            (Some(decimal), Some(room)) => {
                let [digits @ .., count] = decimal.to_le_bytes();
                *room = digits;
                self.skip(count.into());
            }
            _ => self.long_number(number),
        }
    }

    /// Writes a blank, `0`, a blank, a number and the end of the line in one move, if the number is below a thousand and
    /// there is room to spare behind the line. Returns whether that was done.
    #[inline(always)]
    pub(super) fn zero_and_number(&mut self, number: u64) -> bool {
        const ZERO: u64 = u64::from_le_bytes(*b" 0 \0\0\0\0\0");
        const LINE_END: u64 = u16::from_le_bytes(*b"\r\n") as u64;
        let (Some(&decimal), Some(room)) = (DECIMALS.get(number as usize), self.room.first_chunk_mut())
        else {
            return false;
        };
        let (digits, count) = (u64::from(decimal & 0xff_ffff), decimal >> 24);
        *room = (ZERO | digits << 24 | LINE_END << (24 + count * 8)).to_le_bytes();
        self.skip(5 + count as usize);
        true
    }

    /// Goes on behind so many bytes.
    #[inline(always)]
    fn skip(&mut self, count: usize) {
        self.room = &mut std::mem::take(&mut self.room)[count..];
    }

    #[inline(never)]
    fn long_number(&mut self, number: u64) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// Every number below a thousand: its digits from the lowest byte on, and in the highest how many it has.
static DECIMALS: [u32; 1000] = {
    let mut decimals = [0; 1000];
    let mut number = 0;
    while number < decimals.len() {
        let [a, b, c] = [number / 100, number / 10 % 10, number % 10];
        let [a, b, c] = [b'0' + a as u8, b'0' + b as u8, b'0' + c as u8];
        decimals[number] = u32::from_le_bytes(match number {
            0..10 => [c, 0, 0, 1],
            10..100 => [b, c, 0, 2],
            _ => [a, b, c, 3],
        });
        number += 1;
    }
    decimals
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everybody_writes_them() {
        for number in (0..1100).chain([u64::MAX]) {
            let mut out = Output::new();
            out.number(number);
            assert_eq!(out.to_vec(), number.to_string().as_bytes());
            let mut out = Output::new();
            let done = out.pen(40).zero_and_number(number);
            assert_eq!(done, number < 1000);
            let line = if done { format!(" 0 {number}\r\n") } else { String::new() };
            assert_eq!(out.to_vec(), line.as_bytes());
        }
    }
}
