//! `tandemd`: a replicating memcached. Two nodes that behave as one.
//!
//! In reading order; arrows point down only (tests/tidy.rs):
//! * [`command`]: the vocabulary: commands and their outcomes. Pure data.
//! * [`protocol`]: bytes ⇄ vocabulary. No socket, no engine.
//! * [`engine`]: where items live. No I/O, no clock.
//! * [`server`]: sockets and connections; asks a gate whether it may serve, not why.
//! * [`logs`]: how events become lines, and how many of them.
//! * [`stats`]: what is counted, and the words in which it is told.
//! * [`replica`]: where the engine meets the pair: journal, peer's changes, gate, proxying.
//! * [`snapshot`]: items on disk from a graceful stop to the next start.
//! * [`migration`]: joins a live repcached and takes its items over.
//! * [`admin`]: the second port: health, metrics, status, control; and the client for it.
//! * [`config`]: what the operator asked for, checked before anything is bound.
//! * [`app`]: builds, starts and stops every part; the only file that knows them all.
//! * [`dial`]: how a client gets in: TLS, passwords.
//! * [`transfer`]: all items of a server into a file and back.
//! * [`mod@bench`]: a load generator for any memcached server, and a small client for tests.

pub mod admin;
pub mod app;
pub mod bench;
pub mod command;
pub mod config;
pub mod dial;
pub mod engine;
pub mod logs;
pub mod migration;
pub mod protocol;
pub mod replica;
pub mod server;
pub mod snapshot;
pub mod stats;
pub mod transfer;
