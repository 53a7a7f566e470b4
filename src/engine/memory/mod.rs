//! The engine: shards of segments and an index, each behind one lock, within one budget.
//!
//! Intuition: a key's hash chooses a shard; a shard is a single-threaded store that never does more
//! than a few microseconds of work at a time. Items are appended to segments and leave when the
//! cleaner comes round; the index grows a home at a time. Batches are looked up in three passes, so
//! that the memory of sixteen items is on its way before the first of them is needed; the two that fetch take each
//! shard's lock once.
//!
//! Promise: memory in use never exceeds the limit; an item is there until it is deleted, expires, is
//! flushed or evicted; commands on one key take effect one after the other, in the journal's order.
//!
//! The rooms: `shard` (primitives), `commands` (what clients ask), `eviction`, `expiry`, `copying` (the
//! peer); below them `segment`, `item`, `index`, `large`, `buffers`, `pieces`, `counters`, `geometry`.

mod buffers;
#[cfg(test)]
mod check;
mod commands;
mod copying;
mod counters;
mod eviction;
mod expiry;
mod geometry;
mod index;
mod item;
mod large;
mod pieces;
mod segment;
mod shard;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use tandem_replication::change::Merged;
use tandem_replication::change::{self, Change};

pub use self::geometry::Geometry;
pub use self::large::Chunk;

use self::buffers::Buffers;
use self::commands::{At, Base, BaseValue, LongNumber, Reply};
use self::copying::value_len;
use self::geometry::ALLOCATOR_BYTES;
use self::index::{Blocks, Index};
use self::shard::{Content, Hint, Shard, Shared};
use super::budget::Budget;
use super::hash::{self, Hasher};
use super::{Engine, EngineStats, EvictionHook, Fate, Journal, OutOfMemory, Reserved, memcached_size};
use crate::command::{Arith, Command, Now, Op, Pages, Payload, Refusal, Replies, Store, StoreMode};

/// Commands whose memory is fetched together.
const BATCH: usize = 16;
/// Bytes of slots a shard walks at a time to make room for others.
const SHED_BYTES: usize = 8 << 10;

/// What an engine is made for.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Bytes for everything: items, index, ghosts, large values (`-m`).
    pub limit_bytes: u64,
    /// How many threads will use it (`-t`).
    pub threads: usize,
    /// Largest item in bytes, by memcached's accounting (`-I`).
    pub item_size_max: usize,
    /// Evict items to make room (not with `-M`).
    pub evict: bool,
    /// Show CAS uniques (not with `-C`).
    pub cas: bool,
    /// Secret of the hash; random in a server.
    pub seed: u64,
    /// Bits of the hash that are used: all, but in tests that want collisions.
    pub hash_mask: u64,
    /// The node's slot, 0 or 1.
    pub slot: u8,
    /// How memory is cut; derived from limit and threads if `None`.
    pub geometry: Option<Geometry>,
}

impl Default for MemoryConfig {
    /// memcached's defaults: 64 MiB, four threads, items up to 1 MiB.
    fn default() -> Self {
        Self {
            limit_bytes: 64 << 20,
            threads: 4,
            item_size_max: 1 << 20,
            evict: true,
            cas: true,
            seed: 0,
            hash_mask: u64::MAX,
            slot: 0,
            geometry: None,
        }
    }
}

/// A shard on cache lines of its own.
#[repr(align(128))]
struct Cell(Mutex<Shard>);

/// The engine. See the module's description.
pub struct Memory {
    shards: Box<[Cell]>,
    shared: Arc<Shared>,
    /// The second of a pending delayed flush; 0 for none.
    flush_at: AtomicU32,
    /// Which shard gives next when one of all has to.
    turn: AtomicUsize,
    cmd_flush: AtomicU64,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("geometry", &self.shared.geometry).finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty engine. Mutations are recorded in `journal`.
    pub fn new(config: MemoryConfig, journal: Arc<dyn Journal>) -> Self {
        let geometry = config.geometry.unwrap_or_else(|| Geometry::of(config.limit_bytes, config.threads));
        let budget = Arc::new(Budget::new(config.limit_bytes));
        let shared = Arc::new(Shared {
            geometry,
            buffers: Arc::new(Buffers::new(geometry.segment_bytes - ALLOCATOR_BYTES, Arc::clone(&budget))),
            blocks: Blocks::new(geometry.block_buckets, Arc::clone(&budget)),
            budget,
            hasher: Hasher::masked(config.seed, config.hash_mask),
            records: journal.records(),
            journal,
            on_eviction: OnceLock::new(),
            evict: config.evict,
            cas: config.cas,
            item_size_max: config.item_size_max,
        });
        let shards = (0..geometry.shards)
            .map(|id| {
                let paid = shared.budget.acquire(Index::block_cost(geometry.block_buckets));
                assert!(paid, "a limit of {} bytes is too small for an index", config.limit_bytes);
                Cell(Mutex::new(Shard::new(id, config.slot, Arc::clone(&shared))))
            })
            .collect();
        Self {
            shards,
            shared,
            flush_at: AtomicU32::new(0),
            turn: AtomicUsize::new(0),
            cmd_flush: AtomicU64::new(0),
        }
    }

