//! Warm restart: what a graceful stop leaves, the next start has; nothing else ever comes back.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal::{self, SIGKILL, SIGTERM, SIGUSR1};
use tempfile::TempDir;

use crate::harness::{Client, until};
use crate::process::Running;

/// A node with `-e`, again and again.
struct Site {
    directory: TempDir,
    flags: &'static str,
}

/// One of its lives.
struct Life {
    running: Running,
    log: PathBuf,
}

impl Site {
    fn new(flags: &'static str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), flags }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("items")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("items.{suffix}"))
    }

    fn start(&self) -> Life {
        // The port file of the life before would be taken for this one's.
        let _none = std::fs::remove_file(self.directory.path().join("ports"));
        let log = self.directory.path().join("log");
        let flags = format!("-e {} {}", self.file().display(), self.flags);
        let running = Running::start_logging(&flags, self.directory.path(), &log);
        Life { running, log }
    }

    /// One that stopped gracefully with these items.
    fn left_behind(&self, items: usize) {
        let life = self.start();
        let mut client = life.client();
        for n in 0..items {
            client.ask(format!("set key{n} {n} 0 5\r\nvalue\r\n"), "STORED\r\n");
        }
        assert!(life.end(SIGUSR1).success());
        assert!(self.file().exists());
    }
}

impl Life {
    fn client(&self) -> Client {
        self.running.client()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        self.running.signal(signal);
        self.running.child.wait().unwrap()
    }
}

fn items(client: &mut Client) -> u64 {
    client.stat("curr_items")
}

#[test]
fn everything_is_there_again_after_a_graceful_stop() {
    let site = Site::new("");
    let life = site.start();
    let mut client = life.client();
    client.ask("set plain 7 0 5\r\nhello\r\n", "STORED\r\n");
    client.ask("set empty 4294967295 0 0\r\n\r\n", "STORED\r\n");
    client.ask("set minute 0 60 1\r\nm\r\n", "STORED\r\n");
    client.ask("set gone 0 1 1\r\ng\r\n", "STORED\r\n");
    client.ask("set dead 0 -1 1\r\nd\r\n", "STORED\r\n");
    client.ask("set deleted 0 0 1\r\nd\r\ndelete deleted\r\n", "STORED\r\nDELETED\r\n");
    client.ask("ms explicit 2 E4711\r\nxy\r\n", "HD\r\n");
    client.ask("ms stale 1 T300\r\ns\r\nmd stale I\r\n", "HD\r\nHD\r\n");
    client.ask("ms Zm9v 1 b\r\nb\r\n", "HD\r\n");
    client.send(format!("set large 0 0 900000\r\n{}\r\n", "x".repeat(900_000)));
    client.expect("STORED\r\n");
    client.send("gets plain empty\r\n");
    let tokens = client.read_until("END\r\n");
    client.send("mg stale c\r\n");
    let stale = client.read_until("\r\n");
    assert!(life.end(SIGUSR1).success());

    // What had a second left is to be over when the next life begins.
    let stopped = std::time::Instant::now();
    until("the second to pass", || stopped.elapsed().as_millis() > 1100);
    let life = site.start();
    let mut client = life.client();
    client.send("gets plain empty\r\n");
    assert_eq!(client.read_until("END\r\n"), tokens, "values, flags and CAS uniques");
    client.ask("get gone dead deleted\r\n", "END\r\n");
    client.ask("mg explicit c v\r\n", "VA 2 c4711\r\nxy\r\n");
    client.send("mg stale c\r\n");
    let again = client.read_until("\r\n");
    // The first reader was told that it may refresh (W); to the next that is said (Z).
    let words = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(|word| word.replace('Z', "W")).collect();
        words.sort();
        words
    };
    assert_eq!(words(&again), words(&stale));
    client.ask("mg Zm9v b k v\r\n", "VA 1 kZm9v b\r\nb\r\n");
    client.send("mg minute t\r\n");
    let left = client.read_until("\r\n");
    let left: u32 = left.trim().strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((1..=59).contains(&left), "{left}");
    client.ask("mg plain t\r\n", "HD t-1\r\n");
    client.send("get large\r\n");
    client.expect(format!("VALUE large 0 900000\r\n{}\r\nEND\r\n", "x".repeat(900_000)));
    // A token taken before the stop is good, once.
    let token = tokens.lines().next().unwrap().rsplit(' ').next().unwrap();
    client.ask(format!("cas plain 0 0 3 {token}\r\nnew\r\n"), "STORED\r\n");
    client.ask(format!("cas plain 0 0 3 {token}\r\nold\r\n"), "EXISTS\r\n");
    assert!(life.log().contains("items are here again"), "{}", life.log());
}

#[test]
fn a_client_may_ask_for_it() {
    let site = Site::new("-A");
    let mut life = site.start();
    let mut client = life.client();
    client.ask("set a 0 0 1\r\nb\r\n", "STORED\r\n");
    client.send("shutdown graceful\r\n");
    client.expect_closed();
    assert!(life.running.child.wait().unwrap().success());
    site.start().client().ask("get a\r\n", "VALUE a 0 1\r\nb\r\nEND\r\n");
}

