//! What is replicated, as the pair sees it: something that takes changes and can be walked.
//!
//! Implemented over the engine elsewhere, and over a map in `testing`. All of it may be
//! called from the thread that runs the pair while clients' commands run on others.

use crate::change::Change;
pub use crate::change::Merged;

/// The items of this node.
pub trait Store: Send + Sync {
    /// How many shards it has: the number of independent streams this node sends as master.
    fn shards(&self) -> usize;

    /// How many items are there.
    fn items(&self) -> u64;

    /// Forgets every item: a full copy is about to arrive.
    fn clear(&self);

    /// Applies a change of the peer: kept only if newer than what is here, and not recorded.
    /// Deadlines are already in this store's seconds.
    fn apply(&self, change: &Change<'_>);

    /// The same, but an item that is not here is not created if `is_gone` says that it was deleted here; which is asked
    /// with its shard, under that shard's lock.
    fn apply_unless(&self, change: &Change<'_>, is_gone: &dyn Fn(usize) -> bool);

    /// Makes a change of the peer this node's own: kept only if newer than what is here, and then recorded
    /// as a client's would be. An item that is not here is created only if `may_create` says so, which is
    /// asked with its shard, under that shard's lock.
    fn merge(&self, change: &Change<'_>, may_create: &dyn Fn(usize) -> bool) -> Merged;

    /// Walks `shard` from `cursor` (0 to begin), calling `visit` with about `max_bytes` of items.
    /// Returns the next cursor, `None` at the end. What is there during the whole walk is visited.
    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64>;

    /// Calls `visit` with the change that recreates the item; `false` if there is none.
    fn read(&self, key: &[u8], visit: &mut dyn FnMut(&Change<'_>)) -> bool;

    /// Records what the item of `key` is, with a new version, or its absence: a copy elsewhere that
    /// differs is replaced. `theirs` is a version above that of such a copy, if there is one: it is recorded as
    /// deleted first, because it may be newer than anything here.
    fn restate(&self, key: &[u8], theirs: Option<u64>);

    /// What this store's clock reads, in seconds; deadlines are in it.
    fn secs(&self) -> u32;

    /// When a delayed flush is due, in this store's seconds.
    fn pending_flush(&self) -> Option<u32>;

    /// Which of the two nodes this is, stamped into versions so that no two nodes make the same one.
    fn set_slot(&self, slot: u8);
}
