//! Two processes, a network between them, clients, and virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use super::Plant;
use super::arbiter::Arbiter;
use super::network::{DELAY_USUAL, LONG_DELAY, Network};
use super::oracle::{Oracle, Truth};
use super::random::Random;
use super::store::{Contents, MapStore, Wish, Written};
use crate::arbiter::{Answer, Ask, Asker, Outcome};
use crate::backlog::Backlog;
use crate::change::Change;
use crate::frame::{Frame, Link};
use crate::heal::Heal;
use crate::node::backing::HOLDER_PATIENCE;
use crate::node::{Config, Down, GateView, Node, Operator, Output, Probe, Refusal, Saved};
use crate::role::{self, Data, ROWS, State, Trigger};
use crate::time::{Mono, Span};

/// How a world is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that looks random comes from it.
    pub seed: u64,
    /// Shards of each node's store.
    pub shards: [usize; 2],
    /// Bytes of each node's backlog.
    pub backlog_bytes: usize,
    /// Between two heartbeats; a node is dead after ten, waits for twenty at the start.
    pub heartbeat: Span,
    /// Frames of bulk are about so long.
    pub bulk_bytes: usize,
    /// Different keys that clients use.
    pub keys: u64,
    /// The preferred node, if the role goes back to one by itself, and after how long.
    pub preferred: Option<(usize, Span)>,
    /// A node without a state directory.
    pub unsettled: Option<usize>,
    /// Each node's store takes about so many items.
    pub items_max: [Option<usize>; 2],
    /// How much faster than true time each node's clock runs, in millionths.
    pub drift: [i64; 2],
    /// Wall clocks jump.
    pub wall_jumps: bool,
    /// Commands take a while between admission and execution.
    pub slow_batches: bool,
    /// Values may be too long for the backlog: what a failover loses need not be the end of a shard.
    pub long_values: bool,
    /// Nothing happens but that links break: no copy is needed.
    pub gentle: bool,
    /// What becomes of keys that both nodes changed.
    pub heal: Heal,
    /// There is an arbiter; how fast its clock runs, in thousandths.
    pub arbiter: Option<u64>,
    /// Which nodes are told that a backup executes commands itself.
    pub accept: [bool; 2],
    /// There is a second network between the two, for heartbeats.
    pub second_path: bool,
    /// The bug in it.
    pub plant: Option<Plant>,
    /// Prints what happens.
    pub verbose: bool,
}

impl Options {
    /// A world with nothing unusual.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: [2, 3],
            backlog_bytes: 256 * 1024,
            heartbeat: Span::from_millis(20),
            bulk_bytes: 1024,
            keys: 40,
            preferred: None,
            unsettled: None,
            items_max: [None, None],
            drift: [0, 0],
            wall_jumps: false,
            slow_batches: false,
            long_values: false,
            gentle: false,
            heal: Heal::default(),
            arbiter: None,
            accept: [false; 2],
            second_path: false,
            plant: None,
            verbose: false,
        }
    }
}

/// A running process.
pub struct Process {
    /// Its node.
    pub node: Node,
    /// Its items.
    pub store: Arc<MapStore>,
    /// Who it believes to be.
    pub node_id: u128,
    /// Never the same twice.
    pub boot_id: u64,
    /// The last the node said.
    pub gate: GateView,
    /// Its changes.
    pub(super) backlog: Arc<Backlog>,
    /// Stopped until then.
    pub(super) paused_until: Mono,
    /// Since when it serves.
    pub(super) serving_since: Option<Mono>,
    /// An operator made it master against all caution.
    pub(super) forced: bool,
    /// When it began, or something reached it last.
    heard_at: Mono,
    /// With an arbiter, it became master though another might have held more.
    leads_anyway: bool,
    /// Batches that are executing.
    pub(super) inside: u32,
    /// The node waits for the last batch to leave.
    pub(super) draining: bool,
    /// The last epoch it followed.
    followed: u64,
    /// Since when it could serve alone and does not.
    pub(super) idle_since: Mono,
    /// What its clock reads at the beginning of the world.
    clock: u64,
    /// How much faster it runs, in millionths.
    drift: i64,
    /// When its timer is set to.
    wake_at: Mono,
}

impl Process {
    /// It executes commands, now.
    pub fn serves_by_itself(&self) -> bool {
        matches!(self.gate, GateView::Serve { .. })
    }

    /// It does, and its master knows of all it did.
    fn has_told_all(&self) -> bool {
        self.serves_by_itself() && self.node.confirmed() == Some(&self.backlog.last()[..])
    }

    /// It executes commands as a backup.
    pub fn accepts(&self) -> bool {
        self.serves_by_itself() && self.node.role().state == State::Backup
    }
}

/// Something that will happen.
pub(super) enum Event {
    Wake { node: usize, boot: u64, at: Mono },
    Deliver { connection: usize, from: usize },
    Detach { connection: usize, node: usize, why: Down },
    Dial { link: Link },
    Probed { node: usize, boot: u64, probe: Probe },
    Saved { node: usize, boot: u64, saved: Saved },
    Drained { node: usize, boot: u64 },
    Ask { asker: Asker, node: usize, ask: Ask, back: Span },
    Answer { node: usize, boot: u64, answer: Answer },
    Execute { node: usize, boot: u64, epoch: u64, key: Vec<u8>, wish: Wish },
    Leave { node: usize, boot: u64, epoch: u64, written: Option<Written> },
}

