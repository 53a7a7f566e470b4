//! The first words on every replication connection: who may speak at all.
//!
//! Both sides prove that they hold the same pre-shared key before either says anything about
//! itself. The dialler opens with its protocol versions, features, the kind of connection and a
//! nonce; the acceptor answers with its own; then each sends an HMAC-SHA256 over its side and both
//! openings, the dialler first. So a proof fits one connection, one direction and one kind, no
//! version can be talked down in between, and a stranger learns nothing but that a node is here.
//! Only then do the two introductions (*hellos*, opaque here) cross, and each side judges the
//! other's. With a key they are sealed, as everything behind them is ([`crate::guard`]). Without one
//! the exchange is the same with an empty one: strangers and foreign versions are still told apart,
//! impostors are not. While a key is replaced by another, a node proves the first of its two and takes
//! either.
//!
//! ```text
//! dialler  → opening                      magic, versions, features, kind, nonce
//! acceptor ←         opening
//! dialler  → proof
//! acceptor ←         proof, hello         or: refused, with a reason
//! dialler  → hello
//! acceptor ←         verdict              welcome, or refused with a reason
//! ```
//!
//! The promise: whatever arrives, in whatever pieces, at most [`UNPROVEN_BYTES`] are read before the
//! other side has proven itself, and no allocation follows a length it has claimed before that.
//! A pure state machine: bytes in, bytes out, nonces are arguments.

use std::fmt;

use bytes::{BufMut, BytesMut};
use ring::hmac;

use crate::frame::{VERSION as VERSION_MAX, VERSION_MIN};
use crate::guard::{Guard, Sealed, TAG_BYTES};

/// Eight bytes no text protocol begins with.
const MAGIC: [u8; 8] = *b"\x89TANDEM\n";
/// Magic, version range, features, kind, spare bytes for later, nonce.
const OPENING_BYTES: usize = 64;
const SPARE_BYTES: usize = 11;
/// One HMAC-SHA256.
const PROOF_BYTES: usize = 32;
/// The longest introduction: node, versions and the shape of the pair fit many times over.
pub const HELLO_BYTES_MAX: usize = 4096;
/// The most that is read from somebody who has not proven anything yet.
pub const UNPROVEN_BYTES: usize = OPENING_BYTES + 1 + PROOF_BYTES;

/// What a sealed introduction is about.
const HELLO_LABEL: &[u8] = b"tandem hello";

const TAG_PROOF: u8 = 1;
const TAG_HELLO: u8 = 2;
const TAG_REFUSED: u8 = 3;
const TAG_WELCOME: u8 = 4;

/// The pre-shared key. Never printed.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A key of any length; empty means that the link is not guarded.
    pub fn new(key: Vec<u8>) -> Self {
        Self(key)
    }

    /// Is there no key?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(none)" } else { "Secret(hidden)" })
    }
}

/// The keys of a pair: the first is proven, all are taken. More than one while they are replaced.
#[derive(Clone, Debug)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// The key in use, and those that are taken besides. None at all: the link is not guarded.
    pub fn new(mut keys: Vec<Secret>) -> Self {
        if keys.is_empty() {
            keys.push(Secret::default());
        }
        Self(keys)
    }

    /// Is there no key?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Secret::is_empty)
    }
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl From<Secret> for Secrets {
    fn from(secret: Secret) -> Self {
        Self(vec![secret])
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Heartbeats, acknowledgements, roles.
    Control,
    /// Changes in bulk.
    Data,
    /// Raw client requests from a backup to its master.
    Proxy,
    /// Heartbeats over another path.
    Heartbeat,
    /// Questions to a witness.
    Witness,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Data => 2,
            Self::Proxy => 3,
            Self::Heartbeat => 4,
            Self::Witness => 5,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Control),
            2 => Some(Self::Data),
            3 => Some(Self::Proxy),
            4 => Some(Self::Heartbeat),
            5 => Some(Self::Witness),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Proxy => "proxy",
            Self::Heartbeat => "heartbeat",
            Self::Witness => "witness",
        })
    }
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We connected.
    Dialler,
    /// We accepted.
    Acceptor,
}

