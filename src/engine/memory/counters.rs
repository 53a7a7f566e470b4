//! What a shard counts, under its own lock: no atomics, summed up when somebody asks.

use crate::command::{Get, ReadKind};
use crate::engine::{ClassStats, CommandStats, EngineStats, SLAB_CLASSES};

/// The counters of one shard.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) commands: CommandStats,
    classes: Box<[ClassStats]>,
    /// Items ever stored.
    pub(super) total_items: u64,
    /// Bytes of live items by memcached's accounting.
    pub(super) bytes: u64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            commands: CommandStats::default(),
            classes: vec![ClassStats::default(); SLAB_CLASSES + 1].into(),
            total_items: 0,
            bytes: 0,
        }
    }

    #[inline]
    pub(super) fn class(&mut self, class: u8) -> &mut ClassStats {
        &mut self.classes[usize::from(class)]
    }

    /// Counts a read that found an item of that class.
    #[inline]
    pub(super) fn count_read(&mut self, get: &Get, class: u8) {
        match get.kind {
            // `gat`, and `mg` with `T`, count as touches that hit.
            ReadKind::GetAndTouch => self.count_touch(class),
            ReadKind::Meta if get.touch.is_some() => self.count_touch(class),
            ReadKind::Get | ReadKind::Meta => self.count_get(class),
        }
    }

    /// Counts a get that found an item of that class.
    #[inline(always)]
    pub(super) fn count_get(&mut self, class: u8) {
        self.commands.cmd_get += 1;
        self.commands.get_hits += 1;
        self.class(class).get_hits += 1;
    }

    /// Counts a touch that found an item of that class.
    pub(super) fn count_touch(&mut self, class: u8) {
        self.commands.cmd_touch += 1;
        self.commands.touch_hits += 1;
        self.class(class).touch_hits += 1;
    }

    /// Items now, by class.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> Vec<(u64, u64)> {
        self.classes.iter().map(|class| (class.number, class.mem_requested)).collect()
    }

    /// Forgets what was counted, but not what is there.
    pub(super) fn reset(&mut self) {
        self.commands = CommandStats::default();
        self.total_items = 0;
        for class in &mut self.classes {
            *class = present(class);
        }
    }

    /// Nothing is there any more; what was counted stays.
    pub(super) fn emptied(&mut self) {
        self.bytes = 0;
        for class in &mut self.classes {
            (class.number, class.number_small, class.number_main, class.mem_requested) = (0, 0, 0, 0);
        }
    }

    /// Adds these counters to a sum. `age` is that of the shard's oldest items.
    pub(super) fn add_to(&self, sum: &mut EngineStats, age: u32) {
        add_commands(&mut sum.commands, &self.commands);
        sum.total_items += self.total_items;
        sum.bytes += self.bytes;
        for (number, class) in self.classes.iter().enumerate() {
            if *class != ClassStats::default() {
                let target = sum.classes.entry(number as u8).or_default();
                add_class(target, class);
                if class.number > 0 {
                    target.age = target.age.max(age);
                }
            }
        }
    }
}

/// Only what describes items that are there.
fn present(class: &ClassStats) -> ClassStats {
    ClassStats {
        number: class.number,
        number_small: class.number_small,
        number_main: class.number_main,
        mem_requested: class.mem_requested,
        ..ClassStats::default()
    }
}

macro_rules! add_fields {
    ($to:ident, $from:ident: $($field:ident)*) => { $($to.$field += $from.$field;)* };
}

fn add_commands(to: &mut CommandStats, from: &CommandStats) {
    add_fields!(to, from: cmd_get cmd_set cmd_touch cmd_meta cmd_flush get_hits get_misses get_expired
        get_flushed delete_hits delete_misses incr_hits incr_misses decr_hits decr_misses cas_hits
        cas_misses cas_badval touch_hits touch_misses store_too_large store_no_memory);
}

fn add_class(to: &mut ClassStats, from: &ClassStats) {
    add_fields!(to, from: number number_small number_main mem_requested evicted evicted_nonzero
        evicted_unfetched evicted_active outofmemory reclaimed expired_unfetched crawler_reclaimed
        crawler_items_checked moves_to_warm moves_within_lru moves_to_cold get_hits cmd_set
        delete_hits incr_hits decr_hits cas_hits cas_badval touch_hits);
    to.evicted_time = to.evicted_time.max(from.evicted_time);
}
