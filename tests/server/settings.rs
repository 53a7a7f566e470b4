//! Settings from a file, read again on SIGHUP; the log's forms and levels. The program itself.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};

use crate::harness::until;
use crate::process::Running;

fn contains(log: &Path, text: &str) -> bool {
    std::fs::read_to_string(log).unwrap().contains(text)
}

#[test]
fn a_reload_changes_what_it_can_and_says_what_it_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let (file, log) = (directory.path().join("tandem.toml"), directory.path().join("log"));
    std::fs::write(&file, "memory-limit = 64\nthreads = 2\n").unwrap();
    let running = Running::start_logging(&format!("--config {}", file.display()), directory.path(), &log);
    let mut client = running.client();
    client.ask("stats settings\r\n", "STAT maxbytes 67108864\r\n");

    std::fs::write(&file, "memory-limit = 128\nthreads = 3\nverbose = 1\n").unwrap();
    running.signal(SIGHUP);
    until("the end of the reload", || contains(&log, "the settings were read again"));
    for line in [
        "memory-limit is 128 now; it was 64",
        "verbose is 1 now; it was 0",
        "the log's level is now debug",
        "threads is 3 in the settings and stays 2 until a restart",
    ] {
        assert!(contains(&log, line), "{line}\n{}", std::fs::read_to_string(&log).unwrap());
    }
    running.client().ask("stats settings\r\n", "STAT maxbytes 134217728\r\n");

    std::fs::write(&file, "memory-limit = 128\nthreads = 2\nverbose = 1\nconn-limit = 77\n").unwrap();
    running.signal(SIGHUP);
    until("another limit", || contains(&log, "conn-limit is 77 now; it was 1024"));
    until("it is shown", || running.client().stat("max_connections") == 77);

    // A client that is silent from now on is sent away, though its worker waited without a limit.
    let mut silent = running.client();
    silent.ask("mn\r\n", "MN\r\n");
    let settings = "memory-limit = 128\nthreads = 2\nverbose = 1\nconn-limit = 77\nlog-format = \"json\"\n";
    std::fs::write(&file, format!("{settings}extended = \"idle_timeout=1\"\n")).unwrap();
    running.signal(SIGHUP);
    until("another limit of silence", || contains(&log, "extended is idle_timeout=1 now; it was -"));
    silent.expect_closed();
    assert!(running.client().stat("idle_kicks") >= 1);
    running.client().ask("stats settings\r\n", "STAT maxbytes 134217728\r\n");
    let text = std::fs::read_to_string(&log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).expect("an object");
    assert_eq!(last["message"], "the settings were read again");

    std::fs::write(&file, format!("{settings}extended = \"track_sizes\"\n")).unwrap();
    running.signal(SIGHUP);
    until("what waits", || {
        contains(&log, "extended is track_sizes in the settings and stays idle_timeout=1 until")
    });

    std::fs::write(&file, "memory-limit = \"lots\"\nthreds = 3\n").unwrap();
    running.signal(SIGHUP);
    until("the refusal", || contains(&log, "those of before stay in force"));
    assert!(contains(&log, "tandem.toml:2: threds: there is no such setting; did you mean threads?"));
    assert!(contains(&log, "tandem.toml:1 (memory-limit): -m lots:"));
    running.client().ask("version\r\n", "VERSION");
}

#[test]
fn a_client_may_change_the_logs_level_as_with_memcached() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let running = Running::start_logging("", directory.path(), &log);
    running.client().ask("verbosity 2\r\n", "OK\r\n");
    until("the new level", || contains(&log, "the log's level is now trace"));
    running.client().ask("verbosity 0\r\n", "OK\r\n");
    until("the old level", || contains(&log, "the log's level is now info"));
}

#[test]
fn each_line_of_a_json_log_is_an_object() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut running = Running::start_logging("--log-format json", directory.path(), &log);
    running.client().ask("version\r\n", "VERSION");
    running.signal(SIGTERM);
    running.child.wait().unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert!(lines.len() >= 2, "{text}");
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{text}");
    assert!(lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.starts_with("serving on"))));
}

#[test]
fn under_journald_a_line_begins_with_its_priority() {
    use std::os::linux::fs::MetadataExt as _;
    let directory = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let stream = std::fs::metadata(format!("/proc/self/fd/{}", log.as_raw_fd())).unwrap();
    let ports = directory.path().join("ports");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tandemd"))
        .args("-u root -p -1 -l 127.0.0.1".split_whitespace())
        .env("MEMCACHED_PORT_FILENAME", &ports)
        .env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev(), stream.st_ino()))
        .env("TANDEM_MEMORY_LIMT", "5")
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    until("the port file", || ports.exists());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), SIGTERM).unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("<4>$TANDEM_MEMORY_LIMT is no setting; did you mean"), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("<6>serving on 127.0.0.1:")), "{text}");
    assert!(lines.iter().all(|line| line.starts_with('<')), "{text}");
}

#[test]
fn memcacheds_configuration_starts_a_node_in_the_foreground() {
    let directory = tempfile::tempdir().unwrap();
    let (file, log) = (directory.path().join("memcached.conf"), directory.path().join("log"));
    // Debian's, without -d and with a place for the pidfile that is not there.
    std::fs::write(&file, "# memcached default config file\nlogfile /var/log/memcached.log\n-m 64\n-p 11211\n-u nobody\n-l 127.0.0.1\n-P /nonexistent/memcached.pid\n").unwrap();
    let running = Running::start_logging(&format!("--config {}", file.display()), directory.path(), &log);
    running.client().ask("version\r\n", "VERSION");
    assert!(contains(&log, "-P /nonexistent/memcached.pid: No such file"));
}
