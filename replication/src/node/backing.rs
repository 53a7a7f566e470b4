//! With an arbiter: who backs this node, and what it may do while nobody does.
//!
//! A peer backs a node by having heard it lately while being nothing that serves, or will serve before
//! its own patience has run out. Otherwise the arbiter does, by a grant; see [`crate::arbiter`]. A
//! node takes over, and serves, only while it is backed. What a peer promises by its heartbeat holds
//! because, with an arbiter, nobody takes over from a peer it has heard within `dead_after`, unless
//! that one said goodbye or came back as a new process; a port that refuses proves nothing here.
//!
//! And whoever is to be replaced because it is silent is fenced first, if there is a command for it.

use super::{Node, Output};
use crate::arbiter::{Answer, Wish};
use crate::frame::Heartbeat;
use crate::liveness::Verdict;
use crate::role::{Claim, Data, State, Trigger};
use crate::time::{Mono, Span};

impl Node {
    /// What came of a question to the arbiter.
    pub fn handle_arbiter(&mut self, answer: Answer, now: Mono) {
        self.observe(now);
        #[cfg(feature = "testing")]
        let late = self.planted(crate::testing::Plant::GrantFromAnswer);
        if let Some(grant) = &mut self.grant {
            #[cfg(feature = "testing")]
            if late {
                grant.answered_too_long(answer, now);
            }
            grant.answered(answer, now);
        }
        self.settle(now);
    }

    /// What came of [`Output::Fence`]: the peer certainly serves nobody any more, or nobody knows.
    pub fn handle_fenced(&mut self, fenced: bool, now: Mono) {
        self.observe(now);
        self.fencing.done = fenced && self.fencing.asked;
        self.fencing.asked = false;
        self.fencing.next = now + self.config.dead_after;
        self.settle(now);
    }

    /// Until when this node is backed.
    pub(super) fn backed_until(&self) -> Mono {
        let granted = self.grant.as_ref().map_or(Mono::NEVER, |grant| grant.until());
        self.peer_backs_until().max(granted)
    }

    /// An arbiter decides (and no operator has decided instead).
    pub(super) fn is_arbitrated(&self) -> bool {
        self.grant.is_some() && !self.unbound
    }

    /// Until when the peer's word holds. It does so, too, when the link it came over is gone.
    pub(super) fn peer_backs_until(&self) -> Mono {
        let Some(peer) = &self.peer else { return Mono::default() };
        match (peer.said, peer.echo) {
            (Some(theirs), Some(echo)) if self.is_backed_by(theirs, echo) => echo + self.config.lease(),
            _ => Mono::default(),
        }
    }

