//! The one table of plain statistics: memcached's names in memcached's order.

use crate::command::Now;
use crate::engine::EngineStats;

use super::Shape;

/// Everything at one moment, summed over workers.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "most fields are the memcached statistic of the same name")]
pub struct Snapshot {
    pub now: Now,
    pub engine: EngineStats,
    pub max_connections: u64,
    pub curr_connections: u64,
    pub connection_structures: u64,
    pub accepting: bool,
    pub time_in_listen_disabled_us: u64,
    pub buffers: u64,
    pub buffer_bytes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub conn_yields: u64,
    pub idle_kicks: u64,
    pub auth_cmds: u64,
    pub auth_errors: u64,
    pub flush_refused: u64,
    pub total_connections: u64,
    pub rejected_connections: u64,
    pub listen_disabled_num: u64,
    pub tls_new_sessions: u64,
    pub tls_handshake_errors: u64,
    pub tls_protocol_errors: u64,
    pub tls_refreshed_secs: u64,
    pub log_written: u64,
    pub log_skipped: u64,
    pub log_sent: u64,
    pub log_watchers: u64,
}

/// When a key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// With `maxconns_fast`.
    RefuseFast,
    /// With `idle_timeout`.
    IdleTimeout,
    /// With `slab_reassign`.
    SlabReassign,
    /// With the crawler.
    Crawler,
    /// With the maintainer.
    Maintainer,
    /// With TLS.
    Tls,
    /// With TLS and its session cache.
    TlsSessions,
}

