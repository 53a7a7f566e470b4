//! The engine as a `BTreeMap`: nothing is evicted, nothing is clever. It says what is right, so that
//! the real engine can be compared with it, and shows what another engine has to bring.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tandem_replication::change::Merged;
use tandem_replication::change::{self, Bits, Change, Put};

use super::clock::Clock;
use super::hash::{self, Hasher};
use super::number;
use super::{
    Chunk, CommandStats, Engine, EngineStats, Fate, Journal, OutOfMemory, Reserved, is_chunked,
    memcached_class, memcached_size,
};
use crate::command::{
    Arith, Command, Deadline, Delete, Exptime, Get, Hit, Kept, Now, Op, Outcome, Payload, ReadKind, Refusal,
    Replies, Store, StoreMode, Value,
};

/// The model. See the module's description.
pub struct ModelEngine {
    state: Mutex<State>,
    hasher: Hasher,
    shards: usize,
    item_size_max: usize,
    inline_max: usize,
    journal: Arc<dyn Journal>,
    flush_at: AtomicU32,
}

impl std::fmt::Debug for ModelEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelEngine").field("shards", &self.shards).finish_non_exhaustive()
    }
}

struct State {
    items: BTreeMap<Vec<u8>, Item>,
    clocks: Vec<Clock>,
    floor: u64,
    commands: CommandStats,
    total_items: u64,
}

#[derive(Clone, Debug, Default)]
struct Item {
    value: Vec<u8>,
    flags: u32,
    deadline: u32,
    version: u64,
    explicit: Option<u64>,
    bits: Bits,
    accessed: u32,
    fetched: bool,
}

impl Item {
    fn cas(&self) -> u64 {
        self.explicit.unwrap_or(self.version)
    }

    fn put<'a>(&'a self, key: &'a [u8]) -> Change<'a> {
        Change::Put(Put {
            key,
            value: change::Bytes::Whole(&self.value),
            flags: self.flags,
            deadline: self.deadline,
            version: self.version,
            explicit: self.explicit,
            bits: self.bits,
        })
    }

    fn hit(&self, key: &[u8], now: Now) -> Hit<'_> {
        let size = memcached_size(key.len(), self.value.len(), self.flags, true);
        Hit {
            value: Value::Inline(&self.value),
            flags: self.flags,
            cas: self.cas(),
            deadline: Deadline(self.deadline),
            deadline_after: Deadline(self.deadline),
            idle_secs: now.secs.saturating_sub(self.accessed),
            fetched: self.fetched,
            binary_key: self.bits.binary_key,
            won: false,
            stale: self.bits.stale,
            win_sent: self.bits.win_sent,
            created: false,
            class: memcached_class(size),
            size,
        }
    }
}

/// One command on its way through the model.
struct Run<'a> {
    state: &'a mut State,
    journal: &'a dyn Journal,
    shard: usize,
    key: &'a [u8],
    now: Now,
    item_size_max: usize,
    reply: &'a mut dyn FnMut(Outcome<'_>),
}

impl ModelEngine {
    /// An empty model of that many shards, with the hash of an engine of the same seed and mask, so
    /// that both make the same versions.
    pub fn new(
        shards: usize,
        seed: u64,
        hash_mask: u64,
        item_size_max: usize,
        journal: Arc<dyn Journal>,
    ) -> Self {
        let state = State {
            items: BTreeMap::new(),
            clocks: (0..shards).map(|shard| Clock::new(shard, 0)).collect(),
            floor: 0,
            commands: CommandStats::default(),
            total_items: 0,
        };
        Self {
            state: Mutex::new(state),
            hasher: Hasher::masked(seed, hash_mask),
            shards,
            item_size_max,
            inline_max: usize::MAX,
            journal,
            flush_at: AtomicU32::new(0),
        }
    }

    /// As an engine that keeps longer values outside of its segments, where no number is counted.
    pub fn with_inline_max(self, inline_max: usize) -> Self {
        Self { inline_max, ..self }
    }

    /// Forgets an item as an eviction does.
    pub fn evict(&self, key: &[u8]) {
        self.state().items.remove(key);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread panicked in the model: its state is unknown")
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        hash::shard(self.hasher.hash(key), self.shards)
    }

