//! What clients' commands do to a shard, exactly as memcached does it.
//!
//! Every command that changes an item records one change, here and nowhere else.

use tandem_replication::change::Change;

use super::item::{self, Header, Item, Marks, write_access};
use super::large;
use super::shard::{Content, Draft, Found, Hint, Shard, hit, is_dead, measure, measure_plain};
use crate::command::{
    Arith, Command, Deadline, Delete, Exptime, Get, Hit, Kept, Now, Op, Outcome, Pages, Payload, ReadKind,
    Refusal, Replies, Shown, Store, StoreMode, Value,
};
use crate::engine::number::{self, Digits};
use crate::engine::{is_chunked, memcached_class, memcached_size};

/// Where a command's outcome goes.
pub(super) struct Reply<'a> {
    pub(super) index: usize,
    pub(super) replies: &'a mut dyn Replies,
}

impl Reply<'_> {
    pub(super) fn send(&mut self, outcome: Outcome<'_>) {
        self.replies.reply(self.index, outcome);
    }
}

/// A command's key and moment.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) key: &'a [u8],
    pub(super) hash: u64,
    pub(super) now: Now,
    /// Where the key probably is.
    pub(super) hint: Option<Hint>,
}

/// A value that is extended outside the lock, because it is or becomes large.
pub(super) struct Base {
    /// The version it was read at: whoever changed it since makes the work void.
    pub(super) version: u64,
    pub(super) value: BaseValue,
}

/// The outcome of arithmetic on a value that is large: a number, a blank, and much behind it. It is
/// written outside the lock.
pub(super) struct LongNumber {
    /// As in [`Base`].
    pub(super) version: u64,
    pub(super) digits: Digits,
    /// How long the value stays, in bytes: blanks fill it up.
    pub(super) len: usize,
}

/// What there is to extend.
pub(super) enum BaseValue {
    Inline(Vec<u8>),
    Large(Pages),
}

/// What a read leaves of an item's header, and whether the reader has won the right to refresh it.
fn after(get: &Get, before: Header, now: Now) -> (Header, bool) {
    let left_until = match get.touch.filter(|_| get.recache_after_touch) {
        Some(exptime) => exptime.deadline(now).0,
        None => before.deadline,
    };
    let recache =
        get.recache.is_some_and(|seconds| left_until != 0 && left_until < Exptime(seconds).deadline(now).0);
    // Only those who can be told that they won may win.
    let told = get.kind == ReadKind::Meta;
    let open = !before.marks.has(Marks::WIN_SENT);
    let won = told && open && (before.marks.has(Marks::STALE) || recache);
    let mut header = if get.no_bump { before } else { before.read_again(now.secs) };
    if let Some(exptime) = get.touch {
        header.deadline = exptime.deadline(now).0;
    }
    header.marks = header.marks.with(Marks::WIN_SENT, won || !open);
    (header, won)
}

impl Shard {
    /// Every command but stores and arithmetic, whose value may need memory from outside first.
    pub(super) fn execute(&mut self, command: &Command<'_>, at: At<'_>, reply: &mut Reply<'_>) {
        match &command.op {
            Op::Read => self.read(at, reply),
            Op::Get(get) => self.get(at, get, reply),
            Op::Inspect => self.inspect(at, reply),
            Op::Delete(delete) => self.delete(at, delete, reply),
            Op::Touch(exptime) => self.touch(at, *exptime, reply),
            Op::Refuse(refuse) => self.refuse(at, refuse.why, refuse.drops, reply),
            Op::Store(_) => unreachable!("stores are executed by `store` and `extend`"),
            Op::Arith(_) => unreachable!("arithmetic is executed by `arith`"),
        }
    }

    #[inline(never)]
    fn find_now(&mut self, at: At<'_>) -> Option<u32> {
        self.find_live(at).map(|found| found.location)
    }

    fn inspect(&mut self, at: At<'_>, reply: &mut Reply<'_>) {
        self.counters.commands.cmd_meta += 1;
        match self.find_now(at) {
            Some(location) => reply.send(Outcome::Hit(self.hit(location, at.now))),
            None => reply.send(Outcome::Miss),
        }
    }