impl When {
    pub(super) const fn holds(self, shape: &Shape) -> bool {
        match self {
            Self::Always => true,
            Self::RefuseFast => shape.refuse_fast,
            Self::IdleTimeout => shape.idle_timeout,
            Self::SlabReassign => shape.slab_reassign,
            Self::Crawler => shape.lru_crawler,
            Self::Maintainer => shape.lru_maintainer,
            Self::Tls => shape.tls,
            Self::TlsSessions => shape.tls && shape.tls_sessions,
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// Seconds and microseconds.
    Time(u64, u64),
    /// A word.
    Word(&'static str),
}

/// One statistic.
#[derive(Clone, Copy)]
pub struct Row {
    /// memcached's name.
    pub name: &'static str,
    /// When it is there.
    pub when: When,
    /// Whether it only grows (until `stats reset`).
    pub grows: bool,
    /// Its value.
    pub value: fn(&Snapshot, &Shape) -> Value,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("name", &self.name).field("when", &self.when).finish_non_exhaustive()
    }
}

const fn gauge(name: &'static str, value: fn(&Snapshot, &Shape) -> Value) -> Row {
    Row { name, when: When::Always, grows: false, value }
}

const fn counter(name: &'static str, value: fn(&Snapshot, &Shape) -> Value) -> Row {
    Row { name, when: When::Always, grows: true, value }
}

/// A part of memcached that has no counterpart here: the key stays, at rest.
const fn still(name: &'static str) -> Row {
    Row { name, when: When::Always, grows: true, value: |_, _| Value::Number(0) }
}

impl Row {
    const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// A counter of the engine's commands.
macro_rules! command {
    ($name:ident) => {
        counter(stringify!($name), |s, _| Value::Number(s.engine.commands.$name))
    };
}

/// A field of the snapshot.
macro_rules! server {
    ($kind:ident, $name:ident) => {
        $kind(stringify!($name), |s, _| Value::Number(s.$name))
    };
}

/// A sum over the slab classes.
macro_rules! classes {
    ($shown:literal, $name:ident) => {
        counter($shown, |s, _| Value::Number(s.engine.classes.values().map(|class| class.$name).sum()))
    };
}

fn usage(pick: fn(&nix::sys::resource::Usage) -> nix::sys::time::TimeVal) -> Value {
    match nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
        Ok(usage) => {
            let time = pick(&usage);
            Value::Time(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs())
        }
        Err(_) => Value::Time(0, 0),
    }
}

/// Plain `stats`.
pub const ROWS: &[Row] = &[
    gauge("pid", |_, _| Value::Number(u64::from(std::process::id()))),
    gauge("uptime", |s, _| Value::Number(u64::from(s.now.secs))),
    gauge("time", |s, _| Value::Number(s.now.unix())),
    gauge("version", |_, shape| Value::Word(shape.version)),
    // Clients only show it; the event library here is tokio.
    gauge("libevent", |_, _| Value::Word("tokio")),
    gauge("pointer_size", |_, _| Value::Number(u64::from(usize::BITS))),
    gauge("rusage_user", |_, _| usage(nix::sys::resource::Usage::user_time)),
    gauge("rusage_system", |_, _| usage(nix::sys::resource::Usage::system_time)),
    server!(gauge, max_connections),
    server!(gauge, curr_connections),
    server!(counter, total_connections),
    server!(counter, rejected_connections).when(When::RefuseFast),
    server!(gauge, connection_structures),
    still("response_obj_oom"),
    gauge("response_obj_count", |s, _| Value::Number(s.buffers)),
    gauge("response_obj_bytes", |s, _| Value::Number(s.engine.pinned_bytes)),
    gauge("read_buf_count", |s, _| Value::Number(s.buffers)),
    gauge("read_buf_bytes", |s, _| Value::Number(s.buffer_bytes)),
    still("read_buf_bytes_free"),
    still("read_buf_oom"),
    gauge("reserved_fds", |_, shape| Value::Number(5 * shape.threads as u64)),
    command!(cmd_get),
    command!(cmd_set),
    counter("cmd_flush", |s, _| Value::Number(s.engine.commands.cmd_flush + s.flush_refused)),
    command!(cmd_touch),
    command!(cmd_meta),
    command!(get_hits),
    command!(get_misses),
    command!(get_expired),
    command!(get_flushed),
    command!(delete_misses),
    command!(delete_hits),
    command!(incr_misses),
    command!(incr_hits),
    command!(decr_misses),
    command!(decr_hits),
    command!(cas_misses),
    command!(cas_hits),
    command!(cas_badval),
    command!(touch_hits),
    command!(touch_misses),
    command!(store_too_large),
    command!(store_no_memory),
    server!(counter, auth_cmds),
    server!(counter, auth_errors),
    server!(counter, idle_kicks).when(When::IdleTimeout),
    server!(counter, bytes_read),
    server!(counter, bytes_written),
    gauge("limit_maxbytes", |s, _| Value::Number(s.engine.limit)),
    gauge("accepting_conns", |s, _| Value::Number(u64::from(s.accepting))),
    server!(counter, listen_disabled_num),
    server!(counter, time_in_listen_disabled_us),
    gauge("threads", |_, shape| Value::Number(shape.threads as u64)),
    server!(counter, conn_yields),
    gauge("hash_power_level", |s, _| Value::Number(u64::from(s.engine.index_power))),
    gauge("hash_bytes", |s, _| Value::Number(s.engine.index_bytes)),
    gauge("hash_is_expanding", |s, _| Value::Number(u64::from(s.engine.index_growing))),
    still("slab_reassign_rescues").when(When::SlabReassign),
    still("slab_reassign_chunk_rescues").when(When::SlabReassign),
    still("slab_reassign_inline_reclaim").when(When::SlabReassign),
    still("slab_reassign_busy_items").when(When::SlabReassign),
    still("slab_reassign_busy_deletes").when(When::SlabReassign),
    still("slab_reassign_busy_nomem").when(When::SlabReassign),
    still("slab_reassign_last_busy_status").when(When::SlabReassign),
    still("slab_reassign_running").when(When::SlabReassign),
    still("slabs_moved").when(When::SlabReassign),
    still("lru_crawler_running").when(When::Crawler),
    still("lru_crawler_starts").when(When::Crawler),
    still("lru_maintainer_juggles").when(When::Maintainer),
    still("malloc_fails"),
    still("log_worker_dropped"),
    counter("log_worker_written", |s, _| Value::Number(s.log_written)),
    counter("log_watcher_skipped", |s, _| Value::Number(s.log_skipped)),
    counter("log_watcher_sent", |s, _| Value::Number(s.log_sent)),
    gauge("log_watchers", |s, _| Value::Number(s.log_watchers)),
    counter("ssl_new_sessions", |s, _| Value::Number(s.tls_new_sessions)).when(When::TlsSessions),
    counter("ssl_handshake_errors", |s, _| Value::Number(s.tls_handshake_errors)).when(When::Tls),
    counter("ssl_proto_errors", |s, _| Value::Number(s.tls_protocol_errors)).when(When::Tls),
    gauge("time_since_server_cert_refresh", |s, _| {
        Value::Number(u64::from(s.now.secs).saturating_sub(s.tls_refreshed_secs))
    })
    .when(When::Tls),
    still("unexpected_napi_ids"),
    still("round_robin_fallback"),
    gauge("bytes", |s, _| Value::Number(s.engine.bytes)),
    gauge("curr_items", |s, _| Value::Number(s.engine.curr_items)),
    counter("total_items", |s, _| Value::Number(s.engine.total_items)),
    still("slab_global_page_pool"),
    classes!("expired_unfetched", expired_unfetched),
    classes!("evicted_unfetched", evicted_unfetched),
    classes!("evicted_active", evicted_active).when(When::Maintainer),
    classes!("evictions", evicted),
    classes!("reclaimed", reclaimed),
    classes!("crawler_reclaimed", crawler_reclaimed),
    classes!("crawler_items_checked", crawler_items_checked),
    still("lrutail_reflocked"),
    classes!("moves_to_cold", moves_to_cold).when(When::Maintainer),
    classes!("moves_to_warm", moves_to_warm).when(When::Maintainer),
    classes!("moves_within_lru", moves_within_lru).when(When::Maintainer),
    still("direct_reclaims").when(When::Maintainer),
    still("lru_bumps_dropped").when(When::Maintainer),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_key_has_no_colon_and_stands_once() {
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        assert!(names.iter().all(|name| !name.contains(':')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn the_number_of_keys_is_memcacheds() {
        let shape = |on: bool| Shape {
            lru_crawler: on,
            lru_maintainer: on,
            slab_reassign: true,
            refuse_fast: true,
            idle_timeout: false,
            track_sizes: false,
            tls: false,
            tls_sessions: false,
            threads: 4,
            connections_max: 1024,
            settings: Vec::new(),
            version: "",
        };
        let count = |shape: &Shape| ROWS.iter().filter(|row| row.when.holds(shape)).count();
        assert_eq!(count(&shape(true)), 93);
        assert_eq!(count(&shape(false)), 84);
    }
}
