//! Who may come in, over a socket.

use std::io::{Read as _, Write as _};

use crate::harness::{Node, config};

#[test]
fn a_text_client_shows_its_token_first() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"alice:secret\n").unwrap();
    let node = Node::start(&format!("-Y {}", file.path().display()));
    let mut client = node.client();
    client.ask("get foo\r\n", "CLIENT_ERROR unauthenticated\r\n");
    client.ask("set k 0 0 11\r\nalice wrong\r\n", "CLIENT_ERROR authentication failure\r\n");
    client.ask("set k 0 0 5\r\nalice\r\n", "CLIENT_ERROR bad authentication token format\r\n");
    client.ask("set k 0 0 12\r\nalice secret\r\nget k\r\n", "STORED\r\nEND\r\n");
    assert_eq!(client.stat("auth_errors"), 3);
    assert_eq!(client.stat("auth_cmds"), 4);
    // The file is read again without a restart.
    std::fs::write(file.path(), "carol:new\n").unwrap();
    node.app().reload();
    let mut other = node.client();
    other.ask("set k 0 0 12\r\nalice secret\r\n", "CLIENT_ERROR authentication failure\r\n");
    other.ask("set k 0 0 9\r\ncarol new\r\n", "STORED\r\n");
    client.ask("get k\r\n", "END\r\n");
}

/// A binary request of an opcode, with a key and a body behind it.
fn packet(opcode: u8, key: &str, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, opcode, 0, key.len() as u8, 0, 0, 0, 0];
    packet.extend_from_slice(&((key.len() + body.len()) as u32).to_be_bytes());
    packet.extend_from_slice(&[0; 12]);
    packet.extend_from_slice(key.as_bytes());
    packet.extend_from_slice(body);
    packet
}

/// Sends a request and reads its answer: status and body.
fn exchange(client: &mut crate::harness::Client, request: &[u8]) -> (u16, Vec<u8>) {
    client.send(request);
    let mut head = [0; 24];
    client.0.read_exact(&mut head).unwrap();
    assert_eq!((head[0], head[1]), (0x81, request[1]));
    let mut body = vec![0; u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize];
    client.0.read_exact(&mut body).unwrap();
    (u16::from_be_bytes([head[6], head[7]]), body)
}

#[test]
fn a_binary_client_says_who_it_is_by_sasl() {
    const GET: u8 = 0;
    const SET: u8 = 1;
    const VERSION: u8 = 0x0b;
    const LIST: u8 = 0x20;
    const AUTH: u8 = 0x21;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"alice:secret\n").unwrap();
    let mut config = config("-S");
    config.process.sasl_file = Some(file.path().to_owned());
    let node = Node::start_with(&config);
    let mut client = node.client();
    assert_eq!(exchange(&mut client, &packet(LIST, "", b"")), (0, b"PLAIN".to_vec()));
    assert_eq!(exchange(&mut client, &packet(VERSION, "", b"")).0, 0);
    for wrong in [&b"\0alice\0wrong"[..], b"\0alice", b"\0bob\0secret", b""] {
        assert_eq!(exchange(&mut client, &packet(AUTH, "PLAIN", wrong)).0, 0x20);
    }
    assert_eq!(exchange(&mut client, &packet(AUTH, "CRAM-MD5", b"\0alice\0secret")).0, 0x20);
    // Anything else before that ends the connection, and no body is waited for.
    let mut unknown_body = packet(SET, "k", b"");
    unknown_body[8..12].copy_from_slice(&1_000_000_u32.to_be_bytes());
    for request in [packet(GET, "k", b""), packet(0x60, "", b""), unknown_body] {
        let mut hasty = node.client();
        assert_eq!(exchange(&mut hasty, &request), (0x20, b"Auth failure.".to_vec()));
        hasty.expect_closed();
    }
    assert_eq!(exchange(&mut client, &packet(AUTH, "PLAIN", b"\0alice\0secret")).0, 0);
    assert_eq!(exchange(&mut client, &packet(GET, "k", b"")).0, 1);
    // Text is not spoken where SASL is.
    let mut text = node.client();
    text.send("get k\r\n");
    text.expect_closed();
    // The file is read again without a restart, and who is in stays in.
    std::fs::write(file.path(), "carol:new\n").unwrap();
    node.app().reload();
    let mut other = node.client();
    assert_eq!(exchange(&mut other, &packet(AUTH, "PLAIN", b"\0alice\0secret")).0, 0x20);
    assert_eq!(exchange(&mut other, &packet(AUTH, "PLAIN", b"\0carol\0new")).0, 0);
    assert_eq!(exchange(&mut client, &packet(GET, "k", b"")).0, 1);
}

