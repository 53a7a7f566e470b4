//! Changes that are not yet everywhere: a ring per shard, all rings within one budget of bytes.
//!
//! A change is recorded under the engine's lock of its shard, so the ring's order is the order in
//! memory. The ring never waits for a reader: what is too old is overwritten, and a reader that comes
//! for it learns [`Read::Overrun`]. That is the whole reason why a slow peer costs clients nothing.
//!
//! A ring is a queue of blocks of encoded changes. Blocks are taken until the budget is spent; then
//! the ring that needs one takes the oldest block of the longest ring, which may be itself: a busy
//! shard gets more of the backlog than an idle one, and in the steady state nothing is allocated.
//! Another ring is only ever *tried* to lock, so no order of locks is needed.
//!
//! A change that is overwritten before the peer has it is noted in a [`DirtyMap`], a block at a time, by
//! whoever takes the block: nothing is noted, and nothing costs anything, while the peer keeps up.
//!
//! A change longer than a quarter of a shard's share is kept as its key alone ([`Read::Reload`]):
//! the sender then sends what the item is at that moment, which is at least as new.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Buf, BufMut, BytesMut};

use crate::change::{self, Change, KEY_BYTES_MAX, Put};
use crate::dirty::DirtyMap;

/// The rings of all shards, sharing one budget of bytes.
pub struct Backlog {
    rings: Vec<Mutex<Ring>>,
    /// Blocks of each ring, to find the longest without locking.
    lengths: Vec<AtomicUsize>,
    /// Bytes of all blocks.
    used: AtomicUsize,
    bytes_max: usize,
    block_bytes: usize,
    /// Longer changes are kept as their key.
    change_bytes_max: usize,
    enabled: AtomicBool,
    hints_wanted: AtomicBool,
    hints: AtomicU64,
    /// Changes that were overwritten before the peer had them. Locked under a ring's lock.
    missed: Mutex<DirtyMap>,
    /// Somebody wants to be woken by the next record.
    armed: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    prefetch: OnceLock<Prefetch>,
}

/// Asks the processor for the memory of a byte that will be written soon; see [`Backlog::set_prefetch`].
pub type Prefetch = fn(&MaybeUninit<u8>);

/// What [`Backlog::read_from`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing was recorded from that sequence on.
    Empty,
    /// So many changes were appended, consecutive from the one asked for.
    Records(u32),
    /// The change was too long to keep: send what the item is now, or a delete of this version.
    Reload {
        /// Whose.
        key: Vec<u8>,
        /// Of the change.
        version: u64,
    },
    /// The ring no longer has it.
    Overrun,
}

impl Backlog {
    /// Rings for `shards` shards that hold about `bytes_max` bytes together. Records nothing until
    /// [`Backlog::enable`].
    pub fn new(shards: usize, bytes_max: usize) -> Self {
        let shards = shards.max(1);
        let share = bytes_max / shards;
        let block_bytes = (share / 8).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        Self {
            rings: (0..shards).map(|_| Mutex::new(Ring::default())).collect(),
            lengths: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            used: AtomicUsize::new(0),
            bytes_max,
            block_bytes,
            change_bytes_max: (share / 4).max(BLOCK_BYTES_MIN),
            enabled: AtomicBool::new(false),
            hints_wanted: AtomicBool::new(false),
            hints: AtomicU64::new(0),
            missed: Mutex::default(),
            armed: AtomicBool::new(false),
            wake: OnceLock::new(),
            prefetch: OnceLock::new(),
        }
    }

    /// A ring goes round in far more memory than any cache holds, so what a change is written to is
    /// always cold, and whoever records would wait for it when the lock is given back. With this hint
    /// it is on its way before it is needed. Only the first call has an effect.
    pub fn set_prefetch(&self, prefetch: Prefetch) {
        let _ = self.prefetch.set(prefetch);
    }

    /// Records from now on (a peer is, or may be, there).
    pub fn enable(&self) {
        self.enabled.store(true, Ordering::SeqCst);
    }

