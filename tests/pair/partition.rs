//! The cable between the nodes is cut; clients still reach both.

use tandemd::bench::client::Client;

use crate::cables::Cables;
use crate::harness::{PATIENCE, wait_for};
use crate::setup;

#[test]
fn both_sides_of_a_partition_serve_and_afterwards_the_higher_epoch_does() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(setup());
    pair.start();
    let master = pair.wait_paired();
    let mut clients = [0, 1].map(|index| pair.nodes[index].client());
    clients[master].set("before", b"the cut").expect("a set");
    pair.wait_converged(PATIENCE);

    cables.cut();
    pair.nodes[1 - master].wait_role("master");
    let survivor_epoch = pair.nodes[1 - master].replicated("epoch");
    assert!(survivor_epoch > pair.nodes[master].replicated("epoch"));
    for (index, client) in clients.iter_mut().enumerate() {
        set_soon(client, &format!("side-{index}"));
        assert_eq!(client.get("before").expect("a get").as_deref(), Some(&b"the cut"[..]));
    }

    cables.mend();
    assert_eq!(pair.wait_paired(), 1 - master, "the higher epoch keeps the role");
    assert_eq!(pair.nodes[0].replicated("epoch"), pair.nodes[1].replicated("epoch"));
    pair.wait_converged(PATIENCE);
    for client in &mut clients {
        assert_eq!(client.get("before").expect("a get").as_deref(), Some(&b"the cut"[..]));
        for side in 0..2 {
            let kept = client.get(&format!("side-{side}")).expect("a get");
            assert!(kept.is_some(), "what side {side} acknowledged is there");
        }
    }
}

/// A node that is in doubt for a moment refuses; it must not do so for long.
fn set_soon(client: &mut Client, key: &str) {
    wait_for("a write is acknowledged", PATIENCE, || client.set(key, b"v").ok());
}

/// Writes, overwrites and deletes on both sides: afterwards the newer counts on both, and nothing was copied.
#[test]
fn what_both_sides_of_a_partition_acknowledged_is_on_both_nodes_afterwards() {
    const KEYS: usize = 300;
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(setup());
    pair.start();
    let old = pair.wait_paired();
    let new = 1 - old;
    let mut clients = [0, 1].map(|index| pair.nodes[index].client());
    for index in 0..KEYS {
        clients[old].set(&format!("key-{index}"), b"before").expect("a set");
    }
    pair.wait_converged(PATIENCE);
    let copies = pair.nodes[new].replicated("full_copies");

    cables.cut();
    pair.nodes[new].wait_role("master");
    set_soon(&mut clients[new], "first");
    set_soon(&mut clients[old], "first");
    for index in 0..KEYS {
        let key = format!("key-{index}");
        // Each key has its story, by its number; who comes later wins.
        let order = if index % 2 == 0 { [old, new] } else { [new, old] };
        match index % 10 {
            0 | 1 => clients[order[0]].set(&key, b"one side").expect("a set"),
            2 | 3 => assert!(clients[order[0]].delete(&key).expect("a delete")),
            4 | 5 => {
                clients[order[0]].set(&key, b"earlier").expect("a set");
                a_moment();
                clients[order[1]].set(&key, b"later").expect("a set");
            }
            6 | 7 => {
                clients[order[0]].set(&key, b"earlier").expect("a set");
                a_moment();
                assert!(clients[order[1]].delete(&key).expect("a delete"));
            }
            _ => {}
        }
        clients[order[0]].set(&format!("new-{index}"), b"new").expect("a set");
    }
    cables.mend();
    assert_eq!(pair.wait_paired(), new, "the higher epoch keeps the role");
    pair.wait_converged(PATIENCE);

    assert_eq!(pair.nodes[old].replicated("full_copies"), copies, "nothing was copied");
    assert!(pair.nodes[new].replicated("heal_merged") > 0);
    assert!(pair.nodes[new].replicated("heal_conflicts") > 0);
    // What the old master really holds shows when it serves.
    for _ in 0..2 {
        let master = pair.wait_synced();
        let mut client = pair.nodes[master].client();
        for index in 0..KEYS {
            let expected: Option<&[u8]> = match index % 10 {
                0 | 1 => Some(b"one side"),
                4 | 5 => Some(b"later"),
                2 | 3 | 6 | 7 => None,
                _ => Some(b"before"),
            };
            let value = client.get(&format!("key-{index}")).expect("a get");
            assert_eq!(value.as_deref(), expected, "key-{index} on {}", pair.nodes[master].name);
            let value = client.get(&format!("new-{index}")).expect("a get");
            assert_eq!(value.as_deref(), Some(&b"new"[..]), "new-{index} on {}", pair.nodes[master].name);
        }
        pair.switch_over(|| {});
    }
}

/// It was empty, heard nothing, and served. Whoever holds everything never copies from such a node.
#[test]
fn what_was_written_to_a_node_that_was_started_alone_is_gone_when_it_meets_the_one_that_held_everything() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(setup());
    pair.start();
    let old = pair.wait_synced();
    let mut client = pair.nodes[old].client();
    client.set("before", b"the cut").expect("a set");
    pair.wait_converged(PATIENCE);
    pair.nodes[1 - old].kill();
    cables.cut();
    pair.nodes[1 - old].start();
    pair.nodes[1 - old].wait_role("master");
    set_soon(&mut pair.nodes[1 - old].client(), "alone");
    set_soon(&mut client, "meanwhile");

    cables.mend();
    assert_eq!(pair.wait_paired(), old, "who held everything stays master");
    pair.wait_converged(PATIENCE);
    for node in &pair.nodes {
        let mut client = node.client();
        assert_eq!(client.get("before").expect("a get").as_deref(), Some(&b"the cut"[..]));
        assert!(client.get("meanwhile").expect("a get").is_some());
        assert_eq!(client.get("alone").expect("a get"), None, "nobody merges what has no past in common");
    }
}

/// Versions tell apart what happened on two nodes at least some milliseconds apart: their clocks are coarse.
fn a_moment() {
    std::thread::sleep(std::time::Duration::from_millis(25));
}
