//! One thread of the generator: an epoll loop over its share of the connections.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::Targets;
use crate::bench::keys::{Choices, noise};
use crate::bench::plan::Plan;
use crate::bench::wire::{Event, Replies, Requests};
use crate::dial::{Dialler, Stream};

/// What one thread has to do.
#[derive(Debug)]
pub(super) struct Share<'a> {
    plan: &'a Plan,
    /// One per connection.
    targets: Vec<&'a (String, SocketAddr)>,
    dialler: &'a Dialler,
    index: usize,
    threads: usize,
    operations: Option<u64>,
    /// Time between two requests of this thread in an open loop.
    period: Option<Duration>,
}

impl<'a> Share<'a> {
    pub(super) fn new(plan: &'a Plan, targets: &'a Targets, index: usize, threads: usize) -> Self {
        let mine = (0..plan.connections).filter(|connection| connection % threads == index);
        Self {
            plan,
            targets: mine.map(|connection| &targets.servers[connection % targets.servers.len()]).collect(),
            dialler: &targets.dialler,
            index,
            threads,
            operations: plan.operations.map(|all| {
                let threads = threads as u64;
                all / threads + u64::from((index as u64) < all % threads)
            }),
            period: plan.rate.map(|rate| Duration::from_secs_f64(threads as f64 / rate)),
        }
    }
}

/// What one thread saw; requests of the warm-up are not in it.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) gets: Histogram<u64>,
    pub(super) sets: Histogram<u64>,
    pub(super) hits: u64,
    pub(super) misses: u64,
    /// By kind; for what the server refused, its own words.
    pub(super) errors: BTreeMap<String, u64>,
    /// Attempts to connect again that failed.
    pub(super) refused_connects: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

impl Default for Tally {
    fn default() -> Self {
        // Nanoseconds, from 1 µs to an hour, three digits: cannot fail with these bounds.
        let empty = || Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3);
        let histogram = empty().unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self {
            gets: histogram.clone(),
            sets: histogram,
            hits: 0,
            misses: 0,
            errors: BTreeMap::new(),
            refused_connects: 0,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }
}

impl Tally {
    /// Kinds of errors told apart; a server that invents a new message each time shall not fill memory.
    const KINDS_MAX: usize = 32;

    pub(super) fn add(&mut self, other: Self) {
        self.gets += other.gets;
        self.sets += other.sets;
        self.hits += other.hits;
        self.misses += other.misses;
        self.refused_connects += other.refused_connects;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        for (kind, count) in other.errors {
            self.fail(&kind, count);
        }
    }

    fn fail(&mut self, kind: &str, count: u64) {
        if count == 0 {
            return;
        }
        if let Some(known) = self.errors.get_mut(kind) {
            *known += count;
        } else {
            let kind = if self.errors.len() < Self::KINDS_MAX { kind } else { "other" };
            *self.errors.entry(kind.to_owned()).or_default() += count;
        }
    }
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Instant,
    set: bool,
    keys: u32,
}

#[derive(Debug)]
struct Connection<'a> {
    target: &'a (String, SocketAddr),
    /// `None` while the server cannot be reached.
    stream: Option<Stream>,
    retry_at: Instant,
    out: Vec<u8>,
    sent: usize,
    wants_write: bool,
    input: Vec<u8>,
    filled: usize,
    replies: Replies,
    /// Values seen of the get that is being answered.
    values: u32,
    pending: VecDeque<Pending>,
}

/// Connects, waits for the other threads, sends and receives until the share is done.
pub(super) fn run(share: &Share<'_>, ready: &Barrier) -> Result<Tally, String> {
    let worker = Worker::connect(share);
    ready.wait();
    worker?.drive()
}

struct Worker<'a> {
    share: &'a Share<'a>,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection<'a>>,
    requests: Requests,
    choices: Choices,
    noise: Vec<u8>,
    tally: Tally,
    /// Decided so far; in an open loop also those that wait for a free connection.
    issued: u64,
    waiting: VecDeque<Instant>,
    turn: usize,
    measure_from: Instant,
    stop_at: Option<Instant>,
}

impl<'a> Worker<'a> {
    /// Requests of an open loop that wait for a connection, at most; more are counted as never sent.
    const WAITING_MAX: usize = 1 << 20;
    const NEVER_SENT: &'static str = "never sent: the server was slower than the rate";
    /// Between two attempts to reach a server that is not there.
    const RETRY: Duration = Duration::from_millis(20);
    /// A connect that takes longer would delay the other connections of the thread.
    const CONNECT_LIMIT: Duration = Duration::from_millis(250);
    /// After the end of an open loop, to send what had fallen due before.
    const GRACE: Duration = Duration::from_millis(250);
    const INPUT_BYTES: usize = 64 << 10;