    /// What to call when there is news: at most once per [`Backlog::arm`]. Called under a shard's
    /// lock, so it must only wake somebody. Only the first call has an effect.
    pub fn set_wake(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let _ = self.wake.set(wake);
    }

    /// Asks for one wake at the next record. Call it, then drain what is there, then wait.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Records `change` as the next of `shard`. Called under the engine's lock of that shard; copies
    /// a bounded number of bytes and waits for nothing but a reader copying as many. Returns its
    /// sequence; 0 if nothing is recorded.
    pub fn record(&self, shard: usize, change: &Change<'_>) -> u64 {
        if !self.enabled.load(Ordering::Relaxed) {
            return 0;
        }
        let sequence = self.append(shard, change);
        self.nudge();
        sequence
    }

    /// Records a hint: a change that changes nothing, and is of use only to a backup that is up to date.
    pub fn hint(&self, shard: usize, change: &Change<'_>) {
        if self.hints_wanted.load(Ordering::Relaxed) {
            self.record(shard, change);
            self.hints.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a backup is there that hints are for.
    pub fn want_hints(&self, wanted: bool) {
        self.hints_wanted.store(wanted, Ordering::Relaxed);
    }

    /// Hints recorded since the process began.
    pub fn hints(&self) -> u64 {
        self.hints.load(Ordering::Relaxed)
    }

    /// Wakes who sends the changes, if it waits ([`Backlog::arm`]).
    pub fn nudge(&self) {
        if self.armed.load(Ordering::SeqCst)
            && self.armed.swap(false, Ordering::SeqCst)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }

    /// The last sequence of each shard; 0 is none.
    pub fn last(&self) -> Vec<u64> {
        (0..self.rings.len()).map(|shard| self.ring(shard).last).collect()
    }

    /// The last sequence of `shard`; 0 is none.
    pub fn last_of(&self, shard: usize) -> u64 {
        self.ring(shard).last
    }

    /// Whether everything behind `applied` is still here, or is yet to come.
    pub fn covers(&self, applied: &[u64]) -> bool {
        applied.len() == self.rings.len()
            && applied.iter().enumerate().all(|(shard, applied)| self.ring(shard).covers(applied + 1))
    }

    /// How many changes of `shard` come behind `applied`, and about how many bytes they are.
    pub fn behind(&self, shard: usize, applied: u64) -> (u64, u64) {
        let ring = self.ring(shard);
        let bytes: usize = ring
            .blocks
            .iter()
            .rev()
            .take_while(|block| block.last() > applied)
            .map(|block| block.bytes_from(applied + 1))
            .sum();
        (ring.last.saturating_sub(applied), bytes as u64)
    }

    /// Appends changes of `shard`, from `sequence` on, up to about `bytes_max` but at least one.
    pub fn read_from(&self, shard: usize, sequence: u64, bytes_max: usize, out: &mut BytesMut) -> Read {
        self.ring(shard).read_from(sequence, bytes_max, out)
    }

    /// Forgets all changes, and notes none from now on. The numbers go on: a sequence is used once.
    pub fn forget(&self) {
        for shard in 0..self.rings.len() {
            let mut ring = self.ring(shard);
            let freed: usize = ring.blocks.drain(..).map(|block| block.cost()).sum();
            ring.acked = None;
            self.used.fetch_sub(freed, Ordering::Relaxed);
            self.lengths[shard].store(0, Ordering::Relaxed);
        }
        *self.missed() = DirtyMap::default();
    }

    /// From now on whatever is overwritten before the peer has it is noted; the sequences up to which
    /// it has, or is given, everything.
    pub fn track(&self) -> Vec<u64> {
        let tracked = self.rings.iter().map(|ring| {
            let mut ring = lock(ring);
            ring.acked = Some(ring.last);
            ring.last
        });
        let tracked = tracked.collect();
        *self.missed() = DirtyMap::default();
        tracked
    }

    /// The peer has everything up to there, and what comes behind is noted if it is overwritten. `false`:
    /// some of it is no longer here, and what was noted before still counts.
    pub fn track_from(&self, applied: &[u64]) -> bool {
        let mut covered = applied.len() == self.rings.len();
        for (ring, applied) in self.rings.iter().zip(applied) {
            let mut ring = lock(ring);
            if ring.covers(applied + 1) {
                ring.acked = Some(*applied);
            } else {
                covered = false;
            }
        }
        covered
    }

    /// The peer has everything up to there: less is to be noted.
    pub fn advance(&self, applied: &[u64]) {
        for (shard, applied) in applied.iter().enumerate().take(self.rings.len()) {
            let mut ring = self.ring(shard);
            ring.acked = ring.acked.map(|acked| acked.max(*applied));
        }
    }

    /// Takes what was noted.
    pub fn take_missed(&self) -> DirtyMap {
        std::mem::take(&mut self.missed())
    }

    /// Gives back what was taken.
    pub fn put_missed_back(&self, missed: &DirtyMap) {
        self.missed().merge(missed);
    }

    /// Notes all keys that changed behind `applied`, as far as that is here.
    pub fn note_behind(&self, applied: &[u64], map: &mut DirtyMap) {
        for (shard, applied) in applied.iter().enumerate().take(self.rings.len()) {
            let ring = self.ring(shard);
            let changes = ring.blocks.iter().flat_map(|block| block.changes_behind(*applied));
            changes.filter_map(|change| change.key_and_version()).for_each(|(key, version)| {
                map.note_written(key, version);
            });
        }
    }

    /// Something was noted.
    pub fn has_missed(&self) -> bool {
        !self.missed().is_empty()
    }

    /// Where a stream can go on that came as far as `applied`: there, or, in a shard whose ring no longer
    /// has that, in the middle of the ring, so that it does not lose the race again at once. What is left
    /// out is noted.
    pub fn skip(&self, applied: &[u64]) -> Vec<u64> {
        let skip = |(shard, applied): (usize, &u64)| {
            let mut ring = self.ring(shard);
            if ring.covers(applied + 1) {
                return *applied;
            }
            for _ in 0..ring.blocks.len() / 2 {
                let Some(block) = self.drop_oldest(shard, &mut ring) else { break };
                self.used.fetch_sub(block.cost(), Ordering::Relaxed);
            }
            ring.first() - 1
        };
        applied.iter().enumerate().take(self.rings.len()).map(skip).collect()
    }

    /// In each shard, behind what there is more from `applied` on: there, or behind what is lost.
    pub fn first_behind(&self, applied: &[u64]) -> Vec<u64> {
        let first = |(shard, applied): (usize, &u64)| (self.ring(shard).first() - 1).max(*applied);
        applied.iter().enumerate().take(self.rings.len()).map(first).collect()
    }

    /// Whether an item of `shard` that comes from the peer may be created, which has applied everything
    /// up to `applied`: not if it was deleted here since, or if nobody knows. To be asked under the
    /// engine's lock of that shard, so that no delete comes in between.
    pub fn may_create(&self, shard: usize, applied: u64, key: &[u8], version: u64) -> bool {
        let ring = self.ring(shard);
        if ring.deleted <= applied {
            return true;
        }
        if !ring.covers(applied + 1) {
            return false;
        }
        let deletes = |change: &Change<'_>| matches!(change, Change::Delete { key: deleted, version: at } if *deleted == key && *at > version);
        !ring.blocks.iter().any(|block| block.changes_behind(applied).any(|change| deletes(&change)))
    }

    /// Whether an item of `shard` was replaced or deleted here behind `told`; `None` if that is no longer here, and was noted
    /// of this key or another. To be asked under the engine's lock of that shard.
    pub fn has_newer(&self, shard: usize, told: u64, key: &[u8], version: u64) -> Option<bool> {
        let ring = self.ring(shard);
        if !ring.covers(told + 1) && self.missed().is_removed(key, version) {
            return None;
        }
        // So many changes are not looked through for each item, unless a delete is among them: what was replaced is here,
        // unless it made room for others since.
        let look = ring.deleted > told || ring.last.saturating_sub(told) <= LOOKED_THROUGH_MAX;
        Some(look && ring.has_newer(told, key, version))
    }

    /// The version of the first change behind `applied` in each shard, the lowest of them.
    pub fn first_version_behind(&self, applied: &[u64]) -> Option<u64> {
        let first = applied.iter().enumerate().take(self.rings.len()).filter_map(|(shard, applied)| {
            let ring = self.ring(shard);
            let mut changes = ring.blocks.iter().flat_map(|block| block.changes_behind(*applied));
            changes.find_map(|change| match change {
                Change::Put(put) => Some(put.version),
                Change::Delete { version, .. } => Some(version),
                _ => None,
            })
        });
        first.min()
    }

    /// An independent copy that wakes nobody.
    #[cfg(feature = "testing")]
    pub fn duplicate(&self) -> Self {
        let number = |atomic: &AtomicUsize| AtomicUsize::new(atomic.load(Ordering::Relaxed));
        Self {
            rings: (0..self.rings.len()).map(|shard| Mutex::new(self.ring(shard).clone())).collect(),
            lengths: self.lengths.iter().map(number).collect(),
            used: number(&self.used),
            enabled: AtomicBool::new(self.enabled.load(Ordering::Relaxed)),
            hints_wanted: AtomicBool::new(self.hints_wanted.load(Ordering::Relaxed)),
            hints: AtomicU64::new(self.hints.load(Ordering::Relaxed)),
            missed: Mutex::new(self.missed().clone()),
            armed: AtomicBool::new(false),
            wake: OnceLock::new(),
            prefetch: OnceLock::new(),
            ..*self
        }
    }

    /// What it holds and has noted, as text.
    #[cfg(feature = "testing")]
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write as _;
        for shard in 0..self.rings.len() {
            let ring = self.ring(shard);
            let _ = write!(text, "{} {} {:?} {};", ring.first(), ring.last, ring.acked, ring.deleted);
        }
        let _ = write!(text, "{:?}", self.missed());
    }

    /// Bytes it may hold.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed) as u64
    }

