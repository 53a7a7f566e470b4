//! A store of the simplest kind: a map per shard, versions from a counter, every write recorded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tandem_replication::backlog::Backlog;
use tandem_replication::change::{Bits, Bytes, Change, Put};
use tandem_replication::store::{Merged, Store};

const SHARDS: usize = 2;

/// By hash first, so that a hash is a cursor.
type Place = (u64, Vec<u8>);

#[derive(Default)]
struct Shard {
    items: BTreeMap<Place, (Vec<u8>, u64)>,
}

fn place(key: &[u8]) -> Place {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // Zero begins a walk.
    (hash.max(1), key.to_vec())
}

/// See the module.
pub struct MapStore {
    shards: Vec<Mutex<Shard>>,
    /// The last version made or seen, without the slot.
    version: AtomicU64,
    slot: AtomicU8,
    backlog: Arc<Backlog>,
}

impl MapStore {
    /// An empty store that records into `backlog`.
    pub fn new(backlog: Arc<Backlog>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            version: AtomicU64::new(1),
            slot: AtomicU8::new(0),
            backlog,
        }
    }

    /// A backlog of the right shape.
    pub fn backlog(bytes_max: usize) -> Arc<Backlog> {
        Arc::new(Backlog::new(SHARDS, bytes_max))
    }

    /// A client's `set`.
    pub fn set(&self, key: &str, value: &[u8]) {
        let index = shard_of(key.as_bytes());
        let mut shard = self.shards[index].lock().expect("not poisoned");
        let version = (self.version.fetch_add(1, Ordering::Relaxed) + 1) << 1
            | u64::from(self.slot.load(Ordering::Relaxed));
        shard.items.insert(place(key.as_bytes()), (value.to_vec(), version));
        self.backlog.record(index, &put(key.as_bytes(), value, version));
    }

    /// A client's `get`.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let shard = self.shards[shard_of(key.as_bytes())].lock().expect("not poisoned");
        shard.items.get(&place(key.as_bytes())).map(|(value, _)| value.clone())
    }

    /// Puts an item there that nobody recorded.
    pub fn put(&self, key: &[u8], value: &[u8], version: u64) {
        let mut shard = self.shards[shard_of(key)].lock().expect("not poisoned");
        shard.items.insert(place(key), (value.to_vec(), version));
    }

    /// Everything, for comparing two nodes.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        let mut all = BTreeMap::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("not poisoned");
            all.extend(shard.items.iter().map(|((_, key), item)| (key.clone(), item.clone())));
        }
        all
    }
}

fn shard_of(key: &[u8]) -> usize {
    key.iter().map(|byte| usize::from(*byte)).sum::<usize>() % SHARDS
}

fn put<'a>(key: &'a [u8], value: &'a [u8], version: u64) -> Change<'a> {
    Change::Put(Put {
        key,
        value: Bytes::Whole(value),
        flags: 0,
        deadline: 0,
        version,
        explicit: None,
        bits: Bits::default(),
    })
}

impl Store for MapStore {
    fn shards(&self) -> usize {
        SHARDS
    }

    fn items(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().expect("not poisoned").items.len() as u64).sum()
    }

    fn clear(&self) {
        for shard in &self.shards {
            // A million frees take long, and the pair's heart must beat: let others do it.
            let items = std::mem::take(&mut shard.lock().expect("not poisoned").items);
            std::thread::spawn(move || drop(items));
        }
    }

    fn apply(&self, change: &Change<'_>) {
        let (key, version) = match change {
            Change::Put(put) => (put.key, put.version),
            Change::Delete { key, version } => (*key, *version),
            _ => return,
        };
        self.version.fetch_max(version >> 1, Ordering::Relaxed);
        let mut shard = self.shards[shard_of(key)].lock().expect("not poisoned");
        let deletes = matches!(change, Change::Delete { .. });
        let kept = |known: u64| if deletes { known > version } else { known >= version };
        if shard.items.get(&place(key)).is_some_and(|(_, known)| kept(*known)) {
            return;
        }
        match change {
            Change::Put(put) => {
                let value = match put.value {
                    Bytes::Whole(value) => value.to_vec(),
                    Bytes::Chunks(chunks) => chunks.concat(),
                };
                shard.items.insert(place(key), (value, version));
            }
            _ => {
                shard.items.remove(&place(key));
            }
        }
    }

    fn apply_unless(&self, change: &Change<'_>, is_gone: &dyn Fn(usize) -> bool) {
        let deleted = |key| !self.read(key, &mut |_| {}) && is_gone(shard_of(key));
        if !matches!(change, Change::Put(put) if deleted(put.key)) {
            self.apply(change);
        }
    }

    fn merge(&self, change: &Change<'_>, may_create: &dyn Fn(usize) -> bool) -> Merged {
        let Some((key, version)) = change.key_and_version() else { return Merged::Kept };
        let index = shard_of(key);
        self.version.fetch_max(version >> 1, Ordering::Relaxed);
        let mut shard = self.shards[index].lock().expect("not poisoned");
        let held = shard.items.get(&place(key)).map(|(_, held)| *held);
        match (held, change) {
            (Some(held), _) if held >= version => return Merged::Kept,
            (None, Change::Put(_)) if !may_create(index) => return Merged::Refused,
            (_, Change::Put(put)) => {
                let value: Vec<u8> = put.value.pieces().flatten().copied().collect();
                shard.items.insert(place(key), (value, version));
            }
            (Some(_), Change::Delete { .. }) => {
                shard.items.remove(&place(key));
            }
            _ => return Merged::Kept,
        }
        self.backlog.record(index, change);
        Merged::Taken
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        let shard = self.shards[shard].lock().expect("not poisoned");
        let (mut bytes, mut last) = (0, cursor);
        for ((hash, key), (value, version)) in shard.items.range((cursor, Vec::new())..) {
            if bytes >= max_bytes && *hash != last {
                return Some(*hash);
            }
            visit(&put(key, value, *version));
            bytes += key.len() + value.len();
            last = *hash;
        }
        None
    }

    fn read(&self, key: &[u8], visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        let shard = self.shards[shard_of(key)].lock().expect("not poisoned");
        let Some((value, version)) = shard.items.get(&place(key)) else { return false };
        visit(&put(key, value, *version));
        true
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>) {
        if let Some(version) = theirs {
            self.backlog.record(shard_of(key), &Change::Delete { key, version });
        }
        // These tests delete nothing.
        let key = std::str::from_utf8(key).expect("keys of these tests are text");
        if let Some(value) = self.get(key) {
            self.set(key, &value);
        }
    }

    fn secs(&self) -> u32 {
        1
    }

    fn pending_flush(&self) -> Option<u32> {
        None
    }

    fn set_slot(&self, slot: u8) {
        self.slot.store(slot, Ordering::Relaxed);
    }
}
