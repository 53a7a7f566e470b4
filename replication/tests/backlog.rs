//! What a backlog does beside recording: hints for a backup that wants them, and the processor told where it will write.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tandem_replication::backlog::{Backlog, Read};
use tandem_replication::change::{Bits, Bytes, Change, Put};

fn put(version: u64) -> Change<'static> {
    let value = Bytes::Whole(b"a value");
    Change::Put(Put {
        key: b"key",
        value,
        flags: 0,
        deadline: 0,
        version,
        explicit: None,
        bits: Bits::default(),
    })
}

fn backlog() -> Backlog {
    let backlog = Backlog::new(1, 256 * 1024);
    backlog.enable();
    backlog
}

fn read(backlog: &Backlog) -> (u32, BytesMut) {
    let mut bytes = BytesMut::new();
    match backlog.read_from(0, 1, usize::MAX, &mut bytes) {
        Read::Records(count) => (count, bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hint_is_recorded_only_for_a_backup_that_it_is_of_use_to() {
    let backlog = backlog();
    backlog.record(0, &put(1));
    backlog.hint(0, &put(2));
    assert_eq!((backlog.last_of(0), backlog.hints()), (1, 0), "nobody wants it");
    backlog.want_hints(true);
    backlog.hint(0, &put(3));
    backlog.hint(0, &put(4));
    assert_eq!((backlog.last_of(0), backlog.hints()), (3, 2));
    assert_eq!(read(&backlog).0, 3, "it goes the way of a change");
    backlog.want_hints(false);
    backlog.hint(0, &put(5));
    assert_eq!((backlog.last_of(0), backlog.hints()), (3, 2), "nobody wants it any more");
}

#[test]
fn the_processor_is_told_of_memory_ahead_and_what_is_recorded_is_the_same() {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    fn tell(_: &MaybeUninit<u8>) {
        TOLD.fetch_add(1, Ordering::Relaxed);
    }
    let (told, quiet) = (backlog(), backlog());
    told.set_prefetch(tell);
    for version in 1..=100 {
        told.record(0, &put(version));
        quiet.record(0, &put(version));
    }
    assert!(TOLD.load(Ordering::Relaxed) >= 100, "at least one line for each: {TOLD:?}");
    assert_eq!(read(&told), read(&quiet));
}
