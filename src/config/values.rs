//! Values and where they come from. Four layers, each for one source; for each flag the highest layer
//! that names it says all of it: a list on the command line replaces the file's, it does not add to it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of a configuration file.
    File {
        /// Which file.
        path: Arc<PathBuf>,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable of this name.
    Environment(String),
    /// The command line.
    CommandLine,
}

impl Origin {
    /// What systemd says of a unit's `StateDirectory=`: it is there for every unit, paired or not.
    pub(super) fn of_service_manager() -> Self {
        Self::Environment("STATE_DIRECTORY".to_owned())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// What one source says of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Its values; `yes` or `no` for a switch.
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

/// What one source says, by the flags' names.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(BTreeMap<String, Given>);

impl Layer {
    pub(super) fn insert(&mut self, name: &str, given: Given) {
        self.0.insert(name.to_owned(), given);
    }

    /// More values of a list.
    pub(super) fn append(&mut self, name: &str, mut given: Given) {
        match self.0.get_mut(name) {
            Some(there) => there.values.append(&mut given.values),
            None => self.insert(name, given),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.0.get(name)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Given> {
        self.0.remove(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &Given)> {
        self.0.iter().map(|(name, given)| (name.as_str(), given))
    }

    /// What this layer says, and below it what a lower one says of the rest.
    pub(super) fn over(mut self, lower: Self) -> Self {
        for (name, given) in lower.0 {
            self.0.entry(name).or_insert(given);
        }
        self
    }
}

/// A switch's word.
pub(super) fn switch(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}
