//! What travels between the two nodes: a header, a length bound, a checksum, a payload.
//!
//! ```text
//!  0        4             8      9       10      12     16         24            28
//!  | length | payload crc | kind | flags | shard | secs | sequence | header crc | payload …
//! ```
//! Little endian. `length` counts the payload. Both checksums are CRC-32C. The header has its own, so
//! that a damaged length is noticed at once instead of being waited for; it covers the payload's. A
//! length beyond the limit is refused before anything is allocated for it. What is sent often (changes,
//! chunks) lies in the payload as [`crate::change`] encodes it; the rest goes through [`crate::wire`].
//!
//! A later release may speak this protocol and know more: a frame of a kind (or with a flag) that this one
//! does not know is skipped and counted if it is marked [`MAY_IGNORE`], and ends the connection if not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Decoder, Encoder};

use crate::history::Position;
use crate::role::{Claim, State};
use crate::status::Load;
use crate::time::Mono;
use crate::verify::{Answer, Question};
use crate::wire;

/// Every frame begins with so many bytes.
pub const HEADER_BYTES: usize = 28;

/// What the header's checksum covers: all of it but itself.
const HEADER_CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// The protocol this code speaks at best.
pub const VERSION: u16 = 1;

/// The oldest protocol this code still speaks.
pub const VERSION_MIN: u16 = 1;

/// In a header's flags: whoever does not know the frame's kind, or another of its flags, may skip it. Kinds
/// that are added to a version have it; of version 1 that is [`Frame::Redial`].
pub const MAY_IGNORE: u8 = 1;

/// A feature bit of [`Hello`]: as a backup the node executes its clients' commands itself, and as a master it takes what such
/// a backup tells of them.
pub const ACCEPTS: u64 = 1;

/// One of the connections of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Link {
    /// Heartbeats, handovers: little, and never behind bulk.
    Control,
    /// Changes, copies and their acknowledgements.
    Data,
    /// The same heartbeats as on the control connection, over another network, if there is one.
    Heartbeat,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Heartbeat];

    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Who is at the other end; part of the handshake of each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol the node speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// What it can do beyond that, one bit each.
    pub features: u64,
    /// What this connection is for. `None` for a third one (proxied requests).
    pub link: Option<Link>,
    /// The node, for ever.
    pub node_id: u128,
    /// The process: a new one with every start.
    pub boot_id: u64,
    /// The highest epoch it knows of.
    pub epoch: u64,
    /// On which port it serves clients; 0 if on none. Asked for a sign of life when the link is silent.
    pub client_port: u16,
    /// The program's version, for people.
    pub release: String,
}

