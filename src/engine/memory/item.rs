//! How an item lies in a segment.
//!
//! ```text
//!  0 version u64 │ 8 deadline u32 │ 12 accessed u32 │ 16 word u32 │ [flags u32] [explicit u64] key value
//! ```
//! `word` is `key length: 8 | value length: 14 | marks: 10`. Slots are a multiple of four bytes long,
//! and their length follows from the header alone, so a segment can be walked from its start. A large
//! value lies elsewhere; its item holds a four-byte number instead. Little endian, only safe accesses.

/// Bytes of the part every item has.
pub(super) const HEADER: usize = 20;
/// Bytes of the most that comes before key and value.
pub(super) const OVERHEAD_MAX: usize = HEADER + 4 + 8;
/// Bytes that stand for a large value.
pub(super) const STUB: usize = 4;

/// What is remembered of an item, in ten bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Marks(u16);

impl Marks {
    /// The index points here. Without it the slot is dead.
    pub(super) const LIVE: Self = Self(1);
    /// Somebody read it.
    pub(super) const FETCHED: Self = Self(1 << 1);
    /// Marked stale by an invalidation.
    pub(super) const STALE: Self = Self(1 << 2);
    /// Somebody won the right to refresh it.
    pub(super) const WIN_SENT: Self = Self(1 << 3);
    /// Its key came in base64.
    pub(super) const BINARY_KEY: Self = Self(1 << 4);
    /// Client flags are stored (they are not 0).
    pub(super) const HAS_FLAGS: Self = Self(1 << 5);
    /// A client gave it a CAS unique.
    pub(super) const HAS_EXPLICIT: Self = Self(1 << 6);
    /// The value lies outside.
    pub(super) const LARGE: Self = Self(1 << 7);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { Self(self.0 & !other.0) }
    }

    /// How often it was read lately, 0 to 3.
    pub(super) const fn heat(self) -> u8 {
        (self.0 >> 8) as u8 & 3
    }

    /// The same, once more read.
    #[inline]
    pub(super) const fn read_again(self) -> Self {
        const HOTTER: u16 = 1 << 8;
        let hottest = self.heat() == 3;
        Self((self.0 | Self::FETCHED.0) + if hottest { 0 } else { HOTTER })
    }

    pub(super) const fn with_heat(self, heat: u8) -> Self {
        Self(self.0 & 0xff | (heat as u16) << 8)
    }
}

/// The part every item has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) deadline: u32,
    pub(super) accessed: u32,
    pub(super) key_len: u8,
    /// Of what lies in the segment: the value, or the stub of a large one.
    pub(super) value_len: u16,
    pub(super) marks: Marks,
}

impl Header {
    /// Where key and value begin.
    const fn lead(&self) -> usize {
        HEADER
            + if self.marks.has(Marks::HAS_FLAGS) { 4 } else { 0 }
            + if self.marks.has(Marks::HAS_EXPLICIT) { 8 } else { 0 }
    }

    /// Bytes of the slot.
    pub(super) const fn slot(&self) -> usize {
        (self.lead() + self.key_len as usize + self.value_len as usize).next_multiple_of(4)
    }

    /// Reads the header of the slot that `bytes` begins with.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Self {
        let bytes: &[u8; HEADER] = bytes.first_chunk().expect("a slot is longer than its header");
        let version = u64::from_le_bytes(bytes[0..8].try_into().expect("eight bytes"));
        let word = u32_at(bytes, 16);
        Self {
            version,
            deadline: u32_at(bytes, 8),
            accessed: u32_at(bytes, 12),
            key_len: word as u8,
            value_len: (word >> 8) as u16 & 0x3fff,
            marks: Marks((word >> 22) as u16),
        }
    }

    /// Writes the header over that of the slot that `bytes` begins with.
    #[inline]
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let bytes: &mut [u8; HEADER] = bytes.first_chunk_mut().expect("a slot is longer than its header");
        bytes[0..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.deadline.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.access().to_le_bytes());
    }

    /// The same, read at that second.
    #[inline]
    pub(super) const fn read_again(self, secs: u32) -> Self {
        Self { accessed: secs, marks: self.marks.read_again(), ..self }
    }

    /// The last eight bytes: last access and word.
    pub(super) const fn access(&self) -> u64 {
        let word = self.key_len as u64 | (self.value_len as u64) << 8 | (self.marks.0 as u64) << 22;
        self.accessed as u64 | word << 32
    }
}

