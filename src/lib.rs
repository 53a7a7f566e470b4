//! `tandemd`: a replicating memcached. Two nodes that behave as one.
//!
//! In reading order:
//! * [`command`]: the vocabulary: commands and their outcomes. Pure data.
//! * [`protocol`]: bytes ⇄ vocabulary. No socket, no engine.
//! * [`engine`]: where items live. No I/O, no clock.
//! * [`server`]: sockets and connections; asks a gate whether it may serve, not why.
//! * [`stats`]: what is counted, and the words in which it is told.
//! * [`config`]: what the operator asked for, checked before anything is bound.
//! * [`app`]: builds, starts and stops every part.

pub mod app;
pub mod command;
pub mod config;
pub mod engine;
pub mod protocol;
pub mod server;
pub mod stats;
