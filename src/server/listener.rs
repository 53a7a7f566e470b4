//! Binding and accepting.
//!
//! Everything is bound before any thread exists, so that a port in use stops the start with a clear
//! error, and a daemon's parent exits when clients can already connect.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket as RawSocket, Type};

use super::tls::{Security, Tls};
use super::watch::Watchers;
use super::worker::{Arrival, Inbox, Socket, Worker};
use super::{Config, Io, Listen, Parts, Peer, Port, Server, Service, UnixListen, upkeep, uring};
use crate::protocol::Protocol;

/// Why an address cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError(String);

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindError {}

/// Sockets that listen, before anybody accepts.
#[derive(Debug)]
pub struct Bound {
    tcp: Vec<TcpBound>,
    udp: Vec<(UdpSocket, SocketAddr, Protocol)>,
    unix: Option<(UnixListener, UnixListen, Protocol)>,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct TcpBound {
    listener: TcpListener,
    address: SocketAddr,
    protocol: Protocol,
    security: Security,
    /// Its clients' writes wait for another node.
    durable: bool,
}

impl Bound {
    /// Binds everything `config` asks for; all that went wrong, otherwise.
    pub fn bind(config: &Config) -> Result<Self, Vec<BindError>> {
        let mut errors = Vec::new();
        if config.io == Io::Uring
            && let Err(why) = uring::probe(config.threads)
        {
            errors.push(BindError(uring::refusal(&why)));
        }
        if let Some(unix) = &config.unix {
            match bind_unix(unix, config.backlog) {
                Ok(_) if !errors.is_empty() => return Err(errors),
                Ok(listener) => {
                    return Ok(Self {
                        tcp: Vec::new(),
                        udp: Vec::new(),
                        unix: Some((listener, unix.clone(), config.protocol)),
                        tls: None,
                    });
                }
                Err(error) => {
                    errors.push(error);
                    return Err(errors);
                }
            }
        }
        let inherited = inherited().map_err(|error| vec![error])?;
        let mutual = config.listen.iter().any(|listen| listen.security == Security::Mutual);
        let tls = config.tls.as_ref().map(|tls| Tls::load(tls, mutual)).transpose();
        let tls = tls.map_err(|problem| errors.push(BindError(problem))).unwrap_or_default();
        let everywhere = [Listen { host: None, port: None, protocol: None, security: Security::Default }];
        let listen = if config.listen.is_empty() { &everywhere[..] } else { &config.listen };
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for element in listen {
            let protocol = element.protocol.unwrap_or(config.protocol);
            if config.udp != Port::Off
                && let Some(port) = port_of(element, config.udp)
            {
                match bind_element(element, port, "UDP", &bind_udp) {
                    Ok(sockets) => udp.extend(
                        sockets.into_iter().map(|(socket, address)| (socket.into(), address, protocol)),
                    ),
                    Err(error) => errors.push(error),
                }
            }
            let security = match element.security {
                Security::Default if config.tls.is_none() => Security::Plain,
                security => security,
            };
            let durable_port = config.durable_port.filter(|_| {
                // One for each host, however many ports it has.
                listen.iter().find(|other| other.host == element.host) == Some(element)
            });
            let port = port_of(element, config.port).filter(|_| inherited.is_empty());
            let ports = [(port, false), (durable_port, true)];
            for (port, durable) in ports.into_iter().filter_map(|(port, durable)| Some((port?, durable))) {
                match bind_element(element, port, "TCP", &|address| bind_tcp(address, config.backlog)) {
                    Ok(listeners) => {
                        tcp.extend(listeners.into_iter().map(|(listener, address)| {
                            let listener = listener.into();
                            TcpBound { listener, address, protocol, security, durable }
                        }));
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        let security = if config.tls.is_some() { Security::Default } else { Security::Plain };
        tcp.extend(inherited.into_iter().map(|(listener, address)| TcpBound {
            listener,
            address,
            protocol: config.protocol,
            security,
            durable: false,
        }));
        if errors.is_empty() { Ok(Self { tcp, udp, unix: None, tls }) } else { Err(errors) }
    }

    /// Where TCP clients will be served.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().map(|bound| bound.address).collect()
    }

    /// Where UDP clients will be served.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(|(_, address, _)| *address).collect()
    }

    /// Starts workers and accepts.
    pub fn start(mut self, config: Config, parts: Parts) -> io::Result<Server> {
        let (addresses, udp_addresses) = (self.addresses(), self.udp_addresses());
        let listening =
            self.tcp
                .iter()
                .map(|bound| (bound.listener.as_raw_fd(), format!("tcp:{}", shown(&bound.address))))
                .chain(
                    self.udp
                        .iter()
                        .map(|(socket, address, _)| (socket.as_raw_fd(), format!("udp:{}", shown(address)))),
                )
                .chain(self.unix.iter().map(|(listener, unix, _)| {
                    (listener.as_raw_fd(), format!("unix:{}", unix.path.display()))
                }))
                .collect();
        let on_rings = uring::choose(config.io, config.threads)?;
        let watchers = Arc::new(Watchers::new(Arc::clone(&parts.stats.logs), Arc::clone(&parts.clock)));
        let told = Arc::clone(&watchers);
        parts.engine.on_eviction(Box::new(move |item| told.evicted(item)));
        let service = Arc::new(Service {
            engine: parts.engine,
            gate: parts.gate,
            stats: parts.stats,
            clock: parts.clock,
            auth: parts.auth,
            on_shutdown: parts.on_shutdown,
            verbosity: parts.verbosity.into(),
            connections: Default::default(),
            next_worker: Default::default(),
            room: tokio::sync::Notify::new(),
            listening,
            watchers,
            tls: self.tls.take(),
            on_rings,
            config,
        });
        service.stats.tls.refreshed_secs.store(service.clock.now().secs.into(), Ordering::Relaxed);
        let upkeep = upkeep::Upkeep::start(Arc::clone(&service))?;
        let workers: Vec<Worker> = (0..service.config.threads)
            .map(|index| Worker::start(index, Arc::clone(&service)))
            .collect::<io::Result<_>>()?;
        let inboxes: Vec<_> = workers.iter().map(Worker::inbox).collect();
        for (inbox, (socket, _, protocol)) in inboxes.iter().cycle().zip(self.udp.drain(..)) {
            inbox.give_datagrams(socket, protocol);
        }
        let acceptor = Acceptor::start(Arc::clone(&service), inboxes, self)?;
        Ok(Server {
            service,
            workers,
            acceptor: Some(acceptor),
            upkeep: Some(upkeep),
            addresses,
            udp_addresses,
        })
    }
}

/// An address as memcached shows it.
pub(super) fn shown(address: &SocketAddr) -> String {
    address.to_string()
}

/// The port of an address, its own or the one of all; `None` if it has none.
const fn port_of(element: &Listen, port: Port) -> Option<u16> {
    match (element.port, port) {
        (Some(port), _) | (None, Port::Number(port)) => Some(port),
        (None, Port::Ephemeral) => Some(0),
        (None, Port::Off) => None,
    }
}

fn bind_element(
    element: &Listen,
    port: u16,
    transport: &str,
    bind: &dyn Fn(SocketAddr) -> io::Result<RawSocket>,
) -> Result<Vec<(RawSocket, SocketAddr)>, BindError> {
    let name = element.host.as_deref().unwrap_or("*");
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another -p or -l",
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address: correct -l",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another -p",
            _ => "choose another -p or -l",
        };
        BindError(format!(
            "failed to listen on one of interface(s) {name}, {transport} port {port}: {error}; {remedy}"
        ))
    };
    let (addresses, optional): (Vec<SocketAddr>, bool) = match &element.host {
        None => (
            vec![
                (IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into(),
                (IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into(),
            ],
            true,
        ),
        Some(host) => {
            let mut addresses: Vec<_> = (host.as_str(), port)
                .to_socket_addrs()
                .map_err(|error| {
                    BindError(format!(
                        "failed to listen on one of interface(s) {host}: {error}; -l takes an address or a name that resolves"
                    ))
                })?
                .collect();
            addresses.dedup();
            let several = addresses.len() > 1;
            (addresses, several)
        }
    };
    let (mut listeners, mut failure) = (Vec::new(), None);
    for mut address in addresses {
        // With any free port, all addresses of a name share the first one's if they can.
        if port == 0
            && let Some((_, first)) = listeners.first()
        {
            let first: &SocketAddr = first;
            address.set_port(first.port());
        }
        let bound = bind(address).or_else(|error| {
            if port != 0 {
                return Err(error);
            }
            address.set_port(0);
            bind(address)
        });
        match bound {
            Ok(listener) => {
                let address = listener.local_addr().map_err(failed)?;
                let address = address.as_socket().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
                listeners.push((listener, address));
            }
            // A family or an address that this machine lacks, while there are others.
            Err(error) if optional && is_absent(&error) => failure = Some(error),
            Err(error) => return Err(failed(error)),
        }
    }
    match failure {
        Some(error) if listeners.is_empty() => Err(failed(error)),
        _ => Ok(listeners),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn bind_udp(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr, backlog: u32) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_keepalive(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Sockets that the service manager opened for this process (`LISTEN_FDS`): clients are served there
/// instead of where `-l` and `-p` say.
fn inherited() -> Result<Vec<(TcpListener, SocketAddr)>, BindError> {
    let mut passed = listenfd::ListenFd::from_env();
    let count = passed.len();
    let prepare = |index| -> io::Result<(TcpListener, SocketAddr)> {
        let listener = passed.take_tcp_listener(index)?.ok_or(io::ErrorKind::NotFound)?;
        let socket = socket2::SockRef::from(&listener);
        socket.set_keepalive(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let sockets: io::Result<_> = (0..count).map(prepare).collect();
    sockets.map_err(|error| {
        BindError(format!(
            "a socket of the service manager cannot be used: {error}; ListenStream= in the socket unit takes ADDRESS:PORT, and Accept= must be no"
        ))
    })
}

fn bind_unix(unix: &UnixListen, backlog: u32) -> Result<UnixListener, BindError> {
    let path = &unix.path;
    let failed = |error: io::Error| {
        BindError(format!("failed to listen on UNIX socket: {}: {error}; choose another -s", path.display()))
    };
    remove_stale(path)?;
    // The socket must never be more open than asked, so the mask is set before it exists.
    let allowed = nix::sys::stat::Mode::from_bits_truncate(unix.mask);
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o777) - allowed);
    let bound = (|| {
        let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    })();
    nix::sys::stat::umask(before);
    bound.map_err(failed)
}

/// Removes the socket a dead server left behind; never anything else.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError(format!(
            "-s {}: there is a file that is no socket; remove it or choose another",
            path.display()
        )));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(BindError(format!(
            "-s {}: another server listens there; stop it or choose another",
            path.display()
        )));
    }
    std::fs::remove_file(path).map_err(|error| {
        BindError(format!("-s {}: the stale socket cannot be removed: {error}", path.display()))
    })
}

/// The thread that accepts.
#[derive(Debug)]
pub(super) struct Acceptor {
    stop: Arc<tokio::sync::Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    fn start(service: Arc<Service>, workers: Vec<Inbox>, bound: Bound) -> io::Result<Self> {
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopped = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("tandem-accept".to_owned()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let workers: Arc<[Inbox]> = workers.into();
                for (place, tcp) in (0..).zip(bound.tcp) {
                    let (service, workers) = (Arc::clone(&service), Arc::clone(&workers));
                    tokio::task::spawn_local(async move { accept_tcp(service, workers, tcp, place).await });
                }
                if let Some((listener, unix, protocol)) = bound.unix {
                    let (service, workers) = (Arc::clone(&service), Arc::clone(&workers));
                    tokio::task::spawn_local(async move {
                        accept_unix(service, workers, listener, unix, protocol).await
                    });
                }
                stopped.notified().await;
            });
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn accept_tcp(
    service: Arc<Service>,
    workers: Arc<[Inbox]>,
    bound: TcpBound,
    place: u16,
) -> io::Result<()> {
    let TcpBound { listener, protocol, security, durable, .. } = bound;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Some((stream, peer)) = accepted(listener.accept().await).await else { continue };
        let Ok(stream) = stream.into_std() else { continue };
        if service.is_full() && !find_room(&service, &stream).await {
            continue;
        }
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let ticket = service.register(Peer::Tcp(peer, place), stream.as_raw_fd(), durable);
        let socket = Socket::Tcp(stream);
        service.deal(&workers, Arrival { socket, protocol, security, ticket });
    }
}

async fn accept_unix(
    service: Arc<Service>,
    workers: Arc<[Inbox]>,
    listener: UnixListener,
    unix: UnixListen,
    protocol: Protocol,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let _removed_at_the_end = RemoveSocket(&unix.path);
    loop {
        let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
        let Ok(stream) = stream.into_std() else { continue };
        if service.is_full() && !find_room(&service, &stream).await {
            continue;
        }
        let ticket = service.register(Peer::Unix, stream.as_raw_fd(), false);
        let socket = Socket::Unix(stream);
        let security = Security::Plain;
        service.deal(&workers, Arrival { socket, protocol, security, ticket });
    }
}

/// Removes a UNIX socket's file when its acceptor ends.
struct RemoveSocket<'a>(&'a Path);

