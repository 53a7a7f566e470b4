//! Changes not yet everywhere: a bounded ring per shard.

use bytes::BytesMut;

use crate::change::Change;

/// The rings of all shards, sharing one budget of bytes.
pub struct Backlog {}

/// What [`Backlog::read_from`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing was recorded behind that sequence yet.
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
    /// Rings for `shards` shards that hold `bytes_max` bytes together. Records nothing until
    /// [`Backlog::enable`].
    pub fn new(_shards: usize, _bytes_max: usize) -> Self {
        Self {}
    }

    /// Records from now on (a peer is, or may be, there).
    pub fn enable(&self) {}

    /// What to call when there is news: at most once per [`Backlog::arm`]. Called under a shard's
    /// lock, so it must only wake somebody. Can be set once.
    pub fn set_wake(&self, _wake: Box<dyn Fn() + Send + Sync>) {}

    /// Asks for one wake at the next record. Call it, then drain what is there, then wait.
    pub fn arm(&self) {}

    /// Records `change` as the next of `shard`. Called under the engine's lock of that shard; copies
    /// a bounded number of bytes and never waits for anything but the ring.
    pub fn record(&self, _shard: usize, _change: &Change<'_>) {}

    /// The last sequence of each shard; 0 is none.
    pub fn last(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Appends changes of `shard`, from `sequence` on, up to about `bytes_max` but at least one.
    pub fn read_from(&self, _shard: usize, _sequence: u64, _bytes_max: usize, _out: &mut BytesMut) -> Read {
        Read::Empty
    }

    /// Forgets everything and numbers from 1 again: a new history begins.
    pub fn restart(&self) {}

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        0
    }
}
