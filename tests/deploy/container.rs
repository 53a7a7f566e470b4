//! The image without an engine: what is copied into its build is enough to build, and what it runs, runs: as its user,
//! with its variables, the command of the compose file and its health check.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{PATIENCE, wait_for};
use crate::support::{ROOT, Service, free_port, read, run};

/// What stands behind an instruction of the Containerfile: the last one of that name.
fn instruction(name: &str) -> String {
    let text = read("deploy/container/Containerfile").replace("\\\n", " ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.next_back().unwrap_or_else(|| panic!("the Containerfile has no {name}")).trim().to_owned()
}

/// An instruction in JSON.
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn what_is_copied_into_the_image_is_all_that_its_build_needs() {
    let ignored = read("deploy/container/Containerfile.dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "nothing that is not named");
    let context = tempfile::tempdir().expect("a directory");
    let named: Vec<&str> = lines.map(|line| line.strip_prefix('!').expect("an exception")).collect();
    let tracked = run(Command::new("git").args(["ls-files", "--"]).args(&named).current_dir(ROOT));
    for file in tracked.lines() {
        let to = context.path().join(file);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        std::fs::copy(Path::new(ROOT).join(file), to).unwrap_or_else(|why| panic!("{file}: {why}"));
    }
    for name in named {
        assert!(context.path().join(name).exists(), "{name} is named and is not there");
    }
    // All that the build would do, without doing it: each source file that a crate begins with is looked for.
    let build = instruction("RUN cargo");
    let arguments = build.split("&&").next().expect("a command").split_whitespace();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).args(["--offline", "--unit-graph", "-Z", "unstable-options"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").current_dir(context.path());
    let graph = run(&mut cargo);
    let units: Value = serde_json::from_str(graph.lines().find(|line| line.starts_with('{')).expect("JSON"))
        .expect("a graph of units");
    let context = context.path().canonicalize().expect("a path");
    let ours = units["units"].as_array().expect("a list").iter().filter_map(|unit| {
        let source = Path::new(unit["target"]["src_path"].as_str()?);
        source.starts_with(&context).then(|| source.to_owned())
    });
    let ours: Vec<_> = ours.collect();
    assert!(ours.iter().any(|source| source.ends_with("src/main.rs")), "{ours:?}");
    for source in ours {
        assert!(source.exists(), "{} is not copied into the image", source.display());
    }
}

#[test]
fn the_image_starts_a_node_as_its_user_and_its_health_check_tells_the_truth() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can become the image's user");
        return;
    }
    let [program] = &words(&instruction("ENTRYPOINT"))[..] else { panic!("one program") };
    assert_eq!(program, "/usr/bin/tandemd");
    let (_, check) =
        instruction("HEALTHCHECK").split_once("CMD ").map(|(a, b)| (a.to_owned(), words(b))).expect("CMD");
    assert_eq!(check[0], "/usr/bin/tandemctl");
    let user = instruction("USER");
    let (uid, gid) = user.split_once(':').expect("a user and a group, as numbers: the image has no names");
    let [uid, gid] = [uid, gid].map(|id| id.parse::<u32>().expect("a number"));
    assert!(uid > 0 && gid > 0, "not root");
    let volume = instruction("VOLUME");
    let owned = instruction("COPY");
    assert!(
        owned.contains(&format!("--chown={user}")) && owned.ends_with(&volume),
        "{owned}: it writes there"
    );
    let (name, admin) =
        instruction("ENV").split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("NAME=VALUE");
    assert_eq!(name, "TANDEM_ADMIN");
    // Of this machine, what nobody else has.
    let [port, link] = [free_port(), free_port()];
    let admin = admin.replace(":11213", &format!(":{}", free_port()));

    let directory = tempfile::tempdir().expect("a directory");
    let (state, key) = (directory.path().join("state"), directory.path().join("key"));
    std::fs::create_dir(&state).expect("a directory");
    std::fs::write(&key, "a key for this test only, of enough bytes\n").expect("a file");
    for path in [directory.path(), &state, &key] {
        chown(path, Some(uid), Some(gid)).expect("root may");
    }
    // The program itself, where that user reaches it.
    let copy = |of: &str, name: &str| {
        let to = directory.path().join(name);
        std::fs::copy(of, &to).expect("a copy");
        to
    };
    let tandemd = copy(env!("CARGO_BIN_EXE_tandemd"), "tandemd");
    let tandemctl = copy(env!("CARGO_BIN_EXE_tandemctl"), "tandemctl");
    let service = read("deploy/container/compose.yaml");
    let command = service.lines().find_map(|line| line.trim().strip_prefix("command: ")).expect("a command");
    let arguments: Vec<String> = words(command)
        .into_iter()
        .map(|argument| match &*argument {
            "b" => format!("127.0.0.1:{}", free_port()),
            "/run/secrets/pair-key" => key.display().to_string(),
            path if path == volume => state.display().to_string(),
            _ => argument,
        })
        .collect();
    let as_user = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear().env("TANDEM_ADMIN", &admin).uid(uid).gid(gid).current_dir("/");
        command
    };
    let mut start = as_user(&tandemd);
    start.args(&arguments).args([
        "-l",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-X",
        &link.to_string(),
        "-I",
        "128k",
    ]);
    let is_healthy = || as_user(&tandemctl).args(&check[1..]).output().expect("it runs").status.success();
    assert!(!is_healthy(), "nobody is there yet");
    let node = Service::start(&mut start, directory.path(), "tandemd");
    wait_for("a healthy node", PATIENCE, || is_healthy().then_some(()));
    wait_for("what survives a restart", PATIENCE, || std::fs::read_dir(&state).ok()?.next().map(|_| ()));
    drop(node);
    assert!(!is_healthy(), "nobody is there any more");
}
