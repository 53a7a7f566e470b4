//! The whole story in a minute: a pair of real processes on loopback loses its master and gets it back.
//!
//! Run it with `scripts/demo.sh`. Two clients write and read through everything, each as a plain
//! memcached client that knows both addresses; the table shows the longest time either had to wait
//! in each step, and at the end every acknowledged item is looked for.

#[path = "../tests/pair/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use harness::{PATIENCE, Pair, Setup};
use tandemd::admin::table::grouped;
use tandemd::bench::client::{Client, set_request};

/// Starts a pair on loopback, kills its master and watches.
#[derive(Parser, Debug)]
#[command(name = "demo")]
struct Arguments {
    /// Leave the pair running at the end.
    #[arg(long)]
    keep: bool,
    /// Items to load.
    #[arg(long, default_value_t = 100_000)]
    items: usize,
    /// fast, lan or wan.
    #[arg(long, default_value = "lan", value_parser = ["fast", "lan", "wan"])]
    profile: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut setup = Setup::new(beside_us("tandemd"));
    setup.profile = match arguments.profile.as_str() {
        "fast" => "fast",
        "wan" => "wan",
        _ => "lan",
    };
    let pair = setup.pair();
    let (pair, lost) = play(pair, arguments.items);
    if arguments.keep {
        leave_running(pair);
    }
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A program built together with this one: examples lie in a folder of their own.
fn beside_us(name: &str) -> PathBuf {
    let us = std::env::current_exe().expect("our own path");
    let path =
        us.parent().and_then(|examples| examples.parent()).expect("target/<profile>/examples").join(name);
    assert!(path.exists(), "{} is not built: run scripts/demo.sh", path.display());
    path
}

fn play(mut pair: Pair, items: usize) -> (Pair, usize) {
    let stop = AtomicBool::new(false);
    let addresses = [pair.nodes[0].address(), pair.nodes[1].address()];
    let mut story = Story::begin();

    pair.start();
    story.tell(&pair, "both nodes started, same kind of command", "");
    let master = pair.wait_paired();
    story.tell(&pair, "they found each other and agreed", "");

    let probes = [Probe::new(addresses), Probe::new([addresses[1], addresses[0]])];
    let [first, second] = &probes;
    let (mut pair, lost) = std::thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let stop = stopping.0;
        let clients =
            [(0, first), (1, second)].map(|(number, probe)| scope.spawn(move || probe.run(number, stop)));
        let spoiled = load(&addresses, master, items);
        pair.wait_caught_up(PATIENCE);
        let text = format!("{} items set, each read back through the other node", grouped(items as u64));
        story.tell(&pair, &text, &pauses(&probes));

        let survivor = 1 - master;
        let died = Instant::now();
        pair.nodes[master].kill();
        let gone = died.elapsed();
        story.tell(&pair, &format!("kill -9 {}, the master", pair.nodes[master].name), "");
        harness::first_write(addresses[survivor], "first", died, PATIENCE);
        let took = died.elapsed();
        pair.nodes[survivor].wait_role("master");
        let text = format!(
            "{} took over: first write {:.0} ms after the kill (the kernel needed {:.0} ms to end the process)",
            pair.nodes[survivor].name,
            millis(took),
            millis(gone)
        );
        story.tell(&pair, &text, &pauses(&probes));
        let missing = missing(addresses[survivor], items);
        story.tell(
            &pair,
            &format!("items looked for on {}: {} missing", pair.nodes[survivor].name, grouped(missing)),
            "",
        );

        let back = Instant::now();
        pair.nodes[master].start();
        pair.wait_caught_up(PATIENCE);
        let text = format!(
            "{} restarted empty and caught up in {:.0} ms",
            pair.nodes[master].name,
            millis(back.elapsed())
        );
        story.tell(&pair, &text, &pauses(&probes));

        pair.wait_synced();
        let switch = Instant::now();
        let asked = pair.nodes[survivor].admin().switchover();
        let text = match asked {
            Ok(()) => {
                pair.nodes[master].wait_role("master");
                format!(
                    "switchover back to {} in {:.0} ms",
                    pair.nodes[master].name,
                    millis(switch.elapsed())
                )
            }
            Err(error) => format!("switchover refused: {error}"),
        };
        pair.wait_paired();
        story.tell(&pair, &text, &pauses(&probes));

        stop.store(true, Ordering::Relaxed);
        let written = clients.map(|client| client.join().expect("a client"));
        let lost = conclude(&pair, &addresses, master, items, &written, &probes, spoiled);
        (pair, lost)
    });
    for node in &mut pair.nodes {
        assert!(node.runs(), "{} ended by itself", node.name);
    }
    (pair, lost)
}

/// Ends the clients whatever happens, or a failed step would wait for them for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks for everything that was acknowledged, and prints the sum.
fn conclude(
    pair: &Pair,
    addresses: &[SocketAddr; 2],
    master: usize,
    items: usize,
    written: &[u64; 2],
    probes: &[Probe; 2],
    spoiled: usize,
) -> usize {
    let missing = missing(addresses[master], items) as usize;
    let mut client = Client::connect(addresses[master], PATIENCE).expect("the master");
    let mut lost = 0;
    for (number, &count) in written.iter().enumerate() {
        lost += (0..count)
            .filter(|index| client.get(&probe_key(number, *index)).expect("a get").is_none())
            .count();
    }
    let errors: u64 = probes.iter().map(|probe| probe.errors.load(Ordering::Relaxed)).sum();
    println!();
    println!("items lost                     {:>9} of {}", grouped(missing as u64), grouped(items as u64));
    println!(
        "writes lost during the changes {:>9} of {} acknowledged (asynchronous replication: the last moment before a kill)",
        grouped(lost as u64),
        grouped(written.iter().sum())
    );
    println!("wrong or missing when read back{:>9}", grouped(spoiled as u64));
    println!(
        "errors seen by the two clients {:>9} (connections that broke with the killed node, then they used the other)",
        grouped(errors)
    );
    println!("epoch                          {:>9}", pair.nodes[master].replicated("epoch"));
    missing + spoiled
}

