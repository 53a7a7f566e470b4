//! Thousands of runs of a pair under faults, one per seed, each judged by the oracles.
//!
//! `TANDEM_SEEDS=n` runs n seeds (2,000 unless told), `TANDEM_SEED=x` replays one and prints what
//! happens in it, `TANDEM_PLANT=Name` with it. A failing seed prints the command that replays it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tandem_replication::node::Operator;
use tandem_replication::role::ROWS;
use tandem_replication::testing::{Options, Plant, Random, World, script};
use tandem_replication::time::Span;

const SCENARIOS: [&str; 9] = [
    include_str!("scenarios/arbiter.txt"),
    include_str!("scenarios/asymmetric.txt"),
    include_str!("scenarios/delete_while_healing.txt"),
    include_str!("scenarios/forced_in_doubt.txt"),
    include_str!("scenarios/forced_with_backup.txt"),
    include_str!("scenarios/holder_returns.txt"),
    include_str!("scenarios/interrupted_catch_up.txt"),
    include_str!("scenarios/late_offer.txt"),
    include_str!("scenarios/lost_handover.txt"),
];

/// As many as take less than a minute on two cores.
const SEEDS: u64 = 2_000;

/// What came of a run.
struct Outcome {
    violations: Vec<String>,
    trace: u64,
    fired: Vec<u64>,
    acknowledged: u64,
    made_durable: u64,
    full_copies: u64,
    partial_resyncs: u64,
}

/// Which faults a seed has: few kinds at a time find more than all of them always.
struct Faults {
    crash: bool,
    pause: bool,
    one_way: bool,
    partition: bool,
    pair_only: bool,
    reset: bool,
    half_open: bool,
    operator: bool,
    force: bool,
    shutdown: bool,
    /// Something happens right in a handover.
    in_handover: bool,
    long_values: bool,
    /// The arbiter is away, slow, out of reach of one node, or started again.
    arbiter: bool,
    /// A firewall refuses everything.
    refuse: bool,
    /// Mean time between two of them.
    pace: Span,
}

impl Faults {
    fn draw(random: &mut Random) -> Self {
        let mut some = |percent| random.chance(percent);
        Self {
            crash: some(55),
            pause: some(45),
            one_way: some(30),
            partition: some(30),
            pair_only: some(15),
            reset: some(40),
            half_open: some(25),
            operator: some(40),
            force: some(8),
            shutdown: some(15),
            in_handover: some(20),
            long_values: some(20),
            arbiter: some(60),
            refuse: some(20),
            pace: Span::from_millis(random.within(20..500)),
        }
    }
}

fn options(seed: u64, plant: Option<Plant>, verbose: bool, random: &mut Random) -> Options {
    let mut options = Options::new(seed);
    options.shards = [random.within(1..4) as usize, random.within(1..4) as usize];
    if random.chance(40) {
        options.backlog_bytes = random.within(3_000..12_000) as usize;
    }
    options.bulk_bytes = random.within(150..2_000) as usize;
    options.keys = random.within(5..80);
    if random.chance(20) {
        let delay = Span::from_millis(random.within(50..600));
        options.preferred = Some((random.side(), delay));
    }
    if random.chance(10) {
        options.unsettled = Some(random.side());
    }
    if random.chance(40) {
        options.arbiter = Some(random.within(960..1_040));
    }
    options.plant = plant;
    options.verbose = verbose;
    options
}

