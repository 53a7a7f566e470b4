//! What serving costs, beside Debian's memcached and redis-server. Run it with `scripts/bench-server.sh`.
//!
//! Servers are compared in alternation, in one run, by the CPU time they use (user and system) for an
//! operation: on a machine that others use too, nothing else says much. Each figure is the median of
//! the rounds, with the lowest and the highest behind it; a ratio is taken within its round.
//!
//! `--rounds N` and `--seconds S` say how much; names choose parts. The tables go to the terminal and
//! between the marks of their names in `docs/performance.md`, the plots beside it.

mod curve;
mod failover;
mod forms;
mod generator;
#[path = "../../tests/pair/harness.rs"]
mod harness;
mod hits;
mod loads;
mod memory;
mod peer;
mod plot;
mod process;
mod scaling;
mod service;
mod table;

use std::time::Duration;

use clap::Parser;

const PARTS: [&str; 12] = [
    "loads",
    "forms",
    "latency",
    "curve",
    "memory",
    "hits",
    "service",
    "scaling",
    "backup",
    "ack",
    "failover",
    "generator",
];

/// Measures tandemd beside other servers.
#[derive(Parser, Debug)]
struct Arguments {
    /// Parts to measure; all if none is named.
    #[arg(value_parser = PARTS)]
    parts: Vec<String>,
    /// Rounds of each comparison.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests of each sequence of `hits`; the second half counts, and fewer hardly fill the memory.
    #[arg(long, default_value_t = 4_000_000)]
    requests: u64,
    /// Only print; leave the document as it is.
    #[arg(long)]
    dry: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|part| part == name);
    let each = Duration::from_secs_f64(arguments.seconds);
    let document = table::Document::new(arguments.dry);
    document.put("machine", &process::machine());
    if wanted("loads") {
        let (text, plot) = loads::compare(arguments.rounds, each);
        document.put("loads", &text);
        document.plot("cpu-per-operation.svg", &plot);
    }
    if wanted("forms") {
        let (text, plot) = forms::compare(arguments.rounds, each);
        document.illustrate("forms", &text, "Other protocols, and two workers", "other-protocols.svg", &plot);
    }
    if wanted("latency") {
        document.put("latency", &loads::latency(arguments.rounds, each));
    }
    if wanted("curve") {
        let (text, plot) = curve::compare(arguments.rounds, each);
        document.illustrate("curve", &text, "Latency against throughput", "latency-curve.svg", &plot);
    }
    if wanted("memory") {
        let (text, plot) = memory::compare();
        document.put("memory", &text);
        document.plot("memory-per-item.svg", &plot);
    }
    if wanted("hits") {
        let (text, plot) = hits::compare(arguments.requests);
        document.put("hits", &text);
        document.plot("hit-ratio.svg", &plot);
    }
    if wanted("service") {
        let (text, plot) = service::compare();
        document.put("service", &text);
        document.plot("service-times.svg", &plot);
    }
    if wanted("scaling") {
        document.put("scaling", &scaling::compare(arguments.rounds, each));
    }
    if wanted("backup") {
        let text = peer::compare(arguments.rounds, each);
        document.illustrate(
            "backup",
            &text,
            "What a live backup costs",
            "replication-cost.svg",
            &replication_cost(&text),
        );
    }
    if wanted("failover") {
        let (text, plot) = failover::watch();
        document.illustrate("failover", &text, "A failover as clients see it", "failover.svg", &plot);
    }
    if wanted("generator") {
        document.put("generator", &generator::check(arguments.rounds, each));
    }
    if wanted("ack") {
        document.put("ack", &peer::acknowledged(arguments.rounds, each));
    }
}

/// The table of what a live backup costs, as a picture.
fn replication_cost(text: &str) -> String {
    let alone = table::column(text, "without a backup");
    let ratio = table::column(text, "with a live one");
    let both = table::column(text, "both nodes");
    let rows: Vec<_> = alone
        .into_iter()
        .zip(ratio.into_iter().zip(both))
        .map(|((name, alone), ((_, ratio), (_, both)))| {
            (name, vec![alone, alone.zip(ratio).map(|(alone, ratio)| alone * ratio), both])
        })
        .collect();
    let names = ["without a backup", "master with a live backup", "both nodes together"];
    let note = "CPU time for an operation, µs; lower is better";
    plot::grouped("What a live backup costs", note, &names, &rows, None)
}
