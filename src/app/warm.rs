//! What a node begins with beside nothing: the items of its last graceful stop, or a repcached's.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, Host};
use crate::engine::Engine;
use crate::migration::{Migration, Target};
use crate::server::clock::Clock;
use crate::server::gate::Gate;
use crate::snapshot::{Loaded, Snapshot};

/// Where repcached replicates unless told otherwise.
const REPCACHED_PORT: u16 = 11212;

/// A node whose items survive a graceful stop.
pub(super) struct Warm {
    snapshot: Snapshot,
    engine: Arc<dyn Engine>,
    clock: Arc<Clock>,
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl Warm {
    /// Restores what the last graceful stop left. `None` without `-e`.
    pub(super) fn load(
        config: &Config,
        engine: &Arc<dyn Engine>,
        clock: &Arc<Clock>,
    ) -> Result<Option<Self>, String> {
        let Some(path) = &config.memory_file else { return Ok(None) };
        let snapshot = Snapshot::at(path)?;
        let began = Instant::now();
        match snapshot.load(&**engine, clock.now(), config.engine.item_size_max) {
            Loaded::Nothing => tracing::info!("-e {}: no items were left there", path.display()),
            Loaded::Refused(why) => tracing::error!("{why}"),
            Loaded::Items(restored) => {
                tracing::info!(
                    "-e {}: {} items are here again after {:.1} s; {} expired meanwhile, {} are too large for -I, {} had no room",
                    path.display(),
                    engine.items(),
                    began.elapsed().as_secs_f64(),
                    restored.expired,
                    restored.too_large,
                    restored.applied.saturating_sub(engine.items())
                );
                if restored.clock_went_back {
                    tracing::warn!(
                        "-e {}: the wall clock reads less than when items were saved; they expire as if no time had passed",
                        path.display()
                    );
                }
            }
        }
        Ok(Some(Self { snapshot, engine: Arc::clone(engine), clock: Arc::clone(clock) }))
    }

    /// Keeps every item for the next start. Nobody may be served any more.
    pub(super) fn save(&self) -> Result<(), String> {
        let began = Instant::now();
        // Nobody follows the wall clock for us any more.
        self.clock.refresh();
        let items = self.snapshot.save(&*self.engine, self.clock.now())?;
        tracing::info!(
            "{items} items were saved for the next start in {:.1} s",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

/// Starts to take over a repcached's items, if one was named.
pub(super) fn join_repcached(
    config: &Config,
    engine: &Arc<dyn Engine>,
    gate: &Arc<dyn Gate>,
    clock: &Arc<Clock>,
) -> io::Result<Option<Migration>> {
    let Some(peer) = &config.repcached else { return Ok(None) };
    let Host::Name(host) = &peer.host else { return Ok(None) };
    let target = Target {
        engine: Arc::clone(engine),
        gate: Arc::clone(gate),
        worker: config.server.threads,
        clock: Arc::clone(clock),
        item_size_max: config.engine.item_size_max,
    };
    Migration::start(host.clone(), peer.port.unwrap_or(REPCACHED_PORT), target).map(Some)
}