/// A frame on a link.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Control: alive, and what there is to know. Every heartbeat interval and on every change of state.
    Heartbeat(Heartbeat),
    /// Control: the master is drained and offers its role.
    Handover(Handover),
    /// Control: a handover that does not fit this node's position or state. (One that does is
    /// answered by the heartbeat of the new master.)
    Declined {
        /// Which one, see [`Handover`].
        number: u64,
    },
    /// Control: the sender would like to be master, if that costs nothing.
    AskSwitchover,
    /// Control: the sender stops now and has stopped serving.
    Goodbye,
    /// Control, master to follower: nothing comes of what is sent over the data connection; a new one is needed.
    /// (It may lead nowhere in one direction, or end in something between the two that says nothing.)
    Redial {
        /// The [`Follow`] that was answered over it.
        session: u32,
    },
    /// Data, follower to master: from where to continue.
    Follow(Follow),
    /// Data, master to follower: how it will continue.
    Plan(Plan),
    /// Data, master to follower: consecutive changes of one shard.
    Changes {
        /// Of the sender.
        shard: u16,
        /// Sequence of the first of them.
        first: u64,
        /// What the sender's store clock read.
        secs: u32,
        /// Changes, one behind the other.
        payload: Bytes,
    },
    /// Data, both ways: what a peer that was away may lack, as [`crate::dirty`] encodes it. From the
    /// master it comes before the data; from the follower it is what only the follower did.
    Dirty {
        /// Which [`Plan`] it belongs to, as in [`Frame::Ack`].
        plan: u32,
        /// The map.
        payload: Bytes,
    },
    /// Data, master to follower: items of a copy or of a catch-up.
    Chunk {
        /// How far the walk is with this chunk: the shard,
        shard: u16,
        /// and the place in it.
        cursor: u64,
        /// What the sender's store clock read.
        secs: u32,
        /// Changes, one behind the other.
        payload: Bytes,
    },
    /// Data, master to follower: everything was sent; with `target` applied it is consistent.
    CopyEnd {
        /// Per shard of the sender.
        target: Vec<u64>,
    },
    /// Data, follower to master: applied so far.
    Ack {
        /// Which [`Follow`] it is about,
        session: u32,
        /// and which plan of it.
        plan: u32,
        /// Per shard of the sender.
        applied: Vec<u64>,
        /// The follower holds everything up to there. Otherwise it is in a copy, and has these of the
        /// changes that followed its beginning.
        complete: bool,
    },
    /// Data, follower to master: what it has, to be compared or merged. Answered by [`Frame::Answer`].
    Report(Report),
    /// Data, master to follower: the answer to a [`Frame::Report`] or a [`Frame::Dirty`].
    Answer {
        /// The plan of what it answers.
        plan: u32,
        /// What the sender's store clock read.
        secs: u32,
        /// What the follower is to apply.
        payload: Bytes,
    },
    /// Data, master to follower: what is there of these? See [`crate::verify`].
    Compare(Question),
    /// Data, follower to master: this.
    Compared(Answer),
    /// Data, master to follower: acknowledge what came before this at once, somebody waits for it.
    AskAck,
    /// Not for the node: the driver's own (handshake, proxied requests).
    Raw {
        /// What it is.
        kind: RawKind,
        /// For the driver to use.
        tag: u64,
        /// As it is.
        payload: Bytes,
    },
}

/// Frames that the node never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawKind {
    /// A step of the handshake.
    Handshake,
    /// Raw requests of a client, for the master.
    Request,
    /// Raw replies.
    Reply,
    /// The batch is over; `tag` says how many bytes of it were executed.
    Done,
}

/// A sign of life, and what the peer should know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What the sender is.
    pub state: State,
    /// What it bases its state on; see [`Claim`].
    pub claim: Claim,
    /// The highest epoch it knows of.
    pub epoch: u64,
    /// When it sent this, on its own clock.
    pub sent: Mono,
    /// `sent` of the last heartbeat it heard from the addressee, on the addressee's clock. `None` if
    /// it heard none from this process yet.
    pub echo: Option<Mono>,
    /// For people and tables.
    pub load: Load,
}

/// An offer of the master role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Of the master that offers.
    pub epoch: u64,
    /// The master numbers its offers, so that a late answer to an old one is recognised.
    pub number: u64,
    /// Everything it ever recorded.
    pub position: Position,
    /// `sent` of the last heartbeat it heard from the addressee: the offer stands only for a while
    /// after that, so that one that lay in a stopped process's socket is not taken.
    pub echo: Option<Mono>,
}

/// A request for the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Numbered by the follower; later frames belong to the latest.
    pub session: u32,
    /// Where it stands, and where it left earlier histories of its own. Empty if what it has is worth
    /// nothing.
    pub positions: Vec<Position>,
    /// A copy or catch-up that was cut.
    pub cut: Option<Cut>,
}

/// How far a copy or a catch-up came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Which one: the number its [`Plan`] said.
    pub walk: u64,
    /// The walk's last [`Frame::Chunk`]: its shard,
    pub shard: u16,
    /// and place.
    pub cursor: u64,
    /// The changes that were applied beside it.
    pub position: Position,
}

