//! Bad input and bad days: a clear line in the log, a true value in `stats replication`, and no effect
//! on clients.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;
use crate::squeeze::Mount;

fn serves(pair: &Pair, index: usize) {
    let mut client = pair.nodes[index].client();
    client.set("alive", b"yes").expect("a set");
    assert_eq!(client.get("alive").expect("a get").as_deref(), Some(&b"yes"[..]));
}

#[test]
fn a_peer_whose_name_does_not_resolve_is_named_in_the_log_and_tried_again() {
    let mut pair = setup().pair();
    "no-such-host.invalid".clone_into(&mut pair.nodes[0].peer);
    pair.nodes[0].start();
    pair.nodes[0].wait_role("master");
    serves(&pair, 0);
    assert_eq!(pair.nodes[0].replication().expect("stats")["link"], "down");
    wait_for("the name in the log", PATIENCE, || {
        pair.nodes[0].log().contains("no-such-host.invalid").then_some(())
    });
}

#[test]
fn strangers_on_the_replication_port_get_nothing_and_harm_nobody() {
    let pair = setup().start();
    let master = pair.wait_paired();
    pair.nodes[master].client().set("secret", b"treasure").expect("a set");
    let address = pair.nodes[master].replication_address();
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"get secret\r\n", &[0xff; 64 << 10], &[0; 5000]] {
        let mut stranger = TcpStream::connect(address).expect("a connection");
        stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It may hang up before it has heard all of it.
        let _ = stranger.write_all(words);
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        assert!(answer.len() <= 4096, "a stranger got {} bytes", answer.len());
        assert!(!answer.windows(8).any(|bytes| bytes == b"treasure"));
    }
    for mut stranger in silent {
        stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // Ends: the node hangs up on those who say nothing.
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    assert_eq!(pair.wait_paired(), master);
    serves(&pair, master);
    // They did not take the real peer's place.
    pair.reset_links();
    assert_eq!(pair.wait_paired(), master);
}

/// The node goes on without its memory of epochs, and says so.
fn check_state_dir_trouble(pair: &mut Pair, ruined: usize) {
    pair.start();
    pair.wait_paired();
    serves(pair, ruined);
    let log = pair.nodes[ruined].log();
    let path = pair.nodes[ruined].state_dir.display().to_string();
    assert!(log.contains(&path), "the log names the directory:\n{log}");
    // A failover to the other node still works.
    pair.nodes[ruined].kill();
    pair.nodes[1 - ruined].wait_role("master");
    serves(pair, 1 - ruined);
}

#[test]
fn a_state_directory_that_is_none_stops_nobody() {
    let mut pair = setup().pair();
    std::fs::write(&pair.nodes[0].state_dir, b"a file").expect("a file in its place");
    check_state_dir_trouble(&mut pair, 0);
}

#[test]
fn a_read_only_state_directory_stops_nobody() {
    let mut pair = setup().pair();
    let path = pair.nodes[0].state_dir.clone();
    std::fs::create_dir(&path).expect("a directory");
    let mount = Mount::new(&path, "ro,size=64k");
    if mount.is_none() {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).expect("permissions");
    }
    check_state_dir_trouble(&mut pair, 0);
}

#[test]
fn a_full_state_directory_stops_nobody() {
    let mut pair = setup().pair();
    let path = pair.nodes[0].state_dir.clone();
    std::fs::create_dir(&path).expect("a directory");
    let Some(_mount) = Mount::new(&path, "size=16k") else {
        eprintln!("not tried: only root can mount a small file system");
        return;
    };
    // Until nothing fits any more.
    let _ = std::fs::write(path.join("ballast"), vec![0; 64 << 10]);
    check_state_dir_trouble(&mut pair, 0);
}

#[test]
fn a_corrupt_state_file_stops_nobody() {
    let mut pair = setup().start();
    pair.wait_paired();
    for node in &mut pair.nodes {
        node.kill();
    }
    let mut ruined = 0;
    for entry in std::fs::read_dir(&pair.nodes[0].state_dir).expect("the state directory") {
        std::fs::write(entry.expect("an entry").path(), [0x5a; 100]).expect("garbage");
        ruined += 1;
    }
    assert!(ruined > 0, "there was a state file");
    check_state_dir_trouble(&mut pair, 0);
}

