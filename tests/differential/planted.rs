//! Can the comparer fail? A proxy in front of memcached tells one small lie, which must be found and
//! shrunk to the commands that it takes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::arena::{Listening, Search, Second, explore};
use crate::reference_is_installed;
use crate::script::count;
use crate::servers::{MEMCACHED, Server};

/// Changes what a server answers.
type Lie = fn(&[u8]) -> Vec<u8>;

/// memcached behind a proxy that lies.
struct Liar(Lie);

impl Second for Liar {
    fn start(&self) -> Box<dyn Listening> {
        Box::new(Proxy::start(Server::start(MEMCACHED), self.0))
    }
}

struct Proxy {
    server: Server,
    address: SocketAddr,
    closing: Arc<AtomicBool>,
}

impl Proxy {
    fn start(server: Server, lie: Lie) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let closing = Arc::new(AtomicBool::new(false));
        let (behind, stop) = (server.address(), Arc::clone(&closing));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(behind)) else { return };
                let (from, to) =
                    (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                std::thread::spawn(move || pump(from, to, <[u8]>::to_vec));
                std::thread::spawn(move || pump(server, client, lie));
            }
        });
        Self { server, address, closing }
    }
}

impl Listening for Proxy {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn is_alive(&mut self) -> bool {
        self.server.is_alive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // Wakes the acceptor, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

/// Carries bytes one way until either side closes.
fn pump(mut from: TcpStream, mut to: TcpStream, change: Lie) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&change(&buffer[..length])).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Replaces `from` by `to`, which is as long.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Finds the lie and returns the number of commands it was shrunk to, and the difference.
fn found(lie: Lie) -> (usize, String) {
    let liar = Liar(lie);
    let search = Search { seed: 7, commands: 40_000, findings: 1, time: Duration::from_secs(300) };
    let found = explore(&liar, false, &search);
    let finding = found.findings.first().expect("the planted lie was not found");
    (count(&finding.scenario), finding.difference().to_owned())
}

#[test]
fn a_wrong_status_line_is_found_and_shrunk_to_one_command() {
    if !reference_is_installed() {
        return;
    }
    let (commands, difference) = found(|answer| replace(answer, b"NOT_STORED", b"NOT_FOUND_"));
    assert_eq!(commands, 1, "{difference}");
    assert!(difference.contains("NOT_STORED"), "{difference}");
}

#[test]
fn a_wrong_value_is_found_and_shrunk_to_its_store_and_its_read() {
    if !reference_is_installed() {
        return;
    }
    let (commands, difference) = found(|answer| replace(answer, b"999", b"998"));
    assert!(commands <= 2, "{commands} commands: {difference}");
}

#[test]
fn a_wrong_counter_is_found() {
    if !reference_is_installed() {
        return;
    }
    let (commands, difference) =
        found(|answer| replace(answer, b"STAT delete_misses 0\r", b"STAT delete_misses 7\r"));
    assert_eq!(commands, 1, "{difference}");
    assert!(difference.contains("delete_misses"), "{difference}");
}

#[test]
fn a_wrong_binary_status_is_found_and_shrunk_to_one_command() {
    if !reference_is_installed() {
        return;
    }
    let (commands, difference) = found(|answer| replace(answer, b"Not found", b"Not Found"));
    assert_eq!(commands, 1, "{difference}");
}
