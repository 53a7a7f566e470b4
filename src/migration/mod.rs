//! Joins a live repcached 2.x as its partner (`--repcached-peer`), so that a site moves without losing
//! its cache.
//!
//! repcached sends whoever connects to its replication port everything it holds, and from then on
//! every change. All of it is executed here as ordinary stores, deletes and flushes, so a backup of
//! our own has it too. Nothing is ever sent back: clients move to this node when the log says that
//! the copy is complete.
//!
//! Only the node that serves takes part: a backup waits until it is asked to serve. When the link
//! breaks it is made again, with a new full copy. The other side is believed nothing: lines, keys and
//! values are bounded, a value's memory comes from the engine's budget, and bytes that repcached would
//! not send end the link with a message that names them.

mod line;

use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::command::{
    Command, Deadline, Delete, Exptime, Now, Op, Outcome, Payload, Refusal, Refuse, Replies, Store, StoreMode,
};
use crate::engine::{Engine, memcached_size};
use crate::server::clock::Clock;
use crate::server::gate::{Admission, Gate};

pub use line::{Foreign, Head, Line, parse};

/// Longest line: a verb, a key, four numbers.
const LINE_BYTES_MAX: u64 = 512;
/// How long an attempt to connect may take; a stop of this node waits for it.
const CONNECT: Duration = Duration::from_secs(1);
/// While nothing comes: how often to look whether this node still serves and shall go on.
const IDLE: Duration = Duration::from_millis(100);
/// How long a node may be without the role before it leaves the link to the other one.
const PATIENCE: Duration = Duration::from_secs(1);
/// repcached sends nothing when there is nothing to say; the kernel asks whether it is alive.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Between attempts, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a node that may not execute looks whether it may.
const LOOK: Duration = Duration::from_millis(5);
/// How often the log hears how far the copy is.
const PROGRESS: Duration = Duration::from_secs(5);

/// What the items come into.
pub struct Target {
    /// Items.
    pub engine: Arc<dyn Engine>,
    /// Who may execute.
    pub gate: Arc<dyn Gate>,
    /// This part's number among the gate's workers.
    pub worker: usize,
    /// Time.
    pub clock: Arc<Clock>,
    /// Largest item by memcached's accounting (`-I`).
    pub item_size_max: usize,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// Why a link ended.
#[derive(Debug)]
pub enum End {
    /// The other side closed the connection.
    Closed,
    /// Reading failed.
    Read(io::Error),
    /// Something else than repcached is at the other end.
    Foreign(Foreign),
    /// This node ceased to be the one that serves.
    NotServing,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => write!(f, "it closed the connection"),
            Self::Read(error) => write!(f, "the connection failed: {error}"),
            Self::Foreign(what) => write!(
                f,
                "{what}; --repcached-peer takes the replication port (-X, 11212) of a repcached 2.x"
            ),
            Self::NotServing => write!(f, "this node does not serve any more"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ if error.get_ref().is_some_and(|inner| inner.is::<NotServing>()) => Self::NotServing,
            _ => Self::Read(error),
        }
    }
}

/// See [`End::NotServing`], on its way through a reader.
#[derive(Debug)]
struct NotServing;

impl std::fmt::Display for NotServing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        End::NotServing.fmt(f)
    }
}

impl std::error::Error for NotServing {}

/// What came over one link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Items stored.
    pub stored: u64,
    /// Items that are larger than `-I`, or for which there was no memory.
    pub refused: u64,
    /// Deletions.
    pub deleted: u64,
    /// Flushes.
    pub flushed: u64,
    /// The full copy is complete.
    pub copied: bool,
}

/// Follows one link to its end. `progress` hears the tally after each line.
pub fn follow(source: impl Read, target: &Target, progress: &mut dyn FnMut(&Tally)) -> End {
    let mut link = Link {
        source: BufReader::with_capacity(1 << 16, source),
        target,
        tally: Tally::default(),
        value: Vec::new(),
    };
    let mut line = Vec::new();
    loop {
        if let Err(end) = link.take_one(&mut line) {
            return end;
        }
        progress(&link.tally);
    }
}

struct Link<'a, R> {
    source: BufReader<R>,
    target: &'a Target,
    tally: Tally,
    /// The value of a small item, kept for its memory.
    value: Vec<u8>,
}

