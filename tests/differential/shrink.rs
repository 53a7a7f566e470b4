//! Makes a failing scenario small: delta debugging, first over scripts, then over commands.
//!
//! Every attempt runs on a pair of fresh servers, so what is left at the end fails by itself.

use std::time::{Duration, Instant};

use crate::script::{Chop, Script, count};

/// Shrinking stops here, with the smallest scenario found so far.
const PATIENCE: Duration = Duration::from_secs(60);

/// The smallest part of `scenario` that still `fails`; `last` is the script that failed first.
pub(crate) fn shrink(
    scenario: &[Script],
    last: usize,
    mut fails: impl FnMut(&[Script]) -> bool,
) -> Vec<Script> {
    let begin = Instant::now();
    let mut fails = |candidate: &[Script]| begin.elapsed() < PATIENCE && fails(candidate);
    let alone = vec![scenario[last].clone()];
    let mut smallest = if fails(&alone) { alone } else { scenario[..=last].to_vec() };
    smallest = minimize(smallest, |scripts| fails(scripts));
    for at in (0..smallest.len()).rev() {
        let commands = minimize(smallest[at].commands.clone(), |commands| {
            let mut candidate = smallest.clone();
            candidate[at].commands = commands.to_vec();
            fails(&candidate)
        });
        smallest[at].commands = commands;
    }
    simplify(&mut smallest, |scripts| fails(scripts));
    smallest
}

/// Sends what is left in the simplest way that still fails.
fn simplify(scenario: &mut Vec<Script>, mut fails: impl FnMut(&[Script]) -> bool) {
    let mut whole = scenario.clone();
    for script in &mut whole {
        script.chop = Chop::Whole;
    }
    if fails(&whole) {
        *scenario = whole;
    }
    let mut one_by_one = scenario.clone();
    for command in one_by_one.iter_mut().flat_map(|script| &mut script.commands) {
        command.ends_round = true;
    }
    if fails(&one_by_one) {
        *scenario = one_by_one;
    }
    debug_assert!(count(scenario) > 0, "an empty scenario cannot fail");
}

/// A part of `items` that still fails and from which nothing can be taken (delta debugging).
fn minimize<T: Clone>(mut items: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut pieces = 2;
    while items.len() > 1 {
        let size = items.len().div_ceil(pieces);
        let without = (0..items.len()).step_by(size).map(|from| {
            let to = (from + size).min(items.len());
            [&items[..from], &items[to..]].concat()
        });
        if let Some(smaller) = without.into_iter().find(|candidate| !candidate.is_empty() && fails(candidate))
        {
            items = smaller;
            pieces = pieces.saturating_sub(1).max(2);
        } else if size == 1 {
            break;
        } else {
            pieces = (pieces * 2).min(items.len());
        }
    }
    items
}