    pub(super) fn get(&mut self, at: At<'_>, get: &Get, reply: &mut Reply<'_>) {
        let roomy = get.vivify.is_some() && self.prepare(self.slot_max(at.key, 0), at.now);
        let Some(Found { location, header: before }) = self.find_live(at) else {
            match get.vivify {
                Some(exptime) if roomy => self.vivify(at, get, exptime, reply),
                _ => self.miss(get.kind, reply),
            }
            return;
        };
        let plain = get.kind == ReadKind::Get && get.touch.is_none() && !get.no_bump;
        let (header, won) =
            if plain { (before.read_again(at.now.secs), false) } else { after(get, before, at.now) };
        if get.touch.is_some() {
            self.set_header(location, header);
            self.record(&Change::Touch { key: at.key, deadline: header.deadline, version: header.version });
        }
        let slot = self.segments.bytes_mut(location);
        if header.access() != before.access() {
            write_access(slot, &header);
        }
        // As it was found.
        let item = Item::with(slot, before);
        let value = self.larges.value(&item);
        let measure = measure(&item, value.len(), self.shared.cas);
        self.counters.count_read(get, measure.1);
        let hit = hit(&item, value, measure, self.shared.cas, at.now);
        reply.send(Outcome::Hit(Hit { deadline_after: Deadline(header.deadline), won, ..hit }));
    }

    /// A classic get, which is what most commands are: [`Shard::get`] does the same with more to look at.
    #[inline(always)]
    pub(super) fn read(&mut self, at: At<'_>, reply: &mut Reply<'_>) {
        self.secs = at.now.secs;
        let Some(location) = self.guess(at) else { return self.miss(ReadKind::Get, reply) };
        let slot = self.segments.bytes_mut(location);
        if !item::has_key(slot, at.key) {
            return self.read_elsewhere(at, reply);
        }
        let header = Header::read(slot);
        if is_dead(&header, self.floor, at.now) {
            self.found_dead(at.hash, location, &header);
            return self.miss(ReadKind::Get, reply);
        }
        item::note_read(slot, at.now.secs);
        let item = Item::with(slot, header);
        let cas = self.shared.cas;
        let (shown, (_, class)) = match item.plain_value() {
            Some(value) => {
                let shown = Shown { value: Value::Inline(value), flags: 0, cas: header.version };
                (shown, measure_plain(&header, cas))
            }
            None => {
                let value = self.larges.value(&item);
                let shown = Shown { value, flags: item.flags(), cas: item.cas() };
                (shown, measure(&item, value.len(), cas))
            }
        };
        self.counters.count_get(class);
        reply.send(Outcome::Value(Shown { cas: if cas { shown.cas } else { 0 }, ..shown }));
    }

    /// The same, if the first item with the hash's tag is another one.
    #[cold]
    fn read_elsewhere(&mut self, at: At<'_>, reply: &mut Reply<'_>) {
        match self.find(at.hash, at.key) {
            Some(location) => self.read(At { hint: Some(self.hint_at(location)), ..at }, reply),
            None => self.miss(ReadKind::Get, reply),
        }
    }

    #[inline(never)]
    fn miss(&mut self, kind: ReadKind, reply: &mut Reply<'_>) {
        match kind {
            ReadKind::GetAndTouch => {
                self.counters.commands.cmd_touch += 1;
                self.counters.commands.touch_misses += 1;
            }
            // An `mg` that misses is a get, whatever it would have touched.
            ReadKind::Get | ReadKind::Meta => {
                self.counters.commands.cmd_get += 1;
                self.counters.commands.get_misses += 1;
            }
        }
        reply.send(Outcome::Miss);
    }

    /// A miss that creates an empty item, which the client then fills.
    #[inline(never)]
    fn vivify(&mut self, at: At<'_>, get: &Get, exptime: Exptime, reply: &mut Reply<'_>) {
        let draft = Draft {
            key: at.key,
            content: Content::Inline(b""),
            flags: 0,
            explicit: get.explicit,
            version: self.clock.next(at.now),
            deadline: exptime.deadline(at.now).0,
            marks: Marks::WIN_SENT.with(Marks::BINARY_KEY, get.binary_key).with(Marks::FETCHED, !get.no_bump),
        };
        let location = self.put(at.hash, &draft, None, at.now);
        self.record_put(location);
        let (_, class) = self.measure(&self.item(location));
        self.counters.count_read(get, class);
        let mut hit = self.hit(location, at.now);
        (hit.created, hit.won, hit.win_sent, hit.fetched) = (true, true, false, false);
        reply.send(Outcome::Hit(hit));
    }

