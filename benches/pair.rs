//! The figures the pair is measured by, each beside what others reach. Run it with `scripts/bench.sh`.
//!
//! Every row is an experiment with two real processes on loopback; a row names what must be reached
//! and says whether it was. `--rounds 0.1` makes a tenth of the rounds, names select rows.

#[path = "../tests/pair/cables.rs"]
mod cables;
#[path = "../tests/pair/harness.rs"]
mod harness;
#[path = "pair/losses.rs"]
mod losses;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cables::Cables;
use clap::Parser;
use harness::{PATIENCE, Pair, Setup, first_write, wait_for};
use tandemd::bench::client::{Client, set_request};
use tandemd::bench::plan::Plan;
use tandemd::bench::process::Usage;

/// Measures a pair of tandemd nodes.
#[derive(Parser, Debug)]
struct Arguments {
    /// Rows to measure: all if none is named. See --list.
    rows: Vec<String>,
    /// Share of the rounds to make.
    #[arg(long, default_value_t = 1.0)]
    rounds: f64,
    /// Only print the names of the rows.
    #[arg(long)]
    list: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One row of the table.
struct Row {
    what: String,
    anchor: &'static str,
    must: &'static str,
    measured: String,
    met: bool,
}

/// An experiment: its name, and what it does with a share of its rounds.
type Experiment = (&'static str, fn(f64) -> Vec<Row>);

const EXPERIMENTS: [Experiment; 15] = [
    ("kill", kill),
    ("acknowledged", losses::acknowledged),
    ("last", losses::last),
    ("stop", stop),
    ("restart", restart),
    ("start", start),
    ("reset", reset),
    ("burst", burst),
    ("copy", copy),
    ("switchover", switchover),
    ("idle", idle),
    ("outage", outage),
    ("long-outage", long_outage),
    ("heal", heal),
    ("saturated", losses::saturated),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        EXPERIMENTS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.rows.iter().find(|row| EXPERIMENTS.iter().all(|(name, _)| name != row)) {
        eprintln!("there is no row `{unknown}`: see --list");
        return ExitCode::from(2);
    }
    println!("| what | anchors | must | measured | |");
    println!("|---|---|---|---|---|");
    let mut all_met = true;
    for (name, experiment) in EXPERIMENTS {
        if !arguments.rows.is_empty() && !arguments.rows.iter().any(|row| row == name) {
            continue;
        }
        // One experiment that fails altogether must not hide the others.
        let rows = std::panic::catch_unwind(|| experiment(arguments.rounds)).unwrap_or_else(|_| {
            let (what, measured) = (name.to_owned(), "failed, see above".to_owned());
            vec![Row { what, anchor: "", must: "", measured, met: false }]
        });
        for row in rows {
            let verdict = if row.met { "met" } else { "**missed**" };
            println!("| {} | {} | {} | {} | {verdict} |", row.what, row.anchor, row.must, row.measured);
            all_met &= row.met;
        }
    }
    if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_tandemd"))
}

fn rounds(all: usize, share: f64) -> usize {
    ((all as f64 * share).round() as usize).max(1)
}

/// Times in order, for quantiles.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The smallest time that at least this share of all do not exceed.
    fn at(&self, quantile: f64) -> Duration {
        let rank = (quantile * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    fn text(&self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| millis(self.at(quantile)));
        format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms ({} rounds)", self.0.len())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn fill(pair: &Pair, through: usize, prefix: &str, count: usize) {
    let mut client = pair.nodes[through].client();
    let indices: Vec<usize> = (0..count).collect();
    for batch in indices.chunks(500) {
        let requests =
            batch.iter().flat_map(|index| set_request(&format!("{prefix}{index}"), b"0123456789", false));
        client.send(&requests.collect::<Vec<u8>>()).expect("sets");
        for _ in batch {
            assert_eq!(client.line().expect("an answer"), "STORED");
        }
    }
}

fn missing(pair: &Pair, through: usize, prefix: &str, count: usize) -> usize {
    let mut client = pair.nodes[through].client();
    let keys: Vec<String> = (0..count).map(|index| format!("{prefix}{index}")).collect();
    let found = keys.chunks(100).map(|chunk| {
        let keys: Vec<&str> = chunk.iter().map(String::as_str).collect();
        client.get_many(&keys).expect("a get").len()
    });
    count - found.sum::<usize>()
}

fn kill(share: f64) -> Vec<Row> {
    let mut pair = setup().start();
    let times = (0..rounds(100, share)).map(|round| {
        let master = pair.wait_paired();
        let since = Instant::now();
        pair.nodes[master].kill_now();
        let time = first_write(pair.nodes[1 - master].address(), &format!("first-{round}"), since, PATIENCE);
        pair.nodes[master].kill();
        pair.nodes[master].start();
        time
    });
    let times = Times::new(times.collect());
    vec![Row {
        what: "kill -9 → first write acknowledged by the survivor, default profile".to_owned(),
        anchor: "Valkey+Sentinel 30.4 s default, 0.54 s tuned; Flare 4.1 s",
        must: "p50 ≤ 50 ms, p99 ≤ 150 ms",
        measured: times.text(),
        met: millis(times.at(0.5)) <= 50.0 && millis(times.at(0.99)) <= 150.0,
    }]
}

fn stop(share: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lost = 0;
    let mut all = 0;
    for (profile, must, limit, count) in
        [("lan", "p99 ≤ 1.2 s", 1200.0, 20), ("fast", "p99 ≤ 0.4 s", 400.0, 80)]
    {
        let mut setup = setup();
        setup.profile = profile;
        let pair = setup.start();
        let mut times = Vec::new();
        for round in 0..rounds(count, share) {
            let (time, false_acknowledgements) = hang(&pair, round);
            times.push(time);
            lost += false_acknowledgements;
            all += 1;
        }
        let times = Times::new(times);
        rows.push(Row {
            what: format!("SIGSTOP → first write on the survivor, `{profile}`"),
            anchor: "Sentinel 1.8 s with 1 s detection",
            must,
            measured: times.text(),
            met: millis(times.at(0.99)) <= limit,
        });
    }
    rows.push(Row {
        what: "writes acknowledged by a deposed master after SIGCONT".to_owned(),
        anchor: "Valkey 15,000–17,000 a round",
        must: "0",
        measured: format!("{lost} ({all} rounds)"),
        met: lost == 0,
    });
    rows
}

/// Stops the master with writes waiting in its sockets, wakes it after the failover; how long the
/// failover took and how many writes were acknowledged that the pair does not have.
fn hang(pair: &Pair, round: usize) -> (Duration, usize) {
    const WRITES: usize = 1000;
    let master = pair.wait_paired();
    let survivor = 1 - master;
    let mut client = pair.nodes[master].client();
    client.set("open", b"yes").expect("a set on the open connection");
    pair.nodes[master].freeze();
    let since = Instant::now();
    let waiting = (0..WRITES).flat_map(|index| set_request(&format!("hung-{round}-{index}"), b"v", false));
    client.send(&waiting.collect::<Vec<u8>>()).expect("the kernel takes them for the stopped process");
    let time = first_write(pair.nodes[survivor].address(), "first", since, PATIENCE);
    pair.nodes[master].thaw();
    let mut acknowledged = Vec::new();
    for index in 0..WRITES {
        match client.line() {
            Ok(line) if line == "STORED" => acknowledged.push(index),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    pair.wait_paired();
    let mut reader = pair.nodes[survivor].client();
    let gone = |index: &&usize| reader.get(&format!("hung-{round}-{index}")).expect("a get").is_none();
    let lost = acknowledged.iter().filter(gone).count();
    if lost > 0 {
        eprintln!(
            "round {round}: {} was stopped; {lost} of {} acknowledged writes are gone",
            pair.nodes[master].name,
            acknowledged.len()
        );
        pair.nodes.iter().for_each(|node| eprintln!("--- log of {} ---\n{}", node.name, node.log_tail(30)));
    }
    (time, lost)
}

fn restart(share: f64) -> Vec<Row> {
    const ITEMS: usize = 5000;
    let mut pair = setup().start();
    let mut master = pair.wait_paired();
    fill(&pair, master, "item-", ITEMS);
    let count = rounds(50, share);
    let mut lost = 0;
    for _ in 0..count {
        pair.wait_converged(PATIENCE);
        pair.nodes[master].kill();
        pair.nodes[master].start();
        master = pair.wait_paired();
        lost += missing(&pair, master, "item-", ITEMS);
    }
    vec![Row {
        what: "instant restart of the master: items lost that the backup had".to_owned(),
        anchor: "Valkey without persistence: all data wiped",
        must: "0",
        measured: format!("{lost} of {ITEMS} ({count} rounds)"),
        met: lost == 0,
    }]
}

fn start(share: f64) -> Vec<Row> {
    let count = rounds(50, share);
    let mut times = Vec::new();
    for _ in 0..count {
        let mut pair = setup().pair();
        pair.quiet = true;
        let since = Instant::now();
        pair.start();
        let paired =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.wait_paired_within(PATIENCE)));
        if paired.is_ok() {
            times.push(since.elapsed());
        }
    }
    let paired = times.len();
    let late = times.iter().filter(|time| millis(**time) > 500.0).count();
    let text = if times.is_empty() { String::new() } else { Times::new(times).text() };
    vec![Row {
        what: "both nodes started at the same moment: pairs formed".to_owned(),
        anchor: "repcached paired in 1 of 12",
        must: "all, each within 500 ms",
        measured: format!("{paired} of {count}; {text}"),
        met: paired == count && late == 0,
    }]
}

fn reset(share: f64) -> Vec<Row> {
    let pair = setup().start();
    let master = pair.wait_paired();
    let copies = || pair.nodes.iter().map(|node| node.replicated("full_copies")).sum::<u64>();
    let before = copies();
    let stop = AtomicBool::new(false);
    let (times, written) = std::thread::scope(|scope| {
        let mut client = pair.nodes[master].client();
        let stop = &stop;
        let writer = scope.spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                client.set(&format!("key-{count}"), b"v").expect("the master goes on serving");
                count += 1;
            }
            count
        });
        let times = guarded(stop, || {
            let heal = |_| {
                let reconnects = pair.nodes[master].replicated("reconnects");
                let since = Instant::now();
                assert!(
                    pair.reset_links() > 0,
                    "nothing was reset: does this kernel have INET_DIAG_DESTROY?"
                );
                wait_for("the link is up again", PATIENCE, || {
                    let stats = pair.nodes[master].replication()?;
                    let again = stats.get("reconnects")?.parse::<u64>().ok()? > reconnects;
                    (again && stats.get("link")? == "up").then_some(since.elapsed())
                })
            };
            (0..rounds(200, share)).map(heal).collect::<Vec<_>>()
        });
        (times, writer.join().expect("the writer"))
    });
    let converged = pair.wait_converged(PATIENCE);
    let copied = copies() - before;
    let times = Times::new(times);
    vec![Row {
        what: "link resets under writes: healed".to_owned(),
        anchor: "repcached never reconnects",
        must: "each within 500 ms, 0 full copies",
        measured: format!("{}; {copied} full copies; {converged} of {written} items on both", times.text()),
        met: millis(times.at(1.0)) <= 500.0 && copied == 0 && converged == written,
    }]
}

