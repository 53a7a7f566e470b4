//! The data link: asking for the stream, applying it, acknowledging it.

use super::{Node, Output};
use crate::frame::{Follow, Frame, Link, Plan};
use crate::history::Position;
use crate::role::{Data, State, Trigger};
use crate::session::{self, Receiver, Sender};
use crate::time::{Mono, Span};

impl Node {
    /// The data link began or ended: what was under way on it is void.
    pub(super) fn drop_stream(&mut self) {
        self.sender = None;
        self.receiver = None;
        self.drop_comparison();
    }

    /// Asks the master for its stream, if that was not done on this link, or in vain.
    pub(super) fn follow(&mut self, now: Mono) {
        if !self.role.state.follows() || !self.data_up || !self.drained {
            return;
        }
        let patience = self.config.dead_after;
        let waiting = self
            .receiver
            .as_ref()
            .is_some_and(|receiver| receiver.planned || now.since(receiver.asked) < patience);
        if waiting {
            return;
        }
        self.take_own_position();
        self.session += 1;
        self.receiver = Some(Receiver::new(self.session, now));
        let position = self.position.clone().filter(|_| self.claim.data == Data::Complete && !self.resync);
        let follow = Follow { session: self.session, position };
        self.outputs.push_back(Output::Send(Link::Data, Frame::Follow(follow)));
    }

