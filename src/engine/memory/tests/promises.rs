//! What clients and the operator may rely on, one promise each.

use tandem_replication::change::Merged;

use super::*;
use crate::command::{Deadline, Delete, Pages, ReadKind};
use crate::engine::model::ModelEngine;

const START: u32 = 100;

fn put_with(
    engine: &dyn Engine,
    key: &str,
    value: &[u8],
    change: impl FnOnce(&mut Store<'_>),
    now: Now,
) -> Said {
    let mut wanted = store(value);
    change(&mut wanted);
    run(engine, key, Op::Store(wanted), now)
}

fn details(engine: &dyn Engine, key: &str, get: Get, now: Now) -> String {
    let said = run(engine, key, Op::Get(get), now);
    format!("{} {}", said.what, said.details)
}

#[test]
fn a_pipelined_get_sees_the_set_before_it() {
    let engine = engine(8 << 20);
    let keys: Vec<String> = (0..50).map(|number| format!("key{number}")).collect();
    let mut batch = Vec::new();
    for key in &keys {
        batch.push(command(key.as_bytes(), Op::Store(store(key.as_bytes()))));
        batch.push(command(key.as_bytes(), Op::Read));
    }
    let said = execute(&engine, &batch, at(START));
    for (pair, key) in said.chunks(2).zip(&keys) {
        assert_eq!((pair[0].what, pair[1].what), ("stored", "value"));
        assert_eq!(pair[1].value, key.as_bytes());
    }
}

#[test]
fn a_batch_looks_again_for_what_its_own_commands_moved() {
    let engine = engine(8 << 20);
    let (short, long) = ([b's'; 10], [b'l'; 500]);
    for key in ["moved", "deleted", "stays"] {
        run(&engine, key, Op::Store(store(&short)), at(START));
    }
    let get = |key| command(key, Op::Read);
    let batch = [
        command(b"moved", Op::Store(store(&long))),
        get(b"moved"),
        command(b"deleted", Op::Delete(Delete::default())),
        get(b"deleted"),
        get(b"stays"),
        command(b"deleted", Op::Store(store(&long))),
        get(b"deleted"),
        command(b"stays", Op::Store(store(&long[..10]))),
        get(b"stays"),
    ];
    let said: Vec<_> =
        execute(&engine, &batch, at(START)).into_iter().map(|said| (said.what, said.value)).collect();
    let values =
        [(1, Some(&long[..])), (3, None), (4, Some(&short)), (6, Some(&long)), (8, Some(&long[..10]))];
    for (index, value) in values {
        let expected = value.map_or(("miss", Vec::new()), |value| ("value", value.to_vec()));
        assert_eq!(said[index], expected, "command {index}");
    }
}

#[test]
fn foreseeing_keys_changes_nothing_that_anybody_sees() {
    let engine = engine(8 << 20);
    for number in 0..100 {
        set(&engine, &format!("key{number}"), "value", at(START));
    }
    let seen = || (format!("{:?}", engine.stats()), contents(&engine, at(START)));
    let before = seen();
    let keys: Vec<String> = (0..200).map(|number| format!("key{number}")).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    engine.foresee(&keys);
    engine.foresee(&[b"", &[b'k'; 300]]);
    engine.foresee(&[]);
    assert_eq!(seen(), before);
}

#[test]
fn flush_all_takes_what_was_stored_and_nothing_that_follows_in_the_same_second() {
    let engine = small_engine(1 << 20);
    for key in ["a", "b", "c"] {
        set(&engine, key, "old", at(START));
    }
    engine.flush(None, at(START));
    set(&engine, "b", "new", at(START));
    assert_eq!(get(&engine, "a", at(START)), None);
    assert_eq!(get(&engine, "b", at(START)).as_deref(), Some("new"));
    assert_eq!(get(&engine, "b", at(START + 1)).as_deref(), Some("new"));
    let stats = engine.stats();
    assert_eq!((stats.commands.cmd_flush, stats.commands.get_flushed), (1, 1), "a was read, b was set");
    assert_eq!(stats.classes[&1].reclaimed, 1, "setting a flushed key reclaims it");
}

#[test]
fn a_delayed_flush_takes_what_is_stored_until_its_second() {
    let engine = small_engine(1 << 20);
    set(&engine, "before", "x", at(START));
    engine.flush(Some(START + 5), at(START));
    set(&engine, "between", "x", at(START + 4));
    assert_eq!(engine.pending_flush(), Some(START + 5));
    assert!(get(&engine, "before", at(START + 4)).is_some());
    set(&engine, "after", "x", at(START + 5));
    assert_eq!(engine.pending_flush(), None);
    let found = ["before", "between", "after"].map(|key| get(&engine, key, at(START + 5)).is_some());
    assert_eq!(found, [false, false, true]);
}

#[test]
fn a_later_flush_all_replaces_a_pending_one() {
    let engine = small_engine(1 << 20);
    engine.flush(Some(START + 5), at(START));
    engine.flush(Some(START + 500), at(START));
    set(&engine, "a", "x", at(START));
    assert!(get(&engine, "a", at(START + 10)).is_some());
    engine.flush(None, at(START + 10));
    set(&engine, "a", "y", at(START + 10));
    assert!(get(&engine, "a", at(START + 600)).is_some(), "nothing is pending any more");
}

#[test]
fn only_a_serving_node_turns_a_delayed_flush_into_a_flush() {
    let tape = Arc::new(Tape::default());
    let config = MemoryConfig { limit_bytes: 1 << 20, geometry: Some(tiny(2)), ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::clone(&tape) as _);
    engine.apply(&Change::FlushAt { deadline: START + 5 }, at(START));
    engine.maintain(at(START + 6), 100, false);
    assert_eq!(engine.pending_flush(), Some(START + 5), "the master's flush will come");
    assert!(tape.take().is_empty(), "what is applied is not recorded");
    engine.maintain(at(START + 6), 100, true);
    assert_eq!(engine.pending_flush(), None);
    assert!(matches!(tape.take()[..], [(0, Recorded::Flush(_)), (1, Recorded::Flush(_))]));
    engine.apply(&Change::FlushAt { deadline: START + 50 }, at(START + 6));
    engine.apply(&Change::Flush { floor: 1 }, at(START + 6));
    assert_eq!(engine.pending_flush(), None, "a flush that came replaces one that was to come");
}

#[test]
fn a_number_with_kilobytes_behind_it_is_a_number() {
    let engine = small_engine(1 << 20);
    for len in [100, 1_000, 10_000] {
        let value = format!("41 {}", "x".repeat(len));
        set(&engine, "k", &value, at(START));
        let said = run(&engine, "k", Op::Arith(incr(1)), at(START));
        assert_eq!((said.what, said.number), ("number", 42), "{len} bytes");
        let padded = format!("42{}", " ".repeat(value.len() - 2));
        assert_eq!(get(&engine, "k", at(START)), Some(padded), "{len} bytes");
        set(&engine, "k", &format!("x41 {value}"), at(START));
        assert_eq!(run(&engine, "k", Op::Arith(incr(1)), at(START)).what, "non-numeric");
        // What is put in front of a large value has a chunk of its own.
        for (front, said) in [("7", "non-numeric"), ("8 ", "number")] {
            let prepend = Store { mode: StoreMode::Prepend, ..store(front.as_bytes()) };
            assert_eq!(run(&engine, "k", Op::Store(prepend), at(START)).what, "stored");
            assert_eq!(run(&engine, "k", Op::Arith(incr(1)), at(START)).what, said, "{front:?}, {len} bytes");
        }
    }
}

#[test]
fn an_item_dies_in_the_second_of_its_deadline() {
    let engine = small_engine(1 << 20);
    put_with(&engine, "ten", b"x", |store| store.exptime = Exptime(10), at(START));
    put_with(&engine, "unix", b"x", |store| store.exptime = Exptime(1_700_000_000 + 120), at(START));
    put_with(&engine, "past", b"x", |store| store.exptime = Exptime(-1), at(START));
    assert!(get(&engine, "ten", at(START + 9)).is_some());
    assert!(get(&engine, "ten", at(START + 10)).is_none());
    assert!(get(&engine, "unix", at(119)).is_some());
    assert!(get(&engine, "unix", at(120)).is_none());
    assert!(get(&engine, "past", at(START)).is_none());
    assert_eq!(engine.stats().commands.get_expired, 3);
    assert_eq!(engine.items(), 0, "who is found dead is removed");
}

#[test]
fn expired_and_flushed_items_that_nobody_asks_for_give_their_memory_back() {
    let engine = engine(8 << 20);
    for number in 0..2000 {
        let key = format!("key{number}");
        put_with(&engine, &key, &[b'x'; 200], |store| store.exptime = Exptime(1 + number % 50), at(START));
    }
    let full = engine.stats().used;
    while engine.maintain(at(START + 25), 100, true) {}
    assert_eq!(engine.items(), 2000 / 50 * 25, "those of the second half are left");
    engine.flush(None, at(START + 25));
    while engine.maintain(at(START + 25), 100, true) {}
    engine.check();
    assert_eq!(engine.items(), 0);
    assert!(engine.stats().used < full / 2, "{} of {full}", engine.stats().used);
}

#[test]
fn decr_pads_and_incr_grows_and_both_keep_flags_and_deadline() {
    let engine = small_engine(1 << 20);
    put_with(&engine, "n", b"10", |store| (store.flags, store.exptime) = (7, Exptime(50)), at(START));
    let decr = Arith { increment: false, ..incr(1) };
    assert_eq!(run(&engine, "n", Op::Arith(decr.clone()), at(START)).value, b"9 ");
    assert_eq!(run(&engine, "n", Op::Arith(incr(991)), at(START)).value, b"1000");
    let found = details(&engine, "n", Get::default(), at(START));
    assert!(found.contains("flags: 7") && found.contains("deadline: Deadline(150)"), "{found}");
    set(&engine, "n", "18446744073709551615", at(START));
    assert_eq!(run(&engine, "n", Op::Arith(incr(2)), at(START)).number, 1, "it wraps");
    set(&engine, "n", "3", at(START));
    let decr = Arith { delta: 10, ..decr };
    assert_eq!(run(&engine, "n", Op::Arith(decr), at(START)).number, 0, "it stops at 0");
    for text in ["", "x", "-1", "1x"] {
        set(&engine, "n", text, at(START));
        assert_eq!(run(&engine, "n", Op::Arith(incr(1)), at(START)).what, "non-numeric", "{text:?}");
    }
}

#[test]
fn one_client_wins_the_right_to_refresh_a_stale_item() {
    let engine = small_engine(1 << 20);
    let meta = || Get { kind: ReadKind::Meta, ..Get::default() };
    set(&engine, "k", "old", at(START));
    let delete = Delete { invalidate: true, touch: Some(Exptime(30)), ..Delete::default() };
    let stale = run(&engine, "k", Op::Delete(delete), at(START));
    assert_eq!(stale.what, "deleted");
    let first = details(&engine, "k", meta(), at(START));
    assert!(first.contains("won: true, stale: true, win_sent: false"), "{first}");
    let second = details(&engine, "k", meta(), at(START));
    assert!(second.contains("won: false, stale: true, win_sent: true"), "{second}");
    // The winner's token is older than an invalidation that came meanwhile: stored, but stale still.
    let again = run(&engine, "k", Op::Delete(Delete { invalidate: true, ..Delete::default() }), at(START));
    let late = put_with(
        &engine,
        "k",
        b"late",
        |store| (store.compare, store.invalidate) = (Some(stale.kept.cas), true),
        at(START),
    );
    assert_eq!(late.what, "stored");
    let third = details(&engine, "k", meta(), at(START));
    assert!(third.contains("deadline: Deadline(130)") && third.contains("won: true, stale: true"), "{third}");
    let exists = put_with(&engine, "k", b"x", |store| store.compare = Some(again.kept.cas), at(START));
    assert_eq!(exists.what, "exists");
    set(&engine, "k", "fresh", at(START));
    assert!(details(&engine, "k", meta(), at(START)).contains("stale: false, win_sent: false"));
}

#[test]
fn one_client_wins_the_right_to_fill_a_missing_item_or_to_renew_it_early() {
    let engine = small_engine(1 << 20);
    let ask = || Get { kind: ReadKind::Meta, vivify: Some(Exptime(60)), ..Get::default() };
    let first = details(&engine, "k", ask(), at(START));
    assert!(first.contains("won: true") && first.contains("created: true"), "{first}");
    let second = details(&engine, "k", ask(), at(START));
    assert!(second.contains("won: false") && second.contains("win_sent: true"), "{second}");
    put_with(&engine, "k", b"x", |store| store.exptime = Exptime(60), at(START));
    let early = || Get { kind: ReadKind::Meta, recache: Some(30), ..Get::default() };
    assert!(details(&engine, "k", early(), at(START + 30)).contains("won: false"));
    assert!(details(&engine, "k", early(), at(START + 31)).contains("won: true"));
    assert!(details(&engine, "k", early(), at(START + 31)).contains("won: false"));
}

#[test]
fn a_value_in_chunks_is_no_number_whatever_its_cas_unique_is() {
    let engine = Memory::new(MemoryConfig::default(), Arc::new(NoJournal));
    for (len, said) in [(500 << 10, "exists"), (520 << 10, "non-numeric")] {
        set(&engine, "k", &"1".repeat(len), at(START));
        let arith = Arith {
            increment: true,
            delta: 1,
            initial: None,
            compare: Some(1),
            touch: None,
            explicit: None,
            binary_key: false,
        };
        assert_eq!(run(&engine, "k", Op::Arith(arith), at(START)).what, said, "{len} bytes");
    }
}

#[test]
fn a_read_shows_what_was_before_it() {
    let engine = small_engine(1 << 20);
    set(&engine, "k", "x", at(START));
    let touch = Get { kind: ReadKind::Meta, touch: Some(Exptime(20)), ..Get::default() };
    let quiet = Get { no_bump: true, ..Get::default() };
    let found = details(&engine, "k", quiet, at(START + 3));
    assert!(found.contains("idle_secs: 3, fetched: false"), "{found}");
    let found = details(&engine, "k", touch, at(START + 3));
    assert!(found.contains("deadline: Deadline(0), deadline_after: Deadline(123)"), "{found}");
    assert!(found.contains("idle_secs: 3, fetched: false"), "a quiet read left no trace: {found}");
    let found = details(&engine, "k", Get::default(), at(START + 5));
    assert!(found.contains("idle_secs: 2, fetched: true"), "{found}");
}

#[test]
fn without_cas_none_is_shown() {
    let config = MemoryConfig { limit_bytes: 8 << 20, cas: false, ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::new(NoJournal));
    assert_eq!(set(&engine, "k", "x", at(START)).kept.cas, 0);
    assert!(details(&engine, "k", Get::default(), at(START)).contains("cas: 0"));
}

#[test]
fn without_evictions_a_full_engine_refuses_and_keeps_what_it_has() {
    let geometry = Some(tiny(1));
    let config = MemoryConfig { limit_bytes: 20_000, evict: false, geometry, ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::new(NoJournal));
    let mut kept = Vec::new();
    for number in 0..1000 {
        let key = format!("key{number}");
        match set(&engine, &key, "a value of thirty characters..", at(START)).what {
            "stored" => kept.push(key),
            other => assert_eq!(other, "out of memory"),
        }
        engine.check();
    }
    assert!(kept.len() > 100 && kept.len() < 300, "{}", kept.len());
    assert!(kept.iter().all(|key| get(&engine, key, at(START)).is_some()));
    assert_eq!(engine.stats().classes.values().map(|class| class.evicted).sum::<u64>(), 0);
    let same_size = set(&engine, &kept[0], "A VALUE OF THIRTY CHARACTERS..", at(START));
    assert_eq!(same_size.what, "stored", "overwriting in place needs no memory");
    assert_eq!(set(&engine, &kept[1], &"x".repeat(100), at(START)).what, "out of memory");
    assert_eq!(get(&engine, &kept[1], at(START)), None, "a set that failed leaves no old value");
    for key in &kept {
        run(&engine, key, Op::Delete(Delete::default()), at(START));
    }
    for key in &kept {
        assert_eq!(set(&engine, key, &"y".repeat(20), at(START)).what, "stored", "deletes made room");
    }
    engine.check();
}

#[test]
fn without_evictions_expired_items_make_room() {
    let geometry = Some(tiny(1));
    let config = MemoryConfig { limit_bytes: 20_000, evict: false, geometry, ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::new(NoJournal));
    for number in 0..1000 {
        put_with(&engine, &number.to_string(), &[b'x'; 40], |store| store.exptime = Exptime(10), at(START));
    }
    for number in 0..100 {
        let said = put_with(&engine, &format!("n{number}"), &[b'x'; 40], |_| (), at(START + 10));
        assert_eq!(said.what, "stored", "{number}");
        engine.check();
    }
}

#[test]
fn large_values_come_back_as_they_were_and_can_be_extended() {
    let engine = engine(16 << 20);
    let value: Vec<u8> = (0..700_000u32).map(|at| (at % 251) as u8).collect();
    put_with(&engine, "k", &value, |_| (), at(START));
    let add = |engine: &Memory, more: &[u8], mode| {
        assert_eq!(put_with(engine, "k", more, |store| store.mode = mode, at(START)).what, "stored");
    };
    add(&engine, b"tail", StoreMode::Append);
    add(&engine, b"head", StoreMode::Prepend);
    let expected = [b"head", &value[..], b"tail"].concat();
    assert_eq!(run(&engine, "k", Op::Get(Get::default()), at(START)).value, expected);
    // A small value grows to a large one.
    set(&engine, "s", "start", at(START));
    let mut grown = b"start".to_vec();
    for _ in 0..100 {
        put_with(&engine, "s", &[b'.'; 500], |store| store.mode = StoreMode::Append, at(START));
        grown.extend_from_slice(&[b'.'; 500]);
    }
    assert_eq!(run(&engine, "s", Op::Get(Get::default()), at(START)).value, grown);
    assert_eq!(run(&engine, "s", Op::Arith(incr(1)), at(START)).what, "non-numeric");
    let too_large = put_with(&engine, "k", &value, |store| store.mode = StoreMode::Append, at(START));
    assert_eq!(too_large.what, "not stored");
    assert_eq!(put_with(&engine, "k", &[0; 1 << 20], |_| (), at(START)).what, "too large");
    assert_eq!(get(&engine, "k", at(START)), None, "a set that failed leaves no old value");
    engine.check();
}

#[test]
fn a_reader_keeps_a_large_value_that_is_replaced_and_its_memory_counts() {
    struct Holder(Option<Pages>);
    impl Replies for Holder {
        fn reply(&mut self, _index: usize, outcome: Outcome<'_>) {
            if let Outcome::Hit(Hit { value: Value::Pages(pages), .. }) = outcome {
                self.0 = Some(pages.clone());
            }
        }
    }
    let engine = engine(16 << 20);
    put_with(&engine, "k", &[b'a'; 100_000], |_| (), at(START));
    let mut holder = Holder(None);
    engine.execute(&[command(b"k", Op::Get(Get::default()))], at(START), &mut holder);
    let pages = holder.0.expect("a large value comes in pages");
    put_with(&engine, "k", &[b'b'; 100_000], |_| (), at(START));
    assert!(pages.chunks().iter().all(|chunk| chunk.iter().all(|&byte| byte == b'a')));
    assert!(engine.stats().pinned_bytes >= 100_000);
    engine.check();
    drop(pages);
    assert_eq!(engine.stats().pinned_bytes, 0);
    engine.check();
}

#[test]
fn a_value_can_be_read_straight_into_its_pages() {
    let engine = engine(16 << 20);
    let mut reserved = engine.reserve(200_000, at(START)).unwrap();
    for (number, chunk) in reserved.chunks.iter_mut().enumerate() {
        chunk.fill(number as u8);
    }
    let last = reserved.chunks.len() - 1;
    let pages = reserved.freeze();
    let said = run(&engine, "k", Op::Store(Store { value: Payload::Pages(pages), ..store(b"") }), at(START));
    assert_eq!((said.what, said.kept.len), ("stored", 200_000));
    let value = run(&engine, "k", Op::Get(Get::default()), at(START)).value;
    assert!(last > 1);
    assert_eq!((value.len(), value[0], usize::from(value[199_999])), (200_000, 0, last));
    let used = || engine.stats().used - engine.shared.budget.kept();
    let before = used();
    drop(engine.reserve(200_000, at(START)).unwrap());
    assert_eq!(used(), before, "an unfinished reservation is given back");
    assert_eq!(engine.reserve(17 << 20, at(START)).err(), Some(crate::engine::OutOfMemory));
}

#[test]
fn large_and_small_values_take_each_others_memory() {
    let engine = engine(8 << 20);
    for round in 0..3 {
        for number in 0..60 {
            let said = put_with(&engine, &format!("large{number}"), &[b'x'; 500_000], |_| (), at(START));
            assert_eq!(said.what, "stored", "round {round}");
            engine.check();
        }
        assert!(engine.stats().used > 6 << 20);
        for number in 0..20_000 {
            let key = format!("small{number}");
            assert_eq!(put_with(&engine, &key, &[b'x'; 500], |_| (), at(START)).what, "stored");
        }
        engine.check();
        assert!(engine.stats().used > 7 << 20);
    }
}

#[test]
fn a_lowered_limit_is_reached_and_a_raised_one_is_used() {
    let engine = engine(16 << 20);
    let fill = || {
        for number in 0..60_000 {
            put_with(&engine, &format!("k{number}"), &[b'x'; 300], |_| (), at(START));
        }
    };
    fill();
    engine.set_limit(8 << 20);
    for _ in 0..100_000 {
        if !engine.maintain(at(START), 100, true) && engine.stats().used <= 8 << 20 {
            break;
        }
    }
    engine.check();
    assert!(engine.items() > 15_000);
    engine.set_limit(16 << 20);
    fill();
    engine.check();
    assert!(engine.stats().used > 15 << 20);
}

#[test]
fn a_cleared_engine_takes_a_copy_whatever_its_age() {
    let engine = engine(8 << 20);
    let empty = engine.stats().used;
    for number in 0..5000 {
        set(&engine, &format!("k{number}"), "newer than the copy", at(START));
    }
    put_with(&engine, "large", &[b'x'; 100_000], |_| (), at(START));
    engine.clear(at(START));
    engine.check();
    // What was an index, or described a large value, is kept for others of its kind.
    let kept = engine.shared.blocks.bytes() + engine.shared.budget.kept();
    assert_eq!((engine.items(), engine.stats().used), (0, empty + kept));
    let put = Put {
        key: b"k1",
        value: Bytes::Whole(b"older"),
        flags: 3,
        deadline: 0,
        version: 5,
        explicit: Some(9),
        bits: Bits { stale: true, win_sent: true, binary_key: true },
    };
    engine.apply(&Change::Put(put.clone()), at(START));
    let mut seen = None;
    engine.read(b"k1", at(START), &mut |change| seen = Some(Recorded::of(change)));
    assert_eq!(seen, Some(Recorded::of(&Change::Put(put))), "explicit CAS and meta bits come along");
}

/// A node that yields after a partition may have been flushed meanwhile: what the other has is older.
#[test]
fn a_cleared_engine_has_forgotten_its_flushes() {
    let engine = engine(8 << 20);
    engine.flush(None, at(START));
    engine.flush(Some(START + 100), at(START));
    engine.clear(at(START));
    let (flags, deadline, explicit, bits) = (0, 0, None, Bits::default());
    let value = Bytes::Whole(b"older");
    let put = Put { key: b"k", value, flags, deadline, version: 5, explicit, bits };
    engine.apply(&Change::Put(put), at(START));
    assert!(engine.read(b"k", at(START), &mut |_| ()), "the copy is taken");
    assert_eq!(engine.pending_flush(), None);
}

#[test]
fn what_is_merged_is_recorded_if_it_is_newer_and_created_only_if_it_may_be() {
    let tapes = [Arc::new(Tape::default()), Arc::new(Tape::default())];
    let config = MemoryConfig { limit_bytes: 8 << 20, geometry: Some(tiny(2)), ..MemoryConfig::default() };
    let engines: [Box<dyn Engine>; 2] = [
        Box::new(Memory::new(config, Arc::clone(&tapes[0]) as _)),
        Box::new(ModelEngine::new(2, 0, u64::MAX, 1 << 20, Arc::clone(&tapes[1]) as _)),
    ];
    let large = "x".repeat(100_000);
    let put = |value: &'static str, version| {
        let (flags, deadline, explicit, bits) = (0, 0, None, Bits::default());
        let value = Bytes::Whole(value.as_bytes());
        Change::Put(Put { key: b"k", value, flags, deadline, version, explicit, bits })
    };
    let big = |version| {
        let (flags, deadline, explicit, bits) = (0, 0, None, Bits::default());
        let value = Bytes::Whole(large.as_bytes());
        Change::Put(Put { key: b"k", value, flags, deadline, version, explicit, bits })
    };
    for (engine, tape) in engines.iter().zip(&tapes) {
        let now = at(START);
        let merge = |change: &Change<'_>, may: bool| {
            let merged = engine.merge(change, now, &|_| may);
            let recorded: Vec<_> = tape.take().into_iter().map(|(_, recorded)| recorded).collect();
            let expected = if merged == Merged::Taken { vec![Recorded::of(change)] } else { Vec::new() };
            assert_eq!(recorded, expected, "{change:?} is {merged:?}");
            merged
        };
        assert_eq!(merge(&put("new", 1000), false), Merged::Refused, "deleted here, or nobody knows");
        assert_eq!(get(&**engine, "k", now), None);
        assert_eq!(merge(&put("new", 1000), true), Merged::Taken);
        assert_eq!(merge(&put("new", 1000), true), Merged::Kept, "twice");
        assert_eq!(merge(&put("older", 999), true), Merged::Kept);
        assert_eq!(merge(&put("newer", 2000), false), Merged::Taken, "it is there: nothing is created");
        assert_eq!(get(&**engine, "k", now).as_deref(), Some("newer"));
        let touch = |version| Change::Touch { key: b"k", deadline: START + 50, version };
        assert_eq!(merge(&touch(1000), true), Merged::Kept, "another version's life");
        assert_eq!(merge(&touch(2000), true), Merged::Taken);
        assert_eq!(merge(&touch(2000), true), Merged::Kept);
        assert_eq!(merge(&Change::Delete { key: b"k", version: 1500 }, true), Merged::Kept);
        assert_eq!(merge(&big(2500), true), Merged::Taken, "a large value too");
        assert_eq!(merge(&Change::Delete { key: b"k", version: 3000 }, true), Merged::Taken);
        assert_eq!(merge(&Change::Delete { key: b"k", version: 3001 }, true), Merged::Kept, "not there");
        assert_eq!(get(&**engine, "k", now), None);
        assert_eq!(engine.merge(&Change::Flush { floor: 5000 }, now, &|_| true), Merged::Taken);
        assert_eq!(tape.take().len(), engine.shards(), "a flush is recorded in every shard");
        assert_eq!(merge(&put("below the floor", 4000), true), Merged::Refused);
    }
}

