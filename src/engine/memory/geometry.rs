//! How the memory limit is cut into shards, segments and index blocks.

/// Largest number of shards: a version has eight bits for them.
const SHARDS_MAX: usize = 256;
/// A shard smaller than this loses too much to its reserve,
const SHARD_BYTES_MIN: u64 = 16 << 20;
/// and one smaller than this loses something, which is worth it while there are fewer than two shards for a thread.
const SHARD_BYTES_THRIFTY: u64 = 32 << 20;
/// What a shard keeps free, and what is left over at the ends of its segments, is least at about this.
const SEGMENTS_PER_SHARD: u64 = 1024;
/// A location has 32 bits of four-byte units.
const SHARD_BYTES_MAX: u64 = 16 << 30;
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// An inline value's length has 14 bits; copying that much under a lock takes about a microsecond.
const INLINE_MAX: usize = (1 << 14) - 1;

/// Bytes of a segment that are left to the allocator, so that both together fill whole pages.
pub(super) const ALLOCATOR_BYTES: usize = 32;

/// Segments a shard keeps free, so that appending and cleaning always have somewhere to write.
pub(super) const RESERVE: usize = 3;

/// The sizes of an engine's parts. Tests override them to meet every edge with few items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// How many shards; a power of two, at most 256.
    pub shards: usize,
    /// Bytes of a segment; a power of two.
    pub segment_bytes: usize,
    /// Bytes of the largest value that is stored inside a segment.
    pub inline_max: usize,
    /// Buckets of an index block; a power of two, at least 4.
    pub block_buckets: usize,
    /// Bytes of the chunks a large value consists of: what a segment has, so that each finds room where the
    /// other was, and the process stays as large as the limit when small values give way to large ones.
    pub chunk_bytes: usize,
}

impl Geometry {
    /// What suits that limit and that many threads.
    pub fn of(limit_bytes: u64, threads: usize) -> Self {
        let wanted = (8 * threads.max(1)).next_power_of_two();
        let fit = |bytes: u64| floor_power_of_two((limit_bytes / bytes).max(1)) as usize;
        let most = fit(SHARD_BYTES_THRIFTY).max(fit(SHARD_BYTES_MIN).min(wanted / 4));
        let least = limit_bytes.div_ceil(SHARD_BYTES_MAX).next_power_of_two() as usize;
        let shards = wanted.min(most).max(least).min(SHARDS_MAX);
        // Small segments waste their ends; small shards cannot afford large ones.
        let roomy = limit_bytes / shards as u64 >= SHARD_BYTES_MIN;
        let least_segment = if roomy { 2 * SEGMENT_BYTES_MIN } else { SEGMENT_BYTES_MIN };
        let segment = floor_power_of_two((limit_bytes / (shards as u64 * SEGMENTS_PER_SHARD)).max(1))
            .clamp(least_segment, SEGMENT_BYTES_MAX) as usize;
        Self {
            shards,
            segment_bytes: segment,
            inline_max: INLINE_MAX.min(segment / 8),
            block_buckets: 128,
            chunk_bytes: segment - ALLOCATOR_BYTES,
        }
    }

    /// Most segments a shard can address.
    pub(super) fn segments_max(&self) -> usize {
        1 << (34 - self.segment_bytes.trailing_zeros())
    }
}

fn floor_power_of_two(number: u64) -> u64 {
    1 << number.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_decides_how_it_is_cut() {
        for (limit, threads, shards, segment) in [
            (1 << 20, 4, 1, 16 << 10),
            (8 << 20, 4, 1, 16 << 10),
            (64 << 20, 1, 2, 32 << 10),
            (64 << 20, 4, 4, 32 << 10),
            (256 << 20, 4, 8, 32 << 10),
            (1 << 30, 4, 32, 32 << 10),
            (64 << 30, 64, 256, 256 << 10),
            (4 << 40, 1, 256, 1 << 20),
        ] {
            let geometry = Geometry::of(limit, threads);
            assert_eq!((geometry.shards, geometry.segment_bytes), (shards, segment), "{limit}");
            assert!(geometry.inline_max + 300 < geometry.segment_bytes);
        }
    }
}
