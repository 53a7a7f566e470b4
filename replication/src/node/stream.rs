//! The data link: asking for the stream, applying it, acknowledging it.

use super::{Node, Output};
use crate::dirty::DirtyMap;
use crate::frame::{Follow, Frame, Link, Plan, Report, Way};
use crate::heal::{self, Hopeless, Matter, Reports, Suffix};
use crate::history::Position;
use crate::role::{Data, State, Trigger};
use crate::session::{Debt, Means, Receiver, Sender, Unfinished};
use crate::time::{Mono, Span};

impl Node {
    /// The data link began or ended: what was under way on it is void.
    pub(super) fn drop_stream(&mut self) {
        self.sender = None;
        self.receiver = None;
        self.held.clear();
        self.ack_asked = false;
        self.drop_comparison();
    }

    /// Asks the master for its stream, if that was not done on this link, or in vain.
    pub(super) fn follow(&mut self, now: Mono) {
        if !self.role.state.follows() || !self.data_up || !self.drained {
            return;
        }
        // What it did itself comes first.
        let copies = self.resync && !self.owes();
        if copies && self.merged.take().is_some() {
            self.receiver = None;
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
        let (mut positions, mut cut) = (self.known_positions(), None);
        if self.claim.data != Data::Complete {
            positions.clone_from(&self.unfinished.base);
            cut = self.unfinished.cut(self.position.as_ref());
        }
        self.receiver = Some(Receiver::new(self.session, now));
        if copies {
            positions.clear();
            cut = None;
        }
        let follow = Follow { session: self.session, positions, cut };
        self.outputs.push_back(Output::Send(Link::Data, Frame::Follow(follow)));
    }

    /// Where a node that holds everything stands, and where it left earlier histories.
    fn known_positions(&self) -> Vec<Position> {
        match &self.position {
            Some(position) if position.history == self.history.id => self.history.positions(position.clone()),
            position => position.iter().cloned().collect(),
        }
    }

    pub(super) fn handle_stream(&mut self, frame: Frame, now: Mono) {
        match frame {
            Frame::Follow(follow) if self.role.state.leads() => self.begin_sender(&follow, now),
            Frame::Ack { session, plan, applied, complete } => {
                self.ack_asked = false;
                self.with_sender(|sender, means| {
                    if sender.session == session {
                        sender.acknowledge(plan, applied, complete, means);
                    }
                    Some(())
                });
            }
            Frame::Report(report) if self.role.state.leads() => self.take_report(report),
            Frame::Report(report) if self.receives() => {
                let (Some(receiver), Some(position)) = (&mut self.receiver, &self.position) else { return };
                let answer = receiver.reports.asked(&report, &position.applied, &*self.store);
                let answer = answer.map(|frame| Output::Send(Link::Data, frame));
                self.outputs.extend(answer);
            }
            Frame::Dirty { plan, payload } => self.take_map(plan, &payload, now),
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
            Frame::Chunk { shard, cursor, secs, payload } if self.receives() => {
                self.apply_bulk(secs, &payload, now);
                if let Some(walk) = &mut self.unfinished.walk {
                    (walk.1, walk.2) = (shard, cursor);
                }
            }
            Frame::CopyEnd { target } if self.receives() => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.target = Some(target);
                }
                self.note_complete(now);
            }
            Frame::Answer { plan, secs, payload } if self.receives() => {
                self.apply_bulk(secs, &payload, now);
                if let Some(receiver) = &mut self.receiver {
                    receiver.reports.answered(plan);
                    if receiver.plan == plan {
                        self.note_merged(now);
                    }
                }
                self.note_complete(now);
            }
            _ => {}
        }
    }

    fn begin_sender(&mut self, follow: &Follow, now: Mono) {
        self.walk_since = now;
        self.held.clear();
        let peer_slot = self.both_accept().then_some(1 - self.slot);
        #[cfg(feature = "testing")]
        let peer_slot = peer_slot.filter(|_| !self.planted(crate::testing::Plant::EchoBack));
        #[cfg(feature = "testing")]
        let follow = &match self.planted(crate::testing::Plant::AlwaysCopy) {
            true => Follow { positions: Vec::new(), cut: None, ..follow.clone() },
            false => follow.clone(),
        };
        let (epoch, history) = (self.claim.epoch, self.history.clone());
        #[cfg(feature = "testing")]
        self.forget_missed_if_planted();
        let mut means = Means {
            store: &*self.store,
            backlog: &self.backlog,
            debt: &mut self.debt,
            counters: &mut self.counters,
        };
        let sender = Sender::begin(follow, epoch, &history, &mut means);
        self.sender = Some(sender.stop_echo(peer_slot).as_they_are(self.untold.clone()));
        self.conflicts_told = 0;
    }

    /// The sender, if there is one, and what it works with.
    pub(super) fn with_sender<T>(
        &mut self,
        act: impl FnOnce(&mut Sender, &mut Means<'_>) -> Option<T>,
    ) -> Option<T> {
        #[cfg(feature = "testing")]
        self.forget_missed_if_planted();
        let mut means = Means {
            store: &*self.store,
            backlog: &self.backlog,
            debt: &mut self.debt,
            counters: &mut self.counters,
        };
        act(self.sender.as_mut()?, &mut means)
    }

    #[cfg(feature = "testing")]
    fn forget_missed_if_planted(&mut self) {
        if self.planted(crate::testing::Plant::ForgetMissed) {
            self.backlog.take_missed();
        }
    }

    /// The follower reports what it has.
    pub(super) fn answer(&mut self, report: &Report) {
        #[cfg(feature = "testing")]
        let report = &if self.planted(crate::testing::Plant::MergeBlindly) {
            Report { applied: self.backlog.last(), ..report.clone() }
        } else {
            report.clone()
        };
        let heal = self.config.heal;
        #[cfg(feature = "testing")]
        let heal =
            if self.planted(crate::testing::Plant::MergeForTheWinner) { heal::Heal::Newest } else { heal };
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::InvalidateMore) {
            self.debt.parted_at = Some(0);
        }
        let both_accept = self.both_accept();
        let mut told = Vec::new();
        let answer = self.with_sender(|sender, means| {
            let sample = &mut |key: &[u8]| told.push(key.to_vec());
            let merged = means.counters.merged;
            let accepts = both_accept && sender.acknowledged().is_some();
            let answer = heal::answer(report, (heal, accepts), means, sample);
            if accepts {
                // From a backup that holds everything this is what its clients do.
                means.counters.accepted += means.counters.merged - merged;
                means.counters.merged = merged;
            }
            Some(answer)
        });
        match answer {
            Some(Ok(answer)) => self.send_answer(answer),
            Some(Err(_)) => self.give_up_link("bytes that are no change"),
            None => {}
        }
        for key in told {
            if self.conflicts_told < CONFLICTS_TOLD_MAX {
                self.conflicts_told += 1;
                self.outputs.push_back(Output::Conflict(key));
            }
        }
    }

    /// The other node says what this one may lack (or, to a master, what it may have too much).
    fn take_map(&mut self, plan: u32, payload: &[u8], now: Mono) {
        let Some(map) = DirtyMap::decode(payload) else {
            return self.give_up_link("bytes that are no map");
        };
        if self.role.state.follows() && self.receiver.is_some() {
            self.unfinished.suspects.merge(&map);
            if let Some(receiver) = &mut self.receiver {
                // The plan that follows says when everything has come.
                receiver.target = None;
            }
            if self.claim.data == Data::Complete {
                self.unfinished.base = self.known_positions();
                self.claim.data = Data::Partial;
                self.claim.age = self.inherited_age();
                self.fire(Trigger::FellBehind, now);
            }
        } else if self.role.state.leads() {
            self.with_sender(|sender, _| {
                sender.doubt_buckets(plan, map);
                Some(())
            });
        }
    }

    fn begin_stream(&mut self, plan: Plan, now: Mono) {
        let asked = self.receiver.as_ref().is_some_and(|receiver| receiver.session == plan.session);
        if !asked || !self.role.state.follows() || plan.epoch != self.following {
            return;
        }
        self.claim.epoch = plan.epoch;
        if plan.way == Way::Copy {
            self.unfinished = Unfinished::default();
            self.clear_store();
            self.backlog.forget();
            self.debt = Debt::default();
            self.purge = None;
            self.merged = None;
            self.resync = false;
            self.counters.full_copies += 1;
        } else if self.claim.data == Data::Complete {
            self.unfinished.base = self.known_positions();
        }
        if self.merged.is_some() {
            self.find_own(plan.way == Way::Continue);
        } else if let Some(parted) = &plan.give_up {
            self.find_suffix(parted);
        }
        match plan.way {
            Way::Continue => self.counters.partial_resyncs += 1,
            Way::CatchUp => self.counters.catch_ups += 1,
            Way::Resume => self.counters.resumed_copies += 1,
            Way::Copy => {}
        }
        if plan.way != Way::Continue && self.unfinished.walk.is_none_or(|walk| walk.0 != plan.walk) {
            self.unfinished.walk = Some((plan.walk, 0, 0));
        }
        let behind = plan.way != Way::Continue || self.unfinished.suffix.is_some();
        if behind {
            self.claim.data = Data::Partial;
            self.claim.age = if plan.way == Way::Copy { 0 } else { self.inherited_age() };
        }
        self.position = Some(plan.from);
        if let Some(receiver) = &mut self.receiver {
            receiver.planned = true;
            receiver.target = (plan.way == Way::Continue).then_some(plan.target);
            receiver.plan = plan.number;
            receiver.reports = Reports::of(plan.number, plan.way != Way::Continue);
            receiver.tail = None;
            receiver.settled = false;
            receiver.ack_due = Some(now);
        }
        if behind {
            self.fire(Trigger::FellBehind, now);
        }
        self.note_complete(now);
    }

    /// A node that misses part of what its master has holds nearly as much: more than any that began with
    /// nothing since.
    fn inherited_age(&self) -> u32 {
        if self.unfinished.base.is_empty() {
            return 0;
        }
        let heartbeat = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref());
        match heartbeat.map(|heartbeat| heartbeat.claim) {
            Some(claim) if claim.data == Data::Complete => u32::MAX / 2,
            Some(claim) => claim.age.saturating_sub(1),
            None => 0,
        }
    }

    /// What this node did that the master does not have: everything since their pasts parted.
    fn find_suffix(&mut self, parted: &Position) {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::KeepSuffix) {
            return;
        }
        let Some(from) = self.history.own_since(parted) else { return };
        self.debt.absorb(&self.backlog.take_missed());
        let missed = self.debt.pending.clone();
        self.unfinished.suffix = Some(Suffix::behind(&from, missed, &self.backlog));
    }

    /// What the master wants to hear, as far as it may be said now.
    pub(super) fn poll_report(&mut self, bytes_max: usize, now: Mono) -> Option<Frame> {
        let slot = self.both_accept().then_some(self.slot);
        let (receiver, position) = (self.receiver.as_mut()?, self.position.as_ref()?);
        let suspects = &self.unfinished.suspects;
        #[cfg(feature = "testing")]
        let nothing = DirtyMap::default();
        #[cfg(feature = "testing")]
        let suspects = if self.config.plant == Some(crate::testing::Plant::SkipComparison) {
            &nothing
        } else {
            suspects
        };
        let matter = Matter {
            suspects,
            suffix: self.unfinished.suffix.as_ref(),
            applied: &position.applied,
            heal: self.config.heal,
            slot,
            store: &*self.store,
            backlog: &self.backlog,
        };
        match receiver.reports.poll(bytes_max, &matter) {
            Ok(Some(frame)) => Some(frame),
            Ok(None) => {
                self.note_complete(now);
                self.poll_tail(bytes_max, now)
            }
            Err(Hopeless) => {
                // Asked again with nothing in hand, the master copies.
                self.unfinished = Unfinished::default();
                self.receiver = None;
                None
            }
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
        let applied = self.position.as_ref().map(|position| position.applied.get(shard).copied());
        let Some(applied) = applied else { return Ok(()) };
        if first != applied.ok_or("changes of a shard that does not exist")? + 1 {
            return Err("changes are missing in the stream");
        }
        let count = self.apply(secs, payload).map_err(|_| "bytes that are no change")?;
        let (Some(receiver), Some(position)) = (&mut self.receiver, &mut self.position) else {
            return Ok(());
        };
        position.applied[shard] += count;
        receiver.bytes_unacked += payload.len();
        let due = if receiver.bytes_unacked >= ACK_BYTES { now } else { now + ACK_DELAY };
        receiver.ack_due = Some(receiver.ack_due.map_or(due, |earlier| earlier.min(due)));
        self.counters.changes_applied += count;
        self.counters.bytes_applied += payload.len() as u64;
        self.note_complete(now);
        Ok(())
    }

    /// Items of a walk, or answers.
    fn apply_bulk(&mut self, secs: u32, payload: &[u8], now: Mono) {
        if self.apply(secs, payload).is_err() {
            return self.give_up_link("bytes that are no change");
        }
        self.counters.bytes_applied += payload.len() as u64;
        if let Some(receiver) = &mut self.receiver {
            receiver.ack_due.get_or_insert(now + ACK_DELAY);
        }
    }

    /// Frames of a stream that was asked for and planned are for this node.
    pub(super) fn receives(&self) -> bool {
        self.role.state.follows() && self.receiver.as_ref().is_some_and(|receiver| receiver.planned)
    }

    /// If all that was promised has come, and all was told in return, what is here is complete.
    fn note_complete(&mut self, now: Mono) {
        let (Some(receiver), Some(position)) = (&mut self.receiver, &self.position) else { return };
        if receiver.has_arrived(&position.applied) {
            receiver.reports.begin(&self.unfinished.suspects, self.unfinished.suffix.as_ref());
        }
        if !self.is_complete() {
            return;
        }
        let Some(receiver) = self.receiver.as_mut().filter(|receiver| !receiver.settled) else { return };
        receiver.settled = true;
        receiver.ack_due = Some(now);
        self.claim.data = Data::Complete;
        self.claim.age = 0;
        let told = std::mem::take(&mut self.unfinished).suffix;
        // Whatever this node did itself is the master's now.
        self.debt = Debt::default();
        self.begin_tail(told);
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

    /// The peer is heard, and nothing comes over the data link although something has to: it leads nowhere.
    /// Whatever the reason is (a firewall that forgot it, something in between that swallows, a window that
    /// stays shut), a new connection goes on where this one was.
    ///
    /// Every frame counts, and so do pieces of long ones: a slow link moves.
    pub(super) fn notice_stall(&mut self, now: Mono) {
        let waits = match (&self.sender, &self.receiver) {
            _ if !self.data_up => false,
            (Some(_), _) => self.role.state.leads() && self.lag_since.is_some(),
            (None, Some(receiver)) => self.role.state.follows() && !receiver.planned,
            (None, None) => false,
        };
        // Of a peer that is silent nothing can be expected.
        if !waits || self.liveness.silence(now) >= self.config.dead_after {
            self.data_moved = now;
        }
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::WaitForStalled) {
            return;
        }
        if now.since(self.data_moved) < self.config.stall_after || !self.liveness.audible(now) {
            return;
        }
        self.counters.stalls += 1;
        if let Some(sender) = &self.sender {
            let session = sender.session;
            self.outputs.push_back(Output::Send(Link::Control, Frame::Redial { session }));
        }
        self.give_up_link("nothing comes over it though the peer is heard");
        self.data_moved = now;
    }

    /// The master hears nothing over the link on which this node asked for that session.
    pub(super) fn redial(&mut self, session: u32) {
        let same = self.receiver.as_ref().is_some_and(|receiver| receiver.session == session);
        if same && self.data_up && self.role.state.follows() {
            self.give_up_link("the master hears nothing over it");
        }
    }

    pub(super) fn give_up_link(&mut self, why: &'static str) {
        self.data_up = false;
        self.drop_stream();
        self.outputs.push_back(Output::Close(Link::Data, why));
    }

    pub(super) fn acknowledge_when_due(&mut self, now: Mono) {
        let (Some(receiver), Some(position)) = (&mut self.receiver, &self.position) else { return };
        if !self.data_up || !receiver.planned || receiver.ack_due.is_none_or(|due| due > now) {
            return;
        }
        receiver.ack_due = None;
        receiver.bytes_unacked = 0;
        let (session, plan, applied) = (receiver.session, receiver.plan, position.applied.clone());
        let ack = Frame::Ack { session, plan, applied, complete: self.is_complete() };
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
        receiver.ack_due.unwrap_or(Mono::NEVER).min(retry)
    }

    /// Changes and bytes that the follower misses, as far as this node knows.
    pub(super) fn lag(&self) -> (u64, u64) {
        if let Some(sender) = &self.sender {
            return sender.lag(&self.backlog);
        }
        match (&self.receiver, &self.position, self.role.state) {
            (Some(Receiver { target: Some(target), .. }), Some(position), State::Joining | State::Backup) => {
                let missing = target.iter().zip(&position.applied).map(|(to, at)| to.saturating_sub(*at));
                let untold = self.merged.iter().flatten().enumerate();
                let untold = untold.map(|(shard, merged)| self.backlog.behind(shard, *merged));
                untold.fold((missing.sum(), 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            }
            _ => (0, 0),
        }
    }
}

/// An acknowledgement follows so many bytes,
const ACK_BYTES: usize = 256 * 1024;

/// or so much time, whatever comes first; whoever waits for one asks for it.
const ACK_DELAY: Span = Span::from_millis(5);

/// So many keys that both nodes changed are told to the log, of each heal.
const CONFLICTS_TOLD_MAX: u32 = 10;
