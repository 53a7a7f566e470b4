//! All that can happen to a pair within a few steps, not some of it: see `testing::model`.
//!
//! `TANDEM_MODEL_DEPTH=n` looks n steps far (8 unless told), `TANDEM_MODEL_STATES=n` visits at most n
//! states from each beginning (60,000).

use std::time::Instant;

use tandem_replication::testing::Plant;
use tandem_replication::testing::model::{Bounds, Explored, Pair, Step};

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn bounds() -> Bounds {
    Bounds {
        depth: from_environment("TANDEM_MODEL_DEPTH").unwrap_or(8),
        faults: 2,
        states: from_environment("TANDEM_MODEL_STATES").unwrap_or(60_000),
    }
}

/// Where it begins: what is rare in between is common here.
fn beginnings(plant: Option<Plant>) -> Vec<(&'static str, Pair)> {
    let after = |steps: &[Step], mut pair: Pair| {
        pair.all(steps);
        pair
    };
    let settled = || Pair::settled(plant);
    let master = settled().master().unwrap_or(0);
    vec![
        ("nothing runs", Pair::new(plant)),
        ("both have just begun", after(&[Step::Start(0), Step::Start(1), Step::Tick], Pair::new(plant))),
        ("a pair", settled()),
        ("a handover has begun", after(&[Step::Switchover(master)], settled())),
        ("the master is dead", after(&[Step::Kill(master), Step::Tick], settled())),
        ("the master is back, empty", after(&[Step::Kill(master), Step::Start(master)], settled())),
        ("the master hangs", after(&[&[Step::Pause(master)][..], &[Step::Tick; 3]].concat(), settled())),
        (
            "the backup hears nothing",
            after(&[&[Step::Cut(master)][..], &[Step::Tick; 2]].concat(), settled()),
        ),
        (
            "the master hears nothing",
            after(&[&[Step::Cut(1 - master)][..], &[Step::Tick; 2]].concat(), settled()),
        ),
        (
            "both are cut off",
            after(&[&[Step::Cut(0), Step::Cut(1)][..], &[Step::Tick; 4]].concat(), settled()),
        ),
    ]
}

fn explore(plant: Option<Plant>) -> (Explored, String) {
    let mut sum = Explored { complete: true, ..Explored::default() };
    for (name, pair) in beginnings(plant) {
        let began = Instant::now();
        let explored = pair.explore(bounds());
        if plant.is_none() {
            let (states, steps) = (explored.states, explored.steps);
            let all = if explored.complete { "all" } else { "not all" };
            println!("{name}: {states} states ({all} within reach), {steps} steps, {:.1?}", began.elapsed());
        }
        sum.states += explored.states;
        sum.steps += explored.steps;
        sum.complete &= explored.complete;
        if let Some((what, steps)) = explored.violation {
            let story = format!("{what}; {name}, then\n{}", pair.story(&steps));
            sum.violation = Some((what, steps));
            return (sum, story);
        }
    }
    (sum, String::new())
}

#[test]
fn no_way_leads_to_two_masters_or_to_a_lost_write() {
    assert!(Pair::settled(None).is_converged(), "the pair of the model comes to rest");
    let (explored, story) = explore(None);
    assert!(explored.violation.is_none(), "{story}");
    println!("{} states, {} steps, 0 violations", explored.states, explored.steps);
}

#[test]
fn the_model_finds_bugs_too() {
    let plants = [
        Plant::LeaseTooLong,
        Plant::ServeTheDeaf,
        Plant::IgnoreLateness,
        Plant::ServeBeforeSaving,
        Plant::AgreeTooEasily,
    ];
    let mut missed = Vec::new();
    for plant in plants {
        let (explored, story) = explore(Some(plant));
        match explored.violation {
            Some((what, steps)) => {
                let beginning = story.lines().next().unwrap_or_default();
                println!("{plant:?}: {what} ({beginning} {steps:?})");
            }
            None => missed.push(plant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
