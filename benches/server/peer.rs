//! What a live backup costs: the same server with and without one.

use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::harness::{Pair, Setup};
use crate::process::{cpu_per_operation, pin, plan};
use crate::table::{Spread, markdown};

const LOADS: [(&str, &str, &str); 3] = [
    ("SET", "-c 50 -s 100 -k 100000", "≤ 1.08"),
    ("SET, pipeline 16", "-c 50 -s 100 -k 100000 -P 16", "≤ 1.15"),
    ("90/10", "-c 50 -s 10 -k 100000", "–"),
];

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
    let mut rows = Vec::new();
    for (name, flags, goal) in LOADS {
        let [single, replicated] = [&alone.nodes[0], &pair.nodes[master]].map(|node| {
            let plan = Plan { duration: each, ..plan(&node.address().to_string(), flags) };
            tandemd::bench::run(&plan.filling()).expect("the keys");
            plan
        });
        let mut seen = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..=rounds {
            let without = cpu_per_operation(&single, &[alone.nodes[0].pid()]);
            let with = cpu_per_operation(&replicated, &[pair.nodes[master].pid()]);
            let both = cpu_per_operation(&replicated, &[pair.nodes[0].pid(), pair.nodes[1].pid()]);
            if round > 0 {
                for (list, value) in seen.iter_mut().zip([without, with / without, both]) {
                    list.push(value);
                }
            }
        }
        pair.wait_caught_up(crate::harness::PATIENCE);
        let mut row = vec![name.to_owned()];
        row.extend(seen.map(|list| Spread::of(list).text()));
        row.push(goal.to_owned());
        rows.push(row);
    }
    let head = ["load", "without a backup, µs", "with a live one, ratio", "both nodes, µs", "must (ratio)"];
    markdown(&head, &rows)
}