/// Why one side sends the other away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its proof was made with another key.
    WrongKey,
    /// It is this very process.
    Myself,
    /// It carries this node's identity but is another process.
    CopiedIdentity,
    /// This node is already paired with another node that is alive.
    Taken,
    /// A connection of that kind to that node exists already, and it is the one to keep.
    Duplicate,
    /// A data or proxy connection without a living control connection.
    Unlinked,
    /// Its introduction could not be read.
    Unreadable,
    /// The connection is for a witness and this is none, or the other way round.
    NoWitness,
    /// Something a later version knows.
    Other(u8),
}

impl Refusal {
    const KNOWN: [Self; 8] = [
        Self::WrongKey,
        Self::Myself,
        Self::CopiedIdentity,
        Self::Taken,
        Self::Duplicate,
        Self::Unlinked,
        Self::Unreadable,
        Self::NoWitness,
    ];

    fn to_byte(self) -> u8 {
        match self {
            Self::WrongKey => 1,
            Self::Myself => 2,
            Self::CopiedIdentity => 3,
            Self::Taken => 4,
            Self::Duplicate => 5,
            Self::Unlinked => 6,
            Self::Unreadable => 7,
            Self::NoWitness => 8,
            Self::Other(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        Self::KNOWN.into_iter().find(|known| known.to_byte() == byte).unwrap_or(Self::Other(byte))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongKey => "the pre-shared keys differ: give both nodes the same --psk-file",
            Self::Myself => "the peer is myself: --peer names this node's own replication address",
            Self::CopiedIdentity => {
                "the peer carries this node's identity: its state directory is a copy; empty one of the two"
            }
            Self::Taken => "already paired with another node: a pair has two nodes; stop one of the three",
            Self::Duplicate => "another connection between the two nodes is in use",
            Self::Unlinked => "there is no control connection between the two nodes yet",
            Self::Unreadable => "the introduction could not be read: do both nodes run compatible releases?",
            Self::NoWitness => {
                "a witness answers nodes that name it with --arbiter, and no node answers such questions: is the address right?"
            }
            Self::Other(byte) => {
                return write!(f, "refused for a reason this release does not know ({byte})");
            }
        })
    }
}

/// Why a handshake came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// What arrived is not this protocol.
    Foreign(Vec<u8>),
    /// The version ranges do not meet.
    Versions {
        /// Our oldest and newest.
        ours: (u16, u16),
        /// Its.
        theirs: (u16, u16),
    },
    /// The peer asks for (or answers with) a kind of connection that was not expected.
    UnknownKind(u8),
    /// Its proof does not fit: it holds another key.
    WrongKey,
    /// It broke the order or the limits of the exchange.
    Malformed(&'static str),
    /// The other side sent us away.
    Refused(Refusal),
    /// We sent the other side away.
    Refusing(Refusal),
}

