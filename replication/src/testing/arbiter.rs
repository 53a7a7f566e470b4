//! An arbiter in virtual time: late, slow, away, or started again.

use super::Plant;
use crate::arbiter::{Ask, Asker, Outcome, Register, SavedRegister};
use crate::time::{Mono, Span};

/// The one arbiter of a world.
#[derive(Debug)]
pub struct Arbiter {
    register: Register,
    saved: SavedRegister,
    /// Its process runs.
    pub up: bool,
    /// It can be reached, by node.
    pub reachable: [bool; 2],
    /// A question takes up to so long to it, and its answer back.
    pub delay_max: Span,
    /// How fast its clock runs, in thousandths.
    rate: u64,
}

impl Arbiter {
    /// A good one, with a clock of that rate.
    pub(super) fn new(rate: u64) -> Self {
        Self {
            register: Register::default(),
            saved: SavedRegister::default(),
            up: true,
            reachable: [true; 2],
            delay_max: USUAL,
            rate,
        }
    }

    /// What it answers a question that has just come in.
    pub(super) fn ask(&mut self, asker: Asker, ask: Ask, now: Mono) -> Outcome {
        let (outcome, saved) = self.register.ask(asker, ask, self.clock(now));
        self.saved = saved.unwrap_or(self.saved);
        outcome
    }

    /// Its process ends and begins again.
    pub(super) fn restart(&mut self, plant: Option<Plant>, now: Mono) {
        let saved = if plant == Some(Plant::ForgetLease) { SavedRegister::default() } else { self.saved };
        self.register = Register::restored(saved, self.clock(now));
    }

    /// Ends all faults, but for its absence.
    pub fn repair(&mut self) {
        (self.reachable, self.delay_max) = ([true; 2], USUAL);
    }

    fn clock(&self, now: Mono) -> Mono {
        Mono(now.0 / 1000 * self.rate)
    }
}

/// A question usually takes up to so long.
const USUAL: Span = Span(2_000);
