//! Which changes a node has: a history and how far it was followed.
//!
//! Every promotion begins a new history and remembers where it left the one before (a fork). A node's
//! own changes are numbered through all of its histories, in each of its shards, so a position names a
//! set of changes exactly. Whoever stands in a history that this node left, before or behind the fork,
//! has a common past with it: what either did since is what the two differ in.

use serde::{Deserialize, Serialize};

/// Shards are numbered in one byte of every version, so no node has more.
pub const SHARDS_MAX: usize = 256;

/// A place in a history: all changes up to and including `applied[shard]` of each sender's shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which history.
    pub history: u128,
    /// The last sequence of each shard of the node that made the history; 0 is none.
    pub applied: Vec<u64>,
}

/// A master's own history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its name, never used before.
    pub id: u128,
    /// Histories this node left, the latest last. Everything it did since it left the first of them is
    /// its own: it is in its backlog, or was noted.
    pub forks: Vec<Fork>,
}

/// Where a node left a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// How far it had the history.
    pub position: Position,
    /// The node's own sequences: what it did after that lies behind them.
    pub since: Vec<u64>,
    /// It made the history itself.
    pub own: bool,
}

/// From where a node can continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Behind these sequences lies what it lacks.
    pub from: Vec<u64>,
    /// It made changes of its own behind this place, which nobody else has.
    pub give_up: Option<Position>,
}

impl History {
    /// The history that `node` begins in `epoch` of its process `boot`.
    pub fn begin(node: u128, boot: u64, epoch: u64, mut forks: Vec<Fork>) -> Self {
        let surplus = forks.len().saturating_sub(FORKS_MAX);
        forks.drain(..surplus);
        Self { id: name(node, boot, epoch), forks }
    }

    /// The same for a node that stands at the first of `positions` and left the others, making changes of
    /// its own since: those behind the common past are to be given up.
    pub fn resume_from_any(&self, positions: &[Position], last: &[u64]) -> Option<Resume> {
        let mut known = positions.iter().enumerate();
        known.find_map(|(index, position)| {
            let resume = self.resume_from(position, last)?;
            let left = (index > 0).then(|| position.clone());
            Some(Resume { give_up: resume.give_up.or(left), ..resume })
        })
    }

    /// What this node did itself since the other one left it at `position`: its own sequences.
    pub fn own_since(&self, position: &Position) -> Option<Vec<u64>> {
        let fork = self.forks.iter().rev().find(|fork| fork.position.history == position.history);
        match fork {
            _ if position.history == self.id => Some(position.applied.clone()),
            Some(fork) if fork.own => Some(position.applied.clone()),
            fork => fork.map(|fork| fork.since.clone()),
        }
    }

    /// Where a node that stands at the end of this history stands, and what it left, the latest first.
    pub fn positions(&self, last: Position) -> Vec<Position> {
        let forks = self.forks.iter().rev().map(|fork| fork.position.clone());
        std::iter::once(last).chain(forks).collect()
    }

    /// From where a node at `position` can continue in this history, if it can at all. Whether what it
    /// lacks is still known is another question.
    pub fn resume_from(&self, position: &Position, last: &[u64]) -> Option<Resume> {
        if position.history == self.id {
            let from = position.applied.clone();
            return within(&from, last).then_some(Resume { from, give_up: None });
        }
        let fork = self.forks.iter().rev().find(|fork| fork.position.history == position.history)?;
        if fork.own {
            let from = position.applied.clone();
            return within(&from, &fork.position.applied).then_some(Resume { from, give_up: None });
        }
        // It made that history: it is where this node left it, or beyond.
        let give_up = (fork.position != *position).then(|| fork.position.clone());
        within(&fork.position.applied, &position.applied)
            .then(|| Resume { from: fork.since.clone(), give_up })
    }
}

/// No place in `these` is beyond that in `those`.
fn within(these: &[u64], those: &[u64]) -> bool {
    these.len() == those.len() && these.iter().zip(those).all(|(one, other)| one <= other)
}