/// A node of that flag, with the users of `file`.
fn locked(flag: &str, file: &tempfile::NamedTempFile) -> Node {
    std::fs::write(file.path(), "alice:secret\n").unwrap();
    if flag == "-S" {
        let mut config = config("-S");
        config.process.sasl_file = Some(file.path().to_owned());
        return Node::start_with(&config);
    }
    Node::start(&format!("-Y {}", file.path().display()))
}

#[test]
fn a_text_client_that_does_not_say_who_it_is_has_little_time_however_it_spends_it() {
    has_little_time("-Y", b"set k 0 0 12\r\nalice secret\r\n", b"STORED\r\n");
}

#[test]
fn a_binary_client_that_does_not_say_who_it_is_has_little_time_however_it_spends_it() {
    has_little_time("-S", &packet(0x21, "PLAIN", b"\0alice\0secret"), b"\x81\x21");
}

fn has_little_time(flag: &str, token: &[u8], welcome: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let node = locked(flag, &file);
    // It came first, so its time would be over first.
    let mut inside = node.client();
    inside.ask(token, welcome);
    let mut silent = node.client();
    let mut half = node.client();
    half.send(&token[..token.len() - 1]);
    // One byte after the other, for longer than there is.
    let mut slow = node.client();
    let mut drops = slow.0.try_clone().unwrap();
    let bytes = token[..token.len() - 1].to_vec();
    let sender = std::thread::spawn(move || {
        for byte in bytes {
            if drops.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(400));
        }
    });
    silent.expect_closed();
    half.expect_closed();
    slow.expect_closed();
    sender.join().unwrap();
    // Who is in stays in, and is silent for as long as it likes.
    inside.0.set_nonblocking(true).unwrap();
    let mut rest = [0; 100];
    loop {
        match inside.0.read(&mut rest) {
            Ok(0) => panic!("who is in was hung up on"),
            // The rest of the welcome.
            Ok(_) => {}
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn who_does_not_say_who_it_is_is_not_listened_to_for_long() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let node = locked("-Y", &file);
    // A token that nobody can have is refused before it comes.
    node.client().ask("set k 0 0 2048\r\n", "CLIENT_ERROR auth token too long\r\n");
    // Attempts, together.
    let mut client = node.client();
    let attempt = "set k 0 0 11\r\nalice wrong\r\n";
    for _ in 0..2048 / attempt.len() {
        client.ask(attempt, "CLIENT_ERROR authentication failure\r\n");
    }
    client.send(attempt);
    client.expect("CLIENT_ERROR auth token too long\r\n");
    client.expect_closed();
    // A line that does not end.
    let mut client = node.client();
    client.send(vec![b'x'; 2048]);
    client.expect_closed();
    // What comes behind the token is not counted.
    let many = "get none\r\n".repeat(1000);
    node.client().ask(
        format!("set k 0 0 12\r\nalice secret\r\n{many}"),
        format!("STORED\r\n{}", "END\r\n".repeat(1000)),
    );

    let node = locked("-S", &file);
    let mut client = node.client();
    client.send(&packet(0x21, "PLAIN", &[b'x'; 3000])[..100]);
    client.expect_closed();
    let mut client = node.client();
    let attempt = packet(0x21, "PLAIN", b"\0alice\0wrong");
    for _ in 0..2048 / attempt.len() {
        assert_eq!(exchange(&mut client, &attempt).0, 0x20);
    }
    client.send(&attempt);
    client.expect_closed();
}
