//! All items of a server into a file.

use std::io::Write;

use super::file::{Item, Writer};
use super::keys::{self, Keys};
use super::{BATCH, Connection, Progress};
use crate::dial::Dialler;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Items in the file.
    pub items: u64,
    /// Items that expired, were deleted or evicted while they were asked for.
    pub gone: u64,
}

/// Writes all items of the server at `address`. `now` reads the unix time.
pub fn dump<W: Write>(
    dialler: &Dialler,
    address: &str,
    to: W,
    now: impl Fn() -> u64,
    progress: Progress<'_>,
) -> Result<(Dumped, W), String> {
    let mut names = Keys::of(dialler, address)?;
    let mut values = Connection::open(dialler, address)?;
    let writing = |error: std::io::Error| format!("the file cannot be written: {error}");
    let mut writer = Writer::new(to, now(), address).map_err(writing)?;
    let mut dumped = Dumped::default();
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(key) = names.next_key()? else { break };
            keys::ask(&mut values, &key);
            batch.push(key);
        }
        if batch.is_empty() {
            return Ok((dumped, writer.end().map_err(writing)?));
        }
        values.flush()?;
        for key in batch {
            let Some(found) = keys::found(&mut values)? else {
                dumped.gone += 1;
                continue;
            };
            let expires = found.remaining.map_or(0, |seconds| now() + seconds);
            let item = Item { key, flags: found.flags, expires, value: found.value };
            writer.item(&item).map_err(writing)?;
            dumped.items += 1;
        }
        progress(dumped.items + dumped.gone, names.expected());
    }
}
