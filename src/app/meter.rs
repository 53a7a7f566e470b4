//! What this node says of itself, measured when somebody asks and shared by all who do.
//!
//! A look at the engine takes every shard's lock for a moment, so it is taken at most ten times a second
//! for people and monitors, however many ask, and once a second for heartbeats. The pair's thread never
//! waits for anybody here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tandem_replication::driver::{self, Snapshot as PairSnapshot};
use tandem_replication::status::Load;
use tokio::sync::watch;

use crate::admin::report::{Latency, Node};
use crate::server::VERSION;
use crate::server::clock::Clock;
use crate::stats::latency::Kind;
use crate::stats::{Snapshot, Stats};

/// Nothing that people and monitors see is older.
const FRESH: Duration = Duration::from_millis(100);
/// What heartbeats say is not older, and rates are of no shorter time.
const PERIOD: Duration = Duration::from_secs(1);

/// What does not change while the node runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Fixed {
    /// Where clients are served.
    pub(super) address: String,
    /// Where the admin port is.
    pub(super) admin: Option<String>,
}

/// What a node says of its settings; a reload may change it.
#[derive(Clone, Default)]
pub(super) struct Wishes {
    /// It should be master when both are well.
    pub(super) preferred: bool,
    /// What both nodes should have alike.
    pub(super) settings: BTreeMap<String, String>,
}

/// See the module.
pub(super) struct Meter {
    stats: Arc<Stats>,
    clock: Arc<Clock>,
    fixed: Fixed,
    wishes: Mutex<Wishes>,
    pair: OnceLock<watch::Receiver<Arc<PairSnapshot>>>,
    measured: Mutex<Measured>,
    said: Mutex<Said>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("address", &self.fixed.address).finish_non_exhaustive()
    }
}

/// What heartbeats say, and since when.
#[derive(Default)]
struct Said {
    at: Option<Instant>,
    load: Load,
}

struct Measured {
    at: Instant,
    snapshot: Arc<Snapshot>,
    /// Where the period that rates are measured over began.
    since: Instant,
    before: Counts,
    rates: Rates,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Counts {
    fn of(snapshot: &Snapshot) -> Self {
        let commands = &snapshot.engine.commands;
        Self {
            reads: commands.cmd_get,
            writes: commands.cmd_set,
            hits: commands.get_hits,
            misses: commands.get_misses,
            evictions: snapshot.engine.classes.values().map(|class| class.evicted).sum(),
        }
    }
}

/// Per second; absent before the first second is over.
#[derive(Clone, Copy, Default)]
struct Rates {
    reads: Option<f64>,
    writes: Option<f64>,
    evictions: Option<f64>,
    hit_ratio: Option<f64>,
}

impl Rates {
    fn between(before: Counts, now: Counts, passed: Duration) -> Self {
        let rate =
            |before: u64, now: u64| Some(now.saturating_sub(before) as f64 / passed.as_secs_f64().max(0.001));
        let (hits, misses) = (now.hits.saturating_sub(before.hits), now.misses.saturating_sub(before.misses));
        Self {
            reads: rate(before.reads, now.reads),
            writes: rate(before.writes, now.writes),
            evictions: rate(before.evictions, now.evictions),
            hit_ratio: (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64),
        }
    }
}

impl Meter {
    pub(super) fn new(stats: Arc<Stats>, clock: Arc<Clock>, fixed: Fixed, wishes: Wishes) -> Self {
        let snapshot = Arc::new(stats.snapshot(clock.now()));
        let (at, before) = (Instant::now(), Counts::of(&snapshot));
        let measured = Measured { at, snapshot, since: at, before, rates: Rates::default() };
        Self {
            stats,
            clock,
            fixed,
            wishes: Mutex::new(wishes),
            pair: OnceLock::new(),
            measured: Mutex::new(measured),
            said: Mutex::default(),
        }
    }

