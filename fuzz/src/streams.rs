//! The peer's bytes, and a repcached's.

use std::io::Cursor;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use tandem_replication::change::Change;
use tandem_replication::frame;
use tandem_replication::handshake::{HELLO_BYTES_MAX, Handshake, Kind, Opening, Secret};
use tandem_replication::proxy;
use tandemd::command::Now;
use tandemd::engine::{Engine, memcached_size};
use tandemd::migration;
use tandemd::server::clock::Clock;
use tandemd::server::gate::Open;
use tokio_util::codec::{Decoder, Encoder};

use crate::commands::{ITEM_SIZE_MAX, NOW, content, memory, model};

/// Changes of the peer: what is decoded is encoded to the same bytes, and both engines make the same
/// of it, whatever versions and deadlines it claims.
pub fn change(bytes: &[u8]) {
    let (memory, model) = (memory(), model());
    let mut at = 0;
    for (nth, change) in Change::decode_all(bytes).enumerate() {
        let Ok(change) = change else { break };
        let mut again = Vec::new();
        change.encode(&mut again);
        assert_eq!(again, &bytes[at..at + change.encoded_len()], "it is encoded as it was");
        at += again.len();
        // A peer whose items are larger than is allowed here is another question: memory may end.
        if let Change::Put(put) = &change
            && memcached_size(put.key.len(), put.value.len(), put.flags, true) > ITEM_SIZE_MAX
        {
            break;
        }
        let now = Now { secs: NOW.secs + nth as u32, ..NOW };
        let change = change.translated(3, now.secs);
        memory.apply(&change, now);
        model.apply(&change, now);
    }
    assert_eq!(content(&memory, NOW), content(&model, NOW), "the engine and its model disagree");
    assert_eq!(memory.pending_flush(), model.pending_flush());
}

/// Frames: with the checksums they come with, or (first byte odd) with right ones.
pub fn frame(bytes: &[u8]) {
    let mut source = BytesMut::new();
    match bytes.split_first() {
        Some((mode, rest)) if mode % 2 == 1 => sealed(rest, &mut source),
        Some((_, rest)) => source.put_slice(rest),
        None => {}
    }
    let mut codec = frame::Codec::new(1 << 16);
    let before = source.len();
    while let Ok(Some(frame)) = Decoder::decode(&mut codec, &mut source) {
        let mut again = BytesMut::new();
        Encoder::encode(&mut codec, &frame, &mut again).expect("what was decoded can be encoded");
        let repeated = Decoder::decode(&mut codec, &mut again).expect("a frame").expect("a whole frame");
        assert_eq!(repeated, frame);
        assert!(source.len() < before);
    }
    assert!(source.capacity() < (1 << 20), "memory is not given for a length");
}

/// `kind | flags | shard:2 | secs:4 | sequence:8 | length:1 | payload`, again and again.
fn sealed(mut rest: &[u8], target: &mut BytesMut) {
    while rest.len() > 17 {
        let fields = rest.copy_to_bytes(16);
        let length = usize::from(rest.get_u8()).min(rest.len());
        let (payload, behind) = rest.split_at(length);
        let start = target.len();
        target.put_u32_le(length as u32);
        target.put_u32_le(crc32c::crc32c(payload));
        target.put_slice(&fields);
        target.put_u32_le(crc32c::crc32c(&target[start..]));
        target.put_slice(payload);
        rest = behind;
    }
}

/// The handshake, from both sides: the first byte says which, and how the rest is cut.
pub fn handshake(bytes: &[u8]) {
    let Some((&mode, mut rest)) = bytes.split_first() else { return };
    let opening =
        Opening::new(if mode & 2 == 0 { Kind::Control } else { Kind::Data }, u64::from(mode), [mode; 32]);
    // Without a key a stranger's proof is computable, so more is reached.
    let secret = Secret::new(if mode & 4 == 0 { Vec::new() } else { b"secret".to_vec() });
    let hello = b"hello".to_vec();
    let mut shaking = match mode & 1 {
        0 => Handshake::acceptor(secret.into(), opening, hello),
        _ => Handshake::dialler(secret.into(), opening, hello),
    };
    let piece = 1 + usize::from(mode >> 3);
    let mut said = 0;
    while shaking.wants() > 0 && !rest.is_empty() {
        assert!(shaking.wants() <= HELLO_BYTES_MAX + 100, "no step is longer");
        let (now, later) = rest.split_at(piece.min(shaking.wants()).min(rest.len()));
        rest = later;
        let went = shaking.handle(now);
        said += shaking.take_output().len();
        if went.is_err() {
            break;
        }
    }
    assert!(said < 400, "a stranger is not answered at length");
}

/// Requests that the peer hands on for its clients.
pub fn proxy(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(request)) = proxy::decode_request(&mut buffer, 1000) {
        assert!((1..=1000).contains(&request.len()));
    }
}

/// A repcached's replication link.
pub fn repcached(bytes: &[u8]) {
    let target = migration::Target {
        engine: Arc::new(memory()),
        gate: Arc::new(Open),
        worker: 0,
        clock: Arc::new(Clock::start()),
        item_size_max: ITEM_SIZE_MAX,
    };
    let mut last = migration::Tally::default();
    let end = migration::follow(Cursor::new(bytes), &target, &mut |tally| last = *tally);
    assert!(end.to_string().len() < 600, "what is said of foreign bytes is short");
    assert!(last.stored >= target.engine.items());
}
