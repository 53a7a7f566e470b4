//! Making room: S3-FIFO over segments, a few items at a time.
//!
//! New items enter the small queue. When the cleaner reaches them they were read meanwhile and move
//! to the main queue, or they leave and only their ghost stays. In the main queue an item that was
//! read gets another round. Segments with many dead bytes are compacted before anything is evicted.
//! Every store pays for a little cleaning, in proportion to its size, so that no single one pays for
//! much; reads pay nothing.

use tandem_replication::change::Change;

use super::geometry::RESERVE;
use super::index::{Index, Keys};
use super::item::{Header, Marks};
use super::segment::{Place, Queue, Segments};
use super::shard::Shard;
use crate::command::{Deadline, Now};
use crate::engine::Evicted;
use crate::engine::hash::Hasher;
use crate::engine::prefetch::prefetch;

/// Bytes a store cleans, as a multiple of its own, when the reserve is short: enough that even a run of
/// items that all stay does not use the reserve up.
const WALK_PER_BYTE: usize = 16;
/// Bytes a store cleans at least and at most then.
const WALK: std::ops::RangeInclusive<usize> = 1 << 10..=32 << 10;
/// Items of a victim whose index buckets are fetched together.
const LOOK_AHEAD: usize = 8;
/// Homes of the index a store moves while it is being resized.
const MOVES_PER_STORE: usize = 2;
/// Items a store looks at for expired ones when nothing may be evicted.
const CRAWL_PER_STORE: usize = 64;
/// The small queue's share of live bytes in thousandths: at first, at least and at most.
const SMALL_FIRST: u64 = 100;
const SMALL: std::ops::RangeInclusive<u64> = 20..=800;
/// Evictions after which older ones count half.
const MEMORY: u64 = 8192;

/// The segment that is being cleaned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    pub(super) segment: u32,
    /// Where to go on.
    pub(super) offset: usize,
    pub(super) work: Work,
}

/// What is done with a victim's living items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// They are copied or evicted.
    Evict,
    /// They are copied, to where their segment was in its queue.
    Compact {
        /// Its place in the queue.
        at: usize,
    },
}

/// The keys of the items in a shard's segments.
struct StoredKeys<'a> {
    segments: &'a Segments,
    hasher: &'a Hasher,
}

impl Keys for StoredKeys<'_> {
    fn hash(&self, location: u32) -> u64 {
        self.hasher.hash(self.segments.item(location).key())
    }

    fn prefetch(&self, location: u32) {
        prefetch(&self.segments.bytes(location)[0]);
    }
}

/// How much of the memory the small queue should have. It learns from what comes back after it was
/// evicted: from the small queue, then that is too small; from the main one, then that is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SmallShare {
    /// Bytes the small queue should have; `None` before anything had to go.
    bytes: Option<u64>,
    /// Evictions lately, by queue.
    evictions: [u64; 2],
}

impl SmallShare {
    /// Whether the small queue has more than its share.
    fn is_exceeded(&mut self, small: u64, main: u64) -> bool {
        let live = small + main;
        let bounds = [SMALL.start(), SMALL.end()].map(|share| live * share / 1000);
        let first = live * SMALL_FIRST / 1000;
        let target = self.bytes.unwrap_or(first).clamp(bounds[0], bounds[1]);
        self.bytes = Some(target);
        small > target
    }

    fn evicted(&mut self, from: Queue) {
        self.evictions[from as usize] += 1;
        if self.evictions.iter().sum::<u64>() > MEMORY {
            self.evictions = self.evictions.map(|count| count / 2);
        }
    }

    /// An item of that size came back that was evicted from there. The rarer a queue's evictions, the
    /// more one of them says.
    pub(super) fn missed(&mut self, from: Queue, bytes: u64) {
        let [small, main] = self.evictions.map(|count| count.max(1));
        let Some(target) = &mut self.bytes else { return };
        match from {
            Queue::Small => *target += bytes * (main / small).clamp(1, 16),
            Queue::Main => *target = target.saturating_sub(bytes * (small / main).clamp(1, 16)),
        }
    }
}

