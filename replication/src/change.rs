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
//!
//! ```text
//! put    1 | bits | key length | flags:4 | deadline:4 | version:8 | [explicit:8] | value length:4 | key | value
//! touch  2 | key length | deadline:4 | version:8 | key
//! delete 3 | key length | version:8 | key
//! flush  4 | floor:8
//! flush  5 | deadline:4          (delayed)
//! ```
//! Little endian; lengths of keys are one byte, kind and bits are one byte.

use bytes::{Buf, BufMut};

/// Keys are 1 to so many bytes long.
pub const KEY_BYTES_MAX: usize = 250;

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

/// What came of merging a change of the peer ([`crate::store::Store::merge`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is done, and recorded.
    Taken,
    /// What is here is as new, or there was nothing to do.
    Kept,
    /// It may not be, or there is no memory for it.
    Refused,
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

const PUT: u8 = 1;
const TOUCH: u8 = 2;
const DELETE: u8 = 3;
const FLUSH: u8 = 4;
const FLUSH_AT: u8 = 5;

const STALE: u8 = 1;
const WIN_SENT: u8 = 2;
const BINARY_KEY: u8 = 4;
const EXPLICIT: u8 = 8;
const BITS_KNOWN: u8 = STALE | WIN_SENT | BINARY_KEY | EXPLICIT;

/// Bytes that are no change. Whoever sent them is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// They end in the middle.
    Truncated,
    /// No change is of this kind.
    UnknownKind(u8),
    /// A bit nobody knows is set.
    UnknownBits(u8),
    /// A key of no bytes, or of too many.
    KeyLength(usize),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => write!(f, "a change ends in the middle"),
            Self::UnknownKind(kind) => write!(f, "a change of unknown kind {kind}"),
            Self::UnknownBits(bits) => write!(f, "a change with unknown bits {bits:#04x}"),
            Self::KeyLength(bytes) => write!(f, "a change with a key of {bytes} bytes"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl<'a> Change<'a> {
    /// How many bytes [`Change::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Put(put) => {
                23 + if put.explicit.is_some() { 8 } else { 0 } + put.key.len() + put.value.len()
            }
            Self::Touch { key, .. } => 14 + key.len(),
            Self::Delete { key, .. } => 10 + key.len(),
            Self::Flush { .. } => 9,
            Self::FlushAt { .. } => 5,
        }
    }

    /// Appends the change to `target`.
    ///
    /// # Panics
    /// If a key is empty or longer than [`KEY_BYTES_MAX`], or a value has more than `u32::MAX` bytes:
    /// nobody can have stored such an item.
    pub fn encode(&self, target: &mut impl BufMut) {
        match self {
            Self::Put(put) => put.encode(target),
            Self::Touch { key, deadline, version } => {
                target.put_u8(TOUCH);
                target.put_u8(key_length(key));
                target.put_u32_le(*deadline);
                target.put_u64_le(*version);
                target.put_slice(key);
            }
            Self::Delete { key, version } => {
                target.put_u8(DELETE);
                target.put_u8(key_length(key));
                target.put_u64_le(*version);
                target.put_slice(key);
            }
            Self::Flush { floor } => {
                target.put_u8(FLUSH);
                target.put_u64_le(*floor);
            }
            Self::FlushAt { deadline } => {
                target.put_u8(FLUSH_AT);
                target.put_u32_le(*deadline);
            }
        }
    }

    /// The first change in `source`, and how many bytes it takes. Borrows from `source`.
    pub fn decode(source: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader { rest: source };
        let change = match reader.u8()? {
            PUT => Self::Put(Put::decode(&mut reader)?),
            TOUCH => {
                let length = reader.key_length()?;
                let (deadline, version) = (reader.u32()?, reader.u64()?);
                Self::Touch { key: reader.bytes(length)?, deadline, version }
            }
            DELETE => {
                let length = reader.key_length()?;
                let version = reader.u64()?;
                Self::Delete { key: reader.bytes(length)?, version }
            }
            FLUSH => Self::Flush { floor: reader.u64()? },
            FLUSH_AT => Self::FlushAt { deadline: reader.u32()? },
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        };
        Ok((change, source.len() - reader.rest.len()))
    }

    /// The changes in `source`, one behind the other; the last may be an error.
    pub fn decode_all(source: &'a [u8]) -> impl Iterator<Item = Result<Self, DecodeError>> {
        let mut rest = source;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let decoded = Self::decode(rest);
            rest = decoded.as_ref().map_or(&[], |(_, used)| &rest[*used..]);
            Some(decoded.map(|(change, _)| change))
        })
    }

    /// The change with its deadline moved from a clock that reads `theirs` to one that reads `ours`.
    #[must_use]
    pub fn translated(self, theirs: u32, ours: u32) -> Self {
        let moved = |deadline| translate(deadline, theirs, ours);
        match self {
            Self::Put(put) => Self::Put(Put { deadline: moved(put.deadline), ..put }),
            Self::Touch { key, deadline, version } => Self::Touch { key, deadline: moved(deadline), version },
            Self::FlushAt { deadline } => Self::FlushAt { deadline: moved(deadline) },
            other @ (Self::Delete { .. } | Self::Flush { .. }) => other,
        }
    }

    /// The key it is about, if it is about one, and when it was made, if that orders it.
    pub fn key_and_version(&self) -> Option<(&'a [u8], u64)> {
        match self {
            Self::Put(put) => Some((put.key, put.version)),
            Self::Touch { key, version, .. } | Self::Delete { key, version } => Some((key, *version)),
            Self::Flush { .. } | Self::FlushAt { .. } => None,
        }
    }
}

