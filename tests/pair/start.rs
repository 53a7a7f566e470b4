//! Nodes are started in any order, or at once.

use crate::harness::{PATIENCE, wait_for};
use crate::setup;

#[test]
fn nodes_started_at_the_same_moment_agree_on_one_master() {
    for _ in 0..5 {
        let pair = setup().start();
        let master = pair.wait_paired();
        assert_eq!(pair.master(), Some(master));
    }
}

#[test]
fn a_node_without_its_peer_serves_alone_and_takes_the_peer_in_later() {
    let mut pair = setup().pair();
    pair.nodes[1].start();
    pair.nodes[1].wait_role("master");
    pair.nodes[1].client().set("early", b"bird").expect("a set");
    pair.nodes[0].start();
    assert_eq!(pair.wait_paired(), 1);
    assert_eq!(pair.wait_converged(PATIENCE), 1);
}

#[test]
fn after_a_power_cycle_of_both_the_pair_is_a_pair_again() {
    let mut pair = setup().start();
    pair.wait_paired();
    let epoch = pair.nodes[0].replicated("epoch");
    for node in &mut pair.nodes {
        node.kill();
    }
    pair.start();
    pair.wait_paired();
    let later = pair.nodes[0].replicated("epoch");
    assert!(later > epoch, "no epoch is used twice: {epoch}, then {later}");
}

#[test]
fn both_nodes_report_the_same_pair() {
    let pair = setup().start();
    let master = pair.wait_paired();
    let stats = [0, 1].map(|index| pair.nodes[index].replication().expect("stats replication"));
    assert_eq!(stats[master]["peer_role"], "backup");
    assert_eq!(stats[1 - master]["peer_role"], "master");
    assert_eq!(stats[0]["epoch"], stats[1]["epoch"]);
    for key in [
        "role",
        "link",
        "peer",
        "peer_role",
        "epoch",
        "lag_records",
        "lag_bytes",
        "lag_ms",
        "backlog_bytes",
        "full_copies",
        "partial_resyncs",
        "catch_ups",
        "resumed_copies",
        "suspects_dropped",
        "heal_merged",
        "heal_conflicts",
        "bytes_sent",
        "promotions",
        "switchovers",
        "reconnects",
        "changes_sent",
        "changes_applied",
        "proxied_requests",
        "last_role_change",
        "last_role_reason",
    ] {
        for node in &stats {
            assert!(node.contains_key(key), "`{key}` is missing in stats replication: {node:?}");
        }
    }
    let plain = [0, 1].map(|index| pair.nodes[index].stats("").expect("stats"));
    assert_eq!(plain[master]["replication"], "MASTER");
    assert_eq!(plain[1 - master]["replication"], "BACKUP");
    for key in plain.iter().flat_map(|stats| stats.keys()) {
        assert!(!key.contains(':'), "a colon in `{key}` makes exporters fail");
    }
    for (index, role) in [(master, "master"), (1 - master, "backup")] {
        // The master hears a moment later than it happens that its backup has everything.
        let status = wait_for("a synced pair on the admin port", PATIENCE, || {
            let status = pair.nodes[index].admin().status().expect("the admin port");
            (status.is_synced() && status.node.ready).then_some(status)
        });
        assert_eq!(status.node.role, role);
        assert!(status.peer.is_some_and(|peer| !peer.role.is_empty()));
    }
}
