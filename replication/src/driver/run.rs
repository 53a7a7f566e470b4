//! The loop: wait for something, tell the node, do what it says, again.

use std::collections::VecDeque;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Broken, Connection, Taken};
use super::copies::Copies;
use super::doors::{Doors, Introduction, Partner, Unproven};
use super::links::REPEAT_EVERY;
use super::log::Throttle;
use super::{Arbitrate, Command, Config, Event, Host, Identity, RoleChange, Snapshot, now};
use crate::arbiter::{Answer, Ask, Asker, Outcome};
use crate::backlog::Backlog;
use crate::frame::{Frame, Link};
use crate::handshake::Kind;
use crate::keys::SharedKeys;
use crate::liveness::Verdict;
use crate::node::{self, Down, GateView, Node, Operator, Output, Saved};
use crate::proxy::ProxyTarget;
use crate::state::StateError;
use crate::status::PairStatus;
use crate::store::Store;
use crate::transport::{Backoff, PeerAddress, Resolver};
use crate::wire;

/// A batch of changes on the data connection.
const BATCH_BYTES: usize = 64 << 10;
/// Changes that come one by one are gathered for so long before they are sent: a wake-up and a system call
/// for each would cost the master more than the change itself. The thread has nothing else to do in
/// that time, and what it delays is far below a heartbeat. While somebody waits for an acknowledgement they are
/// gathered until the one before has come, if that takes no longer.
const GATHER: Duration = Duration::from_micros(400);
/// The first of those for whom somebody waits: others, who are about to, can join. The kernel makes 50 more of it.
const GATHER_BRIEFLY: Duration = Duration::from_micros(20);
/// A pause behind each piece of a copy: clients of this node come first, and both nodes may share what they
/// run on.
const COPY_PAUSE: Duration = Duration::from_micros(500);
/// Batches sent before the loop looks at everything else again.
const BATCHES_PER_TURN: usize = 4;
/// Reads from the control connection in a row. It never holds that much.
const CONTROL_READS: usize = 16;
/// The status is at most that old.
const PUBLISH_EVERY: Duration = Duration::from_millis(25);
/// So many changes of roles are remembered for people.
const ROLE_CHANGES_KEPT: usize = 64;
/// A data connection over which nothing comes for so many times `dead_after`, though the peer is heard, is made
/// anew,
const STALLS: u32 = 5;
/// but not sooner than this.
const STALL_MIN: Duration = Duration::from_secs(5);
/// How long the last words may take on their way.
const FAREWELL: Duration = Duration::from_millis(200);
/// The loop wakes at least that often, whatever the node says.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) keys: SharedKeys,
    pub(super) store: Arc<dyn Store>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) host: Arc<dyn Host>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) publisher: watch::Sender<Arc<Snapshot>>,
}

/// Why the loop goes round.
enum Wake {
    Control,
    Event(Event),
    Command(Option<Command>),
    Timer,
    Data,
    Second,
    /// There are new changes after a while without.
    News,
    /// Something can go out: a socket takes bytes again, there are new changes, or there was more to
    /// send than fits in one turn.
    Send,
}

/// What a batch of the stream became.
enum Filled {
    /// All there was.
    Dry,
    /// As much as goes out at once.
    Batch,
    /// A piece of a copy.
    Chunk,
}

