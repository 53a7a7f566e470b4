//! One node, real sockets, raw bytes.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod auth;
mod classic;
mod crowd;
mod engines;
mod forwarding;
mod harness;
mod holes;
mod limits;
mod meta;
mod migration;
mod process;
mod statistics;
mod tls;
mod udp;
mod warm;
mod watch;
