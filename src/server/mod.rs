//! Sockets and connections.
//!
//! An acceptor deals connections round-robin to `-t` workers; each worker is a thread that waits for
//! its own connections and owns them for their whole life, so nothing on the way of a request is
//! shared but the engine. Before a batch is executed the [`gate`] is asked whether this
//! node may; the server does not know why it may not.
//!
//! In reading order: `limits`, `listener` (bind, accept), `worker` (a thread), `places` (its connections), `plain` (wait, read, write),
//! `connection` and `resting` (the same for those who need more than their socket), `tls`, `udp`, `session` (bytes in, replies out: no socket), `forward` (requests for the node that
//! serves), `dispatch` (requests that are not about an item), `dump` (walks over all items), `watch` (lines
//! about what happens), `auth`.

pub mod auth;
pub mod clock;
mod connection;
mod dispatch;
mod dump;
mod echo;
mod forward;
pub mod gate;
mod held;
pub mod limits;
mod listener;
mod places;
mod plain;
mod proxied;
mod resting;
mod session;
mod tls;
mod udp;
mod upkeep;
mod uring;
mod watch;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Engine;
use crate::logs;
use crate::protocol::Protocol;
use crate::stats::Stats;

pub use listener::{BindError, Bound};
pub use tls::{CIPHERS, Security, TlsConfig, Verify};

use auth::Auth;
use clock::Clock;
use gate::Gate;
use watch::{Reason, Watchers};
use worker::Worker;

/// What `version` says: memcached's shape, which libmemcached, PHP and others insist on.
pub const VERSION: &str = concat!("1.6.45-tandem-", env!("CARGO_PKG_VERSION"));

/// What the operator asked of this part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses (`-l`); none means every interface.
    pub listen: Vec<Listen>,
    /// TCP port (`-p`) of addresses without one of their own.
    pub port: Port,
    /// TCP port, on the same addresses, for clients whose writes wait for another node.
    pub durable_port: Option<u16>,
    /// UDP port (`-U`) of addresses without one of their own.
    pub udp: Port,
    /// UNIX socket instead of TCP (`-s`, `-a`).
    pub unix: Option<UnixListen>,
    /// Queue of connections to be accepted (`-b`).
    pub backlog: u32,
    /// Most connections (`-c`).
    pub connections_max: usize,
    /// Above that: refuse at once, or let the kernel queue.
    pub refuse_fast: bool,
    /// Close connections that were silent for that long.
    pub idle_timeout: Option<Duration>,
    /// Worker threads (`-t`).
    pub threads: usize,
    /// How they wait for their sockets (`--io`).
    pub io: Io,
    /// Requests of one connection before others have a turn (`-R`).
    pub requests_per_turn: usize,
    /// What listeners speak unless `-l` says otherwise (`-B`).
    pub protocol: Protocol,
    /// Not `-F`.
    pub flush_enabled: bool,
    /// Not `--disable-dumping`.
    pub dump_enabled: bool,
    /// Not `-W`.
    pub watch_enabled: bool,
    /// `-A`.
    pub shutdown_enabled: bool,
    /// Count by key prefix from the start (`-D`).
    pub detail_enabled: bool,
    /// Where prefixes end (`-D`).
    pub prefix_delimiter: u8,
    /// Largest item by memcached's accounting (`-I`).
    pub item_size_max: usize,
    /// Items have CAS uniques (not `-C`).
    pub cas: bool,
    /// Tokens for the text protocol (`-Y`).
    pub auth_file: Option<PathBuf>,
    /// SASL for the binary protocol (`-S`).
    pub sasl: bool,
    /// TLS (`-Z`).
    pub tls: Option<TlsConfig>,
}

/// How workers wait for their sockets (`--io`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// With io_uring where it is allowed, with epoll elsewhere.
    Auto,
    /// With epoll.
    Epoll,
    /// With io_uring, or not at all.
    Uring,
}

/// One element of `-l`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A name or an address; `None` is every interface.
    pub host: Option<String>,
    /// Instead of `-p`.
    pub port: Option<u16>,
    /// Instead of `-B`.
    pub protocol: Option<Protocol>,
    /// Whether TLS is spoken, and how.
    pub security: Security,
}

/// `-p`, `-U`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 0: none.
    Off,
    /// -1: any free one.
    Ephemeral,
    /// This one.
    Number(u16),
}

/// `-s` and `-a`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListen {
    /// Where.
    pub path: PathBuf,
    /// Access mask.
    pub mask: u32,
}

