//! The memory of a shard: segments that are appended to, queued, and cleaned as a whole.
//!
//! A segment is in exactly one place: free, open (appended to), queued (sealed, in one of two FIFO
//! queues), the cleaner's victim, or vacant (no memory). An item never moves but by being copied.

use std::collections::VecDeque;

use super::geometry::Geometry;
use super::item::{Header, Item};

/// Bytes charged for a segment beyond its own: its description.
const DESCRIPTION_BYTES: usize = 64;

/// Which FIFO queue a segment is in. New items start in the small one; what was read while it was
/// there moves on to the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Small = 0,
    Main = 1,
}

/// Where a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has no memory.
    Vacant,
    /// It is empty.
    Free,
    /// Items are appended to it.
    Open,
    /// It waits in its queue. Compaction may still append to it.
    Queued,
    /// The cleaner walks it.
    Victim,
}

#[derive(Debug)]
pub(super) struct Segment {
    /// Bytes there are.
    size: usize,
    /// Bytes written.
    pub(super) used: usize,
    /// Bytes of those that belong to no item any more.
    pub(super) dead: usize,
    pub(super) queue: Queue,
    pub(super) place: Place,
    /// No item dies before this (lower bound; `u32::MAX`: none dies at all).
    pub(super) earliest: u32,
    /// No item is older than this (lower bound).
    pub(super) oldest: u64,
    /// When it was opened.
    pub(super) opened: u32,
    /// How often it was emptied, so that a cursor notices.
    pub(super) generation: u32,
}

impl Segment {
    pub(super) fn room(&self) -> usize {
        self.size - self.used
    }

    pub(super) fn live(&self) -> usize {
        self.used - self.dead
    }
}

/// All segments of a shard.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) list: Vec<Segment>,
    /// Their memory, apart from their description, so that finding an item touches little else.
    buffers: Vec<Box<[u8]>>,
    pub(super) free: Vec<u32>,
    pub(super) vacant: Vec<u32>,
    pub(super) queues: [VecDeque<u32>; 2],
    pub(super) open: [Option<u32>; 2],
    /// Queued segments that compaction still fills.
    pub(super) compacting: [Option<u32>; 2],
    segment_bytes: usize,
    max: usize,
    /// Bits of an offset in four-byte units,
    shift: u32,
    /// and those bits.
    mask: u32,
}

