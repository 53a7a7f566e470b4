//! A pair that takes over a repcached's items.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::harness::{PATIENCE, wait_for};
use crate::setup;

/// repcached's port: open until a partner comes, and again when it has gone.
fn partner(listener: TcpListener) -> TcpStream {
    listener.accept().expect("a partner").0
}

fn open_again(address: SocketAddr) -> TcpListener {
    wait_for("repcached's port", PATIENCE, || TcpListener::bind(address).ok())
}

#[test]
fn what_comes_from_repcached_is_on_both_nodes_and_outlives_the_master() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let mut pair = setup().flag("--repcached-peer").flag(&address.to_string()).start();
    let master = pair.wait_paired();
    let mut link = partner(listener);
    for index in 0..1000 {
        write!(link, "rep key-{index} 3 0 5 {index}\r\nvalue\r\n").expect("an item");
    }
    write!(link, "marugoto_end\r\ndelete key-7\r\n").expect("the end of the copy");
    wait_for("the items", PATIENCE, || (pair.nodes[master].items() == Some(999)).then_some(()));
    assert_eq!(pair.wait_converged(PATIENCE), 999);
    assert!(pair.nodes[master].log().contains("the copy is complete: 1000 items"));

    // The backup has no part in it until the role is its own; then it joins by itself.
    let survivor = 1 - master;
    assert!(!pair.nodes[survivor].log().contains("linked; its items"));
    pair.nodes[master].kill();
    drop(link);
    let listener = open_again(address);
    pair.nodes[survivor].wait_role("master");
    let mut link = partner(listener);
    write!(link, "rep key-0 3 0 5 1\r\nagain\r\nmarugoto_end\r\n").expect("another copy");
    let mut client = pair.nodes[survivor].client();
    wait_for("the change", PATIENCE, || {
        (client.get("key-0").expect("a get").as_deref() == Some(&b"again"[..])).then_some(())
    });
    assert_eq!(client.get("key-999").expect("a get").as_deref(), Some(&b"value"[..]));
    assert_eq!(client.get("key-7").expect("a get"), None);
}

#[test]
fn a_node_that_hands_its_role_over_leaves_the_link_to_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let pair = setup().flag("--repcached-peer").flag(&address.to_string()).start();
    let master = pair.wait_paired();
    let link = partner(listener);
    pair.nodes[master].admin().switchover().expect("a switchover");
    pair.nodes[1 - master].wait_role("master");
    // Nothing comes over the link, and yet it ends.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut &link, &mut rest).expect("an end");
    drop(link);
    let mut link = partner(open_again(address));
    write!(link, "rep key 0 0 5 1\r\nvalue\r\n").expect("an item");
    let mut client = pair.nodes[1 - master].client();
    wait_for("the item", PATIENCE, || client.get("key").expect("a get"));
}
