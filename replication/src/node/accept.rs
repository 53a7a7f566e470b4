//! A backup that executes its clients' commands itself: both nodes take writes (multi-master).
//!
//! Intuition: such a backup is a master that was replaced and never stops reporting. It records what its clients do in
//! its own backlog and tells the master of it ([`Tail`]), in the very reports that heal a
//! split brain; the master merges each change by version under its shard's lock, as a change of its own, and
//! answers. So there is one order of all changes, the master's, and whatever both did to a key, both end with
//! what the master's stream says: the higher version.
//!
//! What could go wrong, and what is done about it:
//! * *Echo.* What is merged is in the master's stream, too. Of a put that the follower made, the sender sends the
//!   place only ([`Sender::stop_echo`](crate::session::Sender::stop_echo)); applying is never recorded.
//! * *Resurrection.* Puts and deletes cross on the way. The master looks whether it deleted the key since the
//!   follower last heard of it, the follower whether it did since the master last did: the deletes in the
//!   backlogs are the tombstones, and where a backlog no longer has them the map of what left it decides, for a
//!   miss. An answer travels behind everything the master recorded before it, so a delete
//!   that was answered can meet no older put.
//! * *Loss.* `merged` says what the master answered for, and outlives links: a new stream goes on there. Who is
//!   promoted begins its history there, so the old master is sent the rest like any change. A handover waits
//!   for nobody: from its beginning reports are held, and answered if the role stays. Before a node stops or is
//!   copied anew its gate closes and everything is told. Where the backlog overran, the stream begins again and
//!   the rest goes as it does after a split brain.
//! * *Deposed, hung, cut off.* What such a node wakes up to execute is merged as well, so it may be acknowledged.
//!   A node that joins, catches up or copies hands requests on; the master itself keeps to its lease.
//!
//! Promise: with both nodes told to accept, both hold the same when they are level, the newest version of each key; nothing
//! either acknowledged is lost but to a newer write of the key, to `flush_all`, to the death of the only node that had it, or to a
//! full copy of a node that was catching up when it was cut off. Not promised: that a command sees what the other
//! node executes at the same moment. `cas`, `add`, `incr` are atomic on each node alone.

use super::{Node, Output};
use crate::change::Change;
use crate::frame::{Frame, Link, Report};
use crate::heal::{Hopeless, Matter, Suffix, TAIL_UNANSWERED_MAX, Tail};
use crate::role::State;
use crate::session::{self, reached};
use crate::time::Mono;

impl Node {
    /// Both nodes are told to.
    pub(super) fn both_accept(&self) -> bool {
        self.config.accept && self.peer.as_ref().is_some_and(|peer| peer.accepts)
    }

    /// This backup executes commands itself.
    pub(super) fn accepts(&self) -> bool {
        let level = self.role.state == State::Backup && self.merged.is_some();
        level && self.both_accept() && !self.resync && !self.stopping
    }

    /// The master does not have all of what this node did, or a batch is still doing something.
    pub(super) fn owes(&self) -> bool {
        self.merged.as_ref().is_some_and(|merged| !self.drained || !reached(merged, &self.backlog.last()))
    }

    /// What those who wait for the other node's word may be told: it has everything up to there, in this node's
    /// own sequences. A change whose sequence is not above it survives the loss of this node.
    pub fn confirmed(&self) -> Option<&[u64]> {
        match self.role.state.follows() {
            true => self.merged.as_deref(),
            false => self.acknowledged().map(|position| &position.applied[..]),
        }
    }

    /// The other node is linked, and will confirm soon what is recorded now.
    pub fn will_confirm(&self) -> bool {
        self.is_followed() || (self.accepts() && self.is_level())
    }

    /// Everything here is complete. From now on, or still, the master is told what this node does.
    pub(super) fn begin_tail(&mut self, told: Option<Suffix>) {
        match (&mut self.merged, told) {
            (Some(merged), Some(told)) => {
                *merged = told.to;
                self.backlog.advance(merged);
            }
            (Some(_), None) => {}
            (None, _) => {
                // Nothing was executed here since this node follows, and all it did before is told.
                self.backlog.forget();
                self.merged = self.config.accept.then(|| self.backlog.track());
            }
        }
    }

