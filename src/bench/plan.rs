//! What to send: the flags of `tandemctl bench`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::bench::wire::Form;
use crate::dial::Access;

/// A load: to whom, how much, of what.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Servers, HOST:PORT; connections are dealt to them in turn.
    #[arg(default_value = "127.0.0.1:11211")]
    pub targets: Vec<String>,
    /// Connections in all.
    #[arg(short, long, default_value_t = 50)]
    pub connections: usize,
    /// Requests in flight per connection.
    #[arg(short = 'P', long, default_value_t = 1)]
    pub pipeline: usize,
    /// Threads of the generator.
    #[arg(short, long, default_value_t = 1)]
    pub threads: usize,
    /// Number of different keys.
    #[arg(short, long, default_value_t = 100_000)]
    pub keys: u64,
    /// Which keys are used: `uniform`, or `zipf:THETA` (0.99 is the usual skew).
    #[arg(short = 'D', long, default_value = "uniform")]
    pub distribution: Distribution,
    /// What keys begin with.
    #[arg(long, default_value = "key-")]
    pub key_prefix: String,
    /// Sizes of values in bytes, with weights if there are several: `100` or `100:9,4096:1`.
    #[arg(short = 'v', long, default_value = "100")]
    pub value_size: Sizes,
    /// Percentage of requests that are sets; the others are gets.
    #[arg(short, long, default_value_t = 10.0)]
    pub sets: f64,
    /// Keys per get.
    #[arg(short, long, default_value_t = 1)]
    pub multiget: usize,
    /// How requests are put: `text`, `meta` or `binary`.
    #[arg(long, default_value = "text")]
    pub form: Form,
    /// Expiration time of what is set, in seconds; 0 is never.
    #[arg(long, default_value_t = 0)]
    pub exptime: u32,
    /// How long to measure, in seconds (ignored when `--operations` is given).
    #[arg(short, long, default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// How many requests to make.
    #[arg(short = 'n', long)]
    pub operations: Option<u64>,
    /// Requests per second in all: fixed times, latency from when a request was due (open loop).
    #[arg(short, long)]
    pub rate: Option<f64>,
    /// Seconds of load before measuring.
    #[arg(short, long, default_value = "0", value_parser = seconds)]
    pub warmup: Duration,
    /// Set every key once before measuring.
    #[arg(short, long)]
    pub fill: bool,
    /// Give up a request, and its connection, after so many seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub timeout: Duration,
    /// Process whose CPU time is charged to the operations; may be given more than once.
    #[arg(long)]
    pub server_pid: Vec<u32>,
    /// Seed of everything random, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What the servers want.
    #[command(flatten)]
    pub access: Access,
    /// Set keys one after the other instead of at random: how `--fill` fills.
    #[arg(skip)]
    pub in_order: bool,
}

impl Plan {
    /// The longest value a plan may have: memcached's own largest item.
    const VALUE_BYTES_MAX: usize = 1 << 30;
    /// More would not fit into the file descriptors of a process.
    const CONNECTIONS_MAX: usize = 100_000;

    /// The load that sets every key once.
    pub fn filling(&self) -> Self {
        Self {
            pipeline: self.pipeline.max(32),
            sets: 100.0,
            operations: Some(self.keys),
            rate: None,
            warmup: Duration::ZERO,
            fill: false,
            in_order: true,
            ..self.clone()
        }
    }

