//! Where the engine meets the pair: the journal feeds the backlog, the peer's changes feed the
//! engine, the gate says who serves, and a backup hands commands to its master.
//!
//! The only room that knows both `engine`/`server` and `tandem_replication`; everything here is a
//! thin translation between the two.

pub mod gate;
mod host;
pub mod receipts;
pub mod report;
mod store;
mod upstream;

use std::sync::Arc;

use tandem_replication::backlog::Backlog;
use tandem_replication::change::Change;

use self::receipts::Receipts;
use crate::engine::Journal;

pub use self::host::{Adopt, Fence, NodeHost};
pub use self::store::EngineStore;
pub use self::upstream::PeerStream;

/// The journal of a node that has a peer: the rings that are streamed to it.
pub struct Recorder {
    /// Where changes go.
    pub backlog: Arc<Backlog>,
    /// For writes that wait for the backup, if any do.
    pub receipts: Option<Arc<Receipts>>,
}

impl Journal for Recorder {
    fn record(&self, shard: usize, change: &Change<'_>) {
        let Some(receipts) = &self.receipts else {
            self.backlog.record(shard, change);
            return;
        };
        let key = change.key_and_version().map(|(key, _)| key);
        receipts.foresee(key);
        let sequence = self.backlog.record(shard, change);
        receipts.note(shard, sequence, key);
    }

    fn hint(&self, shard: usize, change: &Change<'_>) {
        self.backlog.hint(shard, change);
    }
}
