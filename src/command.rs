//! The vocabulary between `protocol` and `engine`: commands, outcomes, values. Pure data.
//!
//! A codec turns bytes into [`Command`]s and an engine answers each with an [`Outcome`], which the
//! codec's formatter turns into bytes again. Neither knows the other; both know this file. One
//! command set serves the classic text protocol, the meta protocol and the binary protocol, so no
//! semantics exist twice.
//!
//! Times are never read here: whoever has a clock reads it once per batch into a [`Now`].

use std::borrow::Cow;

use bytes::Bytes;

/// One reading of the clocks, taken once per batch of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Engine seconds: whole seconds since the process started, plus [`Now::FIRST`]. Monotonic.
    pub secs: u32,
    /// Unix time in seconds at engine second 0, so that `unix_zero + secs` is the wall clock.
    pub unix_zero: u64,
    /// Milliseconds since 2024-01-01T00:00:00Z by the wall clock: what the version clock follows.
    pub wall_ms: u64,
}

impl Now {
    /// The engine second at which a process starts. Deadline 0 means "never" and 1 "long ago".
    pub const FIRST: u32 = 2;

    /// Unix time in seconds.
    pub const fn unix(self) -> u64 {
        self.unix_zero + self.secs as u64
    }
}

/// When an item dies, in engine seconds: dead from that second on (`deadline <= now`); 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Deadline(pub u32);

impl Deadline {
    /// The item stays until it is deleted or evicted.
    pub const NEVER: Self = Self(0);
    /// The item was dead before it was stored (a negative exptime, or a unix time before start).
    pub const PAST: Self = Self(1);

    /// Whether an item with this deadline is dead at `now`.
    pub const fn is_over(self, now: Now) -> bool {
        self.0 != 0 && self.0 <= now.secs
    }

    /// Seconds left at `now`, or `None` for an item that never dies.
    pub const fn left(self, now: Now) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.saturating_sub(now.secs)) }
    }
}

/// An expiration time as a client writes it: 0 never, negative at once, up to 30 days relative to
/// now, larger a unix time (memcached's protocol.txt, "Expiration times").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exptime(pub i64);

impl Exptime {
    /// Largest value taken as relative: 30 days in seconds.
    pub const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;

    /// The instant meant, for a command that arrives at `now`.
    pub fn deadline(self, now: Now) -> Deadline {
        match self.0 {
            0 => Deadline::NEVER,
            n if n < 0 => Deadline::PAST,
            n if n <= Self::RELATIVE_MAX => Deadline(now.secs.saturating_add(n as u32)),
            n => match (n as u64).checked_sub(now.unix_zero) {
                // At or before the start of the process: dead at once.
                Some(secs) if secs > u64::from(Now::FIRST) => {
                    Deadline(u32::try_from(secs).unwrap_or(u32::MAX))
                }
                _ => Deadline::PAST,
            },
        }
    }
}

/// One item command. Keys are 1 to 250 bytes; the codec has checked that.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    /// The key as stored; owned only where it had to be decoded from base64.
    pub key: Cow<'a, [u8]>,
    /// What to do with it.
    pub op: Op<'a>,
}

/// What a command does to its item.
#[derive(Clone, Debug)]
pub enum Op<'a> {
    /// Read as a classic `get` does: what [`Op::Get`] does by default, for those who show no more than a
    /// [`Shown`]. Answers [`Outcome::Value`] or [`Outcome::Miss`].
    Read,
    /// Read, with the side effects a read can have. Answers [`Outcome::Hit`] or [`Outcome::Miss`].
    Get(Get),
    /// Look without being seen: no statistics of hits, no bump (meta `me`, dumps).
    Inspect,
    /// Write a whole value. Answers `Stored`, `NotStored`, `Exists`, `NotFound`, `TooLarge`, `OutOfMemory`.
    Store(Store<'a>),
    /// Remove or invalidate. Answers `Deleted`, `NotFound`, `Exists`.
    Delete(Delete),
    /// Add to or subtract from a decimal number. Answers `Number`, `NonNumeric`, `NotFound`, `Exists`,
    /// `NotStored` (lost the race to create it), `OutOfMemory`.
    Arith(Arith),
    /// Change the deadline. Answers `Touched`, `NotFound`. Keeps value and CAS unique.
    Touch(Exptime),
    /// A store was announced that the server refuses (larger than the item limit, no memory for its
    /// body). Answers `TooLarge` or `OutOfMemory` as asked.
    Refuse(Refuse),
}

