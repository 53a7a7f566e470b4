//! What the first release with each protocol version put on the wire and on the disk, as files: every later one
//! that still speaks the version must read them, and write the same.
//!
//! The files are in `tests/corpus/v1`; `UPDATE=1` writes those that are missing and never touches one that
//! is there. A kind of frame, change or message without a file fails the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::doors::Introduction;
use super::witness::Question as Asked;
use crate::arbiter::{Ask, Asker, Outcome, SavedRegister, Wish};
use crate::change::{self, Bits, Change, DecodeError, Put};
use crate::dirty::DirtyMap;
use crate::frame::{Codec, Cut, Follow, Frame, FrameError, Handover, Heartbeat, Hello, Plan};
use crate::frame::{Link, RawKind, Report, Way};
use crate::handshake::{Handshake, HandshakeError, Kind, Opening, Refusal, Secret, read_verdict, verdict};
use crate::history::Position;
use crate::node::Saved;
use crate::proxy::{self, Reply};
use crate::role::{Claim, Data, State};
use crate::state::{FILE, StateDirectory};
use crate::status::Load;
use crate::time::{Mono, Span};
use crate::verify::{Answer, Fingerprint, Question};
use crate::wire;

fn place() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/v1")
}

/// What was recorded under that name, which must be what is written today.
#[track_caller]
fn recorded(name: &str, today: &[u8]) -> Vec<u8> {
    let path = place().join(name);
    if std::env::var_os("UPDATE").is_some() && !path.exists() {
        fs::create_dir_all(place()).expect("a directory");
        fs::write(&path, today).expect("a file");
    }
    let then = fs::read(&path).unwrap_or_else(|why| {
        panic!("{name}: {why}; if it is new, UPDATE=1 records it. What is recorded stays as it is")
    });
    assert!(
        then == today,
        "{name}: this release writes other bytes than the first one with this protocol version: that takes a new \
         version.\nthen  {}\ntoday {}",
        then.escape_ascii(),
        today.escape_ascii()
    );
    then
}

/// Recorded through [`wire`], and read again.
#[track_caller]
fn message<T>(name: &str, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let then = recorded(name, &wire::encode(value).expect("short"));
    assert_eq!(&wire::decode::<T>(&then).expect("recorded"), value, "{name}");
}

fn position() -> Position {
    Position { history: 0x0123_4567_89ab_cdef_0011_2233_4455_6677, applied: vec![1, 0, 300, u64::MAX] }
}

fn changes() -> Vec<(&'static str, Change<'static>)> {
    let put = |bits, explicit| {
        let (key, value) = (&b"key"[..], change::Bytes::Whole(b"a value\r\n\0\xff"));
        Change::Put(Put { key, value, flags: 0xdead_beef, deadline: 2000, version: 7 << 40, explicit, bits })
    };
    let bits = Bits { stale: true, win_sent: true, binary_key: true };
    vec![
        ("put", put(Bits::default(), None)),
        ("put-with-everything", put(bits, Some(77))),
        ("touch", Change::Touch { key: b"key", deadline: 5000, version: 7 << 40 }),
        ("delete", Change::Delete { key: b"key", version: u64::MAX }),
        ("flush", Change::Flush { floor: 8 << 40 }),
        ("flush-at", Change::FlushAt { deadline: 1001 }),
    ]
}

fn all_changes() -> Bytes {
    let mut bytes = BytesMut::new();
    changes().iter().for_each(|(_, change)| change.encode(&mut bytes));
    bytes.freeze()
}

fn map() -> DirtyMap {
    let mut map = DirtyMap::default();
    changes().iter().for_each(|(_, change)| map.note(change));
    map
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        state: State::Doubt,
        claim: Claim { data: Data::Complete, age: 3, epoch: 300, settled: true, node_id: u128::MAX - 1 },
        epoch: 70_000,
        sent: Mono(u64::MAX),
        echo: Some(Mono(7)),
        load: Load {
            items: 1,
            bytes: 251,
            limit: 1 << 40,
            reads_rate: 65_536,
            writes_rate: u32::MAX,
            uptime_secs: 5,
            release: "1.2.3".to_string(),
            progress: 99,
            summary: "a summary: {}".to_string(),
        },
    }
}

