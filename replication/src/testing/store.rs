//! Items in a map, as an engine would hold them: the store of the simulation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backlog::Backlog;
use crate::change::{Bits, Bytes, Change, Put};
use crate::store::Store;

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

/// Version and value by key.
pub type Contents = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// What a write did: where it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of the store.
    pub shard: usize,
    /// In the backlog.
    pub sequence: u64,
    /// What was written.
    pub key: Vec<u8>,
    /// Of the item, or of the delete.
    pub version: u64,
    /// It was deleted.
    pub deleted: bool,
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
    /// What was here when it was last cleared.
    cleared: Mutex<Option<Contents>>,
}

#[derive(Default)]
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
            cleared: Mutex::new(None),
        }
    }

    /// What its clocks read.
    pub fn set_clocks(&self, secs: u32, millis: u64) {
        self.secs.store(secs, Ordering::Relaxed);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Stores `value`, or deletes the item if there is none.
    pub fn write(&self, key: &[u8], value: Option<&[u8]>) -> Written {
        let index = self.shard_of(key);
        let mut shard = self.lock(index);
        let version = self.next_version(&shard, index);
        shard.last_version = version;
        let place = (hash(key), key.to_vec());
        let change = match value {
            Some(value) => {
                let item = Item { value: value.to_vec(), deadline: 0, version };
                shard.items.insert(place, item);
                put(key, value, 0, version)
            }
            None => {
                shard.items.remove(&place);
                Change::Delete { key, version }
            }
        };
        self.backlog.record(index, &change);
        let sequence = self.backlog.last_of(index);
        Written { shard: index, sequence, key: key.to_vec(), version, deleted: value.is_none() }
    }

    /// The item of `key`.
    pub fn item(&self, key: &[u8]) -> Option<Item> {
        self.lock(self.shard_of(key)).items.get(&(hash(key), key.to_vec())).cloned()
    }

    /// All items by key.
    pub fn contents(&self) -> Contents {
        let mut all = BTreeMap::new();
        for shard in 0..self.shards.len() {
            for ((_, key), item) in &self.lock(shard).items {
                all.insert(key.clone(), (item.version, item.value.clone()));
            }
        }
        all
    }

    /// What was here before the last [`Store::clear`], if there was one since the last question.
    pub fn take_cleared(&self) -> Option<Contents> {
        self.cleared.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn next_version(&self, shard: &Shard, index: usize) -> u64 {
        let stamp = (index as u64) << 1 | self.slot.load(Ordering::Relaxed);
        let now = self.millis.load(Ordering::Relaxed) << 22 | stamp;
        if now > shard.last_version { now } else { ((shard.last_version >> 9) + 1) << 9 | stamp }
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        (hash(key) >> 32) as usize % self.shards.len()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
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
        (0..self.shards.len()).for_each(|shard| self.lock(shard).items.clear());
    }

    fn apply(&self, change: &Change<'_>) {
        if let Change::Flush { floor } = change {
            for shard in &self.shards {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.floor = shard.floor.max(*floor);
                let floor = shard.floor;
                shard.items.retain(|_, item| item.version >= floor);
            }
            return;
        }
        let Some((key, version)) = change.key_and_version() else { return };
        let mut shard = self.lock(self.shard_of(key));
        shard.last_version = shard.last_version.max(version);
        let place = (hash(key), key.to_vec());
        let held = shard.items.get(&place).map(|item| item.version);
        match change {
            Change::Put(put) if held.is_none_or(|held| held < version) && version >= shard.floor => {
                let value = put.value.pieces().collect::<Vec<_>>().concat();
                shard.items.insert(place, Item { value, deadline: put.deadline, version });
            }
            Change::Touch { deadline, .. } => {
                if let Some(item) = shard.items.get_mut(&place).filter(|item| item.version == version) {
                    item.deadline = *deadline;
                }
            }
            Change::Delete { .. } if held.is_some_and(|held| held <= version) => {
                shard.items.remove(&place);
            }
            _ => {}
        }
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
        let value = self.item(key).map(|item| item.value);
        self.write(key, value.as_deref());
    }

    fn secs(&self) -> u32 {
        self.secs.load(Ordering::Relaxed)
    }

    fn pending_flush(&self) -> Option<u32> {
        None
    }

    fn set_slot(&self, slot: u8) {
        self.slot.store(u64::from(slot), Ordering::Relaxed);
    }
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

/// A bug on purpose: a store that does not apply deletes.
pub(crate) struct WithoutDeletes<'a>(pub(crate) &'a dyn Store);

impl Store for WithoutDeletes<'_> {
    fn apply(&self, change: &Change<'_>) {
        if !matches!(change, Change::Delete { .. }) {
            self.0.apply(change);
        }
    }

    fn shards(&self) -> usize {
        self.0.shards()
    }

    fn items(&self) -> u64 {
        self.0.items()
    }

    fn clear(&self) {
        self.0.clear();
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        self.0.scan(shard, cursor, max_bytes, visit)
    }

    fn read(&self, key: &[u8], visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        self.0.read(key, visit)
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>) {
        self.0.restate(key, theirs);
    }

    fn secs(&self) -> u32 {
        self.0.secs()
    }

    fn pending_flush(&self) -> Option<u32> {
        self.0.pending_flush()
    }

    fn set_slot(&self, slot: u8) {
        self.0.set_slot(slot);
    }
}
