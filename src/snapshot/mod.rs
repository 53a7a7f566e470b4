//! Warm restart (`-e FILE`): items survive a planned stop of a node that is alone.
//!
//! A graceful stop (SIGUSR1, `shutdown graceful`) writes every live item to FILE, when no client is
//! connected any more; the next start reads it before the first client is served, and removes it. So
//! FILE exists only between such a stop and the start after it, and what a node loads is exactly what
//! it had when it said goodbye: a crash, a kill or a power cut in between can not bring back an older
//! state, because there is none on the disk.
//!
//! Deadlines are moved by the wall clock: what expired meanwhile stays expired. Versions (and with
//! them CAS uniques), flags and meta bits are kept. A file that is damaged, cut short, foreign or of
//! another release's format is named in the log and set aside as FILE.refused; the start is empty.
//!
//! Memory: one block (1 MiB, or one item if that is longer) while writing and while reading.

pub mod format;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tandem_replication::change::Change;

use crate::command::Now;
use crate::engine::{Engine, memcached_size};

use format::{Damage, Header, Reader, Writer};

/// About so many bytes are written or applied at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// How often the log hears how far it is.
const PROGRESS: Duration = Duration::from_secs(5);
/// Items that background work looks at after each block of a load: the index has to grow meanwhile.
const UPKEEP_ITEMS: usize = 1 << 16;

/// The file of `-e`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    path: PathBuf,
}

/// What a start found.
#[derive(Debug)]
pub enum Loaded {
    /// There was no file: the last stop was not a graceful one, or there was none.
    Nothing,
    /// Items were restored.
    Items(Restored),
    /// The file was refused, for this reason; nothing was restored.
    Refused(String),
}

/// How many items a snapshot held, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Given to the engine.
    pub applied: u64,
    /// Expired while nobody ran.
    pub expired: u64,
    /// Larger than `-I` now allows.
    pub too_large: u64,
    /// The wall clock reads less than when the file was written: deadlines are as if no time passed.
    pub clock_went_back: bool,
}

impl Snapshot {
    /// Makes sure that a file can be written there, now and not only when it is needed.
    pub fn at(path: &Path) -> Result<Self, String> {
        let snapshot = Self { path: path.to_path_buf() };
        let scratch = snapshot.beside("saving");
        // Left over from a stop that was killed: of no use to anybody.
        create_scratch(&scratch).and_then(|_| fs::remove_file(&scratch)).map_err(|error| {
            format!(
                "-e {}: no file can be written there: {error}; choose a directory that this user may write to",
                path.display()
            )
        })?;
        Ok(snapshot)
    }

    /// Restores the items of the last graceful stop and removes the file. To be called before anybody
    /// is served: whatever is wrong with the file, the engine is empty then.
    pub fn load(&self, engine: &dyn Engine, now: Now, item_size_max: usize) -> Loaded {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Nothing,
            Err(error) => return self.refuse(engine, now, &Damage::Read(error)),
        };
        match restore(BufReader::with_capacity(BLOCK_BYTES, file), engine, now, item_size_max) {
            Err(damage) => self.refuse(engine, now, &damage),
            Ok(restored) => match fs::remove_file(&self.path).and_then(|()| self.sync_directory()) {
                Ok(()) => Loaded::Items(restored),
                Err(error) => {
                    forget(engine, now);
                    Loaded::Refused(format!(
                        "-e {}: the file cannot be removed: {error}; the start is empty, because a later crash would bring these items back",
                        self.path.display()
                    ))
                }
            },
        }
    }

    /// Writes every live item. The file is there as a whole or not at all. Returns how many.
    pub fn save(&self, engine: &dyn Engine, now: Now) -> Result<u64, String> {
        let scratch = self.beside("saving");
        let written =
            create_scratch(&scratch).and_then(|file| write(file, engine, now)).and_then(|(file, items)| {
                file.sync_all()?;
                fs::rename(&scratch, &self.path)?;
                self.sync_directory()?;
                Ok(items)
            });
        written.map_err(|error| {
            let _never_made = fs::remove_file(&scratch);
            format!(
                "-e {}: items cannot be saved: {error}; the next start will be empty",
                self.path.display()
            )
        })
    }

    fn refuse(&self, engine: &dyn Engine, now: Now, damage: &Damage) -> Loaded {
        forget(engine, now);
        let aside = self.beside("refused");
        let whereto = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("it is now {}", aside.display()),
            Err(error) => format!("it cannot be set aside: {error}; remove it"),
        };
        Loaded::Refused(format!(
            "-e {}: refused, and the start is empty: {damage} ({whereto})",
            self.path.display()
        ))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// A new file that only this user may read: items are nobody else's business.
fn create_scratch(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Everything live, to `target`.
pub fn write<W: io::Write>(target: W, engine: &dyn Engine, now: Now) -> io::Result<(W, u64)> {
    let header = Header { secs: now.secs, wall_ms: now.wall_ms, items: engine.items() };
    let mut writer = Writer::begin(target, header)?;
    let mut progress = Progress::new("saved", header.items);
    let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
    let (mut items, mut saved) = (0, 0);
    for shard in 0..engine.shards() {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = engine.scan(shard, at, BLOCK_BYTES, now, &mut |change| {
                change.encode(&mut block);
                items += 1;
            });
            if block.len() >= BLOCK_BYTES {
                writer.changes(&block, items)?;
                saved += items;
                progress.at(saved);
                block.clear();
                items = 0;
            }
        }
    }
    if let Some(deadline) = engine.pending_flush() {
        Change::FlushAt { deadline }.encode(&mut block);
    }
    if !block.is_empty() {
        writer.changes(&block, items)?;
    }
    writer.end()
}

/// Everything in `source`, into an engine that serves nobody yet. After an error the engine holds
/// whatever came before the damage.
pub fn restore(
    source: impl Read,
    engine: &dyn Engine,
    now: Now,
    item_size_max: usize,
) -> Result<Restored, Damage> {
    let (mut reader, header) = Reader::begin(source)?;
    let mut restored = Restored { clock_went_back: now.wall_ms < header.wall_ms, ..Restored::default() };
    // What the writer's engine clock would read now. A begun second counts as passed.
    let passed = now.wall_ms.saturating_sub(header.wall_ms).div_ceil(1000);
    let theirs = header.secs.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX));
    let mut progress = Progress::new("restored", header.items);
    while reader.next_block(&mut |change| {
        let change = change.clone().translated(theirs, now.secs);
        if let Change::Put(put) = &change {
            let size = memcached_size(put.key.len(), put.value.len(), put.flags, true);
            if put.deadline != 0 && put.deadline <= now.secs {
                restored.expired += 1;
                return;
            }
            if size > item_size_max {
                restored.too_large += 1;
                return;
            }
            restored.applied += 1;
        }
        engine.apply(&change, now);
    })? {
        engine.maintain(now, UPKEEP_ITEMS, false);
        progress.at(restored.applied);
    }
    Ok(restored)
}

/// As if nothing had been read.
fn forget(engine: &dyn Engine, now: Now) {
    engine.clear(now);
    engine.apply(&Change::FlushAt { deadline: 0 }, now);
    engine.reset_stats();
}

/// Tells the log now and then.
struct Progress {
    what: &'static str,
    of: u64,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, of: u64) -> Self {
        Self { what, of, told: Instant::now() }
    }

    fn at(&mut self, items: u64) {
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            tracing::info!("{items} of about {} items {}", self.of, self.what);
        }
    }
}

#[cfg(test)]
mod tests;
