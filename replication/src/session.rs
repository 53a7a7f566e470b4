//! One follower and its stream, on both ends.
//!
//! Three tiers, so that a slow or absent follower costs nothing but what it missed:
//! 1. it continues where it was, if the backlog still has what follows;
//! 2. it catches up: what the backlog no longer has was noted in a [`DirtyMap`]; the map goes first, then
//!    a walk over the store sends the items that were written;
//! 3. it copies everything, if the two have no past in common.
//!
//! The sender puts live changes of each shard, the items of a walk and the marks that say what is what
//! into one FIFO. Because a chunk is sent the moment it is read, every change made after that lies behind
//! it; changes made before that and sent later do no harm, since applying keeps the newer. So a walk
//! needs no snapshot and nobody stops.
//!
//! The bulk is pulled: [`Sender::poll`] makes the next frame when the connection can take one, so a slow
//! peer costs no memory. What it misses meanwhile waits in the backlog; if that overruns, the stream
//! skips, and what was skipped is sent by another round of the walk. Changes are preferred over chunks
//! as soon as a quarter of the backlog waits.
//!
//! What must survive a cut link is in the [`Debt`]: so a walk goes on where it was.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::backlog::{Backlog, Read};
use crate::change::Change;
use crate::dirty::DirtyMap;
use crate::frame::{Cut, Follow, Frame, Plan, Report, Way};
use crate::heal::{self, Reports, Suffix, Tail};
use crate::history::{History, Position, Resume};
use crate::status::Counters;
use crate::store::Store;
use crate::time::Mono;
use crate::walk::Walk;

/// What a master owes its follower beside what is in the backlog. Outlives connections.
#[derive(Clone, Debug, Default)]
pub struct Debt {
    /// The sequences up to which the follower held everything, when it last did.
    level: Option<Vec<u64>>,
    /// What it misses and is being sent.
    pub pending: DirtyMap,
    /// What it misses and is sent in another round.
    late: DirtyMap,
    /// The walk under way, or cut.
    walk: Option<Walk>,
    /// The round before, of which the follower may not have seen the end.
    before: Option<Walk>,
    /// Walks so far.
    walks: u64,
    /// The first version this node made after its past parted from the follower's.
    pub(crate) parted_at: Option<u64>,
}

impl Debt {
    /// The other node holds everything up to there.
    pub fn level(applied: Vec<u64>) -> Self {
        Self { level: Some(applied), ..Self::default() }
    }

    /// Everything the other node may miss is in the backlog, or noted here.
    pub fn is_known(&self) -> bool {
        self.level.is_some()
    }

    /// The same, for one that holds everything up to `applied`.
    fn covers(&self, applied: &[u64]) -> bool {
        let level = self.level.as_ref();
        level.is_some_and(|level| reached(applied, level))
    }

    /// The follower holds everything up to there.
    fn settle(&mut self, applied: Vec<u64>) {
        *self = Self { walks: self.walks, ..Self::level(applied) };
    }

    /// Notes all that is in there, for good.
    pub fn absorb(&mut self, missed: &DirtyMap) {
        let late = std::mem::take(&mut self.late);
        self.pending.merge(&late);
        self.pending.merge(missed);
    }

    fn next_walk(&mut self) -> u64 {
        self.walks += 1;
        self.walks
    }
}

/// What a sender works with.
pub struct Means<'a> {
    /// The items.
    pub store: &'a dyn Store,
    /// Their changes.
    pub backlog: &'a Backlog,
    /// What is owed.
    pub debt: &'a mut Debt,
    /// For the statistics.
    pub counters: &'a mut Counters,
}

/// The master's end.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The follower's number for it.
    pub session: u32,
    /// Plans sent in it.
    plans: u32,
    epoch: u64,
    history: u128,
    /// Next sequence to send, per shard.
    next: Vec<u64>,
    /// What the follower says it applied.
    acked: Vec<u64>,
    /// With that, it says, it holds everything.
    complete: bool,
    give_up: Option<Position>,
    /// To be sent before anything else.
    marks: VecDeque<Frame>,
    /// The end of the walk was said.
    walked: bool,
    /// Items that the follower may have deleted are forgotten, step by step.
    doubted: Option<(DirtyMap, Walk)>,
    /// Which shard's changes come next.
    turn: usize,
    /// Where payloads are put together, one after the other.
    room: BytesMut,
    /// The last frame was a chunk: changes come next.
    chunk_was_last: bool,
    /// Answers, each to be sent behind all changes up to there.
    answers: VecDeque<(Vec<u64>, Frame)>,
    /// Puts that the node of this slot made are not sent back to it.
    muted: Option<u8>,
    /// Changes up to there were made while another one was master: what came of them counts.
    untold: Option<Vec<u64>>,
}

