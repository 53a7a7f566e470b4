//! One shard: items in segments, found by the index. Single-threaded; the engine puts a lock around it.
//!
//! This file has the primitives (find, put, kill); the rooms beside it use them: `commands` for what
//! clients ask, `eviction` for making room, `expiry` for what dies by itself, `copying` for the peer.

use std::sync::{Arc, OnceLock};

use tandem_replication::change::{Bits, Bytes, Change, Put};

use super::buffers::Buffers;
use super::commands::At;
use super::counters::Counters;
use super::eviction::{Hints, SmallShare, Victim};
use super::expiry::Crawl;
use super::geometry::Geometry;
use super::index::{Blocks, Index, Spot};
use super::item::{self, Header, Item, Marks, STUB};
use super::large::{self, Larges};
use super::segment::{Queue, Segments};
use crate::command::Deadline;
use crate::command::{Hit, Now, Pages, Value};
use crate::engine::budget::Budget;
use crate::engine::clock::Clock;
use crate::engine::hash::Hasher;
use crate::engine::prefetch::prefetch_front;
use crate::engine::{EvictionHook, Fate, Journal, memcached_class, memcached_size};

/// What all shards of an engine share.
pub(super) struct Shared {
    pub(super) geometry: Geometry,
    pub(super) budget: Arc<Budget>,
    /// Segments and chunks of large values come from here.
    pub(super) buffers: Arc<Buffers>,
    /// Blocks of the index come from here.
    pub(super) blocks: Blocks,
    pub(super) hasher: Hasher,
    pub(super) journal: Arc<dyn Journal>,
    /// Whether the journal keeps what it is told.
    pub(super) records: bool,
    /// Hears of evictions, if anybody wants to.
    pub(super) on_eviction: OnceLock<EvictionHook>,
    /// Items may be evicted for new ones (not with `-M`).
    pub(super) evict: bool,
    /// CAS uniques are shown (not with `-C`).
    pub(super) cas: bool,
    /// Largest item, by memcached's accounting.
    pub(super) item_size_max: usize,
}

/// See the module's description.
pub(super) struct Shard {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) segments: Segments,
    pub(super) index: Index,
    pub(super) larges: Larges,
    pub(super) clock: Clock,
    /// Items of a lower version are dead.
    pub(super) floor: u64,
    /// Bytes of live items by queue, their large values included.
    pub(super) live_bytes: [u64; 2],
    pub(super) share: SmallShare,
    pub(super) hints: Hints,
    pub(super) victim: Option<Victim>,
    pub(super) crawl: Crawl,
    pub(super) counters: Counters,
    /// The last second seen.
    pub(super) secs: u32,
    /// Counts items that left their place.
    moves: u32,
    /// Where values are put together; at most an inline value long.
    pub(super) scratch: Vec<u8>,
    /// Keys that were evicted, for the tests' model.
    #[cfg(test)]
    pub(super) evicted: Vec<Vec<u8>>,
}

/// The value of an item to be.
pub(super) enum Content<'a> {
    Inline(&'a [u8]),
    Large(Pages),
}

/// An item to be.
pub(super) struct Draft<'a> {
    pub(super) key: &'a [u8],
    pub(super) content: Content<'a>,
    pub(super) flags: u32,
    pub(super) explicit: Option<u64>,
    pub(super) version: u64,
    pub(super) deadline: u32,
    /// Of these, those that clients see.
    pub(super) marks: Marks,
}

impl Draft<'_> {
    /// Bytes of the value.
    pub(super) fn len(&self) -> usize {
        match &self.content {
            Content::Inline(bytes) => bytes.len(),
            Content::Large(pages) => pages.len(),
        }
    }

    fn value_len(&self) -> usize {
        match &self.content {
            Content::Inline(bytes) => bytes.len(),
            Content::Large(_) => STUB,
        }
    }

    fn header(&self, secs: u32) -> Header {
        let marks = self
            .marks
            .with(Marks::LIVE, true)
            .with(Marks::LARGE, matches!(self.content, Content::Large(_)))
            .with_heat(0);
        let header = Header {
            version: self.version,
            deadline: self.deadline,
            accessed: secs,
            key_len: 0,
            value_len: 0,
            marks,
        };
        header.shaped(self.flags, self.explicit, self.key, self.value_len())
    }

    /// Bytes it takes in a segment.
    pub(super) fn slot(&self) -> usize {
        self.header(0).slot()
    }
}