    fn shard(&self, id: usize) -> MutexGuard<'_, Shard> {
        self.shards[id].0.lock()
    }

    fn place(&self, key: &[u8]) -> (u64, usize) {
        let hash = self.shared.hasher.hash(key);
        (hash, hash::shard(hash, self.shards.len()))
    }

    /// Has the memory of up to [`BATCH`] keys fetched: first the buckets, then the items they point to. Answers
    /// where those are.
    fn warm(&self, hashes: &[u64]) -> [Option<Hint>; BATCH] {
        let mut spots = [None; BATCH];
        let mut hints = [None; BATCH];
        let batch = ByShard::new(hashes, self.shards.len());
        batch.visit(&self.shards, |shard, index, hash| spots[index] = Some(shard.index.prefetch(hash)));
        batch.visit(&self.shards, |shard, index, hash| {
            hints[index] = spots[index].and_then(|spot| shard.warm(spot, hash));
        });
        hints
    }

    #[inline(always)]
    fn execute_one(&self, command: &Command<'_>, at: At<'_>, mut reply: Reply<'_>) {
        match &command.op {
            Op::Read => self.shard(hash::shard(at.hash, self.shards.len())).read(at, &mut reply),
            _ => self.execute_other(command, at, reply),
        }
    }

    #[inline(never)]
    fn execute_other(&self, command: &Command<'_>, at: At<'_>, mut reply: Reply<'_>) {
        let id = hash::shard(at.hash, self.shards.len());
        let reply = &mut reply;
        match &command.op {
            Op::Get(get) => self.shard(id).get(at, get, reply),
            Op::Store(store) => self.store(id, at, store, reply),
            Op::Arith(arith) => self.arith(id, at, arith, reply),
            _ => self.shard(id).execute(command, at, reply),
        }
    }

    fn store(&self, id: usize, at: At<'_>, store: &Store<'_>, reply: &mut Reply<'_>) {
        let replaces = store.mode == StoreMode::Set && store.compare.is_none();
        let size = memcached_size(at.key.len(), store.value.len(), store.flags, self.shared.cas);
        if size > self.shared.item_size_max {
            self.shard(id).refuse(at, Refusal::TooLarge, replaces, reply);
            return;
        }
        if matches!(store.mode, StoreMode::Append | StoreMode::Prepend) {
            self.extend(id, at, store, reply);
            return;
        }
        let content = match &store.value {
            Payload::Bytes(bytes) if bytes.len() <= self.inline_max() => Content::Inline(bytes),
            Payload::Pages(pages) => Content::Large(pages.clone()),
            Payload::Bytes(bytes) => match self.pages([*bytes].into_iter(), bytes.len(), at.now) {
                Ok(pages) => Content::Large(pages),
                Err(OutOfMemory) => {
                    self.shard(id).refuse(at, Refusal::OutOfMemory, replaces, reply);
                    return;
                }
            },
        };
        self.shard(id).store(at, store, content, size, reply);
    }

    /// Append and prepend: a large result is put together without the lock, and only counts if
    /// nobody changed the item meanwhile.
    fn extend(&self, id: usize, at: At<'_>, store: &Store<'_>, reply: &mut Reply<'_>) {
        let mut result = None;
        loop {
            // Its own statement: the lock must be free while memory is made.
            let outcome = self.shard(id).extend(at, store, result.take(), reply);
            let Err(Base { version, value }) = outcome else { return };
            match self.extended(&value, store, at.now) {
                Ok(pages) => result = Some((version, pages)),
                Err(OutOfMemory) => {
                    self.shard(id).refuse(at, Refusal::OutOfMemory, false, reply);
                    return;
                }
            }
        }
    }

    /// `incr` and `decr`: as [`Self::extend`], where the value is large.
    fn arith(&self, id: usize, at: At<'_>, arith: &Arith, reply: &mut Reply<'_>) {
        const BLANKS: &[u8] = &[b' '; 4096];
        let mut result = None;
        loop {
            let outcome = self.shard(id).arith(at, arith, result.take(), reply);
            let Err(LongNumber { version, digits, len }) = outcome else { return };
            let parts = std::iter::once(digits.as_bytes()).chain(std::iter::repeat(BLANKS));
            match self.pages(parts, len, at.now) {
                Ok(pages) => result = Some((version, pages)),
                Err(OutOfMemory) => {
                    self.shard(id).refuse(at, Refusal::OutOfMemory, true, reply);
                    return;
                }
            }
        }
    }

    /// The value and what is added to it, sharing the chunks that stay as they are.
    fn extended(&self, value: &BaseValue, store: &Store<'_>, now: Now) -> Result<Pages, OutOfMemory> {
        let chunk_bytes = self.shared.geometry.chunk_bytes;
        let append = store.mode == StoreMode::Append;
        let (kept, edge): (&[bytes::Bytes], &[u8]) = match value {
            BaseValue::Inline(bytes) => (&[], bytes),
            BaseValue::Large(pages) => {
                let chunks = pages.chunks();
                let edge = if append { chunks.last() } else { chunks.first() };
                match edge {
                    // Many small additions fill one chunk rather than making many.
                    Some(edge) if edge.len() + store.value.len() <= chunk_bytes => {
                        let rest = if append { &chunks[..chunks.len() - 1] } else { &chunks[1..] };
                        (rest, edge)
                    }
                    _ => (chunks, &[]),
                }
            }
        };
        let added: Vec<&[u8]> = match &store.value {
            Payload::Bytes(bytes) => vec![bytes],
            Payload::Pages(pages) => pages.chunks().iter().map(|chunk| &chunk[..]).collect(),
        };
        let len = edge.len() + store.value.len();
        let kept = Pages::new(kept);
        if append {
            let new = self.pages(std::iter::once(edge).chain(added), len, now)?;
            Ok(large::join([&kept, &new].into_iter()))
        } else {
            let new = self.pages(added.into_iter().chain([edge]), len, now)?;
            Ok(large::join([&new, &kept].into_iter()))
        }
    }

    /// A large value of these parts.
    fn pages<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        len: usize,
        now: Now,
    ) -> Result<Pages, OutOfMemory> {
        Ok(large::fill(self.reserve(len, now)?, parts))
    }

    /// The memory for a value of the peer's that fits no segment, if it does not; `None` inside: there is
    /// none.
    fn large_of(&self, put: &change::Put<'_>, now: Now) -> Option<Option<Pages>> {
        let len = value_len(&put.value);
        (len > self.inline_max()).then(|| self.pages(put.value.pieces(), len, now).ok())
    }

    /// Has one shard after the other give memory back until `enough` says so, or none has any.
    fn shed_until(&self, now: Now, mut enough: impl FnMut() -> bool) -> bool {
        let mut idle = 0;
        while !enough() {
            if idle == self.shards.len() {
                return false;
            }
            let id = self.turn.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            idle = if self.shard(id).shed(SHED_BYTES, now) { 0 } else { idle + 1 };
        }
        true
    }

    /// Executes a delayed flush that is due.
    fn flush_if_due(&self, now: Now) {
        let at = self.flush_at.load(Ordering::Acquire);
        let due = at != 0 && at <= now.secs;
        if due && self.flush_at.compare_exchange(at, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.flush_now(now);
        }
    }

    /// Everything stored before this call is dead when it returns; everything stored after stays.
    fn flush_now(&self, now: Now) {
        let floors = (0..self.shards.len()).map(|id| self.shard(id).clock.floor());
        let floor = floors.max().unwrap_or(0);
        for id in 0..self.shards.len() {
            let mut shard = self.shard(id);
            shard.flush(floor, now);
            shard.record(&Change::Flush { floor });
        }
    }

    /// Moves a segment's memory from the shard whose items are oldest to whoever needs it, if shards
    /// differ much: large values and chance fill them unevenly.
    fn balance(&self, now: Now) {
        let budget = &self.shared.budget;
        if self.shards.len() < 2
            || budget.limit().saturating_sub(budget.used()) > self.shard(0).segments.cost()
        {
            return;
        }
        let ages = (0..self.shards.len()).map(|id| (self.shard(id).age(now), id));
        let (mut youngest, mut oldest) = ((u32::MAX, 0), (0, 0));
        for age in ages {
            youngest = youngest.min(age);
            oldest = oldest.max(age);
        }
        if u64::from(oldest.0) > 2 * u64::from(youngest.0) + 1 {
            self.shard(oldest.1).shed(SHED_BYTES, now);
        }
    }
}