/// How much is said of items that stay ([`crate::engine::Journal::hint`]): 1 % of what a gigabit link carries, over all
/// shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hints {
    /// Bytes a second.
    rate: usize,
    secs: u32,
    /// Bytes left in this second.
    left: usize,
    open: bool,
}

impl Hints {
    const BYTES_PER_SECOND: usize = 1_250_000;

    pub(super) const fn new(shards: usize) -> Self {
        let rate = Self::BYTES_PER_SECOND / shards;
        Self { rate, secs: 0, left: rate, open: false }
    }

    /// A command of a client makes room.
    const fn open(&mut self, secs: u32) {
        self.open = true;
        if self.secs != secs {
            (self.secs, self.left) = (secs, self.rate);
        }
    }

    const fn close(&mut self) {
        self.open = false;
    }

    const fn may_take(&mut self, bytes: usize) -> bool {
        let may = self.open && self.left >= bytes;
        if may {
            self.left -= bytes;
        }
        may
    }
}

/// A living item of a victim.
#[derive(Clone, Copy)]
struct Candidate {
    location: u32,
    header: Header,
    hash: u64,
}

impl Shard {
    /// Before anything that may store an item of up to `bytes`: keeps the index growing and segments
    /// free. Answers whether there is room; items may have been moved or evicted, so look the key up
    /// afterwards.
    pub(super) fn prepare(&mut self, bytes: usize, now: Now) -> bool {
        self.hints.open(now.secs);
        let roomy = self.prepare_quietly(bytes, now);
        self.hints.close();
        roomy
    }

    /// The same for a change that comes from the peer, and needs no hints in return.
    pub(super) fn prepare_quietly(&mut self, bytes: usize, now: Now) -> bool {
        self.secs = now.secs;
        if !self.index.is_settled() {
            self.tend_index(MOVES_PER_STORE);
        }
        // The reserve is smaller at times, and never larger.
        let free = self.segments.free.len();
        if free >= RESERVE || free >= self.reserve() {
            return self.index.can_insert();
        }
        self.make_room(bytes, now) && self.index.can_insert()
    }

    /// Starts a resize of the index if it needs one, and moves it on.
    pub(super) fn tend_index(&mut self, moves: usize) {
        if !self.index.has_spare() && self.pay_for_block() {
            self.index.add_spare();
        }
        if let Some(blocks) = self.index.wanted_blocks() {
            self.index.start_resize(blocks);
        }
        for _ in 0..moves {
            if !self.index.is_resizing() || !self.index.has_spare() {
                break;
            }
            if !self.step_index() {
                // No memory for the next block: a free segment gives its own.
                if self.segments.free.len() < 2 || !self.give_segment_back() || !self.step_index() {
                    break;
                }
            }
        }
    }

    fn step_index(&mut self) -> bool {
        let keys = StoredKeys { segments: &self.segments, hasher: &self.shared.hasher };
        self.index.step(&self.shared.blocks, &keys)
    }

    /// Takes the cost of a block of the index from the budget, or from a free segment.
    fn pay_for_block(&mut self) -> bool {
        let cost = Index::block_cost(self.shared.geometry.block_buckets);
        while !self.shared.budget.acquire(cost) {
            if !self.give_segment_back() {
                return false;
            }
        }
        true
    }

    /// Gives the memory of a free segment back to the budget.
    pub(super) fn give_segment_back(&mut self) -> bool {
        let Some(buffer) = self.segments.remove_free() else { return false };
        self.shared.buffers.keep(buffer);
        self.shared.budget.release(self.segments.cost());
        true
    }

    /// Takes the memory of one more segment from the budget.
    fn take_segment(&mut self) -> bool {
        let may = self.segments.may_add() && self.shared.budget.acquire(self.segments.cost());
        if may {
            self.segments.add(self.shared.buffers.take());
        }
        may
    }

