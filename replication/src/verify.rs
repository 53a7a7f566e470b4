//! Is the backup what the master is? Compares the two, finds what differs, and sends it anew.
//!
//! Changes are acknowledged by position, so a difference means that something is broken: a fault of
//! memory, a bug here. It is looked for all the same, because a cache that is wrong in silence is
//! worse than none.
//!
//! Intuition: both nodes walk all of their items at leisure and add up a checksum for each of
//! [`BUCKETS`] groups of keys. Where sums differ the nodes list the group: keys, versions, checksums. While
//! clients write, some differ only because the walks were not at the same moment; so what differs is
//! looked at once more, after everything recorded before the first look was acknowledged. What is the same pair of
//! unequal items twice is no change under way: it has diverged. The master then states such an item
//! anew, with a new version (or its absence, as a delete), through the stream like any change.
//!
//! An item that only one node has may have been evicted by the other: nodes evict by themselves. It counts as diverged only if the
//! node without it has room enough to have evicted nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::store::Store;
use crate::time::{Mono, Span};

/// Groups of keys.
pub const BUCKETS: usize = 4096;
/// Items listed at most in one look; groups beyond that wait for the next comparison.
const LISTED_MAX: usize = 20_000;
/// Items in one frame of a list.
const LISTED_AT_ONCE: usize = 200;
/// Items walked over at a time, in bytes: clients that need the same shard wait no longer than that takes.
const STEP_BYTES: usize = 32 << 10;
/// Time between two steps.
const STEP_PAUSE: Span = Span(1_000);
/// Between the two looks at what differs.
const SECOND_LOOK: Span = Span::from_millis(1_000);
/// A comparison that takes longer is given up: the next one will do.
const LONGEST: Span = Span::from_millis(600_000);

/// What one node wants to know of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// An answer names it.
    pub number: u32,
    /// The groups to list; none asks for the sums of all.
    pub buckets: Vec<u16>,
}

/// The answer, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the question.
    pub number: u32,
    /// The sums, if those were asked for.
    pub sums: Vec<u64>,
    /// Items of the groups that were asked for.
    pub items: Vec<Fingerprint>,
    /// Nothing follows.
    pub last: bool,
}

/// An item, short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Whose.
    pub key: Vec<u8>,
    /// Of the item.
    pub version: u64,
    /// Of flags and value.
    pub sum: u32,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Items of the master that were compared.
    pub items: u64,
    /// Groups whose sums differed at the first look.
    pub buckets: u64,
    /// Items that had diverged, and were stated anew.
    pub diverged: u64,
}

fn bucket(key: &[u8]) -> u16 {
    (crc32c::crc32c(key) as usize % BUCKETS) as u16
}

/// Deadlines are left out: they are rounded to seconds of two clocks.
fn fingerprint<'a>(change: &Change<'a>) -> Option<(&'a [u8], u64, u32)> {
    let Change::Put(put) = change else { return None };
    let begin = crc32c::crc32c(&put.flags.to_le_bytes());
    let sum = put.value.pieces().fold(begin, crc32c::crc32c_append);
    Some((put.key, put.version, sum))
}

/// One item's share of its group's sum: all bits depend on all of it, so that two items do not make up
/// for each other.
fn mixed(key: &[u8], version: u64, sum: u32) -> u64 {
    let mut bits = version ^ (u64::from(crc32c::crc32c(key)) << 32 | u64::from(sum));
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ (bits >> 33)).wrapping_mul(multiplier);
    }
    bits ^ (bits >> 33)
}

/// A walk over all items, a step at a time.
#[derive(Clone, Debug)]
struct Walk {
    /// The groups to list; none sums up all of them.
    buckets: BTreeSet<u16>,
    shard: usize,
    cursor: u64,
    next: Mono,
    visited: u64,
    sums: Vec<u64>,
    items: Vec<Fingerprint>,
}

impl Walk {
    fn new(buckets: &[u16], now: Mono) -> Self {
        Self {
            buckets: buckets.iter().copied().collect(),
            shard: 0,
            cursor: 0,
            next: now,
            visited: 0,
            sums: if buckets.is_empty() { vec![0; BUCKETS] } else { Vec::new() },
            items: Vec::new(),
        }
    }

