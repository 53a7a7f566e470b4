//! Every answer is explained by one order of all requests, whichever node was asked.
//!
//! `TANDEM_LINEAR_REQUESTS=n` sends n requests (a million unless told).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tandemd::bench::client::Client;

use crate::checker::{Answer, Call, Request, check};
use crate::harness::{PATIENCE, Pair};
use crate::setup;

const CLIENTS: usize = 8;
const KEYS: usize = 512;
/// Requests that are sent at once, each to another key.
const BATCH: usize = 32;

type Histories = BTreeMap<usize, Vec<Request>>;

/// What all clients have in common.
struct Run {
    began: Instant,
    /// Makes values that are never written twice.
    values: AtomicU64,
    stop: AtomicBool,
}

impl Run {
    fn new() -> Self {
        Self { began: Instant::now(), values: AtomicU64::new(1), stop: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// A call for `key`; half of the keys hold numbers.
    fn call(&self, key: usize, random: &mut fastrand::Rng, seen: Option<&(String, u64)>) -> Call {
        let number = self.values.fetch_add(1, Ordering::Relaxed);
        let numeric = key.is_multiple_of(2);
        let value = if numeric { (number * 1_000_000).to_string() } else { format!("v{number};") };
        match (random.u32(0..100), seen) {
            (0..35, _) => Call::Get,
            (35..50, _) => Call::Set(value),
            (50..58, _) => Call::Add(value),
            (58..73, Some((seen, _))) => Call::Cas { seen: seen.clone(), value },
            (58..85, _) if numeric => Call::Incr(random.u64(1..9)),
            (58..85, _) => Call::Append(format!("{number},")),
            (85..95, _) => Call::Delete,
            _ => Call::Touch,
        }
    }
}

fn render(key: usize, call: &Call, unique: u64, text: &mut String) {
    let _ = match call {
        Call::Get => write!(text, "gets k{key}\r\n"),
        Call::Set(value) => write!(text, "set k{key} 0 0 {}\r\n{value}\r\n", value.len()),
        Call::Add(value) => write!(text, "add k{key} 0 0 {}\r\n{value}\r\n", value.len()),
        Call::Cas { value, .. } => write!(text, "cas k{key} 0 0 {} {unique}\r\n{value}\r\n", value.len()),
        Call::Append(value) => write!(text, "append k{key} 0 0 {}\r\n{value}\r\n", value.len()),
        Call::Incr(delta) => write!(text, "incr k{key} {delta}\r\n"),
        Call::Delete => write!(text, "delete k{key}\r\n"),
        Call::Touch => write!(text, "touch k{key} 10000\r\n"),
    };
}

/// Reads an answer, and the CAS unique that came with it.
fn read(client: &mut Client) -> std::io::Result<(Answer, u64)> {
    let line = client.line()?;
    let plain = |answer| Ok((answer, 0));
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["END"] => plain(Answer::Value(None)),
        ["VALUE", _, _, len, unique] => {
            let len: usize = len.parse().expect("a length");
            let bytes = client.bytes(len + 2)?;
            assert_eq!(client.line()?, "END");
            let value = String::from_utf8(bytes).expect("text").trim_end().to_owned();
            Ok((Answer::Value(Some(value)), unique.parse().expect("a CAS unique")))
        }
        ["STORED" | "DELETED" | "TOUCHED"] => plain(Answer::Done),
        ["NOT_STORED" | "NOT_FOUND"] => plain(Answer::Not),
        ["EXISTS"] => plain(Answer::Exists),
        ["SERVER_ERROR", ..] => plain(Answer::Unknown),
        [number] => plain(Answer::Number(number.parse().unwrap_or_else(|_| panic!("an answer: {line}")))),
        _ => panic!("an answer: {line}"),
    }
}

/// One client's requests, until there are enough or its connection ends.
fn talk(
    run: &Run,
    address: SocketAddr,
    seed: u64,
    count: usize,
    call: impl Fn(usize, &mut fastrand::Rng, Option<&(String, u64)>) -> Call,
) -> Histories {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut histories = Histories::new();
    let mut seen: BTreeMap<usize, (String, u64)> = BTreeMap::new();
    let Ok(mut client) = Client::connect(address, PATIENCE) else { return histories };
    let mut done = 0;
    while done < count && !run.stop.load(Ordering::Relaxed) {
        let first = random.usize(0..KEYS);
        let step = 2 * random.usize(0..KEYS / 2) + 1;
        let mut text = String::new();
        let mut calls = Vec::with_capacity(BATCH);
        for nth in 0..BATCH {
            let key = (first + nth * step) % KEYS;
            let call = call(key, &mut random, seen.get(&key));
            render(key, &call, seen.get(&key).map_or(0, |seen| seen.1), &mut text);
            calls.push((key, call));
        }
        let sent = run.now();
        let mut broken = client.send(text.as_bytes()).is_err();
        for (key, call) in calls {
            let answer = if broken { None } else { read(&mut client).ok() };
            broken |= answer.is_none();
            let (answer, unique) = answer.unwrap_or((Answer::Unknown, 0));
            if let Answer::Value(Some(value)) = &answer {
                seen.insert(key, (value.clone(), unique));
            }
            let request = Request { call, answer, sent, answered: run.now() };
            histories.entry(key).or_default().push(request);
        }
        done += BATCH;
        if broken {
            break;
        }
    }
    histories
}

/// All clients at once, one half at each node.
fn talk_all(
    run: &Run,
    pair: &Pair,
    count: usize,
    call: impl Fn(usize, &mut fastrand::Rng, Option<&(String, u64)>) -> Call + Sync,
    meanwhile: impl FnOnce(),
) -> Histories {
    let mut all = Histories::new();
    std::thread::scope(|scope| {
        let call = &call;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|nth| {
                let address = pair.nodes[nth % 2].address();
                scope.spawn(move || talk(run, address, nth as u64 + 1, count / CLIENTS, call))
            })
            .collect();
        meanwhile();
        for client in clients {
            for (key, history) in client.join().expect("a client") {
                all.entry(key).or_default().extend(history);
            }
        }
    });
    all
}