impl Sender {
    /// Answers `follow`: goes on with what was cut, or continues where it says, or has it catch up, or
    /// copies.
    pub fn begin(follow: &Follow, epoch: u64, history: &History, means: &mut Means<'_>) -> Self {
        let last = means.backlog.last();
        let mut sender = Self {
            session: follow.session,
            plans: 0,
            epoch,
            history: history.id,
            next: Vec::new(),
            acked: Vec::new(),
            complete: false,
            give_up: None,
            marks: VecDeque::new(),
            walked: true,
            doubted: None,
            turn: 0,
            room: BytesMut::new(),
            chunk_was_last: false,
            answers: VecDeque::new(),
            muted: None,
            untold: None,
        };
        let known = history.resume_from_any(&follow.positions, &last);
        if sender.resumes(follow, &last, means) {
            return sender;
        }
        match known {
            Some(known) if sender.continues(&known, &last, means) => {}
            Some(known) if means.debt.covers(&known.from) => sender.catch_up(&known, means),
            _ => sender.copy(means),
        }
        sender
    }

    /// What the node of that slot made goes back to it as no more than a place in the stream. Only for a follower
    /// that has told it on this very link, or before and holds it still.
    pub fn stop_echo(self, of_slot: Option<u8>) -> Self {
        Self { muted: of_slot, ..self }
    }

    /// Of the plan that the follower is told to keep to.
    pub fn plan_number(&self) -> u32 {
        self.plans
    }

    /// Changes up to `untold` were made while the follower, or who it followed, was master, whose changes are not in this backlog:
    /// a put that they replaced or deleted must not come behind them.
    pub fn as_they_are(self, untold: Option<Vec<u64>>) -> Self {
        Self { untold, ..self }
    }

    /// Sends `answer` as soon as all changes up to `last` are sent.
    pub fn answer_behind(&mut self, last: Vec<u64>, answer: Frame) {
        self.answers.push_back((last, answer));
    }

    fn answer_due(&mut self) -> Option<Frame> {
        let (last, _) = self.answers.front()?;
        let sent = |(next, last): (&u64, &u64)| next > last;
        let due = self.next.iter().zip(last).all(sent);
        due.then(|| self.answers.pop_front()).flatten().map(|(_, answer)| answer)
    }

    /// The walk that was cut goes on.
    fn resumes(&mut self, follow: &Follow, last: &[u64], means: &mut Means<'_>) -> bool {
        let (Some(Cut { walk, shard, cursor, position }), Some(known)) = (&follow.cut, &mut means.debt.walk)
        else {
            return false;
        };
        if position.history != self.history || !reached(last, &position.applied) {
            return false;
        }
        if let Some(before) = means.debt.before.take_if(|before| before.number == *walk) {
            let wanted = std::mem::replace(known, before).wanted;
            means.debt.late.merge(&wanted.unwrap_or_default());
        }
        if known.number != *walk {
            return false;
        }
        means.debt.before = None;
        (known.shard, known.cursor) = (usize::from(*shard), *cursor);
        self.walked = false;
        means.counters.resumed_copies += 1;
        let from = self.skip(&position.applied, means);
        self.plan_walk(Way::Resume, from, means);
        true
    }

    fn continues(&mut self, known: &Resume, last: &[u64], means: &mut Means<'_>) -> bool {
        let missed = means.backlog.take_missed();
        if !means.backlog.track_from(&known.from) {
            means.debt.absorb(&missed);
            return false;
        }
        means.debt.settle(known.from.clone());
        means.counters.partial_resyncs += 1;
        self.part(known, means);
        self.plan(Way::Continue, known.from.clone(), last.to_vec());
        if self.behind(means.backlog, &self.next).1 > means.backlog.bytes_max() as u64 / MAP_SHARE {
            self.send_map(means);
        }
        true
    }