    /// Hosts and addresses of the servers, or what is wrong with the plan.
    pub fn check(&self) -> Result<Vec<(String, SocketAddr)>, String> {
        let within = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(format!("--{name} {value}: 1 to {max}")) }
        };
        within("connections", self.connections, Self::CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1 << 16)?;
        within("threads", self.threads, 1024)?;
        within("multiget", self.multiget, 1000)?;
        within("keys", usize::try_from(self.keys).unwrap_or(usize::MAX), 10_000_000_000)?;
        within("value-size", self.value_size.largest(), Self::VALUE_BYTES_MAX)?;
        if !(0.0..=100.0).contains(&self.sets) {
            return Err(format!("--sets {}: a percentage, 0 to 100", self.sets));
        }
        if self.form != Form::Text && self.multiget > 1 {
            return Err("--multiget: only requests in text form have several keys".to_owned());
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
            return Err("--rate: requests per second, more than 0".to_owned());
        }
        if self.key_prefix.len() > 200 || self.key_prefix.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("--key-prefix: at most 200 bytes, without blanks and control characters".to_owned());
        }
        let host = |target: &str| target.rsplit_once(':').map_or(target, |(host, _)| host).to_owned();
        self.targets.iter().map(|target| Ok((host(target), resolve(target)?))).collect()
    }
}

/// The first address of HOST:PORT.
pub fn resolve(target: &str) -> Result<SocketAddr, String> {
    let mut addresses = target
        .to_socket_addrs()
        .map_err(|error| format!("{target}: {error}; give HOST:PORT, for example 127.0.0.1:11211"))?;
    addresses.next().ok_or_else(|| format!("{target}: the name has no address"))
}

/// Which keys are used how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The k-th key with a weight of 1/k^θ.
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let theta = text.strip_prefix("zipf:").and_then(|theta| theta.parse::<f64>().ok());
        match theta {
            Some(theta) if theta >= 0.0 && theta.is_finite() => Ok(Self::Zipf(theta)),
            _ => Err(format!("`{text}`: use `uniform` or `zipf:THETA`, for example zipf:0.99")),
        }
    }
}

/// Sizes of values with their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes(Vec<(usize, f64)>);

impl Sizes {
    /// The largest of them.
    pub fn largest(&self) -> usize {
        self.0.iter().map(|&(size, _)| size).max().unwrap_or(0)
    }

    /// The size that a number between 0 and 1 falls on.
    pub fn at(&self, point: f64) -> usize {
        let mut rest = point * self.0.iter().map(|&(_, weight)| weight).sum::<f64>();
        for &(size, weight) in &self.0 {
            rest -= weight;
            if rest < 0.0 {
                return size;
            }
        }
        self.0.last().map_or(0, |&(size, _)| size)
    }

    /// The size if there is only one, so that the common case draws no random number.
    pub fn only(&self) -> Option<usize> {
        match self.0[..] {
            [(size, _)] => Some(size),
            _ => None,
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let size = size.parse::<usize>().ok().filter(|&size| size > 0)?;
            let weight = weight.parse::<f64>().ok().filter(|weight| *weight > 0.0 && weight.is_finite())?;
            Some((size, weight))
        };
        let sizes: Option<Vec<_>> = text.split(',').map(part).collect();
        sizes.map(Self).ok_or_else(|| format!("`{text}`: use BYTES or BYTES:WEIGHT,… such as 100:9,4096:1"))
    }
}

/// A length of time as a flag: seconds, or a number with `ms`, `s` or `m`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        _ => return Err(format!("`{text}`: the unit is ms, s or m")),
    };
    match number.parse::<f64>() {
        Ok(number) if (0.0..=1e9).contains(&number) => Ok(Duration::from_secs_f64(number * scale)),
        _ => Err(format!("`{text}`: use a time such as 5s, 0.5 or 250ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("3m"), Ok(Duration::from_secs(180)));
        for bad in ["", "s", "-1", "5h", "nan"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_follow_their_weights() {
        let sizes: Sizes = "100:9,4096:1".parse().unwrap();
        let large = (0..1000).filter(|&n| sizes.at(f64::from(n) / 1000.0) == 4096).count();
        assert_eq!(large, 100);
        assert_eq!("7".parse::<Sizes>().unwrap().only(), Some(7));
        for bad in ["", "0", "a", "1:0", "1:", "1,,2"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn distributions_are_named() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf:0.99".parse(), Ok(Distribution::Zipf(0.99)));
        assert!("zipf".parse::<Distribution>().is_err());
        assert!("zipf:-1".parse::<Distribution>().is_err());
    }
}
