//! What came out of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::plan::Plan;
use crate::bench::process::Usage;
use crate::bench::worker::Tally;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seconds measured.
    pub seconds: f64,
    /// Answered requests.
    pub operations: u64,
    /// Answered requests per second.
    pub operations_per_second: f64,
    /// Keys found by gets.
    pub hits: u64,
    /// Keys not found by gets.
    pub misses: u64,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Attempts to connect again that failed.
    pub refused_connects: u64,
    /// Bytes sent and received per second.
    pub bytes_per_second: f64,
    /// Latency of gets; in an open loop from when each was due.
    pub gets: Latency,
    /// Latency of sets.
    pub sets: Latency,
    /// Whether requests fell due at fixed times.
    pub open_loop: bool,
    /// What each `--server-pid` used.
    pub servers: Vec<ServerUsage>,
    /// The generator's own CPU time per operation, in microseconds.
    pub generator_us_per_operation: f64,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it: quantiles")]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// CPU time of a server during the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerUsage {
    /// Which process.
    pub pid: u32,
    /// User time per operation, in microseconds.
    pub user_us_per_operation: f64,
    /// System time per operation, in microseconds.
    pub system_us_per_operation: f64,
    /// Share of one core.
    pub cores: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        tally: Tally,
        elapsed: Duration,
        generator: Usage,
        servers: Vec<Usage>,
    ) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let operations = tally.gets.len() + tally.sets.len();
        let each = operations.max(1) as f64;
        let server = |(&pid, usage): (&u32, Usage)| ServerUsage {
            pid,
            user_us_per_operation: usage.user_us as f64 / each,
            system_us_per_operation: usage.system_us as f64 / each,
            cores: usage.cpu().as_secs_f64() / (elapsed + plan.warmup).as_secs_f64().max(1e-9),
            resident_bytes: usage.resident_bytes,
        };
        Self {
            seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            hits: tally.hits,
            misses: tally.misses,
            refused_connects: tally.refused_connects,
            bytes_per_second: (tally.bytes_sent + tally.bytes_received) as f64 / seconds,
            gets: Latency::new(&tally.gets),
            sets: Latency::new(&tally.sets),
            open_loop: plan.rate.is_some(),
            servers: plan.server_pid.iter().zip(servers).map(server).collect(),
            generator_us_per_operation: generator.cpu().as_micros() as f64 / each,
            errors: tally.errors,
        }
    }

    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.0} operations/s ({} in {:.2} s, {:.1} MB/s), {} loop",
            self.operations_per_second,
            self.operations,
            self.seconds,
            self.bytes_per_second / 1e6,
            if self.open_loop { "open" } else { "closed" },
        )?;
        writeln!(
            f,
            "\n{:<6}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "µs", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, latency) in [("get", &self.gets), ("set", &self.sets)] {
            if latency.count == 0 {
                continue;
            }
            write!(f, "{name:<6}{:>12}", latency.count)?;
            for value in [latency.mean_us, latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us] {
                write!(f, "{value:>10.1}")?;
            }
            writeln!(f, "{:>10.1}", latency.max_us)?;
        }
        writeln!(f)?;
        let asked = self.hits + self.misses;
        if asked > 0 {
            let ratio = 100.0 * self.hits as f64 / asked as f64;
            writeln!(f, "hits       {:>12} of {asked} keys ({ratio:.2} %)", self.hits)?;
        }
        writeln!(f, "errors     {:>12}", self.failures())?;
        for (kind, count) in &self.errors {
            writeln!(f, "           {count:>12} {kind}")?;
        }
        if self.refused_connects > 0 {
            writeln!(f, "attempts to connect again that failed: {}", self.refused_connects)?;
        }
        for server in &self.servers {
            writeln!(
                f,
                "server {:<8} {:.2} µs CPU per operation ({:.2} user, {:.2} system), {:.2} cores, {:.1} MB resident",
                server.pid,
                server.user_us_per_operation + server.system_us_per_operation,
                server.user_us_per_operation,
                server.system_us_per_operation,
                server.cores,
                server.resident_bytes as f64 / 1e6,
            )?;
        }
        write!(f, "generator       {:.2} µs CPU per operation", self.generator_us_per_operation)
    }
}