fn simulate(seed: u64, plant: Option<Plant>, verbose: bool) -> Outcome {
    let mut random = Random::new(seed);
    let faults = Faults::draw(&mut random);
    let options = options(seed, plant, verbose, &mut random);
    let (keys, dead_after) = (options.keys, options.heartbeat.scaled(25, 2));
    let mut world = World::new(options);
    world.network.delay_max = Span([800, 800, 5_000, 40_000][random.within(0..4) as usize]);
    let first = random.side();
    world.start(first);
    world.run(Span::from_millis(random.within(0..700)));
    world.start(1 - first);
    // Half of the runs begin with a pair that has found itself.
    world.run(Span::from_millis(if random.chance(50) { 1_000 } else { 1 }));

    let end = world.now + Span::from_millis(random.within(500..4_000));
    let mut restarts = [None, None];
    let mut repair_at = None;
    while world.now < end {
        world.run(Span(random.within(200..12_000)));
        let burst = if random.chance(3) { random.within(1..60) } else { random.within(0..3) };
        for _ in 0..burst {
            let long = faults.long_values && random.chance(10);
            let bytes = if long { random.within(500..3_000) } else { random.within(0..60) };
            let value = (!random.chance(25)).then_some(bytes as usize);
            let (node, key) = (random.side(), random.within(0..keys));
            world.write(node, key, value);
        }
        for (node, restart) in restarts.iter_mut().enumerate() {
            if restart.is_some_and(|at| at <= world.now) {
                *restart = None;
                world.start(node);
            } else if world.process(node).is_none() && restart.is_none() {
                *restart = Some(world.now + Span::from_millis(random.within(1..1_200)));
            }
        }
        if repair_at.is_some_and(|at| at <= world.now) {
            repair_at = None;
            world.repair();
        }
        if random.chance(100 * 6_000 / faults.pace.0.max(6_000))
            && let Some(length) = strike(&mut world, &faults, &mut random)
        {
            repair_at = Some(world.now + length);
        }
    }
    heal(world, dead_after)
}

/// One fault. Those of the wire say how long they last.
fn strike(world: &mut World, faults: &Faults, random: &mut Random) -> Option<Span> {
    let node = random.side();
    let length = Span::from_millis(random.within(5..900));
    match random.within(0..14) {
        0 if faults.crash => world.kill(node),
        1 if faults.crash => {
            world.kill(node);
            world.run(Span(random.within(1..30_000)));
            world.start(node);
        }
        2 if faults.pause => world.pause(node, length),
        3 if faults.one_way => {
            world.network.blocked[node] = true;
            world.network.note_usable(world.now);
            return Some(length);
        }
        4 if faults.partition => {
            world.network.blocked = [true; 2];
            world.network.note_usable(world.now);
            return Some(length);
        }
        5 if faults.pair_only => {
            world.network.pair_blocked = true;
            world.network.note_usable(world.now);
            return Some(length);
        }
        6 if faults.reset => world.reset(),
        7 if faults.half_open => world.half_open(node),
        8 if faults.operator => {
            let _ = world.operate(node, Operator::Switchover);
        }
        9 if faults.force => {
            let force = random.chance(50);
            let _ = world.operate(node, Operator::Promote { force });
        }
        10 if faults.shutdown => {
            let _ = world.operate(node, Operator::Shutdown);
        }
        11 if faults.in_handover => in_handover(world, random),
        12 if faults.arbiter => disturb_arbiter(world, random),
        13 if faults.refuse && world.arbiter.is_some() => {
            world.refuse();
            return Some(length);
        }
        _ => {}
    }
    None
}

/// Something befalls the arbiter, if there is one.
fn disturb_arbiter(world: &mut World, random: &mut Random) {
    let node = random.side();
    let Some(arbiter) = &mut world.arbiter else { return };
    match random.within(0..5) {
        0 => arbiter.up = !arbiter.up,
        1 => arbiter.reachable[node] = false,
        2 => arbiter.delay_max = Span::from_millis(random.within(1..2_000)),
        3 => arbiter.repair(),
        _ => world.restart_arbiter(),
    }
}

fn in_handover(world: &mut World, random: &mut Random) {
    let (node, other) = (random.side(), random.side());
    let _ = world.operate(node, Operator::Switchover);
    world.run(Span(random.within(1..6_000)));
    match random.within(0..5) {
        0 => world.kill(other),
        1 => {
            world.kill(other);
            world.start(other);
        }
        2 => world.pause(other, Span::from_millis(random.within(50..400))),
        3 => world.reset(),
        _ => {
            let _ = world.operate(other, Operator::Promote { force: random.chance(50) });
        }
    }
}

