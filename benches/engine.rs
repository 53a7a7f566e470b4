//! What the engine costs: CPU time per operation, bytes per item, hit ratios, longest operations.
//!
//! `cargo bench --bench engine` prints everything; words behind `--` choose parts: `memory`, `speed`,
//! `hits`, `latency`, `threads`. Times are CPU time of the thread, so that a busy machine disturbs little.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tandemd::command::{Command, Exptime, Get, Now, Op, Outcome, Payload, Replies, Store, StoreMode, Value};
use tandemd::engine::memory::{Memory, MemoryConfig};
use tandemd::engine::{Engine, NoJournal, SLAB_SIZES, memcached_class, memcached_size};

const NOW: Now = Now { secs: 100, unix_zero: 1_700_000_000, wall_ms: 60_000_000_000 };

/// Counts hits and copies values as a connection would.
#[derive(Default)]
struct Copies {
    hits: u64,
    buffer: Vec<u8>,
}

impl Replies for Copies {
    fn reply(&mut self, _index: usize, outcome: Outcome<'_>) {
        if let Outcome::Hit(hit) = outcome {
            self.hits += 1;
            self.buffer.clear();
            match hit.value {
                Value::Inline(bytes) => self.buffer.extend_from_slice(bytes),
                Value::Pages(pages) => _ = black_box(pages.clone()),
            }
        }
    }
}

/// CPU time of this thread in nanoseconds, as the kernel's scheduler counts it.
fn cpu_nanos() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// xorshift64*: a fixed sequence, so that runs compare.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks by Zipf's law, by inverting an approximation of its integral.
struct Zipf {
    count: f64,
    exponent: f64,
}

impl Zipf {
    fn rank(&self, random: &mut Random) -> u64 {
        let (n, s) = (self.count, 1.0 - self.exponent);
        let u = random.unit();
        let x = if s.abs() < 1e-9 { n.powf(u) } else { ((n.powf(s) - 1.0) * u + 1.0).powf(1.0 / s) };
        (x as u64).min(self.count as u64 - 1)
    }
}

fn engine(limit_bytes: u64, threads: usize) -> Memory {
    let config = MemoryConfig { limit_bytes, threads, seed: 7, ..MemoryConfig::default() };
    Memory::new(config, Arc::new(NoJournal))
}

fn key(buffer: &mut [u8], number: u64) -> &[u8] {
    let mut left = number;
    for byte in buffer.iter_mut().rev() {
        *byte = b'0' + (left % 10) as u8;
        left /= 10;
    }
    buffer
}

fn get(key: &[u8]) -> Command<'_> {
    Command { key: Cow::Borrowed(key), op: Op::Get(Get::default()) }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    let store = Store {
        mode: StoreMode::Set,
        flags: 0,
        exptime: Exptime(0),
        value: Payload::Bytes(value),
        compare: None,
        invalidate: false,
        vivify: None,
        explicit: None,
        binary_key: false,
    };
    Command { key: Cow::Borrowed(key), op: Op::Store(store) }
}

