//! What a follower tells its master: what it has that may be gone there, and what only it did.
//!
//! A master that was cut off, or hung, and finds another one in its place has made changes that nobody
//! else has: its *suffix*. It follows, and when the other's changes have come, it reports what of its own
//! is left. Merging goes by version, so the newer write of a key wins; the follower's own copy has seen
//! every delete of the master's by then, in order, so nothing that was deleted comes back. Only a delete
//! that happens at this very moment could be missed, and the master looks for it under the lock of the
//! shard ([`Backlog::may_create`]).
//!
//! Where either side's backlog no longer has its changes, its [`DirtyMap`] stands for them. It does not
//! know when a key was deleted. Then the item goes, on both sides: a miss is allowed, a stale hit is not.

use std::collections::{HashSet, VecDeque};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::backlog::{Backlog, Read};
use crate::change::{Change, DecodeError};
use crate::dirty::DirtyMap;
use crate::frame::{Frame, Report};
use crate::session::Means;
use crate::store::{Merged, Store};
use crate::walk::Walk;

/// What becomes of keys that both nodes changed while neither heard of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heal {
    /// The newer change counts.
    #[default]
    Newest,
    /// What the node did that follows now is undone.
    Winner,
    /// They are deleted on both.
    Invalidate,
}

/// What a node did that nobody else has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suffix {
    /// Behind these sequences of its own backlog,
    pub from: Vec<u64>,
    /// up to these,
    pub to: Vec<u64>,
    /// and what the backlog no longer has of it.
    pub missed: DirtyMap,
}

/// The follower's reports of one plan.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    plan: u32,
    /// Changes were left out of the stream: what they made of an item shows in the item, unless it has made
    /// room for others since, or has expired.
    gaps: bool,
    stage: Stage,
    /// Sent and not answered.
    unanswered: usize,
}

/// One after the other.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// First comes what the master has to say.
    #[default]
    Waiting,
    /// Items that may be gone there.
    Comparing(Walk),
    /// Where items may be gone here, if nobody knows when.
    Mapping,
    /// Items written here that are no longer in the backlog.
    Written(Walk),
    /// What is in the backlog: the next sequence of each shard.
    Recorded(Vec<u64>),
    /// Nothing is left.
    Done,
}

/// What reports are made of.
pub struct Matter<'a> {
    /// Items that may be gone at the master.
    pub suspects: &'a DirtyMap,
    /// What only this node did.
    pub suffix: Option<&'a Suffix>,
    /// The master's changes that were applied.
    pub applied: &'a [u64],
    /// What becomes of it.
    pub heal: Heal,
    /// Where both take writes: which of the two this is. What the other wrote need not be told.
    pub slot: Option<u8>,
    /// This node's items.
    pub store: &'a dyn Store,
    /// This node's own changes.
    pub backlog: &'a Backlog,
}

/// Not everything that would have to be told is known: only a copy helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopeless;

impl Reports {
    /// Those of a plan. `gaps`: it leaves changes out.
    pub fn of(plan: u32, gaps: bool) -> Self {
        Self { plan, gaps, ..Self::default() }
    }

    /// Some of the items here may be gone there.
    fn compares(&self, suspects: &DirtyMap) -> bool {
        suspects.has_removed() || (self.gaps && suspects.has_written())
    }

    /// Everything was told and answered.
    pub fn are_done(&self) -> bool {
        matches!(self.stage, Stage::Done) && self.unanswered == 0
    }

    /// The master has said everything. `false`: there is nothing to tell it.
    pub fn begin(&mut self, suspects: &DirtyMap, suffix: Option<&Suffix>) {
        if matches!(self.stage, Stage::Waiting) {
            let nothing = !self.compares(suspects) && suffix.is_none();
            self.stage = if nothing { Stage::Done } else { Stage::Comparing(Walk::default()) };
        }
    }

