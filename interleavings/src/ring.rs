//! The rings of changes: what is recorded is read in order, or noted as missed; nobody sleeps on news.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;
use tandem_replication::change::{Bits, Bytes, Change, Put};
use tandem_replication::dirty::DirtyMap;

product! { ring ring_wakes_too_soon ring_counts_badly ring_forgets }

/// Records, a reload counting as one, or nothing because it is gone.
enum Read {
    Empty,
    Records(u32),
    Overrun,
}

trait Rings: Send + Sync + 'static {
    fn new(shards: usize, bytes_max: usize) -> Self;
    fn enable(&self);
    fn set_wake(&self, wake: Box<dyn Fn() + Send + Sync>);
    fn arm(&self);
    fn record(&self, shard: usize, change: &Change<'_>) -> u64;
    fn read_from(&self, shard: usize, sequence: u64, out: &mut BytesMut) -> Read;
    fn track(&self) -> Vec<u64>;
    fn advance(&self, applied: &[u64]);
    fn skip(&self, applied: &[u64]) -> Vec<u64>;
    fn take_missed(&self) -> DirtyMap;
    fn bytes(&self) -> u64;
    fn forget(&self);
}

macro_rules! rings {
    ($name:ident) => {
        impl Rings for $name::Backlog {
            fn new(shards: usize, bytes_max: usize) -> Self {
                Self::new(shards, bytes_max)
            }
            fn enable(&self) {
                self.enable();
            }
            fn set_wake(&self, wake: Box<dyn Fn() + Send + Sync>) {
                self.set_wake(wake);
            }
            fn arm(&self) {
                self.arm();
            }
            fn record(&self, shard: usize, change: &Change<'_>) -> u64 {
                self.record(shard, change)
            }
            fn read_from(&self, shard: usize, sequence: u64, out: &mut BytesMut) -> Read {
                match self.read_from(shard, sequence, 600, out) {
                    $name::Read::Empty => Read::Empty,
                    $name::Read::Records(count) => Read::Records(count),
                    $name::Read::Reload { .. } => panic!("no change of this story is too long"),
                    $name::Read::Overrun => Read::Overrun,
                }
            }
            fn track(&self) -> Vec<u64> {
                self.track()
            }
            fn advance(&self, applied: &[u64]) {
                self.advance(applied);
            }
            fn skip(&self, applied: &[u64]) -> Vec<u64> {
                self.skip(applied)
            }
            fn take_missed(&self) -> DirtyMap {
                self.take_missed()
            }
            fn bytes(&self) -> u64 {
                self.bytes()
            }
            fn forget(&self) {
                self.forget();
            }
        }
    };
}
rings!(ring);
rings!(ring_wakes_too_soon);
rings!(ring_counts_badly);
rings!(ring_forgets);

const SHARDS: usize = 2;
/// Some changes more than the rings hold.
const CHANGES: u64 = 14;
/// Of changes of this length a block takes two.
const VALUE: [u8; 200] = [b'v'; 200];
/// A block of the smallest size, and where its changes end.
const BLOCK_BYTES: usize = 640;
const BYTES_MAX: usize = 6 * BLOCK_BYTES;

fn key(shard: usize, sequence: u64) -> String {
    format!("{shard}:{sequence}")
}

/// The version says which change it is.
fn version(shard: usize, sequence: u64) -> u64 {
    sequence * 10 + shard as u64
}

fn record<R: Rings>(rings: &R, shard: usize, sequence: u64) {
    let key = key(shard, sequence);
    let put = Put {
        key: key.as_bytes(),
        value: Bytes::Whole(&VALUE),
        flags: 0,
        deadline: 0,
        version: version(shard, sequence),
        explicit: None,
        bits: Bits::default(),
    };
    assert_eq!(rings.record(shard, &Change::Put(put)), sequence, "a sequence is used once");
}

