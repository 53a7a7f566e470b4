//! What monitors read: the keys of `stats`, of which kind their values must be, and who reads them. A
//! reader fails, or shows nothing, when one of its keys is missing or is of another kind.

use std::collections::BTreeMap;

use crate::harness::{Client, Node};

/// The kind of a value.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Digits.
    Number,
    /// Digits, and not 0: somebody divides by it.
    Positive,
    /// Digits and at most one point.
    Decimal,
    /// Seconds, a point, six digits.
    Seconds,
    /// `yes` or `no`.
    YesNo,
    /// `on` or `off`.
    OnOff,
    /// `X.Y.Z` and what follows, without a blank; X is 1 or more.
    Version,
}
use Kind::{Decimal, Number, OnOff, Positive, Seconds, Version, YesNo};

impl Kind {
    fn holds(self, value: &str) -> bool {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self {
            Number => digits(value),
            Positive => digits(value) && value.bytes().any(|byte| byte != b'0'),
            Decimal => value.splitn(2, '.').all(digits),
            Seconds => value
                .split_once('.')
                .is_some_and(|(whole, micros)| digits(whole) && digits(micros) && micros.len() == 6),
            YesNo => matches!(value, "yes" | "no"),
            OnOff => matches!(value, "on" | "off"),
            Version => {
                let mut parts = value.splitn(3, '.');
                let major = parts.next().and_then(|part| part.parse::<u32>().ok());
                let minor = parts.next().is_some_and(digits);
                let patch = parts.next().is_some_and(|part| part.as_bytes()[0].is_ascii_digit());
                major.is_some_and(|major| major >= 1) && minor && patch && !value.contains(' ')
            }
        }
    }
}

/// `stats`, by reader. The Prometheus exporter reads most; what the others read beside or before it is
/// listed with them.
const GENERAL: &[(&str, Kind, &[&str])] = &[
    (
        "prometheus memcached_exporter",
        Number,
        &[
            "time",
            "curr_connections",
            "total_connections",
            "rejected_connections",
            "max_connections",
            "listen_disabled_num",
            "conn_yields",
            "connection_structures",
            "response_obj_oom",
            "response_obj_count",
            "response_obj_bytes",
            "read_buf_count",
            "read_buf_bytes",
            "read_buf_bytes_free",
            "read_buf_oom",
            "reserved_fds",
            "cmd_get",
            "cmd_set",
            "cmd_flush",
            "cmd_touch",
            "cmd_meta",
            "get_hits",
            "get_misses",
            "get_expired",
            "get_flushed",
            "delete_hits",
            "delete_misses",
            "incr_hits",
            "incr_misses",
            "decr_hits",
            "decr_misses",
            "cas_hits",
            "cas_misses",
            "cas_badval",
            "touch_hits",
            "touch_misses",
            "store_too_large",
            "store_no_memory",
            "auth_cmds",
            "auth_errors",
            "bytes_read",
            "bytes_written",
            "accepting_conns",
            "hash_power_level",
            "hash_bytes",
            "hash_is_expanding",
            "malloc_fails",
            "log_worker_dropped",
            "log_worker_written",
            "log_watcher_skipped",
            "log_watcher_sent",
            "log_watchers",
            "unexpected_napi_ids",
            "round_robin_fallback",
            "bytes",
            "curr_items",
            "total_items",
            "slab_global_page_pool",
            "slab_reassign_rescues",
            "slab_reassign_chunk_rescues",
            "slab_reassign_busy_items",
            "slab_reassign_busy_deletes",
            "slab_reassign_running",
            "slabs_moved",
            "expired_unfetched",
            "evicted_unfetched",
            "evicted_active",
            "evictions",
            "reclaimed",
            "crawler_reclaimed",
            "crawler_items_checked",
            "lrutail_reflocked",
            "lru_crawler_running",
            "lru_crawler_starts",
            "lru_maintainer_juggles",
            "moves_to_cold",
            "moves_to_warm",
            "moves_within_lru",
            "direct_reclaims",
            "lru_bumps_dropped",
            "time_in_listen_disabled_us",
        ],
    ),
    ("prometheus memcached_exporter", Seconds, &["rusage_user", "rusage_system"]),
    (
        "phpMemcachedAdmin divides by it",
        Positive,
        &["uptime", "limit_maxbytes", "threads", "pid", "pointer_size"],
    ),
    ("libmemcached, telegraf, Datadog", Version, &["version"]),
    ("collectd reads it as a number", Decimal, &["rusage_user", "rusage_system", "uptime"]),
];

/// `stats items`, behind `items:CLASS:`.
const ITEMS: &[&str] = &[
    "number",
    "number_hot",
    "number_warm",
    "number_cold",
    "age_hot",
    "age_warm",
    "age",
    "mem_requested",
    "evicted",
    "evicted_nonzero",
    "evicted_time",
    "outofmemory",
    "tailrepairs",
    "reclaimed",
    "expired_unfetched",
    "evicted_unfetched",
    "evicted_active",
    "crawler_reclaimed",
    "crawler_items_checked",
    "lrutail_reflocked",
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "direct_reclaims",
    "hits_to_hot",
    "hits_to_warm",
    "hits_to_cold",
    "hits_to_temp",
];

/// `stats slabs`, behind `CLASS:`.
const SLABS: &[&str] = &[
    "chunk_size",
    "chunks_per_page",
    "total_pages",
    "total_chunks",
    "used_chunks",
    "free_chunks",
    "free_chunks_end",
    "get_hits",
    "cmd_set",
    "delete_hits",
    "incr_hits",
    "decr_hits",
    "cas_hits",
    "cas_badval",
    "touch_hits",
];