/// What the server works with.
pub struct Parts {
    /// Items.
    pub engine: Arc<dyn Engine>,
    /// Who may execute.
    pub gate: Arc<dyn Gate>,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// Time.
    pub clock: Arc<Clock>,
    /// Who may come in.
    pub auth: Auth,
    /// Called for `shutdown`; `true` asks for a graceful one.
    pub on_shutdown: Box<dyn Fn(bool) + Send + Sync>,
    /// `-v`.
    pub verbosity: u8,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A running server. Dropping it without [`Server::stop`] stops it at once.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    workers: Vec<Worker>,
    acceptor: Option<listener::Acceptor>,
    upkeep: Option<upkeep::Upkeep>,
    addresses: Vec<SocketAddr>,
    udp_addresses: Vec<SocketAddr>,
}

impl Server {
    /// Where TCP clients are served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where UDP clients are served.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp_addresses
    }

    /// Hands proxied connections to the workers, from any thread and for as long as one likes.
    pub fn adopter(&self) -> Adopter {
        Adopter {
            service: Arc::clone(&self.service),
            workers: self.workers.iter().map(Worker::inbox).collect(),
        }
    }

    /// Who may come in: for reloading.
    pub fn auth(&self) -> &Auth {
        &self.service.auth
    }

    /// What `cache_memlimit` does.
    pub fn set_memory_limit(&self, bytes: u64) {
        self.service.engine.set_limit(bytes);
    }

    /// Another limit of connections; those there are stay.
    pub fn set_connections_max(&self, connections: usize) {
        self.service.stats.connections.max_connections.store(connections as u64, Ordering::Relaxed);
        self.service.room.notify_waiters();
    }

    /// Another limit of silence; of connections that stand aside (TLS), from their next request on.
    pub fn set_idle_timeout(&self, limit: Option<Duration>) {
        let seconds = limit.map_or(0, |limit| limit.as_secs());
        self.service.stats.connections.idle_timeout.store(seconds, Ordering::Relaxed);
        // Whoever waited for ever looks how long to wait.
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// What `verbosity` does.
    pub fn set_verbosity(&self, verbosity: u8) {
        self.service.verbosity.store(verbosity.min(2), Ordering::Relaxed);
        logs::set_level(logs::level_of_verbosity(verbosity));
    }

    /// SIGHUP: reads the certificates again; connections keep what they have.
    pub fn reload_certificates(&self) {
        match self.service.reload_certificates() {
            None => {}
            Some(Ok(())) => tracing::info!("the certificates were read again"),
            Some(Err(error)) => tracing::error!("{error}; the certificates of before stay in force"),
        }
    }

    /// The datagrams that answer one, as over `-U` but without a socket, a rate and the server's workers:
    /// for fuzzing. None if there is no descriptor left for it.
    pub async fn answer_datagram(&self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let Ok(bell) = worker::Bell::new() else { return Vec::new() };
        let shared = worker::Shared::new(0, Arc::clone(&self.service), Arc::new(bell));
        udp::answered(&shared, datagram).await
    }

    /// Stops accepting, lets open requests finish for a bounded time, closes everything.
    pub fn stop(mut self) {
        self.acceptor.take();
        for worker in &self.workers {
            worker.drain();
        }
        self.workers.clear();
        self.upkeep.take();
    }
}

/// A connection of the peer's, with whatever guards it.
pub trait PeerIo: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> PeerIo for T {}

/// Makes it a connection of the runtime it is called in.
pub type Attach = Box<dyn FnOnce() -> std::io::Result<Box<dyn PeerIo>> + Send>;

/// Hands proxied connections to the workers.
#[derive(Clone, Debug)]
pub struct Adopter {
    service: Arc<Service>,
    workers: Vec<worker::Inbox>,
}

impl Adopter {
    /// A connection from the peer that carries its clients' requests in frames (see `proxied`).
    /// `socket` is what it runs over, to be named and listed.
    pub fn adopt_proxied(&self, socket: &std::net::TcpStream, attach: Attach) -> std::io::Result<()> {
        let address = socket.peer_addr()?;
        let ticket =
            self.service.register(Peer::Proxied(address), std::os::fd::AsRawFd::as_raw_fd(socket), false);
        self.service.next_worker(&self.workers).give_peer(attach, ticket);
        Ok(())
    }
}

