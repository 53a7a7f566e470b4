//! From values to a [`Config`]: looks values up, checks them, and collects what is wrong with them.
//! Nothing here stops at the first problem.

mod memory;
mod pair;
mod server;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{self, Layer, Origin};
use super::{
    Config, EXIT_NO_USER, EXIT_USAGE, Extended, HostPort, Problem, Process, duration, flags, settings,
};
use crate::logs::Style;

/// Looks values up and collects what is wrong with them.
pub(super) struct Reader<'v> {
    pub(super) values: &'v Layer,
    pub(super) problems: Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn config(&mut self, env: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Config {
        let mut extended = Extended::default();
        for list in self.texts("extended") {
            extended.take(&list, &mut self.problems);
        }
        let engine = self.engine();
        let server = self.server(&extended);
        let process = self.process(env, is_root);
        let pair = self.pair(&server.listen);
        let witness = self.witness();
        let admin = self.admin(pair.is_some());
        let memory_file = self.memory_file(pair.is_some());
        let repcached = self.repcached();
        let mut config = Config {
            server,
            engine,
            pair,
            witness,
            memory_file,
            repcached,
            admin,
            admin_token_file: self.text("admin-token-file").map(PathBuf::from),
            process,
            settings: Vec::new(),
            sources: Vec::new(),
            extended,
        };
        config.settings = settings::table(&config, &self.slabs());
        config
    }

    fn process(&mut self, env: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Process {
        let user = self.text("user");
        match &user {
            None if is_root => self.problem(
                EXIT_USAGE,
                "can't start as root without the -u switch: must add '-u root' to start as root, or -u with another user".to_owned(),
            ),
            Some(name) if is_root && !user_exists(name) => {
                self.problem(EXIT_NO_USER, format!("can't find the user {name} to switch to; -u takes the name of an existing user"));
            }
            _ => {}
        }
        Process {
            // A service manager that waits to be told must not lose sight of its process.
            daemon: self.flag("daemon") && env("NOTIFY_SOCKET").is_none(),
            user: user.filter(|_| is_root),
            pid_file: self.text("pidfile").map(PathBuf::from),
            core_dumps: self.flag("enable-coredumps"),
            lock_memory: self.flag("lock-memory"),
            port_file: env("MEMCACHED_PORT_FILENAME").map(PathBuf::from),
            log_format: self.choice("log-format", &[("human", Style::Human), ("json", Style::Json)]),
            sasl_file: env("MEMCACHED_SASL_PWDB").map(PathBuf::from),
            config_file: None,
            verbosity: self.count_of("verbose").min(3),
        }
    }

    fn address(&mut self, flag: &str, text: &str) -> Option<HostPort> {
        HostPort::parse(text)
            .map_err(|remedy| self.problem(EXIT_USAGE, format!("{flag} {text}: {remedy}")))
            .ok()
    }

    /// A number within bounds; memcached's own text for one below them.
    fn count<T: TryFrom<i64>>(
        &mut self,
        id: &str,
        default: T,
        low: i64,
        high: impl TryInto<i64>,
        flag: &str,
        memcached: Option<&str>,
    ) -> T {
        let high = high.try_into().unwrap_or(i64::MAX);
        let Some(text) = self.text(id) else { return default };
        match text
            .parse::<i64>()
            .ok()
            .filter(|number| (low..=high).contains(number))
            .and_then(|number| T::try_from(number).ok())
        {
            Some(number) => number,
            None => {
                let text = match memcached {
                    Some(memcached) => {
                        format!("{memcached} ({flag} {text}: takes a number from {low} to {high})")
                    }
                    None => format!("{flag} {text}: takes a number from {low} to {high}"),
                };
                self.problem(1, text);
                default
            }
        }
    }

    fn choice<T: Copy + Default>(&mut self, id: &str, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(id) else { return T::default() };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.problem(EXIT_USAGE, format!("--{id} {text}: takes one of {}", names.join(", ")));
                T::default()
            }
        }
    }

    fn duration(&mut self, id: &str, default: Duration) -> Duration {
        let Some(text) = self.text(id) else { return default };
        duration(&text).unwrap_or_else(|| {
            self.problem(EXIT_USAGE, format!("--{id} {text}: takes a duration such as 250ms, 2s or 1m"));
            default
        })
    }

    /// A switch. Only an environment variable or a file can say no.
    fn flag(&self, id: &str) -> bool {
        self.text(id).is_some_and(|word| values::switch(&word) == Some(true))
    }

    /// How often a flag is given.
    fn count_of(&mut self, id: &str) -> u8 {
        self.count(id, 0, 0, 255, &format!("--{id}"), None)
    }

    /// A value, without the blanks that configuration files put in front of it.
    fn text(&self, id: &str) -> Option<String> {
        self.values.get(id)?.values.last().map(|text| text.trim_start().to_owned())
    }

    fn texts(&self, id: &str) -> Vec<String> {
        let given = self.values.get(id).into_iter().flat_map(|given| &given.values);
        given.map(|text| text.trim_start().to_owned()).collect()
    }

    /// Notes a problem. Each flag that the text names and that is not from the command line is
    /// followed to where it was said.
    fn problem(&mut self, exit: u8, text: String) {
        let places = self.places(&text);
        let text = if places.is_empty() { text } else { format!("{}: {text}", places.join(", ")) };
        self.problems.push(Problem::new(exit, text));
    }

    fn places(&self, text: &str) -> Vec<String> {
        let command = flags::definition();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let mut places = Vec::new();
        for word in words {
            let named = command.get_arguments().find(|arg| match word.strip_prefix("--") {
                Some(long) => arg.get_long() == Some(long),
                None => word.strip_prefix('-').is_some_and(|letter| {
                    let mut letters = letter.chars();
                    arg.get_short().is_some() && arg.get_short() == letters.next() && letters.next().is_none()
                }),
            });
            let Some(id) = named.map(|arg| match arg.get_id().as_str() {
                "replication-port-letter" => "replication-port",
                id => id,
            }) else {
                continue;
            };
            let place = match self.values.get(id).map(|given| &given.origin) {
                Some(origin @ (Origin::File { .. } | Origin::Environment(_))) => format!("{origin} ({id})"),
                _ => continue,
            };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }
}

fn user_exists(name: &str) -> bool {
    matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
}
