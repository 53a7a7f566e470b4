//! The one definition of the flags, and how they become a [`Config`].
//!
//! memcached's letters mean what they mean there, with one exception that repcached brought: `-X N`
//! is the replication port. A bare `-X`, as memcached has it, still forbids dumping; the unambiguous
//! spelling is `--disable-dumping`. Values may begin with a dash or blanks, later flags win over
//! earlier ones, `-l` and `-o` add up.
//!
//! Nothing here stops at the first problem.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use tandem_replication::keys::{KeyFiles, TlsFiles};

use super::{
    BackupRequests, Config, EXIT_NO_USER, EXIT_USAGE, EngineConfig, Extended, Failback, Host, HostPort, Pair,
    Problem, Process, Profile, bytes, duration, listen, settings,
};
use crate::protocol::Protocol;
use crate::server::{self, Listen, Port, Security, TlsConfig, UnixListen, Verify};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run with this.
    Run(Box<Config>),
    /// Print this on stdout and exit with 0.
    Print(String),
}

/// Reads a command line (without the program's name). `env` looks up environment variables and
/// `is_root` says whether the process may become another user.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<Invocation, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // clap stops at the first flag it does not know; taking that one away and reading again finds the rest.
    let matches = loop {
        let line = std::iter::once(OsString::from("tandemd")).chain(arguments.iter().cloned());
        match definition().try_get_matches_from(line) {
            Ok(matches) => break matches,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                return Ok(Invocation::Print(error.render().to_string()));
            }
            Err(error) => {
                let (problem, culprit) = explain(&error);
                problems.push(problem);
                if !remove(&mut arguments, &culprit) {
                    return Err(problems);
                }
            }
        }
    };
    if matches.get_flag("version") {
        return Ok(Invocation::Print(format!("memcached {}\n", server::VERSION)));
    }
    if matches.get_flag("license") {
        return Ok(Invocation::Print(LICENSE.to_owned()));
    }
    let mut reader = Reader { matches: &matches, problems };
    let config = reader.config(env, is_root);
    if reader.problems.is_empty() { Ok(Invocation::Run(Box::new(config))) } else { Err(reader.problems) }
}

const LICENSE: &str =
    "tandemd is licensed under MIT or Apache-2.0, at your option; see LICENSE-MIT and LICENSE-APACHE.\n";

/// A clap error as a problem, and the flag it is about.
fn explain(error: &clap::Error) -> (Problem, String) {
    let culprit = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    // clap names a flag with its value's name behind it, and letters together with long names.
    let flag = culprit.split([' ', '=']).next().unwrap_or_default().to_owned();
    let text = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!(
            "unrecognized option '{flag}'\nIllegal argument \"?\": there is no flag {flag}; see --help"
        ),
        ErrorKind::UnknownArgument if flag.starts_with('-') => format!(
            "invalid option -- '{}'\nIllegal argument \"?\": there is no flag {flag}; see --help",
            flag.trim_start_matches('-')
        ),
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => format!(
            "option requires an argument -- '{}'\nIllegal argument \"?\": give {flag} a value; see --help",
            flag.trim_start_matches('-')
        ),
        ErrorKind::TooManyValues => {
            format!("Illegal argument \"?\": {flag} takes no value; remove what stands behind `=`")
        }
        _ => format!("Illegal argument \"?\": {}", error.to_string().trim_end()),
    };
    (Problem::new(1, text), flag)
}

/// Takes a flag out of the arguments, also out of a bundle of letters; whether it was there.
fn remove(arguments: &mut Vec<OsString>, flag: &str) -> bool {
    let Some(at) = arguments.iter().position(|argument| {
        let argument = argument.to_string_lossy();
        match flag.strip_prefix("--") {
            Some(_) => argument == flag || argument.starts_with(&format!("{flag}=")),
            None => match flag.strip_prefix('-') {
                Some(letter) => {
                    argument.starts_with('-') && !argument.starts_with("--") && argument[1..].contains(letter)
                }
                None => argument == flag,
            },
        }
    }) else {
        return false;
    };
    let argument = arguments[at].to_string_lossy().into_owned();
    match flag.strip_prefix('-') {
        Some(letter) if !flag.starts_with("--") && argument.len() > 2 => {
            arguments[at] = OsString::from(argument.replacen(letter, "", 1));
        }
        _ => {
            arguments.remove(at);
        }
    }
    true
}