    /// The link was cut, or the stream left something out: what the master lacks of what this node did, if it cannot simply
    /// go on to be told.
    pub(super) fn find_own(&mut self, continues: bool) {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ForgetTail) && self.merged.is_some() {
            self.merged = Some(self.backlog.last());
        }
        let Some(merged) = &self.merged else { return };
        if self.backlog.covers(merged) {
            self.backlog.take_missed();
            self.debt = session::Debt::default();
        } else {
            self.debt.absorb(&self.backlog.take_missed());
        }
        if !continues || !self.debt.pending.is_empty() {
            self.unfinished.suffix = Some(Suffix::behind(merged, self.debt.pending.clone(), &self.backlog));
        }
    }

    /// The master has what was told first of all that has no answer yet.
    pub(super) fn note_merged(&mut self, now: Mono) {
        let tail = self.receiver.as_mut().and_then(|receiver| receiver.tail.as_mut());
        if let Some(merged) = tail.and_then(|tail| tail.answered()) {
            self.backlog.advance(&merged);
            self.lag_since = (!reached(&merged, &self.backlog.last())).then_some(now);
            self.merged = Some(merged);
        }
    }

    /// What else this node did, for the master to merge.
    pub(super) fn poll_tail(&mut self, bytes_max: usize, now: Mono) -> Option<Frame> {
        let complete = self.is_complete();
        let (Some(merged), Some(receiver)) = (&self.merged, &mut self.receiver) else { return None };
        let position = self.position.as_ref().filter(|_| complete)?;
        let tail = receiver.tail.get_or_insert_with(|| Tail::behind(merged));
        let matter = Matter {
            suspects: &self.unfinished.suspects,
            suffix: None,
            applied: &position.applied,
            heal: self.config.heal,
            slot: Some(self.slot),
            store: &*self.store,
            backlog: &self.backlog,
        };
        match tail.poll(bytes_max, &matter) {
            Ok(None) => None,
            Ok(Some(payload)) => {
                self.lag_since.get_or_insert(now);
                self.counters.bytes_sent += payload.len() as u64;
                let (plan, secs, applied) = (receiver.plan, self.store.secs(), position.applied.clone());
                let payload = payload.freeze();
                Some(Frame::Report(Report { plan, compare: false, secs, applied, payload }))
            }
            // The master is asked to go on where it is, and told the rest as after a split brain.
            Err(Hopeless) => {
                self.receiver = None;
                None
            }
        }
    }

    /// As master of a backup that accepts: takes a report, or holds it while the role may go.
    pub(super) fn take_report(&mut self, report: Report) {
        if !self.both_accept() {
            return self.answer(&report);
        }
        // Of a plan that is no more, it will be told again.
        let Some(sender) = self.sender.as_ref().filter(|sender| sender.plan_number() == report.plan) else {
            return;
        };
        if self.role.state == State::Master {
            let level = sender.acknowledged().is_some();
            self.answer(&report);
            if level && !self.backlog.covers(&report.applied) {
                // Changes may have been refused only because nobody knows. Told again when more was heard, they are not.
                self.give_up_link("it is not known any more what was changed since the backup heard of it");
            }
            return;
        }
        self.held.push_back(report);
        if self.held.len() > HELD_MAX {
            self.give_up_link("more reports than were answered");
        }
    }

    /// The role stays here: what was held is answered.
    pub(super) fn answer_held(&mut self) {
        while self.role.state == State::Master
            && let Some(report) = self.held.pop_front()
        {
            self.take_report(report);
        }
    }

    /// Sends an answer; to a backup that accepts, behind everything that is recorded by now.
    pub(super) fn send_answer(&mut self, answer: Frame) {
        if !self.both_accept() {
            return self.outputs.push_back(Output::Send(Link::Data, answer));
        }
        let last = self.backlog.last();
        if let Some(sender) = &mut self.sender {
            sender.answer_behind(last, answer);
        }
    }

    /// Applies what the master sends, but for items that were deleted here since it last heard of this node.
    pub(super) fn apply(&self, secs: u32, payload: &[u8]) -> Result<u64, crate::change::DecodeError> {
        let store = &*self.store;
        let Some(merged) = &self.merged else { return session::apply(store, secs, payload) };
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ForgetTombstones) {
            return session::apply(store, secs, payload);
        }
        let ours = store.secs();
        let mut count = 0;
        for change in Change::decode_all(payload) {
            let change = change?.translated(secs, ours);
            let (key, version) = change.key_and_version().unwrap_or_default();
            store.apply_unless(&change, &|shard| {
                let unknown = self.debt.pending.is_removed(key, version);
                let merged = merged.get(shard).filter(|_| !unknown);
                let newer = merged.and_then(|merged| self.backlog.has_newer(shard, *merged, key, version));
                if newer.is_none() {
                    // It may have been deleted here. Then it goes, on both nodes.
                    self.backlog.record(shard, &Change::Delete { key, version: version + 1 });
                }
                newer.unwrap_or(true)
            });
            count += 1;
        }
        Ok(count)
    }
}

/// More reports than a follower may have unanswered.
const HELD_MAX: usize = 2 * TAIL_UNANSWERED_MAX;
