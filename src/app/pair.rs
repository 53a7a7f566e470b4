//! The pair's part of a node: sockets first, then gate and backlog, then the driver.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_replication::arbiter::LEASE_MAX;
use tandem_replication::backlog::Backlog;
use tandem_replication::channel::Loose;
use tandem_replication::driver::witness::Witnesses;
use tandem_replication::driver::{self, Arbitrate, Handle, Snapshot};
use tandem_replication::heal::Heal;
use tandem_replication::keys::{Keys, SharedKeys};
use tandem_replication::node;
use tandem_replication::proxy::ProxyStream;
use tandem_replication::transport::{self, PeerAddress};
use tokio::sync::watch;

use crate::config::{self, Arbiter, Config, Host, HostPort, Pair};
use crate::engine::Engine;
use crate::replica::gate::{BackupRequests, PairGate};
use crate::replica::receipts::{AckPolicy, Receipts};
use crate::replica::{EngineStore, Fence, NodeHost, PeerStream, Recorder};
use crate::server::clock::Clock;
use crate::server::gate::{BoxFuture, Upstream};
use crate::server::{Adopter, PeerIo, VERSION};

use super::etcd::{self, Etcd};
use super::hooks::{self, Programs};
use super::meter::Meter;

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
    keys: SharedKeys,
    etcd: Option<Arc<Etcd>>,
}

impl PairSockets {
    /// Binds the replication listeners and reads keys and certificates.
    pub(super) fn bind(pair: &Pair) -> Result<Self, String> {
        let listeners = transport::bind(&addresses(&pair.listen, pair.port)?)?;
        let etcd = match &pair.arbiter {
            Some(Arbiter::Etcd { addresses, name, access }) => {
                Some(Arc::new(Etcd::new(addresses, name, access)?))
            }
            _ => None,
        };
        Ok(Self { listeners, keys: SharedKeys::new(Keys::read(&pair.keys)?), etcd })
    }

    /// The etcd that is the arbiter, if one is and its files may be read again.
    pub(super) fn etcd(&self) -> Option<Arc<Etcd>> {
        self.etcd.clone().filter(|etcd| etcd.has_files())
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
    /// For writes that wait for the backup, if any do.
    pub(super) receipts: Option<Arc<Receipts>>,
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
            // While it does not execute them itself.
            config::BackupRequests::Accept => BackupRequests::Proxy,
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
        backlog.set_prefetch(crate::engine::prefetch);
        let policy = AckPolicy {
            all: pair.ack.all,
            prefixes: pair.ack.prefixes.iter().map(|prefix| prefix.clone().into_bytes()).collect(),
            listener: config.server.durable_port.is_some(),
            patience: pair.ack.timeout,
            strict: pair.ack.strict,
        };
        let workers = config.server.threads;
        let receipts =
            policy.is_asked_for().then(|| Arc::new(Receipts::new(policy, Arc::clone(&backlog), workers)));
        let journal = Recorder { backlog: Arc::clone(&backlog), receipts: receipts.clone() };
        let gate = gate.with_receipts(receipts.clone());
        Self { gate: Arc::new(gate), journal: Arc::new(journal), backlog, receipts, way }
    }

    /// Starts the driver. From here on the peer may call.
    pub(super) fn start(
        self,
        pair: &Pair,
        sockets: PairSockets,
        parts: &Running<'_>,
    ) -> Result<Handle, String> {
        let meter = Arc::clone(parts.meter);
        let named = pair.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        let programs = Arc::clone(parts.programs);
        let fence = pair.fence_command.is_some().then(|| -> Fence {
            let programs = Arc::clone(&programs);
            Arc::new(move || {
                let program = programs.lock().unwrap_or_else(PoisonError::into_inner).fence.clone();
                program.is_some_and(|program| hooks::fence(&program, &named))
            })
        });
        let host = NodeHost::new(self.gate, Box::new(move || meter.load()), self.receipts).fence_with(fence);
        let adopter = parts.adopter.clone();
        host.adopt_with(Box::new(move |stream: Loose| {
            if let Err(why) = adopt(&adopter, stream) {
                tracing::warn!(
                    "a connection for handed-on requests is lost: {why}; clients of the backup connect again"
                );
            }
        }));
        let clock = Arc::clone(parts.clock);
        let store = EngineStore::new(Arc::clone(parts.engine), Arc::new(move || clock.now()));
        let config = driver::Config {
            peer: peer(pair)?,
            heartbeat_peer: pair.heartbeat_peer.as_ref().map(|second| PeerAddress {
                host: second.host.to_string(),
                port: second.port.unwrap_or(pair.port),
            }),
            arbiter: arbitrate(pair, &sockets),
            listeners: sockets.listeners,
            fence: pair.fence_command.is_some(),
            keys: sockets.keys,
            state_dir: pair.state_dir.clone(),
            client_port: parts.client_port,
            release: VERSION.to_string(),
            payload_bytes_max: parts.item_size_max + FRAME_ROOM,
            heartbeat: pair.heartbeat_interval,
            dead_after: pair.dead_after,
            start_wait: START_WAIT,
            start_alone: pair.start_alone,
            failback: failback(pair.failback),
            preferred: pair.preferred,
            failback_delay: pair.failback_delay,
            drain_timeout: DRAIN_TIMEOUT,
            heal: match pair.heal {
                config::Heal::Newest => Heal::Newest,
                config::Heal::Winner => Heal::Winner,
                config::Heal::Invalidate => Heal::Invalidate,
            },
            verify_every: pair.verify_interval,
            accept: pair.backup_requests == config::BackupRequests::Accept,
        };
        let handle = driver::start(config, Arc::new(store), self.backlog, Arc::new(host))?;
        parts.meter.watch(handle.subscribe());
        hooks::tell_roles(&programs, handle.subscribe(), 0)
            .map_err(|why| format!("--on-role-change: {why}"))?;
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.subscribe());
        Ok(handle)
    }
}

