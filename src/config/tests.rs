use std::ffi::OsString;

use super::*;
use crate::server::{Port, Security, Verify};

fn run(line: &str) -> Result<Invocation, Vec<Problem>> {
    run_as(line, true)
}

fn run_as(line: &str, is_root: bool) -> Result<Invocation, Vec<Problem>> {
    parse(line.split_whitespace().map(OsString::from), |_| None, is_root)
}

fn config(line: &str) -> Config {
    match run(&format!("-u root {line}")) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn problems(line: &str) -> Vec<Problem> {
    match run(line) {
        Err(problems) => problems,
        Ok(_) => panic!("{line} was accepted"),
    }
}

#[test]
fn the_defaults_are_memcacheds() {
    let config = config("");
    assert_eq!(config.server.port, Port::Number(11211));
    assert_eq!(config.server.threads, 4);
    assert_eq!(config.server.connections_max, 1024);
    assert_eq!(config.engine.memory_bytes, 64 << 20);
    assert_eq!(config.engine.item_size_max, 1 << 20);
    assert!(config.pair.is_none() && config.admin.is_none());
    assert_eq!(config.settings.len(), 77);
}

#[test]
fn flags_may_be_bundled_attached_repeated_and_long() {
    let config = config(
        "-vvMC -p11311 -l127.0.0.1,::1 -l [::1]:11411 --threads=2 -t 3 -m 128 -R -1 -R 5 --listen-backlog 7",
    );
    assert_eq!(config.process.verbosity, 2);
    assert!(!config.engine.evict && !config.engine.cas);
    assert_eq!(config.server.port, Port::Number(11311));
    assert_eq!(config.server.listen.len(), 3);
    assert_eq!(config.server.listen[2].port, Some(11411));
    assert_eq!((config.server.threads, config.server.requests_per_turn, config.server.backlog), (3, 5, 7));
}

#[test]
fn what_debians_configuration_passes_is_accepted() {
    let config = config("-d -m 64 -p 11211 -l 127.0.0.1 -l ::1 -P /run/memcached/memcached.pid -U 0 -v");
    assert!(config.process.daemon);
    assert_eq!(config.process.pid_file, Some("/run/memcached/memcached.pid".into()));
}

#[test]
fn a_node_with_a_peer_takes_no_file_of_a_warm_restart() {
    for peer in ["-x 192.0.2.2", "-X 11212"] {
        let problems = problems(&format!("-u root -e /items {peer} --replication-listen 127.0.0.1"));
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.text.starts_with("-e /items: not for a node with a peer"), "{problems:?}");
        assert!(problem.text.ends_with("once without -x and -X"), "{problems:?}");
    }
}

#[test]
fn the_file_of_a_warm_restart_is_known_by_its_whole_path() {
    let file = |line: &str| config(line).memory_file;
    assert_eq!(file("-e items"), Some(std::path::absolute("items").unwrap()));
    assert_eq!(file("-e /items"), Some("/items".into()));
    assert_eq!(file(""), None);
    for bad in ["-e /", "-e /none/of/this/items", "-e items/", "-e /proc", "-e /proc/version/items"] {
        let problems = problems(&format!("-u root {bad}"));
        assert!(
            problems[0].text.starts_with(bad) && problems[0].text.contains("name a file"),
            "{problems:?}"
        );
    }
}

#[test]
fn a_repcached_is_named_like_a_peer() {
    let peer = |line: &str| config(line).repcached.map(|peer| peer.to_string());
    assert_eq!(peer("--repcached-peer old.example"), Some("old.example".to_owned()));
    assert_eq!(peer("--repcached-peer [::1]:11213"), Some("[::1]:11213".to_owned()));
    for bad in ["--repcached-peer *", "--repcached-peer host:x", "--repcached-peer :1"] {
        assert!(problems(&format!("-u root {bad}"))[0].text.starts_with(bad));
    }
}

#[test]
fn blanks_before_a_value_are_skipped() {
    let line = ["-u", " root", "-p", " 11311", "-I", "2m"].map(OsString::from);
    let Ok(Invocation::Run(config)) = parse(line, |_| None, true) else { panic!() };
    assert_eq!(config.server.port, Port::Number(11311));
    assert_eq!(config.engine.item_size_max, 2 << 20);
}