/// At least one of every kind.
fn frames() -> Vec<Frame> {
    let mut dirty = BytesMut::new();
    map().encode(&mut dirty);
    let payload = all_changes();
    let raw = |kind| Frame::Raw { kind, tag: 1 << 33, payload: Bytes::from_static(b"as it is") };
    let plan = |way| {
        let (from, give_up) = (position(), Some(position()));
        Frame::Plan(Plan { session: 6, number: 4, epoch: 3, way, walk: 2, from, target: vec![8], give_up })
    };
    let cut = Cut { walk: 9, shard: 255, cursor: u64::MAX, position: position() };
    let items = vec![Fingerprint { key: b"key".to_vec(), version: 7 << 40, sum: u32::MAX }];
    let report = |compare| Report {
        plan: u32::MAX,
        compare,
        secs: 3,
        applied: vec![1, u64::MAX],
        payload: payload.clone(),
    };
    vec![
        Frame::Heartbeat(heartbeat()),
        Frame::Handover(Handover { epoch: 3, number: 4, position: position(), echo: Some(Mono(9)) }),
        Frame::Declined { number: 1 << 40 },
        Frame::Redial { session: 300 },
        Frame::AskSwitchover,
        Frame::Goodbye,
        Frame::Follow(Follow { session: 6, positions: vec![position(); 2], cut: Some(cut) }),
        plan(Way::Continue),
        plan(Way::CatchUp),
        plan(Way::Copy),
        plan(Way::Resume),
        Frame::Changes { shard: 255, first: u64::MAX, secs: 9, payload: payload.clone() },
        Frame::Dirty { plan: 7, payload: dirty.freeze() },
        Frame::Chunk { shard: 3, cursor: u64::MAX, secs: 10, payload: payload.clone() },
        Frame::CopyEnd { target: vec![u64::MAX, 0, 250, 251] },
        Frame::Ack { session: u32::MAX, plan: 5, applied: vec![0, 1], complete: true },
        Frame::Ack { session: 1, plan: u32::MAX, applied: vec![0, 1], complete: false },
        Frame::Report(report(true)),
        Frame::Report(report(false)),
        Frame::Answer { plan: 6, secs: 4, payload },
        Frame::AskAck,
        Frame::Compare(Question { number: 1, buckets: vec![0, 250, 4095] }),
        Frame::Compared(Answer { number: 1, sums: vec![0, u64::MAX], items, last: true }),
        raw(RawKind::Handshake),
        raw(RawKind::Request),
        raw(RawKind::Reply),
        raw(RawKind::Done),
    ]
}

/// No `_`: a new kind has to be named here, and has no file then.
fn name(frame: &Frame) -> &'static str {
    match frame {
        Frame::Heartbeat(_) => "heartbeat",
        Frame::Handover(_) => "handover",
        Frame::Declined { .. } => "declined",
        Frame::Redial { .. } => "redial",
        Frame::AskSwitchover => "ask-switchover",
        Frame::Goodbye => "goodbye",
        Frame::Follow(_) => "follow",
        Frame::Plan(Plan { way: Way::Continue, .. }) => "plan-continue",
        Frame::Plan(Plan { way: Way::CatchUp, .. }) => "plan-catch-up",
        Frame::Plan(Plan { way: Way::Copy, .. }) => "plan-copy",
        Frame::Plan(Plan { way: Way::Resume, .. }) => "plan-resume",
        Frame::Changes { .. } => "changes",
        Frame::Dirty { .. } => "dirty",
        Frame::Chunk { .. } => "chunk",
        Frame::CopyEnd { .. } => "copy-end",
        Frame::Ack { complete: true, .. } => "ack",
        Frame::Ack { complete: false, .. } => "ack-in-a-copy",
        Frame::Report(Report { compare: true, .. }) => "report-to-compare",
        Frame::Report(Report { compare: false, .. }) => "report",
        Frame::Answer { .. } => "answer",
        Frame::Compare(_) => "compare",
        Frame::Compared(_) => "compared",
        Frame::AskAck => "ask-ack",
        Frame::Raw { kind: RawKind::Handshake, .. } => "raw-handshake",
        Frame::Raw { kind: RawKind::Request, .. } => "raw-request",
        Frame::Raw { kind: RawKind::Reply, .. } => "raw-reply",
        Frame::Raw { kind: RawKind::Done, .. } => "raw-done",
    }
}

/// Does this release know frames of that kind, whatever is in them?
fn knows_frames_of(kind: u8) -> bool {
    let mut bytes = BytesMut::new();
    bytes.put_u64_le(0);
    bytes.put_u8(kind);
    bytes.put_bytes(0, 15);
    bytes.put_u32_le(crc32c::crc32c(&bytes));
    !matches!(Codec::default().decode(&mut bytes), Err(FrameError::UnknownKind(_)))
}

