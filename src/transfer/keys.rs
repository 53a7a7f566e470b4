//! The names of all keys of a server.

use base64::Engine as _;

use super::{Connection, number_of, unescape};
use crate::dial::Dialler;

/// Lists keys. They are those of the moment in which the server's walk passes them.
pub struct Keys {
    connection: Connection,
    /// How many there were at the start.
    expected: u64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Keys {
    /// Asks the server at HOST:PORT.
    pub fn of(dialler: &Dialler, address: &str) -> Result<Self, String> {
        let mut connection = Connection::open(dialler, address)?;
        let expected = connection.items()?;
        // Its lines are for machines; older servers know the other form only.
        connection.waiting.extend_from_slice(b"lru_crawler mgdump all\r\n");
        connection.flush()?;
        let mut keys = Self { connection, expected };
        let first = keys.connection.line()?;
        if first.starts_with(b"mg ") || first == b"EN" {
            return Ok(keys);
        }
        if first.starts_with(b"ERROR") || first.starts_with(b"CLIENT_ERROR") {
            keys.connection.waiting.extend_from_slice(b"lru_crawler metadump all\r\n");
            keys.connection.flush()?;
            let first = keys.connection.line()?;
            if first.starts_with(b"key=") || first == b"END" {
                return Ok(keys);
            }
        }
        let said = keys.connection.line.clone();
        if said.ends_with(b"not allowed") {
            return Err(format!(
                "{address} does not list its keys ({}): it was started with -X (--disable-dumping)",
                said.escape_ascii()
            ));
        }
        Err(keys.connection.strange(&said))
    }

    /// About how many there will be.
    pub const fn expected(&self) -> u64 {
        self.expected
    }

    /// The next key, if there is one more.
    pub fn next_key(&mut self) -> Result<Option<Vec<u8>>, String> {
        // The line that was read last is the next one to be told.
        if [&b"EN"[..], b"END"].contains(&&self.connection.line[..]) {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.connection.line);
        let Some(key) = key_of(&line) else { return Err(self.connection.strange(&line)) };
        self.connection.line()?;
        Ok(Some(key))
    }
}

/// The key of a line of either form.
fn key_of(line: &[u8]) -> Option<Vec<u8>> {
    if let Some(rest) = line.strip_prefix(b"mg ") {
        return match rest.strip_suffix(b" b") {
            Some(encoded) => base64::engine::general_purpose::STANDARD.decode(encoded).ok(),
            None => Some(rest.to_vec()),
        };
    }
    unescape(line.strip_prefix(b"key=")?.split(|byte| *byte == b' ').next()?)
}

/// What a server knows of one item.
pub(super) struct Found {
    pub(super) flags: u32,
    /// Seconds that remain; none for ever.
    pub(super) remaining: Option<u64>,
    pub(super) value: Vec<u8>,
}

/// Asks for a key's value; [`found`] reads the answer.
pub(super) fn ask(connection: &mut Connection, key: &[u8]) {
    connection.waiting.extend_from_slice(b"mg ");
    let base64 = super::write_key(key, &mut connection.waiting);
    connection.waiting.extend_from_slice(format!("{base64} t f v\r\n").as_bytes());
}

/// The answer: the item, unless it is gone.
pub(super) fn found(connection: &mut Connection) -> Result<Option<Found>, String> {
    let line = connection.line()?;
    if line == b"EN" {
        return Ok(None);
    }
    let line = line.to_vec();
    let read = || {
        let mut words = line.strip_prefix(b"VA ")?.split(|byte| *byte == b' ');
        let length: usize = number_of(words.next()?)?;
        let (mut flags, mut remaining) = (0, None);
        for word in words {
            match word.split_first()? {
                (b'f', digits) => flags = number_of(digits)?,
                (b't', b"-1") => remaining = None,
                (b't', digits) => remaining = Some(number_of(digits)?),
                _ => {}
            }
        }
        (length <= super::VALUE_BYTES_MAX).then_some((length, flags, remaining))
    };
    let Some((length, flags, remaining)) = read() else { return Err(connection.strange(&line)) };
    let value = connection.value(length)?;
    Ok(Some(Found { flags, remaining, value }))
}