#[test]
fn refusals_have_memcacheds_texts_and_codes() {
    for (line, exit, text) in [
        ("-p 70000", 64, "ERROR: Invalid port number 70000."),
        ("-p -2", 64, "ERROR: Invalid port number -2."),
        ("-c 0", 1, "Maximum connections must be greater than 0"),
        ("-c -1", 1, "Maximum connections must be greater than 0"),
        ("-t 0", 1, "Number of threads must be greater than 0"),
        ("-t x", 1, "Number of threads must be greater than 0"),
        ("-f 1", 1, "Factor must be greater than 1"),
        ("-n 0", 1, "Chunk size must be greater than 0"),
        ("-I 1000", 64, "Item max size cannot be less than 1024 bytes."),
        ("-I 256m", 64, "Cannot set item size limit higher than 1/2 of memory max."),
        ("-m 1", 64, "Cannot set item size limit higher than 1/2 of memory max."),
        ("-B http", 64, "Invalid value for binding protocol: http"),
        ("-o nonsense", 1, "Illegal suboption \"nonsense\""),
        ("-S -B ascii", 64, "ERROR: You cannot allow the ASCII protocol while using SASL"),
        ("-Y f -B binary", 64, "ERROR: You cannot allow the BINARY protocol"),
        ("-l host:70000", 71, "-l host:70000:"),
        ("-U 70000", 64, "ERROR: Invalid port number 70000. (-U takes"),
        ("-U 11211 -Y f", 64, "Cannot use UDP with ascii authentication enabled (-U 0 to disable)"),
        ("-U 11211 -S", 64, "ERROR: You cannot enable UDP while using binary SASL"),
        ("-U 1 -Z -o ssl_chain_cert=c,ssl_key=k", 64, "ERROR: You cannot enable UDP while using TLS"),
        ("-Z -o ssl_key=k", 64, "-Z needs -o ssl_chain_cert=FILE"),
        ("-Z -o ssl_chain_cert=c", 64, "-Z needs -o ssl_key=FILE"),
        ("-Z -p 0 -o ssl_chain_cert=c,ssl_key=k", 64, "ERROR: You cannot enable SSL without a TCP port."),
        ("-Z -o ssl_chain_cert=c,ssl_key=k,ssl_verify_mode=2", 64, "-o ssl_verify_mode asks clients"),
        ("-Z -l mtls:h:1 -o ssl_chain_cert=c,ssl_key=k", 64, "-l mtls: asks clients for certificates"),
        ("-Z -o ssl_chain_cert=c,ssl_key=k,ssl_min_version=4", 1, "-o ssl_min_version=4: takes 2"),
        ("-l btls:host:1", 64, "-l btls: and mtls: need TLS"),
        ("-o ssl_key=k", 64, "-o ssl_key concerns TLS, but there is none: add -Z"),
        ("-a 999 -s /tmp/x", 64, "-a 999:"),
        ("--bogus", 1, "unrecognized option '--bogus'\nIllegal argument \"?\""),
        ("-z", 1, "invalid option -- 'z'\nIllegal argument \"?\""),
        ("-vz", 1, "invalid option -- 'z'\nIllegal argument \"?\""),
        ("-p", 1, "option requires an argument"),
        ("--failback auto", 64, "--failback concerns a pair"),
    ] {
        let problems = problems(&format!("-u root {line}"));
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert_eq!(problems[0].exit, exit, "{line}: {problems:?}");
        assert!(problems[0].text.starts_with(text), "{line}: {problems:?}");
    }
}

#[test]
fn two_writers_are_refused_with_what_promises_one() {
    let pair = "-u root -l 127.0.0.1 -x 127.0.0.2 --backup-requests accept";
    let _ = config(pair);
    for (flags, named) in [
        ("--arbiter 127.0.0.3:11214", "--arbiter"),
        ("--repcached-peer 127.0.0.4", "--repcached-peer"),
        ("--heal winner", "--heal"),
        ("--heal invalidate", "--heal"),
    ] {
        let _ = config(&format!("-u root -l 127.0.0.1 -x 127.0.0.2 {flags}"));
        let refused = problems(&format!("{pair} {flags}"));
        assert_eq!(refused.len(), 1, "{flags}: {refused:?}");
        assert!(refused[0].text.starts_with(named) && refused[0].text.contains("accept"), "{refused:?}");
    }
}

