//! Scenarios as text: one command or expectation per line.
//!
//! ```text
//! with heal winner | with backlog 4000 | with preferred a 300 | with bulk 100     before anything else
//! with arbiter | with room b 10 | with accept                   before anything else
//! arbiter down | arbiter up | arbiter restart | arbiter loses a | refuse
//! start a | kill a | pause a 500 | shutdown a | switchover a | promote a | force a
//! hold a | release a | resync a                                 no failover there, failovers again, a new copy
//! with second path                                             another network, for heartbeats
//! stall                                                        what the data connection carries gets nowhere
//! block second | mend second | mend first | second slow 400 | lose control
//! block a>b | block both | block pair | delay 40 | reset | half_open a | repair
//! run 100 | write a 50 [bytes] | delete a 50 | touch a 50 seconds | flush a [seconds]     keys 0 to 49
//! set a 7 | drop a 7                                            one key
//! disk 100 | tear a | age a | replace control | jump a -3600000
//! until 900 a master | until 900 settled                        runs at most so long until it is so
//! expect a backup | expect a accepts | expect a serves | expect a waits | expect settled | expect same
//! expect copies 2 | expect continued 1                          counted on both ends
//! expect stalls 1                                              noticed by processes that run
//! expect caught_up [2] | expect resumed 2                       the same
//! expect a has 7 | expect a lacks 7 | expect conflicts 1        one key, by number
//! expect items a 40                                             live ones
//! ```
//! Times are in milliseconds. A `#` begins a comment. The oracles judge at the end of every line.

use super::world::{Options, Process, World};
use super::{Plant, StateFault, Wish};
use crate::frame::Link;
use crate::heal::Heal;
use crate::node::Operator;
use crate::role::State;
use crate::time::Span;

/// Runs `text`; an error names the line. Returns the world as it is at the end.
pub fn run(text: &str, seed: u64, plant: Option<Plant>, verbose: bool) -> Result<World, String> {
    let lines = text.lines().enumerate().map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default();
        (index + 1, line.split_whitespace().collect::<Vec<_>>())
    });
    let lines: Vec<_> = lines.filter(|(_, words)| !words.is_empty()).collect();
    let mut options = Options { verbose, plant, ..Options::new(seed) };
    for (number, words) in &lines {
        with(&mut options, words).map_err(|error| format!("line {number}: {error}"))?;
    }
    let mut world = World::new(options);
    for (number, words) in lines.iter().filter(|(_, words)| words[0] != "with") {
        step(&mut world, words).map_err(|error| format!("line {number}: {error}"))?;
        for node in 0..2 {
            if let Some(contents) = world.contents(node).filter(|_| world.is_converged()) {
                world.oracle.judge_end(&contents);
            }
        }
        if let Some(violation) = world.oracle.violations.first() {
            return Err(format!("line {number}: {violation}"));
        }
    }
    world.finish();
    Ok(world)
}

fn with(options: &mut Options, words: &[&str]) -> Result<(), String> {
    match words {
        ["with", "backlog", bytes] => options.backlog_bytes = number(bytes)? as usize,
        ["with", "heal", "winner"] => options.heal = Heal::Winner,
        ["with", "heal", "invalidate"] => options.heal = Heal::Invalidate,
        ["with", "accept"] => options.accept = [true; 2],
        ["with", "accept", name] => options.accept[node(name)?] = true,
        ["with", "arbiter"] => options.arbiter = Some(1_000),
        ["with", "second", "path"] => options.second_path = true,
        ["with", "room", name, items] => options.items_max[node(name)?] = Some(number(items)? as usize),
        ["with", "bulk", bytes] => options.bulk_bytes = number(bytes)? as usize,
        ["with", "preferred", name, millis] => options.preferred = Some((node(name)?, millis_of(millis)?)),
        ["with", ..] => return Err(format!("no such option: {words:?}")),
        _ => {}
    }
    Ok(())
}

