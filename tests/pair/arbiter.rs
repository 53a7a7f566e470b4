//! With an arbiter, real processes and real cables: never two nodes take writes, and the one that may
//! goes on.

use std::net::{IpAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cables::Cables;
use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

/// A process that ends with the test.
pub(crate) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn spawn(command: &mut Command) -> Killed {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Killed(child.expect("it starts"))
}

pub(crate) fn free_port(addresses: &[IpAddr]) -> u16 {
    let listener = TcpListener::bind((addresses[0], 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Three times the profile's `--dead-after`.
const LEASE: Duration = Duration::from_secs(3);

/// `tandemd --witness` on these addresses.
fn witness(addresses: &[IpAddr], port: u16, directory: &std::path::Path) -> Killed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandemd"));
    command.args(["--witness", "--insecure-replication", "-u", "root", "-X", &port.to_string()]);
    for address in addresses {
        command.args(["--replication-listen", &address.to_string()]);
    }
    spawn(command.arg("--state-dir").arg(directory))
}

/// Writes to a node without end; when each write that was acknowledged was sent, and acknowledged.
fn writer(
    pair: &Pair,
    node: usize,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Vec<(Instant, Instant)>> {
    let mut client = pair.nodes[node].client();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let sent = Instant::now();
            match client.set("written", b"value") {
                Ok(_) => acknowledged.push((sent, Instant::now())),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        acknowledged
    })
}

pub(crate) fn says(pair: &Pair, node: usize, key: &str, value: &str) -> Option<()> {
    pair.nodes[node].replication()?.get(key).filter(|is| *is == value).map(|_| ())
}

/// The story of every arbiter: the nodes do not hear each other, then the master does not hear it either. `start` makes the
/// arbiter on these addresses, that port and in that directory, and says what else nodes need to be told; they find it at
/// `scheme` HOST:PORT `name`.
pub(crate) fn never_two<A>(
    scheme: &str,
    name: &str,
    start: impl Fn(&[IpAddr], u16, &std::path::Path) -> (A, Vec<String>),
) {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let port = free_port(&cables.outside);
    let directory = tempfile::tempdir().expect("a directory");
    let (_arbiter, flags) = start(&cables.outside, port, directory.path());
    let mut pair = cables.pair(setup());
    for (node, outside) in pair.nodes.iter_mut().zip(cables.outside) {
        node.flags.extend(["--arbiter".to_owned(), format!("{scheme}{outside}:{port}{name}")]);
        node.flags.extend(flags.clone());
    }
    pair.start();
    let master = pair.wait_paired();
    let backup = 1 - master;
    for node in 0..2 {
        wait_for("the arbiter answers", PATIENCE, || says(&pair, node, "arbiter", "up"));
    }
    wait_for("nobody needs a grant", PATIENCE, || says(&pair, master, "arbiter_grant", "no"));

    let stop = Arc::new(AtomicBool::new(false));
    let before = Instant::now();
    cables.cut();
    wait_for("the master has the grant", PATIENCE, || says(&pair, master, "arbiter_grant", "yes"));
    wait_for("the status says so", PATIENCE, || {
        let arbiter = pair.nodes[master].admin().status().ok()?.arbiter?;
        let known = arbiter.reachable == Some(true) && !arbiter.name.is_empty();
        (known && arbiter.grant == "this node" && arbiter.grant_ms.is_some()).then_some(())
    });
    let writers = [0, 1].map(|node| writer(&pair, node, &stop));
    // The backup has lost its patience, was refused, and the lease was renewed more than once since.
    wait_for("the backup has asked and was refused", PATIENCE, || {
        let arbiter = pair.nodes[backup].admin().status().ok()?.arbiter?;
        (arbiter.grant == "the other node").then_some(())
    });
    let asked = Instant::now();
    wait_for("a whole lease has passed", PATIENCE, || (asked.elapsed() > LEASE).then_some(()));
    // On a machine that stands still it doubts for a moment.
    pair.nodes[master].wait_role("master");
    assert_eq!(pair.nodes[backup].role(), "backup", "the arbiter does not let it");
    let cut_off = Instant::now();
    cables.cut_off(master, port);
    pair.nodes[backup].wait_role("master");
    wait_for("it serves", PATIENCE, || says(&pair, backup, "arbiter_grant", "yes"));
    pair.nodes[master].wait_role("doubt");
    let mut client = pair.nodes[backup].client();
    wait_for("it takes writes", PATIENCE, || client.set("by-the-new-one", b"v").ok());
    stop.store(true, Ordering::SeqCst);
    let [a, b] = writers.map(|writer| writer.join().expect("it ends"));
    let (old, new) = if master == 0 { (a, b) } else { (b, a) };
    let first = new.first().expect("the new master takes writes").1;
    assert!(old.iter().any(|(sent, _)| *sent > before && *sent < cut_off), "the old one went on until then");
    let (last_sent, last) = *old.last().expect("the old master took writes");
    assert!(last_sent < first && last < first, "two nodes took writes at once");

    cables.mend();
    cables.let_in(master);
    assert_eq!(pair.wait_paired(), backup);
    pair.wait_converged(PATIENCE);
    wait_for("the grant is given back", PATIENCE, || says(&pair, backup, "arbiter_grant", "no"));
    // And a death is a failover.
    pair.nodes[backup].kill();
    pair.nodes[master].wait_role("master");
    let mut client = pair.nodes[master].client();
    wait_for("it serves", PATIENCE, || client.set("after", b"v").ok());
}

#[test]
fn with_a_witness_two_nodes_never_take_writes_at_once() {
    never_two("", "", |addresses, port, directory| (witness(addresses, port, directory), Vec::new()));
}

#[test]
fn a_pair_whose_arbiter_is_gone_goes_on_while_both_nodes_are_there() {
    let nowhere = free_port(&[IpAddr::from([127, 0, 0, 1])]);
    let pair = setup().flag("--arbiter").flag(&format!("127.0.0.1:{nowhere}")).start();
    let master = pair.wait_paired();
    wait_for("it is known", PATIENCE, || says(&pair, master, "arbiter", "down"));
    let mut client = pair.nodes[master].client();
    client.set("key", b"value").expect("it serves");
    let now = pair.switch_over(|| {});
    wait_for("the other one serves", PATIENCE, || pair.nodes[now].client().set("key", b"other").ok());
}

#[test]
fn without_the_arbiter_nobody_takes_over_and_with_it_somebody_does() {
    let port = free_port(&[IpAddr::from([127, 0, 0, 1])]);
    let directory = tempfile::tempdir().expect("a directory");
    let mut pair = setup().flag("--arbiter").flag(&format!("127.0.0.1:{port}")).start();
    let master = pair.wait_paired();
    pair.nodes[master].kill();
    let mut client = pair.nodes[1 - master].client();
    let admin = pair.nodes[1 - master].admin();
    wait_for("the backup has lost its patience, and nobody answers it", PATIENCE, || {
        let status = admin.status().ok()?;
        let asked = status.arbiter.as_ref().is_some_and(|arbiter| arbiter.reachable == Some(false));
        (asked && matches!(&*status.link.as_ref()?.peer_is, "silent" | "gone")).then_some(())
    });
    assert_eq!(pair.nodes[1 - master].role(), "backup");
    assert!(client.set("key", b"value").is_err(), "nobody serves");
    let _witness = witness(&[IpAddr::from([127, 0, 0, 1])], port, directory.path());
    pair.nodes[1 - master].wait_role("master");
    wait_for("it serves", PATIENCE, || client.set("key", b"value").ok());
}