#[test]
fn requests_to_either_node_are_linearizable() {
    let count = std::env::var("TANDEM_LINEAR_REQUESTS").ok().and_then(|text| text.parse().ok());
    let count = count.unwrap_or(1_000_000);
    let pair = setup().start();
    let run = Run::new();
    let histories = talk_all(&run, &pair, count, |key, random, seen| run.call(key, random, seen), || ());
    let talked = run.began.elapsed();
    let requests: usize = histories.values().map(Vec::len).sum();
    let unknown = histories.values().flatten().filter(|request| request.answer == Answer::Unknown).count();
    for (key, history) in &histories {
        if let Err(why) = check(history) {
            panic!("key k{key}, {} requests: {why}", history.len());
        }
    }
    println!(
        "{requests} requests in {talked:.1?}, {unknown} without an answer; checked in {:.1?}",
        run.began.elapsed() - talked
    );
    assert!(requests >= count - CLIENTS * BATCH, "every request was made: {requests}");
    // A machine that stands still may make a few of them wait for too long.
    assert!(unknown * 100 < requests, "{unknown} of {requests} have no answer");
    pair.wait_paired();
}

/// With `--ack applied --ack-strict`, a write that was acknowledged is there after kill -9, and nothing
/// older than it.
#[test]
fn across_a_failover_nothing_that_both_nodes_acknowledged_is_lost() {
    let flags = ["--ack", "applied", "--ack-strict", "--ack-timeout", "10s"];
    let mut pair = flags.into_iter().fold(setup(), |setup, flag| setup.flag(flag)).start();
    for round in 0..3 {
        pair.wait_synced();
        pair.nodes[0].client().flush_all().expect("a flush");
        let master = pair.wait_synced();
        let run = Run::new();
        let process = pair.nodes[master].pid();
        let kill = || {
            std::thread::sleep(Duration::from_millis(300 + 100 * round));
            let process = rustix::process::Pid::from_raw(process as i32).expect("a process id");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("ours");
            run.stop.store(true, Ordering::Relaxed);
        };
        let simple = |_: usize, random: &mut fastrand::Rng, _: Option<&(String, u64)>| {
            let number = run.values.fetch_add(1, Ordering::Relaxed);
            if random.u32(0..4) == 0 { Call::Delete } else { Call::Set(format!("v{number};")) }
        };
        let histories = talk_all(&run, &pair, usize::MAX, simple, kill);
        pair.nodes[master].kill();
        let survivor = 1 - master;
        pair.nodes[survivor].wait_role("master");
        let mut client = pair.nodes[survivor].client();
        let (mut acknowledged, mut lost) = (0, Vec::new());
        for (key, history) in &histories {
            let value = client.get(&format!("k{key}")).expect("a get");
            let value = value.map(|bytes| String::from_utf8(bytes).expect("text"));
            acknowledged += history.iter().filter(|request| request.answer == Answer::Done).count();
            let known = history.iter().filter(|request| matches!(request.answer, Answer::Done | Answer::Not));
            let newest = known.map(|request| request.sent).max().unwrap_or(0);
            // Whatever made this value must not have been over before the last acknowledged write began.
            let explained = history.iter().any(|request| {
                let made = match &request.call {
                    Call::Set(made) => value.as_ref() == Some(made),
                    _ => value.is_none(),
                };
                made && (request.answered >= newest || request.answer == Answer::Unknown)
            });
            if !explained && newest > 0 {
                lost.push((key, value));
            }
        }
        println!("round {round}: {acknowledged} writes acknowledged before kill -9, {} lost", lost.len());
        assert!(acknowledged > 0 && lost.is_empty(), "round {round}: {lost:?}");
        pair.nodes[master].start();
    }
}