    /// Free segments to keep: one less while the open main segment has room for what is kept.
    fn reserve(&self) -> usize {
        let roomy = 2 * self.segments.open_room(Queue::Main) >= self.shared.geometry.segment_bytes;
        RESERVE - usize::from(roomy && self.shared.evict)
    }

    /// Whether an item of up to `bytes` can be stored, in whichever queue.
    fn has_room(&self, bytes: usize) -> bool {
        if self.shared.evict {
            return !self.segments.free.is_empty()
                || [Queue::Small, Queue::Main].iter().all(|&queue| self.segments.open_room(queue) >= bytes);
        }
        // Nothing is evicted, so everything is in the small queue; the last free segment is for
        // compaction.
        self.segments.free.len() >= 2 || self.segments.open_room(Queue::Small) >= bytes
    }

    fn make_room(&mut self, bytes: usize, now: Now) -> bool {
        let mut walk = (WALK_PER_BYTE * bytes).clamp(*WALK.start(), *WALK.end()) as isize;
        while self.segments.free.len() < self.reserve() {
            if self.take_segment() {
                continue;
            }
            if walk <= 0 && self.has_room(bytes) {
                break;
            }
            match self.clean(walk.max(*WALK.start() as isize), now) {
                Some(walked) => walk -= walked,
                // Without evictions what died by itself still makes room.
                None if !self.shared.evict && walk > 0 && self.crawl(CRAWL_PER_STORE, now) > 0 => {
                    walk -= *WALK.start() as isize;
                }
                None => break,
            }
        }
        self.has_room(bytes)
    }

    /// Frees memory for others: evicts a little and gives back what the shard has beyond its reserve.
    /// `false` if there is nothing left to give.
    pub(super) fn shed(&mut self, bytes: usize, now: Now) -> bool {
        let mut walk = bytes as isize;
        while walk > 0 {
            if self.segments.free.len() >= self.reserve() {
                return self.give_segment_back();
            }
            match self.clean(walk, now) {
                Some(walked) => walk -= walked,
                None => return false,
            }
        }
        true
    }

    /// Cleans about `bytes` of a victim. Answers the bytes walked, or `None` if there is no victim.
    fn clean(&mut self, bytes: isize, now: Now) -> Option<isize> {
        if self.victim.is_none() {
            self.victim = Some(self.choose_victim()?);
        }
        let mut victim = self.victim?;
        let mut walked = 0;
        while walked < bytes {
            let segment = &self.segments.list[victim.segment as usize];
            if segment.live() == 0 || victim.offset >= segment.used {
                self.segments.recycle(victim.segment);
                self.victim = None;
                return Some(walked.max(1));
            }
            // Close to the end even the last free segment may be taken: a whole one comes back.
            let spare = if (segment.used - victim.offset) * 4 <= segment.used { 1 } else { 2 };
            let (group, count) = self.look_ahead(victim);
            for &(header, hash) in &group[..count] {
                let location = self.segments.location(victim.segment, victim.offset);
                let large = self.larges.bytes;
                if header.marks.has(Marks::LIVE) {
                    let candidate = Candidate { location, header, hash };
                    if !self.clean_item(candidate, victim.work, spare, now) {
                        // Nowhere to copy to (only without evictions).
                        self.victim = Some(victim);
                        return None;
                    }
                }
                victim.offset += header.slot();
                // A large value that went counts, so that no more go than must.
                walked += header.slot() as isize + (large - self.larges.bytes) as isize;
                if walked >= bytes {
                    break;
                }
            }
        }
        self.victim = Some(victim);
        Some(walked)
    }

    /// The next slots of a victim with the hashes of living items, whose buckets are being fetched.
    fn look_ahead(&self, victim: Victim) -> ([(Header, u64); LOOK_AHEAD], usize) {
        let segment = &self.segments.list[victim.segment as usize];
        let mut group = [(Header::default(), 0); LOOK_AHEAD];
        let (mut offset, mut count) = (victim.offset, 0);
        while count < LOOK_AHEAD && offset < segment.used {
            let header = self.segments.header(victim.segment, offset);
            let mut hash = 0;
            if header.marks.has(Marks::LIVE) {
                hash = self.hash_at(self.segments.location(victim.segment, offset));
                self.index.prefetch(hash);
            }
            group[count] = (header, hash);
            count += 1;
            offset += header.slot();
        }
        (group, count)
    }

