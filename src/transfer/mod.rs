//! All items of a server out into a file and in again: for backups, and for moving to another server. Over
//! the standard protocol, so either end may be any memcached that knows the meta commands (1.6).
//!
//! The names of all keys come from `lru_crawler` on one connection while their values are asked for on a
//! second one, so what is held in memory at a time is a batch of names and one value. Flags and the
//! remaining time to live are kept; CAS uniques are not, they belong to one server's life.
//!
//! Nothing is lost silently: what expired or was evicted meanwhile, and what the other server refuses, is
//! counted.

pub mod dump;
pub mod file;
pub mod keys;
pub mod load;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::time::Duration;

use crate::dial::{Dialler, Stream};

/// For a connection and for each answer.
const LIMIT: Duration = Duration::from_secs(30);
/// A longer line is no answer: a key of 250 bytes, three times as long with its escapes, and flags.
const LINE_BYTES_MAX: u64 = 4096;
/// Requests under way at a time.
const BATCH: usize = 256;
/// The largest value there can be (`-I`).
const VALUE_BYTES_MAX: usize = 1 << 30;

/// A connection that requests are written to in batches.
struct Connection {
    address: String,
    stream: BufReader<Stream>,
    /// What was not sent yet.
    waiting: Vec<u8>,
    line: Vec<u8>,
}

impl Connection {
    fn open(dialler: &Dialler, address: &str) -> Result<Self, String> {
        Ok(Self {
            address: address.to_owned(),
            stream: BufReader::with_capacity(64 << 10, dialler.enter(address, LIMIT)?),
            waiting: Vec::new(),
            line: Vec::new(),
        })
    }

    fn failed(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{} gave no answer within {} s", self.address, LIMIT.as_secs())
            }
            _ => format!("the connection to {} broke: {error}", self.address),
        }
    }

    /// Sends what waits.
    fn flush(&mut self) -> Result<(), String> {
        let stream = self.stream.get_mut();
        let result = stream.write_all(&self.waiting).and_then(|()| stream.flush());
        self.waiting.clear();
        result.map_err(|error| self.failed(&error))
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<&[u8], String> {
        self.line.clear();
        let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        read.map_err(|error| self.failed(&error))?;
        if self.line.pop() != Some(b'\n') {
            return Err(format!("{} closed the connection or is no memcached", self.address));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(&self.line)
    }

    /// A value and the line end behind it.
    fn value(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut value = vec![0; length + 2];
        self.stream.read_exact(&mut value).map_err(|error| self.failed(&error))?;
        if !value.ends_with(b"\r\n") {
            return Err(format!("{} announced {length} bytes and sent others", self.address));
        }
        value.truncate(length);
        Ok(value)
    }

    /// What was said instead of an answer.
    fn strange(&self, line: &[u8]) -> String {
        let words: String = line.escape_ascii().to_string().chars().take(100).collect();
        format!("{} answers `{words}`: is it a memcached of 1.6 or later?", self.address)
    }

    /// How many items the server has now.
    fn items(&mut self) -> Result<u64, String> {
        self.waiting.extend_from_slice(b"stats\r\n");
        self.flush()?;
        let mut items = 0;
        loop {
            let line = self.line()?;
            if line == b"END" {
                return Ok(items);
            }
            let Some(rest) = line.strip_prefix(b"STAT ") else {
                let line = line.to_vec();
                return Err(self.strange(&line));
            };
            if let Some(number) = rest.strip_prefix(b"curr_items ") {
                items = number_of(number).unwrap_or(0);
            }
        }
    }
}

fn number_of<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// How far it is: done, and in all as far as that is known.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A key as it stands in a request: bytes that a text key cannot have go in base64.
fn write_key(key: &[u8], out: &mut Vec<u8>) -> &'static str {
    use base64::Engine as _;
    if key.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80) {
        out.extend_from_slice(key);
        ""
    } else {
        out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(key).as_bytes());
        " b"
    }
}

/// A key in a line of text: everything but letters, digits and `-._~` as %XX, as `metadump` has it.
pub fn escape(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The key of such a text.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            key.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            key.push(first);
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests;