/// Faults are over: everything must come right, soon.
fn heal(mut world: World, dead_after: Span) -> Outcome {
    // The arbiter may stay away for ever: two nodes that hear each other need none.
    world.repair();
    world.start(0);
    world.start(1);
    let deadline = world.now + Span::from_millis(900) + dead_after.scaled(16, 1);
    while world.now < deadline && !world.is_converged() {
        world.run(Span::from_millis(20));
        // Whoever was asked to stop may have done so just now.
        world.start(0);
        world.start(1);
    }
    if !world.is_converged() {
        let states = [world.state(0), world.state(1)];
        let same = world.contents(0) == world.contents(1);
        world.oracle.violations.push(format!("no rest after the faults: {states:?}, same items: {same}"));
    }
    for node in 0..2 {
        if let Some(contents) = world.contents(node) {
            world.oracle.judge_end(&contents);
        }
    }
    world.finish();
    Outcome {
        violations: std::mem::take(&mut world.oracle.violations),
        trace: world.trace,
        fired: world.fired,
        acknowledged: world.oracle.acknowledged,
        made_durable: world.oracle.made_durable,
        full_copies: world.full_copies,
        partial_resyncs: world.partial_resyncs,
    }
}

/// Runs seeds on all cores until one fails (or, for planted bugs, until `stop_at_first`).
fn sweep(seeds: std::ops::Range<u64>, plant: Option<Plant>) -> (Outcome, Option<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((
        Outcome {
            violations: Vec::new(),
            trace: 0,
            fired: vec![0; ROWS.len()],
            acknowledged: 0,
            made_durable: 0,
            full_copies: 0,
            partial_resyncs: 0,
        },
        None::<(u64, String)>,
    ));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = simulate(seed, plant, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    let (sum, failed) = &mut *total;
                    for (sum, fired) in sum.fired.iter_mut().zip(&outcome.fired) {
                        *sum += fired;
                    }
                    sum.acknowledged += outcome.acknowledged;
                    sum.made_durable += outcome.made_durable;
                    sum.full_copies += outcome.full_copies;
                    sum.partial_resyncs += outcome.partial_resyncs;
                    if let Some(first) = outcome.violations.first()
                        && failed.as_ref().is_none_or(|(known, _)| seed < *known)
                    {
                        *failed = Some((seed, first.clone()));
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn replay(seed: u64) -> String {
    format!(
        "TANDEM_SEED={seed} cargo test -p tandem-replication --test simulation every_promise -- --nocapture"
    )
}

#[test]
fn every_promise_holds_in_every_seed() {
    if let Some(seed) = from_environment("TANDEM_SEED") {
        let plant: Option<String> = from_environment("TANDEM_PLANT");
        let plant = plant.and_then(|name| Plant::ALL.into_iter().find(|plant| format!("{plant:?}") == name));
        let outcome = simulate(seed, plant, true);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let seeds = from_environment("TANDEM_SEEDS").unwrap_or(SEEDS);
    let start = std::time::Instant::now();
    let (mut total, failed) = sweep(0..seeds, None);
    if let Some((seed, violation)) = failed {
        panic!("seed {seed}: {violation}\nreplay it with: {}", replay(seed));
    }
    println!(
        "{seeds} seeds in {:.1} s: {} writes acknowledged, {} of them by a backup too, {} streams copied, {} continued",
        start.elapsed().as_secs_f64(),
        total.acknowledged,
        total.made_durable,
        total.full_copies,
        total.partial_resyncs
    );
    // What chance seldom hits, a scenario does.
    for text in SCENARIOS {
        let world = script::run(text, 0, None, false).unwrap();
        total.fired.iter_mut().zip(&world.fired).for_each(|(sum, fired)| *sum += fired);
    }
    let idle: Vec<_> = ROWS.iter().zip(&total.fired).filter(|(_, fired)| **fired == 0).collect();
    let idle: Vec<_> = idle.iter().map(|(row, _)| format!("{:?} on {:?}", row.from, row.on)).collect();
    assert!(seeds < 2_000 || idle.is_empty(), "rows that never fired: {idle:#?}");
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(simulate(seed, None, false).trace, simulate(seed, None, false).trace, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        let scenario = SCENARIOS.iter().find_map(|text| script::run(text, 0, Some(plant), false).err());
        if let Some(error) = scenario {
            println!("{plant:?}: a scenario, {error}");
        } else if let Some((seed, violation)) = sweep(0..1_500, Some(plant)).1 {
            println!("{plant:?}: seed {seed}: {violation}");
        } else {
            missed.push(plant);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