impl<'a> Put<'a> {
    /// Bytes before the key.
    const HEAD_BYTES_MAX: usize = 31;

    #[inline]
    fn encode(&self, target: &mut impl BufMut) {
        let Bits { stale, win_sent, binary_key } = self.bits;
        let mut bits = 0;
        for (set, bit) in [
            (stale, STALE),
            (win_sent, WIN_SENT),
            (binary_key, BINARY_KEY),
            (self.explicit.is_some(), EXPLICIT),
        ] {
            bits |= if set { bit } else { 0 };
        }
        let value_bytes = u32::try_from(self.value.len()).expect("no item is as long as 4 GiB");
        // What lies before the key, at once: this is done under a shard's lock, and each piece asks for room.
        let mut head = [0; Self::HEAD_BYTES_MAX];
        [head[0], head[1], head[2]] = [PUT, bits, key_length(self.key)];
        head[3..7].copy_from_slice(&self.flags.to_le_bytes());
        head[7..11].copy_from_slice(&self.deadline.to_le_bytes());
        head[11..19].copy_from_slice(&self.version.to_le_bytes());
        let mut length = 19;
        if let Some(explicit) = self.explicit {
            head[19..27].copy_from_slice(&explicit.to_le_bytes());
            length = 27;
        }
        head[length..length + 4].copy_from_slice(&value_bytes.to_le_bytes());
        target.put_slice(&head[..length + 4]);
        target.put_slice(self.key);
        match self.value {
            Bytes::Whole(value) => target.put_slice(value),
            Bytes::Chunks(chunks) => chunks.iter().for_each(|chunk| target.put_slice(chunk)),
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bits = reader.u8()?;
        if bits & !BITS_KNOWN != 0 {
            return Err(DecodeError::UnknownBits(bits));
        }
        let key_bytes = reader.key_length()?;
        let (flags, deadline, version) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let explicit = if bits & EXPLICIT != 0 { Some(reader.u64()?) } else { None };
        let value_bytes = reader.u32()? as usize;
        let key = reader.bytes(key_bytes)?;
        let value = Bytes::Whole(reader.bytes(value_bytes)?);
        let bits = Bits {
            stale: bits & STALE != 0,
            win_sent: bits & WIN_SENT != 0,
            binary_key: bits & BINARY_KEY != 0,
        };
        Ok(Self { key, value, flags, deadline, version, explicit, bits })
    }
}

impl<'a> Bytes<'a> {
    /// How many they are.
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(whole) => whole.len(),
            Self::Chunks(chunks) => chunks.iter().map(bytes::Bytes::len).sum(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In order.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let (whole, chunks): (Option<&'a [u8]>, &'a [bytes::Bytes]) = match self {
            Self::Whole(whole) => (Some(whole), &[]),
            Self::Chunks(chunks) => (None, chunks),
        };
        whole.into_iter().chain(chunks.iter().map(|chunk| &chunk[..]))
    }
}

/// A deadline moves by what the clocks differ. What has passed stays passed: it never becomes 0,
/// which would mean never.
fn translate(deadline: u32, theirs: u32, ours: u32) -> u32 {
    if deadline == 0 {
        return 0;
    }
    let moved = i64::from(deadline) - i64::from(theirs) + i64::from(ours);
    moved.clamp(1, i64::from(u32::MAX)) as u32
}

fn key_length(key: &[u8]) -> u8 {
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "an item has a key of 1 to 250 bytes");
    key.len() as u8
}

