//! What a kill -9 costs those who were told that it is done, and whether a busy machine is mistaken for a dead one.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tandemd::bench::client::Client;

use crate::harness::{PATIENCE, Pair, Setup, wait_for};
use crate::{Row, Times, guarded, millis, rounds, setup};

/// What a client was told last of one of its keys.
#[derive(Clone, Copy)]
struct Told {
    number: u64,
    at: Instant,
}

/// A client with keys of its own, to which it writes ever higher numbers.
struct Writer {
    name: usize,
    next: u64,
    told: Vec<Option<Told>>,
}

impl Writer {
    fn new(name: usize, keys: usize) -> Self {
        Self { name, next: 1, told: vec![None; keys] }
    }

    fn key(&self, index: usize) -> String {
        format!("w{}-{index}", self.name)
    }

    /// Writes `batch` keys at a time until it is stopped; counts what was acknowledged. A connection that breaks is made
    /// anew.
    fn write(&mut self, address: SocketAddr, batch: usize, acknowledged: &AtomicU64, stop: &AtomicBool) {
        let mut client: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(connected) = &mut client else {
                client = Client::connect(address, Duration::from_secs(5)).ok();
                if client.is_none() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                continue;
            };
            if !self.batch(connected, batch, acknowledged) {
                client = None;
            }
        }
    }

    /// Whether the connection still stands.
    fn batch(&mut self, client: &mut Client, batch: usize, acknowledged: &AtomicU64) -> bool {
        let first = self.next;
        self.next += batch as u64;
        let keys = self.told.len() as u64;
        let mut requests = String::new();
        for number in first..self.next {
            let (key, value) = (self.key((number % keys) as usize), number.to_string());
            let _ = write!(requests, "set {key} 0 0 {}\r\n{value}\r\n", value.len());
        }
        if client.send(requests.as_bytes()).is_err() {
            return false;
        }
        let mut stored = 0;
        let answered = (first..self.next).all(|number| match client.line() {
            Ok(line) => {
                // Whatever else is answered says that nobody knows.
                if line == "STORED" {
                    self.told[(number % keys) as usize] = Some(Told { number, at: Instant::now() });
                    stored += 1;
                }
                true
            }
            Err(_) => false,
        });
        acknowledged.fetch_add(stored, Ordering::Relaxed);
        answered
    }

    /// What the node behind that client holds of its keys.
    fn held(&self, client: &mut Client) -> Vec<Option<u64>> {
        let names: Vec<String> = (0..self.told.len()).map(|index| self.key(index)).collect();
        let mut held = Vec::with_capacity(names.len());
        for chunk in names.chunks(100) {
            let keys: Vec<&str> = chunk.iter().map(String::as_str).collect();
            // A machine that stands still makes a node doubt for a moment: then it is asked again.
            let found = wait_for("an answer", PATIENCE, || client.get_many(&keys).ok());
            held.extend(keys.iter().map(|key| std::str::from_utf8(found.get(*key)?).ok()?.parse().ok()));
        }
        held
    }
}

/// What some rounds of kill -9 came to.
#[derive(Default)]
struct Kills {
    rounds: usize,
    acknowledged: u64,
    /// Keys whose last acknowledged write was gone.
    lost: usize,
    /// Of each round: how long before the kill the first of them was acknowledged.
    windows: Vec<Duration>,
    /// Keys that the nodes held differently afterwards.
    differ: usize,
    /// Rounds in which the node that was killed was not master any more.
    missed: usize,
    /// Writes that the backup did not confirm in time.
    degraded: u64,
}

/// A pair, its writers, and what came of it so far.
struct Victims {
    pair: Pair,
    writers: Vec<Writer>,
    batch: usize,
    random: fastrand::Rng,
    kills: Kills,
}

impl Victims {
    fn new(setup: Setup, writers: usize, keys: usize, batch: usize) -> Self {
        // So that each node can be asked for what it holds itself.
        let pair = setup.flag("--backup-requests").flag("local-reads").start();
        let writers = (0..writers).map(|name| Writer::new(name, keys)).collect();
        Self { pair, writers, batch, random: fastrand::Rng::with_seed(1), kills: Kills::default() }
    }

