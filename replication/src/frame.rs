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

/// One of the two connections of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Link {
    /// Heartbeats, handovers: little, and never behind bulk.
    Control,
    /// Changes, copies and their acknowledgements.
    Data,
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
    /// Data, master to follower: items of a copy.
    Chunk {
        /// What the sender's store clock read.
        secs: u32,
        /// Changes, one behind the other.
        payload: Bytes,
    },
    /// Data, master to follower: everything was copied; with `target` applied it is consistent.
    CopyEnd {
        /// Per shard of the sender.
        target: Vec<u64>,
    },
    /// Data, follower to master: applied so far.
    Ack {
        /// Which [`Follow`] it is about.
        session: u32,
        /// Per shard of the sender.
        applied: Vec<u64>,
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
    /// What it has, if that is complete.
    pub position: Option<Position>,
}

/// The answer to [`Follow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which [`Follow`] it answers.
    pub session: u32,
    /// Of the sender.
    pub epoch: u64,
    /// Everything is copied: forget what is there. Otherwise changes simply continue.
    pub copy: bool,
    /// The sequences behind which changes will continue.
    pub from: Position,
    /// The sequences with which the follower has caught up. A copy says so later ([`Frame::CopyEnd`]).
    pub target: Vec<u64>,
}

/// Frames as bytes.
#[derive(Clone, Debug)]
pub struct Codec {
    /// No payload is longer.
    payload_bytes_max: usize,
}

impl Codec {
    /// A codec that accepts payloads up to `payload_bytes_max`.
    pub fn new(payload_bytes_max: usize) -> Self {
        Self { payload_bytes_max }
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
    /// A kind this version does not know.
    UnknownKind(u8),
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
            Self::UnknownKind(kind) => write!(f, "a frame of unknown kind {kind}"),
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
        let _flags = header.get_u8();
        let shard = header.get_u16_le();
        let secs = header.get_u32_le();
        let sequence = header.get_u64_le();
        if crc != crc32c::crc32c(&source[HEADER_BYTES..HEADER_BYTES + bytes]) {
            return Err(FrameError::Damaged);
        }
        source.advance(HEADER_BYTES);
        let payload = source.split_to(bytes).freeze();
        read(kind, shard, secs, sequence, payload).map(Some)
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
        target.put_u8(0);
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
const FOLLOW: u8 = 16;
const PLAN: u8 = 17;
const CHANGES: u8 = 18;
const CHUNK: u8 = 19;
const COPY_END: u8 = 20;
const ACK: u8 = 21;
const ASK_ACK: u8 = 22;
const COMPARE: u8 = 23;
const COMPARED: u8 = 24;
const HANDSHAKE: u8 = 32;
const REQUEST: u8 = 33;
const REPLY: u8 = 34;
const DONE: u8 = 35;

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
        Frame::AskSwitchover => bare(ASK_SWITCHOVER, 0),
        Frame::Goodbye => bare(GOODBYE, 0),
        Frame::Follow(follow) => small(FOLLOW, 0, follow),
        Frame::Plan(plan) => small(PLAN, 0, plan),
        Frame::Changes { shard, first, secs, payload } => {
            Ok((CHANGES, *shard, *secs, *first, payload.clone()))
        }
        Frame::Chunk { secs, payload } => Ok((CHUNK, 0, *secs, 0, payload.clone())),
        Frame::CopyEnd { target } => small(COPY_END, 0, target),
        Frame::Ack { session, applied } => small(ACK, u64::from(*session), applied),
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

fn read(kind: u8, shard: u16, secs: u32, sequence: u64, payload: Bytes) -> Result<Frame, FrameError> {
    let raw = |kind, payload| Ok(Frame::Raw { kind, tag: sequence, payload });
    match kind {
        HEARTBEAT => Ok(Frame::Heartbeat(wire::decode(&payload)?)),
        HANDOVER => Ok(Frame::Handover(wire::decode(&payload)?)),
        DECLINED => Ok(Frame::Declined { number: sequence }),
        ASK_SWITCHOVER => Ok(Frame::AskSwitchover),
        GOODBYE => Ok(Frame::Goodbye),
        FOLLOW => Ok(Frame::Follow(wire::decode(&payload)?)),
        PLAN => Ok(Frame::Plan(wire::decode(&payload)?)),
        CHANGES => Ok(Frame::Changes { shard, first: sequence, secs, payload }),
        CHUNK => Ok(Frame::Chunk { secs, payload }),
        COPY_END => Ok(Frame::CopyEnd { target: wire::decode(&payload)? }),
        ACK => Ok(Frame::Ack { session: sequence as u32, applied: wire::decode(&payload)? }),
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
            Frame::AskSwitchover,
            Frame::Goodbye,
            Frame::Follow(Follow { session: 6, position: Some(position.clone()) }),
            Frame::Plan(Plan { session: 6, epoch: 3, copy: true, from: position, target: vec![8] }),
            Frame::Changes { shard: 255, first: u64::MAX, secs: 9, payload: payload.clone() },
            Frame::Chunk { secs: 10, payload: payload.clone() },
            Frame::CopyEnd { target: vec![u64::MAX; 256] },
            Frame::AskAck,
            Frame::Compare(Question { number: 1, buckets: vec![0, 4095] }),
            Frame::Compared(Answer { number: 1, sums: vec![u64::MAX], items: Vec::new(), last: true }),
            Frame::Ack { session: u32::MAX, applied: vec![0, 1] },
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
    fn sealed(length: u32, kind: u8, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(length);
        bytes.put_u32_le(crc32c::crc32c(payload));
        bytes.put_u8(kind);
        bytes.put_bytes(0x55, HEADER_CHECKED_BYTES - 9);
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
        assert!(matches!(codec.decode(&mut sealed(u32::MAX, 1, b"")), Err(FrameError::TooLong { .. })));
        let mut allowed = sealed(900, 1, b"");
        assert!(codec.decode(&mut allowed).unwrap().is_none());
        assert!(allowed.capacity() < 2000);
        let long = Frame::Chunk { secs: 0, payload: Bytes::from(vec![0; 1001]) };
        assert!(matches!(codec.encode(long, &mut BytesMut::new()), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_right_checksum_are_a_frame_or_an_error(
            kind in any::<u8>(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let decoded = Codec::default().decode(&mut sealed(payload.len() as u32, kind, &payload));
            prop_assert!(!matches!(decoded, Err(FrameError::Damaged) | Ok(None)));
        }
    }
}