fn fill(engine: &Memory, count: u64, key_len: usize, value_len: usize) {
    let (mut buffer, value) = (vec![0; key_len], vec![b'v'; value_len]);
    let mut replies = Copies::default();
    for number in 0..count {
        engine.execute(&[set(key(&mut buffer, number), &value)], NOW, &mut replies);
    }
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn memory() {
    println!("\nmemory: bytes of overhead per item, full cache (goal 32 / 41 / 46 / 58)");
    println!("{:>10} {:>8} {:>10} {:>9} {:>9}", "item", "limit", "items", "charged", "resident");
    for limit in [64u64 << 20, 1 << 30] {
        for (key_len, value_len) in [(16, 32), (32, 100), (32, 300), (32, 1024)] {
            let before = resident_bytes();
            let engine = engine(limit, 4);
            let payload = (key_len + value_len) as u64;
            fill(&engine, limit / payload * 5 / 4, key_len, value_len);
            let (items, used) = (engine.items(), engine.stats().used);
            assert!(used <= limit);
            let resident = resident_bytes().saturating_sub(before);
            let overhead = |bytes: u64| bytes as f64 / items as f64 - payload as f64;
            println!(
                "{:>10} {:>6}Mi {items:>10} {:>9.1} {:>9.1}",
                format!("{key_len}+{value_len}"),
                limit >> 20,
                overhead(used),
                overhead(resident)
            );
        }
    }
}

/// CPU nanoseconds per item of `count` commands made by `make`, `batch` at a time.
fn time<'a>(
    engine: &Memory,
    count: u64,
    keys: &'a [[u8; 32]],
    mut make: impl FnMut(&'a [u8]) -> Command<'a>,
    pick: impl Fn(&mut Random) -> usize,
    batch: usize,
) -> f64 {
    let mut random = Random(42);
    let mut replies = Copies::default();
    let mut commands = Vec::with_capacity(batch);
    let start = cpu_nanos();
    for _ in 0..count / batch as u64 {
        commands.clear();
        for _ in 0..batch {
            commands.push(make(&keys[pick(&mut random)]));
        }
        engine.execute(&commands, NOW, &mut replies);
    }
    (cpu_nanos() - start) as f64 / count as f64
}

fn speed() {
    const ITEMS: u64 = 3_000_000;
    println!("\nspeed: CPU ns per operation, {ITEMS} items of 32+100 bytes");
    let keys: Vec<[u8; 32]> = (0..2 * ITEMS)
        .map(|number| {
            let mut buffer = [0; 32];
            key(&mut buffer, number);
            buffer
        })
        .collect();
    let engine = engine(1 << 30, 4);
    let value = [b'v'; 100];
    let start = cpu_nanos();
    fill(&engine, ITEMS, 32, 100);
    println!(
        "{:>40} {:>8.0}   (prototype 340-570)",
        "insert from empty",
        (cpu_nanos() - start) as f64 / ITEMS as f64
    );
    let resident = &keys[..ITEMS as usize];
    let absent = &keys[ITEMS as usize..];
    let random = |random: &mut Random| random.below(ITEMS) as usize;
    let hot = |random: &mut Random| random.below(1000) as usize;
    let count = 2_000_000;
    let line = |what: &str, nanos: f64, goal: &str| println!("{what:>40} {nanos:>8.0}   ({goal})");
    line("get, 1000 hot keys", time(&engine, count, resident, get, hot, 1), "goal 45");
    line("get, 1000 hot keys, batch 16", time(&engine, count, resident, get, hot, 16), "");
    line("get, random", time(&engine, count, resident, get, random, 1), "goal 360");
    line("get, random, batch 16", time(&engine, count, resident, get, random, 16), "goal 85");
    line("get, missing", time(&engine, count, absent, get, random, 1), "goal 180");
    line("get, missing, batch 16", time(&engine, count, absent, get, random, 16), "");
    let store = |key| set(key, &value);
    line("set in place, random", time(&engine, count, resident, store, random, 1), "goal 380");
    line("set in place, random, batch 16", time(&engine, count, resident, store, random, 16), "");
    drop(engine);
    let engine = self::engine(256 << 20, 4);
    fill(&engine, ITEMS, 32, 100);
    line(
        "set new and evict",
        time(&engine, count, &keys, store, |random| random.below(2 * ITEMS) as usize, 1),
        "goal 420",
    );
    line(
        "set new and evict, batch 16",
        time(&engine, count, &keys, store, |random| random.below(2 * ITEMS) as usize, 16),
        "",
    );
}

/// Sizes of values by key: log-normal, 16 to 16,000 bytes, median 230.
fn mixed_size(number: u64) -> usize {
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    let sum: f64 = (0..12).map(|_| random.unit()).sum();
    ((230.0f64.ln() + 1.1 * (sum - 6.0)).exp() as usize).clamp(16, 16_000)
}

fn hits() {
    println!("\nhits: get, set on a miss, second half of 4,000,000 requests, 64 MiB");
    println!("(LRU: the same bytes of memcached-sized chunks, exactly least recently used)");
    println!("{:>34} {:>7} {:>7} {:>9}", "workload", "LRU", "ours", "points");
    let value = vec![b'v'; 16_000];
    let run = |name: &str, small: bool, pick: &mut dyn FnMut(&mut Random, u64) -> u64| {
        let engine = engine(64 << 20, 4);
        let mut lru = Lru::new(64 << 20);
        let mut random = Random(1234);
        let (mut buffer, mut hits, mut lru_hits) = ([0; 20], 0u64, 0u64);
        let mut replies = Copies::default();
        let requests = 4_000_000;
        for request in 0..requests {
            let number = pick(&mut random, request);
            let len = if small { 32 } else { mixed_size(number) };
            let counts = u64::from(request >= requests / 2);
            let before = replies.hits;
            engine.execute(&[get(key(&mut buffer, number))], NOW, &mut replies);
            if replies.hits == before {
                engine.execute(&[set(key(&mut buffer, number), &value[..len])], NOW, &mut replies);
            } else {
                hits += counts;
            }
            lru_hits += counts * u64::from(lru.ask(number, memcached_size(buffer.len(), len, 0, true)));
        }
        let stats = engine.stats();
        let ratio = |hits: u64| hits as f64 / (requests / 2) as f64;
        let (evicted, active) = stats.classes.values().fold((0, 0), |(evicted, active), class| {
            (evicted + class.evicted, active + class.evicted_active)
        });
        println!(
            "{name:>34} {:>7.4} {:>7.4} {:>+9.1} ({} items for LRU's {}; {:.2} % of evictions in use)",
            ratio(lru_hits),
            ratio(hits),
            100.0 * (ratio(hits) - ratio(lru_hits)),
            stats.curr_items,
            lru.entries.len(),
            active as f64 * 100.0 / evicted.max(1) as f64
        );
    };
    let zipf = |count: f64, exponent: f64| Zipf { count, exponent };
    let z = zipf(4e6, 0.99);
    run("zipf 0.99, 4M keys, 32 bytes", true, &mut |random, _| z.rank(random));
    let z = zipf(1e6, 0.99);
    run("zipf 0.99, 1M keys, mixed", false, &mut |random, _| z.rank(random));
    let z = zipf(1e6, 0.8);
    run("zipf 0.8, mixed", false, &mut |random, _| z.rank(random));
    let z = zipf(1e6, 1.1);
    run("zipf 1.1, mixed", false, &mut |random, _| z.rank(random));
    let z = zipf(1e6, 0.9);
    run("zipf 0.9 + 25 % scan", false, &mut |random, request| {
        if random.below(4) == 0 { 10_000_000 + request } else { z.rank(random) }
    });
    let z = zipf(1e6, 0.99);
    run("drifting popularity", false, &mut |random, request| z.rank(random) + request / 20);
    run("recent keys (exponential)", false, &mut |random, request| {
        let back = -(1.0 - random.unit()).ln() * 100_000.0;
        (request / 2 + 1_000_000).saturating_sub(back as u64)
    });
}

/// Exactly least recently used, over items rounded up to memcached's chunks: what memcached's
/// eviction aims at, without its page and class losses and without its hash table's bytes.
struct Lru {
    limit: usize,
    used: usize,
    clock: u64,
    entries: HashMap<u64, (u64, usize)>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, clock: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    /// Whether it was there; it is now.
    fn ask(&mut self, number: u64, size: usize) -> bool {
        self.clock += 1;
        let chunk = SLAB_SIZES[usize::from(memcached_class(size)) - 1];
        let before = self.entries.insert(number, (self.clock, chunk));
        self.order.insert(self.clock, number);
        if let Some((clock, _)) = before {
            self.order.remove(&clock);
            return true;
        }
        self.used += chunk;
        while self.used > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.used -= self.entries.remove(&oldest).map_or(0, |(_, chunk)| chunk);
        }
        false
    }
}