impl<R: Read> Link<'_, R> {
    /// Reads a line with what belongs to it, and does what it says.
    fn take_one(&mut self, line: &mut Vec<u8>) -> Result<(), End> {
        line.clear();
        (&mut self.source).take(LINE_BYTES_MAX).read_until(b'\n', line)?;
        let Some(words) = line.strip_suffix(b"\n") else {
            return Err(match line.len() as u64 {
                LINE_BYTES_MAX => End::Foreign(Foreign::new("a line longer than any of repcached's", line)),
                _ => End::Closed,
            });
        };
        match parse(words.strip_suffix(b"\r").unwrap_or(words)).map_err(End::Foreign)? {
            Line::Item(head) => self.item(&head),
            Line::Delete(key) => {
                self.tally.deleted += 1;
                self.execute(key, Op::Delete(Delete::default())).map(drop)
            }
            Line::FlushAll(at) => {
                self.tally.flushed += 1;
                self.target.inside(|now| self.target.engine.flush(flush_instant(at, now), now))
            }
            Line::CopyEnd => {
                self.tally.copied = true;
                Ok(())
            }
        }
    }

    fn item(&mut self, head: &Head<'_>) -> Result<(), End> {
        let (engine, now) = (&self.target.engine, self.target.clock.now());
        let size = memcached_size(head.key.len(), head.bytes, head.flags, true);
        let stored = if size > self.target.item_size_max {
            self.skip(head.bytes)?;
            self.execute(head.key, refused(Refusal::TooLarge))?
        } else if head.bytes <= engine.inline_max() {
            let mut value = std::mem::take(&mut self.value);
            value.resize(head.bytes, 0);
            self.source.read_exact(&mut value)?;
            self.line_end(head)?;
            let stored = self.execute(head.key, store(head, Payload::Bytes(&value)));
            self.value = value;
            stored?
        } else {
            match engine.reserve(head.bytes, now) {
                Ok(mut reserved) => {
                    for chunk in &mut reserved.chunks {
                        self.source.read_exact(chunk)?;
                    }
                    self.line_end(head)?;
                    self.execute(head.key, store(head, Payload::Pages(reserved.freeze())))?
                }
                Err(_) => {
                    self.skip(head.bytes)?;
                    self.execute(head.key, refused(Refusal::OutOfMemory))?
                }
            }
        };
        *(if stored { &mut self.tally.stored } else { &mut self.tally.refused }) += 1;
        Ok(())
    }

    /// Reads past a value that is not kept, and the line end behind it.
    fn skip(&mut self, bytes: usize) -> Result<(), End> {
        let wanted = bytes as u64 + 2;
        match io::copy(&mut (&mut self.source).take(wanted), &mut io::sink())? {
            came if came == wanted => Ok(()),
            _ => Err(End::Closed),
        }
    }

    fn line_end(&mut self, head: &Head<'_>) -> Result<(), End> {
        let mut end = [0; 2];
        self.source.read_exact(&mut end)?;
        match &end {
            b"\r\n" => Ok(()),
            _ => Err(End::Foreign(Foreign::new("a value longer than announced, of the key", head.key))),
        }
    }

    /// `false`: the engine had no room for it.
    fn execute(&self, key: &[u8], op: Op<'_>) -> Result<bool, End> {
        let command = [Command { key: key.into(), op }];
        let mut kept = Kept(true);
        self.target.inside(|now| self.target.engine.execute(&command, now, &mut kept))?;
        Ok(kept.0)
    }
}

impl Target {
    /// Does something that only the node that serves may do, as a worker of the server would.
    fn inside(&self, execute: impl FnOnce(Now)) -> Result<(), End> {
        let mut parked = None;
        loop {
            match self.gate.enter(self.worker) {
                Admission::Serve => break,
                // A handover, or a moment of doubt: whoever serves afterwards will be known soon.
                Admission::Park if parked.get_or_insert_with(Instant::now).elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK);
                }
                Admission::ServeReads => {
                    self.gate.leave(self.worker);
                    return Err(End::NotServing);
                }
                Admission::Park | Admission::Forward | Admission::Refuse(_) => return Err(End::NotServing),
            }
        }
        execute(self.clock.now());
        if self.gate.leave(self.worker) { Ok(()) } else { Err(End::NotServing) }
    }
}

/// What is too large or has no room here: the item it would have replaced goes.
const fn refused<'a>(why: Refusal) -> Op<'a> {
    Op::Refuse(Refuse { why, mode: StoreMode::Set, compares: false, drops: true })
}

fn store<'a>(head: &Head<'_>, value: Payload<'a>) -> Op<'a> {
    Op::Store(Store {
        mode: StoreMode::Set,
        flags: head.flags,
        exptime: match i64::from(head.expires) {
            0 => Exptime(0),
            // As a number of seconds it would be taken as relative.
            long_ago @ 1..=Exptime::RELATIVE_MAX => Exptime(-long_ago),
            unix => Exptime(unix),
        },
        value,
        compare: None,
        invalidate: false,
        vivify: None,
        // Tokens that clients hold stay valid as long as they fit in what repcached sends.
        explicit: (head.cas != 0).then_some(u64::from(head.cas)),
        binary_key: false,
    })
}

