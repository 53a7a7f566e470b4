//! Latency against throughput: requests fall due at fixed times, faster and faster.

use std::time::Duration;

use tandemd::bench::plan::Plan;

use crate::plot::{self, Curve};
use crate::process::{Server, plan};
use crate::table::{Spread, markdown};

/// Shares of what the faster server answers at most.
const SHARES: [f64; 9] = [0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// A server that answers less than this share of what fell due is past its limit.
const KEEPS_UP: f64 = 0.97;

/// The table and the plot.
pub(crate) fn compare(rounds: usize, each: Duration) -> (String, String) {
    let servers = [Server::tandem(1024), Server::memcached(1024)];
    let plans = servers.each_ref().map(|server| {
        let plan = plan(&server.address(), "-c 50 -s 10 -k 100000");
        tandemd::bench::run(&plan.filling()).expect("the keys");
        Plan { duration: each, ..plan }
    });
    let rate_of = |plan: &Plan| tandemd::bench::run(plan).expect("a load").operations_per_second;
    let most = plans.each_ref().map(|plan| Spread::of((0..rounds.max(2)).map(|_| rate_of(plan))).median);
    let mut curves = [Vec::new(), Vec::new()];
    let mut rows = Vec::new();
    for share in SHARES {
        let rate = most[0].max(most[1]) * share;
        let mut row = vec![format!("{:.1}", rate / 1000.0)];
        for (at, plan) in plans.iter().enumerate() {
            let at_rate = Plan { rate: Some(rate), ..plan.clone() };
            let (mut answered, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let report = tandemd::bench::run(&at_rate).expect("a load");
                answered.push(report.operations_per_second);
                p50.push(report.gets.p50_us);
                p99.push(report.gets.p99_us);
            }
            if Spread::of(answered).median < KEEPS_UP * rate {
                row.extend(["–".to_owned(), "–".to_owned()]);
                continue;
            }
            let [p50, p99] = [p50, p99].map(Spread::of);
            row.extend([p50.text(), p99.text()]);
            curves[at].push([rate / 1000.0, p50.median, p99.median]);
        }
        println!("{}", row.join(" | "));
        rows.push(row);
    }
    let head = ["thousand requests a second", "Tandem, p50, µs", "p99, µs", "memcached, p50, µs", "p99, µs"];
    let mut text = markdown(&head, &rows);
    text += &format!(
        "\nIn a closed loop they answer {:.0} (Tandem) and {:.0} (memcached) requests a second. –: past its limit.\n",
        most[0], most[1]
    );
    let curve = |at: usize, quantile: usize| Curve {
        name: format!("{} p{}", ["Tandem", "memcached"][at], [50, 99][quantile]),
        colour: at,
        dashed: quantile == 1,
        points: curves[at].iter().map(|point| [point[0], point[1 + quantile]]).collect(),
    };
    let curves = [curve(0, 0), curve(0, 1), curve(1, 0), curve(1, 1)];
    let note = "One worker on one core, 50 connections, 10 % sets; counted from when a request was due";
    let axes = ["thousand requests a second", "µs"];
    (text, plot::lines("Latency against throughput", note, axes, &curves))
}
