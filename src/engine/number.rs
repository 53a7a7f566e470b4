//! Decimal numbers in values, as memcached's `incr` reads and writes them (it uses `strtoull`).

/// A number as text, at most 20 digits.
pub(crate) struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    /// The digits of a number.
    pub(crate) fn of(mut number: u64) -> Self {
        let mut digits = Self { bytes: [b'0'; 20], start: 20 };
        loop {
            digits.start -= 1;
            digits.bytes[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    /// As text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Whether a number that a value begins with ends within these first bytes of it.
pub(crate) fn ends_within(bytes: &[u8]) -> bool {
    let number = bytes.iter().skip_while(|&&byte| is_blank(byte));
    number.skip(1).any(|byte| !byte.is_ascii_digit())
}

/// The number a value begins with: blanks, a sign, digits, and then the end, a blank or a NUL.
/// A sign `-` is allowed where the result still fits a positive signed number, as `strtoull` has it.
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    let rest = &value[value.iter().position(|&byte| !is_blank(byte))?..];
    let (negative, rest) = match rest[0] {
        b'-' => (true, &rest[1..]),
        b'+' => (false, &rest[1..]),
        _ => (false, rest),
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || rest.get(digits).is_some_and(|&byte| !is_blank(byte) && byte != 0) {
        return None;
    }
    let mut number = 0u64;
    for digit in &rest[..digits] {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if negative {
        number = number.wrapping_neg();
    }
    if number > i64::MAX as u64 && value.split(|&byte| byte == 0).next()?.contains(&b'-') {
        return None;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_strtoull_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("00012", Some(12)),
            ("  +7", Some(7)),
            ("12 ab", Some(12)),
            ("12\0ab", Some(12)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-0", Some(0)),
            ("-1", None),
            ("-18446744073709551615", Some(1)),
            ("", None),
            ("   ", None),
            ("+", None),
            ("12ab", None),
            ("1.5", None),
            ("0x10", None),
        ] {
            assert_eq!(parse(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn a_number_ends_where_something_else_begins() {
        for whole in ["5 ", " 5 ", "-5x", "x y", "5\0"] {
            assert!(ends_within(whole.as_bytes()), "{whole:?}");
        }
        for open in ["", " \t", "5", " -", " 12", "x"] {
            assert!(!ends_within(open.as_bytes()), "{open:?}");
        }
    }

    #[test]
    fn digits_are_the_shortest_text() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            assert_eq!(Digits::of(number).as_bytes(), number.to_string().as_bytes());
        }
    }
}
