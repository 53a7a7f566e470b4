//! A load generator for any server that speaks memcached's text protocol.
//!
//! Threads share the connections evenly; each thread is one epoll loop over non-blocking sockets, so
//! that the generator costs little beside what it measures (it reports its own CPU time too). Two
//! ways to drive a server:
//!
//! * **closed loop** (default): every connection keeps `pipeline` requests in flight. Finds the
//!   throughput; its latencies are those of a saturated server.
//! * **open loop** (`--rate`): requests fall due at fixed times whatever the server does, and a
//!   request's latency counts from the moment it was *due*, not from when it could be sent. A stall
//!   of 100 ms is seen by every request of those 100 ms (no coordinated omission).
//!
//! The generator promises to lose nothing silently: each request it decided to make is counted as
//! answered, refused, timed out, cut off or never sent.

pub mod client;
pub mod keys;
pub mod plan;
pub mod process;
pub mod report;
pub mod wire;
mod worker;

use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::dial::Dialler;
use plan::Plan;
use process::Usage;
use report::Report;
use worker::{Share, Tally};

/// Runs the plan: fills the keys if asked to, then measures. Blocks until everything was answered or
/// given up.
pub fn run(plan: &Plan) -> Result<Report, String> {
    let servers = plan.check()?;
    let dialler = plan.access.read()?;
    // One look at each, so that what stands in the way is named once and not by each connection.
    for target in &plan.targets {
        dialler.enter(target, plan.timeout)?;
    }
    let targets = Targets { servers, dialler };
    if plan.fill {
        let filled = drive(&plan.filling(), &targets)?;
        if filled.tally.errors.values().sum::<u64>() > 0 {
            return Err(format!("could not fill the keys: {:?}", filled.tally.errors));
        }
    }
    let servers = plan.server_pid.clone();
    let before = usage_of(&servers)?;
    let driven = drive(plan, &targets)?;
    let after = usage_of(&servers)?;
    let server = before.iter().zip(&after).map(|(before, after)| after.since(before)).collect();
    Ok(Report::new(plan, driven.tally, driven.elapsed, driven.generator, server))
}

/// Where the load goes, and how it gets in.
#[derive(Debug)]
struct Targets {
    /// Name and address.
    servers: Vec<(String, SocketAddr)>,
    dialler: Dialler,
}

/// What one phase saw.
struct Driven {
    tally: Tally,
    elapsed: Duration,
    generator: Usage,
}

/// One phase: every thread connects, all start at the same moment, all are waited for.
fn drive(plan: &Plan, targets: &Targets) -> Result<Driven, String> {
    let threads = plan.threads.min(plan.connections).max(1);
    let ready = Barrier::new(threads + 1);
    let before = Usage::of(std::process::id()).map_err(|error| format!("own CPU time: {error}"))?;
    let (tally, elapsed) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let share = Share::new(plan, targets, index, threads);
                let ready = &ready;
                scope.spawn(move || worker::run(&share, ready))
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let mut tally = Tally::default();
        let mut failure = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => tally.add(part),
                Ok(Err(error)) => failure = Some(error),
                Err(_) => failure = Some("a thread of the generator panicked".to_owned()),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok((tally, start.elapsed().saturating_sub(plan.warmup))),
        }
    })?;
    let after = Usage::of(std::process::id()).map_err(|error| format!("own CPU time: {error}"))?;
    Ok(Driven { tally, elapsed, generator: after.since(&before) })
}

fn usage_of(pids: &[u32]) -> Result<Vec<Usage>, String> {
    pids.iter()
        .map(|&pid| Usage::of(pid).map_err(|error| format!("--server-pid {pid}: {error}; is it running?")))
        .collect()
}
