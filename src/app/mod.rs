//! Builds, starts and stops every part; the only file that knows them all.

mod etcd;
mod hooks;
mod meter;
mod notify;
mod pair;
mod recorder;
mod view;
mod warm;
mod witness;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex};

use tandem_replication::driver::Handle;
use tandem_replication::keys::{KeyFiles, Keys};

use crate::admin;
use crate::admin::access::Access;
use crate::admin::events::EventLog;
use crate::config::{Config, HostPort};
use crate::engine::memory::{Geometry, Memory, MemoryConfig};
use crate::engine::{Engine, Journal, NoJournal};
use crate::logs;
use crate::migration::Migration;
use crate::replica::receipts::Receipts;
use crate::replica::report;
use crate::server::auth::Auth;
use crate::server::clock::Clock;
use crate::server::gate::{Gate, Open};
use crate::server::{Bound, Parts, Server, VERSION};
use crate::stats::{Detail, PairReport, Shape, Stats};

use etcd::Etcd;
use meter::{Fixed, Meter, Wishes};
use pair::{PairSockets, Prepared, Running};
use recorder::Columns;
use view::View;
use warm::Warm;
pub use witness::Witness;

/// A running node.
#[derive(Debug)]
pub struct App {
    server: Server,
    stats: Arc<Stats>,
    pair: Option<Handle>,
    key_files: KeyFiles,
    /// The arbiter, if it is an etcd with files of its own.
    etcd: Option<Arc<Etcd>>,
    migration: Option<Migration>,
    warm: Option<Warm>,
    /// Who may steer through the admin port.
    access: Arc<Access>,
    meter: Arc<Meter>,
    programs: hooks::Shared,
}

/// Every socket of a node, bound before anything runs: a port in use stops the start, and a daemon's
/// parent exits when clients can already connect.
#[derive(Debug)]
pub struct Sockets {
    clients: Bound,
    pair: Option<PairSockets>,
    admin: Option<TcpListener>,
    access: Access,
}

impl Sockets {
    /// Binds everything; all that went wrong, otherwise.
    pub fn bind(config: &Config) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let clients = Bound::bind(&config.server)
            .map_err(|errors| problems.extend(errors.iter().map(ToString::to_string)))
            .ok();
        let pair = config.pair.as_ref().map(PairSockets::bind).transpose();
        let pair = pair.map_err(|problem| problems.push(problem)).ok();
        let access = Access::new(config.admin_token_file.as_deref());
        let access = access.map_err(|problem| problems.push(problem)).ok();
        let has_token = config.admin_token_file.is_some();
        let admin = config.admin.as_ref().map(|listen| bind_admin(listen, has_token)).transpose();
        let admin = admin.map_err(|problem| problems.push(problem)).ok();
        match (clients, pair, admin, access) {
            (Some(clients), Some(pair), Some(admin), Some(access)) => {
                Ok(Self { clients, pair, admin, access })
            }
            _ => Err(problems),
        }
    }

    /// Where clients will be served.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.clients.addresses()
    }

    /// Where UDP clients will be served.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.clients.udp_addresses()
    }
}

fn bind_admin(listen: &HostPort, has_token: bool) -> Result<TcpListener, String> {
    let addresses = pair::addresses(std::slice::from_ref(listen), 0)?;
    if !has_token && addresses.iter().any(|address| !address.ip().to_canonical().is_loopback()) {
        return Err(format!(
            "--admin {listen}: other machines reach it, so control requests need a token: add --admin-token-file FILE (`tandemctl genkey FILE` makes one), or choose an address of 127.0.0.0/8"
        ));
    }
    let listener = TcpListener::bind(&addresses[..]).map_err(|why| {
        format!("--admin {listen}: {why}; choose another address (`--admin off` does without)")
    })?;
    listener.set_nonblocking(true).map_err(|why| format!("--admin {listen}: {why}"))?;
    Ok(listener)
}

