//! Random histories: the engine does what its model does, and its replicas follow.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::command::{Delete, ReadKind, Refusal, Refuse};
use crate::engine::model::ModelEngine;

fn refused<'a>(why: Refusal, drops: bool) -> Op<'a> {
    Op::Refuse(Refuse { why, mode: StoreMode::Set, compares: false, drops })
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Command(u8, Asked),
    Batch(Vec<(u8, Asked)>),
    Advance(u32),
    Flush(Option<u32>),
    Maintain(usize),
    Scan,
}

/// A command that owns its parts.
#[derive(Clone, Debug)]
enum Asked {
    Get {
        kind: u8,
        touch: Option<i64>,
        vivify: Option<i64>,
        recache: Option<i64>,
        plain: bool,
    },
    Store {
        mode: u8,
        len: usize,
        digits: bool,
        flags: u32,
        exptime: i64,
        compare: u8,
        invalidate: bool,
        more: u8,
    },
    Delete {
        compare: u8,
        invalidate: bool,
        drop_value: bool,
        touch: Option<i64>,
    },
    Arith {
        increment: bool,
        delta: u64,
        initial: bool,
        compare: u8,
        touch: Option<i64>,
    },
    Touch(i64),
    Inspect,
    Refuse(bool, bool),
}

fn exptimes() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 4 => 1i64..20, 1 => Just(-1i64), 1 => Just(1_700_000_015i64)]
}

fn asked() -> impl Strategy<Value = Asked> {
    let lengths = prop_oneof![6 => 0usize..40, 4 => 40usize..140, 1 => 140usize..900];
    let maybe = || proptest::option::weighted(0.2, exptimes());
    prop_oneof![
        6 => (0u8..3, maybe(), maybe(), proptest::option::weighted(0.2, 0i64..30), any::<bool>())
            .prop_map(|(kind, touch, vivify, recache, plain)| Asked::Get { kind, touch, vivify, recache, plain }),
        12 => (0u8..9, lengths, proptest::bool::weighted(0.2), prop_oneof![Just(0u32), any::<u32>()],
            exptimes(), 0u8..8, any::<bool>(), 0u8..16)
            .prop_map(|(mode, len, digits, flags, exptime, compare, invalidate, more)| Asked::Store {
                mode, len, digits, flags, exptime, compare, invalidate, more }),
        3 => (0u8..6, any::<bool>(), proptest::bool::weighted(0.3), maybe())
            .prop_map(|(compare, invalidate, drop_value, touch)| Asked::Delete {
                compare, invalidate, drop_value, touch }),
        4 => (any::<bool>(), prop_oneof![0u64..200, any::<u64>()], any::<bool>(), 0u8..8, maybe())
            .prop_map(|(increment, delta, initial, compare, touch)| Asked::Arith {
                increment, delta, initial, compare, touch }),
        1 => exptimes().prop_map(Asked::Touch),
        1 => Just(Asked::Inspect),
        1 => any::<(bool, bool)>().prop_map(|(large, drops)| Asked::Refuse(large, drops)),
    ]
}

fn steps(keys: u8) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => (0..keys, asked()).prop_map(|(key, asked)| Step::Command(key, asked)),
        2 => proptest::collection::vec((0..keys, asked()), 2..40).prop_map(Step::Batch),
        3 => (0u32..4).prop_map(Step::Advance),
        1 => proptest::option::of(0u32..8).prop_map(Step::Flush),
        2 => (1usize..40).prop_map(Step::Maintain),
        1 => Just(Step::Scan),
    ];
    proptest::collection::vec(step, 1..250)
}

fn key_of(number: u8) -> String {
    // Lengths differ, so that slots do.
    format!("{}{number}", "k".repeat(1 + usize::from(number) % 7))
}

/// The number 1 to 3 ask for the CAS unique the item has, one above it, and 0; others for none.
fn compare_of(choice: u8, current: u64) -> Option<u64> {
    match choice {
        1 => Some(current),
        2 => Some(current.saturating_sub(5)),
        3 => Some(0),
        _ => None,
    }
}