/// A store that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why not.
    pub why: Refusal,
    /// What it would have been.
    pub mode: StoreMode,
    /// It named a CAS unique.
    pub compares: bool,
    /// The item it would have replaced goes, so that no stale data stays.
    pub drops: bool,
}

/// Why a store never reached the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Larger than the configured item size.
    TooLarge,
    /// There was no memory for the body.
    OutOfMemory,
}

/// Which statistics a read counts in (memcached counts `gat` as a touch, not as a get).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadKind {
    /// `get`, `gets`, binary get.
    #[default]
    Get,
    /// `gat`, `gats`, binary gat: `cmd_touch`, `touch_hits`, `touch_misses` only.
    GetAndTouch,
    /// `mg`: `cmd_meta` and `cmd_get`; with a `T` flag `cmd_touch` and `touch_hits` too.
    Meta,
}

/// A read.
#[derive(Clone, Debug, Default)]
pub struct Get {
    /// Where it counts.
    pub kind: ReadKind,
    /// New deadline for a hit (`gat`, meta `T`).
    pub touch: Option<Exptime>,
    /// On a miss create an empty item with this deadline and win the right to fill it (meta `N`).
    pub vivify: Option<Exptime>,
    /// Win the right to refresh when fewer than this many seconds are left (meta `R`).
    pub recache: Option<i64>,
    /// The seconds left are those after `touch`, which was named first.
    pub recache_after_touch: bool,
    /// CAS unique for an item that `vivify` creates (meta `E`).
    pub explicit: Option<u64>,
    /// The key was sent in base64: an item that `vivify` creates remembers it.
    pub binary_key: bool,
    /// The read leaves no trace: neither last access nor "was read" change (meta `u`).
    pub no_bump: bool,
}

/// How a store treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StoreMode {
    /// Always.
    #[default]
    Set,
    /// Only if the key is missing.
    Add,
    /// Only if the key is there.
    Replace,
    /// Behind the value that is there.
    Append,
    /// Before the value that is there.
    Prepend,
}

/// A write of a whole value.
#[derive(Clone, Debug)]
pub struct Store<'a> {
    /// How it treats what is there.
    pub mode: StoreMode,
    /// Opaque client flags. Append and prepend keep the item's own.
    pub flags: u32,
    /// Deadline. Append and prepend keep the item's own.
    pub exptime: Exptime,
    /// The bytes.
    pub value: Payload<'a>,
    /// Store only if the item's CAS unique is this (`cas`, meta `C`, binary cas field): otherwise
    /// `Exists`, and `NotFound` for a missing key.
    pub compare: Option<u64>,
    /// With `compare`: if that is lower than the item's, store and mark the item stale (meta `I`).
    pub invalidate: bool,
    /// Append and prepend only: create a missing item with this deadline (meta `N`).
    pub vivify: Option<Exptime>,
    /// The CAS unique the item gets instead of its version (meta `E`).
    pub explicit: Option<u64>,
    /// The key was sent in base64.
    pub binary_key: bool,
}

/// The bytes of a store.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// A value up to `Engine::inline_max`, or one that came in one buffer anyway.
    Bytes(&'a [u8]),
    /// A large value that was read straight into pages from `Engine::reserve`.
    Pages(Pages),
}

impl Payload<'_> {
    /// Bytes of the value.
    pub fn len(&self) -> usize {
        match self {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Pages(pages) => pages.len(),
        }
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A removal.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// Only if the item's CAS unique is this.
    pub compare: Option<u64>,
    /// Keep the item but mark it stale and give it a new CAS unique (meta `I`).
    pub invalidate: bool,
    /// With `invalidate` or `drop_value`: the item's new deadline (meta `T`).
    pub touch: Option<Exptime>,
    /// Keep the item but without value and flags (meta `x`).
    pub drop_value: bool,
    /// CAS unique for the item that stays (meta `E`).
    pub explicit: Option<u64>,
}

/// incr and decr.
#[derive(Clone, Debug)]
pub struct Arith {
    /// Add (wrapping at 2^64) or subtract (stopping at 0).
    pub increment: bool,
    /// By how much.
    pub delta: u64,
    /// Create a missing item with this number and deadline (binary, meta `N` and `J`); delta is not applied to it.
    pub initial: Option<(u64, Exptime)>,
    /// Only if the item's CAS unique is this.
    pub compare: Option<u64>,
    /// New deadline for a hit (meta `T`).
    pub touch: Option<Exptime>,
    /// CAS unique the item gets (meta `E`).
    pub explicit: Option<u64>,
    /// The key was sent in base64: an item that `initial` creates remembers it.
    pub binary_key: bool,
}