/// Lists of a [`ByShard`].
const LISTS: usize = 16;

/// The hashes of a batch by shard, so that a shard is locked once for all of its own.
struct ByShard<'h> {
    hashes: &'h [u64],
    /// Lists of those whose shards agree in their last bits: where each begins, and which of them are not empty.
    first: [u8; LISTS],
    begun: u32,
    /// What follows each in its list.
    next: [u8; BATCH],
}

impl<'h> ByShard<'h> {
    const END: u8 = u8::MAX;

    /// At most [`BATCH`] hashes.
    #[inline(always)]
    fn new(hashes: &'h [u64], shards: usize) -> Self {
        let (mut first, mut next, mut begun) = ([Self::END; LISTS], [Self::END; BATCH], 0);
        for (index, (next, &hash)) in next.iter_mut().zip(hashes).enumerate() {
            let list = hash::shard(hash, shards) % LISTS;
            *next = std::mem::replace(&mut first[list], index as u8);
            begun |= 1 << list;
        }
        Self { hashes, first, begun, next }
    }

    /// Shows each hash to its shard. A contended one is not worth waiting for: its owner is fetching it anyway.
    #[inline(always)]
    fn visit(&self, shards: &[Cell], mut each: impl FnMut(&Shard, usize, u64)) {
        let mut lists = self.begun;
        while lists != 0 {
            let mut at = usize::from(self.first[lists.trailing_zeros() as usize % LISTS]);
            lists &= lists - 1;
            while let Some(&hash) = self.hashes.get(at) {
                let id = hash::shard(hash, shards.len());
                let shard = shards[id].0.try_lock();
                let mut hash = hash;
                loop {
                    if let Some(shard) = &shard {
                        each(shard, at, hash);
                    }
                    at = usize::from(self.next[at % BATCH]);
                    match self.hashes.get(at) {
                        Some(&next) if hash::shard(next, shards.len()) == id => hash = next,
                        _ => break,
                    }
                }
            }
        }
    }
}

