//! Bytes per item: what the process holds above what it held when empty, over the items that are there.
//! Pages of the program's own file, which the kernel shares and may drop, are not counted.

use tandemd::bench::plan::Plan;

use crate::plot;
use crate::process::{Server, plan};
use crate::table::markdown;

/// Key and value bytes, `-m`, and the overhead that must be reached.
const CASES: [(usize, usize, u32, &str); 6] = [
    (16, 32, 64, "≤ 32"),
    (32, 100, 64, "≤ 41"),
    (32, 300, 64, "≤ 46"),
    (32, 1024, 64, "≤ 58"),
    (32, 100, 1024, "≤ 41"),
    (32, 1024, 1024, "≤ 58"),
];

/// The table and the plot.
pub(crate) fn compare() -> (String, String) {
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for (key, value, megabytes, goal) in CASES {
        let seen = [Server::tandem(megabytes), Server::memcached(megabytes)]
            .map(|server| filled(&server, key, value, megabytes));
        let overhead =
            seen.each_ref().map(|seen| seen.own_bytes as f64 / seen.items as f64 - (key + value) as f64);
        let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let name = format!("{key}+{value}, -m {megabytes}");
        rows.push(vec![
            name.clone(),
            seen[0].items.to_string(),
            seen[1].items.to_string(),
            mebibytes(seen[0].resident_bytes),
            mebibytes(seen[1].resident_bytes),
            format!("{:.1}", overhead[0]),
            format!("{:.1}", overhead[1]),
            goal.to_owned(),
        ]);
        bars.push((name, overhead[0], Some(overhead[1])));
        println!("{}", rows[rows.len() - 1].join(" | "));
    }
    let head = [
        "key + value",
        "items, Tandem",
        "items, memcached",
        "resident MiB, Tandem",
        "resident MiB, memcached",
        "overhead, Tandem",
        "overhead, memcached",
        "must",
    ];
    (markdown(&head, &rows), plot::bars("Bytes of overhead per item", ["Tandem", "memcached"], &bars))
}

/// A server that was filled beyond its limit.
struct Filled {
    items: u64,
    resident_bytes: u64,
    /// Of its own memory, above what it had when empty.
    own_bytes: u64,
}

fn filled(server: &Server, key: usize, value: usize, megabytes: u32) -> Filled {
    let plan = plan(&server.address(), &format!("-c 4 -v {value}"));
    let keys = (u64::from(megabytes) << 20) / (key + value) as u64 * 5 / 4;
    let plan = Plan { keys, key_prefix: "k".repeat(key - 10), ..plan };
    // What serving as many connections takes is not the items'.
    tandemd::bench::run(&Plan { sets: 0.0, operations: Some(2_000), ..plan.clone() }).expect("misses");
    let empty = own_bytes(server);
    tandemd::bench::run(&plan.filling()).expect("the items");
    let stats = server.client().stats("").expect("statistics");
    Filled {
        items: stats.get("curr_items").and_then(|items| items.parse().ok()).expect("a number of items"),
        resident_bytes: server.usage().resident_bytes,
        own_bytes: own_bytes(server).saturating_sub(empty),
    }
}

/// Resident memory that no file is behind.
fn own_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a running server");
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
    kilobytes.and_then(|number| number.trim().parse::<u64>().ok()).expect("a number of kilobytes") << 10
}
