//! What a peer that was away may lack, in fixed memory, however long it was away.
//!
//! A change that leaves the [backlog](crate::backlog) before the peer has it marks the *bucket* of its
//! key: one of 2^20, by a hash that is the same on both nodes. Written keys and removed ones (deleted,
//! or touched, which changes no version) are marked apart. With the range of versions that were
//! written, the map says which items to send: those in a written bucket and in that range, which are
//! little more than what really changed. It cannot say which keys are gone; but the peer can ask for
//! the items it has in removed buckets.
//!
//! Promise: a change that was noted is never forgotten. What the map says too much costs bytes.

use bytes::{Buf, BufMut, BytesMut};

use crate::change::Change;

/// Buckets of each kind: 128 KiB of bits.
const BUCKETS: usize = 1 << 20;
const WORDS: usize = BUCKETS / 64;

/// More marks than this are sent as bits, fewer one by one.
const LISTED_MAX: usize = BUCKETS / 32;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyMap {
    written: Buckets,
    removed: Buckets,
    /// The oldest version written; meaningless if nothing was.
    since: u64,
    /// The newest version noted.
    until: u64,
    /// The highest flush.
    floor: u64,
    /// A delayed flush was asked for, or cancelled.
    flush_at: bool,
}

/// One bit per bucket; no memory until the first is set.
#[derive(Clone, Default, PartialEq, Eq)]
struct Buckets(Vec<u64>);

impl std::fmt::Debug for Buckets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.0.iter().enumerate().filter(|(_, word)| **word != 0);
        formatter.debug_map().entries(words).finish()
    }
}

impl Buckets {
    fn mark(&mut self, bucket: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; WORDS];
        }
        self.0[bucket / 64] |= 1 << (bucket % 64);
    }

    fn has(&self, bucket: usize) -> bool {
        self.0.get(bucket / 64).is_some_and(|word| word >> (bucket % 64) & 1 == 1)
    }

    fn merge(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        (0..BUCKETS).filter(|bucket| self.has(*bucket))
    }

    fn encode(&self, target: &mut BytesMut) {
        let count = self.count();
        target.put_u32_le(count as u32);
        if count <= LISTED_MAX {
            self.all().for_each(|bucket| target.put_u32_le(bucket as u32));
        } else {
            self.0.iter().for_each(|word| target.put_u64_le(*word));
        }
    }

    fn decode(source: &mut &[u8]) -> Option<Self> {
        let count = source.try_get_u32_le().ok()? as usize;
        if count > LISTED_MAX {
            let words = (0..WORDS).map(|_| source.try_get_u64_le().ok());
            return words.collect::<Option<Vec<u64>>>().map(Self);
        }
        let mut buckets = Self::default();
        for _ in 0..count {
            let bucket = source.try_get_u32_le().ok()? as usize;
            if bucket >= BUCKETS {
                return None;
            }
            buckets.mark(bucket);
        }
        Some(buckets)
    }
}

impl DirtyMap {
    /// Nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.written.0.is_empty() && self.removed.0.is_empty() && self.floor == 0 && !self.flush_at
    }

    /// The peer may lack this change.
    pub fn note(&mut self, change: &Change<'_>) {
        match change {
            Change::Put(put) => self.note_written(put.key, put.version),
            Change::Delete { key, version } | Change::Touch { key, version, .. } => {
                self.removed.mark(bucket(key));
                self.until = self.until.max(*version);
            }
            Change::Flush { floor } => self.floor = self.floor.max(*floor),
            Change::FlushAt { .. } => self.flush_at = true,
        }
    }

    /// The peer may lack a put.
    pub fn note_written(&mut self, key: &[u8], version: u64) {
        let first = self.written.0.is_empty();
        self.since = if first { version } else { self.since.min(version) };
        self.until = self.until.max(version);
        self.written.mark(bucket(key));
    }

    /// Notes all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        self.since = match (self.written.0.is_empty(), other.written.0.is_empty()) {
            (false, false) => self.since.min(other.since),
            (false, true) => self.since,
            (true, _) => other.since,
        };
        self.until = self.until.max(other.until);
        self.floor = self.floor.max(other.floor);
        self.flush_at |= other.flush_at;
        self.written.merge(&other.written);
        self.removed.merge(&other.removed);
    }

    /// An item of this key and version is to be sent.
    pub fn is_written(&self, key: &[u8], version: u64) -> bool {
        (self.since..=self.until).contains(&version) && self.written.has(bucket(key))
    }

    /// Whether an item of this key and version is still there, and for how long, is to be asked.
    pub fn is_removed(&self, key: &[u8], version: u64) -> bool {
        version <= self.until && self.removed.has(bucket(key))
    }

    /// An item of this key and version may have been replaced or deleted by what was noted.
    pub fn is_suspect(&self, key: &[u8], version: u64) -> bool {
        let bucket = bucket(key);
        version < self.floor
            || (version <= self.until && (self.written.has(bucket) || self.removed.has(bucket)))
    }

    /// Something was deleted or touched.
    pub fn has_removed(&self) -> bool {
        !self.removed.0.is_empty()
    }

    /// Something was written, or flushed.
    pub fn has_written(&self) -> bool {
        !self.written.0.is_empty() || self.floor > 0
    }

    /// A delayed flush was asked for, or cancelled.
    pub fn has_flush_at(&self) -> bool {
        self.flush_at
    }

    /// The oldest version written, if one was.
    pub fn first_written(&self) -> Option<u64> {
        (!self.written.0.is_empty()).then_some(self.since)
    }

    /// The highest flush, if there was one.
    pub fn flush(&self) -> Option<Change<'static>> {
        (self.floor > 0).then_some(Change::Flush { floor: self.floor })
    }

    /// Buckets in which an item may be replaced, and in which one may be gone.
    pub fn counts(&self) -> (usize, usize) {
        (self.written.count(), self.removed.count())
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        8 * (self.written.0.len() + self.removed.0.len())
    }

    /// As it travels: versions, floor, a byte, then for each kind the number of its buckets and either
    /// the buckets or, where that is shorter, all bits.
    pub fn encode(&self, target: &mut BytesMut) {
        target.put_u64_le(self.since);
        target.put_u64_le(self.until);
        target.put_u64_le(self.floor);
        target.put_u8(u8::from(self.flush_at));
        self.written.encode(target);
        self.removed.encode(target);
    }

    /// The map that `bytes` are; `None` if they are none.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let source = &mut bytes;
        let since = source.try_get_u64_le().ok()?;
        let until = source.try_get_u64_le().ok()?;
        let floor = source.try_get_u64_le().ok()?;
        let flush_at = source.try_get_u8().ok()? != 0;
        let written = Buckets::decode(source)?;
        let removed = Buckets::decode(source)?;
        source.is_empty().then_some(Self { written, removed, since, until, floor, flush_at })
    }
}

