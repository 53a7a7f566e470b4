//! A follower that asks its master for what it missed: the answer ends, can be sent, and is enough.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tandem_replication::backlog::Backlog;
use tandem_replication::dirty::DirtyMap;
use tandem_replication::frame::{Codec, Cut, Follow, Frame, Plan, Way};
use tandem_replication::history::{Fork, History, Position};
use tandem_replication::session::{self, Debt, Means, Sender};
use tandem_replication::status::Counters;
use tandem_replication::store::Store;
use tandem_replication::testing::MapStore;
use tokio_util::codec::{Decoder, Encoder};

/// No plan for the few items of a run takes as many frames.
const FRAMES_MAX: usize = 20_000;

/// A master that is written to, and an honest follower of it.
struct Pair {
    shards: usize,
    bulk: usize,
    backlog: Arc<Backlog>,
    store: MapStore,
    history: History,
    debt: Debt,
    counters: Counters,
    sender: Option<Sender>,
    /// The honest one's items, and where it stands, once it knows.
    copy: MapStore,
    position: Option<Position>,
    plan: Option<Plan>,
    /// Since nobody lied.
    honest: bool,
    sessions: u32,
}

impl Pair {
    fn new(mode: u8) -> Self {
        let shards = 1 + usize::from(mode & 3);
        let backlog = Arc::new(Backlog::new(shards, 700 * shards * (2 + usize::from(mode >> 4))));
        backlog.enable();
        let nowhere = Arc::new(Backlog::new(shards, 0));
        let history = History {
            id: 7,
            forks: vec![
                Fork { position: position(5, vec![3; shards]), since: vec![0; shards], own: false },
                Fork { position: position(6, vec![1; shards]), since: vec![1; shards], own: true },
            ],
        };
        Self {
            shards,
            bulk: 50 << (mode >> 2 & 3),
            store: MapStore::new(shards, Arc::clone(&backlog)),
            backlog,
            history,
            debt: Debt::default(),
            counters: Counters::default(),
            sender: None,
            copy: MapStore::new(shards, nowhere),
            position: None,
            plan: None,
            honest: true,
            sessions: 0,
        }
    }

    fn with_sender<T>(&mut self, work: impl FnOnce(&mut Sender, &mut Means<'_>) -> T) -> Option<T> {
        let sender = self.sender.as_mut()?;
        let mut means = Means {
            store: &self.store,
            backlog: &self.backlog,
            debt: &mut self.debt,
            counters: &mut self.counters,
        };
        Some(work(sender, &mut means))
    }

    fn follow(&mut self, positions: Vec<Position>, cut: Option<Cut>) {
        self.sessions += 1;
        // As the node does when a follower comes back.
        if self.debt.is_known() {
            self.debt.absorb(&self.backlog.take_missed());
        }
        let follow = Follow { session: self.sessions, positions, cut };
        let mut means = Means {
            store: &self.store,
            backlog: &self.backlog,
            debt: &mut self.debt,
            counters: &mut self.counters,
        };
        self.sender = Some(Sender::begin(&follow, 1, &self.history, &mut means));
        self.plan = None;
    }

    /// The next frame, over the wire. `None`: there is nothing to send.
    fn frame(&mut self) -> Option<Frame> {
        let bulk = self.bulk;
        let frame = self.with_sender(|sender, means| sender.poll(bulk, means))??;
        let mut codec = Codec::default();
        let mut wire = BytesMut::new();
        codec.encode(&frame, &mut wire).expect("what a sender says can be sent");
        let heard = codec.decode(&mut wire).expect("a frame").expect("a whole frame");
        assert_eq!(heard, frame);
        Some(heard)
    }

    /// The honest follower takes a frame.
    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Plan(plan) => {
                if plan.way == Way::Copy {
                    self.copy.clear();
                }
                self.position = Some(plan.from.clone());
                self.plan = Some(plan);
            }
            Frame::Changes { shard, first, secs, payload } => {
                let count = session::apply(&self.copy, secs, &payload).expect("changes");
                let Some(position) = &mut self.position else { panic!("changes without a plan") };
                let applied = &mut position.applied[usize::from(shard)];
                assert_eq!(*applied + 1, first, "changes come in order");
                *applied += count;
            }
            Frame::Chunk { secs, payload, .. } => {
                session::apply(&self.copy, secs, &payload).expect("changes");
            }
            _ => {}
        }
    }

    /// Everything there is to send; then the honest follower has every item as it is.
    fn drain(&mut self, honest: bool) {
        for count in 0.. {
            assert!(count < FRAMES_MAX, "a plan has no end");
            let Some(frame) = self.frame() else { break };
            if honest {
                self.take(frame);
            }
        }
        if !honest || self.plan.is_none() {
            return;
        }
        let (here, there) = (self.store.contents(), self.copy.contents());
        for (key, held) in &here {
            assert_eq!(there.get(key).map(|copy| copy.version), Some(held.version), "{key:?}");
        }
    }
}