/// The answer to [`Follow`], and said again when the backlog overran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which [`Follow`] it answers.
    pub session: u32,
    /// The plans of a session are numbered: what still belongs to the one before is void.
    pub number: u32,
    /// Of the sender.
    pub epoch: u64,
    /// How it goes on.
    pub way: Way,
    /// The number of the walk, unless changes simply continue.
    pub walk: u64,
    /// The sequences behind which changes will continue.
    pub from: Position,
    /// The sequences with which the follower has caught up. A walk says so later ([`Frame::CopyEnd`]).
    pub target: Vec<u64>,
    /// The follower made changes behind this place that nobody else has: they are to be reported.
    pub give_up: Option<Position>,
}

/// How a follower comes to hold everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Changes continue where it is.
    Continue,
    /// A [`Frame::Dirty`] says what is suspect, then what was written comes as chunks.
    CatchUp,
    /// Everything is copied: forget what is there.
    Copy,
    /// The copy or catch-up that was cut goes on where it was.
    Resume,
}

/// What a follower has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which plan it belongs to.
    pub plan: u32,
    /// Only to be compared: a [`Change::Touch`](crate::change::Change::Touch) of each item. Otherwise
    /// changes that only the follower made.
    pub compare: bool,
    /// What the sender's store clock read.
    pub secs: u32,
    /// The master's changes it had applied when it looked.
    pub applied: Vec<u64>,
    /// Changes, one behind the other.
    pub payload: Bytes,
}

/// Frames as bytes.
#[derive(Clone, Debug)]
pub struct Codec {
    /// No payload is longer.
    payload_bytes_max: usize,
    /// Frames that were skipped and not counted yet.
    ignored: u64,
}

impl Codec {
    /// A codec that accepts payloads up to `payload_bytes_max`.
    pub fn new(payload_bytes_max: usize) -> Self {
        Self { payload_bytes_max, ignored: 0 }
    }

    /// How many frames were skipped since this was asked last: they say what this version does not know.
    pub fn take_ignored(&mut self) -> u64 {
        std::mem::take(&mut self.ignored)
    }
}

impl Default for Codec {
    /// For one item of the default maximum and a batch around it.
    fn default() -> Self {
        Self::new(PAYLOAD_BYTES_MAX)
    }
}

/// Payload limit unless the items may be longer.
pub const PAYLOAD_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Why bytes are not a frame. The connection they came over is useless.
#[derive(Debug)]
pub enum FrameError {
    /// Longer than is allowed.
    TooLong {
        /// What the header says.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// A checksum is wrong.
    Damaged,
    /// A kind this version does not know, and must not skip.
    UnknownKind(u8),
    /// Flags this version does not know, and must not skip.
    UnknownFlags {
        /// The frame's kind.
        kind: u8,
        /// All of its flags.
        flags: u8,
    },
    /// The payload is not what the kind promises.
    Malformed(wire::Malformed),
    /// The connection failed.
    Io(std::io::Error),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "a frame of {bytes} bytes where at most {bytes_max} are allowed")
            }
            Self::Damaged => write!(f, "a frame with a wrong checksum"),
            Self::UnknownKind(kind) => {
                write!(f, "a frame of kind {kind}, which this release does not know: upgrade this node")
            }
            Self::UnknownFlags { kind, flags } => write!(
                f,
                "a frame of kind {kind} with flags {flags:#04x}, which this release does not know: upgrade this node"
            ),
            Self::Malformed(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<std::io::Error> for FrameError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<wire::Malformed> for FrameError {
    fn from(error: wire::Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        while let Some((flags, parts)) = self.split(source)? {
            let frame = match flags & !MAY_IGNORE {
                0 => read(parts),
                _ => Err(FrameError::UnknownFlags { kind: parts.0, flags }),
            };
            match frame {
                Err(FrameError::UnknownKind(_) | FrameError::UnknownFlags { .. })
                    if flags & MAY_IGNORE != 0 =>
                {
                    self.ignored += 1;
                }
                frame => return frame.map(Some),
            }
        }
        Ok(None)
    }
}

impl Codec {
    /// Takes the next frame out of `source`, if it is there and whole: its flags and the rest, whatever they say.
    fn split(&self, source: &mut BytesMut) -> Result<Option<(u8, Parts)>, FrameError> {
        let Some(header) = source.get(..HEADER_BYTES) else { return Ok(None) };
        let (mut header, mut header_crc) = header.split_at(HEADER_CHECKED_BYTES);
        if crc32c::crc32c(header) != header_crc.get_u32_le() {
            return Err(FrameError::Damaged);
        }
        let bytes = header.get_u32_le() as usize;
        if bytes > self.payload_bytes_max {
            return Err(FrameError::TooLong { bytes, bytes_max: self.payload_bytes_max });
        }
        if source.len() < HEADER_BYTES + bytes {
            // Grow step by step: a length alone is not worth memory.
            source.reserve((HEADER_BYTES + bytes - source.len()).min(READ_AHEAD_BYTES));
            return Ok(None);
        }
        let crc = header.get_u32_le();
        let kind = header.get_u8();
        let flags = header.get_u8();
        let shard = header.get_u16_le();
        let secs = header.get_u32_le();
        let sequence = header.get_u64_le();
        if crc != crc32c::crc32c(&source[HEADER_BYTES..HEADER_BYTES + bytes]) {
            return Err(FrameError::Damaged);
        }
        source.advance(HEADER_BYTES);
        let payload = source.split_to(bytes).freeze();
        Ok(Some((flags, (kind, shard, secs, sequence, payload))))
    }
}

impl Encoder<Frame> for Codec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, target: &mut BytesMut) -> Result<(), FrameError> {
        self.encode(&frame, target)
    }
}

