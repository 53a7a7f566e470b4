//! What a live backup costs, and what waiting for it does: the same server with and without.

use std::time::{Duration, Instant};

use tandemd::bench::plan::Plan;

use crate::harness::{PATIENCE, Pair, Setup};
use crate::loads::redis_sets;
use crate::process::{Server, cpu_per_operation, pin, plan};
use crate::table::{Spread, markdown};

/// Name, flags, the goal, and how many requests of redis-benchmark are pipelined, if it makes the same.
const LOADS: [(&str, &str, &str, Option<u32>); 3] = [
    ("SET", "-c 50 -s 100 -k 100000", "≤ 1.08", Some(1)),
    ("SET, pipeline 16", "-c 50 -s 100 -k 100000 -P 16", "≤ 1.15", Some(16)),
    ("90/10", "-c 50 -s 10 -k 100000", "–", None),
];

/// A pair of redis: the replica has the other core, as our backup has.
struct RedisPair([Server; 2]);

impl RedisPair {
    fn start() -> Self {
        let master = Server::redis();
        let replica = Server::redis_replica_of(master.port);
        pin(replica.pid(), 1);
        let pair = Self([master, replica]);
        // It copies first; what it is told then, it has at once.
        let deadline = Instant::now() + PATIENCE;
        while !pair.is_linked() {
            assert!(Instant::now() < deadline, "redis's replica does not follow");
            std::thread::sleep(Duration::from_millis(50));
        }
        pair
    }

    fn is_linked(&self) -> bool {
        let port = self.0[1].port.to_string();
        let said =
            std::process::Command::new("redis-cli").args(["-p", &port, "info", "replication"]).output();
        String::from_utf8_lossy(&said.expect("redis-cli").stdout).contains("master_link_status:up")
    }

    /// CPU microseconds of both for a set.
    fn cost(&self, operations: u64, pipeline: u32) -> f64 {
        let [master, replica] = &self.0;
        redis_sets(master, &[master, replica], operations, pipeline)
    }
}

pub(crate) fn compare(rounds: usize, each: Duration) -> String {
    let setup = || Setup { threads: 1, ..Setup::new(env!("CARGO_BIN_EXE_tandemd")) };
    let mut alone: Pair = setup().pair();
    alone.nodes[0].start();
    alone.nodes[0].wait_role("master");
    let pair = setup().start();
    let master = pair.wait_paired();
    pin(alone.nodes[0].pid(), 0);
    pin(pair.nodes[master].pid(), 0);
    pin(pair.nodes[1 - master].pid(), 1);
    let redis = RedisPair::start();
    let mut rows = Vec::new();
    for (name, flags, goal, pipeline) in LOADS {
        let [single, replicated] = [&alone.nodes[0], &pair.nodes[master]].map(|node| {
            let plan = Plan { duration: each, ..plan(&node.address().to_string(), flags) };
            tandemd::bench::run(&plan.filling()).expect("the keys");
            plan
        });
        let mut seen = [Vec::new(), Vec::new(), Vec::new()];
        let mut of_redis = Vec::new();
        for round in 0..=rounds {
            let without = cpu_per_operation(&single, &[alone.nodes[0].pid()]);
            let with = cpu_per_operation(&replicated, &[pair.nodes[master].pid()]);
            let both = cpu_per_operation(&replicated, &[pair.nodes[0].pid(), pair.nodes[1].pid()]);
            let theirs = pipeline.map(|pipeline| {
                let operations = each.as_secs_f64() * if pipeline > 1 { 400_000.0 } else { 60_000.0 };
                redis.cost(operations as u64, pipeline)
            });
            if round > 0 {
                for (list, value) in seen.iter_mut().zip([without, with / without, both]) {
                    list.push(value);
                }
                of_redis.extend(theirs.map(|theirs| both / theirs));
            }
        }
        pair.wait_caught_up(PATIENCE);
        let mut row = vec![name.to_owned()];
        row.extend(seen.map(|list| Spread::of(list).text()));
        row.push(goal.to_owned());
        row.push(if of_redis.is_empty() { "–".to_owned() } else { Spread::of(of_redis).text() });
        rows.push(row);
    }
    let head = [
        "load",
        "without a backup, µs",
        "with a live one, ratio",
        "both nodes, µs",
        "must (ratio)",
        "both nodes, of redis and its replica (must: ≤ 0.90)",
    ];
    markdown(&head, &rows)
}

/// Throughput of sets that are answered when the backup has them, as a part of that of those that are not.
pub(crate) fn acknowledged(rounds: usize, each: Duration) -> String {
    const WAYS: [&str; 3] = ["async", "received", "applied"];
    let pairs = WAYS.map(|way| {
        let mut setup = Setup { threads: 1, ..Setup::new(env!("CARGO_BIN_EXE_tandemd")) };
        setup.flags.extend(["--ack", way].map(str::to_owned));
        let pair = setup.start();
        let master = pair.wait_paired();
        pin(pair.nodes[master].pid(), 0);
        pin(pair.nodes[1 - master].pid(), 1);
        (pair, master)
    });
    let mut rows = Vec::new();
    for (name, flags, goal) in [
        ("SET, pipeline 16", "-c 50 -s 100 -k 100000 -P 16", "≥ 0.65"),
        ("SET", "-c 50 -s 100 -k 100000", "–"),
    ] {
        let mut seen = WAYS.map(|_| Vec::new());
        // The first of them never waits, so it does not count.
        let degraded = || -> u64 {
            pairs[1..].iter().map(|(pair, at)| pair.nodes[*at].replicated("ack_degraded")).sum()
        };
        let before = degraded();
        for round in 0..=rounds {
            let rates = pairs.each_ref().map(|(pair, master)| {
                let plan = Plan { duration: each, ..plan(&pair.nodes[*master].address().to_string(), flags) };
                let report = tandemd::bench::run(&plan).expect("a load");
                assert_eq!(report.failures(), 0, "{:?}", report.errors);
                report.operations_per_second
            });
            if round > 0 {
                seen[0].push(rates[0]);
                (1..rates.len()).for_each(|way| seen[way].push(rates[way] / rates[0]));
            }
        }
        for (pair, _) in &pairs {
            pair.wait_caught_up(PATIENCE);
        }
        let [asynchronous, received, applied] = seen.map(Spread::of);
        rows.push(vec![
            name.to_owned(),
            format!("{:.0}", asynchronous.median),
            received.text(),
            applied.text(),
            goal.to_owned(),
            (degraded() - before).to_string(),
        ]);
    }
    markdown(&["load", "`async`, op/s", "`received`", "`applied`", "must", "answered unconfirmed"], &rows)
}
