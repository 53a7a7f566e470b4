//! Starts and ends the servers: each on a free port of 127.0.0.1 that it chose itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Debian's memcached, the reference.
pub(crate) const MEMCACHED: &str = "/usr/bin/memcached";

/// The server under test.
pub(crate) const TANDEM: &str = env!("CARGO_BIN_EXE_tandemd");

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);

/// A server that lives as long as this value.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    /// Starts `program` with memcached's flags.
    pub(crate) fn start(program: &str) -> Self {
        // One thread and no background reclaiming, so that the reference is no matter of luck.
        let threads = if program == MEMCACHED { "1" } else { "2" };
        Self::start_with(program, &["-m", "512", "-t", threads, "-o", "no_lru_crawler,no_lru_maintainer"])
    }

    /// Starts `program` with these of memcached's flags.
    pub(crate) fn start_with(program: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ports = directory.path().join("ports");
        let mut child = Command::new(program)
            .args(["-l", "127.0.0.1", "-p", "-1", "-U", "0"])
            .args(flags)
            .args(user())
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let begin = Instant::now();
        loop {
            if let Some(port) = written_port(&ports) {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                return Self { child, address, _directory: directory };
            }
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("{program} ended with {status} instead of listening");
            }
            assert!(begin.elapsed() < START, "{program} did not listen within {START:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it still runs; a crash is a disagreement like any other.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in the file a server writes when it listens (`TCP INET: 12345`).
fn written_port(file: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("TCP INET: "))?.trim().parse().ok()
}

/// Both servers refuse to run as root unless they are told to.
fn user() -> Vec<&'static str> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if root { vec!["-u", "root"] } else { Vec::new() }
}