    /// Goes on, if it is time. `true`: the walk is over.
    fn step(&mut self, store: &dyn Store, now: Mono) -> bool {
        if now < self.next || self.shard >= store.shards() {
            return self.shard >= store.shards();
        }
        self.next = now + STEP_PAUSE;
        let Self { buckets, visited, sums, items, .. } = self;
        let cursor = store.scan(self.shard, self.cursor, STEP_BYTES, &mut |change| {
            let Some((key, version, sum)) = fingerprint(change) else { return };
            *visited += 1;
            let group = bucket(key);
            if let Some(total) = sums.get_mut(usize::from(group)) {
                *total ^= mixed(key, version, sum);
            } else if buckets.contains(&group) && items.len() < LISTED_MAX {
                items.push(Fingerprint { key: key.to_vec(), version, sum });
            }
        });
        self.cursor = cursor.unwrap_or_default();
        self.shard += usize::from(cursor.is_none());
        self.shard >= store.shards()
    }
}

/// The side that is asked.
#[derive(Clone, Debug)]
pub struct Answering {
    number: u32,
    walk: Walk,
}

impl Answering {
    /// Begins to answer `question`.
    pub fn new(question: &Question, now: Mono) -> Self {
        Self { number: question.number, walk: Walk::new(&question.buckets, now) }
    }

    /// When it goes on.
    pub fn due(&self) -> Mono {
        self.walk.next
    }

    /// Goes on; the answer, as soon as there is one.
    pub fn step(&mut self, store: &dyn Store, now: Mono) -> Option<Vec<Answer>> {
        if !self.walk.step(store, now) {
            return None;
        }
        let number = self.number;
        if !self.walk.sums.is_empty() {
            let sums = std::mem::take(&mut self.walk.sums);
            return Some(vec![Answer { number, sums, items: Vec::new(), last: true }]);
        }
        let items = std::mem::take(&mut self.walk.items);
        let mut answers: Vec<Answer> = items
            .chunks(LISTED_AT_ONCE)
            .map(|part| Answer { number, sums: Vec::new(), items: part.to_vec(), last: false })
            .collect();
        match answers.last_mut() {
            Some(answer) => answer.last = true,
            None => answers.push(Answer { number, sums: Vec::new(), items, last: true }),
        }
        Some(answers)
    }
}

/// What both sides have of a key: version and checksum.
type Held = Option<(u64, u32)>;

/// Keys of which the two nodes have not the same: what this one has, and what the other.
type Differences = BTreeMap<Vec<u8>, (Held, Held)>;

/// Where a comparison is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Sums,
    FirstLook,
    /// Until then, and until everything up to the position is acknowledged.
    Waiting(Mono),
    SecondLook,
}

/// The side that asks: the master.
#[derive(Clone, Debug)]
pub struct Comparison {
    number: u32,
    began: Mono,
    stage: Stage,
    walk: Walk,
    walked: bool,
    theirs: Option<Vec<Fingerprint>>,
    their_sums: Vec<u64>,
    all_there: bool,
    differences: Differences,
    findings: Findings,
}

/// What is known of the two nodes' memory.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// This node has evicted nothing, as far as can be told.
    pub here: bool,
    /// Nor has the other.
    pub there: bool,
}

/// What a step of a comparison wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Time, or an answer.
    Nothing,
    /// This question be asked.
    Ask(Question),
    /// It is over: these keys are to be stated anew. With a version just above what the other node has, if
    /// it has one.
    Over(Findings, Vec<(Vec<u8>, Option<u64>)>),
}

impl Comparison {
    /// Begins; `number` is that of its first question, and the next two belong to it, too.
    pub fn begin(number: u32, now: Mono) -> (Self, Question) {
        let this = Self {
            number,
            began: now,
            stage: Stage::Sums,
            walk: Walk::new(&[], now),
            walked: false,
            theirs: None,
            their_sums: Vec::new(),
            all_there: false,
            differences: Differences::new(),
            findings: Findings::default(),
        };
        (this, Question { number, buckets: Vec::new() })
    }

    /// When it goes on.
    pub fn due(&self) -> Mono {
        match self.stage {
            Stage::Waiting(until) => until,
            _ if self.walked => self.began + LONGEST,
            _ => self.walk.next,
        }
    }

