//! Programs of the operator, run by a real pair.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{PATIENCE, wait_for};
use crate::setup;

/// An executable script.
fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn a_program_hears_of_every_change_of_role_with_its_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let told = directory.path().join("told");
    // It takes its time: the pair waits for nobody.
    let text = format!("echo \"$1|$2|$3|$TANDEM_ROLE_BEFORE\" >> {}; sleep 0.2", told.display());
    let program = script(directory.path(), "hook", &text);
    let mut pair = setup().flag("--on-role-change").flag(program.to_str().expect("a path")).start();
    let master = pair.wait_paired();
    let backup = 1 - master;
    pair.nodes[master].kill();
    pair.nodes[backup].wait_role("master");
    let epoch = pair.nodes[backup].replicated("epoch");
    let line = format!("master|{epoch}|lost the master|backup");
    wait_for("it was told", PATIENCE, || {
        std::fs::read_to_string(&told).ok().filter(|told| told.lines().any(|one| one == line))
    });
    let told = std::fs::read_to_string(&told).expect("told");
    assert!(told.lines().any(|one| one.starts_with("joining|")), "{told}");
}

#[test]
fn a_silent_peer_is_replaced_only_when_the_fence_command_has_succeeded() {
    let directory = tempfile::tempdir().expect("a directory");
    let (asked, may) = (directory.path().join("asked"), directory.path().join("may"));
    let text = format!("echo \"$1\" >> {}; test -e {}", asked.display(), may.display());
    let program = script(directory.path(), "fence", &text);
    let mut pair = setup().flag("--fence-command").flag(program.to_str().expect("a path")).start();
    let master = pair.wait_paired();
    let backup = 1 - master;
    pair.nodes[master].kill();
    let peer = pair.nodes[backup].peer.clone();
    wait_for("it was asked twice, and for the right one", PATIENCE, || {
        let asked = std::fs::read_to_string(&asked).unwrap_or_default();
        (asked.lines().filter(|line| *line == peer).count() >= 2).then_some(())
    });
    assert_eq!(pair.nodes[backup].role(), "backup", "nobody knows whether the other one still serves");
    std::fs::write(&may, "").expect("a file");
    pair.nodes[backup].wait_role("master");
}

/// The settings that steer who is master, and whom it is told to, change while both nodes run.
#[test]
fn a_node_that_becomes_the_preferred_one_by_a_reload_gets_the_role() {
    let directory = tempfile::tempdir().expect("a directory");
    let told = directory.path().join("told");
    let program = script(directory.path(), "hook", &format!("echo $1 >> {}", told.display()));
    let files = [0, 1].map(|node| directory.path().join(format!("{node}.toml")));
    let mut pair = setup().pair();
    for (node, file) in pair.nodes.iter_mut().zip(&files) {
        std::fs::write(file, "failback-delay = \"1h\"\n").expect("a file");
        node.flags.extend(["--config".to_owned(), file.display().to_string()]);
    }
    pair.start();
    let master = pair.wait_synced();
    let backup = 1 - master;
    let text = format!(
        "preferred = true\nfailback-delay = \"100ms\"\nheal = \"winner\"\non-role-change = \"{}\"\n",
        program.display()
    );
    std::fs::write(&files[backup], text).expect("a file");
    pair.nodes[backup].signal(Signal::HUP);
    pair.nodes[backup].wait_role("master");
    wait_for("the program was told", PATIENCE, || {
        std::fs::read_to_string(&told).ok().filter(|told| told.lines().any(|role| role == "master"))
    });
    let log = pair.nodes[backup].log();
    assert!(log.contains("heal is winner in the settings and stays newest until a restart"), "{log}");
    wait_for("both nodes say which one is preferred", PATIENCE, || {
        let here = pair.nodes[backup].admin().status().ok()?.node.preferred;
        let there = pair.nodes[master].admin().status().ok()?.peer?.preferred;
        (here && there).then_some(())
    });
}
