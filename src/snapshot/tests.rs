use std::sync::Arc;

use super::*;
use crate::command::{Command, Exptime, Op, Outcome, Payload, Replies, Store};
use crate::engine::NoJournal;
use crate::engine::memory::{Memory, MemoryConfig};
use crate::engine::model::ModelEngine;

const MAX: usize = 1 << 20;

fn now(secs: u32, wall_ms: u64) -> Now {
    Now { secs, unix_zero: 1_700_000_000, wall_ms }
}

fn memory() -> Memory {
    Memory::new(MemoryConfig::default(), Arc::new(NoJournal))
}

struct Ignore;

impl Replies for Ignore {
    fn reply(&mut self, _index: usize, outcome: Outcome<'_>) {
        assert!(matches!(outcome, Outcome::Stored(_)), "{outcome:?}");
    }
}

fn set(engine: &dyn Engine, key: &str, value: &[u8], exptime: i64, at: Now) {
    let store = Store {
        mode: Default::default(),
        flags: key.len() as u32,
        exptime: Exptime(exptime),
        value: Payload::Bytes(value),
        compare: None,
        invalidate: false,
        vivify: None,
        explicit: key.len().is_multiple_of(2).then_some(77),
        binary_key: false,
    };
    let command = Command { key: key.as_bytes().to_vec().into(), op: Op::Store(store) };
    engine.execute(&[command], at, &mut Ignore);
}

/// Every item, in order of keys, encoded.
fn content(engine: &dyn Engine, at: Now) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for shard in 0..engine.shards() {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = engine.scan(shard, from, 1 << 16, at, &mut |change| {
                let mut bytes = Vec::new();
                change.encode(&mut bytes);
                all.push(bytes);
            });
        }
    }
    all.sort();
    all
}

fn filled() -> (Memory, Now) {
    let (engine, at) = (memory(), now(100, 5_000_000));
    for n in 0..2000 {
        set(&engine, &format!("key{n}"), format!("value{n}").repeat(n % 50).as_bytes(), 0, at);
    }
    set(&engine, "large", &vec![b'x'; 700_000], 50, at);
    (engine, at)
}

fn snapshot(engine: &dyn Engine, at: Now) -> Vec<u8> {
    write(Vec::new(), engine, at).unwrap().0
}

#[test]
fn everything_comes_back_as_it_was() {
    let (engine, at) = filled();
    let bytes = snapshot(&engine, at);
    let copy = memory();
    let restored = restore(&bytes[..], &copy, at, MAX).unwrap();
    assert_eq!((restored.applied, restored.expired, restored.too_large), (2001, 0, 0));
    assert_eq!(content(&copy, at), content(&engine, at));
    // The model is another engine with the same meaning.
    let model = ModelEngine::new(4, 9, u64::MAX, MAX, Arc::new(NoJournal));
    restore(&bytes[..], &model, at, MAX).unwrap();
    assert_eq!(content(&model, at), content(&engine, at));
}

#[test]
fn what_expired_meanwhile_stays_expired_and_the_rest_keeps_its_time() {
    let (engine, at) = (memory(), now(100, 5_000_000));
    set(&engine, "short", b"", 10, at);
    set(&engine, "longer", b"", 11, at);
    set(&engine, "forever", b"", 0, at);
    let bytes = snapshot(&engine, at);
    // A process that started two seconds ago, ten seconds of wall clock later.
    let later = now(2, 5_010_000);
    let copy = memory();
    let restored = restore(&bytes[..], &copy, later, MAX).unwrap();
    assert_eq!((restored.applied, restored.expired), (2, 1));
    assert!(!copy.read(b"short", later, &mut |_| {}));
    assert!(copy.read(b"longer", later, &mut |_| {}));
    assert!(!copy.read(b"longer", now(3, 5_011_000), &mut |_| {}), "one second was left");
    assert!(copy.read(b"forever", now(u32::MAX, 5_011_000), &mut |_| {}));
}

#[test]
fn a_wall_clock_that_went_back_lengthens_no_life() {
    let (engine, at) = (memory(), now(100, 5_000_000));
    set(&engine, "short", b"", 10, at);
    let bytes = snapshot(&engine, at);
    let earlier = now(2, 1_000);
    let copy = memory();
    assert!(restore(&bytes[..], &copy, earlier, MAX).unwrap().clock_went_back);
    assert!(copy.read(b"short", now(11, 1_000), &mut |_| {}));
    assert!(!copy.read(b"short", now(12, 1_000), &mut |_| {}));
}

#[test]
fn a_delayed_flush_is_still_pending() {
    let (engine, at) = (memory(), now(100, 5_000_000));
    set(&engine, "doomed", b"", 0, at);
    engine.flush(Some(130), at);
    let bytes = snapshot(&engine, at);
    let copy = memory();
    restore(&bytes[..], &copy, now(2, 5_010_000), MAX).unwrap();
    assert_eq!(copy.pending_flush(), Some(22));
    let overdue = memory();
    restore(&bytes[..], &overdue, now(2, 5_040_000), MAX).unwrap();
    overdue.maintain(now(2, 5_040_000), 100, true);
    assert!(!overdue.read(b"doomed", now(2, 5_040_000), &mut |_| {}));
}

#[test]
fn an_item_larger_than_allowed_now_is_left_out() {
    let (engine, at) = filled();
    let copy = memory();
    let restored = restore(&snapshot(&engine, at)[..], &copy, at, 500_000).unwrap();
    assert_eq!((restored.applied, restored.too_large), (2000, 1));
}

