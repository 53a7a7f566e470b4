//! Two real processes and real signals: the test binary starts itself as a node.
//!
//! Each node writes as often as its gate allows and prints when; the clock is the machine's, so the
//! times of both compare. `TANDEM_ROUNDS=100` repeats for figures, which are printed.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::node::{PATIENCE, Place, TestNode, eventually};
use tandem_replication::driver::now;

const CHILD: &str = "TANDEM_TEST_CHILD";

/// Not a test: a node, when started by one.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let mut arguments = arguments.split(' ');
    let mut address =
        || arguments.next().and_then(|text| text.parse::<SocketAddr>().ok()).expect("an address");
    let (own, peer) = (address(), address());
    let fast = arguments.next() == Some("fast");
    let node = TestNode::start(Place::at(own), Some(peer), |config| {
        config.heartbeat = Duration::from_millis(if fast { 20 } else { 100 });
        config.dead_after = Duration::from_millis(if fast { 250 } else { 1000 });
    });
    let mut out = std::io::stdout();
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = gone.clone();
    std::thread::spawn(move || {
        // Ends when the parent does.
        for _ in std::io::stdin().lines().map_while(Result::ok) {}
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut state = None;
    while !gone.load(std::sync::atomic::Ordering::Relaxed) {
        let status = node.status();
        let new = (status.pair.role.state, status.pair.in_sync);
        if state != Some(new) {
            state = Some(new);
            writeln!(out, "is {:?} {}", new.0, new.1).expect("the parent listens");
        }
        // As a worker does: what cannot be confirmed after the batch is not acknowledged.
        if node.write("key", b"value")
            && let Some(at) = node.confirm()
        {
            writeln!(out, "ack {}", at.0).expect("the parent listens");
        }
        out.flush().expect("the parent listens");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Default)]
struct Seen {
    state: String,
    acks: Vec<u64>,
}

struct Node {
    child: Child,
    seen: Arc<Mutex<Seen>>,
    address: SocketAddr,
}

impl Node {
    fn start(address: SocketAddr, peer: SocketAddr, profile: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{address} {peer} {profile}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (lines, ours) = (BufReader::new(child.stdout.take().expect("piped")).lines(), seen.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut seen = ours.lock().expect("not poisoned");
                match line.split_once(' ') {
                    Some(("is", state)) => seen.state = state.to_string(),
                    Some(("ack", at)) => seen.acks.push(at.parse().expect("a time")),
                    _ => {}
                }
            }
        });
        Self { child, seen, address }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is ours");
    }

    fn is(&self, state: &str) -> bool {
        self.seen.lock().expect("not poisoned").state == state
    }

    fn acks_after(&self, at: u64) -> Vec<u64> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.acks.iter().copied().filter(|ack| *ack > at).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two free addresses.
fn addresses() -> (SocketAddr, SocketAddr) {
    (Place::on("127.0.0.2").address, Place::on("127.0.0.3").address)
}

/// Master first.
fn settled(a: Node, b: Node) -> (Node, Node) {
    let is_pair = |one: &Node, two: &Node| one.is("Master true") && two.is("Backup true");
    eventually("a master and a backup in sync", || is_pair(&a, &b) || is_pair(&b, &a));
    if a.is("Master true") { (a, b) } else { (b, a) }
}

fn rounds(default: usize) -> usize {
    std::env::var("TANDEM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How long until the first acknowledgement after `at`, in microseconds.
#[track_caller]
fn first_ack(node: &Node, at: u64) -> u64 {
    eventually("the survivor acknowledges a write", || !node.acks_after(at).is_empty());
    node.acks_after(at)[0] - at
}

fn report(what: &str, mut micros: Vec<u64>) {
    micros.sort_unstable();
    let at = |per_cent: usize| micros[(micros.len() - 1) * per_cent / 100] as f64 / 1000.0;
    println!(
        "{what}: {} rounds, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        micros.len(),
        at(50),
        at(99),
        at(100)
    );
}

#[test]
fn a_killed_master_is_replaced_and_comes_back_as_a_backup() {
    let (at_a, at_b) = addresses();
    let (mut master, mut backup) = settled(Node::start(at_a, at_b, "lan"), Node::start(at_b, at_a, "lan"));
    let mut pauses = Vec::new();
    for _ in 0..rounds(3) {
        let killed = now().0;
        master.signal(Signal::KILL);
        pauses.push(first_ack(&backup, killed));
        let dead = master.address;
        drop(master);
        let returned = Node::start(dead, backup.address, "lan");
        (master, backup) = settled(backup, returned);
    }
    report("kill -9 to the first write on the survivor (lan)", pauses);
}

#[test]
fn a_stopped_master_is_replaced_and_acknowledges_nothing_when_it_wakes() {
    for profile in ["lan", "fast"] {
        let (at_a, at_b) = addresses();
        let (mut master, mut backup) =
            settled(Node::start(at_a, at_b, profile), Node::start(at_b, at_a, profile));
        let (mut pauses, mut stale) = (Vec::new(), 0);
        for _ in 0..rounds(2) {
            master.signal(Signal::STOP);
            let stopped = now().0;
            pauses.push(first_ack(&backup, stopped));
            std::thread::sleep(Duration::from_millis(200));
            let woken = now().0;
            master.signal(Signal::CONT);
            let deadline = Instant::now() + PATIENCE;
            while !master.is("Backup true") {
                assert!(Instant::now() < deadline, "the deposed master does not become a backup");
                std::thread::sleep(Duration::from_millis(1));
            }
            stale += master.acks_after(woken).len();
            (master, backup) = settled(backup, master);
        }
        report(&format!("SIGSTOP to the first write on the survivor ({profile})"), pauses);
        assert_eq!(stale, 0, "writes acknowledged by the deposed master");
    }
}

#[test]
fn two_processes_started_at_once_pair_up() {
    let mut times = Vec::new();
    for _ in 0..rounds(3) {
        let (at_a, at_b) = addresses();
        let began = now().0;
        let pair = settled(Node::start(at_a, at_b, "lan"), Node::start(at_b, at_a, "lan"));
        times.push(now().0 - began);
        drop(pair);
    }
    report("both started at once to master and backup in sync (lan)", times);
}