    fn catch_up(&mut self, known: &Resume, means: &mut Means<'_>) {
        means.counters.catch_ups += 1;
        let from = means.backlog.skip(&known.from);
        means.debt.absorb(&means.backlog.take_missed());
        let wanted = means.debt.pending.clone();
        means.debt.walk = Some(Walk::for_dirty(means.debt.next_walk(), wanted));
        means.debt.before = None;
        self.walked = false;
        self.part(known, means);
        self.plan_walk(Way::CatchUp, from, means);
    }

    fn copy(&mut self, means: &mut Means<'_>) {
        means.counters.full_copies += 1;
        let from = means.backlog.track();
        *means.debt = Debt { walks: means.debt.walks, ..Debt::default() };
        means.debt.walk = Some(Walk::over_all(means.debt.next_walk()));
        self.walked = false;
        self.plan_walk(Way::Copy, from, means);
    }

    /// The follower made changes of its own since the pasts parted.
    fn part(&mut self, known: &Resume, means: &mut Means<'_>) {
        self.give_up.clone_from(&known.give_up);
        if self.give_up.is_some() {
            let recorded = means.backlog.first_version_behind(&known.from);
            let noted = means.debt.pending.first_written();
            means.debt.parted_at = recorded.into_iter().chain(noted).min();
        }
    }

    /// The backlog no longer has what comes next: the stream goes on further ahead.
    fn overrun(&mut self, means: &mut Means<'_>) {
        let sent: Vec<u64> = self.next.iter().map(|next| next - 1).collect();
        let from = self.skip(&sent, means);
        if means.debt.walk.is_some() && !self.walked {
            return self.plan_walk(Way::Resume, from, means);
        }
        means.counters.catch_ups += 1;
        let wanted = std::mem::take(&mut means.debt.late);
        means.debt.walk = Some(Walk::for_dirty(means.debt.next_walk(), wanted));
        // Whoever has not seen the end of the last round begins with all of them.
        means.debt.before = None;
        self.walked = false;
        self.plan_walk(Way::CatchUp, from, means);
    }

    /// Skips what is not in the backlog; it is sent in another round, and told the follower at once.
    fn skip(&mut self, applied: &[u64], means: &mut Means<'_>) -> Vec<u64> {
        if means.backlog.covers(applied) {
            return applied.to_vec();
        }
        let from = means.backlog.skip(applied);
        let missed = means.backlog.take_missed();
        means.debt.late.merge(&missed);
        means.debt.pending.merge(&missed);
        from
    }

    fn plan_walk(&mut self, way: Way, from: Vec<u64>, means: &mut Means<'_>) {
        self.plan(way, from, Vec::new());
        if way != Way::Copy {
            self.send_map(means);
        }
    }

    /// The map goes first, and says of the backlog too what is yet to come: should this node die before,
    /// the follower knows which of its items may be stale.
    fn send_map(&mut self, means: &mut Means<'_>) {
        let mut map = means.debt.pending.clone();
        let behind: Vec<u64> = self.next.iter().map(|next| next - 1).collect();
        means.backlog.note_behind(&behind, &mut map);
        if map.is_empty() {
            return;
        }
        let mut payload = BytesMut::new();
        map.encode(&mut payload);
        means.counters.bytes_sent += payload.len() as u64;
        // Whoever knows the plan knows the map.
        let plan = self.marks.pop_back();
        self.marks.push_back(Frame::Dirty { plan: self.plans, payload: payload.freeze() });
        self.marks.extend(plan);
    }

    fn plan(&mut self, way: Way, from: Vec<u64>, target: Vec<u64>) {
        self.next = from.iter().map(|applied| applied + 1).collect();
        self.acked.clone_from(&from);
        self.complete = false;
        self.doubted = None;
        self.plans += 1;
        let plan = Plan {
            session: self.session,
            number: self.plans,
            epoch: self.epoch,
            way,
            walk: 0,
            from: Position { history: self.history, applied: from },
            target,
            give_up: self.give_up.clone(),
        };
        self.marks.push_back(Frame::Plan(plan));
    }