/// Two processes and everything around them.
pub struct World {
    /// How it is.
    pub options: Options,
    /// Now, for everybody.
    pub now: Mono,
    /// What looks random.
    pub random: Random,
    /// The wire.
    pub network: Network,
    /// The arbiter, if there is one.
    pub arbiter: Option<Arbiter>,
    /// The judge.
    pub oracle: Oracle,
    /// How often each row of the role table fired.
    pub fired: Vec<u64>,
    pub(super) processes: [Option<Process>; 2],
    /// What each node's state directory holds.
    pub(super) disks: [Saved; 2],
    /// What it held before.
    pub(super) past: [Vec<Saved>; 2],
    /// Saves fail.
    pub(super) disk_fails: [bool; 2],
    /// The file cannot be read.
    pub(super) torn: [bool; 2],
    /// The node has lost its memory at some time, or never had one, or could not save it.
    pub(super) forgetful: [bool; 2],
    /// Whoever lost its identity got one that gives it the same slot: only then no epoch is used twice.
    pub(super) identities_ordered: bool,
    /// How far each node's wall clock is ahead, in milliseconds.
    pub(super) wall: [i64; 2],
    /// Faults, and what operators and failback did.
    pub strikes: u64,
    pub(super) promotions: u64,
    pub(super) copies_when_settled: Option<u64>,
    /// How much longer than usual a save takes.
    pub disk_pause: Span,
    /// When the last save under way is done.
    disk_free_at: [Mono; 2],
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    boots: u64,
    events: u64,
    pub(super) values: u64,
    /// Mixes everything that happened: two runs of a seed must agree on it.
    pub trace: u64,
    /// Counters of processes that are no more are added here.
    pub full_copies: u64,
    /// By node that catches up: what its master had when it planned that.
    truths: [Option<Truth>; 2],
    /// The same by plan: process, session and number.
    plans: BTreeMap<(u64, u32, u32), Truth>,
    /// The same, for streams continued.
    pub partial_resyncs: u64,
    /// The same, for catch-ups.
    pub catch_ups: u64,
    /// The same, for copies and catch-ups that went on where they were cut.
    pub resumed: u64,
    /// Keys that both nodes had changed, as far as the log told.
    pub conflicts: u64,
}

struct Scheduled {
    at: Mono,
    number: u64,
    /// Behind a pointer: the queue moves it often.
    event: Box<Event>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The two nodes' names for ever; the first has slot 0.
const NODE_IDS: [u128; 2] = [1000, 1001];

impl World {
    /// A world in which nothing runs yet.
    pub fn new(options: Options) -> Self {
        let mut world = Self {
            random: Random::new(options.seed),
            now: Mono(0),
            network: Network::default(),
            arbiter: options.arbiter.map(Arbiter::new),
            oracle: Oracle::of(options.heal),
            fired: vec![0; ROWS.len()],
            processes: [None, None],
            past: [Vec::new(), Vec::new()],
            disk_fails: [false; 2],
            torn: [false; 2],
            forgetful: [0, 1].map(|node| options.unsettled == Some(node)),
            identities_ordered: true,
            wall: [0; 2],
            strikes: 0,
            promotions: 0,
            copies_when_settled: None,
            disks: NODE_IDS.map(|node_id| Saved { node_id, ..Saved::default() }),
            disk_pause: Span(0),
            disk_free_at: [Mono(0); 2],
            queue: BinaryHeap::new(),
            scheduled: 0,
            boots: 0,
            events: 0,
            values: 0,
            trace: 0,
            full_copies: 0,
            truths: Default::default(),
            plans: BTreeMap::new(),
            partial_resyncs: 0,
            catch_ups: 0,
            resumed: 0,
            conflicts: 0,
            options,
        };
        for link in world.links() {
            world.schedule(Span(1), Event::Dial { link });
        }
        world.oracle.versions_may_repeat = world.options.wall_jumps;
        world.expect_delays(Span(0));
        world
    }

    /// A node that has forgotten who it was. Half of the time chance gives it its old slot.
    pub(super) fn fresh_identity(&mut self, node: usize) -> Saved {
        let other = self.process(1 - node).map_or(self.disks[1 - node].node_id, |other| other.node_id);
        let chosen = u128::from(self.random.within(1..1000));
        let node_id = match (self.random.chance(50), node) {
            (false, _) => chosen + 1500 * u128::from(self.random.chance(50)),
            (true, 0) => (chosen & !1) | 2,
            (true, _) => (2 * other + chosen) | 1,
        };
        let node_id = if node_id == other { other + 1 } else { node_id };
        // Before it knows its peer, a node takes its slot from its own name.
        self.identities_ordered &= (node_id < other) == (node == 0) && (node_id & 1) as usize == node;
        self.oracle.versions_may_repeat |= !self.identities_ordered;
        Saved { node_id, ..Saved::default() }
    }

    fn links(&self) -> impl Iterator<Item = Link> + use<> {
        let second = self.options.second_path;
        Link::ALL.into_iter().filter(move |link| second || *link != Link::Heartbeat)
    }

    /// A peer is dead after so much silence.
    pub fn dead_after(&self) -> Span {
        self.options.heartbeat.scaled(25, 2)
    }

    /// A running process.
    pub fn process(&self, node: usize) -> Option<&Process> {
        self.processes[node].as_ref()
    }

    /// What a node is; `None` if it does not run.
    pub fn state(&self, node: usize) -> Option<State> {
        self.process(node).map(|process| process.node.role().state)
    }

