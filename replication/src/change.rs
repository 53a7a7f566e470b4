//! The effect of a command on an item: what the master records and the backup applies.
//!
//! Changes are results, not operations: `incr`, `append`, meta and binary writes all become a
//! [`Put`] of the final value, so applying one twice, or late, does no harm: an older version never
//! replaces a newer one. One encoding serves the wire, the backlog and (later) the disk.
//!
//! Versions are 64-bit hybrid logical clocks: `ms since 2024-01-01: 42 | counter: 13 | shard: 8 |
//! slot: 1`, unique over both nodes, and the item's CAS unique at the same time.
//!
//! Deadlines are in seconds of the *sender's* engine clock (0 never). Every frame says what that
//! clock reads, so the receiver translates and wall clocks may differ.

/// The effect of one command on one item (or, for flushes, on all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The item is now this.
    Put(Put<'a>),
    /// The item of exactly this version has a new deadline; touching does not change a version.
    Touch {
        /// Whose.
        key: &'a [u8],
        /// In the sender's engine seconds, 0 never.
        deadline: u32,
        /// The version the touched item had.
        version: u64,
    },
    /// There is no such item (also recorded when the sender had none: the peer might).
    Delete {
        /// Whose.
        key: &'a [u8],
        /// When, on the version clock: an item newer than this stays.
        version: u64,
    },
    /// Items whose version is below `floor` are dead (`flush_all`).
    Flush {
        /// The new floor; it only rises.
        floor: u64,
    },
    /// A delayed `flush_all`: at that second of the sender's clock a `Flush` will follow from whoever
    /// is master then. 0 cancels a pending one.
    FlushAt {
        /// In the sender's engine seconds.
        deadline: u32,
    },
}

/// A whole item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// Its bytes, in order.
    pub value: Bytes<'a>,
    /// Opaque client flags.
    pub flags: u32,
    /// In the sender's engine seconds, 0 never.
    pub deadline: u32,
    /// When it was written, on the version clock.
    pub version: u64,
    /// The CAS unique a client gave it instead of its version (meta `E`).
    pub explicit: Option<u64>,
    /// See [`Bits`].
    pub bits: Bits,
}

/// The bytes of a value: in one piece, or in the chunks it is stored in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes<'a> {
    /// One piece.
    Whole(&'a [u8]),
    /// Chunks, in order.
    Chunks(&'a [bytes::Bytes]),
}

/// What the meta protocol remembers of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// Marked stale by an invalidation.
    pub stale: bool,
    /// Somebody won the right to refresh it.
    pub win_sent: bool,
    /// Its key came in base64.
    pub binary_key: bool,
}
