//! The engine against its model, and its promises one by one. Here is what these tests share.

mod model;
mod promises;
mod sharing;
mod warm;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tandem_replication::change::{Bits, Bytes, Change, Put};

use super::{Geometry, Memory, MemoryConfig};
use crate::command::{
    Arith, Command, Exptime, Get, Hit, Kept, Now, Op, Outcome, Payload, Replies, Store, StoreMode, Value,
};
use crate::engine::{Engine, Journal, NoJournal};

fn at(secs: u32) -> Now {
    Now { secs, unix_zero: 1_700_000_000, wall_ms: u64::from(secs) * 1000 }
}

/// An outcome that owns what it says.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    what: &'static str,
    number: u64,
    kept: Kept,
    value: Vec<u8>,
    details: String,
}

fn said(outcome: Outcome<'_>) -> Said {
    let plain =
        |what| Said { what, number: 0, kept: Kept::default(), value: Vec::new(), details: String::new() };
    let hit = |what, hit: Hit<'_>| {
        let value = match hit.value {
            Value::Inline(bytes) => bytes.to_vec(),
            Value::Pages(pages) => pages.chunks().concat(),
        };
        let details = format!("{:?}", Hit { value: Value::Inline(b""), ..hit });
        Said { value, details, ..plain(what) }
    };
    match outcome {
        Outcome::Value(shown) => {
            let value = match shown.value {
                Value::Inline(bytes) => bytes.to_vec(),
                Value::Pages(pages) => pages.chunks().concat(),
            };
            Said { value, details: format!("{} {}", shown.flags, shown.cas), ..plain("value") }
        }
        Outcome::Hit(found) => hit("hit", found),
        Outcome::Touched(found) => hit("touched", found),
        Outcome::Number(number, found) => Said { number, ..hit("number", found) },
        Outcome::Miss => plain("miss"),
        Outcome::Stored(kept) => Said { kept, ..plain("stored") },
        Outcome::Deleted(kept) => Said { kept, ..plain("deleted") },
        Outcome::NotStored => plain("not stored"),
        Outcome::Exists => plain("exists"),
        Outcome::NotFound => plain("not found"),
        Outcome::NonNumeric => plain("non-numeric"),
        Outcome::TooLarge => plain("too large"),
        Outcome::OutOfMemory => plain("out of memory"),
    }
}

#[derive(Default)]
struct Heard(Vec<Said>);

impl Replies for Heard {
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        assert_eq!(index, self.0.len(), "outcomes come in order, one for each command");
        self.0.push(said(outcome));
    }
}

/// A change that owns what it says.
#[derive(Clone, Debug, PartialEq)]
enum Recorded {
    Put { key: Vec<u8>, value: Vec<u8>, rest: (u32, u32, u64, Option<u64>, Bits) },
    Touch(Vec<u8>, u32, u64),
    Delete(Vec<u8>, u64),
    Flush(u64),
    FlushAt(u32),
}

impl Recorded {
    fn of(change: &Change<'_>) -> Self {
        match change {
            Change::Put(put) => Self::Put {
                key: put.key.to_vec(),
                value: match put.value {
                    Bytes::Whole(bytes) => bytes.to_vec(),
                    Bytes::Chunks(chunks) => chunks.concat(),
                },
                rest: (put.flags, put.deadline, put.version, put.explicit, put.bits),
            },
            &Change::Touch { key, deadline, version } => Self::Touch(key.to_vec(), deadline, version),
            &Change::Delete { key, version } => Self::Delete(key.to_vec(), version),
            &Change::Flush { floor } => Self::Flush(floor),
            &Change::FlushAt { deadline } => Self::FlushAt(deadline),
        }
    }

