//! Replies that wait until another node has what they promise, on a gate that the test turns.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tandemd::server::gate::{Admission, BoxFuture, Confirmation, Gate, Open, Receipt, Upstream};

use crate::harness::{Gated, PATIENCE, until};

type Ring = Box<dyn Fn() + Send + Sync>;

/// Another node, which has what the test says. Each batch needs the number it is counted with.
struct Other {
    batches: AtomicU64,
    has: AtomicU64,
    wanted: AtomicBool,
    ring: std::sync::OnceLock<Ring>,
    strict: bool,
    patience: Duration,
    still_holds: AtomicBool,
    ended: AtomicU64,
}

impl Other {
    fn new(strict: bool, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            batches: AtomicU64::new(0),
            has: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            ring: std::sync::OnceLock::new(),
            strict,
            patience,
            still_holds: AtomicBool::new(true),
            ended: AtomicU64::new(0),
        })
    }

    /// It has everything up to that batch.
    fn acknowledge(&self, batch: u64) {
        self.has.store(batch, Ordering::SeqCst);
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.ring.get().expect("a worker's bell")();
        }
    }

    fn wait_for_batches(&self, count: u64) {
        until("batches that wait", || self.batches.load(Ordering::SeqCst) >= count);
    }
}

impl Gate for Other {
    fn enter(&self, _worker: usize) -> Admission {
        Admission::Serve
    }

    fn leave(&self, _worker: usize) -> bool {
        true
    }

    fn still_holds(&self) -> bool {
        self.still_holds.load(Ordering::SeqCst)
    }

    fn receipt(&self, _durable: bool) -> Option<Receipt> {
        let mut receipt = Receipt::default();
        receipt.add(0, self.batches.fetch_add(1, Ordering::SeqCst) + 1);
        Some(receipt)
    }

    fn set_bell(&self, worker: usize, ring: Ring) {
        assert_eq!(worker, 0, "these servers have one");
        assert!(self.ring.set(ring).is_ok());
    }

    fn await_news(&self, _worker: usize) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    fn outcome(&self, receipt: &Receipt, waited: Duration) -> Option<Confirmation> {
        let has = self.has.load(Ordering::SeqCst);
        let how = match receipt.marks().iter().all(|(_, batch)| *batch <= has) {
            true => Confirmation::Confirmed,
            false if waited < self.patience => return None,
            false if self.strict => Confirmation::Refused,
            false => Confirmation::Degraded,
        };
        self.ended.fetch_add(1, Ordering::SeqCst);
        Some(how)
    }

    fn confirm_limit(&self) -> Duration {
        self.patience
    }

    fn is_strict(&self) -> bool {
        self.strict
    }

    fn serves(&self) -> bool {
        true
    }

    fn term(&self) -> u64 {
        0
    }

    fn ended(&self, term: u64) -> BoxFuture<'_, ()> {
        Open.ended(term)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn park_limit(&self) -> Duration {
        PATIENCE
    }

    fn park_reason(&self) -> &'static str {
        "nobody parks"
    }

    fn upstream(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Upstream>>> {
        Open.upstream()
    }
}

fn start(gate: &Arc<Other>) -> Gated {
    Gated::start("-t 1", Arc::clone(gate) as Arc<dyn Gate>)
}

#[track_caller]
fn hears_nothing(client: &mut crate::harness::Client) {
    // Whoever does not hold it back sends it within microseconds.
    client.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let read = client.0.read(&mut [0; 64]);
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "a reply that came too soon");
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn replies_wait_together_and_keep_their_order() {
    let other = Other::new(false, PATIENCE);
    let gated = start(&other);
    let mut client = gated.client();
    let mut bystander = gated.client();
    client.send("set a 0 0 1\r\n1\r\nget a\r\nset b 0 0 1 noreply\r\n2\r\nms c 1 q\r\n3\r\nmg b v q\r\nmg none v q\r\nmn\r\n");
    other.wait_for_batches(1);
    hears_nothing(&mut client);
    // What comes meanwhile waits behind it.
    client.send("incr a 5\r\n");
    bystander.send("get a\r\n");
    hears_nothing(&mut client);
    other.acknowledge(u64::MAX);
    client.expect("STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\nVA 1\r\n2\r\nMN\r\n6\r\n");
    bystander.expect("VALUE a 0 1\r\n1\r\nEND\r\n");
    client.ask("get a\r\n", "VALUE a 0 1\r\n6\r\nEND\r\n");
}

