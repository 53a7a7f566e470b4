//! Values too long for a segment: shared chunks outside, paid for by the same budget.
//!
//! A reply clones the handle and writes the chunks to its socket without a copy. The charge lives
//! with the chunks, so memory counts as used until the last holder lets go.

use std::sync::Arc;

use bytes::Bytes;

use super::buffers::Buffers;
use super::item::Item;
use crate::command::{Pages, Value};
use crate::engine::budget::{Budget, Charge};
use crate::engine::{Reserved, number};

/// Bytes charged per chunk beyond its own: its owner, its handle and the allocator's.
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

/// A chunk and its part of the charge.
struct Chunk {
    bytes: Box<[u8]>,
    charge: Charge,
    buffers: Arc<Buffers>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.charge.end();
        self.buffers.keep(std::mem::take(&mut self.bytes), self.charge.budget());
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Chunks for a value of `len` bytes, with the charge taken for it.
pub(super) fn reserve(len: usize, chunk_bytes: usize, charge: Charge, buffers: &Arc<Buffers>) -> Reserved {
    let mut chunks = Vec::with_capacity(len.div_ceil(chunk_bytes).max(1));
    let mut left = len;
    while left > 0 {
        let size = left.min(chunk_bytes);
        let whole = size == buffers.buffer_bytes();
        chunks.push(if whole { buffers.take() } else { vec![0; size].into_boxed_slice() });
        left -= size;
    }
    let buffers = Arc::clone(buffers);
    Reserved { chunks, freeze: Box::new(move |chunks| freeze(chunks, charge, &buffers)) }
}

fn freeze(chunks: Vec<Box<[u8]>>, mut charge: Charge, buffers: &Arc<Buffers>) -> Pages {
    let last = chunks.len().saturating_sub(1);
    let mut frozen = Vec::with_capacity(chunks.len());
    for (at, bytes) in chunks.into_iter().enumerate() {
        let overhead = CHUNK_OVERHEAD + if at == last { VALUE_OVERHEAD } else { 0 };
        let charge = charge.split((bytes.len() + overhead) as u64);
        frozen.push(Bytes::from_owner(Chunk { bytes, charge, buffers: Arc::clone(buffers) }));
    }
    Pages::new(frozen)
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