impl HandshakeError {
    /// Was the other side no node at all (as opposed to one that is set up wrongly)?
    pub fn is_stranger(&self) -> bool {
        matches!(self, Self::Foreign(_) | Self::UnknownKind(_) | Self::Malformed(_))
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(bytes) if matches!(bytes[..], [0x15 | 0x16, 3, ..]) => f.write_str(
                "it speaks TLS and this node does not: give both nodes --replication-tls-… files, or neither",
            ),
            Self::Foreign(bytes) => write!(
                f,
                "not a tandem node (it said \"{}\"): nothing else may use the replication port",
                bytes.escape_ascii()
            ),
            Self::Versions { ours, theirs } => write!(
                f,
                "speaks replication protocol {} to {}, this node {} to {}: upgrade the older of the two",
                theirs.0, theirs.1, ours.0, ours.1
            ),
            Self::UnknownKind(byte) => {
                write!(f, "asks for an unknown kind of connection ({byte}): is it a newer release?")
            }
            Self::WrongKey => Refusal::WrongKey.fmt(f),
            Self::Malformed(what) => write!(f, "broke the handshake: {what}"),
            Self::Refused(why) => write!(f, "the peer refused: {why}"),
            Self::Refusing(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// What a node says first. Its layout stays as it is in every future version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The oldest and the newest protocol version it speaks.
    pub versions: (u16, u16),
    /// What it can do beyond the version: a bit each; both sides use the bits they share.
    pub features: u64,
    /// What the connection is for.
    pub kind: Kind,
    /// Random, never used twice.
    pub nonce: [u8; 32],
}

impl Opening {
    /// This build's opening.
    pub fn new(kind: Kind, features: u64, nonce: [u8; 32]) -> Self {
        Self { versions: (VERSION_MIN, VERSION_MAX), features, kind, nonce }
    }

    fn encode(&self) -> [u8; OPENING_BYTES] {
        let mut bytes = [0; OPENING_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&MAGIC);
        rest.put_u16_le(self.versions.0);
        rest.put_u16_le(self.versions.1);
        rest.put_u64_le(self.features);
        rest.put_u8(self.kind.to_byte());
        rest.put_bytes(0, SPARE_BYTES);
        rest.put_slice(&self.nonce);
        bytes
    }

    fn decode(bytes: &[u8; OPENING_BYTES]) -> Result<Self, HandshakeError> {
        if bytes[..8] != MAGIC {
            return Err(foreign(bytes));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut features = [0; 8];
        features.copy_from_slice(&bytes[12..20]);
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[32..]);
        Ok(Self {
            versions: (u16_at(8), u16_at(10)),
            features: u64::from_le_bytes(features),
            kind: Kind::from_byte(bytes[20]).ok_or(HandshakeError::UnknownKind(bytes[20]))?,
            nonce,
        })
    }
}

fn foreign(bytes: &[u8]) -> HandshakeError {
    HandshakeError::Foreign(bytes[..bytes.len().min(16)].to_vec())
}

/// What two proven nodes agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The protocol version to speak: the newest both know.
    pub version: u16,
    /// The features both have.
    pub features: u64,
    /// What the connection is for.
    pub kind: Kind,
    /// The other side's introduction.
    pub hello: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Tag,
    Proof,
    HelloLength,
    Hello(usize),
    Refused,
    Done,
}

/// One side of one handshake.
pub struct Handshake {
    side: Side,
    /// In the end, the one key that both have.
    secrets: Secrets,
    sealed: Option<Box<Sealed>>,
    ours: Opening,
    theirs: Option<Opening>,
    /// As it came: a later release may use the spare bytes, and the proofs cover them.
    their_bytes: [u8; OPENING_BYTES],
    hello: Vec<u8>,
    proven: bool,
    stage: Stage,
    input: BytesMut,
    output: BytesMut,
    agreed: Option<Agreed>,
}

impl Handshake {
    /// The side that connects. Its first output is there at once. `hello` is at most
    /// [`HELLO_BYTES_MAX`] long.
    pub fn dialler(secrets: Secrets, opening: Opening, hello: Vec<u8>) -> Self {
        let mut this = Self::new(Side::Dialler, secrets, opening, hello);
        this.output.put_slice(&opening.encode());
        this
    }

    /// The side that was connected to; silent until the dialler has spoken. The kind is the
    /// dialler's to choose: the one in `opening` is ignored.
    pub fn acceptor(secrets: Secrets, opening: Opening, hello: Vec<u8>) -> Self {
        Self::new(Side::Acceptor, secrets, opening, hello)
    }