/// An item that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) location: u32,
    pub(super) header: Header,
}

/// Where a key was seen a moment ago: it is still there if no item has moved since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    location: u32,
    moves: u32,
}

/// At which load a shard's index grows; shards differ, so that they do not grow together.
pub(super) const fn full_permille(id: usize) -> usize {
    770 + id * 37 % 80
}

impl Shard {
    /// An empty shard. The cost of its first index block has been taken from the budget.
    pub(super) fn new(id: usize, slot: u8, shared: Arc<Shared>) -> Self {
        Self {
            id,
            segments: Segments::new(&shared.geometry),
            index: Index::new(shared.geometry.block_buckets, full_permille(id)),
            larges: Larges::default(),
            clock: Clock::new(id, slot),
            floor: 0,
            live_bytes: [0; 2],
            share: SmallShare::default(),
            hints: Hints::new(shared.geometry.shards),
            victim: None,
            crawl: Crawl::default(),
            counters: Counters::new(),
            secs: 0,
            moves: 0,
            scratch: Vec::new(),
            #[cfg(test)]
            evicted: Vec::new(),
            shared,
        }
    }

    /// The item of this key, dead or alive.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |location| item::has_key(self.segments.bytes(location), key))
    }

    /// Has the item fetched that this hash leads to, and answers where that is. Another one with the same hash's
    /// tag may come first, and then it is the wrong one: seldom enough.
    #[inline(always)]
    pub(super) fn warm(&self, spot: Spot, hash: u64) -> Option<Hint> {
        let location = self.index.first_at(spot, hash)?;
        prefetch_front(self.segments.bytes(location));
        Some(self.hint_at(location))
    }

    /// Where an item is now.
    pub(super) fn hint_at(&self, location: u32) -> Hint {
        Hint { location, moves: self.moves }
    }

    /// Where the key is if it is anywhere, but for one time in many: whoever uses this compares the key, and looks
    /// for it with [`Shard::find`] if it is another one.
    #[inline(always)]
    pub(super) fn guess(&self, at: At<'_>) -> Option<u32> {
        match at.hint {
            Some(Hint { location, moves }) if moves == self.moves => Some(location),
            _ => self.index.first(at.hash),
        }
    }

    /// As [`Shard::find`], after a look at where the key probably is.
    #[inline(always)]
    fn find_at(&self, at: At<'_>) -> Option<u32> {
        let location = self.guess(at)?;
        if item::has_key(self.segments.bytes(location), at.key) {
            return Some(location);
        }
        self.find(at.hash, at.key)
    }

    /// Whether an item with this header is dead, though it is still there.
    #[inline]
    pub(super) fn is_dead(&self, header: &Header, now: Now) -> bool {
        is_dead(header, self.floor, now)
    }

    /// The living item of this key. A dead one is removed and counted.
    #[inline(always)]
    pub(super) fn find_live(&mut self, at: At<'_>) -> Option<Found> {
        self.secs = at.now.secs;
        let location = self.find_at(at)?;
        let header = Header::read(self.segments.bytes(location));
        if !self.is_dead(&header, at.now) {
            return Some(Found { location, header });
        }
        self.found_dead(at.hash, location, &header);
        None
    }

    /// Removes a dead item that was asked for.
    #[cold]
    pub(super) fn found_dead(&mut self, hash: u64, location: u32, header: &Header) {
        if header.version < self.floor {
            self.counters.commands.get_flushed += 1;
        } else {
            self.counters.commands.get_expired += 1;
        }
        self.kill(hash, location);
    }

    /// What a command would find.
    pub(super) fn fate(&self, hash: u64, key: &[u8], now: Now) -> Fate {
        let Some(location) = self.find(hash, key) else { return Fate::Missing };
        let header = Header::read(self.segments.bytes(location));
        match self.is_dead(&header, now) {
            false => Fate::There,
            true if header.version < self.floor => Fate::Flushed,
            true => Fate::Expired,
        }
    }

    /// As [`Shard::find_live`], for a command that is about to store the key: a dead item that gives
    /// way is `reclaimed`, as memcached counts it, and not found flushed or expired.
    #[inline]
    pub(super) fn find_to_store(&mut self, at: At<'_>) -> Option<u32> {
        self.secs = at.now.secs;
        let location = self.find_at(at)?;
        let header = Header::read(self.segments.bytes(location));
        if !self.is_dead(&header, at.now) {
            return Some(location);
        }
        self.give_way(at, location);
        None
    }

    /// Removes a dead item that gives way to a store.
    #[cold]
    fn give_way(&mut self, at: At<'_>, location: u32) {
        self.kill(at.hash, location);
        let class = memcached_class(memcached_size(at.key.len(), 0, 0, self.shared.cas));
        self.counters.class(class).reclaimed += 1;
    }

    #[inline]
    pub(super) fn item(&self, location: u32) -> Item<'_> {
        self.segments.item(location)
    }

    pub(super) fn hash_at(&self, location: u32) -> u64 {
        self.shared.hasher.hash(self.item(location).key())
    }

    fn queue_at(&self, location: u32) -> Queue {
        self.segments.list[self.segments.segment_of(location)].queue
    }

    #[inline(always)]
    pub(super) fn value<'a>(&'a self, item: &Item<'a>) -> Value<'a> {
        self.larges.value(item)
    }

    /// Size and class by memcached's accounting.
    #[inline(always)]
    pub(super) fn measure(&self, item: &Item<'_>) -> (usize, u8) {
        measure(item, self.value(item).len(), self.shared.cas)
    }

    /// The item as it is, for a reply.
    #[inline]
    pub(super) fn hit(&self, location: u32, now: Now) -> Hit<'_> {
        let item = self.item(location);
        hit(&item, self.value(&item), self.measure(&item), self.shared.cas, now)
    }

    /// A CAS unique as clients see it.
    #[inline]
    pub(super) fn shown(&self, cas: u64) -> u64 {
        if self.shared.cas { cas } else { 0 }
    }

    /// The item as the change that recreates it.
    pub(super) fn change(&self, location: u32) -> Change<'_> {
        let item = self.item(location);
        let marks = item.header.marks;
        Change::Put(Put {
            key: item.key(),
            value: match item.large() {
                Some(id) => Bytes::Chunks(self.larges.at(id).chunks()),
                None => Bytes::Whole(item.value()),
            },
            flags: item.flags(),
            deadline: item.header.deadline,
            version: item.header.version,
            explicit: item.explicit(),
            bits: Bits {
                stale: marks.has(Marks::STALE),
                win_sent: marks.has(Marks::WIN_SENT),
                binary_key: marks.has(Marks::BINARY_KEY),
            },
        })
    }

    pub(super) fn record(&self, change: &Change<'_>) {
        self.shared.journal.record(self.id, change);
    }

    pub(super) fn record_put(&self, location: u32) {
        if self.shared.records {
            self.record(&self.change(location));
        }
    }

    /// Records that this key is gone. The version outlives whatever was here.
    pub(super) fn record_delete(&mut self, key: &[u8], now: Now) {
        let version = self.clock.next(now);
        self.record(&Change::Delete { key, version });
    }

    /// Says anew what there is of `key`.
    pub(super) fn restate(&mut self, hash: u64, key: &[u8], theirs: Option<u64>, now: Now) {
        if let Some(version) = theirs {
            self.record(&Change::Delete { key, version });
        }
        let found = self.find_to_store(At { key, hash, now, hint: None });
        let Some(location) = found else { return self.record_delete(key, now) };
        let header = Header { version: self.clock.next(now), ..self.item(location).header };
        self.set_header(location, header);
        self.record_put(location);
    }

    /// Writes a new header over an item's; lengths stay.
    #[inline]
    pub(super) fn set_header(&mut self, location: u32, header: Header) {
        header.write(self.segments.bytes_mut(location));
        self.note(location, &header);
    }

    /// Keeps the lower bounds of the item's segment.
    fn note(&mut self, location: u32, header: &Header) {
        let at = self.segments.segment_of(location);
        let segment = &mut self.segments.list[at];
        if header.deadline != 0 {
            segment.earliest = segment.earliest.min(header.deadline);
        }
        segment.oldest = segment.oldest.min(header.version);
        // The crawler may have passed this item already.
        self.crawl.see(at, header);
    }

    /// Whether [`Shard::put`] would overwrite in place, which needs no room.
    pub(super) fn is_in_place(&self, old: Option<u32>, draft: &Draft<'_>) -> bool {
        old.is_some_and(|old| self.item(old).header.slot() == draft.slot())
    }

    /// Stores an item, instead of `old` if there is one: in its place if the slot fits exactly, else
    /// at the end of the queue the old one was in. There must be room (`prepare`).
    pub(super) fn put(&mut self, hash: u64, draft: &Draft<'_>, old: Option<u32>, now: Now) -> u32 {
        let mut header = draft.header(now.secs);
        let slot = header.slot();
        let stub;
        let value: &[u8] = match &draft.content {
            Content::Inline(bytes) => bytes,
            Content::Large(pages) => {
                stub = self.larges.add(pages.clone()).to_le_bytes();
                &stub
            }
        };
        // What replaces an item in place and counts as it did changes no sum.
        let mut alike = false;
        let location = match old {
            Some(old) => {
                let item = self.item(old);
                let before = item.header;
                alike = before.slot() == slot
                    && before.value_len == header.value_len
                    && !before.marks.has(Marks::LARGE)
                    && !header.marks.has(Marks::LARGE)
                    && (item.flags() == 0) == (draft.flags == 0);
                if !alike {
                    self.leave(old);
                }
                if before.slot() == slot {
                    header.marks = header.marks.with_heat(before.marks.heat().max(1));
                    old
                } else {
                    header.marks = header.marks.with_heat(before.marks.heat());
                    self.bury(old, before);
                    let queue = self.queue_at(old);
                    let new = self.append(queue, slot, now.secs);
                    self.replace(hash, old, new);
                    new
                }
            }
            None => {
                let queue = match self.index.recall(hash) {
                    Some(from) => {
                        self.share.missed(from, slot as u64);
                        Queue::Main
                    }
                    None => Queue::Small,
                };
                let new = self.append(queue, slot, now.secs);
                self.index.insert(hash, new);
                new
            }
        };
        let bytes = self.segments.bytes_mut(location);
        if alike {
            item::overwrite(bytes, &header, draft.flags, draft.explicit, draft.key, value);
        } else {
            item::write(bytes, &header, draft.flags, draft.explicit, draft.key, value);
        }
        self.note(location, &header);
        if !alike {
            self.enter(location);
        }
        self.counters.total_items += 1;
        location
    }

    /// A slot at the end of a queue.
    pub(super) fn append(&mut self, queue: Queue, slot: usize, secs: u32) -> u32 {
        if self.segments.open_room(queue) < slot {
            let rolled = self.segments.roll(queue, secs);
            assert!(rolled, "room was made before");
        }
        let id = self.segments.open[queue as usize].expect("a segment is open");
        self.segments.append(id, slot)
    }

    /// Counts an item in.
    pub(super) fn enter(&mut self, location: u32) {
        let item = self.item(location);
        let ((size, class), queue) = (self.measure(&item), self.queue_at(location));
        let weight = self.weight(&item);
        self.live_bytes[queue as usize] += weight;
        self.counters.bytes += size as u64;
        let class = self.counters.class(class);
        class.number += 1;
        class.mem_requested += size as u64;
        match queue {
            Queue::Small => class.number_small += 1,
            Queue::Main => class.number_main += 1,
        }
    }

    /// Counts an item out.
    pub(super) fn depart(&mut self, location: u32) {
        let item = self.item(location);
        let ((size, class), queue) = (self.measure(&item), self.queue_at(location));
        let weight = self.weight(&item);
        self.live_bytes[queue as usize] -= weight;
        self.counters.bytes -= size as u64;
        let class = self.counters.class(class);
        class.number -= 1;
        class.mem_requested -= size as u64;
        match queue {
            Queue::Small => class.number_small -= 1,
            Queue::Main => class.number_main -= 1,
        }
    }

    /// Counts an item out and lets its large value go.
    fn leave(&mut self, location: u32) {
        self.depart(location);
        if let Some(id) = self.item(location).large() {
            self.larges.remove(id);
        }
    }

    /// Bytes of memory an item takes.
    fn weight(&self, item: &Item<'_>) -> u64 {
        let large = item.large().map_or(0, |id| large::cost_of(self.larges.at(id)));
        item.header.slot() as u64 + large
    }

    /// Marks a slot dead.
    pub(super) fn bury(&mut self, location: u32, mut header: Header) {
        header.marks = header.marks.with(Marks::LIVE, false);
        header.write(self.segments.bytes_mut(location));
        let at = self.segments.segment_of(location);
        self.segments.list[at].dead += header.slot();
    }

    /// Points the index to an item's new place.
    pub(super) fn replace(&mut self, hash: u64, from: u32, to: u32) {
        self.index.replace(hash, from, to);
        self.moved();
    }

    /// Whoever remembers where an item was has to look again.
    pub(super) fn moved(&mut self) {
        self.moves = self.moves.wrapping_add(1);
    }

    /// Removes an item.
    pub(super) fn kill(&mut self, hash: u64, location: u32) {
        let header = self.item(location).header;
        self.leave(location);
        self.index.remove(hash, location);
        self.moved();
        self.bury(location, header);
    }

    /// Removes the item of this key, dead or alive, if there is one.
    pub(super) fn kill_key(&mut self, hash: u64, key: &[u8]) {
        if let Some(location) = self.find(hash, key) {
            self.kill(hash, location);
        }
    }
}

