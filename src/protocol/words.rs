//! What text and meta share: words on a line and the numbers in them.
//!
//! Words are separated by runs of blanks (no tabs). Numbers follow memcached: an optional sign, then
//! decimal digits to the end of the word.

/// Splits the next word off a line: the word and what follows it. The word is empty at the end.
#[inline]
pub(super) fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    while line.get(start) == Some(&b' ') {
        start += 1;
    }
    let line = line.get(start..).unwrap_or_default();
    let mut end = 0;
    while end < line.len() && line[end] != b' ' {
        end += 1;
    }
    line.split_at(end)
}

/// The last word of a line; empty if there is none.
pub(super) fn last(line: &[u8]) -> &[u8] {
    let line = trim(line);
    match memchr::memrchr(b' ', line) {
        Some(blank) => line.get(blank + 1..).unwrap_or_default(),
        None => line,
    }
}

/// A line without blanks at its ends.
pub(super) fn trim(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|&byte| byte != b' ').unwrap_or(line.len());
    let end = line.iter().rposition(|&byte| byte != b' ').map_or(start, |last| last + 1);
    line.get(start..end).unwrap_or_default()
}

/// How many words a line has.
pub(super) fn count(mut line: &[u8]) -> usize {
    let mut words = 0;
    loop {
        let (word, rest) = split(line);
        if word.is_empty() {
            return words;
        }
        words += 1;
        line = rest;
    }
}

/// An unsigned decimal number that fills the word.
#[inline]
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    let digits = match word {
        [b'+', digits @ ..] => digits,
        _ => word,
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: u64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// A signed decimal number that fills the word.
#[inline]
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    match word {
        [b'-', digits @ ..] if digits.first() != Some(&b'+') => 0i64.checked_sub_unsigned(unsigned(digits)?),
        [b'-', ..] => None,
        _ => i64::try_from(unsigned(word)?).ok(),
    }
}

/// A signed decimal number of 32 bits, as expiration times are.
#[inline]
pub(super) fn signed32(word: &[u8]) -> Option<i32> {
    i32::try_from(signed(word)?).ok()
}
