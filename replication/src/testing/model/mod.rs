//! Every way a pair can go, up to a number of steps: two real nodes, explored state by state.
//!
//! Where the simulation draws one run per seed, this tries all of them: after every step each message
//! under way may arrive or wait, time may pass, a client may write, and one of a few faults may happen.
//! States that were seen before are not entered again. It is bounded: so many steps from where it
//! begins, so many faults on the way, and a message that may arrive does so before a second heartbeat's time is over.
//!
//! With an arbiter ([`desk`]) two nodes never serve at once, whatever is cut; without one, a partition excuses it.

mod desk;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::Plant;
use super::oracle::{Acknowledged, Oracle};
use super::store::{MapStore, Wish};
use crate::arbiter::Asker;
use crate::backlog::Backlog;
use crate::frame::{Frame, Link};
use crate::node::{Config, Down, GateView, Node, Operator, Output, Probe, Saved};
use crate::role::{self, State, Trigger};
use crate::time::{Mono, Span};

use desk::Desk;

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A heartbeat's time passes; disks, probes and dials are done with what they were asked for.
    Tick,
    /// Everything that this node sent on this link arrives.
    Deliver(Link, usize),
    /// A client writes to this node.
    Write(usize),
    /// An operator asks this node to swap roles.
    Switchover(usize),
    /// A process begins.
    Start(usize),
    /// It dies.
    Kill(usize),
    /// It is stopped.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// A connection breaks, and what was under way on it is lost.
    Reset(Link),
    /// From now on nothing arrives from this node; what it sends is kept.
    Cut(usize),
    /// Everything arrives again.
    Mend,
    /// A question of this node arrives at the arbiter: its oldest, or the next one.
    Ask(usize, usize),
    /// The arbiter's answer arrives.
    Answer(usize),
    /// From now on nothing passes between this node and the arbiter.
    Part(usize),
    /// The arbiter's process is started again.
    RestartArbiter,
}

#[derive(Clone)]
struct Pipe {
    frames: VecDeque<Frame>,
    /// Ticks since the oldest could have arrived.
    age: u8,
}

#[derive(Clone)]
struct Wire {
    /// Which node believes that it is up.
    up: [bool; 2],
    /// By sender.
    pipes: [Pipe; 2],
}

struct Process {
    node: Node,
    store: Arc<MapStore>,
    backlog: Arc<Backlog>,
    boot: u64,
    gate: GateView,
    paused: bool,
    /// Links whose end it has not noticed yet.
    ends: Vec<(Link, Down)>,
    saves: VecDeque<Saved>,
    asks: bool,
    /// The gate closed: no command is being executed, and the node shall learn it.
    drains: bool,
    /// It began to serve because nobody else was there: what it misses are misses.
    alone: bool,
}

impl Process {
    fn duplicate(&self) -> Self {
        let backlog = Arc::new(self.backlog.duplicate());
        let store = Arc::new(self.store.duplicate(Arc::clone(&backlog)));
        Self {
            node: self
                .node
                .duplicate(Arc::clone(&store) as Arc<dyn crate::store::Store>, Arc::clone(&backlog)),
            store,
            backlog,
            boot: self.boot,
            gate: self.gate,
            paused: self.paused,
            ends: self.ends.clone(),
            saves: self.saves.clone(),
            asks: self.asks,
            drains: self.drains,
            alone: self.alone,
        }
    }

    fn serves(&self, now: Mono) -> bool {
        !self.paused && matches!(self.gate, GateView::Serve { until } if now < until)
    }
}