#[test]
fn what_the_peer_sends_late_or_twice_changes_nothing() {
    let engine = engine(8 << 20);
    let put = |value: &'static [u8], version| {
        let (flags, deadline, explicit, bits) = (0, 0, None, Bits::default());
        Change::Put(Put { key: b"k", value: Bytes::Whole(value), flags, deadline, version, explicit, bits })
    };
    engine.apply(&put(b"two", 2000), at(START));
    engine.apply(&put(b"one", 1000), at(START));
    engine.apply(&put(b"two again", 2000), at(START));
    engine.apply(&Change::Delete { key: b"k", version: 1500 }, at(START));
    engine.apply(&Change::Touch { key: b"k", deadline: 1, version: 1000 }, at(START));
    assert_eq!(get(&engine, "k", at(START)).as_deref(), Some("two"));
    engine.apply(&Change::Touch { key: b"k", deadline: START + 10, version: 2000 }, at(START));
    assert_eq!(get(&engine, "k", at(START + 10)), None);
    engine.apply(&put(b"three", 3000), at(START));
    engine.apply(&Change::Flush { floor: 3001 }, at(START));
    engine.apply(&put(b"below the floor", 3000), at(START));
    assert_eq!(get(&engine, "k", at(START)), None);
    engine.apply(&put(b"four", 4000), at(START));
    assert_eq!(get(&engine, "k", at(START)).as_deref(), Some("four"));
    let own = set(&engine, "k", "five", at(START));
    engine.apply(&Change::Delete { key: b"k", version: own.kept.cas + (1 << 40) }, at(START));
    let next = set(&engine, "k", "six", at(START));
    assert!(next.kept.cas > own.kept.cas + (1 << 40), "the clock moves past what was applied");
}

