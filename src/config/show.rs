//! What is in force and where it comes from; what became different since.

use std::fmt::Write as _;

use clap::Command;

use super::flags::{self, Kind};
use super::values::{Layer, Origin};
use super::{Config, EXIT_USAGE, Problem};

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The flag's long name.
    pub name: String,
    /// Its value; a list's values with commas between them.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// All settings, in the help's order. None of them is a secret: keys and passwords are in files of
/// their own, and what is in those is never shown.
pub(super) fn sources(command: &Command, values: &Layer) -> Vec<Source> {
    let source = |arg: &clap::Arg| {
        let name = arg.get_id().as_str();
        let (value, origin) = match values.get(name) {
            Some(given) => (given.values.join(","), given.origin.clone()),
            None => {
                let unset = match flags::kind(arg) {
                    Kind::Switch => "no",
                    Kind::Count => "0",
                    _ => "-",
                };
                (flags::default(arg).unwrap_or_else(|| unset.to_owned()), Origin::Default)
            }
        };
        Source { name: name.to_owned(), value, origin }
    };
    flags::settings(command).map(source).collect()
}

/// What `--check-config` prints.
pub(super) fn table(config: &Config) -> String {
    let width =
        |pick: fn(&Source) -> &str| config.sources.iter().map(|row| pick(row).len()).max().unwrap_or(0);
    let (names, values) = (width(|row| &row.name), width(|row| &row.value).min(40));
    let mut text = String::new();
    for Source { name, value, origin } in &config.sources {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<names$}  {value:<values$}  {origin}");
    }
    text
}

/// Files that are named and cannot be read. A start finds this out by itself, one by one.
pub(super) fn unreadable(config: &Config) -> Vec<Problem> {
    let tls = config.server.tls.as_ref();
    let files = [
        ("-Y", config.server.auth_file.as_ref()),
        ("--admin-token-file", config.admin_token_file.as_ref()),
        ("$MEMCACHED_SASL_PWDB", config.process.sasl_file.as_ref().filter(|_| config.server.sasl)),
        ("-o ssl_chain_cert", tls.map(|tls| &tls.chain)),
        ("-o ssl_key", tls.map(|tls| &tls.key)),
        ("-o ssl_ca_cert", tls.and_then(|tls| tls.authorities.as_ref())),
    ];
    let problem = |(flag, path): (&str, Option<&std::path::PathBuf>)| {
        let path = path?;
        let error = std::fs::File::open(path).err()?;
        let text = format!("{flag} {}: {error}; name a file that this user may read", path.display());
        Some(Problem::new(EXIT_USAGE, text))
    };
    files.into_iter().filter_map(problem).collect()
}

/// What a node that runs can take over.
const AT_ONCE: [&str; 9] = [
    "memory-limit",
    "log-format",
    "conn-limit",
    "verbose",
    "preferred",
    "failback",
    "failback-delay",
    "verify-interval",
    "on-role-change",
];

/// A setting that became different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The flag's long name.
    pub name: String,
    /// What is in force.
    pub before: String,
    /// What is written now.
    pub after: String,
}

impl Change {
    /// Whether a node that runs can take it over.
    pub fn is_at_once(&self) -> bool {
        match &*self.name {
            // Whether the peer is fenced at all is settled at the start.
            "fence-command" => ![&self.before, &self.after].contains(&&"-".to_owned()),
            "extended" => without_idle_timeout(&self.before) == without_idle_timeout(&self.after),
            name => AT_ONCE.contains(&name),
        }
    }
}

/// What is left of a list of `-o` without the one word of it that can change at once.
fn without_idle_timeout(list: &str) -> Vec<&str> {
    let words = list.split(',').map(str::trim);
    words.filter(|word| !["", "-"].contains(word) && !word.starts_with("idle_timeout=")).collect()
}

impl Config {
    /// What is different in a configuration that was read later.
    pub fn changes(&self, later: &Self) -> Vec<Change> {
        let pairs = self.sources.iter().zip(&later.sources);
        pairs
            .filter(|(before, after)| before.value != after.value)
            .map(|(before, after)| Change {
                name: before.name.clone(),
                before: before.value.clone(),
                after: after.value.clone(),
            })
            .collect()
    }

    /// Makes a setting that can change at once that of a later configuration.
    pub fn take_over(&mut self, later: &Self, name: &str) {
        match (name, &mut self.pair, &later.pair) {
            ("memory-limit", ..) => self.engine.memory_bytes = later.engine.memory_bytes,
            ("conn-limit", ..) => self.server.connections_max = later.server.connections_max,
            ("verbose", ..) => self.process.verbosity = later.process.verbosity,
            ("log-format", ..) => self.process.log_format = later.process.log_format,
            ("extended", ..) => self.server.idle_timeout = later.server.idle_timeout,
            (_, Some(ours), Some(theirs)) => ours.take_over(theirs, name),
            _ => {}
        }
        let theirs = later.sources.iter().find(|source| source.name == name);
        let ours = self.sources.iter_mut().find(|source| source.name == name);
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            ours.clone_from(theirs);
        }
    }
}