/// When a flush is due, in engine seconds; `None` is now.
///
/// A time that has passed is now: repcached sends the time its process started for a client's
/// `flush_all 0`, after having dropped everything itself.
fn flush_instant(at: Option<u64>, now: Now) -> Option<u32> {
    let unix = i64::try_from(at?).ok()?;
    let deadline = Exptime(unix.max(Exptime::RELATIVE_MAX + 1)).deadline(now);
    (deadline > Deadline(now.secs)).then_some(deadline.0)
}

struct Kept(bool);

impl Replies for Kept {
    fn reply(&mut self, _index: usize, outcome: Outcome<'_>) {
        self.0 = !matches!(outcome, Outcome::TooLarge | Outcome::OutOfMemory);
    }
}

/// A thread that keeps the link. Dropping it ends both.
#[derive(Debug)]
pub struct Migration {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Migration {
    /// Joins the repcached at `host` and `port`, and again whenever the link breaks.
    pub fn start(host: String, port: u16, target: Target) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = Keeper { host, port, target, stop: Arc::clone(&stop) };
        let thread = std::thread::Builder::new().name("repcached".to_owned()).spawn(move || keeper.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _panicked = thread.join();
        }
    }
}

struct Keeper {
    host: String,
    port: u16,
    target: Target,
    stop: Arc<AtomicBool>,
}

/// A socket that is left when this node ceases to serve, or shall stop, while nothing comes: as long
/// as it is held, repcached takes nobody else.
struct Watched<'a> {
    socket: TcpStream,
    keeper: &'a Keeper,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut lost = None;
        loop {
            // Looked at whether something comes or not: a copy can take long.
            if self.keeper.is_stopping() {
                return Ok(0);
            }
            match self.socket.read(buffer) {
                // A keepalive that failed is another error: timed out.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.keeper.target.gate.serves() {
                lost = None;
            } else if lost.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                return Err(io::Error::other(NotServing));
            }
        }
    }
}

impl Keeper {
    fn run(&self) {
        let (mut wait, longest) = BACKOFF;
        let mut said = String::new();
        while !self.is_stopping() {
            if !self.target.gate.serves() {
                std::thread::park_timeout(LOOK);
                continue;
            }
            let problem = match self.connect() {
                Ok(socket) => {
                    let (problem, copied) = self.link(socket);
                    // Whoever accepts and says nothing sensible is not asked ten times a second.
                    if copied {
                        wait = BACKOFF.0;
                    }
                    problem
                }
                Err(error) => format!("{error}; it is tried again (it refuses while it has another partner)"),
            };
            if self.is_stopping() {
                return;
            }
            // A repcached that is down for a night is one line in the log.
            if problem != said {
                tracing::warn!("repcached {}:{}: {problem}", self.host, self.port);
                said = problem;
            }
            std::thread::park_timeout(wait);
            wait = (wait * 2).min(longest);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                // A port that nobody listens on may be the one this very socket was given.
                Ok(socket) if socket.local_addr()? == address => {
                    last = io::ErrorKind::ConnectionRefused.into();
                }
                Ok(socket) => {
                    let keepalive =
                        socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5);
                    socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
                    socket.set_read_timeout(Some(IDLE))?;
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Follows the link until it ends; what to say then, and whether the copy was complete.
    fn link(&self, socket: TcpStream) -> (String, bool) {
        let (host, port) = (&self.host, self.port);
        tracing::info!("repcached {host}:{port}: linked; its items are being copied");
        let (began, mut told, mut last) = (Instant::now(), Instant::now(), Tally::default());
        let end = follow(Watched { socket, keeper: self }, &self.target, &mut |tally| {
            if tally.copied && !last.copied {
                tracing::info!(
                    "repcached {host}:{port}: the copy is complete: {} items in {:.1} s, {} too large for -I or -m; its changes follow",
                    tally.stored,
                    began.elapsed().as_secs_f64(),
                    tally.refused
                );
            } else if !tally.copied && told.elapsed() >= PROGRESS {
                told = Instant::now();
                tracing::info!("repcached {host}:{port}: {} items so far", tally.stored);
            }
            last = *tally;
        });
        let Tally { stored, refused, deleted, flushed, copied } = last;
        let state = if copied {
            "what is deleted there from now on stays here until the link is back"
        } else {
            "the copy is not complete"
        };
        let text = format!(
            "{end}; {stored} items, {refused} refused, {deleted} deletions, {flushed} flushes came; {state}; it is tried again"
        );
        (text, copied)
    }
}

#[cfg(test)]
mod tests;
