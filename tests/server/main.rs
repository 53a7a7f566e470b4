//! One node, real sockets, raw bytes.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod auth;
mod classic;
mod forwarding;
mod harness;
mod limits;
mod meta;
mod process;
mod statistics;
mod tls;
mod watch;