fn step(world: &mut World, words: &[&str]) -> Result<(), String> {
    match words {
        ["start", name] => world.start(node(name)?),
        ["kill", name] => world.kill(node(name)?),
        ["pause", name, millis] => world.pause(node(name)?, millis_of(millis)?),
        ["run", millis] => world.run(millis_of(millis)?),
        ["block", "both"] => world.network.blocked = [true; 2],
        ["block", "pair"] => world.network.pair_blocked = true,
        ["block", "a>b"] => world.network.blocked[0] = true,
        ["block", "b>a"] => world.network.blocked[1] = true,
        ["block", "second"] => world.network.second_blocked = [true; 2],
        ["mend", "second"] => world.network.second_blocked = [false; 2],
        ["mend", "first"] => world.network.blocked = [false; 2],
        ["second", "slow", millis] => world.network.second_delay_max = millis_of(millis)?,
        ["lose", link] => world.break_link(link_of(link)?),
        ["refuse"] => world.refuse(),
        ["stall"] => world.stall(),
        ["arbiter", "restart"] => world.restart_arbiter(),
        ["arbiter", words @ ..] => match (&mut world.arbiter, words) {
            (Some(arbiter), ["down"]) => arbiter.up = false,
            (Some(arbiter), ["up"]) => arbiter.up = true,
            (Some(arbiter), ["loses", name]) => arbiter.reachable[node(name)?] = false,
            _ => return Err(format!("no such thing happens to an arbiter: {words:?}")),
        },
        ["delay", millis] => world.network.delay_max = millis_of(millis)?,
        ["disk", millis] => world.disk_pause = millis_of(millis)?,
        ["repair"] => world.repair(),
        ["reset"] => world.reset(),
        ["half_open", name] => world.half_open(node(name)?),
        ["switchover", name] => operate(world, name, Operator::Switchover)?,
        ["promote", name] => operate(world, name, Operator::Promote { force: false })?,
        ["force", name] => operate(world, name, Operator::Promote { force: true })?,
        ["hold", name] => operate(world, name, Operator::PauseFailover)?,
        ["release", name] => operate(world, name, Operator::ResumeFailover)?,
        ["resync", name] => operate(world, name, Operator::Resync)?,
        ["shutdown", name] => operate(world, name, Operator::Shutdown)?,
        ["set", name, key] => write_one(world, name, key, Some(10))?,
        ["drop", name, key] => write_one(world, name, key, None)?,
        ["write", name, count] => write(world, name, count, Some(10))?,
        ["write", name, count, bytes] => write(world, name, count, Some(number(bytes)? as usize))?,
        ["delete", name, count] => write(world, name, count, None)?,
        ["touch", name, count, seconds] => {
            let seconds = number(seconds)? as u32;
            for key in 0..number(count)? {
                request(world, name, key, Wish::Touch(seconds))?;
            }
        }
        ["flush", name] => request(world, name, 0, Wish::Flush(0))?,
        ["flush", name, seconds] => request(world, name, 0, Wish::Flush(number(seconds)? as u32))?,
        ["tear", name] => world.damage(node(name)?, StateFault::Torn),
        ["age", name] => world.damage(node(name)?, StateFault::Stale),
        ["replace", link] => world.replace(link_of(link)?),
        ["jump", name, millis] => {
            world.jump(node(name)?, millis.parse().map_err(|_| format!("not a number: {millis}"))?);
        }
        ["until", millis, condition @ ..] => {
            let end = world.now + millis_of(millis)?;
            while !holds(world, condition)? {
                if world.now >= end {
                    return Err(format!("not {condition:?} within {millis} ms: {}", describe(world)));
                }
                world.run(Span(200));
            }
        }
        ["expect", condition @ ..] => {
            if !holds(world, condition)? {
                return Err(format!("not {condition:?}: {}", describe(world)));
            }
        }
        _ => return Err(format!("no such command: {words:?}")),
    }
    world.network.note_usable(world.now);
    Ok(())
}