    fn choose_victim(&mut self) -> Option<Victim> {
        let deadest = self
            .segments
            .list
            .iter()
            .enumerate()
            .filter(|(id, segment)| {
                segment.place == Place::Queued && !self.segments.compacting.contains(&Some(*id as u32))
            })
            .max_by_key(|(_, segment)| segment.dead);
        if let Some((id, segment)) = deadest
            && segment.dead * 4 >= self.shared.geometry.segment_bytes
        {
            let at = self.segments.unqueue(id as u32);
            return Some(self.victim_of(id as u32, Work::Compact { at }));
        }
        if !self.shared.evict {
            return None;
        }
        let [small, main] = self.live_bytes;
        let first = if self.share.is_exceeded(small, main) { Queue::Small } else { Queue::Main };
        let second = if first == Queue::Small { Queue::Main } else { Queue::Small };
        let queue =
            [first, second].into_iter().find(|&queue| !self.segments.queues[queue as usize].is_empty());
        let queue = match queue {
            Some(queue) => queue,
            // Everything is in open segments: the fuller shard of them becomes a victim.
            None => {
                self.segments.seal(first);
                if self.segments.queues[first as usize].is_empty() {
                    self.segments.seal(second);
                    second
                } else {
                    first
                }
            }
        };
        let id = *self.segments.queues[queue as usize].front()?;
        self.segments.unqueue(id);
        Some(self.victim_of(id, Work::Evict))
    }

    fn victim_of(&mut self, segment: u32, work: Work) -> Victim {
        self.segments.list[segment as usize].place = Place::Victim;
        Victim { segment, offset: 0, work }
    }

    /// Copies or removes a living item of a victim, opening a segment for copies while there are `spare`
    /// free ones. `false` if it can do neither.
    fn clean_item(&mut self, candidate: Candidate, work: Work, spare: usize, now: Now) -> bool {
        let Candidate { location, header, hash } = candidate;
        if self.is_dead(&header, now) {
            self.reclaim(hash, location);
            return true;
        }
        let slot = header.slot();
        let from = self.segments.list[self.segments.segment_of(location)].queue;
        let heat = header.marks.heat();
        match work {
            Work::Compact { at } => {
                if self.room_to_compact(from, slot, at, spare) {
                    let id = self.segments.compacting[from as usize].expect("it was just opened");
                    self.relocate(hash, location, header, id);
                    return true;
                }
                if !self.shared.evict {
                    return false;
                }
            }
            Work::Evict if heat > 0 && self.room_to_keep(slot, spare, now) => {
                let kept = if from == Queue::Small { 0 } else { (heat - 1).min(1) };
                let (_, class) = self.measure(&self.item(location));
                match from {
                    Queue::Small => self.counters.class(class).moves_to_warm += 1,
                    Queue::Main => self.counters.class(class).moves_within_lru += 1,
                }
                self.hint(location, header);
                let header = Header { marks: header.marks.with_heat(kept), ..header };
                let id = self.segments.open[Queue::Main as usize].expect("it has room");
                self.relocate(hash, location, header, id);
                return true;
            }
            Work::Evict => {}
        }
        self.evict(hash, location, from, now);
        true
    }

    /// A backup's items are never read: it learns from this which ones the master's clients use. A touch with
    /// the deadline that the item has anyhow says it, right before the change that made room.
    fn hint(&mut self, location: u32, header: Header) {
        let item = self.segments.item(location);
        let change = Change::Touch { key: item.key(), deadline: header.deadline, version: header.version };
        if self.hints.may_take(change.encoded_len()) {
            self.shared.journal.hint(self.id, &change);
        }
    }