    /// Starts a process for `node`, with nothing but what its state directory holds.
    pub fn start(&mut self, node: usize) {
        if self.processes[node].is_some() {
            return;
        }
        self.boots += 1;
        self.strikes += 1;
        let boot_id = self.boots;
        let plant = self.options.plant;
        let factor = if plant == Some(Plant::DoubleBacklog) { 2 } else { 1 };
        let backlog = Backlog::new(self.options.shards[node], factor * self.options.backlog_bytes);
        let backlog = Arc::new(backlog);
        let store = MapStore::new(self.options.shards[node], Arc::clone(&backlog));
        let store = Arc::new(store.with_room_for(self.options.items_max[node]).with_plant(plant));
        let clock = self.random.within(1_000_000..1_000_000_000);
        let settled = self.options.unsettled != Some(node) && !self.torn[node];
        let saved = if settled { self.disks[node].clone() } else { self.fresh_identity(node) };
        let node_id = saved.node_id;
        let flaps = plant == Some(Plant::PingPong);
        let config = Config {
            saved,
            settled,
            heartbeat: self.options.heartbeat,
            dead_after: self.dead_after(),
            start_wait: self.dead_after().scaled(2, 1),
            preferred: flaps || self.options.preferred.is_some_and(|(preferred, _)| preferred == node),
            failback: match self.options.preferred {
                Some(_) => crate::node::Failback::Auto,
                None if flaps => crate::node::Failback::Auto,
                None => crate::node::Failback::Manual,
            },
            failback_delay: self.options.preferred.map_or(Span(1), |(_, delay)| delay),
            drain_timeout: self.dead_after().scaled(1, 2),
            heal: self.options.heal,
            verify_every: self.dead_after().scaled(2, 1),
            arbiter: self.arbiter.as_ref().map(|_| self.dead_after().scaled(3, 1)),
            accept: self.options.accept[node],
            second_path: self.options.second_path,
            stall_after: self.dead_after().scaled(6, 1),
            plant,
            ..Config::new(node_id, boot_id)
        };
        let local = local(self.now, clock, self.options.drift[node]);
        let process = Process {
            node: Node::new(
                config,
                Arc::clone(&store) as Arc<dyn crate::store::Store>,
                Arc::clone(&backlog),
                local,
            ),
            store,
            backlog,
            node_id,
            boot_id,
            gate: GateView::Park,
            paused_until: Mono(0),
            serving_since: None,
            forced: false,
            heard_at: self.now,
            leads_anyway: false,
            inside: 0,
            draining: false,
            followed: 0,
            idle_since: Mono::NEVER,
            clock,
            drift: self.options.drift[node],
            wake_at: self.now + Span(1),
        };
        self.processes[node] = Some(process);
        self.note(node as u64, 1);
        self.say(|| format!("{} starts", name(node)));
        self.schedule(Span(1), Event::Wake { node, boot: boot_id, at: self.now + Span(1) });
    }

    /// Kills the process of `node`. Its kernel closes the connections, if that gets through.
    pub fn kill(&mut self, node: usize) {
        let Some(process) = self.processes[node].take() else { return };
        self.say(|| format!("{} dies", name(node)));
        self.strikes += 1;
        self.account(&process);
        self.oracle.forget_pending(node);
        self.oracle.forget_own(node);
        let survivor = self.contents(1 - node);
        self.oracle.died(survivor.as_ref());
        self.oracle.broke(node, survivor.as_ref());
        self.truths[node] = None;
        for link in self.links() {
            while let Some(connection) = self.network.attached(node, link) {
                self.network.connection(connection).attached[node] = false;
                self.close_other_end(connection, node);
            }
        }
        self.network.note_usable(self.now);
    }

    /// Stops the process of `node` for a while, as SIGSTOP does.
    pub fn pause(&mut self, node: usize, length: Span) {
        let until = self.now + length;
        self.expect_delays(length);
        if let Some(process) = &mut self.processes[node] {
            process.paused_until = process.paused_until.max(until);
            self.say(|| format!("{} is stopped for {} ms", name(node), length.as_millis()));
        }
    }

    /// Resets the connections.
    pub fn reset(&mut self) {
        self.say(|| "all connections are reset".into());
        let swallows = self.random.chance(50);
        for link in self.links() {
            for node in 0..2 {
                if let Some(connection) = self.network.attached(node, link) {
                    let open = self.network.connection(connection);
                    open.broken = true;
                    if swallows {
                        open.pipes.iter_mut().for_each(std::collections::VecDeque::clear);
                    }
                    self.schedule(Span(10), Event::Detach { connection, node, why: Down::Closed });
                }
            }
        }
    }

    /// What is said over the data connection gets nowhere, until there is another one.
    pub fn stall(&mut self) {
        self.say(|| "the data connection stalls".into());
        if let Some(connection) = self.network.whole(Link::Data) {
            self.network.connection(connection).stalled = true;
        }
    }

    /// One link breaks, and both ends notice.
    pub fn break_link(&mut self, link: Link) {
        self.say(|| format!("the {} link breaks", link.name()));
        for node in 0..2 {
            if let Some(connection) = self.network.attached(node, link) {
                self.network.connection(connection).broken = true;
                self.schedule(Span(10), Event::Detach { connection, node, why: Down::Lost });
            }
        }
    }

    /// A firewall refuses the pair's connections, and every other, as if no process were there.
    pub fn refuse(&mut self) {
        self.say(|| "a firewall refuses everything".into());
        self.reset();
        self.network.refused = true;
        self.network.note_usable(self.now);
    }

    /// The arbiter's process ends and begins again.
    pub fn restart_arbiter(&mut self) {
        self.say(|| "the arbiter is started again".into());
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.restart(self.options.plant, self.now);
        }
    }

    /// `node` loses its connections, and the other does not learn it.
    pub fn half_open(&mut self, node: usize) {
        self.say(|| format!("{} loses its connections unnoticed", name(node)));
        for link in self.links() {
            if let Some(connection) = self.network.attached(node, link) {
                self.schedule(Span(10), Event::Detach { connection, node, why: Down::Lost });
            }
        }
    }

