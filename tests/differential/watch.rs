//! `watch`: both servers tell the same of the same commands, line by line.
//!
//! What is not compared: time and number of a line, descriptors and ports; `ttl` up to a tick; the class
//! of what was too large, because 1.6.18 prints its descriptor there. `deletions` is not in 1.6.18, and
//! binary stores are told without their word: those lines are in `tests/server/watch.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::reference_is_installed;
use crate::servers::{MEMCACHED, Server, TANDEM};

/// How long a line may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is said. Dead items are asked for at once: Tandem's upkeep finds them soon by itself.
const STEPS: &[&str] = &[
    "set a 0 0 1\r\nb\r\n",
    "get a none\r\n",
    "gets a a\r\n",
    "gat 100 a none\r\n",
    "touch a 0\r\n",
    "touch none 0\r\n",
    "touch a -1\r\nget a\r\nget a\r\n",
    "set f 0 0 1\r\nx\r\ntouch f -1\r\nset f 0 0 1\r\nx\r\nget f\r\ntouch f -1\r\nincr f 1\r\nget f\r\n",
    "set g 0 0 1\r\nx\r\nset g2 0 0 1\r\nx\r\nset g3 0 0 1\r\nx\r\nflush_all\r\nget g\r\nset g2 0 0 1\r\nx\r\ndelete g3\r\nget g\r\n",
    "set n 0 0 2\r\n99\r\nincr n 1\r\ndecr n 1\r\nincr none 1\r\n",
    "append n 0 0 1\r\nx\r\nappend none 0 0 1\r\nx\r\nprepend n 0 0 1\r\nx\r\n",
    "add n 0 0 1\r\nx\r\nadd new 0 0 1\r\nx\r\n",
    "replace none 0 0 1\r\nx\r\nreplace n 5 5000 1\r\nx\r\nappend n 9 9 1\r\nx\r\n",
    "cas n 0 0 1 1\r\nx\r\ncas none 0 0 1 1\r\nx\r\n",
    "set n 7 0 5000\r\n{5000}\r\nget n\r\nset n 7 0 50000\r\n{50000}\r\nget n\r\n",
    "set big 0 0 1\r\nx\r\nadd big 0 0 2000000\r\n{2000000}\r\nget big\r\n",
    "append big 0 0 2000000\r\n{2000000}\r\ncas big 0 0 2000000 1\r\n{2000000}\r\nget big\r\n",
    "set big 0 0 2000000 noreply\r\n{2000000}\r\nget big\r\n",
    "ms m 2 T3000\r\nhi\r\nmg m v\r\nmg none v\r\nmg m s T300\r\nmg vivid N300\r\nmg vivid v\r\n",
    "ms m 1 MA\r\nx\r\nms m 1 ME\r\nx\r\nms none 1 MR\r\nx\r\nms m 1 C1\r\nx\r\nms none 1 C1\r\nx\r\n",
    "ms m 2000000\r\n{2000000}\r\nmg m v\r\n",
    "ma none\r\nma count N0 J5\r\nma count\r\nma count D99\r\nma count MD\r\nmd count\r\nmd count\r\n",
    "ms i 1\r\nx\r\nmd i I T30\r\nmg i v\r\nmd i q\r\n",
    "me a\r\nme none\r\nversion\r\nset \x01%/\u{e4}b 0 0 1\r\nb\r\n",
];

/// Says all of it to a server and collects what its watcher hears.
fn told(server: &Server) -> Vec<String> {
    let mut watcher = watch(server.address(), "fetchers mutations");
    let mut client = connect(server.address());
    for (at, said) in STEPS.iter().enumerate() {
        let mut said = (*said).to_owned();
        for length in [5_000, 50_000, 2_000_000] {
            said = said.replace(&format!("{{{length}}}"), &"y".repeat(length));
        }
        client.write_all(said.as_bytes()).expect("the server reads");
        client.write_all(format!("get end-of-{at}\r\nmn\r\n").as_bytes()).expect("the server reads");
        read_until(&mut client, b"MN\r\n");
    }
    let last = format!("key=end-of-{} status=not_found clsid=0", STEPS.len() - 1);
    let mut heard = Vec::new();
    let begin = Instant::now();
    while !(contains(&heard, last.as_bytes()) && heard.ends_with(b"\n")) {
        assert!(begin.elapsed() < PATIENCE, "the last line did not come");
        read_some(&mut watcher, &mut heard);
    }
    String::from_utf8(heard).expect("text").lines().map(comparable).collect()
}

