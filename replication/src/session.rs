//! One follower and its stream, on both ends.
//!
//! The sender walks three things in one FIFO: live changes of each shard (from the backlog), the items
//! of a copy (from the store), and the marks that say what is what. Because a chunk is sent the moment
//! it is read, every change made after that lies behind it; changes made before that and sent later do
//! no harm, since applying keeps the newer. So a copy needs no snapshot and nobody stops.
//!
//! The bulk is pulled: [`Sender::poll`] makes the next frame when the connection can take one, so a
//! slow peer costs no memory. What it misses meanwhile waits in the backlog; if that overruns, the
//! copy begins anew. Changes are preferred over chunks as soon as a quarter of the backlog waits, so
//! a copy ends whenever the connection is faster than the writes.

use bytes::BytesMut;

use crate::backlog::{Backlog, Read};
use crate::change::Change;
use crate::frame::{Follow, Frame, Plan};
use crate::history::{History, Position};
use crate::status::Counters;
use crate::store::Store;
use crate::time::Mono;

/// The master's end.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The follower's number for it.
    pub session: u32,
    epoch: u64,
    history: u128,
    /// Next sequence to send, per shard.
    next: Vec<u64>,
    /// What the follower says it applied.
    acked: Vec<u64>,
    copy: Option<Copy>,
    /// With this applied the follower holds everything. Unknown until a copy ends.
    target: Option<Vec<u64>>,
    /// To be sent before anything else.
    mark: Option<Frame>,
    /// Which shard's changes come next.
    turn: usize,
    /// The last frame was a chunk: changes come next.
    chunk_was_last: bool,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default)]
struct Copy {
    shard: usize,
    cursor: u64,
    items: u64,
}

impl Sender {
    /// Answers `follow`: continues where it says, if that place is known and still in the backlog,
    /// and copies otherwise.
    pub fn begin(
        follow: &Follow,
        epoch: u64,
        history: &History,
        backlog: &Backlog,
        counters: &mut Counters,
    ) -> Self {
        let last = backlog.last();
        let resume = follow.position.as_ref().and_then(|position| history.resume_from(position, &last));
        let resume = resume.filter(|applied| backlog.covers(applied));
        let mut sender = Self {
            session: follow.session,
            epoch,
            history: history.id,
            next: Vec::new(),
            acked: vec![0; last.len()],
            copy: None,
            target: None,
            mark: None,
            turn: 0,
            chunk_was_last: false,
        };
        match resume {
            Some(applied) => {
                counters.partial_resyncs += 1;
                sender.plan(false, applied, last);
            }
            None => sender.plan_copy(backlog, counters),
        }
        sender
    }

    fn plan_copy(&mut self, backlog: &Backlog, counters: &mut Counters) {
        counters.full_copies += 1;
        let from = backlog.last();
        self.plan(true, from.clone(), from);
    }

    fn plan(&mut self, copy: bool, from: Vec<u64>, target: Vec<u64>) {
        self.next = from.iter().map(|applied| applied + 1).collect();
        // While it copies, the follower acknowledges nothing, whatever it had before.
        self.acked = if copy { vec![0; from.len()] } else { from.clone() };
        self.copy = copy.then(Copy::default);
        self.target = (!copy).then(|| target.clone());
        let from = Position { history: self.history, applied: from };
        self.mark = Some(Frame::Plan(Plan { session: self.session, epoch: self.epoch, copy, from, target }));
    }