fn percentile(sorted: &[u64], part: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn latency() {
    println!("\nlatency: wall ns per single set (goals: fill p99.9 5,000, p99.99 50,000; evict p99.9 3,000)");
    let measure = |name: &str, engine: &Memory, numbers: std::ops::Range<u64>| {
        let (mut buffer, value) = ([0; 32], [b'v'; 100]);
        let mut replies = Copies::default();
        let mut times = Vec::with_capacity((numbers.end - numbers.start) as usize);
        for number in numbers {
            let command = [set(key(&mut buffer, number), &value)];
            let start = Instant::now();
            engine.execute(&command, NOW, &mut replies);
            times.push(start.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        let [p50, p99, p999, p9999] = [0.5, 0.99, 0.999, 0.9999].map(|part| percentile(&times, part));
        println!(
            "{name:>30}: p50 {p50} p99 {p99} p99.9 {p999} p99.99 {p9999} max {}",
            times.last().copied().unwrap_or(0)
        );
    };
    let filling = engine(1 << 30, 1);
    measure("fill from empty", &filling, 0..3_000_000);
    let evicting = engine(128 << 20, 1);
    fill(&evicting, 1_500_000, 32, 100);
    measure("steady eviction", &evicting, 2_000_000..4_000_000);
    let mut replies = Copies::default();
    let mut buffer = [0; 32];
    for _ in 0..3 {
        for number in 2_000_000..4_000_000 {
            evicting.execute(&[get(key(&mut buffer, number))], NOW, &mut replies);
        }
    }
    measure("all in use, only new keys", &evicting, 5_000_000..6_000_000);
}

fn threads() {
    println!("\nthreads: million operations per second of wall time, 1 and 2 threads");
    let engine = engine(1 << 30, 2);
    fill(&engine, 2_000_000, 32, 100);
    let run = |name: &str, threads: u64, keys: u64, batch: usize| {
        let start = Instant::now();
        let count = 4_000_000 / threads;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let engine = &engine;
                scope.spawn(move || {
                    let mut random = Random(thread + 1);
                    let mut replies = Copies::default();
                    let mut buffers = vec![[0; 32]; batch];
                    for _ in 0..count / batch as u64 {
                        for buffer in &mut buffers {
                            key(buffer, random.below(keys));
                        }
                        let commands: Vec<_> = buffers.iter().map(|buffer| get(buffer)).collect();
                        engine.execute(&commands, NOW, &mut replies);
                    }
                });
            }
        });
        println!("{name:>24}, {threads} threads: {:.1}", 4.0 / start.elapsed().as_secs_f64());
    };
    for threads in [1, 2] {
        run("one key", threads, 1, 1);
        run("1000 keys", threads, 1000, 1);
        run("random", threads, 2_000_000, 1);
        run("random, batch 16", threads, 2_000_000, 16);
    }
}

/// A little of everything, for an instruction counter: `valgrind --tool=callgrind … instructions`.
fn instructions() {
    let engine = engine(64 << 20, 1);
    let keys: Vec<[u8; 32]> = (0..10_000)
        .map(|number| {
            let mut buffer = [0; 32];
            key(&mut buffer, number);
            buffer
        })
        .collect();
    let value = [b'v'; 100];
    fill(&engine, 10_000, 32, 100);
    let random = |random: &mut Random| random.below(10_000) as usize;
    for batch in [1, 16] {
        time(&engine, 100_000, &keys, get, random, batch);
        time(&engine, 100_000, &keys, |key| set(key, &value), random, batch);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if words.iter().any(|word| word == "instructions") {
        return instructions();
    }
    let parts: [(&str, fn()); 5] =
        [("memory", memory), ("speed", speed), ("hits", hits), ("latency", latency), ("threads", threads)];
    for (name, part) in parts {
        if words.is_empty() || words.iter().any(|word| word == name) {
            part();
        }
    }
}
