//! memcached's protocols from a client's side: requests out, replies in. No socket.

use std::str::FromStr;

/// Which of memcached's protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `get` and `set`.
    #[default]
    Text,
    /// `mg` and `ms`.
    Meta,
    /// Packets with a header of 24 bytes.
    Binary,
}

impl FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "meta" => Ok(Self::Meta),
            "binary" => Ok(Self::Binary),
            _ => Err(format!("`{text}`: use text, meta or binary")),
        }
    }
}

/// Appends `set` requests and gets to a buffer. Keys are a prefix and ten digits or more.
#[derive(Debug)]
pub struct Requests {
    form: Form,
    prefix: Vec<u8>,
    exptime: u32,
    set_tail: Vec<u8>,
}

impl Requests {
    /// Requests for keys that start with `prefix`; items live `exptime` seconds.
    pub fn new(form: Form, prefix: &str, exptime: u32) -> Self {
        Self { form, prefix: prefix.into(), exptime, set_tail: format!(" 0 {exptime} ").into_bytes() }
    }

    /// One set.
    pub fn set(&self, out: &mut Vec<u8>, key: u64, value: &[u8]) {
        match self.form {
            Form::Text => {
                out.extend_from_slice(b"set ");
                self.key(out, key);
                out.extend_from_slice(&self.set_tail);
                decimal(out, value.len() as u64, 1);
            }
            Form::Meta => {
                out.extend_from_slice(b"ms ");
                self.key(out, key);
                out.push(b' ');
                decimal(out, value.len() as u64, 1);
                if self.exptime > 0 {
                    out.extend_from_slice(b" T");
                    decimal(out, self.exptime.into(), 1);
                }
            }
            Form::Binary => {
                let start = self.header(out, 1, 8);
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&self.exptime.to_be_bytes());
                self.key(out, key);
                out.extend_from_slice(value);
                return close(out, start, 8, value.len());
            }
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    /// One get of several keys; in forms other than text, of the last of them.
    pub fn get(&self, out: &mut Vec<u8>, keys: impl Iterator<Item = u64>) {
        match self.form {
            Form::Text => {
                out.extend_from_slice(b"get");
                for key in keys {
                    out.push(b' ');
                    self.key(out, key);
                }
                out.extend_from_slice(b"\r\n");
            }
            Form::Meta => {
                out.extend_from_slice(b"mg ");
                keys.last().into_iter().for_each(|key| self.key(out, key));
                out.extend_from_slice(b" v\r\n");
            }
            Form::Binary => {
                let start = self.header(out, 0, 0);
                keys.last().into_iter().for_each(|key| self.key(out, key));
                close(out, start, 0, 0);
            }
        }
    }

    fn key(&self, out: &mut Vec<u8>, key: u64) {
        out.extend_from_slice(&self.prefix);
        decimal(out, key, 10);
    }

    /// A header whose lengths are not known yet; where it begins.
    fn header(&self, out: &mut Vec<u8>, opcode: u8, extras: u8) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0x80, opcode, 0, 0, extras]);
        out.resize(start + HEADER, 0);
        start
    }
}

/// Bytes of a binary packet's header.
const HEADER: usize = 24;

/// Writes the lengths into a binary header.
fn close(out: &mut [u8], start: usize, extras: usize, value: usize) {
    let body = out.len() - start - HEADER;
    let key = (body - extras - value) as u16;
    out[start + 2..start + 4].copy_from_slice(&key.to_be_bytes());
    out[start + 8..start + 12].copy_from_slice(&(body as u32).to_be_bytes());
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
    form: Form,
    skip: usize,
    /// A value was the last of its get.
    ends: bool,
}

impl Replies {
    /// The longest line a server sends: a `VALUE` line with a key of 250 bytes, or an error.
    const LINE_MAX: usize = 2048;

