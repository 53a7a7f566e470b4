//! What may be concluded from silence.
//!
//! Nothing is certain about a peer that says nothing: it may be dead, stopped, starved or cut off. So
//! suspicion only leads to a question (a *probe* of its ports), and action needs an answer:
//! * **certain** death, acted upon at once: it said goodbye, it came back as another process, or the
//!   link is gone *and* all its ports refuse, so no process is there to serve anybody.
//! * **silent** for `dead_after` while its client port gives no answer either: acted upon then.
//! * an application that **answers** on the client port is alive, however silent the link is: never
//!   acted upon.
//!
//! And a process that finds its own timers late was not listening: it forgets all suspicion.

use crate::node::Probe;
use crate::time::{Mono, Span};

/// What is believed of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Heard lately.
    Alive,
    /// Not heard for a few heartbeats: ask.
    Suspect,
    /// Nobody is served there, as far as anybody can tell.
    Silent,
    /// There is no such process any more.
    Certain,
}

/// The observations about one peer.
#[derive(Clone, Debug)]
pub struct Liveness {
    heartbeat: Span,
    dead_after: Span,
    /// The last sign of life.
    heard: Option<Mono>,
    /// Silence before this does not count: this process had not begun, or was not listening.
    listening_since: Mono,
    /// The control link went down at that moment and is not up again.
    down_since: Option<Mono>,
    /// It is known to be no more.
    gone: bool,
    probing: Probing,
}

/// The question under way, or the last answer.
#[derive(Clone, Copy, Debug, Default)]
struct Probing {
    /// When the question under way was asked.
    asked: Option<Mono>,
    /// What came of the last one, and when that had been asked.
    answer: Option<(Probe, Mono)>,
    /// Not before that the next one.
    next: Mono,
    /// Grows while nothing changes.
    pause: Span,
}

impl Liveness {
    /// Nobody was heard yet, and nobody listened before `now`.
    ///
    /// # Panics
    /// If `dead_after` is not longer than three heartbeats: nobody could be asked in between.
    pub fn new(heartbeat: Span, dead_after: Span, now: Mono) -> Self {
        assert!(heartbeat.0 > 0 && dead_after > heartbeat.scaled(3, 1), "dead_after > 3 heartbeats");
        Self {
            heartbeat,
            dead_after,
            heard: None,
            listening_since: now,
            down_since: Some(now),
            gone: false,
            probing: Probing::default(),
        }
    }

    /// Silence for so long is worth a question.
    pub fn suspect_after(&self) -> Span {
        self.heartbeat.scaled(3, 1)
    }

    /// A sign of life came.
    pub fn heard(&mut self, now: Mono) {
        self.heard = Some(now);
        self.gone = false;
        self.probing = Probing { asked: self.probing.asked, ..Probing::default() };
    }

    /// The control link is up.
    pub fn link_up(&mut self, now: Mono) {
        self.down_since = None;
        self.heard(now);
    }

    /// The control link is down: ask at once.
    pub fn link_down(&mut self, now: Mono) {
        self.down_since = Some(now);
        self.probing = Probing { asked: self.probing.asked, ..Probing::default() };
    }

    /// It said goodbye, or its place was taken by another process.
    pub fn gone(&mut self) {
        self.gone = true;
    }

    /// It said goodbye, or its place was taken.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// This process was not listening until `now`.
    pub fn was_deaf(&mut self, now: Mono) {
        self.listening_since = now;
        self.gone = false;
        self.probing = Probing { asked: self.probing.asked, ..Probing::default() };
    }

    /// A question is due: it counts as asked.
    pub fn ask(&mut self, now: Mono) -> bool {
        let due = self.suspicious(now) && self.probing.asked.is_none() && now >= self.probing.next;
        if due {
            self.probing.asked = Some(now);
        }
        due
    }

    /// What came of the question. Once more after a pause that doubles: a process that dies takes a
    /// while to close its ports.
    pub fn answered(&mut self, probe: Probe, now: Mono) {
        let Some(asked) = self.probing.asked.take() else { return };
        self.probing.answer = Some((probe, asked));
        let shortest = self.heartbeat.scaled(1, 20).max(Span(1));
        self.probing.pause = self.probing.pause.scaled(2, 1).clamp(shortest, self.dead_after.scaled(1, 4));
        self.probing.next = now + self.probing.pause;
    }

    /// What is to be believed now.
    pub fn verdict(&self, now: Mono) -> Verdict {
        if self.gone {
            return Verdict::Certain;
        }
        let silent_since = self.silent_since();
        match self.probing.answer {
            Some((Probe::Refused, asked)) if self.down_since.is_some_and(|down| down <= asked) => {
                if asked >= silent_since { Verdict::Certain } else { Verdict::Suspect }
            }
            Some((Probe::Refused | Probe::Silent, asked))
                if asked >= silent_since && now.since(silent_since) >= self.dead_after =>
            {
                Verdict::Silent
            }
            _ if self.suspicious(now) => Verdict::Suspect,
            _ => Verdict::Alive,
        }
    }

