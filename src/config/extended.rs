//! memcached's `-o` words: one table of what is accepted, what it shows in `stats settings`, and
//! the few that change something here.
//!
//! Most of them tune memory layouts that Tandem does not have. They are accepted, checked as
//! memcached checks them and shown as given, because they stand in the configuration files people
//! have; what a word does not change is not pretended elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Problem;

/// The outcome of all `-o` lists together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Over the connection limit: refuse at once (true) or let the kernel queue (false).
    pub refuse_fast: bool,
    /// Close a connection that was silent for that long.
    pub idle_timeout: Option<Duration>,
    /// Count items by size for `stats sizes`.
    pub track_sizes: bool,
    /// Show the keys of memcached's background crawler in `stats`.
    pub lru_crawler: bool,
    /// Show the keys of memcached's background maintainer in `stats`.
    pub lru_maintainer: bool,
    /// Show the keys of memcached's page mover in `stats`.
    pub slab_reassign: bool,
    /// What `stats settings` shows instead of its default, by its key there.
    pub shown: BTreeMap<&'static str, String>,
}

impl Default for Extended {
    fn default() -> Self {
        Self {
            refuse_fast: true,
            idle_timeout: None,
            track_sizes: false,
            lru_crawler: true,
            lru_maintainer: true,
            slab_reassign: true,
            shown: BTreeMap::new(),
        }
    }
}

impl Extended {
    /// Takes one `-o` list; what is wrong with it goes to `problems`.
    pub(super) fn take(&mut self, list: &str, problems: &mut Vec<Problem>) {
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            match ROWS.iter().find(|row| row.name == name) {
                Some(row) => self.apply(row, value, problems),
                None if LATER.iter().any(|prefix| name.starts_with(prefix)) => problems.push(Problem::new(
                    1,
                    format!("Illegal suboption \"{name}\": -o {name} belongs to a part that this build does not have; remove it"),
                )),
                None => problems.push(Problem::new(
                    1,
                    format!("Illegal suboption \"{name}\": -o knows no such word; see --help"),
                )),
            }
        }
    }

    fn apply(&mut self, row: &'static Row, value: Option<&str>, problems: &mut Vec<Problem>) {
        let mut refuse = |remedy: String| {
            problems
                .push(Problem::new(1, format!("-o {}={}: {remedy}", row.name, value.unwrap_or_default())));
        };
        let shown = match (row.takes, value) {
            (Takes::Nothing(shown), _) => shown.to_owned(),
            (Takes::Number(low, high), Some(value)) => match value.trim().parse::<u64>() {
                Ok(number) if (low..=high).contains(&number) => number.to_string(),
                _ => return refuse(format!("takes a number from {low} to {high}")),
            },
            (Takes::Ratio, Some(value)) => match value.trim().parse::<f64>() {
                Ok(ratio) if ratio > 0.0 && ratio.is_finite() => format!("{ratio:.2}"),
                _ => return refuse("takes a number greater than 0".to_owned()),
            },
            (Takes::OneOf(choices), Some(value)) => match choices.iter().find(|choice| **choice == value) {
                Some(choice) => (*choice).to_owned(),
                None => return refuse(format!("takes one of {}", choices.join(", "))),
            },
            (Takes::Text, Some(value)) => value.to_owned(),
            (Takes::Kilobytes(low, high), Some(value)) => match value.trim().parse::<u64>() {
                Ok(number) if (low..=high).contains(&number) => (number << 10).to_string(),
                _ => return refuse(format!("takes a number of kilobytes from {low} to {high}")),
            },
            (Takes::TlsVersion, Some(value)) => match value.trim() {
                "0" | "1" | "2" => "tlsv1.2".to_owned(),
                "3" => "tlsv1.3".to_owned(),
                _ => return refuse("takes 2 (TLS 1.2) or 3 (TLS 1.3); 0 and 1 mean 2 here".to_owned()),
            },
            (Takes::MaybeNumber(shown, ..), None) => shown.to_owned(),
            (Takes::MaybeNumber(_, low, high), Some(value)) => match value.trim().parse::<u64>() {
                Ok(number) if (low..=high).contains(&number) => number.to_string(),
                _ => return refuse(format!("takes a number from {low} to {high}")),
            },
            (_, None) => return refuse("needs a value, as in name=value".to_owned()),
        };
        match row.name {
            "maxconns_fast" => self.refuse_fast = true,
            "no_maxconns_fast" => self.refuse_fast = false,
            "idle_timeout" => {
                let seconds = shown.parse().unwrap_or(0);
                self.idle_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            "track_sizes" => self.track_sizes = true,
            "lru_crawler" => self.lru_crawler = true,
            "no_lru_crawler" => self.lru_crawler = false,
            "lru_maintainer" => self.lru_maintainer = true,
            "no_lru_maintainer" => self.lru_maintainer = false,
            "slab_reassign" => self.slab_reassign = true,
            "no_slab_reassign" => self.slab_reassign = false,
            "no_modern" => {
                (self.refuse_fast, self.slab_reassign) = (false, false);
                (self.lru_crawler, self.lru_maintainer) = (false, false);
                for key in [
                    "maxconns_fast",
                    "lru_crawler",
                    "lru_maintainer_thread",
                    "lru_segmented",
                    "slab_reassign",
                ] {
                    self.shown.insert(key, "no".to_owned());
                }
                self.shown.insert("hash_algorithm", "jenkins".to_owned());
                self.shown.insert("slab_chunk_max", "1048576".to_owned());
            }
            _ => {}
        }
        if let Some(key) = row.shows {
            self.shown.insert(key, shown);
        }
    }
}

