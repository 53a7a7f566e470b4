//! One bad day after the other, under load; after each of them both nodes are read and compared.
//!
//! `TANDEM_CHAOS_ROUNDS=n` makes n rounds of every fault (one unless told; `scripts/chaos.sh` makes
//! more), `TANDEM_CHAOS=name,name` chooses faults.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tandemd::bench::client::{Client, Error};

use crate::cables::Cables;
use crate::harness::{PATIENCE, Pair};
use crate::setup;

const KEYS: usize = 200;

/// What may be lost of what clients were told is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing: nobody died and clients reached one master all the time.
    None,
    /// The last writes of a master that died or was deposed.
    Last,
}

struct Fault {
    name: &'static str,
    loss: Loss,
    /// `false`: not possible on this machine.
    strike: fn(&Cables, &mut Pair, usize) -> bool,
}

const FAULTS: [Fault; 13] = [
    Fault { name: "kill", loss: Loss::Last, strike: kill },
    Fault { name: "restart", loss: Loss::Last, strike: restart },
    Fault { name: "kill-backup", loss: Loss::None, strike: kill_backup },
    Fault { name: "hang", loss: Loss::Last, strike: hang },
    Fault { name: "hang-backup", loss: Loss::None, strike: hang_backup },
    Fault { name: "power-off", loss: Loss::Last, strike: power_off },
    Fault { name: "reset", loss: Loss::None, strike: reset },
    Fault { name: "cut", loss: Loss::Last, strike: cut },
    Fault { name: "deaf-backup", loss: Loss::Last, strike: deaf_backup },
    Fault { name: "deaf-master", loss: Loss::Last, strike: deaf_master },
    Fault { name: "loss", loss: Loss::Last, strike: loss },
    Fault { name: "narrow", loss: Loss::Last, strike: narrow },
    Fault { name: "connections", loss: Loss::None, strike: connections },
];

fn wait(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn kill(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    pair.nodes[master].start();
    true
}

fn restart(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[master].kill();
    pair.nodes[master].start();
    true
}

fn kill_backup(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[1 - master].kill();
    wait(200);
    pair.nodes[1 - master].start();
    true
}

fn hang(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[master].freeze();
    pair.nodes[1 - master].wait_role("master");
    pair.nodes[master].thaw();
    true
}

fn hang_backup(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[1 - master].freeze();
    wait(1500);
    pair.nodes[1 - master].thaw();
    true
}

/// Nobody hears of it: no FIN, no reset.
fn power_off(cables: &Cables, pair: &mut Pair, master: usize) -> bool {
    cables.cut();
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    cables.mend();
    pair.nodes[master].start();
    true
}

fn reset(_: &Cables, pair: &mut Pair, _: usize) -> bool {
    for _ in 0..10 {
        pair.reset_links();
        wait(50);
    }
    true
}

fn cut(cables: &Cables, pair: &mut Pair, master: usize) -> bool {
    cables.cut();
    pair.nodes[1 - master].wait_role("master");
    cables.mend();
    true
}

fn deaf_backup(cables: &Cables, pair: &mut Pair, master: usize) -> bool {
    cables.cut_from(master);
    pair.nodes[1 - master].wait_role("master");
    cables.mend();
    true
}

fn deaf_master(cables: &Cables, _: &mut Pair, master: usize) -> bool {
    cables.cut_from(1 - master);
    wait(1500);
    cables.mend();
    true
}

fn loss(cables: &Cables, _: &mut Pair, _: usize) -> bool {
    for percent in [2, 10, 30] {
        cables.lose(percent);
        wait(500);
        cables.mend();
    }
    true
}

fn narrow(cables: &Cables, _: &mut Pair, _: usize) -> bool {
    let possible = cables.narrow("500kbit");
    wait(if possible { 1500 } else { 0 });
    cables.mend();
    possible
}

/// More connections than the node takes.
fn connections(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    let address = pair.nodes[master].address();
    let limit = Duration::from_millis(500);
    let all: Vec<_> = (0..4200).map_while(|_| TcpStream::connect_timeout(&address, limit).ok()).collect();
    wait(300);
    drop(all);
    true
}

/// What one client was told: the last number of each of its keys that was stored.
type Told = BTreeMap<usize, u64>;

/// Writes ever higher numbers to every second key through one node, as fast as it answers.
fn write(address: SocketAddr, nth: usize, numbers: &AtomicU64, stop: &AtomicBool) -> Told {
    let mut told = Told::new();
    let mut client = None;
    let mut random = fastrand::Rng::with_seed(nth as u64);
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = &mut client else {
            client = Client::connect(address, Duration::from_secs(3)).ok();
            wait(if client.is_none() { 5 } else { 0 });
            continue;
        };
        let (key, number) = (2 * random.usize(0..KEYS / 2) + nth, numbers.fetch_add(1, Ordering::Relaxed));
        match connected.set(&format!("k{key}"), number.to_string().as_bytes()) {
            Ok(()) => drop(told.insert(key, number)),
            Err(Error::Server(_)) => {}
            Err(Error::Io(_)) => client = None,
        }
    }
    told
}

