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
    let pair = setup().start();
    let master = pair.wait_paired();
    pair.nodes[1 - master].freeze();
    let mut client = pair.nodes[master].client();
    let start = Instant::now();
    let (mut count, mut refused) = (0_u64, 0);
    // Well beyond the deadline at which the peer counts as dead.
    while start.elapsed() < Duration::from_millis(2500) {
        match client.set(&format!("key-{count}"), b"v") {
            Ok(()) => count += 1,
            // A test machine may stop the master, too: only then it may refuse, and only for a while.
            Err(error) => {
                refused += 1;
                let stood_still = pair.nodes[master].log().contains("this process did not run for a while");
                assert!(stood_still, "every write is acknowledged: {error:?}");
            }
        }
    }
    pair.nodes[master].wait_role("master");
    pair.nodes[1 - master].thaw();
    assert_eq!(pair.wait_paired(), master);
    // What was refused may have been executed.
    let items = pair.wait_converged(PATIENCE);
    assert!((count..=count + refused).contains(&items), "{items} items, {count} acknowledged");
}
