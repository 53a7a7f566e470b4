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
    // Anything else before that ends the connection.
    let mut hasty = node.client();
    assert_eq!(exchange(&mut hasty, &packet(GET, "k", b"")).0, 0x20);
    hasty.expect_closed();
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