impl Asked {
    fn op<'a>(&self, value: &'a [u8], current: u64) -> Op<'a> {
        match *self {
            Self::Get { plain: true, kind: 0, .. } => Op::Get(Get::default()),
            Self::Get { plain: true, .. } => Op::Read,
            Self::Get { kind, touch, vivify, recache, plain: false } => Op::Get(Get {
                kind: [ReadKind::Get, ReadKind::GetAndTouch, ReadKind::Meta][usize::from(kind)],
                touch: touch.map(Exptime),
                vivify: vivify.map(Exptime),
                recache,
                recache_after_touch: kind > 1,
                explicit: None,
                binary_key: kind == 2,
                no_bump: recache.is_some(),
            }),
            Self::Store { mode, flags, exptime, compare, invalidate, more, .. } => Op::Store(Store {
                mode: match mode {
                    0 => StoreMode::Add,
                    1 => StoreMode::Replace,
                    2 => StoreMode::Append,
                    3 => StoreMode::Prepend,
                    _ => StoreMode::Set,
                },
                flags,
                exptime: Exptime(exptime),
                value: Payload::Bytes(value),
                compare: compare_of(compare, current),
                invalidate,
                vivify: (more == 1).then_some(Exptime(exptime)),
                explicit: (more < 4).then_some(u64::from(more) + current),
                binary_key: more == 5,
            }),
            Self::Delete { compare, invalidate, drop_value, touch } => Op::Delete(Delete {
                compare: compare_of(compare, current),
                invalidate,
                touch: touch.map(Exptime),
                drop_value,
                explicit: (compare == 4).then_some(77),
            }),
            Self::Arith { increment, delta, initial, compare, touch } => Op::Arith(Arith {
                increment,
                delta,
                initial: initial.then_some((delta / 2, Exptime(touch.unwrap_or(0)))),
                compare: compare_of(compare, current),
                touch: touch.map(Exptime),
                explicit: (compare == 4).then_some(78),
                binary_key: compare == 5,
            }),
            Self::Touch(exptime) => Op::Touch(Exptime(exptime)),
            Self::Inspect => Op::Inspect,
            Self::Refuse(large, drops) => {
                refused(if large { Refusal::TooLarge } else { Refusal::OutOfMemory }, drops)
            }
        }
    }

    fn value(&self, salt: u8) -> Vec<u8> {
        match *self {
            Self::Store { digits: true, len, .. } => (len * 7 % 1000).to_string().into_bytes(),
            Self::Store { len, .. } => (0..len).map(|at| (at as u8) ^ salt).collect(),
            _ => Vec::new(),
        }
    }
}

/// An engine, its model, and two replicas of its journal, side by side.
struct Bench {
    memory: Memory,
    model: ModelEngine,
    tapes: [Arc<Tape>; 2],
    replicas: [Box<dyn Engine>; 2],
    evicted: BTreeSet<Vec<u8>>,
    /// Nothing is ever evicted.
    roomy: bool,
    now: Now,
}

const ITEM_SIZE_MAX: usize = 1200;

impl Bench {
    fn new(limit_bytes: u64, shards: usize, hash_mask: u64) -> Self {
        let tapes = [Arc::new(Tape::default()), Arc::new(Tape::default())];
        let config = MemoryConfig {
            limit_bytes,
            item_size_max: ITEM_SIZE_MAX,
            seed: 11,
            hash_mask,
            geometry: Some(tiny(shards)),
            ..MemoryConfig::default()
        };
        let replica = MemoryConfig {
            limit_bytes: 8 << 20,
            seed: 12,
            hash_mask: u64::MAX,
            slot: 1,
            geometry: Some(Geometry { shards: 4, ..tiny(1) }),
            ..config.clone()
        };
        let model = ModelEngine::new(shards, 11, hash_mask, ITEM_SIZE_MAX, Arc::clone(&tapes[1]) as _)
            .with_inline_max(tiny(shards).inline_max);
        Self {
            memory: Memory::new(config, Arc::clone(&tapes[0]) as _),
            model,
            tapes,
            replicas: [
                Box::new(Memory::new(replica, Arc::new(NoJournal))),
                Box::new(ModelEngine::new(1, 5, u64::MAX, ITEM_SIZE_MAX, Arc::new(NoJournal))),
            ],
            evicted: BTreeSet::new(),
            roomy: limit_bytes >= 1 << 20,
            now: at(Now::FIRST),
        }
    }

    fn cas_of(&self, key: &str) -> u64 {
        let mut cas = 0;
        self.model.read(key.as_bytes(), self.now, &mut |change| {
            if let Change::Put(put) = change {
                cas = put.explicit.unwrap_or(put.version);
            }
        });
        cas
    }

    fn forget_evicted(&mut self) {
        for key in self.memory.take_evicted() {
            self.model.evict(&key);
            self.evicted.insert(key);
        }
    }