#[test]
fn a_change_that_finds_no_memory_leaves_a_miss_and_not_the_older_value() {
    let geometry = Some(tiny(1));
    let config = MemoryConfig { limit_bytes: 12_000, evict: false, geometry, ..MemoryConfig::default() };
    let engine = Memory::new(config, Arc::new(NoJournal));
    let mut number = 0;
    while set(&engine, &format!("k{number}"), "value", at(START)).what == "stored" {
        number += 1;
    }
    for (key, len) in [("k0", 100), ("k1", 900), ("k2", 90_000)] {
        let value = vec![b'x'; len];
        let (flags, deadline, explicit, bits) = (0, 0, None, Bits::default());
        let (key, value, version) = (key.as_bytes(), Bytes::Whole(&value), u64::MAX >> 1);
        let put = Put { key, value, flags, deadline, version, explicit, bits };
        engine.apply(&Change::Put(put), at(START));
        engine.check();
        assert!(!engine.read(key, at(START), &mut |_| ()));
    }
}

#[test]
fn what_was_read_stays_and_what_was_not_goes_first() {
    let engine = engine(8 << 20);
    for number in 0..2000 {
        set(&engine, &format!("hot{number}"), &"x".repeat(300), at(START));
    }
    for round in 0..60 {
        for number in 0..2000 {
            get(&engine, &format!("hot{number}"), at(START));
        }
        for number in 0..2000 {
            set(&engine, &format!("scan{round}.{number}"), &"x".repeat(300), at(START));
        }
    }
    let kept = (0..2000).filter(|number| get(&engine, &format!("hot{number}"), at(START)).is_some()).count();
    let active: u64 = engine.stats().classes.values().map(|class| class.evicted_active).sum();
    assert!(kept > 1900, "{kept} of 2000 survived a scan of 120,000, {active} evicted in use");
    engine.check();
}

