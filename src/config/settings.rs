//! What `stats settings` shows: memcached's keys in memcached's order.

use super::{Config, Host};
use crate::protocol::Protocol;
use crate::server::Port;

/// Keys and values; those that change while the server runs (`maxbytes`, `verbosity`, `oldest`,
/// `detail_enabled`) are replaced when they are shown.
pub(super) fn table(config: &Config, slabs: &[(&'static str, String); 2]) -> Vec<(&'static str, String)> {
    let yes = |on: bool| if on { "yes" } else { "no" }.to_owned();
    let server = &config.server;
    let port = match server.port {
        Port::Off => "0".to_owned(),
        Port::Ephemeral => "-1".to_owned(),
        Port::Number(number) => number.to_string(),
    };
    let interfaces: Vec<String> = server
        .listen
        .iter()
        .map(|listen| match (&listen.host, listen.port) {
            (host, None) => host.clone().unwrap_or_else(|| Host::Any.to_string()),
            (host, Some(port)) => format!("{}:{port}", host.as_deref().unwrap_or("*")),
        })
        .collect();
    let interfaces = if interfaces.is_empty() { "NULL".to_owned() } else { interfaces.join(",") };
    let or_null = |text: Option<String>| text.unwrap_or_else(|| "NULL".to_owned());
    let mut rows: Vec<(&'static str, String)> = vec![
        ("maxbytes", config.engine.memory_bytes.to_string()),
        ("maxconns", server.connections_max.to_string()),
        ("tcpport", if server.unix.is_some() { "0".to_owned() } else { port }),
        ("udpport", "0".to_owned()),
        ("inter", interfaces),
        ("verbosity", config.process.verbosity.to_string()),
        ("oldest", "0".to_owned()),
        ("evictions", if config.engine.evict { "on" } else { "off" }.to_owned()),
        ("domain_socket", or_null(server.unix.as_ref().map(|unix| unix.path.display().to_string()))),
        ("umask", server.unix.as_ref().map_or(0o700, |unix| unix.mask).to_string()),
        ("shutdown_command", yes(server.shutdown_enabled)),
        ("growth_factor", slabs[0].1.clone()),
        ("chunk_size", slabs[1].1.clone()),
        ("num_threads", server.threads.to_string()),
        ("num_threads_per_udp", server.threads.to_string()),
        ("stat_key_prefix", char::from(server.prefix_delimiter).to_string()),
        ("detail_enabled", yes(server.detail_enabled)),
        ("reqs_per_event", server.requests_per_turn.to_string()),
        ("cas_enabled", yes(config.engine.cas)),
        ("tcp_backlog", server.backlog.to_string()),
        (
            "binding_protocol",
            match server.protocol {
                Protocol::Auto => "auto-negotiate",
                Protocol::Text => "ascii",
                Protocol::Binary => "binary",
            }
            .to_owned(),
        ),
        ("auth_enabled_sasl", yes(server.sasl)),
        (
            "auth_enabled_ascii",
            server.auth_file.as_ref().map_or_else(|| "no".to_owned(), |p| p.display().to_string()),
        ),
        ("item_size_max", config.engine.item_size_max.to_string()),
        ("maxconns_fast", yes(server.refuse_fast)),
        ("hashpower_init", "0".to_owned()),
        ("slab_reassign", yes(config.extended.slab_reassign)),
        ("slab_automove", "1".to_owned()),
        ("slab_automove_ratio", "0.80".to_owned()),
        ("slab_automove_window", "30".to_owned()),
        ("slab_chunk_max", "524288".to_owned()),
        ("lru_crawler", yes(config.extended.lru_crawler)),
        ("lru_crawler_sleep", "100".to_owned()),
        ("lru_crawler_tocrawl", "0".to_owned()),
        ("tail_repair_time", "0".to_owned()),
        ("flush_enabled", yes(server.flush_enabled)),
        ("dump_enabled", yes(server.dump_enabled)),
        ("hash_algorithm", "xxh3".to_owned()),
        ("lru_maintainer_thread", yes(config.extended.lru_maintainer)),
        ("lru_segmented", yes(config.extended.lru_maintainer)),
        ("hot_lru_pct", "20".to_owned()),
        ("warm_lru_pct", "40".to_owned()),
        ("hot_max_factor", "0.20".to_owned()),
        ("warm_max_factor", "2.00".to_owned()),
        ("temp_lru", yes(config.extended.shown.contains_key("temporary_ttl"))),
        ("temporary_ttl", "61".to_owned()),
        ("idle_timeout", "0".to_owned()),
        ("watcher_logbuf_size", (256 << 10).to_string()),
        ("worker_logbuf_size", (64 << 10).to_string()),
        ("read_buf_mem_limit", "0".to_owned()),
        ("track_sizes", yes(config.extended.track_sizes)),
        ("inline_ascii_response", "no".to_owned()),
        ("ext_item_size", "512".to_owned()),
        ("ext_item_age", u32::MAX.to_string()),
        ("ext_low_ttl", "0".to_owned()),
        ("ext_recache_rate", "2000".to_owned()),
        ("ext_wbuf_size", (4 << 20).to_string()),
        ("ext_compact_under", "0".to_owned()),
        ("ext_drop_under", "0".to_owned()),
        ("ext_max_sleep", "1000000".to_owned()),
        ("ext_max_frag", "0.80".to_owned()),
        ("slab_automove_freeratio", "0.010".to_owned()),
        ("ext_drop_unread", "no".to_owned()),
        ("ssl_enabled", yes(server.tls.is_some())),
        ("ssl_chain_cert", "NULL".to_owned()),
        ("ssl_key", "NULL".to_owned()),
        ("ssl_verify_mode", "0".to_owned()),
        ("ssl_keyformat", "1".to_owned()),
        ("ssl_ciphers", "NULL".to_owned()),
        ("ssl_ca_cert", "NULL".to_owned()),
        ("ssl_wbuf_size", "16384".to_owned()),
        ("ssl_session_cache", "no".to_owned()),
        ("ssl_kernel_tls", "no".to_owned()),
        ("ssl_min_version", "tlsv1.2".to_owned()),
        ("num_napi_ids", "(null)".to_owned()),
        ("memory_file", "(null)".to_owned()),
        ("client_flags_size", "4".to_owned()),
    ];
    for (key, value) in &mut rows {
        if let Some(shown) = config.extended.shown.get(key) {
            value.clone_from(shown);
        }
    }
    rows
}
