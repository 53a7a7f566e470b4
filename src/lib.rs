//! Tandem: a replicating memcached. Two nodes that behave as one.
//!
//! The map, in reading order; arrows point down only:
//!
//! * [`command`]: the vocabulary: commands and their outcomes. Pure data.
//! * [`protocol`]: bytes ⇄ vocabulary. No socket, no engine.
//! * [`engine`]: where items live. No I/O, no clock.
//! * [`server`]: sockets and connections; asks a gate whether it may serve, not why.
//! * [`admin`]: the second port: health, metrics, status, control; and the client for it.
//! * [`bench`]: a load generator for any memcached server, and a small client for tests.

pub mod admin;
pub mod bench;
pub mod command;
pub mod engine;
pub mod protocol;
pub mod server;