/// A line without what no two servers share.
fn comparable(line: &str) -> String {
    let too_large = line.contains("status=too_large");
    let words = line.split(' ').filter_map(|word| match word.split_once('=') {
        Some(("ts" | "gid", _)) => None,
        Some((name @ ("cfd" | "rport"), _)) => Some(format!("{name}=…")),
        Some(("clsid", _)) if too_large => None,
        // One tick less is the same.
        Some(("ttl", secs)) => {
            let secs: u64 = secs.parse().expect("a number");
            Some(format!("ttl={}", secs.next_multiple_of(10)))
        }
        _ => Some(word.to_owned()),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a server that listens");
    stream.set_nodelay(true).expect("TCP_NODELAY on a fresh socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout on a fresh socket");
    stream
}

fn watch(address: SocketAddr, kinds: &str) -> TcpStream {
    let mut watcher = connect(address);
    watcher.write_all(format!("watch {kinds}\r\n").as_bytes()).expect("the server reads");
    read_until(&mut watcher, b"OK\r\n");
    watcher
}

fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece).expect("an answer in time");
    assert!(count > 0, "the server closed: {}", into.escape_ascii());
    into.extend_from_slice(&piece[..count]);
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read_some(stream, &mut read);
    }
    read
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn watchers_hear_of_every_command_what_memcached_tells() {
    if !reference_is_installed() {
        return;
    }
    let heard = || [MEMCACHED, TANDEM].map(|program| told(&Server::start_with(program, &["-t", "1"])));
    let [mut reference, mut ours] = heard();
    if reference != ours {
        // Upkeep may have found a dead item in the instant before it was asked for.
        [reference, ours] = heard();
    }
    for (at, (line, other)) in reference.iter().zip(&ours).enumerate() {
        assert_eq!(line, other, "line {at}, after {:#?}", &ours[at.saturating_sub(4)..at]);
    }
    assert_eq!(reference.len(), ours.len());
    assert!(ours.len() > 100, "{} lines", ours.len());
}

/// How a connection comes and goes.
fn connection_told(server: &Server) -> Vec<String> {
    let mut watcher = watch(server.address(), "connevents");
    let mut heard = Vec::new();
    let ends: [fn(TcpStream); 4] = [
        drop,
        |mut client| {
            client.write_all(b"quit\r\n").expect("the server reads");
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("the server closes");
        },
        |mut client| {
            client.write_all(&[b'x'; 5000]).expect("the server reads");
            let mut rest = Vec::new();
            let _reset = client.read_to_end(&mut rest);
        },
        // Silent for longer than the server bears.
        |mut client| {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("the server closes");
        },
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let mut client = connect(server.address());
        client.write_all(b"mn\r\n").expect("the server reads");
        read_until(&mut client, b"MN\r\n");
        end(client);
        // The next one comes when this one is gone.
        while heard.iter().filter(|byte| **byte == b'\n').count() < 2 * (at + 1) {
            read_some(&mut watcher, &mut heard);
        }
    }
    String::from_utf8(heard).expect("text").lines().map(comparable).collect()
}

#[test]
fn watchers_hear_of_connections_what_memcached_tells() {
    if !reference_is_installed() {
        return;
    }
    let flags = ["-t", "1", "-o", "idle_timeout=2"];
    let servers = [MEMCACHED, TANDEM].map(|program| Server::start_with(program, &flags));
    let [reference, ours] = std::thread::scope(|scope| {
        servers
            .each_ref()
            .map(|server| scope.spawn(|| connection_told(server)))
            .map(|told| told.join().expect("both are told"))
    });
    assert_eq!(reference, ours);
    assert!(ours[7].contains("reason=idle_timeout"), "{ours:?}");
}

/// The first line of an eviction.
fn eviction_told(server: &Server) -> String {
    let mut watcher = watch(server.address(), "evictions");
    let mut client = connect(server.address());
    let value = "v".repeat(100_000);
    for number in 0..1000 {
        let set = format!("set key{number} 0 3000 {} noreply\r\n{value}\r\n", value.len());
        client.write_all(set.as_bytes()).expect("the server reads");
    }
    client.write_all(b"mn\r\n").expect("the server reads");
    read_until(&mut client, b"MN\r\n");
    let mut heard = Vec::new();
    while !heard.contains(&b'\n') {
        read_some(&mut watcher, &mut heard);
    }
    let line = String::from_utf8(heard).expect("text").lines().next().map(comparable).expect("a line");
    // Which one goes, and when it was read last, is each server's own.
    let words = line.split(' ').map(|word| match word.split_once('=') {
        Some((name @ ("key" | "la"), _)) => format!("{name}=…"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn watchers_hear_of_evictions_what_memcached_tells() {
    if !reference_is_installed() {
        return;
    }
    let servers = [MEMCACHED, TANDEM].map(|program| Server::start_with(program, &["-m", "64"]));
    let [reference, ours] = servers.each_ref().map(eviction_told);
    assert_eq!(reference, ours);
}
