//! `tandemctl`: see and steer a pair, and measure it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tandemd::bench;

/// See and steer a pair of tandemd nodes, and measure any memcached server.
#[derive(Parser, Debug)]
#[command(name = "tandemctl", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Put load on a memcached server and print throughput, latencies and errors.
    Bench {
        #[command(flatten)]
        plan: bench::plan::Plan,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.verb {
        Verb::Bench { plan, json } => match bench::run(&plan) {
            Ok(report) => { if json { println!("{}", serde_json::to_string_pretty(&report).unwrap()) } else { println!("{report}") } ; ExitCode::SUCCESS }
            Err(error) => { eprintln!("{error}"); ExitCode::from(69) }
        },
    }
}
