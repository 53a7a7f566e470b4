//! Thousands of runs of a pair under faults, one per seed, each judged by the oracles.
//!
//! `TANDEM_SEEDS=n` runs n seeds (10,000 unless told), `TANDEM_SEED=x` replays one and prints what
//! happens in it, `TANDEM_PLANT=Name` with it, or alone to look for that bug only. A failing seed prints the
//! command that replays it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tandem_replication::frame::Link;
use tandem_replication::heal::Heal;
use tandem_replication::node::Operator;
use tandem_replication::role::ROWS;
use tandem_replication::testing::{Options, Plant, Random, StateFault, Wish, World, script};
use tandem_replication::time::Span;

/// The stories of `tests/scenarios/`.
fn scenarios() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).expect("it is text")).collect()
}

/// As many as take a minute or two on one core.
const SEEDS: u64 = 10_000;

/// What came of a run.
struct Outcome {
    violations: Vec<String>,
    trace: u64,
    fired: Vec<u64>,
    acknowledged: u64,
    made_durable: u64,
    full_copies: u64,
    partial_resyncs: u64,
    catch_ups: u64,
    conflicts: u64,
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
    /// A node's state file is damaged while it is down, or its disk is full.
    disks: bool,
    /// Messages are lost, or take seconds.
    loss: bool,
    /// Bits of frames are wrong.
    flips: bool,
    /// Connections are dialled again though they are there.
    replaced: bool,
    /// Wall clocks jump.
    jumps: bool,
    /// Items expire, are touched, are flushed.
    expiry: bool,
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
            disks: some(20),
            loss: some(20),
            flips: some(15),
            replaced: some(15),
            jumps: some(15),
            expiry: some(30),
            arbiter: some(60),
            refuse: some(20),
            pace: Span::from_millis(random.within(20..500)),
        }
    }

    /// Only links break, and heal.
    fn gentle(pace: Span) -> Self {
        Self {
            crash: false,
            pause: false,
            one_way: false,
            partition: false,
            pair_only: false,
            reset: true,
            half_open: true,
            operator: false,
            force: false,
            shutdown: false,
            in_handover: false,
            long_values: false,
            disks: false,
            loss: false,
            flips: true,
            replaced: true,
            jumps: true,
            expiry: true,
            arbiter: false,
            refuse: false,
            pace,
        }
    }
}

fn options(
    seed: u64,
    plant: Option<Plant>,
    verbose: bool,
    faults: &Faults,
    gentle: bool,
    random: &mut Random,
) -> Options {
    let mut options = Options::new(seed);
    options.gentle = gentle;
    options.long_values = faults.long_values;
    options.wall_jumps = faults.jumps;
    options.slow_batches = random.chance(50);
    if random.chance(50) {
        options.drift = [0, 1].map(|_| random.within(0..40_001) as i64 - 20_000);
    }
    options.shards = [random.within(1..4) as usize, random.within(1..4) as usize];
    if !gentle && random.chance(40) {
        options.backlog_bytes = random.within(3_000..12_000) as usize;
    }
    options.bulk_bytes = random.within(150..2_000) as usize;
    options.keys = random.within(5..80);
    if random.chance(15) {
        // Of different size, as two machines may be.
        options.items_max = [0, 1].map(|_| random.chance(70).then(|| random.within(3..60) as usize));
    }
    if !gentle && random.chance(20) {
        let delay = Span::from_millis(random.within(50..600));
        options.preferred = Some((random.side(), delay));
    }
    if !gentle && random.chance(10) {
        options.unsettled = Some(random.side());
    }
    if !gentle && random.chance(40) {
        options.arbiter = Some(random.within(960..1_040));
    }
    // Of its own, so that the other half of the seeds are what they were before there was a choice.
    let rules = [Heal::Newest, Heal::Newest, Heal::Winner, Heal::Invalidate];
    options.heal = rules[Random::new(!seed).within(0..4) as usize];
    // Drawn apart, so that the other seeds stay what they were.
    let mut mode = Random::new(seed ^ 0xacce_9700);
    options.accept = match mode.within(0..100) {
        _ if options.arbiter.is_some() || options.heal != Heal::Newest => [false; 2],
        0..50 => [true; 2],
        // One alone is not enough.
        50..55 => [true, false],
        _ => [false; 2],
    };
    options.plant = plant;
    options.verbose = verbose;
    options
}