    fn new(side: Side, secrets: Secrets, ours: Opening, hello: Vec<u8>) -> Self {
        debug_assert!(hello.len() <= HELLO_BYTES_MAX, "an introduction of {} bytes", hello.len());
        Self {
            side,
            secrets,
            sealed: None,
            ours,
            theirs: None,
            their_bytes: [0; OPENING_BYTES],
            hello,
            proven: false,
            stage: Stage::Opening,
            input: BytesMut::new(),
            output: BytesMut::new(),
            agreed: None,
        }
    }

    /// How many more bytes make sense of the next step; 0 when it is over. Reading no more than
    /// these leaves what follows the handshake in the socket.
    pub fn wants(&self) -> usize {
        self.step_bytes().saturating_sub(self.input.len())
    }

    /// What to send now.
    pub fn take_output(&mut self) -> BytesMut {
        self.output.split()
    }

    /// The result, once [`Handshake::wants`] is 0.
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// What guards everything behind the handshake. Once it is over.
    pub fn take_guard(&mut self) -> Guard {
        self.sealed.take().map_or(Guard::Open, Guard::Sealed)
    }

    /// What had arrived of an unfinished step, for the log.
    pub fn heard_nothing(&self) -> bool {
        self.stage == Stage::Opening && self.input.is_empty()
    }