#[test]
fn many_items_survive_several_restarts() {
    let site = Site::new("");
    site.left_behind(3000);
    for _ in 0..2 {
        let life = site.start();
        let mut client = life.client();
        assert_eq!(items(&mut client), 3000);
        for n in (0..3000).step_by(97) {
            client.ask(format!("get key{n}\r\n"), format!("VALUE key{n} {n} 5\r\nvalue\r\nEND\r\n"));
        }
        assert!(life.end(SIGUSR1).success());
    }
}

#[test]
fn a_stop_that_is_not_graceful_leaves_nothing() {
    for signal in [SIGTERM, SIGKILL] {
        let site = Site::new("");
        site.left_behind(10);
        let life = site.start();
        // Whoever is answered comes after the loading.
        assert_eq!(items(&mut life.client()), 10);
        assert!(!site.file().exists(), "it was loaded, so it is consumed");
        life.end(signal);
        let life = site.start();
        assert_eq!(items(&mut life.client()), 0, "{signal}: nothing stale");
    }
}

#[test]
fn a_file_that_is_damaged_anywhere_is_refused_by_name() {
    let site = Site::new("");
    site.left_behind(100);
    let good = std::fs::read(site.file()).unwrap();
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let mut newer = good.clone();
    newer[8] = 99;
    let cases = [
        (flip(0), "not written by this program"),
        (flip(20), "a checksum does not match at byte 0"),
        (flip(40), "ends in the middle"),
        (flip(good.len() / 2), "a checksum does not match"),
        (flip(good.len() - 1), "a checksum does not match"),
        (good[..0].to_vec(), "ends in the middle"),
        (good[..30].to_vec(), "ends in the middle"),
        (good[..good.len() / 2].to_vec(), "ends in the middle"),
        (good[..good.len() - 1].to_vec(), "ends in the middle"),
        ([&good[..], b"x"].concat(), "something follows its end"),
        (newer, "it has format 99, and this release reads format 1"),
        (b"foreign, and long enough to be a header of ours".to_vec(), "not written by this program"),
    ];
    for (bytes, reason) in cases {
        std::fs::write(site.file(), &bytes).unwrap();
        let life = site.start();
        let mut client = life.client();
        assert_eq!(items(&mut client), 0, "{reason}");
        client.ask("set new 0 0 1\r\nn\r\nget new\r\n", "STORED\r\nVALUE new 0 1\r\nn\r\nEND\r\n");
        let log = life.log();
        assert!(log.contains(reason) && log.contains(site.file().to_str().unwrap()), "{reason}: {log}");
        assert!(!site.file().exists(), "no later start may take it for good");
        assert_eq!(std::fs::read(site.beside("refused")).unwrap(), bytes, "set aside as it was");
    }
}

#[test]
fn a_save_that_is_killed_leaves_no_old_state() {
    let site = Site::new("-m 200");
    site.left_behind(10);
    let mut life = site.start();
    let mut client = life.client();
    client.ask("set key0 0 0 3\r\nnew\r\n", "STORED\r\n");
    // Enough to be caught in the middle of it.
    let value = "x".repeat(1_000_000);
    for n in 0..100 {
        client.ask(format!("set large{n} 0 0 1000000\r\n{value}\r\n"), "STORED\r\n");
    }
    life.running.signal(SIGUSR1);
    until("the save to begin, or to be over", || site.beside("saving").exists() || site.file().exists());
    life.running.signal(SIGKILL);
    life.running.child.wait().unwrap();
    let whole = site.file().exists();
    let life = site.start();
    let mut client = life.client();
    match whole {
        // Too late to be caught: then everything is there, in its last state.
        true => client.ask("get key0\r\n", "VALUE key0 0 3\r\nnew\r\nEND\r\n"),
        false => assert_eq!(items(&mut client), 0),
    }
    assert!(!site.beside("saving").exists(), "what was half written is gone");
}

#[test]
fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new("");
    site.left_behind(1);
    assert_eq!(std::fs::metadata(site.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_place_without_room_for_a_file_is_refused_at_the_start() {
    let output = |file: &Path| {
        Command::new(env!("CARGO_BIN_EXE_tandemd"))
            .args(["-u", "root", "-l", "127.0.0.1", "-p", "-1", "-e"])
            .arg(file)
            .output()
            .unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    for file in [directory.path().join("none/items"), directory.path().to_path_buf()] {
        let refused = output(&file);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(said.contains("-e ") && said.contains(file.to_str().unwrap()), "{said}");
    }
    // A file that cannot be written there: its scratch name is taken by a directory.
    let file = directory.path().join("items");
    std::fs::create_dir(directory.path().join("items.saving")).unwrap();
    let refused = output(&file);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("no file can be written there"), "{said}");
}

#[test]
fn a_save_that_fails_is_said_with_the_exit_code() {
    let site = Site::new("");
    let mut life = site.start();
    life.client().ask("set a 0 0 1\r\nb\r\n", "STORED\r\n");
    std::fs::create_dir_all(site.beside("saving").join("in the way")).unwrap();
    life.running.signal(SIGUSR1);
    assert_eq!(life.running.child.wait().unwrap().code(), Some(71));
    assert!(life.log().contains("items cannot be saved"), "{}", life.log());
}