fn burst(_share: f64) -> Vec<Row> {
    const COUNT: usize = 1_000_000;
    let mut setup = setup();
    setup.memory = 1024;
    let pair = setup.start();
    let master = pair.wait_paired();
    let reconnects = || pair.nodes.iter().map(|node| node.replicated("reconnects")).sum::<u64>();
    let before = reconnects();
    let mut client = pair.nodes[master].client();
    let since = Instant::now();
    let mut chunk = Vec::new();
    for index in 0..COUNT {
        chunk.extend(set_request(&format!("burst-{index}"), b"0123456789", true));
        if chunk.len() > 1 << 20 || index + 1 == COUNT {
            client.send(&chunk).expect("the master takes the burst");
            chunk.clear();
        }
    }
    client.version().expect("the burst is done");
    let sent = since.elapsed();
    let done = Instant::now();
    let items = pair.wait_converged(2 * PATIENCE);
    let converged = done.elapsed();
    let broken = reconnects() - before;
    vec![Row {
        what: "burst of 1,000,000 pipelined sets".to_owned(),
        anchor: "repcached cuts the link at 20,000",
        must: "pair holds, converged 5 s after the burst",
        measured: format!(
            "burst took {:.2} s, converged {:.2} s after it with {items} items; link lost {broken} times",
            sent.as_secs_f64(),
            converged.as_secs_f64()
        ),
        met: converged <= Duration::from_secs(5) && broken == 0 && items == COUNT as u64,
    }]
}