    /// Whether a peer that says this will not serve soon, having heard what this node said at `echo`.
    fn is_backed_by(&self, theirs: (Claim, State), echo: Mono) -> bool {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::BackedByAnybody) {
            return theirs.1 != State::Master;
        }
        let ours = (self.claim, self.role.state);
        match theirs.1 {
            State::Boot | State::Joining | State::Backup => !outranks(theirs, ours),
            // It waits to be master again, but not before one that outranks it; as far as it knows us.
            State::Doubt => outranks(ours, theirs) && echo >= self.role.since,
            State::Master | State::Draining | State::Offered | State::Stopped => false,
        }
    }

    /// The peer, which is not master, should be it rather than this node: no grant gets in its way.
    pub(super) fn is_outranked(&self) -> bool {
        let Some(heartbeat) = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref()) else {
            return false;
        };
        let waits = matches!(heartbeat.state, State::Boot | State::Joining | State::Backup | State::Doubt);
        waits && outranks((heartbeat.claim, heartbeat.state), (self.claim, self.role.state))
    }

    /// With an arbiter: this node, which is not master, should be it rather than the peer.
    pub(super) fn outranks(&self, heartbeat: &Heartbeat) -> bool {
        self.is_arbitrated() && outranks((self.claim, self.role.state), (heartbeat.claim, heartbeat.state))
    }

    /// With an arbiter: this node, which is not master, follows the peer, which is.
    pub(super) fn yields_to(&self, heartbeat: &Heartbeat) -> bool {
        self.is_arbitrated() && !self.outranks(heartbeat)
    }

    /// The peer may be replaced, as far as this node can tell. With an arbiter only its own words are
    /// certain: a firewall refuses connections, too.
    pub(super) fn is_peer_dead(&self, now: Mono) -> bool {
        if !self.is_arbitrated() {
            return self.liveness.verdict(now) >= Verdict::Silent;
        }
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::TrustRefusals)
            && self.liveness.verdict(now) == Verdict::Certain
        {
            return true;
        }
        self.liveness.is_gone() || self.liveness.silence(now) >= self.config.dead_after
    }

    /// Until when this node, which does not hold everything, waits for one that may hold more and only hangs:
    /// with an arbiter that one would follow, and forget what it holds. The past, if it need not wait.
    pub(super) fn holder_awaited_until(&self, now: Mono) -> Mono {
        let said = self.peer.as_ref().and_then(|peer| peer.said);
        let holds_more = said.is_none_or(|(theirs, _)| theirs.holds_more_than(&self.claim));
        let waits = self.claim.data != Data::Complete && holds_more && !self.liveness.is_gone();
        #[cfg(feature = "testing")]
        let waits = waits && !self.planted(crate::testing::Plant::LeadEmpty);
        if !waits || !self.is_arbitrated() {
            return Mono::default();
        }
        let patience = self.config.dead_after.scaled(HOLDER_PATIENCE, 1);
        now + Span(patience.0.saturating_sub(self.liveness.silence(now).0))
    }

    /// With an arbiter, in doubt: the peer, which is heard, neither is master nor should be.
    pub(super) fn peer_gives_way(&self, now: Mono) -> bool {
        let heartbeat = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref());
        let waits = heartbeat.is_some_and(|heartbeat| {
            matches!(heartbeat.state, State::Boot | State::Joining | State::Backup | State::Doubt)
        });
        waits && !self.is_outranked() && self.liveness.audible(now)
    }

    /// This node is backed, for what the trigger would do.
    fn is_backed(&self, trigger: Trigger, now: Mono) -> bool {
        let granted = self.grant.as_ref().is_some_and(|grant| grant.until() > now);
        // An offer of the role may be on its way to a peer that has not answered it yet.
        let offered = self.role.state == State::Doubt && trigger == Trigger::PeerAgrees;
        granted || (self.peer_backs_until() > now && (!offered || self.peer_agrees()))
    }

    /// May this trigger fire now? If not, what it takes is asked for.
    pub(super) fn is_allowed(&mut self, trigger: Trigger, now: Mono) -> bool {
        let begins = match (self.role.state, trigger) {
            (
                State::Boot | State::Backup,
                Trigger::Alone | Trigger::PeerDead | Trigger::WeakerMaster | Trigger::WeakerPassive,
            )
            | (State::Doubt, Trigger::PeerDead | Trigger::PeerAgrees) => true,
            _ => return true,
        };
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::AskNobody) {
            return true;
        }
        if begins && self.is_arbitrated() && !self.is_backed(trigger, now) {
            self.needs_grant = true;
            if let Some(grant) = &mut self.grant {
                grant.hurry(now);
            }
            return false;
        }
        // In this order: whom the arbiter refuses must not shoot.
        self.needs_grant = begins;
        self.is_fenced(trigger, now)
    }

    /// Nobody is replaced for its silence before the command has succeeded, if there is one.
    fn is_fenced(&mut self, trigger: Trigger, now: Mono) -> bool {
        let silent = matches!(trigger, Trigger::Alone | Trigger::PeerDead) && !self.liveness.is_gone();
        let somebody = self.config.peer_expected || self.peer.is_some();
        if !self.config.fence || !silent || !somebody || self.fencing.done {
            return true;
        }
        if !self.fencing.asked && now >= self.fencing.next {
            self.fencing.asked = true;
            self.outputs.push_back(Output::Fence);
        }
        false
    }

    /// Neither the peer nor the arbiter backs this master, though there was time enough.
    pub(super) fn is_forsaken(&self, now: Mono) -> bool {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ServeUnbacked) {
            return false;
        }
        let patience = self.role.since + self.config.lease();
        self.is_arbitrated() && now >= self.backed_until().max(patience)
    }

    /// Asks the arbiter for what is needed, renews it, gives it back.
    pub(super) fn ask_arbiter(&mut self, now: Mono) {
        if self.unbound && self.peer_backs_until() > now {
            // There is somebody again who can tell: the operator's word has done its work.
            self.unbound = false;
        }
        let comfortable = self.peer_backs_until() > now + self.config.lease().scaled(1, 2);
        let state = self.role.state;
        let wanted = match state {
            State::Master => !comfortable && !self.is_outranked(),
            State::Boot | State::Backup | State::Doubt => self.needs_grant,
            State::Joining | State::Draining | State::Offered | State::Stopped => false,
        };
        // What was begun under a grant is acknowledged before it is given back, or never.
        let may_release = match state {
            State::Master => comfortable,
            State::Boot | State::Joining | State::Backup | State::Stopped => true,
            State::Draining | State::Offered | State::Doubt => self.drained,
        };
        let Some(grant) = &mut self.grant else { return };
        if wanted && state == State::Master {
            grant.hurry(now);
        }
        let Some(ask) = grant.ask(wanted, may_release, now) else { return };
        if ask.wish == Wish::Release {
            // Not one batch more than the peer backs.
            self.refresh_gate(false, now);
        }
        self.outputs.push_back(Output::Arbiter(ask));
    }

    /// When something here may change by itself.
    pub(super) fn backing_wake(&self, now: Mono) -> Mono {
        let fence = match self.config.fence && self.needs_grant && !self.fencing.asked {
            true => self.fencing.next,
            false => Mono::NEVER,
        };
        let Some(grant) = &self.grant else { return fence };
        let mut soonest = fence.min(grant.next_wake());
        if self.role.state == State::Master {
            let until = self.peer_backs_until();
            let uneasy = Mono(until.0.saturating_sub(self.config.lease().scaled(1, 2).0));
            let patience = self.role.since + self.config.lease();
            for at in [uneasy, until, self.backed_until(), patience] {
                if at > now {
                    soonest = soonest.min(at);
                }
            }
        }
        if self.role.state == State::Boot {
            let until = self.holder_awaited_until(now);
            soonest = if until > now { soonest.min(until) } else { soonest };
        }
        if self.is_arbitrated() && self.peer.is_some() {
            let silent = now + Span(self.config.dead_after.0.saturating_sub(self.liveness.silence(now).0));
            soonest = if silent > now { soonest.min(silent) } else { soonest };
        }
        soonest
    }
}

/// With an arbiter, a node that does not hold everything leads only after so many times `dead_after` without
/// a word of one that may hold more: longer than machines usually stand still, and no outage without an end.
pub const HOLDER_PATIENCE: u64 = 30;

/// What a command has to do before a silent peer is replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fencing {
    /// It is under way.
    pub(super) asked: bool,
    /// It has succeeded since the peer was heard last.
    pub(super) done: bool,
    /// Not before that the next attempt.
    pub(super) next: Mono,
}

/// Of two nodes, whether the first should be master rather than the second, as both see it at any
/// time: only claims that do not age are compared. Whoever follows the second one holds what that one
/// gave it, and claims nothing for itself.
fn outranks(one: (Claim, State), other: (Claim, State)) -> bool {
    let ((claim, state), (than, _)) = (one, other);
    let follows = state.follows() && claim.epoch == than.epoch;
    claim.data == Data::Complete && claim > than && !follows
}
