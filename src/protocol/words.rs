//! What text and meta share: words on a line and the numbers in them.
//!
//! Words are separated by runs of blanks (no tabs). Numbers follow memcached: an optional sign, then
//! decimal digits to the end of the word.

/// Splits the next word off a line: the word and what follows it. The word is empty at the end.
#[inline]
pub(super) fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let mut line = line;
    while let [b' ', rest @ ..] = line {
        line = rest;
    }
    let end = blank(line);
    // At most the length, so there are two parts.
    line.split_at_checked(end).unwrap_or((line, &[]))
}

/// How many bytes come before the first blank or control character: a key and nothing else, if the end
/// of its line is behind it. Many bytes at a time, because keys are long, and without a call, because
/// they are not that long.
#[inline]
pub(super) fn graphic(bytes: &[u8]) -> usize {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let mut at = 0;
    for chunk in chunks {
        // Both halves at once: most have none.
        let found = u128::from_le_bytes(*chunk);
        let (low, high) = (ends(found as u64), ends((found >> 64) as u64));
        if (low | high) & TOPS != 0 {
            let found = u128::from(low & TOPS) | u128::from(high & TOPS) << 64;
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 16;
    }
    at + rest.iter().position(|&byte| byte <= b' ').unwrap_or(rest.len())
}

/// The top bit of each byte.
const TOPS: u64 = u64::from_ne_bytes([1 << 7; 8]);

/// The lowest top bit of a byte that is set is that of the first byte that is no larger than a blank; the other bits
/// mean nothing.
#[inline(always)]
const fn ends(bytes: u64) -> u64 {
    const ABOVE: u64 = u64::from_ne_bytes([b' ' + 1; 8]);
    bytes.wrapping_sub(ABOVE) & !bytes
}

/// Where the first blank of a line is, or its length: eight bytes at a time, because keys are long
/// and a call of a vectorised search costs more than most words.
#[inline]
fn blank(line: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const BLANKS: u64 = u64::from_ne_bytes([b' '; 8]);
    let mut at = 0;
    let mut rest = line;
    while let Some((bytes, behind)) = rest.split_first_chunk::<8>() {
        // A byte of `differing` is zero where there is a blank; the lowest bit set in `found` is the
        // highest bit of the first such byte.
        let differing = u64::from_le_bytes(*bytes) ^ BLANKS;
        let found = differing.wrapping_sub(ONES) & !differing & (ONES << 7);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
        rest = behind;
    }
    for &byte in rest {
        if byte == b' ' {
            return at;
        }
        at += 1;
    }
    at
}

/// Whether a word of a line is longer than `most`. Looks for blanks that are far enough apart, not at each word.
pub(super) fn any_longer(line: &[u8], most: usize) -> bool {
    let mut rest = line;
    while let Some((window, _)) = rest.split_at_checked(most + 1) {
        match memchr::memrchr(b' ', window) {
            // What comes before it is shorter than the window.
            Some(blank) => rest = rest.get(blank + 1..).unwrap_or_default(),
            None => return true,
        }
    }
    false
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
        // No number below zero, but zero itself may have the sign, as in memcached.
        [b'-', zeros @ ..] if zeros.iter().all(|&zero| zero == b'0') => zeros,
        _ => word,
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: u64 = 0;
    if digits.len() < 20 {
        // Nineteen digits cannot overflow.
        for &digit in digits {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            number = number * 10 + u64::from(digit);
        }
        return Some(number);
    }
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// Three numbers, each behind one blank, and the end of their line, written as every client writes them:
/// digits, nine at most. Also how many bytes that takes. Other ways to write them are left to [`split`]
/// and [`unsigned`].
#[inline]
pub(super) fn plain_numbers(bytes: &[u8]) -> Option<([u32; 3], usize)> {
    let mut rest = bytes;
    // What most clients send of flags and of an expiration time.
    let unset = bytes.starts_with(b" 0 0 ");
    if unset {
        rest = &bytes[4..];
    }
    let mut numbers = [0u32; 3];
    for number in &mut numbers[if unset { 2 } else { 0 }..] {
        let [b' ', digits @ ..] = rest else { return None };
        rest = digits;
        while let [digit @ b'0'..=b'9', behind @ ..] = rest {
            // Wrong beyond nine digits, but then it is not used.
            *number = number.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
            rest = behind;
        }
        if !(1..=9).contains(&(digits.len() - rest.len())) {
            return None;
        }
    }
    rest.starts_with(b"\r\n").then_some((numbers, bytes.len() - rest.len() + 2))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_too_long_is_found_wherever_it_is() {
        for before in 0..12 {
            for word in 0..12 {
                for behind in 0..12 {
                    let line = ["x".repeat(word), "y".repeat(behind)].join(" ");
                    let line = format!("{}{line}", " ".repeat(before));
                    let longest = word.max(behind);
                    assert_eq!(any_longer(line.as_bytes(), 5), longest > 5, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn a_key_ends_at_the_first_blank_or_control_character() {
        for length in 0..40 {
            for end in [b' ', b'\r', b'\n', 0, 0x1f] {
                let mut bytes = [0x21, 0x7f, 0x80, 0xff].repeat(10);
                assert_eq!(graphic(&bytes[..length]), length);
                bytes[length] = end;
                assert_eq!(graphic(&bytes), length, "{end}");
            }
        }
    }
}