fn copy(_share: f64) -> Vec<Row> {
    const COUNT: u64 = 1_000_000;
    let mut setup = setup();
    setup.memory = 1024;
    let mut pair = setup.pair();
    pair.nodes[0].start();
    pair.nodes[0].wait_role("master");
    let plan =
        Plan { sets: 0.0, rate: Some(5000.0), duration: Duration::from_secs(4), ..plan(&pair, 0, COUNT) };
    tandemd::bench::run(&Plan { fill: true, duration: Duration::ZERO, ..plan.clone() }).expect("the items");
    let quiet = tandemd::bench::run(&plan).expect("load");
    let (copied, busy) = std::thread::scope(|scope| {
        let load = scope.spawn(|| tandemd::bench::run(&plan).expect("load"));
        // The load has begun before the copy does.
        std::thread::sleep(Duration::from_millis(200));
        pair.nodes[1].start();
        let copied = wait_for("the copy is complete", 2 * PATIENCE, || {
            let stats = pair.nodes[1].replication()?;
            (stats.get("role")? == "backup").then(Instant::now)
        });
        let listening = copied - pair.nodes[1].started();
        (listening, load.join().expect("load"))
    });
    let items = pair.wait_converged(PATIENCE);
    let rise = (busy.gets.p99_us - quiet.gets.p99_us) / 1e3;
    vec![Row {
        what: "full copy of 1,000,000 small items, source under load".to_owned(),
        anchor: "repcached 8.6 s, source stalls 95 ms",
        must: "≤ 3 s, source get p99 rises by ≤ 1 ms",
        measured: format!(
            "{:.2} s from the start of the empty node, {items} items; get p99 {:.2} ms → {:.2} ms, max {:.1} ms",
            copied.as_secs_f64(),
            quiet.gets.p99_us / 1e3,
            busy.gets.p99_us / 1e3,
            busy.gets.max_us / 1e3
        ),
        met: copied <= Duration::from_secs(3) && rise <= 1.0 && items == COUNT,
    }]
}