impl Segments {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            list: Vec::new(),
            buffers: Vec::new(),
            free: Vec::new(),
            vacant: Vec::new(),
            queues: [VecDeque::new(), VecDeque::new()],
            open: [None; 2],
            compacting: [None; 2],
            segment_bytes: geometry.segment_bytes,
            max: geometry.segments_max(),
            shift: geometry.segment_bytes.trailing_zeros() - 2,
            mask: (geometry.segment_bytes as u32 >> 2) - 1,
        }
    }

    /// What a segment costs the budget.
    pub(super) fn cost(&self) -> u64 {
        (self.segment_bytes + DESCRIPTION_BYTES) as u64
    }

    /// How many have memory.
    pub(super) fn owned(&self) -> usize {
        self.list.len() - self.vacant.len()
    }

    /// Whether one more can be addressed.
    pub(super) fn may_add(&self) -> bool {
        !self.vacant.is_empty() || self.list.len() < self.max
    }

    /// Adds an empty segment, whose cost has been taken from the budget.
    pub(super) fn add(&mut self, bytes: Box<[u8]>) {
        if let Some(id) = self.vacant.pop() {
            let segment = &mut self.list[id as usize];
            segment.size = bytes.len();
            segment.place = Place::Free;
            self.buffers[id as usize] = bytes;
            self.free.push(id);
            return;
        }
        self.free.push(self.list.len() as u32);
        self.list.push(Segment {
            size: bytes.len(),
            used: 0,
            dead: 0,
            queue: Queue::Small,
            place: Place::Free,
            earliest: u32::MAX,
            oldest: u64::MAX,
            opened: 0,
            generation: 0,
        });
        self.buffers.push(bytes);
    }

    /// Takes the memory of a free segment, if there is one. Its cost is to be released.
    pub(super) fn remove_free(&mut self) -> Option<Box<[u8]>> {
        let id = self.free.pop()?;
        let segment = &mut self.list[id as usize];
        segment.size = 0;
        segment.place = Place::Vacant;
        self.vacant.push(id);
        Some(std::mem::take(&mut self.buffers[id as usize]))
    }

    /// The memory of all segments; there are no segments any more.
    pub(super) fn into_buffers(self) -> Vec<Box<[u8]>> {
        self.buffers
    }

    /// Empties a segment that is in no queue.
    pub(super) fn recycle(&mut self, id: u32) {
        let segment = &mut self.list[id as usize];
        segment.used = 0;
        segment.dead = 0;
        segment.earliest = u32::MAX;
        segment.oldest = u64::MAX;
        segment.generation = segment.generation.wrapping_add(1);
        segment.place = Place::Free;
        self.free.push(id);
    }

    /// Takes a segment out of its queue.
    pub(super) fn unqueue(&mut self, id: u32) -> usize {
        let queue = self.list[id as usize].queue as usize;
        let at = self.queues[queue].iter().position(|&queued| queued == id).expect("it is queued");
        self.queues[queue].remove(at);
        if self.compacting[queue] == Some(id) {
            self.compacting[queue] = None;
        }
        at
    }

    /// Bytes that fit into the open segment of a queue.
    pub(super) fn open_room(&self, queue: Queue) -> usize {
        self.open[queue as usize].map_or(0, |id| self.list[id as usize].room())
    }

    /// Seals the open segment of a queue.
    pub(super) fn seal(&mut self, queue: Queue) {
        if let Some(id) = self.open[queue as usize].take() {
            self.list[id as usize].place = Place::Queued;
            self.queues[queue as usize].push_back(id);
        }
    }

    /// Opens a free segment for a queue after sealing what was open.
    pub(super) fn roll(&mut self, queue: Queue, secs: u32) -> bool {
        let Some(id) = self.free.pop() else { return false };
        self.seal(queue);
        self.prepare(id, queue, Place::Open, secs);
        self.open[queue as usize] = Some(id);
        true
    }

    /// Puts a free segment into a queue at `at` for compaction to fill.
    pub(super) fn open_compaction(&mut self, queue: Queue, at: usize, secs: u32) -> bool {
        let Some(id) = self.free.pop() else { return false };
        self.prepare(id, queue, Place::Queued, secs);
        let line = &mut self.queues[queue as usize];
        line.insert(at.min(line.len()), id);
        self.compacting[queue as usize] = Some(id);
        true
    }

    fn prepare(&mut self, id: u32, queue: Queue, place: Place, secs: u32) {
        let segment = &mut self.list[id as usize];
        segment.queue = queue;
        segment.place = place;
        segment.opened = secs;
    }

    /// Reserves a slot at the end of a segment that has room for it.
    pub(super) fn append(&mut self, id: u32, slot: usize) -> u32 {
        let segment = &mut self.list[id as usize];
        debug_assert!(slot <= segment.room());
        let offset = segment.used;
        segment.used += slot;
        self.location(id, offset)
    }

    pub(super) fn location(&self, id: u32, offset: usize) -> u32 {
        id << self.shift | (offset >> 2) as u32
    }

    /// The segment of a location.
    #[inline]
    pub(super) fn segment_of(&self, location: u32) -> usize {
        (location >> self.shift) as usize
    }

    #[inline]
    fn offset_of(&self, location: u32) -> usize {
        ((location & self.mask) as usize) << 2
    }

    /// The bytes from a location to the end of its segment.
    #[inline]
    pub(super) fn bytes(&self, location: u32) -> &[u8] {
        &self.buffers[self.segment_of(location)][self.offset_of(location)..]
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, location: u32) -> &mut [u8] {
        let (segment, offset) = (self.segment_of(location), self.offset_of(location));
        &mut self.buffers[segment][offset..]
    }

    /// The header of the slot at that place.
    pub(super) fn header(&self, id: u32, offset: usize) -> Header {
        Header::read(&self.buffers[id as usize][offset..])
    }

    #[inline]
    pub(super) fn item(&self, location: u32) -> Item<'_> {
        Item::at(self.bytes(location))
    }

    /// Copies a slot to another place.
    pub(super) fn copy(&mut self, from: u32, to: u32, slot: usize) {
        let (source, target) = (self.segment_of(from), self.segment_of(to));
        let (start, end) = (self.offset_of(from), self.offset_of(to));
        let [source, target] =
            self.buffers.get_disjoint_mut([source, target]).expect("a slot moves to another segment");
        target[end..end + slot].copy_from_slice(&source[start..start + slot]);
    }
}