impl Engine for Memory {
    fn execute(&self, batch: &[Command<'_>], now: Now, replies: &mut dyn Replies) {
        self.flush_if_due(now);
        if let [command] = batch {
            let hash = self.shared.hasher.hash(&command.key);
            let at = At { key: &command.key, hash, now, hint: None };
            self.execute_one(command, at, Reply { index: 0, replies });
            return;
        }
        for (nth, commands) in batch.chunks(BATCH).enumerate() {
            let mut hashes = [0; BATCH];
            for (hash, command) in hashes.iter_mut().zip(commands) {
                *hash = self.shared.hasher.hash(&command.key);
            }
            let hints = self.warm(&hashes[..commands.len()]);
            let placed = commands.iter().zip(&hashes).zip(&hints);
            for (index, ((command, &hash), &hint)) in placed.enumerate() {
                let at = At { key: &command.key, hash, now, hint };
                self.execute_one(command, at, Reply { index: nth * BATCH + index, replies });
            }
        }
    }

    fn foresee(&self, keys: &[&[u8]]) {
        for keys in keys.chunks(BATCH) {
            let mut hashes = [0; BATCH];
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.shared.hasher.hash(key);
            }
            // Where the items are may have changed when the commands come.
            let _hints = self.warm(&hashes[..keys.len()]);
        }
    }

    fn inline_max(&self) -> usize {
        self.shared.geometry.inline_max
    }

