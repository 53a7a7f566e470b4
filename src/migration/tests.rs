use std::io::Cursor;

use super::*;
use crate::engine::NoJournal;
use crate::engine::model::ModelEngine;
use crate::server::gate::Open;

fn target() -> Target {
    Target {
        engine: Arc::new(ModelEngine::new(2, 1, u64::MAX, 1 << 20, Arc::new(NoJournal))),
        gate: Arc::new(Open),
        worker: 0,
        clock: Arc::new(Clock::start()),
        item_size_max: 10_000,
    }
}

/// What came, and how it ended.
fn follow_all(bytes: &[u8], target: &Target) -> (Tally, String) {
    let mut last = Tally::default();
    let end = follow(Cursor::new(bytes), target, &mut |tally| last = *tally);
    (last, end.to_string())
}

struct Last(Option<(Vec<u8>, u32, u64, bool)>);

impl Replies for Last {
    fn reply(&mut self, _index: usize, outcome: Outcome<'_>) {
        let Outcome::Hit(hit) = outcome else { return };
        let value = match hit.value {
            crate::command::Value::Inline(bytes) => bytes.to_vec(),
            crate::command::Value::Pages(pages) => pages.chunks().concat(),
        };
        self.0 = Some((value, hit.flags, hit.cas, hit.deadline == Deadline::NEVER));
    }
}

/// Value, flags, CAS unique and whether it never expires.
fn look(target: &Target, key: &[u8]) -> Option<(Vec<u8>, u32, u64, bool)> {
    let mut last = Last(None);
    let command = [Command { key: key.into(), op: Op::Inspect }];
    target.engine.execute(&command, target.clock.now(), &mut last);
    last.0
}

#[test]
fn a_copy_and_its_stream_are_executed() {
    let target = target();
    let unix = target.clock.now().unix();
    let mut bytes = format!("rep t 5 {} 3 7\r\nabc\r\nrep u 0 0 0 8\r\n\r\n", unix + 100).into_bytes();
    bytes.extend(b"rep w -1 0 2 -1\r\n\r\n\r\nmarugoto_end\r\ndelete u\r\ndelete nothing\r\n");
    let (tally, end) = follow_all(&bytes, &target);
    assert_eq!(tally, Tally { stored: 3, deleted: 2, copied: true, ..Tally::default() });
    assert!(end.contains("closed"), "{end}");
    assert_eq!(look(&target, b"t"), Some((b"abc".to_vec(), 5, 7, false)));
    assert_eq!(look(&target, b"u"), None);
    assert_eq!(look(&target, b"w"), Some((b"\r\n".to_vec(), u32::MAX, u64::from(u32::MAX), true)));
}

#[test]
fn an_item_that_has_expired_is_not_served() {
    let target = target();
    let unix = target.clock.now().unix();
    for expires in [unix - 1, 1, 100] {
        let bytes = format!("rep t 0 0 1 1\r\nx\r\nrep t 0 {expires} 1 1\r\ny\r\n");
        follow_all(bytes.as_bytes(), &target);
        assert_eq!(look(&target, b"t"), None, "{expires}");
    }
}

#[test]
fn flushes_are_executed_when_they_are_due() {
    let target = target();
    let unix = target.clock.now().unix();
    follow_all(b"rep t 0 0 1 1\r\nx\r\nflush_all \r\n", &target);
    assert_eq!(look(&target, b"t"), None);
    // What a client's `flush_all 0` becomes: the time their process started.
    follow_all(format!("rep t 0 0 1 1\r\nx\r\nflush_all {}\r\n", unix - 1000).as_bytes(), &target);
    assert_eq!(look(&target, b"t"), None);
    follow_all(format!("rep t 0 0 1 1\r\nx\r\nflush_all {}\r\n", unix + 1000).as_bytes(), &target);
    assert!(look(&target, b"t").is_some());
    let pending = target.engine.pending_flush().unwrap();
    assert!((1000..=1002).contains(&(pending - target.clock.now().secs + 1)), "{pending}");
}

#[test]
fn an_item_that_is_too_large_leaves_no_older_one() {
    let target = target();
    let mut bytes = b"rep t 0 0 1 1\r\nx\r\nrep t 0 0 10000 2\r\n".to_vec();
    bytes.extend(vec![b'y'; 10_000]);
    bytes.extend(b"\r\nrep u 0 0 1 3\r\nz\r\n");
    let (tally, _) = follow_all(&bytes, &target);
    assert_eq!((tally.stored, tally.refused), (2, 1));
    assert_eq!(look(&target, b"t"), None);
    assert!(look(&target, b"u").is_some());
}

#[test]
fn foreign_bytes_end_the_link_and_are_named() {
    let target = target();
    for (bytes, named) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "HTTP/1.1 400"),
        (b"\x80\x01\n", "\\x80\\x01"),
        (b"rep k 0 0 1 1\r\nxyz\r\n", "longer than announced, of the key: `k`"),
        (b"rep k 0 0 -5 1\r\n", "rep k 0 0 -5 1"),
        (&[b'x'; 100_000], "a line longer than any"),
    ] {
        let (tally, end) = follow_all(bytes, &target);
        assert_eq!(tally, Tally::default());
        assert!(end.contains(named) && end.contains("--repcached-peer"), "{end}");
    }
}

#[test]
fn a_link_that_breaks_stores_no_half_an_item() {
    let target = target();
    let bytes = b"rep t 0 0 5 1\r\nabcde\r\n";
    for cut in 0..bytes.len() {
        let (tally, _) = follow_all(&bytes[..cut], &target);
        assert_eq!(tally.stored, 0);
        assert_eq!(look(&target, b"t"), None);
    }
}