fn position(history: u128, applied: Vec<u64>) -> Position {
    Position { history, applied }
}

/// Numbers that are small, at an edge, or anything.
fn number(bytes: &mut &[u8]) -> u64 {
    if bytes.is_empty() {
        return 0;
    }
    match bytes.get_u8() {
        small @ 0..=200 => u64::from(small),
        edge @ 201..=220 => u64::MAX - u64::from(edge - 201),
        _ if bytes.len() >= 8 => bytes.get_u64_le(),
        _ => 0,
    }
}

fn numbers(bytes: &mut &[u8], shards: usize) -> Vec<u64> {
    let count = if bytes.first().is_some_and(|first| *first == 255) { shards + 1 } else { shards };
    (0..count).map(|_| number(bytes)).collect()
}

/// The first byte says how the pair is, the others what happens.
pub fn planner(bytes: &[u8]) {
    let Some((&mode, mut rest)) = bytes.split_first() else { return };
    let mut pair = Pair::new(mode);
    while rest.len() >= 2 {
        let (what, how) = (rest.get_u8(), rest.get_u8());
        let key = [b'a' + how % 20];
        match what % 10 {
            0..3 => drop(pair.store.write(&key, Some(&vec![what; usize::from(how) * 2]))),
            3 => drop(pair.store.write(&key, None)),
            4 => {
                let mine = pair.position.clone().filter(|_| pair.honest);
                pair.honest = true;
                pair.follow(mine.into_iter().collect(), None);
                pair.drain(true);
            }
            5 => {
                // Cut in the middle: it asks from where it is, as one that holds nothing for sure.
                for _ in 0..how {
                    let Some(frame) = pair.frame() else { break };
                    if pair.honest {
                        pair.take(frame);
                    }
                }
                (pair.sender, pair.position) = (None, None);
            }
            6 if pair.honest => {
                let Some((plan, at)) = pair.plan.clone().zip(pair.position.clone()) else { continue };
                pair.drain(true);
                let at = pair.position.clone().unwrap_or(at).applied;
                pair.with_sender(|sender, means| sender.acknowledge(plan.number, at, true, means));
            }
            7 => {
                let applied = numbers(&mut rest, pair.shards);
                let plan = u32::from(how & 3);
                pair.honest = false;
                pair.with_sender(|sender, means| {
                    sender.acknowledge(plan, applied, how & 4 != 0, means);
                    let _ = (sender.lag(means.backlog), sender.is_level(means.backlog));
                });
            }
            8 => {
                let (number_read, rest_of_map) = (number(&mut rest), rest);
                let Some(map) = DirtyMap::decode(&rest_of_map[..rest_of_map.len().min(200)]) else {
                    continue;
                };
                pair.with_sender(|sender, _| sender.doubt_buckets(number_read as u32, map));
                pair.honest = false;
            }
            _ => {
                pair.honest = false;
                let positions: Vec<Position> = (0..how & 3)
                    .map(|_| position(4 + u128::from(number(&mut rest) % 5), numbers(&mut rest, pair.shards)))
                    .collect();
                let cut = (how & 4 != 0).then(|| Cut {
                    walk: number(&mut rest),
                    shard: number(&mut rest) as u16,
                    cursor: number(&mut rest),
                    position: position(4 + u128::from(how >> 5), numbers(&mut rest, pair.shards)),
                });
                pair.follow(positions, cut);
                pair.drain(false);
            }
        }
    }
    let last = pair.position.clone().filter(|_| pair.honest);
    pair.follow(last.into_iter().collect(), None);
    pair.drain(pair.honest);
}