    fn ring(&self, shard: usize) -> MutexGuard<'_, Ring> {
        lock(&self.rings[shard])
    }

    fn missed(&self) -> MutexGuard<'_, DirtyMap> {
        lock(&self.missed)
    }

    fn append(&self, shard: usize, change: &Change<'_>) -> u64 {
        let whole = change.encoded_len();
        let reload = (whole > self.change_bytes_max).then(|| change.key_and_version()).flatten();
        let bytes = reload.map_or(whole, |(key, _)| 8 + key.len());
        let mut ring = self.ring(shard);
        if !ring.blocks.back().is_some_and(|block| block.has_room(bytes)) {
            let block = self.take_block(shard, &mut ring, bytes);
            ring.blocks.push_back(block);
            self.lengths[shard].store(ring.blocks.len(), Ordering::Relaxed);
        }
        ring.last += 1;
        let sequence = ring.last;
        if matches!(change, Change::Delete { .. }) {
            ring.deleted = sequence;
        }
        let Some(block) = ring.blocks.back_mut() else { return sequence };
        match reload {
            Some((key, version)) => {
                block.reloads.push(block.ends.len() as u32);
                block.data.put_u64_le(version);
                block.data.put_slice(key);
            }
            None => change.encode(&mut block.data),
        }
        block.ends.push(block.data.len() as u32);
        if let Some(prefetch) = self.prefetch.get() {
            block.prefetch_ahead(bytes, *prefetch);
        }
        sequence
    }

    /// An empty block for at least `bytes`, from the budget or from the longest ring.
    fn take_block(&self, shard: usize, ring: &mut Ring, bytes: usize) -> Block {
        let room = bytes.max(self.block_bytes);
        let cost = Block::cost_of(room);
        let first = ring.last + 1;
        let mut spare = None;
        while self.used.load(Ordering::Relaxed) + cost > self.bytes_max {
            let Some(block) = self.take_oldest(shard, ring) else { break };
            self.used.fetch_sub(block.cost(), Ordering::Relaxed);
            spare = Some(block);
        }
        let block = match spare {
            Some(block) if block.room == room => block.emptied(first),
            _ => Block::new(first, room),
        };
        self.used.fetch_add(cost, Ordering::Relaxed);
        block
    }

    fn take_oldest(&self, shard: usize, ring: &mut Ring) -> Option<Block> {
        let own = ring.blocks.len();
        let length = |other: &usize| self.lengths[*other].load(Ordering::Relaxed);
        let longest = (0..self.rings.len()).filter(|other| *other != shard).max_by_key(length);
        if let Some(other) = longest.filter(|other| length(other) > own + 1 || own == 0)
            && let Ok(mut victim) = self.rings[other].try_lock()
            && let Some(block) = self.drop_oldest(other, &mut victim)
        {
            return Some(block);
        }
        self.drop_oldest(shard, ring)
    }

    /// Takes the oldest block out of a ring, and notes what the peer does not have of it.
    fn drop_oldest(&self, shard: usize, ring: &mut Ring) -> Option<Block> {
        let block = ring.blocks.pop_front()?;
        self.lengths[shard].store(ring.blocks.len(), Ordering::Relaxed);
        if let Some(acked) = ring.acked.filter(|acked| *acked < block.last()) {
            let mut missed = self.missed();
            block.changes_behind(acked).for_each(|change| missed.note(&change));
        }
        Some(block)
    }
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backlog").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// A panic elsewhere never leaves a ring or a map half changed: the last step is the counter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One shard's changes, the oldest first.
#[derive(Clone, Default)]
struct Ring {
    blocks: VecDeque<Block>,
    /// Sequence of the latest change.
    last: u64,
    /// Up to where the peer has everything; `None` while there is none to note anything for.
    acked: Option<u64>,
    /// Sequence of the latest delete.
    deleted: u64,
}