#[test]
fn an_item_costs_what_the_goals_allow() {
    for (key_len, value_len, allowed) in [(16, 32, 32.0), (32, 100, 41.0), (32, 300, 46.0), (32, 1024, 58.0)]
    {
        let engine = engine(16 << 20);
        let value = vec![b'x'; value_len];
        let mut number = 0;
        let mut evicted = 0;
        while evicted < 2000 {
            let key = format!("{number:0key_len$}");
            run(&engine, &key, Op::Store(store(&value)), at(START));
            number += 1;
            evicted = number - engine.items();
        }
        let overhead = engine.stats().used as f64 / engine.items() as f64 - (key_len + value_len) as f64;
        assert!(overhead <= allowed, "{key_len}+{value_len}: {overhead:.1} bytes of overhead");
    }
}

#[test]
fn statistics_count_as_memcached_does() {
    let engine = small_engine(1 << 20);
    set(&engine, "k", "1", at(START));
    get(&engine, "k", at(START));
    get(&engine, "none", at(START));
    let gat = Get { kind: ReadKind::GetAndTouch, touch: Some(Exptime(9)), ..Get::default() };
    run(&engine, "k", Op::Get(gat), at(START));
    run(&engine, "k", Op::Touch(Exptime(0)), at(START));
    run(&engine, "k", Op::Arith(incr(1)), at(START));
    run(&engine, "k", Op::Inspect, at(START));
    run(&engine, "none", Op::Delete(Delete::default()), at(START));
    put_with(&engine, "k", b"2", |store| store.compare = Some(1), at(START));
    let stats = engine.stats();
    let commands = &stats.commands;
    assert_eq!((commands.cmd_get, commands.get_hits, commands.get_misses), (2, 1, 1));
    assert_eq!((commands.cmd_set, commands.cas_badval, commands.cmd_meta), (2, 1, 1));
    assert_eq!((commands.cmd_touch, commands.touch_hits), (2, 2));
    assert_eq!((commands.incr_hits, commands.delete_misses), (1, 1));
    assert_eq!((stats.curr_items, stats.total_items, stats.bytes), (1, 2, 61));
    assert_eq!((stats.classes[&1].number, stats.classes[&1].get_hits), (1, 1));
    engine.reset_stats();
    let stats = engine.stats();
    assert_eq!(stats.commands, crate::engine::CommandStats::default());
    assert_eq!((stats.curr_items, stats.bytes, stats.classes[&1].number), (1, 61, 1));
}

#[test]
fn deadlines_survive_the_far_future() {
    let engine = small_engine(1 << 20);
    put_with(&engine, "k", b"x", |store| store.exptime = Exptime(i64::from(i32::MAX)), at(START));
    let found = details(&engine, "k", Get::default(), at(START));
    assert!(found.contains(&format!("{:?}", Deadline((i32::MAX as u32) - 1_700_000_000))), "{found}");
}