#[test]
fn a_port_in_use_ends_the_start_with_the_port_named() {
    let mut pair = setup().pair();
    let taken = std::net::TcpListener::bind(pair.nodes[0].address()).expect("the port");
    pair.nodes[0].start();
    wait_for("the process gives up", PATIENCE, || (!pair.nodes[0].runs()).then_some(()));
    let log = pair.nodes[0].log();
    assert!(log.contains(&pair.nodes[0].ports[0].to_string()), "the log names the port:\n{log}");
    drop(taken);
}

#[test]
fn replication_beyond_loopback_needs_a_key() {
    let output = Command::new(env!("CARGO_BIN_EXE_tandemd"))
        .args(["-u", "root", "-p", "0", "-l", "0.0.0.0", "-x", "192.0.2.1", "-X", "0"])
        .output()
        .expect("tandemd");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--psk-file") && said.contains("--insecure-replication"), "{said}");
}

#[test]
fn only_nodes_with_the_same_key_pair() {
    let mut pair = setup().pair();
    let keys = [pair.directory().join("one.key"), pair.directory().join("other.key")];
    for key in &keys {
        let made = Command::new(env!("CARGO_BIN_EXE_tandemctl")).arg("genkey").arg(key).status();
        assert!(made.expect("tandemctl").success());
    }
    for (node, key) in pair.nodes.iter_mut().zip(&keys) {
        node.flags.extend(["--psk-file".to_owned(), key.display().to_string()]);
    }
    pair.start();
    for node in &pair.nodes {
        // Neither knows the other: each serves what it has, as in a partition.
        node.wait_role("master");
        assert_eq!(node.replication().expect("stats")["link"], "down");
    }
    // Once the keys are the same, they pair.
    std::fs::copy(&keys[0], &keys[1]).expect("the same key");
    pair.nodes[1].kill();
    pair.nodes[1].start();
    pair.wait_paired();
}

/// A backup with a quarter of the master's memory: it drops what it has no room for, and nobody else does.
#[test]
fn a_smaller_backup_stays_a_backup_and_the_larger_node_loses_nothing() {
    const ITEMS: usize = 1_500;
    let value = |index: usize, round: usize| format!("{round}-{index}-").repeat(20_000 / 6).into_bytes();
    let mut pair = setup().pair();
    for (node, megabytes) in pair.nodes.iter_mut().zip(["64", "16"]) {
        node.flags.extend(["-m".to_owned(), megabytes.to_owned()]);
    }
    pair.start();
    if pair.wait_synced() != 0 {
        pair.switch_over(|| ());
    }
    let mut large = pair.nodes[0].client();
    for round in 0..2 {
        for index in 0..ITEMS {
            let key = format!("key-{index}");
            wait_for("a set", PATIENCE, || large.set(&key, &value(index, round)).ok());
        }
    }
    assert_eq!(pair.wait_synced(), 0, "a backup that is short of memory is a backup");
    wait_for("nothing is under way", PATIENCE, || {
        (pair.nodes[0].replicated("lag_records") == 0).then_some(())
    });
    let kept = pair.nodes[1].items().expect("it answers");
    assert!((1..ITEMS as u64).contains(&kept), "the smaller node keeps what it has room for: {kept}");
    assert_eq!(pair.nodes[0].items(), Some(ITEMS as u64), "the larger one has everything");
    assert_eq!(pair.nodes[0].replicated("full_copies"), 1, "nothing was copied again");

    // What the smaller one has is right, and its misses cost the larger one nothing.
    assert_eq!(pair.switch_over(|| ()), 1);
    let mut small = pair.nodes[1].client();
    for index in 0..ITEMS {
        let key = format!("key-{index}");
        let found = wait_for("an answer", PATIENCE, || small.get(&key).ok());
        assert!(found.is_none_or(|found| found == value(index, 1)), "{key}");
    }
    assert_eq!(pair.switch_over(|| ()), 0);
    let mut large = pair.nodes[0].client();
    for index in 0..ITEMS {
        let key = format!("key-{index}");
        let found = wait_for("an answer", PATIENCE, || large.get(&key).ok());
        assert!(found.is_some_and(|found| found == value(index, 1)), "{key}");
    }
}
