//! What is counted, and the words in which it is told.
//!
//! Each worker counts in a cell of its own, so that nothing is shared on the hot path; a reader adds
//! the cells up. `table` is the one list of plain statistics (memcached's, in its order); `text`
//! tells the families of the `stats` command. `stats reset` moves a baseline instead of writing into
//! the cells of others.

pub mod latency;
mod table;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::command::Now;
use crate::engine::Engine;

use latency::{Kind, Latency, Times};

pub use table::{ROWS, Row, Snapshot, When};
pub use text::{Family, family};

/// A counter with one writer: no read-modify-write instruction, any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts. Only the counter's own thread may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
#[expect(missing_docs, reason = "most fields are the memcached statistic of the same name")]
pub struct WorkerCell {
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    pub conn_yields: Counter,
    pub idle_kicks: Counter,
    pub auth_cmds: Counter,
    pub auth_errors: Counter,
    /// `flush_all` that `-F` refused: memcached counts them in `cmd_flush`.
    pub flush_refused: Counter,
    /// Buffers in use for partial requests and unsent replies.
    pub buffers: AtomicU64,
    /// Bytes of them.
    pub buffer_bytes: AtomicU64,
    /// Requests handed to the node that serves.
    pub proxied_requests: Counter,
    /// Batches executed: what a watchdog compares to see that a worker moves.
    pub turns: Counter,
    /// How long requests took, of those that were measured.
    pub latency: Latency,
}

/// What the acceptor counts. Connections come and go on several threads, so these are shared; they
/// are touched once per connection.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each field is the memcached statistic of the same name")]
pub struct ConnectionCounts {
    /// Most there may be (`-c`).
    pub max_connections: AtomicU64,
    /// Seconds after which a silent client is sent away; 0 for never (`-o idle_timeout`).
    pub idle_timeout: AtomicU64,
    pub curr_connections: AtomicU64,
    pub total_connections: AtomicU64,
    pub rejected_connections: AtomicU64,
    pub listen_disabled_num: AtomicU64,
    pub time_in_listen_disabled_us: AtomicU64,
    /// Whether the acceptor stopped accepting.
    pub listen_disabled: AtomicBool,
    /// Most connections there ever were at once (`connection_structures`).
    pub connection_structures: AtomicU64,
}

/// What is counted about `watch`.
#[derive(Debug, Default)]
pub struct LogCounts {
    /// Lines made (`log_worker_written`).
    pub written: AtomicU64,
    /// Lines a watcher missed (`log_watcher_skipped`).
    pub skipped: AtomicU64,
    /// Lines handed to watchers' connections (`log_watcher_sent`).
    pub sent: AtomicU64,
    /// Watchers now (`log_watchers`).
    pub watchers: AtomicU64,
}

/// What is counted about TLS.
#[derive(Debug, Default)]
pub struct TlsCounts {
    /// `ssl_new_sessions`.
    pub new_sessions: AtomicU64,
    /// `ssl_handshake_errors`.
    pub handshake_errors: AtomicU64,
    /// `ssl_proto_errors`.
    pub protocol_errors: AtomicU64,
    /// The engine second in which the certificates were read last.
    pub refreshed_secs: AtomicU64,
}

/// A status as names and values, from the pair.
pub type PairProvider = Box<dyn Fn() -> PairReport + Send + Sync>;