    fn connect(share: &'a Share<'a>) -> Result<Self, String> {
        let plan = share.plan;
        let now = Instant::now();
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let mut worker = Self {
            share,
            epoll,
            connections: Vec::new(),
            requests: Requests::new(plan.form, &plan.key_prefix, plan.exptime),
            choices: Choices::new(plan, share.index, share.threads),
            noise: noise(plan.seed, plan.value_size.largest()),
            tally: Tally::default(),
            issued: 0,
            waiting: VecDeque::new(),
            turn: 0,
            measure_from: now,
            stop_at: None,
        };
        for (index, &target) in share.targets.iter().enumerate() {
            worker.connections.push(Connection {
                target,
                stream: None,
                retry_at: now,
                out: Vec::new(),
                sent: 0,
                wants_write: false,
                input: vec![0; Self::INPUT_BYTES],
                filled: 0,
                replies: Replies::new(plan.form),
                values: 0,
                pending: VecDeque::new(),
            });
            worker
                .open(index)
                .map_err(|error| format!("{}: {error}; is a server listening there?", target.1))?;
        }
        Ok(worker)
    }

    fn open(&mut self, index: usize) -> std::io::Result<()> {
        let connection = &mut self.connections[index];
        let (host, address) = connection.target;
        let stream = self.share.dialler.reach(host, *address, Self::CONNECT_LIMIT)?;
        stream.socket().set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        connection.stream = Some(stream);
        Ok(())
    }

    fn drive(mut self) -> Result<Tally, String> {
        let plan = self.share.plan;
        let start = Instant::now();
        self.measure_from = start + plan.warmup;
        self.stop_at = self.share.operations.is_none().then(|| self.measure_from + plan.duration);
        let mut next_due = start + self.stagger();
        let mut events = Vec::with_capacity(256);
        let mut swept = start;
        loop {
            let mut now = Instant::now();
            if now.duration_since(swept) >= Duration::from_millis(20) {
                swept = now;
                self.sweep(now);
                now = Instant::now();
            }
            let issuing = self.issuing(now);
            match self.share.period {
                Some(period) => next_due = self.issue_due(now, next_due, period),
                None if issuing => self.fill_up(now),
                None => {}
            }
            if !issuing && self.is_over(now) {
                break;
            }
            let mut wait = Duration::from_millis(20);
            if self.share.period.is_some() && issuing {
                wait = wait.min(next_due.saturating_duration_since(Instant::now()));
            }
            self.wait(&mut events, wait)?;
        }
        let never = self.waiting.iter().filter(|&&due| due >= self.measure_from).count();
        self.tally.fail(Self::NEVER_SENT, never as u64);
        Ok(self.tally)
    }

    /// Threads of an open loop take turns instead of sending at the same instants.
    fn stagger(&self) -> Duration {
        let period = self.share.period.unwrap_or_default();
        period.mul_f64(self.share.index as f64 / self.share.threads as f64)
    }

    fn issuing(&self, now: Instant) -> bool {
        self.stop_at.is_none_or(|stop| now < stop)
            && self.share.operations.is_none_or(|operations| self.issued < operations)
    }

    /// Nothing is on its way any more. What still waits for a connection gets a little time to be sent.
    fn is_over(&self, now: Instant) -> bool {
        let late = self.stop_at.is_none_or(|stop| now >= stop + Self::GRACE);
        (late || self.waiting.is_empty())
            && self.connections.iter().all(|connection| connection.pending.is_empty())
    }

    /// Open loop: makes every request that has fallen due. Returns when the next one will.
    fn issue_due(&mut self, now: Instant, mut next_due: Instant, period: Duration) -> Instant {
        while next_due <= now && self.issuing(next_due) {
            self.issued += 1;
            if self.waiting.len() < Self::WAITING_MAX {
                self.waiting.push_back(next_due);
            } else {
                self.tally.fail(Self::NEVER_SENT, 1);
            }
            next_due += period;
        }
        let count = self.connections.len();
        let mut full = 0;
        let late = self.stop_at.is_some_and(|stop| now >= stop + Self::GRACE);
        while full < count && !self.waiting.is_empty() && !late {
            let index = self.turn % count;
            self.turn += 1;
            let connection = &self.connections[index];
            if connection.stream.is_none() || connection.pending.len() >= self.share.plan.pipeline {
                full += 1;
                continue;
            }
            full = 0;
            if let Some(due) = self.waiting.pop_front() {
                self.request(index, due);
            }
        }
        self.flush_all();
        next_due
    }