    /// The next frame of about `bytes_max`, if there is anything to send.
    pub fn poll(&mut self, bytes_max: usize, means: &mut Means<'_>) -> Option<Frame> {
        if let Some(mark) = self.marks.pop_front() {
            return Some(numbered(mark, means.debt));
        }
        if let Some(answer) = self.answer_due() {
            return Some(answer);
        }
        if !self.walked && !self.chunk_was_last && !self.must_hurry(means.backlog) {
            self.chunk_was_last = true;
            return Some(self.chunk(bytes_max, means));
        }
        self.chunk_was_last = false;
        match self.changes(bytes_max, means) {
            Ok(Some(frame)) => Some(frame),
            Ok(None) if !self.walked => Some(self.chunk(bytes_max, means)),
            Ok(None) => self.doubt(bytes_max, means),
            Err(Overrun) => {
                self.overrun(means);
                self.marks.pop_front().map(|mark| numbered(mark, means.debt))
            }
        }
    }

    /// So many changes wait that chunks must.
    fn must_hurry(&self, backlog: &Backlog) -> bool {
        let waiting: u64 = self.behind(backlog, &self.next).1;
        waiting.saturating_mul(4) > backlog.bytes_max() as u64
    }

    fn behind(&self, backlog: &Backlog, next: &[u64]) -> (u64, u64) {
        let all = next.iter().enumerate().map(|(shard, next)| backlog.behind(shard, next - 1));
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn changes(&mut self, bytes_max: usize, means: &mut Means<'_>) -> Result<Option<Frame>, Overrun> {
        for _ in 0..self.next.len() {
            let shard = self.turn;
            self.turn = (self.turn + 1) % self.next.len();
            let first = self.next[shard];
            let mut payload = std::mem::take(&mut self.room);
            let read = means.backlog.read_from(shard, first, bytes_max, &mut payload);
            let count = match read {
                Read::Empty => {
                    self.room = payload;
                    continue;
                }
                Read::Overrun => return Err(Overrun),
                Read::Records(count) => u64::from(count),
                Read::Reload { key, version } => {
                    reload(means.store, &key, version, &mut payload);
                    1
                }
            };
            if let Some(slot) = self.muted {
                payload = without_echo(payload, slot);
            }
            let untold = self.untold.as_ref().and_then(|untold| untold.get(shard)).map_or(0, |last| last + 1);
            if first < untold {
                payload = as_it_is(&payload, (untold - first) as usize, means.store);
            }
            self.next[shard] += count;
            means.counters.changes_sent += count;
            means.counters.bytes_sent += payload.len() as u64;
            let secs = means.store.secs();
            let whole = payload.split().freeze();
            // What is left is used again when that frame is gone; a long one's is not kept.
            if payload.capacity() < ROOM_BYTES_MAX {
                self.room = payload;
            }
            return Ok(Some(Frame::Changes { shard: shard as u16, first, secs, payload: whole }));
        }
        Ok(None)
    }

    /// The next piece of the walk; behind the last one, the mark that ends it.
    fn chunk(&mut self, bytes_max: usize, means: &mut Means<'_>) -> Frame {
        let (store, debt) = (means.store, &mut *means.debt);
        let mut payload = BytesMut::new();
        let walk = debt.walk.get_or_insert_default();
        if walk.is_at_start()
            && let Some(flush) = walk.wanted.as_ref().and_then(DirtyMap::flush)
        {
            flush.encode(&mut payload);
        }
        walk.collect(bytes_max, store, &mut payload);
        if walk.is_over(store) && debt.late.is_empty() {
            self.walked = true;
            let deadline = store.pending_flush().unwrap_or(0);
            Change::FlushAt { deadline }.encode(&mut payload);
            self.marks.push_back(Frame::CopyEnd { target: means.backlog.last() });
        }
        means.counters.bytes_sent += payload.len() as u64;
        let (shard, cursor) = (walk.shard as u16, walk.cursor);
        if walk.is_over(store) && !self.walked {
            self.walk_again(means);
        }
        Frame::Chunk { shard, cursor, secs: store.secs(), payload: payload.freeze() }
    }

    /// Another round, for what was skipped during the last one.
    fn walk_again(&mut self, means: &mut Means<'_>) {
        let wanted = std::mem::take(&mut means.debt.late);
        let again = Walk::for_dirty(means.debt.next_walk(), wanted);
        means.debt.before = means.debt.walk.replace(again);
        let from = self.next.iter().map(|next| next - 1).collect();
        self.plan(Way::Resume, from, Vec::new());
    }

    /// The next step of forgetting what the follower may have deleted. The answer to its map follows.
    fn doubt(&mut self, bytes_max: usize, means: &mut Means<'_>) -> Option<Frame> {
        let (map, mut walk) = self.doubted.take()?;
        let secs = means.store.secs();
        if walk.is_over(means.store) {
            return Some(Frame::Answer { plan: self.plans, secs, payload: bytes::Bytes::new() });
        }
        let parted_at = means.debt.parted_at.unwrap_or(u64::MAX);
        let asked = heal::doubt_removed(&map, &mut walk, parted_at, bytes_max, means.store);
        self.doubted = Some((map, walk));
        if !asked.is_empty() {
            means.counters.bytes_sent += asked.len() as u64;
            let plan = self.plans;
            let report = Report { plan, compare: true, secs, applied: Vec::new(), payload: asked.freeze() };
            return Some(Frame::Report(report));
        }
        let (shard, cursor) = means.debt.walk.as_ref().map_or((0, 0), |walk| (walk.shard, walk.cursor));
        Some(Frame::Chunk { shard: shard as u16, cursor, secs, payload: bytes::Bytes::new() })
    }

    /// What only its follower did is no longer known to it: items in these buckets are in doubt.
    pub fn doubt_buckets(&mut self, plan: u32, map: DirtyMap) {
        if plan == self.plans {
            self.doubted = Some((map, Walk::default()));
        }
    }

    /// The follower applied so much of a plan, and says whether it holds everything.
    pub fn acknowledge(&mut self, plan: u32, applied: Vec<u64>, complete: bool, means: &mut Means<'_>) {
        // Nobody has what was not sent yet.
        let sent = |(applied, next): (&u64, &u64)| applied < next;
        if plan != self.plans || applied.len() != self.next.len() || !applied.iter().zip(&self.next).all(sent)
        {
            return;
        }
        self.acked = applied;
        self.complete = complete;
        means.backlog.advance(&self.acked);
        if complete {
            means.debt.settle(self.acked.clone());
            self.give_up = None;
            // What was noted and has arrived by now need not be kept.
            if means.backlog.has_missed() {
                let missed = means.backlog.take_missed();
                if !means.backlog.covers(&self.acked) {
                    means.backlog.put_missed_back(&missed);
                }
            }
        }
    }

    /// The session and the number of the last plan.
    #[cfg(feature = "testing")]
    pub fn planned(&self) -> (u32, u32) {
        (self.session, self.plans)
    }

    /// What the follower applied, if it holds everything up to there.
    pub fn acknowledged(&self) -> Option<&[u64]> {
        self.complete.then_some(&self.acked)
    }

    /// The follower has everything there is.
    pub fn is_level(&self, backlog: &Backlog) -> bool {
        // One shard after the other: while changes keep coming the first ones tell.
        self.acknowledged().is_some_and(|acked| {
            acked.iter().enumerate().all(|(shard, acked)| *acked == backlog.last_of(shard))
        })
    }

    /// Changes the follower did not acknowledge, and about how many bytes they are.
    pub fn lag(&self, backlog: &Backlog) -> (u64, u64) {
        let next: Vec<u64> = self.acked.iter().map(|acked| acked + 1).collect();
        self.behind(backlog, &next)
    }

    /// Items a walk came by and bytes it found, while one is under way.
    pub fn walked<'d>(&self, debt: &'d Debt) -> Option<&'d Walk> {
        debt.walk.as_ref().filter(|_| !self.complete)
    }
}

