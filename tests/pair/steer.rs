//! What an operator does to a pair through its admin ports, and what the ports say of it.

use std::process::Command;

use tandemd::admin::Verb;
use tandemd::admin::client::Error;

use crate::harness::{PATIENCE, wait_for};
use crate::setup;

#[test]
fn a_paused_backup_waits_until_it_is_resumed_and_has_everything_then() {
    let mut pair = setup().start();
    let master = pair.wait_synced();
    let backup = 1 - master;
    pair.nodes[master].client().set("key", b"value").expect("a set");
    pair.wait_converged(PATIENCE);
    let admin = pair.nodes[backup].admin();
    admin.act(&Verb::PauseFailover).expect("it can be paused");
    wait_for("both nodes warn of it", PATIENCE, || {
        let warned = |node: usize| {
            let status = pair.nodes[node].admin().status().ok()?;
            status.warnings.iter().any(|text| text.contains("failovers are paused")).then_some(())
        };
        warned(master).and_then(|()| warned(backup))
    });

    pair.nodes[master].kill();
    // Whoever knows that the other is dead takes over in the same step, or not at all.
    let status = wait_for("the master is known to be dead", PATIENCE, || {
        let status = admin.status().ok()?;
        (status.link.as_ref()?.peer_is == "gone").then_some(status)
    });
    assert_eq!(status.node.role, "backup");
    assert_eq!(pair.nodes[backup].role(), "backup");
    let status = admin.status().expect("a status");
    assert!(!status.node.ready);
    let warned = status
        .warnings
        .iter()
        .any(|text| text.contains("reaches no master") && text.contains("tandemctl promote"));
    assert!(warned, "clients get errors, and nobody says so: {:?}", status.warnings);
    let address = pair.nodes[master].address().to_string();
    assert_eq!(
        status.peer.expect("a peer").address,
        address,
        "the peer is named by its clients' port, also when it is gone"
    );

    admin.act(&Verb::ResumeFailover).expect("it can be resumed");
    wait_for("it takes over", PATIENCE, || (pair.nodes[backup].role() == "master").then_some(()));
    assert_eq!(pair.nodes[backup].client().get("key").expect("a get").as_deref(), Some(&b"value"[..]));
    let events = admin.history().expect("a history");
    let last = events.iter().rfind(|event| event.kind == "role").expect("a change of roles");
    assert_eq!((last.from.as_str(), last.to.as_str()), ("backup", "master"));
    assert_eq!(last.text, "lost the master");
}

#[test]
fn a_backup_copies_anew_when_told_to_and_a_master_does_not() {
    let pair = setup().start();
    let master = pair.wait_synced();
    let mut client = pair.nodes[master].client();
    for number in 0..1000 {
        client.set(&format!("key-{number}"), b"value").expect("a set");
    }
    pair.wait_converged(PATIENCE);
    let copies = |node: usize| pair.nodes[node].admin().status().ok()?.link.map(|link| link.full_copies);
    let before = copies(1 - master).expect("a count");
    let refused = pair.nodes[master].admin().act(&Verb::Resync);
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("only a backup")), "{refused:?}");
    pair.nodes[1 - master].admin().act(&Verb::Resync).expect("a backup can");
    wait_for("a copy more", PATIENCE, || (copies(1 - master)? == before + 1).then_some(()));
    wait_for("both hold everything", PATIENCE, || (pair.wait_converged(PATIENCE) == 1000).then_some(()));
}

#[test]
fn a_master_can_be_demoted_and_a_backup_is_one_already() {
    let pair = setup().start();
    let master = pair.wait_synced();
    let already = pair.nodes[1 - master].admin().act(&Verb::Demote).expect("nothing to do");
    assert!(already.contains("already"), "{already}");
    assert_eq!(pair.paired(), Some(master));
    pair.nodes[master].admin().act(&Verb::Demote).expect("the other takes over");
    wait_for("the roles have changed", PATIENCE, || pair.paired().filter(|&now| now != master));
}

#[test]
fn nodes_that_contradict_each_other_say_so_on_both() {
    let mut pair = setup().flag("--preferred").pair();
    pair.nodes[0].flags.extend(["--backup-requests", "reject"].map(str::to_owned));
    // The node with less evicts what the other keeps.
    pair.nodes[1].flags.extend(["-m", "128"].map(str::to_owned));
    pair.start();
    for node in &pair.nodes {
        let status = wait_for("a warning", PATIENCE, || {
            node.admin().status().ok().filter(|status| status.warnings.len() == 3)
        });
        let [one, memory, other] = &status.warnings[..] else { panic!("{:?}", status.warnings) };
        assert!(one.contains("--backup-requests is "), "{one}");
        assert!(one.contains("reject") && one.contains("proxy"), "{one}");
        assert!(memory.contains("-m is ") && memory.contains("128 MiB"), "{memory}");
        assert!(other.contains("both nodes are --preferred"), "{other}");
        let (_, metrics) = node.admin().page("/metrics").expect("metrics");
        assert!(metrics.contains("\ntandem_contradictions 3\n"), "{metrics}");
        wait_for("a line in the log", PATIENCE, || {
            node.log_tail(100).contains("--backup-requests is ").then_some(())
        });
        let lines = node.log_tail(100).matches("--backup-requests is ").count();
        assert_eq!(lines, 1, "it is said once");
    }
}

#[test]
fn an_admin_port_that_others_reach_does_not_start_without_a_token() {
    let output = Command::new(env!("CARGO_BIN_EXE_tandemd"))
        .args(["-l", "127.0.0.1", "-p", "0", "-u", "root", "--admin", "0.0.0.0:0"])
        .output()
        .expect("tandemd");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(words.contains("--admin-token-file") && words.contains("0.0.0.0:0"), "{words}");
    let output = Command::new(env!("CARGO_BIN_EXE_tandemd"))
        .args(["-l", "127.0.0.1", "-p", "0", "-u", "root", "--admin", "127.0.0.1:0"])
        .args(["--admin-token-file", "/nonexistent"])
        .output()
        .expect("tandemd");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("/nonexistent"), "{words}");
}

#[test]
fn a_new_token_counts_from_the_next_sighup_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, "the-first-of-two-tokens").expect("a file");
    let mut pair = setup().flag("--admin-token-file").flag(file.to_str().expect("a path")).pair();
    pair.start();
    pair.wait_paired();
    let node = &pair.nodes[0];
    let with = |token: &str| {
        let admin = tandemd::admin::client::Client::new(node.admin_address().to_string());
        admin.with_token(token).act(&Verb::ResumeFailover)
    };
    assert!(with("the-first-of-two-tokens").is_ok());
    std::fs::write(&file, "the-second-of-two-tokens").expect("a file");
    assert!(with("the-second-of-two-tokens").is_err(), "nobody has read it yet");
    node.signal(rustix::process::Signal::HUP);
    wait_for("the new token counts", PATIENCE, || with("the-second-of-two-tokens").ok());
    assert!(with("the-first-of-two-tokens").is_err());
}