    /// It waits for what is under way to arrive.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// The other node said something.
    pub fn take(&mut self, answer: Answer) {
        if answer.number != self.number {
            return;
        }
        if answer.sums.len() == BUCKETS {
            self.their_sums = answer.sums;
        }
        let theirs = self.theirs.get_or_insert_default();
        if theirs.len() + answer.items.len() <= LISTED_MAX + LISTED_AT_ONCE {
            theirs.extend(answer.items);
        }
        self.all_there |= answer.last;
    }

    /// Goes on. `settled`: the backup has acknowledged everything recorded up to the last change of stage.
    pub fn step(&mut self, store: &dyn Store, room: Room, settled: bool, now: Mono) -> Step {
        if now.since(self.began) > LONGEST {
            return Step::Over(self.findings, Vec::new());
        }
        if let Stage::Waiting(until) = self.stage {
            if now < until || !settled {
                if now >= until {
                    self.stage = Stage::Waiting(now + STEP_PAUSE);
                }
                return Step::Nothing;
            }
            let buckets: BTreeSet<u16> = self.differences.keys().map(|key| bucket(key)).collect();
            return self.ask(Stage::SecondLook, buckets.into_iter().collect(), now);
        }
        self.walked = self.walked || self.walk.step(store, now);
        if !self.walked || !self.all_there {
            return Step::Nothing;
        }
        match self.stage {
            Stage::Sums => self.compare_sums(now),
            Stage::FirstLook => {
                self.differences = self.listed(room);
                if self.differences.is_empty() {
                    return Step::Over(self.findings, Vec::new());
                }
                self.stage = Stage::Waiting(now + SECOND_LOOK);
                Step::Nothing
            }
            Stage::SecondLook | Stage::Waiting(_) => {
                let again = self.listed(room);
                let diverged: Vec<_> = std::mem::take(&mut self.differences)
                    .into_iter()
                    .filter(|(key, held)| again.get(key) == Some(held))
                    .map(|(key, (_, theirs))| (key, theirs.map(|(version, _)| version.saturating_add(1))))
                    .collect();
                self.findings.diverged = diverged.len() as u64;
                Step::Over(self.findings, diverged)
            }
        }
    }

    fn compare_sums(&mut self, now: Mono) -> Step {
        self.findings.items = self.walk.visited;
        let differing: Vec<u16> = (0..BUCKETS)
            .filter(|&group| self.walk.sums.get(group) != self.their_sums.get(group))
            .map(|group| group as u16)
            .collect();
        self.findings.buckets = differing.len() as u64;
        if differing.is_empty() {
            return Step::Over(self.findings, Vec::new());
        }
        // As many as can be listed; where to begin differs from time to time.
        let most = (LISTED_MAX * BUCKETS / 2 / (self.walk.visited as usize).max(1)).clamp(1, BUCKETS);
        let first = self.number as usize % differing.len();
        let buckets = differing.iter().cycle().skip(first).take(most.min(differing.len())).copied();
        let buckets = buckets.collect();
        self.ask(Stage::FirstLook, buckets, now)
    }

    fn ask(&mut self, stage: Stage, buckets: Vec<u16>, now: Mono) -> Step {
        self.stage = stage;
        self.number = self.number.wrapping_add(1);
        self.walk = Walk::new(&buckets, now);
        (self.walked, self.all_there, self.theirs) = (false, false, None);
        Step::Ask(Question { number: self.number, buckets })
    }

