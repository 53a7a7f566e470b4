//! What a process has used, from `/proc`.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use serde::Serialize;

/// CPU time and memory of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time in the process's own code, in microseconds.
    pub user_us: u64,
    /// Time in the kernel on its behalf, in microseconds.
    pub system_us: u64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// What the process has used so far. CPU time has the kernel's resolution of 10 ms.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&stat).ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
    }

    /// The fields of `/proc/PID/stat`; the name in parentheses may contain anything, blanks too.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        // Fields 14, 15 and 24 of proc_pid_stat(5), counted from 1; the third is our first.
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second();
        Some(Self {
            user_us: number(11)? * tick_us,
            system_us: number(12)? * tick_us,
            resident_bytes: number(21)? * rustix::param::page_size() as u64,
        })
    }

    /// The CPU time used since `before`, with the memory of now.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(before.user_us),
            system_us: self.system_us.saturating_sub(before.system_us),
            resident_bytes: self.resident_bytes,
        }
    }

    /// User and system time together.
    pub fn cpu(&self) -> Duration {
        Duration::from_micros(self.user_us + self.system_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_hides_nothing() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000000 300 1 1";
        let usage = Usage::parse(stat).unwrap();
        assert_eq!(usage.user_us, 5 * usage.system_us);
        assert_eq!(usage.resident_bytes, 300 * rustix::param::page_size() as u64);
    }

    #[test]
    fn our_own_usage_grows() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while Usage::of(std::process::id()).unwrap().since(&before).cpu() < Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(before.resident_bytes > 0);
    }
}
