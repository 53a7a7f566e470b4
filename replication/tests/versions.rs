//! Two releases on one link: what they agree on, what is skipped, and what is refused and named.

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, Once};
use std::time::Duration;

use support::node::{PATIENCE, Place, TestNode, eventually, settled};
use tandem_replication::frame::{HEADER_BYTES, MAY_IGNORE, VERSION, VERSION_MIN};
use tandem_replication::handshake::{Handshake, Kind, Opening, Secrets};

/// What all nodes of this file have logged.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn record_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_writer(|| Log).init());
}

/// Is there a line with all of these?
fn logged(parts: &[&str]) -> bool {
    let log = String::from_utf8_lossy(&LOG.lock().expect("not poisoned")).into_owned();
    log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

fn later(nonce: u8) -> Opening {
    Opening { versions: (VERSION + 6, VERSION + 8), ..Opening::new(Kind::Control, 0, [nonce; 32]) }
}

#[test]
fn two_nodes_whose_versions_do_not_meet_refuse_each_other_and_log_both_ranges() {
    record_logs();
    let theirs = format!("{} to {}", VERSION + 6, VERSION + 8);
    let ours = format!("this node {VERSION_MIN} to {VERSION}");
    // One that is dialled, and one that dials.
    let dialled = TcpListener::bind("127.0.0.3:0").expect("a free port");
    let node = TestNode::start(Place::on("127.0.0.2"), Some(dialled.local_addr().expect("bound")), |_| {});
    let mut acceptor = Handshake::acceptor(Secrets::default(), later(1), b"hello".to_vec());
    let mut stream = speaking(&dialled);
    refuses(&mut stream, &mut acceptor);
    eventually("a line of the dialling node", || logged(&["cannot reach the peer", &theirs, &ours]));
    node.wait("the status", |status| {
        status.link_problem.as_ref().is_some_and(|why| why.contains(&theirs) && why.contains(&ours))
    });

    let mut stream = TcpStream::connect(node.address).expect("it listens");
    let mut dialler = Handshake::dialler(Secrets::default(), later(2), b"hello".to_vec());
    refuses(&mut stream, &mut dialler);
    eventually("a line of the dialled node", || logged(&["refused a connection", &theirs, &ours]));
    assert!(!node.is_linked());
}

/// A connection on which something is said: a node also knocks to see whether anybody is there.
fn speaking(listener: &TcpListener) -> TcpStream {
    loop {
        let (stream, _) = listener.accept().expect("it dials");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        if stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            return stream;
        }
    }
}

/// The other end of a handshake, which comes to the same result.
fn refuses(stream: &mut TcpStream, handshake: &mut Handshake) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(&handshake.take_output()).expect("it listens");
    let mut opening = vec![0; handshake.wants()];
    stream.read_exact(&mut opening).expect("even a foreign version is answered");
    let why = handshake.handle(&opening).expect_err("nothing in common").to_string();
    assert!(why.contains(&format!("speaks replication protocol {VERSION_MIN} to {VERSION}")), "{why}");
    let _ = stream.write_all(&handshake.take_output());
}

/// A frame no release knows.
fn novelty(flags: u8) -> Vec<u8> {
    let payload = b"something new";
    let mut frame = Vec::new();
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend([250, flags]);
    frame.extend([7; 14]);
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Makes whoever dials here a node of a later release: one that says something new before every frame.
fn later_release(target: SocketAddr, flags: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.4:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(from), Ok(to)) = (stream, TcpStream::connect(target)) else { return };
            let (mut back_from, mut back_to) =
                (to.try_clone().expect("a socket"), from.try_clone().expect("a socket"));
            std::thread::spawn(move || {
                let _ = io::copy(&mut back_from, &mut back_to);
                let _ = back_to.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = embellish(&from, &to, flags);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

fn embellish(mut from: &TcpStream, mut to: &TcpStream, flags: u8) -> io::Result<()> {
    let mut pass = |bytes: usize, before: &[u8]| {
        let mut buffer = vec![0; bytes];
        from.read_exact(&mut buffer)?;
        to.write_all(&[before, &buffer].concat())?;
        Ok::<_, io::Error>(buffer)
    };
    // The opening, the proof behind its tag, the introduction behind its tag and its length.
    pass(64, b"")?;
    pass(33, b"")?;
    let head = pass(3, b"")?;
    pass(usize::from(u16::from_le_bytes([head[1], head[2]])), b"")?;
    loop {
        let header = pass(HEADER_BYTES, &novelty(flags))?;
        pass(u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize, b"")?;
    }
}

fn with_a_later_release(flags: u8) -> (TestNode, TestNode) {
    let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
    let between = later_release(a.address, flags);
    let patient =
        |config: &mut tandem_replication::driver::Config| config.dead_after = Duration::from_secs(1);
    (TestNode::start(a, None, patient), TestNode::start(b, Some(between), patient))
}

#[test]
fn a_pair_goes_on_beside_what_one_of_them_may_ignore() {
    record_logs();
    let (old, new) = with_a_later_release(MAY_IGNORE);
    old.wait("new frames", |status| status.ignored_frames > 0);
    let names = [old.address, new.address];
    let (master, backup) = settled(old, new);
    eventually("a write", || master.write("key", b"value"));
    eventually("it arrives", || backup.store.get("key").as_deref() == Some(b"value"));
    let old = if master.address == names[0] { &master } else { &backup };
    let (before, links) = (old.status().ignored_frames, old.status().pair.counters.reconnects);
    old.wait("more of them", |status| status.ignored_frames > before);
    assert_eq!(old.status().pair.counters.reconnects, links, "on the same link");
    assert!(logged(&["may ignore"]));
}

#[test]
fn a_frame_that_may_not_be_ignored_breaks_the_link_and_is_named() {
    record_logs();
    let (old, _new) = with_a_later_release(0);
    eventually("a line", || logged(&["lost the control connection", "of kind 250", "upgrade this node"]));
    assert_eq!(old.status().ignored_frames, 0);
}