    /// Replies in that form.
    pub fn new(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

    /// The next event in `bytes` and how many of them are done with. No event: more bytes are needed.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, Option<Event<'b>>), String> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        if self.ends {
            // Only when the whole value is here.
            self.ends = self.skip > 0;
            return Ok((skipped, (self.skip == 0).then_some(Event::End)));
        }
        let rest = &bytes[skipped..];
        if self.form == Form::Binary {
            let (used, event) = self.packet(rest)?;
            return Ok((skipped + used, event));
        }
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            if rest.len() > Self::LINE_MAX {
                return Err("a reply without a line end".to_owned());
            }
            return Ok((skipped, None));
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let event = match (self.form, line) {
            (Form::Text, b"END") | (Form::Meta, b"EN") => Event::End,
            (Form::Text, b"STORED") | (Form::Meta, b"HD") => Event::Stored,
            (Form::Text, _) if line.starts_with(b"VALUE ") => self.value(line, 3)?,
            (Form::Meta, _) if line.starts_with(b"VA ") => {
                self.ends = true;
                self.value(line, 1)?
            }
            _ => Event::Failed(std::str::from_utf8(line).unwrap_or("a reply that is not text")),
        };
        Ok((skipped + end + 1, Some(event)))
    }

    /// A value follows, as long as the word at that place of the line says.
    fn value<'b>(&mut self, line: &[u8], place: usize) -> Result<Event<'b>, String> {
        self.skip = value_len(line, place).ok_or_else(|| format!("`{}`", line.escape_ascii()))? + 2;
        Ok(Event::Value)
    }

    /// The event that a binary packet is.
    fn packet<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, Option<Event<'b>>), String> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok((0, None)) };
        if header[0] != 0x81 {
            return Err("a packet that is no answer".to_owned());
        }
        self.skip = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let status = u16::from_be_bytes([header[6], header[7]]);
        let event = match (header[1], status) {
            (0, 0) => {
                self.ends = true;
                Event::Value
            }
            (0, 1) => Event::End,
            (1, 0) => Event::Stored,
            _ => Event::Failed("refused, in the binary protocol"),
        };
        Ok((HEADER, Some(event)))
    }
}

/// The length in `VALUE <key> <flags> <length>[ <cas>]` or `VA <length>[ <flag>…]`.
fn value_len(line: &[u8], place: usize) -> Option<usize> {
    let length = line.split(|&byte| byte == b' ').nth(place)?;
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
        let requests = Requests::new(Form::Text, "k-", 60);
        let mut out = Vec::new();
        requests.set(&mut out, 42, b"abc");
        requests.get(&mut out, [1, 12_345_678_901].into_iter());
        assert_eq!(out, b"set k-0000000042 0 60 3\r\nabc\r\nget k-0000000001 k-12345678901\r\n");
    }

    #[test]
    fn meta_and_binary_requests_say_the_same() {
        let mut out = Vec::new();
        let meta = Requests::new(Form::Meta, "k-", 60);
        meta.set(&mut out, 42, b"abc");
        meta.get(&mut out, [1].into_iter());
        assert_eq!(out, b"ms k-0000000042 3 T60\r\nabc\r\nmg k-0000000001 v\r\n");
        out.clear();
        let binary = Requests::new(Form::Binary, "k-", 60);
        binary.set(&mut out, 42, b"abc");
        binary.get(&mut out, [1].into_iter());
        let (set, get) = out.split_at(HEADER + 8 + 12 + 3);
        assert_eq!(set[..12], [0x80, 1, 0, 12, 8, 0, 0, 0, 0, 0, 0, 23]);
        assert_eq!(&set[HEADER..], b"\0\0\0\0\0\0\0\x3ck-0000000042abc");
        assert_eq!(get[..12], [0x80, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 12]);
        assert_eq!(&get[HEADER..], b"k-0000000001");
    }

    #[test]
    fn meta_and_binary_replies_are_read() {
        let stream = b"VA 4\r\nEN\r\n\r\nEN\r\nHD\r\nSERVER_ERROR out of memory\r\n";
        assert_eq!(
            events(&mut Replies::new(Form::Meta), stream),
            ["Value", "End", "End", "Stored", "Failed(\"SERVER_ERROR out of memory\")"]
        );
        let packet = |opcode: u8, status: u8, body: &[u8]| {
            let mut packet = vec![0x81, opcode, 0, 0, 0, 0, 0, status, 0, 0, 0, body.len() as u8];
            packet.resize(HEADER, 0);
            [&packet, body].concat()
        };
        let stream = [
            packet(0, 0, b"\0\0\0\0value"),
            packet(0, 1, b"Not found"),
            packet(1, 0, b""),
            packet(1, 3, b"no"),
        ];
        assert_eq!(
            events(&mut Replies::new(Form::Binary), &stream.concat()),
            ["Value", "End", "End", "Stored", "Failed(\"refused, in the binary protocol\")"]
        );
        assert!(Replies::new(Form::Binary).next(&[0; HEADER]).is_err());
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