    fn reserve(&self, len: usize, now: Now) -> Result<Reserved, OutOfMemory> {
        let (budget, chunk_bytes) = (&self.shared.budget, self.shared.geometry.chunk_bytes);
        if !large::fits(len, chunk_bytes, budget) {
            return Err(OutOfMemory);
        }
        let mut reserved = None;
        let mut take = || {
            reserved = large::reserve(len, chunk_bytes, &self.shared.buffers);
            reserved.is_some()
        };
        if self.shared.evict {
            self.shed_until(now, take);
        } else {
            take();
        }
        reserved.ok_or(OutOfMemory)
    }

    fn flush(&self, at: Option<u32>, now: Now) {
        self.cmd_flush.fetch_add(1, Ordering::Relaxed);
        self.flush_at.store(at.unwrap_or(0), Ordering::Release);
        match at {
            None => self.flush_now(now),
            Some(deadline) => {
                for id in 0..self.shards.len() {
                    self.shard(id).record(&Change::FlushAt { deadline });
                }
            }
        }
    }

    fn apply(&self, change: &Change<'_>, now: Now) {
        match change {
            Change::Put(put) => {
                let (hash, id) = self.place(put.key);
                let large = self.large_of(put, now);
                self.shard(id).apply_put(hash, put, large, now);
            }
            &Change::Delete { key, version } => {
                let (hash, id) = self.place(key);
                self.shard(id).apply_delete(hash, key, version, now);
            }
            &Change::Touch { key, deadline, version } => {
                let (hash, id) = self.place(key);
                self.shard(id).apply_touch(hash, key, deadline, version, now);
            }
            &Change::Flush { floor } => {
                // Whatever was pending has happened, or was replaced.
                self.flush_at.store(0, Ordering::Release);
                for id in 0..self.shards.len() {
                    self.shard(id).flush(floor, now);
                }
            }
            &Change::FlushAt { deadline } => self.flush_at.store(deadline, Ordering::Release),
        }
    }

    fn apply_unless(&self, change: &Change<'_>, now: Now, is_gone: &dyn Fn(usize) -> bool) {
        let Change::Put(put) = change else { return self.apply(change, now) };
        let (hash, id) = self.place(put.key);
        let large = self.large_of(put, now);
        self.shard(id).apply_put_unless(hash, put, large, now, is_gone);
    }

    fn merge(&self, change: &Change<'_>, now: Now, may_create: &dyn Fn(usize) -> bool) -> Merged {
        match change {
            Change::Put(put) => {
                let (hash, id) = self.place(put.key);
                let large = self.large_of(put, now);
                self.shard(id).merge_put(hash, put, large, now, may_create)
            }
            &Change::Delete { key, .. } | &Change::Touch { key, .. } => {
                let (hash, id) = self.place(key);
                self.shard(id).merge_small(hash, change, now)
            }
            Change::Flush { .. } | Change::FlushAt { .. } => {
                self.apply(change, now);
                (0..self.shards.len()).for_each(|id| self.shard(id).record(change));
                Merged::Taken
            }
        }
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        now: Now,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        self.shard(shard).scan(cursor, max_bytes, now, visit)
    }

    fn read(&self, key: &[u8], now: Now, visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        let (hash, id) = self.place(key);
        let mut shard = self.shard(id);
        let found = shard.find_live(At { key, hash, now, hint: None });
        if let Some(found) = found {
            visit(&shard.change(found.location));
        }
        found.is_some()
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>, now: Now) {
        let (hash, id) = self.place(key);
        self.shard(id).restate(hash, key, theirs, now);
    }

    fn fate(&self, key: &[u8], now: Now) -> Fate {
        let (hash, id) = self.place(key);
        self.shard(id).fate(hash, key, now)
    }

    fn clear(&self, _now: Now) {
        self.flush_at.store(0, Ordering::Release);
        for id in 0..self.shards.len() {
            // Given back without the lock: a big shard has many segments.
            let old = self.shard(id).empty();
            // One block pays for the new index.
            old.index.give_all(&self.shared.blocks);
            self.shared.blocks.drop_one();
            let bytes = old.segments.owned() as u64 * old.segments.cost();
            let buffers = old.segments.into_buffers();
            buffers.into_iter().for_each(|buffer| self.shared.buffers.keep(buffer));
            self.shared.budget.release(bytes);
        }
    }

    fn pending_flush(&self) -> Option<u32> {
        Some(self.flush_at.load(Ordering::Acquire)).filter(|&at| at != 0)
    }

