//! Does Tandem answer as memcached does? Asks both the same and compares byte for byte.
//!
//! A seeded generator makes what clients say: classic text, meta and binary; valid, at the edges and
//! broken; pipelined, quiet, cut at any byte. The same bytes go to Debian's memcached 1.6.18 and to the
//! `tandemd` of this build, both freshly started; the answers must be equal, and so must the counters
//! of `stats` after every connection, up to the written list in `allowed`. A disagreement is shrunk to
//! the few commands that show it and printed as a script.
//!
//! Environment:
//! * `TANDEM_DIFF_COMMANDS`: how many commands (default 200,000; the nightly run takes 1,000,000).
//! * `TANDEM_DIFF_SEED`: where the seeds begin (default 1): the seed of a report finds it again at once.
//! * `TANDEM_DIFF_FINDINGS`: how many disagreements to collect before giving up (default 3).
//! * `TANDEM_DIFF_SECONDS`: when to stop anyway (default 600).

mod allowed;
mod arena;
mod binary;
mod clock;
mod compare;
mod edges;
mod exchange;
mod generate;
mod meta;
mod planted;
mod script;
mod servers;
mod shrink;
mod statistics;
mod text;
mod watch;

use std::time::Duration;

use arena::{Found, Program, Search, explore};
use servers::{MEMCACHED, TANDEM};

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number"))
}

/// Whether the reference is installed. Without it nothing can be compared: that is an error in CI and a
/// message elsewhere.
fn reference_is_installed() -> bool {
    let output = std::process::Command::new(MEMCACHED).arg("-V").output();
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if version == "memcached 1.6.18" {
        return true;
    }
    let message =
        format!("{MEMCACHED} is '{version}', not 'memcached 1.6.18': install Debian 12's memcached");
    assert!(std::env::var_os("CI").is_none(), "{message}");
    eprintln!("skipped: {message}");
    false
}

/// Fails with every finding, and with more flickers than a machine that stands still now and then makes.
fn demand_none(found: &Found) {
    let report: Vec<String> = found.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_empty(), "{} disagreements\n\n{}", report.len(), report.join("\n\n"));
    for flicker in &found.flickers {
        eprintln!("seen once and not again: {flicker}");
    }
    let bearable = 1 + found.commands / 100_000;
    assert!(found.flickers.len() <= bearable, "{} flickers: {:#?}", found.flickers.len(), found.flickers);
}

/// The harness finds nothing where there is nothing: the reference agrees with itself.
#[test]
fn the_reference_agrees_with_itself() {
    if !reference_is_installed() {
        return;
    }
    let commands = setting("TANDEM_DIFF_SELF_COMMANDS", 20_000) as usize;
    let search = Search {
        seed: setting("TANDEM_DIFF_SEED", 1),
        commands,
        findings: 1,
        time: Duration::from_secs(600),
    };
    let found = explore(&Program(MEMCACHED), false, &search);
    demand_none(&found);
    assert!(found.silences.is_empty(), "the generator made rounds that want more: {:#?}", found.silences);
    assert!(found.commands >= commands, "only {} of {commands} commands in time", found.commands);
}

/// The promise: whatever a client says, Tandem answers as memcached does.
#[test]
fn tandem_answers_as_memcached_does() {
    if !reference_is_installed() {
        return;
    }
    let search = Search {
        seed: setting("TANDEM_DIFF_SEED", 1),
        commands: setting("TANDEM_DIFF_COMMANDS", 200_000) as usize,
        findings: setting("TANDEM_DIFF_FINDINGS", 3) as usize,
        time: Duration::from_secs(setting("TANDEM_DIFF_SECONDS", 600)),
    };
    let found = explore(&Program(TANDEM), true, &search);
    demand_none(&found);
    assert!(
        found.commands >= search.commands,
        "only {} of {} commands in time",
        found.commands,
        search.commands
    );
}
