//! The cable between the nodes is cut; clients still reach both.

use tandemd::bench::client::Client;

use crate::cables::Cables;
use crate::harness::{PATIENCE, wait_for};

#[test]
fn both_sides_of_a_partition_serve_and_afterwards_the_higher_epoch_does() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair();
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
        let kept = client.get(&format!("side-{}", 1 - master)).expect("a get");
        assert!(kept.is_some(), "what the remaining master took is there");
    }
}

/// A node that is in doubt for a moment refuses; it must not do so for long.
fn set_soon(client: &mut Client, key: &str) {
    wait_for("a write is acknowledged", PATIENCE, || client.set(key, b"v").ok());
}