    fn apply(&self, engine: &dyn Engine, now: Now) {
        let chunks: Vec<bytes::Bytes>;
        let change = match self {
            Self::Put { key, value, rest: (flags, deadline, version, explicit, bits) } => {
                chunks = value.chunks(100).map(bytes::Bytes::copy_from_slice).collect();
                let whole = version % 1024 < 512;
                Change::Put(Put {
                    key,
                    value: if whole { Bytes::Whole(value) } else { Bytes::Chunks(&chunks) },
                    flags: *flags,
                    deadline: *deadline,
                    version: *version,
                    explicit: *explicit,
                    bits: *bits,
                })
            }
            Self::Touch(key, deadline, version) => {
                Change::Touch { key, deadline: *deadline, version: *version }
            }
            Self::Delete(key, version) => Change::Delete { key, version: *version },
            Self::Flush(floor) => Change::Flush { floor: *floor },
            Self::FlushAt(deadline) => Change::FlushAt { deadline: *deadline },
        };
        engine.apply(&change, now);
    }
}

#[derive(Default)]
struct Tape(Mutex<Vec<(usize, Recorded)>>);

impl Journal for Tape {
    fn record(&self, shard: usize, change: &Change<'_>) {
        self.0.lock().unwrap().push((shard, Recorded::of(change)));
    }
}

impl Tape {
    fn take(&self) -> Vec<(usize, Recorded)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn execute(engine: &dyn Engine, batch: &[Command<'_>], now: Now) -> Vec<Said> {
    let mut heard = Heard::default();
    engine.execute(batch, now, &mut heard);
    assert_eq!(heard.0.len(), batch.len());
    heard.0
}

fn command<'a>(key: &'a [u8], op: Op<'a>) -> Command<'a> {
    Command { key: Cow::Borrowed(key), op }
}

fn run(engine: &dyn Engine, key: &str, op: Op<'_>, now: Now) -> Said {
    execute(engine, &[command(key.as_bytes(), op)], now).remove(0)
}

fn store(value: &[u8]) -> Store<'_> {
    Store {
        mode: StoreMode::Set,
        flags: 0,
        exptime: Exptime(0),
        value: Payload::Bytes(value),
        compare: None,
        invalidate: false,
        vivify: None,
        explicit: None,
        binary_key: false,
    }
}

fn set(engine: &dyn Engine, key: &str, value: &str, now: Now) -> Said {
    run(engine, key, Op::Store(store(value.as_bytes())), now)
}

fn get(engine: &dyn Engine, key: &str, now: Now) -> Option<String> {
    let said = run(engine, key, Op::Read, now);
    (said.what == "value").then(|| String::from_utf8(said.value).unwrap())
}

fn incr(delta: u64) -> Arith {
    Arith {
        increment: true,
        delta,
        initial: None,
        compare: None,
        touch: None,
        explicit: None,
        binary_key: false,
    }
}

/// Everything that lives in an engine, by key.
fn contents(engine: &dyn Engine, now: Now) -> BTreeMap<Vec<u8>, Recorded> {
    let mut all = BTreeMap::new();
    for shard in 0..engine.shards() {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = engine.scan(shard, at, 300, now, &mut |change| {
                let recorded = Recorded::of(change);
                let Recorded::Put { key, .. } = &recorded else { panic!("a scan has puts only") };
                assert!(all.insert(key.clone(), recorded).is_none(), "a key is visited once");
            });
        }
    }
    all
}

fn tiny(shards: usize) -> Geometry {
    Geometry { shards, segment_bytes: 1024, inline_max: 128, block_buckets: 4, chunk_bytes: 256 }
}

/// An engine of that many bytes, cut as small as it goes.
fn small_engine(limit_bytes: u64) -> Memory {
    let geometry = Some(tiny(2));
    Memory::new(MemoryConfig { limit_bytes, geometry, ..MemoryConfig::default() }, Arc::new(NoJournal))
}

/// An engine as a server makes it.
fn engine(limit_bytes: u64) -> Memory {
    Memory::new(MemoryConfig { limit_bytes, ..MemoryConfig::default() }, Arc::new(NoJournal))
}

/// Bits of the hash that leave few positions, tags and shards.
const COLLIDING: u64 = 0xe000_0000_0000_0103;
