//! Both nodes take writes (`--backup-requests accept`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tandemd::bench::client::Client;

use crate::cables::Cables;
use crate::harness::{PATIENCE, Pair, Setup, wait_for};
use crate::setup;
use crate::wires::Wires;

fn accepting() -> Setup {
    setup().flag("--backup-requests").flag("accept")
}

/// Waits until both nodes execute commands themselves; which one is master.
fn wait_accepting(pair: &Pair) -> usize {
    wait_for("both take writes", PATIENCE, || {
        let master = pair.paired()?;
        let stats = pair.nodes[1 - master].replication()?;
        (stats.get("accepts")? == "yes").then_some(master)
    })
}

/// Waits until neither has anything to tell the other.
fn wait_level(pair: &Pair) {
    wait_for("both know everything", PATIENCE, || {
        let level = |index: usize| {
            let stats = pair.nodes[index].replication()?;
            (stats.get("lag_records")? == "0").then_some(())
        };
        pair.paired()?;
        level(0)?;
        level(1)
    });
}

/// Waits until both nodes say the same of these keys; what they say.
fn agreed(pair: &Pair, keys: &[String]) -> Vec<Option<Vec<u8>>> {
    wait_for("both nodes hold the same", PATIENCE, || {
        wait_accepting(pair);
        wait_level(pair);
        let held = |index: usize| -> Option<Vec<_>> {
            let mut client = pair.nodes[index].client();
            keys.iter().map(|key| client.get(key).ok()).collect()
        };
        let [one, other] = [held(0)?, held(1)?];
        (one == other).then_some(one)
    })
}

#[test]
fn both_nodes_take_writes_and_hold_the_same_afterwards() {
    let pair = accepting().start();
    let master = wait_accepting(&pair);
    let mut clients = [0, 1].map(|index| pair.nodes[index].client());
    clients[master].set("of-the-master", b"1").expect("a set");
    clients[1 - master].set("of-the-backup", b"2").expect("a set");
    clients[1 - master].set("deleted", b"3").expect("a set");
    let keys = ["of-the-master", "of-the-backup", "deleted"].map(str::to_owned);
    let first = agreed(&pair, &keys);
    assert_eq!(first, [Some(b"1".to_vec()), Some(b"2".to_vec()), Some(b"3".to_vec())]);

    assert!(clients[master].delete("deleted").expect("a delete"));
    assert!(clients[1 - master].delete("of-the-master").expect("a delete"));
    assert_eq!(agreed(&pair, &keys), [None, Some(b"2".to_vec()), None]);
    assert_eq!(pair.nodes[1 - master].replicated("proxied_requests"), 0, "the backup did that itself");
    wait_for("the master has counted what it took", PATIENCE, || {
        (pair.nodes[master].replicated("accepted_changes") > 0).then_some(())
    });
    assert_eq!(pair.nodes[master].replicated("diverged_items"), 0);
}

#[test]
fn whichever_node_is_killed_the_other_has_what_both_knew_and_tells_it_afterwards() {
    let mut pair = accepting().start();
    let keys = ["stays", "goes", "comes"].map(str::to_owned);
    for of_the_master in [true, false] {
        let master = wait_accepting(&pair);
        let (victim, survivor) = if of_the_master { (master, 1 - master) } else { (1 - master, master) };
        pair.nodes[victim].client().set("stays", b"1").expect("a set");
        pair.nodes[survivor].client().set("goes", b"2").expect("a set");
        pair.nodes[survivor].client().delete("comes").expect("a delete");
        assert_eq!(agreed(&pair, &keys), [Some(b"1".to_vec()), Some(b"2".to_vec()), None]);

        pair.nodes[victim].kill();
        pair.nodes[survivor].wait_role("master");
        let mut client = pair.nodes[survivor].client();
        assert_eq!(client.get("stays").expect("a get"), Some(b"1".to_vec()), "what the killed node had told");
        client.delete("goes").expect("a delete");
        client.set("comes", b"3").expect("a set");
        pair.nodes[victim].start();
        assert_eq!(agreed(&pair, &keys), [Some(b"1".to_vec()), None, Some(b"3".to_vec())]);
    }
}

#[test]
fn a_pair_of_which_one_node_accepts_takes_writes_at_the_master_only_and_says_so() {
    let mut pair = setup().pair();
    pair.nodes[0].flags.extend(["--backup-requests", "accept"].map(str::to_owned));
    pair.start();
    let master = pair.wait_paired();
    pair.nodes[1 - master].client().set("key", b"value").expect("a set");
    assert_eq!(agreed_on(&pair, "key"), b"value");
    assert_eq!(pair.nodes[0].replication().expect("stats").get("accepts").map(String::as_str), Some("no"));
    wait_for("the log names the contradiction", PATIENCE, || {
        pair.nodes[0].log_tail(100).contains("--backup-requests is ").then_some(())
    });
}

fn agreed_on(pair: &Pair, key: &str) -> Vec<u8> {
    wait_for("the value", PATIENCE, || pair.nodes[0].client().get(key).ok().flatten())
}

