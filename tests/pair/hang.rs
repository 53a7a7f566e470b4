//! The master hangs and wakes up.

use std::time::{Duration, Instant};

use tandemd::bench::client::set_request;

use crate::harness::{PATIENCE, first_write};
use crate::setup;

/// The dangerous writes are those that wait in the sockets of a stopped process: when it wakes, it is
/// no longer master but does not know yet.
#[test]
fn a_deposed_master_acknowledges_no_write_that_the_pair_does_not_have() {
    let mut setup = setup();
    setup.profile = "fast";
    let pair = setup.start();
    for round in 0..5 {
        let master = pair.wait_paired();
        let survivor = 1 - master;
        let mut client = pair.nodes[master].client();
        client.set("open", b"yes").expect("a set on the open connection");

        pair.nodes[master].freeze();
        let since = Instant::now();
        let mut waiting = Vec::new();
        for index in 0..1000 {
            waiting.extend(set_request(&format!("hung-{round}-{index}"), b"v", false));
        }
        client.send(&waiting).expect("the kernel takes them for the stopped process");
        first_write(pair.nodes[survivor].address(), "first", since, PATIENCE);
        pair.nodes[master].thaw();

        // Either it refuses, or closes, or hands them to the new master: what it must not do is to
        // say STORED by itself.
        let mut acknowledged = Vec::new();
        for index in 0..1000 {
            match client.line() {
                Ok(line) if line == "STORED" => acknowledged.push(index),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        pair.wait_paired();
        let mut reader = pair.nodes[survivor].client();
        let lost = |index: &&i32| reader.get(&format!("hung-{round}-{index}")).expect("a get").is_none();
        assert_eq!(acknowledged.iter().filter(lost).count(), 0, "round {round}");
    }
}

#[test]
fn a_hung_backup_does_not_stop_the_master() {
    // The default profile: a test machine that stops everything for a quarter of a second, as shared
    // ones do, would be a hang of the master itself under `fast`.
    let pair = setup().start();
    let master = pair.wait_paired();
    pair.nodes[1 - master].freeze();
    let mut client = pair.nodes[master].client();
    let start = Instant::now();
    let mut count = 0_u64;
    // Well beyond the deadline at which the peer counts as dead.
    while start.elapsed() < Duration::from_millis(2500) {
        client.set(&format!("key-{count}"), b"v").expect("every write is acknowledged");
        count += 1;
    }
    assert_eq!(pair.nodes[master].role(), "master");
    pair.nodes[1 - master].thaw();
    assert_eq!(pair.wait_paired(), master);
    assert_eq!(pair.wait_converged(PATIENCE), count);
}