impl Encoder<&Frame> for Codec {
    type Error = FrameError;

    fn encode(&mut self, frame: &Frame, target: &mut BytesMut) -> Result<(), FrameError> {
        let (kind, shard, secs, sequence, payload) = write(frame)?;
        if payload.len() > self.payload_bytes_max {
            return Err(FrameError::TooLong { bytes: payload.len(), bytes_max: self.payload_bytes_max });
        }
        let start = target.len();
        target.reserve(HEADER_BYTES + payload.len());
        target.put_u32_le(payload.len() as u32);
        target.put_u32_le(crc32c::crc32c(&payload));
        target.put_u8(kind);
        target.put_u8(if kind == REDIAL { MAY_IGNORE } else { 0 });
        target.put_u16_le(shard);
        target.put_u32_le(secs);
        target.put_u64_le(sequence);
        target.put_u32_le(crc32c::crc32c(&target[start..start + HEADER_CHECKED_BYTES]));
        target.put_slice(&payload);
        Ok(())
    }
}

/// Not more than this is reserved for what a header announces before it arrives.
const READ_AHEAD_BYTES: usize = 64 * 1024;

const HEARTBEAT: u8 = 1;
const HANDOVER: u8 = 2;
const DECLINED: u8 = 3;
const ASK_SWITCHOVER: u8 = 4;
const GOODBYE: u8 = 5;
const REDIAL: u8 = 6;
const FOLLOW: u8 = 16;
const PLAN: u8 = 17;
const CHANGES: u8 = 18;
const CHUNK: u8 = 19;
const COPY_END: u8 = 20;
const ACK: u8 = 21;
const ASK_ACK: u8 = 22;
const COMPARE: u8 = 23;
const COMPARED: u8 = 24;
const DIRTY: u8 = 25;
const REPORT: u8 = 26;
const ANSWER: u8 = 27;
const HANDSHAKE: u8 = 32;
const REQUEST: u8 = 33;
const REPLY: u8 = 34;
const DONE: u8 = 35;

/// Kind, shard, seconds, sequence, payload.
type Parts = (u8, u16, u32, u64, Bytes);