/// Clients write at both nodes without a pause while `disturb` does what it does; then every key that only one of them
/// wrote has the last value that was acknowledged to it, on both nodes.
fn under_writes(pair: &mut Pair, disturb: impl FnOnce(&mut Pair)) {
    const KEYS: usize = 40;
    let stop = AtomicBool::new(false);
    let addresses = [0, 1].map(|index: usize| pair.nodes[index].address());
    let write = |index: usize| {
        let mut last = vec![None::<usize>; KEYS];
        let mut client = None::<Client>;
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let Some(connected) = &mut client else {
                client = Client::connect(addresses[index], PATIENCE).ok();
                thread::sleep(Duration::from_millis(if client.is_none() { 2 } else { 0 }));
                continue;
            };
            number += 1;
            let key = number % KEYS;
            // What was not acknowledged may have happened: the key says nothing until it is written again.
            last[key] = None;
            let shared = connected.set("shared", format!("{index} {number}").as_bytes());
            match shared
                .and_then(|()| connected.set(&format!("{index}-{key}"), number.to_string().as_bytes()))
            {
                Ok(()) => last[key] = Some(number),
                Err(_) => client = None,
            }
            thread::sleep(Duration::from_micros(200));
        }
        last
    };
    let written = thread::scope(|scope| {
        // A test that fails ends its writers, too.
        let _end = End(&stop);
        let writers = [scope.spawn(|| write(0)), scope.spawn(|| write(1))];
        disturb(pair);
        stop.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().expect("a writer"))
    });
    let name = |index: usize, key: usize| format!("{index}-{key}");
    let mut keys: Vec<String> = (0..2 * KEYS).map(|place| name(place / KEYS, place % KEYS)).collect();
    keys.push("shared".to_owned());
    let held = agreed(pair, &keys);
    for (place, value) in held.iter().enumerate().take(2 * KEYS) {
        if let Some(number) = written[place / KEYS][place % KEYS] {
            let value = value.as_deref().map(String::from_utf8_lossy);
            assert_eq!(value.as_deref(), Some(&number.to_string()[..]), "{}", keys[place]);
        }
    }
    assert!(held[2 * KEYS].is_some());
}

/// Ends the writers when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was confirmed by the other node outlives either, and what was not was not acknowledged.
#[test]
fn what_both_nodes_acknowledged_outlives_whichever_is_killed_under_writes() {
    let mut pair = ["--ack", "applied", "--ack-strict"].into_iter().fold(accepting(), Setup::flag).start();
    wait_accepting(&pair);
    for of_the_master in [false, true, false, true] {
        under_writes(&mut pair, |pair| {
            let master = wait_accepting(pair);
            let confirmed = |pair: &Pair, node: usize| {
                let stats = pair.nodes[node].replication();
                stats.and_then(|stats| stats.get("ack_confirmed")?.parse::<u64>().ok()).unwrap_or(0)
            };
            let before = [0, 1].map(|node| confirmed(pair, node));
            wait_for("writes that both confirm", PATIENCE, || {
                (0..2).all(|node| confirmed(pair, node) > before[node] + 100).then_some(())
            });
            let victim = if of_the_master { master } else { 1 - master };
            pair.nodes[victim].kill();
            pair.nodes[1 - victim].wait_role("master");
            pair.nodes[victim].start();
            wait_accepting(pair);
        });
    }
    assert!(pair.nodes.iter().all(|node| node.replicated("diverged_items") == 0));
}

/// The data connection carries what the master did, and swallows what the backup did; heartbeats pass.
#[test]
fn what_the_backup_did_is_told_over_a_new_connection_when_the_old_one_swallows_it() {
    let mut pair = accepting().pair();
    let wires = Wires::between(&mut pair);
    pair.start();
    wait_accepting(&pair);
    let copies = |pair: &Pair| pair.nodes.iter().map(|node| node.replicated("full_copies")).sum::<u64>();
    let before = copies(&pair);
    under_writes(&mut pair, |pair| {
        let master = wait_accepting(pair);
        let stalls = |pair: &Pair| pair.nodes.iter().map(|node| node.replicated("stalls")).sum::<u64>();
        let known = stalls(pair);
        wires.swallow_data_from(1 - master);
        wait_for("it is noticed", PATIENCE, || (stalls(pair) > known).then_some(()));
        wait_accepting(pair);
    });
    assert_eq!(copies(&pair), before, "nothing was copied for it");
}

#[test]
fn a_switchover_while_both_nodes_are_written_loses_nothing() {
    let mut pair = accepting().start();
    wait_accepting(&pair);
    under_writes(&mut pair, |pair| {
        for _ in 0..3 {
            wait_accepting(pair);
            pair.switch_over(|| {});
        }
    });
}

#[test]
fn what_both_sides_of_a_cut_were_told_is_on_both_afterwards() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(accepting());
    pair.start();
    let master = wait_accepting(&pair);
    under_writes(&mut pair, |pair| {
        cables.cut();
        pair.nodes[1 - master].wait_role("master");
        cables.mend();
        wait_accepting(pair);
    });
    assert!(pair.nodes.iter().all(|node| node.replicated("diverged_items") == 0));
}
