//! What must never be seen, whatever happens to the nodes.
//!
//! * One master per epoch: nobody else ever acknowledges a write in it, and it was saved before.
//! * While the wire carries what a node says, the node does not acknowledge what the other, master in
//!   a later epoch, will not have.
//! * A write that a complete backup acknowledged is *durable*: as long as one process lives that holds
//!   it, it is never lost, and what it replaced or deleted never returns.
//! * An acknowledged write is not lost while the process that acknowledged it lives, but to a newer write
//!   of the same key, whatever happened to the wire; but a node that has no past in common with its master
//!   forgets all it has.
//! * A node that is promoted while it catches up serves nothing that was replaced or deleted before.
//! * A node that holds all durable writes never forgets them for a copy from one that does not.
//! * With an arbiter, no two nodes serve at the same moment, whatever the wire carries.
//! * Nobody takes over from a master that is alive and answers clients.

use std::collections::BTreeMap;

use super::store::{Contents, Written};
use crate::time::{Mono, Span};

/// Who acknowledged in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    node: usize,
    boot: u64,
}

/// The newest version by key.
pub type Truth = BTreeMap<Vec<u8>, u64>;

/// The judge of one run.
#[derive(Debug, Default)]
pub struct Oracle {
    owners: BTreeMap<u64, Owner>,
    /// The newest durable version of each key, and whether it is a delete.
    durable: BTreeMap<Vec<u8>, (u64, bool)>,
    /// The newest delete of each key that any client ever made.
    deletes: BTreeMap<Vec<u8>, u64>,
    /// The newest acknowledged write of each key, whether it is a delete, and the node that holds it.
    promised: BTreeMap<Vec<u8>, (u64, bool, usize)>,
    /// Writes by node that no backup has acknowledged yet.
    pending: [Vec<Written>; 2],
    /// What was seen and must not be.
    pub violations: Vec<String>,
    /// Writes that clients were told are done.
    pub acknowledged: u64,
    /// Writes of those that became durable.
    pub made_durable: u64,
}

/// Where a write was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// By which node,
    pub node: usize,
    /// which process,
    pub boot: u64,
    /// in which epoch.
    pub epoch: u64,
    /// What that node has saved.
    pub saved_epoch: u64,
    /// The other node serves too: in which epoch, and since when.
    pub other: Option<(u64, Mono)>,
    /// Since when the other one's words arrive here.
    pub audible_since: Option<Mono>,
    /// The failure detector's patience.
    pub dead_after: Span,
    /// There is an arbiter, and no operator has overruled it: nobody else may serve, ever.
    pub alone: bool,
}

impl Oracle {
    /// `node` made this change and has not told anybody yet.
    pub fn made(&mut self, node: usize, written: Written) {
        if written.deleted {
            let newest = self.deletes.entry(written.key.clone()).or_default();
            *newest = written.version.max(*newest);
        }
        self.pending[node].push(written);
    }

    /// A client was told that its write is done.
    ///
    /// `promised`: the write, if it must outlive everything but its process and newer ones.
    pub fn acknowledge(&mut self, by: Acknowledged, promised: Option<&Written>, now: Mono) {
        self.acknowledged += 1;
        if let Some(written) = promised {
            let newest = self.promised.entry(written.key.clone()).or_default();
            if newest.0 < written.version {
                *newest = (written.version, written.deleted, by.node);
            }
        }
        let owner = Owner { node: by.node, boot: by.boot };
        let first = *self.owners.entry(by.epoch).or_insert(owner);
        if first != owner {
            self.violate(format!("epoch {} has two masters: {first:?} and {owner:?}", by.epoch));
        }
        if by.saved_epoch < by.epoch {
            self.violations
                .push(format!("node {} serves in epoch {}, which is not saved", by.node, by.epoch));
        }
        let Some((other_epoch, since)) = by.other else { return };
        if by.alone {
            self.violate(format!(
                "with an arbiter, node {} acknowledged a write in epoch {} while the other serves in epoch {other_epoch}",
                by.node, by.epoch
            ));
        }
        let known = by.audible_since.is_some_and(|audible| {
            audible + by.dead_after <= since || now.since(audible) > by.dead_after.scaled(2, 1)
        });
        if other_epoch > by.epoch && known {
            self.violate(format!(
                "node {} acknowledged a write in epoch {} while the other serves in epoch {other_epoch}",
                by.node, by.epoch
            ));
        }
    }

    /// A complete backup of `node` has applied so much.
    pub fn applied(&mut self, node: usize, applied: &[u64]) {
        let pending = std::mem::take(&mut self.pending[node]);
        for written in pending {
            if applied.get(written.shard).is_some_and(|applied| *applied >= written.sequence) {
                self.made_durable += 1;
                let newest = self.durable.entry(written.key).or_default();
                if newest.0 < written.version {
                    *newest = (written.version, written.deleted);
                }
            } else {
                self.pending[node].push(written);
            }
        }
    }

