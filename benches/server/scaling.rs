//! What threads and connections change: throughput, and CPU time per operation, which other work on the
//! machine disturbs less.

use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::process::{Server, plan};
use crate::table::{Spread, markdown};

/// Workers that are tried, as far as there are cores.
const THREADS: [u32; 5] = [1, 2, 4, 8, 16];
const CONNECTIONS: [u32; 5] = [1, 10, 100, 1_000, 10_000];

/// The table.
pub(crate) fn compare(rounds: usize, each: Duration) -> String {
    // The script leaves the first core to the servers.
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32 + 1;
    let mut rows = Vec::new();
    // The generator needs cores as well; with two of them, two workers share theirs with it.
    for threads in THREADS.into_iter().filter(|threads| 2 * threads <= cores.max(4)) {
        let loads = [("90/10", 100_000), ("90/10, one key", 1)];
        for (name, keys) in loads {
            let flags = format!("-c 200 -P 16 -s 10 -k {keys} -t {}", (cores / 2).max(1));
            rows.push(row(&format!("{name}, pipeline 16, -t {threads}"), threads, &flags, rounds, each));
        }
    }
    for connections in CONNECTIONS {
        let flags = format!("-c {connections} -s 10 -k 100000 --timeout 30");
        rows.push(row(&format!("90/10, {connections} connection(s), -t 1"), 1, &flags, rounds, each));
    }
    let head =
        ["load", "Tandem, op/s", "memcached, op/s", "Tandem, µs", "memcached, µs", "of memcached's CPU time"];
    let mut text = markdown(&head, &rows);
    if cores < 32 {
        text += &format!(
            "\n{cores} cores were at hand for load and servers together: more workers than {} were not tried.\n",
            (cores.max(4)) / 2
        );
    }
    text
}

fn row(name: &str, threads: u32, flags: &str, rounds: usize, each: Duration) -> Vec<String> {
    let servers = [Server::tandem_of(1024, threads), Server::memcached_of(1024, threads)];
    let plans = servers.each_ref().map(|server| {
        let plan = plan(&server.address(), flags);
        tandemd::bench::run(&Plan { connections: 10, ..plan.filling() }).expect("the keys");
        Plan { duration: each, server_pid: vec![server.pid()], ..plan }
    });
    let (mut rates, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        for (at, plan) in plans.iter().enumerate() {
            let report = tandemd::bench::run(plan).expect("a load");
            assert_eq!(report.failures(), 0, "{:?}", report.errors);
            rates[at].push(report.operations_per_second);
            let used =
                report.servers.iter().map(|one| one.user_us_per_operation + one.system_us_per_operation);
            costs[at].push(used.sum::<f64>());
        }
    }
    let ratio = Spread::of(costs[0].iter().zip(&costs[1]).map(|(ours, theirs)| ours / theirs));
    let [our_rate, their_rate] = rates.map(|list| format!("{:.0}", Spread::of(list).median));
    let [our_cost, their_cost] = costs.map(|list| format!("{:.2}", Spread::of(list).median));
    let row = vec![name.to_owned(), our_rate, their_rate, our_cost, their_cost, ratio.text()];
    println!("{row:?}");
    row
}
