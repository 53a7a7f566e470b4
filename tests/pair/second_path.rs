//! Two cables between the nodes, one of them for heartbeats: the death of either is not the death of a node.

use std::time::{Duration, Instant};

use crate::cables::Cables;
use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

fn says(pair: &Pair, node: usize, key: &str, value: &str) -> Option<()> {
    pair.nodes[node].replication()?.get(key).filter(|is| *is == value).map(|_| ())
}

fn wait_says(pair: &Pair, key: &str, value: &str) {
    for node in 0..2 {
        wait_for(&format!("{key} is {value} on both"), PATIENCE, || says(pair, node, key, value));
    }
}

#[test]
fn with_a_second_path_a_dead_cable_makes_no_second_master() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair_with_second(setup());
    pair.start();
    let master = pair.wait_paired();
    let backup = 1 - master;
    wait_says(&pair, "heartbeat_path", "up");
    let mut client = pair.nodes[master].client();
    client.set("before", b"value").expect("a set");
    pair.wait_converged(PATIENCE);
    let promotions = [0, 1].map(|node: usize| pair.nodes[node].replicated("promotions"));
    let copies = pair.nodes[backup].replicated("full_copies");

    cables.cut();
    wait_says(&pair, "link", "down");
    // Several times the silence that would have made a master of the backup.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert_eq!(pair.nodes[backup].role(), "backup");
        // A machine that stands still may make it doubt for a moment.
        wait_for("the master serves on", PATIENCE, || client.set("meanwhile", b"value").ok());
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_says(&pair, "heartbeat_path", "up");

    // The data link comes back by itself, and brings what was missed, nothing else.
    cables.mend();
    wait_says(&pair, "link", "up");
    pair.wait_converged(PATIENCE);
    assert_eq!(pair.nodes[backup].replicated("full_copies"), copies, "nothing was copied");

    // The other cable alone is no loss at all.
    cables.cut_second();
    wait_says(&pair, "heartbeat_path", "down");
    assert_eq!(pair.wait_paired(), master);
    client.set("over-one-cable", b"value").expect("a set");
    pair.wait_converged(PATIENCE);
    cables.mend_second();
    wait_says(&pair, "heartbeat_path", "up");
    let now = [0, 1].map(|node: usize| pair.nodes[node].replicated("promotions"));
    assert_eq!(now, promotions, "nobody took over");
}

#[test]
fn a_node_that_finds_its_master_over_the_second_path_only_does_not_serve_alone() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair_with_second(setup());
    cables.cut();
    pair.nodes[0].start();
    pair.nodes[0].wait_role("master");
    pair.nodes[1].start();
    pair.nodes[1].wait_role("joining");
    wait_says(&pair, "heartbeat_path", "up");
    // A death is noticed over it, too, though the ports of the dead cable say nothing.
    pair.nodes[0].kill();
    pair.nodes[1].wait_role("master");
    pair.nodes[0].start();
    pair.nodes[0].wait_role("joining");
    cables.mend();
    assert_eq!(pair.wait_paired(), 1);
    pair.wait_converged(PATIENCE);
}