fn write(frame: &Frame) -> Result<Parts, FrameError> {
    fn small<T: Serialize>(kind: u8, sequence: u64, message: &T) -> Result<Parts, FrameError> {
        Ok((kind, 0, 0, sequence, wire::encode(message)?.into()))
    }
    fn bare(kind: u8, sequence: u64) -> Result<Parts, FrameError> {
        Ok((kind, 0, 0, sequence, Bytes::new()))
    }
    match frame {
        Frame::Heartbeat(heartbeat) => small(HEARTBEAT, 0, heartbeat),
        Frame::Handover(handover) => small(HANDOVER, 0, handover),
        Frame::Declined { number } => bare(DECLINED, *number),
        Frame::Redial { session } => bare(REDIAL, u64::from(*session)),
        Frame::AskSwitchover => bare(ASK_SWITCHOVER, 0),
        Frame::Goodbye => bare(GOODBYE, 0),
        Frame::Follow(follow) => small(FOLLOW, 0, follow),
        Frame::Plan(plan) => small(PLAN, 0, plan),
        Frame::Changes { shard, first, secs, payload } => {
            Ok((CHANGES, *shard, *secs, *first, payload.clone()))
        }
        Frame::Dirty { plan, payload } => Ok((DIRTY, 0, 0, u64::from(*plan), payload.clone())),
        Frame::Chunk { shard, cursor, secs, payload } => Ok((CHUNK, *shard, *secs, *cursor, payload.clone())),
        Frame::CopyEnd { target } => small(COPY_END, 0, target),
        Frame::Ack { session, plan, applied, complete } => {
            let payload = wire::encode(applied)?.into();
            Ok((ACK, u16::from(*complete), 0, u64::from(*plan) << 32 | u64::from(*session), payload))
        }
        Frame::Report(report) => {
            Ok((REPORT, u16::from(report.compare), report.secs, u64::from(report.plan), report.encode()))
        }
        Frame::Answer { plan, secs, payload } => Ok((ANSWER, 0, *secs, u64::from(*plan), payload.clone())),
        Frame::AskAck => bare(ASK_ACK, 0),
        Frame::Compare(question) => small(COMPARE, 0, question),
        Frame::Compared(answer) => small(COMPARED, 0, answer),
        Frame::Raw { kind, tag, payload } => {
            let kind = match kind {
                RawKind::Handshake => HANDSHAKE,
                RawKind::Request => REQUEST,
                RawKind::Reply => REPLY,
                RawKind::Done => DONE,
            };
            Ok((kind, 0, 0, *tag, payload.clone()))
        }
    }
}

fn read((kind, shard, secs, sequence, payload): Parts) -> Result<Frame, FrameError> {
    let raw = |kind, payload| Ok(Frame::Raw { kind, tag: sequence, payload });
    match kind {
        HEARTBEAT => Ok(Frame::Heartbeat(wire::decode(&payload)?)),
        HANDOVER => Ok(Frame::Handover(wire::decode(&payload)?)),
        DECLINED => Ok(Frame::Declined { number: sequence }),
        ASK_SWITCHOVER => Ok(Frame::AskSwitchover),
        GOODBYE => Ok(Frame::Goodbye),
        REDIAL => Ok(Frame::Redial { session: sequence as u32 }),
        FOLLOW => Ok(Frame::Follow(wire::decode(&payload)?)),
        PLAN => Ok(Frame::Plan(wire::decode(&payload)?)),
        CHANGES => Ok(Frame::Changes { shard, first: sequence, secs, payload }),
        DIRTY => Ok(Frame::Dirty { plan: sequence as u32, payload }),
        CHUNK => Ok(Frame::Chunk { shard, cursor: sequence, secs, payload }),
        COPY_END => Ok(Frame::CopyEnd { target: wire::decode(&payload)? }),
        ACK => {
            let applied = wire::decode(&payload)?;
            let (session, plan) = (sequence as u32, (sequence >> 32) as u32);
            Ok(Frame::Ack { session, plan, applied, complete: shard != 0 })
        }
        REPORT => Ok(Frame::Report(Report::decode(shard != 0, sequence as u32, secs, payload)?)),
        ANSWER => Ok(Frame::Answer { plan: sequence as u32, secs, payload }),
        ASK_ACK => Ok(Frame::AskAck),
        COMPARE => Ok(Frame::Compare(wire::decode(&payload)?)),
        COMPARED => Ok(Frame::Compared(wire::decode(&payload)?)),
        HANDSHAKE => raw(RawKind::Handshake, payload),
        REQUEST => raw(RawKind::Request, payload),
        REPLY => raw(RawKind::Reply, payload),
        DONE => raw(RawKind::Done, payload),
        unknown => Err(FrameError::UnknownKind(unknown)),
    }
}