pub(super) struct Loop {
    pub(super) node: Node,
    pub(super) host: Arc<dyn Host>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) news: Arc<Notify>,
    pub(super) doors: Doors,
    pub(super) arbiter: Option<Arc<dyn Arbitrate>>,
    /// What the log knows of it.
    pub(super) arbiter_heard: Option<bool>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) publisher: watch::Sender<Arc<Snapshot>>,

    pub(super) node_id: u128,
    pub(super) boot_id: u64,
    pub(super) dead_after: Duration,
    pub(super) heartbeat: Duration,
    pub(super) payload_bytes_max: usize,

    pub(super) control: Option<Connection>,
    pub(super) data: Option<Connection>,
    pub(super) second: Option<Connection>,
    pub(super) partner: Option<Partner>,
    pub(super) peer: Option<Introduction>,
    /// There was more to do than fits in one turn.
    pub(super) more: bool,
    /// Changes keep coming: nobody has to say so, they are looked for after each gathering.
    pub(super) flowing: bool,
    /// There was one since the last look.
    pub(super) gathered: bool,

    pub(super) configured: Option<PeerAddress>,
    /// Away while an attempt is under way.
    pub(super) resolver: Option<Resolver>,
    pub(super) backoff: Backoff,
    pub(super) data_backoff: Backoff,
    pub(super) dialling_data: bool,
    /// Of the second path; away while an attempt is under way.
    pub(super) second_resolver: Option<Resolver>,
    pub(super) second_backoff: Backoff,
    /// For attempts that are still in their pause.
    pub(super) linked: Arc<AtomicBool>,

    /// What the host knows of the other node's acknowledgements.
    pub(super) told: Option<Vec<u64>>,
    pub(super) told_followed: bool,
    pub(super) gate_open: bool,
    /// Counts closings of the gate.
    pub(super) closing: u64,
    pub(super) loaded: Option<Instant>,

    pub(super) state: Option<Arc<crate::state::StateDirectory>>,
    pub(super) state_dir_configured: bool,
    pub(super) state_problem: Option<String>,
    pub(super) unsaved: VecDeque<Saved>,
    pub(super) saving: bool,

    pub(super) link_problem: Option<(String, Instant)>,
    /// Nobody listened where the peer should be, when it was dialled last.
    pub(super) peer_refuses: bool,
    pub(super) throttle: Throttle,
    pub(super) role_changes: Arc<VecDeque<RoleChange>>,
    /// Of all connections.
    pub(super) ignored_frames: u64,
    pub(super) copies: Copies,
    pub(super) stopped: bool,
    /// Something happened since the last publication; something worth telling at once.
    pub(super) stale: bool,
    pub(super) urgent: bool,
    pub(super) published: Instant,
}

pub(super) async fn run(parts: Parts) {
    let (mut this, listeners) = Loop::new(parts);
    let unproven = Unproven::new();
    for listener in listeners {
        tokio::spawn(this.doors.clone().accept(listener, unproven.clone()));
    }
    this.node.handle_timeout(now());
    loop {
        // Those who wait for it come before those whose turn it is next.
        this.tell_acknowledged();
        this.settle();
        this.tell_acknowledged();
        this.publish();
        if this.stopped {
            return this.farewell().await;
        }
        let wake = this.wait().await;
        this.stale = true;
        match wake {
            Wake::Control => this.read(Link::Control, CONTROL_READS, Connection::read),
            Wake::Event(event) => this.handle_event(event),
            Wake::Command(Some(command)) => this.handle_command(command),
            // The handle is gone: end as in a crash.
            Wake::Command(None) => return,
            Wake::Timer => this.tick(),
            Wake::Data => this.read(Link::Data, 1, Connection::read),
            Wake::Second => this.read(Link::Heartbeat, CONTROL_READS, Connection::read),
            Wake::News => {
                this.gathered = true;
                let hurries = this.host.hurries();
                if hurries {
                    this.node.want_ack();
                }
                if this.node.expects_ack() {
                    gather(GATHER, this.data.as_ref()).await;
                    // Those whom it releases come before those whose turn it is next.
                    this.read(Link::Data, 2, Connection::read_queued);
                } else {
                    gather(if hurries { GATHER_BRIEFLY } else { GATHER }, None).await;
                }
            }
            Wake::Send => {}
        }
    }
}

/// Waits for more changes to come, or for the first bytes of a connection.
///
/// While changes keep coming there is always news, and a loop that never waits keeps the runtime from its
/// sockets: the peer's words and new streams' handshakes then took tens of milliseconds. So it looks at them here.
async fn gather(patience: Duration, until: Option<&Connection>) {
    // Both are finer than the runtime's timers.
    match until {
        Some(connection) => connection.wait_for_bytes(patience),
        None => std::thread::sleep(patience),
    }
    tokio::task::yield_now().await;
}

