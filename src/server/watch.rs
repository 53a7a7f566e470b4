//! `watch`: lines about what happens, for whoever asked to see them.
//!
//! Intuition: the kinds that anybody watches stand in one word. A batch looks at it once; only if it
//! is not zero are commands executed one by one, with a look at the item before each, because
//! memcached logs that look too. Lines go into a bounded buffer per watcher, from which the watcher's
//! own connection writes. One that reads too slowly misses lines and is told how many.
//!
//! Promise: while nobody watches, a batch pays one relaxed load and an eviction another.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tandem_replication::change::{Bytes, Change};
use tokio::sync::Notify;

use super::clock::Clock;
use super::dump::encode;
use super::{Peer, limits};
use crate::command::{Command, Now, Op, Outcome, Refusal, Replies, StoreMode};
use crate::engine::{Engine, Evicted, Fate, memcached_class, memcached_size};
use crate::stats::LogCounts;

/// Kinds of lines, as bits.
pub(super) mod kind {
    /// `item_get`.
    pub(in super::super) const FETCHERS: u32 = 1;
    /// `item_store`.
    pub(in super::super) const MUTATIONS: u32 = 2;
    /// `eviction`.
    pub(in super::super) const EVICTIONS: u32 = 4;
    /// `deleted`.
    pub(in super::super) const DELETIONS: u32 = 8;
    /// `conn_new` and `conn_close`.
    pub(in super::super) const CONNECTIONS: u32 = 16;
    /// `lru_crawler`.
    pub(in super::super) const SYSTEM: u32 = 32;
    /// What a batch has to tell about.
    pub(in super::super) const ITEMS: u32 = FETCHERS | MUTATIONS | DELETIONS;
}

/// Reads the words behind `watch`; `None` if one of them is no kind.
pub(super) fn kinds(words: &[u8]) -> Option<u32> {
    let mut kinds = 0;
    for word in words.split(|&byte| byte == b' ').filter(|word| !word.is_empty()) {
        kinds |= match word {
            b"fetchers" => kind::FETCHERS,
            b"mutations" => kind::MUTATIONS,
            b"evictions" => kind::EVICTIONS,
            b"deletions" => kind::DELETIONS,
            b"connevents" => kind::CONNECTIONS,
            b"sysevents" => kind::SYSTEM,
            _ => return None,
        };
    }
    Some(if kinds == 0 { kind::FETCHERS } else { kinds })
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Error,
    Normal,
    IdleTimeout,
    Shutdown,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Normal => "normal",
            Self::IdleTimeout => "idle_timeout",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What the crawler did to a class since it was last told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crawled {
    pub(super) class: u8,
    /// Since the line before.
    pub(super) since_secs: u32,
    /// At most so long it took.
    pub(super) elapsed_secs: u32,
    pub(super) examined: u64,
    pub(super) reclaimed: u64,
}

/// Everybody who watches.
#[derive(Debug)]
pub(super) struct Watchers {
    /// What anybody watches.
    wanted: AtomicU32,
    next_line: AtomicU64,
    /// Never locked while a line is made; taken under a shard's lock when an item is evicted.
    list: Mutex<Vec<Arc<Watcher>>>,
    counts: Arc<LogCounts>,
    clock: Arc<Clock>,
}

/// One who watches.
#[derive(Debug)]
pub(super) struct Watcher {
    kinds: u32,
    lines: Mutex<Lines>,
    /// There is something to write.
    told: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
    /// Lines there was no room for since the last one there was.
    skipped: u64,
}

/// A place among the watchers; dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Watching {
    watcher: Arc<Watcher>,
    everybody: Arc<Watchers>,
}

impl Watchers {
    pub(super) fn new(counts: Arc<LogCounts>, clock: Arc<Clock>) -> Self {
        Self {
            wanted: AtomicU32::new(0),
            next_line: AtomicU64::new(1),
            list: Mutex::default(),
            counts,
            clock,
        }
    }

    /// Whether anybody watches one of these kinds.
    #[inline]
    pub(super) fn wants(&self, kinds: u32) -> bool {
        self.wanted.load(Ordering::Relaxed) & kinds != 0
    }

