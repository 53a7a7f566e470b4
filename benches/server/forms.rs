//! The same requests in memcached's other protocols, and two workers: CPU time per operation.

use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::plot;
use crate::process::{Server, cpu_per_operation, plan};
use crate::table::{Spread, markdown};

/// Name, workers, flags of the load.
const LOADS: [(&str, u32, &str); 6] = [
    ("GET, meta", 1, "-s 0 --form meta"),
    ("SET, meta", 1, "-s 100 --form meta"),
    ("GET, binary", 1, "-s 0 --form binary"),
    ("SET, binary", 1, "-s 100 --form binary"),
    ("GET, two workers on two cores", 2, "-s 0"),
    ("SET, two workers on two cores", 2, "-s 100"),
];

/// The table and the plot.
pub(crate) fn compare(rounds: usize, each: Duration) -> (String, String) {
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for (name, workers, flags) in LOADS {
        let servers = [Server::tandem_of(1024, workers), Server::memcached_of(1024, workers)];
        let plans = servers.each_ref().map(|server| {
            let flags = format!("-c 50 -k 100000 --key-prefix {} {flags}", crate::loads::PREFIX);
            let plan = plan(&server.address(), &flags);
            tandemd::bench::run(&plan.filling()).expect("the keys");
            Plan { duration: each, ..plan }
        });
        let mut seen = [Vec::new(), Vec::new()];
        // The first round warms up.
        for round in 0..=rounds {
            for ((server, plan), list) in servers.iter().zip(&plans).zip(&mut seen) {
                let cost = cpu_per_operation(plan, &[server.pid()]);
                if round > 0 {
                    list.push(cost);
                }
            }
        }
        let ratio = Spread::of(seen[0].iter().zip(&seen[1]).map(|(ours, theirs)| ours / theirs));
        let [ours, theirs] = seen.map(Spread::of);
        rows.push(vec![name.to_owned(), ours.text(), theirs.text(), ratio.text(), "< 1".to_owned()]);
        bars.push((name.to_owned(), vec![Some(ours.median), Some(theirs.median)]));
        println!("{}", rows[rows.len() - 1].join(" | "));
    }
    let head = ["load", "Tandem, µs", "memcached, µs", "of memcached", "must"];
    let names = ["Tandem", "memcached"];
    let title = "Other protocols, and two workers";
    let plot = plot::grouped(
        title,
        "CPU time of the server for an operation, µs; lower is better",
        &names,
        &bars,
        None,
    );
    (markdown(&head, &rows), plot)
}
