//! The classic text protocol over a socket: what a row of the table (`table`) cannot say.

use crate::harness::Node;

#[test]
fn a_cas_token_holds_until_the_item_changes() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client.send("gets a\r\n");
    let answer = client.read_until("END\r\n");
    let token = answer.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    client.ask(format!("cas a 0 0 1 {token}\r\ny\r\ncas a 0 0 1 {token}\r\nz\r\n"), "STORED\r\nEXISTS\r\n");
}

#[test]
fn a_browser_is_hung_up_on() {
    let node = Node::start("");
    let mut client = node.client();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.expect_closed();
}

#[test]
fn large_values_come_back_whole_however_they_are_sent() {
    let node = Node::start("-m 128 -I 8m");
    let mut client = node.client();
    let value: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut request = format!("set big 3 0 {}\r\n", value.len()).into_bytes();
    request.extend_from_slice(&value);
    request.extend_from_slice(b"\r\nget small\r\n");
    for piece in request.chunks(70_001) {
        client.send(piece);
    }
    client.expect("STORED\r\nEND\r\n");
    let mut answer = format!("VALUE big 3 {}\r\n", value.len()).into_bytes();
    answer.extend_from_slice(&value);
    answer.extend_from_slice(b"\r\n");
    let both = [&answer[..], &answer[..], b"END\r\n"].concat();
    client.ask("get big big\r\n", both);
    // A value without its end is refused, and the next command is understood.
    client.send(format!("set big 0 0 {}\r\n", value.len()));
    client.send(&value);
    client.send("xxversion\r\n");
    client.expect("CLIENT_ERROR bad data chunk\r\nVERSION");
}

#[test]
fn over_a_unix_socket_it_is_the_same() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    // A socket that a dead server left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = crate::harness::config(&format!("-s {} -a 600", path.display()));
    let bound = tandemd::app::Sockets::bind(&config).unwrap();
    let app = tandemd::app::App::start(&config, bound, Box::new(|_| {})).unwrap();
    assert!(app.addresses().is_empty());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"set a 0 0 1\r\nb\r\nget a\r\nquit\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\n");
    let taken = tandemd::server::Bound::bind(&config.server).unwrap_err();
    assert!(taken[0].to_string().contains("another server listens there"), "{taken:?}");
    crate::harness::stop(app);
    assert!(!path.exists());
}