    /// For how long nothing was heard while this process listened.
    pub fn silence(&self, now: Mono) -> Span {
        now.since(self.silent_since())
    }

    /// The link is up, and it was heard so lately that it would have been heard if it had said something.
    pub fn audible(&self, now: Mono) -> bool {
        let linked = !self.gone && self.down_since.is_none();
        linked && self.heard.is_some_and(|heard| now.since(heard) < self.suspect_after())
    }

    /// For how long nothing was heard at all.
    pub fn unheard(&self, now: Mono) -> Option<Span> {
        self.heard.map(|heard| now.since(heard))
    }

    /// When the verdict may change, or the next question is due, without anything happening.
    pub fn next_change(&self, now: Mono) -> Mono {
        if self.gone {
            return Mono::NEVER;
        }
        let silent_since = self.silent_since();
        let dead = Some(silent_since + self.dead_after).filter(|at| *at > now);
        let suspect = Some(silent_since + self.suspect_after()).filter(|at| *at > now);
        let question = (self.suspicious(now) && self.probing.asked.is_none()).then_some(self.probing.next);
        [dead, suspect, question].into_iter().flatten().min().unwrap_or(Mono::NEVER)
    }

    fn silent_since(&self) -> Mono {
        self.heard.unwrap_or(self.listening_since).max(self.listening_since)
    }

    fn suspicious(&self, now: Mono) -> bool {
        self.down_since.is_some() || self.silence(now) >= self.suspect_after()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    fn linked() -> Liveness {
        let mut liveness = Liveness::new(Span::from_millis(100), Span::from_millis(1000), at(0));
        liveness.link_up(at(0));
        liveness
    }

    #[test]
    fn silence_alone_is_a_reason_to_ask_not_to_act() {
        let mut peer = linked();
        assert_eq!(peer.verdict(at(299)), Verdict::Alive);
        assert!(!peer.ask(at(299)));
        assert_eq!(peer.verdict(at(300)), Verdict::Suspect);
        assert!(peer.ask(at(300)) && !peer.ask(at(301)), "one question at a time");
        assert_eq!(peer.verdict(at(5000)), Verdict::Suspect, "nobody answered the question yet");
        peer.answered(Probe::Silent, at(5000));
        assert_eq!(peer.verdict(at(5000)), Verdict::Silent);
    }

    #[test]
    fn silent_everywhere_for_long_enough_is_dead() {
        let mut peer = linked();
        assert!(peer.ask(at(300)));
        peer.answered(Probe::Silent, at(600));
        assert_eq!(peer.verdict(at(999)), Verdict::Suspect);
        assert_eq!(peer.verdict(at(1000)), Verdict::Silent);
        peer.heard(at(1001));
        assert_eq!(peer.verdict(at(1001)), Verdict::Alive);
    }

    #[test]
    fn a_closed_link_and_refusing_ports_are_certain_at_once() {
        let mut peer = linked();
        peer.link_down(at(50));
        assert_eq!(peer.verdict(at(50)), Verdict::Suspect);
        assert!(peer.ask(at(50)));
        peer.answered(Probe::Silent, at(51));
        assert_eq!(peer.verdict(at(51)), Verdict::Suspect, "its kernel is still tidying up");
        assert!(peer.next_change(at(51)) <= at(60) && peer.ask(at(60)));
        peer.answered(Probe::Refused, at(61));
        assert_eq!(peer.verdict(at(61)), Verdict::Certain);
    }

    #[test]
    fn refusing_ports_on_a_link_that_is_up_are_not_certain() {
        let mut peer = linked();
        assert!(peer.ask(at(400)));
        peer.answered(Probe::Refused, at(401));
        assert_eq!(peer.verdict(at(401)), Verdict::Suspect);
        assert_eq!(peer.verdict(at(1000)), Verdict::Silent);
    }

    #[test]
    fn whoever_answers_clients_is_alive() {
        let mut peer = linked();
        assert!(peer.ask(at(400)));
        peer.answered(Probe::Answers, at(401));
        assert_eq!(peer.verdict(at(9000)), Verdict::Suspect);
        assert!(peer.ask(at(9000)), "but it is asked again");
        peer.answered(Probe::Silent, at(9001));
        assert_eq!(peer.verdict(at(9001)), Verdict::Silent);
    }

    #[test]
    fn whoever_was_deaf_forgets_all_suspicion() {
        let mut peer = linked();
        assert!(peer.ask(at(400)));
        peer.answered(Probe::Silent, at(500));
        assert_eq!(peer.verdict(at(3000)), Verdict::Silent);
        peer.was_deaf(at(3000));
        assert_eq!(peer.verdict(at(3000)), Verdict::Alive);
        assert_eq!(peer.verdict(at(4000)), Verdict::Suspect, "until it is asked again");
    }

    #[test]
    fn a_goodbye_is_certain_until_it_is_heard_again() {
        let mut peer = linked();
        peer.gone();
        assert_eq!(peer.verdict(at(1)), Verdict::Certain);
        peer.link_up(at(2));
        assert_eq!(peer.verdict(at(2)), Verdict::Alive);
    }
}