#[test]
fn an_etcd_is_named_with_what_lets_a_node_in() {
    let pair = "-u root -l 127.0.0.1 -x 127.0.0.2";
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let line =
        format!("{pair} --arbiter etcds://a:1,b/orders --arbiter-tls-ca {path} --arbiter-auth-file {path}");
    let Some(Arbiter::Etcd { addresses, name, access }) = config(&line).pair.unwrap().arbiter else {
        panic!("an etcd")
    };
    assert_eq!((addresses.len(), &*name), (2, "orders"));
    assert!(access.tls && access.authorities.is_some() && access.user.is_some() && access.identity.is_none());
    let Some(Arbiter::Etcd { name, access, .. }) =
        config(&format!("{pair} --arbiter etcd://a")).pair.unwrap().arbiter
    else {
        panic!("an etcd")
    };
    assert_eq!((&*name, access), ("tandem", EtcdAccess::default()));

    let key = format!("--arbiter-tls-key {path}");
    for (flags, text) in [
        (
            "--arbiter https://e:2379".to_owned(),
            "--arbiter https://e:2379: https:// is unknown; name an etcd as",
        ),
        (
            format!("--arbiter etcd://e --arbiter-tls-ca {path}"),
            "--arbiter-tls-ca: is for an etcd that speaks TLS",
        ),
        (
            format!("--arbiter w:1 --arbiter-auth-file {path}"),
            "--arbiter-auth-file: is for an etcd that speaks TLS",
        ),
        (format!("--arbiter etcds://e {key}"), "--arbiter-tls-key: needs --arbiter-tls-cert FILE"),
        ("--arbiter etcds://e --arbiter-tls-ca /nonexistent".to_owned(), "--arbiter-tls-ca /nonexistent: "),
        (format!("--arbiter-tls-ca {path}"), "--arbiter-tls-ca: there is no arbiter"),
    ] {
        let refused = problems(&format!("{pair} {flags}"));
        assert_eq!(refused.len(), 1, "{flags}: {refused:?}");
        assert!(refused[0].text.starts_with(text), "{flags}: {refused:?}");
    }
}

#[test]
fn root_must_say_whom_to_become() {
    let problems = problems("-p 1");
    assert_eq!(problems[0].exit, 64);
    assert!(problems[0].text.contains("must add '-u root' to start as root"), "{problems:?}");
    let unknown = run("-u nobody-of-that-name").unwrap_err();
    assert_eq!(unknown[0].exit, 67);
    assert!(unknown[0].text.starts_with("can't find the user nobody-of-that-name to switch to"));
    assert!(run_as("-p 1", false).is_ok());
}

#[test]
fn every_problem_is_told_at_once() {
    let problems = problems("--bogus -zv -p 70000 -c 0 -o nonsense,hashpower=1 -x [::1 --profile slow");
    assert!(problems.len() >= 8, "{problems:?}");
}

#[test]
fn a_number_behind_dash_x_is_the_replication_port_and_nothing_is_memcacheds_flag() {
    let bare = config("-X -p 0");
    assert!(bare.pair.is_none() && !bare.server.dump_enabled);
    let pair = config("-X 11300 --insecure-replication");
    assert!(pair.server.dump_enabled);
    assert_eq!(pair.pair.unwrap().port, 11300);
    assert!(!config("--disable-dumping").server.dump_enabled);
    assert!(problems("-u root -X x")[0].text.starts_with("-X x:"));
}

#[test]
fn a_pair_has_defaults_that_follow_the_rest() {
    let config = config("-l 127.0.0.2 -x 127.0.0.3 -q 8192 -m 2048");
    let pair = config.pair.unwrap();
    assert_eq!(pair.peer.as_ref().unwrap().to_string(), "127.0.0.3");
    assert_eq!((pair.port, pair.listen.len(), pair.backlog_bytes), (11212, 1, 128 << 20));
    assert_eq!(pair.listen[0].to_string(), "127.0.0.2");
    assert_eq!(
        (pair.profile, pair.heartbeat_interval.as_millis(), pair.dead_after.as_millis()),
        (Profile::Lan, 100, 1000)
    );
    assert!(pair.start_alone && !pair.preferred);
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:11213");
    let other = self::config(
        "-l 127.0.0.2 -x [::1]:99 --profile fast --dead-after 2s --start-alone no --admin off --failback never --backup-requests local-reads",
    );
    let pair = other.pair.unwrap();
    assert_eq!((pair.heartbeat_interval.as_millis(), pair.dead_after.as_millis()), (20, 2000));
    assert!(!pair.start_alone && other.admin.is_none());
    assert_eq!((pair.failback, pair.backup_requests), (Failback::Never, BackupRequests::LocalReads));
}

