//! What the admin port and its page cost. Run it with `scripts/bench-admin.sh`.
//!
//! A pair on loopback under a closed-loop load; what clients pay is the CPU time of the workers' threads
//! per operation, from the kernel's own count in nanoseconds, in rounds that alternate: on a machine that
//! does other things, too, throughput says little and this says much.

#[path = "../tests/page/browser.rs"]
mod browser;
#[path = "../tests/pair/harness.rs"]
mod harness;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;
use harness::{Pair, Setup, wait_for};
use tandemd::bench;
use tandemd::bench::plan::Plan;

/// Pairs of rounds whose median counts.
const ROUNDS: usize = 61;
/// Of one round.
const OPERATIONS: u64 = 20_000;
/// Scrapes per second of a storm.
const STORM: u32 = 1000;

/// Measures what the admin port costs.
#[derive(clap::Parser, Debug)]
struct Arguments {
    /// Share of the rounds to make.
    #[arg(long, default_value_t = 1.0)]
    rounds: f64,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let rounds = ((ROUNDS as f64 * Arguments::parse().rounds).round() as usize).max(1);
    println!("| what | must | measured | |");
    println!("|---|---|---|---|");
    small();
    scrape();
    page();
    watched(rounds);
    storm(rounds);
}

fn row(what: &str, must: &str, measured: &str, met: bool) {
    println!("| {what} | {must} | {measured} | {} |", if met { "met" } else { "**missed**" });
}

fn setup() -> Setup {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_tandemd"));
    setup.threads = 1;
    setup
}

/// One request, one connection; the whole answer.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// What is asked of the programs themselves: size, memory, and how long a look takes.
fn small() {
    const MIB: f64 = 1048576.0;
    let bare = tempfile::NamedTempFile::new().expect("a file");
    let strip = std::process::Command::new("strip")
        .arg("-o")
        .args([bare.path(), env!("CARGO_BIN_EXE_tandemd").as_ref()])
        .status();
    assert!(strip.expect("strip, of binutils").success());
    let size = bare.path().metadata().expect("a file").len() as f64 / MIB;
    row("tandemd, stripped", "≤ 15 MiB", &format!("{size:.1} MiB"), size <= 15.0);

    let pair = Setup::new(env!("CARGO_BIN_EXE_tandemd")).start();
    let master = pair.wait_synced();
    let address = pair.nodes[master].admin_address().to_string();
    let mut times: Vec<f64> = (0..100)
        .map(|_| {
            let start = Instant::now();
            let look = std::process::Command::new(env!("CARGO_BIN_EXE_tandemctl"))
                .args(["status", "--server", &address])
                .stdout(std::process::Stdio::null())
                .status();
            assert!(look.expect("tandemctl").success());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let measured = format!("p50 {:.1} ms, p99 {:.1} ms", times[50], times[99]);
    row("`tandemctl status`, the whole process", "≤ 30 ms", &measured, times[50] <= 30.0);
    let resident = pair
        .nodes
        .each_ref()
        .map(|node| bench::process::Usage::of(node.pid()).expect("a process").resident_bytes as f64 / MIB);
    row(
        "resident memory of an idle node of a pair",
        "≤ 15 MiB",
        &format!("{:.1} and {:.1} MiB", resident[0], resident[1]),
        resident.iter().all(|mib| *mib <= 15.0),
    );
}

fn scrape() {
    let pair = setup().start();
    let master = pair.wait_synced();
    load(&pair, master);
    let address = pair.nodes[master].admin_address();
    let mut longest = 0;
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let start = Instant::now();
            longest = longest.max(ask(address, "/metrics").expect("an answer").len());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let [half, most] = [times[250], times[495]].map(|time| time.as_secs_f64() * 1e3);
    row(
        "a scrape of /metrics, with its connection",
        "≤ 2 ms",
        &format!("p50 {half:.2} ms, p99 {most:.2} ms"),
        half <= 2.0,
    );
    row("its answer", "≤ 64 KiB", &format!("{:.1} KiB", longest as f64 / 1024.0), longest <= 64 << 10);
}

fn page() {
    let pair = setup().start();
    let master = pair.wait_synced();
    let address = pair.nodes[master].admin_address();
    let bytes = ask(address, "/").expect("the page").len();
    row("the status page", "≤ 150 KiB", &format!("{:.1} KiB", bytes as f64 / 1024.0), bytes <= 150 << 10);
    if !browser::installed() {
        return;
    }
    let browser = browser::Browser::start();
    let mut paints: Vec<f64> = (0..9)
        .filter_map(|_| {
            browser.open(&format!("http://{address}/"));
            browser.wait_text("#overall", "In sync");
            browser
                .run("return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]")
                .as_f64()
        })
        .collect();
    paints.sort_by(f64::total_cmp);
    let half = paints[paints.len() / 2];
    let range = format!("p50 {half:.0} ms, {:.0} to {:.0} ms", paints[0], paints[paints.len() - 1]);
    row("its first contentful paint, headless Chromium", "≤ 300 ms", &range, half <= 300.0);
}

/// CPU nanoseconds of the threads whose names begin so, so far.
fn threads_cpu(pid: u32, of: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let cpu = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let schedule = std::fs::read_to_string(task.join("schedstat")).ok()?;
        let nanos = schedule.split_whitespace().next()?.parse::<u64>().ok()?;
        name.starts_with(of).then_some(nanos)
    });
    cpu.sum()
}