    fn touch(&mut self, at: At<'_>, exptime: Exptime, reply: &mut Reply<'_>) {
        let Some(location) = self.find_now(at) else {
            self.counters.commands.cmd_touch += 1;
            self.counters.commands.touch_misses += 1;
            reply.send(Outcome::NotFound);
            return;
        };
        let item = self.item(location);
        let (before, (_, class)) = (item.header, self.measure(&item));
        self.counters.count_touch(class);
        let mut header = before;
        header.deadline = exptime.deadline(at.now).0;
        header.accessed = at.now.secs;
        header.marks = header.marks.read_again();
        self.set_header(location, header);
        self.record(&Change::Touch { key: at.key, deadline: header.deadline, version: header.version });
        let mut hit = self.hit(location, at.now);
        hit.deadline = Deadline(before.deadline);
        hit.idle_secs = at.now.secs.saturating_sub(before.accessed);
        hit.fetched = before.marks.has(Marks::FETCHED);
        reply.send(Outcome::Touched(hit));
    }

    fn delete(&mut self, at: At<'_>, delete: &Delete, reply: &mut Reply<'_>) {
        let keeps = delete.invalidate || delete.drop_value;
        let roomy = !keeps || self.prepare(self.slot_max(at.key, usize::MAX), at.now);
        let Some(location) = self.find_now(at) else {
            self.counters.commands.delete_misses += 1;
            self.record_delete(at.key, at.now);
            reply.send(Outcome::NotFound);
            return;
        };
        let item = self.item(location);
        let (_, class) = self.measure(&item);
        if delete.compare.is_some_and(|unique| unique != self.shown(item.cas())) {
            self.counters.commands.delete_misses += 1;
            reply.send(Outcome::Exists);
            return;
        }
        if !keeps {
            self.counters.commands.delete_hits += 1;
            self.counters.class(class).delete_hits += 1;
        }
        let kept = if keeps { self.invalidate(at, location, delete, roomy) } else { None };
        let Some(location) = kept else {
            // Removed, as asked, or because there is no memory for what should have stayed.
            self.kill_key(at.hash, at.key);
            self.record_delete(at.key, at.now);
            reply.send(Outcome::Deleted(Kept::default()));
            return;
        };
        self.record_put(location);
        let item = self.item(location);
        let kept = Kept { cas: self.shown(item.cas()), len: self.value(&item).len() };
        reply.send(Outcome::Deleted(kept));
    }

    /// Gives an item a new version and marks it stale, or empties it, or both.
    fn invalidate(&mut self, at: At<'_>, location: u32, delete: &Delete, roomy: bool) -> Option<u32> {
        let item = self.item(location);
        let header = item.header;
        let mut marks = header.marks;
        if delete.drop_value {
            marks = Marks::default().with(Marks::BINARY_KEY, marks.has(Marks::BINARY_KEY));
        }
        if delete.invalidate {
            // The next one who asks may win again.
            marks = marks.with(Marks::STALE, true).with(Marks::WIN_SENT, false);
        }
        // Without its value the item is a new one, and a new one lives for ever unless told otherwise.
        let deadline = match delete.touch {
            Some(exptime) => exptime.deadline(at.now).0,
            None if delete.drop_value => 0,
            None => header.deadline,
        };
        let flags = if delete.drop_value { 0 } else { item.flags() };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let item = self.item(location);
        let content = match item.large() {
            _ if delete.drop_value => Content::Inline(b""),
            Some(id) => Content::Large(self.larges.at(id).clone()),
            None => {
                scratch.extend_from_slice(item.value());
                Content::Inline(&scratch)
            }
        };
        let draft =
            Draft { key: at.key, content, flags, explicit: delete.explicit, version: 0, deadline, marks };
        let fits = roomy || self.is_in_place(Some(location), &draft);
        let kept = fits.then(|| {
            let draft = Draft { version: self.clock.next(at.now), ..draft };
            self.put(at.hash, &draft, Some(location), at.now)
        });
        self.scratch = scratch;
        kept
    }

