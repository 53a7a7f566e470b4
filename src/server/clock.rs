//! The one place of the server that reads the clocks.
//!
//! Each batch takes one reading: one look at the coarse monotonic clock, which moves with the kernel's
//! tick (a few milliseconds) and costs neither a system call nor a look at the hardware. The wall clock
//! is the monotonic one plus an offset that [`Clock::refresh`] follows when somebody sets it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::ClockId;

use crate::command::Now;

/// Unix milliseconds at 2024-01-01T00:00:00Z, where versions begin.
const VERSION_EPOCH_MS: u64 = 1_704_067_200_000;

/// Clocks of one process.
#[derive(Debug)]
pub struct Clock {
    /// When the process started, minus [`Now::FIRST`] seconds, in milliseconds of the coarse clock.
    zero_ms: u64,
    /// Unix seconds at `zero`. Fixed, so that deadlines do not move when the wall clock is set.
    unix_zero: u64,
    /// Milliseconds since 2024 at `zero` by the wall clock as it is set now.
    wall_zero_ms: AtomicU64,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        let now_ms = coarse_ms();
        // A monotonic clock that is younger than two seconds starts engine time a little late.
        let zero_ms = now_ms.saturating_sub(u64::from(Now::FIRST) * 1000);
        let unix_zero = unix().saturating_sub(Duration::from_millis(now_ms - zero_ms)).as_secs();
        let clock = Self { zero_ms, unix_zero, wall_zero_ms: AtomicU64::new(0) };
        clock.refresh();
        clock
    }

    /// One reading for one batch.
    #[inline]
    pub fn now(&self) -> Now {
        let elapsed_ms = coarse_ms().saturating_sub(self.zero_ms);
        Now {
            secs: u32::try_from(elapsed_ms / 1000).unwrap_or(u32::MAX),
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
        let elapsed = coarse_ms().saturating_sub(self.zero_ms);
        let wall = unix().as_millis() as u64;
        let wall_zero = wall.saturating_sub(VERSION_EPOCH_MS).saturating_sub(elapsed);
        self.wall_zero_ms.store(wall_zero, Ordering::Relaxed);
    }
}

/// Milliseconds of the coarse monotonic clock. Linux has had it for long; without it time stands still.
#[inline]
fn coarse_ms() -> u64 {
    let time = ClockId::CLOCK_MONOTONIC_COARSE.now();
    time.map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
