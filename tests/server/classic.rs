//! The classic text protocol over a socket.

use crate::harness::Node;

/// One conversation after the other on one connection: what is sent, what is answered.
const TABLE: &[(&str, &str)] = &[
    ("set a 7 0 1\r\nb\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 7 1\r\nb\r\nEND\r\n"),
    ("get a nothing a\n", "VALUE a 7 1\r\nb\r\nVALUE a 7 1\r\nb\r\nEND\r\n"),
    ("add a 0 0 1\r\nc\r\nadd b 0 0 1\r\nc\r\n", "NOT_STORED\r\nSTORED\r\n"),
    ("replace a 0 0 2\r\ncc\r\nreplace none 0 0 1\r\nc\r\n", "STORED\r\nNOT_STORED\r\n"),
    (
        "append a 0 0 1\r\nx\r\nprepend a 0 0 1\r\ny\r\nappend none 0 0 1\r\nx\r\n",
        "STORED\r\nSTORED\r\nNOT_STORED\r\n",
    ),
    ("get a\r\n", "VALUE a 0 4\r\nyccx\r\nEND\r\n"),
    ("cas a 0 0 1 1\r\nz\r\ncas none 0 0 1 1\r\nz\r\n", "EXISTS\r\nNOT_FOUND\r\n"),
    ("gat 100 a\r\n", "VALUE a 0 4\r\nyccx\r\nEND\r\n"),
    ("touch a 0\r\ntouch none 0\r\n", "TOUCHED\r\nNOT_FOUND\r\n"),
    ("delete a\r\ndelete a\r\ndelete b 0\r\n", "DELETED\r\nNOT_FOUND\r\nDELETED\r\n"),
    ("set n 0 0 1\r\n9\r\nincr n 1\r\ndecr n 3\r\nincr none 1\r\n", "STORED\r\n10\r\n7\r\nNOT_FOUND\r\n"),
    (
        "set n 0 0 1\r\nx\r\nincr n 1\r\n",
        "STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("set q 0 0 1 noreply\r\nq\r\ndelete n noreply\r\nget q n\r\n", "VALUE q 0 1\r\nq\r\nEND\r\n"),
    ("set t 0 -1 1\r\nt\r\nget t\r\n", "STORED\r\nEND\r\n"),
    ("version\r\n", concat!("VERSION 1.6.45-tandem-", env!("CARGO_PKG_VERSION"), "\r\n")),
    ("verbosity 0\r\nverbosity\r\n", "OK\r\nCLIENT_ERROR bad command line format\r\n"),
    ("shutdown\r\n", "SERVER_ERROR: shutdown not enabled\r\n"),
    (
        "cache_memlimit 64\r\ncache_memlimit 1\r\n",
        "OK\r\nMEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
    ),
    ("slabs automove 1\r\nslabs reassign 1 1\r\n", "OK\r\nSAME src and dst class are identical\r\n"),
    (
        "lru mode segmented\r\nlru_crawler enable\r\nlru_crawler sleep 2000000\r\n",
        "OK\r\nOK\r\nCLIENT_ERROR sleep must be one second or less\r\n",
    ),
    ("flush_all\r\nget q\r\n", "OK\r\nEND\r\n"),
    (
        "flush_all abc\r\nflush_all 0\r\nflush_all noreply\r\n",
        "CLIENT_ERROR invalid exptime argument\r\nOK\r\n",
    ),
    ("GET a\r\nnonsense\r\n a\r\n", "ERROR\r\nERROR\r\nERROR\r\n"),
    (
        "get\r\nset a 0 0\r\ntouch a\r\n",
        "CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    ("set a 0 0 1\r\nxy\r\n", "CLIENT_ERROR bad data chunk\r\n"),
    ("set a -1 0 1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("stats nonsense\r\n", "ERROR\r\n"),
    ("mn\r\n", "MN\r\n"),
];

#[test]
fn every_command_is_answered_as_memcached_answers_it() {
    let node = Node::start("");
    let mut client = node.client();
    for (sent, answer) in TABLE {
        client.ask(sent, answer);
        // A bad chunk leaves a rest that is a command of its own.
        if sent.ends_with("xy\r\n") {
            client.expect("CLIENT_ERROR bad command line format\r\n");
        }
    }
    client.send("quit\r\n");
    client.expect_closed();
}

#[test]
fn the_whole_table_in_one_packet_is_answered_in_order() {
    let node = Node::start("");
    let table = TABLE.iter().filter(|(sent, _)| !sent.ends_with("xy\r\n"));
    let (sent, answers): (Vec<_>, Vec<_>) = table.copied().unzip();
    node.client().ask(sent.concat(), answers.concat());
}

#[test]
fn the_whole_table_byte_by_byte_is_answered_alike() {
    let node = Node::start("");
    let mut client = node.client();
    for (sent, answer) in TABLE.iter().filter(|(sent, _)| !sent.ends_with("xy\r\n")) {
        for byte in sent.as_bytes() {
            client.send([*byte]);
        }
        client.expect(answer);
    }
}

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
