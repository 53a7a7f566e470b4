//! A server whose gate is not open: waiting, handing over, refusing, and the peer's side of it.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tandemd::server::gate::{Admission, Answer, BoxFuture, Gate, Open, Upstream};
use tandemd::server::limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use crate::harness::{Gated, until};

/// A gate that the test turns.
struct Turned {
    admission: std::sync::Mutex<Admission>,
    changed: tokio::sync::Notify,
    /// What `leave` says.
    holds: AtomicBool,
    still_holds: AtomicBool,
    /// The time at which `leave` says no, and what the gate turns to then.
    fails_at: std::sync::Mutex<Option<(u64, Admission)>>,
    left: AtomicU64,
    term: tokio::sync::watch::Sender<u64>,
    /// The serving node: a listener whose connections are adopted by it.
    master: Option<SocketAddr>,
    park_limit: Duration,
    /// Streams to the serving node that are being opened, and the most there were at a time.
    opening: AtomicUsize,
    opening_most: AtomicUsize,
    /// A stream opens when there is a permit.
    doors: Semaphore,
}

impl Turned {
    fn new(admission: Admission, master: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            admission: admission.into(),
            changed: tokio::sync::Notify::new(),
            holds: AtomicBool::new(true),
            still_holds: AtomicBool::new(true),
            fails_at: None.into(),
            left: AtomicU64::new(0),
            term: tokio::sync::watch::Sender::new(0),
            master,
            park_limit: Duration::from_millis(200),
            opening: AtomicUsize::new(0),
            opening_most: AtomicUsize::new(0),
            doors: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn turn(&self, admission: Admission) {
        *self.admission.lock().unwrap() = admission;
        self.term.send_modify(|term| *term += 1);
        self.changed.notify_waiters();
    }
}

impl Gate for Turned {
    fn enter(&self, _worker: usize) -> Admission {
        *self.admission.lock().unwrap()
    }

    fn leave(&self, _worker: usize) -> bool {
        let left = self.left.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((at, next)) = *self.fails_at.lock().unwrap()
            && at == left
        {
            self.turn(next);
            return false;
        }
        self.holds.load(Ordering::Relaxed)
    }

    fn still_holds(&self) -> bool {
        self.still_holds.load(Ordering::Relaxed)
    }

    fn serves(&self) -> bool {
        self.enter(0) == Admission::Serve
    }

    fn term(&self) -> u64 {
        *self.term.borrow()
    }

    fn ended(&self, term: u64) -> BoxFuture<'_, ()> {
        let mut watch = self.term.subscribe();
        Box::pin(async move {
            watch.wait_for(|now| *now != term).await.unwrap();
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn park_limit(&self) -> Duration {
        self.park_limit
    }

    fn park_reason(&self) -> &'static str {
        "nobody serves"
    }

    fn upstream(&self) -> BoxFuture<'_, io::Result<Box<dyn Upstream>>> {
        Box::pin(async {
            let now = self.opening.fetch_add(1, Ordering::SeqCst) + 1;
            self.opening_most.fetch_max(now, Ordering::SeqCst);
            let _one_less = Countdown(&self.opening);
            let _open = self.doors.acquire().await.unwrap();
            let master = self.master.ok_or(io::ErrorKind::NotConnected)?;
            let stream = tokio::net::TcpStream::connect(master).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Line { stream, ended: None }) as Box<dyn Upstream>)
        })
    }
}

/// Takes one off when dropped.
struct Countdown<'a>(&'a AtomicUsize);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The wire between two nodes, spoken by the test.
struct Line {
    stream: tokio::net::TcpStream,
    ended: Option<usize>,
}

impl Upstream for Line {
    fn send<'a>(&'a mut self, requests: &'a [u8], _durable: bool) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.stream.write_u32_le(requests.len() as u32).await?;
            self.stream.write_all(requests).await
        })
    }

    fn receive(&mut self) -> BoxFuture<'_, io::Result<Answer>> {
        Box::pin(async move {
            if let Some(executed) = self.ended.take() {
                return Ok(Answer::Done(executed));
            }
            let mut length = self.stream.read_u32_le().await? as usize - 1;
            if self.stream.read_u8().await? == 1 {
                self.ended = Some(self.stream.read_u32_le().await? as usize);
                length -= 4;
            }
            let mut part = vec![0; length];
            self.stream.read_exact(&mut part).await?;
            Ok(Answer::Part(Bytes::from(part)))
        })
    }
}

/// A listener that hands whoever connects to the server as the peer.
fn entrance(master: &Gated) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let adopter = master.server.as_ref().unwrap().adopter();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            stream.set_nonblocking(true).unwrap();
            let socket = stream.try_clone().unwrap();
            let attach = Box::new(move || {
                Ok(Box::new(tokio::net::TcpStream::from_std(stream)?) as Box<dyn tandemd::server::PeerIo>)
            });
            if adopter.adopt_proxied(&socket, attach).is_err() {
                return;
            }
        }
    });
    address
}

