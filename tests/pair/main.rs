//! Two real processes, real signals, real sockets: what the pair promises.

mod accept;
mod acks;
mod adversity;
mod arbiter;
mod burst;
mod cables;
mod catch_up;
mod chaos;
mod checker;
mod failover;
mod hang;
mod harness;
mod hooks;
mod linear;
mod link;
mod migration;
mod operators;
mod partition;
mod replicate;
mod start;
mod steer;
mod switchover;

use harness::Setup;

/// The usual pair of the program under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_tandemd"))
}