    /// The next frame of about `bytes_max`, if there is anything to send.
    pub fn poll(
        &mut self,
        bytes_max: usize,
        store: &dyn Store,
        backlog: &Backlog,
        counters: &mut Counters,
    ) -> Option<Frame> {
        if let Some(mark) = self.mark.take() {
            return Some(mark);
        }
        if self.copy.is_some() && !self.chunk_was_last && !self.must_hurry(backlog) {
            self.chunk_was_last = true;
            return Some(self.chunk(bytes_max, store, backlog, counters));
        }
        self.chunk_was_last = false;
        match self.changes(bytes_max, store, backlog, counters) {
            Ok(Some(frame)) => Some(frame),
            Ok(None) if self.copy.is_some() => Some(self.chunk(bytes_max, store, backlog, counters)),
            Ok(None) => None,
            Err(Overrun) => {
                self.plan_copy(backlog, counters);
                self.mark.take()
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

    fn changes(
        &mut self,
        bytes_max: usize,
        store: &dyn Store,
        backlog: &Backlog,
        counters: &mut Counters,
    ) -> Result<Option<Frame>, Overrun> {
        for _ in 0..self.next.len() {
            let shard = self.turn;
            self.turn = (self.turn + 1) % self.next.len();
            let first = self.next[shard];
            let mut payload = BytesMut::new();
            let count = match backlog.read_from(shard, first, bytes_max, &mut payload) {
                Read::Empty => continue,
                Read::Overrun => return Err(Overrun),
                Read::Records(count) => u64::from(count),
                Read::Reload { key, version } => {
                    reload(store, &key, version, &mut payload);
                    1
                }
            };
            self.next[shard] += count;
            counters.changes_sent += count;
            counters.bytes_sent += payload.len() as u64;
            let secs = store.secs();
            return Ok(Some(Frame::Changes { shard: shard as u16, first, secs, payload: payload.freeze() }));
        }
        Ok(None)
    }

    fn chunk(
        &mut self,
        bytes_max: usize,
        store: &dyn Store,
        backlog: &Backlog,
        counters: &mut Counters,
    ) -> Frame {
        let mut payload = BytesMut::new();
        let mut copy = self.copy.unwrap_or_default();
        for _ in 0..SCANS_MAX {
            if copy.shard >= store.shards() {
                return self.copy_end(payload, store, backlog);
            }
            let room = bytes_max.saturating_sub(payload.len()).clamp(1, SCAN_BYTES);
            let next = store.scan(copy.shard, copy.cursor, room, &mut |change| {
                change.encode(&mut payload);
                copy.items += 1;
            });
            (copy.shard, copy.cursor) = next.map_or((copy.shard + 1, 0), |cursor| (copy.shard, cursor));
            if payload.len() >= bytes_max {
                break;
            }
        }
        self.copy = Some(copy);
        counters.bytes_sent += payload.len() as u64;
        Frame::Chunk { secs: store.secs(), payload: payload.freeze() }
    }

    /// The last chunk, with what is not an item; the mark that ends the copy follows.
    fn copy_end(&mut self, mut payload: BytesMut, store: &dyn Store, backlog: &Backlog) -> Frame {
        if let Some(deadline) = store.pending_flush() {
            Change::FlushAt { deadline }.encode(&mut payload);
        }
        let target = backlog.last();
        self.copy = None;
        self.target = Some(target.clone());
        self.mark = Some(Frame::CopyEnd { target });
        Frame::Chunk { secs: store.secs(), payload: payload.freeze() }
    }

    /// The follower applied so much.
    pub fn acknowledge(&mut self, applied: Vec<u64>) {
        if applied.len() == self.acked.len() {
            self.acked = applied;
        }
    }

    /// What the follower applied, if it holds everything up to there.
    pub fn acknowledged(&self) -> Option<&[u64]> {
        let target = self.target.as_ref()?;
        reached(&self.acked, target).then_some(&self.acked)
    }

    /// The follower has everything there is.
    pub fn is_level(&self, backlog: &Backlog) -> bool {
        self.acknowledged().is_some_and(|acked| acked == backlog.last())
    }

    /// Changes the follower did not acknowledge, and about how many bytes they are.
    pub fn lag(&self, backlog: &Backlog) -> (u64, u64) {
        let next: Vec<u64> = self.acked.iter().map(|acked| acked + 1).collect();
        self.behind(backlog, &next)
    }

    /// Items copied so far, while a copy is under way.
    pub fn copied(&self) -> Option<u64> {
        self.copy.map(|copy| copy.items)
    }
}

/// The backlog no longer has what comes next.
struct Overrun;

/// What the item of `key` is now: at least as new as the change that was too long to keep.
fn reload(store: &dyn Store, key: &[u8], version: u64, payload: &mut BytesMut) {
    if !store.read(key, &mut |change| change.encode(payload)) {
        Change::Delete { key, version }.encode(payload);
    }
}

/// Bytes of items visited at a time: clients that need the same shard wait for no longer than that takes.
const SCAN_BYTES: usize = 8 << 10;

/// Not more steps of a scan in one go, however sparse the store is.
const SCANS_MAX: usize = 64;

/// The follower's end: what it asked for and what came of it.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its number; frames of other sessions are not for it.
    pub session: u32,
    /// When it asked.
    pub asked: Mono,
    /// A plan came: frames belong to it.
    pub planned: bool,
    /// A copy is under way.
    pub copying: bool,
    /// With this applied it holds everything.
    pub target: Option<Vec<u64>>,
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
            copying: false,
            target: None,
            bytes_unacked: 0,
            ack_due: None,
        }
    }

    /// Everything the plan promised was applied.
    pub fn is_complete(&self, applied: &[u64]) -> bool {
        self.planned && self.target.as_ref().is_some_and(|target| reached(applied, target))
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

fn reached(applied: &[u64], target: &[u64]) -> bool {
    applied.len() == target.len() && applied.iter().zip(target).all(|(applied, target)| applied >= target)
}
