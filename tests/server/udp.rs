//! UDP, over sockets.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::{Node, PATIENCE, config};

/// A UDP client with an address of its own.
pub(crate) struct Client {
    socket: UdpSocket,
    id: u16,
}

impl Client {
    fn connect(node: &Node) -> Self {
        Self::from(node.app().udp_addresses()[0], [127, 0, 0, 1])
    }

    pub(crate) fn from(node: SocketAddr, source: [u8; 4]) -> Self {
        let socket = UdpSocket::bind(SocketAddr::from((source, 0))).unwrap();
        socket.connect(node).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, id: 500 }
    }

    pub(crate) fn send(&mut self, request: &[u8]) {
        self.id += 1;
        let mut datagram = [self.id, 0, 1, 0].map(u16::to_be_bytes).concat();
        datagram.extend_from_slice(request);
        self.socket.send(&datagram).unwrap();
    }

    /// An answer put together, and in how many datagrams it came.
    pub(crate) fn receive(&self) -> std::io::Result<(Vec<u8>, usize)> {
        let (mut answer, mut number) = (Vec::new(), 0);
        loop {
            let mut datagram = [0; 2000];
            let length = self.socket.recv(&mut datagram)?;
            assert!((9..=1400).contains(&length));
            let field = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
            assert_eq!((field(0), field(2), field(6)), (self.id, number, 0));
            answer.extend_from_slice(&datagram[8..length]);
            number += 1;
            if number == field(4) {
                return Ok((answer, number.into()));
            }
        }
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) {
        self.send(request.as_ref());
        let (got, _) = self.receive().unwrap();
        assert_eq!(got.escape_ascii().to_string(), answer.as_ref().escape_ascii().to_string());
    }
}

#[test]
fn text_meta_and_binary_are_answered_in_memcacheds_frames() {
    let node = Node::start("-U -1");
    let mut client = Client::connect(&node);
    client.ask("set a 0 0 1\r\nb\r\n", "STORED\r\n");
    client.ask("get a none\r\n", "VALUE a 0 1\r\nb\r\nEND\r\n");
    client.ask("mg a v\r\n", "VA 1\r\nb\r\n");
    client.ask("set a 0 0 1\r\nc\r\nget a\r\nbogus\r\n", "STORED\r\nVALUE a 0 1\r\nc\r\nEND\r\nERROR\r\n");
    // Every datagram speaks for itself.
    let noop = |magic: u8| {
        let mut packet = [0; 24];
        (packet[0], packet[1]) = (magic, 0x0a);
        packet
    };
    client.ask(noop(0x80), noop(0x81));
    client.ask("version\r\n", format!("VERSION {}\r\n", tandemd::server::VERSION));
    node.client().ask("get a\r\n", "VALUE a 0 1\r\nc\r\nEND\r\n");
    let rows = node.client().stats("conns");
    let address = format!("udp:{}", node.app().udp_addresses()[0]);
    let row = rows.iter().find(|(_, value)| *value == address).unwrap();
    let descriptor = row.0.strip_suffix(":addr").unwrap();
    assert!(rows.contains(&(format!("{descriptor}:UDP"), "UDP".to_owned())));
}

#[test]
fn a_long_answer_comes_in_numbered_datagrams() {
    let node = Node::start("-U -1");
    let value = "x".repeat(50_000);
    node.client().ask(format!("set l 0 0 50000\r\n{value}\r\n"), "STORED\r\n");
    let mut client = Client::connect(&node);
    client.send(b"get l\r\n");
    let (answer, datagrams) = client.receive().unwrap();
    assert_eq!(answer, format!("VALUE l 0 50000\r\n{value}\r\nEND\r\n").as_bytes());
    assert_eq!(datagrams, answer.len().div_ceil(1392));
}

#[test]
fn no_answer_is_longer_than_64_kib_and_what_was_done_is_said() {
    let node = Node::start("-U -1");
    let mut tcp = node.client();
    for (key, len) in [("a", 40_000), ("l", 70_000)] {
        tcp.ask(format!("set {key} 0 0 {len}\r\n{}\r\n", "x".repeat(len)), "STORED\r\n");
    }
    let mut client = Client::connect(&node);
    let refused = "SERVER_ERROR the answer is too long for UDP; ask over TCP\r\n";
    client.ask("get l\r\n", refused);
    client.ask("get a a\r\n", refused);
    client.ask("set b 0 0 1\r\nb\r\nget l\r\nset c 0 0 1\r\nc\r\n", format!("STORED\r\n{refused}{refused}"));
    tcp.ask("get b c\r\n", "VALUE b 0 1\r\nb\r\nEND\r\n");
}

#[test]
fn what_is_no_single_request_is_not_answered() {
    let node = Node::start("-U -1");
    let mut client = Client::connect(&node);
    for datagram in [
        &b""[..],
        b"\0\x01\0\0",
        b"\0\x01\0\0\0\x02\0\0get a\r\n",
        b"\0\x01\0\0\0\x01\0\0",
        b"\0\x01\0\0\0\x01\0\0get a",
        b"\0\x01\0\0\0\x01\0\0set a 0 0 100\r\nhalf",
        b"\0\x01\0\0\0\x01\0\0set a 0 0 100000\r\nhalf",
        b"\0\x01\0\0\0\x01\0\0\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        client.socket.send(datagram).unwrap();
    }
    // The first answer is to what comes behind all of them.
    client.ask("mn\r\n", "MN\r\n");
    client.ask("watch\r\n", "SERVER_ERROR not over UDP; ask over TCP\r\n");
    client.ask("lru_crawler metadump all\r\n", "SERVER_ERROR not over UDP; ask over TCP\r\n");
}

#[test]
fn a_source_is_sent_no_more_than_its_rate() {
    let node = Node::start("-U -1");
    let value = "x".repeat(60_000);
    node.client().ask(format!("set l 0 0 60000\r\n{value}\r\n"), "STORED\r\n");
    let mut greedy = Client::connect(&node);
    greedy.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let answered = (0..100).take_while(|_| {
        greedy.send(b"get l\r\n");
        greedy.receive().is_ok()
    });
    let answered = answered.count();
    assert!((1..100).contains(&answered), "{answered}");
    // Others are not concerned.
    Client::from(node.app().udp_addresses()[0], [127, 0, 0, 2]).ask("get none\r\n", "END\r\n");
}

#[test]
fn there_is_no_udp_unless_asked_for() {
    let node = Node::start("");
    assert!(node.app().udp_addresses().is_empty());
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let problems = tandemd::app::Sockets::bind(&config(&format!("-U {port}"))).unwrap_err();
    assert!(problems[0].contains(&format!("UDP port {port}")), "{problems:?}");
}