    fn maintain(&self, now: Now, budget: usize, serving: bool) -> bool {
        if serving {
            self.flush_if_due(now);
        }
        let mut more = false;
        for id in 0..self.shards.len() {
            more |= self.shard(id).maintain(now, budget);
        }
        let memory = &self.shared.budget;
        let mut rounds = self.shards.len() * budget.div_ceil(64);
        if memory.used() > memory.limit() {
            self.shared.blocks.free();
            memory.forget_kept();
        }
        let shrunk = self.shed_until(now, || {
            let enough = memory.used() <= memory.limit() || rounds == 0;
            rounds = rounds.saturating_sub(1);
            enough
        });
        self.balance(now);
        more |= self.shared.buffers.trim();
        more |= self.shared.buffers.stock();
        more || (shrunk && memory.used() > memory.limit())
    }

    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn items(&self) -> u64 {
        (0..self.shards.len()).map(|id| self.shard(id).index.len() as u64).sum()
    }

    fn set_slot(&self, slot: u8) {
        for id in 0..self.shards.len() {
            self.shard(id).clock.set_slot(slot);
        }
    }

    fn set_limit(&self, bytes: u64) {
        self.shared.budget.set_limit(bytes);
    }

    fn stats(&self) -> EngineStats {
        let budget = &self.shared.budget;
        let block = Index::block_cost(self.shared.geometry.block_buckets);
        let ghost = Index::ghost_bytes(self.shared.geometry.block_buckets);
        let mut sum = EngineStats { limit: budget.limit(), used: budget.used(), ..EngineStats::default() };
        let (mut slots, mut linked) = (0, 0);
        for id in 0..self.shards.len() {
            let shard = self.shard(id);
            shard.counters.add_to(&mut sum, shard.age_at(shard.secs));
            let blocks = shard.index.blocks() as u64;
            sum.curr_items += shard.index.len() as u64;
            sum.index_bytes += blocks * (block - ghost);
            sum.ghost_bytes += blocks * ghost;
            sum.index_growing |= shard.index.is_resizing();
            sum.dead_bytes += shard.segments.list.iter().map(|segment| segment.dead as u64).sum::<u64>();
            sum.strange_versions += shard.clock.strange();
            slots += shard.index.slots();
            linked += shard.larges.bytes;
        }
        sum.index_bytes += self.shared.blocks.bytes();
        sum.index_power = slots.next_power_of_two().ilog2();
        let buffers = &self.shared.buffers;
        sum.pinned_bytes = (budget.large() + buffers.lent_bytes()).saturating_sub(linked);
        sum.dead_bytes += buffers.idle_bytes() + budget.kept();
        sum.commands.cmd_flush = self.cmd_flush.load(Ordering::Relaxed);
        sum
    }

    fn reset_stats(&self) {
        self.cmd_flush.store(0, Ordering::Relaxed);
        for id in 0..self.shards.len() {
            self.shard(id).counters.reset();
        }
    }

    fn on_eviction(&self, hook: EvictionHook) {
        let _first = self.shared.on_eviction.set(hook);
    }
}

/// What a shard held before it was emptied.
struct Remains {
    segments: segment::Segments,
    index: Index,
    _larges: large::Larges,
}

impl Shard {
    /// Forgets every item and every flush; the clock and what was counted stay.
    fn empty(&mut self) -> Remains {
        self.floor = 0;
        let geometry = self.shared.geometry;
        self.victim = None;
        self.crawl = expiry::Crawl::default();
        self.live_bytes = [0; 2];
        self.counters.emptied();
        self.moved();
        Remains {
            segments: std::mem::replace(&mut self.segments, segment::Segments::new(&geometry)),
            index: std::mem::replace(
                &mut self.index,
                Index::new(geometry.block_buckets, shard::full_permille(self.id)),
            ),
            _larges: std::mem::take(&mut self.larges),
        }
    }

    /// Seconds since the oldest queued segment of this shard was opened.
    fn age(&self, now: Now) -> u32 {
        self.age_at(now.secs)
    }

    fn age_at(&self, secs: u32) -> u32 {
        let oldest = self
            .segments
            .queues
            .iter()
            .filter_map(|queue| queue.front())
            .map(|&id| self.segments.list[id as usize].opened);
        oldest.min().map_or(0, |opened| secs.saturating_sub(opened))
    }
}