    /// From now on the node's role is known. Only the first call counts.
    pub(super) fn watch(&self, pair: watch::Receiver<Arc<PairSnapshot>>) {
        let _first = self.pair.set(pair);
    }

    /// From now on the node says this of its settings.
    pub(super) fn wish(&self, wishes: Wishes) {
        *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) = wishes;
    }

    /// All that is counted.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut measured);
        Arc::clone(&measured.snapshot)
    }

    /// This node, for people and monitors.
    pub(super) fn node(&self) -> Node {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut measured);
        self.describe(&measured)
    }

    /// This node, for the next heartbeat.
    pub(super) fn load(&self) -> Load {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let due = said.at.is_none_or(|at| at.elapsed() >= PERIOD);
        // Whoever is measuring now must not be waited for: it is said with the next heartbeat.
        if due && let Ok(mut measured) = self.measured.try_lock() {
            self.refresh(&mut measured);
            let node = self.describe(&measured);
            said.at = Some(Instant::now());
            said.load = Load {
                items: node.items.unwrap_or_default(),
                bytes: node.memory_bytes.unwrap_or_default(),
                limit: node.memory_limit_bytes.unwrap_or_default(),
                reads_rate: node.reads_per_second.unwrap_or_default() as u32,
                writes_rate: node.writes_per_second.unwrap_or_default() as u32,
                uptime_secs: node.uptime_secs.unwrap_or_default(),
                release: VERSION.to_string(),
                progress: 0,
                summary: serde_json::to_string(&node).unwrap_or_default(),
            };
        }
        let progress = self.stats.cells.iter().map(|cell| cell.turns.value()).sum();
        Load { progress, ..said.load.clone() }
    }

    /// Looks again, unless somebody just did.
    fn refresh(&self, measured: &mut Measured) {
        if measured.at.elapsed() < FRESH {
            return;
        }
        measured.snapshot = Arc::new(self.stats.snapshot(self.clock.now()));
        measured.at = Instant::now();
        let passed = measured.at - measured.since;
        if passed >= PERIOD {
            let now = Counts::of(&measured.snapshot);
            measured.rates = Rates::between(measured.before, now, passed);
            (measured.since, measured.before) = (measured.at, now);
        }
    }

    fn describe(&self, measured: &Measured) -> Node {
        let (snapshot, rates) = (&measured.snapshot, measured.rates);
        let counts = Counts::of(snapshot);
        let reads = counts.hits + counts.misses;
        let Wishes { preferred, settings } =
            self.wishes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut node = Node {
            address: self.fixed.address.clone(),
            role: "standalone".to_string(),
            ready: true,
            items: Some(snapshot.engine.curr_items),
            memory_bytes: Some(snapshot.engine.used),
            memory_limit_bytes: Some(snapshot.engine.limit),
            hit_ratio: (reads > 0).then(|| counts.hits as f64 / reads as f64),
            recent_hit_ratio: rates.hit_ratio,
            reads_per_second: rates.reads,
            writes_per_second: rates.writes,
            evictions: Some(counts.evictions),
            evictions_per_second: rates.evictions,
            connections: Some(snapshot.curr_connections),
            connections_max: Some(self.stats.connections_max()),
            latency: self.latency(),
            uptime_secs: Some(u64::from(snapshot.now.secs)),
            version: Some(VERSION.to_string()),
            admin: self.fixed.admin.clone(),
            preferred,
            settings,
            ..Node::default()
        };
        if let Some(pair) = self.pair.get() {
            // Not while it is read: the pair's thread waits for readers before it tells the next status.
            let snapshot = Arc::clone(&pair.borrow());
            take_role(&mut node, &snapshot);
        }
        node
    }

    fn latency(&self) -> BTreeMap<String, Latency> {
        let measured = Kind::ALL.into_iter().map(|kind| (kind, self.stats.times(kind)));
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        measured
            .filter(|(_, times)| times.measured() > 0)
            .map(|(kind, times)| {
                let latency = Latency {
                    measured: times.measured(),
                    p50_us: micros(times.quantile(0.5)),
                    p99_us: micros(times.quantile(0.99)),
                    p999_us: micros(times.quantile(0.999)),
                };
                (kind.name().to_owned(), latency)
            })
            .collect()
    }
}

