//! A backup that was away for longer than the backlog reaches.

use std::time::Duration;

use tandemd::bench::client::{Client, set_request};

use crate::fault_proxy::Faults;
use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;
use crate::wires::Wires;

const KEYS: usize = 60_000;
const VALUE_BYTES: usize = 200;

/// So many bytes of changes that the smallest backlog is overrun.
const CHANGED: usize = 12_000;

fn value(round: usize, index: usize) -> Vec<u8> {
    let mut value = format!("{round}-{index}-").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

fn write(client: &mut Client, round: usize, indices: std::ops::Range<usize>) {
    let indices: Vec<usize> = indices.collect();
    for batch in indices.chunks(500) {
        let mut rest = batch.to_vec();
        // A machine that stands still makes the master doubt for a moment: what it refused then is sent again.
        wait_for("all of them are stored", PATIENCE, || {
            let requests = rest
                .iter()
                .flat_map(|index| set_request(&format!("key-{index}"), &value(round, *index), false));
            client.send(&requests.collect::<Vec<u8>>()).expect("sets");
            rest.retain(|_| client.line().expect("an answer") != "STORED");
            rest.is_empty().then_some(())
        });
    }
}

/// A pair whose backlog holds a megabyte, with items on both; the master.
fn filled() -> (Pair, usize) {
    let pair = setup().flag("--backlog=1").start();
    let master = pair.wait_paired();
    write(&mut pair.nodes[master].client(), 0, 0..KEYS);
    pair.wait_converged(PATIENCE);
    (pair, master)
}

fn replicated(pair: &Pair, key: &str) -> u64 {
    pair.nodes.iter().map(|node| node.replicated(key)).sum()
}

#[test]
fn a_long_absence_costs_what_was_changed_and_deletions_arrive() {
    let (pair, master) = filled();
    let copies = replicated(&pair, "full_copies");
    let sent = pair.nodes[master].replicated("bytes_sent");

    pair.nodes[1 - master].freeze();
    let mut client = pair.nodes[master].client();
    write(&mut client, 1, 0..CHANGED);
    for index in 0..100 {
        assert!(client.delete(&format!("key-{}", KEYS - 1 - index)).expect("a delete"));
    }
    assert_eq!(client.ask("touch key-30000 1000").expect("a touch"), "TOUCHED");
    // More than the backlog holds comes behind the deletes, too.
    write(&mut client, 2, 0..CHANGED);
    assert_eq!(pair.nodes[master].role(), "master");
    pair.nodes[1 - master].thaw();

    assert_eq!(pair.wait_paired(), master);
    assert_eq!(pair.wait_converged(PATIENCE), (KEYS - 100) as u64);
    assert_eq!(replicated(&pair, "full_copies"), copies, "nothing was copied");
    // Usually by a catch-up; where the kernel's buffers took nearly all of it, by what they held.
    let sent = pair.nodes[master].replicated("bytes_sent") - sent;
    let changed = (CHANGED * (VALUE_BYTES + 40)) as u64;
    // What the kernel took for the backup that stood still was sent before, and the backlog's part too.
    assert!(sent < 3 * changed + (3 << 20), "{sent} bytes sent for {changed} changed");

    // And the backup really has them.
    pair.switch_over(|| {});
    let mut client = pair.nodes[1 - master].client();
    for index in (0..CHANGED).step_by(97) {
        let found = client.get(&format!("key-{index}")).expect("a get");
        assert_eq!(found.as_deref(), Some(&value(2, index)[..]), "key-{index}");
    }
    for index in 0..100 {
        assert_eq!(client.get(&format!("key-{}", KEYS - 1 - index)).expect("a get"), None);
    }
    assert!(client.get("key-40000").expect("a get").is_some());
}

/// Whenever the master dies while its backup catches up: what was overwritten or deleted does not return.
#[test]
fn a_failover_in_the_middle_of_a_catch_up_gives_misses_and_no_stale_hit() {
    const ITEMS: usize = 12_000;
    // Twice as many bytes of changes as the backlog holds.
    const CHANGED: usize = 5_000;
    let mut pair = setup().flag("--backlog=1").pair();
    let wires = Wires::between(&mut pair);
    pair.start();
    pair.wait_paired();
    let mut in_the_middle = 0;
    for (round, pause_ms) in [(1, 0), (2, 600)] {
        let master = pair.wait_synced();
        let backup = 1 - master;
        write(&mut pair.nodes[master].client(), 10 * round, 0..ITEMS);
        pair.wait_converged(PATIENCE);

        let known = pair.nodes[backup].replicated("catch_ups");
        // The kernel's buffers take nothing for a backup to which there is no connection.
        pair.nodes[backup].freeze();
        wires.cut();
        let mut client = pair.nodes[master].client();
        for index in 0..50 {
            let key = format!("key-{}", ITEMS - 1 - index);
            assert!(wait_for("a delete", PATIENCE, || client.delete(&key).ok()));
        }
        write(&mut client, 10 * round + 1, 0..CHANGED);
        write(&mut client, 10 * round + 2, 0..CHANGED);
        // So slowly that a catch-up takes seconds.
        wires.mend();
        wires.set(&Faults { crumbs: Some(1024), ..Faults::default() });
        pair.nodes[backup].thaw();
        // Whoever knows the plan has the map of what may be stale.
        let counted = |stats: std::collections::BTreeMap<String, String>| stats["catch_ups"].parse().ok();
        wait_for("the plan comes", PATIENCE, || {
            pair.nodes[backup].replication().and_then(counted).filter(|count: &u64| *count > known)
        });
        std::thread::sleep(Duration::from_millis(pause_ms));
        in_the_middle += usize::from(pair.nodes[backup].role() == "joining");
        pair.nodes[master].kill();
        wires.mend();
        pair.nodes[backup].wait_role("master");

        let mut client = pair.nodes[backup].client();
        // It answers once it has forgotten what may be stale.
        wait_for("the new master takes writes", PATIENCE, || client.set("first", b"v").ok());
        let mut missing = 0;
        for index in 0..CHANGED {
            let found = wait_for("an answer", PATIENCE, || client.get(&format!("key-{index}")).ok());
            match found {
                Some(found) => assert_eq!(found, value(10 * round + 2, index), "key-{index}"),
                None => missing += 1,
            }
        }
        for index in 0..50 {
            let key = format!("key-{}", ITEMS - 1 - index);
            assert_eq!(wait_for("an answer", PATIENCE, || client.get(&key).ok()), None, "{key}");
        }
        println!("{missing} of {CHANGED} missed when the master died {pause_ms} ms after the plan");
        pair.nodes[master].start();
        pair.wait_converged(PATIENCE);
    }
    assert!(in_the_middle > 0, "a catch-up over so slow a wire takes seconds");
}

#[test]
fn a_copy_that_is_cut_goes_on_where_it_was() {
    let mut pair = setup().flag("--backlog=1").pair();
    pair.nodes[0].start();
    pair.nodes[0].wait_role("master");
    write(&mut pair.nodes[0].client(), 0, 0..KEYS);
    pair.nodes[1].start();
    let mut cuts = 0;
    wait_for("the copy is complete", 2 * PATIENCE, || {
        let stats = pair.nodes[1].replication()?;
        if stats.get("role")? == "joining" && stats.get("full_copies")? == "1" && cuts < 3 {
            cuts += usize::from(pair.reset_links() > 0);
        }
        (stats.get("role")? == "backup").then_some(())
    });
    assert_eq!(pair.wait_converged(PATIENCE), KEYS as u64);
    assert_eq!(pair.nodes[1].replicated("full_copies"), 1, "{cuts} cuts");
}
