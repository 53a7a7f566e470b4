//! The proxy that tests the pair is tested itself: a fault that does not happen proves nothing.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use support::fault_proxy::{Direction, FaultProxy, Faults};

/// A client behind the proxy and the server's end of its connection.
fn connected() -> (FaultProxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = FaultProxy::start("127.0.0.1", listener.local_addr().expect("bound"));
    let near = TcpStream::connect(proxy.address()).expect("it listens");
    let (far, _) = listener.accept().expect("it passes on");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    }
    (proxy, near, far)
}

fn passes(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    from.write_all(text).expect("open");
    let mut read = vec![0; text.len()];
    to.read_exact(&mut read).expect("it arrives");
    read
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
    let result = stream.read(&mut [0]);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    result.is_err_and(|why| why.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn without_faults_bytes_pass() {
    let (proxy, mut near, mut far) = connected();
    assert_eq!(passes(&mut near, &mut far, b"forth"), b"forth");
    assert_eq!(passes(&mut far, &mut near, b"back"), b"back");
    proxy.set_both(&Faults { crumbs: Some(1), ..Faults::default() });
    assert_eq!(passes(&mut near, &mut far, b"in crumbs"), b"in crumbs");
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn exactly_the_chosen_byte_is_corrupted_once() {
    let (proxy, mut near, mut far) = connected();
    proxy.set(Direction::Forth, Faults { corrupt_after: Some(6), ..Faults::default() });
    assert_eq!(passes(&mut near, &mut far, b"0123"), b"0123");
    assert_eq!(passes(&mut near, &mut far, b"4567"), b"45\x267");
    assert_eq!(passes(&mut near, &mut far, b"01234567"), b"01234567");
}

#[test]
fn a_stall_ends_and_a_black_hole_swallows() {
    let (proxy, mut near, mut far) = connected();
    proxy.set(Direction::Forth, Faults { stall: true, ..Faults::default() });
    near.write_all(b"later").expect("open");
    assert!(is_silent(&mut far));
    assert_eq!(passes(&mut far, &mut near, b"back"), b"back");
    proxy.set(Direction::Forth, Faults::default());
    assert_eq!(passes(&mut near, &mut far, b"!"), b"l", "what was stalled comes first");
    proxy.set(Direction::Back, Faults { blackhole: true, ..Faults::default() });
    far.write_all(b"gone").expect("open");
    assert!(is_silent(&mut near));
}

#[test]
fn resets_and_refusals_are_seen_by_both_sides() {
    let (proxy, mut near, mut far) = connected();
    proxy.reset();
    for stream in [&mut near, &mut far] {
        let why = stream.read(&mut [0]).expect_err("reset");
        assert_eq!(why.kind(), std::io::ErrorKind::ConnectionReset);
    }
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.address()).expect("the kernel connects");
    assert!(refused.read(&mut [0]).is_err());
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn half_an_open_connection_is_open_for_the_far_side_only() {
    let (proxy, mut near, mut far) = connected();
    proxy.half_open();
    assert_eq!(near.read(&mut [0]).expect("closed in order"), 0);
    far.write_all(b"is anybody there?").expect("as far as it knows");
    assert!(is_silent(&mut far));
    assert_eq!(proxy.connections(), 1);
}
