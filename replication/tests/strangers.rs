//! Who is not the peer gets nothing, blocks nobody, and is named.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::node::{PATIENCE, Place, TestNode, eventually};
use tandem_replication::handshake::Secret;
use tandem_replication::keys::{Keys, SharedKeys};
use tandem_replication::transport::PeerAddress;

fn secret(text: &str) -> Keys {
    Secret::new(text.as_bytes().to_vec()).into()
}

fn linked(node: &TestNode) -> bool {
    node.status().proxy.is_some()
}

fn knock(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// What a stranger is told before the door shuts.
fn told(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(why) if why.kind() == ErrorKind::ConnectionReset => {}
        Err(why) => panic!("neither answered nor closed: {why}"),
    }
    answer
}

#[test]
fn a_wrong_key_is_refused_by_either_side_and_named_on_both() {
    for (ours, theirs) in [("one", "two"), ("one", ""), ("", "two")] {
        let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
        let (at_a, at_b) = (a.address, b.address);
        let a = TestNode::start(a, Some(at_b), |config| config.keys = SharedKeys::new(secret(ours)));
        let b = TestNode::start(b, Some(at_a), |config| config.keys = SharedKeys::new(secret(theirs)));
        for node in [&a, &b] {
            node.wait("the reason", |status| {
                status.link_problem.as_ref().is_some_and(|why| why.contains("--psk-file"))
            });
            node.wait("a count", |status| status.refused > 0);
            assert!(!linked(node));
        }
    }
}

#[test]
fn the_same_key_links() {
    let (a, b) = TestNode::pair(|config| config.keys = SharedKeys::new(secret("sesame")));
    eventually("both are linked", || linked(&a) && linked(&b));
    assert_eq!(a.status().link_problem, None);
}

#[test]
fn random_bytes_get_not_a_byte_back() {
    let node = TestNode::start(Place::on("127.0.0.2"), None, |_| {});
    for bytes in [&b"set k 0 0 1\r\nx\r\n"[..], b"\0\0\0\0", b"GET / HTTP/1.0\r\n\r\n", &[0x80; 4096]] {
        let mut stream = knock(node.address);
        // It may shut the door before it has heard everything.
        let _ = stream.write_all(bytes);
        assert_eq!(told(stream), b"");
    }
    node.wait("a count", |status| status.refused >= 4);
}

#[test]
fn the_silent_and_the_slow_are_dropped_and_block_nobody() {
    let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
    let (at_a, at_b) = (a.address, b.address);
    let a = TestNode::start(a, Some(at_b), |config| config.keys = SharedKeys::new(secret("sesame")));
    // More than there are places: the oldest have to go long before their time is over.
    let mut silent: Vec<_> = (0..64).map(|_| knock(at_a)).collect();
    let slow = std::thread::spawn(move || {
        let mut stream = knock(at_a);
        let began = Instant::now();
        for byte in b"\x89TANDEM\n".iter().chain([0; 100].iter()) {
            if stream.write_all(&[*byte]).is_err() || began.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        began.elapsed()
    });
    let b = TestNode::start(b, Some(at_a), |config| config.keys = SharedKeys::new(secret("sesame")));
    eventually("the real peer is linked all the same", || linked(&a) && linked(&b));
    for stream in silent.drain(..) {
        assert_eq!(told(stream), b"");
    }
    assert!(slow.join().expect("it ends") < PATIENCE);
}

#[test]
fn a_node_that_dials_itself_says_so() {
    let place = Place::on("127.0.0.2");
    let itself = place.address;
    let node = TestNode::start(place, Some(itself), |_| {});
    node.wait("the reason", |status| {
        status.link_problem.as_ref().is_some_and(|why| why.contains("the peer is myself"))
    });
    assert!(!linked(&node));
}

#[test]
fn a_copied_state_directory_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (original, copy) = (dir.path().join("a"), dir.path().join("b"));
    let first = TestNode::start(Place::on("127.0.0.2"), None, |config| {
        config.state_dir = Some(original.clone());
    });
    eventually("the state is there", || original.join("node.state").exists());
    std::fs::create_dir(&copy).expect("writable");
    std::fs::copy(original.join("node.state"), copy.join("node.state")).expect("readable");
    let second = TestNode::start(Place::on("127.0.0.3"), Some(first.address), |config| {
        config.state_dir = Some(copy.clone());
    });
    second.wait("the reason", |status| {
        status.link_problem.as_ref().is_some_and(|why| why.contains("carries this node's identity"))
    });
    assert!(!linked(&first) && !linked(&second));
}

#[test]
fn a_third_node_is_refused_and_takes_over_only_when_the_peer_is_gone() {
    let (a, b) = TestNode::pair(|_| {});
    eventually("linked", || linked(&a) && linked(&b));
    let partner = a.status().proxy.as_ref().expect("linked").address;
    let third = TestNode::start(Place::on("127.0.0.4"), Some(a.address), |_| {});
    third.wait("the reason", |status| {
        status.link_problem.as_ref().is_some_and(|why| why.contains("already paired"))
    });
    a.wait("a count", |status| status.refused > 0);
    assert_eq!(a.status().proxy.as_ref().expect("still linked").address, partner);
    b.kill();
    eventually("the third has become the second", || linked(&a) && linked(&third));
}

#[test]
fn a_name_that_does_not_resolve_is_named_and_dialled_again() {
    let node = TestNode::start(Place::on("127.0.0.2"), None, |config| {
        config.peer = Some(PeerAddress { host: "no-such-host.invalid".to_string(), port: 11212 });
    });
    node.wait("the reason", |status| {
        status.link_problem.as_ref().is_some_and(|why| why.contains("no-such-host.invalid"))
    });
}

#[test]
fn a_peer_that_is_not_there_and_one_that_is_silent_are_told_apart() {
    // A port where nobody listens, and one where the kernel connects and nobody speaks.
    let nobody = Place::on("127.0.0.3").address;
    let mute = Place::on("127.0.0.3");
    for (peer, why) in [(nobody, "nobody listens"), (mute.address, "said nothing")] {
        let node = TestNode::start(Place::on("127.0.0.2"), Some(peer), |_| {});
        node.wait(why, |status| {
            status
                .link_problem
                .as_ref()
                .is_some_and(|problem| problem.contains(why) && problem.contains(&peer.to_string()))
        });
    }
}
