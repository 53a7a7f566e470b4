//! What a node must not forget: a few bytes in one file, replaced as a whole or not at all.
//!
//! Written beside the old file, flushed to the disk, renamed over it, and the directory flushed too:
//! after a power cut the file holds the old bytes or the new ones. It carries a magic number, a
//! format version, its length and a checksum, so a torn, truncated or foreign file is noticed and
//! named, never believed. What the bytes mean is the node's business.
//!
//! A lock file keeps a second process from being the same node.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::BufMut;

/// The name of the file in the directory.
pub const FILE: &str = "node.state";
const SCRATCH: &str = "node.state.new";
const LOCK: &str = "lock";

/// Eight bytes that say what the file is.
const MAGIC: [u8; 8] = *b"TANDEMst";
/// The format this build writes and the only one it reads.
const FORMAT: u16 = 1;
/// Magic, format, length.
const HEADER_BYTES: usize = 8 + 2 + 4;
const CHECKSUM_BYTES: usize = 4;
/// More than a state ever takes; a longer file is not ours.
pub const STATE_BYTES_MAX: usize = 64 * 1024;

/// Why the state could not be read or written. Each names the file and what to do.
#[derive(Debug)]
pub enum StateError {
    /// The directory is not there and cannot be made.
    Directory(PathBuf, io::Error),
    /// Another process holds the directory.
    InUse(PathBuf),
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The file is not what this build wrote.
    Corrupt(PathBuf, &'static str),
    /// A release with another format wrote it.
    Format(PathBuf, u16),
    /// The file cannot be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, why) => write!(
                f,
                "cannot use the state directory {}: {why}; create it, owned by the user this node runs as",
                path.display()
            ),
            Self::InUse(path) => write!(
                f,
                "the state directory {} is in use by another process: give each node its own --state-dir",
                path.display()
            ),
            Self::Read(path, why) => {
                write!(f, "cannot read {}: {why}; make it readable for this node's user", path.display())
            }
            Self::Corrupt(path, what) => write!(
                f,
                "{} is damaged ({what}): delete it, and this node starts anew and follows its peer",
                path.display()
            ),
            Self::Format(path, format) => write!(
                f,
                "{} has format {format}, this release reads {FORMAT}: run the release that wrote it, or delete it",
                path.display()
            ),
            Self::Write(path, why) => {
                write!(f, "cannot write {}: {why}; free space or make it writable", path.display())
            }
        }
    }
}

impl std::error::Error for StateError {}

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory if need be and claims it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |why| StateError::Directory(path.to_path_buf(), why);
        fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|why| StateError::Write(path.join(LOCK), why))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse(path.to_path_buf())),
            Err(fs::TryLockError::Error(why)) => Err(StateError::Write(path.join(LOCK), why)),
        }
    }

    /// The state last saved; `None` if there never was one.
    pub fn load(&self) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(StateError::Read(path, why)),
        };
        let most = (HEADER_BYTES + STATE_BYTES_MAX + CHECKSUM_BYTES) as u64 + 1;
        let mut bytes = Vec::new();
        if let Err(why) = file.take(most).read_to_end(&mut bytes) {
            return Err(StateError::Read(path, why));
        }
        match unpack(&bytes) {
            Ok(state) => Ok(Some(state.to_vec())),
            Err(Damage::Format(format)) => Err(StateError::Format(path, format)),
            Err(Damage::Corrupt(what)) => Err(StateError::Corrupt(path, what)),
        }
    }

    /// Replaces the state. When this returns `Ok`, a power cut cannot bring the old one back.
    pub fn save(&self, state: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(FILE);
        self.replace(&path, state).map_err(|why| StateError::Write(path, why))
    }

    fn replace(&self, path: &Path, state: &[u8]) -> io::Result<()> {
        if state.len() > STATE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the state is too long"));
        }
        let scratch = self.path.join(SCRATCH);
        let mut file = File::create(&scratch)?;
        file.write_all(&pack(state))?;
        file.sync_all()?;
        fs::rename(&scratch, path)?;
        File::open(&self.path)?.sync_all()
    }
}

enum Damage {
    Format(u16),
    Corrupt(&'static str),
}

fn pack(state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + state.len() + CHECKSUM_BYTES);
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(FORMAT);
    bytes.put_u32_le(state.len() as u32);
    bytes.put_slice(state);
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    bytes
}

fn unpack(bytes: &[u8]) -> Result<&[u8], Damage> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Damage::Corrupt("it is too short"));
    };
    if header[..8] != MAGIC {
        return Err(Damage::Corrupt("it is not a state file"));
    }
    let format = u16::from_le_bytes([header[8], header[9]]);
    if format != FORMAT {
        return Err(Damage::Format(format));
    }
    let length = u32::from_le_bytes([header[10], header[11], header[12], header[13]]) as usize;
    if length > STATE_BYTES_MAX || rest.len() != length + CHECKSUM_BYTES {
        return Err(Damage::Corrupt("its length is wrong"));
    }
    let (state, checksum) = rest.split_at(length);
    if crc32c::crc32c(&bytes[..HEADER_BYTES + length]).to_le_bytes() != checksum {
        return Err(Damage::Corrupt("its checksum is wrong"));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateDirectory::open(&dir.path().join("made/on/demand")).expect("it can be made");
        (dir, state)
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (_dir, state) = directory();
        assert_eq!(state.load().expect("no file is no error"), None);
        for bytes in [&b"first"[..], b"", b"a longer second one"] {
            state.save(bytes).expect("saved");
            assert_eq!(state.load().expect("loaded").as_deref(), Some(bytes));
        }
    }

    #[test]
    fn every_torn_or_changed_file_is_noticed() {
        let (_dir, state) = directory();
        state.save(b"precious").expect("saved");
        let path = state.path.join(FILE);
        let whole = fs::read(&path).expect("there");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("writable");
            let error = state.load().expect_err("torn").to_string();
            assert!(error.contains("node.state") && error.contains("delete it"), "{error}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).expect("writable");
            state.load().expect_err("changed");
        }
        fs::write(&path, [whole, vec![0]].concat()).expect("writable");
        state.load().expect_err("too long");
        fs::write(&path, vec![b'x'; 10 << 20]).expect("writable");
        state.load().expect_err("foreign and huge");
    }

    #[test]
    fn a_torn_write_leaves_the_old_state() {
        let (_dir, state) = directory();
        state.save(b"old").expect("saved");
        fs::write(state.path.join(SCRATCH), b"TANDEMst half a new o").expect("writable");
        assert_eq!(state.load().expect("loaded").as_deref(), Some(&b"old"[..]));
        state.save(b"new").expect("the leftover is no obstacle");
        assert_eq!(state.load().expect("loaded").as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn two_processes_are_not_one_node() {
        let (_dir, state) = directory();
        let error = StateDirectory::open(&state.path).expect_err("held").to_string();
        assert!(error.contains("in use by another process"), "{error}");
        let path = state.path.clone();
        drop(state);
        StateDirectory::open(&path).expect("free again");
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, b"in the way").expect("writable");
        for path in [file.clone(), file.join("below"), PathBuf::from("/proc/tandem")] {
            let error = StateDirectory::open(&path).expect_err("unusable").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_directory_that_went_away_fails_the_save_and_not_the_process() {
        let (dir, state) = directory();
        fs::remove_dir_all(dir.path()).expect("removable");
        let error = state.save(b"lost").expect_err("no directory").to_string();
        assert!(error.contains("node.state") && error.contains("writable"), "{error}");
    }
}
