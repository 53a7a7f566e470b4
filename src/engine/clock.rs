//! The version clock: a hybrid logical clock, one per shard.
//!
//! A version is `ms since 2024-01-01: 42 | counter: 13 | shard: 8 | slot: 1`. It follows the wall
//! clock, never goes back when the wall clock does, and moves past whatever the peer made. So a later
//! write has a larger version, on whichever node it happens, and no version is made twice: not in
//! another shard (its number is inside), not on the other node (its slot is inside).

use crate::command::Now;

/// Bits below the tick: shard and slot.
const TICK_SHIFT: u32 = 9;
/// Bits of the counter within a millisecond.
const COUNTER_BITS: u32 = 13;
/// How far ahead of this node's wall clock a version may be before it counts as strange.
const STRANGE_MS: u64 = 60 * 60 * 1000;

/// Makes the versions of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The last tick handed out or seen: milliseconds and counter.
    tick: u64,
    shard: u8,
    slot: u8,
    strange: u64,
}

impl Clock {
    pub(crate) fn new(shard: usize, slot: u8) -> Self {
        Self { tick: 0, shard: shard as u8, slot: slot & 1, strange: 0 }
    }

    /// A version larger than every one made or seen before.
    #[inline]
    pub(crate) fn next(&mut self, now: Now) -> u64 {
        self.tick = (self.tick + 1).max(now.wall_ms << COUNTER_BITS);
        self.tick << TICK_SHIFT | u64::from(self.shard) << 1 | u64::from(self.slot)
    }

    /// Moves past a version that somebody else made.
    #[inline]
    pub(crate) fn observe(&mut self, version: u64, now: Now) {
        let tick = version >> TICK_SHIFT;
        if tick > self.tick {
            self.tick = tick;
            if tick >> COUNTER_BITS > now.wall_ms + STRANGE_MS {
                self.strange += 1;
            }
        }
    }

    /// The smallest version that is larger than everything this clock made or saw.
    pub(crate) fn floor(&self) -> u64 {
        (self.tick + 1) << TICK_SHIFT
    }

    /// From now on versions carry that slot.
    pub(crate) fn set_slot(&mut self, slot: u8) {
        self.slot = slot & 1;
    }

    /// How many observed versions were more than an hour ahead of the wall clock.
    pub(crate) fn strange(&self) -> u64 {
        self.strange
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: u64) -> Now {
        Now { secs: 2, unix_zero: 0, wall_ms }
    }

    #[test]
    fn versions_rise_even_when_the_wall_clock_goes_back() {
        let mut clock = Clock::new(3, 1);
        let mut last = 0;
        for wall in [5000, 5000, 4000, 6000, 0] {
            let version = clock.next(at(wall));
            assert!(version > last);
            assert_eq!(version & 0x1ff, 3 << 1 | 1, "shard and slot are inside");
            last = version;
        }
    }

    #[test]
    fn a_version_from_the_peer_is_passed() {
        let (mut ours, mut peer) = (Clock::new(0, 0), Clock::new(200, 1));
        let theirs = peer.next(at(1_000_000_000));
        ours.observe(theirs, at(10));
        assert!(ours.next(at(10)) > theirs);
        assert_eq!(ours.strange(), 1, "it was far ahead and that is counted");
    }

    #[test]
    fn the_floor_lies_between_what_was_and_what_will_be() {
        let mut clock = Clock::new(255, 1);
        let before = clock.next(at(7));
        let floor = clock.floor();
        clock.observe(floor, at(7));
        assert!(before < floor && floor <= clock.next(at(7)));
    }
}
