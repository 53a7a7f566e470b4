//! The families of the `stats` command, as names and values.

use crate::command::Now;
use crate::engine::ClassStats;

use super::table::Value;
use super::{PairReport, Stats};

/// What `stats WORDS` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family<'a> {
    /// Plain `stats`.
    General,
    /// `stats reset`.
    Reset,
    /// `stats settings`.
    Settings,
    /// `stats items`.
    Items,
    /// `stats slabs`.
    Slabs,
    /// `stats sizes`.
    Sizes,
    /// `stats conns`.
    Connections,
    /// `stats replication`.
    Replication,
    /// `stats detail` and its word.
    Detail(&'a [u8]),
    /// `stats cachedump` and its words.
    Cachedump(&'a [u8]),
    /// Something else.
    Unknown,
}

/// Reads the words behind `stats`.
pub fn family(words: &[u8]) -> Family<'_> {
    let end = words.iter().position(|&byte| byte == b' ').unwrap_or(words.len());
    let (first, rest) = words.split_at(end);
    let rest = rest.trim_ascii();
    match first {
        b"" => Family::General,
        b"reset" => Family::Reset,
        b"settings" => Family::Settings,
        b"items" => Family::Items,
        b"slabs" => Family::Slabs,
        b"sizes" => Family::Sizes,
        b"conns" => Family::Connections,
        b"replication" => Family::Replication,
        b"detail" => Family::Detail(rest),
        b"cachedump" => Family::Cachedump(rest),
        _ => Family::Unknown,
    }
}

impl Stats {
    /// Plain `stats`.
    pub fn general(&self, now: Now, mut tell: impl FnMut(&str, &str)) {
        let snapshot = self.snapshot(now);
        let mut text = String::new();
        for row in self.rows() {
            text.clear();
            use std::fmt::Write as _;
            let _infallible = match (row.value)(&snapshot, &self.shape) {
                Value::Number(number) => write!(text, "{number}"),
                Value::Time(seconds, micros) => write!(text, "{seconds}.{micros:06}"),
                Value::Word(word) => write!(text, "{word}"),
            };
            tell(row.name, &text);
        }
        if let Some(pair) = self.pair() {
            tell("replication", if pair.serves { "MASTER" } else { "BACKUP" });
            tell("repcached_version", self.shape.version);
            tell("repcached_qi_free", &pair.backlog_free.to_string());
        }
    }

    /// `stats replication`.
    pub fn replication(&self, mut tell: impl FnMut(&str, &str)) {
        let report = self.pair().unwrap_or_else(|| PairReport {
            serves: true,
            backlog_free: 0,
            rows: vec![("role", "standalone".to_owned())],
        });
        for (name, value) in &report.rows {
            tell(name, value);
        }
    }

    /// `stats settings`, with what has changed since the start.
    pub fn settings(&self, verbosity: u8, now: Now, mut tell: impl FnMut(&str, &str)) {
        let limit = self.snapshot(now).engine.limit;
        for (name, value) in &self.shape.settings {
            match *name {
                "maxbytes" => tell(name, &limit.to_string()),
                "maxconns" => tell(name, &self.connections_max().to_string()),
                "idle_timeout" => {
                    tell(name, &self.idle_timeout().map_or(0, |limit| limit.as_secs()).to_string());
                }
                "verbosity" => tell(name, &verbosity.to_string()),
                "detail_enabled" => {
                    let on = self.detail.on.load(std::sync::atomic::Ordering::Relaxed);
                    tell(name, if on { "yes" } else { "no" });
                }
                _ => tell(name, value),
            }
        }
    }

    /// `stats items`.
    pub fn items(&self, now: Now, mut tell: impl FnMut(&str, &str)) {
        for (class, stats) in &self.snapshot(now).engine.classes {
            if stats.number == 0 {
                continue;
            }
            for (name, value) in self.item_rows(stats) {
                tell(&format!("items:{class}:{name}"), &value.to_string());
            }
        }
    }

