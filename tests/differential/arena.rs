//! Two servers hear the same: runs scenarios, finds disagreements, shrinks and reports them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::allowed;
use crate::compare::Comparer;
use crate::exchange::{Answer, End, ask, connect};
use crate::generate;
use crate::script::{Chop, Command, Scenario, Script, Wire, count, escape, show};
use crate::servers::Server;
use crate::shrink::shrink;

/// Commands that one pair of servers hears before it is replaced by fresh ones.
const EPOCH: usize = 4_000;

/// How often a scenario that showed a disagreement is run again, each time on fresh servers. Both count
/// seconds, and what a second ends (an expiry, a flush, the age that a fetch renews) may fall between the
/// two answers on a machine that stands still for a moment; what a server does wrong it does again.
const CONFIRMATIONS: usize = 2;

/// Pairs of servers that are asked at once: most of the time is spent waiting.
const LANES: usize = 4;

/// What stands on the second side.
pub(crate) trait Second: Sync {
    /// Something that listens, made anew.
    fn start(&self) -> Box<dyn Listening>;
}

/// A server, or something that behaves as one.
pub(crate) trait Listening {
    /// Where.
    fn address(&self) -> SocketAddr;
    /// Whether it is still there.
    fn is_alive(&mut self) -> bool;
}

impl Listening for Server {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }

    fn is_alive(&mut self) -> bool {
        Self::is_alive(self)
    }
}

/// A program as the second side.
pub(crate) struct Program(pub(crate) &'static str);

impl Second for Program {
    fn start(&self) -> Box<dyn Listening> {
        Box::new(Server::start(self.0))
    }
}

/// A disagreement.
#[derive(Debug)]
struct Failure {
    /// The script of the scenario that showed it.
    script: usize,
    /// What was sent in that round, to the first server.
    sent: Vec<u8>,
    /// What differed.
    difference: String,
    /// The entry of the allowed differences under which the answers were compared.
    under: Option<&'static allowed::Allowed>,
}

/// A disagreement, shrunk, with the seed that finds it again.
pub(crate) struct Finding {
    seed: u64,
    failure: Failure,
    /// The smallest scenario that still shows it.
    pub(crate) scenario: Scenario,
}

impl Finding {
    /// What differs, in words.
    pub(crate) fn difference(&self) -> &str {
        &self.failure.difference
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "disagreement: {}", self.failure.difference)?;
        writeln!(out, "  after sending  '{}'", escape(&self.failure.sent))?;
        if let Some(entry) = self.failure.under {
            writeln!(
                out,
                "  (the first side as the list of allowed differences has it: {}: {})",
                entry.what, entry.why
            )?;
        }
        writeln!(
            out,
            "shrunk to {} commands; again with TANDEM_DIFF_SEED={}:",
            count(&self.scenario),
            self.seed
        )?;
        out.write_str(&show(&self.scenario))
    }
}

/// The first side is memcached, the second is compared with it.
struct Arena<'a> {
    runtime: Runtime,
    /// What is tested.
    second: &'a dyn Second,
    /// Whether the list of allowed differences is in force.
    allow: bool,
    /// Rounds after which both servers waited for more: they cost time and mean a generator that is wrong.
    silences: Vec<String>,
}

impl<'a> Arena<'a> {
    /// An arena for `second`.
    fn new(second: &'a dyn Second, allow: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime"), second, allow, silences: Vec::new() }
    }

    /// The smallest form of a disagreement.
    fn shrink(&mut self, seed: u64, scenario: &[Script], failure: Failure) -> Finding {
        let last = failure.script;
        let mut latest = failure;
        let smallest = shrink(scenario, last, |candidate| match self.run(candidate) {
            Ok(()) => false,
            Err(failure) => {
                latest = failure;
                true
            }
        });
        // What the last failing attempt said may be about a scenario that was not kept.
        if let Err(failure) = self.run(&smallest) {
            latest = failure;
        }
        Finding { seed, failure: latest, scenario: smallest }
    }

    /// Runs a scenario on two fresh servers.
    fn run(&mut self, scenario: &[Script]) -> Result<(), Failure> {
        let first = Server::start(crate::servers::MEMCACHED);
        let mut second = self.second.start();
        let addresses = (first.address(), second.address());
        let mut comparer = Comparer::new(self.allow);
        self.runtime.block_on(async {
            warm_up(addresses.0).await;
            warm_up(addresses.1).await;
        });
        for (at, script) in scenario.iter().enumerate() {
            let outcome = self.script(addresses, script, &mut comparer);
            let crashed = !second.is_alive();
            let outcome = match outcome {
                Ok(()) if crashed => Err((Vec::new(), "the second server is gone".to_owned(), None)),
                Err((sent, difference, under)) if crashed => {
                    Err((sent, format!("the second server is gone; {difference}"), under))
                }
                other => other,
            };
            outcome.map_err(|(sent, difference, under)| Failure { script: at, sent, difference, under })?;
        }
        Ok(())
    }

