//! One node, real sockets, raw bytes.

mod auth;
mod classic;
mod forwarding;
mod harness;
mod limits;
mod meta;
mod process;
mod statistics;