impl Report {
    /// The number of shards, what was applied in each, and the changes.
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(2 + 8 * self.applied.len() + self.payload.len());
        bytes.put_u16_le(self.applied.len() as u16);
        self.applied.iter().for_each(|applied| bytes.put_u64_le(*applied));
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    fn decode(compare: bool, plan: u32, secs: u32, mut payload: Bytes) -> Result<Self, FrameError> {
        let short = |_| FrameError::Malformed(wire::Malformed("a report is too short".into()));
        let shards = payload.try_get_u16_le().map_err(short)?;
        let applied = (0..shards).map(|_| payload.try_get_u64_le().map_err(short));
        let applied = applied.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { plan, compare, secs, applied, payload })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Frame> {
        let position = Position { history: u128::MAX, applied: vec![1, 0, u64::MAX] };
        let payload = Bytes::from_static(b"payload");
        let heartbeat =
            Heartbeat { echo: Some(Mono(7)), epoch: 9, sent: Mono(u64::MAX), ..Heartbeat::default() };
        let raw = |kind| Frame::Raw { kind, tag: 77, payload: payload.clone() };
        vec![
            Frame::Heartbeat(heartbeat),
            Frame::Handover(Handover { epoch: 3, number: 4, position: position.clone(), echo: None }),
            Frame::Declined { number: 5 },
            Frame::Redial { session: u32::MAX },
            Frame::AskSwitchover,
            Frame::Goodbye,
            Frame::Follow(Follow {
                session: 6,
                positions: vec![position.clone()],
                cut: Some(Cut { walk: 9, shard: 1, cursor: 7, position: position.clone() }),
            }),
            Frame::Plan(Plan {
                session: 6,
                number: 4,
                epoch: 3,
                way: Way::CatchUp,
                walk: 2,
                from: position.clone(),
                target: vec![8],
                give_up: Some(position),
            }),
            Frame::Changes { shard: 255, first: u64::MAX, secs: 9, payload: payload.clone() },
            Frame::Dirty { plan: 7, payload: payload.clone() },
            Frame::Chunk { shard: 3, cursor: u64::MAX, secs: 10, payload: payload.clone() },
            Frame::CopyEnd { target: vec![u64::MAX; 256] },
            Frame::Ack { session: u32::MAX, plan: 5, applied: vec![0, 1], complete: true },
            Frame::Report(Report {
                plan: u32::MAX,
                compare: true,
                secs: 3,
                applied: vec![1, u64::MAX],
                payload: payload.clone(),
            }),
            Frame::Answer { plan: 6, secs: 4, payload: payload.clone() },
            Frame::AskAck,
            Frame::Compare(Question { number: 1, buckets: vec![0, 4095] }),
            Frame::Compared(Answer { number: 1, sums: vec![u64::MAX], items: Vec::new(), last: true }),
            raw(RawKind::Handshake),
            raw(RawKind::Request),
            raw(RawKind::Reply),
            raw(RawKind::Done),
        ]
    }

    fn encoded(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        Codec::default().encode(frame, &mut bytes).unwrap();
        bytes
    }

    /// Bytes with a right header and a right checksum, whatever they say.
    fn sealed(length: u32, kind: u8, flags: u8, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(length);
        bytes.put_u32_le(crc32c::crc32c(payload));
        bytes.put_slice(&[kind, flags]);
        bytes.put_bytes(0x55, HEADER_CHECKED_BYTES - 10);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        bytes.put_slice(payload);
        bytes
    }