/// A plan names the walk that is under way when it is sent.
fn numbered(mark: Frame, debt: &Debt) -> Frame {
    match mark {
        Frame::Plan(plan) => {
            let walk = debt.walk.as_ref().map_or(0, |walk| walk.number);
            Frame::Plan(Plan { walk, ..plan })
        }
        other => other,
    }
}

/// The same number of changes; a put that the node of `slot` made becomes a delete of nothing.
fn without_echo(payload: BytesMut, slot: u8) -> BytesMut {
    let is_echo =
        |change: &Change<'_>| matches!(change, Change::Put(put) if put.version & 1 == u64::from(slot));
    if !Change::decode_all(&payload).flatten().any(|change| is_echo(&change)) {
        return payload;
    }
    let mut rest = BytesMut::with_capacity(payload.len());
    for change in Change::decode_all(&payload).flatten() {
        match &change {
            Change::Put(put) if is_echo(&change) => {
                Change::Delete { key: put.key, version: 0 }.encode(&mut rest)
            }
            other => other.encode(&mut rest),
        }
    }
    rest
}

/// The first `count` changes in `payload` as far as they still count, and the others: a put of which the item is
/// another one by now, or gone, becomes a delete of what was before it.
fn as_it_is(payload: &[u8], count: usize, store: &dyn Store) -> BytesMut {
    let mut now = BytesMut::with_capacity(payload.len());
    for (index, change) in Change::decode_all(payload).flatten().enumerate() {
        match change {
            Change::Put(ref put) if index < count => {
                let mut held = 0;
                store.read(put.key, &mut |ours| {
                    held = ours.key_and_version().map_or(0, |(_, version)| version)
                });
                if held == put.version {
                    change.encode(&mut now);
                } else {
                    Change::Delete { key: put.key, version: put.version }.encode(&mut now);
                }
            }
            other => other.encode(&mut now),
        }
    }
    now
}