/// What all threads of the server share.
pub(crate) struct Service {
    config: Config,
    engine: Arc<dyn Engine>,
    gate: Arc<dyn Gate>,
    stats: Arc<Stats>,
    clock: Arc<Clock>,
    auth: Auth,
    on_shutdown: Box<dyn Fn(bool) + Send + Sync>,
    verbosity: AtomicU8,
    /// Everybody who is connected; touched when one comes, goes, or `stats conns` asks.
    connections: Mutex<Connections>,
    next_worker: AtomicUsize,
    /// A connection closed: an acceptor that waits for room looks again.
    room: tokio::sync::Notify,
    /// What listens, for `stats conns`.
    listening: Vec<(i32, String)>,
    watchers: Arc<Watchers>,
    tls: Option<tls::Tls>,
    /// Workers wait with io_uring, not with epoll.
    on_rings: bool,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Service {
    /// Notes a new connection; it counts until the ticket is dropped.
    /// `durable`: its writes wait for another node.
    fn register(self: &Arc<Self>, peer: Peer, descriptor: i32, durable: bool) -> Ticket {
        self.watchers.connected(&peer, descriptor);
        let mut everybody = self.everybody();
        let place = everybody.free.pop().unwrap_or(everybody.places.len() as u32);
        let info = Arc::new(ConnectionInfo {
            place,
            peer,
            descriptor,
            durable,
            last_command: AtomicU32::new(self.clock.now().secs),
            state: AtomicU8::new(ConnectionState::Waiting as u8),
        });
        match everybody.places.get_mut(place as usize) {
            Some(free) => *free = Some(Arc::clone(&info)),
            None => everybody.places.push(Some(Arc::clone(&info))),
        }
        drop(everybody);
        let counts = &self.stats.connections;
        counts.total_connections.fetch_add(1, Ordering::Relaxed);
        let now = counts.curr_connections.fetch_add(1, Ordering::Relaxed) + 1;
        counts.connection_structures.fetch_max(now, Ordering::Relaxed);
        Ticket { info, service: Arc::clone(self), reason: Reason::Shutdown }
    }

    /// Reads the certificates again, if there are any.
    fn reload_certificates(&self) -> Option<Result<(), String>> {
        let reloaded = self.tls.as_ref()?.reload();
        if reloaded.is_ok() {
            self.stats.tls.refreshed_secs.store(self.clock.now().secs.into(), Ordering::Relaxed);
        }
        Some(reloaded)
    }

    fn everybody(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection to the next worker.
    fn deal(&self, workers: &[worker::Inbox], arrival: worker::Arrival) {
        self.next_worker(workers).give(arrival);
    }

    fn next_worker<'a>(&self, workers: &'a [worker::Inbox]) -> &'a worker::Inbox {
        &workers[self.next_worker.fetch_add(1, Ordering::Relaxed) % workers.len()]
    }

    fn is_full(&self) -> bool {
        self.stats.connections.curr_connections.load(Ordering::Relaxed) >= self.stats.connections_max()
    }
}

/// Everybody who is connected.
#[derive(Debug, Default)]
struct Connections {
    places: Vec<Option<Arc<ConnectionInfo>>>,
    /// Places that nobody has.
    free: Vec<u32>,
}

/// A connection, as `stats conns` shows it. There are many, so it is small.
#[derive(Debug)]
struct ConnectionInfo {
    /// Among everybody.
    place: u32,
    peer: Peer,
    descriptor: i32,
    /// Its writes wait for another node.
    durable: bool,
    /// Engine second of the last bytes.
    last_command: AtomicU32,
    state: AtomicU8,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum ConnectionState {
    Waiting,
    Working,
    Writing,
    Watching,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// A client, and where among what listens it came in.
    Tcp(SocketAddr, u16),
    /// A local client.
    Unix,
    /// The peer, on behalf of its clients.
    Proxied(SocketAddr),
}

/// Stands for one open connection.
#[derive(Debug)]
struct Ticket {
    info: Arc<ConnectionInfo>,
    service: Arc<Service>,
    /// Why it ends, if it ends.
    reason: Reason,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.service.watchers.disconnected(&self.info.peer, self.info.descriptor, self.reason);
        let mut everybody = self.service.everybody();
        everybody.places[self.info.place as usize] = None;
        everybody.free.push(self.info.place);
        drop(everybody);
        self.service.stats.connections.curr_connections.fetch_sub(1, Ordering::Relaxed);
        self.service.room.notify_one();
    }
}