    /// What differs between the two lists.
    fn listed(&mut self, room: Room) -> Differences {
        let mut all = Differences::new();
        let (mine, theirs) = (std::mem::take(&mut self.walk.items), self.theirs.take().unwrap_or_default());
        // A list that was cut short says nothing about what is not on it.
        let whole = mine.len() < LISTED_MAX && theirs.len() < LISTED_MAX;
        for item in mine {
            all.entry(item.key).or_default().0 = Some((item.version, item.sum));
        }
        for item in theirs {
            all.entry(item.key).or_default().1 = Some((item.version, item.sum));
        }
        all.retain(|_, held| match held {
            (Some(mine), Some(theirs)) => mine != theirs,
            (Some(_), None) => whole && room.there,
            (None, _) => whole && room.here,
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backlog::Backlog;
    use crate::change::{Bits, Bytes, Put};
    use crate::testing::MapStore;

    fn store(shards: usize) -> MapStore {
        MapStore::new(shards, Arc::new(Backlog::new(shards, 1 << 20)))
    }

    fn put<'a>(key: &'a [u8], value: &'a [u8], version: u64) -> Change<'a> {
        let (value, bits) = (Bytes::Whole(value), Bits::default());
        Change::Put(Put { key, value, flags: 0, deadline: 0, version, explicit: None, bits })
    }

    /// Two stores, with other shards, that hold the same.
    fn twins(count: u64) -> (MapStore, MapStore) {
        let (master, backup) = (store(4), store(3));
        for index in 0..count {
            let key = format!("key-{index}");
            for store in [&master, &backup] {
                store.apply(&put(key.as_bytes(), b"value", 1000 + index));
            }
        }
        (master, backup)
    }

    /// Runs a comparison to its end; `between` happens between the two looks.
    fn compare(
        master: &MapStore,
        backup: &MapStore,
        room: Room,
        mut between: impl FnMut(),
    ) -> (Findings, Vec<String>) {
        let mut now = Mono(0);
        let (mut comparison, question) = Comparison::begin(7, now);
        let mut answering = Answering::new(&question, now);
        for _ in 0..1_000_000 {
            now = now + STEP_PAUSE;
            for answer in answering.step(backup, now).into_iter().flatten() {
                comparison.take(answer);
            }
            let waited = matches!(comparison.stage, Stage::Waiting(_));
            match comparison.step(master, room, true, now) {
                Step::Nothing => {}
                Step::Ask(question) => answering = Answering::new(&question, now),
                Step::Over(findings, keys) => {
                    let keys = keys.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
                    return (findings, keys);
                }
            }
            if !waited && matches!(comparison.stage, Stage::Waiting(_)) {
                between();
            }
        }
        panic!("it never ends");
    }

    const ROOM: Room = Room { here: true, there: true };

    #[test]
    fn equal_stores_have_no_difference_whatever_their_shards() {
        let (master, backup) = twins(3000);
        let (findings, keys) = compare(&master, &backup, ROOM, || {});
        assert_eq!((findings.items, findings.buckets, findings.diverged), (3000, 0, 0));
        assert!(keys.is_empty());
    }

    #[test]
    fn what_has_diverged_is_found_whichever_way() {
        let (master, backup) = twins(3000);
        // Lost, kept though deleted, another value of the same version, an older version.
        backup.write(b"key-1", None);
        master.write(b"key-2", None);
        backup.apply(&Change::Delete { key: b"key-3", version: u64::MAX });
        backup.apply(&put(b"key-3", b"VALUE", 1003));
        master.apply(&put(b"key-4", b"value", 9_000_000));
        let (findings, mut keys) = compare(&master, &backup, ROOM, || {});
        keys.sort();
        assert_eq!(keys, ["key-1", "key-2", "key-3", "key-4"]);
        assert_eq!(findings.diverged, 4);
    }

    #[test]
    fn a_change_that_is_under_way_is_no_divergence() {
        let (master, backup) = twins(3000);
        master.apply(&put(b"key-4", b"new", 9_000_000));
        master.write(b"key-5", None);
        master.apply(&put(b"key-6", b"new", 9_000_000));
        let (findings, keys) = compare(&master, &backup, ROOM, || {
            backup.apply(&put(b"key-4", b"new", 9_000_000));
            backup.write(b"key-5", None);
            // Written again, and that is under way now.
            master.apply(&put(b"key-6", b"newer", 9_000_001));
        });
        assert!(findings.buckets > 0);
        assert_eq!(keys, Vec::<String>::new());
    }

    #[test]
    fn what_a_full_node_has_not_was_evicted() {
        let (master, backup) = twins(100);
        backup.write(b"key-1", None);
        master.write(b"key-2", None);
        let full = |here, there| compare(&master, &backup, Room { here, there }, || {}).1;
        assert_eq!(full(false, false), Vec::<String>::new());
        assert_eq!(full(true, false), ["key-2"]);
        assert_eq!(full(false, true), ["key-1"]);
    }

    #[test]
    fn an_answer_to_another_question_is_ignored() {
        let (mut comparison, question) = Comparison::begin(7, Mono(0));
        let stray = Answer { number: 6, sums: vec![1; BUCKETS], items: Vec::new(), last: true };
        comparison.take(stray);
        assert!(!comparison.all_there);
        assert_eq!(question.number, 7);
    }
}