    /// The master asks which of these items are here: the report that answers it.
    pub fn asked(&mut self, asked: &Report, applied: &[u64], store: &dyn Store) -> Option<Frame> {
        let payload = different_here(asked, store);
        if payload.is_empty() || asked.plan != self.plan {
            return None;
        }
        self.unanswered += 1;
        let (secs, applied) = (store.secs(), applied.to_vec());
        let plan = self.plan;
        Some(Frame::Report(Report { plan, compare: false, secs, applied, payload: payload.freeze() }))
    }

    /// An answer to something of that plan came.
    pub fn answered(&mut self, plan: u32) {
        if plan != self.plan {
            return;
        }
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// The next report of about `bytes_max`, if one may be sent now. One in which nothing was found is
    /// sent too: it keeps this node from looking on without a pause.
    pub fn poll(&mut self, bytes_max: usize, matter: &Matter<'_>) -> Result<Option<Frame>, Hopeless> {
        let store = matter.store;
        let (gaps, compares) = (self.gaps, self.compares(matter.suspects));
        while self.unanswered < UNANSWERED_MAX {
            let mut payload = BytesMut::new();
            match &mut self.stage {
                Stage::Waiting | Stage::Done => return Ok(None),
                Stage::Comparing(walk) if compares && !walk.is_over(store) => {
                    walk.step(bytes_max, store, &mut payload, &mut |change, payload| {
                        name_gone(change, matter.suspects, gaps, payload);
                    });
                    self.unanswered += 1;
                    return Ok(Some(report(self.plan, true, payload, matter)));
                }
                Stage::Comparing(_) => self.stage = Stage::Mapping,
                Stage::Mapping => {
                    let missed = matter.suffix.map(|suffix| suffix.missed.clone()).unwrap_or_default();
                    if matter.heal == Heal::Winner && !missed.is_empty() {
                        return Err(Hopeless);
                    }
                    missed.encode(&mut payload);
                    let is_told = missed.has_removed();
                    self.stage = Stage::Written(Walk::for_dirty(0, missed));
                    if is_told {
                        self.unanswered += 1;
                        return Ok(Some(Frame::Dirty { plan: self.plan, payload: payload.freeze() }));
                    }
                }
                // What the master forgets for the map, it forgets before it is told the rest.
                Stage::Written(walk) if walk.is_at_start() && self.unanswered > 0 => return Ok(None),
                Stage::Written(walk)
                    if walk.wanted.as_ref().is_some_and(|map| map.has_written() || map.has_flush_at()) =>
                {
                    if walk.is_at_start()
                        && let Some(map) = &walk.wanted
                    {
                        map.flush().into_iter().for_each(|flush| flush.encode(&mut payload));
                        if map.has_flush_at() {
                            let deadline = store.pending_flush().unwrap_or(0);
                            Change::FlushAt { deadline }.encode(&mut payload);
                        }
                    }
                    walk.collect(bytes_max, store, &mut payload);
                    if walk.is_over(store) {
                        walk.wanted = None;
                    }
                    self.unanswered += 1;
                    return Ok(Some(report(self.plan, false, payload, matter)));
                }
                Stage::Written(_) => {
                    let next = matter.suffix.map(|suffix| suffix.from.iter().map(|from| from + 1).collect());
                    self.stage = Stage::Recorded(next.unwrap_or_default());
                }
                Stage::Recorded(next) => {
                    let suffix = matter.suffix.filter(|suffix| !suffix.is_told(next));
                    let Some(suffix) = suffix else {
                        self.stage = Stage::Done;
                        continue;
                    };
                    suffix.tell(next, bytes_max, matter, &mut payload)?;
                    self.unanswered += 1;
                    return Ok(Some(report(self.plan, false, payload, matter)));
                }
            }
        }
        Ok(None)
    }
}

impl Suffix {
    /// Everything behind `from` that is in the backlog; what is not, was noted in `missed`.
    pub fn behind(from: &[u64], missed: DirtyMap, backlog: &Backlog) -> Self {
        let from = if backlog.covers(from) { from.to_vec() } else { backlog.first_behind(from) };
        Self { from, to: backlog.last(), missed }
    }

    fn is_told(&self, next: &[u64]) -> bool {
        next.len() != self.to.len() || reached_by(next, &self.to)
    }

