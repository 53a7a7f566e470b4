//! Where the engine meets the pair: the journal feeds the backlog, the peer's changes feed the
//! engine, the gate says who serves, and a backup hands commands to its master.
//!
//! The only room that knows both `engine`/`server` and `tandem_replication`; everything here is a
//! thin translation between the two.

pub mod gate;
mod host;
pub mod report;
mod store;
mod upstream;

use tandem_replication::backlog::Backlog;
use tandem_replication::change::Change;

use crate::engine::Journal;

pub use self::host::{Adopt, NodeHost};
pub use self::store::EngineStore;
pub use self::upstream::PeerStream;

/// The journal of a node that has a peer: the rings that are streamed to it.
pub struct Recorder(pub std::sync::Arc<Backlog>);

impl Journal for Recorder {
    fn record(&self, shard: usize, change: &Change<'_>) {
        self.0.record(shard, change);
    }
}