/// Where a key is marked: the same place on every node, whatever its engine's hash.
fn bucket(key: &[u8]) -> usize {
    crc32c::crc32c(key) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(keys: u32) -> DirtyMap {
        let mut map = DirtyMap::default();
        for number in 0..keys {
            let (key, version) = (format!("key{number}").into_bytes(), u64::from(number) + 1000);
            match number % 3 {
                0 | 1 => map.note_written(&key, version),
                _ => map.note(&Change::Delete { key: &key, version }),
            }
        }
        map
    }

    #[test]
    fn what_was_noted_is_never_forgotten() {
        for keys in [1, 3, 100, 200_000] {
            let map = filled(keys);
            for number in 0..keys {
                let (key, version) = (format!("key{number}").into_bytes(), u64::from(number) + 1000);
                if number % 3 == 2 {
                    assert!(map.is_removed(&key, version) && map.is_removed(&key, 1), "{number}");
                } else {
                    assert!(map.is_written(&key, version), "{number}");
                }
                assert!(map.is_suspect(&key, version) && map.is_suspect(&key, 1));
                assert!(!map.is_suspect(&key, u64::from(keys) + 1000), "newer than all that was noted");
            }
            assert!(map.bytes() <= 256 * 1024);
        }
    }

    #[test]
    fn what_was_not_written_is_not_sent() {
        let map = filled(1000);
        assert!(!map.is_written(b"key0", 999), "older than everything that was written");
        let strangers = (0..10_000).filter(|number| map.is_written(format!("x{number}").as_bytes(), 1500));
        assert!(strangers.count() < 50, "of 10,000 keys, as many as chance wants share a bucket");
        assert!(DirtyMap::default().is_empty() && !map.is_empty());
    }

    #[test]
    fn a_touch_does_not_make_old_items_look_written() {
        let mut map = DirtyMap::default();
        map.note_written(b"new", 500);
        map.note(&Change::Touch { key: b"old", deadline: 7, version: 3 });
        assert!(!map.is_written(b"new", 3) && map.is_removed(b"old", 3));
        let mut other = DirtyMap::default();
        other.note(&Change::Touch { key: b"old", deadline: 7, version: 3 });
        other.merge(&map);
        assert_eq!(other, map);
    }

    #[test]
    fn a_map_arrives_as_it_was_and_other_bytes_are_refused() {
        for keys in [0, 1, 1000, 150_000] {
            let mut map = filled(keys);
            map.note(&Change::Flush { floor: 77 });
            map.note(&Change::FlushAt { deadline: 7 });
            let mut bytes = BytesMut::new();
            map.encode(&mut bytes);
            assert_eq!(DirtyMap::decode(&bytes), Some(map));
            assert_eq!(DirtyMap::decode(&bytes[..bytes.len() - 1]), None);
            bytes.put_u8(0);
            assert_eq!(DirtyMap::decode(&bytes), None);
        }
        let mut wild = BytesMut::new();
        DirtyMap::default().encode(&mut wild);
        wild.truncate(25);
        wild.put_u32_le(1);
        wild.put_u32_le(BUCKETS as u32);
        wild.put_u32_le(0);
        assert_eq!(DirtyMap::decode(&wild), None, "a bucket that does not exist");
    }
}