/// What became of one command. Borrowed parts are valid during the call to [`Replies::reply`] only.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Read: what is shown of the item.
    Value(Shown<'a>),
    /// Get, Inspect: the item as it was found.
    Hit(Hit<'a>),
    /// Read, Get, Inspect: no such item.
    Miss,
    /// Store: done.
    Stored(Kept),
    /// Store: the mode forbade it (add on a present key, replace/append/prepend on a missing one).
    NotStored,
    /// Store, Delete, Arith: the CAS unique did not match.
    Exists,
    /// Store with compare, Delete, Arith, Touch: no such item.
    NotFound,
    /// Delete: done (removed, or invalidated).
    Deleted(Kept),
    /// Touch: done; the item, for protocols that answer with it.
    Touched(Hit<'a>),
    /// Arith: the new number and the item that holds it.
    Number(u64, Hit<'a>),
    /// Arith: the value is no decimal number of at most 20 digits.
    NonNumeric,
    /// Store: larger than the item limit; the item it would have replaced is gone.
    TooLarge,
    /// Store, Arith: no memory; the item it would have replaced is gone.
    OutOfMemory,
}

/// What a write left behind, for replies that show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Kept {
    /// CAS unique of the item as stored (0 when nothing stays).
    pub cas: u64,
    /// Bytes of the value as stored.
    pub len: usize,
}

/// What a classic `get` shows of an item.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The value.
    pub value: Value<'a>,
    /// Client flags.
    pub flags: u32,
    /// CAS unique (explicit one if it has one, else its version). 0 if CAS is off.
    pub cas: u64,
}

/// An item as a command found it: the state *before* the command's own touch and bump, with what
/// they changed beside it, because meta flags are answered in request order.
#[derive(Debug)]
pub struct Hit<'a> {
    /// The value.
    pub value: Value<'a>,
    /// Client flags.
    pub flags: u32,
    /// CAS unique (explicit one if it has one, else its version). 0 if CAS is off.
    pub cas: u64,
    /// Deadline before this command touched it.
    pub deadline: Deadline,
    /// Deadline after.
    pub deadline_after: Deadline,
    /// Seconds since it was last read or written, before this command (meta `l`).
    pub idle_secs: u32,
    /// It had been read before this command (meta `h`).
    pub fetched: bool,
    /// Its key came in base64.
    pub binary_key: bool,
    /// This command won the right to refresh or fill it (meta `W`).
    pub won: bool,
    /// It is marked stale (meta `X`).
    pub stale: bool,
    /// Somebody else already holds the right to refresh it (meta `Z`).
    pub win_sent: bool,
    /// It did not exist: this command's `vivify` or `initial` made it.
    pub created: bool,
    /// memcached's slab class for its size, 1 to 63, for monitors.
    pub class: u8,
    /// Bytes it takes by memcached's accounting (`me`, watch, dumps).
    pub size: usize,
}

impl<'a> Hit<'a> {
    /// The part of it that a classic `get` shows.
    pub const fn shown(&self) -> Shown<'a> {
        Shown { value: self.value, flags: self.flags, cas: self.cas }
    }
}

/// The bytes of a found value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// In one piece; copy it out during the call.
    Inline(&'a [u8]),
    /// In shared pages; clone the handle and write it without copying.
    Pages(&'a Pages),
}

impl Value<'_> {
    /// Bytes of the value.
    pub fn len(&self) -> usize {
        match self {
            Value::Inline(bytes) => bytes.len(),
            Value::Pages(pages) => pages.len(),
        }
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A large value in shared chunks: cloning shares, and the memory is given back to the engine's
/// budget when the last holder (the index, or a reply on its way) lets go.
#[derive(Clone, Debug)]
pub struct Pages {
    len: usize,
    chunks: std::sync::Arc<[Bytes]>,
}

impl Pages {
    /// The chunks, in order. Any guard that gives memory back lives in the chunks' owners.
    pub fn new(chunks: impl Into<std::sync::Arc<[Bytes]>>) -> Self {
        let chunks = chunks.into();
        Self { len: chunks.iter().map(Bytes::len).sum(), chunks }
    }

    /// Bytes of the value.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the value has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }
}

/// Where an engine delivers outcomes: called once per command, in the order of the batch, while the
/// key's shard is locked. So: format into a buffer, never block, never call the engine.
pub trait Replies {
    /// The outcome of `batch[index]`.
    fn reply(&mut self, index: usize, outcome: Outcome<'_>);
}