    /// One more; `None` if there are too many.
    pub(super) fn add(self: &Arc<Self>, kinds: u32) -> Option<Watching> {
        let mut list = self.list();
        if list.len() >= limits::WATCHERS {
            return None;
        }
        let watcher = Arc::new(Watcher { kinds, lines: Mutex::default(), told: Notify::new() });
        list.push(Arc::clone(&watcher));
        self.count(&list);
        drop(list);
        Some(Watching { watcher, everybody: Arc::clone(self) })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, list: &[Arc<Watcher>]) {
        self.wanted.store(list.iter().fold(0, |all, watcher| all | watcher.kinds), Ordering::Relaxed);
        self.counts.watchers.store(list.len() as u64, Ordering::Relaxed);
    }

    /// Tells everybody who watches that kind. `rest` is what stands behind time and number.
    fn tell(&self, kind: u32, rest: std::fmt::Arguments<'_>) {
        if !self.wants(kind) {
            return;
        }
        let micros = self.clock.unix_micros();
        let number = self.next_line.fetch_add(1, Ordering::Relaxed);
        // memcached does not pad the microseconds.
        let (secs, micros) = (micros / 1_000_000, micros % 1_000_000);
        let line = format!("ts={secs}.{micros} gid={number} {rest}\n");
        self.counts.written.fetch_add(1, Ordering::Relaxed);
        for watcher in self.list().iter().filter(|watcher| watcher.kinds & kind != 0) {
            if !watcher.put(line.as_bytes()) {
                self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn connected(&self, peer: &Peer, descriptor: i32) {
        if self.wants(kind::CONNECTIONS) {
            let end = endpoint(peer);
            self.tell(kind::CONNECTIONS, format_args!("type=conn_new {end} cfd={descriptor}"));
        }
    }

    pub(super) fn disconnected(&self, peer: &Peer, descriptor: i32, reason: Reason) {
        if self.wants(kind::CONNECTIONS) {
            let (end, reason) = (endpoint(peer), reason.name());
            self.tell(
                kind::CONNECTIONS,
                format_args!("type=conn_close {end} reason={reason} cfd={descriptor}"),
            );
        }
    }

    /// There is one crawler for all items here, and it goes by what may have expired, not by a timetable:
    /// the words about memcached's lists and its next run hold what is true of every run.
    pub(super) fn crawled(&self, done: &Crawled) {
        let Crawled { class, since_secs, elapsed_secs, examined, reclaimed } = done;
        self.tell(
            kind::SYSTEM,
            format_args!(
                "type=lru_crawler crawler={class} lru=cold low_mark=0 next_reclaims=0 since_run={since_secs} \
                 next_run=0 elapsed={elapsed_secs} examined={examined} reclaimed={reclaimed}"
            ),
        );
    }

    /// Called under a shard's lock: a bounded copy into each watcher's buffer.
    pub(super) fn evicted(&self, item: &Evicted<'_>) {
        if !self.wants(kind::EVICTIONS) {
            return;
        }
        let mut rest = String::from("type=eviction key=");
        encode(item.key, &mut rest);
        let _infallible = write!(
            rest,
            " fetch={} ttl={} la={} clsid={} size={}",
            if item.fetched { "yes" } else { "no" },
            item.left_secs.map_or(-1, i64::from),
            item.idle_secs,
            item.class,
            item.value_len
        );
        self.tell(kind::EVICTIONS, format_args!("{rest}"));
    }
}

impl Watcher {
    /// Takes a line if there is room; whether there was.
    fn put(&self, line: &[u8]) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.bytes.len() + line.len() > limits::WATCHER_BYTES {
            lines.skipped += 1;
            return false;
        }
        if lines.skipped > 0 {
            let skipped = std::mem::take(&mut lines.skipped);
            lines.bytes.extend_from_slice(format!("skipped={skipped}\n").as_bytes());
        }
        lines.bytes.extend_from_slice(line);
        lines.count += 1;
        drop(lines);
        self.told.notify_one();
        true
    }
}

impl Watching {
    /// Waits for lines and takes all there are.
    pub(super) async fn lines(&self) -> Vec<u8> {
        loop {
            {
                let mut lines = self.watcher.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.count > 0 {
                    self.everybody.counts.sent.fetch_add(lines.count, Ordering::Relaxed);
                    lines.count = 0;
                    return std::mem::take(&mut lines.bytes);
                }
            }
            self.watcher.told.notified().await;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut list = self.everybody.list();
        list.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.everybody.count(&list);
    }
}

/// Where a connection comes from, as lines show it.
fn endpoint(peer: &Peer) -> String {
    let of = |address: &std::net::SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!("rip={ip} rport={} transport=tcp", address.port()),
        IpAddr::V6(ip) => format!("rip={ip} rport={} transport=tcp", address.port()),
    };
    match peer {
        Peer::Tcp(address, _) | Peer::Proxied(address) => of(address),
        Peer::Unix => "rip=unix rport=0 transport=local".to_owned(),
    }
}

/// Executes one command and tells about it.
pub(super) struct Witness<'x> {
    pub(super) watchers: &'x Watchers,
    pub(super) engine: &'x dyn Engine,
    /// Whose command it is.
    pub(super) descriptor: i32,
    /// Items have CAS uniques, which count in their size.
    pub(super) cas: bool,
    pub(super) now: Now,
}

/// An item as it was before a command.
#[derive(Clone, Copy, Debug)]
struct Before {
    class: u8,
    value_len: usize,
    flags: u32,
    deadline: u32,
}

impl Witness<'_> {
    /// `meta` says that the command came as `md`.
    pub(super) fn execute(&self, command: &Command<'_>, meta: bool, replies: &mut dyn Replies) {
        let before = self.look(&command.key);
        let mut seen = Seen { replies, became: Became::Nothing };
        self.engine.execute(std::slice::from_ref(command), self.now, &mut seen);
        let became = seen.became;
        let mut key = String::new();
        encode(&command.key, &mut key);
        match &command.op {
            Op::Refuse(refuse) => {
                let status = match refuse.why {
                    Refusal::TooLarge => "too_large",
                    Refusal::OutOfMemory => "no_memory",
                };
                self.stored(&key, status, store_word(refuse.mode, refuse.compares), 0, 0, 0);
                if refuse.drops {
                    self.got(&key, before);
                }
            }
            Op::Store(store) => {
                self.got(&key, before);
                let Became::Status(status, len) = became else { return };
                let extends = matches!(store.mode, StoreMode::Append | StoreMode::Prepend);
                let kept = before.ok().filter(|_| extends && status == "stored");
                let (flags, deadline) = kept.map_or_else(
                    || (store.flags, store.exptime.deadline(self.now).0),
                    |before| (before.flags, before.deadline),
                );
                let len = if status == "stored" { len } else { store.value.len() };
                let word = store_word(store.mode, store.compare.is_some());
                let class = memcached_class(memcached_size(command.key.len(), len, flags, self.cas));
                self.stored(&key, status, word, self.left(deadline), class, len);
            }
            Op::Delete(delete) => {
                self.got(&key, before);
                let gone = matches!(became, Became::Deleted) && !delete.invalidate && !delete.drop_value;
                if let Some(before) = before.ok().filter(|_| gone) {
                    let word = if meta { "md" } else { "delete" };
                    let Before { class, value_len, .. } = before;
                    self.watchers.tell(
                        kind::DELETIONS,
                        format_args!("type=deleted key={key} cmd={word} clsid={class} size={value_len}"),
                    );
                }
            }
            Op::Arith(arith) => {
                self.got(&key, before);
                if matches!(became, Became::Created(_)) {
                    // memcached adds what was missing, and looks once more.
                    self.got(&key, Err(Fate::Missing));
                }
                if let (Became::Created(len), Some((_, exptime))) = (became, arith.initial) {
                    let class = memcached_class(memcached_size(command.key.len(), len, 0, self.cas));
                    let deadline = exptime.deadline(self.now).0;
                    self.stored(&key, "stored", "add", self.left(deadline), class, len);
                }
            }
            Op::Read | Op::Get(_) | Op::Inspect | Op::Touch(_) => self.got(&key, before),
        }
    }

