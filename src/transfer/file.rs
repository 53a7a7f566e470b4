//! The file that items are kept in: lines of text that describe themselves.
//!
//! ```text
//! tandem-dump 1 at=1790000000 from=192.0.2.11:11211
//! item KEY FLAGS EXPIRES LENGTH VALUE
//! …
//! end items=2 crc32c=0a1b2c3d
//! ```
//!
//! KEY has everything but letters, digits and `-._~` as %XX. EXPIRES is a unix time in seconds, 0 for
//! never. LENGTH is that of the value in bytes, VALUE the value in base64. The checksum is that of every
//! byte before the last line; a file without that line was cut off.

use std::io::{self, BufRead, Read as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{VALUE_BYTES_MAX, escape, number_of, unescape};

/// A longer line is none of ours.
const LINE_BYTES_MAX: u64 = (VALUE_BYTES_MAX as u64).div_ceil(3) * 4 + 4096;
const HEAD: &str = "tandem-dump 1 ";

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its key.
    pub key: Vec<u8>,
    /// The client's flags.
    pub flags: u32,
    /// When it expires, in unix seconds; 0 for never.
    pub expires: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    line: String,
    items: u64,
    checksum: u32,
}

impl<W: Write> Writer<W> {
    /// Begins with the head; `at` is now.
    pub fn new(to: W, at: u64, from: &str) -> io::Result<Self> {
        let mut writer = Self { to, line: String::new(), items: 0, checksum: 0 };
        writer.line = format!("{HEAD}at={at} from={}\n", escape_address(from));
        writer.put()?;
        Ok(writer)
    }

    fn put(&mut self) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, self.line.as_bytes());
        self.to.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }

    /// One more item.
    pub fn item(&mut self, item: &Item) -> io::Result<()> {
        let Item { key, flags, expires, value } = item;
        self.line = format!("item {} {flags} {expires} {} ", escape(key), value.len());
        STANDARD.encode_string(value, &mut self.line);
        self.line.push('\n');
        self.items += 1;
        self.put()
    }

    /// Ends with the last line; what was written to.
    pub fn end(mut self) -> io::Result<W> {
        writeln!(self.to, "end items={} crc32c={:08x}", self.items, self.checksum)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// An address has no blanks; whatever has, keeps the line readable.
fn escape_address(from: &str) -> String {
    from.replace(|c: char| c.is_whitespace() || c.is_control(), "?")
}

/// Reads a file.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    line: Vec<u8>,
    number: u64,
    items: u64,
    checksum: u32,
}

impl<R: BufRead> Reader<R> {
    /// Begins with the head.
    pub fn new(from: R) -> Result<Self, String> {
        let mut reader = Self { from, line: Vec::new(), number: 0, items: 0, checksum: 0 };
        reader.advance()?;
        match reader.line.strip_prefix(HEAD.as_bytes()) {
            Some(_) => {
                reader.checksum = crc32c::crc32c(&reader.line);
                Ok(reader)
            }
            None if reader.line.starts_with(b"tandem-dump ") => {
                Err("it has a format of a later version: use the tandemctl that wrote it".to_owned())
            }
            None => Err("it is no file of `tandemctl dump`: its first line does not say so".to_owned()),
        }
    }

    /// The next line, with its end.
    fn advance(&mut self) -> Result<(), String> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.from).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        read.map_err(|error| format!("line {}: {error}", self.number))?;
        match self.line.last() {
            Some(b'\n') => Ok(()),
            None | Some(_) => Err(format!(
                "it was cut off in line {}: its last line is missing; make it again",
                self.number
            )),
        }
    }

    /// The next item; none at an end that is right.
    pub fn next_item(&mut self) -> Result<Option<Item>, String> {
        self.advance()?;
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        if let Some(end) = line.strip_prefix(b"end ") {
            let expected = format!("items={} crc32c={:08x}", self.items, self.checksum);
            return if end == expected.as_bytes() {
                Ok(None)
            } else {
                Err(format!(
                    "it is damaged: it ends with `{}` and its contents give `{expected}`",
                    end.escape_ascii()
                ))
            };
        }
        let Some(item) = item_of(line) else {
            return Err(format!("it is damaged: line {} is no item", self.number));
        };
        self.checksum = crc32c::crc32c_append(self.checksum, &self.line);
        self.items += 1;
        Ok(Some(item))
    }
}

fn item_of(line: &[u8]) -> Option<Item> {
    let mut words = line.strip_prefix(b"item ")?.splitn(5, |byte| *byte == b' ');
    let key = unescape(words.next()?)?;
    let (flags, expires) = (number_of(words.next()?)?, number_of(words.next()?)?);
    let length: usize = number_of(words.next()?)?;
    let value = STANDARD.decode(words.next().unwrap_or_default()).ok()?;
    let is_key = (1..=250).contains(&key.len());
    (is_key && value.len() == length).then_some(Item { key, flags, expires, value })
}