/// What the master holds.
fn read(pair: &Pair, master: usize) -> BTreeMap<usize, u64> {
    let mut client = pair.nodes[master].client();
    let values = (0..KEYS).map(|key| (key, client.get(&format!("k{key}")).expect("a get")));
    let number = |bytes: Vec<u8>| String::from_utf8(bytes).ok()?.parse().ok();
    values.filter_map(|(key, value)| Some((key, number(value?)?))).collect()
}

/// A round: of how many keys the last acknowledged write is gone, and how many were written. `None`
/// where this machine cannot do it.
fn round(fault: &Fault, cables: &Cables, pair: &mut Pair, numbers: &AtomicU64) -> Option<(usize, usize)> {
    pair.wait_converged(PATIENCE);
    let master = pair.wait_synced();
    let before = read(pair, master);
    let stop = AtomicBool::new(false);
    let addresses = [0, 1].map(|index: usize| pair.nodes[index].address());
    let (possible, told) = std::thread::scope(|scope| {
        let stop = &stop;
        let writers = [0, 1].map(|nth: usize| scope.spawn(move || write(addresses[nth], nth, numbers, stop)));
        wait(200);
        let possible = (fault.strike)(cables, pair, master);
        pair.wait_paired();
        stop.store(true, Ordering::Relaxed);
        (possible, writers.map(|writer| writer.join().expect("a client")))
    });
    if !possible {
        return None;
    }
    let highest = numbers.load(Ordering::Relaxed);
    pair.wait_converged(PATIENCE);
    let one = read(pair, pair.wait_synced());
    let other = read(pair, pair.switch_over(|| ()));
    assert_eq!(one, other, "{}: both nodes hold the same", fault.name);
    for (key, now) in &one {
        let base = before.get(key).copied().unwrap_or(0);
        assert!(*now >= base, "{}: k{key} was {base} on both nodes and is {now}", fault.name);
        assert!(*now < highest, "{}: nobody wrote {now}", fault.name);
    }
    let told: Told = told.into_iter().flatten().collect();
    let lost = told.iter().filter(|(key, number)| one.get(key).is_none_or(|now| now < number));
    Some((lost.count(), told.len()))
}

#[test]
fn after_every_bad_day_both_nodes_hold_the_same_and_what_was_promised() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let rounds = std::env::var("TANDEM_CHAOS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let chosen = std::env::var("TANDEM_CHAOS").ok();
    let mut pair = cables.pair(setup());
    pair.start();
    pair.wait_paired();
    let numbers = AtomicU64::new(1);
    for fault in &FAULTS {
        if chosen.as_ref().is_some_and(|chosen| chosen.split(',').all(|name| name != fault.name)) {
            continue;
        }
        let (mut lost_most, mut lost_all, mut written) = (0, 0, 0);
        let began = std::time::Instant::now();
        for nth in 0..rounds {
            let Some((lost, keys)) = round(fault, &cables, &mut pair, &numbers) else {
                println!("{}: not possible on this machine", fault.name);
                break;
            };
            assert!(
                fault.loss == Loss::Last || lost == 0,
                "{}, round {nth}: {lost} of {keys} acknowledged writes are gone",
                fault.name
            );
            lost_most = lost_most.max(lost);
            (lost_all, written) = (lost_all + lost, written + keys);
        }
        println!(
            "{}: {rounds} rounds in {:.1?}, 0 keys differ, {lost_all} of {written} last writes lost, {lost_most} at most",
            fault.name,
            began.elapsed()
        );
    }
}