impl Loop {
    fn new(parts: Parts) -> (Self, Vec<TcpListener>) {
        let Parts { config, identity, keys, store, backlog, host, inbox, publisher } = parts;
        let Identity { saved, boot_id, directory, problem } = identity;
        let node_id = saved.node_id;
        let (sender, events) = mpsc::channel(64);
        let local = |listener: &std::net::TcpListener| listener.local_addr().ok();
        let source = match &config.listeners[..] {
            [only] => local(only).map(|address| address.ip()).filter(|ip| !ip.is_unspecified()),
            _ => None,
        };
        let replication_port =
            config.listeners.first().and_then(local).map_or(0, |address: SocketAddr| address.port());
        let listeners = config.listeners.into_iter().filter_map(|listener| {
            let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
            listener
                .inspect_err(|why| {
                    tracing::error!("a replication listener cannot be used: {why}; restart this node")
                })
                .ok()
        });
        let listeners = listeners.collect();
        let node = Node::new(
            node::Config {
                node_id,
                boot_id,
                peer_expected: config.peer.is_some() || saved.peer_id.is_some(),
                saved,
                settled: directory.is_some(),
                client_port: config.client_port,
                release: config.release,
                heartbeat: config.heartbeat.into(),
                dead_after: config.dead_after.into(),
                start_wait: config.start_wait.into(),
                start_alone: config.start_alone,
                failback: config.failback,
                preferred: config.preferred,
                failback_delay: config.failback_delay.into(),
                drain_timeout: config.drain_timeout.into(),
                heal: config.heal,
                verify_every: config.verify_every.into(),
                accept: config.accept,
                arbiter: config.arbiter.as_ref().map(|(_, lease)| (*lease).into()),
                fence: config.fence,
                stall_after: (STALLS * config.dead_after).max(STALL_MIN).into(),
                second_path: config.heartbeat_peer.is_some(),
                #[cfg(feature = "testing")]
                plant: None,
            },
            store,
            backlog.clone(),
            now(),
        );
        let news = Arc::new(Notify::new());
        let wake = news.clone();
        backlog.set_wake(Box::new(move || wake.notify_one()));
        let introduction = Introduction { hello: node.hello(None), replication_port };
        let linked = Arc::new(AtomicBool::new(false));
        let doors = Doors {
            keys,
            introduction: Arc::new(Mutex::new(introduction)),
            events: sender,
            refused: Arc::new(AtomicU64::new(0)),
            linked: linked.clone(),
            source,
            dead_after: config.dead_after,
        };
        let this = Self {
            node,
            host,
            backlog,
            news,
            doors,
            arbiter: config.arbiter.map(|(arbiter, _)| arbiter),
            arbiter_heard: None,
            events,
            inbox,
            publisher,
            node_id,
            boot_id,
            dead_after: config.dead_after,
            heartbeat: config.heartbeat,
            payload_bytes_max: config.payload_bytes_max,
            control: None,
            data: None,
            second: None,
            partner: None,
            peer: None,
            more: false,
            flowing: false,
            gathered: false,
            resolver: config.peer.clone().map(Resolver::new),
            configured: config.peer,
            backoff: Backoff::new(boot_id),
            data_backoff: Backoff::new(boot_id.rotate_left(17)),
            dialling_data: false,
            second_resolver: config.heartbeat_peer.map(Resolver::new),
            second_backoff: Backoff::new(boot_id.rotate_left(34)),
            linked,
            told: None,
            told_followed: false,
            gate_open: false,
            closing: 0,
            loaded: None,
            state: directory,
            state_dir_configured: config.state_dir.is_some(),
            state_problem: problem,
            unsaved: VecDeque::new(),
            saving: false,
            link_problem: None,
            peer_refuses: false,
            throttle: Throttle::new(REPEAT_EVERY),
            role_changes: Arc::default(),
            ignored_frames: 0,
            copies: Copies::default(),
            stopped: false,
            stale: true,
            urgent: true,
            published: Instant::now(),
        };
        (this, listeners)
    }

    /// Control before everything, bulk after everything.
    async fn wait(&mut self) -> Wake {
        async fn readable(connection: &Option<Connection>) {
            match connection {
                Some(connection) => connection.readable().await,
                None => pending().await,
            }
        }
        async fn writable(connection: &Option<Connection>) {
            match connection {
                Some(connection) if connection.is_blocked() => connection.writable().await,
                _ => pending().await,
            }
        }
        let timer = self.next_timer();
        let more = std::mem::take(&mut self.more);
        if more {
            // Lets the runtime look at the sockets first.
            tokio::task::yield_now().await;
        }
        let can_send = self.data.as_ref().is_some_and(|data| !data.is_blocked());
        tokio::select! {
            biased;
            () = readable(&self.control) => Wake::Control,
            () = writable(&self.control) => Wake::Send,
            () = readable(&self.second) => Wake::Second,
            () = writable(&self.second) => Wake::Send,
            Some(event) = self.events.recv() => Wake::Event(event),
            command = self.inbox.recv() => Wake::Command(command),
            () = sleep_until(timer) => Wake::Timer,
            () = writable(&self.data) => Wake::Send,
            () = readable(&self.data) => Wake::Data,
            () = self.news.notified(), if can_send => Wake::News,
            () = std::future::ready(()), if more => Wake::Send,
            () = std::future::ready(()), if self.flowing && can_send => Wake::News,
        }
    }