/// Why a node does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Starts everything behind sockets that are bound already. `on_shutdown` is called when a client
    /// asks for a stop (`-A`); `true` asks for a graceful one.
    pub fn start(
        config: &Config,
        sockets: Sockets,
        on_shutdown: Box<dyn Fn(bool) + Send + Sync>,
    ) -> Result<Self, StartError> {
        let auth = auth(config).map_err(StartError)?;
        let clock = Arc::new(Clock::start());
        let memory = memory_config(config);
        let geometry = Geometry::of(memory.limit_bytes, memory.threads);
        let prepared = config.pair.as_ref().map(|pair| Prepared::new(config, pair, geometry.shards));
        let journal: Arc<dyn Journal> = match &prepared {
            Some(prepared) => Arc::clone(&prepared.journal) as Arc<dyn Journal>,
            None => Arc::new(NoJournal),
        };
        let receipts = prepared.as_ref().and_then(|prepared| prepared.receipts.clone());
        let gate: Arc<dyn Gate> = match &prepared {
            Some(prepared) => Arc::clone(&prepared.gate) as Arc<dyn Gate>,
            None => Arc::new(Open),
        };
        let engine: Arc<dyn Engine> =
            Arc::new(Memory::new(MemoryConfig { geometry: Some(geometry), ..memory }, journal));
        // Before anybody is served.
        let warm = Warm::load(config, &engine, &clock).map_err(StartError)?;
        let detail = Detail::new(config.server.detail_enabled, config.server.prefix_delimiter);
        let stats = Arc::new(Stats::new(stats_shape(config), Arc::clone(&engine), detail));
        let parts = Parts {
            engine: Arc::clone(&engine),
            gate: Arc::clone(&gate),
            stats: Arc::clone(&stats),
            clock: Arc::clone(&clock),
            auth,
            on_shutdown,
            verbosity: config.process.verbosity,
        };
        let access = Arc::new(sockets.access);
        let admin = sockets.admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let server = sockets.clients.start(config.server.clone(), parts).map_err(threads)?;
        server.set_idle_timeout(config.server.idle_timeout);
        let fixed = Fixed {
            address: server.addresses().first().map_or_else(|| "unix socket".to_owned(), ToString::to_string),
            admin: admin.map(|address| address.to_string()),
        };
        let meter = Arc::new(Meter::new(Arc::clone(&stats), Arc::clone(&clock), fixed, wishes(config)));
        let programs = Arc::new(Mutex::new(pair::programs(config)));
        let etcd = sockets.pair.as_ref().and_then(PairSockets::etcd);
        let pair = match (prepared, &config.pair, sockets.pair) {
            (Some(prepared), Some(pair), Some(sockets)) => {
                let running = Running {
                    engine: &engine,
                    meter: &meter,
                    programs: &programs,
                    clock: &clock,
                    adopter: &server.adopter(),
                    client_port: server.addresses().first().map_or(0, SocketAddr::port),
                    item_size_max: config.engine.item_size_max,
                };
                Some(prepared.start(pair, sockets, &running).map_err(StartError)?)
            }
            _ => None,
        };
        if let Some(handle) = &pair {
            tell_of_pair(&stats, handle, config, receipts);
        }
        if sockets.admin.is_some() || pair.is_some() {
            let view = View {
                meter: Arc::clone(&meter),
                stats: Arc::clone(&stats),
                pair: pair.as_ref().map(Handle::remote),
                events: EventLog::default(),
                columns: Columns::default(),
                peer_port: AtomicU16::new(0),
            };
            serve_admin(sockets.admin, view, Arc::clone(&access)).map_err(threads)?;
        }
        let migration = warm::join_repcached(config, &engine, &gate, &clock).map_err(threads)?;
        let key_files = config.pair.as_ref().map(|pair| pair.keys.clone()).unwrap_or_default();
        Ok(Self { server, stats, pair, key_files, etcd, migration, warm, access, meter, programs })
    }

    /// Where TCP clients are served.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Where UDP clients are served.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        self.server.udp_addresses()
    }

    /// What is counted.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Tells the service manager, if there is one, that the node listens, what it is and that it lives.
    pub fn notify(&self) -> impl Future<Output = ()> + Send + use<> {
        notify::tell(self.pair.as_ref().map(Handle::subscribe))
    }

    /// SIGHUP: reads again what can change.
    pub fn reload(&self) {
        match self.server.auth().reload() {
            Ok(()) if self.server.auth().is_required() => {
                tracing::info!("the authentication file was read again")
            }
            Ok(()) => {}
            Err(error) => tracing::error!("{error}; the users of before stay in force"),
        }
        if let Err(error) = self.access.reload() {
            tracing::error!("{error}; the token of before stays in force");
        }
        self.server.reload_certificates();
        if let Some(etcd) = &self.etcd {
            match etcd.reload() {
                Ok(()) => tracing::info!("the arbiter's files were read again"),
                Err(problem) => {
                    tracing::error!("{problem}; what the arbiter's files held before stays in force")
                }
            }
        }
        let Some(pair) = self.pair.as_ref().filter(|_| self.key_files != KeyFiles::default()) else { return };
        match Keys::read(&self.key_files) {
            Ok(keys) => {
                pair.replace_keys(keys);
                tracing::info!("the pair's keys were read again; connections that are there stay");
            }
            Err(problem) => tracing::error!("{problem}; the pair's keys of before stay in force"),
        }
    }

    /// Puts a setting in force that may change while the node runs ([`crate::config::Change::is_at_once`]):
    /// the one of that name.
    pub fn apply(&self, config: &Config, name: &str) {
        match name {
            "memory-limit" => self.server.set_memory_limit(config.engine.memory_bytes),
            "verbose" => self.server.set_verbosity(config.process.verbosity),
            "log-format" => logs::set_style(config.process.log_format),
            "extended" => self.server.set_idle_timeout(config.server.idle_timeout),
            "conn-limit" => self.server.set_connections_max(config.server.connections_max),
            "on-role-change" | "fence-command" => self.replace_programs(config),
            _ => self.tune(config),
        }
    }

    fn replace_programs(&self, config: &Config) {
        hooks::replace(&self.programs, pair::programs(config));
        let Some(pair) = &self.pair else { return };
        let told = pair.status().role_changes.back().map_or(0, |change| change.number);
        if let Err(why) = hooks::tell_roles(&self.programs, pair.subscribe(), told) {
            tracing::error!("--on-role-change: {why}; reload again");
        }
    }

    fn tune(&self, config: &Config) {
        self.meter.wish(wishes(config));
        if let (Some(handle), Some(pair)) = (&self.pair, &config.pair)
            && !handle.tune(pair::tuning(pair))
        {
            tracing::error!("the pair is too busy to hear of its new settings; reload again");
        }
    }

    /// Hands the role to the backup, if there is one that can take it; then stops accepting, lets
    /// requests finish, closes everything.
    pub async fn stop(self) {
        let _not_kept = self.end().await;
    }

    /// As [`App::stop`], and keeps the items for the next start if there is a place for them (`-e`).
    pub async fn stop_gracefully(self) -> Result<(), String> {
        match self.end().await {
            Some(warm) => warm.save(),
            None => Ok(()),
        }
    }

    async fn end(self) -> Option<Warm> {
        notify::stopping();
        drop(self.migration);
        if let Some(pair) = self.pair {
            pair.shutdown().await;
        }
        self.server.stop();
        self.warm
    }
}

