//! How long requests take inside the server: by kind, in buckets that grow with what they hold.
//!
//! Each worker counts in its own cell, and measures a batch now and then, at random distances: a
//! look at a precise clock costs as much as a good part of a request. A batch's time is shared out
//! evenly among its requests.

use std::time::Duration;

use super::Counter;
use crate::command::Op;

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Get,
    /// Reads that also set the expiry.
    Gat,
    /// Every way of storing: set, add, replace, append, prepend, cas.
    Set,
    /// Increments and decrements.
    Arith,
    /// Removals.
    Delete,
    /// New expiries.
    Touch,
    /// Requests that were handed to the master, with the way there and back.
    Forwarded,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Gat, Self::Set, Self::Arith, Self::Delete, Self::Touch, Self::Forwarded];

    /// As metrics and tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Gat => "gat",
            Self::Set => "set",
            Self::Arith => "arith",
            Self::Delete => "delete",
            Self::Touch => "touch",
            Self::Forwarded => "forwarded",
        }
    }

    /// The kind of a command; `None` for what is not worth telling apart.
    pub const fn of(op: &Op<'_>) -> Option<Self> {
        match op {
            Op::Get(get) if get.touch.is_some() => Some(Self::Gat),
            Op::Read | Op::Get(_) => Some(Self::Get),
            Op::Store(_) => Some(Self::Set),
            Op::Arith(_) => Some(Self::Arith),
            Op::Delete(_) => Some(Self::Delete),
            Op::Touch(_) => Some(Self::Touch),
            Op::Inspect | Op::Refuse(_) => None,
        }
    }
}

/// The first bucket ends here, in nanoseconds, as a power of two: nothing is faster.
const FIRST_POWER: u32 = 8;
/// The last bucket but the open one ends here: 2³⁰ ns is a little more than a second.
const LAST_POWER: u32 = 30;
/// Buckets per power of two.
const STEPS: usize = 4;
/// All buckets: below the first power, the steps, and above the last.
const BUCKETS: usize = (LAST_POWER - FIRST_POWER) as usize * STEPS + 2;

/// The bucket a time belongs into.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    if power < FIRST_POWER {
        return 0;
    }
    let step = (nanos >> (power - STEPS.ilog2())) as usize % STEPS;
    (1 + (power - FIRST_POWER) as usize * STEPS + step).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds.
fn end(bucket: usize) -> u64 {
    let power = FIRST_POWER + (bucket / STEPS) as u32;
    (1 << power) + ((bucket % STEPS) as u64) * (1 << power) / STEPS as u64
}

/// The times of one worker.
#[derive(Debug)]
pub struct Latency {
    counts: [[Counter; BUCKETS]; Kind::ALL.len()],
    sums: [Counter; Kind::ALL.len()],
}

impl Default for Latency {
    fn default() -> Self {
        let counts = std::array::from_fn(|_| std::array::from_fn(|_| Counter::default()));
        Self { counts, sums: std::array::from_fn(|_| Counter::default()) }
    }
}

impl Latency {
    /// Counts one request. Only the worker whose cell it is may call this.
    pub fn record(&self, kind: Kind, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[kind as usize][bucket(nanos)].add(1);
        self.sums[kind as usize].add(nanos);
    }
}

/// The times of all workers for one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    counts: [u64; BUCKETS],
    /// Of all of them.
    pub sum: Duration,
}

impl Times {
    pub(super) fn of<'a>(kind: Kind, cells: impl Iterator<Item = &'a Latency>) -> Self {
        let mut times = Self { counts: [0; BUCKETS], sum: Duration::ZERO };
        for cell in cells {
            times.sum += Duration::from_nanos(cell.sums[kind as usize].value());
            for (sum, count) in times.counts.iter_mut().zip(&cell.counts[kind as usize]) {
                *sum += count.value();
            }
        }
        times
    }

    /// How many were measured.
    pub fn measured(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// That share of the measured took no longer; an upper bound, at most a quarter too high.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.measured() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        Duration::from_nanos(reached.map_or(0, |bucket| end(bucket.min(BUCKETS - 2))))
    }

    /// For each power of two: its end in seconds, and how many took no longer.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut seen = 0;
        let mut bounds = Vec::new();
        for (bucket, count) in self.counts[..BUCKETS - 1].iter().enumerate() {
            seen += count;
            if bucket.is_multiple_of(STEPS) {
                bounds.push((end(bucket) as f64 / 1e9, seen));
            }
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanos: &[u64]) -> Times {
        let cell = Latency::default();
        for &nanos in nanos {
            cell.record(Kind::Get, Duration::from_nanos(nanos));
        }
        Times::of(Kind::Get, [&cell].into_iter())
    }

    #[test]
    fn a_time_lies_below_the_end_of_its_bucket_and_not_far_below() {
        for nanos in
            (0..2000).chain((0..30).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]))
        {
            let bucket = bucket(nanos);
            assert!(bucket < BUCKETS - 1, "{nanos}");
            assert!(nanos < end(bucket), "{nanos} is in bucket {bucket}");
            assert!(bucket == 0 || nanos >= end(bucket - 1), "{nanos} is in bucket {bucket}");
            assert!(bucket == 0 || end(bucket) <= nanos + nanos / 4 + 1, "{nanos} is in bucket {bucket}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_sums_come_out() {
        let all = times(&[300, 300, 300, 300, 300, 300, 300, 300, 300, 1_000_000]);
        assert_eq!(all.measured(), 10);
        assert_eq!(all.sum, Duration::from_nanos(2700 + 1_000_000));
        assert_eq!(all.quantile(0.5), Duration::from_nanos(320));
        assert_eq!(all.quantile(0.9), Duration::from_nanos(320));
        assert!(all.quantile(0.99) >= Duration::from_millis(1));
        assert_eq!(times(&[]).quantile(0.5), Duration::ZERO);
        let cumulative = all.cumulative();
        assert!(cumulative.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(cumulative.last().unwrap().1, 10);
        assert_eq!(times(&[u64::MAX]).cumulative().last().unwrap().1, 0, "it is above all bounds");
    }
}
