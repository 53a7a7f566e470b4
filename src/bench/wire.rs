//! The text protocol from a client's side: requests out, replies in. No socket.

/// Appends `set` requests and gets to a buffer. Keys are a prefix and ten digits or more.
#[derive(Debug)]
pub struct Requests {
    prefix: Vec<u8>,
    set_tail: Vec<u8>,
}

impl Requests {
    /// Requests for keys that start with `prefix`; items live `exptime` seconds.
    pub fn new(prefix: &str, exptime: u32) -> Self {
        Self { prefix: prefix.into(), set_tail: format!(" 0 {exptime} ").into_bytes() }
    }

    /// One set.
    pub fn set(&self, out: &mut Vec<u8>, key: u64, value: &[u8]) {
        out.extend_from_slice(b"set ");
        self.key(out, key);
        out.extend_from_slice(&self.set_tail);
        decimal(out, value.len() as u64, 1);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    /// One get of several keys.
    pub fn get(&self, out: &mut Vec<u8>, keys: impl Iterator<Item = u64>) {
        out.extend_from_slice(b"get");
        for key in keys {
            out.push(b' ');
            self.key(out, key);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn key(&self, out: &mut Vec<u8>, key: u64) {
        out.extend_from_slice(&self.prefix);
        decimal(out, key, 10);
    }
}

/// Appends a number with at least `width` digits.
fn decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// What a piece of a server's output says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// One value of a get; its bytes were skipped, or will be as they come.
    Value,
    /// A get is over.
    End,
    /// A set was done.
    Stored,
    /// The request failed, in the server's words.
    Failed(&'b str),
}

/// Reads replies from a stream that comes in pieces; values are skipped, not kept.
#[derive(Debug, Default)]
pub struct Replies {
    skip: usize,
}

impl Replies {
    /// The longest line a server sends: a `VALUE` line with a key of 250 bytes, or an error.
    const LINE_MAX: usize = 2048;

    /// The next event in `bytes` and how many of them are done with. No event: more bytes are needed.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, Option<Event<'b>>), String> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let rest = &bytes[skipped..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            if rest.len() > Self::LINE_MAX {
                return Err("a reply without a line end".to_owned());
            }
            return Ok((skipped, None));
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let event = match line {
            b"END" => Event::End,
            b"STORED" => Event::Stored,
            _ if line.starts_with(b"VALUE ") => {
                self.skip = value_len(line).ok_or_else(|| format!("`{}`", line.escape_ascii()))? + 2;
                Event::Value
            }
            _ => Event::Failed(std::str::from_utf8(line).unwrap_or("a reply that is not text")),
        };
        Ok((skipped + end + 1, Some(event)))
    }
}

/// The length in `VALUE <key> <flags> <length>[ <cas>]`.
fn value_len(line: &[u8]) -> Option<usize> {
    let length = line.split(|&byte| byte == b' ').nth(3)?;
    std::str::from_utf8(length).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(replies: &mut Replies, mut bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        while let (used, Some(event)) = replies.next(bytes).unwrap() {
            events.push(format!("{event:?}"));
            bytes = &bytes[used..];
        }
        events
    }

    #[test]
    fn requests_are_memcached_text() {
        let requests = Requests::new("k-", 60);
        let mut out = Vec::new();
        requests.set(&mut out, 42, b"abc");
        requests.get(&mut out, [1, 12_345_678_901].into_iter());
        assert_eq!(out, b"set k-0000000042 0 60 3\r\nabc\r\nget k-0000000001 k-12345678901\r\n");
    }

    #[test]
    fn values_are_skipped_even_when_they_look_like_replies() {
        let stream = b"VALUE k 0 5\r\nEND\r\n\r\nEND\r\nSTORED\r\nSERVER_ERROR out of memory\r\n";
        assert_eq!(
            events(&mut Replies::default(), stream),
            ["Value", "End", "Stored", "Failed(\"SERVER_ERROR out of memory\")"]
        );
    }

    #[test]
    fn replies_may_be_cut_anywhere() {
        let stream = b"VALUE k 0 5 77\r\nabcde\r\nEND\r\nSTORED\r\n";
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let mut seen = 0;
            let mut kept: Vec<u8> = Vec::new();
            for piece in [&stream[..cut], &stream[cut..]] {
                kept.extend_from_slice(piece);
                loop {
                    let (used, event) = replies.next(&kept).unwrap();
                    let done = event.is_none();
                    seen += usize::from(!done);
                    kept.drain(..used);
                    if done {
                        break;
                    }
                }
            }
            assert_eq!((seen, kept.len()), (3, 0), "cut at {cut}");
        }
    }

    #[test]
    fn endless_lines_and_senseless_lengths_are_refused() {
        assert!(Replies::default().next(&[b'x'; 5000]).is_err());
        assert!(Replies::default().next(b"VALUE k 0 many\r\n").is_err());
    }
}