    /// Takes what arrived, at most [`Handshake::wants`] bytes of it. Output may be waiting even when
    /// this fails: the reason, for the other side.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        if bytes.len() > self.wants() {
            return Err(HandshakeError::Malformed("more bytes than were asked for"));
        }
        self.input.extend_from_slice(bytes);
        // Strangers are told apart at their first wrong byte, not when they have sent enough.
        if self.stage == Stage::Opening {
            let seen = self.input.len().min(MAGIC.len());
            if self.input[..seen] != MAGIC[..seen] {
                return Err(foreign(&self.input));
            }
        }
        if self.wants() > 0 {
            return Ok(());
        }
        let step = self.input.split();
        self.step(&step)
    }

    fn step_bytes(&self) -> usize {
        match self.stage {
            Stage::Opening => OPENING_BYTES,
            Stage::Tag | Stage::Refused => 1,
            Stage::Proof => PROOF_BYTES,
            Stage::HelloLength => 2,
            Stage::Hello(length) => length,
            Stage::Done => 0,
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        match self.stage {
            Stage::Opening => self.opened(bytes),
            Stage::Tag => self.tagged(bytes[0]),
            Stage::Proof => self.proved(bytes),
            Stage::HelloLength => {
                let length = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                if length == 0 || length > HELLO_BYTES_MAX + TAG_BYTES {
                    return Err(HandshakeError::Malformed("an introduction of impossible length"));
                }
                self.stage = Stage::Hello(length);
                Ok(())
            }
            Stage::Hello(_) => self.introduced(bytes),
            Stage::Refused => Err(HandshakeError::Refused(Refusal::from_byte(bytes[0]))),
            Stage::Done => Err(HandshakeError::Malformed("bytes after the end")),
        }
    }

    fn opened(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let Ok(bytes) = <&[u8; OPENING_BYTES]>::try_from(bytes) else {
            return Err(HandshakeError::Malformed("an opening of wrong length"));
        };
        let theirs = Opening::decode(bytes)?;
        match self.side {
            Side::Acceptor => {
                self.ours.kind = theirs.kind;
                // Even to a foreign version: so that it can say what is wrong, too.
                self.output.put_slice(&self.ours.encode());
            }
            Side::Dialler if theirs.kind != self.ours.kind => {
                return Err(HandshakeError::UnknownKind(theirs.kind.to_byte()));
            }
            Side::Dialler => {}
        }
        if self.common_version(&theirs).is_none() {
            return Err(HandshakeError::Versions { ours: self.ours.versions, theirs: theirs.versions });
        }
        self.theirs = Some(theirs);
        self.their_bytes = *bytes;
        self.stage = Stage::Tag;
        if self.side == Side::Dialler {
            self.prove();
        }
        Ok(())
    }

    fn tagged(&mut self, tag: u8) -> Result<(), HandshakeError> {
        self.stage = match tag {
            TAG_PROOF if !self.proven => Stage::Proof,
            TAG_HELLO if self.proven => Stage::HelloLength,
            TAG_REFUSED => Stage::Refused,
            _ => return Err(HandshakeError::Malformed("an unexpected step")),
        };
        Ok(())
    }

    fn proved(&mut self, proof: &[u8]) -> Result<(), HandshakeError> {
        let other = match self.side {
            Side::Dialler => Side::Acceptor,
            Side::Acceptor => Side::Dialler,
        };
        let text = self.text(other);
        // All are tried, so that the time says nothing about which one fits. A dialler has proven one.
        let tried = if self.side == Side::Dialler { 1 } else { self.secrets.0.len() };
        let fits = |secret: &&Secret| hmac::verify(&secret.key(), &text, proof).is_ok();
        let fitting: Vec<Secret> = self.secrets.0[..tried].iter().filter(fits).cloned().collect();
        if fitting.is_empty() {
            self.output.put_slice(&[TAG_REFUSED, Refusal::WrongKey.to_byte()]);
            return Err(HandshakeError::WrongKey);
        }
        self.secrets = Secrets(fitting);
        self.proven = true;
        self.stage = Stage::Tag;
        if self.side == Side::Acceptor {
            self.prove();
        }
        if !self.secrets.is_empty() {
            let openings = self.openings();
            let dialled = self.side == Side::Dialler;
            let sealed = Sealed::new(&self.secrets.0[0].0, &[&openings[0], &openings[1]], dialled);
            self.sealed = Some(Box::new(sealed));
        }
        self.introduce();
        Ok(())
    }

    fn introduced(&mut self, hello: &[u8]) -> Result<(), HandshakeError> {
        let mut hello = hello.to_vec();
        if let Some(sealed) = &mut self.sealed {
            let opened = sealed.open(HELLO_LABEL, &mut hello);
            let length = opened.map_err(|_| HandshakeError::Malformed("its introduction was changed"))?.len();
            hello.truncate(length);
        }
        let theirs = self.theirs.as_ref();
        self.agreed = Some(Agreed {
            version: theirs.and_then(|theirs| self.common_version(theirs)).unwrap_or(VERSION_MAX),
            features: theirs.map_or(0, |theirs| theirs.features & self.ours.features),
            kind: self.ours.kind,
            hello,
        });
        self.stage = Stage::Done;
        Ok(())
    }

    fn prove(&mut self) {
        let proof = hmac::sign(&self.secrets.0[0].key(), &self.text(self.side));
        self.output.put_u8(TAG_PROOF);
        self.output.put_slice(proof.as_ref());
    }

    fn introduce(&mut self) {
        let mut hello = std::mem::take(&mut self.hello);
        if let Some(sealed) = &mut self.sealed {
            sealed.seal(HELLO_LABEL, &mut hello);
        }
        self.output.put_u8(TAG_HELLO);
        self.output.put_u16_le(hello.len() as u16);
        self.output.put_slice(&hello);
    }

    /// What a proof is about: the prover's side and both openings.
    fn text(&self, prover: Side) -> Vec<u8> {
        let side: &[u8] = match prover {
            Side::Dialler => b"tandem dialler",
            Side::Acceptor => b"tandem acceptor",
        };
        let [first, second] = self.openings();
        [side, &first, &second].concat()
    }

    /// The dialler's first.
    fn openings(&self) -> [[u8; OPENING_BYTES]; 2] {
        match self.side {
            Side::Dialler => [self.ours.encode(), self.their_bytes],
            Side::Acceptor => [self.their_bytes, self.ours.encode()],
        }
    }

    fn common_version(&self, theirs: &Opening) -> Option<u16> {
        let min = self.ours.versions.0.max(theirs.versions.0);
        let max = self.ours.versions.1.min(theirs.versions.1);
        (min <= max).then_some(max)
    }
}