/// Sets every item through one node, pipelined, while reading each back through the other; how many
/// were not there.
fn load(addresses: &[SocketAddr; 2], master: usize, items: usize) -> usize {
    const BATCH: usize = 100;
    let mut writer = Client::connect(addresses[master], PATIENCE).expect("the master");
    let mut reader = Client::connect(addresses[1 - master], PATIENCE).expect("the backup");
    let mut spoiled = 0;
    for from in (0..items).step_by(BATCH) {
        let batch = from..(from + BATCH).min(items);
        let requests: Vec<u8> = batch
            .clone()
            .flat_map(|index| set_request(&item_key(index), &item_value(index), false))
            .collect();
        writer.send(&requests).expect("sets");
        for index in batch.clone() {
            assert_eq!(writer.line().expect("an answer"), "STORED", "item {index}");
        }
        spoiled += absent(&mut reader, batch);
    }
    spoiled
}

fn missing(address: SocketAddr, items: usize) -> u64 {
    let mut client = Client::connect(address, PATIENCE).expect("a node");
    (0..items).step_by(100).map(|from| absent(&mut client, from..(from + 100).min(items)) as u64).sum()
}

/// How many of these items are missing or wrong.
fn absent(client: &mut Client, batch: std::ops::Range<usize>) -> usize {
    let keys: Vec<String> = batch.clone().map(item_key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let found = client.get_many(&keys).expect("a get");
    batch.filter(|&index| found.get(&item_key(index)) != Some(&item_value(index))).count()
}

fn item_key(index: usize) -> String {
    format!("item-{index:07}")
}

fn item_value(index: usize) -> Vec<u8> {
    format!("value of item {index:07}, {}", "x".repeat(index % 100)).into_bytes()
}

fn probe_key(number: usize, index: u64) -> String {
    format!("probe-{number}-{index}")
}

/// A client that knows both addresses, stays with one and goes to the other when its connection breaks.
struct Probe {
    addresses: [SocketAddr; 2],
    /// Longest wait for an acknowledgement since it was last asked for, in microseconds.
    pause_us: AtomicU64,
    errors: AtomicU64,
}

impl Probe {
    fn new(addresses: [SocketAddr; 2]) -> Self {
        Self { addresses, pause_us: AtomicU64::new(0), errors: AtomicU64::new(0) }
    }

    /// Writes until told to stop; the number of acknowledged writes.
    fn run(&self, number: usize, stop: &AtomicBool) -> u64 {
        let mut at = 0;
        let mut client: Option<Client> = None;
        let mut written = 0;
        let mut wanted = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let connected = match &mut client {
                Some(connected) => Ok(connected),
                None => Client::connect(self.addresses[at], PATIENCE).map(|new| client.insert(new)),
            };
            let result = connected
                .map_err(Into::into)
                .and_then(|client| client.set(&probe_key(number, written), b"x"));
            self.pause_us.fetch_max(wanted.elapsed().as_micros() as u64, Ordering::Relaxed);
            match result {
                Ok(()) => {
                    written += 1;
                    std::thread::sleep(Duration::from_millis(1));
                    wanted = Instant::now();
                }
                Err(_) => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    client = None;
                    at = 1 - at;
                }
            }
        }
        written
    }
}

/// The longest wait of the clients since this was last asked.
fn pauses(probes: &[Probe; 2]) -> String {
    let longest = probes.iter().map(|probe| probe.pause_us.swap(0, Ordering::Relaxed)).max().unwrap_or(0);
    format!("{:.1} ms", longest as f64 / 1e3)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The table, printed line by line as things happen.
struct Story {
    start: Instant,
}

impl Story {
    fn begin() -> Self {
        println!("{:>8}  {:<10}  {:<10}  {:>12}  what happened", "time", "A", "B", "longest wait");
        Self { start: Instant::now() }
    }

    fn tell(&mut self, pair: &Pair, what: &str, pause: &str) {
        let role = |index: usize| match pair.nodes[index].role() {
            role if role.is_empty() => "–".to_owned(),
            role => role,
        };
        let time = self.start.elapsed().as_secs_f64();
        println!("{time:>6.2} s  {:<10}  {:<10}  {pause:>12}  {what}", role(0), role(1));
    }
}

fn leave_running(pair: Pair) {
    println!("\nThe pair stays:");
    let pids = [pair.nodes[0].pid(), pair.nodes[1].pid()];
    for node in &pair.nodes {
        println!(
            "  {} {}  clients {}  admin {}",
            node.name,
            node.pid(),
            node.address(),
            node.admin_address()
        );
    }
    println!(
        "  look:  {} --server {} status",
        beside_us("tandemctl").display(),
        pair.nodes[0].admin_address()
    );
    println!("  stop:  kill {} {}", pids[0], pids[1]);
    println!("  state and logs are in {}", pair.keep().display());
}