    /// `node` began a new history, or ended: what nobody acknowledged will never be.
    pub fn forget_pending(&mut self, node: usize) {
        self.pending[node].clear();
    }

    /// An item was deleted in a merge. If no client did that, the item was forgotten because nobody knew
    /// whether it had been deleted; which is allowed (`may_forget`) if changes were overwritten.
    pub fn merged_delete(&mut self, key: Vec<u8>, version: u64, may_forget: bool) {
        let newest = self.deletes.entry(key.clone()).or_default();
        let by_client = *newest >= version;
        *newest = version.max(*newest);
        if !by_client && !may_forget {
            let key = String::from_utf8_lossy(&key);
            self.violate(format!("{key} was forgotten in a merge though everything was known of it"));
        }
    }

    /// The role went from `node` to the other by plan: nothing that was executed may be missing there.
    pub fn handed_over(&mut self, node: usize, successor: &Contents) {
        let made = self.pending[node].iter();
        let mut newest = BTreeMap::<_, (u64, bool)>::new();
        for written in made {
            newest.insert(written.key.clone(), (written.version, written.deleted));
        }
        if newest.iter().any(|(key, entry)| !self.holds(successor, key, *entry)) {
            self.violate("a planned handover lost a write".into());
        }
    }

    /// A process died. What no living one holds is lost, and nobody is to blame.
    pub fn died(&mut self, survivor: Option<&Contents>) {
        let mut durable = std::mem::take(&mut self.durable);
        durable.retain(|key, entry| survivor.is_some_and(|store| self.holds(store, key, *entry)));
        self.durable = durable;
    }

    /// The process of `node` is gone, or what it held: it promised in vain what the other does not hold.
    pub fn broke(&mut self, node: usize, other: Option<&Contents>) {
        let promised = &mut self.promised;
        promised.retain(|key, (version, _, holder)| {
            // An item that is not there may be on its way, and its delete behind it.
            let held = other.and_then(|other| other.get(key)).is_some_and(|(held, _)| held >= version);
            if *holder == node && held {
                *holder = 1 - node;
            }
            *holder != node
        });
    }

    /// The newest version of each key, for somebody who holds `contents`.
    pub fn truth_of(&self, contents: &Contents) -> Truth {
        let deleted = self.deletes.iter().filter(|(key, _)| !contents.contains_key(*key));
        let mut truth: Truth = deleted.map(|(key, version)| (key.clone(), *version)).collect();
        truth.extend(contents.iter().map(|(key, (version, _))| (key.clone(), *version)));
        truth
    }

    /// `node` serves. It was catching up when its master died, which had `truth` when it planned that.
    pub fn serves_after(&mut self, node: usize, contents: &Contents, truth: &Truth) {
        let older = |(key, (version, _)): &(&Vec<u8>, &(u64, Vec<u8>))| {
            truth.get(*key).is_some_and(|newer| version < newer)
        };
        if let Some((key, (version, _))) = contents.iter().find(older) {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("node {node} serves a stale hit: {key} of {version}"));
        }
    }

    /// `copier` has forgotten its items for a copy from `source`. `before`: what it had.
    pub fn cleared(&mut self, before: &Contents, source: Option<&Contents>) {
        let Some(source) = source else {
            // Its last words were the plan: what nobody else holds is lost, as when a source dies
            // in the middle of a copy.
            self.durable.clear();
            return;
        };
        if !self.holds_all(before) {
            return;
        }
        let missing = self.durable.iter().find(|(key, entry)| !self.holds(source, key, **entry));
        if let Some((key, entry)) = missing {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("a node that held everything copies from an emptier one: {key} {entry:?}"));
        }
    }

    /// Whether `store` holds every durable write.
    pub fn holds_all(&self, store: &Contents) -> bool {
        self.durable.iter().all(|(key, entry)| self.holds(store, key, *entry))
    }

    /// At the end, nothing durable may be missing from `store`.
    pub fn judge_end(&mut self, store: &Contents) {
        let missing: Vec<String> = self
            .durable
            .iter()
            .filter(|(key, entry)| !self.holds(store, key, **entry))
            .map(|(key, entry)| format!("{} {entry:?}", String::from_utf8_lossy(key)))
            .collect();
        if let Some(first) = missing.first() {
            let count = missing.len();
            self.violate(format!("{count} durable writes are lost or undone, as {first}"));
        }
        let mut promised = self.promised.iter();
        let broken = promised.find(|(key, entry)| !self.holds(store, key, (entry.0, entry.1)));
        if let Some((key, entry)) = broken {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("an acknowledged write is lost though its node lives: {key} {entry:?}"));
        }
    }

    /// Something was seen that must not be.
    pub fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    fn holds(&self, store: &Contents, key: &[u8], (version, deleted): (u64, bool)) -> bool {
        match store.get(key) {
            Some((held, _)) if deleted => *held > version,
            Some((held, _)) => *held >= version,
            None => deleted || self.deletes.get(key).is_some_and(|newest| *newest > version),
        }
    }
}