/// Those that serve clients.
fn workers_cpu(pid: u32) -> u64 {
    threads_cpu(pid, "tandem-")
}

/// One round of load; the workers' CPU nanoseconds per operation.
fn load(pair: &Pair, master: usize) -> f64 {
    let node = &pair.nodes[master];
    let target = node.address().to_string();
    let text =
        ["bench", &target, "-c", "20", "-k", "10000", "-n", &OPERATIONS.to_string()].map(str::to_owned);
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        plan: Plan,
    }
    let plan = Line::parse_from(text).plan;
    let before = workers_cpu(node.pid());
    let report = bench::run(&plan).expect("a load");
    let spent = workers_cpu(node.pid()) - before;
    assert_eq!(report.failures(), 0, "{report}");
    spent as f64 / report.operations as f64
}

/// The median of the ratios of rounds that follow each other, and how sure that is: half the width of the
/// middle half of them, over the root of their number.
fn compare(rounds: usize, mut without: impl FnMut() -> f64, mut with: impl FnMut() -> f64) -> (f64, f64) {
    let mut ratios: Vec<f64> = (0..rounds)
        .map(|round| {
            // Who comes first changes, too.
            if round.is_multiple_of(2) {
                let base = without();
                with() / base
            } else {
                let more = with();
                more / without()
            }
        })
        .collect();
    middle(&mut ratios)
}

fn middle(ratios: &mut [f64]) -> (f64, f64) {
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
    (at(0.5), (at(0.75) - at(0.25)) / 2.0 / (ratios.len() as f64).sqrt())
}

fn ratio(measured: (f64, f64)) -> String {
    format!("{:.3} (±{:.3})", measured.0, measured.1)
}

/// The admin port off, against on and looked at as usual: an open page, a scrape every second.
fn watched(rounds: usize) {
    let off = setup().flag("--admin").flag("off").start();
    let on = setup().start();
    let off_master = wait_for("a pair", harness::PATIENCE, || off.paired());
    let on_master = on.wait_synced();
    let address = on.nodes[on_master].admin_address();
    let end = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                for path in ["/status", "/samples?from=300", "/metrics"] {
                    let _an_answer = ask(address, path);
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        load(&off, off_master);
        load(&on, on_master);
        let measured = compare(rounds, || load(&off, off_master), || load(&on, on_master));
        end.store(true, Ordering::Relaxed);
        measured
    });
    row(
        "clients' CPU per operation, admin port on and looked at ÷ off",
        "≤ 1.01",
        &ratio(measured),
        measured.0 <= 1.01,
    );
}

/// As many scrapes as nobody needs. Each stormy round stands between two quiet ones: their mean is what it is
/// compared with, and they with each other, which says what such a comparison cannot tell.
fn storm(rounds: usize) {
    let pair = setup().start();
    let master = pair.wait_synced();
    let address = pair.nodes[master].admin_address();
    let (raging, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let (answered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let raged = AtomicU64::new(0);
    let before = pair.nodes[master].admin().history().expect("a history").len();
    let scraped = AtomicU64::new(0);
    let pid = pair.nodes[master].pid();
    let (measured, control) = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut due = Instant::now();
                while !end.load(Ordering::Relaxed) {
                    if !raging.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                        due = Instant::now();
                        continue;
                    }
                    due += Duration::from_secs(2) / STORM;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let counter = if ask(address, "/metrics").is_ok() { &answered } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load(&pair, master);
        let stormy = || {
            raging.store(true, Ordering::Relaxed);
            let (start, cpu) = (Instant::now(), threads_cpu(pid, "admin"));
            let cost = load(&pair, master);
            scraped.fetch_add(threads_cpu(pid, "admin") - cpu, Ordering::Relaxed);
            raging.store(false, Ordering::Relaxed);
            raged.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
            cost
        };
        let mut quiet = load(&pair, master);
        let (mut ratios, mut controls) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let loud = stormy();
            let after = load(&pair, master);
            ratios.push(loud / ((quiet + after) / 2.0));
            controls.push(after / quiet);
            quiet = after;
        }
        end.store(true, Ordering::Relaxed);
        (middle(&mut ratios), middle(&mut controls))
    });
    let per_second = answered.load(Ordering::Relaxed) as f64 / (raged.load(Ordering::Relaxed) as f64 / 1e6);
    row(
        &format!("clients' CPU per operation, {per_second:.0} scrapes a second ÷ none"),
        "nothing measurable",
        &ratio(measured),
        measured.0 - 2.0 * measured.1 <= (control.0 + 2.0 * control.1).max(1.0),
    );
    row("the same, none ÷ none", "–", &ratio(control), true);
    let each = scraped.load(Ordering::Relaxed) as f64 / answered.load(Ordering::Relaxed) as f64 / 1e3;
    row("CPU of the admin thread for a scrape of the storm", "–", &format!("{each:.0} µs"), true);
    let history = pair.nodes[master].admin().history().expect("a history");
    let happened = &history[before..];
    // On a machine that stands still now and then, something may.
    happened.iter().for_each(|event| eprintln!("{event:?}"));
    let events = happened.len();
    let lost = refused.load(Ordering::Relaxed);
    row(
        "meanwhile: clients' errors, scrapes without an answer, changes of role or link",
        "0, 0, 0",
        &format!("0, {lost}, {events}"),
        lost == 0 && events == 0,
    );
}
