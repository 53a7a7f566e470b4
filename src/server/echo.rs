//! `-vv`: each text request and each reply on stderr, as memcached shows them.
//!
//! ```text
//! <29 set a 0 0 1
//! >29 STORED
//! >29 sending key a
//! ```
//!
//! Values are not shown. Binary packets are not either.

use super::limits;

/// The request that begins `bytes`.
pub(super) fn request(descriptor: i32, bytes: &[u8]) {
    eprintln!("<{descriptor} {}", shown(first_line(bytes).0));
}

/// What was answered.
pub(super) fn replies(descriptor: i32, bytes: &[u8]) {
    for line in lines(bytes) {
        eprintln!(">{descriptor} {line}");
    }
}

fn lines(mut bytes: &[u8]) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (line, mut rest) = first_line(bytes);
        let mut words = line.split(|&byte| byte == b' ');
        let (text, value_len) = match (words.next(), words.next(), words.nth(1)) {
            (Some(b"VALUE"), Some(key), Some(len)) => (format!("sending key {}", shown(key)), number(len)),
            (Some(b"VA"), Some(len), _) => (shown(line), number(len)),
            _ => (shown(line), None),
        };
        if let Some(len) = value_len {
            rest = rest.get(len + 2..).unwrap_or_default();
        }
        bytes = rest;
        Some(text)
    })
}

fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (bytes[..end].trim_ascii_end(), rest)
}

/// Bytes of clients, so that they stay one line and a short one.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(limits::AUTH_LINE_BYTES)].escape_ascii().to_string()
}

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_of_replies() {
        let replies = b"STORED\r\nVALUE a 0 5 7\r\nEND\r\n\r\nVA 3 s3\r\n\nb\n\r\nEND\r\nHD\r\n\x1b[2J\r\n";
        let lines: Vec<_> = lines(replies).collect();
        assert_eq!(lines, ["STORED", "sending key a", "VA 3 s3", "END", "HD", "\\x1b[2J"]);
    }
}