    /// The next recorded changes, as far as they still count here.
    fn tell(
        &self,
        next: &mut [u64],
        bytes_max: usize,
        matter: &Matter<'_>,
        payload: &mut BytesMut,
    ) -> Result<(), Hopeless> {
        for (shard, (next, to)) in next.iter_mut().zip(&self.to).enumerate() {
            tell_recorded(shard, next, *to, bytes_max, matter, payload)?;
        }
        Ok(())
    }
}

/// The changes of `shard` from `next` up to `to`, as far as they still count here, until `payload` is about `bytes_max`
/// long.
fn tell_recorded(
    shard: usize,
    next: &mut u64,
    to: u64,
    bytes_max: usize,
    matter: &Matter<'_>,
    payload: &mut BytesMut,
) -> Result<(), Hopeless> {
    let goes_on = matter.slot.is_some();
    while *next <= to && payload.len() < bytes_max {
        let mut records = BytesMut::new();
        let room = (bytes_max - payload.len()).min(PIECE_BYTES);
        *next += match matter.backlog.read_from(shard, *next, room, &mut records) {
            Read::Records(count) => u64::from(count),
            Read::Reload { key, version } => {
                tell_item(matter.store, &key, version, goes_on, payload);
                1
            }
            Read::Empty | Read::Overrun => return Err(Hopeless),
        };
        let mut told = HashSet::new();
        for change in Change::decode_all(&records).map_while(Result::ok) {
            match change {
                // What the other wrote it has, and what was written several times is told once, as it is now.
                Change::Put(put)
                    if matter.slot.is_some_and(|slot| {
                        put.version & SLOT_BIT != slot.into() || told.contains(put.key)
                    }) => {}
                Change::Put(put) => {
                    if tell_item(matter.store, put.key, put.version, goes_on, payload) && goes_on {
                        told.insert(put.key.to_vec());
                    }
                }
                Change::Flush { .. } if matter.heal == Heal::Winner => return Err(Hopeless),
                other => other.encode(payload),
            }
        }
    }
    Ok(())
}

/// What a follower that executes commands itself goes on to tell, for ever.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The next sequence of each shard.
    next: Vec<u64>,
    /// How far each report went that has no answer yet, the first one first.
    unanswered: VecDeque<Vec<u64>>,
    /// Which shard comes first next.
    turn: usize,
}

impl Tail {
    /// Begins behind what the master has.
    pub fn behind(merged: &[u64]) -> Self {
        let next = merged.iter().map(|merged| merged + 1).collect();
        Self { next, unanswered: VecDeque::new(), turn: 0 }
    }

    /// The first report without an answer has got it: up to where the master has everything.
    pub fn answered(&mut self) -> Option<Vec<u64>> {
        self.unanswered.pop_front()
    }

    /// What the next report of about `bytes_max` says, if there is anything to say and room for it.
    pub fn poll(&mut self, bytes_max: usize, matter: &Matter<'_>) -> Result<Option<BytesMut>, Hopeless> {
        let mut payload = BytesMut::new();
        let last = matter.backlog.last();
        if self.unanswered.len() >= TAIL_UNANSWERED_MAX || reached_by(&self.next, &last) {
            return Ok(None);
        }
        self.turn = (self.turn + 1) % last.len();
        for shard in (self.turn..last.len()).chain(0..self.turn) {
            tell_recorded(shard, &mut self.next[shard], last[shard], bytes_max, matter, &mut payload)?;
        }
        self.unanswered.push_back(self.next.iter().map(|next| next - 1).collect());
        Ok(Some(payload))
    }
}

/// Nothing is recorded from `next` on.
fn reached_by(next: &[u64], last: &[u64]) -> bool {
    next.iter().zip(last).all(|(next, last)| next > last)
}

