//! CPU time per operation under the usual loads, and latency at a fixed rate.

use std::process::{Command, Stdio};
use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::plot;
use crate::process::{Server, cpu_per_operation, plan};
use crate::table::{Spread, markdown};

/// A load, and the ratio that must be reached.
struct Load {
    name: &'static str,
    /// For `tandemctl bench`; keys are 22 bytes of prefix and ten digits.
    flags: &'static str,
    /// The same for redis-benchmark, where redis is the yardstick: pipeline, command.
    redis: Option<(u32, &'static [&'static str])>,
    goal: &'static str,
}

const KEY: &str = "12345678901234567890__rand_int__";
const VALUE: &str = concat!(
    "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
);

const LOADS: [Load; 9] = [
    Load { name: "GET", flags: "-c 50 -s 0 -k 100000", redis: Some((1, &["GET", KEY])), goal: "≤ 0.84" },
    Load {
        name: "SET",
        flags: "-c 50 -s 100 -k 100000",
        redis: Some((1, &["SET", KEY, VALUE])),
        goal: "≤ 0.85",
    },
    Load {
        name: "90/10 zipf 0.99, 1M keys",
        flags: "-c 50 -s 10 -k 1000000 -D zipf:0.99",
        redis: None,
        goal: "≤ 0.85",
    },
    Load {
        name: "GET, pipeline 16",
        flags: "-c 50 -s 0 -k 100000 -P 16",
        redis: Some((16, &["GET", KEY])),
        goal: "≤ 0.42 of redis",
    },
    Load {
        name: "multi-get of 16",
        flags: "-c 50 -s 0 -k 100000 -m 16",
        redis: Some((
            1,
            &["MGET", KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY],
        )),
        goal: "≤ 0.48",
    },
    Load {
        name: "SET, pipeline 16",
        flags: "-c 50 -s 100 -k 100000 -P 16",
        redis: Some((16, &["SET", KEY, VALUE])),
        goal: "≤ 0.60",
    },
    Load { name: "90/10, pipeline 16", flags: "-c 50 -s 10 -k 100000 -P 16", redis: None, goal: "≤ 0.55" },
    Load { name: "GET of 10 KiB", flags: "-c 50 -s 0 -k 5000 -v 10240", redis: None, goal: "< 1" },
    Load { name: "GET, 1,000 connections", flags: "-c 1000 -s 0 -k 100000", redis: None, goal: "< 1" },
];

const PREFIX: &str = "1234567890123456789012";

/// The table and the plot.
pub(crate) fn compare(rounds: usize, each: Duration) -> (String, String) {
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for load in &LOADS {
        // Everybody starts afresh, so no load meets what another one left.
        let servers = [Server::tandem(1024), Server::memcached(1024)];
        let redis = load.redis.map(|(pipeline, words)| (Server::redis(), pipeline, words));
        let plans = servers.each_ref().map(|server| {
            let plan = Plan { key_prefix: PREFIX.to_owned(), ..plan(&server.address(), load.flags) };
            tandemd::bench::run(&Plan { sets: 100.0, ..plan.filling() }).expect("the keys");
            Plan { duration: each, ..plan }
        });
        if let Some((server, ..)) = &redis {
            redis_benchmark(server, 400_000, 16, &["SET", KEY, VALUE]);
        }
        let mut seen = vec![Vec::new(); 3];
        for round in 0..=rounds {
            let mut costs = Vec::new();
            for (server, plan) in servers.iter().zip(&plans) {
                costs.push(cpu_per_operation(plan, &[server.pid()]));
            }
            if let Some((server, pipeline, words)) = &redis {
                let operations =
                    (each.as_secs_f64() * if *pipeline > 1 { 500_000.0 } else { 80_000.0 }) as u64;
                costs.push(redis_benchmark(server, operations, *pipeline, words));
            }
            // The first round warms up.
            if round > 0 {
                for (list, cost) in seen.iter_mut().zip(costs) {
                    list.push(cost);
                }
            }
        }
        let ratio = |other: usize| {
            let pairs = seen[0].iter().zip(&seen[other]);
            (!seen[other].is_empty()).then(|| Spread::of(pairs.map(|(ours, theirs)| ours / theirs)))
        };
        let (memcached, redis) = (ratio(1).expect("memcached ran"), ratio(2));
        let absolute = |list: &[f64]| Spread::of(list.iter().copied()).text();
        rows.push(vec![
            load.name.to_owned(),
            absolute(&seen[0]),
            absolute(&seen[1]),
            memcached.text(),
            redis.map_or_else(|| "–".to_owned(), |ratio| ratio.text()),
            load.goal.to_owned(),
        ]);
        bars.push((load.name.to_owned(), memcached.median, redis.map(|ratio| ratio.median)));
        println!("{}", rows[rows.len() - 1].join(" | "));
    }
    let head = ["load", "Tandem, µs", "memcached, µs", "of memcached", "of redis", "must"];
    (markdown(&head, &rows), plot::ratios("CPU time per operation, Tandem's share", &bars))
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
