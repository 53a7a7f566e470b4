//! How long a worker is held by one store, whatever the engine does besides: growth, eviction, compaction.
//!
//! In this process, without sockets, and in time on the processor of the thread that stores, so that other
//! work on the machine is not counted; upkeep runs on a thread of its own, as in the server. What interrupts the
//! thread is counted nevertheless: so each store is followed by some arithmetic that takes about as long and no
//! memory, and is measured in the same way. What that suffers is the machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use tandemd::command::{Command, Exptime, Now, Op, Outcome, Payload, Replies, Store, StoreMode};
use tandemd::engine::memory::{Memory, MemoryConfig};
use tandemd::engine::{Engine, NoJournal};

use crate::plot;
use crate::table::markdown;

/// As many as must fit a worker's patience.
const FILL: u64 = 5_000_000;
const STEADY: u64 = 3_000_000;
/// Above this, a store is counted by itself.
const LONG: Duration = Duration::from_micros(100);
/// Items that upkeep looks at in a slice, as in the server.
const UPKEEP_ITEMS: usize = 256;
const NOW: Now = Now { secs: 100, unix_zero: 1_700_000_000, wall_ms: 0 };

struct Nobody;

impl Replies for Nobody {
    fn reply(&mut self, _index: usize, _outcome: Outcome<'_>) {}
}

/// The table and the plot.
pub(crate) fn compare() -> (String, String) {
    let filling = stores(2048, 0, FILL, |_| 100);
    let evicting = stores(256, 1_600_000, STEADY, |_| 100);
    let mixed = stores(256, 1_200_000, STEADY, crate::hits::mixed_size);
    let parts = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
    let micros = |times: &Histogram<u64>, part: f64| times.value_at_quantile(part) as f64 / 1000.0;
    let mut rows = Vec::new();
    for (name, times) in [
        ("filling to 5,000,000 items", &filling.stores),
        ("arithmetic in between", &filling.control),
        ("steady eviction", &evicting.stores),
        ("arithmetic in between", &evicting.control),
        ("the same, 16 to 16,000 bytes", &mixed.stores),
        ("arithmetic in between", &mixed.control),
    ] {
        let mut row = vec![name.to_owned()];
        row.extend(parts.iter().map(|&(_, part)| format!("{:.2}", micros(times, part))));
        row.push(format!("{} of {}", times.count_between(LONG.as_nanos() as u64, times.max()), times.len()));
        println!("{row:?}");
        rows.push(row);
    }
    let bars: Vec<_> = parts
        .iter()
        .map(|&(name, part)| {
            (
                name.to_owned(),
                [&filling.stores, &evicting.stores, &filling.control]
                    .map(|times| Some(micros(times, part)))
                    .to_vec(),
            )
        })
        .collect();
    let head = [
        "stores of 32+100 bytes",
        "p50, µs",
        "p99, µs",
        "p99.9, µs",
        "p99.99, µs",
        "max, µs",
        "above 100 µs",
    ];
    let names = ["filling", "evicting", "arithmetic as long, while filling"];
    let note = "µs on the processor; lower is better. What the arithmetic suffers is the machine's";
    (markdown(&head, &rows), plot::grouped("How long a store holds its worker", note, &names, &bars, None))
}

/// Nanoseconds of each store, and of the arithmetic behind it.
struct Times {
    stores: Histogram<u64>,
    control: Histogram<u64>,
}

/// Stores that many items after some that are not measured.
fn stores(megabytes: u64, before: u64, count: u64, size: impl Fn(u64) -> usize) -> Times {
    let config = MemoryConfig { limit_bytes: megabytes << 20, threads: 1, ..MemoryConfig::default() };
    let engine = Arc::new(Memory::new(config, Arc::new(NoJournal)));
    let stop = Arc::new(AtomicBool::new(false));
    let upkeep = std::thread::spawn({
        let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
        move || {
            while !stop.load(Ordering::Relaxed) {
                let more = engine.maintain(NOW, UPKEEP_ITEMS, true);
                std::thread::park_timeout(Duration::from_micros(if more { 500 } else { 100_000 }));
            }
        }
    });
    let value = vec![b'v'; 16_000];
    let histogram = || Histogram::new(3).expect("three digits");
    let mut times = Times { stores: histogram(), control: histogram() };
    for number in 0..before + count {
        let key = format!("{number:032}");
        let store = Store {
            mode: StoreMode::Set,
            flags: 0,
            exptime: Exptime(0),
            value: Payload::Bytes(&value[..size(number)]),
            compare: None,
            invalidate: false,
            vivify: None,
            explicit: None,
            binary_key: false,
        };
        let command = [Command { key: key.as_bytes().into(), op: Op::Store(store) }];
        let began = thread_nanos();
        engine.execute(&command, NOW, &mut Nobody);
        let stored = thread_nanos();
        arithmetic(number);
        if number >= before {
            times.stores.record(stored - began).expect("it grows as it must");
            times.control.record(thread_nanos() - stored).expect("it grows as it must");
        }
    }
    stop.store(true, Ordering::Relaxed);
    upkeep.thread().unpark();
    upkeep.join().expect("upkeep");
    times
}

/// Takes about as long as a store, and no memory.
fn arithmetic(seed: u64) {
    let mut number = seed | 1;
    for _ in 0..300 {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17));
    }
}

/// What this thread has had of a processor.
fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every kernel has this clock");
    Duration::from(time).as_nanos() as u64
}