/// What the pair says about itself.
#[derive(Clone, Debug, Default)]
pub struct PairReport {
    /// Whether this node takes writes now: `MASTER` or `BACKUP` in repcached's words.
    pub serves: bool,
    /// Room in the ring of changes, which repcached's monitors watch as `repcached_qi_free`.
    pub backlog_free: u64,
    /// Everything `stats replication` shows, in order.
    pub rows: Vec<(&'static str, String)>,
}

/// Which optional keys plain `stats` has.
#[derive(Clone, Debug)]
pub struct Shape {
    /// `-o no_lru_crawler` removes its keys.
    pub lru_crawler: bool,
    /// `-o no_lru_maintainer` removes its keys.
    pub lru_maintainer: bool,
    /// `-o no_slab_reassign` removes its keys.
    pub slab_reassign: bool,
    /// `maxconns_fast` shows `rejected_connections`.
    pub refuse_fast: bool,
    /// `idle_timeout` shows `idle_kicks`.
    pub idle_timeout: bool,
    /// `track_sizes` answers `stats sizes`.
    pub track_sizes: bool,
    /// `-Z` shows the keys of TLS.
    pub tls: bool,
    /// `ssl_session_cache` shows `ssl_new_sessions`.
    pub tls_sessions: bool,
    /// `-t`.
    pub threads: usize,
    /// `-c`.
    pub connections_max: usize,
    /// What `stats settings` shows.
    pub settings: Vec<(&'static str, String)>,
    /// What `version` says.
    pub version: &'static str,
}

/// Everything that can be told.
pub struct Stats {
    shape: Shape,
    engine: Arc<dyn Engine>,
    /// One per worker.
    pub cells: Vec<WorkerCell>,
    /// Connections.
    pub connections: ConnectionCounts,
    /// `watch`; shared with whoever watches.
    pub logs: Arc<LogCounts>,
    /// TLS.
    pub tls: TlsCounts,
    /// `stats detail`.
    pub detail: Detail,
    baseline: Mutex<Baseline>,
    pair: OnceLock<PairProvider>,
}

/// What `stats reset` subtracts from then on.
#[derive(Clone, Debug, Default)]
struct Baseline {
    bytes_read: u64,
    bytes_written: u64,
    conn_yields: u64,
    idle_kicks: u64,
    auth_cmds: u64,
    auth_errors: u64,
    flush_refused: u64,
    total_connections: u64,
    rejected_connections: u64,
    listen_disabled_num: u64,
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Stats {
    /// What memcached's flags make of the keys.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Counters for that many workers.
    pub fn new(shape: Shape, engine: Arc<dyn Engine>, detail: Detail) -> Self {
        let connections =
            ConnectionCounts { max_connections: (shape.connections_max as u64).into(), ..Default::default() };
        let cells = (0..shape.threads).map(|_| WorkerCell::default()).collect();
        Self {
            shape,
            engine,
            cells,
            connections,
            logs: Arc::default(),
            tls: TlsCounts::default(),
            detail,
            baseline: Mutex::default(),
            pair: OnceLock::new(),
        }
    }

    /// From now on the pair has something to say. Only the first provider counts.
    pub fn provide_pair(&self, provider: PairProvider) {
        let _first = self.pair.set(provider);
    }

    /// What the pair says, if there is one.
    pub fn pair(&self) -> Option<PairReport> {
        self.pair.get().map(|provider| provider())
    }

    /// Requests that were handed to the node that serves.
    pub fn proxied_requests(&self) -> u64 {
        self.cells.iter().map(|cell| cell.proxied_requests.value()).sum()
    }

    /// How long requests of that kind took, of those that were measured.
    pub fn times(&self, kind: Kind) -> Times {
        Times::of(kind, self.cells.iter().map(|cell| &cell.latency))
    }

    /// Everything at one moment.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let baseline = self.baseline.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sums = self.sums();
        let gauge = |pick: fn(&WorkerCell) -> &AtomicU64| -> u64 {
            self.cells.iter().map(|cell| pick(cell).load(Ordering::Relaxed)).sum()
        };
        let counts = &self.connections;
        Snapshot {
            now,
            engine: self.engine.stats(),
            max_connections: counts.max_connections.load(Ordering::Relaxed),
            curr_connections: counts.curr_connections.load(Ordering::Relaxed),
            connection_structures: counts.connection_structures.load(Ordering::Relaxed),
            accepting: !counts.listen_disabled.load(Ordering::Relaxed),
            time_in_listen_disabled_us: counts.time_in_listen_disabled_us.load(Ordering::Relaxed),
            tls_new_sessions: self.tls.new_sessions.load(Ordering::Relaxed),
            tls_handshake_errors: self.tls.handshake_errors.load(Ordering::Relaxed),
            tls_protocol_errors: self.tls.protocol_errors.load(Ordering::Relaxed),
            tls_refreshed_secs: self.tls.refreshed_secs.load(Ordering::Relaxed),
            log_written: self.logs.written.load(Ordering::Relaxed),
            log_skipped: self.logs.skipped.load(Ordering::Relaxed),
            log_sent: self.logs.sent.load(Ordering::Relaxed),
            log_watchers: self.logs.watchers.load(Ordering::Relaxed),
            buffers: gauge(|cell| &cell.buffers),
            buffer_bytes: gauge(|cell| &cell.buffer_bytes),
            bytes_read: sums.bytes_read - baseline.bytes_read,
            bytes_written: sums.bytes_written - baseline.bytes_written,
            conn_yields: sums.conn_yields - baseline.conn_yields,
            idle_kicks: sums.idle_kicks - baseline.idle_kicks,
            auth_cmds: sums.auth_cmds - baseline.auth_cmds,
            auth_errors: sums.auth_errors - baseline.auth_errors,
            flush_refused: sums.flush_refused - baseline.flush_refused,
            total_connections: sums.total_connections - baseline.total_connections,
            rejected_connections: sums.rejected_connections - baseline.rejected_connections,
            listen_disabled_num: sums.listen_disabled_num - baseline.listen_disabled_num,
        }
    }