#[test]
fn one_acknowledgement_releases_whose_time_has_come_and_nobody_else() {
    let other = Other::new(false, PATIENCE);
    let gated = start(&other);
    let mut clients: Vec<_> = (0..20).map(|_| gated.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(format!("set key{index} 0 0 1\r\n{}\r\n", index % 10));
        other.wait_for_batches(index as u64 + 1);
    }
    other.acknowledge(10);
    for client in &mut clients[..10] {
        client.expect("STORED\r\n");
    }
    clients[10..].iter_mut().for_each(hears_nothing);
    other.acknowledge(20);
    for client in &mut clients[10..] {
        client.expect("STORED\r\n");
    }
}

/// It takes many turns to read one, in which others, and other news of the same socket, come first.
#[test]
fn large_values_wait_as_others_do() {
    let other = Other::new(false, PATIENCE);
    let gated = start(&other);
    let mut client = gated.client();
    let request = [b"set large 0 0 1000000\r\n".as_slice(), &[b'x'; 1_000_000], b"\r\n"].concat();
    for round in 0..20 {
        client.send(&request);
        // Where it begins, which the gate takes for a batch, and where it is stored.
        other.wait_for_batches(2 * round + 1);
        other.acknowledge(2 * round + 1);
        other.wait_for_batches(2 * round + 2);
        hears_nothing(&mut client);
        other.acknowledge(2 * round + 2);
        client.expect("STORED\r\n");
    }
}

#[test]
fn nobody_waits_longer_than_the_limit_though_the_other_node_is_never_heard() {
    let other = Other::new(false, Duration::from_millis(50));
    let gated = start(&other);
    let begun = Instant::now();
    let mut client = gated.client();
    client.ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    client.ask("set a 0 0 1\r\n1\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
    assert_eq!(other.ended.load(Ordering::SeqCst), other.batches.load(Ordering::SeqCst));
}

#[test]
fn with_strict_who_waited_in_vain_is_told_and_goes_on() {
    let other = Other::new(true, Duration::from_millis(50));
    let gated = start(&other);
    let mut client = gated.client();
    let refusal = "SERVER_ERROR not confirmed by the backup in time: it is stored here, and lost if this node is lost now\r\n";
    client.ask("set a 0 0 1\r\n1\r\nset b 0 0 1 noreply\r\n1\r\n", refusal);
    other.acknowledge(u64::MAX);
    client.ask("get a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n");
    client.ask("set a 0 0 1\r\n2\r\n", "STORED\r\n");
}

/// A node that was stopped, or replaced, while replies waited: nobody else has what they promise.
#[test]
fn what_only_a_deposed_node_has_is_not_acknowledged_when_the_wait_is_over() {
    let other = Other::new(false, Duration::from_millis(300));
    let gated = start(&other);
    let mut client = gated.client();
    client.send("set a 0 0 1\r\n1\r\n");
    other.wait_for_batches(1);
    other.still_holds.store(false, Ordering::SeqCst);
    let mut rest = Vec::new();
    // Closed, with or without a reset.
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}

#[test]
fn clients_that_leave_while_their_replies_wait_harm_nobody() {
    let other = Other::new(false, PATIENCE);
    let gated = start(&other);
    for round in 0..50 {
        let mut leaving = gated.client();
        leaving.send("set a 0 0 1\r\n1\r\n");
        other.wait_for_batches(round + 1);
    }
    // Somebody may get the place of one of them, and waits on.
    let mut client = gated.client();
    client.send("set b 0 0 1\r\n1\r\n");
    other.wait_for_batches(51);
    other.acknowledge(50);
    until("an end of their waiting", || other.ended.load(Ordering::SeqCst) >= 50);
    hears_nothing(&mut client);
    other.acknowledge(51);
    client.expect("STORED\r\n");
}

/// What is sent to a connection whose replies wait stays in the kernel, whose buffers are bounded.
#[test]
fn a_flood_behind_replies_that_wait_is_not_taken_in() {
    let other = Other::new(false, PATIENCE);
    let gated = start(&other);
    let mut client = gated.client();
    client.send("set first 0 0 1\r\n1\r\n");
    other.wait_for_batches(1);
    client.0.set_nonblocking(true).unwrap();
    let request = [b"set key 0 0 1000\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
    let flood = request.repeat(1000);
    let mut taken = 0;
    let quiet = Instant::now() + Duration::from_millis(300);
    // More than kernels hold for a socket by default, by far.
    while Instant::now() < quiet && taken < 256 << 20 {
        match client.0.write(&flood[taken % request.len()..]) {
            Ok(count) => taken += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(taken < 256 << 20, "all of {taken} bytes were taken while nobody was answered");
    other.acknowledge(u64::MAX);
    client.0.set_nonblocking(false).unwrap();
    client.expect("STORED\r\nSTORED\r\n");
}
