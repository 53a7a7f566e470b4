//! All items of a file into a server.

use std::collections::VecDeque;
use std::io::BufRead;

use super::file::{Item, Reader};
use super::{BATCH, Connection, Progress};
use crate::dial::Dialler;

/// Requests that wait to be sent in one piece.
const BATCH_BYTES: usize = 256 << 10;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Items that the server holds now.
    pub stored: u64,
    /// Items that were there and were to be kept.
    pub kept: u64,
    /// Items whose time was over.
    pub expired: u64,
    /// Items that the server refused.
    pub refused: u64,
    /// What it said to the first of them.
    pub refusal: Option<String>,
}

/// Reads a file to its end: whether all of it is right, and how many items it has.
pub fn verify(from: impl BufRead) -> Result<u64, String> {
    let mut reader = Reader::new(from)?;
    let mut items = 0;
    while reader.next_item()?.is_some() {
        items += 1;
    }
    Ok(items)
}

/// Stores all items of a file in the server at `address`; with `keep`, not over those that it has. `now` is
/// the unix time. `expected` is for the progress.
pub fn load(
    dialler: &Dialler,
    address: &str,
    from: impl BufRead,
    keep: bool,
    now: u64,
    expected: u64,
    progress: Progress<'_>,
) -> Result<Loaded, String> {
    let mut reader = Reader::new(from)?;
    let mut connection = Connection::open(dialler, address)?;
    let (mut loaded, mut sent, mut passed) = (Loaded::default(), 0, 0);
    // Whoever reads the end of a damaged file has stored what was before it, and says so.
    loop {
        let item = match reader.next_item() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            Err(why) => {
                answers(&mut connection, &mut sent, &mut loaded)?;
                return Err(format!("{why}; {} items before that were stored", loaded.stored));
            }
        };
        passed += 1;
        if item.expires != 0 && item.expires <= now {
            loaded.expired += 1;
            continue;
        }
        ask(&mut connection, &item, keep);
        sent += 1;
        if sent == BATCH || connection.waiting.len() >= BATCH_BYTES {
            answers(&mut connection, &mut sent, &mut loaded)?;
            progress(passed, expected);
        }
    }
    answers(&mut connection, &mut sent, &mut loaded)?;
    progress(passed, expected);
    Ok(loaded)
}

fn ask(connection: &mut Connection, item: &Item, keep: bool) {
    let out = &mut connection.waiting;
    out.extend_from_slice(b"ms ");
    let base64 = super::write_key(&item.key, out);
    let mode = if keep { " ME" } else { "" };
    // A unix time is one for every server: it is larger than what counts from now.
    let head = format!(" {}{base64} F{} T{}{mode}\r\n", item.value.len(), item.flags, item.expires);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&item.value);
    out.extend_from_slice(b"\r\n");
}

/// Sends what waits and counts the answers.
fn answers(connection: &mut Connection, sent: &mut usize, loaded: &mut Loaded) -> Result<(), String> {
    connection.flush()?;
    let mut said = VecDeque::new();
    for _ in 0..std::mem::take(sent) {
        match connection.line()? {
            b"HD" => loaded.stored += 1,
            b"NS" => loaded.kept += 1,
            other if other.starts_with(b"SERVER_ERROR") => {
                loaded.refused += 1;
                said.push_back(other.escape_ascii().to_string());
            }
            other => {
                let other = other.to_vec();
                return Err(connection.strange(&other));
            }
        }
    }
    loaded.refusal = loaded.refusal.take().or_else(|| said.pop_front());
    Ok(())
}
