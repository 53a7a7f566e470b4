//! Walks over all items, in steps, so that neither a lock nor a worker nor memory is held for long.
//!
//! A step first collects the keys of a slice of one shard, then looks at each item as a client would:
//! what `scan` shows is what the peer would need, what `Inspect` shows is what monitors want.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use tandem_replication::change::Change;

use super::{Service, limits};
use crate::command::{Command, Hit, Now, Op, Outcome, Replies};
use crate::protocol::Output;

/// A walk and what it tells.
#[derive(Debug)]
pub(super) struct Dump {
    what: What,
    shard: usize,
    cursor: u64,
    /// Bytes told so far.
    told: usize,
    /// Items told so far.
    items: u64,
}

#[derive(Debug)]
enum What {
    /// `lru_crawler metadump`, of these classes (all if empty).
    Metadump(Vec<u8>),
    /// `lru_crawler mgdump`.
    Mgdump(Vec<u8>),
    /// `stats cachedump`: a class and how many (0: all that fit).
    Class(u8, u64),
    /// `stats sizes`.
    Sizes(BTreeMap<usize, u64>),
}

impl Dump {
    fn new(what: What) -> Self {
        Self { what, shard: 0, cursor: 0, told: 0, items: 0 }
    }

    /// `metadump` or `mgdump` of `all`, `hash` or a list of class numbers; `None` if it is no such list.
    pub(super) fn lines(meta: bool, which: &[u8]) -> Option<Self> {
        let classes = match which {
            b"all" | b"hash" => Vec::new(),
            list => {
                let list = std::str::from_utf8(list).ok()?;
                let classes: Option<Vec<u8>> =
                    list.split(',').map(|id| id.parse().ok().filter(|id| (1..=63).contains(id))).collect();
                classes.filter(|classes| !classes.is_empty())?
            }
        };
        Some(Self::new(if meta { What::Metadump(classes) } else { What::Mgdump(classes) }))
    }

    pub(super) fn class(class: u8, limit: u64) -> Self {
        Self::new(What::Class(class, limit))
    }

    pub(super) fn sizes() -> Self {
        Self::new(What::Sizes(BTreeMap::new()))
    }

    /// Tells the next slice. Returns whether there is more.
    pub(super) fn step(&mut self, service: &Service, now: Now, out: &mut Output) -> bool {
        let before = out.total();
        if self.shard < service.engine.shards() && !self.is_full() {
            let mut keys = Vec::new();
            let next =
                service.engine.scan(self.shard, self.cursor, limits::DUMP_STEP_BYTES, now, &mut |change| {
                    if let Change::Put(put) = change {
                        keys.push(Command { key: put.key.to_vec().into(), op: Op::Inspect });
                    }
                });
            match next {
                Some(cursor) => self.cursor = cursor,
                None => {
                    self.shard += 1;
                    self.cursor = 0;
                }
            }
            let mut teller = Teller { dump: self, keys: &keys, now, out, line: String::new() };
            service.engine.execute(&keys, now, &mut teller);
            self.told += out.total() - before;
            return true;
        }
        match &self.what {
            What::Metadump(_) | What::Class(..) => out.extend(b"END\r\n"),
            What::Mgdump(_) => out.extend(b"EN\r\n"),
            What::Sizes(sizes) => {
                for (size, count) in sizes {
                    out.extend(format!("STAT {size} {count}\r\n").as_bytes());
                }
                out.extend(b"END\r\n");
            }
        }
        false
    }

    const fn is_full(&self) -> bool {
        match &self.what {
            What::Class(_, limit) => {
                self.told > limits::CACHEDUMP_BYTES - 512 || (*limit > 0 && self.items >= *limit)
            }
            _ => false,
        }
    }

    fn tell(&mut self, key: &[u8], hit: &Hit<'_>, now: Now, line: &mut String, out: &mut Output) {
        line.clear();
        let unix = |secs: u32| now.unix_zero + u64::from(secs);
        let wanted = |classes: &[u8]| classes.is_empty() || classes.contains(&hit.class);
        let _infallible = match &mut self.what {
            What::Metadump(classes) if wanted(classes) => {
                line.push_str("key=");
                encode(key, line);
                let _infallible = match hit.deadline.0 {
                    0 => write!(line, " exp=-1"),
                    secs => write!(line, " exp={}", unix(secs)),
                };
                writeln!(
                    line,
                    " la={} cas={} fetch={} cls={} size={} flags={} ",
                    unix(now.secs.saturating_sub(hit.idle_secs)),
                    hit.cas,
                    if hit.fetched { "yes" } else { "no" },
                    hit.class,
                    hit.size,
                    hit.flags
                )
            }
            What::Mgdump(classes) if wanted(classes) => {
                out.extend(b"mg ");
                if hit.binary_key {
                    base64::engine::general_purpose::STANDARD.encode_string(key, line);
                    line.push_str(" b");
                } else {
                    out.extend(key);
                }
                line.push_str("\r\n");
                Ok(())
            }
            What::Class(class, _) if *class == hit.class => {
                if self.is_full() {
                    return;
                }
                self.items += 1;
                out.extend(b"ITEM ");
                out.extend(key);
                let deadline = if hit.deadline.0 == 0 { 0 } else { unix(hit.deadline.0) };
                write!(line, " [{} b; {deadline} s]\r\n", hit.value.len())
            }
            What::Sizes(sizes) => {
                *sizes.entry(hit.size.next_multiple_of(32)).or_default() += 1;
                Ok(())
            }
            _ => Ok(()),
        };
        out.extend(line.as_bytes());
    }
}

struct Teller<'x> {
    dump: &'x mut Dump,
    keys: &'x [Command<'x>],
    now: Now,
    out: &'x mut Output,
    line: String,
}

impl Replies for Teller<'_> {
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        if let Outcome::Hit(hit) = outcome {
            self.dump.tell(&self.keys[index].key, &hit, self.now, &mut self.line, self.out);
        }
    }
}

/// A key as memcached writes it in lines that must stay lines: URI encoded.
pub(super) fn encode(key: &[u8], line: &mut String) {
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            line.push(char::from(byte));
        } else {
            let _infallible = write!(line, "%{byte:02X}");
        }
    }
}
