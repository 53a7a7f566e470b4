//! The settings that docs/clients.md recommends, as they stand there, with the clients themselves: whose server
//! dies goes on with the same settings when it is back, and misses nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::PATIENCE;
use crate::{script, setup};

/// More failures than this for a connection that broke are no recipe.
const FAILURES_MAX: u32 = 5;

/// The code under a heading of docs/clients.md, for that address.
fn recipe(heading: &str, language: &str, address: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (_, code) = section.split_once(&format!("```{language}\n")).expect("code");
    let (code, _) = code.split_once("\n```").expect("its end");
    assert!(code.contains("192.0.2.10:11211"), "{code}");
    code.replace("192.0.2.10:11211", address) + "\n"
}

/// Stores through a node, kills it, starts it again, and reads through it; what the client said in the end.
fn goes_on(client: impl FnOnce(&str, &Path) -> Command) -> String {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let directory = tempfile::tempdir().expect("a directory");
    let mut client = client(&pair.nodes[master].address().to_string(), directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut out = BufReader::new(client.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "stored\n");
    pair.wait_converged(PATIENCE);
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    pair.nodes[master].start();
    assert_eq!(pair.wait_paired(), 1 - master);
    client.stdin.take().expect("a pipe").write_all(b"\n").expect("the client waits");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert!(client.wait().expect("our child").success(), "the client failed: {rest}");
    for line in rest.lines() {
        let (name, failures) = line.split_once(' ').expect("a name and a number");
        assert!(failures.parse::<u32>().expect("a number") <= FAILURES_MAX, "{name} failed {failures} times");
    }
    rest
}

#[test]
fn djangos_cache_goes_on_when_its_node_was_killed_and_is_back() {
    let python = std::env::var("TANDEM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import django, pymemcache"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: Django and pymemcache are not installed (pip install Django pymemcache)");
        return;
    }
    let said = goes_on(|address, directory| {
        let file = directory.join("recipe.py");
        let driver = std::fs::read_to_string(script("recipe_django.py")).expect("the script");
        std::fs::write(&file, recipe("Django", "python", address) + &driver).expect("a file");
        let mut command = Command::new(python);
        command.arg(file);
        command
    });
    assert!(said.starts_with("django "), "{said}");
}

#[test]
fn both_clients_of_node_go_on_when_their_node_was_killed_and_is_back() {
    let modules = PathBuf::from(std::env::var_os("TANDEM_NODE_MODULES").unwrap_or_default());
    if !modules.join("memjs").exists() || !modules.join("memcached").exists() {
        eprintln!("skipped: memjs and memcached of npm are not installed where $TANDEM_NODE_MODULES says");
        return;
    }
    let said = goes_on(|address, directory| {
        let file = directory.join("recipe.js");
        let driver = std::fs::read_to_string(script("recipe_node.js")).expect("the script");
        std::fs::write(&file, recipe("Node", "js", address) + &driver).expect("a file");
        let mut command = Command::new("node");
        command.arg(file).env("NODE_PATH", modules);
        command
    });
    assert!(said.contains("memjs ") && said.contains("memcached "), "{said}");
}