impl Ring {
    /// Sequence of the oldest change that is here, or of the next one.
    fn first(&self) -> u64 {
        self.blocks.front().map_or(self.last + 1, |block| block.first)
    }

    fn covers(&self, sequence: u64) -> bool {
        (self.first()..=self.last + 1).contains(&sequence)
    }

    /// A write or a delete of `key` that is newer than `version` is recorded behind `applied`.
    fn has_newer(&self, applied: u64, key: &[u8], version: u64) -> bool {
        let newer =
            |change: Change<'_>| change.key_and_version().is_some_and(|(of, at)| of == key && at > version);
        self.blocks.iter().any(|block| block.changes_behind(applied).any(newer))
    }

    fn read_from(&self, sequence: u64, bytes_max: usize, out: &mut BytesMut) -> Read {
        if sequence > self.last {
            return Read::Empty;
        }
        if !self.covers(sequence) {
            return Read::Overrun;
        }
        let mut next = sequence;
        let mut budget = bytes_max;
        let index = self.blocks.partition_point(|block| block.last() < sequence);
        for block in self.blocks.range(index..) {
            let count = block.read(next, budget, next == sequence, out);
            if count == 0 {
                if next == sequence {
                    return block.reload(next);
                }
                break;
            }
            budget = budget.saturating_sub(block.bytes_between(next, next + count));
            next += count;
            if next <= block.last() {
                break;
            }
        }
        Read::Records((next - sequence) as u32)
    }
}