    fn item_rows(&self, s: &ClassStats) -> Vec<(&'static str, u64)> {
        let segmented = self.shape.lru_maintainer;
        let mut rows = vec![("number", s.number)];
        if segmented {
            // The small queue stands where memcached's hot one does, the main queue for warm and cold.
            rows.extend([("number_hot", s.number_small), ("number_warm", 0), ("number_cold", s.number_main)]);
            rows.extend([("age_hot", 0), ("age_warm", 0)]);
        }
        rows.extend([
            ("age", u64::from(s.age)),
            ("mem_requested", s.mem_requested),
            ("evicted", s.evicted),
            ("evicted_nonzero", s.evicted_nonzero),
            ("evicted_time", u64::from(s.evicted_time)),
            ("outofmemory", s.outofmemory),
            ("tailrepairs", 0),
            ("reclaimed", s.reclaimed),
            ("expired_unfetched", s.expired_unfetched),
            ("evicted_unfetched", s.evicted_unfetched),
        ]);
        if segmented {
            rows.push(("evicted_active", s.evicted_active));
        }
        rows.extend([
            ("crawler_reclaimed", s.crawler_reclaimed),
            ("crawler_items_checked", s.crawler_items_checked),
            ("lrutail_reflocked", 0),
        ]);
        if segmented {
            rows.extend([
                ("moves_to_cold", s.moves_to_cold),
                ("moves_to_warm", s.moves_to_warm),
                ("moves_within_lru", s.moves_within_lru),
                ("direct_reclaims", 0),
                ("hits_to_hot", 0),
                ("hits_to_warm", 0),
                ("hits_to_cold", s.get_hits),
                ("hits_to_temp", 0),
            ]);
        }
        rows
    }

    /// `stats slabs`. Exporters take an answer without classes for a fault, so there is always one.
    pub fn slabs(&self, now: Now, mut tell: impl FnMut(&str, &str)) {
        let snapshot = self.snapshot(now);
        let mut classes: Vec<(u8, ClassStats)> =
            snapshot.engine.classes.iter().map(|(class, stats)| (*class, stats.clone())).collect();
        if classes.is_empty() {
            classes.push((1, ClassStats::default()));
        }
        let mut malloced = 0;
        for (class, stats) in &classes {
            let rows = slab_rows(*class, stats);
            malloced += rows[2].1 * PAGE;
            for (name, value) in rows {
                tell(&format!("{class}:{name}"), &value.to_string());
            }
        }
        tell("active_slabs", &classes.len().to_string());
        tell("total_malloced", &malloced.max(snapshot.engine.used).to_string());
    }
}

/// memcached's pages, in which its slab classes take memory.
const PAGE: u64 = 1 << 20;

fn slab_rows(class: u8, s: &ClassStats) -> [(&'static str, u64); 15] {
    let chunk = chunk_size(class);
    let per_page = PAGE / chunk;
    let pages = s.number.div_ceil(per_page).max(1);
    [
        ("chunk_size", chunk),
        ("chunks_per_page", per_page),
        ("total_pages", pages),
        ("total_chunks", pages * per_page),
        ("used_chunks", s.number),
        ("free_chunks", pages * per_page - s.number),
        ("free_chunks_end", 0),
        ("get_hits", s.get_hits),
        ("cmd_set", s.cmd_set),
        ("delete_hits", s.delete_hits),
        ("incr_hits", s.incr_hits),
        ("decr_hits", s.decr_hits),
        ("cas_hits", s.cas_hits),
        ("cas_badval", s.cas_badval),
        ("touch_hits", s.touch_hits),
    ]
}

/// The chunk size of one of memcached's slab classes with its defaults: from 96 bytes by 1.25,
/// rounded up to 8, the last one 512 KiB.
fn chunk_size(class: u8) -> u64 {
    const LARGEST: u64 = 512 << 10;
    let mut size: u64 = 96;
    for _ in 1..class {
        size = (size * 5 / 4).next_multiple_of(8);
        if size * 5 / 4 > LARGEST {
            return LARGEST;
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_memcacheds() {
        let first: Vec<u64> = (1..=7).map(chunk_size).collect();
        assert_eq!(first, [96, 120, 152, 192, 240, 304, 384]);
        assert_eq!(chunk_size(39), 512 << 10);
        assert_eq!(chunk_size(60), 512 << 10);
    }

    #[test]
    fn families_are_told_apart() {
        assert_eq!(family(b""), Family::General);
        assert_eq!(family(b"detail  on"), Family::Detail(b"on"));
        assert_eq!(family(b"cachedump 1 0"), Family::Cachedump(b"1 0"));
        assert_eq!(family(b"nonsense"), Family::Unknown);
    }
}
