//! What must never be seen, whatever happens to the nodes.
//!
//! * One master per epoch: nobody else ever acknowledges a write in it, and it was saved before.
//! * While the wire carries what a node says, the node does not acknowledge what the other, master in
//!   a later epoch, will not have.
//! * A write that a complete backup acknowledged is *durable*: as long as one process lives that holds
//!   it, it is never lost, and what it replaced, deleted or flushed never returns, not even to a reader.
//! * An acknowledged write is not lost while the process that acknowledged it lives, but to a newer write
//!   of the same key, whatever happened to the wire; but a node that has no past in common with its master
//!   forgets all it has.
//! * A node that is promoted while it catches up serves nothing that was replaced or deleted before.
//! * A node that holds all durable writes never forgets them for a copy from one that does not.
//! * With an arbiter, no two nodes serve at the same moment, whatever the wire carries.
//! * Nobody takes over from a master that is alive and answers clients.
//! * What a failover loses is the end of each shard's changes, never one out of their middle.
//! * No two writes of a key share a version; nothing is served after it expired.
//!
//! Keys that both nodes changed while neither heard of the other become what [`Heal`] says: with
//! `Invalidate`, only such keys may go; with `Winner`, nothing is left of what the other one did.
//!
//! An item may be missing for three more reasons: memory was short, it expired, or a client deleted it
//! later. How late an item expires on another node depends on how long messages take; see
//! [`Oracle::slack`].

use std::collections::{BTreeMap, BTreeSet};