    /// Kills the master when so many writes, and a few more, were acknowledged.
    fn round(&mut self, least: u64) {
        let master = self.pair.wait_synced();
        let address = self.pair.nodes[master].address();
        let degraded = |pair: &Pair| -> u64 {
            let stats = pair.nodes[master].replication();
            stats.and_then(|stats| stats.get("ack_degraded")?.parse().ok()).unwrap_or(0)
        };
        let before = degraded(&self.pair);
        let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (pair, batch) = (&mut self.pair, self.batch);
        let enough = least + self.random.u64(0..least / 4 + 1);
        let (was_master, late, killed) = std::thread::scope(|scope| {
            let (acknowledged, stop) = (&acknowledged, &stop);
            for writer in &mut self.writers {
                scope.spawn(move || writer.write(address, batch, acknowledged, stop));
            }
            guarded(stop, || {
                let nearly = enough - enough / 10;
                let reach = |count| {
                    wait_for("acknowledged writes", 4 * PATIENCE, || {
                        (acknowledged.load(Ordering::Relaxed) >= count).then_some(())
                    });
                };
                reach(nearly);
                let was_master = pair.nodes[master].role() == "master";
                let late = degraded(pair);
                reach(enough);
                pair.nodes[master].kill_now();
                let killed = Instant::now();
                (was_master, late, killed)
            })
        });
        self.kills.rounds += 1;
        self.kills.acknowledged += acknowledged.load(Ordering::Relaxed);
        self.kills.missed += usize::from(!was_master);
        self.kills.degraded += late.saturating_sub(before);
        self.pair.nodes[master].kill();
        self.pair.nodes[1 - master].wait_role("master");
        self.look(1 - master, killed);
        self.pair.nodes[master].start();
        self.pair.wait_converged(4 * PATIENCE);
        self.compare();
    }

    /// What the survivor does not have of what was acknowledged.
    fn look(&mut self, survivor: usize, killed: Instant) {
        let mut client = self.pair.nodes[survivor].client();
        let mut first: Option<Instant> = None;
        for writer in &mut self.writers {
            let held = writer.held(&mut client);
            for (told, held) in writer.told.iter_mut().zip(held) {
                if let Some(Told { number, at }) = *told
                    && held.is_none_or(|held| held < number)
                {
                    self.kills.lost += 1;
                    first = Some(first.map_or(at, |first| first.min(at)));
                    // Told once; from here on it counts what comes.
                    *told = None;
                }
            }
        }
        self.kills
            .windows
            .push(first.map_or(Duration::ZERO, |first| killed.saturating_duration_since(first)));
    }

    /// Both nodes' own memories.
    fn compare(&mut self) {
        let [mut one, mut other] = [0, 1].map(|node: usize| self.pair.nodes[node].client());
        for writer in &self.writers {
            let held = writer.held(&mut one).into_iter().zip(writer.held(&mut other));
            self.kills.differ += held.filter(|(one, other)| one != other).count();
        }
    }
}

/// Grouped by thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Kill -9 under `--ack applied`: nothing that was acknowledged may be gone.
pub(crate) fn acknowledged(share: f64) -> Vec<Row> {
    const LEAST: u64 = 10_000;
    let flags = ["--ack", "applied", "--ack-strict"];
    let setup = flags.into_iter().fold(setup(), Setup::flag);
    let mut victims = Victims::new(setup, 4, 2500, 256);
    let count = rounds(1000, share);
    let began = Instant::now();
    for round in 1..=count {
        victims.round(LEAST);
        if round % 50 == 0 {
            let kills = &victims.kills;
            eprintln!(
                "{round} rounds in {:.0?}: {} acknowledged, {} lost, {} differ",
                began.elapsed(),
                grouped(kills.acknowledged),
                kills.lost,
                kills.differ
            );
        }
    }
    let kills = victims.kills;
    vec![Row {
        what:
            "kill -9 of the master under pipelined sets, `--ack applied`: acknowledged writes that are gone"
                .to_owned(),
        anchor: "Valkey WAIT: 0 of 304,816",
        must: "0, and 0 keys that differ afterwards",
        measured: format!(
            "{} of {}, {} keys differ ({} rounds, {} of them on a master; {} writes not confirmed in time, which was said)",
            kills.lost,
            grouped(kills.acknowledged),
            kills.differ,
            kills.rounds,
            kills.rounds - kills.missed,
            grouped(kills.degraded)
        ),
        met: kills.lost == 0 && kills.differ == 0,
    }]
}