impl Drop for RemoveSocket<'_> {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_file(self.0);
    }
}

/// The connection, unless it is gone again or there is nothing to hold it with.
async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // Out of descriptors or memory: the connection stays queued until there are some.
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
                tracing::warn!(
                    "a client cannot be accepted: {error}; raise the limit of open files (LimitNOFILE=)"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
    }
}

/// What becomes of somebody who comes when the server is full. Without `maxconns_fast` they wait for
/// room, and those behind them in the kernel's queue. Returns whether there is room now.
async fn find_room<S>(service: &Service, stream: &S) -> bool
where
    for<'a> &'a S: io::Write,
{
    if service.config.refuse_fast {
        refuse(service, stream);
        return false;
    }
    let counts = &service.stats.connections;
    // Several listeners may be waiting: together they are disabled once.
    let first = !counts.listen_disabled.swap(true, Ordering::Relaxed);
    if first {
        counts.listen_disabled_num.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            "all {} connections are taken: new clients wait; raise -c, or end idle ones with -o idle_timeout=SECONDS",
            service.stats.connections_max()
        );
    }
    let since = Instant::now();
    while service.is_full() {
        // Whoever is not told looks again soon.
        let _told_or_not = tokio::time::timeout(Duration::from_millis(100), service.room.notified()).await;
    }
    if counts.listen_disabled.swap(false, Ordering::Relaxed) {
        let waited = since.elapsed().as_micros() as u64;
        counts.time_in_listen_disabled_us.fetch_add(waited, Ordering::Relaxed);
    }
    true
}

/// With `maxconns_fast` they hear why and are closed.
fn refuse<S>(service: &Service, stream: &S)
where
    for<'a> &'a S: io::Write,
{
    let mut stream = stream;
    // A new connection's buffer is empty, so this either fits or nobody listens.
    let _nobody_listens = io::Write::write(&mut stream, b"ERROR Too many open connections\r\n");
    service.stats.connections.rejected_connections.fetch_add(1, Ordering::Relaxed);
}