/// What this node says of its settings.
fn wishes(config: &Config) -> Wishes {
    let preferred = config.pair.as_ref().is_some_and(|pair| pair.preferred);
    Wishes { preferred, settings: pair::settings(config) }
}

fn threads(error: std::io::Error) -> StartError {
    StartError(format!("threads cannot be started: {error}; lower -t or raise the limits"))
}

/// `stats` and `stats replication` speak of the pair from now on.
fn tell_of_pair(stats: &Arc<Stats>, handle: &Handle, config: &Config, receipts: Option<Arc<Receipts>>) {
    let backlog_max = config.pair.as_ref().map_or(0, |pair| pair.backlog_bytes);
    let status = handle.subscribe();
    let counters = Arc::downgrade(stats);
    stats.provide_pair(Box::new(move || {
        let snapshot = status.borrow().clone();
        let proxied = counters.upgrade().map_or(0, |stats| stats.proxied_requests());
        PairReport {
            serves: snapshot.pair.role.state.name() == "master",
            backlog_free: backlog_max.saturating_sub(snapshot.pair.backlog_bytes),
            rows: report::rows(&snapshot, proxied, receipts.as_ref().map(|receipts| receipts.counts())),
        }
    }));
}

/// The admin port has a thread of its own: whatever is asked there delays neither a heartbeat nor a
/// client. What happens is noted there, too, also when nobody can ask.
fn serve_admin(listener: Option<TcpListener>, view: View, access: Arc<Access>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let view = Arc::new(view);
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            let recorder = tokio::spawn(recorder::record(Arc::clone(&view)));
            match listener.map(tokio::net::TcpListener::from_std).transpose() {
                Ok(Some(listener)) => admin::serve::serve(listener, view, access).await,
                Ok(None) => {}
                Err(why) => tracing::error!(
                    "admin port: nobody is served: {why}; restart this node, or do without it (--admin off)"
                ),
            }
            let _never = recorder.await;
        });
    })?;
    Ok(())
}

fn auth(config: &Config) -> Result<Auth, String> {
    match (&config.server.auth_file, config.server.sasl) {
        (Some(file), _) => Auth::from_file(file.clone()),
        (None, true) => match &config.process.sasl_file {
            Some(file) => Auth::from_file(file.clone()),
            None => Err("-S needs a file of user:password lines, named by $MEMCACHED_SASL_PWDB".to_owned()),
        },
        (None, false) => Ok(Auth::open()),
    }
}

fn memory_config(config: &Config) -> MemoryConfig {
    MemoryConfig {
        limit_bytes: config.engine.memory_bytes,
        threads: config.server.threads,
        item_size_max: config.engine.item_size_max,
        evict: config.engine.evict,
        cas: config.engine.cas,
        // Keys are chosen by clients: nobody may foresee which of them collide.
        seed: RandomState::new().build_hasher().finish(),
        ..MemoryConfig::default()
    }
}

/// Which keys plain `stats` has, for this configuration.
pub fn stats_shape(config: &Config) -> Shape {
    Shape {
        lru_crawler: config.extended.lru_crawler,
        lru_maintainer: config.extended.lru_maintainer,
        slab_reassign: config.extended.slab_reassign,
        refuse_fast: config.server.refuse_fast,
        idle_timeout: config.server.idle_timeout.is_some(),
        track_sizes: config.extended.track_sizes,
        tls: config.server.tls.is_some(),
        tls_sessions: config.server.tls.as_ref().is_some_and(|tls| tls.session_cache),
        threads: config.server.threads,
        connections_max: config.server.connections_max,
        settings: config.settings.clone(),
        version: VERSION,
    }
}
