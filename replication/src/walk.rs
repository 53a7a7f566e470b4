//! A walk over a store, in pieces: what copies, catch-ups and comparisons have in common.

use bytes::BytesMut;

use crate::change::Change;
use crate::dirty::DirtyMap;
use crate::store::Store;

/// How far a walk is, and what it is for.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Walks are numbered, so that one that was cut is recognised.
    pub number: u64,
    /// The shard it is in,
    pub shard: usize,
    /// and the place in it.
    pub cursor: u64,
    /// Only what is in there is wanted; everything, if there is none.
    pub wanted: Option<DirtyMap>,
    /// Items it came by.
    pub items: u64,
    /// Bytes it found.
    pub bytes: u64,
}

impl Walk {
    /// A walk over everything.
    pub fn over_all(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// A walk for what `wanted` says.
    pub fn for_dirty(number: u64, wanted: DirtyMap) -> Self {
        Self { number, wanted: Some(wanted), ..Self::default() }
    }

    /// It begins here.
    pub fn is_at_start(&self) -> bool {
        self.shard == 0 && self.cursor == 0
    }

    /// Nothing is left.
    pub fn is_over(&self, store: &dyn Store) -> bool {
        self.shard >= store.shards()
    }

    /// The written items of the next piece, of about `bytes_max`, as they are.
    pub fn collect(&mut self, bytes_max: usize, store: &dyn Store, payload: &mut BytesMut) {
        let wanted = self.wanted.take();
        self.step(bytes_max, store, payload, &mut |change, payload| {
            let is_wanted = match (&wanted, change.key_and_version()) {
                (Some(wanted), Some((key, version))) => wanted.is_written(key, version),
                _ => true,
            };
            if is_wanted {
                change.encode(payload);
            }
        });
        self.wanted = wanted;
    }

    /// Shows `visit` the next items, until about `bytes_max` are found or enough was looked at.
    pub fn step(
        &mut self,
        bytes_max: usize,
        store: &dyn Store,
        payload: &mut BytesMut,
        visit: &mut dyn FnMut(&Change<'_>, &mut BytesMut),
    ) {
        let before = payload.len();
        for _ in 0..SCANS_MAX {
            if self.is_over(store) || payload.len() >= bytes_max {
                break;
            }
            let room = bytes_max.saturating_sub(payload.len()).clamp(1, SCAN_BYTES);
            let items = &mut self.items;
            let next = store.scan(self.shard, self.cursor, room, &mut |change| {
                *items += 1;
                visit(change, payload);
            });
            (self.shard, self.cursor) = next.map_or((self.shard + 1, 0), |cursor| (self.shard, cursor));
        }
        self.bytes += (payload.len() - before) as u64;
    }
}

/// Bytes of items visited at a time: clients that need the same shard wait for no longer than that takes.
const SCAN_BYTES: usize = 8 << 10;

/// Not more steps in one go, however sparse the store is, or what is wanted of it.
const SCANS_MAX: usize = 64;