/// A load on one node.
fn plan(pair: &Pair, index: usize, keys: u64) -> Plan {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        plan: Plan,
    }
    let plan = Defaults::parse_from(["bench", &pair.nodes[index].address().to_string()]).plan;
    Plan { keys, connections: 10, ..plan }
}

fn switchover(share: f64) -> Vec<Row> {
    let pair = setup().start();
    pair.wait_paired();
    let stop = AtomicBool::new(false);
    let counters: Vec<Counter> = (0..4).map(|index| Counter::new(&pair, index)).collect();
    let count = rounds(100, share);
    let pauses = std::thread::scope(|scope| {
        for (index, counter) in counters.iter().enumerate() {
            let client = pair.nodes[index % 2].client();
            let stop = &stop;
            scope.spawn(move || counter.run(client, stop));
        }
        guarded(&stop, || {
            let mut pauses = Vec::new();
            for _ in 0..count {
                pair.switch_over(|| {
                    counters.iter().for_each(|counter| counter.pause_us.store(0, Ordering::Relaxed))
                });
                let longest = counters.iter().map(|counter| counter.pause_us.load(Ordering::Relaxed)).max();
                pauses.push(Duration::from_micros(longest.unwrap_or(0)));
            }
            pauses
        })
    });
    let sum = |pick: fn(&Counter) -> &AtomicU64| {
        counters.iter().map(|one| pick(one).load(Ordering::Relaxed)).sum::<u64>()
    };
    let (done, errors, wrong) = (sum(|one| &one.done), sum(|one| &one.errors), sum(|one| &one.wrong));
    let pauses = Times::new(pauses);
    vec![Row {
        what: "switchovers under `incr` load from clients on both nodes".to_owned(),
        anchor: "clients see errors",
        must: "0 errors, 0 lost, 0 duplicated, pause p99 ≤ 20 ms",
        measured: format!("{errors} errors, {wrong} lost or duplicated of {done}; pause {}", pauses.text()),
        met: errors == 0 && wrong == 0 && millis(pauses.at(0.99)) <= 20.0,
    }]
}

