//! Values too long for a segment: shared chunks outside, paid for by the same budget.
//!
//! A reply clones the handle and writes the chunks to its socket without a copy. The charge lives
//! with the chunks, so memory counts as used until the last holder lets go.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::buffers::Buffers;
use super::item::Item;
use crate::command::{Pages, Value};
use crate::engine::budget::{Budget, Charge};
use crate::engine::{Reserved, number};

/// Bytes charged per chunk beyond its own: its owner, its handle and the allocator's. (Pieces are paid for with the
/// buffer they are cut from.)
const CHUNK_OVERHEAD: usize = 128;
/// Bytes charged per value beyond its chunks: the handle's list and the shard's entry.
const VALUE_OVERHEAD: usize = 96;

/// What a value of that length costs the budget.
pub(super) fn cost(len: usize, chunk_bytes: usize) -> u64 {
    (len + len.div_ceil(chunk_bytes).max(1) * CHUNK_OVERHEAD + VALUE_OVERHEAD) as u64
}

/// What a value that exists costs the budget, as far as it is this shard's.
pub(super) fn cost_of(pages: &Pages) -> u64 {
    (pages.len() + pages.chunks().len() * CHUNK_OVERHEAD + VALUE_OVERHEAD) as u64
}

/// A part of a large value's memory. Whoever lent it has it back when it is dropped.
pub struct Chunk {
    memory: Memory,
    /// Bytes of the value in it; the memory may be a little longer.
    len: usize,
    lender: Option<Lender>,
}

/// What was paid for a chunk, and where its memory belongs.
struct Lender {
    charge: Charge,
    buffers: Arc<Buffers>,
}

enum Memory {
    Whole(Box<[u8]>),
    /// A piece of a buffer, which others have the rest of.
    Piece(BytesMut),
}

impl Chunk {
    /// Memory that nobody pays for, and nobody wants back.
    pub(crate) fn unpaid(bytes: Box<[u8]>) -> Self {
        Self { len: bytes.len(), memory: Memory::Whole(bytes), lender: None }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Whole(bytes) => bytes,
            Memory::Piece(bytes) => &bytes[..self.len],
        }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Whole(bytes) => bytes,
            Memory::Piece(bytes) => &mut bytes[..self.len],
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(Lender { charge, buffers }) = &mut self.lender else { return };
        match std::mem::replace(&mut self.memory, Memory::Whole(Box::default())) {
            Memory::Whole(bytes) => buffers.keep(bytes),
            Memory::Piece(bytes) => buffers.keep_piece(bytes, self.len),
        }
        charge.end();
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Memory for a value of `len` bytes, in chunks of `chunk_bytes` or less, if it can be had now: whole buffers, and
/// pieces of others for the rest.
pub(super) fn reserve(len: usize, chunk_bytes: usize, buffers: &Arc<Buffers>) -> Option<Reserved> {
    let whole = chunk_bytes == buffers.buffer_bytes();
    let wholes = if whole { len / chunk_bytes } else { 0 };
    let rest = len - wholes * chunk_bytes;
    let described = len.div_ceil(chunk_bytes).max(1) * CHUNK_OVERHEAD + VALUE_OVERHEAD;
    let budget = buffers.budget();
    let mut charge = Charge::take(budget, (wholes * chunk_bytes) as u64, described as u64)?;
    // Only what can fail comes before the whole buffers, which may have to be made.
    let mut pieces = Vec::new();
    let mut left = rest;
    while left > 0 {
        let mut missing = left.min(chunk_bytes);
        left -= missing;
        let taken = buffers.take_pieces(missing)?;
        // One was foreseen.
        let more = Charge::take(budget, 0, ((taken.len() - 1) * CHUNK_OVERHEAD) as u64);
        let paid = more.is_some();
        more.into_iter().for_each(|more| charge.join(more));
        for piece in taken {
            let len = piece.len().min(missing);
            missing -= len;
            let charge = charge.split(0, if paid { CHUNK_OVERHEAD as u64 } else { 0 });
            let lender = Lender { charge, buffers: Arc::clone(buffers) };
            pieces.push(Chunk { memory: Memory::Piece(piece), len, lender: Some(lender) });
        }
        if !paid {
            return None;
        }
    }
    let mut chunks = Vec::with_capacity(wholes + pieces.len());
    for _ in 0..wholes {
        let charge = charge.split(chunk_bytes as u64, CHUNK_OVERHEAD as u64);
        let lender = Lender { charge, buffers: Arc::clone(buffers) };
        chunks.push(Chunk { memory: Memory::Whole(buffers.take()), len: chunk_bytes, lender: Some(lender) });
    }
    chunks.append(&mut pieces);
    // What is left of it is the value's own.
    if let Some(Lender { charge: last, .. }) = chunks.last_mut().and_then(|chunk| chunk.lender.as_mut()) {
        last.join(charge);
    }
    Some(Reserved { chunks })
}

/// The large values of a shard, by number.
#[derive(Debug, Default)]
pub(super) struct Larges {
    list: Vec<Option<Pages>>,
    vacant: Vec<u32>,
    /// What they cost in all.
    pub(super) bytes: u64,
}

impl Larges {
    pub(super) fn add(&mut self, pages: Pages) -> u32 {
        self.bytes += cost_of(&pages);
        if let Some(id) = self.vacant.pop() {
            self.list[id as usize] = Some(pages);
            return id;
        }
        self.list.push(Some(pages));
        (self.list.len() - 1) as u32
    }

