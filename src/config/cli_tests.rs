use super::*;

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
        ("-U 11211", 64, "-U 11211:"),
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
fn help_and_version_are_printed() {
    let Ok(Invocation::Print(help)) = run("-h") else { panic!() };
    for word in ["unix-socket", "enable-ssl", "sasl", "--peer", "Pair", "Network"] {
        assert!(help.contains(word), "{word}");
    }
    let Ok(Invocation::Print(version)) = run("-V") else { panic!() };
    assert_eq!(version, format!("memcached {}\n", server::VERSION));
}