#[test]
fn every_kind_of_frame_is_read_and_written_as_it_was_recorded() {
    let mut kinds = BTreeSet::new();
    for frame in frames() {
        let mut today = BytesMut::new();
        Codec::default().encode(&frame, &mut today).expect("short");
        let then = recorded(&format!("frame-{}.bin", name(&frame)), &today);
        kinds.insert(then[8]);
        let came = Codec::default().decode(&mut BytesMut::from(&then[..]));
        assert_eq!(came.expect("a frame"), Some(frame));
    }
    for kind in 0..=u8::MAX {
        assert_eq!(
            knows_frames_of(kind),
            kinds.contains(&kind),
            "kind {kind}: what can be read has a file: add one of it to `frames`, and run with UPDATE=1"
        );
    }
}

#[test]
fn every_kind_of_change_is_read_and_written_as_it_was_recorded() {
    let mut kinds = BTreeSet::new();
    for (name, change) in changes() {
        let mut today = Vec::new();
        change.encode(&mut today);
        let then = recorded(&format!("change-{name}.bin"), &today);
        kinds.insert(then[0]);
        assert_eq!(Change::decode(&then), Ok((change, then.len())), "{name}");
    }
    for kind in 0..=u8::MAX {
        let known = Change::decode(&[kind]) != Err(DecodeError::UnknownKind(kind));
        assert_eq!(known, kinds.contains(&kind), "kind {kind}: what can be read has a file");
    }
}

#[test]
fn maps_of_what_a_peer_may_lack_are_read_and_written_as_they_were_recorded() {
    let mut today = BytesMut::new();
    map().encode(&mut today);
    assert_eq!(DirtyMap::decode(&recorded("dirty-map.bin", &today)), Some(map()));
}

fn introduction() -> Introduction {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 1 << 63,
        link: Some(Link::Data),
        node_id: u128::MAX - 1,
        boot_id: 300,
        epoch: 70_000,
        client_port: 11_211,
        release: "1.2.3".to_string(),
    };
    Introduction { hello, replication_port: 11_212 }
}

/// What both sides said, and what they agreed on; with the nonces that were recorded.
fn conversation(kind: Kind, key: &[u8]) -> [Vec<u8>; 2] {
    let secret = || Secret::new(key.to_vec()).into();
    let opening = |kind, features, nonce| {
        let versions = (1, 1);
        Opening { versions, ..Opening::new(kind, features, [nonce; 32]) }
    };
    let hello = wire::encode(&introduction()).expect("short");
    let mut dialler = Handshake::dialler(secret(), opening(kind, 0b110, 1), hello.clone());
    let mut acceptor = Handshake::acceptor(secret(), opening(Kind::Control, 0b011, 2), hello.clone());
    let mut said = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        said[0].extend(deliver(&mut dialler, &mut acceptor));
        said[1].extend(deliver(&mut acceptor, &mut dialler));
    }
    for end in [&dialler, &acceptor] {
        let agreed = end.agreed().expect("over");
        assert_eq!((agreed.version, agreed.features, agreed.kind), (1, 0b010, kind));
        assert_eq!(wire::decode::<Introduction>(&agreed.hello), Ok(introduction()));
    }
    // What follows is guarded, if there is a key: one frame each way.
    let (mut dialler, mut acceptor) = (dialler.take_guard(), acceptor.take_guard());
    for (end, said) in [&mut dialler, &mut acceptor].into_iter().zip(&mut said) {
        let (mut plain, mut sealed) = (BytesMut::new(), BytesMut::new());
        Codec::default().encode(&Frame::AskAck, &mut plain).expect("short");
        end.seal(&mut plain, &mut sealed).expect("it takes anything");
        said.extend_from_slice(&sealed);
    }
    said
}

/// Gives one side's words to the other, and returns them.
fn deliver(from: &mut Handshake, to: &mut Handshake) -> BytesMut {
    let said = from.take_output();
    let mut rest = &said[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(to.wants().min(rest.len()));
        to.handle(now).expect("they fit");
        rest = later;
    }
    said
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Control => "control",
        Kind::Data => "data",
        Kind::Proxy => "proxy",
        Kind::Heartbeat => "heartbeat",
        Kind::Witness => "witness",
    }
}

#[test]
fn handshakes_are_spoken_as_they_were_recorded() {
    for kind in [Kind::Control, Kind::Data, Kind::Proxy, Kind::Heartbeat, Kind::Witness] {
        for (key, guarded) in [(&b""[..], "open"), (b"sesame", "sealed")] {
            // Both ends say today what they said then, so each of today's understands the other of then.
            let said = conversation(kind, key);
            for (side, said) in ["dialler", "acceptor"].iter().zip(said) {
                recorded(&format!("handshake-{}-{guarded}-{side}.bin", name_of(kind)), &said);
            }
        }
    }
}

