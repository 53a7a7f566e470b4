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
use crate::fault_proxy::{Direction, Faults};
use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;
use crate::squeeze::{FewDescriptors, MemoryLimit, Mount, remount};
use crate::wires::Wires;

const KEYS: usize = 200;

/// What may be lost of what clients were told is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing: nobody died and clients reached one master all the time.
    None,
    /// The last writes of a master that died or was deposed.
    Last,
}

/// What befalls a pair over what is between its nodes.
struct Fault<Between> {
    name: &'static str,
    loss: Loss,
    /// `false`: not possible on this machine.
    strike: fn(&Between, &mut Pair, usize) -> bool,
}

const OF_MACHINES: [Fault<Cables>; 17] = [
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
    Fault { name: "memory", loss: Loss::Last, strike: memory },
    Fault { name: "descriptors", loss: Loss::Last, strike: descriptors },
    Fault { name: "disk-full", loss: Loss::Last, strike: disk_full },
    Fault { name: "disk-read-only", loss: Loss::Last, strike: disk_read_only },
];

const OF_WIRES: [Fault<Wires>; 7] = [
    Fault { name: "delay", loss: Loss::Last, strike: delay },
    Fault { name: "crumbs", loss: Loss::Last, strike: crumbs },
    Fault { name: "stall", loss: Loss::Last, strike: stall },
    Fault { name: "half-open", loss: Loss::Last, strike: half_open },
    Fault { name: "swallow", loss: Loss::Last, strike: swallow },
    Fault { name: "corrupt", loss: Loss::Last, strike: corrupt },
    Fault { name: "foreign-pair", loss: Loss::None, strike: foreign_pair },
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

/// The kernel has no more memory for the master, and ends it in the middle of a write.
fn memory(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    const LARGE: usize = 400;
    let Some(_limit) = MemoryLimit::new(pair.nodes[master].pid(), 8 << 20) else { return false };
    let name = |index: usize| format!("large-{index}");
    let mut client = pair.nodes[master].client();
    let value = vec![b'x'; 100_000];
    // 40 MB where there is room for 8.
    let _until_it_dies = (0..LARGE).try_for_each(|index| client.set(&name(index), &value));
    wait_for("the kernel ends it", PATIENCE, || (!pair.nodes[master].runs()).then_some(()));
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    let mut client = pair.nodes[1 - master].client();
    for index in 0..LARGE {
        wait_for("an answer", PATIENCE, || client.delete(&name(index)).ok());
    }
    pair.nodes[master].start();
    true
}

/// The master can open nothing any more, neither for clients nor for its backup, and loses what it has.
fn descriptors(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    let address = pair.nodes[master].address();
    let limit = Duration::from_millis(500);
    let few = FewDescriptors::new(pair.nodes[master].pid(), 3);
    let all: Vec<_> = (0..50).map_while(|_| TcpStream::connect_timeout(&address, limit).ok()).collect();
    pair.reset_links();
    wait(700);
    drop(few);
    drop(all);
    true
}

/// The state directories are full while the role goes over.
fn disk_full(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    let ballast = |pair: &Pair, node: usize| pair.nodes[node].state_dir.join("ballast");
    for node in 0..2 {
        // As much of it as fits.
        let _ = std::fs::write(ballast(pair, node), vec![0; 64 << 10]);
    }
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    pair.nodes[master].start();
    pair.wait_paired();
    for node in 0..2 {
        std::fs::remove_file(ballast(pair, node)).expect("the ballast is ours");
    }
    true
}

/// A node comes back to a state directory that can be read only, and has to take over.
fn disk_read_only(_: &Cables, pair: &mut Pair, master: usize) -> bool {
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    // While nobody has anything open there.
    let possible = remount(&pair.nodes[master].state_dir, "ro");
    pair.nodes[master].start();
    if possible {
        assert_eq!(pair.wait_paired(), 1 - master);
        pair.nodes[1 - master].kill();
        pair.nodes[master].wait_role("master");
        pair.nodes[1 - master].start();
        pair.wait_paired();
        assert!(remount(&pair.nodes[master].state_dir, "rw"));
    }
    possible
}

/// Everything comes late, in two steps: what was under way is overtaken by nothing.
fn delay(wires: &Wires, _: &mut Pair, _: usize) -> bool {
    for millis in [20, 150] {
        wires.suffer(&Faults { delay: Duration::from_millis(millis), ..Faults::default() }, 500);
    }
    true
}

/// No read brings more than a few bytes.
fn crumbs(wires: &Wires, _: &mut Pair, _: usize) -> bool {
    wires.suffer(&Faults { crumbs: Some(7), ..Faults::default() }, 700);
    true
}

/// Nothing passes, and the connections stay: then everything comes at once.
fn stall(wires: &Wires, pair: &mut Pair, master: usize) -> bool {
    wires.set(&Faults { stall: true, ..Faults::default() });
    pair.nodes[1 - master].wait_role("master");
    wires.set(&Faults::default());
    true
}

/// One end of every connection is gone, and the other does not know.
fn half_open(wires: &Wires, _: &mut Pair, _: usize) -> bool {
    for _ in 0..2 {
        wires.half_open();
        wait(300);
    }
    true
}

/// What is under way is lost with the connections, again and again.
fn swallow(wires: &Wires, _: &mut Pair, _: usize) -> bool {
    for _ in 0..3 {
        wires.set(&Faults { blackhole: true, ..Faults::default() });
        wait(50);
        wires.reset();
        wires.set(&Faults::default());
        wait(100);
    }
    true
}

/// A bit is wrong, now in one direction, now in the other.
fn corrupt(wires: &Wires, _: &mut Pair, _: usize) -> bool {
    let mut random = fastrand::Rng::with_seed(1);
    for nth in 0..4 {
        let direction = if nth % 2 == 0 { Direction::Forth } else { Direction::Back };
        wires.corrupt(direction, random.u64(0..3000));
        wait(100);
    }
    wires.set(&Faults::default());
    true
}

/// Two nodes that take ours for theirs are told that these have a peer, and get nothing.
fn foreign_pair(_: &Wires, pair: &mut Pair, master: usize) -> bool {
    let mut foreign = setup();
    foreign.hosts = [[127, 0, 0, 4].into(), [127, 0, 0, 5].into()];
    let mut foreign = foreign.pair();
    for (index, node) in foreign.nodes.iter_mut().enumerate() {
        node.peer = pair.nodes[index].replication_address().to_string();
        node.start();
    }
    for node in &foreign.nodes {
        wait_for("it is told why", PATIENCE, || {
            node.log().contains("already paired with another node").then_some(())
        });
        assert_eq!(node.items(), Some(0), "{} has nothing of ours", node.name);
    }
    assert_eq!(pair.paired(), Some(master), "ours stay with each other");
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

/// Ends the writers when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the master holds. A machine that stands still makes it doubt for a moment: then it is asked again.
fn read(pair: &Pair, master: usize) -> BTreeMap<usize, u64> {
    let mut client = pair.nodes[master].client();
    let value = |key| wait_for("an answer", PATIENCE, || client.get(&format!("k{key}")).ok());
    let values: Vec<_> = (0..KEYS).map(value).collect();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
    let held = values.iter().enumerate();
    held.filter_map(|(key, value)| Some((key, number(value.as_deref()?)?))).collect()
}

/// A round: of how many keys the last acknowledged write is gone, and how many were written. `None`
/// where this machine cannot do it.
fn round<Between>(
    fault: &Fault<Between>,
    between: &Between,
    pair: &mut Pair,
    numbers: &AtomicU64,
) -> Option<(usize, usize)>
where
    Between: Sync,
{
    pair.wait_converged(PATIENCE);
    let master = pair.wait_synced();
    let before = read(pair, master);
    let stop = AtomicBool::new(false);
    let addresses = [0, 1].map(|index: usize| pair.nodes[index].address());
    let (possible, told) = std::thread::scope(|scope| {
        let stop = &stop;
        // A round that fails ends its writers, too.
        let _end = End(stop);
        let writers = [0, 1].map(|nth: usize| scope.spawn(move || write(addresses[nth], nth, numbers, stop)));
        wait(200);
        let possible = (fault.strike)(between, pair, master);
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

/// So many rounds of each fault that was chosen.
fn rounds<Between: Sync>(faults: &[Fault<Between>], between: &Between, pair: &mut Pair) {
    let rounds = std::env::var("TANDEM_CHAOS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let chosen = std::env::var("TANDEM_CHAOS").ok();
    pair.start();
    pair.wait_paired();
    let numbers = AtomicU64::new(1);
    for fault in faults {
        if chosen.as_ref().is_some_and(|chosen| chosen.split(',').all(|name| name != fault.name)) {
            continue;
        }
        let (mut lost_most, mut lost_all, mut written) = (0, 0, 0);
        let began = std::time::Instant::now();
        for nth in 0..rounds {
            let Some((lost, keys)) = round(fault, between, pair, &numbers) else {
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

#[test]
fn after_every_bad_day_both_nodes_hold_the_same_and_what_was_promised() {
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(setup());
    // Small file systems, so that they can be full.
    let _disks = [0, 1].map(|node: usize| {
        std::fs::create_dir_all(&pair.nodes[node].state_dir).expect("a directory");
        Mount::new(&pair.nodes[node].state_dir, "size=16k").expect("root can mount")
    });
    rounds(&OF_MACHINES, &cables, &mut pair);
}

/// Of the wire alone: bytes that come late, in crumbs, all at once, wrong, or not at all.
#[test]
fn after_every_bad_day_of_the_wire_both_nodes_hold_the_same() {
    let mut pair = setup().pair();
    let wires = Wires::between(&mut pair);
    rounds(&OF_WIRES, &wires, &mut pair);
}
