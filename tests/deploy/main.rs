//! What is in `deploy/` and `docs/`, tried with the real programs against real nodes.
//!
//! A test whose program is not installed says so and passes: HAProxy, keepalived, nutcracker,
//! Prometheus, systemd and dpkg are Debian packages of these names. Machines of their own (network,
//! files, users) need root.
#![allow(unreachable_pub, reason = "nothing outside uses a test")]

mod balancers;
mod container;
mod documents;
#[path = "../pair/harness.rs"]
mod harness;
mod kubernetes;
mod machines;
mod monitoring;
mod package;
mod sizing;
mod support;

use harness::Setup;

/// The usual pair of the program under test, with as little memory as it takes.
fn setup() -> Setup {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_tandemd"));
    setup.memory = 16;
    setup.flag("-I").flag("128k")
}