    /// An item's value, wherever it is.
    #[inline(always)]
    pub(super) fn value<'a>(&'a self, item: &Item<'a>) -> Value<'a> {
        match item.large() {
            Some(id) => Value::Pages(self.at(id)),
            None => Value::Inline(item.value()),
        }
    }

    pub(super) fn at(&self, id: u32) -> &Pages {
        self.list[id as usize].as_ref().expect("a live item's large value is there")
    }

    pub(super) fn remove(&mut self, id: u32) -> Pages {
        let pages = self.list[id as usize].take().expect("a live item's large value is there");
        self.bytes -= cost_of(&pages);
        self.vacant.push(id);
        pages
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.len() - self.vacant.len()
    }
}

/// Fills reserved chunks from parts, in order.
pub(super) fn fill<'a>(mut reserved: Reserved, parts: impl Iterator<Item = &'a [u8]>) -> Pages {
    let mut parts = parts;
    let mut part: &[u8] = &[];
    for chunk in &mut reserved.chunks {
        let mut at = 0;
        while at < chunk.len() {
            if part.is_empty() {
                part = parts.next().expect("the parts are as long as the reservation");
                continue;
            }
            let size = part.len().min(chunk.len() - at);
            chunk[at..at + size].copy_from_slice(&part[..size]);
            part = &part[size..];
            at += size;
        }
    }
    reserved.freeze()
}

/// A value made of others' chunks, which keep their charges.
pub(super) fn join<'a>(pages: impl Iterator<Item = &'a Pages>) -> Pages {
    let chunks: Vec<Bytes> = pages.flat_map(|pages| pages.chunks().iter().cloned()).collect();
    Pages::new(Arc::from(chunks))
}

/// The number a value begins with, as [`number::parse`] has it. Mostly the first chunk tells; a short one may
/// end inside the number, and of the largest ones the rest of the value has a say.
pub(super) fn number(pages: &Pages) -> Option<u64> {
    let first = pages.chunks().first()?;
    if number::ends_within(first) {
        let number = number::parse(first);
        if number.is_none_or(|number| i64::try_from(number).is_ok()) {
            return number;
        }
    }
    number::parse(&pages.chunks().concat())
}

/// Whether that much can ever be had.
pub(super) fn fits(len: usize, chunk_bytes: usize, budget: &Budget) -> bool {
    cost(len, chunk_bytes) <= budget.limit()
}
