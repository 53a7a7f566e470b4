//! `--repcached-peer`: a stand-in that speaks a repcached 2.3.1's replication link byte for byte, with
//! its quirks.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Client, Node, PATIENCE, until};

/// A repcached that waits for its partner. It listens until somebody comes, and then no more.
struct Repcached(TcpListener);

impl Repcached {
    fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> std::net::SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn flags(&self) -> String {
        format!("--repcached-peer {}", self.address())
    }

    /// The partner came: nobody else can any more.
    fn linked(self) -> Link {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Link(stream)
    }
}

struct Link(TcpStream);

impl Link {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn item(&mut self, key: &str, flags: i64, expires: u64, value: &[u8], cas: i64) {
        // As repcached prints it: flags with %d, CAS through an int.
        self.send(format!("rep {key} {} {expires} {} {}\r\n", flags as i32, value.len(), cas as i32));
        self.send(value);
        self.send("\r\n");
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Waits for what comes over the link.
#[track_caller]
fn until_answered(client: &mut Client, question: &str, answer: &str) {
    until(answer, || {
        client.send(question);
        client.read_until(if question.starts_with("get") { "END\r\n" } else { "\r\n" }) == answer
    });
}

#[test]
fn a_repcacheds_items_and_changes_are_taken_over() {
    let repcached = Repcached::start();
    let node = Node::start(&repcached.flags());
    let mut link = repcached.linked();
    link.item("plain", 5, 0, b"hello", 1);
    link.item("minute", 0, unix() + 60, b"m", 2);
    link.item("past", 0, unix() - 60, b"p", 3);
    link.item("flags", 1 << 31, 0, b"", 4);
    link.item("binary", 0, 0, b"\r\nrep x 0 0 1 1\r\n\0\x01", 5);
    link.item("cas", 0, 0, b"c", 0x1_0000_0007);
    link.item("large", 0, 0, &vec![b'x'; 700_000], 0x8000_0001);
    link.send("marugoto_end\r\n");
    let mut client = node.client();
    until_answered(&mut client, "mg large s c\r\n", "HD s700000 c2147483649\r\n");
    client.ask(
        "gets plain past flags\r\n",
        "VALUE plain 5 5 1\r\nhello\r\nVALUE flags 2147483648 0 4\r\n\r\nEND\r\n",
    );
    client.ask("get binary\r\n", b"VALUE binary 0 19\r\n\r\nrep x 0 0 1 1\r\n\0\x01\r\nEND\r\n");
    client.ask("get x\r\n", "END\r\n");
    client.send("mg minute t\r\n");
    let left: u32 = client.read_until("\r\n").trim().strip_prefix("HD t").unwrap().parse().unwrap();
    // Their clock and ours tick at different moments of a second.
    assert!((40..=61).contains(&left), "{left}");
    // The lower half of a CAS unique is what is left of it.
    client.ask("cas cas 0 0 1 7\r\nd\r\n", "STORED\r\n");

    // The stream: touch and incr come as whole items, an eviction as a deletion.
    link.item("minute", 0, unix() + 1000, b"m", 2);
    link.send("delete plain\r\n");
    until_answered(&mut client, "get plain\r\n", "END\r\n");
    client.send("mg minute t\r\n");
    let left: u32 = client.read_until("\r\n").trim().strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((970..=1001).contains(&left), "{left}");
    link.send(format!("flush_all {}\r\n", unix() + 1000));
    link.item("after", 0, 0, b"a", 9);
    until_answered(&mut client, "get after\r\n", "VALUE after 0 1\r\na\r\nEND\r\n");
    client.ask("get binary\r\n", b"VALUE binary 0 19\r\n\r\nrep x 0 0 1 1\r\n\0\x01\r\nEND\r\n");
    link.send("flush_all \r\n");
    until_answered(&mut client, "get after binary minute\r\n", "END\r\n");
    // A client's `flush_all 0` comes as the time their process started.
    link.item("again", 0, 0, b"a", 10);
    until_answered(&mut client, "get again\r\n", "VALUE again 0 1\r\na\r\nEND\r\n");
    link.send(format!("flush_all {}\r\n", unix() - 100_000));
    until_answered(&mut client, "get again\r\n", "END\r\n");
}

#[test]
fn a_link_that_breaks_is_made_again() {
    let repcached = Repcached::start();
    let address = repcached.address();
    let node = Node::start(&repcached.flags());
    let mut link = repcached.linked();
    link.item("first", 0, 0, b"1", 1);
    link.send("rep half 0 0 10 1\r\nhal");
    let mut client = node.client();
    until_answered(&mut client, "get first\r\n", "VALUE first 0 1\r\n1\r\nEND\r\n");
    drop(link);
    // The partner is gone, so it listens again; the full copy comes once more.
    let mut listener = None;
    until("its port", || {
        listener = TcpListener::bind(address).ok();
        listener.is_some()
    });
    let mut link = Repcached(listener.unwrap()).linked();
    link.item("first", 0, 0, b"2", 2);
    link.item("half", 0, 0, b"whole", 3);
    link.send("marugoto_end\r\n");
    until_answered(
        &mut client,
        "get half first\r\n",
        "VALUE half 0 5\r\nwhole\r\nVALUE first 0 1\r\n2\r\nEND\r\n",
    );
}

#[test]
fn a_repcached_that_is_not_there_yet_is_waited_for() {
    let nobody = Repcached::start();
    let address = nobody.address();
    drop(nobody);
    let node = Node::start(&format!("--repcached-peer {address}"));
    let mut client = node.client();
    client.ask("set own 0 0 1\r\no\r\n", "STORED\r\n");
    let mut link = Repcached(TcpListener::bind(address).unwrap()).linked();
    link.item("late", 0, 0, b"l", 1);
    until_answered(&mut client, "get late\r\n", "VALUE late 0 1\r\nl\r\nEND\r\n");
    client.ask("get own\r\n", "VALUE own 0 1\r\no\r\nEND\r\n");
}

#[test]
fn foreign_bytes_cut_the_link_and_hurt_nobody() {
    let repcached = Repcached::start();
    let address = repcached.address();
    let node = Node::start(&repcached.flags());
    let mut client = node.client();
    client.ask("set own 0 0 1\r\no\r\n", "STORED\r\n");
    let mut listener = repcached.0;
    let cases: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"rep k 0 0 2147483647 1\r\n",
        b"rep k 0 0 -1 1\r\n",
        b"rep k 0 0 1 1\r\nxyz",
        &[b'r'; 10_000],
        b"\x80\0\0\0\x01\n",
    ];
    for bytes in cases {
        let mut link = Repcached(listener).linked();
        let _cut_already = link.0.write_all(bytes);
        // The other side ends it.
        link.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = [0];
        let end = std::io::Read::read(&mut link.0, &mut rest);
        assert!(
            matches!(end, Ok(0))
                || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        drop(link);
        let mut again = None;
        until("its port", || {
            again = TcpListener::bind(address).ok();
            again.is_some()
        });
        listener = again.unwrap();
    }
    client.ask("get own k\r\n", "VALUE own 0 1\r\no\r\nEND\r\n");
}

#[test]
fn a_hundred_thousand_items_come_over() {
    let repcached = Repcached::start();
    let node = Node::start(&repcached.flags());
    let mut link = repcached.linked();
    let sender = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        for n in 0..100_000 {
            write!(bytes, "rep key{n} 0 0 8 {n}\r\n{n:08}\r\n").unwrap();
        }
        link.send(&bytes);
        link.send("marugoto_end\r\n");
        link
    });
    let mut client = node.client();
    until_answered(&mut client, "get key99999\r\n", "VALUE key99999 0 8\r\n00099999\r\nEND\r\n");
    assert_eq!(client.stat("curr_items"), 100_000);
    drop(sender.join().unwrap());
}

#[test]
fn a_stop_does_not_wait_for_a_copy_to_end() {
    let repcached = Repcached::start();
    let node = Node::start(&repcached.flags());
    let mut link = repcached.linked();
    let sender = std::thread::spawn(move || {
        // For ever, until the link is cut.
        while link.0.write_all(&b"rep key 0 0 5 1\r\nvalue\r\n".repeat(1000)).is_ok() {}
    });
    let mut client = node.client();
    until_answered(&mut client, "get key\r\n", "VALUE key 0 5\r\nvalue\r\nEND\r\n");
    drop(node);
    sender.join().unwrap();
}
