//! What clients of a pair see while its master is killed: answers and errors, a fiftieth of a second at a time.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tandemd::bench::client::{Client, Error};

use crate::harness::{PATIENCE, Setup};
use crate::plot;
use crate::table::markdown;

/// Clients, each with one request at a time.
const CLIENTS: usize = 16;
/// Between a client's requests, if they are answered at once.
const PAUSE: Duration = Duration::from_millis(2);
const STEP: Duration = Duration::from_millis(20);
const KILLED: Duration = Duration::from_secs(2);
const BACK: Duration = Duration::from_secs(4);
const END: Duration = Duration::from_secs(7);

/// What was seen in each step.
struct Seen {
    answers: Vec<AtomicU32>,
    errors: Vec<AtomicU32>,
}

/// The table and the plot.
pub(crate) fn watch() -> (String, String) {
    let mut pair = Setup { threads: 1, ..Setup::new(env!("CARGO_BIN_EXE_tandemd")) }.start();
    let master = pair.wait_paired();
    let steps = (END.as_secs_f64() / STEP.as_secs_f64()).ceil() as usize;
    let counters = || (0..steps).map(|_| AtomicU32::new(0)).collect();
    let seen = Seen { answers: counters(), errors: counters() };
    let addresses = [0, 1].map(|node| pair.nodes[node].address());
    let start = Instant::now();
    let stop = AtomicBool::new(false);
    let (waits, killed, back) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (seen, stop) = (&seen, &stop);
                scope.spawn(move || client(number, addresses, start, seen, stop))
            })
            .collect();
        sleep_until(start + KILLED);
        let killed = start.elapsed();
        pair.nodes[master].kill_now();
        pair.nodes[master].kill();
        sleep_until(start + BACK);
        let back = start.elapsed();
        pair.nodes[master].start();
        sleep_until(start + END);
        stop.store(true, Ordering::Relaxed);
        let waits: Vec<Duration> =
            clients.into_iter().map(|client| client.join().expect("a client")).collect();
        (waits, killed, back)
    });
    pair.wait_paired_within(PATIENCE);
    let rates = |counts: &[AtomicU32]| -> Vec<f64> {
        counts.iter().map(|count| f64::from(count.load(Ordering::Relaxed)) / STEP.as_secs_f64()).collect()
    };
    let (answers, errors) = (rates(&seen.answers), rates(&seen.errors));
    let total = |rates: &[f64]| rates.iter().sum::<f64>() * STEP.as_secs_f64();
    let silent = answers.split(|rate| *rate > 0.0).map(<[f64]>::len).max().unwrap_or(0);
    let longest = waits.into_iter().max().unwrap_or_default();
    let rows = [
        ["answers".to_owned(), format!("{:.0}", total(&answers))],
        [
            "errors: the connections that the killed node had, and what was on its way in them".to_owned(),
            format!("{:.0}", total(&errors)),
        ],
        [
            "longest time without an answer to anybody, ms (steps of 20)".to_owned(),
            format!("{:.0}", silent as f64 * STEP.as_secs_f64() * 1e3),
        ],
        [
            "longest time a client waited for a successful answer, ms".to_owned(),
            format!("{:.0}", longest.as_secs_f64() * 1e3),
        ],
    ];
    let text = markdown(&["16 clients of both nodes, 7 seconds", ""], &rows.map(Vec::from));
    let moments = [
        (killed.as_secs_f64(), "kill -9 of the master".to_owned()),
        (back.as_secs_f64(), "it is started again".to_owned()),
    ];
    let note = "Default profile; 16 clients, eight at each node, a get and a set in turn; whoever fails goes to the other node";
    let plot = plot::timeline(
        "A failover as clients see it",
        note,
        STEP.as_secs_f64(),
        [&answers, &errors],
        &moments,
    );
    (text, plot)
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Sets and gets in turn until told to stop; at an error it goes to the other node. The longest time from the wish
/// for something to a success.
fn client(
    number: usize,
    addresses: [std::net::SocketAddr; 2],
    start: Instant,
    seen: &Seen,
    stop: &AtomicBool,
) -> Duration {
    let count = |counts: &[AtomicU32]| {
        if let Some(count) = counts.get((start.elapsed().as_secs_f64() / STEP.as_secs_f64()) as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut at = number % 2;
    let mut connection: Option<Client> = None;
    let mut wanted = Instant::now();
    let mut longest = Duration::ZERO;
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = &mut connection else {
            connection = Client::connect(addresses[at], Duration::from_secs(1)).ok();
            if connection.is_none() {
                count(&seen.errors);
                at = 1 - at;
                std::thread::sleep(Duration::from_millis(1));
            }
            continue;
        };
        let key = format!("client-{number}-{}", turn % 1000);
        let done = if turn % 2 == 0 { client.set(&key, b"value") } else { client.get(&key).map(drop) };
        match done {
            Ok(()) => {
                count(&seen.answers);
                longest = longest.max(wanted.elapsed());
                turn += 1;
                std::thread::sleep(PAUSE);
                wanted = Instant::now();
            }
            Err(error) => {
                count(&seen.errors);
                if matches!(error, Error::Io(_)) {
                    connection = None;
                    at = 1 - at;
                }
            }
        }
    }
    longest
}
