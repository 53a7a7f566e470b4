//! Are two answers the same? Byte for byte, up to what no two servers can share.
//!
//! Three things differ by nature and are compared by meaning: CAS uniques (each server counts its own;
//! they must map onto each other one to one), seconds left or passed (the clocks tick at different
//! moments; one second of difference is allowed), and the version. Everything else that may differ is
//! in `allowed`, with its reason.

use std::collections::HashMap;

use crate::allowed;
use crate::exchange::{Answer, End};
use crate::script::{Wire, escape};

/// Seconds by which two clocks that tick at different moments may differ: one for the tick, one for a
/// round that was held up on its way to the second server.
const CLOCK_SLACK: i64 = 2;

/// Compares the answers of two servers over the life of both.
#[derive(Debug, Default)]
pub(crate) struct Comparer {
    to_second: HashMap<u64, u64>,
    to_first: HashMap<u64, u64>,
    /// The uniques as the first and the second server showed them, in the order of the answers.
    pub(crate) seen: (Vec<u64>, Vec<u64>),
    /// What only the first server counts (see `allowed::miscounted`).
    pub(crate) excused: HashMap<&'static str, u64>,
    /// Whether the list of allowed differences is in force for the second server. It counts what is too
    /// large in binary, too: memcached does not.
    is_tandem: bool,
    /// Binary answers that something is too large.
    too_large_packets: u64,
}

/// Where two answers part, in words.
pub(crate) type Difference = String;

impl Comparer {
    /// Nothing seen yet.
    pub(crate) fn new(is_tandem: bool) -> Self {
        Self { is_tandem, ..Self::default() }
    }

    /// Compares what both answered to one round.
    pub(crate) fn round(&mut self, wire: Wire, first: &Answer, second: &Answer) -> Result<(), Difference> {
        match wire {
            Wire::Text => self.text(&first.bytes, &second.bytes)?,
            Wire::Binary => self.binary(&first.bytes, &second.bytes)?,
        }
        if first.end == second.end {
            return Ok(());
        }
        let say = |end| match end {
            End::Complete => "answers and keeps the connection",
            End::Closed => "closes the connection",
            End::Silent => "falls silent",
        };
        Err(format!("the first {}, the second {}", say(first.end), say(second.end)))
    }

    /// Compares text answers line by line.
    fn text(&mut self, mut first: &[u8], mut second: &[u8]) -> Result<(), Difference> {
        while !first.is_empty() || !second.is_empty() {
            let (line, other) = (take_line(&mut first), take_line(&mut second));
            let body = self.line(line, other).map_err(|()| parted(line, other))?;
            if let Some(length) = body {
                let (value, other) = (take(&mut first, length + 2), take(&mut second, length + 2));
                if value != other {
                    return Err(parted(value, other));
                }
            }
        }
        Ok(())
    }

    /// Compares a line; says how long the value behind it is.
    fn line(&mut self, line: &[u8], other: &[u8]) -> Result<Option<usize>, ()> {
        if !line.ends_with(b"\r\n") || !other.ends_with(b"\r\n") {
            return if line == other { Ok(None) } else { Err(()) };
        }
        let mut words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let others: Vec<&[u8]> = other.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let known: [&[u8]; 6] = [b"VALUE", b"VA", b"HD", b"EN", b"ME", b"VERSION"];
        if !known.contains(&words[0]) {
            return if line == other { Ok(None) } else { Err(()) };
        }
        if words[0] != others[0] {
            return Err(());
        }
        if words[0] == b"VERSION" {
            return Ok(None);
        }
        if self.is_tandem {
            allowed::remember_base64(&mut words, &others);
        }
        if words.len() != others.len() {
            return Err(());
        }
        for (at, (word, other)) in words.iter().zip(&others).enumerate() {
            let same = match words[0] {
                b"VALUE" if at == 4 => self.same_unique(number(word), number(other)),
                b"ME" if at > 1 => self.same_property(word, other),
                b"VA" | b"HD" | b"EN" if at > 0 => self.same_flag(word, other),
                _ => word == other,
            };
            if !same {
                return Err(());
            }
        }
        let length = match words[0] {
            b"VALUE" => words.get(3),
            b"VA" => words.get(1),
            _ => None,
        };
        Ok(length.and_then(|length| number(length)).and_then(|length| usize::try_from(length).ok()))
    }

    /// A flag of a meta answer.
    fn same_flag(&mut self, word: &[u8], other: &[u8]) -> bool {
        match (word.split_first(), other.split_first()) {
            (Some((b'c', unique)), Some((b'c', other))) if number(unique).is_some() => {
                self.same_unique(number(unique), number(other))
            }
            (Some((b't', seconds)), Some((b't', other_seconds))) => close(seconds, other_seconds),
            (Some((b'l', seconds)), Some((b'l', other_seconds))) => since(seconds, other_seconds),
            _ => word == other,
        }
    }