/// What the last eight bytes of a header are after another read at that second: [`Header::read_again`] without
/// taking them apart.
#[inline(always)]
const fn access_again(access: u64, secs: u32) -> u64 {
    const MARKS: u32 = 32 + 22;
    const HOTTER: u64 = 1 << (MARKS + 8);
    const FETCHED: u64 = (Marks::FETCHED.0 as u64) << MARKS;
    let access = access >> 32 << 32 | secs as u64 | FETCHED;
    // Four times as hot does not fit: it stays what it was.
    match access.checked_add(HOTTER) {
        Some(hotter) => hotter,
        None => access,
    }
}

/// Notes another read of the item whose slot `bytes` begins with.
#[inline(always)]
pub(super) fn note_read(bytes: &mut [u8], secs: u32) {
    let access = bytes[12..20].first_chunk_mut().expect("eight bytes");
    let before = u64::from_le_bytes(*access);
    let after = access_again(before, secs);
    // What is not written stays clean in the cache.
    if after != before {
        *access = after.to_le_bytes();
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Whether the slot that `bytes` begins with has this key.
#[inline]
pub(super) fn has_key(bytes: &[u8], key: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return false };
    let word = u32_at(header, 16);
    if word as u8 as usize != key.len() {
        return false;
    }
    let marks = Marks((word >> 22) as u16);
    let start =
        if marks.has(Marks::HAS_FLAGS) { 4 } else { 0 } + if marks.has(Marks::HAS_EXPLICIT) { 8 } else { 0 };
    rest.get(start..start + key.len()) == Some(key)
}

/// Notes a read: when it was, and what is remembered of it. Nothing else of the header changes.
#[inline]
pub(super) fn write_access(bytes: &mut [u8], header: &Header) {
    bytes[12..20].copy_from_slice(&header.access().to_le_bytes());
}

/// An item where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) header: Header,
    /// From its slot on, as far as the segment goes.
    bytes: &'a [u8],
}

impl<'a> Item<'a> {
    /// The item whose slot `bytes` begins with.
    #[inline]
    pub(super) fn at(bytes: &'a [u8]) -> Self {
        Self { header: Header::read(bytes), bytes }
    }

    /// The item whose slot `bytes` begins with, as it was when this header was read.
    #[inline]
    pub(super) const fn with(bytes: &'a [u8], header: Header) -> Self {
        Self { header, bytes }
    }

    #[inline]
    pub(super) fn key(&self) -> &'a [u8] {
        let lead = self.header.lead();
        &self.bytes[lead..lead + usize::from(self.header.key_len)]
    }

    /// The value, or the stub of a large one.
    #[inline]
    pub(super) fn value(&self) -> &'a [u8] {
        let start = self.header.lead() + usize::from(self.header.key_len);
        &self.bytes[start..start + usize::from(self.header.value_len)]
    }

    /// The value of an item that is nothing but its key and its value, as most are: no client flags, no CAS unique of a
    /// client's, and the value lies here.
    #[inline(always)]
    pub(super) fn plain_value(&self) -> Option<&'a [u8]> {
        const MORE: Marks = Marks(Marks::HAS_FLAGS.0 | Marks::HAS_EXPLICIT.0 | Marks::LARGE.0);
        if self.header.marks.has(MORE) {
            return None;
        }
        let start = HEADER + usize::from(self.header.key_len);
        self.bytes.get(start..start + usize::from(self.header.value_len))
    }

    /// The number of its large value.
    #[inline]
    pub(super) fn large(&self) -> Option<u32> {
        self.header.marks.has(Marks::LARGE).then(|| u32_at(self.value(), 0))
    }

    #[inline]
    pub(super) fn flags(&self) -> u32 {
        if self.header.marks.has(Marks::HAS_FLAGS) { u32_at(self.bytes, HEADER) } else { 0 }
    }

    /// The CAS unique that a client gave it.
    #[inline]
    pub(super) fn explicit(&self) -> Option<u64> {
        if !self.header.marks.has(Marks::HAS_EXPLICIT) {
            return None;
        }
        let at = self.header.lead() - 8;
        Some(u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes")))
    }

    #[inline]
    pub(super) fn cas(&self) -> u64 {
        self.explicit().unwrap_or(self.header.version)
    }
}