/// The acceptor's last word, after it has judged the dialler's introduction.
pub fn verdict(judgement: Result<(), Refusal>) -> [u8; 2] {
    match judgement {
        Ok(()) => [TAG_WELCOME, 0],
        Err(refusal) => [TAG_REFUSED, refusal.to_byte()],
    }
}

/// Reads the acceptor's last word.
pub fn read_verdict(bytes: [u8; 2]) -> Result<(), HandshakeError> {
    match bytes[0] {
        TAG_WELCOME => Ok(()),
        TAG_REFUSED => Err(HandshakeError::Refused(Refusal::from_byte(bytes[1]))),
        _ => Err(HandshakeError::Malformed("an unexpected last word")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of a node, as `"first second"`.
    fn secret(text: &str) -> Secrets {
        Secrets::new(text.split(' ').map(|key| Secret::new(key.as_bytes().to_vec())).collect())
    }

    fn dialler(key: &str) -> Handshake {
        Handshake::dialler(secret(key), Opening::new(Kind::Data, 0b110, [1; 32]), b"I am one".to_vec())
    }

    fn acceptor(key: &str) -> Handshake {
        Handshake::acceptor(secret(key), Opening::new(Kind::Control, 0b011, [2; 32]), b"I am two".to_vec())
    }

    /// Delivers what `from` has to say, `piece` bytes at a time.
    fn deliver(from: &mut Handshake, to: &mut Handshake, piece: usize) -> Result<(), HandshakeError> {
        let output = from.take_output();
        let mut rest = &output[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(to.wants().min(piece).min(rest.len()));
            assert!(!now.is_empty(), "{} bytes are left over", rest.len());
            to.handle(now)?;
            rest = later;
        }
        Ok(())
    }

    fn talk(a: &mut Handshake, b: &mut Handshake, piece: usize) -> Result<(), HandshakeError> {
        for _ in 0..4 {
            deliver(a, b, piece)?;
            deliver(b, a, piece)?;
        }
        Ok(())
    }

    #[test]
    fn two_nodes_with_one_key_agree_however_the_bytes_arrive() {
        for key in ["", "sesame"] {
            for piece in [1, 7, 1000] {
                let (mut a, mut b) = (dialler(key), acceptor(key));
                talk(&mut a, &mut b, piece).expect("they share a key");
                let (a, b) = (a.agreed().expect("over"), b.agreed().expect("over"));
                assert_eq!((a.kind, a.features, a.version), (Kind::Data, 0b010, VERSION_MAX));
                assert_eq!((b.kind, b.features, b.version), (Kind::Data, 0b010, VERSION_MAX));
                assert_eq!((&a.hello[..], &b.hello[..]), (&b"I am two"[..], &b"I am one"[..]));
            }
        }
    }

    #[test]
    fn a_key_is_replaced_by_another_without_a_moment_apart() {
        // Both learn the new one, then both prove it, then both forget the old one.
        for (ours, theirs) in
            [("old new", "old"), ("old new", "new old"), ("new old", "new old"), ("new", "new old")]
        {
            for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
                let (mut a, mut b) = (dialler(ours), acceptor(theirs));
                talk(&mut a, &mut b, 99).unwrap_or_else(|why| panic!("{ours} with {theirs}: {why}"));
                let (mut a, mut b) = (a.take_guard(), b.take_guard());
                let (mut wire, mut plain) = (BytesMut::new(), BytesMut::new());
                a.seal(&mut BytesMut::from("hi"), &mut wire).expect("it takes anything");
                b.open(&mut wire, &mut plain).expect("they have one key");
                assert_eq!(plain, "hi");
            }
        }
        let (mut a, mut b) = (dialler("new"), acceptor("old"));
        assert_eq!(talk(&mut a, &mut b, 99), Err(HandshakeError::WrongKey));
    }

    #[test]
    fn an_introduction_is_neither_read_nor_changed_on_its_way() {
        let (mut a, mut b) = (dialler("sesame"), acceptor("sesame"));
        deliver(&mut a, &mut b, 99).expect("an opening");
        deliver(&mut b, &mut a, 99).expect("an opening");
        deliver(&mut a, &mut b, 99).expect("a proof");
        let mut answer = b.take_output();
        assert!(!answer.windows(5).any(|window| window == b"I am "), "it is hidden");
        let last = answer.len() - 1;
        answer[last] ^= 1;
        let mut rest = &answer[..];
        let outcome = loop {
            let (now, later) = rest.split_at(a.wants().min(rest.len()));
            rest = later;
            let outcome = a.handle(now);
            if outcome.is_err() || rest.is_empty() {
                break outcome;
            }
        };
        assert_eq!(outcome, Err(HandshakeError::Malformed("its introduction was changed")));
    }

    #[test]
    fn a_wrong_key_is_refused_before_any_introduction() {
        for (ours, theirs) in [("a", "b"), ("", "b"), ("a", "")] {
            let (mut a, mut b) = (dialler(ours), acceptor(theirs));
            deliver(&mut a, &mut b, 99).expect("an opening");
            deliver(&mut b, &mut a, 99).expect("an opening");
            assert_eq!(deliver(&mut a, &mut b, 99), Err(HandshakeError::WrongKey));
            let last_words = b.take_output();
            assert_eq!(&last_words[..], &[TAG_REFUSED, 1], "nothing but the reason");
            a.handle(&last_words[..1]).expect("a tag");
            assert_eq!(a.handle(&last_words[1..]), Err(HandshakeError::Refused(Refusal::WrongKey)));
        }
    }

    #[test]
    fn an_acceptor_without_the_key_learns_nothing_but_a_proof() {
        let (mut a, mut b) = (dialler("sesame"), acceptor("sesame"));
        deliver(&mut a, &mut b, 99).expect("an opening");
        deliver(&mut b, &mut a, 99).expect("an opening");
        let proof = a.take_output();
        assert_eq!(proof.len(), 1 + PROOF_BYTES);
        // It cannot make one of its own, and the dialler's own does not serve.
        a.handle(&proof[..1]).expect("a tag");
        assert_eq!(a.handle(&proof[1..]), Err(HandshakeError::WrongKey));
        assert_eq!(&a.take_output()[..], &[TAG_REFUSED, 1]);
    }

    #[test]
    fn a_proof_fits_no_other_connection() {
        let (mut a, mut b) = (dialler("sesame"), acceptor("sesame"));
        deliver(&mut a, &mut b, 99).expect("an opening");
        deliver(&mut b, &mut a, 99).expect("an opening");
        let recorded = a.take_output();
        let opening = Opening::new(Kind::Data, 0b011, [3; 32]);
        let mut other = Handshake::acceptor(secret("sesame"), opening, b"I am two".to_vec());
        deliver(&mut dialler("sesame"), &mut other, 99).expect("the same opening");
        other.handle(&recorded[..1]).expect("a tag");
        assert_eq!(other.handle(&recorded[1..]), Err(HandshakeError::WrongKey));
    }

    #[test]
    fn a_changed_opening_spoils_the_proofs() {
        for byte in 8..OPENING_BYTES {
            let (mut a, mut b) = (dialler("sesame"), acceptor("sesame"));
            let mut opening = a.take_output();
            opening[byte] ^= 0x40;
            let outcome = b
                .handle(&opening)
                .and_then(|()| deliver(&mut b, &mut a, 99))
                .and_then(|()| deliver(&mut a, &mut b, 99));
            assert!(outcome.is_err(), "byte {byte} is not covered");
        }
    }

    #[test]
    fn foreign_bytes_are_told_at_the_first_wrong_one() {
        for bytes in [&b"get k\r\n"[..], b"\x89TANDEN", b"\0", b"\x80\x0b", b"GET / HTTP/1.1\r\n\r\n"] {
            let mut b = acceptor("");
            let error = b.handle(bytes).expect_err("not ours");
            assert!(error.is_stranger(), "{error}");
            assert!(b.take_output().is_empty(), "a stranger gets nothing");
        }
    }

    /// Two nodes of these ranges, with one key.
    fn of_versions(ours: (u16, u16), theirs: (u16, u16)) -> (Handshake, Handshake) {
        let opening = |versions, nonce| Opening { versions, ..Opening::new(Kind::Data, 0, [nonce; 32]) };
        let a = Handshake::dialler(secret("sesame"), opening(ours, 1), b"I am one".to_vec());
        (a, Handshake::acceptor(secret("sesame"), opening(theirs, 2), b"I am two".to_vec()))
    }

    #[test]
    fn two_ranges_that_overlap_agree_on_the_highest_common_version() {
        for (ours, theirs, common) in
            [((1, 1), (1, 2), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 9), 2), ((4, 7), (4, 7), 7)]
        {
            for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
                let (mut a, mut b) = of_versions(ours, theirs);
                talk(&mut a, &mut b, 99).expect("they overlap");
                let agreed = [&a, &b].map(|end| end.agreed().expect("over").version);
                assert_eq!(agreed, [common; 2], "{ours:?} and {theirs:?}");
            }
        }
    }

    #[test]
    fn two_ranges_that_do_not_meet_are_both_named_on_both_sides() {
        for (ours, theirs) in [((7, 9), (1, 1)), ((1, 1), (2, 3)), ((2, 1), (1, 2))] {
            let (mut a, mut b) = of_versions(ours, theirs);
            let at_b = deliver(&mut a, &mut b, 99).expect_err("nothing in common");
            // It is told, so that it can say so, too.
            let at_a = deliver(&mut b, &mut a, 99).expect_err("nothing in common");
            assert_eq!(at_a, HandshakeError::Versions { ours, theirs });
            assert_eq!(at_b, HandshakeError::Versions { ours: theirs, theirs: ours });
            for line in [at_a.to_string(), at_b.to_string()] {
                for (min, max) in [ours, theirs] {
                    assert!(line.contains(&format!("{min} to {max}")), "{line}");
                }
            }
            assert!(a.take_output().is_empty(), "no proof for who cannot use it");
        }
    }

    #[test]
    fn little_is_read_before_the_proof() {
        let (mut a, mut b) = (dialler("x"), acceptor("y"));
        let mut read = b.wants();
        deliver(&mut a, &mut b, 99).expect("an opening");
        deliver(&mut b, &mut a, 99).expect("an opening");
        read += b.wants();
        b.handle(&[TAG_PROOF]).expect("a tag");
        read += b.wants();
        assert_eq!(b.handle(&[0; PROOF_BYTES]), Err(HandshakeError::WrongKey));
        assert_eq!(read, UNPROVEN_BYTES);
    }

    #[test]
    fn random_bytes_never_do_anything_but_fail() {
        proptest::proptest!(|(bytes: Vec<u8>, prefix in 0..=OPENING_BYTES)| {
            let opening = Opening::new(Kind::Control, 0, [4; 32]).encode();
            let mut b = acceptor("sesame");
            let all: Vec<u8> = opening[..prefix].iter().chain(&bytes).copied().collect();
            let mut rest = &all[..];
            while !rest.is_empty() && b.wants() > 0 {
                let (now, later) = rest.split_at(b.wants().min(rest.len()));
                if b.handle(now).is_err() {
                    break;
                }
                rest = later;
            }
            assert!(b.agreed().is_none());
        });
    }
}