#[test]
fn replication_beyond_loopback_needs_a_key() {
    for line in ["-x peer", "-l 10.0.0.1 -x peer", "-l 127.0.0.1 -x peer --replication-listen *"] {
        let problems = problems(&format!("-u root {line}"));
        assert!(problems[0].text.contains("--psk-file"), "{problems:?}");
    }
    assert!(
        problems("-u root -x peer --psk-file /nonexistent/key")[0]
            .text
            .starts_with("--psk-file /nonexistent/key")
    );
    let key = tempfile::NamedTempFile::new().unwrap();
    assert!(config(&format!("-x peer --psk-file {}", key.path().display())).pair.is_some());
    assert!(config("-x peer --insecure-replication").pair.is_some());
    assert!(config("-l localhost -x peer").pair.is_some());
}

#[test]
fn tls_is_what_the_words_of_memcached_say() {
    let line = "-Z -l notls:h:1,btls:h:2,mtls:h:3,h:4 -o ssl_chain_cert=c,ssl_key=k,ssl_ca_cert=a \
         -o ssl_verify_mode=3,ssl_min_version=3,ssl_session_cache,ssl_wbuf_size=64";
    let config = config(line);
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.verify, tls.only_13, tls.session_cache), (Verify::Request, true, true));
    assert_eq!(tls.write_buffer, 64 << 10);
    let security: Vec<_> = config.server.listen.iter().map(|listen| listen.security).collect();
    assert_eq!(security, [Security::Plain, Security::Basic, Security::Mutual, Security::Default]);
    for (name, value) in [
        ("ssl_enabled", "yes"),
        ("ssl_chain_cert", "c"),
        ("ssl_verify_mode", "3"),
        ("ssl_min_version", "tlsv1.3"),
        ("ssl_wbuf_size", "65536"),
        ("ssl_session_cache", "yes"),
    ] {
        assert!(config.settings.contains(&(name, value.to_owned())), "{name}");
    }
}

#[test]
fn the_udp_port_is_the_tcp_port_too_unless_said_otherwise() {
    let ports = |line: &str| {
        let server = config(line).server;
        (server.port, server.udp)
    };
    assert_eq!(ports(""), (Port::Number(11211), Port::Off));
    assert_eq!(ports("-U 0"), (Port::Number(11211), Port::Off));
    assert_eq!(ports("-U 11311"), (Port::Number(11311), Port::Number(11311)));
    assert_eq!(ports("-U -1 -p 11311"), (Port::Number(11311), Port::Ephemeral));
}

#[test]
fn help_and_version_are_printed() {
    let Ok(Invocation::Print(help)) = run("-h") else { panic!() };
    for word in ["unix-socket", "enable-ssl", "sasl", "--peer", "Pair", "Network"] {
        assert!(help.contains(word), "{word}");
    }
    let Ok(Invocation::Print(version)) = run("-V") else { panic!() };
    assert_eq!(version, format!("memcached {}\n", server::VERSION));
}

/// A configuration from a command line, variables and a file's text.
fn from_all(line: &str, variables: &[(&str, &str)], text: &str) -> Result<Config, Vec<Problem>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let line = format!("{line} --config {}", file.path().display());
    let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
    let short = |problem: &Problem| {
        Problem::new(problem.exit, problem.text.replace(&file.path().display().to_string(), "FILE"))
    };
    match parse(line.split_whitespace().map(OsString::from), env, false) {
        Ok(Invocation::Run(config)) => Ok(*config),
        Ok(other) => panic!("{other:?}"),
        Err(problems) => Err(problems.iter().map(short).collect()),
    }
}

