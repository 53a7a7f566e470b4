//! Items in a map, as an engine would hold them: the store of the simulation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Plant;
use crate::backlog::Backlog;
use crate::change::{Bits, Bytes, Change, Put};
use crate::store::{Merged, Store};

/// An item of a [`MapStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its bytes.
    pub value: Vec<u8>,
    /// In this store's seconds, 0 never.
    pub deadline: u32,
    /// When it was written.
    pub version: u64,
}

/// An item as anybody sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it was written.
    pub version: u64,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Seconds until it expires, if it ever does.
    pub left: Option<u32>,
}

/// Live items by key.
pub type Contents = BTreeMap<Vec<u8>, Held>;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The item shall be this, for so many seconds (0 for ever).
    Set(Vec<u8>, u32),
    /// There shall be no item.
    Delete,
    /// The item shall stay for so many seconds (0 for ever).
    Touch(u32),
    /// What is there?
    Get,
    /// All items shall be gone, at once or in so many seconds.
    Flush(u32),
}

/// What a write did: where it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of the store.
    pub shard: usize,
    /// In the backlog.
    pub sequence: u64,
    /// What was written; empty for a flush.
    pub key: Vec<u8>,
    /// Of the item, of the delete, or the floor of the flush.
    pub version: u64,
    /// It was deleted.
    pub deleted: bool,
    /// It expires after so many seconds, 0 never.
    pub seconds: u32,
}

/// A store in a few maps, without tombstones: a delete leaves nothing behind, so a change that comes
/// in the wrong order is seen.
pub struct MapStore {
    shards: Vec<Mutex<Shard>>,
    backlog: Arc<Backlog>,
    slot: AtomicU64,
    secs: AtomicU32,
    /// Milliseconds of a wall clock, set from outside.
    millis: AtomicU64,
    /// When everything goes, in this store's seconds, 0 never.
    flush_at: AtomicU32,
    /// A shard takes no more items than that.
    items_max: usize,
    /// What was here when it was last cleared.
    cleared: Mutex<Option<Contents>>,
    /// What was dropped to make room since the last question: key and version.
    evicted: Mutex<Vec<(Vec<u8>, u64)>>,
    /// Counts the peer's changes.
    applied: AtomicU64,
    plant: Option<Plant>,
    /// Deletes that were merged.
    merged_deletes: Mutex<Vec<(Vec<u8>, u64)>>,
}

#[derive(Clone, Default)]
struct Shard {
    /// In hash order, as an engine would walk them.
    items: BTreeMap<(u64, Vec<u8>), Item>,
    floor: u64,
    last_version: u64,
}