    /// Runs one connection's script.
    fn script(
        &mut self,
        addresses: (SocketAddr, SocketAddr),
        script: &Script,
        comparer: &mut Comparer,
    ) -> Result<(), (Vec<u8>, String, Option<&'static allowed::Allowed>)> {
        let Self { runtime, allow, silences, .. } = self;
        runtime.block_on(async {
            let (mut first, mut second) = (connect(addresses.0).await, connect(addresses.1).await);
            if script.wire == Wire::Binary {
                // Decides the protocol, so that a broken first byte is a broken packet and not text.
                let (chop, nothing) = (Chop::Whole, Vec::new());
                ask(&mut first, Wire::Binary, chop, nothing.clone(), 0).await;
                ask(&mut second, Wire::Binary, chop, nothing, 0).await;
            }
            for round in script.rounds() {
                let sent = render(round, &comparer.seen.0);
                let other_sent = render(round, &comparer.seen.1);
                let marks = round.iter().filter(|command| is_mark(command)).count();
                let (reference, answer) = tokio::join!(
                    ask(&mut first, script.wire, script.chop, sent.clone(), marks),
                    ask(&mut second, script.wire, script.chop, other_sent, marks),
                );
                let listed = if *allow && script.wire == Wire::Text && round.len() == 1 && round[0].alone {
                    allowed::entry(&sent)
                } else {
                    None
                };
                let wanted = if listed.is_some() { allowed::expected(&sent, &reference) } else { reference };
                if wanted.end == End::Silent && answer.end == End::Silent {
                    silences.push(escape(&sent));
                }
                if *allow
                    && script.wire == Wire::Text
                    && round.len() == 1
                    && let Some(counter) = allowed::miscounted(&sent)
                {
                    *comparer.excused.entry(counter).or_default() += 1;
                }
                let compared = comparer.round(script.wire, &wanted, &answer);
                compared.map_err(|difference| (sent, difference, listed))?;
                if wanted.end != End::Complete {
                    break;
                }
            }
            let (reference, answer) = (statistics(addresses.0).await, statistics(addresses.1).await);
            comparer
                .counters(&reference.bytes, &answer.bytes)
                .map_err(|difference| (b"stats\r\n".to_vec(), difference, None))
        })
    }
}

/// Runs one scenario; how the servers disagree, if they do.
pub(crate) fn disagreement(second: &dyn Second, allow: bool, scenario: &[Script]) -> Option<String> {
    let mut arena = Arena::new(second, allow);
    let failure = arena.run(scenario).err()?;
    Some(format!("{} after '{}'", failure.difference, escape(&failure.sent)))
}

/// How long and how far to look for disagreements.
pub(crate) struct Search {
    /// Where the seeds begin.
    pub(crate) seed: u64,
    /// About how many commands to send.
    pub(crate) commands: usize,
    /// How many disagreements are enough.
    pub(crate) findings: usize,
    /// When to stop anyway.
    pub(crate) time: Duration,
}

/// What a search found.
#[derive(Default)]
pub(crate) struct Found {
    /// Commands sent.
    pub(crate) commands: usize,
    /// Disagreements.
    pub(crate) findings: Vec<Finding>,
    /// Rounds after which both servers waited for more.
    pub(crate) silences: Vec<String>,
    /// Disagreements that were not seen again.
    pub(crate) flickers: Vec<String>,
}

/// Looks for disagreements between memcached and `second`, on a few pairs of servers at once.
pub(crate) fn explore(second: &dyn Second, allow: bool, search: &Search) -> Found {
    let begin = Instant::now();
    let epoch = AtomicU64::new(0);
    let found = Mutex::new(Found::default());
    let next = || {
        let found = found.lock().expect("no thread panics with the lock");
        let more = found.commands < search.commands && found.findings.len() < search.findings;
        (more && begin.elapsed() < search.time)
            .then(|| search.seed.wrapping_add(epoch.fetch_add(1, Ordering::Relaxed)))
    };
    let work = || {
        let mut arena = Arena::new(second, allow);
        while let Some(seed) = next() {
            let scenario = generate::scenario(seed, EPOCH.min(search.commands));
            let first = arena.run(&scenario).err();
            let again =
                first.as_ref().and_then(|_| (0..CONFIRMATIONS).find_map(|_| arena.run(&scenario).err()));
            let flicker = first.filter(|_| again.is_none());
            let finding = again.map(|failure| arena.shrink(seed, &scenario, failure));
            let mut found = found.lock().expect("no thread panics with the lock");
            found.commands += count(&scenario);
            found.findings.extend(finding);
            found.flickers.extend(flicker.map(|failure| {
                format!("seed {seed}: {} after '{}'", failure.difference, escape(&failure.sent))
            }));
            found.silences.append(&mut arena.silences);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(work);
        }
    });
    found.into_inner().expect("no thread panics with the lock")
}

/// Has a server give out a few CAS uniques, so that the one below the first that is seen is not 0,
/// which means none.
async fn warm_up(address: SocketAddr) {
    let mut stream = connect(address).await;
    let bytes = b"set warm 0 0 1\r\nx\r\nset warm 0 0 1\r\nx\r\ndelete warm\r\n".to_vec();
    ask(&mut stream, Wire::Text, Chop::Whole, bytes, 0).await;
}

/// `stats` of a server, on a connection of its own.
async fn statistics(address: SocketAddr) -> Answer {
    let mut stream = connect(address).await;
    ask(&mut stream, Wire::Text, Chop::Whole, b"stats\r\n".to_vec(), 0).await
}

/// The bytes of a round for the server that gave out the uniques `seen`.
fn render(round: &[Command], seen: &[u64]) -> Vec<u8> {
    round.iter().flat_map(|command| command.render(seen)).collect()
}

/// Whether a command is `mn`, whose answer looks like the sentinel's.
fn is_mark(command: &Command) -> bool {
    let bytes = command.render(&[]);
    bytes == b"mn\r\n" || bytes.starts_with(b"mn ")
}
