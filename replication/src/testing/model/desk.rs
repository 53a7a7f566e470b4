//! The arbiter of the model, and what is on its way to it and back.
//!
//! A question may arrive at any time while it is under way, also behind a later one and after the node has been told
//! that there was no answer; then its answer comes to nothing. So the explorer chooses how late everything is.

use std::collections::VecDeque;

use super::super::Plant;
use crate::arbiter::{Answer, Ask, Asker, Outcome, Register, SavedRegister};
use crate::time::Mono;

/// A good arbiter until the explorer does something to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk {
    register: Register,
    saved: SavedRegister,
    /// By node: nothing passes between it and the arbiter.
    parted: [bool; 2],
    /// By node: under way to the arbiter, the oldest first.
    questions: [VecDeque<Question>; 2],
    /// By node: what its process waits for, and for how many ticks.
    waiting: [Option<(Asker, u64, u8)>; 2],
    /// By node: under way back.
    answers: [Option<Answer>; 2],
}

#[derive(Clone, Debug)]
struct Question {
    asker: Asker,
    ask: Ask,
    /// In ticks.
    age: u8,
}

impl Desk {
    /// A node asks.
    pub(super) fn put(&mut self, node: usize, asker: Asker, ask: Ask) {
        self.waiting[node] = Some((asker, ask.number, 0));
        self.questions[node].push_back(Question { asker, ask, age: 0 });
    }

    /// Its process is no more; what it asked may arrive all the same.
    pub(super) fn forget(&mut self, node: usize) {
        (self.waiting[node], self.answers[node]) = (None, None);
    }

    /// Questions that may arrive, and answers: by node, and which of its questions.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let of = |node: usize| if self.parted[node] { 0 } else { self.questions[node].len().min(2) };
        (0..2).flat_map(move |node| (0..of(node)).map(move |nth| (node, nth)))
    }

    /// The node whose answer may arrive.
    pub(super) fn answerable(&self) -> impl Iterator<Item = usize> + '_ {
        (0..2).filter(|node| !self.parted[*node] && self.answers[*node].is_some())
    }

    /// A question arrives.
    pub(super) fn arrive(&mut self, node: usize, nth: usize, now: Mono) {
        if self.parted[node] {
            return;
        }
        let Some(Question { asker, ask, .. }) = self.questions[node].remove(nth) else { return };
        let (outcome, saved) = self.register.ask(asker, ask, now);
        self.saved = saved.unwrap_or(self.saved);
        if self.waiting[node].is_some_and(|(waits, number, _)| waits == asker && number == ask.number) {
            self.answers[node] = Some(Answer { number: ask.number, outcome });
        }
    }

    /// An answer arrives.
    pub(super) fn answer(&mut self, node: usize) -> Option<Answer> {
        let answer = self.answers[node].take().filter(|_| !self.parted[node])?;
        self.waiting[node] = None;
        Some(answer)
    }

    /// A heartbeat's time passes; whoever has waited for too long is told that there is no answer.
    pub(super) fn tick(&mut self, awake: [bool; 2]) -> [Option<Answer>; 2] {
        for questions in &mut self.questions {
            questions.iter_mut().for_each(|question| question.age += 1);
            questions.retain(|question| question.age < AGE_MAX);
        }
        [0, 1].map(|node: usize| {
            let (asker, number, age) = self.waiting[node]?;
            self.waiting[node] = Some((asker, number, (age + 1).min(PATIENCE)));
            // A process that is stopped gives nothing up: what has come meanwhile counts when it wakes.
            (age + 1 >= PATIENCE && awake[node]).then(|| {
                self.forget(node);
                Answer { number, outcome: Outcome::Silent }
            })
        })
    }

    /// Its process ends and begins again.
    pub(super) fn restart(&mut self, plant: Option<Plant>, now: Mono) {
        let saved = if plant == Some(Plant::ForgetLease) { SavedRegister::default() } else { self.saved };
        self.register = Register::restored(saved, now);
    }

    /// From now on nothing passes between it and this node.
    pub(super) fn part(&mut self, node: usize) {
        self.parted[node] = true;
    }

    /// Everything passes again.
    pub(super) fn mend(&mut self) {
        self.parted = [false; 2];
    }

    /// Between it and this node nothing passes.
    pub(super) fn is_parted(&self, node: usize) -> bool {
        self.parted[node]
    }
}

/// In ticks: about half of `dead_after`, as the driver does it.
const PATIENCE: u8 = 2;

/// In ticks: then a question has arrived, or is lost.
const AGE_MAX: u8 = 5;
