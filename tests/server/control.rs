//! `tandemctl`, the program: items out and in, settings, what it asks before it acts, and generated files.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::harness::{Node, until};
use crate::process::Running;
use crate::tls::Authority;

fn tandemctl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandemctl"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What it printed; it must succeed.
fn says(arguments: &[&str]) -> String {
    let output = tandemctl(arguments);
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out + &err
}

/// Exit code and complaint; it must fail.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = tandemctl(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    (output.status.code().unwrap(), texts(&output).1)
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Debian's memcached, if it is installed, on a port of its own.
struct Memcached {
    port: u16,
    _process: Ended,
}

/// A program that ends with the test.
struct Ended(std::process::Child);

impl Memcached {
    fn start() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let ports = place.path().join("ports");
        let mut command = Command::new("memcached");
        command.args("-u root -l 127.0.0.1 -p -1 -m 64".split(' ')).env("MEMCACHED_PORT_FILENAME", &ports);
        let Ok(child) = command.spawn() else {
            eprintln!("SKIPPED: memcached is not installed");
            return None;
        };
        until("memcached's port", || ports.exists());
        let text = std::fs::read_to_string(&ports).unwrap();
        let port = text.lines().find_map(|line| line.strip_prefix("TCP INET: ")).unwrap().parse().unwrap();
        Some(Self { port, _process: Ended(child) })
    }

    fn client(&self) -> crate::harness::Client {
        crate::harness::Client::connect(([127, 0, 0, 1], self.port).into())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _over_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn all_items_go_into_a_file_and_into_another_server() {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Running::start("-m 64", places[0].path());
    let to = Running::start("-m 64", places[1].path());
    let mut client = from.client();
    client.ask("set plain 5 0 5\r\nhello\r\n", "STORED\r\n");
    client.ask("set mortal 0 1000 3\r\nabc\r\n", "STORED\r\n");
    client.ask("set empty 4294967295 0 0\r\n\r\n", "STORED\r\n");
    // A key of bytes that a text key cannot have.
    client.ask("ms YSBiAA== 3 b F9\r\n\r\n\x00\r\n", "HD\r\n");
    for index in 0..2000 {
        client.ask(format!("set many:{index} 0 0 6\r\n{index:06}\r\n"), "STORED\r\n");
    }
    let large = "x".repeat(900_000);
    client.ask(format!("set large 0 0 {}\r\n{large}\r\n", large.len()), "STORED\r\n");

    let keys = says(&["keys", "--node", &from.address()]);
    assert_eq!(keys.lines().count(), 2005);
    assert!(keys.lines().any(|key| key == "a%20b%00"), "{keys}");
    assert_eq!(says(&["keys", "--node", &from.address(), "--prefix", "many:"]).lines().count(), 2000);

    let file = places[0].path().join("items");
    let file = file.to_str().unwrap();
    let said = says(&["dump", "--node", &from.address(), file]);
    assert!(said.contains("2005 items from"), "{said}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "items are for their owner only");

    to.client().ask("set plain 0 0 3\r\nold\r\n", "STORED\r\n");
    let kept = says(&["load", "--keep", "--node", &to.address(), file]);
    assert!(kept.contains("2004 items stored") && kept.contains("1 kept as they were"), "{kept}");
    to.client().ask("get plain\r\n", "VALUE plain 0 3\r\nold\r\nEND\r\n");
    let said = says(&["load", "--node", &to.address(), file]);
    assert!(said.contains("2005 items stored"), "{said}");
    let mut client = to.client();
    client.ask("get plain\r\n", "VALUE plain 5 5\r\nhello\r\nEND\r\n");
    client.ask("get empty\r\n", "VALUE empty 4294967295 0\r\n\r\nEND\r\n");
    client.ask("mg YSBiAA== b f v\r\n", "VA 3 f9\r\n\r\n\x00\r\n");
    client.ask("get many:1999\r\n", "VALUE many:1999 0 6\r\n001999\r\nEND\r\n");
    client.ask("get large\r\n", format!("VALUE large 0 900000\r\n{large}\r\nEND\r\n"));
    client.send("mg mortal t\r\n");
    let line = client.read_until("\r\n");
    let left: u32 = line.trim().strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((900..=1001).contains(&left), "the time that remained is kept: {line}");

    // And between Tandem and memcached, in both directions.
    let Some(memcached) = Memcached::start() else { return };
    let address = format!("127.0.0.1:{}", memcached.port);
    assert!(says(&["load", "--node", &address, file]).contains("2005 items stored"));
    memcached.client().ask("get plain\r\n", "VALUE plain 5 5\r\nhello\r\nEND\r\n");
    let back = places[1].path().join("back");
    let said = says(&["dump", "--node", &address, back.to_str().unwrap()]);
    assert!(said.contains("2005 items from"), "{said}");
}

#[test]
fn a_damaged_file_is_refused_before_anything_is_stored() {
    let place = tempfile::tempdir().unwrap();
    let node = Running::start("", place.path());
    node.client().ask("set key 0 0 5\r\nvalue\r\n", "STORED\r\n");
    let file = place.path().join("items");
    let name = file.to_str().unwrap();
    says(&["dump", "--node", &node.address(), name]);
    let whole = std::fs::read(&file).unwrap();
    node.client().ask("flush_all\r\n", "OK\r\n");

    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let (code, text) = fails(&["load", "--node", &node.address(), name]);
    assert_eq!(code, 1);
    assert!(text.contains("items: it was cut off in line 3"), "{text}");
    node.client().ask("get key\r\n", "END\r\n");
    std::fs::write(&file, "memcached\n").unwrap();
    assert!(fails(&["load", "--node", &node.address(), name]).1.contains("no file of `tandemctl dump`"));
    assert!(fails(&["load", "--node", &node.address(), "/nonexistent/items"]).1.contains("name a file that"));
    let (code, text) = fails(&["dump", "--node", "127.0.0.1:1", name]);
    assert_eq!(code, 69);
    assert!(text.contains("no server at 127.0.0.1:1: ") && text.contains("the port for clients"), "{text}");
}

#[test]
fn a_server_that_lists_no_keys_or_holds_not_all_says_so() {
    let place = tempfile::tempdir().unwrap();
    let closed = Running::start("--disable-dumping", place.path());
    let (code, text) = fails(&["keys", "--node", &closed.address()]);
    assert_eq!(code, 1);
    assert!(text.contains("does not list its keys") && text.contains("--disable-dumping"), "{text}");

    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let large = Running::start("", one.path());
    let value = "x".repeat(100_000);
    large.client().ask(format!("set big 0 0 100000\r\n{value}\r\n"), "STORED\r\n");
    let file = other.path().join("items");
    says(&["dump", "--node", &large.address(), file.to_str().unwrap()]);
    let small = Running::start("-I 10k", other.path());
    let (code, text) = fails(&["load", "--node", &small.address(), file.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(text.contains("1 refused: `SERVER_ERROR object too large for cache`; give"), "{text}");
}

#[test]
fn what_can_lose_something_is_not_done_without_a_yes() {
    for verb in [&["promote", "--force"][..], &["resync"], &["pause-failover"]] {
        let (code, text) = fails(verb);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("Nobody is here to be asked: say --yes if that is wanted"), "{text}");
        // With a yes, it is the node that is asked.
        let mut sure = verb.to_vec();
        sure.extend(["--yes", "--server", "127.0.0.1:1"]);
        let (code, text) = fails(&sure);
        assert_eq!(code, 69, "{text}");
        assert!(text.contains("is tandemd running with --admin 127.0.0.1:1?"), "{text}");
    }
    assert!(fails(&["top"]).1.contains("top needs a terminal"));
    assert!(
        fails(&["--token-file", "/nonexistent/token", "status"])
            .1
            .contains("token file /nonexistent/token: ")
    );
}

#[test]
fn settings_are_checked_and_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    std::fs::write(file.path(), "threads = 2\n").unwrap();
    assert_eq!(says(&["config", "check", name]), "");
    let shown = says(&["config", "show", name]);
    let line = shown.lines().find(|line| line.starts_with("threads ")).unwrap();
    assert!(line.ends_with(&format!("{name}:1")), "{shown}");
    std::fs::write(file.path(), "threds = 2\nport = 99999\n").unwrap();
    let (code, text) = fails(&["config", "check", name]);
    assert_eq!(code, 1);
    assert!(text.contains(":1: threds: there is no such setting; did you mean threads?"), "{text}");
    assert!(text.contains(":2 (port): ERROR: Invalid port number 99999."), "{text}");
}

/// Every flag and verb is in the manual pages and completions, because they are made from the same definition.
#[test]
fn manual_pages_and_completions_are_in_step_with_the_programs() {
    let directory = tempfile::tempdir().unwrap();
    says(&["generate", directory.path().to_str().unwrap()]);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_tandemd")).arg("-h").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let flags: Vec<&str> = words.filter(|word| word.starts_with("--") && word.len() > 4).collect();
    assert!(flags.len() > 40);
    let man = read("man1/tandemd.1").replace("\\-", "-");
    for flag in flags {
        assert!(man.contains(flag), "man tandemd says nothing of {flag}");
        for file in ["bash/tandemd.bash", "zsh/_tandemd"] {
            assert!(read(file).contains(flag), "{file} does not complete {flag}");
        }
        assert!(read("fish/tandemd.fish").contains(&format!("-l {}", &flag[2..])), "fish: {flag}");
    }
    for verb in ["status", "top", "switchover", "resync", "pause-failover", "dump", "logs", "config"] {
        let page = read(&format!("man1/tandemctl-{verb}.1"));
        assert!(page.contains(".SH NAME"), "{page}");
        assert!(read("bash/tandemctl.bash").contains(verb));
    }
    // A shell reads them, and completes with them.
    let script = format!(
        ". {}/bash/tandemctl.bash; COMP_WORDS=(tandemctl sw); COMP_CWORD=1; _tandemctl tandemctl sw tandemctl; echo \"${{COMPREPLY[*]}}\"",
        directory.path().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(texts(&output).0.trim(), "switchover", "{}", texts(&output).1);
    assert!(says(&["completions", "bash"]).contains("_tandemctl"));
    assert!(says(&["completions", "zsh", "--of", "tandemd"]).starts_with("#compdef tandemd"));
}

/// The screen in a terminal that `script` (of bsdutils) makes.
#[test]
fn top_fills_a_terminal_and_ends_with_q() {
    let place = tempfile::tempdir().unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = Running::start(&format!("--admin {admin}"), place.path());
    node.client().ask("version\r\n", "VERSION");
    let command =
        format!("stty rows 40 cols 100; exec {} --server {admin} top", env!("CARGO_BIN_EXE_tandemctl"));
    let log = place.path().join("screen");
    let child = Command::new("script")
        .args(["-qfec", &command])
        .arg(&log)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        eprintln!("SKIPPED: script is not installed");
        return;
    };
    let mut child = Ended(child);
    // When this goes, so does the terminal.
    let mut keys = child.0.stdin.take().unwrap();
    let seen =
        |text: &str| std::fs::read(&log).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
    until("the node's role on the screen", || seen("standalone"));
    keys.write_all(b"s").unwrap();
    until("the question", || seen("Hand the master role"));
    keys.write_all(b"y").unwrap();
    until("the refusal, which a node without a peer gives", || seen("peer;"));
    keys.write_all(b"q").unwrap();
    assert!(child.0.wait().unwrap().success());
}

/// Every way of being kept out has a message that names the flag which lets one in.
#[test]
fn items_of_a_server_with_tls_and_passwords_go_out_and_in() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    authority.sign("client", "us");
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let users = path("users", "alice:secret\nbob:other\n");
    let node = Node::start(&format!("{} -Y {users}", authority.flags(",ssl_verify_mode=2")));
    let address = format!("localhost:{}", node.address.port());
    let [ca, cert, key] =
        ["ca.pem", "client.pem", "client.key"].map(|name| authority.path(name).display().to_string());
    let to = ["keys", "--node", &address];
    let tls = ["--tls-ca", &ca];
    let shown = ["--tls-cert", &cert, "--tls-key", &key];
    let user = ["--auth-file", &users];
    let wrong_user = path("wrong", "alice:guess\n");
    let keyless = path("none", "nobody\n");
    for (flags, code, remedy) in [
        (vec![], 1, "--tls"),
        (tls.to_vec(), 1, "--tls-cert"),
        ([&shown[..], &["--tls"]].concat(), 1, "--tls-ca"),
        ([&tls[..], &shown, &["--tls-name", "elsewhere"]].concat(), 1, "--tls-name"),
        ([&tls[..], &shown].concat(), 1, "--auth-file"),
        ([&tls[..], &shown, &["--auth-file", &wrong_user]].concat(), 1, "--auth-file"),
        (vec!["--auth-file", &keyless], 2, "user:password"),
        (vec!["--tls-ca", &users], 2, "--tls-ca"),
        (vec!["--tls-cert", &cert], 2, "--tls-key"),
    ] {
        let (was, text) = fails(&[&to[..], &flags].concat());
        assert!(was == code && text.contains(remedy), "{flags:?}: {was}, {text}");
        assert!(!text.contains("secret") && !text.contains("guess"), "{text}");
    }
    let all = [&["--node", &address][..], &tls, &shown, &user].concat();
    let bench =
        ["bench", &address, "--connections", "3", "--operations", "3000", "--keys", "500", "--pipeline", "8"];
    let said =
        says(&[&bench[..], &["--fill", "--json", "--value-size", "100:9,70000:1"], &all[2..]].concat());
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["operations"], &report["errors"]), (&3000.into(), &serde_json::json!({})), "{said}");
    let file = path("items", "");
    assert!(says(&[&["dump", &file][..], &all].concat()).contains("500 items from"));
    assert_eq!(says(&[&["keys"][..], &all].concat()).lines().count(), 500, "the password is no item");

    // Into one without either: the password is not sent, let alone stored.
    let open = Node::start("");
    let plain = open.address.to_string();
    let (_, text) = fails(&["keys", "--node", &plain, "--tls-ca", &ca]);
    assert!(text.contains("does not speak TLS"), "{text}");
    let loaded = says(&[&["load", &file, "--node", &plain][..], &user].concat());
    assert!(loaded.contains("500 items stored"), "{loaded}");
    assert_eq!(says(&["keys", "--node", &plain]).lines().count(), 500);

    // Over SASL nobody can list items, and that is said.
    let mut config = crate::harness::config("-S");
    config.process.sasl_file = Some(users.clone().into());
    let sasl = Node::start_with(&config);
    let (_, text) = fails(&["keys", "--node", &sasl.address.to_string(), "--auth-file", &users]);
    assert!(text.contains("-S") && text.contains("-Y"), "{text}");
}
