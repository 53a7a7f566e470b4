//! Comparing the backup with the master now and then; see [`crate::verify`].

use super::{Node, Output};
use crate::frame::{Frame, Link};
use crate::session::reached;
use crate::status::{Load, VerifyStatus};
use crate::time::{Mono, Span};
use crate::verify::{Answer, Answering, Comparison, Findings, Question, Room, Step};

/// What a node compares, and when it compared last.
#[derive(Clone, Debug, Default)]
pub(super) struct Verifying {
    comparison: Option<Comparison>,
    /// What was recorded when the first look was over.
    recorded: Option<Vec<u64>>,
    answering: Option<Answering>,
    /// The answer, and what has to be the master's first, in this node's own sequences.
    answers: Option<(Vec<Answer>, Vec<u64>)>,
    /// Numbers questions.
    number: u32,
    /// When it is done next by itself.
    due: Option<Mono>,
    last: Option<(Findings, Mono)>,
}

impl Node {
    /// Starts a comparison now; `false` if there is nobody to compare with.
    pub(super) fn begin_comparison(&mut self, now: Mono) -> bool {
        if !self.is_followed() {
            return false;
        }
        self.verifying.number = self.verifying.number.wrapping_add(4);
        let (comparison, question) = Comparison::begin(self.verifying.number, now);
        self.verifying.comparison = Some(comparison);
        self.verifying.recorded = None;
        self.outputs.push_back(Output::Send(Link::Data, Frame::Compare(question)));
        true
    }

    pub(super) fn answer_comparison(&mut self, question: &Question, now: Mono) {
        if self.receives() {
            self.verifying.answering = Some(Answering::new(question, now));
        }
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        if let Some(comparison) = &mut self.verifying.comparison {
            comparison.take(answer);
        }
    }

    /// The next comparison is due when the interval, which is another now, has passed.
    pub(super) fn count_verification_anew(&mut self) {
        self.verifying.due = None;
    }

    /// What was being compared is void: the link is another, or the roles are.
    pub(super) fn drop_comparison(&mut self) {
        self.verifying.comparison = None;
        self.verifying.answering = None;
        self.verifying.answers = None;
    }

    /// Goes on with whatever is under way.
    pub(super) fn verify(&mut self, now: Mono) {
        self.answer_when_walked(now);
        if !self.is_followed() {
            self.verifying.comparison = None;
            self.verifying.due = None;
            return;
        }
        let due = *self.verifying.due.get_or_insert(now + self.config.verify_every);
        if now >= due {
            self.verifying.due = Some(now + self.config.verify_every);
            if self.verifying.comparison.is_none() {
                self.begin_comparison(now);
            }
        }
        self.compare(now);
    }

    fn answer_when_walked(&mut self, now: Mono) {
        if let Some(answering) = &mut self.verifying.answering {
            let Some(answers) = answering.step(&*self.store, now) else { return };
            self.verifying.answering = None;
            self.verifying.answers = Some((answers, self.backlog.last()));
        }
        // What this node's clients did and the master has yet to hear of is no divergence.
        let untold = |recorded: &[u64]| self.merged.as_ref().is_some_and(|merged| !reached(merged, recorded));
        let Some((answers, _)) = self.verifying.answers.take_if(|(_, recorded)| !untold(recorded)) else {
            return;
        };
        for answer in answers {
            self.outputs.push_back(Output::Send(Link::Data, Frame::Compared(answer)));
        }
    }

    fn compare(&mut self, now: Mono) {
        let there = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref());
        let room = Room { here: has_room(&self.load), there: there.is_some_and(|beat| has_room(&beat.load)) };
        let acknowledged = self.acknowledged().map(|position| position.applied.clone());
        let Verifying { comparison: Some(comparison), recorded, .. } = &mut self.verifying else { return };
        let settled = match (&recorded, &acknowledged) {
            (Some(recorded), Some(applied)) => {
                recorded.iter().zip(applied).all(|(recorded, applied)| applied >= recorded)
            }
            _ => false,
        };
        match comparison.step(&*self.store, room, settled, now) {
            Step::Nothing if comparison.is_waiting() && recorded.is_none() => {
                *recorded = Some(self.backlog.last());
            }
            Step::Nothing => {}
            Step::Ask(question) => {
                *recorded = None;
                self.outputs.push_back(Output::Send(Link::Data, Frame::Compare(question)));
            }
            Step::Over(findings, diverged) => {
                self.verifying.comparison = None;
                self.verifying.last = Some((findings, now));
                self.counters.diverged += findings.diverged;
                for (key, theirs) in &diverged {
                    self.store.restate(key, *theirs);
                }
                let sample = diverged.into_iter().next().map(|(key, _)| key);
                self.outputs.push_back(Output::Compared(findings, sample));
            }
        }
    }

    /// When [`Node::verify`] has something to do.
    pub(super) fn verify_wake(&self) -> Mono {
        let Verifying { comparison, answering, due, .. } = &self.verifying;
        let comparison = comparison.as_ref().map_or(Mono::NEVER, Comparison::due);
        let answering = answering.as_ref().map_or(Mono::NEVER, Answering::due);
        comparison.min(answering).min(due.unwrap_or(Mono::NEVER))
    }

    pub(super) fn verify_status(&self, now: Mono) -> VerifyStatus {
        let last = self.verifying.last.as_ref();
        VerifyStatus {
            running: self.verifying.comparison.is_some(),
            last: last.map(|(findings, _)| *findings),
            age: last.map_or(Span(0), |(_, at)| now.since(*at)),
        }
    }
}

/// A store that is nearly full evicts, or has.
fn has_room(load: &Load) -> bool {
    load.bytes.saturating_mul(10) < load.limit.saturating_mul(8)
}