/// A master and a node that hands everything on to it.
pub(crate) fn proxied_pair(flags: &str) -> (Gated, Gated) {
    let (master, backup, _, _) = pair_with(flags);
    (master, backup)
}

fn pair() -> (Gated, Gated, Arc<Turned>, Arc<Turned>) {
    pair_with("")
}

/// The flags are the second node's.
fn pair_with(flags: &str) -> (Gated, Gated, Arc<Turned>, Arc<Turned>) {
    let serving = Turned::new(Admission::Serve, None);
    let master = Gated::start("", Arc::clone(&serving) as Arc<dyn Gate>);
    let forwarding = Turned::new(Admission::Forward, Some(entrance(&master)));
    let backup = Gated::start(flags, Arc::clone(&forwarding) as Arc<dyn Gate>);
    (master, backup, serving, forwarding)
}

#[test]
fn a_backup_answers_as_its_master_would() {
    let (master, backup, ..) = pair();
    let mut client = backup.client();
    client.ask(
        "set a 5 0 1\r\nb\r\nget a none a\r\nversion\r\nincr n 1\r\nmn\r\n",
        concat!(
            "STORED\r\nVALUE a 5 1\r\nb\r\nVALUE a 5 1\r\nb\r\nEND\r\nVERSION 1.6.45-tandem-",
            env!("CARGO_PKG_VERSION"),
            "\r\nNOT_FOUND\r\nMN\r\n"
        ),
    );
    client.ask("nonsense\r\nset b 0 0 1 noreply\r\nc\r\nget b\r\n", "ERROR\r\nVALUE b 0 1\r\nc\r\nEND\r\n");
    master.client().ask("get a\r\n", "VALUE a 5 1\r\nb\r\nEND\r\n");
    client.ask("flush_all\r\nget a\r\n", "OK\r\nEND\r\n");
    master.client().ask("get a\r\n", "END\r\n");
}

#[test]
fn large_values_and_long_lines_pass_through() {
    let (_master, backup, ..) = pair();
    let mut client = backup.client();
    let value = "v".repeat(900_000);
    client.ask(
        format!("set big 0 0 900000\r\n{value}\r\nget big\r\n"),
        format!("STORED\r\nVALUE big 0 900000\r\n{value}\r\nEND\r\n"),
    );
    let keys = " missing_key_of_some_length".repeat(20_000);
    client.ask(
        format!("get{keys} big\r\nversion\r\n"),
        format!("VALUE big 0 900000\r\n{value}\r\nEND\r\nVERSION"),
    );
    client.read_until("\r\n");
    client.send("set big 0 0 3000000\r\n");
    client.send(vec![b'x'; 3_000_000]);
    client.ask("\r\nget big\r\n", "SERVER_ERROR object too large for cache\r\nEND\r\n");
}

#[test]
fn many_clients_that_come_at_once_make_no_storm_of_handshakes() {
    const WORKERS: usize = 2;
    let (_master, backup, _, forwarding) = pair_with(&format!("-t {WORKERS}"));
    forwarding.doors.forget_permits(Semaphore::MAX_PERMITS);
    let mut clients: Vec<_> = (0..60).map(|_| backup.client()).collect();
    let mut sent = 0;
    for client in &mut clients {
        client.send("set a 0 0 1\r\nb\r\n");
        sent += 16;
    }
    let most = WORKERS * limits::UPSTREAMS_OPENING;
    let mut other = backup.client();
    until("every request", || other.stat("bytes_read") >= sent);
    until("every place", || forwarding.opening.load(Ordering::SeqCst) == most);
    forwarding.doors.add_permits(Semaphore::MAX_PERMITS);
    for client in &mut clients {
        client.expect("STORED\r\n");
    }
    assert_eq!(forwarding.opening_most.load(Ordering::SeqCst), most);
    // Each has its stream now.
    for client in &mut clients {
        client.ask("get a\r\n", "VALUE a 0 1\r\nb\r\nEND\r\n");
    }
}

#[test]
fn binary_clients_pass_through_too() {
    let (master, backup, ..) = pair();
    let mut set = vec![0x80, 1, 0, 1, 8, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, b'k', b'v']);
    let mut client = backup.client();
    client.ask(&set, [0x81, 1, 0, 0, 0, 0, 0, 0]);
    master.client().ask("get k\r\n", "VALUE k 0 1\r\nv\r\nEND\r\n");
}