fn take_role(node: &mut Node, snapshot: &PairSnapshot) {
    let role = &snapshot.pair.role;
    node.role = role.state.name().to_string();
    node.epoch = role.epoch;
    node.role_reason = Some(role.why.to_string());
    node.role_for_secs = Some(driver::now().since(role.since).as_millis() as f64 / 1000.0);
    node.ready = ready(snapshot);
    node.failover_paused = snapshot.pair.failover_paused;
}

/// Whether a client that comes here is served, by this node or through it.
fn ready(snapshot: &PairSnapshot) -> bool {
    match snapshot.pair.role.state.name() {
        "master" => true,
        "backup" | "joining" => snapshot.proxy.is_some() && snapshot.pair.control_up,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NoJournal;
    use crate::engine::memory::{Memory, MemoryConfig};
    use crate::stats::{Detail, Shape};

    fn meter() -> Meter {
        let engine = Arc::new(Memory::new(MemoryConfig::default(), Arc::new(NoJournal)));
        let shape = Shape {
            lru_crawler: true,
            lru_maintainer: true,
            slab_reassign: true,
            refuse_fast: false,
            idle_timeout: false,
            track_sizes: false,
            tls: false,
            tls_sessions: false,
            threads: 1,
            connections_max: 1024,
            settings: Vec::new(),
            version: VERSION,
        };
        let stats = Stats::new(shape, engine, Detail::new(false, b':'));
        Meter::new(Arc::new(stats), Arc::new(Clock::start()), Fixed::default(), Wishes::default())
    }

    #[test]
    fn a_storm_of_questions_is_answered_from_few_looks() {
        let meter = meter();
        let start = Instant::now();
        let mut looks = vec![meter.snapshot()];
        for _ in 0..20_000 {
            meter.node();
            let seen = meter.snapshot();
            if !Arc::ptr_eq(&seen, looks.last().unwrap()) {
                looks.push(seen);
            }
        }
        let most = start.elapsed().as_millis() / FRESH.as_millis() + 1;
        assert!(looks.len() as u128 <= most, "{} looks, at most {most} are due", looks.len());
    }

    #[test]
    fn heartbeats_do_not_wait_for_whoever_is_measuring() {
        let meter = meter();
        assert!(!meter.load().summary.is_empty());
        meter.said.lock().unwrap().at = None;
        let measuring = meter.measured.lock().unwrap();
        // It would hang here.
        assert!(!meter.load().summary.is_empty(), "what was said before is said again");
        drop(measuring);
    }

    #[test]
    fn what_heartbeats_say_fits_into_them() {
        let meter = meter();
        for kind in Kind::ALL {
            meter.stats.cells[0].latency.record(kind, Duration::from_micros(1234));
        }
        let summary = meter.load().summary;
        assert!(summary.len() < tandem_replication::status::SUMMARY_BYTES_MAX / 2, "{} bytes", summary.len());
        let node: Node = serde_json::from_str(&summary).unwrap();
        assert_eq!(node.latency.len(), Kind::ALL.len());
    }

    #[test]
    fn rates_are_of_the_time_that_passed() {
        let before = Counts { reads: 10, hits: 8, misses: 2, ..Counts::default() };
        let now = Counts { reads: 30, writes: 5, hits: 20, misses: 10, evictions: 1 };
        let rates = Rates::between(before, now, Duration::from_secs(2));
        assert_eq!((rates.reads, rates.writes, rates.evictions), (Some(10.0), Some(2.5), Some(0.5)));
        assert_eq!(rates.hit_ratio, Some(0.6));
        assert_eq!(Rates::between(now, now, Duration::from_secs(1)).hit_ratio, None, "nothing was read");
    }
}