    fn command(&mut self, number: u8, asked: &Asked) {
        let key = key_of(number);
        let value = asked.value(number);
        let op = asked.op(&value, self.cas_of(&key));
        let ours = run(&self.memory, &key, op.clone(), self.now);
        self.forget_evicted();
        if ours.what == "out of memory" && !matches!(op, Op::Refuse(_)) {
            let replaces = match &op {
                Op::Store(store) => store.mode == StoreMode::Set && store.compare.is_none(),
                _ => true,
            };
            if replaces {
                run(&self.model, &key, refused(Refusal::OutOfMemory, true), self.now);
            }
        } else {
            let theirs = run(&self.model, &key, op.clone(), self.now);
            assert_eq!(ours, theirs, "{key} {op:?}");
        }
        self.settle();
    }

    /// A batch means what its commands mean one after the other. Evictions are only known afterwards,
    /// so tight engines get the commands one by one.
    fn batch(&mut self, batch: &[(u8, Asked)]) {
        if !self.roomy {
            for (number, asked) in batch {
                self.command(*number, asked);
            }
            return;
        }
        let parts: Vec<_> =
            batch.iter().map(|(number, asked)| (key_of(*number), asked.value(*number), asked)).collect();
        let commands: Vec<_> = parts
            .iter()
            .map(|(key, value, asked)| command(key.as_bytes(), asked.op(value, self.cas_of(key))))
            .collect();
        let ours = execute(&self.memory, &commands, self.now);
        let theirs = execute(&self.model, &commands, self.now);
        for (command, (ours, theirs)) in commands.iter().zip(ours.iter().zip(&theirs)) {
            assert_eq!(ours, theirs, "{command:?}");
        }
        self.settle();
    }

    /// Both recorded the same, which the replicas now apply; and nothing is broken.
    fn settle(&mut self) {
        let [ours, theirs] = [self.tapes[0].take(), self.tapes[1].take()];
        assert_eq!(ours, theirs, "both record the same changes");
        for (_, recorded) in &ours {
            for replica in &self.replicas {
                recorded.apply(&**replica, self.now);
            }
            if let Recorded::Put { key, .. } | Recorded::Delete(key, _) = recorded {
                self.evicted.remove(key);
            }
        }
        self.memory.check();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Command(number, asked) => self.command(*number, asked),
            Step::Batch(batch) => self.batch(batch),
            Step::Advance(secs) => self.now = at(self.now.secs + secs),
            Step::Flush(delay) => {
                let deadline = delay.map(|delay| self.now.secs + delay);
                self.memory.flush(deadline, self.now);
                self.model.flush(deadline, self.now);
                self.settle();
            }
            Step::Maintain(budget) => {
                self.memory.maintain(self.now, *budget, true);
                self.forget_evicted();
                self.model.maintain(self.now, *budget, true);
                self.settle();
            }
            Step::Scan => self.compare(),
        }
    }

    fn compare(&self) {
        let ours = contents(&self.memory, self.now);
        assert_eq!(ours, contents(&self.model, self.now), "the engine holds what its model holds");
        let [memory, model] = [&self.replicas[0], &self.replicas[1]]
            .map(|replica| without_wins(contents(&**replica, self.now)));
        assert_eq!(memory, model, "replicas agree");
        for (key, item) in without_wins(ours.clone()) {
            assert_eq!(memory.get(&key), Some(&item), "a replica has what the engine has");
        }
        for key in memory.keys() {
            assert!(ours.contains_key(key) || self.evicted.contains(key), "only evictions differ");
        }
    }
}

/// Who won a refresh is not replicated.
fn without_wins(mut all: BTreeMap<Vec<u8>, Recorded>) -> BTreeMap<Vec<u8>, Recorded> {
    for item in all.values_mut() {
        if let Recorded::Put { rest: (.., bits), .. } = item {
            bits.win_sent = false;
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_its_model_does(steps in steps(60), limit in 12_000u64..40_000) {
        let mut bench = Bench::new(limit, 2, u64::MAX);
        for step in &steps {
            bench.step(step);
        }
        bench.compare();
    }

    #[test]
    fn a_batch_means_what_its_commands_mean(steps in steps(120)) {
        let mut bench = Bench::new(4 << 20, 2, u64::MAX);
        for step in &steps {
            bench.step(step);
        }
        bench.compare();
        assert!(bench.evicted.is_empty());
    }

    #[test]
    fn colliding_keys_are_told_apart(steps in steps(200), limit in 20_000u64..90_000) {
        let mut bench = Bench::new(limit, 1, COLLIDING);
        for step in &steps {
            bench.step(step);
        }
        bench.compare();
    }
}
