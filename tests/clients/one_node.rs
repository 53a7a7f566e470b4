//! Every client against one server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::harness::{PATIENCE, wait_for};
use crate::{has_php, is_installed, python, said, script};

/// A server on a free port, killed when it goes out of scope.
struct Server {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandemd"));
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        // Bound and let go: the kernel does not give the same port out again at once.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        drop(listener);
        let child = command
            .args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-m", "256", "-t", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tandemd starts");
        wait_for("tandemd listens", PATIENCE, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        Self { child, port, directory }
    }

    fn servers(&self) -> String {
        format!("--servers=127.0.0.1:{}", self.port)
    }

    /// One of libmemcached's tools, in a directory of its own.
    fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let tool = Command::new(name)
            .arg(self.servers())
            .args(arguments)
            .current_dir(self.directory.path())
            .output();
        said(&tool.unwrap_or_else(|error| panic!("{name}: {error}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_tools() -> bool {
    is_installed("libmemcached-tools", "memcstat", &["--help"])
}

#[test]
fn memccapable_passes_everything() {
    if !has_tools() {
        return;
    }
    let server = Server::start();
    let output =
        Command::new("memccapable").args(["-h", "127.0.0.1", "-p", &server.port.to_string()]).output();
    let report = said(&output.expect("memccapable runs"));
    assert!(report.contains("All tests passed"), "{report}");
    assert_eq!(report.matches("[pass]").count(), 54, "{report}");
}

#[test]
fn the_tools_of_libmemcached_work_in_both_protocols() {
    if !has_tools() {
        return;
    }
    for protocol in [&[][..], &["--binary"]] {
        let server = Server::start();
        let tool = |name: &str, arguments: &[&str]| server.tool(name, &[protocol, arguments].concat());
        let large = "0123456789".repeat(50_000);
        std::fs::write(server.directory.path().join("small"), "hello").expect("a file");
        std::fs::write(server.directory.path().join("large"), &large).expect("a file");
        tool("memccp", &["small", "large"]);
        assert_eq!(tool("memccat", &["small"]).trim_end(), "hello");
        assert_eq!(tool("memccat", &["large"]).trim_end(), large);
        tool("memcexist", &["small"]);
        tool("memctouch", &["--expire=100", "small"]);
        tool("memcrm", &["small"]);
        let missing = Command::new("memcexist").arg(server.servers()).args(protocol).arg("small").output();
        assert!(!missing.expect("memcexist runs").status.success(), "a removed key exists");
        // These three speak text whatever they are told.
        server.tool("memcping", &[]);
        let report = server.tool("memcstat", &[]);
        assert!(report.contains("curr_items: "), "{report}");
        assert!(server.tool("memcdump", &[]).contains("large"), "memcdump");
        tool("memcflush", &[]);
        let gone = Command::new("memcexist").arg(server.servers()).args(protocol).arg("large").output();
        assert!(!gone.expect("memcexist runs").status.success(), "a flushed key exists");
    }
}

/// memcached's own tool, from Debian's package of memcached.
const MEMCACHED_TOOL: &str = "/usr/share/memcached/scripts/memcached-tool";

#[test]
fn memcached_tool_shows_everything_as_of_memcached() {
    if !is_installed("memcached and perl", "perl", &["-c", MEMCACHED_TOOL]) {
        return;
    }
    let server = Server::start();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).expect("it listens");
    let large = "x".repeat(5000);
    let said = format!("set key%1 7 0 5\r\nhello\r\nset large 0 0 5000\r\n{large}\r\nget key%1\r\nquit\r\n");
    client.write_all(said.as_bytes()).expect("it reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("it answers and closes");
    let tool = |command: &[&str]| {
        let address = format!("127.0.0.1:{}", server.port);
        crate::said(
            &Command::new("perl").arg(MEMCACHED_TOOL).arg(address).args(command).output().expect("perl runs"),
        )
    };
    // Class, chunk size, age, pages, items, ...
    let display = tool(&["display"]);
    let rows: Vec<Vec<&str>> = display.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 2, "{display}");
    for (row, class, size) in [(&rows[0], "1", "96B"), (&rows[1], "19", "5.5K")] {
        assert_eq!([row[0], row[1], row[4], row[5]], [class, size, "1", "no"], "{display}");
    }
    let stats = tool(&["stats"]);
    let stat = |name: &str| {
        let row = stats.lines().find(|row| row.trim_start().starts_with(name));
        row.unwrap_or_else(|| panic!("no {name}: {stats}"))
            .split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!([stat("curr_items"), stat("get_hits"), stat("cmd_set")], ["2", "1", "2"]);
    assert!(tool(&["settings"]).lines().any(|row| row.split_whitespace().eq(["item_size_max", "1048576"])));
    assert!(tool(&["sizes"]).contains("sizes_status"), "without -o track_sizes");
    let keys = tool(&["keys"]);
    assert!(keys.contains("key=key%251 exp=-1 ") && keys.contains("key=large "), "{keys}");
    // What it dumps is what it takes to fill another server.
    let dump = tool(&["dump"]);
    assert!(dump.contains("add key%1 7 0 5\r\nhello\r\n") && dump.contains(&large), "{dump}");
}

#[test]
fn pymemcache_finds_everything_as_with_memcached() {
    let Some(python) = python() else { return };
    let server = Server::start();
    let output = Command::new(python)
        .arg(script("pymemcache_one_node.py"))
        .args(["127.0.0.1", &server.port.to_string()])
        .output();
    assert_eq!(said(&output.expect("python runs")), "all good\n");
}

#[test]
fn php_memcached_finds_everything_in_both_protocols() {
    if !has_php() {
        return;
    }
    for protocol in ["binary", "text"] {
        let server = Server::start();
        let port = server.port.to_string();
        let output =
            Command::new("php").arg(script("memcached.php")).args(["127.0.0.1", &port, protocol]).output();
        assert_eq!(said(&output.expect("php runs")), "all good\n", "{protocol}");
    }
}

#[test]
fn php_sessions_live_in_one_node() {
    if !has_php() {
        return;
    }
    let server = Server::start();
    let servers = format!("127.0.0.1:{}", server.port);
    let php = |arguments: &[&str]| {
        let output =
            Command::new("php").arg(script("session.php")).args([&servers, "one"]).args(arguments).output();
        said(&output.expect("php runs"))
    };
    assert_eq!(php(&["login", "ada"]), "ada 0\n");
    assert_eq!(php(&["read"]), "ada 1\n");
    assert_eq!(php(&["read"]), "ada 2\n");
}