impl MapStore {
    /// An empty store that records in `backlog`.
    pub fn new(shards: usize, backlog: Arc<Backlog>) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            backlog,
            slot: AtomicU64::new(0),
            secs: AtomicU32::new(1),
            millis: AtomicU64::new(0),
            flush_at: AtomicU32::new(0),
            items_max: usize::MAX,
            cleared: Mutex::new(None),
            evicted: Mutex::default(),
            applied: AtomicU64::new(0),
            plant: None,
            merged_deletes: Mutex::default(),
        }
    }

    /// The same with little room.
    pub fn with_room_for(mut self, items: Option<usize>) -> Self {
        self.items_max = items.map_or(usize::MAX, |items| items.div_ceil(self.shards.len()).max(1));
        self
    }

    /// The same with a bug.
    pub fn with_plant(mut self, plant: Option<Plant>) -> Self {
        self.plant = plant;
        self
    }

    /// What its clocks read.
    pub fn set_clocks(&self, secs: u32, millis: u64) {
        self.secs.store(secs, Ordering::Relaxed);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Does what a client wants; returns what was written.
    pub fn execute(&self, key: &[u8], wish: &Wish) -> Option<Written> {
        match wish {
            Wish::Set(value, seconds) => Some(self.store(key, Some((value, *seconds)))),
            Wish::Delete => Some(self.store(key, None)),
            Wish::Touch(seconds) => self.touch(key, *seconds),
            Wish::Get => None,
            Wish::Flush(0) => {
                self.flush_at.store(0, Ordering::Relaxed);
                Some(self.flush())
            }
            Wish::Flush(seconds) => {
                let deadline = self.secs() + seconds;
                self.flush_at.store(deadline, Ordering::Relaxed);
                for shard in 0..self.shards.len() {
                    self.backlog.record(shard, &Change::FlushAt { deadline });
                }
                None
            }
        }
    }

    /// A master's timer: a delayed flush may be due.
    pub fn flush_if_due(&self) -> Option<Written> {
        let at = self.flush_at.load(Ordering::Relaxed);
        if at == 0 || at > self.secs() {
            return None;
        }
        self.flush_at.store(0, Ordering::Relaxed);
        Some(self.flush())
    }

    /// Stores `value` for ever, or deletes the item if there is none.
    pub fn write(&self, key: &[u8], value: Option<&[u8]>) -> Written {
        self.store(key, value.map(|value| (value, 0)))
    }

    fn store(&self, key: &[u8], value: Option<(&[u8], u32)>) -> Written {
        let index = self.shard_of(key);
        let mut shard = self.lock(index);
        let version = self.next_version(&shard, index);
        shard.last_version = version;
        let place = (hash(key), key.to_vec());
        let (change, missing) = match value {
            Some((value, seconds)) => {
                let deadline = self.deadline(seconds);
                let item = Item { value: value.to_vec(), deadline, version };
                shard.items.insert(place, item);
                (put(key, value, deadline, version), false)
            }
            None => (Change::Delete { key, version }, shard.items.remove(&place).is_none()),
        };
        if !(missing && self.plant == Some(Plant::SkipDeleteMisses)) {
            self.backlog.record(index, &change);
        }
        self.make_room(&mut shard, key);
        let sequence = self.backlog.last_of(index);
        let seconds = value.map_or(0, |(_, seconds)| seconds);
        Written { shard: index, sequence, key: key.to_vec(), version, deleted: value.is_none(), seconds }
    }

    fn touch(&self, key: &[u8], seconds: u32) -> Option<Written> {
        let index = self.shard_of(key);
        let mut shard = self.lock(index);
        let deadline = self.deadline(seconds);
        let (floor, secs) = (shard.floor, self.secs());
        let item = shard.items.get_mut(&(hash(key), key.to_vec()))?;
        if !is_live(item, floor, secs) {
            return None;
        }
        item.deadline = deadline;
        let version = item.version;
        self.backlog.record(index, &Change::Touch { key, deadline, version });
        let sequence = self.backlog.last_of(index);
        Some(Written { shard: index, sequence, key: key.to_vec(), version, deleted: false, seconds })
    }

    fn flush(&self) -> Written {
        let floors = (0..self.shards.len()).map(|index| self.next_version(&self.lock(index), index));
        let floor = floors.max().unwrap_or(0);
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            shard.flush(floor);
            self.backlog.record(index, &Change::Flush { floor });
        }
        let sequence = self.backlog.last_of(0);
        Written { shard: 0, sequence, key: Vec::new(), version: floor, deleted: true, seconds: 0 }
    }

    fn deadline(&self, seconds: u32) -> u32 {
        if seconds == 0 { 0 } else { self.secs() + seconds }
    }

    /// The live item of `key`.
    pub fn item(&self, key: &[u8]) -> Option<Item> {
        let shard = self.lock(self.shard_of(key));
        let item = shard.items.get(&(hash(key), key.to_vec()));
        item.filter(|item| is_live(item, shard.floor, self.secs())).cloned()
    }

    /// How many changes of a peer came so far.
    pub fn changes_seen(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// All live items by key.
    pub fn contents(&self) -> Contents {
        let mut all = BTreeMap::new();
        let secs = self.secs();
        for index in 0..self.shards.len() {
            let shard = self.lock(index);
            for ((_, key), item) in shard.items.iter().filter(|(_, item)| is_live(item, shard.floor, secs)) {
                let left = (item.deadline > 0).then(|| item.deadline.saturating_sub(secs));
                all.insert(key.clone(), Held { version: item.version, value: item.value.clone(), left });
            }
        }
        all
    }

    /// What was here before the last [`Store::clear`], if there was one since the last question.
    pub fn take_cleared(&self) -> Option<Contents> {
        self.cleared.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was dropped to make room since the last question.
    pub fn take_evicted(&self) -> Vec<(Vec<u8>, u64)> {
        std::mem::take(&mut *self.evicted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An independent copy that records in `backlog`.
    pub fn duplicate(&self, backlog: Arc<Backlog>) -> Self {
        let shards = (0..self.shards.len()).map(|index| Mutex::new(self.lock(index).clone())).collect();
        let number = |atomic: &AtomicU64| AtomicU64::new(atomic.load(Ordering::Relaxed));
        let small = |atomic: &AtomicU32| AtomicU32::new(atomic.load(Ordering::Relaxed));
        Self {
            shards,
            backlog,
            slot: number(&self.slot),
            secs: small(&self.secs),
            millis: number(&self.millis),
            flush_at: small(&self.flush_at),
            items_max: self.items_max,
            cleared: Mutex::new(None),
            evicted: Mutex::default(),
            merged_deletes: Mutex::default(),
            applied: number(&self.applied),
            plant: self.plant,
        }
    }

    /// Drops the first item in hash order behind that of `key`, as long as there are too many.
    fn make_room(&self, shard: &mut Shard, key: &[u8]) {
        while shard.items.len() > self.items_max {
            let place = (hash(key), key.to_vec());
            let mut behind =
                shard.items.range((std::ops::Bound::Excluded(&place), std::ops::Bound::Unbounded));
            let victim = behind.next().or_else(|| shard.items.iter().next()).map(|(place, _)| place.clone());
            let Some(item) = victim.as_ref().and_then(|victim| shard.items.remove(victim)) else { return };
            let evicted = victim.map(|(_, key)| (key, item.version));
            self.evicted.lock().unwrap_or_else(PoisonError::into_inner).extend(evicted);
        }
    }

    /// Deletes that were merged since the last question.
    pub fn take_merged_deletes(&self) -> Vec<(Vec<u8>, u64)> {
        std::mem::take(&mut self.merged_deletes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next_version(&self, shard: &Shard, index: usize) -> u64 {
        let stamp = (index as u64) << 1 | self.slot.load(Ordering::Relaxed);
        let now = self.millis.load(Ordering::Relaxed) << 22 | stamp;
        if self.plant == Some(Plant::FrozenVersions) {
            return now.max(shard.last_version);
        }
        if now > shard.last_version { now } else { ((shard.last_version >> 9) + 1) << 9 | stamp }
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        (hash(key) >> 32) as usize % self.shards.len()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a bug on purpose swallows this change.
    fn swallows(&self, change: &Change<'_>) -> bool {
        let Some(plant) = self.plant else { return false };
        match (plant, change) {
            (Plant::SkipDeletes, Change::Delete { .. })
            | (Plant::IgnoreFlush, Change::Flush { .. })
            | (Plant::IgnoreTouch, Change::Touch { .. }) => true,
            (Plant::LoseSome, _) => self.changes_seen() % 97 == 96,
            _ => false,
        }
    }
}

impl Shard {
    fn flush(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.last_version = self.last_version.max(floor);
        let floor = self.floor;
        self.items.retain(|_, item| item.version >= floor);
    }
}

impl Store for MapStore {
    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn items(&self) -> u64 {
        (0..self.shards.len()).map(|shard| self.lock(shard).items.len() as u64).sum()
    }

    fn clear(&self) {
        *self.cleared.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.contents());
        self.flush_at.store(0, Ordering::Relaxed);
        for shard in 0..self.shards.len() {
            let mut shard = self.lock(shard);
            shard.items.clear();
            shard.floor = if self.plant == Some(Plant::KeepFloor) { shard.floor } else { 0 };
        }
    }

    fn apply(&self, change: &Change<'_>) {
        self.applied.fetch_add(1, Ordering::Relaxed);
        if self.swallows(change) {
            return;
        }
        match change {
            Change::Flush { floor } => {
                self.flush_at.store(0, Ordering::Relaxed);
                (0..self.shards.len()).for_each(|shard| self.lock(shard).flush(*floor));
                return;
            }
            Change::FlushAt { deadline } => return self.flush_at.store(*deadline, Ordering::Relaxed),
            _ => {}
        }
        let Some((key, version)) = change.key_and_version() else { return };
        let mut shard = self.lock(self.shard_of(key));
        shard.last_version = shard.last_version.max(version);
        let place = (hash(key), key.to_vec());
        let held = shard.items.get(&place).map(|item| item.version);
        match change {
            Change::Put(put) if held.is_none_or(|held| held < version) && version >= shard.floor => {
                let value = put.value.pieces().collect::<Vec<_>>().concat();
                let wrong = self.plant == Some(Plant::MisreadDeadlines) && put.deadline > 0;
                let deadline = if wrong { put.deadline + 500 } else { put.deadline };
                shard.items.insert(place, Item { value, deadline, version });
                self.make_room(&mut shard, key);
            }
            Change::Touch { deadline, .. } => {
                if let Some(item) = shard.items.get_mut(&place).filter(|item| item.version == version) {
                    item.deadline = *deadline;
                }
            }
            Change::Delete { .. } if held.is_some_and(|held| held < version) => {
                shard.items.remove(&place);
            }
            _ => {}
        }
    }

    fn apply_unless(&self, change: &Change<'_>, is_gone: &dyn Fn(usize) -> bool) {
        if let Change::Put(put) = change
            && self.item(put.key).is_none()
            && is_gone(self.shard_of(put.key))
        {
            let mut shard = self.lock(self.shard_of(put.key));
            shard.last_version = shard.last_version.max(put.version);
            return;
        }
        self.apply(change);
    }

    fn merge(&self, change: &Change<'_>, may_create: &dyn Fn(usize) -> bool) -> Merged {
        let Some((key, version)) = change.key_and_version() else {
            self.apply(change);
            for shard in 0..self.shards.len() {
                self.backlog.record(shard, change);
            }
            return Merged::Taken;
        };
        let shard = self.shard_of(key);
        let before = self.item(key);
        {
            let mut shard = self.lock(shard);
            shard.last_version = shard.last_version.max(version);
        }
        match (&before, change) {
            (_, Change::Put(_)) if version < self.lock(shard).floor => return Merged::Refused,
            (Some(item), Change::Put(_)) if item.version >= version => return Merged::Kept,
            (None, Change::Put(_)) if !may_create(shard) => return Merged::Refused,
            _ => self.apply(change),
        }
        // Nothing else runs in this world, so nothing comes between this and the above.
        if self.item(key) == before {
            return Merged::Kept;
        }
        if matches!(change, Change::Delete { .. }) {
            let mut merged = self.merged_deletes.lock().unwrap_or_else(PoisonError::into_inner);
            merged.push((key.to_vec(), version));
        }
        self.backlog.record(shard, change);
        Merged::Taken
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        let shard = self.lock(shard);
        let mut bytes = 0;
        for ((hash, key), item) in shard.items.range((cursor, Vec::new())..) {
            if bytes >= max_bytes {
                return Some(*hash);
            }
            let change = put(key, &item.value, item.deadline, item.version);
            bytes += change.encoded_len();
            visit(&change);
        }
        None
    }

    fn read(&self, key: &[u8], visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        let item = self.item(key);
        if let Some(item) = &item {
            visit(&put(key, &item.value, item.deadline, item.version));
        }
        item.is_some()
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>) {
        if let Some(version) = theirs {
            self.backlog.record(self.shard_of(key), &Change::Delete { key, version });
        }
        let item = self.item(key);
        let seconds =
            |deadline: u32| if deadline == 0 { 0 } else { deadline.saturating_sub(self.secs()).max(1) };
        self.store(key, item.as_ref().map(|item| (&item.value[..], seconds(item.deadline))));
    }

    fn secs(&self) -> u32 {
        self.secs.load(Ordering::Relaxed)
    }

    fn pending_flush(&self) -> Option<u32> {
        let at = self.flush_at.load(Ordering::Relaxed);
        (at > 0 && self.plant != Some(Plant::ForgetPendingFlush)).then_some(at)
    }

    fn set_slot(&self, slot: u8) {
        self.slot.store(u64::from(slot), Ordering::Relaxed);
    }
}

fn is_live(item: &Item, floor: u64, secs: u32) -> bool {
    item.version >= floor && (item.deadline == 0 || item.deadline > secs)
}

fn put<'a>(key: &'a [u8], value: &'a [u8], deadline: u32, version: u64) -> Change<'a> {
    let (value, bits) = (Bytes::Whole(value), Bits::default());
    Change::Put(Put { key, value, flags: 0, deadline, version, explicit: None, bits })
}

/// FNV-1a, so that the order is nobody's friend, with the low bit free to be a cursor's end.
fn hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
