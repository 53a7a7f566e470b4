//! What follows from what was observed: triggers, and the effects of the rows they fire.

use super::{Failback, Node, Operator, Output, Peer, Refusal, Saved};
use crate::dirty::DirtyMap;
use crate::frame::{ACCEPTS, Frame, Handover, Heartbeat, Hello, Link};
use crate::heal;
use crate::history::{Fork, History, Position};
use crate::liveness::Verdict;
use crate::role::{self, Data, Effect, State, Trigger};
use crate::session::Debt;
use crate::time::{Mono, Span};
use crate::walk::Walk;

impl Node {
    /// Before anything else: did this process run when it should have?
    pub(super) fn observe(&mut self, now: Mono) {
        if now.since(self.wake_at) <= self.config.late_after() {
            return;
        }
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::IgnoreLateness) {
            return;
        }
        self.liveness.was_deaf(now);
        self.data_moved = now;
        if self.config.peer_expected || self.peer.is_some() {
            self.fire(Trigger::WasLate, now);
        }
    }

    /// After everything else: all that follows, until nothing does.
    pub(super) fn settle(&mut self, now: Mono) {
        self.unsettled = false;
        self.grow_older(now);
        self.purge_suspects();
        self.needs_grant = false;
        for _ in 0..ROWS_AT_ONCE_MAX {
            let Some(trigger) = self.pending_trigger(now) else { break };
            if !self.is_allowed(trigger, now) || !self.fire(trigger, now) {
                break;
            }
        }
        self.follow(now);
        self.answer_held();
        self.acknowledge_when_due(now);
        self.notice_stall(now);
        self.ask_for_role(now);
        let beat = now >= self.next_heartbeat;
        self.refresh_gate(beat, now);
        self.ask_arbiter(now);
        if beat {
            self.send_heartbeat(now);
            self.next_heartbeat = now + self.config.heartbeat;
        }
        let watches = self.watches();
        #[cfg(feature = "testing")]
        let watches = watches && !self.planted(crate::testing::Plant::NeverAsk);
        if watches && self.liveness.ask(now) {
            self.outputs.push_back(Output::Probe);
        }
        self.note_acknowledged();
        self.verify(now);
        self.backlog.want_hints(self.is_followed());
        self.wake_at = self.next_wake(now);
    }

    /// Another node is at the other end; is it the peer, and the process that it was?
    pub(super) fn meet(&mut self, hello: &Hello, now: Mono) -> Result<(), &'static str> {
        if hello.node_id == self.config.node_id {
            return Err(
                "connected to itself: the peer's address is this node's, or both nodes share a state directory",
            );
        }
        let known = self.peer.as_ref().map(|peer| (peer.node_id, peer.boot_id));
        if known.is_some_and(|(node_id, _)| node_id != hello.node_id) && self.liveness.audible(now) {
            return Err("a third node: the peer is another one and alive");
        }
        self.see_epoch(hello.epoch);
        if known == Some((hello.node_id, hello.boot_id)) {
            return Ok(());
        }
        let Self { control_up, data_up, second_up, .. } = self;
        for (up, link) in [(control_up, Link::Control), (data_up, Link::Data), (second_up, Link::Heartbeat)] {
            if std::mem::take(up) {
                self.outputs.push_back(Output::Close(link, "the peer is a new process"));
            }
        }
        self.peer = Some(Peer {
            node_id: hello.node_id,
            boot_id: hello.boot_id,
            accepts: hello.features & ACCEPTS != 0,
            heartbeat: None,
            said: None,
            sent: None,
            echo: None,
        });
        self.drop_stream();
        self.guarded = false;
        self.slot = u8::from(self.config.node_id > hello.node_id);
        self.store.set_slot(self.slot);
        if self.saved.peer_id != Some(hello.node_id) {
            self.saved.peer_id = Some(hello.node_id);
            self.save();
        }
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::IgnoreRestart) {
            return Ok(());
        }
        if known.is_some() {
            self.liveness.heard(now);
            let backup = self.is_arbitrated() && self.role.state == State::Backup;
            self.fire(if backup { Trigger::LostMaster } else { Trigger::PeerRestarted }, now);
        }
        Ok(())
    }

    /// A heartbeat came.
    pub(super) fn hear(&mut self, link: Link, heartbeat: Heartbeat, now: Mono) {
        self.see_epoch(heartbeat.epoch.max(heartbeat.claim.epoch));
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::TrustOnePath) && !self.control_up {
            return;
        }
        let Some(peer) = &mut self.peer else { return };
        // Each path has its own delay: what is said on the slower one may be no longer so, and what is said on
        // the second one is known already if it came over the first.
        let known = peer.sent.is_some_and(|sent| match link {
            Link::Control => heartbeat.sent < sent,
            Link::Data | Link::Heartbeat => heartbeat.sent <= sent,
        });
        if known {
            return;
        }
        self.liveness.heard(now);
        self.fencing.done = false;
        peer.sent = Some(heartbeat.sent);
        peer.echo = peer.echo.max(heartbeat.echo);
        #[cfg(feature = "testing")]
        if self.config.plant == Some(crate::testing::Plant::LeaseFromHearing) {
            peer.echo = Some(now);
        }
        let before = peer.heartbeat.as_ref().map(|before| before.state);
        let doubts = heartbeat.state == State::Doubt && before != Some(State::Doubt);
        // Who has offered its role, or doubts, serves again when it has heard nothing for long enough.
        let promotable =
            heartbeat.state.follows() || matches!(heartbeat.state, State::Offered | State::Doubt);
        if heartbeat.state == State::Stopped {
            self.liveness.gone();
        }
        peer.said = Some((heartbeat.claim, heartbeat.state));
        peer.heartbeat = Some(heartbeat);
        if self.role.state.leads() {
            self.guarded = promotable;
        }
        if doubts {
            // It executes nothing until it hears us.
            self.next_heartbeat = now;
        }
    }

    /// The master offers its role.
    pub(super) fn consider(&mut self, offer: &Handover, now: Mono) {
        let level = self.role.state == State::Backup
            && self.receiver.as_ref().is_some_and(|receiver| receiver.planned)
            && self.following == offer.epoch
            && self.position.as_ref() == Some(&offer.position)
            // The master serves again `dead_after` after it last heard us: by then, nobody takes this.
            && offer.echo.is_some_and(|echo| now.since(echo) < self.offer_lasts());
        #[cfg(feature = "testing")]
        let level = level || self.planted(crate::testing::Plant::HandOverUnchecked);
        if level && self.fire(Trigger::OfferReceived, now) {
            self.counters.switchovers += 1;
        } else {
            self.outputs.push_back(Output::Send(Link::Control, Frame::Declined { number: offer.number }));
        }
    }

    /// How old an offer may be that is taken.
    fn offer_lasts(&self) -> Span {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::TakeLateOffers) {
            return Span(u64::MAX);
        }
        self.config.lease()
    }

    pub(super) fn grant(&mut self, wish: Operator, now: Mono) -> Result<(), Refusal> {
        let dead = self.is_peer_dead(now);
        match wish {
            Operator::Switchover if self.role.state == State::Master => {
                if !self.can_yield() {
                    return Err(Refusal("there is no backup that holds everything"));
                }
                self.fire(Trigger::Yield, now);
            }
            Operator::Switchover if self.role.state == State::Backup => {
                if self.config.failback == Failback::Never {
                    return Err(Refusal("failback is `never` here: ask the master to hand over"));
                }
                if !self.control_up {
                    return Err(Refusal("the master cannot be reached"));
                }
                self.outputs.push_back(Output::Send(Link::Control, Frame::AskSwitchover));
            }
            Operator::Switchover => return Err(Refusal("only a master or a backup can swap roles")),
            Operator::Promote { .. } if self.role.state == State::Master => {
                return Err(Refusal("this node is master already"));
            }
            Operator::Promote { force } => {
                if !force && (!dead || self.claim.data == Data::Partial) {
                    return Err(Refusal("the peer may be alive, or the copy is incomplete; see `--force`"));
                }
                if !force && self.is_arbitrated() {
                    return Err(Refusal("the arbiter has not granted it; see `--force`"));
                }
                if !self.fire(Trigger::Forced, now) {
                    return Err(Refusal("a handover is under way"));
                }
            }
            Operator::PauseFailover => self.paused = true,
            Operator::ResumeFailover => {
                self.paused = false;
                if std::mem::take(&mut self.restart_held) && self.role.state.follows() {
                    self.fire(Trigger::PeerRestarted, now);
                }
            }
            Operator::Resync if !self.role.state.follows() => {
                return Err(Refusal("only a backup has something to copy anew"));
            }
            Operator::Resync if !self.data_up => return Err(Refusal("the master cannot be reached")),
            Operator::Resync => {
                self.resync = true;
                if !self.owes() {
                    self.receiver = None;
                }
            }
            Operator::Verify if !self.role.state.leads() => {
                return Err(Refusal("only a master compares its backup with itself: ask the other node"));
            }
            Operator::Verify => {
                if !self.begin_comparison(now) {
                    return Err(Refusal("there is no backup that is up to date to compare with"));
                }
            }
            Operator::Shutdown => {
                self.stopping = true;
                if self.merged.is_some() {
                    self.handover_due = now + self.config.drain_timeout;
                }
                if self.can_yield() {
                    self.fire(Trigger::Yield, now);
                }
            }
        }
        Ok(())
    }

    /// There is a backup that could be master.
    pub(super) fn can_yield(&self) -> bool {
        self.role.state == State::Master
            && self.may_serve()
            && self.control_up
            && self.peer_state() == Some(State::Backup)
            && self.sender.as_ref().is_some_and(|sender| sender.acknowledged().is_some())
    }

    /// What is true now and matters in this state. The table says what it leads to.
    fn pending_trigger(&self, now: Mono) -> Option<Trigger> {
        let state = self.role.state;
        let handing_over = matches!(state, State::Draining | State::Offered);
        let telling = self.data_up && self.owes() && now < self.handover_due;
        if self.stopping && state != State::Stopped && !handing_over && !telling {
            return Some(Trigger::Stop);
        }
        // What the dead said last is no longer so.
        let silent = self.liveness.verdict(now) >= Verdict::Silent;
        if let Some(trigger) = self.judge().filter(|_| !silent) {
            return Some(trigger);
        }
        let dead = self.is_peer_dead(now);
        match state {
            State::Boot if now >= self.alone_at && self.may_be_alone(dead, now) => Some(Trigger::Alone),
            State::Joining | State::Backup | State::Draining | State::Offered | State::Doubt if dead => {
                Some(Trigger::PeerDead)
            }
            State::Joining if self.is_complete() => Some(Trigger::Synced),
            State::Master if self.is_arbitrated() => self.is_forsaken(now).then_some(Trigger::Forsaken),
            State::Master | State::Draining if !self.is_arbitrated() && self.is_deaf(now) => {
                Some(Trigger::PeerDeaf)
            }
            State::Draining if self.has_drained() => Some(Trigger::Drained),
            State::Draining if now >= self.handover_due => Some(Trigger::YieldFailed),
            State::Offered if now >= self.handover_due => Some(Trigger::OfferUnanswered),
            State::Doubt if self.is_arbitrated() => self.peer_gives_way(now).then_some(Trigger::PeerAgrees),
            State::Doubt if self.peer_agrees() => Some(Trigger::PeerAgrees),
            _ => None,
        }
    }

    /// What the peer's last heartbeat means for this node's role.
    fn judge(&self) -> Option<Trigger> {
        let state = self.role.state;
        let heartbeat = self.peer.as_ref()?.heartbeat.as_ref()?;
        let theirs = heartbeat.claim;
        let weaker = theirs < self.claim;
        #[cfg(feature = "testing")]
        let weaker = if self.planted(crate::testing::Plant::CompareEpochsOnly) {
            (theirs.epoch, theirs.node_id) < (self.claim.epoch, self.claim.node_id)
        } else {
            weaker
        };
        // Whoever holds nothing follows whoever serves, whatever was before its time.
        let holds = state.leads() || self.claim.data != Data::Empty;
        match heartbeat.state {
            State::Master if state.follows() && self.following == theirs.epoch => None,
            // Somebody else has asked the arbiter, and serves.
            State::Master if state == State::Doubt && self.yields_to(heartbeat) => {
                Some(Trigger::StrongerMaster)
            }
            State::Master if weaker && holds => {
                matches!(state, State::Boot | State::Backup).then_some(Trigger::WeakerMaster)
            }
            State::Master => (state != State::Stopped).then_some(Trigger::StrongerMaster),
            State::Boot | State::Joining | State::Backup if weaker => {
                (state == State::Boot).then_some(Trigger::WeakerPassive)
            }
            State::Doubt if self.outranks(heartbeat) => match state {
                State::Boot => Some(Trigger::WeakerPassive),
                State::Backup => Some(Trigger::WeakerMaster),
                _ => None,
            },
            _ => None,
        }
    }

    fn may_be_alone(&self, dead: bool, now: Mono) -> bool {
        let nobody = self.peer.is_none() && !self.config.peer_expected;
        let may = self.config.start_alone || self.claim.data != Data::Empty;
        nobody || (dead && may && now >= self.holder_awaited_until(now))
    }

    /// The peer heard us since we doubt, and neither is master nor will be.
    pub(super) fn peer_agrees(&self) -> bool {
        let Some(peer) = &self.peer else { return !self.config.peer_expected };
        let Some(heartbeat) = &peer.heartbeat else { return false };
        let yields = match heartbeat.state {
            State::Boot | State::Joining | State::Backup => true,
            State::Master | State::Draining | State::Offered | State::Doubt => heartbeat.claim < self.claim,
            State::Stopped => false,
        };
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::AgreeTooEasily) {
            return yields;
        }
        yields && heartbeat.echo.is_some_and(|echo| echo >= self.doubt_since)
    }

    fn has_drained(&self) -> bool {
        let level = self.sender.as_ref().is_some_and(|sender| sender.is_level(&self.backlog));
        #[cfg(feature = "testing")]
        let level = level || self.planted(crate::testing::Plant::HandOverUnchecked);
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::IgnoreBatches) {
            return level;
        }
        self.drained && level
    }

    /// Looks the trigger up and does what the row says. `false`: it means nothing in this state.
    pub(super) fn fire(&mut self, trigger: Trigger, now: Mono) -> bool {
        let from = self.role.state;
        let Some((_number, row)) = role::row(from, trigger) else { return false };
        if self.paused && row.is_own_promotion() {
            self.restart_held |= trigger == Trigger::PeerRestarted;
            return false;
        }
        #[cfg(feature = "testing")]
        {
            if self.planted(crate::testing::Plant::WaitForEver) && trigger == Trigger::OfferUnanswered {
                return false;
            }
            self.fired[_number] += 1;
        }
        self.role.state = row.to;
        self.role.why = row.why;
        self.role.since = now;
        self.unbound = trigger == Trigger::Forced && self.grant.is_some();
        self.fencing.done = false;
        for effect in row.effects {
            self.perform(*effect, now);
        }
        self.enter(from, now);
        self.role.epoch = match row.to {
            State::Joining | State::Backup => self.following,
            State::Boot | State::Stopped => self.saved.epoch,
            _ => self.claim.epoch,
        };
        let epoch = self.role.epoch;
        self.outputs.push_back(Output::RoleChanged { from, to: row.to, epoch, why: row.why });
        self.next_heartbeat = now;
        // Whatever the new state is, the gate agrees with it before anything else happens.
        self.refresh_gate(true, now);
        true
    }

    fn enter(&mut self, from: State, now: Mono) {
        let state = self.role.state;
        self.level_since = None;
        if state.leads() {
            self.restart_held = false;
            self.resync = false;
        }
        if from.leads() && !state.leads() {
            self.sender = None;
            self.acknowledged = None;
            self.lag_since = None;
            // What it holds is complete, in its own epoch.
            self.claim.data = Data::Complete;
            self.claim.age = 0;
        }
        match state {
            State::Boot => {
                self.receiver = None;
                #[cfg(feature = "testing")]
                if self.planted(crate::testing::Plant::PartIsWhole) && self.claim.data == Data::Partial {
                    self.claim.data = Data::Complete;
                }
                let complete = self.claim.data == Data::Complete;
                self.alone_at = if complete { now } else { now + self.config.dead_after };
            }
            State::Draining => self.handover_due = now + self.config.drain_timeout,
            State::Offered => self.handover_due = now + self.config.dead_after,
            State::Doubt => self.doubt_since = now,
            State::Joining | State::Backup | State::Master | State::Stopped => {}
        }
    }

    fn perform(&mut self, effect: Effect, now: Mono) {
        match effect {
            Effect::NewEpoch => self.begin_epoch(now),
            Effect::Resume => {}
            Effect::Follow => {
                self.receiver = None;
                let heartbeat = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref());
                self.following = heartbeat.map_or(0, |heartbeat| heartbeat.claim.epoch);
                self.note_role_change(now);
            }
            Effect::Offer => {
                self.handovers += 1;
                self.counters.switchovers += 1;
                let position = self.own_position();
                let echo = self.peer.as_ref().and_then(|peer| peer.sent);
                let offer = Handover { epoch: self.claim.epoch, number: self.handovers, position, echo };
                self.outputs.push_back(Output::Send(Link::Control, Frame::Handover(offer)));
            }
            Effect::Farewell => {
                for link in self.paths() {
                    self.outputs.push_back(Output::Send(link, Frame::Goodbye));
                }
                self.outputs.push_back(Output::Stopped);
            }
        }
    }

    fn begin_epoch(&mut self, now: Mono) {
        let forks = self.fork();
        let seen = self.saved.epoch.max(self.claim.epoch).max(self.following);
        let slot = self.slot;
        #[cfg(feature = "testing")]
        let slot = if self.planted(crate::testing::Plant::SameParity) { 0 } else { slot };
        let epoch = role::next_epoch(seen, slot);
        #[cfg(feature = "testing")]
        let epoch = if self.planted(crate::testing::Plant::ReuseEpoch) { seen.max(1) } else { epoch };
        self.claim.epoch = epoch;
        self.age_at_first = self.claim.age.min(u32::MAX / 2);
        self.master_since = now;
        self.history = History::begin(self.config.node_id, self.config.boot_id, epoch, forks);
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::OneHistory) {
            self.history.id = 1;
        }
        self.sender = None;
        self.receiver = None;
        self.acknowledged = None;
        self.guarded = false;
        self.epoch_unsaved = epoch > self.epochs_safe;
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ServeBeforeSaving) {
            self.epoch_unsaved = false;
        }
        self.saved.epoch = epoch;
        self.save();
        self.counters.promotions += 1;
        self.note_role_change(now);
    }

    /// Leaves the history this node was in: what the log of the new one says of those before it.
    fn fork(&mut self) -> Vec<Fork> {
        let (position, merged) = (self.position.take(), self.merged.take());
        self.untold = merged.is_some().then(|| self.backlog.last());
        let followed = position.filter(|position| position.history != self.history.id);
        let unfinished = std::mem::take(&mut self.unfinished);
        // What it had of the other's changes does no harm: they come again.
        let as_before = |base: &Position| base.history == self.history.id && unfinished.suspects.is_empty();
        match (self.claim.data, followed) {
            (Data::Complete, Some(position)) => {
                #[cfg(feature = "testing")]
                let merged = merged.filter(|_| !self.planted(crate::testing::Plant::ForgetTailAtPromotion));
                // What it did itself and the other does not have belongs to what follows.
                let since = merged.unwrap_or_else(|| self.backlog.track());
                self.debt = Debt::level(since.clone());
                return vec![Fork { position, since, own: false }];
            }
            (Data::Complete, None) if self.history.id != 0 => {}
            (Data::Partial, _) if unfinished.base.first().is_some_and(as_before) => {}
            _ => {
                self.backlog.forget();
                self.debt = Debt::default();
                self.purge = (!unfinished.suspects.is_empty()).then(Walk::default);
                #[cfg(feature = "testing")]
                if self.planted(crate::testing::Plant::TrustSuspects) {
                    self.purge = None;
                }
                self.unfinished.suspects = unfinished.suspects;
                return Vec::new();
            }
        }
        let position = self.own_position();
        let since = position.applied.clone();
        let mut forks = std::mem::take(&mut self.history.forks);
        forks.push(Fork { position, since, own: true });
        forks
    }

    /// Forgets items that may be stale, some at a time, before anybody is served.
    fn purge_suspects(&mut self) {
        let Some(walk) = &mut self.purge else { return };
        self.counters.suspects_dropped +=
            heal::forget_suspects(&self.unfinished.suspects, walk, &*self.store);
        if walk.is_over(&*self.store) {
            self.purge = None;
            self.unfinished.suspects = DirtyMap::default();
        }
    }

    /// A master that began with nothing gathers items, and its claim grows with them.
    fn grow_older(&mut self, now: Mono) {
        if self.role.state.leads() && self.claim.data != Data::Complete {
            let age = now.since(self.master_since).0 / self.config.dead_after.0;
            self.claim.age = u32::try_from(age).unwrap_or(u32::MAX).saturating_add(self.age_at_first + 1);
        }
    }

    fn own_position(&self) -> Position {
        Position { history: self.history.id, applied: self.backlog.last() }
    }

    /// The position of what is here, for a master that ceased to be one.
    pub(super) fn take_own_position(&mut self) {
        if self.position.is_none() && self.history.id != 0 {
            self.position = Some(self.own_position());
            #[cfg(feature = "testing")]
            if self.planted(crate::testing::Plant::DenyOwnWrites) {
                self.position = self.history.forks.last().map(|fork| fork.position.clone());
            }
        }
    }

    fn see_epoch(&mut self, epoch: u64) {
        if epoch > self.saved.epoch {
            self.saved.epoch = epoch;
            self.save_ahead();
        }
    }

    /// Keeps epochs on disk ahead of their use: roles change in the time of a message, and a disk takes
    /// as long as it takes. After a restart the node goes on above all it might have used.
    fn save_ahead(&mut self) {
        let ordered = self.saves.back().copied().unwrap_or(self.epochs_safe);
        if self.saved.epoch + EPOCHS_AHEAD / 2 > ordered {
            self.save();
        }
    }

    fn save(&mut self) {
        let saved = Saved { epoch: self.saved.epoch + EPOCHS_AHEAD, ..self.saved.clone() };
        self.saves.push_back(saved.epoch);
        self.outputs.push_back(Output::Persist(saved));
    }

    fn send_heartbeat(&mut self, now: Mono) {
        if !(self.control_up || self.second_up) {
            return;
        }
        let heartbeat = Heartbeat {
            state: self.role.state,
            claim: self.claim,
            epoch: self.saved.epoch,
            sent: now,
            echo: self.peer.as_ref().and_then(|peer| peer.sent),
            load: self.load.clone(),
        };
        for link in self.paths() {
            self.outputs.push_back(Output::Send(link, Frame::Heartbeat(heartbeat.clone())));
        }
    }

    /// Those over which the two hear of each other now.
    fn paths(&self) -> impl Iterator<Item = Link> + use<> {
        let control = self.control_up.then_some(Link::Control);
        control.into_iter().chain(self.second_up.then_some(Link::Heartbeat))
    }

    /// The preferred node asks for the role when it could have had it for a while.
    fn ask_for_role(&mut self, now: Mono) {
        let wants = self.config.preferred && self.config.failback == Failback::Auto && !self.paused;
        if !wants || self.role.state != State::Backup || !self.control_up || !self.is_level() {
            self.level_since = None;
            return;
        }
        let since = *self.level_since.get_or_insert(now);
        if now.since(since) >= self.failback_delay(now) {
            self.level_since = Some(now);
            self.outputs.push_back(Output::Send(Link::Control, Frame::AskSwitchover));
        }
    }

    /// Doubles with every change of roles lately, so that a flapping pair comes to rest.
    fn failback_delay(&self, now: Mono) -> Span {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::PingPong) {
            return Span(1);
        }
        let recent = self.role_changes.iter().filter(|at| now.since(**at) < FLAP_WINDOW).count();
        let doublings = recent.saturating_sub(FLAPS_FREE).min(16) as u32;
        let longest = FAILBACK_DELAY_MAX.max(self.config.failback_delay);
        self.config.failback_delay.scaled(1 << doublings, 1).min(longest)
    }

    fn note_role_change(&mut self, now: Mono) {
        self.role_changes.push_back(now);
        if self.role_changes.len() > ROLE_CHANGES_KEPT {
            self.role_changes.pop_front();
        }
    }

    pub(super) fn peer_state(&self) -> Option<State> {
        Some(self.peer.as_ref()?.heartbeat.as_ref()?.state)
    }

    /// Whether it matters if the peer is alive.
    fn watches(&self) -> bool {
        let known = self.config.peer_expected || self.peer.is_some();
        known && !matches!(self.role.state, State::Master | State::Stopped)
    }

    fn next_wake(&self, now: Mono) -> Mono {
        let watch = if self.watches() { self.liveness.next_change(now) } else { Mono::NEVER };
        let mut soonest = self.next_heartbeat.min(watch);
        match self.role.state {
            State::Boot if self.alone_at > now => soonest = soonest.min(self.alone_at),
            State::Draining | State::Offered => soonest = soonest.min(self.handover_due),
            State::Backup if self.stopping => soonest = soonest.min(self.handover_due),
            _ => {}
        }
        soonest = soonest.min(self.stream_wake()).min(self.backing_wake(now)).min(self.verify_wake());
        if self.purge.is_some() {
            soonest = now;
        }
        if let Some(since) = self.level_since {
            soonest = soonest.min(since + self.failback_delay(now));
        }
        if matches!(self.role.state, State::Master | State::Draining) && self.guarded {
            let lease_end = self.lease_end();
            soonest = if lease_end > now { soonest.min(lease_end) } else { soonest };
        }
        soonest.max(now + Span(1))
    }
}

/// How many epochs are saved in advance.
const EPOCHS_AHEAD: u64 = 16;

/// More changes of state than this at one moment are a mistake; the next moment continues.
const ROWS_AT_ONCE_MAX: usize = 8;

const FLAP_WINDOW: Span = Span::from_millis(600_000);
const FLAPS_FREE: usize = 2;
const FAILBACK_DELAY_MAX: Span = Span::from_millis(900_000);
const ROLE_CHANGES_KEPT: usize = 32;