    fn next_timer(&self) -> Instant {
        let ahead = Duration::from(self.node.poll_timeout().since(now())).min(LONGEST_SLEEP);
        let timer = Instant::now() + ahead;
        if self.stale { timer.min(self.published + PUBLISH_EVERY) } else { timer }
    }

    /// A timer may extend the gate. Whatever happened while this process did not run comes first.
    fn tick(&mut self) {
        self.read(Link::Control, CONTROL_READS, Connection::read_queued);
        self.read(Link::Heartbeat, CONTROL_READS, Connection::read_queued);
        self.read(Link::Data, 1, Connection::read_queued);
        if self.loaded.is_none_or(|loaded| loaded.elapsed() >= self.heartbeat) {
            self.loaded = Some(Instant::now());
            self.node.set_load(self.host.load());
        }
        self.node.handle_timeout(now());
    }

    fn read(&mut self, link: Link, times: usize, read: impl Fn(&mut Connection) -> Result<Taken, Broken>) {
        for _ in 0..times {
            let Some(connection) = self.connection(link).as_mut() else { return };
            match read(connection) {
                Ok(Taken::Some) => {
                    self.handle_frames(link);
                    if link == Link::Data {
                        self.node.handle_bytes(now());
                    }
                }
                Ok(Taken::Dry) => return,
                Err(broken) => return self.lose(link, broken),
            }
        }
        // Bulk is taken a piece at a time; what else there is gets its turn in between.
        self.more |= link == Link::Data;
    }

    fn handle_frames(&mut self, link: Link) {
        loop {
            let Some(connection) = self.connection(link).as_mut() else { return };
            let frame = connection.next_frame();
            let ignored = connection.take_ignored();
            self.count_ignored(ignored);
            match frame {
                // The caller says that this was all.
                Ok(Some(changes @ Frame::Changes { .. })) if link == Link::Data => {
                    self.node.handle_more_to_come(changes, now());
                }
                Ok(Some(frame)) => self.node.handle_frame(link, frame, now()),
                Ok(None) => return,
                Err(broken) => return self.lose(link, broken),
            }
        }
    }

    fn count_ignored(&mut self, frames: u64) {
        if frames > 0 && self.ignored_frames == 0 {
            tracing::info!(
                "link: the peer's release says what this one does not know and may ignore: it is skipped and counted"
            );
        }
        self.ignored_frames += frames;
    }

    /// Does everything the node wants, and sends what the sockets take.
    fn settle(&mut self) {
        loop {
            while let Some(output) = self.node.poll_output() {
                self.perform(output);
            }
            if Link::ALL.iter().all(|link| self.flush(*link)) && self.stream() {
                break;
            }
        }
        self.dial();
    }

    /// Tells those who wait for it what the backup has.
    fn tell_acknowledged(&mut self) {
        let known = self.node.confirmed();
        let followed = self.node.will_confirm();
        if followed != self.told_followed || known != self.told.as_deref() {
            self.host.acknowledged(known, followed);
            self.told_followed = followed;
            self.told = known.map(<[u64]>::to_vec);
        }
    }

    /// `false`: the connection broke, and the node has more to say.
    fn flush(&mut self, link: Link) -> bool {
        match self.connection(link).as_mut().map_or(Ok(()), Connection::flush) {
            Ok(()) => true,
            Err(broken) => {
                self.cannot_send(link, broken);
                false
            }
        }
    }

    /// The peer takes nothing more, but may have said something before: a goodbye, for one.
    fn cannot_send(&mut self, link: Link, broken: Broken) {
        self.read(link, CONTROL_READS, Connection::read_queued);
        self.lose(link, broken);
    }

