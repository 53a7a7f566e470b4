//! The one place of the server that reads the clocks.
//!
//! Each batch takes one reading: one look at the monotonic clock, no system call. The wall clock is
//! the monotonic one plus an offset that [`Clock::refresh`] follows when somebody sets the wall clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::command::Now;

/// Unix milliseconds at 2024-01-01T00:00:00Z, where versions begin.
const VERSION_EPOCH_MS: u64 = 1_704_067_200_000;

/// Clocks of one process.
#[derive(Debug)]
pub struct Clock {
    /// When the process started, minus [`Now::FIRST`] seconds.
    zero: Instant,
    /// Unix seconds at `zero`. Fixed, so that deadlines do not move when the wall clock is set.
    unix_zero: u64,
    /// Milliseconds since 2024 at `zero` by the wall clock as it is set now.
    wall_zero_ms: AtomicU64,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        let first = Duration::from_secs(u64::from(Now::FIRST));
        let now = Instant::now();
        // A monotonic clock that is younger than two seconds starts engine time a little late.
        let zero = now.checked_sub(first).unwrap_or(now);
        let unix_zero = unix().saturating_sub(now - zero).as_secs();
        let clock = Self { zero, unix_zero, wall_zero_ms: AtomicU64::new(0) };
        clock.refresh();
        clock
    }

    /// One reading for one batch.
    #[inline]
    pub fn now(&self) -> Now {
        let elapsed = self.zero.elapsed();
        let elapsed_ms = elapsed.as_secs() * 1000 + u64::from(elapsed.subsec_millis());
        Now {
            secs: u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX),
            unix_zero: self.unix_zero,
            wall_ms: self.wall_zero_ms.load(Ordering::Relaxed) + elapsed_ms,
        }
    }

    /// Microseconds since 1970 by the wall clock, for lines that people read.
    pub fn unix_micros(&self) -> u64 {
        unix().as_micros() as u64
    }

    /// Follows the wall clock; to be called now and then.
    pub fn refresh(&self) {
        let elapsed = self.zero.elapsed().as_millis() as u64;
        let wall = unix().as_millis() as u64;
        let wall_zero = wall.saturating_sub(VERSION_EPOCH_MS).saturating_sub(elapsed);
        self.wall_zero_ms.store(wall_zero, Ordering::Relaxed);
    }
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
