//! What must hold of an engine between any two operations. Tests ask after each one.

use std::collections::{BTreeMap, BTreeSet};

use super::Memory;
use super::index::Index;
use super::item::Marks;
use super::segment::{Place, Queue};
use super::shard::Shard;
use crate::engine::{ClassStats, memcached_class, memcached_size};

impl Memory {
    /// Panics if any invariant is broken.
    pub(crate) fn check(&self) {
        let mut used = 0;
        let mut linked = 0;
        for id in 0..self.shards.len() {
            let shard = self.shard(id);
            shard.check();
            used += shard.segments.owned() as u64 * shard.segments.cost()
                + shard.index.blocks() as u64 * Index::block_cost(self.shared.geometry.block_buckets);
            linked += shard.larges.bytes;
        }
        let (budget, buffers) = (&self.shared.budget, &self.shared.buffers);
        let owned = used + budget.large() + budget.kept() + buffers.cut_bytes() + self.shared.blocks.bytes();
        assert_eq!(budget.used(), owned, "the budget is the sum of what is owned");
        assert!(budget.large() + buffers.lent_bytes() >= linked, "every large value is charged");
        assert!(budget.used() <= budget.limit(), "the limit holds");
    }

    /// Keys evicted since the last call.
    pub(crate) fn take_evicted(&self) -> Vec<Vec<u8>> {
        (0..self.shards.len()).flat_map(|id| std::mem::take(&mut self.shard(id).evicted)).collect()
    }
}

impl Shard {
    fn check(&self) {
        self.check_places();
        let mut keys = BTreeSet::new();
        let mut larges = BTreeSet::new();
        let mut locations = BTreeMap::new();
        let mut live_bytes = [0; 2];
        let mut bytes = 0;
        let mut classes: BTreeMap<u8, ClassStats> = BTreeMap::new();
        for (id, segment) in self.segments.list.iter().enumerate() {
            let (mut offset, mut dead) = (0, 0);
            while offset < segment.used {
                let location = self.segments.location(id as u32, offset);
                let item = self.item(location);
                offset += item.header.slot();
                if !item.header.marks.has(Marks::LIVE) {
                    dead += item.header.slot();
                    continue;
                }
                let hash = self.hash_at(location);
                assert!(keys.insert(item.key().to_vec()), "a key is there once");
                assert_eq!(self.find(hash, item.key()), Some(location), "the index finds each live item");
                locations.insert(location, hash);
                if let Some(large) = item.large() {
                    assert!(larges.insert(large), "a large value has one item");
                }
                let weight = item.header.slot() as u64
                    + item.large().map_or(0, |id| super::large::cost_of(self.larges.at(id)));
                live_bytes[segment.queue as usize] += weight;
                let size =
                    memcached_size(item.key().len(), self.value(&item).len(), item.flags(), self.shared.cas);
                bytes += size as u64;
                let class = classes.entry(memcached_class(size)).or_default();
                class.number += 1;
                class.mem_requested += size as u64;
                match segment.queue {
                    Queue::Small => class.number_small += 1,
                    Queue::Main => class.number_main += 1,
                }
                let deadline = item.header.deadline;
                assert!(deadline == 0 || deadline >= segment.earliest);
                assert!(item.header.version >= segment.oldest);
            }
            assert_eq!(offset, segment.used, "a segment's slots end where it ends");
            assert_eq!(dead, segment.dead, "dead slots are counted");
        }
        assert_eq!(live_bytes, self.live_bytes);
        assert_eq!(bytes, self.counters.bytes);
        assert_eq!(larges.len(), self.larges.len(), "every large value has an item");
        for (class, (number, requested)) in self.counters.numbers().into_iter().enumerate() {
            let expected = classes.remove(&(class as u8)).unwrap_or_default();
            assert_eq!((number, requested), (expected.number, expected.mem_requested), "class {class}");
        }
        self.index.check(&locations);
    }

    /// Every segment is in exactly one place.
    fn check_places(&self) {
        let mut places = BTreeMap::new();
        let segments = &self.segments;
        let queued = segments.queues.iter().flatten().map(|&id| (id, Place::Queued));
        let open = segments.open.iter().flatten().map(|&id| (id, Place::Open));
        let free = segments.free.iter().map(|&id| (id, Place::Free));
        let vacant = segments.vacant.iter().map(|&id| (id, Place::Vacant));
        let victim = self.victim.iter().map(|victim| (victim.segment, Place::Victim));
        for (id, place) in queued.chain(open).chain(free).chain(vacant).chain(victim) {
            assert_eq!(places.insert(id, place), None, "segment {id} is in two places");
            assert_eq!(segments.list[id as usize].place, place);
        }
        assert_eq!(places.len(), segments.list.len(), "every segment is somewhere");
        for queue in [Queue::Small, Queue::Main] {
            for &id in &segments.queues[queue as usize] {
                assert_eq!(segments.list[id as usize].queue, queue);
            }
            if let Some(id) = segments.compacting[queue as usize] {
                assert!(segments.queues[queue as usize].contains(&id));
            }
        }
    }
}