    pub(super) fn handle_stream(&mut self, frame: Frame, now: Mono) {
        match frame {
            Frame::Follow(follow) if self.role.state.leads() => {
                let (epoch, history) = (self.claim.epoch, &self.history);
                #[cfg(feature = "testing")]
                let history = &if self.planted(crate::testing::Plant::ForkAnywhere) {
                    history.forked_where(follow.position.as_ref())
                } else {
                    history.clone()
                };
                let sender = Sender::begin(&follow, epoch, history, &self.backlog, &mut self.counters);
                self.sender = Some(sender);
            }
            Frame::Ack { session, applied } => {
                if let Some(sender) = self.sender.as_mut().filter(|sender| sender.session == session) {
                    sender.acknowledge(applied);
                }
            }
            Frame::AskAck if self.receives() => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.ack_due = Some(now);
                }
            }
            Frame::Compare(question) => self.answer_comparison(&question, now),
            Frame::Compared(answer) => self.take_answer(answer),
            Frame::Plan(plan) => self.begin_stream(plan, now),
            Frame::Changes { shard, first, secs, payload } => {
                if let Err(why) = self.apply_changes(usize::from(shard), first, secs, &payload, now) {
                    self.give_up_link(why);
                }
            }
            Frame::Chunk { secs, payload } if self.receives() => {
                match session::apply(&*self.store, secs, &payload) {
                    Ok(_) => self.counters.bytes_applied += payload.len() as u64,
                    Err(_) => self.give_up_link("bytes that are no change"),
                }
            }
            Frame::CopyEnd { target } if self.receives() => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.target = Some(target);
                    receiver.copying = false;
                    receiver.ack_due = Some(now);
                }
                self.note_complete();
            }
            _ => {}
        }
    }

    fn begin_stream(&mut self, plan: Plan, now: Mono) {
        let asked = self.receiver.as_ref().is_some_and(|receiver| receiver.session == plan.session);
        if !asked || !self.role.state.follows() || plan.epoch != self.following {
            return;
        }
        self.position = Some(plan.from);
        self.claim.epoch = plan.epoch;
        if let Some(receiver) = &mut self.receiver {
            receiver.planned = true;
            receiver.copying = plan.copy;
            receiver.target = (!plan.copy).then_some(plan.target);
            receiver.ack_due = Some(now);
        }
        if plan.copy {
            self.counters.full_copies += 1;
            self.resync = false;
            self.claim.data = Data::Partial;
            self.clear_store();
            self.fire(Trigger::FellBehind, now);
        } else {
            self.counters.partial_resyncs += 1;
            self.note_complete();
        }
    }

    fn clear_store(&self) {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::KeepLeftovers) {
            return;
        }
        self.store.clear();
    }

    fn apply_changes(
        &mut self,
        shard: usize,
        first: u64,
        secs: u32,
        payload: &[u8],
        now: Mono,
    ) -> Result<(), &'static str> {
        if !self.receives() {
            return Ok(());
        }
        let (Some(receiver), Some(position)) = (&mut self.receiver, &mut self.position) else {
            return Ok(());
        };
        let applied = position.applied.get_mut(shard).ok_or("changes of a shard that does not exist")?;
        if first != *applied + 1 {
            return Err("changes are missing in the stream");
        }
        let store = &*self.store;
        #[cfg(feature = "testing")]
        let deaf = crate::testing::store::WithoutDeletes(store);
        #[cfg(feature = "testing")]
        let store: &dyn crate::store::Store =
            if self.config.plant == Some(crate::testing::Plant::SkipDeletes) { &deaf } else { store };
        let count = session::apply(store, secs, payload).map_err(|_| "bytes that are no change")?;
        *applied += count;
        receiver.bytes_unacked += payload.len();
        let due = if receiver.bytes_unacked >= ACK_BYTES { now } else { now + ACK_DELAY };
        receiver.ack_due = Some(receiver.ack_due.map_or(due, |earlier| earlier.min(due)));
        self.counters.changes_applied += count;
        self.counters.bytes_applied += payload.len() as u64;
        self.note_complete();
        Ok(())
    }

    /// Frames of a stream that was asked for and planned are for this node.
    pub(super) fn receives(&self) -> bool {
        self.role.state.follows() && self.receiver.as_ref().is_some_and(|receiver| receiver.planned)
    }

    /// All that was promised has come: what is here is complete.
    fn note_complete(&mut self) {
        if self.is_complete() {
            self.claim.data = Data::Complete;
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match (&self.receiver, &self.position) {
            #[cfg(feature = "testing")]
            (Some(receiver), Some(_)) if self.planted(crate::testing::Plant::SyncedTooSoon) => {
                receiver.planned
            }
            (Some(receiver), Some(position)) => receiver.is_complete(&position.applied),
            _ => false,
        }
    }

    /// As far as this backup knows, it misses nothing.
    pub(super) fn is_level(&self) -> bool {
        self.data_up && self.is_complete()
    }

    fn give_up_link(&mut self, why: &'static str) {
        self.data_up = false;
        self.drop_stream();
        self.outputs.push_back(Output::Close(Link::Data, why));
    }

    pub(super) fn acknowledge_when_due(&mut self, now: Mono) {
        let (Some(receiver), Some(position)) = (&mut self.receiver, &self.position) else { return };
        let streaming = receiver.planned && !receiver.copying;
        if !self.data_up || !streaming || receiver.ack_due.is_none_or(|due| due > now) {
            return;
        }
        receiver.ack_due = None;
        receiver.bytes_unacked = 0;
        let ack = Frame::Ack { session: receiver.session, applied: position.applied.clone() };
        self.outputs.push_back(Output::Send(Link::Data, ack));
    }

    /// Keeps what the backup acknowledged where others can see it.
    pub(super) fn note_acknowledged(&mut self) {
        let Some(sender) = &self.sender else { return };
        let Some(applied) = sender.acknowledged() else { return };
        if sender.is_level(&self.backlog) {
            self.lag_since = None;
        }
        let known = self.acknowledged.as_ref().is_some_and(|known| known.applied == applied);
        if !known {
            self.acknowledged = Some(Position { history: self.history.id, applied: applied.to_vec() });
        }
    }

    /// When the stream needs attention.
    pub(super) fn stream_wake(&self) -> Mono {
        let Some(receiver) = &self.receiver else { return Mono::NEVER };
        let retry = if receiver.planned { Mono::NEVER } else { receiver.asked + self.config.dead_after };
        let ack = receiver.ack_due.filter(|_| !receiver.copying);
        ack.unwrap_or(Mono::NEVER).min(retry)
    }

    /// Changes and bytes that the follower misses, as far as this node knows.
    pub(super) fn lag(&self) -> (u64, u64) {
        if let Some(sender) = &self.sender {
            return sender.lag(&self.backlog);
        }
        match (&self.receiver, &self.position, self.role.state) {
            (Some(Receiver { target: Some(target), .. }), Some(position), State::Joining | State::Backup) => {
                let missing = target.iter().zip(&position.applied).map(|(to, at)| to.saturating_sub(*at));
                (missing.sum(), 0)
            }
            _ => (0, 0),
        }
    }
}

/// An acknowledgement follows so many bytes,
const ACK_BYTES: usize = 64 * 1024;

/// or so much time, whatever comes first.
const ACK_DELAY: Span = Span::from_millis(2);
