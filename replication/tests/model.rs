//! All that can happen to a pair within a few steps, not some of it: see `testing::model`.
//!
//! `TANDEM_MODEL_DEPTH=n` looks n steps far (8 unless told), `TANDEM_MODEL_STATES=n` visits at most n
//! states from each beginning (60,000; half of it where there is an arbiter), the nearest first.

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
        nearest_first: true,
    }
}

/// Where it begins: what is rare in between is common here.
fn beginnings(plant: Option<Plant>) -> Vec<(&'static str, Pair)> {
    let after = |steps: &[Step], mut pair: Pair| {
        pair.all(steps);
        pair
    };
    let settled = || Pair::new(plant).settled();
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

/// The same with an arbiter, and what only that brings.
fn arbitrated(plant: Option<Plant>) -> Vec<(&'static str, Pair)> {
    let settled = || Pair::arbitrated(plant).settled();
    let after = |steps: &[Step], ticks: usize, mut pair: Pair| {
        pair.all(steps);
        pair.consult(ticks);
        pair
    };
    let master = settled().master().unwrap_or(0);
    let backup = 1 - master;
    let cut = [Step::Cut(0), Step::Cut(1)];
    let alone = || after(&cut, 8, settled());
    vec![
        ("a pair", settled()),
        ("a handover has begun", after(&[Step::Switchover(master)], 0, settled())),
        ("the master is dead", after(&[Step::Kill(master)], 3, settled())),
        ("the master is back, empty", after(&[Step::Kill(master), Step::Start(master)], 0, settled())),
        ("the master hangs", after(&[Step::Pause(master)], 4, settled())),
        ("the backup hears nothing", after(&[Step::Cut(master)], 3, settled())),
        ("the master hears nothing", after(&[Step::Cut(backup)], 3, settled())),
        ("nobody has asked yet", after(&cut, 3, settled())),
        ("the master has the lease", alone()),
        ("the master had it and hangs", after(&[Step::Pause(master)], 9, alone())),
        ("the master had it and cannot renew it", after(&[Step::Part(master)], 9, alone())),
        ("the backup has just got it", after(&[Step::Part(master)], 16, alone())),
        ("the backup has had it for a while", after(&[Step::Part(master)], 22, alone())),
        ("the cable is back, and the lease is still held", after(&[Step::Mend, Step::Tick], 0, alone())),
        ("the arbiter was started again", after(&[Step::RestartArbiter], 0, alone())),
        ("neither reaches the arbiter", after(&[Step::Part(0), Step::Part(1)], 10, alone())),
    ]
}

fn explore(
    plant: Option<Plant>,
    bounds: Bounds,
    beginnings: Vec<(&'static str, Pair)>,
) -> (Explored, String) {
    let mut sum = Explored { complete: true, ..Explored::default() };
    for (name, pair) in beginnings {
        let began = Instant::now();
        let explored = pair.explore(bounds);
        if plant.is_none() {
            let (states, steps) = (explored.states, explored.steps);
            let depth = explored.depth;
            println!(
                "{name}: {states} states, all that are {depth} steps away, {steps} steps, {:.1?}",
                began.elapsed()
            );
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
    assert!(Pair::new(None).settled().is_converged(), "the pair of the model comes to rest");
    let (explored, story) = explore(None, bounds(), beginnings(None));
    assert!(explored.violation.is_none(), "{story}");
    println!("{} states, {} steps, 0 violations", explored.states, explored.steps);
}

#[test]
fn with_an_arbiter_no_way_leads_to_two_that_serve() {
    assert!(Pair::arbitrated(None).settled().is_converged(), "the pair of the model comes to rest");
    // It has more beginnings.
    let bounds = Bounds { states: bounds().states / 2, ..bounds() };
    let (explored, story) = explore(None, bounds, arbitrated(None));
    assert!(explored.violation.is_none(), "{story}");
    println!("{} states, {} steps, 0 violations", explored.states, explored.steps);
}

fn find(plants: &[Plant], bounds: Bounds, beginnings: fn(Option<Plant>) -> Vec<(&'static str, Pair)>) {
    let mut missed = Vec::new();
    for plant in plants {
        let (explored, story) = explore(Some(*plant), bounds, beginnings(Some(*plant)));
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

#[test]
fn the_model_finds_bugs_too() {
    let plants = [
        Plant::LeaseTooLong,
        Plant::ServeTheDeaf,
        Plant::IgnoreLateness,
        Plant::ServeBeforeSaving,
        Plant::AgreeTooEasily,
    ];
    // Some are far.
    let bounds = Bounds { nearest_first: false, ..bounds() };
    find(&plants, bounds, beginnings);
}

/// Other bugs around it, as a takeover without a question, open no gate by themselves: the simulation finds them by what comes
/// of them later.
#[test]
fn the_model_finds_bugs_around_the_arbiter_too() {
    // Both are near.
    let bounds = Bounds { states: 3000, ..bounds() };
    find(&[Plant::GrantFromAnswer, Plant::ForgetLease], bounds, arbitrated);
}