/// Two nodes and all that is between them, at one moment.
pub struct Pair {
    now: Mono,
    processes: [Option<Process>; 2],
    disks: [Saved; 2],
    wires: [Wire; 2],
    cut: [bool; 2],
    /// At some time nothing passed in either direction, or a node started while it heard nothing: two
    /// may serve until they have heard each other.
    was_split: bool,
    boots: u64,
    writes: u64,
    faults_left: u8,
    writes_left: u8,
    switchovers_left: u8,
    plant: Option<Plant>,
    oracle: Oracle,
    desk: Option<Desk>,
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Steps from the beginning.
    pub depth: u8,
    /// Faults on the way.
    pub faults: u8,
    /// States at most.
    pub states: usize,
    /// Those that are near before those that are far; else some that are as far as can be.
    pub nearest_first: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken.
    pub steps: u64,
    /// The first violation, and the steps that lead to it.
    pub violation: Option<(String, Vec<Step>)>,
    /// Nothing was left out for lack of room.
    pub complete: bool,
    /// Whatever is so many steps away was looked at.
    pub depth: u8,
}

const LINKS: [Link; 2] = [Link::Control, Link::Data];
const HEARTBEAT: Span = Span::from_millis(100);
const DEAD_AFTER: Span = Span::from_millis(450);
/// As the program has it: three times [`DEAD_AFTER`].
const LEASE: Span = Span::from_millis(1350);

impl Pair {
    /// Nothing runs yet.
    pub fn new(plant: Option<Plant>) -> Self {
        let pipe = || Pipe { frames: VecDeque::new(), age: 0 };
        let wire = || Wire { up: [false; 2], pipes: [pipe(), pipe()] };
        Self {
            now: Mono(1_000_000),
            processes: [None, None],
            disks: [10, 11].map(|node_id| Saved { node_id, ..Saved::default() }),
            wires: [wire(), wire()],
            cut: [false; 2],
            was_split: false,
            boots: 0,
            writes: 0,
            faults_left: 0,
            writes_left: 0,
            switchovers_left: 0,
            plant,
            oracle: Oracle::default(),
            desk: None,
        }
    }

    /// The same with an arbiter.
    pub fn arbitrated(plant: Option<Plant>) -> Self {
        Self { desk: Some(Desk::default()), ..Self::new(plant) }
    }

    /// Nothing ran yet: a pair that has found itself and holds a few items.
    pub fn settled(mut self) -> Self {
        self.start(0);
        self.start(1);
        self.rest();
        self.writes_left = 2;
        for _ in 0..2 {
            (0..2).for_each(|node| self.write(node));
        }
        self.rest();
        self
    }