const SETTINGS: &[(Kind, &[&str])] = &[
    (
        Number,
        &[
            "maxconns",
            "maxbytes",
            "item_size_max",
            "udpport",
            "num_threads",
            "lru_crawler_sleep",
            "lru_crawler_tocrawl",
            "hot_lru_pct",
            "warm_lru_pct",
            "tcp_backlog",
            "reqs_per_event",
            "verbosity",
            "idle_timeout",
            "chunk_size",
        ],
    ),
    (Decimal, &["hot_max_factor", "warm_max_factor", "growth_factor"]),
    (
        YesNo,
        &[
            "lru_crawler",
            "lru_maintainer_thread",
            "cas_enabled",
            "detail_enabled",
            "maxconns_fast",
            "auth_enabled_sasl",
            "flush_enabled",
            "dump_enabled",
            "slab_reassign",
            "lru_segmented",
        ],
    ),
    (OnOff, &["evictions"]),
];

fn family(client: &mut Client, name: &str) -> BTreeMap<String, String> {
    client.stats(name).into_iter().collect()
}

#[track_caller]
fn check(rows: &BTreeMap<String, String>, key: &str, kind: Kind, reader: &str) {
    let value = rows.get(key).unwrap_or_else(|| panic!("{reader} reads `{key}`, which is missing"));
    assert!(kind.holds(value), "{reader} reads `{key}` as {kind:?}, and it is `{value}`");
}

/// A node with hits, misses, small and large items.
fn busy_node() -> Node {
    let node = Node::start("");
    let value = "x".repeat(20_000);
    node.client().ask(
        format!("set a 0 0 1\r\n1\r\nset b 0 0 20000\r\n{value}\r\nget a none\r\nincr a 1\r\ntouch a 0\r\ndelete none\r\n"),
        "STORED\r\nSTORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n2\r\nTOUCHED\r\nNOT_FOUND\r\n",
    );
    node
}

#[test]
fn every_key_that_monitors_read_is_there_and_of_the_right_kind() {
    let node = busy_node();
    let mut client = node.client();
    let general = family(&mut client, "");
    for (reader, kind, keys) in GENERAL {
        for key in *keys {
            check(&general, key, *kind, reader);
        }
    }
    assert!(general.keys().all(|key| !key.contains(':')), "the exporter takes a colon for a class");
    let settings = family(&mut client, "settings");
    for (kind, keys) in SETTINGS {
        for key in *keys {
            check(&settings, key, *kind, "memcached_exporter, munin or Datadog");
        }
    }
    let items = family(&mut client, "items");
    let slabs = family(&mut client, "slabs");
    let classes: Vec<&str> = items.keys().filter_map(|key| key.strip_suffix(":number")).collect();
    assert_eq!(classes.len(), 2, "{classes:?}");
    for class in classes {
        for key in ITEMS {
            check(&items, &format!("{class}:{key}"), Number, "memcached_exporter, memcached-tool");
        }
        let class = class.strip_prefix("items:").unwrap();
        for key in SLABS {
            check(&slabs, &format!("{class}:{key}"), Number, "memcached_exporter, memcached-tool");
        }
    }
    for key in ["active_slabs", "total_malloced"] {
        check(&slabs, key, Number, "munin, collectd");
    }
}

/// The exporter turns `memcached_up` to 0 when a class of `stats slabs` lacks one of these, when a family
/// ends in an error, or when a line is no `STAT name value`.
#[test]
fn every_line_of_every_family_is_one_that_monitors_parse() {
    let node = busy_node();
    let mut client = node.client();
    for family in ["", "settings", "items", "slabs", "conns", "sizes"] {
        client.send(format!("stats {family}\r\n"));
        let answer = client.read_until("END\r\n");
        for line in answer.strip_suffix("END\r\n").unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 3 && words[0] == "STAT" && !words[1].is_empty(), "{family}: {line}");
        }
    }
}

/// Datadog's check asks in the binary protocol.
#[test]
fn binary_statistics_are_the_same_keys() {
    use std::io::Read as _;
    let node = busy_node();
    let text: Vec<String> = node.client().stats("").into_iter().map(|row| row.0).collect();
    let mut client = node.client();
    let mut request = vec![0x80, 0x10];
    request.resize(24, 0);
    client.send(request);
    let mut binary = Vec::new();
    loop {
        let mut head = [0; 24];
        client.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize];
        client.0.read_exact(&mut body).unwrap();
        if body.is_empty() {
            break;
        }
        body.truncate(usize::from(u16::from_be_bytes([head[2], head[3]])));
        binary.push(String::from_utf8(body).unwrap());
    }
    assert_eq!(text, binary);
}

/// Exporters for repcached need its keys in plain `stats`, and only there where there is a peer.
#[test]
fn repcacheds_keys_are_there_with_a_peer_only() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let keys = ["replication", "repcached_version", "repcached_qi_free"];
    let pair = Node::start(&format!("-x 127.0.0.1:1 -X {free} --admin off"));
    let rows = family(&mut pair.client(), "");
    assert!(keys.iter().all(|key| rows.contains_key(*key)), "{rows:?}");
    check(&rows, "repcached_qi_free", Number, "repcached's exporters");
    assert!(matches!(rows["replication"].as_str(), "MASTER" | "BACKUP"), "{rows:?}");
    let alone = family(&mut Node::start("").client(), "");
    assert!(keys.iter().all(|key| !alone.contains_key(*key)));
}