fn texts(result: Result<Config, Vec<Problem>>) -> Vec<String> {
    result.map(|_| ()).unwrap_err().into_iter().map(|problem| problem.text).collect()
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let file = "threads = 2\nmemory-limit = 256\nlisten = [\"127.0.0.1\", \"::1\"]\ndisable-cas = true\n";
    let config =
        from_all("-t 8 -l 127.0.0.3", &[("TANDEM_THREADS", "4"), ("TANDEM_MEMORY_LIMIT", "128")], file);
    let config = config.unwrap();
    assert_eq!((config.server.threads, config.engine.memory_bytes >> 20), (8, 128));
    assert_eq!(config.server.listen.len(), 1, "a list on the command line replaces the file's");
    assert!(!config.engine.cas);
    let from = |name: &str| {
        let source = config.sources.iter().find(|source| source.name == name).unwrap();
        let file = config.process.config_file.as_ref().unwrap().display().to_string();
        (source.value.clone(), source.origin.to_string().replace(&file, "FILE"))
    };
    let said = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(from("threads"), said("8", "command line"));
    assert_eq!(from("memory-limit"), said("128", "$TANDEM_MEMORY_LIMIT"));
    assert_eq!(from("disable-cas"), said("yes", "FILE:4"));
    assert_eq!(from("port"), said("11211", "default"));
    // What a file switches on, a variable can switch off.
    assert!(from_all("", &[("TANDEM_DISABLE_CAS", "no")], file).unwrap().engine.cas);
}

#[test]
fn every_setting_has_the_same_meaning_in_all_three_places() {
    let command = flags::definition();
    for arg in flags::settings(&command) {
        let name = arg.get_id().as_str();
        let (word, toml) = match (name, flags::kind(arg)) {
            ("config", _) => continue,
            (_, flags::Kind::Switch) => ("", "true"),
            (_, flags::Kind::Count) => ("", "1"),
            (_, flags::Kind::YesNo) => ("no", "false"),
            ("port" | "udp-port" | "sync-port" | "replication-port" | "queue-length", _) => ("7", "7"),
            ("protocol", _) => ("ascii", "\"ascii\""),
            ("log-format", _) => ("json", "\"json\""),
            ("io", _) => ("auto", "\"auto\""),
            ("profile", _) => ("fast", "\"fast\""),
            ("failback", _) => ("never", "\"never\""),
            ("backup-requests", _) => ("reject", "\"reject\""),
            ("heal", _) => ("winner", "\"winner\""),
            ("extended", _) => ("idle_timeout=5", "[\"idle_timeout=5\"]"),
            (
                "heartbeat-interval" | "dead-after" | "failback-delay" | "ack-timeout" | "verify-interval",
                _,
            ) => ("300ms", "\"300ms\""),
            ("slab-growth-factor", _) => ("1.5", "1.5"),
            ("prefix-delimiter", _) => ("/", "\"/\""),
            ("memory-file", _) => ("items", "\"items\""),
            ("ack", _) => ("applied", "\"applied\""),
            ("ack-prefix", _) => ("cart:", "\"cart:\""),
            ("admin", _) => ("127.0.0.1:9", "\"127.0.0.1:9\""),
            ("peer" | "listen" | "replication-listen" | "repcached-peer", _) => {
                ("127.0.0.9", "\"127.0.0.9\"")
            }
            ("max-item-size", _) => ("4096", "4096"),
            _ => ("77", "77"),
        };
        let toml = if flags::kind(arg) == flags::Kind::Value && toml == "77" { "\"77\"" } else { toml };
        let long = arg.get_long().unwrap();
        assert_eq!(long, name, "the name in the file is the flag's");
        let settle = |result: Result<Config, Vec<Problem>>| match result {
            Ok(mut config) => {
                config.sources.iter_mut().for_each(|source| source.origin = Origin::Default);
                config.process.config_file = None;
                config.sources.retain(|source| source.name != "config");
                format!("{config:?}")
            }
            // Of what is refused, the reason is the same.
            Err(problems) => {
                let text = &problems[0].text;
                let reason =
                    text.split_once(&format!("({name}): ")).map_or(text.as_str(), |(_, reason)| reason);
                reason.to_owned()
            }
        };
        let flag = settle(from_all(&format!("--{long} {word}"), &[], ""));
        let variable = environment::variable(name);
        let value = if word.is_empty() { "1" } else { word };
        assert_eq!(settle(from_all("", &[(&variable, value)], "")), flag, "{variable}");
        assert_eq!(settle(from_all("", &[], &format!("{name} = {toml}\n"))), flag, "{name} in a file");
    }
}