    /// Sends changes while the socket takes them. `false`: the connection broke.
    fn stream(&mut self) -> bool {
        if self.data.is_none() {
            return true;
        }
        let gathered = std::mem::take(&mut self.gathered);
        if !self.flowing {
            // Before looking, so that what is recorded after looking wakes us.
            self.backlog.arm();
        }
        if self.host.hurries() {
            self.node.want_ack();
        }
        let mut sent = false;
        for _ in 0..BATCHES_PER_TURN {
            let Some(data) = self.data.as_mut().filter(|data| !data.is_blocked()) else { return true };
            let filled = Self::fill(&mut self.node, data);
            sent |= data.is_blocked();
            match filled.and_then(|filled| data.flush().map(|()| filled)) {
                Ok(Filled::Dry) if self.flowing && gathered && !sent => {
                    self.flowing = false;
                    self.backlog.arm();
                }
                Ok(Filled::Dry) => {
                    self.flowing |= sent;
                    return true;
                }
                Ok(Filled::Batch) => {}
                Ok(Filled::Chunk) => {
                    std::thread::sleep(COPY_PAUSE);
                    break;
                }
                Err(broken) => {
                    self.cannot_send(Link::Data, broken);
                    return false;
                }
            }
        }
        self.more = true;
        true
    }

