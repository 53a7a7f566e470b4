//! What one node makes of two paths over which it hears of the other.

use std::sync::Arc;

use tandem_replication::backlog::Backlog;
use tandem_replication::frame::{Frame, Heartbeat, Hello, Link};
use tandem_replication::node::{Config, Down, Node};
use tandem_replication::role::{Claim, Data, State};
use tandem_replication::status::Load;
use tandem_replication::testing::MapStore;
use tandem_replication::time::Mono;

fn at(millis: u64) -> Mono {
    Mono(millis * 1000)
}

fn node() -> Node {
    let backlog = Arc::new(Backlog::new(1, 1 << 16));
    let store = Arc::new(MapStore::new(1, Arc::clone(&backlog)));
    let mut node = Node::new(Config { second_path: true, ..Config::new(2, 20) }, store, backlog, at(0));
    node.handle_timeout(at(0));
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        link: None,
        node_id: 5,
        boot_id: 50,
        epoch: 7,
        client_port: 0,
        release: String::new(),
    };
    for link in [Link::Control, Link::Heartbeat] {
        node.handle_link_up(link, &hello, at(1));
    }
    node
}

fn says(state: State, sent: u64) -> Frame {
    let claim = Claim { data: Data::Complete, age: 0, epoch: 7, settled: true, node_id: 5 };
    let load = Load::default();
    Frame::Heartbeat(Heartbeat { state, claim, epoch: 7, sent: at(sent), echo: None, load })
}

#[test]
fn what_comes_late_over_the_slower_path_is_no_news() {
    let mut node = node();
    node.handle_frame(Link::Control, says(State::Master, 20), at(30));
    node.handle_frame(Link::Heartbeat, says(State::Boot, 10), at(40));
    assert_eq!(node.status(at(40)).peer_state, Some(State::Master));
    assert_eq!(node.status(at(40)).peer_silent, Some(at(40).since(at(30))), "nor a sign of life");
    // Whichever path is the slower one.
    node.handle_frame(Link::Heartbeat, says(State::Draining, 35), at(45));
    node.handle_frame(Link::Control, says(State::Master, 30), at(50));
    assert_eq!(node.status(at(50)).peer_state, Some(State::Draining));
}

#[test]
fn nothing_but_heartbeats_is_taken_from_the_second_path() {
    let mut node = node();
    node.handle_frame(Link::Heartbeat, says(State::Master, 20), at(30));
    let before = node.role().clone();
    node.handle_frame(Link::Heartbeat, Frame::AskSwitchover, at(31));
    node.handle_frame(Link::Heartbeat, Frame::AskAck, at(31));
    assert_eq!((node.role().state, node.role().since), (before.state, before.since));
}

#[test]
fn a_path_that_is_lost_means_nothing_while_the_other_is_there() {
    let mut node = node();
    node.handle_frame(Link::Control, says(State::Master, 20), at(30));
    node.handle_link_down(Link::Control, Down::Closed, at(40));
    let status = node.status(at(40));
    assert_eq!(
        (status.control_up, status.second_up, status.peer_state),
        (false, Some(true), Some(State::Master))
    );
    assert!(status.is_linked());
    node.handle_link_down(Link::Heartbeat, Down::Closed, at(50));
    let status = node.status(at(50));
    assert_eq!((status.second_up, status.peer_state, status.is_linked()), (Some(false), None, false));
}