    /// Closed loop: every connection gets as many requests as it may have.
    fn fill_up(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            if self.connections[index].stream.is_none() {
                continue;
            }
            while self.connections[index].pending.len() < self.share.plan.pipeline && self.issuing(now) {
                self.issued += 1;
                self.request(index, now);
            }
        }
        self.flush_all();
    }

    fn request(&mut self, index: usize, due: Instant) {
        let plan = self.share.plan;
        let connection = &mut self.connections[index];
        let set = self.choices.is_set();
        let mut keys = 0;
        if set {
            let size = plan.value_size.only().unwrap_or_else(|| plan.value_size.at(self.choices.point()));
            self.requests.set(&mut connection.out, self.choices.key(), &self.noise[..size]);
        } else {
            keys = plan.multiget as u32;
            let choices = &mut self.choices;
            self.requests.get(&mut connection.out, (0..keys).map(|_| choices.key()));
        }
        connection.pending.push_back(Pending { due, set, keys });
    }

    fn flush_all(&mut self) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.sent < connection.out.len() && !connection.wants_write {
                self.flush(index);
            }
        }
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        while connection.sent < connection.out.len() {
            match stream.write(&connection.out[connection.sent..]) {
                Ok(0) => return self.lose(index, "connection closed by the server"),
                Ok(sent) => {
                    connection.sent += sent;
                    self.tally.bytes_sent += sent as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.interest(index, true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lose(index, &error.kind().to_string()),
            }
        }
        connection.out.clear();
        connection.sent = 0;
        // What TLS has sealed and the socket did not take.
        if stream.is_behind()
            && let Err(error) = stream.flush()
        {
            return match error.kind() {
                ErrorKind::WouldBlock => self.interest(index, true),
                kind => self.lose(index, &kind.to_string()),
            };
        }
        if connection.wants_write {
            self.interest(index, false);
        }
    }

    fn interest(&mut self, index: usize, write: bool) {
        let connection = &mut self.connections[index];
        let Some(stream) = &connection.stream else { return };
        let flags = if write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        connection.wants_write = write;
        if let Err(error) = epoll::modify(&self.epoll, stream, EventData::new_u64(index as u64), flags) {
            self.lose(index, &error.to_string());
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>, limit: Duration) -> Result<(), String> {
        events.clear();
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        let waited = if limit.tv_nsec % 1_000_000 == 0 {
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&limit))
        } else {
            // An epoll waits for whole milliseconds, unless the kernel is a new one; a poll does not.
            let mut epoll = [PollFd::new(&self.epoll, PollFlags::IN)];
            poll(&mut epoll, Some(&limit)).and_then(|_| {
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&Timespec::default()))
            })
        };
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in events.iter() {
            let (index, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(EventFlags::OUT) {
                self.flush(index);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.receive(index);
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) {
        loop {
            let connection = &mut self.connections[index];
            let Some(stream) = &mut connection.stream else { return };
            match stream.read(&mut connection.input[connection.filled..]) {
                Ok(0) => return self.lose(index, "connection closed by the server"),
                Ok(received) => {
                    let more = stream.is_tls();
                    connection.filled += received;
                    self.tally.bytes_received += received as u64;
                    if let Err(error) = self.answers(index) {
                        return self.lose(index, &format!("not a memcached reply: {error}"));
                    }
                    if !more {
                        return;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return;
                }
                Err(error) => return self.lose(index, &error.kind().to_string()),
            }
        }
    }

    /// Takes every whole reply from a connection's input.
    fn answers(&mut self, index: usize) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let now = Instant::now();
        let mut used = 0;
        loop {
            let (taken, event) = connection.replies.next(&connection.input[used..connection.filled])?;
            used += taken;
            let Some(event) = event else { break };
            if event == Event::Value {
                connection.values += 1;
                continue;
            }
            let values = std::mem::take(&mut connection.values);
            let pending = connection.pending.pop_front();
            let pending = pending.ok_or_else(|| "a reply that nobody asked for".to_owned())?;
            if pending.due < self.measure_from {
                continue;
            }
            let latency = now.duration_since(pending.due).as_nanos() as u64;
            match (event, pending.set) {
                (Event::Stored, true) => self.tally.sets.saturating_record(latency),
                (Event::End, false) => {
                    self.tally.gets.saturating_record(latency);
                    self.tally.hits += u64::from(values);
                    self.tally.misses += u64::from(pending.keys.saturating_sub(values));
                }
                (Event::Failed(words), _) => self.tally.fail(words, 1),
                _ => return Err(format!("{event:?} out of turn")),
            }
        }
        connection.input.copy_within(used..connection.filled, 0);
        connection.filled -= used;
        Ok(())
    }

    /// Closes a connection: what was on its way failed. It is opened again by [`Worker::sweep`].
    fn lose(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.retry_at = Instant::now() + Self::RETRY;
        connection.out.clear();
        connection.sent = 0;
        connection.wants_write = false;
        connection.filled = 0;
        connection.replies = Replies::new(self.share.plan.form);
        connection.values = 0;
        let measured = connection.pending.drain(..).filter(|pending| pending.due >= self.measure_from);
        self.tally.fail(why, measured.count() as u64);
    }

    /// Gives up what takes too long and opens what is closed.
    fn sweep(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let overdue =
                |pending: &Pending| now.saturating_duration_since(pending.due) > self.share.plan.timeout;
            let reopen = connection.stream.is_none() && connection.retry_at <= now && self.issuing(now);
            if connection.pending.front().is_some_and(overdue) {
                self.lose(index, "timed out");
            } else if reopen && self.open(index).is_err() {
                self.tally.refused_connects += 1;
                self.connections[index].retry_at = Instant::now() + Self::RETRY;
            }
        }
    }
}