#[test]
fn the_defaults_that_the_help_names_are_those_in_force() {
    let command = flags::definition();
    let plain = |line: &str| {
        let Ok(Invocation::Run(mut config)) = run_as(line, false) else { panic!("{line}") };
        config.sources.clear();
        format!("{config:?}")
    };
    let mut checked = 0;
    for arg in flags::settings(&command) {
        let Some(default) = flags::default(arg) else { continue };
        // Defaults that depend on other settings are told in words.
        let depends = arg.get_id() == "replication-port" || arg.get_id() == "log-format";
        if depends
            || default.contains(' ')
            || default.contains('$')
            || flags::PAIR_ONLY.contains(&arg.get_id().as_str())
        {
            continue;
        }
        let shown = plain(&format!("--{} {default}", arg.get_id()));
        assert_eq!(shown, plain(""), "{}", arg.get_id());
        checked += 1;
    }
    assert!(checked >= 12, "{checked}");
}

#[test]
fn a_file_tells_all_that_is_wrong_with_it_with_lines_and_remedies() {
    let file = "threds = 2\nport = true\nm = 64\nmemory_limit = 1\n[server]\nx = 1\n";
    assert_eq!(
        texts(from_all("", &[], file)),
        [
            "FILE:1: threds: there is no such setting; did you mean threads?",
            "FILE:2: port: takes a text in quotes, or a number, not true",
            "FILE:3: m: there is no such setting; the name of -m is memory-limit",
            "FILE:4: memory_limit: there is no such setting; did you mean memory-limit?",
            "FILE:5: [server]: there are no sections; write the names in it at the top",
        ]
    );
    assert_eq!(
        texts(from_all(
            "",
            &[],
            "port = 70000\nenable-sasl = true\nprotocol = \"ascii\"\nverbose = \"much\"\nlisten = [1]\n"
        )),
        [
            "FILE:4: verbose: takes a number, not the text \"much\"",
            "FILE:5: listen: takes a text in quotes, or a list of them, not a list with something else in it",
            "FILE:2 (enable-sasl), FILE:3 (protocol): ERROR: You cannot allow the ASCII protocol while using SASL: -S needs -B binary, or no -B",
            "FILE:1 (port): ERROR: Invalid port number 70000. (-p takes 1 to 65535, 0 for none, -1 for any free one)",
        ]
    );
    // Mistakes of form, more than one.
    let texts = texts(from_all("", &[], "port = \nthreads = 4 4\nthreads = 3\n"));
    assert!(texts.len() >= 2, "{texts:?}");
    assert!(texts[0].starts_with("FILE:1: ") && texts[1].starts_with("FILE:2: "), "{texts:?}");
}

