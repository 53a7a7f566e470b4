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
mod etcd;
mod failover;
// The replication crate's own tests use it too.
#[path = "../../replication/tests/support/fault_proxy.rs"]
#[allow(dead_code, unreachable_pub, reason = "each of its users takes a part")]
mod fault_proxy;
mod hang;
mod harness;
mod hooks;
mod linear;
mod link;
mod migration;
mod operators;
mod partition;
mod replicate;
mod second_path;
mod squeeze;
mod start;
mod steer;
mod switchover;
mod wires;

use harness::Setup;

/// The usual pair of the program under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_tandemd"))
}