/// The item of `key`, if what was written then is what is there. If the other node has written it since,
/// that both did is told by a delete that comes too late. If it made room for others, or expired, what it
/// replaced is gone as well.
///
/// If this node has written it again since, that is told in its turn; where telling never ends (`goes_on`), at
/// once: the other node is never behind what it answered for.
fn tell_item(store: &dyn Store, key: &[u8], version: u64, goes_on: bool, payload: &mut BytesMut) -> bool {
    let (mut tells, mut is_told) = (true, false);
    store.read(key, &mut |change| {
        let held = change.key_and_version().map_or(0, |(_, held)| held);
        let same_node = (held ^ version) & SLOT_BIT == 0;
        is_told = held == version || (goes_on && held > version && same_node);
        if is_told {
            change.encode(payload);
        }
        tells = held < version || (held > version && !same_node);
    });
    if tells {
        Change::Delete { key, version }.encode(payload);
    }
    is_told
}

/// An item that may be gone, as key, version and deadline.
fn name_gone(change: &Change<'_>, suspects: &DirtyMap, gaps: bool, payload: &mut BytesMut) {
    if let Change::Put(put) = change
        && (suspects.is_removed(put.key, put.version) || (gaps && suspects.is_suspect(put.key, put.version)))
    {
        Change::Touch { key: put.key, deadline: put.deadline, version: put.version }.encode(payload);
    }
}

fn report(plan: u32, compare: bool, payload: BytesMut, matter: &Matter<'_>) -> Frame {
    let (secs, applied) = (matter.store.secs(), matter.applied.to_vec());
    Frame::Report(Report { plan, compare, secs, applied, payload: payload.freeze() })
}

/// The master's answer to a report. Calls `sample` with keys that both nodes changed. `accepts`: of a backup that executes
/// commands and misses nothing.
pub fn answer(
    report: &Report,
    (heal, accepts): (Heal, bool),
    means: &mut Means<'_>,
    sample: &mut dyn FnMut(&[u8]),
) -> Result<Frame, DecodeError> {
    let secs = means.store.secs();
    let mut payload = BytesMut::new();
    // Of a follower that misses nothing everything is known that happened since.
    let accepts = accepts && means.backlog.covers(&report.applied);
    for change in Change::decode_all(&report.payload) {
        let change = change?.translated(report.secs, secs);
        if report.compare {
            correct(&change, means.store, &mut payload);
        } else if heal == Heal::Winner {
            undo(&change, means.store, &mut payload);
        } else {
            merge(&change, (&report.applied, accepts), heal, means, &mut payload, sample);
        }
    }
    means.counters.bytes_sent += payload.len() as u64;
    Ok(Frame::Answer { plan: report.plan, secs, payload: payload.freeze() })
}

/// What is different here about an item that the other node has.
fn correct(theirs: &Change<'_>, store: &dyn Store, payload: &mut BytesMut) {
    let &Change::Touch { key, deadline, version } = theirs else { return };
    let found = store.read(key, &mut |ours| {
        if let Change::Put(put) = ours
            && put.version == version
            && (put.deadline.abs_diff(deadline) > 1 || (put.deadline == 0) != (deadline == 0))
        {
            Change::Touch { key, deadline: put.deadline, version }.encode(payload);
        }
    });
    if !found {
        Change::Delete { key, version: version + 1 }.encode(payload);
    }
}

/// What is here instead of what the follower did.
fn undo(theirs: &Change<'_>, store: &dyn Store, payload: &mut BytesMut) {
    if matches!(theirs, Change::FlushAt { .. }) {
        let deadline = store.pending_flush().unwrap_or(0);
        return Change::FlushAt { deadline }.encode(payload);
    }
    let Some((key, version)) = theirs.key_and_version() else { return };
    if matches!(theirs, Change::Put(_)) {
        Change::Delete { key, version: version + 1 }.encode(payload);
    }
    store.read(key, &mut |ours| match (theirs, ours) {
        // The same item, for as long as it lives here.
        (Change::Touch { .. }, Change::Put(put)) if put.version == version => {
            Change::Touch { key, deadline: put.deadline, version }.encode(payload);
        }
        _ => ours.encode(payload),
    });
}

