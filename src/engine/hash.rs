//! Where a key lives: one keyed 64-bit hash decides shard, position and tag.
//!
//! The upper half is the *position*: buckets divide the range of positions evenly, so their order is
//! the order of positions however many there are. That is what makes growth and scans monotone.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_nano_inline};

/// Hashes keys with a secret that differs in every process, so that nobody can aim at one bucket.
pub(crate) struct Hasher {
    secrets: RapidSecrets,
    /// All ones, but for tests that want collisions.
    mask: u64,
}

impl Hasher {
    /// A hasher of that seed. It only uses the bits of `mask`: with few of them, keys collide.
    pub(crate) fn masked(seed: u64, mask: u64) -> Self {
        Self { secrets: RapidSecrets::seed(seed), mask }
    }

    /// The hash of a key. Of rapidhash's forms the one for short input: keys are, and it needs no call.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_nano_inline::<true, false>(key, &self.secrets) & self.mask
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays one.
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

/// Position in hash order.
#[inline]
pub(crate) const fn position(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The shard among `shards` (a power of two up to 256).
#[inline]
pub(crate) const fn shard(hash: u64, shards: usize) -> usize {
    (hash >> 8) as usize & (shards - 1)
}

/// One byte kept beside an item's place, so that most wrong items are never looked at. Never 0.
#[inline]
pub(crate) const fn tag(hash: u64) -> u8 {
    if hash as u8 == 0 { 1 } else { hash as u8 }
}

/// What a ghost remembers of a key. Never 0 or 1.
#[inline]
pub(crate) const fn fingerprint(hash: u64) -> u16 {
    let mixed = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
    if mixed < 2 { 2 } else { mixed }
}