    /// Puts a batch of changes on the connection: of all shards, so that they go out with one write.
    fn fill(node: &mut Node, data: &mut Connection) -> Result<Filled, Broken> {
        while data.waiting_bytes() < BATCH_BYTES {
            let Some(frame) = node.poll_data(BATCH_BYTES - data.waiting_bytes(), now()) else {
                return Ok(Filled::Dry);
            };
            data.push(&frame)?;
            if matches!(frame, Frame::Chunk { .. }) {
                return Ok(Filled::Chunk);
            }
        }
        Ok(Filled::Batch)
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send(link, frame) => {
                let Some(connection) = self.connection(link).as_mut() else { return };
                if let Err(broken) = connection.push(&frame) {
                    self.lose(link, broken);
                }
            }
            Output::Close(link, why) => {
                self.lose(link, Broken { down: Down::Lost, why: why.to_string() });
            }
            Output::Probe => self.probe(),
            Output::Persist(saved) => self.save(saved),
            Output::Gate(view) => self.gate(view),
            Output::RoleChanged { from, to, epoch, why } => {
                let name = |state| format!("{state:?}").to_lowercase();
                tracing::info!("role: {} → {} (epoch {epoch}): {why}", name(from), name(to));
                self.note_role_change(RoleChange { number: 0, at: SystemTime::now(), from, to, epoch, why });
                self.urgent = true;
            }
            Output::Conflict(key) => {
                let key = key.escape_ascii();
                tracing::warn!("heal: both nodes changed {key} while neither heard of the other");
            }
            Output::Compared(findings, None) => {
                tracing::debug!(items = findings.items, "the backup has what this master has");
            }
            Output::Compared(findings, Some(key)) => tracing::error!(
                "{} of {} items differed on the backup, for one {:?}, and were sent anew; if it happens again, \
                 suspect a machine's memory",
                findings.diverged,
                findings.items,
                String::from_utf8_lossy(&key)
            ),
            Output::Stopped => self.stopped = true,
            Output::Arbiter(ask) => self.ask_arbiter(ask),
            Output::Fence => {
                tracing::warn!("the peer is silent: fencing it before it is replaced");
                let (host, events) = (self.host.clone(), self.doors.events.clone());
                tokio::spawn(async move {
                    let fenced = host.fence().await;
                    let _ = events.send(Event::Fenced(fenced)).await;
                });
            }
        }
    }

    fn note_role_change(&mut self, change: RoleChange) {
        let changes = Arc::make_mut(&mut self.role_changes);
        let number = changes.back().map_or(0, |last| last.number) + 1;
        if changes.len() == ROLE_CHANGES_KEPT {
            changes.pop_front();
        }
        changes.push_back(RoleChange { number, ..change });
    }

    fn gate(&mut self, view: GateView) {
        let open = matches!(view, GateView::Serve { .. });
        self.host.gate(view);
        if self.gate_open && !open {
            self.closing += 1;
            let (host, events, closing) = (self.host.clone(), self.doors.events.clone(), self.closing);
            tokio::spawn(async move {
                host.drained().await;
                let _ = events.send(Event::Drained(closing)).await;
            });
        }
        self.gate_open = open;
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Greeted(greeted) => self.adopt(*greeted),
            Event::Dialled { kind, resolver, result } => {
                match kind {
                    Kind::Heartbeat => self.second_resolver = Some(resolver),
                    _ => self.resolver = Some(resolver),
                }
                match result {
                    Ok(greeted) => self.adopt(*greeted),
                    Err(unreached) if unreached.why.is_empty() => {}
                    Err(unreached) if kind == Kind::Heartbeat => self.second_unreachable(&unreached.why),
                    Err(unreached) => {
                        self.peer_refuses = unreached.refused;
                        self.unreachable(unreached.why);
                    }
                }
            }
            Event::DialledData(result) => {
                self.dialling_data = false;
                match result {
                    Ok(greeted) => self.adopt(*greeted),
                    Err(why) => tracing::debug!("no data connection yet: {why}"),
                }
            }
            Event::Arbitrated(answer) => self.arbitrated(answer),
            Event::Fenced(fenced) => {
                match fenced {
                    true => tracing::info!("the peer is fenced: it serves nobody"),
                    false => tracing::error!("the fence command did not succeed: the peer is not replaced"),
                }
                self.node.handle_fenced(fenced, now());
            }
            Event::Probed(found) => self.node.handle_probe(found, now()),
            Event::Persisted(result) => self.saved(result),
            Event::Drained(closing) => {
                if closing == self.closing && !self.gate_open {
                    self.node.handle_drained(now());
                }
            }
            Event::Found(boot_id, address) => {
                if let Some(partner) = self.partner.as_mut().filter(|partner| partner.boot_id == boot_id) {
                    (partner.address, partner.proven) = (address, true);
                    self.urgent = true;
                }
            }
            Event::Refused => {}
        }
    }

    fn ask_arbiter(&self, ask: Ask) {
        let Some(arbiter) = self.arbiter.clone() else { return };
        let asker = Asker { node: self.node_id, boot: self.boot_id };
        let (events, patience) = (self.doors.events.clone(), self.dead_after / 2);
        tokio::spawn(async move {
            let outcome = timeout(patience, arbiter.ask(asker, ask)).await.unwrap_or(Outcome::Silent);
            let _ = events.send(Event::Arbitrated(Answer { number: ask.number, outcome })).await;
        });
    }

    fn arbitrated(&mut self, answer: Answer) {
        let heard = Some(answer.outcome != Outcome::Silent);
        if heard != self.arbiter_heard {
            let name = self.arbiter.as_ref().map(|arbiter| arbiter.name()).unwrap_or_default();
            match heard {
                Some(true) => tracing::info!("the arbiter answers: {name}"),
                _ => tracing::warn!(
                    "the arbiter does not answer: {name}; while both nodes hear each other that does no harm"
                ),
            }
            (self.arbiter_heard, self.urgent) = (heard, true);
        }
        self.node.handle_arbiter(answer, now());
    }

    fn handle_command(&mut self, command: Command) {
        let (wish, reply) = match command {
            Command::Operator(wish, reply) => (wish, reply),
            Command::Tune(tuning) => return self.node.handle_tuning(tuning, now()),
        };
        tracing::info!("asked for: {}", describe(wish));
        let result = self.node.handle_operator(wish, now());
        // Whoever asked may have gone away.
        let state = self.node.role().state;
        let _ = reply.send(result.map(|()| state).map_err(|refusal| refusal.0.to_string()));
    }

    /// Writes what the node wants to remember, one after the other, beside the loop: disks take long.
    fn save(&mut self, saved: Saved) {
        let Some(directory) = self.state.clone() else {
            self.node.handle_persisted(!self.state_dir_configured, now());
            return self.urgent = true;
        };
        if self.saving {
            return self.unsaved.push_back(saved);
        }
        self.saving = true;
        let events = self.doors.events.clone();
        let bytes = wire::encode(&saved).unwrap_or_default();
        tokio::spawn(async move {
            let result = tokio::task::spawn_blocking(move || directory.save(&bytes)).await;
            let result = result.unwrap_or_else(|why| {
                Err(StateError::Write("the state file".into(), std::io::Error::other(why)))
            });
            let _ = events.send(Event::Persisted(result)).await;
        });
    }

    fn saved(&mut self, result: Result<(), StateError>) {
        self.saving = false;
        self.state_problem = result.as_ref().err().map(ToString::to_string);
        if let Some(problem) = &self.state_problem {
            self.throttle.say("state", |more| {
                tracing::error!("{problem}; until then a restart of this node forgets its epoch{more}");
            });
        }
        self.urgent = true;
        self.node.handle_persisted(result.is_ok(), now());
        if let Some(next) = self.unsaved.pop_front() {
            self.save(next);
        }
    }

    fn publish(&mut self) {
        if !(self.urgent || self.stale && self.published.elapsed() >= PUBLISH_EVERY) {
            return;
        }
        (self.urgent, self.stale, self.published) = (false, false, Instant::now());
        {
            let mut introduction = self.doors.introduction.lock().unwrap_or_else(PoisonError::into_inner);
            introduction.hello = self.node.hello(None);
        }
        let mut pair = self.node.status(now());
        pair.peer_verdict = pair.peer_verdict.map(|verdict| self.as_told(verdict, &pair));
        self.copies.tell(&pair);
        let partner = self.partner.filter(|partner| partner.link.is_some());
        let peer = match (&self.configured, self.partner) {
            (Some(peer), _) => Some(peer.to_string()),
            (None, Some(partner)) => Some(partner.address.to_string()),
            (None, None) => None,
        };
        self.publisher.send_replace(Arc::new(Snapshot {
            pair,
            node_id: self.node_id,
            peer,
            arbiter: self.arbiter.as_ref().map(|arbiter| arbiter.name()),
            peer_release: self.peer.as_ref().map(|peer| peer.hello.release.clone()),
            link_problem: self.link_problem.as_ref().map(|(why, _)| why.clone()),
            state_problem: self.state_problem.clone(),
            role_changes: Arc::clone(&self.role_changes),
            refused: self.doors.refused.load(Ordering::Relaxed),
            ignored_frames: self.ignored_frames,
            proxy: partner.filter(|partner| partner.address.port() != 0).map(|partner| ProxyTarget {
                address: partner.address,
                keys: self.doors.keys.clone(),
                hello: self.doors.introduce(None),
                patience: self.dead_after,
                dead_after: self.dead_after,
            }),
        }));
    }

    /// What people are told of the peer. A master, whose role does not hang on it, does not ask whether its
    /// peer lives; but it dials it, and what comes of that it can say.
    fn as_told(&self, verdict: Verdict, pair: &PairStatus) -> Verdict {
        let long = pair.peer_silent.is_none_or(|silent| silent >= self.dead_after.into());
        match verdict {
            Verdict::Suspect if !pair.control_up && long => {
                if self.peer_refuses {
                    Verdict::Certain
                } else {
                    Verdict::Silent
                }
            }
            verdict => verdict,
        }
    }

    /// The last words have to arrive: a socket closed with unread bytes takes them back.
    async fn farewell(&mut self) {
        let Some(control) = self.control.as_mut().or(self.second.as_mut()) else { return };
        let said = async {
            control.drain().await;
            control.end_output();
            while control.read().is_ok() {
                control.readable().await;
            }
        };
        let _ = timeout(FAREWELL, said).await;
    }

    pub(super) fn connection(&mut self, link: Link) -> &mut Option<Connection> {
        match link {
            Link::Control => &mut self.control,
            Link::Data => &mut self.data,
            Link::Heartbeat => &mut self.second,
        }
    }
}