fn simulate(seed: u64, plant: Option<Plant>, verbose: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut faults = Faults::draw(&mut random);
    let gentle = random.chance(8);
    if gentle {
        faults = Faults::gentle(faults.pace);
    }
    // Of its own, so that other seeds stay what they were.
    let mut second = Random::new(!seed);
    let mut options = options(seed, plant, verbose, &faults, gentle, &mut random);
    options.second_path = second.chance(25);
    let (second_path, stalls) = (options.second_path, second.chance(20));
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
            let (node, key) = (random.side(), random.within(0..keys));
            match (random.within(0..100), faults.expiry) {
                (0..20, _) => drop(world.write(node, key, None)),
                (20..35, _) => drop(world.request(node, key, Wish::Get)),
                (35..50, true) => drop(world.request(node, key, other_wish(&mut random))),
                _ => drop(world.write(node, key, Some(bytes as usize))),
            }
        }
        for (node, restart) in restarts.iter_mut().enumerate() {
            if restart.is_some_and(|at| at <= world.now) {
                *restart = None;
                if faults.disks && random.chance(40) {
                    let kinds = [StateFault::Torn, StateFault::Stale, StateFault::Deleted];
                    world.damage(node, kinds[random.within(0..3) as usize]);
                }
                world.start(node);
            } else if world.process(node).is_none() && restart.is_none() {
                *restart = Some(world.now + Span::from_millis(random.within(1..1_200)));
            }
        }
        if stalls && second.chance(2) {
            world.stall();
        }
        if second_path && second.chance(4) {
            disturb_second(&mut world, &mut second);
        }
        if repair_at.is_some_and(|at| at <= world.now) {
            repair_at = None;
            world.repair();
        }
        if random.chance(100 * 6_000 / faults.pace.0.max(6_000)) {
            world.strikes += 1;
            if let Some(length) = strike(&mut world, &faults, &mut random) {
                world.expect_delays(length);
                repair_at = Some(world.now + length);
            }
        }
    }
    heal(world, dead_after)
}

/// What clients do besides setting, deleting and getting.
fn other_wish(random: &mut Random) -> Wish {
    let seconds = [1, 2, 3, 1000, 10_000, 0][random.within(0..6) as usize];
    match random.within(0..100) {
        0..50 => Wish::Set(b"expires".to_vec(), seconds),
        50..96 => Wish::Touch([7_000, 20_000, 0][random.within(0..3) as usize]),
        96..98 => Wish::Flush(0),
        _ => Wish::Flush([1, 2, 30_000][random.within(0..3) as usize]),
    }
}

/// One fault. Those of the wire say how long they last.
fn strike(world: &mut World, faults: &Faults, random: &mut Random) -> Option<Span> {
    let node = random.side();
    // Most are short; some are as long as things last.
    let longest = if random.chance(3) { 30_000 } else { 900 };
    let length = Span::from_millis(random.within(1..longest));
    let cut = Span(length.0.min(5_000_000));
    match random.within(0..19) {
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
            return Some(cut);
        }
        4 if faults.partition => {
            world.network.blocked = [true; 2];
            world.network.note_usable(world.now);
            return Some(cut);
        }
        5 if faults.pair_only => {
            world.network.pair_blocked = true;
            world.network.note_usable(world.now);
            return Some(cut);
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
        12 if faults.disks => {
            world.fill_disk(node, true);
            world.disk_pause = Span::from_millis(random.within(0..300));
            return Some(cut);
        }
        13 if faults.loss => {
            world.network.loss = random.within(1..31);
            world.network.delay_max = Span::from_millis(random.within(1..5_000));
            world.network.note_usable(world.now);
            return Some(Span(cut.0 + 2 * world.network.delay_max.0));
        }
        14 if faults.flips => {
            world.network.flips = random.within(1..60);
            return Some(cut);
        }
        15 if faults.replaced => world.replace(if random.chance(50) { Link::Control } else { Link::Data }),
        16 if faults.jumps => world.jump(node, random.within(0..7_200_001) as i64 - 3_600_000),
        17 if faults.arbiter => disturb_arbiter(world, random),
        18 if faults.refuse && world.arbiter.is_some() => {
            world.refuse();
            return Some(length);
        }
        _ => {}
    }
    None
}

