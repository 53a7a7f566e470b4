//! The whole protocol over whatever carries it: TCP, a unix socket, TLS, UDP, and a node that hands
//! everything on to its master. One table ([`table`]), the same answers.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::forwarding::proxied_pair;
use crate::harness::{Client, Node, PATIENCE, config, stop};
use crate::table::{self, Row};
use crate::{tls, udp};

/// A stream of bytes to a server.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// A new connection.
type Connect<'a> = &'a dyn Fn() -> Box<dyn Stream>;

/// Binary answers, with 0 for each CAS unique; others as they are.
fn comparable(mut answer: Vec<u8>) -> String {
    let mut at = 0;
    while answer.get(at) == Some(&0x81) && at + 24 <= answer.len() {
        answer[at + 16..at + 24].fill(0);
        let body = u32::from_be_bytes([answer[at + 8], answer[at + 9], answer[at + 10], answer[at + 11]]);
        at += 24 + body as usize;
    }
    answer.escape_ascii().to_string()
}

/// Reads an answer of the expected length, or what comes of it.
#[track_caller]
fn expect(stream: &mut dyn Stream, row: &Row, how: &str) {
    let mut answer = vec![0; row.answer.len()];
    let mut filled = 0;
    while filled < answer.len() {
        match stream.read(&mut answer[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    answer.truncate(filled);
    assert_eq!(comparable(answer), comparable(row.answer.clone()), "{how}: {}", row.sent.escape_ascii());
}

fn send(stream: &mut dyn Stream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the server reads");
    stream.flush().expect("the server reads");
}

/// Each row by itself; all rows in one write; each row cut in two at every of its bytes; every byte alone.
fn converse(connect: Connect<'_>) {
    for rows in [table::text(), table::binary()] {
        let mut stream = connect();
        for row in &rows {
            send(&mut *stream, &row.sent);
            expect(&mut *stream, row, "by itself");
        }
        let mut stream = connect();
        send(&mut *stream, &rows.iter().flat_map(|row| row.sent.clone()).collect::<Vec<_>>());
        for row in &rows {
            expect(&mut *stream, row, "all at once");
        }
        let longest = rows.iter().map(|row| row.sent.len()).max().expect("rows");
        for cut in 1..longest {
            let mut stream = connect();
            for row in &rows {
                let (begin, end) = row.sent.split_at(cut % row.sent.len());
                for part in [begin, end].into_iter().filter(|part| !part.is_empty()) {
                    send(&mut *stream, part);
                }
                expect(&mut *stream, row, &format!("cut at {}", begin.len()));
            }
        }
        let mut stream = connect();
        for row in &rows {
            for byte in &row.sent {
                send(&mut *stream, &[*byte]);
            }
            expect(&mut *stream, row, "byte by byte");
        }
    }
}

fn tcp(address: std::net::SocketAddr) -> Box<dyn Stream> {
    let client: TcpStream = Client::connect(address).0;
    Box::new(client)
}

#[test]
fn over_tcp() {
    let node = Node::start("");
    converse(&|| tcp(node.address));
}

#[test]
fn over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let config = config(&format!("-s {}", path.display()));
    let bound = tandemd::app::Sockets::bind(&config).unwrap();
    let app = tandemd::app::App::start(&config, bound, Box::new(|_| {})).unwrap();
    converse(&|| {
        let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Box::new(stream)
    });
    stop(app);
}

#[test]
fn over_tls() {
    let (_node, connect) = tls::secured_node();
    converse(&|| Box::new(connect()));
}

#[test]
fn through_a_node_that_hands_everything_on() {
    let (_master, backup) = proxied_pair("");
    converse(&|| tcp(backup.address));
}

/// Every row in a datagram of its own.
fn converse_row_by_row(client: &mut udp::Client, rows: &[Row]) {
    for row in rows {
        client.send(&row.sent);
        let (answer, _) = client.receive().unwrap_or_else(|_| panic!("{}", row.sent.escape_ascii()));
        assert_eq!(comparable(answer), comparable(row.answer.clone()), "{}", row.sent.escape_ascii());
    }
}

/// Every row in a datagram of its own; then as many at once as a datagram may hold.
fn converse_in_datagrams(mut client: udp::Client) {
    for rows in [table::text(), table::binary()] {
        converse_row_by_row(&mut client, &rows);
        client.send(&rows.iter().flat_map(|row| row.sent.clone()).collect::<Vec<_>>());
        let (answer, _) = client.receive().unwrap();
        let answers: Vec<u8> = rows.iter().flat_map(|row| row.answer.clone()).collect();
        assert_eq!(comparable(answer), comparable(answers));
    }
}

#[test]
fn over_udp_through_a_node_that_hands_everything_on() {
    let (_master, backup) = proxied_pair("-U -1");
    let address = backup.server.as_ref().unwrap().udp_addresses()[0];
    for rows in [table::text(), table::binary()] {
        converse_row_by_row(&mut udp::Client::from(address, [127, 0, 0, 1]), &rows);
    }
}

#[test]
fn over_udp() {
    let node = Node::start("-U -1");
    converse_in_datagrams(udp::Client::from(node.app().udp_addresses()[0], [127, 0, 0, 1]));
}
