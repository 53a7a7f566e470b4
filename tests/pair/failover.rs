//! The master dies.

use std::time::Instant;

use crate::harness::{PATIENCE, Pair, first_write};
use crate::setup;

fn fill(pair: &Pair, through: usize, count: usize) {
    let mut client = pair.nodes[through].client();
    for index in 0..count {
        client.set(&format!("key-{index}"), format!("value-{index}").as_bytes()).expect("a set");
    }
}

fn missing(pair: &Pair, through: usize, count: usize) -> usize {
    let mut client = pair.nodes[through].client();
    let lost = |index: &usize| {
        let value = client.get(&format!("key-{index}")).expect("a get");
        value.as_deref() != Some(format!("value-{index}").as_bytes())
    };
    (0..count).filter(lost).count()
}

#[test]
fn a_killed_master_is_replaced_and_nothing_acknowledged_by_the_backup_is_lost() {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    fill(&pair, master, 500);
    pair.wait_converged(PATIENCE);

    let since = Instant::now();
    pair.nodes[master].kill_now();
    let survivor = 1 - master;
    first_write(pair.nodes[survivor].address(), "first", since, PATIENCE);
    pair.nodes[survivor].wait_role("master");
    assert_eq!(missing(&pair, survivor, 500), 0);
}

#[test]
fn the_dead_node_comes_back_as_backup_with_everything() {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    fill(&pair, master, 500);
    pair.wait_converged(PATIENCE);
    pair.nodes[master].kill();
    let survivor = 1 - master;
    pair.nodes[survivor].wait_role("master");
    pair.nodes[survivor].client().set("meanwhile", b"yes").expect("a set");

    pair.nodes[master].start();
    assert_eq!(pair.wait_paired(), survivor, "the returning node must not take the role");
    assert_eq!(pair.wait_converged(PATIENCE), 501);

    // And it really has them: it becomes master alone.
    pair.nodes[survivor].kill();
    pair.nodes[master].wait_role("master");
    assert_eq!(missing(&pair, master, 500), 0);
    assert_eq!(pair.nodes[master].client().get("meanwhile").expect("a get").as_deref(), Some(&b"yes"[..]));
}

/// An empty master that is back before anybody missed it must not wipe its backup.
#[test]
fn an_instant_restart_of_the_master_is_a_failover_and_never_a_wipe() {
    let mut pair = setup().start();
    let mut master = pair.wait_paired();
    fill(&pair, master, 500);
    for _ in 0..3 {
        pair.wait_converged(PATIENCE);
        pair.nodes[master].kill();
        pair.nodes[master].start();
        let now = pair.wait_paired();
        assert_eq!(now, 1 - master, "the node that kept its data serves");
        assert_eq!(missing(&pair, master, 500), 0);
        assert_eq!(missing(&pair, now, 500), 0);
        master = now;
    }
}

#[test]
fn a_dead_backup_costs_the_master_nothing_and_is_taken_back() {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    pair.nodes[1 - master].kill();
    fill(&pair, master, 500);
    assert_eq!(pair.nodes[master].role(), "master");
    pair.nodes[1 - master].start();
    assert_eq!(pair.wait_paired(), master);
    assert_eq!(pair.wait_converged(PATIENCE), 500);
}

#[test]
fn a_terminated_master_hands_over_before_it_goes() {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    fill(&pair, master, 500);
    assert_eq!(pair.nodes[master].terminate(), Some(0), "SIGTERM ends in exit code 0");
    pair.nodes[1 - master].wait_role("master");
    assert_eq!(missing(&pair, 1 - master, 500), 0, "a planned end loses nothing");
}