fn holds(world: &mut World, condition: &[&str]) -> Result<bool, String> {
    Ok(match condition {
        ["settled"] => world.is_converged(),
        ["same"] => world.difference().is_none(),
        ["copies", count] => counted(world)[0] == number(count)?,
        ["continued", count] => counted(world)[1] == number(count)?,
        ["caught_up"] => counted(world)[2] > 0,
        ["caught_up", count] => counted(world)[2] == number(count)?,
        ["stalls", count] => {
            let all = (0..2).filter_map(|node| world.process(node));
            let stalls: u64 = all.map(|process| process.node.counters().stalls).sum();
            stalls == number(count)?
        }
        ["resumed", count] => counted(world)[3] == number(count)?,
        ["conflicts", count] => world.conflicts == number(count)?,
        [name, "has", key] => {
            let contents = world.contents(node(name)?).unwrap_or_default();
            contents.contains_key(format!("key{key}").as_bytes())
        }
        [name, "lacks", key] => {
            let contents = world.contents(node(name)?).unwrap_or_default();
            !contents.contains_key(format!("key{key}").as_bytes())
        }
        [name, "accepts"] => world.process(node(name)?).is_some_and(Process::accepts),
        [name, "serves"] => world.write(node(name)?, 0, Some(1)),
        [name, "waits"] => !world.write(node(name)?, 0, Some(1)),
        ["items", name, count] => {
            world.contents(node(name)?).is_some_and(|items| number(count) == Ok(items.len() as u64))
        }
        [name, "stopped"] => world.state(node(name)?).is_none(),
        [name, state] => {
            let known = State::ALL.into_iter().find(|known| known.name() == *state);
            let known = known.ok_or_else(|| format!("no such state: {state}"))?;
            world.state(node(name)?) == Some(known)
        }
        _ => return Err(format!("no such condition: {condition:?}")),
    })
}

fn counted(world: &World) -> [u64; 4] {
    let mut sum = [world.full_copies, world.partial_resyncs, world.catch_ups, world.resumed];
    for process in (0..2).filter_map(|node| world.process(node)) {
        let counters = process.node.counters();
        sum[0] += counters.full_copies;
        sum[1] += counters.partial_resyncs;
        sum[2] += counters.catch_ups;
        sum[3] += counters.resumed_copies;
    }
    sum
}

fn write(world: &mut World, name: &str, count: &str, bytes: Option<usize>) -> Result<(), String> {
    for key in 0..number(count)? {
        if !world.write(node(name)?, key, bytes) {
            return Err(format!("{name} does not take writes: {}", describe(world)));
        }
    }
    Ok(())
}

fn request(world: &mut World, name: &str, key: u64, wish: Wish) -> Result<(), String> {
    let taken = world.request(node(name)?, key, wish);
    if taken { Ok(()) } else { Err(format!("{name} does not take requests: {}", describe(world))) }
}

fn write_one(world: &mut World, name: &str, key: &str, bytes: Option<usize>) -> Result<(), String> {
    if world.write(node(name)?, number(key)?, bytes) {
        return Ok(());
    }
    Err(format!("{name} does not take writes: {}", describe(world)))
}

fn operate(world: &mut World, name: &str, wish: Operator) -> Result<(), String> {
    world.operate(node(name)?, wish).map_err(|refusal| format!("refused: {}", refusal.0))
}

fn describe(world: &World) -> String {
    let state = |node| world.state(node).map_or("dead", State::name);
    format!("a is {}, b is {}", state(0), state(1))
}

fn node(name: &str) -> Result<usize, String> {
    match name {
        "a" => Ok(0),
        "b" => Ok(1),
        _ => Err(format!("no such node: {name}")),
    }
}

fn link_of(name: &str) -> Result<Link, String> {
    let known = Link::ALL.into_iter().find(|link| link.name() == name);
    known.ok_or_else(|| format!("no such link: {name}"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn millis_of(text: &str) -> Result<Span, String> {
    number(text).map(Span::from_millis)
}