/// Something befalls the second network, and now and then the first one while the second is well.
fn disturb_second(world: &mut World, random: &mut Random) {
    let node = random.side();
    match random.within(0..7) {
        0 => world.network.second_blocked[node] = true,
        1 => world.network.second_blocked = [true; 2],
        2 | 3 => world.network.second_blocked = [false; 2],
        4 => world.network.second_delay_max = Span::from_millis(random.within(1..600)),
        5 => world.break_link(Link::Heartbeat),
        _ => world.break_link(Link::Control),
    }
    world.network.note_usable(world.now);
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
    world.run(Span(world.paused_until().0.saturating_sub(world.now.0)));
    world.start(0);
    world.start(1);
    let promotions = world.promotions();
    // What is under way when the wire is repaired takes as long as it takes.
    let over = world.now.max(world.network.slow_until);
    let deadline = over + Span::from_millis(900) + dead_after.scaled(16, 1);
    while world.now < deadline && !world.is_converged() {
        world.run(Span::from_millis(20));
        // Whoever was asked to stop may have done so just now.
        world.start(0);
        world.start(1);
    }
    if !world.is_converged() {
        let states = [world.state(0), world.state(1)];
        let difference = world.difference();
        world.oracle.violations.push(format!("no rest after the faults: {states:?}, {difference:?}"));
    }
    let promotions = world.promotions() - promotions;
    if promotions > 4 {
        world.oracle.violations.push(format!("{promotions} promotions after the faults"));
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
        catch_ups: world.catch_ups,
        conflicts: world.conflicts,
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
            catch_ups: 0,
            conflicts: 0,
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
                    sum.catch_ups += outcome.catch_ups;
                    sum.conflicts += outcome.conflicts;
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
        "{seeds} seeds in {:.1} s: {} writes acknowledged, {} of them by a backup too, {} streams copied, {} continued, {} caught up, {} conflicts",
        start.elapsed().as_secs_f64(),
        total.acknowledged,
        total.made_durable,
        total.full_copies,
        total.partial_resyncs,
        total.catch_ups,
        total.conflicts
    );
    // What chance seldom hits, a scenario does.
    for text in scenarios() {
        let world = script::run(&text, 0, None, false).unwrap();
        total.fired.iter_mut().zip(&world.fired).for_each(|(sum, fired)| *sum += fired);
    }
    let idle: Vec<_> = ROWS.iter().zip(&total.fired).filter(|(_, fired)| **fired == 0).collect();
    let idle: Vec<_> = idle.iter().map(|(row, _)| format!("{:?} on {:?}", row.from, row.on)).collect();
    assert!(seeds < SEEDS || idle.is_empty(), "rows that never fired: {idle:#?}");
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
    let stories = scenarios();
    let only: Option<String> = from_environment("TANDEM_PLANT");
    for plant in Plant::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{plant:?}")) {
            continue;
        }
        let scenario = stories.iter().find_map(|text| script::run(text, 0, Some(plant), false).err());
        if let Some(error) = scenario {
            println!("{plant:?}: a scenario, {error}");
        } else if let Some((seed, violation)) = sweep(0..10_000, Some(plant)).1 {
            println!("{plant:?}: seed {seed}: {violation}");
        } else {
            missed.push(plant);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
