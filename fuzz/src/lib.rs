//! What reads bytes from outside, each as a function of bytes: [`TARGETS`].
//!
//! A target crashes where something is wrong: a panic, an overflow, an answer that depends on how the
//! bytes were cut, or two engines that disagree. `scripts/fuzz.sh` feeds them by libFuzzer, guided by
//! coverage; the tests here feed them what [`seeds`] begins with, and a little around it.

pub mod commands;
mod datagrams;
mod files;
mod planner;
pub mod seeds;
mod streams;

/// One thing that reads bytes.
pub struct Target {
    /// As `scripts/fuzz.sh` names it.
    pub name: &'static str,
    /// Reads them; panics if something is wrong.
    pub run: fn(&[u8]),
    /// Longest input worth trying.
    pub longest: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "text", run: commands::text, longest: 1500 },
    Target { name: "meta", run: commands::text, longest: 1500 },
    Target { name: "binary", run: commands::binary, longest: 1500 },
    Target { name: "udp", run: datagrams::udp, longest: 3000 },
    Target { name: "change", run: streams::change, longest: 2000 },
    Target { name: "frame", run: streams::frame, longest: 2000 },
    Target { name: "handshake", run: streams::handshake, longest: 6000 },
    Target { name: "planner", run: planner::planner, longest: 600 },
    Target { name: "proxy", run: streams::proxy, longest: 2000 },
    Target { name: "repcached", run: streams::repcached, longest: 2000 },
    Target { name: "snapshot", run: files::snapshot, longest: 2000 },
    Target { name: "state", run: files::state, longest: 500 },
    Target { name: "auth", run: files::auth, longest: 1000 },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_and_a_little_around_them_are_survived() {
        let mut random = 7u64;
        let mut next = move |below: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % below.max(1)
        };
        for target in TARGETS {
            let seeds = seeds::of(target.name);
            assert!(seeds.len() > 2, "{} has seeds", target.name);
            for seed in &seeds {
                (target.run)(seed);
                for _ in 0..5 {
                    let mut mutant = seed.clone();
                    let other = &seeds[next(seeds.len())];
                    match next(3) {
                        _ if mutant.is_empty() => mutant.extend(other),
                        0 => {
                            let at = next(mutant.len());
                            mutant[at] ^= 1 << next(8);
                        }
                        1 => mutant.truncate(next(mutant.len())),
                        _ => {
                            mutant.truncate(next(mutant.len()));
                            mutant.extend(&other[next(other.len().max(1)).min(other.len())..]);
                        }
                    }
                    mutant.truncate(target.longest);
                    (target.run)(&mutant);
                }
            }
        }
    }
}