/// Looks values up and collects what is wrong with them.
struct Reader<'m> {
    matches: &'m ArgMatches,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn config(&mut self, env: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Config {
        let mut extended = Extended::default();
        for list in self.texts("extended") {
            extended.take(&list, &mut self.problems);
        }
        let engine = self.engine();
        let server = self.server(&extended);
        let process = self.process(env, is_root);
        let pair = self.pair(&server.listen);
        let admin = self.admin(pair.is_some());
        let memory_file = self.memory_file();
        let repcached = self.repcached();
        let mut config = Config {
            server,
            engine,
            pair,
            memory_file,
            repcached,
            admin,
            process,
            settings: Vec::new(),
            extended,
        };
        config.settings = settings::table(&config, &self.slabs());
        config
    }

    fn server(&mut self, extended: &Extended) -> server::Config {
        let unix = self.text("unix-socket").map(|path| {
            let mask = self.text("unix-mask").unwrap_or_else(|| "700".to_owned());
            let mask =
                u32::from_str_radix(&mask, 8).ok().filter(|mask| *mask <= 0o777).unwrap_or_else(|| {
                    self.problem(
                        EXIT_USAGE,
                        format!("-a {mask}: the access mask takes an octal number from 0 to 777"),
                    );
                    0o700
                });
            UnixListen { path: PathBuf::from(path), mask }
        });
        let sasl = self.flag("enable-sasl");
        let auth_file = self.text("auth-file").map(PathBuf::from);
        let protocol = match self.text("protocol").as_deref() {
            None => None,
            Some("auto") => Some(Protocol::Auto),
            Some("ascii") => Some(Protocol::Text),
            Some("binary") => Some(Protocol::Binary),
            Some(other) => {
                let text = format!(
                    "Invalid value for binding protocol: {other}\n -- should be one of auto, binary, or ascii"
                );
                self.problem(EXIT_USAGE, text);
                None
            }
        };
        if sasl && matches!(protocol, Some(Protocol::Auto | Protocol::Text)) {
            self.problem(
                EXIT_USAGE,
                "ERROR: You cannot allow the ASCII protocol while using SASL: -S needs -B binary, or no -B"
                    .to_owned(),
            );
        }
        if auth_file.is_some() && protocol == Some(Protocol::Binary) {
            self.problem(
                EXIT_USAGE,
                "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens: -Y needs -B ascii, or no -B".to_owned(),
            );
        }
        if auth_file.is_some() && sasl {
            self.problem(EXIT_USAGE, "ERROR: -Y and -S exclude each other: choose one".to_owned());
        }
        let protocol = protocol.unwrap_or(match (sasl, &auth_file) {
            (true, _) => Protocol::Binary,
            (false, Some(_)) => Protocol::Text,
            (false, None) => Protocol::Auto,
        });
        let prefix_delimiter = self.text("prefix-delimiter").map(|text| {
            if text.len() != 1 {
                self.problem(EXIT_USAGE, format!("-D {text}: the prefix delimiter takes one character"));
            }
            text.bytes().next().unwrap_or(b':')
        });
        let listen = self.listen();
        let udp = self.port("udp-port", "-U", Port::Off);
        let port = if udp == Port::Off { Port::Number(11211) } else { udp };
        let port = self.port("port", "-p", port);
        let tls = self.tls(extended, &listen, port, unix.is_some());
        if udp != Port::Off {
            let why = [
                (auth_file.is_some(), "Cannot use UDP with ascii authentication enabled (-U 0 to disable)"),
                (
                    sasl,
                    "ERROR: You cannot enable UDP while using binary SASL authentication. (-U 0 to disable)",
                ),
                (
                    tls.is_some(),
                    "ERROR: You cannot enable UDP while using TLS: it would be open. (-U 0 to disable)",
                ),
            ];
            for (_, text) in why.iter().filter(|(holds, _)| *holds) {
                self.problem(EXIT_USAGE, (*text).to_owned());
            }
        }
        server::Config {
            listen,
            port,
            udp,
            unix,
            backlog: self.count("listen-backlog", 1024, 1, 1 << 20, "-b", None),
            connections_max: self.count(
                "conn-limit",
                1024,
                1,
                10_000_000,
                "-c",
                Some("Maximum connections must be greater than 0"),
            ),
            refuse_fast: extended.refuse_fast,
            idle_timeout: extended.idle_timeout,
            threads: self.count(
                "threads",
                4,
                1,
                1024,
                "-t",
                Some("Number of threads must be greater than 0"),
            ),
            requests_per_turn: self.count(
                "max-reqs-per-event",
                20,
                1,
                u32::MAX as usize,
                "-R",
                Some("Number of requests per event must be greater than 0"),
            ),
            protocol,
            flush_enabled: !self.flag("disable-flush-all"),
            dump_enabled: !self.dumping_disabled(),
            watch_enabled: !self.flag("disable-watch"),
            shutdown_enabled: self.flag("enable-shutdown"),
            detail_enabled: prefix_delimiter.is_some(),
            prefix_delimiter: prefix_delimiter.unwrap_or(b':'),
            item_size_max: self.item_size_max(),
            cas: !self.flag("disable-cas"),
            auth_file,
            sasl,
            tls,
        }
    }

    fn tls(
        &mut self,
        extended: &Extended,
        listen: &[Listen],
        port: Port,
        is_unix: bool,
    ) -> Option<TlsConfig> {
        let word = |name: &str| extended.shown.get(name);
        if !self.flag("enable-ssl") {
            if let Some(name) = extended.shown.keys().find(|name| name.starts_with("ssl_")) {
                self.problem(EXIT_USAGE, format!("-o {name} concerns TLS, but there is none: add -Z"));
            }
            if listen.iter().any(|listen| matches!(listen.security, Security::Basic | Security::Mutual)) {
                self.problem(EXIT_USAGE, "-l btls: and mtls: need TLS: add -Z".to_owned());
            }
            return None;
        }
        if is_unix || (port == Port::Off && listen.iter().all(|listen| listen.port.is_none())) {
            let text = "ERROR: You cannot enable SSL without a TCP port. (-Z with -s or -p 0: remove one)";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        for name in ["ssl_chain_cert", "ssl_key"] {
            if word(name).is_none() {
                self.problem(EXIT_USAGE, format!("-Z needs -o {name}=FILE"));
            }
        }
        let verify = match word("ssl_verify_mode").map_or("0", String::as_str) {
            "0" => Verify::Never,
            "2" => Verify::Require,
            // There is one handshake per connection, so `once` is what `request` is.
            _ => Verify::Request,
        };
        let mutual = listen.iter().any(|listen| listen.security == Security::Mutual);
        if (verify != Verify::Never || mutual) && word("ssl_ca_cert").is_none() {
            let what = if mutual { "-l mtls:" } else { "-o ssl_verify_mode" };
            self.problem(
                EXIT_USAGE,
                format!(
                    "{what} asks clients for certificates: say with -o ssl_ca_cert=FILE who may sign them"
                ),
            );
        }
        let path = |name: &str| word(name).map(PathBuf::from);
        let ciphers = word("ssl_ciphers").map_or("", String::as_str);
        Some(TlsConfig {
            chain: path("ssl_chain_cert").unwrap_or_default(),
            key: path("ssl_key").unwrap_or_default(),
            key_is_der: word("ssl_keyformat").is_some_and(|format| format == "2"),
            authorities: path("ssl_ca_cert"),
            verify,
            only_13: word("ssl_min_version").is_some_and(|version| version == "tlsv1.3"),
            ciphers: ciphers.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            session_cache: word("ssl_session_cache").is_some(),
            write_buffer: word("ssl_wbuf_size").and_then(|size| size.parse().ok()).unwrap_or(16 << 10),
        })
    }

    /// `-X` alone, as memcached has it, or the long name.
    fn dumping_disabled(&self) -> bool {
        let bare = self.matches.contains_id("replication-port-letter")
            && self.matches.get_one::<String>("replication-port-letter").is_none_or(String::is_empty);
        bare || self.flag("disable-dumping")
    }

    fn listen(&mut self) -> Vec<Listen> {
        let lists = self.texts("listen");
        let elements = lists.iter().flat_map(|list| list.split([',', ';'])).map(str::trim);
        let mut all = Vec::new();
        for element in elements.filter(|element| !element.is_empty()) {
            match listen::listen(element) {
                Ok(listen) => all.push(listen),
                Err(remedy) => self.problem(EXIT_SYSTEM_LISTEN, format!("-l {element}: {remedy}")),
            }
        }
        all
    }

    fn port(&mut self, id: &str, flag: &str, default: Port) -> Port {
        match self.text(id) {
            None => default,
            Some(text) => match text.parse::<i64>() {
                Ok(0) => Port::Off,
                Ok(-1) => Port::Ephemeral,
                Ok(number @ 1..=65535) => Port::Number(number as u16),
                _ => {
                    let text = format!(
                        "ERROR: Invalid port number {text}. ({flag} takes 1 to 65535, 0 for none, -1 for any free one)"
                    );
                    self.problem(EXIT_USAGE, text);
                    Port::Off
                }
            },
        }
    }

    fn engine(&mut self) -> EngineConfig {
        let memory_bytes = match self.text("memory-limit") {
            None => 64 << 20,
            Some(text) => bytes(&text, 1 << 20).filter(|bytes| *bytes > 0).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("-m {text}: the memory limit takes a number of megabytes, at least 1"),
                );
                16 << 20
            }),
        };
        let item_size_max = self.item_size_max();
        let (half, limit) = (memory_bytes / 2, 1u64 << 30);
        if item_size_max < 1024 {
            self.problem(
                EXIT_USAGE,
                "Item max size cannot be less than 1024 bytes. (-I takes 1k to 1024m)".to_owned(),
            );
        } else if item_size_max as u64 > limit {
            self.problem(
                EXIT_USAGE,
                "Cannot set item size limit higher than a gigabyte. (-I takes 1k to 1024m)".to_owned(),
            );
        } else if item_size_max as u64 > half {
            self.problem(
                EXIT_USAGE,
                format!("Cannot set item size limit higher than 1/2 of memory max. (-I {item_size_max} with -m {}: lower -I or raise -m)", memory_bytes >> 20),
            );
        }
        EngineConfig {
            memory_bytes,
            evict: !self.flag("disable-evictions"),
            item_size_max,
            cas: !self.flag("disable-cas"),
        }
    }

    fn item_size_max(&mut self) -> usize {
        let Some(text) = self.text("max-item-size") else { return 1 << 20 };
        match bytes(&text, 1).and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) => bytes,
            None => {
                let problem = Problem::new(
                    EXIT_USAGE,
                    format!("-I {text}: the item size takes bytes, or a number with k or m behind it"),
                );
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
                1 << 20
            }
        }
    }

    /// Growth factor and smallest chunk: accepted, checked and shown.
    fn slabs(&mut self) -> [(&'static str, String); 2] {
        let factor = match self.text("slab-growth-factor").map(|text| text.parse::<f64>()) {
            None => 1.25,
            Some(Ok(factor)) if factor > 1.0 && factor.is_finite() => factor,
            Some(_) => {
                self.problem(1, "Factor must be greater than 1 (-f)".to_owned());
                1.25
            }
        };
        let chunk =
            self.count("slab-min-size", 48, 1, 1 << 20, "-n", Some("Chunk size must be greater than 0"));
        [("growth_factor", format!("{factor:.2}")), ("chunk_size", chunk.to_string())]
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
            daemon: self.flag("daemon"),
            user: user.filter(|_| is_root),
            pid_file: self.text("pidfile").map(PathBuf::from),
            core_dumps: self.flag("enable-coredumps"),
            lock_memory: self.flag("lock-memory"),
            port_file: env("MEMCACHED_PORT_FILENAME").map(PathBuf::from),
            sasl_file: env("MEMCACHED_SASL_PWDB").map(PathBuf::from),
            verbosity: self.matches.get_count("verbose").min(3),
        }
    }

    fn pair(&mut self, client_listen: &[Listen]) -> Option<Pair> {
        let letter = self
            .matches
            .get_one::<String>("replication-port-letter")
            .filter(|text| !text.is_empty())
            .cloned();
        let port = self.text("replication-port").or(letter);
        let peer = self.text("peer");
        let listen = self.texts("replication-listen");
        if port.is_none() && peer.is_none() && listen.is_empty() {
            for id in PAIR_ONLY {
                if self.matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine) {
                    self.problem(EXIT_USAGE, format!("--{id} concerns a pair, but there is none: add -x HOST (or -X PORT to wait for the peer)"));
                }
            }
            return None;
        }
        let port = port.map_or(11212, |text| {
            text.trim().parse::<u16>().ok().filter(|port| *port > 0).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("-X {text}: the replication port takes a number from 1 to 65535"),
                );
                11212
            })
        });
        let peer = peer.and_then(|text| self.address("-x", &text)).inspect(|peer| {
            if peer.host == Host::Any {
                self.problems
                    .push(Problem::new(EXIT_USAGE, "-x *: the peer takes a name or an address".to_owned()));
            }
        });
        let mut listen: Vec<HostPort> = listen
            .iter()
            .flat_map(|list| list.split([',', ';']))
            .filter_map(|element| self.address("--replication-listen", element.trim()))
            .collect();
        if listen.is_empty() {
            let host = |listen: &Listen| listen.host.clone().map_or(Host::Any, Host::Name);
            listen = client_listen.iter().map(|listen| HostPort { host: host(listen), port: None }).collect();
            listen.dedup();
        }
        if listen.is_empty() {
            listen.push(HostPort { host: Host::Any, port: None });
        }
        let psk_file = self.text("psk-file").map(PathBuf::from);
        if let Some(path) = &psk_file
            && let Err(error) = std::fs::File::open(path)
        {
            self.problem(
                EXIT_USAGE,
                format!(
                    "--psk-file {}: {error}; make a key with `tandemctl genkey` and let this user read it",
                    path.display()
                ),
            );
        }
        let tls = self.replication_tls(peer.as_ref());
        let keys = KeyFiles { secrets: psk_file, tls };
        let insecure = self.flag("insecure-replication");
        if keys == KeyFiles::default()
            && !insecure
            && let Some(open) = listen.iter().find(|listen| !is_loopback(&listen.host))
        {
            self.problem(
                EXIT_USAGE,
                format!(
                    "the replication listener on {} can be reached from outside without a key: give both nodes --psk-file FILE \
                     (`tandemctl genkey` makes one) or --replication-tls-cert, -key and -ca, bind it to loopback with --replication-listen, or say --insecure-replication",
                    open.host
                ),
            );
        }
        let profile =
            self.choice("profile", &[("fast", Profile::Fast), ("lan", Profile::Lan), ("wan", Profile::Wan)]);
        let (interval, deadline) = profile.timing();
        let heartbeat_interval = self.duration("heartbeat-interval", interval);
        let dead_after = self.duration("dead-after", deadline);
        if heartbeat_interval.is_zero() || dead_after < heartbeat_interval * 3 {
            self.problem(
                EXIT_USAGE,
                format!(
                    "--dead-after {}ms with --heartbeat-interval {}ms: the deadline must be at least three heartbeats, and those more than 0",
                    dead_after.as_millis(), heartbeat_interval.as_millis()
                ),
            );
        }
        let backlog_bytes = match self.text("backlog") {
            None => (16 << 20).max(self.memory_bytes_or_default() / 16),
            Some(text) => bytes(&text, 1 << 20).filter(|bytes| *bytes >= 1 << 20).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("--backlog {text}: takes a number of megabytes, at least 1"),
                );
                16 << 20
            }),
        };
        Some(Pair {
            peer,
            port,
            listen,
            state_dir: self.text("state-dir").map(PathBuf::from),
            profile,
            heartbeat_interval,
            dead_after,
            failback: self.choice(
                "failback",
                &[("auto", Failback::Auto), ("manual", Failback::Manual), ("never", Failback::Never)],
            ),
            failback_delay: self.duration("failback-delay", Duration::from_secs(60)),
            preferred: self.flag("preferred"),
            start_alone: self.choice("start-alone", &[("yes", YesNo(true)), ("no", YesNo(false))]).0,
            backup_requests: self.choice(
                "backup-requests",
                &[
                    ("proxy", BackupRequests::Proxy),
                    ("local-reads", BackupRequests::LocalReads),
                    ("reject", BackupRequests::Reject),
                ],
            ),
            backlog_bytes,
            keys,
            insecure,
        })
    }

    /// Certificates for the link: all three files or none.
    fn replication_tls(&mut self, peer: Option<&HostPort>) -> Option<TlsFiles> {
        const FILES: [&str; 3] = ["replication-tls-cert", "replication-tls-key", "replication-tls-ca"];
        let files = FILES.map(|id| self.text(id).map(PathBuf::from));
        let name = self.text("replication-tls-name");
        if files.iter().all(Option::is_none) {
            if name.is_some() {
                self.problem(
                    EXIT_USAGE,
                    format!("--replication-tls-name concerns certificates: add --{}", FILES.join(", --")),
                );
            }
            return None;
        }
        for (id, path) in FILES.iter().zip(&files) {
            let problem = match path {
                None => format!("--{id}: missing; certificates need --{}", FILES.join(", --")),
                Some(path) => match std::fs::File::open(path) {
                    Ok(_) => continue,
                    Err(error) => format!("--{id} {}: {error}; let this user read it", path.display()),
                },
            };
            self.problem(EXIT_USAGE, problem);
        }
        let name = name.or_else(|| match peer.map(|peer| &peer.host) {
            Some(Host::Name(name)) => Some(name.clone()),
            _ => None,
        });
        if name.is_none() {
            let text = "--replication-tls-name: without -x, say the name in the peer's certificate";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        let [certificate, key, authority] = files;
        Some(TlsFiles { certificate: certificate?, key: key?, authority: authority?, name: name? })
    }

    /// A file in a directory that is there; whether it can be written is known after `-u` only.
    fn memory_file(&mut self) -> Option<PathBuf> {
        let text = self.text("memory-file")?;
        // In the background the working directory will be another one.
        let path = std::path::absolute(&text).unwrap_or_else(|_| PathBuf::from(&text));
        let problem = match path.parent().map(std::path::Path::metadata) {
            _ if text.ends_with('/') || path.is_dir() => "that is no name of a file".to_owned(),
            Some(Ok(directory)) if directory.is_dir() => return Some(path),
            Some(Err(error)) => format!("its directory: {error}"),
            _ => "that is in no directory".to_owned(),
        };
        self.problem(EXIT_USAGE, format!("-e {text}: {problem}; name a file in a directory that exists"));
        None
    }

    fn repcached(&mut self) -> Option<HostPort> {
        let text = self.text("repcached-peer")?;
        let peer = self.address("--repcached-peer", &text)?;
        if peer.host == Host::Any {
            self.problem(EXIT_USAGE, "--repcached-peer *: it takes a name or an address".to_owned());
        }
        Some(peer)
    }

    fn memory_bytes_or_default(&self) -> u64 {
        self.text("memory-limit").and_then(|text| bytes(&text, 1 << 20)).unwrap_or(64 << 20)
    }

    fn admin(&mut self, paired: bool) -> Option<HostPort> {
        match self.text("admin").as_deref() {
            None if paired => Some(HostPort { host: Host::Name("127.0.0.1".to_owned()), port: Some(11213) }),
            None | Some("off") => None,
            Some(text) => {
                let address = self.address("--admin", text)?;
                if address.port.is_none() {
                    self.problem(
                        EXIT_USAGE,
                        format!("--admin {text}: the admin port needs a port, as in 127.0.0.1:11213"),
                    );
                }
                Some(address)
            }
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

    fn flag(&self, id: &str) -> bool {
        self.matches.get_flag(id)
    }

    /// A value, without the blanks that configuration files put in front of it.
    fn text(&self, id: &str) -> Option<String> {
        self.matches.get_one::<String>(id).map(|text| text.trim_start().to_owned())
    }

    fn texts(&self, id: &str) -> Vec<String> {
        self.matches
            .get_many::<String>(id)
            .into_iter()
            .flatten()
            .map(|text| text.trim_start().to_owned())
            .collect()
    }

    fn problem(&mut self, exit: u8, text: String) {
        self.problems.push(Problem::new(exit, text));
    }
}

/// memcached exits with EX_OSERR for addresses it cannot listen on.
const EXIT_SYSTEM_LISTEN: u8 = super::EXIT_SYSTEM;

/// yes unless no.
#[derive(Clone, Copy)]
struct YesNo(bool);

impl Default for YesNo {
    fn default() -> Self {
        Self(true)
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Any => false,
        Host::Name(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

fn user_exists(name: &str) -> bool {
    matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
}

/// Flags that mean nothing without a pair.
const PAIR_ONLY: [&str; 16] = [
    "state-dir",
    "profile",
    "heartbeat-interval",
    "dead-after",
    "failback",
    "failback-delay",
    "preferred",
    "start-alone",
    "backup-requests",
    "backlog",
    "psk-file",
    "replication-tls-cert",
    "replication-tls-key",
    "replication-tls-ca",
    "replication-tls-name",
    "insecure-replication",
];

fn definition() -> Command {
    let command = Command::new("tandemd")
        .about("A memcached server that can be one of a pair: the pair behaves as one node that survives the loss of either.")
        .override_usage("tandemd [flags]\n       tandemd -u USER -m 1024 -x OTHER-NODE --psk-file KEY")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .term_width(100);
    let command = network(command);
    let command = memory(command);
    let command = service(command);
    let command = process(command);
    pair(command)
}

fn value(id: &'static str, letter: Option<char>, name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(id).long(id).value_name(name).help(help).allow_hyphen_values(true).num_args(1);
    match letter {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

fn switch(id: &'static str, letter: Option<char>, help: &'static str) -> Arg {
    let arg = Arg::new(id).long(id).help(help).action(ArgAction::SetTrue);
    match letter {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

fn network(command: Command) -> Command {
    command.next_help_heading("Network").args([
        value("port", Some('p'), "N", "TCP port; 0 for none, -1 for any free one [default: 11211]"),
        value("listen", Some('l'), "ADDR", "Addresses to listen on: HOST, HOST:PORT, [V6]:PORT, comma separated; may be repeated; with notls:, btls: or mtls: in front without TLS, with TLS, or with TLS and clients' certificates [default: every interface]")
            .action(ArgAction::Append),
        value("unix-socket", Some('s'), "FILE", "UNIX socket to listen on instead of TCP"),
        value("unix-mask", Some('a'), "MASK", "Access mask of the UNIX socket, octal [default: 700]"),
        value("conn-limit", Some('c'), "N", "Most simultaneous connections [default: 1024]"),
        value("listen-backlog", Some('b'), "N", "Length of the queue of connections to be accepted [default: 1024]"),
        value("protocol", Some('B'), "NAME", "ascii, binary or auto [default: auto]"),
        value("max-reqs-per-event", Some('R'), "N", "Requests of one connection before others have a turn [default: 20]"),
        value("udp-port", Some('U'), "N", "UDP port, and the TCP port without -p; 0 for none, -1 for any free one [default: 0]"),
        switch("enable-ssl", Some('Z'), "TLS for clients; needs -o ssl_chain_cert=FILE,ssl_key=FILE; SIGHUP and `refresh_certs` read them again"),
        value("napi_ids", Some('N'), "N", "").hide(true),
    ])
}

fn memory(command: Command) -> Command {
    command.next_help_heading("Memory").args([
        value("memory-limit", Some('m'), "MB", "Memory for items in megabytes [default: 64]"),
        switch(
            "disable-evictions",
            Some('M'),
            "Answer with an error instead of evicting when memory is full",
        ),
        value("max-item-size", Some('I'), "SIZE", "Largest item, with k or m; 1k to 1024m [default: 1m]"),
        switch("disable-cas", Some('C'), "Keep no CAS uniques"),
        switch("lock-memory", Some('k'), "Lock all memory into RAM"),
        value("slab-growth-factor", Some('f'), "X", "Accepted for memcached's sake [default: 1.25]"),
        value("slab-min-size", Some('n'), "N", "Accepted for memcached's sake [default: 48]"),
        switch("enable-largepages", Some('L'), "Accepted for memcached's sake"),
        value(
            "memory-file",
            Some('e'),
            "FILE",
            "Keep items there from a graceful stop (SIGUSR1) to the next start; for a node without a peer",
        ),
    ])
}

fn service(command: Command) -> Command {
    command.next_help_heading("Service").args([
        value("threads", Some('t'), "N", "Worker threads [default: 4]"),
        value("auth-file", Some('Y'), "FILE", "Authentication for the text protocol: lines of user:password; SIGHUP reads it again"),
        switch("enable-sasl", Some('S'), "SASL authentication for the binary protocol (PLAIN; users in $MEMCACHED_SASL_PWDB)"),
        switch("enable-shutdown", Some('A'), "Allow the command `shutdown`"),
        switch("disable-flush-all", Some('F'), "Refuse the command `flush_all`"),
        switch("disable-dumping", None, "Refuse `stats cachedump`, `lru_crawler metadump` and `mgdump` (memcached's -X)"),
        switch("disable-watch", Some('W'), "Refuse the command `watch`"),
        value("prefix-delimiter", Some('D'), "CHAR", "Count by key prefix up to this character, as `stats detail on` does"),
        value("extended", Some('o'), "LIST", "memcached's extended options, comma separated: maxconns_fast, no_maxconns_fast, idle_timeout=SECONDS, track_sizes; for -Z: ssl_chain_cert=FILE, ssl_key=FILE, ssl_ca_cert=FILE, ssl_verify_mode=0 (no), 1 (request), 2 (require) or 3 (once), ssl_min_version=2 (TLS 1.2) or 3, ssl_ciphers=A:B, ssl_keyformat=1 (PEM) or 2 (DER), ssl_session_cache, ssl_wbuf_size=KB; those that tune memcached's own memory layout are accepted without effect")
            .action(ArgAction::Append),
    ])
}

fn process(command: Command) -> Command {
    command.next_help_heading("Process").args([
        switch("daemon", Some('d'), "Run in the background"),
        value("user", Some('u'), "USER", "Become this user (needed when started by root)"),
        value("pidfile", Some('P'), "FILE", "Write the process id there"),
        switch("enable-coredumps", Some('r'), "Allow core dumps"),
        Arg::new("verbose")
            .short('v')
            .long("verbose")
            .action(ArgAction::Count)
            .help("Log more; -vv and -vvv still more"),
        Arg::new("help")
            .short('h')
            .long("help")
            .action(ArgAction::HelpShort)
            .help("Print this help and exit"),
        switch("license", Some('i'), "Print the license and exit"),
        switch("version", Some('V'), "Print the version and exit"),
    ])
}

fn pair(command: Command) -> Command {
    command.next_help_heading("Pair").args([
        value("peer", Some('x'), "HOST[:PORT]", "The other node"),
        value("replication-port", None, "PORT", "Replication port, here and at the peer; alone: wait for the peer to dial in [default: 11212]"),
        Arg::new("replication-port-letter").short('X').value_name("PORT").num_args(0..=1).default_missing_value("")
            .help("Same as --replication-port, as in repcached; without a number same as --disable-dumping, as in memcached"),
        value("replication-listen", None, "ADDR", "Addresses replication listens on [default: those of -l]").action(ArgAction::Append),
        value("psk-file", None, "FILE", "Pre-shared key that both nodes prove to each other and that seals the link (`tandemctl genkey` makes one); with two lines the first is used and both are taken; SIGHUP reads it again"),
        value("replication-tls-cert", None, "FILE", "TLS between the nodes: this node's certificate (PEM); SIGHUP reads it again"),
        value("replication-tls-key", None, "FILE", "Its private key (PEM)"),
        value("replication-tls-ca", None, "FILE", "Who signs the certificates of both nodes (PEM)"),
        value("replication-tls-name", None, "NAME", "The name in the peer's certificate [default: the host of -x]"),
        switch("insecure-replication", None, "Listen for replication beyond loopback without a key"),
        value("state-dir", None, "DIR", "Where epoch and history survive a restart"),
        value("admin", None, "ADDR:PORT", "Admin port, or off [default: 127.0.0.1:11213 with a peer, else off]"),
        value("profile", None, "NAME", "fast (20 ms, 250 ms), lan (100 ms, 1 s) or wan (500 ms, 5 s) [default: lan]"),
        value("heartbeat-interval", None, "TIME", "How often a node says that it is there [default: the profile's]"),
        value("dead-after", None, "TIME", "Silence after which the peer counts as dead [default: the profile's]"),
        value("failback", None, "WHO", "Handing the master role back to the preferred node: auto, manual or never [default: auto]"),
        value("failback-delay", None, "TIME", "How long the preferred node is caught up before it asks for the role [default: 60s]"),
        switch("preferred", None, "This node should be master when both are well"),
        value("start-alone", None, "YES|NO", "Serve alone if the peer is silent at start [default: yes]"),
        value("backup-requests", None, "HOW", "What a backup does with requests: proxy, local-reads or reject [default: proxy]"),
        value("backlog", None, "MB", "Recent changes kept for a peer that was away [default: 16 or 1/16 of -m, whichever is more]"),
        value("repcached-peer", None, "HOST[:PORT]", "Take over the items of a live repcached 2.x and follow its changes [default port: 11212]"),
        value("queue-length", Some('q'), "N", "Accepted for repcached's sake").hide_long_help(true),
    ])
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