    fn flush_now(&self, state: &mut State, now: Now) {
        let floor = state.clocks.iter().map(Clock::floor).max().unwrap_or(0);
        state.floor = state.floor.max(floor);
        for (shard, clock) in state.clocks.iter_mut().enumerate() {
            clock.observe(floor, now);
            self.journal.record(shard, &Change::Flush { floor });
        }
    }

    fn flush_if_due(&self, state: &mut State, now: Now) {
        let at = self.flush_at.load(Ordering::Acquire);
        if at != 0 && at <= now.secs {
            self.flush_at.store(0, Ordering::Release);
            self.flush_now(state, now);
        }
    }
}

/// A found item, as a classic get is told of it.
fn shown(hit: Hit<'_>) -> Outcome<'_> {
    Outcome::Value(hit.shown())
}

/// The same for everybody else.
fn whole(hit: Hit<'_>) -> Outcome<'_> {
    Outcome::Hit(hit)
}

impl Run<'_> {
    fn live(&mut self) -> Option<Item> {
        let item = self.state.items.get(self.key)?;
        if item.version < self.state.floor {
            self.state.commands.get_flushed += 1;
        } else if Deadline(item.deadline).is_over(self.now) {
            self.state.commands.get_expired += 1;
        } else {
            return Some(item.clone());
        }
        self.state.items.remove(self.key);
        None
    }

    /// As [`Run::live`], for a store: a dead item that gives way was not found flushed or expired.
    fn live_to_store(&mut self) -> Option<Item> {
        let (flushed, expired) = (self.state.commands.get_flushed, self.state.commands.get_expired);
        let item = self.live();
        (self.state.commands.get_flushed, self.state.commands.get_expired) = (flushed, expired);
        item
    }

    fn version(&mut self) -> u64 {
        self.state.clocks[self.shard].next(self.now)
    }

    fn touched(&mut self, item: &Item) {
        let change = Change::Touch { key: self.key, deadline: item.deadline, version: item.version };
        self.journal.record(self.shard, &change);
        self.state.items.insert(self.key.to_vec(), item.clone());
    }

    /// Stores an item under a new version, and records it.
    fn keep(&mut self, mut item: Item) -> Item {
        item.version = self.version();
        item.accessed = self.now.secs;
        self.journal.record(self.shard, &item.put(self.key));
        self.state.total_items += 1;
        self.state.items.insert(self.key.to_vec(), item.clone());
        item
    }

    fn remove(&mut self) {
        self.state.items.remove(self.key);
        let version = self.version();
        self.journal.record(self.shard, &Change::Delete { key: self.key, version });
    }

    fn deadline(&self, exptime: Exptime) -> u32 {
        exptime.deadline(self.now).0
    }

    fn command(&mut self, op: &Op<'_>) {
        match op {
            Op::Read => self.get(&Get::default(), shown),
            Op::Get(get) => self.get(get, whole),
            Op::Inspect => {
                self.state.commands.cmd_meta += 1;
                match self.live() {
                    Some(item) => (self.reply)(Outcome::Hit(item.hit(self.key, self.now))),
                    None => (self.reply)(Outcome::Miss),
                }
            }
            Op::Store(store) => self.store(store),
            Op::Delete(delete) => self.delete(delete),
            Op::Arith(arith) => self.arith(arith),
            Op::Touch(exptime) => self.touch(*exptime),
            Op::Refuse(refuse) => self.refuse(refuse.why, refuse.drops),
        }
    }

    fn get(&mut self, get: &Get, say: impl FnOnce(Hit<'_>) -> Outcome<'_>) {
        let Some(before) = self.live() else {
            let Some(exptime) = get.vivify else {
                let commands = &mut self.state.commands;
                let (asked, missed) = match get.kind {
                    ReadKind::GetAndTouch => (&mut commands.cmd_touch, &mut commands.touch_misses),
                    _ => (&mut commands.cmd_get, &mut commands.get_misses),
                };
                *asked += 1;
                *missed += 1;
                return (self.reply)(Outcome::Miss);
            };
            let item = self.keep(Item {
                deadline: self.deadline(exptime),
                explicit: get.explicit,
                bits: Bits { win_sent: true, binary_key: get.binary_key, stale: false },
                fetched: !get.no_bump,
                ..Item::default()
            });
            self.count_hit(get);
            let mut hit = item.hit(self.key, self.now);
            (hit.created, hit.won, hit.win_sent, hit.fetched) = (true, true, false, false);
            return (self.reply)(Outcome::Hit(hit));
        };
        let mut item = before.clone();
        let left_until = match (get.recache_after_touch, get.touch) {
            (true, Some(exptime)) => self.deadline(exptime),
            _ => before.deadline,
        };
        let recache = get
            .recache
            .is_some_and(|seconds| left_until != 0 && left_until < Exptime(seconds).deadline(self.now).0);
        let told = get.kind == ReadKind::Meta;
        let won = told && !before.bits.win_sent && (before.bits.stale || recache);
        item.bits.win_sent |= won;
        if !get.no_bump {
            item.fetched = true;
            item.accessed = self.now.secs;
        }
        match get.touch {
            Some(exptime) => {
                item.deadline = self.deadline(exptime);
                self.touched(&item);
            }
            None => {
                self.state.items.insert(self.key.to_vec(), item.clone());
            }
        }
        self.count_hit(get);
        let hit = Hit { won, deadline_after: Deadline(item.deadline), ..before.hit(self.key, self.now) };
        (self.reply)(say(hit));
    }

    fn count_hit(&mut self, get: &Get) {
        let commands = &mut self.state.commands;
        match (get.kind, get.touch) {
            (ReadKind::GetAndTouch, _) | (ReadKind::Meta, Some(_)) => {
                commands.cmd_touch += 1;
                commands.touch_hits += 1;
            }
            _ => {
                commands.cmd_get += 1;
                commands.get_hits += 1;
            }
        }
    }

    fn touch(&mut self, exptime: Exptime) {
        self.state.commands.cmd_touch += 1;
        let Some(before) = self.live() else {
            self.state.commands.touch_misses += 1;
            return (self.reply)(Outcome::NotFound);
        };
        self.state.commands.touch_hits += 1;
        let deadline = self.deadline(exptime);
        self.touched(&Item { deadline, fetched: true, accessed: self.now.secs, ..before.clone() });
        let hit = Hit { deadline_after: Deadline(deadline), ..before.hit(self.key, self.now) };
        (self.reply)(Outcome::Touched(hit));
    }

    fn delete(&mut self, delete: &Delete) {
        let Some(mut item) = self.live() else {
            self.state.commands.delete_misses += 1;
            self.remove();
            return (self.reply)(Outcome::NotFound);
        };
        if delete.compare.is_some_and(|unique| unique != item.cas()) {
            self.state.commands.delete_misses += 1;
            return (self.reply)(Outcome::Exists);
        }
        if !delete.invalidate && !delete.drop_value {
            self.state.commands.delete_hits += 1;
            self.remove();
            return (self.reply)(Outcome::Deleted(Kept::default()));
        }
        if delete.drop_value {
            let bits = Bits { binary_key: item.bits.binary_key, ..Bits::default() };
            item = Item { bits, ..Item::default() };
        }
        if delete.invalidate {
            item.bits.stale = true;
            item.bits.win_sent = false;
        }
        if let Some(exptime) = delete.touch {
            item.deadline = self.deadline(exptime);
        }
        item.explicit = delete.explicit;
        let item = self.keep(item);
        (self.reply)(Outcome::Deleted(Kept { cas: item.cas(), len: item.value.len() }));
    }

    fn arith(&mut self, arith: &Arith) {
        let Some(before) = self.live() else {
            let Some((initial, exptime)) = arith.initial else {
                match arith.increment {
                    true => self.state.commands.incr_misses += 1,
                    false => self.state.commands.decr_misses += 1,
                }
                return (self.reply)(Outcome::NotFound);
            };
            let item = self.keep(Item {
                value: initial.to_string().into_bytes(),
                deadline: self.deadline(exptime),
                explicit: arith.explicit,
                bits: Bits { binary_key: arith.binary_key, ..Bits::default() },
                ..Item::default()
            });
            let hit = Hit { created: true, ..item.hit(self.key, self.now) };
            return (self.reply)(Outcome::Number(initial, hit));
        };
        let size = memcached_size(self.key.len(), before.value.len(), before.flags, true);
        if before.value.is_empty() || is_chunked(size) {
            return (self.reply)(Outcome::NonNumeric);
        }
        if arith.compare.is_some_and(|unique| unique != 0 && unique != before.cas()) {
            return (self.reply)(Outcome::Exists);
        }
        let Some(number) = number::parse(&before.value) else {
            return (self.reply)(Outcome::NonNumeric);
        };
        let number = match arith.increment {
            true => number.wrapping_add(arith.delta),
            false => number.saturating_sub(arith.delta),
        };
        match arith.increment {
            true => self.state.commands.incr_hits += 1,
            false => self.state.commands.decr_hits += 1,
        }
        let value = format!("{number:<width$}", width = before.value.len()).into_bytes();
        let grown = value.len() > before.value.len();
        let fresh = Bits { binary_key: before.bits.binary_key, ..Bits::default() };
        let item = self.keep(Item {
            value,
            bits: if grown { fresh } else { before.bits },
            fetched: before.fetched && !grown,
            deadline: arith.touch.map_or(before.deadline, |exptime| self.deadline(exptime)),
            explicit: arith.explicit,
            ..before.clone()
        });
        let hit = Hit {
            deadline: Deadline(before.deadline),
            idle_secs: self.now.secs.saturating_sub(before.accessed),
            ..item.hit(self.key, self.now)
        };
        (self.reply)(Outcome::Number(number, hit));
    }

    fn refuse(&mut self, refusal: Refusal, replaces: bool) {
        if replaces {
            self.remove();
        }
        match refusal {
            Refusal::TooLarge => {
                self.state.commands.store_too_large += 1;
                (self.reply)(Outcome::TooLarge);
            }
            Refusal::OutOfMemory => {
                self.state.commands.store_no_memory += 1;
                (self.reply)(Outcome::OutOfMemory);
            }
        }
    }

    fn is_too_large(&self, len: usize, flags: u32) -> bool {
        memcached_size(self.key.len(), len, flags, true) > self.item_size_max
    }

    fn store(&mut self, store: &Store<'_>) {
        let extends = matches!(store.mode, StoreMode::Append | StoreMode::Prepend);
        if self.is_too_large(store.value.len(), store.flags) {
            return self.refuse(Refusal::TooLarge, store.mode == StoreMode::Set && store.compare.is_none());
        }
        self.state.commands.cmd_set += 1;
        let value = match &store.value {
            Payload::Bytes(bytes) => bytes.to_vec(),
            Payload::Pages(pages) => pages.chunks().concat(),
        };
        let old = self.live_to_store();
        if extends {
            return self.extend(store, &value, old);
        }
        let mut item = Item {
            value,
            flags: store.flags,
            deadline: self.deadline(store.exptime),
            explicit: store.explicit,
            bits: Bits { binary_key: store.binary_key, ..Bits::default() },
            ..Item::default()
        };
        let compare = store.compare.filter(|_| store.mode != StoreMode::Add);
        match (old, compare) {
            (None, Some(_)) => {
                self.state.commands.cas_misses += 1;
                return (self.reply)(Outcome::NotFound);
            }
            (Some(old), Some(unique)) if unique != 0 && unique == old.cas() => {
                self.state.commands.cas_hits += 1;
            }
            (Some(old), Some(unique)) if unique != 0 && store.invalidate && unique < old.cas() => {
                self.state.commands.cas_hits += 1;
                item.deadline = old.deadline;
                item.bits.stale = true;
                item.bits.win_sent = old.bits.win_sent;
            }
            (Some(_), Some(_)) => {
                self.state.commands.cas_badval += 1;
                return (self.reply)(Outcome::Exists);
            }
            (Some(old), None) if store.mode == StoreMode::Add => {
                let bumped = Item { accessed: self.now.secs, ..old };
                self.state.items.insert(self.key.to_vec(), bumped);
                return (self.reply)(Outcome::NotStored);
            }
            (None, None) if store.mode == StoreMode::Replace => {
                return (self.reply)(Outcome::NotStored);
            }
            _ => {}
        }
        self.stored(item);
    }

    fn stored(&mut self, item: Item) {
        let item = self.keep(item);
        (self.reply)(Outcome::Stored(Kept { cas: item.cas(), len: item.value.len() }));
    }

    fn extend(&mut self, store: &Store<'_>, value: &[u8], old: Option<Item>) {
        let mut item = match old {
            Some(old) => {
                if store.compare.is_some_and(|unique| unique != 0 && unique != old.cas()) {
                    return (self.reply)(Outcome::Exists);
                }
                if self.is_too_large(old.value.len() + value.len(), old.flags) {
                    self.state.commands.store_too_large += 1;
                    return (self.reply)(Outcome::NotStored);
                }
                let binary_key = store.binary_key || old.bits.binary_key;
                Item { bits: Bits { binary_key, ..Bits::default() }, fetched: false, ..old }
            }
            None => match store.vivify {
                Some(exptime) => Item {
                    flags: store.flags,
                    deadline: self.deadline(exptime),
                    bits: Bits { binary_key: store.binary_key, ..Bits::default() },
                    ..Item::default()
                },
                None => return (self.reply)(Outcome::NotStored),
            },
        };
        item.explicit = store.explicit;
        item.value = match store.mode {
            StoreMode::Append => [&item.value, value].concat(),
            _ => [value, &item.value].concat(),
        };
        self.stored(item);
    }
}

impl Engine for ModelEngine {
    fn execute(&self, batch: &[Command<'_>], now: Now, replies: &mut dyn Replies) {
        let mut state = self.state();
        self.flush_if_due(&mut state, now);
        for (index, command) in batch.iter().enumerate() {
            let mut run = Run {
                state: &mut state,
                journal: &*self.journal,
                shard: self.shard_of(&command.key),
                key: &command.key,
                now,
                item_size_max: self.item_size_max,
                reply: &mut |outcome| replies.reply(index, outcome),
            };
            run.command(&command.op);
        }
    }

    fn inline_max(&self) -> usize {
        self.inline_max
    }

    fn reserve(&self, len: usize, _now: Now) -> Result<Reserved, OutOfMemory> {
        Ok(Reserved { chunks: vec![Chunk::unpaid(vec![0; len].into())] })
    }

    fn flush(&self, at: Option<u32>, now: Now) {
        let mut state = self.state();
        state.commands.cmd_flush += 1;
        self.flush_at.store(at.unwrap_or(0), Ordering::Release);
        match at {
            None => self.flush_now(&mut state, now),
            Some(deadline) => {
                for shard in 0..self.shards {
                    self.journal.record(shard, &Change::FlushAt { deadline });
                }
            }
        }
    }

    fn apply(&self, change: &Change<'_>, now: Now) {
        let mut state = self.state();
        let state = &mut *state;
        match change {
            Change::Put(put) => {
                state.clocks[self.shard_of(put.key)].observe(put.version, now);
                let newer = state.items.get(put.key).is_some_and(|item| item.version >= put.version);
                if put.version < state.floor || newer {
                    return;
                }
                let value = match &put.value {
                    change::Bytes::Whole(bytes) => bytes.to_vec(),
                    change::Bytes::Chunks(chunks) => chunks.concat(),
                };
                let item = Item {
                    value,
                    flags: put.flags,
                    deadline: put.deadline,
                    version: put.version,
                    explicit: put.explicit,
                    bits: put.bits,
                    accessed: now.secs,
                    fetched: false,
                };
                state.items.insert(put.key.to_vec(), item);
            }
            &Change::Delete { key, version } => {
                state.clocks[self.shard_of(key)].observe(version, now);
                if state.items.get(key).is_some_and(|item| item.version < version) {
                    state.items.remove(key);
                }
            }
            &Change::Touch { key, deadline, version } => {
                state.clocks[self.shard_of(key)].observe(version, now);
                if let Some(item) = state.items.get_mut(key)
                    && item.version == version
                {
                    item.deadline = deadline;
                }
            }
            &Change::Flush { floor } => {
                self.flush_at.store(0, Ordering::Release);
                state.floor = state.floor.max(floor);
                for clock in &mut state.clocks {
                    clock.observe(floor, now);
                }
            }
            &Change::FlushAt { deadline } => self.flush_at.store(deadline, Ordering::Release),
        }
    }

    fn apply_unless(&self, change: &Change<'_>, now: Now, is_gone: &dyn Fn(usize) -> bool) {
        if let Change::Put(put) = change {
            let mut state = self.state();
            let (shard, floor) = (self.shard_of(put.key), state.floor);
            let is_live = |item: &Item| item.version >= floor && !Deadline(item.deadline).is_over(now);
            if !state.items.get(put.key).is_some_and(is_live) && is_gone(shard) {
                state.clocks[shard].observe(put.version, now);
                return;
            }
        }
        self.apply(change, now);
    }

    fn merge(&self, change: &Change<'_>, now: Now, may_create: &dyn Fn(usize) -> bool) -> Merged {
        let Some((key, version)) = change.key_and_version() else {
            self.apply(change, now);
            (0..self.shards()).for_each(|shard| self.journal.record(shard, change));
            return Merged::Taken;
        };
        let shard = self.shard_of(key);
        let held = {
            let mut state = self.state();
            state.clocks[shard].observe(version, now);
            let item = state.items.get(key);
            item.filter(|item| item.version >= state.floor).map(|item| (item.version, item.deadline))
        };
        let newer = match (change, held) {
            (Change::Put(_), _) if version < self.state().floor => return Merged::Refused,
            (Change::Put(_), None) if !may_create(shard) => return Merged::Refused,
            (Change::Put(_), None) => true,
            (Change::Touch { deadline, .. }, Some(held)) => held.0 == version && held.1 != *deadline,
            (_, held) => held.is_some_and(|held| held.0 < version),
        };
        self.apply(change, now);
        if !newer {
            return Merged::Kept;
        }
        self.journal.record(shard, change);
        Merged::Taken
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        now: Now,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        let state = self.state();
        let mut found: Vec<(u64, &Vec<u8>, &Item)> = state
            .items
            .iter()
            .map(|(key, item)| (u64::from(hash::position(self.hasher.hash(key))), key, item))
            .filter(|(position, key, item)| {
                let dead = item.version < state.floor || Deadline(item.deadline).is_over(now);
                self.shard_of(key) == shard && *position >= cursor && !dead
            })
            .collect();
        found.sort_by_key(|(position, ..)| *position);
        let (mut bytes, mut last) = (0, None);
        for (position, key, item) in found {
            if bytes >= max_bytes && last != Some(position) {
                return Some(position);
            }
            visit(&item.put(key));
            bytes += key.len() + item.value.len();
            last = Some(position);
        }
        None
    }

    fn read(&self, key: &[u8], now: Now, visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        let state = self.state();
        let item = state
            .items
            .get(key)
            .filter(|item| item.version >= state.floor && !Deadline(item.deadline).is_over(now));
        if let Some(item) = item {
            visit(&item.put(key));
        }
        item.is_some()
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>, now: Now) {
        let mut guard = self.state();
        let (state, shard) = (&mut *guard, self.shard_of(key));
        if let Some(version) = theirs {
            self.journal.record(shard, &Change::Delete { key, version });
        }
        let version = state.clocks[shard].next(now);
        let floor = state.floor;
        let live = |item: &Item| item.version >= floor && !Deadline(item.deadline).is_over(now);
        match state.items.get_mut(key).filter(|item| live(item)) {
            Some(item) => {
                item.version = version;
                self.journal.record(shard, &item.put(key));
            }
            None => {
                state.items.remove(key);
                self.journal.record(shard, &Change::Delete { key, version });
            }
        }
    }

    fn fate(&self, key: &[u8], now: Now) -> Fate {
        let state = self.state();
        match state.items.get(key) {
            None => Fate::Missing,
            Some(item) if item.version < state.floor => Fate::Flushed,
            Some(item) if Deadline(item.deadline).is_over(now) => Fate::Expired,
            Some(_) => Fate::There,
        }
    }

    fn clear(&self, _now: Now) {
        let mut state = self.state();
        state.items.clear();
        state.floor = 0;
        self.flush_at.store(0, Ordering::Release);
    }

    fn pending_flush(&self) -> Option<u32> {
        Some(self.flush_at.load(Ordering::Acquire)).filter(|&at| at != 0)
    }

    fn maintain(&self, now: Now, _budget: usize, serving: bool) -> bool {
        if serving {
            self.flush_if_due(&mut self.state(), now);
        }
        false
    }

    fn shards(&self) -> usize {
        self.shards
    }

    fn items(&self) -> u64 {
        self.state().items.len() as u64
    }

    fn set_slot(&self, slot: u8) {
        for clock in &mut self.state().clocks {
            clock.set_slot(slot);
        }
    }

    fn set_limit(&self, _bytes: u64) {}

    fn stats(&self) -> EngineStats {
        let state = self.state();
        let bytes = state
            .items
            .iter()
            .map(|(key, item)| memcached_size(key.len(), item.value.len(), item.flags, true) as u64);
        EngineStats {
            commands: state.commands.clone(),
            curr_items: state.items.len() as u64,
            total_items: state.total_items,
            bytes: bytes.sum(),
            ..EngineStats::default()
        }
    }

    fn reset_stats(&self) {
        let mut state = self.state();
        state.commands = CommandStats::default();
        state.total_items = 0;
    }
}
