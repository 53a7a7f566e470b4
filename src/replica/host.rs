//! What the pair calls back on this node.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tandem_replication::channel::Loose;
use tandem_replication::driver::{BoxFuture, Host};
use tandem_replication::node::GateView;
use tandem_replication::status::Load;

use super::gate::PairGate;
use super::receipts::Receipts;

/// Takes a stream of raw requests that the peer opened.
pub type Adopt = Box<dyn Fn(Loose) + Send + Sync>;

/// This node, as its pair sees it.
pub struct NodeHost {
    gate: Arc<PairGate>,
    load: Box<dyn Fn() -> Load + Send + Sync>,
    receipts: Option<Arc<Receipts>>,
    /// Set when the server runs; the pair starts a moment earlier.
    adopt: OnceLock<Adopt>,
    /// Makes sure that the peer serves nobody; may block.
    fence: Option<Fence>,
}

/// See [`Host::fence`]; called where blocking is allowed.
pub type Fence = Arc<dyn Fn() -> bool + Send + Sync>;

impl NodeHost {
    /// How often a closing gate looks whether everybody has left: batches take microseconds.
    const LOOK: Duration = Duration::from_millis(1);

    /// A node behind `gate` that describes itself by `load`.
    pub fn new(
        gate: Arc<PairGate>,
        load: Box<dyn Fn() -> Load + Send + Sync>,
        receipts: Option<Arc<Receipts>>,
    ) -> Self {
        Self { gate, load, receipts, adopt: OnceLock::new(), fence: None }
    }

    /// Fences the peer so.
    pub fn fence_with(mut self, fence: Option<Fence>) -> Self {
        self.fence = fence;
        self
    }

    /// From now on the peer's streams go there. Only the first call counts.
    pub fn adopt_with(&self, adopt: Adopt) {
        let _first = self.adopt.set(adopt);
    }
}

impl Host for NodeHost {
    fn gate(&self, view: GateView) {
        self.gate.set(view);
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while !self.gate.drained() {
                tokio::time::sleep(Self::LOOK).await;
            }
        })
    }

    fn proxy(&self, channel: Loose) {
        // Before the server runs nobody could answer; the peer tries again.
        if let Some(adopt) = self.adopt.get() {
            adopt(channel);
        }
    }

    fn fence(&self) -> BoxFuture<'_, bool> {
        let fence = self.fence.clone();
        Box::pin(async move {
            let Some(fence) = fence else { return false };
            tokio::task::spawn_blocking(move || fence()).await.unwrap_or(false)
        })
    }

    fn load(&self) -> Load {
        (self.load)()
    }

    fn acknowledged(&self, applied: Option<&[u64]>, followed: bool) {
        if let Some(receipts) = &self.receipts {
            receipts.hear(applied, followed);
        }
    }

    fn hurries(&self) -> bool {
        self.receipts.as_ref().is_some_and(|receipts| receipts.hurries())
    }
}
