//! The load generator beside another one: both must see the same server.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tandemd::bench::plan::Plan;

use crate::process::{Server, plan};
use crate::table::{Spread, markdown};

/// Keys of 32 bytes, values of 100, nine gets to a set.
const SHAPE: &str = "key\n32 32 1\nvalue\n100 100 1\ncmd\n0 0.1\n1 0.9\n";

/// The table.
pub(crate) fn check(rounds: usize, each: Duration) -> String {
    let server = Server::memcached(1024);
    let folder = tempfile::tempdir().expect("a folder");
    let shape = folder.path().join("shape");
    fs::write(&shape, SHAPE).expect("a file");
    let flags = format!("-c 50 -s 10 -k 100000 --key-prefix {}", crate::loads::PREFIX);
    let ours = plan(&server.address(), &flags);
    tandemd::bench::run(&ours.filling()).expect("the keys");
    let ours = Plan { duration: each, server_pid: vec![server.pid()], ..ours };
    // Requests a second, the server's and the generator's CPU time for one.
    let mut seen = [[const { Vec::new() }; 3], [const { Vec::new() }; 3]];
    for round in 0..=rounds {
        let report = tandemd::bench::run(&ours).expect("a load");
        let used = report.servers.iter().map(|one| one.user_us_per_operation + one.system_us_per_operation);
        let one = [report.operations_per_second, used.sum(), report.generator_us_per_operation];
        let other = memcaslap(&server, &shape.display().to_string(), report.operations);
        if round > 0 {
            for (lists, values) in seen.iter_mut().zip([one, other]) {
                lists.iter_mut().zip(values).for_each(|(list, value)| list.push(value));
            }
        }
    }
    let rows = ["tandemctl bench", "memcaslap"].iter().zip(seen).map(|(name, lists)| {
        let mut row = vec![(*name).to_owned()];
        let [rate, server, generator] = lists.map(Spread::of);
        row.extend([format!("{:.0}", rate.median), server.text(), generator.text()]);
        row
    });
    let head =
        ["generator, memcached serving", "requests/s", "the server's CPU time, µs", "the generator's, µs"];
    markdown(&head, &rows.collect::<Vec<_>>())
}

/// Requests a second, and CPU microseconds of the server and of the generator for one.
fn memcaslap(server: &Server, shape: &str, operations: u64) -> [f64; 3] {
    let children = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("what children used");
        (usage.user_time() + usage.system_time()).num_microseconds() as f64
    };
    let (before, children_before) = (server.usage(), children());
    let output = Command::new("memcaslap")
        .args(["-s", &server.address(), "-T", "1", "-c", "50", "-F", shape, "-x", &operations.to_string()])
        .output()
        .expect("memcaslap, of libmemcached-tools");
    let text = String::from_utf8_lossy(&output.stdout);
    // `Run time: 2.0s Ops: 100000 TPS: 49000 Net_rate: 9.4M/s`
    let last = text.lines().rev().find(|line| line.contains("TPS:")).expect("a summary");
    let number = |name: &str| {
        let word = last.split_once(name).and_then(|(_, rest)| rest.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok()).expect("a number")
    };
    let made = number("Ops:").max(1.0);
    let used = server.usage().since(&before).cpu().as_micros() as f64;
    [number("TPS:"), used / made, (children() - children_before) / made]
}
