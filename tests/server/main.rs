//! One node, real sockets, raw bytes.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod auth;
mod classic;
mod control;
mod crowd;
mod engines;
mod forwarding;
mod harness;
mod held;
mod holes;
mod limits;
mod migration;
mod monitors;
mod process;
mod settings;
mod statistics;
mod table;
mod tls;
mod transports;
mod udp;
mod warm;
mod watch;