fn describe(wish: Operator) -> &'static str {
    match wish {
        Operator::Switchover => "a switchover",
        Operator::Promote { force: false } => "promotion",
        Operator::Promote { force: true } => "promotion by force",
        Operator::PauseFailover => "a pause of failovers",
        Operator::ResumeFailover => "failovers again",
        Operator::Resync => "a copy from the start",
        Operator::Verify => "a comparison",
        Operator::Shutdown => "the end of this node",
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::LocalSet;

    use super::*;

    /// Nothing here measures time: it counts how many gatherings a byte that is there already waits for.
    #[test]
    fn changes_that_keep_coming_do_not_keep_the_peer_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (mut near, mut far) = UnixStream::pair().expect("two sockets");
            let heard = Rc::new(Cell::new(false));
            let hears = heard.clone();
            tokio::task::spawn_local(async move {
                hears.set(near.read_u8().await.is_ok());
            });
            tokio::task::yield_now().await;
            far.write_u8(1).await.expect("room for a byte");
            let news = Notify::new();
            let mut gatherings = 0;
            while !heard.get() && gatherings < 500 {
                news.notify_one();
                news.notified().await;
                gather(GATHER, None).await;
                gatherings += 1;
            }
            assert!(gatherings <= 4, "{gatherings} gatherings before a byte that was there was read");
        });
    }
}
