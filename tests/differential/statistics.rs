//! `stats`: the same keys in the same order, family by family.

use crate::exchange::{ask, connect};
use crate::reference_is_installed;
use crate::script::{Chop, Wire};
use crate::servers::{MEMCACHED, Server, TANDEM};

/// Keys that came or went between 1.6.18 and 1.6.45, and `io`, which is Tandem's own.
const CHANGED: [&str; 5] = [
    "io",
    "slab_reassign_evictions_nomem",
    "slab_reassign_busy_nomem",
    "slab_reassign_last_busy_status",
    "client_flags_size",
];

/// The keys of a family, without those, and with `fd` for descriptors.
async fn keys(server: &Server, family: &str) -> Vec<String> {
    let mut stream = connect(server.address()).await;
    let large = "x".repeat(5000);
    let said = format!(
        "set a 0 0 1\r\nb\r\nset l 0 0 5000\r\n{large}\r\nget a\r\nstats detail on\r\nstats {family}\r\n"
    );
    let answer = ask(&mut stream, Wire::Text, Chop::Whole, said.into_bytes(), 0).await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let keys = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split(' ').next());
    let keys = keys.filter(|key| !CHANGED.contains(key)).map(|key| match key.split_once(':') {
        Some((_descriptor, name)) if family == "conns" => format!("fd:{name}"),
        _ => key.to_owned(),
    });
    let mut keys: Vec<_> = keys.collect();
    if family == "conns" {
        // In the order of descriptors, which are each server's own; and whoever asked before may not be
        // gone yet.
        keys.sort();
        keys.dedup();
    }
    keys
}

#[test]
fn every_family_of_statistics_has_memcacheds_keys_in_its_order() {
    if !reference_is_installed() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for flags in
        [&[][..], &["-o", "no_lru_crawler,no_lru_maintainer"], &["-o", "idle_timeout=900,track_sizes"]]
    {
        let servers = [MEMCACHED, TANDEM].map(|program| Server::start_with(program, flags));
        for family in ["", "settings", "items", "slabs", "sizes", "conns"] {
            let (reference, ours) = runtime
                .block_on(async { (keys(&servers[0], family).await, keys(&servers[1], family).await) });
            assert_eq!(reference, ours, "stats {family} with {flags:?}");
            assert!(!ours.is_empty(), "{family}");
        }
    }
}