    /// The numbers of plain `stats` at that moment: name, whether it only grows, value.
    pub fn numbers(&self, snapshot: &Snapshot) -> Vec<(&'static str, bool, f64)> {
        let number = |row: &Row| match (row.value)(snapshot, &self.shape) {
            table::Value::Number(value) => Some((row.name, row.grows, value as f64)),
            table::Value::Time(secs, micros) => {
                Some((row.name, row.grows, secs as f64 + micros as f64 / 1e6))
            }
            table::Value::Word(_) => None,
        };
        self.rows().filter_map(number).collect()
    }

    /// Most client connections there may be.
    pub fn connections_max(&self) -> u64 {
        self.connections.max_connections.load(Ordering::Relaxed)
    }

    /// How long a client may be silent, if that is limited.
    pub fn idle_timeout(&self) -> Option<Duration> {
        let seconds = self.connections.idle_timeout.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// The rows of plain `stats` that this node has.
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        // What was counted stays to be seen, and a reload may have begun to count.
        let is_idle_limited = self.idle_timeout().is_some();
        let is_there =
            move |row: &&Row| row.when.holds(&self.shape) || is_idle_limited && row.when == When::IdleTimeout;
        ROWS.iter().filter(is_there)
    }

    /// Whether `stats sizes` has an answer (`-o track_sizes`).
    pub const fn sizes_tracked(&self) -> bool {
        self.shape.track_sizes
    }

    /// `stats reset`.
    pub fn reset(&self) {
        *self.baseline.lock().unwrap_or_else(PoisonError::into_inner) = self.sums();
        self.detail.clear();
        self.engine.reset_stats();
    }

    fn sums(&self) -> Baseline {
        let sum = |pick: fn(&WorkerCell) -> &Counter| self.cells.iter().map(|cell| pick(cell).value()).sum();
        Baseline {
            bytes_read: sum(|cell| &cell.bytes_read),
            bytes_written: sum(|cell| &cell.bytes_written),
            conn_yields: sum(|cell| &cell.conn_yields),
            idle_kicks: sum(|cell| &cell.idle_kicks),
            auth_cmds: sum(|cell| &cell.auth_cmds),
            auth_errors: sum(|cell| &cell.auth_errors),
            flush_refused: sum(|cell| &cell.flush_refused),
            total_connections: self.connections.total_connections.load(Ordering::Relaxed),
            rejected_connections: self.connections.rejected_connections.load(Ordering::Relaxed),
            listen_disabled_num: self.connections.listen_disabled_num.load(Ordering::Relaxed),
        }
    }
}

/// Counts by key prefix (`stats detail`, `-D`): off unless asked for, because it takes a lock.
#[derive(Debug)]
pub struct Detail {
    /// Whether anything is counted.
    pub on: AtomicBool,
    delimiter: u8,
    prefixes: Mutex<BTreeMap<Box<[u8]>, PrefixCounts>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PrefixCounts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

/// What is counted by prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A read, and whether it hit.
    Get(bool),
    /// A store.
    Set,
    /// A removal.
    Delete,
}

impl Detail {
    /// Most prefixes that are kept, as memcached has it.
    const PREFIXES_MAX: usize = 65_536;

    /// Counts up to this character of the key.
    pub const fn new(on: bool, delimiter: u8) -> Self {
        Self { on: AtomicBool::new(on), delimiter, prefixes: Mutex::new(BTreeMap::new()) }
    }

    /// Counts, if it is on. Keys without the delimiter have no prefix.
    pub fn count(&self, key: &[u8], what: Counted) {
        let Some(at) = key.iter().position(|&byte| byte == self.delimiter) else { return };
        let prefix = &key[..at];
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if !prefixes.contains_key(prefix) {
            if prefixes.len() >= Self::PREFIXES_MAX {
                return;
            }
            prefixes.insert(prefix.into(), PrefixCounts::default());
        }
        let Some(counts) = prefixes.get_mut(prefix) else { return };
        match what {
            Counted::Get(hit) => {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            }
            Counted::Set => counts.sets += 1,
            Counted::Delete => counts.deletes += 1,
        }
    }

    /// `stats detail dump`.
    pub fn dump(&self, mut line: impl FnMut(&str)) {
        for (prefix, counts) in self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&format!(
                "PREFIX {} get {} hit {} set {} del {}",
                String::from_utf8_lossy(prefix),
                counts.gets,
                counts.hits,
                counts.sets,
                counts.deletes
            ));
        }
    }

    fn clear(&self) {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