#[test]
fn who_waits_is_served_when_somebody_serves_again() {
    let gate = Turned::new(Admission::Park, None);
    let node = Gated::start("", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut client = node.client();
    // Requests that need no engine do not wait.
    client.ask("version\r\n", "VERSION");
    client.read_until("\r\n");
    client.ask("set a 0 0 1\r\nb\r\n", "SERVER_ERROR nobody serves\r\n");
    client.send("set a 0 0 1\r\nb\r\nget a\r\n");
    gate.turn(Admission::Serve);
    client.expect("STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\n");
}

#[test]
fn what_the_serving_node_did_not_touch_is_executed_by_who_serves_next() {
    let (_master, backup, serving, forwarding) = pair();
    let mut client = backup.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    // The roles swap while a request is on its way.
    serving.turn(Admission::Forward);
    client.send("set b 0 0 1\r\ny\r\nget b\r\n");
    std::thread::sleep(Duration::from_millis(20));
    forwarding.turn(Admission::Serve);
    client.expect("STORED\r\nVALUE b 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn answers_that_outlive_the_right_to_serve_are_not_sent() {
    let gate = Turned::new(Admission::Serve, None);
    let node = Gated::start("-t 1", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut other = node.client();
    let io = other.stats("settings").into_iter().find(|(name, _)| name == "io").unwrap().1;
    if io != "uring" {
        println!("skipped: with {io} an answer is sent at once");
        return;
    }
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    gate.still_holds.store(false, Ordering::Relaxed);
    client.send("set a 0 0 1\r\ny\r\n");
    client.expect_closed();
    gate.still_holds.store(true, Ordering::Relaxed);
    other.ask("get a\r\n", "VALUE a 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_hung_master_holds_no_client_once_somebody_else_serves() {
    // It takes connections, as a stopped process's kernel does, and never says a word.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Turned::new(Admission::Forward, Some(hung.local_addr().unwrap()));
    let node = Gated::start("", Arc::clone(&gate) as Arc<dyn Gate>);
    let (mut writer, mut reader) = (node.client(), node.client());
    writer.send("set a 0 0 1\r\nb\r\n");
    reader.send("get a\r\n");
    // It has taken both requests when the other node takes over.
    let streams = [hung.accept().unwrap(), hung.accept().unwrap()].map(|(mut stream, _)| {
        stream.read_exact(&mut [0; 4 + "get a\r\n".len()]).unwrap();
        stream
    });
    gate.turn(Admission::Serve);
    // Nobody knows what became of the write; the read is simply asked of this node.
    writer.expect("SERVER_ERROR ");
    reader.expect("END\r\n");
    drop(streams);
}

#[test]
fn a_deposed_node_acknowledges_nothing() {
    let gate = Turned::new(Admission::Serve, None);
    let node = Gated::start("", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    gate.holds.store(false, Ordering::Relaxed);
    client.send("set a 0 0 1\r\ny\r\n");
    let answer = client.read_until("\r\n");
    assert!(answer.starts_with("SERVER_ERROR outcome unknown"), "{answer}");
    // A read is not answered from what it may no longer answer from; it is asked again.
    client.send("get a\r\n");
    let left = gate.left.load(Ordering::Relaxed);
    until("a second try", || gate.left.load(Ordering::Relaxed) > left + 1);
    gate.holds.store(true, Ordering::Relaxed);
    client.expect("VALUE a 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_multiget_in_whose_middle_the_roles_swap_is_answered_to_its_end() {
    let keys: String = (0..60).map(|key| format!(" k{key}")).collect();
    let values = |keys: std::ops::Range<u32>| -> String {
        keys.map(|key| format!("VALUE k{key} 0 1\r\nx\r\n")).collect()
    };
    let sets: String = (0..60).map(|key| format!("set k{key} 0 0 1 noreply\r\nx\r\n")).collect();
    for (next, whole) in [(Admission::Forward, true), (Admission::Park, false)] {
        let master = Gated::start("", Arc::new(Open));
        let gate = Turned::new(Admission::Serve, Some(entrance(&master)));
        let node = Gated::start("", Arc::clone(&gate) as Arc<dyn Gate>);
        for node in [&master, &node] {
            node.client().ask(format!("{sets}mn\r\n"), "MN\r\n");
        }
        let mut client = node.client();
        client.ask("mn\r\n", "MN\r\n");
        // The first batch of the line is answered here, the second one not.
        *gate.fails_at.lock().unwrap() = Some((gate.left.load(Ordering::Relaxed) + 2, next));
        let rest = if whole { values(20..60) + "END\r\n" } else { "SERVER_ERROR nobody serves\r\n".into() };
        client.ask(format!("get{keys}\r\nversion\r\n"), values(0..20) + &rest + "VERSION");
    }
}

#[test]
fn a_broken_stream_is_told_to_each_request_that_wants_an_answer() {
    // A master that takes everything and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let _one_read = io::Read::read(&mut (&stream as &TcpStream), &mut [0; 1000]);
        }
    });
    let gate = Turned::new(Admission::Forward, Some(address));
    let node = Gated::start("", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut client = node.client();
    client.send("set a 0 0 1\r\nx\r\nset b 0 0 1 noreply\r\nx\r\nget a b c\r\nversion\r\n");
    for _ in 0..2 {
        let answer = client.read_until("\r\n");
        assert!(answer.starts_with("SERVER_ERROR outcome unknown"), "{answer}");
    }
    client.expect("VERSION");
}

#[test]
fn reads_may_be_served_where_writes_are_not() {
    let (master, backup, _, forwarding) = pair();
    forwarding.turn(Admission::ServeReads);
    let mut client = backup.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    // The write went to the master, the read did not.
    master.client().ask("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    client.ask("get a\r\n", "END\r\n");
    forwarding.turn(Admission::Refuse("this node is a backup"));
    client.ask(
        "get a\r\nset a 0 0 1\r\nx\r\nversion\r\n",
        "SERVER_ERROR this node is a backup\r\nSERVER_ERROR this node is a backup\r\nVERSION",
    );
}

#[test]
fn a_peer_that_sends_nonsense_is_closed() {
    let master = Gated::start("", Arc::new(Open));
    let entrance = entrance(&master);
    for nonsense in [&[0, 0, 0, 0][..], &[255, 255, 255, 255], &[5, 0, 0, 0, b's', b'e', b't', b' ', b'a']] {
        let mut peer = crate::harness::Client::connect(entrance);
        peer.send(nonsense);
        peer.expect_closed();
    }
}

/// A UDP client of a node.
fn datagrams(node: &Gated) -> crate::udp::Client {
    crate::udp::Client::from(node.server.as_ref().unwrap().udp_addresses()[0], [127, 0, 0, 1])
}

#[test]
fn datagrams_are_handed_on_within_bounds() {
    let (master, backup, ..) = pair_with("-U -1");
    let mut client = datagrams(&backup);
    let value = "v".repeat(50_000);
    client.ask(
        format!("set l 0 0 50000\r\n{value}\r\nget l\r\n"),
        format!("STORED\r\nVALUE l 0 50000\r\n{value}\r\nEND\r\n"),
    );
    master.client().ask("append l 0 0 10000\r\n".to_owned() + &"w".repeat(10_000) + "\r\n", "STORED\r\n");
    let too_long = "SERVER_ERROR the answer is too long for UDP; ask over TCP\r\n";
    client.ask("get l l\r\n", too_long);
    client.ask("set a 0 0 1\r\nx\r\nget l l\r\nget a\r\n", format!("STORED\r\n{too_long}{too_long}"));
    client.ask("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    // What never comes whole is not handed on, and what stands before it is answered.
    client.ask("get a\r\nset a 0 0 100\r\nhalf", "VALUE a 0 1\r\nx\r\nEND\r\n");
    let too_many =
        "SERVER_ERROR too many requests in one datagram for a node that hands them on; ask over TCP\r\n";
    let answers = "END\r\n".repeat(32) + &too_many.repeat(8);
    client.ask("get none\r\n".repeat(40), answers);
}

#[test]
fn a_datagram_waits_for_somebody_who_serves_and_not_for_ever() {
    let gate = Turned::new(Admission::Park, None);
    let node = Gated::start("-U -1", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut client = datagrams(&node);
    client.ask("mn\r\n", "MN\r\n");
    client.ask("set a 0 0 1\r\nb\r\nget a\r\n", "SERVER_ERROR nobody serves\r\n".repeat(2));
    // A master that cannot be reached is none.
    gate.turn(Admission::Forward);
    client.ask("get a\r\n", "SERVER_ERROR nobody serves\r\n");
    gate.turn(Admission::Park);
    client.send(b"set a 0 0 1\r\nb\r\nget a\r\n");
    gate.turn(Admission::Serve);
    assert_eq!(client.receive().unwrap().0, b"STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\n");
}

#[test]
fn a_datagram_that_a_hung_master_took_is_answered_once_somebody_else_serves() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Turned::new(Admission::Forward, Some(hung.local_addr().unwrap()));
    let node = Gated::start("-U -1", Arc::clone(&gate) as Arc<dyn Gate>);
    let mut client = datagrams(&node);
    client.send(b"set a 0 0 1\r\nb\r\nget a\r\n");
    let (mut stream, _) = hung.accept().unwrap();
    stream.read_exact(&mut [0; 4 + "set a 0 0 1\r\nb\r\n".len()]).unwrap();
    gate.turn(Admission::Serve);
    let (answer, _) = client.receive().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("SERVER_ERROR outcome unknown") && answer.ends_with("\r\nEND\r\n"),
        "{answer}"
    );
}
