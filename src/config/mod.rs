//! What the operator asked for, checked as a whole before anything is bound.
//!
//! [`parse`] turns command line, environment and file into a [`Config`] that composes the parts' own
//! ones, or into *every* problem at once: each names the flag, the value, the place and the remedy,
//! with memcached's texts and exit codes where memcached has them. `flags` is the one definition of
//! the flags; `command_line`, `environment` and `file` read them; `values` lays the three over each
//! other; `read` makes sense of them; `show` prints what is in force; `extended` are the words of
//! `-o`, `settings` is what `stats settings` shows.

mod command_line;
mod environment;
mod extended;
mod file;
pub mod flags;
mod listen;
mod pair;
mod read;
mod settings;
mod show;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use environment::mistaken_variables;
pub use extended::Extended;
pub use listen::{Host, HostPort};
pub use pair::{Ack, Arbiter, BackupRequests, EtcdAccess, Failback, Heal, Pair, Profile, Witness};
pub use show::{Change, Source};
pub use values::Origin;

use crate::{logs, server};

/// Everything a node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and connections.
    pub server: server::Config,
    /// Items.
    pub engine: EngineConfig,
    /// The other node, if there is one.
    pub pair: Option<Pair>,
    /// This process is a witness: `pair` says where it listens and with which keys, the rest does not
    /// count.
    pub witness: Option<Witness>,
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
    /// Every setting, its value and where it comes from, in the help's order.
    pub sources: Vec<Source>,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run with this.
    Run(Box<Config>),
    /// Print this on stdout and exit with 0.
    Print(String),
}

const LICENSE: &str =
    "tandemd is licensed under MIT or Apache-2.0, at your option; see LICENSE-MIT and LICENSE-APACHE.\n";

/// Reads a command line (without the program's name), the environment and the file that one of them
/// names. `env` looks up environment variables and `is_root` says whether the process may become
/// another user.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<Invocation, Vec<Problem>> {
    gather(arguments, env, is_root, None)
}

/// Reads everything once more for a node that runs: [`Config::changes`] says what became different.
pub fn parse_again(
    running: &Config,
    arguments: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Config, Vec<Problem>> {
    // The user was changed already, and a daemon's working directory too.
    match gather(arguments, env, false, running.process.config_file.as_deref())? {
        Invocation::Run(config) => Ok(*config),
        Invocation::Print(_) => Ok(running.clone()),
    }
}

fn gather(
    arguments: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
    again: Option<&Path>,
) -> Result<Invocation, Vec<Problem>> {
    let command = flags::definition();
    let line = command_line::read(&command, arguments);
    if let Some(help) = line.help {
        return Ok(Invocation::Print(help));
    }
    let mut problems = line.problems;
    let Some(matches) = line.matches else { return Err(problems) };
    if matches.get_flag("version") {
        return Ok(Invocation::Print(format!("memcached {}\n", server::VERSION)));
    }
    if matches.get_flag("license") {
        return Ok(Invocation::Print(LICENSE.to_owned()));
    }
    let values = command_line::layer(&command, &matches, &Origin::CommandLine);
    let values = values.over(environment::read(&command, &env, &mut problems));
    let path = again.map(Path::to_owned).or_else(|| {
        let text = values.get("config")?.values.last()?;
        Some(std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text)))
    });
    let values = match &path {
        Some(path) => values.over(file::read(&command, path, &mut problems)),
        None => values,
    };
    let values = values.over(environment::of_service_manager(&env));
    let mut reader = read::Reader { values: &values, problems };
    let mut config = reader.config(env, is_root);
    problems = reader.problems;
    config.process.config_file = path;
    config.sources = show::sources(&command, &values);
    let check = matches.get_flag("check-config");
    if check {
        problems.extend(show::unreadable(&config));
    }
    match (problems.is_empty(), check) {
        (false, _) => Err(problems),
        (true, true) => Ok(Invocation::Print(show::table(&config))),
        (true, false) => Ok(Invocation::Run(Box::new(config))),
    }
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
    /// How log lines look (`--log-format`).
    pub log_format: logs::Style,
    /// The configuration file (`--config`), by its whole path.
    pub config_file: Option<PathBuf>,
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

#[cfg(test)]
mod tests;