    /// So many heartbeats' time passes, in which the arbiter answers at once and nothing else arrives.
    pub fn consult(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.all(&[Step::Tick]);
            self.hear_arbiter();
        }
    }

    /// Whatever is under way to the arbiter, or back, arrives.
    fn hear_arbiter(&mut self) {
        for _ in 0..10 {
            let Some(step) = self.arbiter_choices().next() else { break };
            self.all(&[step]);
        }
    }

    /// Steps in the order of a healthy network until both have come to rest.
    pub fn rest(&mut self) {
        for _ in 0..40 {
            self.quiet();
            self.tick();
        }
        self.quiet();
    }

    /// Everything that is under way arrives.
    fn quiet(&mut self) {
        for _ in 0..100 {
            let next = self.deliveries().next();
            let Some((link, from)) = next else { break };
            self.deliver(link, from);
            self.drain();
        }
        self.hear_arbiter();
    }

    /// Takes these steps.
    pub fn all(&mut self, steps: &[Step]) {
        (self.faults_left, self.switchovers_left) = (u8::MAX, u8::MAX);
        steps.iter().for_each(|step| self.take(*step));
    }

    /// What happens on the way of these steps, for a reader.
    pub fn story(&self, steps: &[Step]) -> String {
        let mut pair = self.duplicate();
        let mut story = pair.line("begins");
        for step in steps {
            pair.all(&[*step]);
            story += &pair.line(&format!("{step:?}"));
        }
        story
    }

    fn line(&self, what: &str) -> String {
        let state = |node: usize| {
            let Some(process) = &self.processes[node] else { return "dead".to_owned() };
            let role = process.node.role();
            let serves = if process.serves(self.now) { ", serves" } else { "" };
            format!("{} in {} ({}){serves}", role.state.name(), role.epoch, role.why)
        };
        let millis = self.now.0 / 1000;
        format!("{millis} ms  {what}: 0 is {}; 1 is {}\n", state(0), state(1))
    }

    /// Who is master, if one is.
    pub fn master(&self) -> Option<usize> {
        let state = |node: usize| self.processes[node].as_ref().map(|process| process.node.role().state);
        (0..2).find(|node| state(*node) == Some(State::Master))
    }

    /// One master, one backup, the same items.
    pub fn is_converged(&self) -> bool {
        let [Some(a), Some(b)] = &self.processes else { return false };
        let states = [a, b].map(|process| process.node.role().state);
        let roles = matches!(states, [State::Master, State::Backup] | [State::Backup, State::Master]);
        roles && a.store.contents() == b.store.contents()
    }

    /// Looks at everything that may happen from here.
    pub fn explore(&self, bounds: Bounds) -> Explored {
        let mut explored = Explored { complete: true, ..Explored::default() };
        let mut seen = HashMap::new();
        let mut begin = self.duplicate();
        (begin.faults_left, begin.writes_left, begin.switchovers_left) = (bounds.faults, 2, 1);
        // Ever deeper, so that what there is no room for is what is furthest away.
        let first = if bounds.nearest_first { 1 } else { bounds.depth };
        for depth in first..=bounds.depth {
            begin.search(bounds, depth, &mut seen, &mut Vec::new(), &mut explored);
            if explored.violation.is_some() || !explored.complete {
                break;
            }
            explored.depth = depth;
        }
        explored.states = seen.len();
        explored
    }

    fn search(
        &self,
        bounds: Bounds,
        depth: u8,
        seen: &mut HashMap<u64, u8>,
        path: &mut Vec<Step>,
        explored: &mut Explored,
    ) {
        if explored.violation.is_some() {
            return;
        }
        if let Some(violation) = self.oracle.violations.first() {
            explored.violation = Some((violation.clone(), path.clone()));
            return;
        }
        // Seen before with at least as many steps left: nothing new is behind it.
        let name = self.name();
        if seen.get(&name).is_some_and(|left| *left >= depth) {
            return;
        }
        if seen.len() >= bounds.states {
            explored.complete = false;
            return;
        }
        seen.insert(name, depth);
        if depth == 0 {
            return;
        }
        for step in self.choices() {
            let mut next = self.duplicate();
            next.take(step);
            explored.steps += 1;
            path.push(step);
            next.search(bounds, depth - 1, seen, path, explored);
            path.pop();
        }
    }

    /// What may happen next.
    fn choices(&self) -> Vec<Step> {
        let mut all: Vec<Step> = self.deliveries().map(|(link, from)| Step::Deliver(link, from)).collect();
        all.extend(self.arbiter_choices());
        let overdue = self.deliveries().any(|(link, from)| self.wires[link as usize].pipes[from].age >= 1);
        if !overdue {
            all.push(Step::Tick);
        }
        for (node, process) in self.processes.iter().enumerate() {
            let Some(process) = process else {
                all.push(Step::Start(node));
                continue;
            };
            if process.paused {
                all.push(Step::Resume(node));
            } else if process.serves(self.now) && self.writes_left > 0 {
                all.push(Step::Write(node));
            }
            if process.node.role().state == State::Master && !process.paused && self.switchovers_left > 0 {
                all.push(Step::Switchover(node));
            }
            if self.faults_left > 0 {
                all.push(Step::Kill(node));
                all.extend((!process.paused).then_some(Step::Pause(node)));
            }
        }
        let parted = |node: usize| self.desk.as_ref().is_some_and(|desk| desk.is_parted(node));
        if self.cut != [false; 2] || parted(0) || parted(1) {
            all.push(Step::Mend);
        }
        if self.faults_left > 0 && self.desk.is_some() {
            all.extend((0..2).filter(|node| !parted(*node)).map(Step::Part));
            all.push(Step::RestartArbiter);
        }
        if self.faults_left > 0 {
            all.extend((0..2).filter(|node| !self.cut[*node]).map(Step::Cut));
            let whole = LINKS.into_iter().filter(|link| self.wires[*link as usize].up == [true; 2]);
            all.extend(whole.map(Step::Reset));
        }
        all
    }

    /// What may arrive at the arbiter, or from it.
    fn arbiter_choices(&self) -> impl Iterator<Item = Step> + '_ {
        let awake = |node: &usize| self.processes[*node].as_ref().is_some_and(|process| !process.paused);
        self.desk.iter().flat_map(move |desk| {
            let questions = desk.arrivals().map(|(node, nth)| Step::Ask(node, nth));
            questions.chain(desk.answerable().filter(awake).map(Step::Answer))
        })
    }

    fn take(&mut self, step: Step) {
        let is_fault = matches!(
            step,
            Step::Kill(_)
                | Step::Pause(_)
                | Step::Reset(_)
                | Step::Cut(_)
                | Step::Part(_)
                | Step::RestartArbiter
        );
        self.faults_left -= u8::from(is_fault);
        match step {
            Step::Ask(node, nth) => {
                let now = self.now;
                self.desk.iter_mut().for_each(|desk| desk.arrive(node, nth, now));
            }
            Step::Answer(node) => {
                let answer = self.desk.as_mut().and_then(|desk| desk.answer(node));
                if let Some(answer) = answer {
                    self.tell(node, |node, now| node.handle_arbiter(answer, now));
                }
            }
            Step::Part(node) => self.desk.iter_mut().for_each(|desk| desk.part(node)),
            Step::RestartArbiter => {
                let (plant, now) = (self.plant, self.now);
                self.desk.iter_mut().for_each(|desk| desk.restart(plant, now));
            }
            Step::Tick => self.tick(),
            Step::Deliver(link, from) => self.deliver(link, from),
            Step::Write(node) => self.write(node),
            Step::Switchover(node) => {
                self.switchovers_left -= 1;
                self.tell(node, |node, now| {
                    let _ = node.handle_operator(Operator::Switchover, now);
                });
            }
            Step::Start(node) => self.start(node),
            Step::Kill(node) => self.kill(node),
            Step::Pause(node) => {
                if let Some(process) = &mut self.processes[node] {
                    process.paused = true;
                }
            }
            Step::Resume(node) => self.resume(node),
            Step::Reset(link) => self.break_off(link),
            Step::Cut(node) => {
                self.cut[node] = true;
                self.was_split |= self.cut == [true; 2];
            }
            Step::Mend => {
                self.cut = [false; 2];
                self.desk.iter_mut().for_each(Desk::mend);
            }
        }
        self.drain();
        self.judge();
    }

    fn drain(&mut self) {
        for node in 0..2 {
            let process = self.processes[node].as_mut();
            if process.is_some_and(|process| !process.paused && std::mem::take(&mut process.drains)) {
                self.tell(node, Node::handle_drained);
            }
        }
    }

    /// Messages that may arrive.
    fn deliveries(&self) -> impl Iterator<Item = (Link, usize)> + '_ {
        let all = LINKS.into_iter().flat_map(|link| [(link, 0), (link, 1)]);
        all.filter(|&(link, from)| {
            let wire = &self.wires[link as usize];
            let awake = self.processes[1 - from].as_ref().is_some_and(|process| !process.paused);
            awake && !self.cut[from] && wire.up[1 - from] && !wire.pipes[from].frames.is_empty()
        })
    }

    fn deliver(&mut self, link: Link, from: usize) {
        let pipe = &mut self.wires[link as usize].pipes[from];
        pipe.age = 0;
        for frame in std::mem::take(&mut pipe.frames) {
            self.tell(1 - from, |node, now| node.handle_frame(link, frame, now));
        }
    }

    fn tick(&mut self) {
        let end = self.now + HEARTBEAT;
        for wire in &mut self.wires {
            for pipe in &mut wire.pipes {
                pipe.age = if pipe.frames.is_empty() { 0 } else { (pipe.age + 1).min(3) };
            }
        }
        for node in 0..2 {
            self.finish(node);
        }
        let awake = [0, 1].map(|node: usize| self.processes[node].as_ref().is_some_and(|one| !one.paused));
        let silent = self.desk.as_mut().map(|desk| desk.tick(awake)).unwrap_or_default();
        for (node, answer) in silent.into_iter().enumerate() {
            if let Some(answer) = answer {
                self.tell(node, |node, now| node.handle_arbiter(answer, now));
            }
        }
        self.dial();
        loop {
            let due = |process: &Process| (!process.paused).then(|| process.node.poll_timeout());
            let times = [0, 1].map(|node: usize| self.processes[node].as_ref().and_then(due));
            let next = (0..2).filter_map(|node| Some((times[node]?, node))).min();
            let Some((at, node)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.oracle.now = self.now;
            self.tell(node, Node::handle_timeout);
            self.drain();
            self.judge();
        }
        self.now = end;
        self.oracle.now = end;
    }

    /// What a node has asked for is done.
    fn finish(&mut self, node: usize) {
        let other = match &self.processes[1 - node] {
            _ if self.cut != [false; 2] => Probe::Silent,
            None => Probe::Refused,
            Some(process) if process.paused => Probe::Silent,
            Some(_) => Probe::Answers,
        };
        let Some(process) = self.processes[node].as_mut().filter(|process| !process.paused) else { return };
        let ends = std::mem::take(&mut process.ends);
        let (saves, asks) = (std::mem::take(&mut process.saves), std::mem::take(&mut process.asks));
        for (link, why) in ends {
            // What has arrived is read before the end of it is.
            self.wires[link as usize].pipes[1 - node].frames.clear();
            self.tell(node, |node, now| node.handle_link_down(link, why, now));
        }
        for saved in saves {
            self.disks[node] = saved;
            self.tell(node, |node, now| node.handle_persisted(true, now));
        }
        if asks {
            self.tell(node, |node, now| node.handle_probe(other, now));
        }
    }

    fn dial(&mut self) {
        let ready = |process: &Option<Process>| {
            process.as_ref().is_some_and(|process| !process.paused && process.ends.is_empty())
        };
        if self.cut != [false; 2] || !self.processes.iter().all(ready) {
            return;
        }
        for link in LINKS {
            let wire = &mut self.wires[link as usize];
            if wire.up == [true; 2] {
                continue;
            }
            // Whoever believes in an older connection is told by the newer one.
            wire.up = [true; 2];
            wire.pipes.iter_mut().for_each(|pipe| pipe.frames.clear());
            for node in 0..2 {
                let hello = self.processes[1 - node].as_ref().map(|process| process.node.hello(Some(link)));
                if let Some(hello) = hello {
                    self.tell(node, |node, now| node.handle_link_up(link, &hello, now));
                }
            }
        }
    }

    fn break_off(&mut self, link: Link) {
        let wire = &mut self.wires[link as usize];
        wire.pipes.iter_mut().for_each(|pipe| pipe.frames.clear());
        for node in 0..2 {
            if std::mem::take(&mut self.wires[link as usize].up[node])
                && let Some(process) = &mut self.processes[node]
            {
                process.ends.push((link, Down::Closed));
            }
        }
    }

    fn start(&mut self, node: usize) {
        self.boots += 1;
        let backlog = Arc::new(Backlog::new(1, 64 * 1024));
        let store = Arc::new(MapStore::new(1, Arc::clone(&backlog)).with_plant(self.plant));
        let config = Config {
            saved: self.disks[node].clone(),
            settled: true,
            heartbeat: HEARTBEAT,
            dead_after: DEAD_AFTER,
            start_wait: DEAD_AFTER,
            drain_timeout: HEARTBEAT.scaled(2, 1),
            verify_every: Span::from_millis(3_600_000),
            arbiter: self.desk.as_ref().map(|_| LEASE),
            plant: self.plant,
            ..Config::new(self.disks[node].node_id, self.boots)
        };
        let host = Arc::clone(&store) as Arc<dyn crate::store::Store>;
        self.processes[node] = Some(Process {
            node: Node::new(config, host, Arc::clone(&backlog), self.now),
            store,
            backlog,
            boot: self.boots,
            gate: GateView::Park,
            paused: false,
            ends: Vec::new(),
            saves: VecDeque::new(),
            asks: false,
            drains: false,
            alone: false,
        });
        self.tell(node, Node::handle_timeout);
    }

    fn kill(&mut self, node: usize) {
        if self.processes[node].take().is_none() {
            return;
        }
        self.desk.iter_mut().for_each(|desk| desk.forget(node));
        self.oracle.forget_pending(node);
        let survivor = self.processes[1 - node].as_ref().map(|process| process.store.contents());
        self.oracle.died(survivor.as_ref());
        self.oracle.broke(node, survivor.as_ref());
        for link in LINKS {
            let wire = &mut self.wires[link as usize];
            wire.up[node] = false;
            wire.pipes[1 - node].frames.clear();
            if std::mem::take(&mut wire.up[1 - node])
                && let Some(process) = &mut self.processes[1 - node]
            {
                process.ends.push((link, Down::Closed));
            }
        }
    }

    fn resume(&mut self, node: usize) {
        if let Some(process) = &mut self.processes[node] {
            process.paused = false;
        }
        // The driver reads what has come before it looks at its timers.
        for (link, from) in self.deliveries().filter(|(_, from)| *from != node).collect::<Vec<_>>() {
            self.deliver(link, from);
        }
        self.tell(node, Node::handle_timeout);
    }

    fn write(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = self.processes[node].as_ref().filter(|process| process.serves(now)) else {
            return;
        };
        self.writes += 1;
        self.writes_left = self.writes_left.saturating_sub(1);
        let wish = match self.writes % 3 {
            0 => Wish::Delete,
            number => Wish::Set(vec![number as u8], 0),
        };
        process.store.set_clocks(1, now.0 / 1000);
        let written = process.store.execute(b"key", &wish);
        let epoch = process.node.claim().epoch;
        let by = Acknowledged {
            node,
            boot: process.boot,
            epoch,
            saved_epoch: self.disks[node].epoch,
            other: None,
            audible_since: None,
            dead_after: DEAD_AFTER,
            alone: false,
        };
        if let Some(written) = &written {
            self.oracle.versioned(written);
            self.oracle.made(node, written.clone());
        }
        self.oracle.acknowledge(by, written.as_ref(), now);
        self.work(node);
    }

    fn tell(&mut self, node: usize, fact: impl FnOnce(&mut Node, Mono)) {
        let now = self.now;
        let Some(process) = self.processes[node].as_mut() else { return };
        process.store.set_clocks(1, now.0 / 1000);
        let dropped = process.node.counters().suspects_dropped;
        fact(&mut process.node, now);
        for (key, version) in process.store.take_merged_deletes() {
            self.oracle.merged_delete(key, version, false);
        }
        if process.node.counters().suspects_dropped > dropped {
            self.oracle.died(Some(&process.store.contents()));
            self.oracle.broke(node, None);
        }
        if let Some(before) = process.store.take_cleared() {
            let source = self.processes[1 - node].as_ref().map(|process| process.store.contents());
            self.oracle.cleared(&before, source.as_ref());
            self.oracle.broke(node, source.as_ref());
        }
        self.work(node);
    }

    fn work(&mut self, node: usize) {
        while let Some(output) = self.processes[node].as_mut().and_then(|process| process.node.poll_output())
        {
            self.output(node, output);
        }
        let now = self.now;
        let Some(process) = self.processes[node].as_mut() else { return };
        let wire = &mut self.wires[Link::Data as usize];
        while wire.up[node]
            && let Some(frame) = process.node.poll_data(1024, now)
        {
            wire.pipes[node].frames.push_back(frame);
        }
        if let Some(applied) = process.node.acknowledged() {
            self.oracle.applied(node, &applied.applied);
        }
    }

    fn output(&mut self, node: usize, output: Output) {
        let Some(process) = self.processes[node].as_mut() else { return };
        match output {
            Output::Send(link, frame) => {
                let wire = &mut self.wires[link as usize];
                if wire.up[node] {
                    wire.pipes[node].frames.push_back(frame);
                }
            }
            Output::Close(link, _) => self.break_off(link),
            Output::Probe => process.asks = true,
            Output::Persist(saved) => process.saves.push_back(saved),
            Output::Gate(gate) => {
                let served = matches!(process.gate, GateView::Serve { .. });
                process.gate = gate;
                process.drains |= served && !matches!(gate, GateView::Serve { .. });
            }
            Output::RoleChanged { from, to: State::Master, epoch, why } => {
                let planned = role::row(from, Trigger::OfferReceived).is_some_and(|(_, row)| row.why == why);
                let contents = process.store.contents();
                process.alone = from == State::Boot;
                if planned {
                    self.oracle.handed_over(1 - node, &contents);
                }
                // Who starts while nothing reaches it serves alone: there is nobody to ask.
                self.was_split |= from == State::Boot && self.cut != [false; 2];
                if !matches!(from, State::Draining | State::Offered | State::Doubt) {
                    self.oracle.promoted(node, epoch);
                }
            }
            Output::Arbiter(ask) => {
                let asker = Asker { node: self.disks[node].node_id, boot: process.boot };
                self.desk.iter_mut().for_each(|desk| desk.put(node, asker, ask));
            }
            // There is nobody who fences.
            Output::RoleChanged { .. } | Output::Fence | Output::Compared(..) | Output::Conflict(_) => {}
            Output::Stopped => self.kill(node),
        }
    }

    /// Never two that serve, and whoever serves holds what is durable.
    fn judge(&mut self) {
        let now = self.now;
        // A connection cannot be made anew through a wire that carries one direction only.
        self.was_split |= self.cut != [false; 2] && self.wires[Link::Control as usize].up != [true; 2];
        let serving = |process: &Option<Process>| process.as_ref().is_some_and(|process| process.serves(now));
        let serving = [0, 1].map(|node: usize| serving(&self.processes[node]));
        if serving == [true; 2] && (self.desk.is_some() || !self.was_split) {
            self.oracle.violate("both nodes serve".into());
        }
        for node in (0..2).filter(|node| serving[*node] && !self.was_split) {
            let Some(process) = &self.processes[node] else { continue };
            let contents = process.store.contents();
            if !process.alone && !self.oracle.holds_all(&contents) {
                self.oracle.violate(format!("node {node} serves without a durable write"));
            }
            contents.iter().for_each(|(key, held)| self.oracle.read(node, key, held.version));
        }
        // Healed, however it was cut: what either acknowledged is there.
        if self.is_converged()
            && let Some(process) = &self.processes[0]
        {
            self.oracle.judge_end(&process.store.contents());
        }
    }

    fn duplicate(&self) -> Self {
        Self {
            processes: [0, 1].map(|node: usize| self.processes[node].as_ref().map(Process::duplicate)),
            disks: self.disks.clone(),
            wires: self.wires.clone(),
            oracle: self.oracle.clone(),
            desk: self.desk.clone(),
            ..*self
        }
    }

    /// A number for all that decides about the future.
    fn name(&self) -> u64 {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(8192);
        for process in self.processes.iter().flatten() {
            process.node.describe(&mut text);
            let _ = write!(text, "{:?}{:?}{}", process.ends, process.store.contents(), process.paused);
            let _ = write!(text, "{:?}{:?}{}", process.gate, process.saves, process.asks);
            let _ = write!(text, "{}{}", process.drains, process.alone);
        }
        for wire in &self.wires {
            let [one, two] = &wire.pipes;
            let _ = write!(text, "{:?}{:?}{}{:?}{}", wire.up, one.frames, one.age, two.frames, two.age);
        }
        let left = (self.faults_left, self.writes_left, self.switchovers_left, self.was_split);
        let alive = [0, 1].map(|node: usize| self.processes[node].is_some());
        let _ = write!(text, "{:?}{left:?}{alive:?}{:?}{:?}", self.now, self.cut, self.disks);
        self.oracle.describe(&mut text);
        let _ = write!(text, "{:?}", self.desk);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }
}
