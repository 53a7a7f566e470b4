//! What clients want of a world, from the gate to the answer.
//!
//! A batch is admitted, executed and answered at three moments, as in a worker: a process may be
//! stopped in between, and only an answer is a promise.

use super::oracle::Acknowledged;
use super::store::{Wish, Written};
use super::world::{Event, World};
use crate::node::GateView;
use crate::time::Span;

impl World {
    /// A client sends a write to `node`, which executes or forwards it, or does not.
    pub fn write(&mut self, node: usize, key: u64, value_bytes: Option<usize>) -> bool {
        self.values += 1;
        let wish = value_bytes.map_or(Wish::Delete, |bytes| {
            let mut value = format!("value{}", self.values).into_bytes();
            value.resize(value.len() + bytes, b'.');
            Wish::Set(value, 0)
        });
        self.request(node, key, wish)
    }

    /// A client sends anything to `node`.
    pub fn request(&mut self, node: usize, key: u64, wish: Wish) -> bool {
        self.offer(node, format!("key{key}").into_bytes(), wish, true)
    }

    fn offer(&mut self, node: usize, key: Vec<u8>, wish: Wish, may_forward: bool) -> bool {
        let (local, now) = (self.local(node), self.now);
        let Some(process) = self.processes[node].as_mut() else { return false };
        if process.paused_until > now {
            return false;
        }
        match process.gate {
            GateView::Serve { until } if local < until => {}
            GateView::Forward if may_forward && self.network.clients_pass() => {
                return self.offer(1 - node, key, wish, false);
            }
            _ => return false,
        }
        process.inside += 1;
        let (boot, epoch) = (process.boot_id, process.node.claim().epoch);
        if self.options.slow_batches {
            let longest = if self.random.chance(5) { 4000 } else { 150 };
            let takes = Span(self.random.within(1..longest));
            self.schedule(takes, Event::Execute { node, boot, epoch, key, wish });
        } else {
            self.execute(node, boot, epoch, &key, &wish);
        }
        true
    }

    pub(super) fn execute(&mut self, node: usize, boot: u64, epoch: u64, key: &[u8], wish: &Wish) {
        self.flush_if_due(node);
        self.set_clocks(node);
        let local = self.local(node);
        let Some(process) = self.processes[node].as_ref() else { return };
        let open = matches!(process.gate, GateView::Serve { until } if local < until);
        let before = process.store.item(key);
        let written = process.store.execute(key, wish);
        let evicted = process.store.take_evicted();
        self.oracle.evicted(evicted);
        if let Some(written) = &written {
            self.oracle.lives(written);
            if self.options.accept == [true; 2] {
                self.oracle.owned(node, written);
            }
            if !matches!(wish, Wish::Touch(_)) {
                self.oracle.versioned(written);
                self.oracle.made(node, written.clone());
            }
        } else if let Some(item) = before.filter(|_| open && *wish == Wish::Get) {
            self.oracle.read(node, key, item.version);
        }
        let length = if self.random.chance(5) { 5000 } else { 200 };
        let takes = Span(self.random.within(1..length));
        self.schedule(takes, Event::Leave { node, boot, epoch, written });
        self.work(node);
    }

    /// A master executes a delayed flush when it is due.
    pub(super) fn flush_if_due(&mut self, node: usize) {
        self.set_clocks(node);
        let local = self.local(node);
        let Some(process) = self.processes[node].as_ref() else { return };
        if !matches!(process.gate, GateView::Serve { until } if local < until) {
            return;
        }
        if let Some(written) = process.store.flush_if_due() {
            self.oracle.made(node, written);
        }
    }

    fn set_clocks(&self, node: usize) {
        if let Some(process) = &self.processes[node] {
            let (secs, millis) = self.clocks(node);
            process.store.set_clocks(secs, millis);
        }
    }

    pub(super) fn leave(&mut self, node: usize, epoch: u64, written: Option<&Written>) {
        self.network.note_usable(self.now);
        let local = self.local(node);
        let other = self.processes[1 - node].as_ref().filter(|other| !other.accepts()).and_then(|other| {
            let serves = matches!(other.gate, GateView::Serve { until } if self.local(1 - node) < until);
            Some((other.node.claim().epoch, other.serving_since.filter(|_| serves && !other.forced)?))
        });
        let Some(process) = self.processes[node].as_mut() else { return };
        process.inside -= 1;
        let open = matches!(process.gate, GateView::Serve { until } if local < until);
        if process.inside == 0 && process.draining {
            process.draining = false;
            let boot = process.boot_id;
            self.schedule(Span(20), Event::Drained { node, boot });
        }
        let Some(process) = self.processes[node].as_ref() else { return };
        // What a backup executes is merged, in whatever epoch.
        let accepts = process.accepts();
        let same = process.node.claim().epoch == epoch || accepts;
        let Some(written) = written.filter(|_| open && same) else { return };
        // Without memory a new process cannot know which epochs were used before.
        let forgetful = self.forgetful[node];
        let alone = self.arbiter.is_some() && !process.forced;
        let saved_epoch = if forgetful { epoch } else { self.disks[node].epoch };
        let by = Acknowledged {
            node,
            boot: if forgetful { 0 } else { process.boot_id },
            epoch,
            saved_epoch,
            other,
            audible_since: self.network.usable_since[1 - node],
            dead_after: self.dead_after(),
            alone,
        };
        if self.identities_ordered {
            let promised = (!self.may_forget()).then_some(written);
            match accepts {
                true => self.oracle.promise(node, promised),
                false => self.oracle.acknowledge(by, promised, self.now),
            }
        }
        self.note(written.version, epoch);
    }
}