    /// An operator's wish.
    pub fn operate(&mut self, node: usize, wish: Operator) -> Result<(), Refusal> {
        self.say(|| format!("{} is told to {wish:?}", name(node)));
        self.strikes += 1;
        let now = self.local(node);
        let process = self.processes[node].as_mut().filter(|process| process.paused_until <= self.now);
        let process = process.ok_or(Refusal("it does not run"))?;
        let dropped = process.node.counters().suspects_dropped;
        let granted = process.node.handle_operator(wish, now);
        self.note_dropped(node, dropped);
        self.work(node);
        granted
    }

    /// Runs for so long.
    pub fn run(&mut self, length: Span) {
        let end = self.now + length;
        while let Some(Reverse(next)) = self.queue.peek()
            && next.at <= end
        {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            self.oracle.now = self.now;
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.oracle.violate("something repeats itself for ever".into());
                break;
            }
            let known = self.oracle.violations.len();
            self.happen(*next.event);
            if let Some(violation) = self.oracle.violations.get(known) {
                self.say(|| format!("VIOLATION: {violation}"));
            }
        }
        self.now = end;
        self.oracle.now = end;
        self.watch();
    }

    /// Ends all faults of the wire.
    pub fn repair(&mut self) {
        self.network.blocked = [false; 2];
        self.network.pair_blocked = false;
        self.network.refused = false;
        self.network.second_blocked = [false; 2];
        self.network.second_delay_max = DELAY_USUAL;
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.repair();
        }
        self.network.delay_max = DELAY_USUAL;
        self.network.loss = 0;
        self.network.flips = 0;
        self.disk_fails = [false; 2];
        self.disk_pause = Span(0);
        self.network.note_usable(self.now);
    }

    /// When the last stopped process goes on.
    pub fn paused_until(&self) -> Mono {
        let all = self.processes.iter().flatten().map(|process| process.paused_until);
        all.max().unwrap_or_default()
    }

    /// How often a node became master anew.
    pub fn promotions(&self) -> u64 {
        self.promotions
    }

    /// One master, one level backup, and both hold the same.
    pub fn is_converged(&self) -> bool {
        let states = [self.state(0), self.state(1)];
        let master = match states {
            [Some(State::Master), Some(State::Backup)] => 0,
            [Some(State::Backup), Some(State::Master)] => 1,
            _ => return false,
        };
        let both = self.options.accept == [true; 2];
        let serves = |node: usize| self.process(node).is_some_and(Process::serves_by_itself);
        let level = self.process(1 - master).is_some_and(Process::has_told_all);
        serves(master) && (level || !both) && self.difference().is_none()
    }

    /// What a node's store holds.
    pub fn contents(&self, node: usize) -> Option<Contents> {
        self.process(node).map(|process| process.store.contents())
    }

    /// At the end of a run: adds up what the living have counted.
    pub fn finish(&mut self) {
        for node in 0..2 {
            if let Some(process) = self.processes[node].take() {
                self.account(&process);
                self.processes[node] = Some(process);
            }
        }
    }

    fn account(&mut self, process: &Process) {
        for (sum, fired) in self.fired.iter_mut().zip(process.node.fired()) {
            *sum += fired;
        }
        let counters = process.node.counters();
        self.full_copies += counters.full_copies;
        self.partial_resyncs += counters.partial_resyncs;
        self.catch_ups += counters.catch_ups;
        self.resumed += counters.resumed_copies;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, boot, at } => self.wake(node, boot, at),
            Event::Deliver { connection, from } => self.deliver(connection, from),
            Event::Detach { connection, node, why } => self.detach(connection, node, why),
            Event::Dial { link } => self.dial(link),
            Event::Ask { asker, node, ask, back } => self.reach_arbiter(asker, node, ask, back),
            Event::Answer { node, boot, answer } => {
                if self.awake(node, boot, Event::Answer { node, boot, answer }) {
                    self.tell(node, |node, now| node.handle_arbiter(answer, now));
                }
            }
            Event::Probed { node, boot, probe } => {
                let event = Event::Probed { node, boot, probe };
                if self.awake(node, boot, event) {
                    self.tell(node, |node, now| node.handle_probe(probe, now));
                }
            }
            Event::Saved { node, boot, saved } => {
                let event = Event::Saved { node, boot, saved: saved.clone() };
                if self.awake(node, boot, event) {
                    let nowhere = self.options.unsettled == Some(node);
                    let fails = self.torn[node] || (self.disk_fails[node] && !nowhere);
                    // Written in order, whatever a pause did to the order of these events.
                    if !fails && !nowhere && saved.epoch >= self.disks[node].epoch {
                        let before = std::mem::replace(&mut self.disks[node], saved);
                        self.past[node].push(before);
                    }
                    // A full disk stops nobody; who restarts then has forgotten.
                    self.forgetful[node] |= fails;
                    self.tell(node, |node, now| node.handle_persisted(!fails, now));
                }
            }
            Event::Drained { node, boot } => {
                if self.awake(node, boot, Event::Drained { node, boot }) {
                    self.tell(node, Node::handle_drained);
                }
            }
            Event::Execute { node, boot, epoch, key, wish } => {
                let event = Event::Execute { node, boot, epoch, key: key.clone(), wish: wish.clone() };
                if self.awake(node, boot, event) {
                    self.execute(node, boot, epoch, &key, &wish);
                }
            }
            Event::Leave { node, boot, epoch, written } => {
                let event = Event::Leave { node, boot, epoch, written: written.clone() };
                if self.awake(node, boot, event) {
                    self.leave(node, epoch, written.as_ref());
                }
            }
        }
    }

    /// Whether that process still runs; if it is stopped, the event happens when it continues.
    fn awake(&mut self, node: usize, boot: u64, event: Event) -> bool {
        let Some(process) = self.processes[node].as_ref().filter(|process| process.boot_id == boot) else {
            return false;
        };
        if process.paused_until <= self.now {
            return true;
        }
        let wait = process.paused_until.since(self.now) + Span(self.random.within(0..3000));
        self.schedule(wait, event);
        false
    }

    fn wake(&mut self, node: usize, boot: u64, at: Mono) {
        if !self.awake(node, boot, Event::Wake { node, boot, at }) {
            return;
        }
        match &mut self.processes[node] {
            Some(process) if process.wake_at == at => process.wake_at = Mono::NEVER,
            // The timer was set anew meanwhile.
            _ => return,
        }
        let local = self.local(node);
        let due = self.process(node).is_some_and(|process| process.node.poll_timeout() <= local);
        if due {
            self.tell(node, Node::handle_timeout);
        } else {
            self.set_timer(node);
        }
    }

    fn dial(&mut self, link: Link) {
        let wait = Span(self.random.within(2_000..40_000));
        self.schedule(wait, Event::Dial { link });
        let awake = |process: &Option<Process>| {
            process.as_ref().is_some_and(|process| process.paused_until <= self.now)
        };
        let possible = self.network.passes(link, 0) && self.network.passes(link, 1);
        if self.network.whole(link).is_some() || !possible || !self.processes.iter().all(awake) {
            return;
        }
        for node in 0..2 {
            while let Some(old) = self.network.attached(node, link) {
                self.network.connection(old).attached[node] = false;
            }
        }
        self.connect(link);
    }

    /// A connection between both processes is made.
    pub(super) fn connect(&mut self, link: Link) {
        self.network.open(link);
        self.network.note_usable(self.now);
        let hellos =
            [0, 1].map(|node: usize| self.process(node).map(|process| process.node.hello(Some(link))));
        let order = self.random.side();
        for node in [order, 1 - order] {
            if let Some(hello) = &hellos[1 - node] {
                self.tell(node, |node, now| node.handle_link_up(link, hello, now));
            }
        }
    }

    fn deliver(&mut self, connection: usize, from: usize) {
        let to = 1 - from;
        let ready = self.process(to).is_some_and(|process| process.paused_until <= self.now);
        let link = self.network.connection(connection).link;
        let passes = self.network.passes(link, from);
        let pipe = self.network.connection(connection);
        if !pipe.attached[to] || pipe.stalled {
            pipe.pipes[from].clear();
            pipe.pumping[from] = false;
            return;
        }
        if !passes || !ready {
            let wait = Span(self.random.within(500..5_000));
            self.schedule(wait, Event::Deliver { connection, from });
            return;
        }
        let Some((frame, epoch)) = pipe.pipes[from].pop_front() else {
            pipe.pumping[from] = false;
            return;
        };
        let more = !pipe.pipes[from].is_empty();
        pipe.pumping[from] = more;
        if more {
            let takes = self.latency(link);
            self.schedule(takes, Event::Deliver { connection, from });
        }
        if let Frame::Plan(plan) = &frame {
            self.say(|| format!("{} hears: {:?} from {:?}", name(to), plan.way, plan.from.applied));
        }
        let wrong = self.network.flips > 0 && self.random.within(0..1000) < self.network.flips;
        let Some(frame) = (if wrong { self.flip(frame) } else { Some(frame) }) else {
            return self.give_up(connection, to);
        };
        let applied = self.process(to).map_or(0, |process| process.store.changes_seen());
        let follows = self.process(to).map_or(0, |process| process.node.role().epoch);
        // What a master takes from a report it may have held for a while.
        let leads = self.process(to).is_some_and(|process| process.node.role().state.leads());
        self.note_map(to, &frame);
        self.judge_echo(to, &frame);
        if let Some(process) = &mut self.processes[to] {
            process.heard_at = self.now;
        }
        // Whatever else comes may be the moment at which a new master forgets what may be stale.
        let carries = match frame {
            Frame::Changes { .. } | Frame::Chunk { .. } | Frame::Answer { .. } => true,
            Frame::Report(_) => !leads,
            _ => false,
        };
        self.tell(to, |node, now| match frame {
            // As the driver does.
            changes @ Frame::Changes { .. } if link == Link::Data => {
                node.handle_more_to_come(changes, now);
                node.handle_bytes(now);
            }
            frame => node.handle_frame(link, frame, now),
        });
        let applies = self.process(to).is_some_and(|process| process.store.changes_seen() > applied);
        if carries && applies && follows != epoch {
            let text = format!("{} follows epoch {follows} and applies epoch {epoch}", name(to));
            self.oracle.violate(text);
        }
        self.work(from);
    }

    /// A backup that executes commands knows what it wrote.
    fn judge_echo(&mut self, to: usize, frame: &Frame) {
        let Frame::Changes { payload, .. } = frame else { return };
        if self.options.accept != [true; 2] || !self.identities_ordered {
            return;
        }
        let own = |change: &Change<'_>| matches!(change, Change::Put(put) if put.version & 1 == to as u64);
        if Change::decode_all(payload).flatten().any(|change| own(&change)) {
            self.oracle.violate(format!("{} is sent what it wrote itself", name(to)));
        }
    }

    fn detach(&mut self, connection: usize, node: usize, why: Down) {
        if !self.network.connection(connection).attached[node] {
            return;
        }
        let paused = self.process(node).is_some_and(|process| process.paused_until > self.now);
        let waiting = !self.network.connection(connection).pipes[1 - node].is_empty();
        let link = self.network.connection(connection).link;
        // What has arrived is read before the end of it is.
        if paused || (waiting && why == Down::Closed && self.network.passes(link, 1 - node)) {
            self.schedule(Span(1000), Event::Detach { connection, node, why });
            return;
        }
        self.network.connection(connection).attached[node] = false;
        self.network.note_usable(self.now);
        self.tell(node, |node, now| node.handle_link_down(link, why, now));
    }

    pub(super) fn close_other_end(&mut self, connection: usize, node: usize) {
        let (link, stalled) =
            (self.network.connection(connection).link, self.network.connection(connection).stalled);
        if self.network.passes(link, node) && !stalled {
            let takes = Span(self.random.within(100..5_000));
            self.schedule(takes, Event::Detach { connection, node: 1 - node, why: Down::Closed });
        }
    }

    /// Hands something to a node, then does what it asks for.
    pub(super) fn tell(&mut self, node: usize, fact: impl FnOnce(&mut Node, Mono)) {
        let (local, may_forget) = (self.local(node), self.may_forget());
        let (secs, millis) = self.clocks(node);
        let Some(process) = self.processes[node].as_mut() else { return };
        process.store.set_clocks(secs, millis);
        let dropped = process.node.counters().suspects_dropped;
        let holder = process.node.is_holder();
        let followed = process.node.role().state.follows();
        fact(&mut process.node, local);
        self.oracle.evicted(process.store.take_evicted());
        self.note_dropped(node, dropped);
        let Some(process) = self.processes[node].as_mut() else { return };
        for (key, version) in process.store.take_merged_deletes() {
            self.oracle.merged_delete(key, version, may_forget);
        }
        if let Some(before) = process.store.take_cleared() {
            let source = self.contents(1 - node);
            // With an arbiter, who has waited long enough leads, whatever it holds, and so does whom an operator
            // told to. And where the source of a copy died in its middle, what came of it gives way to
            // whoever serves.
            let leads = self.process(1 - node).is_some_and(|source| source.leads_anyway);
            match leads || source.is_some() && !holder {
                true => self.oracle.died(source.as_ref()),
                false => self.oracle.cleared(&before, source.as_ref()),
            }
            self.oracle.broke(node, source.as_ref());
            self.oracle.forget_own(node);
        }
        self.note_follower(node, followed);
        self.note_complete(node);
        self.work(node);
        self.note(local.0, node as u64);
    }

    /// A node that caught up is master now, and has forgotten what may be stale.
    fn note_dropped(&mut self, node: usize, before: u64) {
        let Some(process) = &self.processes[node] else { return };
        if process.node.counters().suspects_dropped > before {
            let contents = process.store.contents();
            self.oracle.died(Some(&contents));
            self.oracle.broke(node, None);
        }
    }

    /// Nobody knows of every key what became of it: changes are overwritten.
    pub(super) fn may_forget(&self) -> bool {
        self.options.backlog_bytes < PLENTY_BYTES
    }

    /// A node gives way to the other one, or has come level with it.
    fn note_follower(&mut self, node: usize, followed: bool) {
        let Some(process) = &self.processes[node] else { return };
        match process.node.role().state {
            State::Backup if self.oracle.has_undone(node) => {
                self.oracle.is_level(node, &process.store.contents());
            }
            State::Joining if !followed => self.oracle.follows(node, self.contents(1 - node).as_ref()),
            _ => {}
        }
    }

    /// Whoever holds everything contradicts nobody.
    fn note_complete(&mut self, node: usize) {
        let complete = |process: &Process| process.node.claim().data == Data::Complete;
        if self.process(node).is_some_and(complete) {
            self.truths[node] = None;
        }
    }

    /// What a master has when it makes a plan.
    fn note_plan(&mut self, node: usize) {
        let Some(process) = &self.processes[node] else { return };
        let Some((session, number)) = process.node.planned() else { return };
        let key = (process.boot_id, session, number);
        if !self.plans.contains_key(&key) {
            let truth = self.oracle.truth_of(&process.store.contents());
            self.plans.insert(key, truth);
        }
    }

    /// A node learns what of its items may be stale: should its master die, it must not serve them.
    fn note_map(&mut self, to: usize, frame: &Frame) {
        let Frame::Dirty { plan, .. } = frame else { return };
        let Some(master) = self.process(1 - to) else { return };
        let Some((session, _)) = master.node.planned() else { return };
        if self.process(to).is_some_and(|process| process.node.role().state.follows())
            && let Some(truth) = self.plans.get(&(master.boot_id, session, *plan))
        {
            self.truths[to] = Some(truth.clone());
        }
    }

    /// What the driver does after everything: outputs, bulk, the next timer.
    pub(super) fn work(&mut self, node: usize) {
        while let Some(output) = self.processes[node].as_mut().and_then(|process| process.node.poll_output())
        {
            self.output(node, output);
        }
        self.pump_bulk(node);
        self.note_plan(node);
        let Some(process) = &self.processes[node] else { return };
        match process.node.confirmed() {
            // Whoever waits for its master's word while that does not hear it is told so, and waits no longer.
            _ if process.node.role().state.follows() && !process.node.will_confirm() => {
                self.oracle.forget_pending(node);
            }
            Some(applied) => self.oracle.applied(node, applied),
            None => {}
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        let jitter = Span(self.random.within(0..300));
        let now = self.now;
        let Some(process) = &mut self.processes[node] else { return };
        let boot = process.boot_id;
        let due = process.node.poll_timeout().0.saturating_sub(process.clock);
        let due = match due < FAR {
            true => due * 1_000_000 / 1_000_000u64.saturating_add_signed(process.drift),
            false => FAR,
        };
        let due = Mono(due + 1) + jitter;
        if due >= process.wake_at {
            return;
        }
        process.wake_at = due;
        self.schedule(due.since(now), Event::Wake { node, boot, at: due });
    }

    fn pump_bulk(&mut self, node: usize) {
        let local = self.local(node);
        let bulk_bytes = self.options.bulk_bytes;
        let Some(connection) = self.network.attached(node, Link::Data) else { return };
        let Some(process) = self.processes[node].as_mut().filter(|process| process.paused_until <= self.now)
        else {
            return;
        };
        if self.network.connection(connection).broken {
            return;
        }
        while self.network.connection(connection).pipes[node].len() < BULK_FRAMES_MAX {
            let Some(frame) = process.node.poll_data(bulk_bytes, local) else { break };
            let epoch = process.node.claim().epoch;
            self.network.connection(connection).pipes[node].push_back((frame, epoch));
        }
        self.pump(connection, node);
    }

    fn pump(&mut self, connection: usize, from: usize) {
        let pipe = self.network.connection(connection);
        if pipe.pumping[from] || pipe.pipes[from].is_empty() {
            return;
        }
        pipe.pumping[from] = true;
        let link = pipe.link;
        let takes = self.latency(link);
        self.schedule(takes, Event::Deliver { connection, from });
    }

    fn output(&mut self, node: usize, output: Output) {
        let Some(boot) = self.process(node).map(|process| process.boot_id) else { return };
        match output {
            Output::Send(link, frame) => self.send(node, link, frame),
            Output::Close(link, why) => {
                self.say(|| format!("{} closes {link:?}: {why}", name(node)));
                if let Some(connection) = self.network.attached(node, link) {
                    self.network.connection(connection).attached[node] = false;
                    self.close_other_end(connection, node);
                    self.network.note_usable(self.now);
                }
            }
            Output::Probe => {
                let probe = self.probe(1 - node);
                let takes = if probe == Probe::Silent { self.dead_after().scaled(1, 4) } else { Span(300) };
                self.schedule(takes, Event::Probed { node, boot, probe });
            }
            Output::Persist(saved) => {
                // One file, written in order.
                let at = self.now + self.disk_pause + Span(self.random.within(50..3_000));
                let at = at.max(self.disk_free_at[node]) + Span(1);
                self.disk_free_at[node] = at;
                let takes = at.since(self.now);
                self.schedule(takes, Event::Saved { node, boot, saved });
            }
            Output::Gate(gate) => self.gate(node, gate),
            Output::RoleChanged { from, to, epoch, why } => {
                self.say(|| format!("{} {} -> {} in {epoch}: {why}", name(node), from.name(), to.name()));
                self.note(epoch, to as u64);
                if to == State::Backup
                    && let Some(process) = &mut self.processes[node]
                {
                    process.followed = epoch;
                }
                let begins =
                    to == State::Master && !matches!(from, State::Draining | State::Offered | State::Doubt);
                let forced = role::row(from, Trigger::Forced).is_some_and(|(_, row)| row.why == why);
                if begins || (to == State::Master && forced) {
                    // Clocks differ a little.
                    let patience = self.dead_after().scaled(HOLDER_PATIENCE, 1).scaled(95, 100);
                    let (now, arbitrated) = (self.now, self.arbiter.is_some());
                    if let Some(process) = &mut self.processes[node] {
                        let waited = now.since(process.heard_at) >= patience;
                        process.leads_anyway = arbitrated && (waited || forced);
                    }
                    self.promotions += 1;
                    self.judge_loss(node, from);
                    self.oracle.promoted(node, epoch);
                }
                if to == State::Master {
                    let by_plan = role::row(from, Trigger::OfferReceived);
                    if by_plan.is_some_and(|(_, row)| row.why == why)
                        && let Some(contents) = self.contents(node)
                    {
                        self.oracle.handed_over(1 - node, &contents);
                    }
                    if let Some(process) = &mut self.processes[node] {
                        process.forced = forced;
                    }
                    if !forced {
                        self.judge_promotion(node, from);
                    }
                }
            }
            Output::Conflict(key) => {
                self.conflicts += 1;
                self.say(|| format!("both changed {}", String::from_utf8_lossy(&key)));
            }
            Output::Compared(_, Some(key)) => {
                let key = String::from_utf8_lossy(&key);
                self.oracle
                    .violate(format!("{key} differed on the backup, though everything was acknowledged"));
            }
            Output::Compared(_, None) => {}
            Output::Stopped => self.kill(node),
            Output::Arbiter(ask) => self.put_to_arbiter(node, boot, ask),
            Output::Fence => unreachable!("no world has a command for that"),
        }
    }

    /// A question is answered in time, or counts as not answered; it may arrive all the same.
    fn put_to_arbiter(&mut self, node: usize, boot: u64, ask: Ask) {
        let patience = self.dead_after().scaled(1, 2);
        let silent = Answer { number: ask.number, outcome: Outcome::Silent };
        self.schedule(patience, Event::Answer { node, boot, answer: silent });
        let Some(arbiter) = &self.arbiter else { return };
        if arbiter.up && arbiter.reachable[node] {
            let longest = arbiter.delay_max.0;
            let (there, back) = (self.random.within(50..longest), self.random.within(50..longest));
            let asker = Asker { node: NODE_IDS[node], boot };
            self.schedule(Span(there), Event::Ask { asker, node, ask, back: Span(back) });
        }
    }

    fn reach_arbiter(&mut self, asker: Asker, node: usize, ask: Ask, back: Span) {
        let Some(arbiter) = self.arbiter.as_mut().filter(|arbiter| arbiter.up) else { return };
        let outcome = arbiter.ask(asker, ask, self.now);
        self.say(|| format!("the arbiter answers {}: {:?} with {outcome:?}", name(node), ask.wish));
        let answer = Answer { number: ask.number, outcome };
        self.schedule(back, Event::Answer { node, boot: asker.boot, answer });
    }

    fn gate(&mut self, node: usize, gate: GateView) {
        let now = self.now;
        let Some(process) = self.processes[node].as_mut() else { return };
        let serves = matches!(gate, GateView::Serve { .. });
        let served = matches!(process.gate, GateView::Serve { .. });
        process.gate = gate;
        if serves
            && !served
            && let Some(truth) = self.truths[node].take()
        {
            self.oracle.serves_after(node, &process.store.contents(), &truth);
        }
        if !serves {
            process.serving_since = None;
        } else if process.serving_since.is_none() {
            process.serving_since = Some(now);
        }
        if served && !serves {
            process.draining = process.inside > 0;
            if !process.draining {
                let boot = process.boot_id;
                self.schedule(Span(20), Event::Drained { node, boot });
            }
        } else if serves {
            process.draining = false;
        }
    }

    /// What the new master misses of the old one's changes are the last ones.
    fn judge_loss(&mut self, node: usize, from: State) {
        let followed = self.process(node).map_or(0, |process| process.followed);
        // A backup that accepts forgets what it may have deleted itself, if its memory was too short to know; and where
        // clocks jump, what is later need not have the higher version.
        let forgets = self.options.accept == [true; 2] && (self.may_forget() || self.options.wall_jumps);
        if from == State::Backup
            && !forgets
            && !self.options.long_values
            && let Some(contents) = self.contents(node)
        {
            self.oracle.took_over(1 - node, followed, &contents);
        }
    }

    /// Nobody takes over from a master that answers clients.
    fn judge_promotion(&mut self, node: usize, from: State) {
        // With an arbiter, serving alone is what must not be, and that is judged at every write.
        if !matches!(from, State::Boot | State::Backup)
            || !self.network.pair_blocked
            || self.arbiter.is_some()
        {
            return;
        }
        let Some(other) = self.process(1 - node) else { return };
        let patience = self.dead_after().scaled(2, 1);
        let leads = other.node.role().state.leads();
        let serves = leads && other.serving_since.is_some_and(|since| since + patience < self.now);
        if serves && other.paused_until + patience < self.now && self.network.clients_pass() {
            let text = format!("{} takes over from a master that answers its clients", name(node));
            self.oracle.violate(text);
        }
    }

    fn send(&mut self, node: usize, link: Link, frame: Frame) {
        let Some(connection) = self.network.attached(node, link) else { return };
        if self.network.connection(connection).broken {
            return;
        }
        let epoch = self.process(node).map_or(0, |process| process.node.claim().epoch);
        self.network.connection(connection).pipes[node].push_back((frame, epoch));
        self.pump(connection, node);
    }

    /// What the ports of `node` answer.
    fn probe(&self, node: usize) -> Probe {
        if self.network.refused {
            return Probe::Refused;
        }
        if !self.network.clients_pass() {
            return Probe::Silent;
        }
        match self.process(node) {
            None => Probe::Refused,
            Some(process) if process.paused_until > self.now => Probe::Silent,
            Some(_) => Probe::Answers,
        }
    }

    fn latency(&mut self, link: Link) -> Span {
        let longest = match link {
            Link::Control => self.network.delay_max.0,
            Link::Data => self.network.delay_max.0.max(1000),
            Link::Heartbeat => {
                let takes = self.random.within(50..self.network.second_delay_max.0.max(51));
                if takes >= LONG_DELAY.0 {
                    self.network.second_slow_until =
                        self.network.second_slow_until.max(self.now + Span(takes));
                }
                return Span(takes);
            }
        };
        let mut takes = self.random.within(50..longest.max(51));
        if self.network.loss > 0 && self.random.chance(self.network.loss) {
            // It is sent again when nobody acknowledges it; what is behind it waits.
            takes += self.random.within(20_000..400_000);
        }
        if takes >= LONG_DELAY.0 {
            self.network.slow_until = self.network.slow_until.max(self.now + Span(takes));
        }
        Span(takes)
    }

    pub(super) fn local(&self, node: usize) -> Mono {
        self.process(node).map_or(self.now, |process| local(self.now, process.clock, process.drift))
    }

    /// The seconds of a node's store, and the milliseconds of its wall clock.
    pub(super) fn clocks(&self, node: usize) -> (u32, u64) {
        let millis = (self.now.0 / 1000 + WALL_CLOCK_BEGIN).saturating_add_signed(self.wall[node]);
        ((self.local(node).0 / 1_000_000) as u32 + 1, millis)
    }

    pub(super) fn schedule(&mut self, after: Span, event: Event) {
        self.scheduled += 1;
        let scheduled = Scheduled { at: self.now + after, number: self.scheduled, event: Box::new(event) };
        self.queue.push(Reverse(scheduled));
    }

    pub(super) fn note(&mut self, one: u64, two: u64) {
        self.trace = (self.trace ^ one.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ two ^ self.now.0)
            .rotate_left(23)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.options.verbose {
            println!("{:>10.3} ms  {}", self.now.0 as f64 / 1000.0, what());
        }
    }
}

fn name(node: usize) -> &'static str {
    ["a", "b"][node]
}

/// What a clock reads that began at `clock` and runs too fast by `drift` millionths.
fn local(now: Mono, clock: u64, drift: i64) -> Mono {
    let ahead = now.0 as i64 * drift / 1_000_000;
    Mono((clock + now.0).saturating_add_signed(ahead))
}

/// Wall clocks jump, but not to before their beginning.
const WALL_CLOCK_BEGIN: u64 = 10_000_000;

/// No world lasts that long.
const FAR: u64 = 1 << 40;

/// A run has some thousands.
const EVENTS_MAX: u64 = 600_000;

/// A backlog that no run fills.
const PLENTY_BYTES: usize = 256 * 1024;

/// What a socket takes before it is full.
const BULK_FRAMES_MAX: usize = 4;