    /// `incr` and `decr`. Where the value is large, answers what it becomes; the caller writes that
    /// without the lock and comes again with the `result`.
    pub(super) fn arith(
        &mut self,
        at: At<'_>,
        arith: &Arith,
        result: Option<(u64, Pages)>,
        reply: &mut Reply<'_>,
    ) -> Result<(), LongNumber> {
        let roomy = self.prepare(self.slot_max(at.key, 20), at.now);
        let Some(location) = self.find_now(at) else {
            self.arith_missing(at, arith, roomy, reply);
            return Ok(());
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.arith_found(at, arith, location, (roomy, result), &mut scratch, reply);
        self.scratch = scratch;
        outcome
    }

    fn arith_found(
        &mut self,
        at: At<'_>,
        arith: &Arith,
        location: u32,
        (roomy, result): (bool, Option<(u64, Pages)>),
        scratch: &mut Vec<u8>,
        reply: &mut Reply<'_>,
    ) -> Result<(), LongNumber> {
        let item = self.item(location);
        let (header, (size, class)) = (item.header, self.measure(&item));
        let value = self.value(&item);
        let len = value.len();
        let compare = arith.compare.filter(|&unique| unique != 0);
        if len == 0 || is_chunked(size) {
            reply.send(Outcome::NonNumeric);
            return Ok(());
        }
        if compare.is_some_and(|unique| unique != self.shown(item.cas())) {
            reply.send(Outcome::Exists);
            return Ok(());
        }
        let number = match value {
            Value::Inline(text) => number::parse(text),
            Value::Pages(pages) => large::number(pages),
        };
        let Some(number) = number else {
            reply.send(Outcome::NonNumeric);
            return Ok(());
        };
        let number = if arith.increment {
            number.wrapping_add(arith.delta)
        } else {
            number.saturating_sub(arith.delta)
        };
        let digits = Digits::of(number);
        let content = if item.large().is_some() {
            match result {
                Some((version, pages)) if version == header.version => Content::Large(pages),
                _ => return Err(LongNumber { version: header.version, digits, len }),
            }
        } else {
            scratch.clear();
            scratch.extend_from_slice(digits.as_bytes());
            if scratch.len() < len {
                // As memcached: a shorter number keeps the length, padded with blanks.
                scratch.resize(len, b' ');
            }
            Content::Inline(scratch)
        };
        // A longer number is a new item to memcached: not read, not stale, not won. The key stays what it was.
        let grown = digits.as_bytes().len() > len;
        let fresh = Marks::default()
            .with(Marks::BINARY_KEY, header.marks.has(Marks::BINARY_KEY))
            .with_heat(header.marks.heat());
        let deadline_after = arith.touch.map_or(header.deadline, |exptime| exptime.deadline(at.now).0);
        let draft = Draft {
            key: at.key,
            content,
            flags: item.flags(),
            explicit: arith.explicit,
            version: 0,
            deadline: deadline_after,
            marks: if grown { fresh } else { header.marks },
        };
        let fits = roomy || self.is_in_place(Some(location), &draft);
        if fits {
            let draft = Draft { version: self.clock.next(at.now), ..draft };
            let location = self.put(at.hash, &draft, Some(location), at.now);
            self.record_put(location);
            self.count_arith(arith, class);
            let mut hit = self.hit(location, at.now);
            hit.deadline = Deadline(header.deadline);
            hit.idle_secs = at.now.secs.saturating_sub(header.accessed);
            reply.send(Outcome::Number(number, hit));
        } else {
            self.refuse(at, Refusal::OutOfMemory, true, reply);
        }
        Ok(())
    }

    fn count_arith(&mut self, arith: &Arith, class: u8) {
        if arith.increment {
            self.counters.commands.incr_hits += 1;
            self.counters.class(class).incr_hits += 1;
        } else {
            self.counters.commands.decr_hits += 1;
            self.counters.class(class).decr_hits += 1;
        }
    }

    fn arith_missing(&mut self, at: At<'_>, arith: &Arith, roomy: bool, reply: &mut Reply<'_>) {
        let Some((initial, exptime)) = arith.initial else {
            let commands = &mut self.counters.commands;
            if arith.increment {
                commands.incr_misses += 1;
            } else {
                commands.decr_misses += 1;
            }
            reply.send(Outcome::NotFound);
            return;
        };
        if !roomy {
            self.refuse(at, Refusal::OutOfMemory, false, reply);
            return;
        }
        let digits = Digits::of(initial);
        let draft = Draft {
            key: at.key,
            content: Content::Inline(digits.as_bytes()),
            flags: 0,
            explicit: arith.explicit,
            version: self.clock.next(at.now),
            deadline: exptime.deadline(at.now).0,
            marks: Marks::default().with(Marks::BINARY_KEY, arith.binary_key),
        };
        let location = self.put(at.hash, &draft, None, at.now);
        self.record_put(location);
        let mut hit = self.hit(location, at.now);
        hit.created = true;
        reply.send(Outcome::Number(initial, hit));
    }

    /// Answers a store that cannot be; with `replaces` the item it would have replaced goes.
    pub(super) fn refuse(&mut self, at: At<'_>, refusal: Refusal, replaces: bool, reply: &mut Reply<'_>) {
        if replaces {
            self.kill_key(at.hash, at.key);
            self.record_delete(at.key, at.now);
        }
        match refusal {
            Refusal::TooLarge => {
                self.counters.commands.store_too_large += 1;
                reply.send(Outcome::TooLarge);
            }
            Refusal::OutOfMemory => {
                self.counters.commands.store_no_memory += 1;
                let class = memcached_class(memcached_size(at.key.len(), 0, 0, self.shared.cas));
                self.counters.class(class).outofmemory += 1;
                reply.send(Outcome::OutOfMemory);
            }
        }
    }

    /// Largest slot an item of this key can need with a value of up to `value_len` bytes.
    fn slot_max(&self, key: &[u8], value_len: usize) -> usize {
        let value = value_len.min(self.shared.geometry.inline_max).max(item::STUB);
        (item::OVERHEAD_MAX + key.len() + value).next_multiple_of(4)
    }

    #[inline]
    fn count_store(&mut self, size: usize) {
        self.counters.commands.cmd_set += 1;
        self.counters.class(memcached_class(size)).cmd_set += 1;
    }

    /// Set, add, replace and cas, with the value where it is to stay. `size` is what memcached would count.
    pub(super) fn store(
        &mut self,
        at: At<'_>,
        store: &Store<'_>,
        content: Content<'_>,
        size: usize,
        reply: &mut Reply<'_>,
    ) {
        self.count_store(size);
        let mut draft = Draft {
            key: at.key,
            content,
            flags: store.flags,
            explicit: store.explicit,
            version: 0,
            deadline: store.exptime.deadline(at.now).0,
            marks: Marks::default().with(Marks::BINARY_KEY, store.binary_key),
        };
        let roomy = self.prepare(self.slot_max(at.key, draft.len()), at.now);
        let old = self.find_to_store(at);
        // `C` upgrades set and replace to a compare and swap; with add it means nothing.
        let compare = store.compare.filter(|_| store.mode != StoreMode::Add);
        match (old, compare) {
            (Some(old), Some(unique)) => {
                if let Err(outcome) = self.compare(old, unique, store.invalidate, &mut draft) {
                    reply.send(outcome);
                    return;
                }
            }
            (None, Some(_)) => {
                self.counters.commands.cas_misses += 1;
                reply.send(Outcome::NotFound);
                return;
            }
            (Some(old), None) if store.mode == StoreMode::Add => {
                self.bump(old, at.now);
                reply.send(Outcome::NotStored);
                return;
            }
            (None, None) if store.mode == StoreMode::Replace => {
                reply.send(Outcome::NotStored);
                return;
            }
            _ => {}
        }
        if !roomy && !self.is_in_place(old, &draft) {
            self.refuse(at, Refusal::OutOfMemory, store.mode == StoreMode::Set, reply);
            return;
        }
        self.finish_store(at, &mut draft, old, reply);
    }

    #[inline]
    fn finish_store(&mut self, at: At<'_>, draft: &mut Draft<'_>, old: Option<u32>, reply: &mut Reply<'_>) {
        draft.version = self.clock.next(at.now);
        let kept = Kept { cas: self.shown(draft.explicit.unwrap_or(draft.version)), len: draft.len() };
        let location = self.put(at.hash, draft, old, at.now);
        self.record_put(location);
        reply.send(Outcome::Stored(kept));
    }

    /// Whether a compare and swap may store; a stale one (meta `I`) may too, but leaves its mark.
    fn compare(
        &mut self,
        old: u32,
        unique: u64,
        invalidate: bool,
        draft: &mut Draft<'_>,
    ) -> Result<(), Outcome<'static>> {
        let item = self.item(old);
        let (header, cas, (_, class)) = (item.header, self.shown(item.cas()), self.measure(&item));
        if unique != 0 && unique == cas {
            self.counters.commands.cas_hits += 1;
            self.counters.class(class).cas_hits += 1;
            return Ok(());
        }
        if unique != 0 && invalidate && unique < cas {
            self.counters.commands.cas_hits += 1;
            self.counters.class(class).cas_hits += 1;
            draft.deadline = header.deadline;
            draft.marks =
                draft.marks.with(Marks::STALE, true).with(Marks::WIN_SENT, header.marks.has(Marks::WIN_SENT));
            return Ok(());
        }
        self.counters.commands.cas_badval += 1;
        self.counters.class(class).cas_badval += 1;
        Err(Outcome::Exists)
    }