#[test]
fn no_truncated_file_is_believed() {
    let (engine, at) = (memory(), now(100, 5_000_000));
    for n in 0..20 {
        set(&engine, &format!("key{n}"), b"value", 0, at);
    }
    let bytes = snapshot(&engine, at);
    for length in 0..bytes.len() {
        let damage = restore(&bytes[..length], &memory_small(), at, MAX).unwrap_err();
        assert!(matches!(damage, Damage::Truncated), "{length}: {damage}");
    }
}

#[test]
fn no_changed_bit_is_believed() {
    let (engine, at) = (memory(), now(100, 5_000_000));
    for n in 0..20 {
        set(&engine, &format!("key{n}"), b"value", 0, at);
    }
    let bytes = snapshot(&engine, at);
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << bit;
            assert!(restore(&damaged[..], &memory_small(), at, MAX).is_err(), "{position}:{bit}");
        }
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(restore(&longer[..], &memory_small(), at, MAX), Err(Damage::Tail)));
}

#[test]
fn blocks_cannot_be_doubled_or_swapped() {
    let at = now(100, 5_000_000);
    let header = Header { secs: 100, wall_ms: 5_000_000, items: 2 };
    let encoded = |key: &[u8]| {
        let model = memory_small();
        set(&model, std::str::from_utf8(key).unwrap(), b"v", 0, at);
        content(&model, at).concat()
    };
    let (a, b) = (encoded(b"a"), encoded(b"b"));
    let mut writer = Writer::begin(Vec::new(), header).unwrap();
    writer.changes(&a, 1).unwrap();
    writer.changes(&b, 1).unwrap();
    let (good, _) = writer.end().unwrap();
    assert!(restore(&good[..], &memory_small(), at, MAX).is_ok());
    let (head, block) = (36, 9 + a.len());
    let (first, second) = (&good[head..head + block], &good[head + block..head + 2 * block]);
    for wrong in [[second, first], [first, first]] {
        let bytes = [&good[..head], wrong[0], wrong[1], &good[head + 2 * block..]].concat();
        assert!(matches!(restore(&bytes[..], &memory_small(), at, MAX), Err(Damage::Checksum(_))));
    }
}

#[test]
fn foreign_and_newer_files_are_named_as_such() {
    let at = now(100, 5_000_000);
    let refused = |bytes: &[u8]| restore(bytes, &memory_small(), at, MAX).unwrap_err();
    assert!(matches!(refused(b"GIF89a, no items here"), Damage::Foreign));
    assert!(matches!(refused(b"x"), Damage::Foreign));
    let mut newer = snapshot(&memory_small(), at);
    newer[8] = 2;
    assert!(matches!(refused(&newer), Damage::Format(2)));
}

#[test]
fn the_lowest_version_is_one() {
    // The engine takes it, its model did not.
    let at = now(100, 5_000_000);
    let put = tandem_replication::change::Put {
        key: b"key",
        value: tandem_replication::change::Bytes::Whole(b"v"),
        flags: 0,
        deadline: 0,
        version: 0,
        explicit: None,
        bits: Default::default(),
    };
    let mut encoded = Vec::new();
    Change::Put(put).encode(&mut encoded);
    let mut writer = Writer::begin(Vec::new(), Header { secs: 100, wall_ms: 5_000_000, items: 1 }).unwrap();
    writer.changes(&encoded, 1).unwrap();
    let (bytes, _) = writer.end().unwrap();
    for engine in [&memory() as &dyn Engine, &memory_small()] {
        restore(&bytes[..], engine, at, MAX).unwrap();
        assert_eq!(content(engine, at), [&encoded[..]]);
    }
}

/// Many engines are made; the model costs nothing.
fn memory_small() -> ModelEngine {
    ModelEngine::new(1, 0, u64::MAX, MAX, Arc::new(NoJournal))
}

/// The file that the first release with this format wrote. Every later one that reads the format must read it, and
/// write the same; `UPDATE=1` writes it if it is not there, and never changes it.
#[test]
fn the_recorded_file_is_read_and_written_as_it_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/v1/warm-restart.bin");
    let put = |key, explicit, deadline, set| {
        let value = tandem_replication::change::Bytes::Whole(b"a value\r\n\0\xff");
        let bits = tandem_replication::change::Bits { stale: set, win_sent: set, binary_key: set };
        let put = tandem_replication::change::Put {
            key,
            value,
            flags: 9,
            deadline,
            version: 7 << 40,
            explicit,
            bits,
        };
        Change::Put(put)
    };
    let all = [
        put(&b"plain"[..], None, 0, false),
        put(b"with everything", Some(77), 2000, true),
        Change::FlushAt { deadline: 1001 },
    ];
    let mut encoded = Vec::new();
    all.iter().for_each(|change| change.encode(&mut encoded));
    let header = Header { secs: 1000, wall_ms: 5_000_000, items: 2 };
    let mut writer = Writer::begin(Vec::new(), header).unwrap();
    writer.changes(&encoded, 2).unwrap();
    let (today, _) = writer.end().unwrap();
    if std::env::var_os("UPDATE").is_some() && !Path::new(path).exists() {
        fs::write(path, &today).unwrap();
    }
    let then = fs::read(path).expect("UPDATE=1 records it");
    assert!(
        then == today,
        "other bytes than the first release with this format wrote: that takes a new format"
    );

    let (mut reader, came) = Reader::begin(&then[..]).unwrap();
    assert_eq!(came, header);
    let mut read = Vec::new();
    while reader.next_block(&mut |change| change.encode(&mut read)).unwrap() {}
    assert_eq!(read, encoded);
    let engine = memory();
    let restored = restore(&then[..], &engine, now(1000, 5_000_000), MAX).unwrap();
    assert_eq!((restored.applied, restored.expired, engine.pending_flush()), (2, 0, Some(1001)));
}