/// A client that counts, and knows what the count must be.
struct Counter {
    key: String,
    pause_us: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
}

impl Counter {
    fn new(pair: &Pair, index: usize) -> Self {
        let key = format!("counter-{index}");
        pair.nodes[0].client().set(&key, b"0").expect("a set");
        let zero = || AtomicU64::new(0);
        Self { key, pause_us: zero(), done: zero(), errors: zero(), wrong: zero() }
    }

    fn run(&self, mut client: Client, stop: &AtomicBool) {
        let mut expected = 0;
        while !stop.load(Ordering::Relaxed) {
            let since = Instant::now();
            let answer = client.incr(&self.key, 1);
            self.pause_us.fetch_max(since.elapsed().as_micros() as u64, Ordering::Relaxed);
            expected += 1;
            match answer {
                Ok(Some(now)) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    self.wrong.fetch_add(now.abs_diff(expected), Ordering::Relaxed);
                    expected = now;
                }
                failed => {
                    eprintln!("incr {}: {failed:?}", self.key);
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    expected -= 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}

/// Does something while other threads run, and stops them whatever comes of it.
fn guarded<T>(stop: &AtomicBool, action: impl FnOnce() -> T) -> T {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
    stop.store(true, Ordering::Relaxed);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn idle(share: f64) -> Vec<Row> {
    let pair = setup().start();
    pair.wait_paired();
    let usage = || [0, 1].map(|index| Usage::of(pair.nodes[index].pid()).expect("the process"));
    let before = usage();
    let time = Duration::from_secs(rounds(20, share).max(5) as u64);
    std::thread::sleep(time);
    let after = usage();
    let percent = [0, 1]
        .map(|index| 100.0 * after[index].since(&before[index]).cpu().as_secs_f64() / time.as_secs_f64());
    let resident = after.map(|usage| usage.resident_bytes as f64 / 1e6);
    vec![Row {
        what: "idle pair: CPU of each node".to_owned(),
        anchor: "–",
        must: "≤ 0.5 % of a core each",
        measured: format!(
            "{:.2} % and {:.2} % over {} s; {:.1} MB and {:.1} MB resident",
            percent[0],
            percent[1],
            time.as_secs(),
            resident[0],
            resident[1]
        ),
        met: percent.iter().all(|percent| *percent <= 0.5),
    }]
}

fn outage(share: f64) -> Vec<Row> {
    backup_away(share, Duration::ZERO)
}

fn long_outage(share: f64) -> Vec<Row> {
    backup_away(share, Duration::from_secs(rounds(600, share) as u64))
}

/// A backup that hangs while a tenth of the items is overwritten, for at least so long: what its catch-up costs.
fn backup_away(share: f64, time: Duration) -> Vec<Row> {
    const VALUE_BYTES: usize = 1000;
    let items = rounds(1_000_000, share);
    let mut setup = setup().flag("--backlog=16");
    setup.memory = 2048;
    let pair = setup.start();
    let master = pair.wait_paired();
    let value = [b'.'; VALUE_BYTES];
    let write = |indices: &[usize]| {
        let mut client = pair.nodes[master].client();
        for batch in indices.chunks(200) {
            let requests =
                batch.iter().flat_map(|index| set_request(&format!("item-{index}"), &value, false));
            let requests: Vec<u8> = requests.collect();
            // A machine that stands still makes the master refuse some: then they are written again.
            wait_for("sets", PATIENCE, || {
                client.send(&requests).expect("sets");
                let stored = batch.iter().filter(|_| client.line().expect("an answer") == "STORED");
                (stored.count() == batch.len()).then_some(())
            });
        }
    };
    write(&(0..items).collect::<Vec<_>>());
    pair.wait_converged(4 * PATIENCE);
    let copies = pair.nodes[1 - master].replicated("full_copies");
    let memory = || Usage::of(pair.nodes[master].pid()).expect("the process").resident_bytes;
    let changed: Vec<usize> = (0..items / 10).map(|index| index * 10).collect();
    // The same writes with the backup there: what they cost by themselves.
    let empty = memory();
    write(&changed);
    write(&changed);
    pair.wait_converged(4 * PATIENCE);

    pair.nodes[1 - master].freeze();
    let since = Instant::now();
    // Written to before the outage, the backlog is full; what grows from here on is what the outage costs.
    let before = memory();
    write(&changed);
    let mut client = pair.nodes[master].client();
    let deleted = items / 1000;
    (0..deleted)
        .for_each(|index| assert!(client.delete(&format!("item-{}", index * 10 + 1)).expect("a delete")));
    // Spread over the time that there is.
    for (nth, batch) in changed.chunks(1000).enumerate() {
        let due = time.mul_f64(1000.0 * (nth + 1) as f64 / changed.len() as f64);
        std::thread::sleep(due.saturating_sub(since.elapsed()));
        write(batch);
    }
    let (away, grown) = (since.elapsed(), memory().saturating_sub(before));
    let sent = pair.nodes[master].replicated("bytes_sent");
    let since = Instant::now();
    pair.nodes[1 - master].thaw();
    let left = pair.wait_converged(4 * PATIENCE);
    let took = since.elapsed();
    let sent = pair.nodes[master].replicated("bytes_sent") - sent;
    let copies = pair.nodes[1 - master].replicated("full_copies") - copies;
    let bytes = changed.len() * (VALUE_BYTES + 34) + deleted * 24;
    let ratio = sent as f64 / bytes as f64;
    vec![Row {
        what: format!(
            "{items} items of 1,000 bytes, a tenth overwritten twice while the backup hangs{}, backlog 16 MB",
            if time.is_zero() { String::new() } else { format!(" for {} s", away.as_secs()) }
        ),
        anchor: "a full copy",
        must: "≤ 1.3 × what was changed, no copy",
        measured: format!(
            "{ratio:.2} × ({:.0} MB for {:.0} MB), {:.2} s, {copies} copies, {left} items on both; master grew by {:.1} MB, \
             by {:.1} MB for the same writes with the backup there",
            sent as f64 / 1e6,
            bytes as f64 / 1e6,
            took.as_secs_f64(),
            grown as f64 / 1e6,
            before.saturating_sub(empty) as f64 / 1e6
        ),
        met: ratio <= 1.3 && copies == 0 && left == (items - deleted) as u64,
    }]
}

/// Both sides of a cut cable take writes; what is on both afterwards, and how soon.
fn heal(share: f64) -> Vec<Row> {
    const WRITES: usize = 200;
    let Some(cables) = Cables::new() else {
        eprintln!("not measured: only root can make network namespaces");
        return Vec::new();
    };
    let mut pair = cables.pair(setup());
    pair.start();
    let count = rounds(200, share);
    let (mut times, mut lost) = (Vec::new(), 0);
    for round in 0..count {
        let old = pair.wait_synced();
        cables.cut();
        pair.nodes[1 - old].wait_role("master");
        let mut keys = Vec::new();
        for node in [old, 1 - old] {
            let mut client = pair.nodes[node].client();
            wait_for("both sides take writes", PATIENCE, || client.set("open", b"yes").ok());
            for index in 0..WRITES {
                let key = format!("side-{node}-{round}-{index}");
                client.set(&key, b"v").expect("a set");
                client.set(&format!("both-{index}"), format!("{node}").as_bytes()).expect("a set");
                keys.push(key);
            }
        }
        let since = Instant::now();
        cables.mend();
        pair.wait_converged(PATIENCE);
        times.push(since.elapsed());
        for node in 0..2 {
            let mut client = pair.nodes[node].client();
            for chunk in keys.chunks(100) {
                let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
                lost += chunk.len() - client.get_many(&chunk).expect("a get").len();
            }
        }
    }
    let copies = pair.nodes.iter().map(|node| node.replicated("full_copies")).sum::<u64>();
    let times = Times::new(times);
    vec![Row {
        what: "partition with writes on both sides: healed".to_owned(),
        anchor: "Valkey discards one side; repcached differs for ever",
        must: "each within 5 s, nothing lost but to newer writes of a key",
        measured: format!(
            "{}; {lost} lost of {}; {} copies",
            times.text(),
            count * 2 * WRITES,
            copies.saturating_sub(2)
        ),
        met: millis(times.at(1.0)) <= 5000.0 && lost == 0,
    }]
}
