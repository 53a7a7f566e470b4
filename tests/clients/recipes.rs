//! The settings that docs/clients.md recommends, as they stand there, with the clients themselves: whose server
//! dies goes on with the same settings when it is back, and misses nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::PATIENCE;
use crate::{has_php, is_installed, python, script, setup};

/// More failures than this for a connection that broke are no recipe.
const FAILURES_MAX: u32 = 5;
/// Where Debian has Java's client and Go's.
const SPYMEMCACHED: &str = "/usr/share/java/spymemcached.jar";
const GO_PATH: &str = "/usr/share/gocode";

/// The code under a heading of docs/clients.md, for that address.
fn recipe(heading: &str, language: &str, address: SocketAddr) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (_, code) = section.split_once(&format!("```{language}\n")).expect("code");
    let (code, _) = code.split_once("\n```").expect("its end");
    assert!(code.contains("192.0.2.10"), "{code}");
    let port = address.port().to_string();
    code.replace("192.0.2.10", &address.ip().to_string()).replace("11211", &port)
}

/// A program beside this file, with the code under that heading in the place of its line RECIPE; written into that
/// directory.
fn program(driver: &str, heading: &str, language: &str, address: SocketAddr, directory: &Path) -> PathBuf {
    let text = std::fs::read_to_string(script(driver)).expect("the program");
    let code = recipe(heading, language, address);
    let is_place = |line: &str| matches!(line.trim(), "// RECIPE" | "# RECIPE");
    assert_eq!(text.lines().filter(|line| is_place(line)).count(), 1, "{driver} has one place for a recipe");
    let lines: Vec<&str> = text.lines().map(|line| if is_place(line) { &*code } else { line }).collect();
    // Java wants a file to be called like its class.
    let file = directory.join(driver.replace("recipe.java", "Recipe.java"));
    std::fs::write(&file, lines.join("\n") + "\n").expect("a file");
    file
}

/// Stores through a node, kills it, starts it again, and reads through it; what the client said in the end.
fn goes_on(client: impl FnOnce(SocketAddr, &Path) -> Command) -> String {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let directory = tempfile::tempdir().expect("a directory");
    let mut client = client(pair.nodes[master].address(), directory.path())
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
    eprintln!("failures: {}", rest.trim_end().replace('\n', ", "));
    rest
}

/// A client and how it is run with a file.
fn command(program: &str, arguments: &[&str], file: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(file);
    command
}

#[test]
fn php_goes_on_when_its_node_was_killed_and_is_back() {
    if !has_php() {
        return;
    }
    let said = goes_on(|address, directory| {
        command("php", &[], &program("recipe.php", "PHP", "php", address, directory))
    });
    assert!(said.starts_with("php "), "{said}");
}

#[test]
fn libmemcached_over_two_pairs_goes_on_when_a_node_was_killed_and_is_back() {
    if !has_php() {
        return;
    }
    let other = setup().start();
    let second = other.nodes[other.wait_paired()].address();
    let heading = "libmemcached and what is built on it, several pairs";
    let said = goes_on(|address, directory| {
        let file = program("recipe.php", heading, "php", address, directory);
        let text = std::fs::read_to_string(&file).expect("just written");
        let of_page = format!("'192.0.2.20', {}", address.port());
        assert!(text.contains(&of_page), "{text}");
        let text = text.replace(&of_page, &format!("'{}', {}", second.ip(), second.port()));
        std::fs::write(&file, text).expect("a file");
        command("php", &[], &file)
    });
    assert!(said.starts_with("php "), "{said}");
    assert!(other.nodes[0].items().is_some_and(|items| items > 10), "the second pair has its part");
}

#[test]
fn pymemcache_with_retries_goes_on_when_its_node_was_killed_and_is_back() {
    let Some(python) = python() else { return };
    let said = goes_on(|address, directory| {
        command(&python, &[], &program("recipe_pymemcache.py", "Python", "python", address, directory))
    });
    assert_eq!(said, "pymemcache 0\n", "the retries are there for that");
}

#[test]
fn djangos_cache_goes_on_when_its_node_was_killed_and_is_back() {
    let python = std::env::var("TANDEM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !is_installed("Django (pip install Django pymemcache)", &python, &["-c", "import django, pymemcache"])
    {
        return;
    }
    let said = goes_on(|address, directory| {
        command(&python, &[], &program("recipe_django.py", "Django", "python", address, directory))
    });
    assert!(said.starts_with("django "), "{said}");
}

#[test]
fn the_cache_of_rails_goes_on_when_its_node_was_killed_and_is_back() {
    let libraries = "require 'active_support'; require 'active_support/cache'; require 'dalli'";
    if !is_installed("ruby-activesupport and ruby-dalli", "ruby", &["-e", libraries]) {
        return;
    }
    let said = goes_on(|address, directory| {
        command("ruby", &[], &program("recipe_rails.rb", "Ruby, Rails", "ruby", address, directory))
    });
    assert!(said.starts_with("rails "), "{said}");
}

#[test]
fn both_clients_of_node_go_on_when_their_node_was_killed_and_is_back() {
    let modules = PathBuf::from(std::env::var_os("TANDEM_NODE_MODULES").unwrap_or_default());
    if !modules.join("memjs").exists() || !modules.join("memcached").exists() {
        eprintln!("skipped: memjs and memcached of npm are not installed where $TANDEM_NODE_MODULES says");
        return;
    }
    let said = goes_on(|address, directory| {
        let file = program("recipe_node.js", "Node", "js", address, directory);
        let mut command = command("node", &[], &file);
        command.env("NODE_PATH", modules);
        command
    });
    assert!(said.contains("memjs ") && said.contains("memcached "), "{said}");
}

#[test]
fn spymemcached_for_java_goes_on_when_its_node_was_killed_and_is_back() {
    let has_client = Path::new(SPYMEMCACHED).exists();
    let java = if has_client { "java" } else { "java, whose client is missing," };
    if !is_installed("libspymemcached-java with a JDK (default-jdk-headless)", java, &["--list-modules"]) {
        return;
    }
    let said = goes_on(|address, directory| {
        let file = program("recipe.java", "Java", "java", address, directory);
        command("java", &["-cp", SPYMEMCACHED], &file)
    });
    assert!(said.starts_with("java "), "{said}");
}

#[test]
fn gomemcache_goes_on_when_its_node_was_killed_and_is_back() {
    let source = "github.com/bradfitz/gomemcache/memcache";
    let has_client = Path::new(GO_PATH).join("src").join(source).exists();
    let go = if has_client { "go" } else { "go, whose client is missing," };
    if !is_installed("golang-go with golang-github-bradfitz-gomemcache-dev", go, &["version"]) {
        return;
    }
    let said = goes_on(|address, directory| {
        let file = program("recipe.go", "Go", "go", address, directory);
        let built = directory.join("recipe");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&built).arg(file);
        // The packages of Debian, without the net.
        build.envs([("GO111MODULE", "off"), ("GOPATH", GO_PATH), ("GOFLAGS", ""), ("CGO_ENABLED", "0")]);
        build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        assert!(build.status().expect("go runs").success(), "the recipe compiles");
        Command::new(built)
    });
    assert!(said.starts_with("go "), "{said}");
}
