//! Whoever is asked when the two nodes cannot ask each other: one lease, held by one node at a time.
//!
//! Two nodes alone cannot tell a dead peer from a cut cable. With an arbiter they need not: a node
//! executes commands only while *somebody else* backs it, its peer or the arbiter, and no two nodes are
//! backed at the same moment. The peer backs a node by having heard it lately while being nothing that
//! serves ([`crate::node`]). The arbiter backs it by a *grant* of its lease.
//!
//! A pair that is well needs no grant, and holds none: so the one that outlives the other gets it at
//! once. It is asked for when the peer's backing is about to end, renewed while it is needed, and
//! given back when the peer is there again.
//!
//! ```text
//! node     asks ───────────────────────────── serves until asked + 9/10 of the lease
//! arbiter           grants ──────────────────────────── gives to others from granted + lease
//! ```
//! The node counts from when it *asked*, the arbiter from when it granted, which is later; and the node
//! stops a tenth earlier. So however long answers take, and with clocks that are up to 2 % too fast or
//! too slow on both sides, a node has ceased before another one may begin.
//!
//! [`Grant`] is the node's side, [`Register`] the arbiter's. Both are pure.

use serde::{Deserialize, Serialize};

use crate::time::{Mono, Span};

/// The longest lease an arbiter gives, and how long one that has forgotten everything gives none.
pub const LEASE_MAX: Span = Span::from_millis(60_000);

/// A question to the arbiter. Each is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Counts them.
    pub number: u64,
    /// What is asked for.
    pub wish: Wish,
}

/// What a node wants of its arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Nothing but to know that it is there.
    Look,
    /// The lease, for so long from now: for the first time or again.
    Hold(Span),
    /// To give it back.
    Release,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the question.
    pub number: u64,
    /// What it means.
    pub outcome: Outcome,
}

/// See [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The lease is the asker's, for as long as it asked for.
    Granted,
    /// It is another node's, or nobody can have it yet.
    Refused,
    /// It is there, or has done what was asked.
    Heard,
    /// There was no answer, or not in time.
    Silent,
}

/// What a node knows of its grant.
#[derive(Clone, Debug)]
pub struct Grant {
    lease: Span,
    /// Between two questions while there is no grant.
    retry: Span,
    asked: u64,
    /// The question under way, and when it was asked.
    pending: Option<(Ask, Mono)>,
    /// The lease is this node's until then.
    until: Mono,
    /// The arbiter may believe that it is.
    may_hold: bool,
    /// Not before that the next question.
    next: Mono,
    /// What the last answer was; `None` before the first.
    last: Option<Outcome>,
}

impl Grant {
    /// Of leases of that length. `retry`: how often to ask again for one that was not granted.
    ///
    /// # Panics
    /// If the lease is longer than [`LEASE_MAX`].
    pub fn new(lease: Span, retry: Span, now: Mono) -> Self {
        assert!(lease.0 > 0 && lease <= LEASE_MAX, "a lease of {lease:?}");
        Self {
            lease,
            retry,
            asked: 0,
            pending: None,
            until: Mono::default(),
            may_hold: false,
            next: now,
            last: None,
        }
    }

    /// The lease is this node's until then.
    pub fn until(&self) -> Mono {
        self.until
    }

    /// The next question, if one is due. `wanted`: the lease is needed, now or soon. `may_release`:
    /// nothing that was begun under it is still to be acknowledged.
    pub fn ask(&mut self, wanted: bool, may_release: bool, now: Mono) -> Option<Ask> {
        if self.pending.is_some() {
            return None;
        }
        let wish = match wanted {
            true if now >= self.next => Wish::Hold(self.lease),
            false if self.may_hold && may_release => Wish::Release,
            false if now >= self.next => Wish::Look,
            _ => return None,
        };
        if wish == Wish::Release {
            // From here on somebody else may get it.
            (self.until, self.may_hold) = (Mono::default(), false);
        }
        self.may_hold |= matches!(wish, Wish::Hold(_));
        self.asked += 1;
        let ask = Ask { number: self.asked, wish };
        self.pending = Some((ask, now));
        Some(ask)
    }

    /// The lease has become urgent: do not wait for the next turn.
    pub fn hurry(&mut self, now: Mono) {
        if self.until <= now && self.last != Some(Outcome::Refused) {
            self.next = self.next.min(now);
        }
    }

    /// What came of a question.
    pub fn answered(&mut self, answer: Answer, now: Mono) {
        // Late answers to earlier questions come to nothing.
        let Some((ask, asked)) = self.pending.take_if(|(ask, _)| ask.number == answer.number) else { return };
        self.last = Some(answer.outcome);
        match (ask.wish, answer.outcome) {
            (Wish::Hold(lease), Outcome::Granted) => {
                self.until = self.until.max(asked + lease.scaled(9, 10));
                self.next = now + lease.scaled(1, 6);
            }
            (Wish::Hold(_), Outcome::Refused) => {
                // It is another's: whatever this node believed, it has to stop.
                self.until = Mono::default();
                self.may_hold = false;
                self.next = now + self.retry;
            }
            (Wish::Hold(_), _) => self.next = now + self.retry,
            (Wish::Look | Wish::Release, _) => self.next = now + self.lease,
        }
    }