use super::store::{Contents, Held, Written};
use crate::heal::Heal;
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
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    owners: BTreeMap<u64, Owner>,
    /// The newest durable version of each key, and whether it is a delete.
    durable: BTreeMap<Vec<u8>, (u64, bool)>,
    /// The newest delete of each key that any client ever made.
    deletes: BTreeMap<Vec<u8>, u64>,
    /// The newest flush that any client ever made, and the newest durable one.
    floors: (u64, u64),
    /// The newest version of each key that was dropped to make room.
    evicted: BTreeMap<Vec<u8>, u64>,
    /// Between which moments the item of this key and version expires, if it ever does.
    expires: BTreeMap<(Vec<u8>, u64), (Mono, Mono)>,
    /// Every version of every key.
    versions: BTreeSet<(Vec<u8>, u64)>,
    /// The newest acknowledged write of each key, whether it is a delete, and the node that holds it.
    promised: BTreeMap<Vec<u8>, (u64, bool, usize)>,
    /// By node, where both take writes: the newest write of each key that it executed itself, and whether it is a delete.
    own: [BTreeMap<Vec<u8>, (u64, bool)>; 2],
    /// Writes by node that no backup has acknowledged yet.
    pending: [Vec<Written>; 2],
    /// The newest change of each key that a node ever made.
    made_by: [BTreeMap<Vec<u8>, u64>; 2],
    /// What a node did that follows now, and nobody else has: to be undone.
    undone: [Vec<(Vec<u8>, u64)>; 2],
    /// What becomes of keys that both nodes changed.
    heal: Heal,
    /// What `pending` was last compared with.
    acknowledged_by_backup: [Vec<u64>; 2],
    /// All writes of each node since it became master, and in which epoch that is.
    log: [(u64, Vec<Written>); 2],
    /// Clocks jump: a process without memory may use a version again.
    pub versions_may_repeat: bool,
    /// Now, for everybody.
    pub now: Mono,
    /// Expiry may be early or late by so much.
    pub slack: Span,
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
    /// which process (0: the node does not remember its former ones),
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
    /// Of nodes that heal by this rule.
    pub fn of(heal: Heal) -> Self {
        Self { heal, ..Self::default() }
    }

    /// `node` made this change and has not told anybody yet.
    pub fn made(&mut self, node: usize, written: Written) {
        if written.key.is_empty() {
            self.floors.0 = self.floors.0.max(written.version);
        } else if written.deleted {
            let newest = self.deletes.entry(written.key.clone()).or_default();
            *newest = written.version.max(*newest);
        }
        if !written.key.is_empty() {
            self.made_by[node].insert(written.key.clone(), written.version);
        }
        self.log[node].1.push(written.clone());
        self.pending[node].push(written);
    }

    /// A version was given to a write (a touch gives none).
    pub fn versioned(&mut self, written: &Written) {
        let named = (written.key.clone(), written.version);
        let again = !written.key.is_empty() && !self.versions.insert(named);
        let older = self.durable.get(&written.key).is_some_and(|(newest, _)| *newest > written.version)
            || written.version < self.floors.1;
        match self.versions_may_repeat {
            // A process that knows of no later clock goes on from its own.
            true if older => {
                self.durable.remove(&written.key);
                self.floors.1 = self.floors.1.min(written.version);
            }
            false if again => self.violate("two writes of a key share a version".into()),
            false if older => self.violate("a write has a lower version than a durable one before it".into()),
            _ => {}
        }
    }

    /// The item of that version is to live for so many seconds, 0 for ever.
    pub fn lives(&mut self, written: &Written) {
        let named = (written.key.clone(), written.version);
        let forever = written.seconds == 0;
        let at = self.now + Span::from_millis(u64::from(written.seconds) * 1000);
        match self.expires.get_mut(&named) {
            Some((_, latest)) if forever => *latest = Mono::NEVER,
            Some((earliest, latest)) => (*earliest, *latest) = (at.min(*earliest), at.max(*latest)),
            None if forever => {}
            // A touch of an item that had no end until now: it may have none elsewhere.
            None if self.versions.contains(&named) => drop(self.expires.insert(named, (at, Mono::NEVER))),
            None => drop(self.expires.insert(named, (at, at))),
        }
    }

    /// A node had no room for these.
    pub fn evicted(&mut self, all: Vec<(Vec<u8>, u64)>) {
        for (key, version) in all {
            // What comes in its place may be older, until both agree again.
            for own in &mut self.own {
                own.retain(|owned, (newest, _)| *owned != key || *newest > version);
            }
            let newest = self.evicted.entry(key).or_default();
            *newest = version.max(*newest);
        }
    }

    /// A client read this.
    pub fn read(&mut self, node: usize, key: &[u8], version: u64) {
        let durable = self.durable.get(key);
        let stale =
            durable.is_some_and(|(newest, deleted)| version < *newest || (*deleted && version == *newest));
        let name = String::from_utf8_lossy(key).into_owned();
        if stale || version < self.floors.1 {
            self.violate(format!(
                "node {node} serves {name} {version:#x}, which was replaced, deleted or flushed"
            ));
        }
        let own = self.own[node].get(key);
        if own.is_some_and(|(newest, deleted)| version < *newest || (*deleted && version == *newest)) {
            self.violate(format!(
                "node {node} serves {name} {version:#x}, which it replaced or deleted itself"
            ));
        }
        let expires = self.expires.get(&(key.to_vec(), version));
        if expires.is_some_and(|(_, latest)| *latest + self.slack < self.now) {
            self.violate(format!("node {node} serves {name}, which has expired"));
        }
    }

    /// Both nodes take writes, and `node` executed this one.
    pub fn owned(&mut self, node: usize, written: &Written) {
        // Where clocks jump, the later write of the other node need not have the higher version.
        if written.seconds > 0 || self.versions_may_repeat {
            return;
        }
        let newest = self.own[node].entry(written.key.clone()).or_default();
        *newest = (written.version, written.deleted).max(*newest);
    }

    /// The process of `node` is gone, or what it held.
    pub fn forget_own(&mut self, node: usize) {
        self.own[node].clear();
    }

    /// A client was told by `node` that its write is done.
    pub fn promise(&mut self, node: usize, promised: Option<&Written>) {
        self.acknowledged += 1;
        if let Some(written) = promised.filter(|written| !written.key.is_empty()) {
            let newest = self.promised.entry(written.key.clone()).or_default();
            if newest.0 < written.version {
                *newest = (written.version, written.deleted, node);
            }
        }
    }

    /// A client was told that its write is done, by a node that believes to be master.
    ///
    /// `promised`: the write, if it must outlive everything but its process and newer ones.
    pub fn acknowledge(&mut self, by: Acknowledged, promised: Option<&Written>, now: Mono) {
        self.promise(by.node, promised);
        let owner = Owner { node: by.node, boot: by.boot };
        let first = *self.owners.entry(by.epoch).or_insert(owner);
        let forgot = by.boot == 0 && first.node == by.node;
        if first != owner && !forgot {
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
        if self.acknowledged_by_backup[node] == applied {
            return;
        }
        self.acknowledged_by_backup[node] = applied.to_vec();
        let pending = std::mem::take(&mut self.pending[node]);
        for written in pending {
            if applied.get(written.shard).is_none_or(|applied| *applied < written.sequence) {
                self.pending[node].push(written);
                continue;
            }
            self.made_durable += 1;
            if written.key.is_empty() {
                self.floors.1 = self.floors.1.max(written.version);
                continue;
            }
            let newest = self.durable.entry(written.key).or_default();
            if newest.0 < written.version {
                *newest = (written.version, written.deleted);
            }
        }
    }

    /// `node` ended: what nobody acknowledged will never be.
    pub fn forget_pending(&mut self, node: usize) {
        self.pending[node].clear();
        self.undone[node].clear();
        self.acknowledged_by_backup[node].clear();
    }

    /// `node` begins a new history.
    pub fn promoted(&mut self, node: usize, epoch: u64) {
        self.forget_pending(node);
        self.log[node] = (epoch, Vec::new());
    }

    /// A complete backup of the other node's `epoch` holds this and takes over: what it misses are the
    /// last changes of each shard.
    pub fn took_over(&mut self, from: usize, epoch: u64, contents: &Contents) {
        if self.log[from].0 != epoch {
            return;
        }
        let log = std::mem::take(&mut self.log[from].1);
        let mut reached = BTreeMap::<usize, u64>::new();
        for written in log.iter().filter(|written| !written.deleted) {
            if contents.get(&written.key).is_some_and(|held| held.version == written.version) {
                reached.insert(written.shard, written.sequence);
            }
        }
        let hole = log.iter().find(|written| {
            let before = reached.get(&written.shard).is_some_and(|reached| written.sequence < *reached);
            before
                && !written.key.is_empty()
                && !self.holds(contents, &written.key, (written.version, written.deleted))
        });
        if let Some(hole) = hole {
            let key = String::from_utf8_lossy(&hole.key).into_owned();
            let (shard, sequence, reached) = (hole.shard, hole.sequence, reached.get(&hole.shard));
            self.violate(format!(
                "a failover lost {key}, change {sequence} of shard {shard}, and not {reached:?}, which was later"
            ));
        }
        self.log[from].1 = log;
    }

    /// An item was deleted in a merge. If no client did that, the item was forgotten because nobody knew
    /// whether it had been deleted; which is allowed (`may_forget`) if changes were overwritten.
    pub fn merged_delete(&mut self, key: Vec<u8>, version: u64, may_forget: bool) {
        let newest = self.deletes.entry(key.clone()).or_default();
        let by_client = *newest >= version;
        *newest = version.max(*newest);
        let by_rule = self.heal == Heal::Invalidate && self.is_disputed(&key);
        let gone = by_client || by_rule || self.floors.0 > version || self.may_miss(&key, version);
        if !gone && !may_forget {
            let key = String::from_utf8_lossy(&key);
            self.violate(format!("{key} was forgotten in a merge though everything was known of it"));
        }
    }

    /// Both nodes have changed it since they last had the same.
    fn is_disputed(&self, key: &[u8]) -> bool {
        let known = self.durable.get(key).map_or(0, |(version, _)| *version);
        self.made_by.iter().all(|made| made.get(key).is_some_and(|version| *version > known))
    }

    /// `node` follows from now on. `other`: what the one holds that it follows.
    pub fn follows(&mut self, node: usize, other: Option<&Contents>) {
        let (Heal::Winner, Some(contents)) = (self.heal, other) else { return };
        let alone = |written: &&Written| {
            let held = contents.get(&written.key).is_some_and(|held| held.version >= written.version);
            !written.deleted && !held && !self.may_miss(&written.key, written.version)
        };
        let alone = self.pending[node].iter().filter(alone);
        self.undone[node] = alone.map(|written| (written.key.clone(), written.version)).collect();
        self.broke(node, other);
    }

    /// Something that `node` did must be gone when it is level.
    pub fn has_undone(&self, node: usize) -> bool {
        !self.undone[node].is_empty()
    }

    /// `node` holds everything that the one holds which it follows.
    pub fn is_level(&mut self, node: usize, contents: &Contents) {
        let undone = std::mem::take(&mut self.undone[node]);
        let left = undone
            .iter()
            .find(|(key, version)| contents.get(key).is_some_and(|held| held.version == *version));
        if let Some((key, version)) = left {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("node {node} follows and keeps what only it did: {key} {version:#x}"));
        }
    }

    /// The role went from `node` to the other by plan: nothing that was executed may be missing there.
    pub fn handed_over(&mut self, node: usize, successor: &Contents) {
        let made = self.pending[node].iter().filter(|written| !written.key.is_empty());
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
        if survivor.is_none() {
            self.floors.1 = 0;
        }
    }

    /// The process of `node` is gone, or what it held: it promised in vain what the other does not hold.
    pub fn broke(&mut self, node: usize, other: Option<&Contents>) {
        let promised = &mut self.promised;
        promised.retain(|key, (version, _, holder)| {
            // An item that is not there may be on its way, and its delete behind it.
            let held = other.and_then(|other| other.get(key)).is_some_and(|held| held.version >= *version);
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
        truth.extend(contents.iter().map(|(key, held)| (key.clone(), held.version)));
        truth
    }

    /// `node` serves. It was catching up when its master died, which had `truth` when it planned that.
    pub fn serves_after(&mut self, node: usize, contents: &Contents, truth: &Truth) {
        let older =
            |(key, held): &(&Vec<u8>, &Held)| truth.get(*key).is_some_and(|newer| held.version < *newer);
        if let Some((key, held)) = contents.iter().find(older) {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("node {node} serves a stale hit: {key} of {:#x}", held.version));
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
            .map(|(key, (version, deleted))| {
                let held = store.get(key).map(|held| held.version);
                format!("{} {version:#x} {deleted}, now {held:x?}", String::from_utf8_lossy(key))
            })
            .collect();
        if let Some(first) = missing.first() {
            let count = missing.len();
            self.violate(format!("{count} durable writes are lost or undone, as {first}"));
        }
        if store.values().any(|held| held.version < self.floors.1) {
            self.violate("what was flushed is back".into());
        }
        let mut promised = self.promised.iter();
        let broken = promised.find(|(key, entry)| !self.holds(store, key, (entry.0, entry.1)));
        if let Some((key, entry)) = broken {
            let key = String::from_utf8_lossy(key);
            self.violate(format!("an acknowledged write is lost though its node lives: {key} {entry:?}"));
        }
    }

    /// All that it remembers and that may matter, as text.
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write as _;
        let _ = write!(text, "{:?}{:?}{:?}{:?}", self.owners, self.durable, self.floors, self.pending);
        let _ = write!(text, "{:?}", self.promised);
    }

    /// Something was seen that must not be.
    pub fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// Whether two nodes hold the same, as far as they must; else the first difference.
    pub fn compare(&self, one: &Contents, other: &Contents) -> Result<(), String> {
        let slack = u32::try_from(self.slack.0 / 1_000_000).unwrap_or(u32::MAX).saturating_add(1);
        let lacks = |key: &Vec<u8>, held: &Held| {
            held.left.is_some_and(|left| left <= slack) || self.may_miss(key, held.version)
        };
        for (key, held) in one {
            let name = || String::from_utf8_lossy(key).into_owned();
            match other.get(key) {
                None if lacks(key, held) => {}
                None => return Err(format!("{} is missing on one side", name())),
                Some(there) if (there.version, &there.value) != (held.version, &held.value) => {
                    return Err(format!("{} differs", name()));
                }
                Some(there) => match (held.left, there.left) {
                    (None, None) => {}
                    (Some(here), Some(there)) if here.abs_diff(there) <= slack => {}
                    (here, there) => return Err(format!("{} expires in {here:?} and {there:?}", name())),
                },
            }
        }
        let missing = other.iter().find(|(key, held)| !one.contains_key(*key) && !lacks(key, held));
        missing.map_or(Ok(()), |(key, _)| {
            Err(format!("{} is missing on one side", String::from_utf8_lossy(key)))
        })
    }

    /// Memory was short for it or for what replaced it, or that may have expired.
    fn may_miss(&self, key: &[u8], version: u64) -> bool {
        let later = || self.expires.range((key.to_vec(), version)..=(key.to_vec(), u64::MAX));
        self.evicted.get(key).is_some_and(|evicted| *evicted >= version)
            || later().any(|(_, (earliest, _))| *earliest <= self.now + self.slack)
    }

    fn holds(&self, store: &Contents, key: &[u8], (version, deleted): (u64, bool)) -> bool {
        match store.get(key) {
            Some(held) if deleted => held.version > version,
            Some(held) => held.version >= version,
            None => {
                deleted
                    || self.deletes.get(key).is_some_and(|newest| *newest > version)
                    || self.floors.0 > version
                    || self.may_miss(key, version)
            }
        }
    }
}