fn merge(
    theirs: &Change<'_>,
    (applied, accepts): (&[u64], bool),
    heal: Heal,
    means: &mut Means<'_>,
    payload: &mut BytesMut,
    sample: &mut dyn FnMut(&[u8]),
) {
    let (key, version) = theirs.key_and_version().unwrap_or((&[], 0));
    let mut held = None;
    if !key.is_empty() {
        means.store.read(key, &mut |ours| held = ours.key_and_version().map(|(_, version)| version));
    }
    let touches = matches!(theirs, Change::Touch { .. });
    let both = means.debt.parted_at.zip(held).is_some_and(|(parted, held)| held >= parted && held != version);
    if both && !touches {
        means.counters.conflicts += 1;
        sample(key);
    }
    let may_create = |shard: usize| {
        applied.get(shard).is_some_and(|applied| match accepts {
            true => means.backlog.has_newer(shard, *applied, key, version) == Some(false),
            false => means.backlog.may_create(shard, *applied, key, version),
        })
    };
    let neither = Change::Delete { key, version: held.unwrap_or(0).max(version) + 1 };
    let change = if both && !touches && heal == Heal::Invalidate { &neither } else { theirs };
    match means.store.merge(change, &may_create) {
        Merged::Taken => means.counters.merged += 1,
        // There is nothing here to delete, but what was here until it made room for others is on its way.
        Merged::Kept if matches!(theirs, Change::Delete { .. }) => theirs.encode(payload),
        Merged::Kept => {}
        Merged::Refused => Change::Delete { key, version: version + 1 }.encode(payload),
    }
}

/// A step over the items that the follower may have deleted. Of those that are as they were when the
/// pasts parted, the follower knows: it is to be asked. Of those written since, nobody knows which was
/// first, the write or the delete: they are forgotten.
pub(crate) fn doubt_removed(
    map: &DirtyMap,
    walk: &mut Walk,
    parted_at: u64,
    bytes_max: usize,
    store: &dyn Store,
) -> BytesMut {
    let (mut asked, mut gone) = (BytesMut::new(), BytesMut::new());
    walk.step(bytes_max, store, &mut asked, &mut |change, asked| match change {
        Change::Put(put) if put.version < parted_at => name_gone(change, map, false, asked),
        Change::Put(put) if map.is_removed(put.key, put.version) => {
            Change::Delete { key: put.key, version: put.version + 1 }.encode(&mut gone);
        }
        _ => {}
    });
    for change in Change::decode_all(&gone).map_while(Result::ok) {
        store.merge(&change, &|_| false);
    }
    asked
}

/// The follower's answer to what the master asks: deletes of what is not here, and until when the rest stays. That it
/// was touched here may be known to nobody else.
fn different_here(asked: &Report, store: &dyn Store) -> BytesMut {
    let mut payload = BytesMut::new();
    let secs = store.secs();
    for change in Change::decode_all(&asked.payload).map_while(Result::ok) {
        correct(&change.translated(asked.secs, secs), store, &mut payload);
    }
    payload
}

/// A step of forgetting items that may be stale, without telling anybody; how many.
pub(crate) fn forget_suspects(suspects: &DirtyMap, walk: &mut Walk, store: &dyn Store) -> u64 {
    let mut count = 0;
    let mut named = BytesMut::new();
    walk.step(PIECE_BYTES, store, &mut named, &mut |change, named| {
        if let Some((key, version)) = change.key_and_version()
            && suspects.is_suspect(key, version)
        {
            Change::Delete { key, version: version + 1 }.encode(named);
        }
    });
    for change in Change::decode_all(&named).map_while(Result::ok) {
        store.apply(&change);
        count += 1;
    }
    count
}

/// Reports under way: enough to keep a link busy, and not more than its ends have memory for.
const UNANSWERED_MAX: usize = 4;

/// The same for what goes on for ever: answers come behind all that the master streams meanwhile.
pub const TAIL_UNANSWERED_MAX: usize = 64;

/// Which of the two nodes made a version.
const SLOT_BIT: u64 = 1;

/// Bytes looked at in one go.
const PIECE_BYTES: usize = 64 << 10;