    /// As [`Grant::answered`], with a lease that is counted from its answer: for the simulation, which
    /// must find out.
    #[cfg(feature = "testing")]
    pub(crate) fn answered_too_long(&mut self, answer: Answer, now: Mono) {
        self.answered(answer, now);
        if answer.outcome == Outcome::Granted {
            self.until = self.until.max(now + self.lease.scaled(11, 10));
        }
    }

    /// When [`Grant::ask`] may have a question without anything else happening.
    pub fn next_wake(&self) -> Mono {
        if self.pending.is_some() { Mono::NEVER } else { self.next }
    }

    /// The arbiter refused the lease last.
    pub fn is_refused(&self) -> bool {
        self.last == Some(Outcome::Refused)
    }

    /// Whether the arbiter answered the last question; `None` before the first.
    pub fn is_heard(&self) -> Option<bool> {
        self.last.map(|last| last != Outcome::Silent)
    }
}

/// Who asks: a node, and which of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The node.
    pub node: u128,
    /// The process.
    pub boot: u64,
}

/// The arbiter's side: who has the lease, and how long others have to wait for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    holder: Option<Asker>,
    /// The question with which it got the lease last: one that was asked before cannot give it back.
    number: u64,
    lease: Span,
    /// Nobody but the holder gets it before.
    until: Mono,
}

/// What a [`Register`] must not forget when its process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRegister {
    /// The node that had the lease last.
    pub holder: Option<u128>,
    /// And for how long at a time.
    pub lease: Span,
}

impl Register {
    /// One that knows nothing of before: somebody may hold a lease of any length.
    pub fn forgetful(now: Mono) -> Self {
        Self { until: now + LEASE_MAX.scaled(11, 10), ..Self::default() }
    }

    /// One whose process was started again: whoever held the lease may hold it still.
    pub fn restored(saved: SavedRegister, now: Mono) -> Self {
        let holder = saved.holder.map(|node| Asker { node, boot: 0 });
        let until = if holder.is_some() { now + saved.lease } else { Mono::default() };
        Self { holder, number: u64::MAX, lease: saved.lease, until }
    }

    /// What `asker` gets. When the second value is there, it has to be saved before the answer leaves.
    pub fn ask(&mut self, asker: Asker, ask: Ask, now: Mono) -> (Outcome, Option<SavedRegister>) {
        let before = self.saved();
        // Two processes of one node do not run at the same time: a state directory has one user.
        let holds = self.holder.is_some_and(|holder| holder.node == asker.node);
        let outcome = match ask.wish {
            Wish::Hold(lease) if lease.0 == 0 || lease > LEASE_MAX => Outcome::Refused,
            Wish::Hold(lease) if holds || now >= self.until => {
                // A shorter lease does not shorten the one that the holder believes in.
                let keeps = if holds { (self.until, self.lease) } else { Default::default() };
                (self.until, self.lease) = (keeps.0.max(now + lease), keeps.1.max(lease));
                (self.holder, self.number) = (Some(asker), ask.number);
                Outcome::Granted
            }
            Wish::Hold(_) => Outcome::Refused,
            Wish::Release => {
                if self.holder == Some(asker) && ask.number > self.number {
                    *self = Self::default();
                }
                Outcome::Heard
            }
            Wish::Look => Outcome::Heard,
        };
        let after = self.saved();
        (outcome, (after != before).then_some(after))
    }

    /// Who holds the lease, and for how long still.
    pub fn held(&self, now: Mono) -> Option<(u128, Span)> {
        self.holder.filter(|_| now < self.until).map(|holder| (holder.node, self.until.since(now)))
    }

