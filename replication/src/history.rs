//! Which changes a node has: a history and how far it was followed.
//!
//! Every promotion begins a new history, numbered from zero in each of the new master's shards, and
//! remembers where it left the old one (the fork). So a position names a set of changes exactly, and
//! two nodes that say the same position hold the same items, whoever made them.

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
    /// Where the master stood in the history it followed when it began this one.
    pub fork: Option<Position>,
}

impl History {
    /// The history that `node` begins in `epoch` of its process `boot`.
    pub fn begin(node: u128, boot: u64, epoch: u64, fork: Option<Position>) -> Self {
        Self { id: name(node, boot, epoch), fork }
    }

    /// A bug on purpose: forked wherever somebody stands in the history that was followed.
    #[cfg(feature = "testing")]
    pub(crate) fn forked_where(&self, position: Option<&Position>) -> Self {
        let same = |fork: &&Position| position.is_some_and(|position| position.history == fork.history);
        let fork = self.fork.as_ref().filter(same).and(position).or(self.fork.as_ref());
        Self { id: self.id, fork: fork.cloned() }
    }

    /// From which sequences a node at `position` can continue in this history, if it can at all.
    /// Whether they are still in the backlog is another question.
    pub fn resume_from(&self, position: &Position, last: &[u64]) -> Option<Vec<u64>> {
        if position.history == self.id {
            let known = position.applied.len() == last.len()
                && position.applied.iter().zip(last).all(|(applied, last)| applied <= last);
            return known.then(|| position.applied.clone());
        }
        (self.fork.as_ref() == Some(position)).then(|| vec![0; last.len()])
    }
}

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

    #[test]
    fn a_position_of_this_history_continues_where_it_is() {
        let history = History::begin(7, 1, 2, None);
        let at = |applied: &[u64]| Position { history: history.id, applied: applied.to_vec() };
        assert_eq!(history.resume_from(&at(&[3, 0]), &[5, 0]), Some(vec![3, 0]));
        assert_eq!(history.resume_from(&at(&[6, 0]), &[5, 0]), None, "it has what was never made");
        assert_eq!(history.resume_from(&at(&[3]), &[5, 0]), None, "another number of shards");
    }

    #[test]
    fn exactly_the_fork_continues_at_zero() {
        let fork = Position { history: 99, applied: vec![4, 5, 6] };
        let history = History::begin(7, 1, 2, Some(fork.clone()));
        assert_eq!(history.resume_from(&fork, &[8, 8]), Some(vec![0, 0]));
        let beyond = Position { history: 99, applied: vec![4, 5, 7] };
        assert_eq!(history.resume_from(&beyond, &[8, 8]), None);
        let behind = Position { history: 99, applied: vec![4, 5, 5] };
        assert_eq!(history.resume_from(&behind, &[8, 8]), None);
    }

    #[test]
    fn no_two_promotions_share_a_name() {
        let mut names = std::collections::BTreeSet::new();
        for node in 0..8 {
            for boot in 0..8 {
                for epoch in 0..64 {
                    assert!(names.insert(History::begin(node, boot, epoch, None).id));
                }
            }
        }
    }
}
