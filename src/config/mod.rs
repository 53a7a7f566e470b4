//! What the operator asked for, checked as a whole before anything is bound.
//!
//! [`parse`] turns the command line into a [`Config`] that composes the parts' own ones, or into
//! *every* problem at once: each names the flag, the value and the remedy, with memcached's texts
//! and exit codes where memcached has them. `cli` is the one definition of the flags, `extended` the
//! words of `-o`, `settings` what `stats settings` shows.
//!
//! A configuration file fills the same flags before the command line does: it will enter at
//! [`cli::parse`] as further arguments in front of the real ones.

mod cli;
mod extended;
mod listen;
mod pair;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

pub use cli::{Invocation, parse};
pub use extended::Extended;
pub use listen::{Host, HostPort};
pub use pair::{BackupRequests, Failback, Pair, Profile};

use crate::server;

/// Everything a node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and connections.
    pub server: server::Config,
    /// Items.
    pub engine: EngineConfig,
    /// The other node, if there is one.
    pub pair: Option<Pair>,
    /// Where items survive a graceful stop (`-e`).
    pub memory_file: Option<PathBuf>,
    /// A repcached whose items are taken over (`--repcached-peer`).
    pub repcached: Option<HostPort>,
    /// Where the admin port listens, if anywhere.
    pub admin: Option<HostPort>,
    /// The token that control requests need there.
    pub admin_token_file: Option<PathBuf>,
    /// What concerns the process, not the service.
    pub process: Process,
    /// What `stats settings` shows, in memcached's order.
    pub settings: Vec<(&'static str, String)>,
    /// memcached's `-o` words.
    pub extended: Extended,
}

/// What the engine is asked to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Memory for items in bytes (`-m`).
    pub memory_bytes: u64,
    /// Make room by evicting (not `-M`).
    pub evict: bool,
    /// Largest item by memcached's accounting (`-I`).
    pub item_size_max: usize,
    /// Keep CAS uniques (not `-C`).
    pub cas: bool,
}

/// What concerns the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Go into the background (`-d`).
    pub daemon: bool,
    /// Become this user (`-u`).
    pub user: Option<String>,
    /// Write the process id there (`-P`).
    pub pid_file: Option<PathBuf>,
    /// Allow core dumps (`-r`).
    pub core_dumps: bool,
    /// Lock memory (`-k`).
    pub lock_memory: bool,
    /// Write bound ports there (`MEMCACHED_PORT_FILENAME`).
    pub port_file: Option<PathBuf>,
    /// Users of SASL (`MEMCACHED_SASL_PWDB`).
    pub sasl_file: Option<PathBuf>,
    /// How much to log (`-v`, `-vv`, `-vvv`).
    pub verbosity: u8,
}

/// One thing that is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The process's exit code if this is the first problem.
    pub exit: u8,
    /// Flag, value and remedy.
    pub text: String,
}

impl Problem {
    pub(crate) const fn new(exit: u8, text: String) -> Self {
        Self { exit, text }
    }
}

/// Exit code for wrong usage (sysexits' EX_USAGE), as memcached uses it.
pub const EXIT_USAGE: u8 = 64;
/// Exit code for an unknown user (EX_NOUSER).
pub const EXIT_NO_USER: u8 = 67;
/// Exit code for what the system refuses (EX_OSERR).
pub const EXIT_SYSTEM: u8 = 71;

/// A duration as flags take it: `250ms`, `2s`, `1m`; a bare number is milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let scale = match &text[digits..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(scale)?))
}

/// A number of bytes as flags take it: `k`, `m`, `g` behind the number; `unit` is what a bare number
/// counts.
fn bytes(text: &str, unit: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let scale = match text[digits..].to_ascii_lowercase().as_str() {
        "" => unit,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(scale)
}
