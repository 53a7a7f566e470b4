//! Every client in the middle of its work when the master is killed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{PATIENCE, Pair};
use crate::{has_php, is_installed, python, said, script, setup};

/// A pair, with what `save_path` and `--servers` of its clients say: the master first.
fn pair() -> (Pair, usize, String) {
    let pair = setup().start();
    let master = pair.wait_paired();
    let servers = [master, 1 - master].map(|index| pair.nodes[index].address().to_string()).join(",");
    (pair, master, servers)
}

/// Kills the master, once its backup has everything, and waits for the new one.
fn fail_over(pair: &mut Pair, master: usize) {
    pair.wait_converged(PATIENCE);
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
}

#[test]
fn memccapable_passes_everything_through_the_master_and_through_the_backup() {
    if !is_installed("libmemcached-tools", "memcstat", &["--help"]) {
        return;
    }
    let (pair, _, _) = pair();
    for node in &pair.nodes {
        let (host, port) = (node.host.to_string(), node.ports[0].to_string());
        let output = Command::new("memccapable").args(["-h", &host, "-p", &port]).output();
        let report = said(&output.expect("memccapable runs"));
        assert_eq!(report.matches("[pass]").count(), 54, "through {}: {report}", node.name);
    }
}

#[test]
fn a_php_user_stays_logged_in_when_the_master_is_killed() {
    if !has_php() {
        return;
    }
    let (mut pair, master, servers) = pair();
    let php = |session: &str, arguments: &[&str]| {
        let output =
            Command::new("php").arg(script("session.php")).args([&servers, session]).args(arguments).output();
        said(&output.expect("php runs"))
    };
    // Enough of them that the client's hash sends some to each node.
    let users = ["ada", "bob", "eve", "ida", "joe", "kim", "lou", "max"];
    for user in users {
        assert_eq!(php(user, &["login", user]), format!("{user} 0\n"));
        assert_eq!(php(user, &["read"]), format!("{user} 1\n"));
    }
    fail_over(&mut pair, master);
    for user in users {
        assert_eq!(php(user, &["read"]), format!("{user} 2\n"), "after the failover");
    }
}

#[test]
fn pymemcache_goes_on_at_the_other_node_when_the_master_is_killed() {
    let Some(python) = python() else { return };
    let (mut pair, master, _) = pair();
    let [one, other] = [master, 1 - master].map(|index| pair.nodes[index].host.to_string());
    let mut client = Command::new(python)
        .arg(script("pymemcache_two_nodes.py"))
        .args([one, other, pair.nodes[0].ports[0].to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut out = BufReader::new(client.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "stored\n");
    fail_over(&mut pair, master);
    client.stdin.take().expect("a pipe").write_all(b"\n").expect("the client waits");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert!(client.wait().expect("our child").success(), "the client failed");
    assert_eq!(rest, "all good\n");
}

#[test]
fn libmemcached_over_both_addresses_finds_everything_when_the_master_is_killed() {
    if !is_installed("libmemcached-tools", "memcstat", &["--help"]) {
        return;
    }
    let (mut pair, master, servers) = pair();
    let files = tempfile::tempdir().expect("a temporary directory");
    let names: Vec<String> = (0..20).map(|index| format!("file-{index}")).collect();
    for name in &names {
        std::fs::write(files.path().join(name), format!("content of {name}")).expect("a file");
    }
    for protocol in [&[][..], &["--binary"]] {
        let mut copy = Command::new("memccp");
        copy.arg(format!("--servers={servers}")).args(protocol).args(&names).current_dir(files.path());
        said(&copy.output().expect("memccp runs"));
    }
    fail_over(&mut pair, master);
    let survivor = pair.nodes[1 - master].address();
    for protocol in [&[][..], &["--binary"]] {
        for name in &names {
            let read = Command::new("memccat")
                .arg(format!("--servers={survivor}"))
                .args(protocol)
                .arg(name)
                .output();
            assert_eq!(said(&read.expect("memccat runs")).trim_end(), format!("content of {name}"));
        }
    }
}

/// The C program beside this file, compiled; `None` without a compiler or libmemcached's headers.
fn ketama(directory: &Path) -> Option<PathBuf> {
    let program = directory.join("ketama");
    let arguments = ["-Wall", "-Werror", "-O1", "-o"].map(OsStr::new);
    let source = script("ketama.c");
    let compiled = Command::new("cc")
        .args(arguments)
        .args([program.as_os_str(), source.as_os_str(), OsStr::new("-lmemcached")])
        .output();
    let words = match compiled {
        Ok(output) if output.status.success() => return Some(program),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "gcc and libmemcached-dev are needed: {words}");
    eprintln!("skipped: gcc and libmemcached-dev are needed: {words}");
    None
}

#[test]
fn ketama_over_two_pairs_misses_nothing_when_a_master_is_killed_half_way_in_binary() {
    ketama_half_way("binary");
}

#[test]
fn ketama_over_two_pairs_misses_nothing_when_a_master_is_killed_half_way_in_text() {
    ketama_half_way("text");
}

fn ketama_half_way(protocol: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(program) = ketama(directory.path()) else { return };
    let mut pairs = [setup().start(), setup().start()];
    let masters = pairs.each_ref().map(Pair::wait_paired);
    // One address for each pair, as clients that hash are to have it: of the first pair its backup's.
    let of_each = [pairs[0].nodes[1 - masters[0]].address(), pairs[1].nodes[masters[1]].address()];
    let mut client = Command::new(program)
        .args([of_each.map(|address| address.to_string()).join(","), protocol.to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client runs");
    let mut said = BufReader::new(client.stdout.take().expect("a pipe")).lines();
    let mut to = client.stdin.take().expect("a pipe");
    let mut hears = |expected: &str| {
        let line = said.next().unwrap_or_else(|| panic!("the client ended instead of saying {expected}"));
        assert_eq!(line.expect("text"), expected);
    };
    hears("stored");
    for pair in &pairs {
        pair.wait_converged(PATIENCE);
        // Each has its part.
        assert!(pair.nodes[0].items().is_some_and(|items| items > 50));
    }
    to.write_all(b"\n").expect("the client waits");
    hears("half");
    pairs[0].nodes[masters[0]].kill();
    hears("done");
    pairs[0].nodes[1 - masters[0]].wait_role("master");
    to.write_all(b"\n").expect("the client waits");
    hears("all good");
    assert!(client.wait().expect("our child").success());
}
