//! Many threads, growth and copies at the same time.

use std::collections::BTreeSet;
use std::thread;

use super::*;
use crate::command::Delete;

#[test]
fn an_item_that_stays_is_scanned_exactly_once_whatever_grows_or_moves() {
    for (mask, shards) in [(u64::MAX, 1), (COLLIDING, 2)] {
        let config = MemoryConfig {
            limit_bytes: 1 << 20,
            geometry: Some(tiny(shards)),
            hash_mask: mask,
            ..MemoryConfig::default()
        };
        let engine = Memory::new(config, Arc::new(NoJournal));
        let mut stable = BTreeSet::new();
        for number in 0..400 {
            let key = format!("stable{number}");
            set(&engine, &key, "x", at(100));
            stable.insert(key.into_bytes());
        }
        let mut seen = BTreeMap::new();
        let mut number = 0;
        for shard in 0..engine.shards() {
            let mut cursor = Some(0);
            while let Some(position) = cursor {
                cursor = engine.scan(shard, position, 60, at(100), &mut |change| {
                    let Change::Put(put) = change else { panic!("a scan has puts only") };
                    *seen.entry(put.key.to_vec()).or_insert(0) += 1;
                });
                // The index grows, then shrinks, and stable items move under the scan.
                for _ in 0..20 {
                    number += 1;
                    set(&engine, &format!("other{number}"), "x", at(100));
                    set(&engine, &format!("stable{}", number % 400), &"y".repeat(number % 30), at(100));
                    if number > 600 {
                        let gone = format!("other{}", 2 * (number - 600));
                        run(&engine, &gone, Op::Delete(Delete::default()), at(100));
                    }
                }
                engine.maintain(at(100), 10, true);
                engine.check();
            }
        }
        assert!(seen.values().all(|&times| times == 1), "nothing is visited twice");
        assert!(stable.iter().all(|key| seen.contains_key(key)), "nothing that stays is missed");
        assert!(engine.stats().classes.values().all(|class| class.evicted == 0));
    }
}

#[test]
fn a_copy_taken_under_writes_equals_its_source() {
    let tape = Arc::new(Tape::default());
    let config = MemoryConfig { limit_bytes: 4 << 20, geometry: Some(tiny(4)), ..MemoryConfig::default() };
    let source = Memory::new(config.clone(), Arc::clone(&tape) as _);
    let copy = Memory::new(MemoryConfig { seed: 9, ..config }, Arc::new(NoJournal));
    for number in 0..1500 {
        set(&source, &format!("k{number}"), "before", at(100));
    }
    set(&copy, "stray", "forgotten", at(100));
    copy.clear(at(100));
    tape.take();
    let mut number = 0;
    for shard in 0..source.shards() {
        let mut cursor = Some(0);
        while let Some(position) = cursor {
            let mut chunk = Vec::new();
            cursor =
                source.scan(shard, position, 500, at(100), &mut |change| chunk.push(Recorded::of(change)));
            for _ in 0..10 {
                number += 7;
                let key = format!("k{}", number % 2000);
                match number % 3 {
                    0 => drop(run(&source, &key, Op::Delete(Delete::default()), at(100))),
                    1 => drop(run(&source, &key, Op::Touch(Exptime(1000)), at(100))),
                    _ => drop(set(&source, &key, &format!("after {number}"), at(100))),
                }
            }
            // Live changes overtake the chunk that was read before them: versions sort it out, but for a
            // delete, which the stream's order per shard keeps behind the item it deletes.
            for recorded in chunk.iter().chain(tape.take().iter().map(|(_, recorded)| recorded)) {
                recorded.apply(&copy, at(100));
            }
        }
    }
    assert_eq!(contents(&source, at(100)), contents(&copy, at(100)));
    copy.check();
}

#[test]
fn increments_of_many_threads_all_count_and_are_recorded_in_order() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 1500;
    const KEYS: u64 = 20;
    let tape = Arc::new(Tape::default());
    let config = MemoryConfig { limit_bytes: 1 << 20, geometry: Some(tiny(4)), ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::clone(&tape) as _);
    for key in 0..KEYS {
        set(&engine, &format!("count{key}"), "0", at(100));
    }
    let results: Vec<Vec<(u64, u64)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS as u64)
            .map(|thread| {
                let engine = &engine;
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    for round in 0..ROUNDS {
                        let key = (round * 7 + thread) % KEYS;
                        let said = run(engine, &format!("count{key}"), Op::Arith(incr(1)), at(100));
                        seen.push((key, said.number));
                        let noise = format!("noise{}", (round * 31 + thread * 7) % 500);
                        set(engine, &noise, &"n".repeat((round % 200) as usize), at(100));
                        if round % 50 == 0 {
                            engine.maintain(at(100), 20, true);
                        }
                    }
                    seen
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    engine.check();
    let mut by_key: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (key, number) in results.into_iter().flatten() {
        by_key.entry(key).or_default().push(number);
    }
    for (key, mut numbers) in by_key {
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "each increment of {key} is seen once");
    }
    let mut last: BTreeMap<Vec<u8>, (u64, u64)> = BTreeMap::new();
    for (_, recorded) in tape.take() {
        let Recorded::Put { key, value, rest: (_, _, version, ..) } = recorded else { continue };
        if key.starts_with(b"count") {
            let number: u64 = std::str::from_utf8(&value).unwrap().trim().parse().unwrap();
            if let Some(&(before, older)) = last.get(&key) {
                assert!(number == before + 1 && version > older, "the journal has the order of memory");
            }
            last.insert(key, (number, version));
        }
    }
}

#[test]
fn the_limit_holds_under_threads_with_large_values() {
    let engine = engine(8 << 20);
    thread::scope(|scope| {
        for thread in 0..4usize {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..400usize {
                    let len = [50, 5000, 60_000, 300_000][(round + thread) % 4];
                    let key = format!("k{}", (round * 17 + thread * 5) % 300);
                    run(engine, &key, Op::Store(store(&vec![b'x'; len])), at(100));
                    assert!(engine.stats().used <= 8 << 20);
                    run(engine, &key, Op::Get(Get::default()), at(100));
                }
            });
        }
    });
    engine.check();
}
