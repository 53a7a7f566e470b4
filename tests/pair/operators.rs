//! What an operator does to a pair with `tandemctl`.

use std::process::Command;

use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

/// What it printed, and whether it succeeded.
fn tandemctl(pair: &Pair, node: usize, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandemctl"));
    command.arg("--server").arg(pair.nodes[node].admin_address().to_string()).args(arguments);
    let output = command.stdin(std::process::Stdio::null()).output().expect("tandemctl");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("text"))
}

#[test]
fn an_operator_sees_and_steers_both_nodes_from_either() {
    let pair = setup().start();
    let master = pair.wait_paired();
    let backup = 1 - master;
    let (done, text) = tandemctl(&pair, master, &["status"]);
    assert!(done && text.contains("master") && text.contains("backup") && text.contains("link up"), "{text}");
    let (done, json) = tandemctl(&pair, backup, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(done && json["node"]["role"] == "backup", "{json}");

    // A copy made anew, seen to its end.
    pair.nodes[master].client().set("key", b"value").expect("a set");
    pair.wait_converged(PATIENCE);
    let (done, text) = tandemctl(&pair, backup, &["resync", "--yes"]);
    assert!(done && text.contains("copied anew"), "{text}");
    let (done, text) = tandemctl(&pair, backup, &["wait", "--synced", "--timeout", "30s"]);
    assert!(done, "{text}");

    // The two are compared.
    let (done, text) = tandemctl(&pair, backup, &["verify"]);
    assert!(!done && text.contains("only a master"), "{text}");
    pair.wait_synced();
    let (done, text) = tandemctl(&pair, master, &["verify"]);
    assert!(done && text.contains("1 items compared: the backup has what the master has"), "{text}");

    // Who is responsible for the machine sees that failovers are paused.
    let (done, text) = tandemctl(&pair, backup, &["pause-failover", "--yes"]);
    assert!(done && text.contains("takes and gives no role by itself"), "{text}");
    wait_for("the warning", PATIENCE, || {
        let (_, text) = tandemctl(&pair, backup, &["status"]);
        (text.contains("warning: ") && text.contains("paused")).then_some(())
    });
    let (done, text) = tandemctl(&pair, backup, &["resume-failover"]);
    assert!(done, "{text}");

    // The role goes to the other node, by demotion of the one that has it.
    let (done, text) = tandemctl(&pair, master, &["demote"]);
    assert!(done, "{text}");
    let (done, text) = tandemctl(&pair, backup, &["wait", "--role", "master", "--timeout", "30s"]);
    assert!(done, "{text}");

    let (done, text) = tandemctl(&pair, master, &["logs", "level", "debug"]);
    assert!(done && text.contains("debug"), "{text}");
    wait_for("the new level in the log", PATIENCE, || {
        pair.nodes[master].log().contains("the log's level is now debug").then_some(())
    });
    let (done, text) = tandemctl(&pair, master, &["wait", "--role", "standalone", "--timeout", "0s"]);
    assert!(
        !done && text.contains("not so after 0 s: role backup") && text.contains("--timeout waits longer"),
        "{text}"
    );
}
