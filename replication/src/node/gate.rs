//! Who may execute commands, and until when.
//!
//! A master whose backup could take over serves on a lease: until a while after it *sent* the last
//! heartbeat that the backup heard. The backup takes over a longer while after it *heard* it. So a
//! master that was stopped, or is not heard, has ceased before the other begins, however long messages
//! take. A master without such a backup serves on its own word, heartbeat by heartbeat, so that it too
//! finds its gate closed when it was stopped. With an arbiter there is no own word: see `backing`.

use super::{GateView, Node, Output};
use crate::role::State;
use crate::time::Mono;

impl Node {
    /// The backup says something but does not hear this node, and the lease is over.
    pub(super) fn is_deaf(&self, now: Mono) -> bool {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ServeTheDeaf) {
            return false;
        }
        self.guarded && now >= self.lease_end() && self.liveness.audible(now)
    }

    pub(super) fn lease_end(&self) -> Mono {
        let echo = self.peer.as_ref().and_then(|peer| peer.echo).unwrap_or_default();
        echo + self.config.lease()
    }

    /// Brings the gate in line with the state. `beat`: a heartbeat leaves now.
    pub(super) fn refresh_gate(&mut self, beat: bool, now: Mono) {
        let gate = match self.role.state {
            State::Master if !self.may_serve() => GateView::Park,
            State::Master if self.is_arbitrated() => match self.backed_until() {
                until if until > now => GateView::Serve { until },
                _ => GateView::Park,
            },
            State::Master => GateView::Serve { until: self.serve_until(beat, now) },
            State::Boot | State::Draining | State::Offered | State::Doubt => GateView::Park,
            // What it executes is merged, whatever becomes of the roles: only that it was stopped must show.
            State::Backup if self.accepts() => GateView::Serve { until: self.own_word(beat, now) },
            State::Joining | State::Backup => GateView::Forward,
            State::Stopped => GateView::Refuse("shutting down"),
        };
        if gate == self.gate {
            return;
        }
        let served = matches!(self.gate, GateView::Serve { .. });
        if served && !matches!(gate, GateView::Serve { .. }) {
            self.drained = false;
        }
        if self.role.state == State::Backup && matches!(gate, GateView::Serve { .. }) {
            // It goes on as before it was closed for a moment: nobody waits for that moment's batches any more.
            self.drained = true;
        }
        self.gate = gate;
        self.outputs.push_back(Output::Gate(gate));
    }

    /// Its epoch is safe, and so is what it holds.
    pub(super) fn may_serve(&self) -> bool {
        !self.epoch_unsaved && self.purge.is_none()
    }

    fn serve_until(&mut self, beat: bool, now: Mono) -> Mono {
        #[cfg(feature = "testing")]
        if self.planted(crate::testing::Plant::ServeTheDeaf) {
            self.guarded = false;
        }
        if self.guarded {
            let lease_end = self.lease_end();
            // Not heard, and the lease about to end: the backup is cut off or dead. Serve alone,
            // before clients notice anything.
            if self.liveness.audible(now) || lease_end > now + self.config.heartbeat.scaled(2, 1) {
                return lease_end;
            }
            self.guarded = false;
            #[cfg(feature = "testing")]
            if self.planted(crate::testing::Plant::GuardForever) {
                self.guarded = true;
                return lease_end;
            }
        }
        self.own_word(beat, now)
    }

    /// Until the next heartbeat, and somewhat longer.
    fn own_word(&self, beat: bool, now: Mono) -> Mono {
        match self.gate {
            GateView::Serve { until } if !beat => until,
            _ => now + self.config.lease(),
        }
    }
}
