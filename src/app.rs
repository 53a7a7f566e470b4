//! Builds, starts and stops every part; the only file that knows them all.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::engine::memory::{Memory, MemoryConfig};
use crate::engine::{Engine, Journal, NoJournal};
use crate::server::auth::Auth;
use crate::server::clock::Clock;
use crate::server::gate::{Gate, Open};
use crate::server::{Bound, Parts, Server, stats_shape};
use crate::stats::{Detail, Stats};

/// A running node.
#[derive(Debug)]
pub struct App {
    server: Server,
    stats: Arc<Stats>,
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

/// What stands between the server and the other node, and what the engine tells it.
struct Pairing {
    gate: Arc<dyn Gate>,
    journal: Arc<dyn Journal>,
}

impl Pairing {
    /// A node by itself: always open, nobody to tell.
    fn standalone() -> Self {
        Self { gate: Arc::new(Open), journal: Arc::new(NoJournal) }
    }
}

impl App {
    /// Starts everything behind sockets that are bound already. `on_shutdown` is called when a client
    /// asks for a stop (`-A`); `true` asks for a graceful one.
    pub fn start(
        config: &Config,
        bound: Bound,
        on_shutdown: Box<dyn Fn(bool) + Send + Sync>,
    ) -> Result<Self, StartError> {
        if config.pair.is_some() {
            return Err(StartError(
                "this build has no pair: leave out -x, -X and --replication-*".to_owned(),
            ));
        }
        let Pairing { gate, journal } = Pairing::standalone();
        let auth = auth(config).map_err(StartError)?;
        let clock = Arc::new(Clock::start());
        let engine = engine(config, journal);
        let detail = Detail::new(config.server.detail_enabled, config.server.prefix_delimiter);
        let stats = Arc::new(Stats::new(stats_shape(config), Arc::clone(&engine), detail));
        let parts = Parts {
            engine,
            gate,
            stats: Arc::clone(&stats),
            clock,
            auth,
            on_shutdown,
            verbosity: config.process.verbosity,
        };
        let server = bound.start(config.server.clone(), parts).map_err(|error| {
            StartError(format!("threads cannot be started: {error}; lower -t or raise the limits"))
        })?;
        Ok(Self { server, stats })
    }

    /// Where TCP clients are served.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// What is counted.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
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
    }

    /// Stops accepting, lets requests finish, closes everything.
    pub fn stop(self) {
        self.server.stop();
    }
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

fn engine(config: &Config, journal: Arc<dyn Journal>) -> Arc<dyn Engine> {
    let memory = MemoryConfig {
        limit_bytes: config.engine.memory_bytes,
        threads: config.server.threads,
        item_size_max: config.engine.item_size_max,
        evict: config.engine.evict,
        cas: config.engine.cas,
        // Keys are chosen by clients: nobody may foresee which of them collide.
        seed: RandomState::new().build_hasher().finish(),
        ..MemoryConfig::default()
    };
    Arc::new(Memory::new(memory, journal))
}