/// Takes from the front of a slice, or says that it is too short.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.bytes(1)?.get_u8())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.bytes(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(self.bytes(8)?.get_u64_le())
    }

    fn key_length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::from(self.u8()?);
        if (1..=KEY_BYTES_MAX).contains(&length) { Ok(length) } else { Err(DecodeError::KeyLength(length)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type AnyPut = (Vec<u8>, Vec<Vec<u8>>, u32, u32, u64, Option<u64>, [bool; 3]);

    fn any_put() -> impl Strategy<Value = AnyPut> {
        (
            prop::collection::vec(any::<u8>(), 1..=250),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
            any::<Option<u64>>(),
            any::<[bool; 3]>(),
        )
    }

    fn encoded(change: &Change<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        assert_eq!(bytes.len(), change.encoded_len());
        bytes
    }

    proptest! {
        #[test]
        fn a_put_arrives_as_it_was((key, pieces, flags, deadline, version, explicit, set) in any_put()) {
            let bits = Bits { stale: set[0], win_sent: set[1], binary_key: set[2] };
            let chunks: Vec<bytes::Bytes> = pieces.iter().cloned().map(bytes::Bytes::from).collect();
            let value = pieces.concat();
            let put = |value| Put { key: &key, value, flags, deadline, version, explicit, bits };
            let sent = Change::Put(put(Bytes::Chunks(&chunks)));
            let bytes = encoded(&sent);
            let (came, used) = Change::decode(&bytes).unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(came, Change::Put(put(Bytes::Whole(&value))));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Change::decode(&bytes[..cut]), Err(DecodeError::Truncated));
            }
        }

        #[test]
        fn any_bytes_are_changes_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut used = 0;
            for change in Change::decode_all(&bytes) {
                let Ok(change) = change else { break };
                let again = encoded(&change);
                prop_assert_eq!(&again[..], &bytes[used..used + again.len()]);
                used += again.len();
            }
        }
    }

    #[test]
    fn the_other_kinds_arrive_as_they_were() {
        let key = b"key".as_slice();
        let all = [
            Change::Touch { key, deadline: 7, version: 8 },
            Change::Delete { key, version: u64::MAX },
            Change::Flush { floor: 9 },
            Change::FlushAt { deadline: 10 },
        ];
        let bytes: Vec<u8> = all.iter().flat_map(encoded).collect();
        let came: Vec<_> = Change::decode_all(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(came, all);
    }

    #[test]
    fn a_deadline_keeps_its_distance_from_now() {
        assert_eq!(translate(0, 5, 900), 0, "never stays never");
        assert_eq!(translate(110, 100, 5), 15);
        assert_eq!(translate(5, 2, 1_000), 1_003);
        assert_eq!(translate(50, 100, 20), 1, "passed long ago stays passed");
        assert_eq!(translate(u32::MAX, 1, 10), u32::MAX);
    }

    #[test]
    fn a_key_of_no_bytes_or_too_many_is_refused() {
        assert_eq!(Change::decode(&[DELETE, 0]), Err(DecodeError::KeyLength(0)));
        assert_eq!(Change::decode(&[DELETE, 251]), Err(DecodeError::KeyLength(251)));
        assert_eq!(Change::decode(&[PUT, 16]), Err(DecodeError::UnknownBits(16)));
        assert_eq!(Change::decode(&[77]), Err(DecodeError::UnknownKind(77)));
    }
}