    /// What is there, or what became of it, without a trace.
    fn look(&self, key: &[u8]) -> Result<Before, Fate> {
        match self.engine.fate(key, self.now) {
            Fate::There => {}
            fate => return Err(fate),
        }
        let mut before = None;
        self.engine.read(key, self.now, &mut |change| {
            if let Change::Put(put) = change {
                let value_len = match &put.value {
                    Bytes::Whole(bytes) => bytes.len(),
                    Bytes::Chunks(chunks) => chunks.iter().map(|chunk| chunk.len()).sum(),
                };
                let class = memcached_class(memcached_size(key.len(), value_len, put.flags, self.cas));
                before = Some(Before { class, value_len, flags: put.flags, deadline: put.deadline });
            }
        });
        before.ok_or(Fate::Missing)
    }

    fn got(&self, key: &str, before: Result<Before, Fate>) {
        let (status, class, len) = match before {
            Ok(before) => ("found", before.class, before.value_len),
            Err(Fate::Expired) => ("expired", 0, 0),
            Err(Fate::Flushed) => ("flushed", 0, 0),
            Err(Fate::There | Fate::Missing) => ("not_found", 0, 0),
        };
        let descriptor = self.descriptor;
        self.watchers.tell(
            kind::FETCHERS,
            format_args!("type=item_get key={key} status={status} clsid={class} cfd={descriptor} size={len}"),
        );
    }

