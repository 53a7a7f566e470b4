//! What the engine and its journal need of the replication crate.
#![allow(dead_code, reason = "the rest of the crate is not here")]

#[path = "../../../replication/src/backlog.rs"]
pub mod backlog;
#[path = "../../../replication/src/change.rs"]
pub mod change;
#[path = "../../../replication/src/dirty.rs"]
pub mod dirty;
