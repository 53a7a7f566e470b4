//! What can befall a world, besides the death and the pause of a process.

use super::world::World;
use crate::frame::{Frame, Link};
use crate::node::Down;
use crate::time::Span;

/// What becomes of a state file while its node does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFault {
    /// It makes no sense any more: the node starts as another one and saves nothing.
    Torn,
    /// It is as it was some time ago, as after a restored snapshot of a machine.
    Stale,
    /// An operator deletes it.
    Deleted,
}

impl World {
    /// The wall clock of `node` jumps.
    pub fn jump(&mut self, node: usize, millis: i64) {
        self.say(|| format!("the wall clock of {node} jumps by {millis} ms"));
        self.wall[node] = (self.wall[node] + millis).clamp(-WALL_MILLIS_MAX, WALL_MILLIS_MAX);
    }

    /// From now on, saves of `node` fail or succeed.
    pub fn fill_disk(&mut self, node: usize, full: bool) {
        self.disk_fails[node] = full;
    }

    /// Something happens to the state file of a node that does not run.
    pub fn damage(&mut self, node: usize, fault: StateFault) {
        if self.processes[node].is_some() {
            return;
        }
        self.say(|| format!("the state file of {node} is {fault:?}"));
        self.forgetful[node] = true;
        self.torn[node] = fault == StateFault::Torn;
        match fault {
            StateFault::Torn => {}
            StateFault::Stale => {
                if let Some(past) = self.past[node].first() {
                    self.disks[node] = past.clone();
                }
            }
            StateFault::Deleted => self.disks[node] = self.fresh_identity(node),
        }
    }

    /// Both nodes dial again though they are linked; the newer connection takes the older one's place.
    pub fn replace(&mut self, link: Link) {
        let Some(old) = self.network.whole(link) else { return };
        let possible = self.network.passes(link, 0) && self.network.passes(link, 1);
        let now = self.now;
        let awake = self.processes.iter().flatten().all(|process| process.paused_until <= now);
        if !possible || !awake {
            return;
        }
        self.say(|| format!("{link:?} is dialled again"));
        for node in 0..2 {
            let connection = self.network.connection(old);
            connection.attached[node] = false;
            connection.broken = true;
            self.tell(node, |node, now| node.handle_link_down(link, Down::Replaced, now));
        }
        self.connect(link);
    }

    /// One bit of a frame is wrong. Returns the frame only if nobody notices.
    pub(super) fn flip(&mut self, frame: Frame) -> Option<Frame> {
        use tokio_util::codec::{Decoder as _, Encoder as _};
        if self.options.plant == Some(super::Plant::TrustBits) {
            return Some(believed(frame));
        }
        let mut codec = crate::frame::Codec::default();
        let mut bytes = bytes::BytesMut::new();
        if codec.encode(&frame, &mut bytes).is_err() {
            return Some(frame);
        }
        let bit = self.random.within(0..bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        match codec.decode(&mut bytes) {
            Err(_) => None,
            Ok(frame) => {
                let seen = if frame.is_some() { "is believed" } else { "is waited for" };
                self.oracle.violate(format!("a frame with a wrong bit {seen}"));
                frame
            }
        }
    }

    /// The bytes that came over a connection make no sense: `node` gives it up.
    pub(super) fn give_up(&mut self, connection: usize, node: usize) {
        let open = self.network.connection(connection);
        let link = open.link;
        open.attached[node] = false;
        open.pipes[1 - node].clear();
        self.close_other_end(connection, node);
        self.network.note_usable(self.now);
        self.tell(node, |node, now| node.handle_link_down(link, Down::Lost, now));
    }

    /// For so long at most, messages are under way or processes stopped: an item may expire later by it.
    pub fn expect_delays(&mut self, longest: Span) {
        self.oracle.slack = self.oracle.slack.max(longest + Span::from_millis(2_000));
    }
}

/// The bug on purpose: a value with a wrong bit is applied.
fn believed(frame: Frame) -> Frame {
    let wrong = |payload: bytes::Bytes| {
        let mut payload = payload.to_vec();
        if let Some(last) = payload.last_mut() {
            *last ^= 1;
        }
        bytes::Bytes::from(payload)
    };
    match frame {
        Frame::Changes { shard, first, secs, payload } => {
            Frame::Changes { shard, first, secs, payload: wrong(payload) }
        }
        Frame::Chunk { shard, cursor, secs, payload } => {
            Frame::Chunk { shard, cursor, secs, payload: wrong(payload) }
        }
        other => other,
    }
}

const WALL_MILLIS_MAX: i64 = 3_600_000;