/// So many bytes are kept to put payloads together in.
const ROOM_BYTES_MAX: usize = 256 << 10;

/// A follower that misses more than this part of the backlog is told first which of its items are old.
const MAP_SHARE: u64 = 64;

/// The backlog no longer has what comes next.
struct Overrun;

/// What the item of `key` is now: at least as new as the change that was too long to keep.
fn reload(store: &dyn Store, key: &[u8], version: u64, payload: &mut BytesMut) {
    if !store.read(key, &mut |change| change.encode(payload)) {
        Change::Delete { key, version }.encode(payload);
    }
}

/// The follower's end: what it asked for and what came of it.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its number; frames of other sessions are not for it.
    pub session: u32,
    /// When it asked.
    pub asked: Mono,
    /// A plan came: frames belong to it.
    pub planned: bool,
    /// Its number.
    pub plan: u32,
    /// With this applied everything that was planned has come.
    pub target: Option<Vec<u64>>,
    /// What it tells the master in return.
    pub reports: Reports,
    /// And goes on to tell it, if it executes commands itself.
    pub tail: Option<Tail>,
    /// It was noticed that everything is here.
    pub settled: bool,
    /// Bytes applied since the last acknowledgement.
    pub bytes_unacked: usize,
    /// When to acknowledge at the latest.
    pub ack_due: Option<Mono>,
}

impl Receiver {
    /// Asked at `now`.
    pub fn new(session: u32, now: Mono) -> Self {
        Self {
            session,
            asked: now,
            planned: false,
            plan: 0,
            target: None,
            reports: Reports::default(),
            tail: None,
            settled: false,
            bytes_unacked: 0,
            ack_due: None,
        }
    }

    /// Everything the plan promised was applied.
    pub fn has_arrived(&self, applied: &[u64]) -> bool {
        self.planned && self.target.as_ref().is_some_and(|target| reached(applied, target))
    }

    /// And everything was told in return.
    pub fn is_complete(&self, applied: &[u64]) -> bool {
        self.has_arrived(applied) && self.reports.are_done()
    }
}

/// What a follower must not forget when the link is cut.
#[derive(Clone, Debug, Default)]
pub struct Unfinished {
    /// Where it stood when it held everything last, and earlier.
    pub base: Vec<Position>,
    /// The walk, its shard and its place.
    pub walk: Option<(u64, u16, u64)>,
    /// Items that may be stale or gone, until everything has come.
    pub suspects: DirtyMap,
    /// What it did itself that the master may not have.
    pub suffix: Option<Suffix>,
}

impl Unfinished {
    /// How far the walk came, for one who asks to go on with it.
    pub fn cut(&self, position: Option<&Position>) -> Option<Cut> {
        let (walk, shard, cursor) = self.walk?;
        Some(Cut { walk, shard, cursor, position: position?.clone() })
    }
}

/// Applies the changes in `payload`; returns how many.
pub fn apply(store: &dyn Store, secs: u32, payload: &[u8]) -> Result<u64, crate::change::DecodeError> {
    let ours = store.secs();
    let mut count = 0;
    for change in Change::decode_all(payload) {
        store.apply(&change?.translated(secs, ours));
        count += 1;
    }
    Ok(count)
}

/// No place in `applied` is behind that in `target`.
pub(crate) fn reached(applied: &[u64], target: &[u64]) -> bool {
    applied.len() == target.len() && applied.iter().zip(target).all(|(applied, target)| applied >= target)
}