    fn stored(&self, key: &str, status: &str, word: &str, ttl: u32, class: u8, len: usize) {
        let descriptor = self.descriptor;
        self.watchers.tell(
            kind::MUTATIONS,
            format_args!(
                "type=item_store key={key} status={status} cmd={word} ttl={ttl} clsid={class} cfd={descriptor} size={len}"
            ),
        );
    }

    const fn left(&self, deadline: u32) -> u32 {
        deadline.saturating_sub(self.now.secs)
    }
}

/// What `cmd=` says of a store.
const fn store_word(mode: StoreMode, compares: bool) -> &'static str {
    match mode {
        StoreMode::Set | StoreMode::Replace if compares => "cas",
        StoreMode::Set => "set",
        StoreMode::Add => "add",
        StoreMode::Replace => "replace",
        StoreMode::Append => "append",
        StoreMode::Prepend => "prepend",
    }
}

/// What became of a command, as far as lines tell it.
#[derive(Clone, Copy, Debug)]
enum Became {
    Nothing,
    /// A store, and how long the value is now.
    Status(&'static str, usize),
    Deleted,
    /// A number that was not there before, of so many digits.
    Created(usize),
}

/// Hears an outcome and passes it on.
struct Seen<'x> {
    replies: &'x mut dyn Replies,
    became: Became,
}

impl Replies for Seen<'_> {
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        self.became = match &outcome {
            Outcome::Stored(kept) => Became::Status("stored", kept.len),
            Outcome::NotStored => Became::Status("not_stored", 0),
            Outcome::Exists => Became::Status("exists", 0),
            Outcome::NotFound => Became::Status("not_found", 0),
            Outcome::TooLarge => Became::Status("too_large", 0),
            Outcome::OutOfMemory => Became::Status("no_memory", 0),
            Outcome::Deleted(_) => Became::Deleted,
            Outcome::Number(_, hit) if hit.created => Became::Created(hit.value.len()),
            _ => Became::Nothing,
        };
        self.replies.reply(index, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kinds_and_none_means_fetchers() {
        assert_eq!(kinds(b""), Some(kind::FETCHERS));
        assert_eq!(kinds(b"mutations  evictions"), Some(kind::MUTATIONS | kind::EVICTIONS));
        assert_eq!(kinds(b"mutations nonsense"), None);
    }

    #[tokio::test]
    async fn a_slow_watcher_hears_how_many_lines_it_missed() {
        let watchers = Arc::new(Watchers::new(Arc::default(), Arc::new(Clock::start())));
        let watching = watchers.add(kind::CONNECTIONS).unwrap();
        let peer = Peer::Unix;
        let mut told = 0;
        while watchers.counts.skipped.load(Ordering::Relaxed) < 7 {
            watchers.connected(&peer, 5);
            told += 1;
        }
        assert!(watching.lines().await.len() <= limits::WATCHER_BYTES);
        watchers.connected(&peer, 6);
        let lines = String::from_utf8(watching.lines().await).unwrap();
        let (skipped, line) = lines.split_once('\n').unwrap();
        assert_eq!(skipped, "skipped=7");
        assert!(line.starts_with("ts=") && line.contains(&format!(" gid={} ", told + 1)), "{line}");
        assert!(line.ends_with(" type=conn_new rip=unix rport=0 transport=local cfd=6\n"), "{line}");
    }

    #[test]
    fn nobody_is_told_of_after_the_last_watcher_left() {
        let watchers = Arc::new(Watchers::new(Arc::default(), Arc::new(Clock::start())));
        let all: Vec<_> = (0..limits::WATCHERS).map(|_| watchers.add(kind::MUTATIONS).unwrap()).collect();
        assert!(watchers.add(kind::MUTATIONS).is_none());
        assert!(watchers.wants(kind::ITEMS) && !watchers.wants(kind::EVICTIONS));
        drop(all);
        assert!(!watchers.wants(u32::MAX));
        assert_eq!(watchers.counts.watchers.load(Ordering::Relaxed), 0);
    }
}
