//! CPU time per operation under the usual loads, and latency at a fixed rate.

use std::process::{Command, Stdio};
use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::plot;
use crate::process::{Server, cpu_per_operation, plan};
use crate::table::{Spread, markdown};

/// A load, and the ratios that must be reached.
struct Load {
    name: &'static str,
    /// For `tandemctl bench`; keys are 22 bytes of prefix and ten digits.
    flags: &'static str,
    /// The same for redis-benchmark, where redis is the yardstick.
    redis: Option<Redis>,
    /// With epoll, and with io_uring: of memcached's; if that is older than 1.6.45, pipelined ones of redis's.
    must: [&'static str; 2],
}

/// Commands of redis-benchmark, and of ten requests how many are of each.
struct Redis {
    pipeline: u32,
    commands: &'static [(u32, &'static [&'static str])],
}

const KEY: &str = "12345678901234567890__rand_int__";
const VALUE: &str = concat!(
    "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
);

const GET: &[&str] = &["GET", KEY];
const SET: &[&str] = &["SET", KEY, VALUE];
const MGET: &[&str] =
    &["MGET", KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY];

const LOADS: [Load; 9] = [
    Load {
        name: "GET",
        flags: "-c 50 -s 0 -k 100000",
        redis: Some(Redis { pipeline: 1, commands: &[(10, GET)] }),
        must: ["≤ 0.84", "≤ 0.73"],
    },
    Load {
        name: "SET",
        flags: "-c 50 -s 100 -k 100000",
        redis: Some(Redis { pipeline: 1, commands: &[(10, SET)] }),
        must: ["≤ 0.85", "≤ 0.74"],
    },
    Load {
        name: "90/10 zipf 0.99, 1M keys",
        flags: "-c 50 -s 10 -k 1000000 -D zipf:0.99",
        redis: None,
        must: ["≤ 0.85", "≤ 0.76"],
    },
    Load {
        name: "GET, pipeline 16",
        flags: "-c 50 -s 0 -k 100000 -P 16",
        redis: Some(Redis { pipeline: 16, commands: &[(10, GET)] }),
        must: ["≤ 0.42", "≤ 0.36"],
    },
    Load {
        name: "multi-get of 16",
        flags: "-c 50 -s 0 -k 100000 -m 16",
        redis: Some(Redis { pipeline: 1, commands: &[(10, MGET)] }),
        must: ["≤ 0.48", "≤ 0.42"],
    },
    Load {
        name: "SET, pipeline 16",
        flags: "-c 50 -s 100 -k 100000 -P 16",
        redis: Some(Redis { pipeline: 16, commands: &[(10, SET)] }),
        must: ["≤ 0.60", "≤ 0.48"],
    },
    Load {
        name: "90/10, pipeline 16",
        flags: "-c 50 -s 10 -k 100000 -P 16",
        redis: Some(Redis { pipeline: 16, commands: &[(9, GET), (1, SET)] }),
        must: ["≤ 0.55", "≤ 0.45"],
    },
    Load { name: "GET of 10 KiB", flags: "-c 50 -s 0 -k 5000 -v 10240", redis: None, must: ["< 1", "< 1"] },
    Load {
        name: "GET, 1,000 connections",
        flags: "-c 1000 -s 0 -k 100000",
        redis: None,
        must: ["< 1", "< 1"],
    },
];

pub(crate) const PREFIX: &str = "1234567890123456789012";

/// Places of the servers in what was seen of them.
const EPOLL: usize = 0;
const URING: usize = 1;
const MEMCACHED: usize = 2;
const REDIS: usize = 3;

/// The table and the plot.
pub(crate) fn compare(rounds: usize, each: Duration) -> (String, String) {
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    let no_uring = Server::why_no_uring();
    for load in &LOADS {
        let seen = costs(load, no_uring.is_none(), rounds, each);
        let ratio = |one: usize, other: usize| {
            let pairs = seen[one].iter().zip(&seen[other]);
            (!seen[one].is_empty() && !seen[other].is_empty())
                .then(|| Spread::of(pairs.map(|(ours, theirs)| ours / theirs)))
        };
        let shown = |spread: Option<Spread>| spread.map_or_else(|| "–".to_owned(), |spread| spread.text());
        let absolute =
            |at: usize| shown((!seen[at].is_empty()).then(|| Spread::of(seen[at].iter().copied())));
        let mut row = vec![load.name.to_owned(), absolute(MEMCACHED)];
        for (at, must) in [EPOLL, URING].into_iter().zip(&load.must) {
            row.push(absolute(at));
            row.extend([MEMCACHED, REDIS].map(|other| shown(ratio(at, other))));
            row.push((*must).to_owned());
        }
        println!("{}", row.join(" | "));
        rows.push(row);
        let memcached = ratio(EPOLL, MEMCACHED).expect("both ran");
        bars.push((load.name.to_owned(), memcached.median, ratio(EPOLL, REDIS).map(|ratio| ratio.median)));
    }
    let head = [
        "load",
        "memcached, µs",
        "epoll, µs",
        "of memcached",
        "of redis",
        "must",
        "io_uring, µs",
        "of memcached",
        "of redis",
        "must",
    ];
    let mut text = markdown(&head, &rows);
    if let Some(why) = no_uring {
        text += &format!("\nNothing was measured with io_uring, which is not to be had here: {why}\n");
    }
    (text, plot::ratios("CPU time per operation, Tandem's share", &bars))
}

/// CPU microseconds per operation of each server in each round.
fn costs(load: &Load, with_uring: bool, rounds: usize, each: Duration) -> [Vec<f64>; 4] {
    // Everybody starts afresh, so no load meets what another one left.
    let mut servers = vec![(EPOLL, Server::tandem(1024)), (MEMCACHED, Server::memcached(1024))];
    if with_uring {
        servers.push((URING, Server::tandem_on_uring(1024)));
    }
    let plans: Vec<_> = servers
        .iter()
        .map(|(at, server)| {
            let plan = Plan { key_prefix: PREFIX.to_owned(), ..plan(&server.address(), load.flags) };
            tandemd::bench::run(&Plan { sets: 100.0, ..plan.filling() }).expect("the keys");
            (*at, Plan { duration: each, ..plan }, server.pid())
        })
        .collect();
    let redis = load.redis.as_ref().map(|redis| {
        let server = Server::redis();
        redis_benchmark(&server, 400_000, 16, SET);
        (server, redis)
    });
    let mut seen: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        let mut costs = Vec::new();
        for (at, plan, pid) in &plans {
            costs.push((*at, cpu_per_operation(plan, &[*pid])));
        }
        if let Some((server, redis)) = &redis {
            let operations =
                (each.as_secs_f64() * if redis.pipeline > 1 { 500_000.0 } else { 80_000.0 }) as u64;
            let cost = redis.commands.iter().map(|(tenths, words)| {
                let operations = operations * u64::from(*tenths) / 10;
                f64::from(*tenths) / 10.0 * redis_benchmark(server, operations, redis.pipeline, words)
            });
            costs.push((REDIS, cost.sum()));
        }
        // The first round warms up.
        if round > 0 {
            for (at, cost) in costs {
                seen[at].push(cost);
            }
        }
    }
    seen
}

/// CPU microseconds of `servers` for a set that one of them is asked for.
pub(crate) fn redis_sets(asked: &Server, servers: &[&Server], operations: u64, pipeline: u32) -> f64 {
    let before: Vec<_> = servers.iter().map(|server| server.usage()).collect();
    redis_benchmark(asked, operations, pipeline, &["SET", KEY, VALUE]);
    let used = servers.iter().zip(&before).map(|(server, before)| server.usage().since(before).cpu());
    used.sum::<Duration>().as_micros() as f64 / operations as f64
}

/// CPU microseconds per operation of redis: its generator makes the requests, `/proc` says what the
/// server used.
fn redis_benchmark(server: &Server, operations: u64, pipeline: u32, words: &[&str]) -> f64 {
    let before = server.usage();
    let status = Command::new("redis-benchmark")
        .args(["-p", &server.port.to_string(), "-c", "50", "-r", "100000", "-q"])
        .args(["-n", &operations.to_string(), "-P", &pipeline.to_string()])
        .args(words)
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("redis-benchmark").success(), "redis-benchmark failed");
    server.usage().since(&before).cpu().as_micros() as f64 / operations as f64
}

/// Latency of gets at a fixed rate far below saturation.
pub(crate) fn latency(rounds: usize, each: Duration) -> String {
    let servers = [Server::tandem(1024), Server::memcached(1024)];
    let plans = servers.each_ref().map(|server| {
        let plan = plan(&server.address(), "-c 50 -s 10 -k 100000 -r 20000");
        tandemd::bench::run(&plan.filling()).expect("the keys");
        Plan { duration: each, ..plan }
    });
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (list, plan) in seen.iter_mut().zip(&plans) {
            list.push(tandemd::bench::run(plan).expect("a load").gets);
        }
    }
    let rows: Vec<Vec<String>> = servers
        .iter()
        .zip(&seen)
        .map(|(server, list)| {
            let spread =
                |of: fn(&tandemd::bench::report::Latency) -> f64| Spread::of(list.iter().map(of)).text();
            vec![
                server.name.to_owned(),
                spread(|latency| latency.p50_us),
                spread(|latency| latency.p99_us),
                spread(|latency| latency.p999_us),
            ]
        })
        .collect();
    markdown(&["server", "p50, µs", "p99, µs", "p99.9, µs"], &rows)
}