#[test]
fn the_environment_tells_what_is_wrong_with_it() {
    assert_eq!(
        texts(from_all(
            "",
            &[
                ("TANDEM_PREFERRED", "perhaps"),
                ("TANDEM_PORT", "tcp://10.0.0.1:11211"),
                ("TANDEM_THREADS", "0")
            ],
            ""
        )),
        [
            "$TANDEM_PORT tcp://10.0.0.1:11211: this is a Kubernetes service link and no setting: say enableServiceLinks: false in the pod",
            "$TANDEM_PREFERRED perhaps: takes yes or no",
            "$TANDEM_THREADS (threads): Number of threads must be greater than 0 (-t 0: takes a number from 1 to 1024)",
        ]
    );
    let names = ["TANDEM_MEMORY_LIMT", "TANDEM_SERVICE_HOST", "TANDEM_PORT", "PATH"].map(OsString::from);
    assert_eq!(
        mistaken_variables(names),
        ["$TANDEM_MEMORY_LIMT is no setting; did you mean $TANDEM_MEMORY_LIMIT?"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_remedy() {
    let problems = problems("-u root --config /nonexistent/tandem.toml");
    assert_eq!(
        problems[0].text,
        "--config /nonexistent/tandem.toml: No such file or directory (os error 2); name a file that this user may read"
    );
    assert_eq!(problems[0].exit, 64);
}

#[test]
fn memcacheds_own_configuration_files_are_read_as_they_are() {
    let debian = "# memcached default config file\n# 2003 - Jay Bonci <jaybonci@debian.org>\n\n-d\n\nlogfile /var/log/memcached.log\n\n# -v\n-m 64\n-p 11311\n-u memcache\n-l 127.0.0.1\n-l ::1\n-c 2048 -t 2 # busy\n-P /var/run/memcached/memcached.pid\n";
    let config = from_all("-t 3", &[], debian).unwrap();
    assert!(config.process.daemon);
    assert_eq!((config.server.port, config.server.listen.len()), (Port::Number(11311), 2));
    assert_eq!((config.server.connections_max, config.server.threads), (2048, 3));
    assert_eq!(config.process.pid_file, Some("/var/run/memcached/memcached.pid".into()));
    let repcached = from_all("", &[], "-x 127.0.0.9\n-X 11300\n-l 127.0.0.1\n-D '/'\n").unwrap();
    assert_eq!((repcached.pair.unwrap().port, repcached.server.prefix_delimiter), (11300, b'/'));
    assert!(from_all("", &[], "preferred = false\n").is_ok(), "what is off contradicts nothing");
    assert_eq!(
        texts(from_all("", &[], "preferred = true\n")),
        [
            "FILE:1 (preferred): --preferred concerns a pair, but there is none: add -x HOST (or -X PORT to wait for the peer)"
        ]
    );
    assert_eq!(
        texts(from_all("", &[], "-m 64\n--bogus\n-p 70000\n")),
        [
            "FILE:2: unrecognized option '--bogus'\nIllegal argument \"?\": there is no flag --bogus; see --help",
            "FILE:3 (port): ERROR: Invalid port number 70000. (-p takes 1 to 65535, 0 for none, -1 for any free one)",
        ]
    );
}

#[test]
fn under_a_service_manager_that_waits_the_process_stays_in_the_foreground() {
    assert!(!from_all("", &[("NOTIFY_SOCKET", "/run/systemd/notify")], "-d\n").unwrap().process.daemon);
    assert!(from_all("", &[], "-d\n").unwrap().process.daemon);
}

#[test]
fn systemds_state_directory_is_used_unless_another_is_named() {
    let state = |line: &str| {
        let env = |name: &str| (name == "STATE_DIRECTORY").then(|| OsString::from("/var/lib/tandemd:/other"));
        match parse(line.split_whitespace().map(OsString::from), env, false) {
            Ok(Invocation::Run(config)) => config.pair.map(|pair| pair.state_dir),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(state(""), None, "a node by itself needs none, and is not refused");
    assert_eq!(state("-l 127.0.0.1 -x b"), Some(Some("/var/lib/tandemd".into())));
    assert_eq!(state("-l 127.0.0.1 -x b --state-dir /s"), Some(Some("/s".into())));
}

#[test]
fn a_mistaken_flag_is_told_the_nearest_one() {
    assert!(problems("-u root --memory-limt 5")[0].text.ends_with("did you mean --memory-limit?"));
    assert!(problems("-u root --bogus")[0].text.ends_with("see --help"));
}

#[test]
fn a_check_prints_what_is_in_force_or_every_problem() {
    let Ok(Invocation::Print(text)) = run("-u root -t 2 --check-config") else { panic!() };
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(line("threads ").split_whitespace().collect::<Vec<_>>(), ["threads", "2", "command", "line"]);
    assert_eq!(line("port ").split_whitespace().collect::<Vec<_>>(), ["port", "11211", "default"]);
    let unreadable = run("-u root -Y /nonexistent/users --check-config").unwrap_err();
    assert!(unreadable[0].text.starts_with("-Y /nonexistent/users: No such file"), "{unreadable:?}");
}

#[test]
fn a_reload_knows_what_it_can_take_over() {
    let running = from_all("", &[], "threads = 2\nmemory-limit = 64\n").unwrap();
    let later = from_all("", &[], "threads = 4\nmemory-limit = 128\nverbose = 1\n").unwrap();
    let changes: Vec<_> = running
        .changes(&later)
        .into_iter()
        .filter(|change| change.name != "config")
        .map(|change| (change.is_at_once(), format!("{} {} → {}", change.name, change.before, change.after)))
        .collect();
    let expected = [(true, "memory-limit 64 → 128"), (false, "threads 2 → 4"), (true, "verbose 0 → 1")];
    assert_eq!(changes, expected.map(|(at_once, text)| (at_once, text.to_owned())));
}