/// The same with nobody waiting for the backup: how much of the end is gone.
pub(crate) fn last(share: f64) -> Vec<Row> {
    const LEAST: u64 = 20_000;
    let mut victims = Victims::new(setup(), 2, 20_000, 16);
    for _ in 0..rounds(100, share) {
        victims.round(LEAST);
    }
    let kills = victims.kills;
    let windows = Times::new(kills.windows);
    vec![Row {
        what: "kill -9 of the master under pipelined sets, `--ack async`: how old the oldest lost write is"
            .to_owned(),
        anchor: "Valkey up to 134,048 writes in a round; repcached 16.7 %",
        must: "p99 ≤ 5 ms, 0 keys that differ afterwards",
        measured: format!(
            "{}; {} keys lost their last write of {}, {} keys differ",
            windows.text(),
            kills.lost,
            grouped(kills.acknowledged),
            kills.differ
        ),
        met: millis(windows.at(0.99)) <= 5.0 && kills.differ == 0,
    }]
}

/// Ends when dropped.
struct Busy(Child);

impl Busy {
    /// Computes without a pause; `TANDEM_BUSY_NICE` makes it yield to others (0 unless told), as on a machine that others need.
    fn new() -> Self {
        let nice = std::env::var("TANDEM_BUSY_NICE").unwrap_or_else(|_| "0".to_owned());
        let child = Command::new("nice")
            .args(["-n", &nice, "sh", "-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("nice and sh"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Load average of the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// A pair that has next to nothing to do, on cores that have no time for it.
pub(crate) fn saturated(share: f64) -> Vec<Row> {
    let pair = setup().start();
    let master = pair.wait_synced();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let _busy: Vec<Busy> = (0..2 * cores).map(|_| Busy::new()).collect();
    let time = Duration::from_secs(rounds(3600, share) as u64);
    let before = [0, 1].map(|node: usize| pair.nodes[node].replicated("epoch"));
    let mut client = pair.nodes[master].client();
    let (mut done, mut refused, mut longest, mut loads) = (0_u64, 0_u64, Duration::ZERO, Vec::new());
    let began = Instant::now();
    while began.elapsed() < time {
        let since = Instant::now();
        match client.set(&format!("key-{}", done % 1000), b"v") {
            Ok(()) => done += 1,
            Err(_) => {
                refused += 1;
                client = pair.nodes[master].client();
            }
        }
        longest = longest.max(since.elapsed());
        if done.is_multiple_of(1000) {
            loads.push(load_average());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = [0, 1].map(|node: usize| pair.nodes[node].replicated("epoch"));
    let changes = after[0].max(after[1]) - before[0].max(before[1]);
    let doubts: usize = pair.nodes.iter().map(|node| node.log().matches(" doubt").count()).sum();
    let load = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
    vec![Row {
        what: format!(
            "`lan`, every core kept busy by {} others for {} s: failovers",
            2 * cores,
            time.as_secs()
        ),
        anchor: "–",
        must: "0 in 1 h",
        measured: format!(
            "{}, the master {}; load average {load:.1}; of {} sets, 100 a second, {refused} refused, the longest {:.0} ms; \
             {doubts} lines of doubt",
            if changes == 0 { "0".to_owned() } else { format!("epoch {} later", changes) },
            if pair.paired() == Some(master) { "the same" } else { "another" },
            grouped(done + refused),
            millis(longest)
        ),
        met: changes == 0 && pair.paired() == Some(master),
    }]
}
