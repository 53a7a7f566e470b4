//! A server in this process, and clients that speak raw bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandemd::app::stats_shape;
use tandemd::app::{App, Sockets};
use tandemd::config::{Config, Invocation, parse};
use tandemd::engine::memory::{Memory, MemoryConfig};
use tandemd::engine::{Engine, NoJournal};
use tandemd::server::auth::Auth;
use tandemd::server::clock::Clock;
use tandemd::server::gate::Gate;
use tandemd::server::{Bound, Parts, Server};
use tandemd::stats::{Detail, Stats};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// `TANDEM_IO=epoll` or `uring` runs these tests on that way of doing I/O.
pub(crate) fn io_flag() -> String {
    std::env::var("TANDEM_IO").map(|io| format!("--io {io}")).unwrap_or_default()
}

pub(crate) fn config(flags: &str) -> Config {
    let line = format!("-u root -l 127.0.0.1 -p -1 -t 2 {} {flags}", io_flag());
    match parse(line.split_whitespace().map(Into::into), |_| None, false) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{flags}: {other:?}"),
    }
}

/// A node by itself.
pub(crate) struct Node {
    app: Option<App>,
    pub(crate) address: SocketAddr,
}

impl Node {
    pub(crate) fn start(flags: &str) -> Self {
        Self::start_with(&config(flags))
    }

    pub(crate) fn start_with(config: &Config) -> Self {
        let bound = Sockets::bind(config).unwrap();
        let app = App::start(config, bound, Box::new(|_| {})).unwrap();
        let address = app.addresses()[0];
        Self { app: Some(app), address }
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        stop(self.app.take().unwrap());
    }
}

/// Stops a node as its program does.
pub(crate) fn stop(app: App) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(app.stop());
}

/// A server behind a gate of the test's.
pub(crate) struct Gated {
    pub(crate) server: Option<Server>,
    pub(crate) address: SocketAddr,
}

impl Gated {
    pub(crate) fn start(flags: &str, gate: Arc<dyn Gate>) -> Self {
        let config = config(flags);
        let bound = Bound::bind(&config.server).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(MemoryConfig::default(), Arc::new(NoJournal)));
        let stats = Stats::new(stats_shape(&config), Arc::clone(&engine), Detail::new(false, b':'));
        let parts = Parts {
            engine,
            gate,
            stats: Arc::new(stats),
            clock: Arc::new(Clock::start()),
            auth: Auth::open(),
            on_shutdown: Box::new(|_| {}),
            verbosity: 0,
        };
        let server = bound.start(config.server, parts).unwrap();
        let address = server.addresses()[0];
        Self { server: Some(server), address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.server.take().unwrap().stop();
    }
}

/// A raw connection.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads exactly what is expected, and says what came instead.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = vec![0; expected.len()];
        let mut filled = 0;
        while filled < got.len() {
            match self.0.read(&mut got[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
            if got[..filled] != expected[..filled] {
                break;
            }
        }
        assert_eq!(
            got[..filled].escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "the answer differs (or ends early)"
        );
    }

    /// Sends and expects.
    #[track_caller]
    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        self.send(bytes);
        self.expect(expected);
    }

    /// Reads up to and with a line.
    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let mut byte = [0];
        while !got.ends_with(end.as_bytes()) {
            match self.0.read(&mut byte) {
                Ok(1) => got.push(byte[0]),
                _ => panic!("the answer ends early: {}", got.escape_ascii()),
            }
        }
        String::from_utf8(got).unwrap()
    }

    /// The server closes without another word.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        let closed = self.0.read_to_end(&mut rest);
        assert!(
            closed.is_ok() || closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    pub(crate) fn stats(&mut self, family: &str) -> Vec<(String, String)> {
        self.send(format!("stats {family}\r\n"));
        let answer = self.read_until("END\r\n");
        let row = |line: &str| {
            let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_owned(), value.to_owned()))
        };
        answer.lines().filter_map(row).collect()
    }

    pub(crate) fn stat(&mut self, name: &str) -> u64 {
        let rows = self.stats("");
        let value = &rows.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no {name}")).1;
        value.parse().unwrap()
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