/// So many forks are remembered: more than a pair makes before its nodes are level again.
const FORKS_MAX: usize = 8;

/// Mixes who, which process and which epoch into a name. Not random, but as good: no process begins
/// two histories in one epoch.
fn name(node: u128, boot: u64, epoch: u64) -> u128 {
    let mut halves = [0u64; 2];
    for (index, half) in halves.iter_mut().enumerate() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(index as u64 + 1);
        for word in [node as u64, (node >> 64) as u64, boot, epoch] {
            state = mix(state ^ word);
        }
        *half = state;
    }
    (u128::from(halves[0]) << 64 | u128::from(halves[1])).max(1)
}

/// A step of a well-known bit mixer (every input bit changes half of the output bits).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value ^ (value >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(history: u128, applied: &[u64]) -> Position {
        Position { history, applied: applied.to_vec() }
    }

    fn resume(from: &[u64], give_up: Option<Position>) -> Option<Resume> {
        Some(Resume { from: from.to_vec(), give_up })
    }

    #[test]
    fn a_position_of_this_history_continues_where_it_is() {
        let history = History::begin(7, 1, 2, Vec::new());
        let at = |applied: &[u64]| at(history.id, applied);
        assert_eq!(history.resume_from(&at(&[3, 0]), &[5, 0]), resume(&[3, 0], None));
        assert_eq!(history.resume_from(&at(&[6, 0]), &[5, 0]), None, "it has what was never made");
        assert_eq!(history.resume_from(&at(&[3]), &[5, 0]), None, "another number of shards");
    }

    #[test]
    fn a_deposed_master_continues_at_the_fork_and_gives_up_what_is_beyond() {
        let fork = Fork { position: at(99, &[4, 5, 6]), since: vec![10, 20], own: false };
        let history = History::begin(7, 1, 2, vec![fork]);
        let last = [18, 28];
        assert_eq!(history.resume_from(&at(99, &[4, 5, 6]), &last), resume(&[10, 20], None));
        let beyond = history.resume_from(&at(99, &[4, 5, 7]), &last);
        assert_eq!(beyond, resume(&[10, 20], Some(at(99, &[4, 5, 6]))));
        assert_eq!(history.resume_from(&at(99, &[4, 5, 5]), &last), None, "its own maker cannot lack it");
        assert_eq!(history.resume_from(&at(98, &[4, 5, 6]), &last), None, "another past");
    }

    #[test]
    fn a_follower_of_an_earlier_epoch_of_the_same_master_continues_where_it_is() {
        let fork =
            |id, applied: &[u64]| Fork { position: at(id, applied), since: applied.to_vec(), own: true };
        let history = History::begin(7, 1, 6, vec![fork(98, &[3, 3]), fork(99, &[5, 9])]);
        assert_eq!(history.resume_from(&at(98, &[2, 3]), &[8, 9]), resume(&[2, 3], None));
        assert_eq!(history.resume_from(&at(99, &[5, 8]), &[8, 9]), resume(&[5, 8], None));
        assert_eq!(history.resume_from(&at(98, &[4, 3]), &[8, 9]), None, "that was made later");
    }

    #[test]
    fn the_log_of_forks_is_bounded() {
        let fork = |id| Fork { position: at(id, &[1]), since: vec![1], own: true };
        let history = History::begin(7, 1, 6, (1..=100).map(fork).collect());
        assert_eq!(history.forks.len(), FORKS_MAX);
        assert_eq!(history.resume_from(&at(100, &[1]), &[5]), resume(&[1], None), "the latest are kept");
    }

    #[test]
    fn no_two_promotions_share_a_name() {
        let mut names = std::collections::BTreeSet::new();
        for node in 0..8 {
            for boot in 0..8 {
                for epoch in 0..64 {
                    assert!(names.insert(History::begin(node, boot, epoch, Vec::new()).id));
                }
            }
        }
    }
}