const fn failback(wanted: config::Failback) -> node::Failback {
    match wanted {
        config::Failback::Auto => node::Failback::Auto,
        config::Failback::Manual => node::Failback::Manual,
        config::Failback::Never => node::Failback::Never,
    }
}

/// What can change while the pair runs.
pub(super) fn tuning(pair: &Pair) -> node::Tuning {
    node::Tuning {
        failback: failback(pair.failback),
        preferred: pair.preferred,
        failback_delay: pair.failback_delay.into(),
        verify_every: pair.verify_interval.into(),
    }
}

pub(super) fn programs(config: &Config) -> Programs {
    let pair = config.pair.as_ref();
    Programs::new(
        pair.and_then(|pair| pair.on_role_change.clone()),
        pair.and_then(|pair| pair.fence_command.clone()),
    )
}

/// The arbiter, and how long its leases are: three times the silence after which a node counts as dead.
fn arbitrate(pair: &Pair, sockets: &PairSockets) -> Option<(Arc<dyn Arbitrate>, Duration)> {
    let wanted = (3 * pair.dead_after).min(LEASE_MAX.into());
    if let Some(etcd) = &sockets.etcd {
        return Some((Arc::clone(etcd) as Arc<dyn Arbitrate>, etcd::lease(wanted)));
    }
    let Some(Arbiter::Witnesses(addresses)) = &pair.arbiter else { return None };
    let address = |address: &HostPort| PeerAddress {
        host: address.host.to_string(),
        port: address.port.unwrap_or(pair.port),
    };
    Some((Arc::new(Witnesses::new(addresses.iter().map(address).collect(), &sockets.keys)), wanted))
}

/// Hands a stream of the peer's clients' requests to the server.
fn adopt(adopter: &Adopter, channel: Loose) -> std::io::Result<()> {
    let socket = channel.socket().try_clone()?;
    adopter.adopt_proxied(&socket, Box::new(move || Ok(Box::new(channel.attach()?) as Box<dyn PeerIo>)))
}

/// What runs already when the driver starts.
pub(super) struct Running<'a> {
    pub(super) engine: &'a Arc<dyn Engine>,
    pub(super) meter: &'a Arc<Meter>,
    pub(super) programs: &'a hooks::Shared,
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

/// What both nodes of a pair should have alike, by the names of the flags.
pub(super) fn settings(config: &Config) -> BTreeMap<String, String> {
    let Some(pair) = &config.pair else { return BTreeMap::new() };
    let requests = match pair.backup_requests {
        config::BackupRequests::Proxy => "proxy",
        config::BackupRequests::LocalReads => "local-reads",
        config::BackupRequests::Reject => "reject",
        config::BackupRequests::Accept => "accept",
    };
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    [
        ("--heartbeat-interval", millis(pair.heartbeat_interval)),
        ("--dead-after", millis(pair.dead_after)),
        ("--failback", format!("{:?}", pair.failback).to_lowercase()),
        ("--backup-requests", requests.to_owned()),
        ("--ack", acknowledged(&pair.ack)),
        ("--heal", format!("{:?}", pair.heal).to_lowercase()),
        ("--arbiter", pair.arbiter.as_ref().map_or_else(|| "off".to_owned(), arbitrated)),
        ("-I", format!("{} bytes", config.engine.item_size_max)),
        ("-M", if config.engine.evict { "off" } else { "on" }.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Who is asked, in an order that does not depend on who wrote it down.
fn arbitrated(arbiter: &Arbiter) -> String {
    let (places, name) = match arbiter {
        Arbiter::Witnesses(places) => (places, String::new()),
        Arbiter::Etcd { addresses, name, .. } => (addresses, format!(" for {name}")),
    };
    let mut places: Vec<String> = places.iter().map(ToString::to_string).collect();
    places.sort();
    // It travels with heartbeats.
    (places.join(", ") + &name).chars().take(100).collect()
}

fn acknowledged(ack: &config::Ack) -> String {
    let which = match (ack.all, &ack.prefixes[..]) {
        (true, _) => "for all writes".to_owned(),
        (false, []) => "for no writes".to_owned(),
        (false, prefixes) => {
            // It travels with heartbeats.
            let first: String = prefixes.join(", ").chars().take(100).collect();
            format!("for keys that begin with {} prefixes ({first})", prefixes.len())
        }
    };
    let then = if ack.strict { "an error" } else { "the answer" };
    format!("{which}, {then} after {} ms", ack.timeout.as_millis())
}