/// Consecutive changes, encoded one behind the other.
#[derive(Clone)]
struct Block {
    /// Sequence of the first.
    first: u64,
    data: Vec<u8>,
    /// Where each of them ends in `data`.
    ends: Vec<u32>,
    /// Which of them are a version and a key only.
    reloads: Vec<u32>,
    /// Bytes `data` may take.
    room: usize,
}

impl Block {
    fn new(first: u64, room: usize) -> Self {
        let data = Vec::with_capacity(room);
        let ends = Vec::with_capacity(Self::records_max(room));
        Self { first, data, ends, reloads: Vec::new(), room }
    }

    fn emptied(mut self, first: u64) -> Self {
        self.first = first;
        self.data.clear();
        self.ends.clear();
        self.reloads.clear();
        self
    }

    /// So many changes at most, so that `ends` is bounded too.
    fn records_max(room: usize) -> usize {
        room / 16
    }

    fn cost_of(room: usize) -> usize {
        room + 4 * Self::records_max(room)
    }

    fn cost(&self) -> usize {
        Self::cost_of(self.room)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.data.len() + bytes <= self.room && self.ends.len() < Self::records_max(self.room)
    }

    /// After so many bytes were written: as many as that, some way ahead, will be.
    fn prefetch_ahead(&mut self, bytes: usize, prefetch: Prefetch) {
        let room = self.data.spare_capacity_mut().get(PREFETCH_AHEAD..).unwrap_or_default();
        let room = &room[..room.len().min(bytes).min(PREFETCH_BYTES_MAX)];
        room.iter().step_by(LINE_BYTES).for_each(prefetch);
    }