/// What stands behind a word's `=`.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// Nothing; shown as this.
    Nothing(&'static str),
    /// A number in this range.
    Number(u64, u64),
    /// Nothing (shown as this), or a number in this range.
    MaybeNumber(&'static str, u64, u64),
    /// A fraction or factor greater than 0.
    Ratio,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A number of kilobytes in this range, shown in bytes.
    Kilobytes(u64, u64),
    /// 0 to 3: TLS 1.0 to 1.3. The two oldest are not spoken: 1.2 is the least.
    TlsVersion,
    /// Anything.
    Text,
}

/// One word of `-o`.
#[derive(Debug)]
struct Row {
    name: &'static str,
    takes: Takes,
    /// Its key in `stats settings`.
    shows: Option<&'static str>,
}

const fn row(name: &'static str, takes: Takes, shows: Option<&'static str>) -> Row {
    Row { name, takes, shows }
}

/// Words whose parts are not in this build: flash storage, the Lua proxy.
const LATER: [&str; 2] = ["ext_", "proxy_"];

const ROWS: &[Row] = &[
    row("maxconns_fast", Takes::Nothing("yes"), Some("maxconns_fast")),
    row("no_maxconns_fast", Takes::Nothing("no"), Some("maxconns_fast")),
    row("idle_timeout", Takes::Number(0, u32::MAX as u64), Some("idle_timeout")),
    row("modern", Takes::Nothing(""), None),
    row("no_modern", Takes::Nothing(""), None),
    row("lru_crawler", Takes::Nothing("yes"), Some("lru_crawler")),
    row("no_lru_crawler", Takes::Nothing("no"), Some("lru_crawler")),
    row("lru_crawler_sleep", Takes::Number(0, 1_000_000), Some("lru_crawler_sleep")),
    row("lru_crawler_tocrawl", Takes::Number(0, u32::MAX as u64), Some("lru_crawler_tocrawl")),
    row("lru_maintainer", Takes::Nothing("yes"), Some("lru_maintainer_thread")),
    row("no_lru_maintainer", Takes::Nothing("no"), Some("lru_maintainer_thread")),
    row("hot_lru_pct", Takes::Number(1, 79), Some("hot_lru_pct")),
    row("warm_lru_pct", Takes::Number(1, 79), Some("warm_lru_pct")),
    row("hot_max_factor", Takes::Ratio, Some("hot_max_factor")),
    row("warm_max_factor", Takes::Ratio, Some("warm_max_factor")),
    row("temporary_ttl", Takes::Number(0, u32::MAX as u64), Some("temporary_ttl")),
    row("slab_reassign", Takes::Nothing("yes"), Some("slab_reassign")),
    row("no_slab_reassign", Takes::Nothing("no"), Some("slab_reassign")),
    row("slab_automove", Takes::MaybeNumber("1", 0, 2), Some("slab_automove")),
    row("no_slab_automove", Takes::Nothing("0"), Some("slab_automove")),
    row("slab_automove_ratio", Takes::Ratio, Some("slab_automove_ratio")),
    row("slab_automove_window", Takes::Number(3, 1800), Some("slab_automove_window")),
    row("slab_automove_freeratio", Takes::Ratio, Some("slab_automove_freeratio")),
    row("slab_chunk_max", Takes::Number(1, 1024 * 1024), None),
    row("slab_sizes", Takes::Text, None),
    row("no_chunked_items", Takes::Nothing(""), None),
    row("hashpower", Takes::Number(12, 32), Some("hashpower_init")),
    row("no_hashexpand", Takes::Nothing(""), None),
    row("hash_algorithm", Takes::OneOf(&["jenkins", "murmur3", "xxh3"]), Some("hash_algorithm")),
    row("tail_repair_time", Takes::Number(10, u32::MAX as u64), Some("tail_repair_time")),
    row("track_sizes", Takes::Nothing("yes"), Some("track_sizes")),
    row("watcher_logbuf_size", Takes::Number(1, 1 << 20), None),
    row("worker_logbuf_size", Takes::Number(1, 1 << 20), None),
    row("read_buf_mem_limit", Takes::Number(0, 1 << 20), Some("read_buf_mem_limit")),
    row("resp_obj_mem_limit", Takes::Number(0, 1 << 20), None),
    row("inline_ascii_resp", Takes::Nothing(""), None),
    row("no_inline_ascii_resp", Takes::Nothing(""), None),
    row("drop_privileges", Takes::Nothing(""), None),
    row("no_drop_privileges", Takes::Nothing(""), None),
    row("ssl_chain_cert", Takes::Text, Some("ssl_chain_cert")),
    row("ssl_key", Takes::Text, Some("ssl_key")),
    row("ssl_verify_mode", Takes::Number(0, 3), Some("ssl_verify_mode")),
    row("ssl_keyformat", Takes::Number(1, 2), Some("ssl_keyformat")),
    row("ssl_ciphers", Takes::Text, Some("ssl_ciphers")),
    row("ssl_ca_cert", Takes::Text, Some("ssl_ca_cert")),
    row("ssl_wbuf_size", Takes::Kilobytes(1, 1 << 20), Some("ssl_wbuf_size")),
    row("ssl_session_cache", Takes::Nothing("yes"), Some("ssl_session_cache")),
    // The kernel encrypts for nobody here; what clients see is the same.
    row("ssl_kernel_tls", Takes::Nothing("no"), Some("ssl_kernel_tls")),
    row("ssl_min_version", Takes::TlsVersion, Some("ssl_min_version")),
    row("sock_cookie_id", Takes::Number(0, u32::MAX as u64), None),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn take(list: &str) -> (Extended, Vec<Problem>) {
        let (mut extended, mut problems) = (Extended::default(), Vec::new());
        extended.take(list, &mut problems);
        (extended, problems)
    }

    #[test]
    fn words_of_real_configurations_are_accepted() {
        let (extended, problems) = take(
            "modern,slab_reassign,slab_automove,lru_crawler,hash_algorithm=murmur3,idle_timeout=30,no_maxconns_fast",
        );
        assert_eq!(problems, []);
        assert_eq!(extended.idle_timeout, Some(Duration::from_secs(30)));
        assert!(!extended.refuse_fast);
        assert_eq!(extended.shown["slab_automove"], "1");
    }

    #[test]
    fn every_wrong_word_is_reported() {
        let (_, problems) = take("nonsense,hashpower=99,idle_timeout,ext_path=x,hash_algorithm=md5");
        assert_eq!(problems.len(), 5);
        assert!(problems[0].text.starts_with("Illegal suboption \"nonsense\""));
        assert!(problems.iter().all(|problem| problem.exit == 1));
    }
}
