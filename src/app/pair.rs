//! The pair's part of a node: sockets first, then gate and backlog, then the driver.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_replication::backlog::Backlog;
use tandem_replication::channel::Loose;
use tandem_replication::driver::{self, Handle, Snapshot};
use tandem_replication::keys::Keys;
use tandem_replication::node;
use tandem_replication::proxy::ProxyStream;
use tandem_replication::status::Load;
use tandem_replication::transport::{self, PeerAddress};
use tokio::sync::watch;

use crate::config::{self, Config, Host, HostPort, Pair};
use crate::engine::Engine;
use crate::replica::gate::{BackupRequests, PairGate};
use crate::replica::{EngineStore, NodeHost, PeerStream, Recorder};
use crate::server::clock::Clock;
use crate::server::gate::{BoxFuture, Upstream};
use crate::server::{Adopter, PeerIo, VERSION};
use crate::stats::Stats;

/// How long a request waits while nobody serves, before it is answered with the reason.
const PARK_LIMIT: Duration = Duration::from_millis(250);
/// How long a planned handover may take before the master serves again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node that hears nothing looks for its peer before it serves alone.
const START_WAIT: Duration = Duration::from_secs(2);
/// Around the longest item in a frame: its key, its head, a batch of small changes.
const FRAME_ROOM: usize = 128 << 10;

/// The replication sockets and the key, before anything runs.
#[derive(Debug)]
pub(super) struct PairSockets {
    listeners: Vec<TcpListener>,
    keys: Keys,
}

impl PairSockets {
    /// Binds the replication listeners and reads the key.
    pub(super) fn bind(pair: &Pair) -> Result<Self, String> {
        let listeners = transport::bind(&addresses(&pair.listen, pair.port)?)?;
        Ok(Self { listeners, keys: Keys::read(&pair.keys)? })
    }
}

/// Every address that `listen` means; `*` is both families.
pub(super) fn addresses(listen: &[HostPort], port: u16) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    for element in listen {
        let port = element.port.unwrap_or(port);
        match &element.host {
            Host::Any => {
                found.push(SocketAddr::from(([0, 0, 0, 0], port)));
                // A machine without IPv6 has one wildcard only.
                if TcpListener::bind("[::1]:0").is_ok() {
                    found.push(SocketAddr::from(([0u16; 8], port)));
                }
            }
            Host::Name(name) => found.extend((name.as_str(), port).to_socket_addrs().map_err(|why| {
                format!("cannot listen on {element}: {why}; name an address of this machine")
            })?),
        }
    }
    found.dedup();
    Ok(found)
}

/// What engine and server need of the pair before it runs.
pub(super) struct Prepared {
    pub(super) gate: Arc<PairGate>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) journal: Arc<Recorder>,
    /// Where the gate finds the way to the master, as soon as the driver runs.
    way: Arc<Mutex<Option<watch::Receiver<Arc<Snapshot>>>>>,
}

impl Prepared {
    /// A closed gate and empty rings for an engine of `shards` shards.
    pub(super) fn new(config: &Config, pair: &Pair, shards: usize) -> Self {
        let way: Arc<Mutex<Option<watch::Receiver<Arc<Snapshot>>>>> = Arc::default();
        let seen = Arc::clone(&way);
        let upstream = Box::new(move || -> BoxFuture<'static, std::io::Result<Box<dyn Upstream>>> {
            let target = seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .and_then(|status| status.borrow().proxy.clone());
            Box::pin(async move {
                let target =
                    target.ok_or_else(|| std::io::Error::other("there is no way to the master now"))?;
                Ok(Box::new(PeerStream(ProxyStream::connect(&target).await?)) as Box<dyn Upstream>)
            })
        });
        let backup_requests = match pair.backup_requests {
            config::BackupRequests::Proxy => BackupRequests::Proxy,
            config::BackupRequests::LocalReads => BackupRequests::LocalReads,
            config::BackupRequests::Reject => BackupRequests::Reject,
        };
        let gate = PairGate::new(
            // One more than the server has: what comes from a repcached is executed beside it.
            config.server.threads + 1,
            Arc::new(driver::now),
            backup_requests,
            PARK_LIMIT,
            upstream,
        );
        let backlog =
            Arc::new(Backlog::new(shards, usize::try_from(pair.backlog_bytes).unwrap_or(usize::MAX)));
        Self { gate: Arc::new(gate), journal: Arc::new(Recorder(Arc::clone(&backlog))), backlog, way }
    }

    /// Starts the driver. From here on the peer may call.
    pub(super) fn start(
        self,
        pair: &Pair,
        sockets: PairSockets,
        parts: &Running<'_>,
    ) -> Result<Handle, String> {
        let meter = LoadMeter::new(Arc::clone(parts.engine), Arc::clone(parts.stats));
        let host = NodeHost::new(self.gate, Box::new(move || meter.read()));
        let adopter = parts.adopter.clone();
        host.adopt_with(Box::new(move |stream: Loose| {
            if let Err(why) = adopt(&adopter, stream) {
                tracing::warn!("a stream of requests from the peer was lost on arrival: {why}");
            }
        }));
        let clock = Arc::clone(parts.clock);
        let store = EngineStore::new(Arc::clone(parts.engine), Arc::new(move || clock.now()));
        let config = driver::Config {
            peer: peer(pair)?,
            listeners: sockets.listeners,
            keys: sockets.keys,
            state_dir: pair.state_dir.clone(),
            client_port: parts.client_port,
            release: VERSION.to_string(),
            payload_bytes_max: parts.item_size_max + FRAME_ROOM,
            heartbeat: pair.heartbeat_interval,
            dead_after: pair.dead_after,
            start_wait: START_WAIT,
            start_alone: pair.start_alone,
            failback: match pair.failback {
                config::Failback::Auto => node::Failback::Auto,
                config::Failback::Manual => node::Failback::Manual,
                config::Failback::Never => node::Failback::Never,
            },
            preferred: pair.preferred,
            failback_delay: pair.failback_delay,
            drain_timeout: DRAIN_TIMEOUT,
        };
        let handle = driver::start(config, Arc::new(store), self.backlog, Arc::new(host))?;
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.subscribe());
        Ok(handle)
    }
}