    /// Sequence of its last change (`first - 1` if it has none).
    fn last(&self) -> u64 {
        self.first + self.ends.len() as u64 - 1
    }

    /// Where the change of `sequence` begins in `data`.
    fn start(&self, sequence: u64) -> usize {
        let index = sequence.saturating_sub(self.first) as usize;
        if index == 0 { 0 } else { self.ends[index - 1] as usize }
    }

    fn bytes_between(&self, sequence: u64, behind: u64) -> usize {
        self.start(behind) - self.start(sequence)
    }

    fn bytes_from(&self, sequence: u64) -> usize {
        self.data.len() - self.start(sequence)
    }

    /// Appends changes from `sequence` on that fit, up to the next reload; returns how many.
    fn read(&self, sequence: u64, budget: usize, at_least_one: bool, out: &mut BytesMut) -> u64 {
        let from = (sequence - self.first) as usize;
        let stop = self.reloads.iter().map(|index| *index as usize).find(|index| *index >= from);
        let ends = &self.ends[from..stop.unwrap_or(self.ends.len())];
        let start = self.start(sequence);
        let mut count = ends.partition_point(|end| *end as usize - start <= budget);
        if count == 0 && at_least_one && !ends.is_empty() {
            count = 1;
        }
        if count > 0 {
            out.extend_from_slice(&self.data[start..ends[count - 1] as usize]);
        }
        count as u64
    }

    /// What is here of changes behind `sequence`. One that is kept as its key is a put without a value.
    fn changes_behind(&self, sequence: u64) -> impl Iterator<Item = Change<'_>> {
        let from = (sequence + 1).saturating_sub(self.first) as usize;
        (from..self.ends.len()).filter_map(|index| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
            let mut record = &self.data[start..self.ends[index] as usize];
            if self.reloads.binary_search(&(index as u32)).is_err() {
                // What was encoded here can be decoded.
                return Change::decode(record).ok().map(|(change, _)| change);
            }
            let version = record.get_u64_le();
            Some(Change::Put(Put {
                key: record,
                value: change::Bytes::Whole(&[]),
                flags: 0,
                deadline: 0,
                version,
                explicit: None,
                bits: change::Bits::default(),
            }))
        })
    }

    fn reload(&self, sequence: u64) -> Read {
        let start = self.start(sequence);
        let mut record = &self.data[start..self.ends[(sequence - self.first) as usize] as usize];
        let version = record.get_u64_le();
        Read::Reload { key: record.to_vec(), version }
    }
}

