//! The lines of repcached 2.x's replication link.
//!
//! ```text
//! rep KEY FLAGS EXPTIME BYTES CAS      followed by BYTES bytes of value and a line end
//! delete KEY
//! flush_all                            (with a blank at the end)
//! flush_all UNIX-TIME
//! marugoto_end                         the full copy is complete
//! ```
//! repcached prints numbers as C `int`s, whatever they were: flags from 2^31 on and CAS uniques whose
//! bit 31 is set come as negative numbers, CAS uniques lose their upper half, and times from 2038 on
//! are negative too. What can be restored is restored here.

use std::fmt;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// An item; its value follows.
    Item(Head<'a>),
    /// An item is gone: deleted, evicted or expired there.
    Delete(&'a [u8]),
    /// Everything is dead, now or at a unix time.
    FlushAll(Option<u64>),
    /// Everything that was there has been sent; from now on its changes follow.
    CopyEnd,
}

/// An item without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// The client's.
    pub flags: u32,
    /// Unix time, 0 never.
    pub expires: u32,
    /// Bytes of the value.
    pub bytes: usize,
    /// The lower half of its CAS unique.
    pub cas: u32,
}

/// Keys have at most so many bytes.
const KEY_BYTES_MAX: usize = 250;
/// repcached's `-I` goes up to 128 MB; more is a mistake.
const VALUE_BYTES_MAX: i64 = 1 << 30;

/// Bytes that repcached does not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign(String);

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Foreign {
    pub(super) fn new(what: &str, bytes: &[u8]) -> Self {
        const SHOWN: usize = 60;
        let (shown, more) = if bytes.len() > SHOWN { (&bytes[..SHOWN], "…") } else { (bytes, "") };
        Self(format!("{what}: `{}{more}`", shown.escape_ascii()))
    }
}

/// Reads a line, without its end.
pub fn parse(line: &[u8]) -> Result<Line<'_>, Foreign> {
    let foreign = |what| Foreign::new(what, line);
    let (verb, rest) = match line.iter().position(|&byte| byte == b' ') {
        Some(blank) => (&line[..blank], &line[blank + 1..]),
        None => (line, &[][..]),
    };
    match verb {
        b"rep" => head(rest).map(Line::Item).ok_or_else(|| foreign("no item can be read from")),
        b"delete" => key(rest).map(Line::Delete).ok_or_else(|| foreign("no key can be read from")),
        b"flush_all" => match rest.trim_ascii() {
            b"" => Ok(Line::FlushAll(None)),
            time => match number(time) {
                Some(time) => Ok(Line::FlushAll(Some(u64::from(
                    wrapped(time).ok_or_else(|| foreign("no time can be read from"))?,
                )))),
                None => Err(foreign("no time can be read from")),
            },
        },
        b"marugoto_end" => Ok(Line::CopyEnd),
        _ => Err(foreign("not a line of repcached's replication link")),
    }
}

/// The four numbers stand at the end: a key of the binary protocol may have blanks inside.
fn head(rest: &[u8]) -> Option<Head<'_>> {
    let mut words = rest.rsplitn(5, |&byte| byte == b' ');
    let (cas, bytes) = (number(words.next()?)?, number(words.next()?)?);
    let (expires, flags) = (number(words.next()?)?, number(words.next()?)?);
    Some(Head {
        key: key(words.next()?)?,
        flags: wrapped(flags)?,
        expires: wrapped(expires)?,
        bytes: usize::try_from(bytes).ok().filter(|_| bytes <= VALUE_BYTES_MAX)?,
        cas: wrapped(cas)?,
    })
}

fn key(bytes: &[u8]) -> Option<&[u8]> {
    (1..=KEY_BYTES_MAX).contains(&bytes.len()).then_some(bytes)
}

fn number(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// What a C `int` was before it was printed as one.
fn wrapped(number: i64) -> Option<u32> {
    u32::try_from(number).ok().or_else(|| i32::try_from(number).ok().map(i32::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item<'a>(key: &'a [u8], flags: u32, expires: u32, bytes: usize, cas: u32) -> Line<'a> {
        Line::Item(Head { key, flags, expires, bytes, cas })
    }

    #[test]
    fn the_captured_lines_are_read() {
        assert_eq!(parse(b"rep t 0 1795164435 1 1"), Ok(item(b"t", 0, 1_795_164_435, 1, 1)));
        assert_eq!(parse(b"delete t"), Ok(Line::Delete(b"t")));
        assert_eq!(parse(b"flush_all "), Ok(Line::FlushAll(None)));
        assert_eq!(parse(b"flush_all"), Ok(Line::FlushAll(None)));
        assert_eq!(parse(b"flush_all 1795164346"), Ok(Line::FlushAll(Some(1_795_164_346))));
        assert_eq!(parse(b"marugoto_end"), Ok(Line::CopyEnd));
    }

    #[test]
    fn numbers_that_were_printed_as_ints_are_restored() {
        assert_eq!(
            parse(b"rep k -2147483648 -1 5 -294967296"),
            Ok(item(b"k", 1 << 31, u32::MAX, 5, 4_000_000_000))
        );
        assert_eq!(parse(b"rep k 4294967295 0 5 0"), Ok(item(b"k", u32::MAX, 0, 5, 0)));
    }

    #[test]
    fn a_key_of_the_binary_protocol_may_have_blanks() {
        assert_eq!(parse(b"rep a b c 1 2 3 4"), Ok(item(b"a b c", 1, 2, 3, 4)));
        assert_eq!(parse(b"delete a b"), Ok(Line::Delete(b"a b")));
    }

    #[test]
    fn what_repcached_does_not_say_is_foreign() {
        let long = ["rep ", &"k".repeat(251), " 0 0 1 1"].concat();
        for line in [
            "",
            " ",
            "rep",
            "rep ",
            "rep k",
            "rep k 0 0 1",
            "rep  0 0 1 1",
            "rep k 0 0 -1 1",
            "rep k 0 0 1073741825 1",
            "rep k 4294967296 0 1 1",
            "rep k x 0 1 1",
            "delete",
            "delete ",
            "flush_all x",
            "flush_all -9999999999",
            "get k",
            "\u{80}\0",
            "HTTP/1.1 400 Bad Request",
            &long,
        ] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 400, "{error}");
        }
    }
}
