//! The engine as the pair sees it.

use std::sync::Arc;

use tandem_replication::change::Change;
use tandem_replication::store::{Merged, Store};

use crate::command::Now;
use crate::engine::Engine;

/// An engine and the clock its seconds are read from.
pub struct EngineStore {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Fn() -> Now + Send + Sync>,
}

impl EngineStore {
    /// What the pair copies from and applies to.
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Fn() -> Now + Send + Sync>) -> Self {
        Self { engine, clock }
    }
}

impl Store for EngineStore {
    fn shards(&self) -> usize {
        self.engine.shards()
    }

    fn items(&self) -> u64 {
        self.engine.items()
    }

    fn clear(&self) {
        self.engine.clear((self.clock)());
    }

    fn apply(&self, change: &Change<'_>) {
        self.engine.apply(change, (self.clock)());
    }

    fn apply_unless(&self, change: &Change<'_>, is_gone: &dyn Fn(usize) -> bool) {
        self.engine.apply_unless(change, (self.clock)(), is_gone);
    }

    fn merge(&self, change: &Change<'_>, may_create: &dyn Fn(usize) -> bool) -> Merged {
        self.engine.merge(change, (self.clock)(), may_create)
    }

    fn scan(
        &self,
        shard: usize,
        cursor: u64,
        max_bytes: usize,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        self.engine.scan(shard, cursor, max_bytes, (self.clock)(), visit)
    }

    fn read(&self, key: &[u8], visit: &mut dyn FnMut(&Change<'_>)) -> bool {
        self.engine.read(key, (self.clock)(), visit)
    }

    fn restate(&self, key: &[u8], theirs: Option<u64>) {
        self.engine.restate(key, theirs, (self.clock)());
    }

    fn secs(&self) -> u32 {
        (self.clock)().secs
    }

    fn pending_flush(&self) -> Option<u32> {
        self.engine.pending_flush()
    }

    fn set_slot(&self, slot: u8) {
        self.engine.set_slot(slot);
    }
}