/// A change kept as its key must fit.
const BLOCK_BYTES_MIN: usize = 8 + KEY_BYTES_MAX + 254;

/// Large enough that taking one is rare, small enough that losing one is little, and that noting what the
/// peer misses of one takes a worker microseconds.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// What is hinted at is written a few changes later: by then it has come.
const PREFETCH_AHEAD: usize = 512;

/// Of longer changes the processor sees by itself where they lead.
const PREFETCH_BYTES_MAX: usize = 1024;

/// Of the processor's cache, or half of one; a hint too many costs nothing.
const LINE_BYTES: usize = 64;

/// Changes of a shard that are looked through for a key.
const LOOKED_THROUGH_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Bits, Bytes};

    fn put<'a>(key: &'a [u8], value: &'a [u8], version: u64) -> Change<'a> {
        let value = Bytes::Whole(value);
        Change::Put(Put { key, value, flags: 0, deadline: 0, version, explicit: None, bits: Bits::default() })
    }

    fn versions(bytes: &[u8]) -> Vec<u64> {
        Change::decode_all(bytes).map(|change| change.unwrap().key_and_version().unwrap().1).collect()
    }

    fn enabled(shards: usize, bytes: usize) -> Backlog {
        let backlog = Backlog::new(shards, bytes);
        backlog.enable();
        backlog
    }

    #[test]
    fn what_was_recorded_is_read_in_order_and_in_pieces() {
        let backlog = enabled(2, 64 * 1024);
        for version in 1..=300 {
            backlog.record(1, &put(b"key", b"value", version));
        }
        assert_eq!(backlog.last(), [0, 300]);
        let mut next = 1;
        let mut seen = Vec::new();
        loop {
            let mut out = BytesMut::new();
            match backlog.read_from(1, next, 500, &mut out) {
                Read::Records(count) => {
                    assert!(out.len() <= 500 && count > 0);
                    seen.extend(versions(&out));
                    next += u64::from(count);
                }
                Read::Empty => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, (1..=300).collect::<Vec<_>>());
        assert_eq!(backlog.behind(1, 299).0, 1);
        assert_eq!(backlog.behind(1, 0).1, backlog.behind(1, 150).1 * 2);
    }

    #[test]
    fn a_full_ring_forgets_the_oldest_and_says_so() {
        let backlog = enabled(1, 8 * 1024);
        for version in 1..=10_000 {
            backlog.record(0, &put(b"key", b"value", version));
            assert!(backlog.bytes() <= 8 * 1024);
        }
        assert_eq!(backlog.read_from(0, 1, 1000, &mut BytesMut::new()), Read::Overrun);
        assert!(!backlog.covers(&[0]) && backlog.covers(&[10_000]) && backlog.covers(&[9_990]));
        assert!(!backlog.covers(&[10_001]), "nobody can have what was not made");
        let mut out = BytesMut::new();
        assert_eq!(backlog.read_from(0, 9_991, 100_000, &mut out), Read::Records(10));
        assert_eq!(versions(&out), (9_991..=10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_busy_shard_uses_what_idle_ones_do_not_until_they_need_it() {
        let backlog = enabled(4, 64 * 1024);
        let record = |shard| {
            backlog.record(shard, &put(b"key", &[7; 200], 1));
        };
        for _ in 0..10_000 {
            record(0);
        }
        let kept = |shard: usize| {
            let ring = backlog.ring(shard);
            ring.last + 1 - ring.blocks.front().map_or(ring.last + 1, |block| block.first)
        };
        let alone = kept(0);
        assert!(alone * 223 > 40_000, "most of the budget is its own: {alone}");
        for _ in 0..10_000 {
            (0..4).for_each(record);
        }
        for shard in 0..4 {
            assert!(kept(shard) * 6 > alone, "shard {shard} keeps {} of {alone}", kept(shard));
        }
        assert!(backlog.bytes() <= 64 * 1024);
    }

    #[test]
    fn a_long_change_is_kept_as_its_key() {
        let backlog = enabled(1, 16 * 1024);
        backlog.record(0, &put(b"a", b"short", 1));
        backlog.record(0, &put(b"long", &[1; 10_000], 2));
        backlog.record(0, &put(b"b", b"short", 3));
        let mut out = BytesMut::new();
        assert_eq!(backlog.read_from(0, 1, 10_000, &mut out), Read::Records(1));
        assert_eq!(
            backlog.read_from(0, 2, 10_000, &mut out),
            Read::Reload { key: b"long".to_vec(), version: 2 }
        );
        assert_eq!(backlog.read_from(0, 3, 10_000, &mut out), Read::Records(1));
        assert_eq!(versions(&out), [1, 3]);
    }

    #[test]
    fn one_wake_per_arming() {
        let backlog = enabled(1, 4096);
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        backlog.set_wake(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        backlog.record(0, &put(b"a", b"1", 1));
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        backlog.arm();
        for version in 2..10 {
            backlog.record(0, &put(b"a", b"1", version));
        }
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_backlog_that_forgot_numbers_on() {
        let backlog = enabled(2, 4096);
        backlog.record(0, &put(b"a", b"1", 1));
        backlog.forget();
        assert_eq!((backlog.last(), backlog.bytes()), (vec![1, 0], 0));
        backlog.record(0, &put(b"a", b"1", 2));
        assert!(backlog.covers(&[1, 0]) && !backlog.covers(&[0, 0]));
        let mut out = BytesMut::new();
        assert_eq!(backlog.read_from(0, 2, 100, &mut out), Read::Records(1));
        assert_eq!(versions(&out), [2]);
    }

    #[test]
    fn what_is_overwritten_before_the_peer_has_it_is_noted_and_nothing_else() {
        let backlog = enabled(2, 16 * 1024);
        assert_eq!(backlog.track(), [0, 0]);
        let key = |number: u64| format!("key{number}").into_bytes();
        for number in 1..=5000 {
            backlog.record(0, &put(&key(number), b"value", number));
            if number <= 4000 {
                backlog.advance(&[number, 0]);
                assert!(!backlog.has_missed(), "a peer that keeps up misses nothing");
            }
        }
        backlog.record(0, &put(b"long", &[1; 10_000], 5001));
        let from = backlog.skip(&[4000, 0]);
        assert!(from[0] > 4000 && from[1] == 0 && backlog.covers(&from));
        let missed = backlog.take_missed();
        for number in 4001..=from[0] {
            assert!(missed.is_written(&key(number), number), "{number} of {from:?}");
        }
        assert!((1..=4000).all(|number| !missed.is_written(&key(number), number)));
        assert!(!backlog.has_missed());
    }

    #[test]
    fn what_was_deleted_meanwhile_is_not_created_again() {
        let backlog = enabled(1, 8 * 1024);
        backlog.record(0, &put(b"a", b"1", 10));
        backlog.record(0, &Change::Delete { key: b"a", version: 20 });
        assert!(!backlog.may_create(0, 1, b"a", 10), "the delete is newer, and the peer did not know");
        assert!(backlog.may_create(0, 1, b"a", 30) && backlog.may_create(0, 1, b"b", 10));
        assert!(backlog.may_create(0, 2, b"a", 10), "the peer knew");
        for version in 30..2000 {
            backlog.record(0, &put(b"b", b"value", version));
        }
        assert!(backlog.may_create(0, 2, b"a", 10), "no delete since");
        backlog.record(0, &Change::Delete { key: b"c", version: 3000 });
        assert!(!backlog.may_create(0, 2, b"a", 10), "nobody knows any more");
    }

    #[test]
    fn nothing_is_recorded_without_a_peer() {
        let backlog = Backlog::new(1, 4096);
        backlog.record(0, &put(b"a", b"1", 1));
        assert_eq!(backlog.last(), [0]);
    }
}
