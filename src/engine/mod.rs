//! Where items live. Synchronous, without I/O; time and seeds are arguments.
//!
//! [`Engine`] is what the server and the pair see. `memory` is the engine; `model` is a `BTreeMap`
//! behind the same trait, the oracle of its tests.
//!
//! Rules every engine keeps:
//! * A mutation is recorded in the [`Journal`] under the same lock that makes it, so the journal's
//!   order per key is the order in memory. There is no other place that records.
//! * Lock order: shard, then journal. Never two shards. Nothing blocks under a shard's lock.
//! * Memory is taken from the budget before it is allocated.
//! * An item's version is unique, grows with every write, and is its CAS unique unless a client gave
//!   it an explicit one.
//! * An item whose version is below the flush floor is dead. The floor only rises.

mod budget;
mod clock;
mod hash;
pub mod memory;
pub mod model;
mod number;
mod prefetch;

pub use memory::Chunk;
pub(crate) use prefetch::prefetch;

use tandem_replication::change::Change;
use tandem_replication::change::Merged;

use crate::command::{Command, Now, Pages, Replies};

/// Where items live.
pub trait Engine: Send + Sync {
    /// Executes a batch in order. `replies` hears one outcome per command, in order, under the
    /// shard's lock. Mutations are recorded in the journal given at construction.
    /// A pending delayed flush that is due is executed first.
    fn execute(&self, batch: &[Command<'_>], now: Now, replies: &mut dyn Replies);

    /// Has the memory fetched that commands on these keys will need, for whoever knows them a while before they
    /// are executed. Changes nothing but timing.
    fn foresee(&self, keys: &[&[u8]]) {
        let _ = keys;
    }

    /// Largest value in bytes that is stored inline; longer ones are better handed over as [`Pages`].
    fn inline_max(&self) -> usize;

    /// Takes memory for a value of `len` bytes before its body is read, evicting if it must.
    fn reserve(&self, len: usize, now: Now) -> Result<Reserved, OutOfMemory>;

    /// `flush_all`: everything stored so far is dead. `at` (engine seconds) delays it; a later call
    /// replaces a pending one. Journaled in every shard.
    fn flush(&self, at: Option<u32>, now: Now);

    /// Applies a change from the peer: kept only if newer than what is here. Not journaled.
    /// Deadlines in `change` are already in this engine's seconds.
    fn apply(&self, change: &Change<'_>, now: Now);

    /// The same, but an item that is not here is not created if `is_gone` says that it was deleted here; which is
    /// asked with its shard, under that shard's lock.
    fn apply_unless(&self, change: &Change<'_>, now: Now, is_gone: &dyn Fn(usize) -> bool);

    /// Makes a change of the peer this engine's own: like [`Engine::apply`], but journaled if it was
    /// newer. An item that is not here is created only if `may_create` says so, which is asked with its
    /// shard, under that shard's lock.
    fn merge(&self, change: &Change<'_>, now: Now, may_create: &dyn Fn(usize) -> bool) -> Merged;

    /// Walks a shard in hash order for a copy: calls `visit` for live items from `cursor` on, about
    /// `max_bytes` of them, under the shard's lock. Returns the next cursor, or `None` when done.
    /// An item present during the whole walk is visited exactly once, whatever grows or moves.
    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        now: Now,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64>;

    /// One item as the change that recreates it; `false` (and no call) if it is not there.
    fn read(&self, key: &[u8], now: Now, visit: &mut dyn FnMut(&Change<'_>)) -> bool;

    /// Gives the item a new version and records it, or its absence, though nothing changed: what another
    /// node has of it is replaced. What that has is of version `theirs`: recorded as deleted before.
    fn restate(&self, key: &[u8], theirs: Option<u64>, now: Now);

    /// Whether an item is there, and why not. Changes and counts nothing.
    fn fate(&self, key: &[u8], now: Now) -> Fate;

    /// Forgets every item and every flush, done or pending, without journaling it: a full copy is about
    /// to arrive.
    fn clear(&self, now: Now);

    /// The instant of a pending delayed flush, in engine seconds.
    fn pending_flush(&self) -> Option<u32>;

    /// Background work (growth, expiry, shrinking, balance), in slices of about `budget` items per
    /// shard. A delayed flush that is due is executed if this node is `serving`; on any other node the
    /// one that serves does it. Returns whether more is waiting.
    fn maintain(&self, now: Now, budget: usize, serving: bool) -> bool;

    /// How many shards: each has its own lock, journal order and scan cursor.
    fn shards(&self) -> usize;

    /// Items that are there (expired ones that nobody noticed included).
    fn items(&self) -> u64;

    /// The node's slot (0 or 1), stamped into versions so that two nodes never make the same one.
    fn set_slot(&self, slot: u8);

    /// Changes the memory limit, in bytes; shrinking evicts in [`Engine::maintain`].
    fn set_limit(&self, bytes: u64);

    /// A snapshot of everything that is counted.
    fn stats(&self) -> EngineStats;

    /// `stats reset`.
    fn reset_stats(&self);

    /// From now on `hook` hears of every item that is evicted, under its shard's lock: a bounded copy,
    /// no blocking. Only the first hook counts. An engine that never evicts has nothing to tell.
    fn on_eviction(&self, _hook: EvictionHook) {}
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lives.
    There,
    /// There is none.
    Missing,
    /// Its time is over, and nobody has noticed yet.
    Expired,
    /// `flush_all` ended it, and nobody has noticed yet.
    Flushed,
}

/// Where mutations are recorded, under the shard's lock: a bounded copy, no blocking, no allocation
/// that grows.
pub trait Journal: Send + Sync {
    /// `change` is the effect of a command on an item of `shard`. Deadlines are in engine seconds.
    fn record(&self, shard: usize, change: &Change<'_>);

    /// An item of `shard` that is in use outlived an eviction, and `change` says about it what is known anyhow:
    /// who keeps a copy may want to know that it is in use.
    fn hint(&self, shard: usize, change: &Change<'_>) {
        let _ = (shard, change);
    }

    /// Whether changes go anywhere at all; an engine asks once, when it is made.
    fn records(&self) -> bool {
        true
    }
}

/// Hears of evictions.
pub type EvictionHook = Box<dyn Fn(&Evicted<'_>) + Send + Sync>;

/// An item that had to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Bytes of its value.
    pub value_len: usize,
    /// Whether it was ever read.
    pub fetched: bool,
    /// Seconds it would have lived, unless it would never have died.
    pub left_secs: Option<u32>,
    /// Seconds since it was last read or written.
    pub idle_secs: u32,
    /// memcached's slab class.
    pub class: u8,
}

/// A node without a peer records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJournal;

impl Journal for NoJournal {
    fn record(&self, _shard: usize, _change: &Change<'_>) {}

    fn records(&self) -> bool {
        false
    }
}

/// There is no memory and nothing may be evicted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Memory for a large value that is still being read from a socket: chunks to fill in order.
///
/// The charge is given back when the value, or an unfinished reservation, is dropped.
pub struct Reserved {
    /// Chunks whose lengths add up to the value's; what is in them is left over from others.
    pub chunks: Vec<Chunk>,
}

impl Reserved {
    /// The value, after `chunks` were filled.
    pub fn freeze(self) -> Pages {
        Pages::new(self.chunks.into_iter().map(bytes::Bytes::from_owner).collect::<Vec<_>>())
    }
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserved").field("chunks", &self.chunks.len()).finish_non_exhaustive()
    }
}

/// Counters of commands, as memcached names them (`stats`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the memcached statistic of the same name")]
pub struct CommandStats {
    pub cmd_get: u64,
    pub cmd_set: u64,
    pub cmd_touch: u64,
    pub cmd_meta: u64,
    pub cmd_flush: u64,
    pub get_hits: u64,
    pub get_misses: u64,
    pub get_expired: u64,
    pub get_flushed: u64,
    pub delete_hits: u64,
    pub delete_misses: u64,
    pub incr_hits: u64,
    pub incr_misses: u64,
    pub decr_hits: u64,
    pub decr_misses: u64,
    pub cas_hits: u64,
    pub cas_misses: u64,
    pub cas_badval: u64,
    pub touch_hits: u64,
    pub touch_misses: u64,
    pub store_too_large: u64,
    pub store_no_memory: u64,
}

/// What one slab class of memcached's would show (`stats items`, `stats slabs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the memcached statistic of the same name")]
pub struct ClassStats {
    pub number: u64,
    pub number_small: u64,
    pub number_main: u64,
    pub mem_requested: u64,
    pub age: u32,
    pub evicted: u64,
    pub evicted_nonzero: u64,
    pub evicted_time: u32,
    pub evicted_unfetched: u64,
    pub evicted_active: u64,
    pub outofmemory: u64,
    pub reclaimed: u64,
    pub expired_unfetched: u64,
    pub crawler_reclaimed: u64,
    pub crawler_items_checked: u64,
    pub moves_to_warm: u64,
    pub moves_within_lru: u64,
    pub moves_to_cold: u64,
    pub get_hits: u64,
    pub cmd_set: u64,
    pub delete_hits: u64,
    pub incr_hits: u64,
    pub decr_hits: u64,
    pub cas_hits: u64,
    pub cas_badval: u64,
    pub touch_hits: u64,
}

/// Everything an engine counts, at one moment.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    /// Commands.
    pub commands: CommandStats,
    /// By memcached's slab class number; absent classes have nothing.
    pub classes: std::collections::BTreeMap<u8, ClassStats>,
    /// Items now.
    pub curr_items: u64,
    /// Items ever stored.
    pub total_items: u64,
    /// Bytes of live items by memcached's accounting (`bytes`).
    pub bytes: u64,
    /// Bytes the limit allows.
    pub limit: u64,
    /// Bytes charged to the budget in all: segments, index, ghosts, large values.
    pub used: u64,
    /// Bytes of the index (`hash_bytes`).
    pub index_bytes: u64,
    /// log2 of the index's slots, rounded up (`hash_power_level`).
    pub index_power: u32,
    /// Whether the index is growing now.
    pub index_growing: bool,
    /// Bytes of large values that only replies on their way still hold.
    pub pinned_bytes: u64,
    /// Bytes of ghost entries.
    pub ghost_bytes: u64,
    /// Bytes in segments, in buffers that are cut into pieces, and of descriptions, that belong to no live item.
    pub dead_bytes: u64,
    /// Versions from the peer that were more than an hour ahead of this node's wall clock.
    pub strange_versions: u64,
}

/// memcached's slab class of an item, so that monitors see the class numbers they know.
///
/// The size is memcached's own: 48-byte header, 8-byte CAS, key and NUL, 4 bytes for non-zero flags,
/// value and CRLF; the classes grow by 1.25 from 96 bytes (its defaults).
#[inline]
pub fn memcached_size(key_len: usize, value_len: usize, flags: u32, cas: bool) -> usize {
    48 + if cas { 8 } else { 0 } + key_len + 1 + if flags == 0 { 0 } else { 4 } + value_len + 2
}

/// How many slab classes memcached has by default.
pub const SLAB_CLASSES: usize = 39;

/// Chunk sizes of memcached's slab classes 1 to 39 with its defaults: from 96 bytes, each 1.25 times
/// the one before in multiples of 8, and 512 KiB at last.
pub const SLAB_SIZES: [usize; SLAB_CLASSES] = {
    let mut sizes = [512 << 10; SLAB_CLASSES];
    let mut size: usize = 96;
    let mut class = 0;
    while class < SLAB_CLASSES - 1 {
        size = size.next_multiple_of(8);
        sizes[class] = size;
        size = size * 5 / 4;
        class += 1;
    }
    sizes
};

/// The classes of sizes up to 2 KiB, by eight bytes: most items are found here.
const SMALL_CLASSES: [u8; 257] = {
    let mut classes = [1; 257];
    let mut eighth = 0;
    while eighth < classes.len() {
        let mut class = 0;
        while SLAB_SIZES[class] < eighth * 8 {
            class += 1;
        }
        classes[eighth] = class as u8 + 1;
        eighth += 1;
    }
    classes
};

/// The slab class memcached would put an item of that size in.
#[inline]
pub fn memcached_class(size: usize) -> u8 {
    if let Some(&class) = SMALL_CLASSES.get(size.div_ceil(8)) {
        return class;
    }
    let below = SLAB_SIZES.partition_point(|&chunk| chunk < size);
    below.min(SLAB_CLASSES - 1) as u8 + 1
}

/// Whether memcached would keep an item of that size in several chunks: it never looks for a number there.
pub(crate) const fn is_chunked(size: usize) -> bool {
    size > SLAB_SIZES[SLAB_CLASSES - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slab_classes_are_memcacheds() {
        assert_eq!(SLAB_SIZES[..8], [96, 120, 152, 192, 240, 304, 384, 480]);
        assert_eq!(SLAB_SIZES[35..], [252_696, 315_872, 394_840, 524_288]);
        for size in 1..3000 {
            let class = usize::from(memcached_class(size));
            assert!(SLAB_SIZES[class - 1] >= size && (class == 1 || SLAB_SIZES[class - 2] < size), "{size}");
        }
        for (size, class) in [(1, 1), (96, 1), (97, 2), (524_288, 39), (1 << 20, 39)] {
            assert_eq!(memcached_class(size), class, "{size}");
        }
    }
}
