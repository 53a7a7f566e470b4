//! The second port: is the node well, what is it, and please change roles. HTTP/1.1, for people,
//! load balancers and scrapers; and the client for it.
//!
//! It runs on the control thread, beside heartbeats, so everything about it is small and bounded:
//! one request per connection, few connections at a time, requests without bodies, answers made in
//! one piece from a snapshot. It knows neither engine nor pair: whoever assembles the node implements
//! [`AdminSource`].

pub mod client;
pub mod metrics;
pub mod report;
pub mod serve;
pub mod table;

use std::future::Future;
use std::pin::Pin;

use metrics::Metric;
use report::Status;

/// A future in a box, for a trait that is used as an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin port shows and steers.
pub trait AdminSource: Send + Sync + 'static {
    /// The node and its peer at this moment. Cheap: a scrape must never delay a heartbeat.
    fn status(&self) -> Status;

    /// Everything that is counted, beyond what [`Status`] says.
    fn metrics(&self) -> Vec<Metric>;

    /// A planned handover: the master gives its role to the backup, without loss. Resolves when it is
    /// done, or with the reason why not.
    fn switchover(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Makes this node master although it is not its turn; with `force` even if the peer may be alive
    /// or this node's copy is incomplete. Resolves when it is done, or with the reason why not.
    fn promote(&self, force: bool) -> BoxFuture<'_, Result<(), String>>;
}