/// Hands a stream of the peer's clients' requests to the server.
fn adopt(adopter: &Adopter, channel: Loose) -> std::io::Result<()> {
    let socket = channel.socket().try_clone()?;
    adopter.adopt_proxied(&socket, Box::new(move || Ok(Box::new(channel.attach()?) as Box<dyn PeerIo>)))
}

/// What runs already when the driver starts.
pub(super) struct Running<'a> {
    pub(super) engine: &'a Arc<dyn Engine>,
    pub(super) stats: &'a Arc<Stats>,
    pub(super) clock: &'a Arc<Clock>,
    pub(super) adopter: &'a Adopter,
    pub(super) client_port: u16,
    pub(super) item_size_max: usize,
}

fn peer(pair: &Pair) -> Result<Option<PeerAddress>, String> {
    let Some(peer) = &pair.peer else { return Ok(None) };
    match &peer.host {
        Host::Any => Err("-x *: name the other node".to_string()),
        Host::Name(name) => {
            Ok(Some(PeerAddress { host: name.clone(), port: peer.port.unwrap_or(pair.port) }))
        }
    }
}

/// What heartbeats say of this node, measured at most once a second: the pair's thread must not
/// walk all shards at each heartbeat.
struct LoadMeter {
    engine: Arc<dyn Engine>,
    stats: Arc<Stats>,
    started: Instant,
    last: Mutex<Measured>,
}

struct Measured {
    at: Instant,
    reads: u64,
    writes: u64,
    load: Load,
}

impl LoadMeter {
    const PERIOD: Duration = Duration::from_secs(1);

    fn new(engine: Arc<dyn Engine>, stats: Arc<Stats>) -> Self {
        let started = Instant::now();
        let load = Load { release: VERSION.to_string(), ..Load::default() };
        let last = Mutex::new(Measured { at: started, reads: 0, writes: 0, load });
        let meter = Self { engine, stats, started, last };
        meter.measure(&mut meter.last.lock().unwrap_or_else(PoisonError::into_inner), Duration::ZERO);
        meter
    }

    fn read(&self) -> Load {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = last.at.elapsed();
        if passed >= Self::PERIOD {
            self.measure(&mut last, passed);
        }
        Load { progress: self.stats.cells.iter().map(|cell| cell.turns.value()).sum(), ..last.load.clone() }
    }

    fn measure(&self, last: &mut Measured, passed: Duration) {
        let stats = self.engine.stats();
        let (reads, writes) = (stats.commands.cmd_get, stats.commands.cmd_set);
        let rate = |count: u64, before: u64| {
            (count.saturating_sub(before) as f64 / passed.as_secs_f64().max(0.001)).min(f64::from(u32::MAX))
                as u32
        };
        if !passed.is_zero() {
            last.load.reads_rate = rate(reads, last.reads);
            last.load.writes_rate = rate(writes, last.writes);
        }
        last.load.items = stats.curr_items;
        last.load.bytes = stats.used;
        last.load.limit = stats.limit;
        last.load.uptime_secs = self.started.elapsed().as_secs();
        (last.at, last.reads, last.writes) = (Instant::now(), reads, writes);
    }
}