/// Two shards are written while a peer is sent what there is; then the peer has everything, or it is
/// noted that it has not.
fn stream<R: Rings>() {
    let rings = Arc::new(R::new(SHARDS, BYTES_MAX));
    rings.enable();
    assert_eq!(rings.track(), [0; SHARDS]);
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..SHARDS)
        .map(|shard| {
            let (rings, done) = (Arc::clone(&rings), Arc::clone(&done));
            thread::spawn(move || {
                for sequence in 1..=CHANGES {
                    record(&*rings, shard, sequence);
                    // Whoever finds the other's ring locked takes a block more than there is room for.
                    let bytes = rings.bytes() as usize;
                    assert!(bytes <= BYTES_MAX + (SHARDS - 1) * BLOCK_BYTES, "{bytes} bytes of {BYTES_MAX}");
                }
                done.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let mut applied = vec![0; SHARDS];
    let mut had: [BTreeSet<u64>; SHARDS] = Default::default();
    let mut missed = DirtyMap::default();
    for turn in 0.. {
        // It reads for a while beside them, and the rest behind them.
        let last = turn > 12;
        if last && done.load(Ordering::Relaxed) < SHARDS {
            thread::yield_now();
            continue;
        }
        let mut news = false;
        for shard in 0..SHARDS {
            let mut out = BytesMut::new();
            match rings.read_from(shard, applied[shard] + 1, &mut out) {
                Read::Empty => continue,
                Read::Overrun => {
                    let from = rings.skip(&applied);
                    assert!(from[shard] > applied[shard], "what is gone is skipped");
                    applied = from;
                }
                Read::Records(count) => {
                    let changes: Vec<_> =
                        Change::decode_all(&out).map(|change| change.expect("what was recorded")).collect();
                    assert_eq!(changes.len(), count as usize);
                    for change in changes {
                        applied[shard] += 1;
                        let sequence = applied[shard];
                        let (key_read, version_read) = change.key_and_version().expect("a put");
                        assert_eq!(key_read, key(shard, sequence).as_bytes());
                        assert_eq!(version_read, version(shard, sequence));
                        had[shard].insert(sequence);
                    }
                }
            }
            news = true;
            rings.advance(&applied);
        }
        missed.merge(&rings.take_missed());
        if last && !news {
            break;
        }
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    for (shard, had) in had.iter().enumerate() {
        for sequence in (1..=CHANGES).filter(|sequence| !had.contains(sequence)) {
            let noted = missed.is_written(key(shard, sequence).as_bytes(), version(shard, sequence));
            assert!(noted, "change {sequence} of shard {shard} was neither read nor noted");
        }
    }
    rings.forget();
    assert_eq!(rings.bytes(), 0, "every block was counted once");
}

/// Whoever armed the alarm and found nothing is woken by what comes.
fn wake<R: Rings>() {
    let rings = Arc::new(R::new(SHARDS, BYTES_MAX));
    rings.enable();
    let bell = Arc::new((Mutex::new(0u32), Condvar::new()));
    let rung = Arc::clone(&bell);
    rings.set_wake(Box::new(move || {
        *rung.0.lock().expect("a lock") += 1;
        rung.1.notify_all();
    }));
    let writers: Vec<_> = (0..SHARDS)
        .map(|shard| {
            let rings = Arc::clone(&rings);
            thread::spawn(move || (1..=2).for_each(|sequence| record(&*rings, shard, sequence)))
        })
        .collect();
    let mut applied = [0; SHARDS];
    let mut heard = 0;
    loop {
        rings.arm();
        for (shard, applied) in applied.iter_mut().enumerate() {
            while let Read::Records(count) = rings.read_from(shard, *applied + 1, &mut BytesMut::new()) {
                *applied += u64::from(count);
            }
        }
        if applied == [2; SHARDS] {
            break;
        }
        // For ever, if nobody rings: that is what the scheduler finds.
        let mut rings = bell.0.lock().expect("a lock");
        while *rings == heard {
            rings = bell.1.wait(rings).expect("a lock");
        }
        heard = *rings;
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
}

#[test]
fn every_change_is_read_in_order_or_noted_as_missed() {
    static STREAMS: AtomicUsize = AtomicUsize::new(0);
    crate::try_orders(|| {
        STREAMS.fetch_add(1, Ordering::Relaxed);
        stream::<ring::Backlog>();
    });
    println!("{} orders of a stream", STREAMS.load(Ordering::Relaxed));
}

#[test]
fn nobody_sleeps_on_a_change() {
    crate::try_orders(wake::<ring::Backlog>);
    println!("{} orders of an alarm", crate::try_one_by_one(wake::<ring::Backlog>));
}

#[test]
fn rings_with_bugs_are_found() {
    crate::find_bug("a ring that wakes too soon", wake::<ring_wakes_too_soon::Backlog>);
    crate::find_bug("a ring that counts badly", stream::<ring_counts_badly::Backlog>);
    crate::find_bug("a ring that forgets what it overwrites", stream::<ring_forgets::Backlog>);
}