    /// An add that found the key: the item counts as used.
    fn bump(&mut self, location: u32, now: Now) {
        let mut header = self.item(location).header;
        header.accessed = now.secs;
        header.marks = header.marks.with_heat((header.marks.heat() + 1).min(3));
        self.set_header(location, header);
    }

    /// Append and prepend. Where the result is large, answers what there is to extend; the caller
    /// extends it without the lock and comes again with the `result`.
    pub(super) fn extend(
        &mut self,
        at: At<'_>,
        store: &Store<'_>,
        result: Option<(u64, Pages)>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Base> {
        let roomy = self.prepare(self.slot_max(at.key, usize::MAX), at.now);
        let old = self.find_to_store(at);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let outcome = self.extend_found(at, store, old, (roomy, result), &mut scratch, reply);
        self.scratch = scratch;
        if outcome.is_ok() {
            self.count_store(memcached_size(at.key.len(), store.value.len(), store.flags, self.shared.cas));
        }
        outcome
    }

    fn extend_found(
        &mut self,
        at: At<'_>,
        store: &Store<'_>,
        old: Option<u32>,
        (roomy, result): (bool, Option<(u64, Pages)>),
        scratch: &mut Vec<u8>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Base> {
        if let Some(refused) = self.cannot_extend(at, store, old) {
            reply.send(refused);
            return Ok(());
        }
        let marks = Marks::default().with(Marks::BINARY_KEY, store.binary_key);
        let mut draft = Draft {
            key: at.key,
            content: Content::Inline(b""),
            flags: store.flags,
            explicit: store.explicit,
            version: 0,
            deadline: store.vivify.unwrap_or_default().deadline(at.now).0,
            marks,
        };
        // A missing item that is created is extended from nothing, at version 0.
        let (mut value, mut version): (Value<'_>, u64) = (Value::Inline(b""), 0);
        if let Some(old) = old {
            let item = self.item(old);
            value = self.value(&item);
            version = item.header.version;
            draft.flags = item.flags();
            draft.deadline = item.header.deadline;
            draft.marks =
                marks.with(Marks::BINARY_KEY, store.binary_key || item.header.marks.has(Marks::BINARY_KEY));
        }
        let inline_max = self.shared.geometry.inline_max;
        draft.content = match (result, value, &store.value) {
            (Some((at_version, pages)), _, _) if at_version == version => Content::Large(pages),
            (_, Value::Inline(value), Payload::Bytes(more)) if value.len() + more.len() <= inline_max => {
                let parts = [value, more];
                let first = usize::from(store.mode == StoreMode::Prepend);
                scratch.extend_from_slice(parts[first]);
                scratch.extend_from_slice(parts[1 - first]);
                Content::Inline(scratch)
            }
            (_, Value::Inline(value), _) => {
                return Err(Base { version, value: BaseValue::Inline(value.to_vec()) });
            }
            (_, Value::Pages(pages), _) => {
                return Err(Base { version, value: BaseValue::Large(pages.clone()) });
            }
        };
        if roomy || self.is_in_place(old, &draft) {
            self.finish_store(at, &mut draft, old, reply);
        } else {
            self.refuse(at, Refusal::OutOfMemory, false, reply);
        }
        Ok(())
    }

    /// Why a value cannot be extended, if so. The item stays as it is.
    fn cannot_extend(&mut self, at: At<'_>, store: &Store<'_>, old: Option<u32>) -> Option<Outcome<'static>> {
        let Some(old) = old else {
            return store.vivify.is_none().then_some(Outcome::NotStored);
        };
        let item = self.item(old);
        if store.compare.is_some_and(|unique| unique != 0 && unique != self.shown(item.cas())) {
            return Some(Outcome::Exists);
        }
        let len = self.value(&item).len() + store.value.len();
        let size = memcached_size(at.key.len(), len, item.flags(), self.shared.cas);
        if size > self.shared.item_size_max {
            return Some(Outcome::NotStored);
        }
        None
    }
}