    /// A `name=value` of `me`.
    fn same_property(&mut self, word: &[u8], other: &[u8]) -> bool {
        if let (Some(unique), Some(other)) = (word.strip_prefix(b"cas="), other.strip_prefix(b"cas=")) {
            return self.same_unique(number(unique), number(other));
        }
        if let (Some(seconds), Some(other)) = (word.strip_prefix(b"exp="), other.strip_prefix(b"exp=")) {
            return close(seconds, other);
        }
        if let (Some(seconds), Some(other)) = (word.strip_prefix(b"la="), other.strip_prefix(b"la=")) {
            return since(seconds, other);
        }
        word == other
    }

    /// Compares binary answers packet by packet.
    fn binary(&mut self, mut first: &[u8], mut second: &[u8]) -> Result<(), Difference> {
        while !first.is_empty() || !second.is_empty() {
            let (packet, other) = (take_packet(&mut first), take_packet(&mut second));
            if packet.len() < 24 || other.len() < 24 {
                if packet == other {
                    continue;
                }
                return Err(parted(packet, other));
            }
            let is_version = packet[1] == 0x0b && packet[6..8] == [0, 0];
            let same_version = is_version && other[1] == 0x0b && other[6..8] == [0, 0];
            let (unique, other_unique) = (unique_of(packet), unique_of(other));
            let same = same_version
                || (packet[..16] == other[..16]
                    && packet[24..] == other[24..]
                    && self.same_unique(Some(unique), Some(other_unique)));
            if !same {
                return Err(parted(packet, other));
            }
            self.too_large_packets += u64::from(packet[6..8] == [0, 3]);
        }
        Ok(())
    }

    /// Compares the counters in two answers to `stats`.
    pub(crate) fn counters(&self, first: &[u8], second: &[u8]) -> Result<(), Difference> {
        let (first, second) = (statistics(first), statistics(second));
        for name in COUNTERS {
            let number = |counters: &HashMap<String, String>| counters.get(name)?.parse::<u64>().ok();
            let excused = self.excused.get(name).copied().unwrap_or_default();
            let (one, other) = (number(&first), number(&second));
            let is_uncounted = name == "store_too_large" && self.is_tandem;
            let uncounted = if is_uncounted { self.too_large_packets } else { 0 };
            let one = one.map(|one| one + uncounted);
            if one.is_none() || one != other.map(|other| other + excused) {
                let show =
                    |value: Option<u64>| value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
                return Err(format!(
                    "stats {name}: first {}, second {} and {excused} excused",
                    show(one),
                    show(other)
                ));
            }
        }
        Ok(())
    }

    /// Whether two uniques may name the same store: 0 is nobody's, the others map one to one.
    fn same_unique(&mut self, first: Option<u64>, second: Option<u64>) -> bool {
        let (Some(first), Some(second)) = (first, second) else { return false };
        if first == 0 || second == 0 {
            return first == second;
        }
        let fits = *self.to_second.entry(first).or_insert(second) == second
            && *self.to_first.entry(second).or_insert(first) == first;
        if fits {
            self.seen.0.push(first);
            self.seen.1.push(second);
        }
        fits
    }
}

/// The counters of `stats` that say how often something happened: equal for equal commands.
///
/// Without `get_expired` and `get_flushed`: whether a store or a read finds the dead item depends on
/// whether memcached has needed its memory since.
const COUNTERS: [&str; 20] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_no_memory",
    "store_too_large",
];

/// `STAT name value` lines.
fn statistics(answer: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(answer);
    text.lines()
        .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn unique_of(packet: &[u8]) -> u64 {
    packet[16..24].iter().fold(0, |unique, byte| unique << 8 | u64::from(*byte))
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Whether two times are as near as two clocks can be.
fn close(seconds: &[u8], other: &[u8]) -> bool {
    let signed = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<i64>().ok();
    match (signed(seconds), signed(other)) {
        (Some(-1), Some(other)) => other == -1,
        (Some(one), Some(other)) => other != -1 && (one - other).abs() <= CLOCK_SLACK,
        _ => seconds == other,
    }
}

/// Whether two times since an access may be one: memcached notes the first reads of an item and then
/// none for a while, Tandem notes all, so the second may be shorter.
fn since(seconds: &[u8], other: &[u8]) -> bool {
    close(seconds, other) || number(other).is_some_and(|other| number(seconds).is_some_and(|one| other < one))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length.min(bytes.len()));
    *bytes = rest;
    taken
}

fn take_line<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    take(bytes, end)
}

fn take_packet<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length =
        bytes.get(8..12).map_or(0, |body| body.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
    take(bytes, 24 + length)
}

fn parted(first: &[u8], second: &[u8]) -> Difference {
    let show =
        |bytes: &[u8]| if bytes.is_empty() { "nothing".to_owned() } else { format!("'{}'", escape(bytes)) };
    format!("the first answers  {}\n            the second answers {}", show(first), show(second))
}
