//! Who may come in, over a socket.

use std::io::Write as _;

use crate::harness::Node;

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