    fn saved(&self) -> SavedRegister {
        SavedRegister { holder: self.holder.map(|holder| holder.node), lease: self.lease }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Span = Span::from_millis(1000);

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    fn grant() -> Grant {
        Grant::new(LEASE, Span::from_millis(100), at(0))
    }

    fn told(grant: &mut Grant, ask: Ask, outcome: Outcome, now: Mono) {
        grant.answered(Answer { number: ask.number, outcome }, now);
    }

    #[test]
    fn a_grant_counts_from_the_question_and_ends_before_the_lease() {
        let mut node = grant();
        let ask = node.ask(true, false, at(100)).expect("due");
        assert_eq!(ask.wish, Wish::Hold(LEASE));
        assert!(node.ask(true, false, at(200)).is_none(), "one question at a time");
        told(&mut node, ask, Outcome::Granted, at(600));
        assert_eq!(node.until(), at(1000), "0.9 s after it was asked, however late the answer");
    }

    #[test]
    fn a_late_answer_to_an_earlier_question_comes_to_nothing() {
        let mut node = grant();
        let first = node.ask(true, false, at(0)).expect("due");
        told(&mut node, first, Outcome::Silent, at(500));
        let second = node.ask(true, false, at(700)).expect("due again");
        told(&mut node, first, Outcome::Granted, at(701));
        assert_eq!(node.until(), Mono::default());
        told(&mut node, second, Outcome::Granted, at(702));
        assert_eq!(node.until(), at(1600));
    }

    #[test]
    fn whoever_is_refused_stops_whatever_it_believed() {
        let mut node = grant();
        let ask = node.ask(true, false, at(0)).expect("due");
        told(&mut node, ask, Outcome::Granted, at(1));
        let ask = node.ask(true, false, at(400)).expect("to be renewed");
        told(&mut node, ask, Outcome::Refused, at(401));
        assert_eq!(node.until(), Mono::default());
    }

    #[test]
    fn what_is_given_back_is_not_used_again() {
        let mut node = grant();
        let ask = node.ask(true, false, at(0)).expect("due");
        told(&mut node, ask, Outcome::Granted, at(1));
        assert!(node.ask(false, false, at(2)).is_none(), "something was begun under it");
        let ask = node.ask(false, true, at(3)).expect("it is given back");
        assert_eq!((ask.wish, node.until()), (Wish::Release, Mono::default()));
        told(&mut node, ask, Outcome::Silent, at(4));
        assert!(node.ask(false, true, at(5)).is_none(), "once");
        let ask = node.ask(false, true, at(2000)).expect("is it still there?");
        assert_eq!(ask.wish, Wish::Look);
    }

    fn asked(register: &mut Register, node: u128, number: u64, wish: Wish, now: Mono) -> Outcome {
        register.ask(Asker { node, boot: 7 }, Ask { number, wish }, now).0
    }

    #[test]
    fn one_node_at_a_time_has_the_lease() {
        let mut register = Register::default();
        let mut ask = |node, number, wish, millis| asked(&mut register, node, number, wish, at(millis));
        assert_eq!(ask(1, 1, Wish::Hold(LEASE), 0), Outcome::Granted);
        assert_eq!(ask(2, 1, Wish::Hold(LEASE), 999), Outcome::Refused);
        assert_eq!(ask(1, 2, Wish::Hold(LEASE), 900), Outcome::Granted);
        assert_eq!(ask(2, 2, Wish::Hold(LEASE), 1899), Outcome::Refused);
        assert_eq!(ask(2, 3, Wish::Release, 1899), Outcome::Heard, "not its to give");
        assert_eq!(ask(2, 4, Wish::Hold(LEASE), 1899), Outcome::Refused);
        assert_eq!(ask(2, 5, Wish::Hold(LEASE), 1900), Outcome::Granted);
        assert_eq!(ask(2, 6, Wish::Release, 1901), Outcome::Heard);
        assert_eq!(ask(1, 3, Wish::Hold(LEASE), 1901), Outcome::Granted);
    }

    #[test]
    fn giving_back_too_late_takes_nothing_that_was_asked_for_since() {
        let mut register = Register::default();
        let mut ask = |node, number, wish, millis| asked(&mut register, node, number, wish, at(millis));
        assert_eq!(ask(1, 3, Wish::Hold(LEASE), 0), Outcome::Granted);
        assert_eq!(ask(1, 2, Wish::Release, 1), Outcome::Heard);
        assert_eq!(ask(2, 1, Wish::Hold(LEASE), 2), Outcome::Refused);
        let older = Asker { node: 1, boot: 6 };
        register.ask(older, Ask { number: 99, wish: Wish::Release }, at(3));
        assert_eq!(asked(&mut register, 2, 2, Wish::Hold(LEASE), at(4)), Outcome::Refused);
    }

    #[test]
    fn a_restarted_register_keeps_what_it_gave() {
        let mut register = Register::default();
        let asker = Asker { node: 1, boot: 7 };
        let (_, saved) = register.ask(asker, Ask { number: 1, wish: Wish::Hold(LEASE) }, at(0));
        let saved = saved.expect("to be saved before the answer leaves");
        let renewed = register.ask(asker, Ask { number: 2, wish: Wish::Hold(LEASE) }, at(1));
        assert_eq!(renewed, (Outcome::Granted, None), "a renewal needs no disk");
        let mut register = Register::restored(saved, at(5000));
        assert_eq!(asked(&mut register, 2, 1, Wish::Hold(LEASE), at(5999)), Outcome::Refused);
        assert_eq!(asked(&mut register, 1, 3, Wish::Hold(LEASE), at(5999)), Outcome::Granted);
        let mut register = Register::forgetful(at(0));
        assert_eq!(asked(&mut register, 1, 1, Wish::Hold(LEASE), at(60_000)), Outcome::Refused);
        assert_eq!(asked(&mut register, 1, 1, Wish::Hold(LEASE), at(66_000)), Outcome::Granted);
        let longest = Wish::Hold(Span(1) + LEASE_MAX);
        assert_eq!(asked(&mut register, 2, 1, longest, at(200_000)), Outcome::Refused);
    }

    #[test]
    fn drifting_clocks_leave_a_gap_between_two_holders() {
        // The node's clock too slow, the arbiter's too fast, by 2 % each, and no delay at all.
        let ends = LEASE.0 * 9 / 10 * 100 / 98;
        let given_away = LEASE.0 * 100 / 102;
        assert!(ends < given_away, "{ends} {given_away}");
    }
}