/// Writes a whole item into the slot that `bytes` begins with. The header has the shape of these parts.
#[inline]
pub(super) fn write(
    bytes: &mut [u8],
    header: &Header,
    flags: u32,
    explicit: Option<u64>,
    key: &[u8],
    value: &[u8],
) {
    debug_assert_eq!(*header, header.shaped(flags, explicit, key, value.len()));
    header.write(bytes);
    let mut rest = &mut bytes[HEADER..];
    let mut put = |part: &[u8]| {
        let (room, behind) = std::mem::take(&mut rest).split_at_mut(part.len());
        room.copy_from_slice(part);
        rest = behind;
    };
    if flags != 0 {
        put(&flags.to_le_bytes());
    }
    if let Some(unique) = explicit {
        put(&unique.to_le_bytes());
    }
    put(key);
    put(value);
}

/// As [`write()`], where an item of this key and this shape lies already.
#[inline]
pub(super) fn overwrite(
    bytes: &mut [u8],
    header: &Header,
    flags: u32,
    explicit: Option<u64>,
    key: &[u8],
    value: &[u8],
) {
    debug_assert!(has_key(bytes, key));
    if header.lead() != HEADER {
        return write(bytes, header, flags, explicit, key, value);
    }
    header.write(bytes);
    let start = HEADER + key.len();
    bytes[start..start + value.len()].copy_from_slice(value);
}

impl Header {
    /// The same header, with lengths and marks for these parts.
    #[inline]
    pub(super) fn shaped(mut self, flags: u32, explicit: Option<u64>, key: &[u8], value_len: usize) -> Self {
        debug_assert!(!key.is_empty() && key.len() <= 250 && value_len < 1 << 14);
        self.key_len = key.len() as u8;
        self.value_len = value_len as u16;
        self.marks =
            self.marks.with(Marks::HAS_FLAGS, flags != 0).with(Marks::HAS_EXPLICIT, explicit.is_some());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_noted_alike_in_a_header_and_in_its_bytes() {
        for marks in 0..1 << 10 {
            let header = Header {
                version: 7,
                deadline: 8,
                accessed: 9,
                key_len: 250,
                value_len: 0x3fff,
                marks: Marks(marks),
            };
            for secs in [9, 10, u32::MAX] {
                assert_eq!(
                    access_again(header.access(), secs),
                    header.read_again(secs).access(),
                    "{marks:b}"
                );
            }
        }
    }

    #[test]
    fn an_item_reads_as_it_was_written() {
        for (flags, explicit) in [(0, None), (7, None), (0, Some(9)), (u32::MAX, Some(u64::MAX))] {
            let header = Header {
                version: u64::MAX - 1,
                deadline: 5,
                accessed: u32::MAX,
                key_len: 0,
                value_len: 0,
                marks: Marks::LIVE.with(Marks::STALE, true).with_heat(2),
            };
            let mut bytes = [0xaa; 400];
            let key = [b'k'; 250];
            let header = header.shaped(flags, explicit, &key, 5);
            write(&mut bytes, &header, flags, explicit, &key, b"value");
            let item = Item::at(&bytes);
            assert_eq!((item.key(), item.value()), (&key[..], &b"value"[..]));
            assert_eq!((item.flags(), item.explicit()), (flags, explicit));
            assert_eq!(item.header.version, u64::MAX - 1);
            assert!(item.header.marks.has(Marks::STALE) && item.header.marks.heat() == 2);
            assert!(item.header.slot() < OVERHEAD_MAX + 255 + 4 && item.header.slot().is_multiple_of(4));
        }
    }
}
