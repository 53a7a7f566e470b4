//! Files that somebody may have damaged, or written.

use std::cell::RefCell;
use std::path::Path;

use tandem_replication::state::{FILE, StateDirectory};
use tandemd::server::auth::Auth;
use tandemd::snapshot;
use tandemd::snapshot::format::{Header, Writer};

use crate::commands::{ITEM_SIZE_MAX, NOW, content, memory, model};

/// The file of a warm restart: as it is, or (first byte odd) with right checksums around any changes.
pub fn snapshot(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let sealed = if mode % 2 == 1 { sealed(rest) } else { rest.to_vec() };
    let (memory, model) = (memory(), model());
    let (ours, theirs) = (
        snapshot::restore(&sealed[..], &memory, NOW, ITEM_SIZE_MAX),
        snapshot::restore(&sealed[..], &model, NOW, ITEM_SIZE_MAX),
    );
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours, theirs);
            let before = content(&memory, NOW);
            assert_eq!(before, content(&model, NOW), "the engine and its model disagree");
            // What came in goes out, and comes in again.
            let (saved, _) = snapshot::write(Vec::new(), &memory, NOW).expect("a vector takes it");
            let again = crate::commands::memory();
            snapshot::restore(&saved[..], &again, NOW, ITEM_SIZE_MAX).expect("our own file");
            assert_eq!(before, content(&again, NOW));
        }
        (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
        (ours, theirs) => panic!("{ours:?} and {theirs:?}"),
    }
}

/// `secs:4 | seconds ago:2 | items said:1 | changes`.
fn sealed(rest: &[u8]) -> Vec<u8> {
    let Some((head, changes)) = rest.split_at_checked(7) else { return rest.to_vec() };
    let secs = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let ago = u64::from(u16::from_le_bytes([head[4], head[5]]));
    let header = Header { secs, wall_ms: NOW.wall_ms - ago * 1000, items: 0 };
    let mut writer = Writer::begin(Vec::new(), header).expect("a vector takes it");
    writer.changes(changes, u64::from(head[6])).expect("a vector takes it");
    writer.end().expect("a vector takes it").0
}

thread_local! {
    static PLACE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A directory for this thread, in memory where there is such a place.
fn place<T>(work: impl FnOnce(&Path) -> T) -> T {
    PLACE.with_borrow_mut(|place| {
        let memory = Path::new("/dev/shm");
        let directory = place.get_or_insert_with(|| {
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a temporary directory")
        });
        work(directory.path())
    })
}

/// What a node remembers of its pair.
pub fn state(bytes: &[u8]) {
    place(|path| {
        let directory = StateDirectory::open(path).expect("a directory of our own");
        std::fs::write(path.join(FILE), bytes).expect("a file");
        match directory.load() {
            Ok(Some(state)) => assert!(state.len() < bytes.len()),
            Ok(None) => panic!("there is a file"),
            Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
        }
    });
}

/// Users and passwords.
pub fn auth(bytes: &[u8]) {
    place(|path| {
        let file = path.join("users");
        std::fs::write(&file, bytes).expect("a file");
        match Auth::from_file(file.clone()) {
            Ok(auth) => {
                assert!(auth.is_required());
                let line = bytes.split(|&byte| byte == b'\n').find(|line| !line.is_empty());
                let line = line.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).unwrap_or_default();
                if let Some(colon) = line.iter().position(|&byte| byte == b':') {
                    assert!(auth.admits(&line[..colon], &line[colon + 1..]), "a user of the file");
                    assert!(!auth.admits(&line[..colon], b"not\nthe password"));
                }
            }
            Err(error) => assert!(error.contains("users"), "{error}"),
        }
    });
}
