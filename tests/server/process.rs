//! The program itself: flags, files, signals, exit codes.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::until;

fn tandemd(flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandemd"));
    command.args(flags.split_whitespace()).stderr(Stdio::piped()).stdout(Stdio::piped()).stdin(Stdio::null());
    command
}

pub(crate) struct Running {
    pub(crate) child: Child,
    port: u16,
}

impl Running {
    pub(crate) fn start(flags: &str, directory: &Path) -> Self {
        Self::start_with(flags, directory, Stdio::piped())
    }

    /// Its log goes to a file.
    pub(crate) fn start_logging(flags: &str, directory: &Path, log: &Path) -> Self {
        Self::start_with(flags, directory, std::fs::File::create(log).unwrap().into())
    }

    fn start_with(flags: &str, directory: &Path, log: Stdio) -> Self {
        let file = directory.join("ports");
        let child = tandemd(&format!("-u root -l 127.0.0.1 -p -1 {flags}"))
            .env("MEMCACHED_PORT_FILENAME", &file)
            .stderr(log)
            .spawn()
            .unwrap();
        until("the port file", || file.exists());
        let text = std::fs::read_to_string(&file).unwrap();
        let port = text.strip_prefix("TCP INET: ").unwrap().trim_end().parse().unwrap();
        Self { child, port }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self) -> crate::harness::Client {
        crate::harness::Client::connect(([127, 0, 0, 1], self.port).into())
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _over_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn signals_end_it_with_success() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM, SIGUSR1};
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Running::start("", directory.path());
        let mut client = running.client();
        client.ask("version\r\n", "VERSION");
        running.signal(signal);
        assert_eq!(running.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_client_may_end_it_if_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start("-A", directory.path());
    let mut client = running.client();
    client.send("shutdown\r\n");
    client.expect_closed();
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_in_use_is_said_and_nothing_runs() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("", directory.path());
    let output = tandemd(&format!("-u root -l 127.0.0.1 -p {}", running.port)).output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("failed to listen on one of interface(s) 127.0.0.1")
            && said.contains("another process"),
        "{said}"
    );
}

#[test]
fn every_problem_is_said_at_once_with_memcacheds_code() {
    let output = tandemd("-u root -p 70000 -c 0 --bogus").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    for text in ["Invalid port number", "Maximum connections", "--bogus"] {
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn in_the_background_it_serves_and_leaves_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let (pid, ports) = (directory.path().join("pid"), directory.path().join("ports"));
    let status = tandemd(&format!("-d -u root -l 127.0.0.1 -p -1 -P {}", pid.display()))
        .env("MEMCACHED_PORT_FILENAME", &ports)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    until("its files", || pid.exists() && ports.exists());
    let id: i32 = std::fs::read_to_string(&pid).unwrap().trim_end().parse().unwrap();
    let text = std::fs::read_to_string(&ports).unwrap();
    let port: u16 = text.strip_prefix("TCP INET: ").unwrap().trim_end().parse().unwrap();
    let mut client = crate::harness::Client::connect(([127, 0, 0, 1], port).into());
    client.ask("set a 0 0 1\r\nb\r\n", "STORED\r\n");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
    until("the id to be gone", || !pid.exists());
}

#[test]
fn libmemcacheds_conformance_tool_passes_everything() {
    let Ok(version) = Command::new("memccapable").arg("-h").output() else {
        panic!("memccapable is missing: install libmemcached-tools");
    };
    drop(version);
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("", directory.path());
    for which in ["-a", "-b"] {
        let mut tool = Command::new("memccapable")
            .args(["-h", "127.0.0.1", "-p", &running.port.to_string(), which])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        tool.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        tool.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(tool.wait().unwrap().success() && said.contains("All tests passed"), "{said}");
    }
}

#[test]
fn users_are_checked_before_anything_is_bound() {
    let output = tandemd("-u nobody-of-that-name -p 0").output().unwrap();
    if nix::unistd::Uid::effective().is_root() {
        assert_eq!(output.status.code(), Some(67));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("can't find the user nobody-of-that-name"), "{said}");
    }
}

#[test]
fn with_two_v_requests_and_replies_are_on_stderr() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start("-vv", directory.path());
    let mut client = running.client();
    let large = "y".repeat(5_000);
    client.ask(
        format!("set a 0 0 6\r\nsecret\r\nget a b\r\nset l 0 0 5000\r\n{large}\r\nbogus\r\n"),
        "STORED\r\nVALUE a 0 6\r\nsecret\r\nEND\r\nSTORED\r\nERROR\r\n",
    );
    let rows = client.stats("conns");
    let address = format!("tcp:{}", client.0.local_addr().unwrap());
    let descriptor = rows.iter().find(|(_, value)| *value == address).unwrap().0.replace(":addr", "");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let mut said = String::new();
    running.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let echoed: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix(['<', '>']).map(|rest| (line, rest)))
        .filter(|(_, rest)| rest.starts_with(&format!("{descriptor} ")))
        .map(|(line, _)| line)
        .take(9)
        .collect();
    let expected = [
        "<$ set a 0 0 6",
        ">$ STORED",
        "<$ get a b",
        ">$ sending key a",
        ">$ END",
        "<$ set l 0 0 5000",
        ">$ STORED",
        "<$ bogus",
        ">$ ERROR",
    ]
    .map(|line| line.replace('$', &descriptor));
    let mut sorted = (echoed.clone(), expected.to_vec());
    // Requests that came together are shown together, before their replies.
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(sorted.0, sorted.1, "{said}");
    assert!(!said.contains("secret"), "{said}");
}