    /// Whether the compacted segment of a queue has room, opening one if it has not.
    fn room_to_compact(&mut self, queue: Queue, slot: usize, at: usize, spare: usize) -> bool {
        if let Some(id) = self.segments.compacting[queue as usize] {
            if self.segments.list[id as usize].room() >= slot {
                return true;
            }
            self.segments.compacting[queue as usize] = None;
        }
        let least = if self.shared.evict { spare } else { 1 };
        self.segments.free.len() >= least && self.segments.open_compaction(queue, at, self.secs)
    }

    /// Whether the open main segment has room, opening one if it has not.
    fn room_to_keep(&mut self, slot: usize, spare: usize, now: Now) -> bool {
        self.segments.open_room(Queue::Main) >= slot
            || (self.segments.free.len() >= spare && self.segments.roll(Queue::Main, now.secs))
    }

    /// Moves an item into that segment.
    fn relocate(&mut self, hash: u64, from: u32, header: Header, to: u32) {
        self.depart(from);
        let slot = header.slot();
        let location = self.segments.append(to, slot);
        self.segments.copy(from, location, slot);
        self.set_header(location, header);
        self.bury(from, header);
        self.replace(hash, from, location);
        self.enter(location);
    }

    /// Removes an item that died by itself.
    pub(super) fn reclaim(&mut self, hash: u64, location: u32) {
        let item = self.item(location);
        let (fetched, flushed) = (item.header.marks.has(Marks::FETCHED), item.header.version < self.floor);
        let (_, class) = self.measure(&item);
        let class = self.counters.class(class);
        class.reclaimed += 1;
        if !fetched && !flushed {
            class.expired_unfetched += 1;
        }
        self.kill(hash, location);
    }

    fn evict(&mut self, hash: u64, location: u32, from: Queue, now: Now) {
        let item = self.item(location);
        let header = item.header;
        let (_, class) = self.measure(&item);
        if let Some(hook) = self.shared.on_eviction.get() {
            hook(&Evicted {
                key: item.key(),
                value_len: self.value(&item).len(),
                fetched: header.marks.has(Marks::FETCHED),
                left_secs: Deadline(header.deadline).left(now),
                idle_secs: now.secs.saturating_sub(header.accessed),
                class,
            });
        }
        #[cfg(test)]
        let key = item.key().to_vec();
        let class = self.counters.class(class);
        class.evicted += 1;
        class.evicted_time = now.secs.saturating_sub(header.accessed);
        class.evicted_nonzero += u64::from(header.deadline != 0);
        class.evicted_unfetched += u64::from(!header.marks.has(Marks::FETCHED));
        class.evicted_active += u64::from(header.marks.heat() > 0);
        class.moves_to_cold += u64::from(from == Queue::Small);
        self.index.remember(hash, from);
        self.share.evicted(from);
        self.kill(hash, location);
        #[cfg(test)]
        self.evicted.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_queue_grows_when_its_evictions_come_back_and_shrinks_when_the_main_ones_do() {
        let mut share = SmallShare::default();
        share.missed(Queue::Small, 1 << 40);
        assert!(share.is_exceeded(110, 890) && !share.is_exceeded(90, 910), "a tenth at first");
        for _ in 0..300 {
            share.missed(Queue::Small, 1);
        }
        assert!(!share.is_exceeded(390, 610) && share.is_exceeded(410, 590));
        for _ in 0..50 {
            share.evicted(Queue::Small);
        }
        share.evicted(Queue::Main);
        share.missed(Queue::Main, 1);
        assert!(share.is_exceeded(390, 610), "the rarer a queue's evictions, the more one says");
        share.missed(Queue::Main, 1 << 40);
        assert!(share.is_exceeded(21, 979) && !share.is_exceeded(19, 981), "it never vanishes");
        share.missed(Queue::Small, 1 << 40);
        assert!(!share.is_exceeded(799, 201) && share.is_exceeded(801, 199));
    }
}
