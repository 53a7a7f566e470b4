//! The second port: is the node well, what is it, and please change roles. HTTP/1.1, for people,
//! load balancers and scrapers; and the client for it.
//!
//! It runs on a thread of its own, and everything about it is small and bounded: one request per
//! connection, few connections at a time, requests without bodies, answers made from snapshots that
//! are shared by all who ask. It knows neither engine nor pair: whoever assembles the node implements
//! [`AdminSource`].

pub mod access;
pub mod client;
pub mod events;
pub mod metrics;
pub mod report;
mod routes;
pub mod serve;
pub mod table;

use std::future::Future;
use std::pin::Pin;

use events::EventLog;
use metrics::Metric;
use report::{Samples, Status};

/// A future in a box, for a trait that is used as an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin port shows and steers.
pub trait AdminSource: Send + Sync + 'static {
    /// The node and its peer at this moment. Cheap: a scrape must never delay a heartbeat.
    fn status(&self) -> Status;

    /// Everything that is counted, beyond what [`Status`] says.
    fn metrics(&self) -> Vec<Metric>;

    /// Numbers of the last minutes, from that column on.
    fn samples(&self, from: u64) -> Samples;

    /// What happened lately.
    fn events(&self) -> &EventLog;

    /// Does what an operator asks for. Resolves when it is done, with a sentence about it, or with the
    /// reason why not.
    fn act(&self, verb: Verb) -> BoxFuture<'_, Result<String, String>>;
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A planned handover: the master gives its role to the backup, without loss.
    Switchover,
    /// Makes this node master although it is not its turn.
    Promote {
        /// Even if the peer may be alive or this node's copy is incomplete.
        force: bool,
    },
    /// A planned handover, if this node is master; nothing, if it is backup.
    Demote,
    /// Drops what this backup holds and copies everything from the master.
    Resync,
    /// Compare the backup with this master.
    Verify,
    /// Until resumed, or the process ends: this node takes and gives no role by itself.
    PauseFailover,
    /// The end of that.
    ResumeFailover,
    /// From now on log this much.
    LogLevel(String),
}

impl Verb {
    /// The paths of all verbs.
    pub const PATHS: &str =
        "/switchover /promote /demote /resync /verify /pause-failover /resume-failover /log-level";

    /// What `POST path?query` asks for.
    pub fn parse(path: &str, query: &str) -> Option<Self> {
        Some(match path {
            "/switchover" => Self::Switchover,
            "/promote" => Self::Promote { force: query.split('&').any(|pair| pair == "force=true") },
            "/demote" => Self::Demote,
            "/resync" => Self::Resync,
            "/verify" => Self::Verify,
            "/pause-failover" => Self::PauseFailover,
            "/resume-failover" => Self::ResumeFailover,
            "/log-level" => {
                let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
                Self::LogLevel(level.unwrap_or_default().to_owned())
            }
            _ => return None,
        })
    }

    /// The path and query that ask for it.
    pub fn path(&self) -> String {
        match self {
            Self::Switchover => "/switchover".to_owned(),
            Self::Promote { force: false } => "/promote".to_owned(),
            Self::Promote { force: true } => "/promote?force=true".to_owned(),
            Self::Demote => "/demote".to_owned(),
            Self::Resync => "/resync".to_owned(),
            Self::Verify => "/verify".to_owned(),
            Self::PauseFailover => "/pause-failover".to_owned(),
            Self::ResumeFailover => "/resume-failover".to_owned(),
            Self::LogLevel(level) => format!("/log-level?level={level}"),
        }
    }
}