    #[test]
    fn frames_arrive_as_they_were_however_the_bytes_are_cut() {
        let mut codec = Codec::default();
        let mut bytes = BytesMut::new();
        for frame in all() {
            codec.encode(frame, &mut bytes).unwrap();
        }
        for piece_bytes in [1, 7, 23, 24, 25, 28, 1000, bytes.len()] {
            let (mut came, mut buffer) = (Vec::new(), BytesMut::new());
            for piece in bytes.chunks(piece_bytes) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                    came.push(frame);
                }
            }
            assert_eq!(came, all());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_as_soon_as_the_header_or_the_frame_is_there() {
        for frame in all() {
            let whole = encoded(&frame);
            for bit in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // A damaged length must not make us wait for what never comes.
                let found = Codec::default().decode(&mut damaged);
                assert!(matches!(found, Err(FrameError::Damaged)), "{frame:?} bit {bit}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_reserved() {
        let mut codec = Codec::new(1000);
        assert!(matches!(codec.decode(&mut sealed(u32::MAX, 1, 0, b"")), Err(FrameError::TooLong { .. })));
        let mut allowed = sealed(900, 1, 0, b"");
        assert!(codec.decode(&mut allowed).unwrap().is_none());
        assert!(allowed.capacity() < 2000);
        let long = Frame::Answer { plan: 0, secs: 0, payload: Bytes::from(vec![0; 1001]) };
        assert!(matches!(codec.encode(long, &mut BytesMut::new()), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn what_a_later_release_says_and_we_may_ignore_is_skipped_and_counted() {
        // A kind nobody knows; a kind we know, with a flag we do not, so that its payload is not ours.
        for (kind, flags) in [(200, MAY_IGNORE), (HEARTBEAT, MAY_IGNORE | 2)] {
            let mut codec = Codec::default();
            let mut bytes = encoded(&Frame::AskAck);
            for payload in [&b"something new"[..], b""] {
                bytes.unsplit(sealed(payload.len() as u32, kind, flags, payload));
            }
            bytes.unsplit(encoded(&Frame::Goodbye));
            bytes.unsplit(sealed(4, kind, flags, b"last"));
            let (mut came, mut buffer) = (Vec::new(), BytesMut::new());
            for byte in bytes {
                buffer.put_u8(byte);
                came.extend(codec.decode(&mut buffer).unwrap());
            }
            assert_eq!(came, [Frame::AskAck, Frame::Goodbye]);
            assert_eq!((codec.take_ignored(), codec.take_ignored()), (3, 0));
        }
    }

    #[test]
    fn what_a_later_release_says_and_we_may_not_ignore_is_named() {
        for (kind, flags, named) in
            [(200, 0, "of kind 200"), (HEARTBEAT, 2, "flags 0x02"), (200, 4, "flags 0x04")]
        {
            let mut codec = Codec::default();
            let error = codec.decode(&mut sealed(0, kind, flags, b"")).expect_err("unknown").to_string();
            assert!(error.contains(named) && error.contains("upgrade this node"), "{error}");
            assert_eq!(codec.take_ignored(), 0);
        }
    }

    #[test]
    fn a_frame_that_may_be_ignored_is_not_ignored_by_who_knows_it() {
        let decoded = Codec::default().decode(&mut sealed(0, GOODBYE, MAY_IGNORE, b"")).unwrap();
        assert_eq!(decoded, Some(Frame::Goodbye));
        // And being skipped is no excuse for being damaged or too long.
        let mut damaged = sealed(4, 200, MAY_IGNORE, b"last");
        damaged[HEADER_BYTES] ^= 1;
        assert!(matches!(Codec::default().decode(&mut damaged), Err(FrameError::Damaged)));
        let long = Codec::new(3).decode(&mut sealed(4, 200, MAY_IGNORE, b"last"));
        assert!(matches!(long, Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_right_checksum_are_a_frame_or_an_error(
            kind in any::<u8>(),
            flags in any::<u8>(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut codec = Codec::default();
            let decoded = codec.decode(&mut sealed(payload.len() as u32, kind, flags, &payload));
            prop_assert!(!matches!(decoded, Err(FrameError::Damaged)));
            prop_assert_eq!(matches!(decoded, Ok(None)), codec.take_ignored() == 1);
        }
    }
}