/// Whether an item with this header is dead where items of a version below `floor` are.
#[inline(always)]
pub(super) fn is_dead(header: &Header, floor: u64, now: Now) -> bool {
    header.version < floor || Deadline(header.deadline).is_over(now)
}

/// Size and class by memcached's accounting, of an item with a value of that length.
#[inline(always)]
pub(super) fn measure(item: &Item<'_>, value_len: usize, cas: bool) -> (usize, u8) {
    let size = memcached_size(item.header.key_len.into(), value_len, item.flags(), cas);
    (size, memcached_class(size))
}

/// The same, of an item that is nothing but its key and its value.
#[inline(always)]
pub(super) fn measure_plain(header: &Header, cas: bool) -> (usize, u8) {
    let size = memcached_size(header.key_len.into(), header.value_len.into(), 0, cas);
    (size, memcached_class(size))
}

/// An item as it is, for a reply.
#[inline(always)]
pub(super) fn hit<'a>(
    item: &Item<'a>,
    value: Value<'a>,
    (size, class): (usize, u8),
    cas: bool,
    now: Now,
) -> Hit<'a> {
    let header = item.header;
    Hit {
        value,
        flags: item.flags(),
        cas: if cas { item.cas() } else { 0 },
        deadline: Deadline(header.deadline),
        deadline_after: Deadline(header.deadline),
        idle_secs: now.secs.saturating_sub(header.accessed),
        fetched: header.marks.has(Marks::FETCHED),
        binary_key: header.marks.has(Marks::BINARY_KEY),
        won: false,
        stale: header.marks.has(Marks::STALE),
        win_sent: header.marks.has(Marks::WIN_SENT),
        created: false,
        class,
        size,
    }
}