#[test]
fn every_kind_of_connection_has_a_recorded_handshake() {
    let opening = fs::read(place().join("handshake-data-open-dialler.bin")).expect("recorded");
    for byte in 0..=u8::MAX {
        let mut opening = opening[..64].to_vec();
        opening[20] = byte;
        let ours = Opening::new(Kind::Control, 0, [2; 32]);
        let known = Handshake::acceptor(Secret::default().into(), ours, b"hello".to_vec()).handle(&opening);
        assert_eq!(known != Err(HandshakeError::UnknownKind(byte)), (1..=5).contains(&byte), "kind {byte}");
    }
}

#[test]
fn verdicts_are_read_and_written_as_they_were_recorded() {
    let refusals = [
        Refusal::WrongKey,
        Refusal::Myself,
        Refusal::CopiedIdentity,
        Refusal::Taken,
        Refusal::Duplicate,
        Refusal::Unlinked,
        Refusal::Unreadable,
        Refusal::NoWitness,
        Refusal::Other(200),
    ];
    let all: Vec<_> = std::iter::once(Ok(())).chain(refusals.map(Err)).collect();
    let today: Vec<u8> = all.iter().flat_map(|judgement| verdict(*judgement)).collect();
    let then = recorded("verdicts.bin", &today);
    for (bytes, judgement) in then.chunks(2).zip(all) {
        assert_eq!(read_verdict([bytes[0], bytes[1]]), judgement.map_err(HandshakeError::Refused));
    }
    let known: Vec<u8> = then[2..].chunks(2).map(|bytes| bytes[1]).collect();
    for byte in (0..=u8::MAX).filter(|byte| !known.contains(byte)) {
        let unknown = Err(HandshakeError::Refused(Refusal::Other(byte)));
        assert_eq!(read_verdict([then[2], byte]), unknown, "refusal {byte} has no record");
    }
}

#[test]
fn introductions_and_what_a_witness_is_asked_are_as_they_were_recorded() {
    message("introduction.bin", &introduction());
    let asker = Asker { node: u128::MAX - 1, boot: 300 };
    for (name, wish) in
        [("look", Wish::Look), ("hold", Wish::Hold(Span::from_millis(3000))), ("release", Wish::Release)]
    {
        message(&format!("witness-{name}.bin"), &Asked { asker, ask: Ask { number: 7, wish } });
    }
    for (name, outcome) in [
        ("granted", Outcome::Granted),
        ("refused", Outcome::Refused),
        ("heard", Outcome::Heard),
        ("silent", Outcome::Silent),
    ] {
        message(&format!("witness-{name}.bin"), &outcome);
    }
}

#[test]
fn proxied_requests_and_replies_are_as_they_were_recorded() {
    let request = b"get key\r\n";
    for (name, durable) in [("proxy-request.bin", false), ("proxy-request-durable.bin", true)] {
        let head = proxy::encode_request_head(request.len(), durable).expect("short");
        let then = recorded(name, &[&head[..], request].concat());
        let came = proxy::decode_request(&mut BytesMut::from(&then[..]), 100).expect("valid");
        assert_eq!(came.as_deref(), Some(&request[..]));
    }
    let mut today = BytesMut::new();
    proxy::encode_part(b"END\r\n", &mut today);
    proxy::encode_done(request.len(), &mut today);
    let (mut then, mut ended) = (BytesMut::from(&recorded("proxy-reply.bin", &today)[..]), None);
    let mut next = || proxy::decode_reply(&mut then, &mut ended).expect("valid");
    assert_eq!(next(), Some(Reply::Part(Bytes::from_static(b"END\r\n"))));
    assert_eq!(next(), Some(Reply::Done(request.len())));
}

#[test]
fn state_files_are_read_and_written_as_they_were_recorded() {
    let saved = Saved { node_id: u128::MAX - 1, epoch: 70_000, peer_id: Some(300) };
    state_file("state-node.bin", &saved);
    state_file("state-witness.bin", &SavedRegister { holder: Some(300), lease: Span::from_millis(3000) });
}

fn state_file<T>(name: &str, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let place = tempfile::tempdir().expect("a temporary directory");
    let directory = StateDirectory::open(place.path()).expect("a directory of our own");
    directory.save(&wire::encode(value).expect("short")).expect("a file");
    let file = place.path().join(FILE);
    fs::write(&file, recorded(name, &fs::read(&file).expect("saved"))).expect("a file");
    let loaded = directory.load().expect("recorded").expect("there");
    assert_eq!(&wire::decode::<T>(&loaded).expect("recorded"), value, "{name}");
}
