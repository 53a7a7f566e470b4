//! A node of a pair: facts in (`handle_*`), things to do out (`poll_*`).
//!
//! The driver's loop: hand over what happened, then take [`Node::poll_output`] until there is none,
//! then send what [`Node::poll_data`] has while the data connection takes it, then sleep until
//! [`Node::poll_timeout`] or until something happens. The node reads no clock and no socket.
//!
//! What the driver promises: frames of a connection come in order, and none of a connection that was
//! reported down, or replaced, comes after that report. Every [`Output::Probe`] gets one
//! [`Node::handle_probe`] within about half of `dead_after`. [`Output::Persist`] gets one
//! [`Node::handle_persisted`], and several are saved in order. Whenever the last [`Output::Gate`] was not [`GateView::Serve`] and
//! no batch that was admitted before is still being executed, [`Node::handle_drained`] is called,
//! once for each such closing. [`Backlog::arm`](crate::backlog::Backlog::arm) before `poll_data`.

mod accept;
pub mod backing;
mod gate;
mod settle;
mod stream;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arbiter::{Ask, Grant};
use crate::backlog::Backlog;
use crate::frame::{self, Frame, Heartbeat, Hello, Link, Report};
use crate::heal::Heal;
use crate::history::{History, Position};
use crate::liveness::Liveness;
use crate::role::{Claim, Data, State, Trigger};
use crate::session::{Debt, Receiver, Sender, Unfinished};
use crate::status::{ArbiterStatus, Counters, Load, PairStatus, Progress, RoleView, SUMMARY_BYTES_MAX};
use crate::store::Store;
use crate::time::{Mono, Span};
use crate::verify::Findings;
use crate::walk::Walk;

use backing::Fencing;

/// How a node behaves; see the fields.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node, for ever (or, without a state directory, for this process).
    pub node_id: u128,
    /// The process: never the same twice.
    pub boot_id: u64,
    /// What the state file held, or its default.
    pub saved: Saved,
    /// There is a state directory: what the node knows of epochs outlives the process.
    pub settled: bool,
    /// A peer's address is configured, or one was ever seen. Without, the node is master at once
    /// until somebody dials in.
    pub peer_expected: bool,
    /// For [`Hello`]: where clients are served.
    pub client_port: u16,
    /// For [`Hello`]: the program's version.
    pub release: String,
    /// Between two heartbeats.
    pub heartbeat: Span,
    /// After so much silence the peer counts as dead.
    pub dead_after: Span,
    /// How long a starting node looks for its peer before it serves alone.
    pub start_wait: Span,
    /// Whether it then does.
    pub start_alone: bool,
    /// How the role goes back to the preferred node.
    pub failback: Failback,
    /// This node is the preferred one.
    pub preferred: bool,
    /// How long the preferred node must have been level before it asks for the role.
    pub failback_delay: Span,
    /// How long a handover may take before the master serves again.
    pub drain_timeout: Span,
    /// What becomes of keys that both nodes changed while neither heard of the other.
    pub heal: Heal,
    /// There is an arbiter, and its leases are so long; see [`crate::arbiter`].
    pub arbiter: Option<Span>,
    /// Whoever is silent is fenced ([`Output::Fence`]) before it is replaced.
    pub fence: bool,
    /// How often a master compares its backup with itself ([`crate::verify`]).
    pub verify_every: Span,
    /// If both nodes want it so, a backup that is level executes its clients' commands itself (the `accept` room).
    pub accept: bool,
    /// A data connection over which nothing comes for so long, though the peer is heard, leads nowhere.
    pub stall_after: Span,
    /// There shall be a second path for heartbeats ([`Link::Heartbeat`]).
    pub second_path: bool,
    /// A bug to be found by the simulation.
    #[cfg(feature = "testing")]
    pub plant: Option<crate::testing::Plant>,
}

impl Config {
    /// A node with a peer, the default profile, and no memory of before.
    pub fn new(node_id: u128, boot_id: u64) -> Self {
        Self {
            node_id,
            boot_id,
            saved: Saved { node_id, ..Saved::default() },
            settled: false,
            peer_expected: true,
            client_port: 0,
            release: String::new(),
            heartbeat: Span::from_millis(100),
            dead_after: Span::from_millis(1000),
            start_wait: Span::from_millis(2000),
            start_alone: true,
            failback: Failback::default(),
            preferred: false,
            failback_delay: Span::from_millis(60_000),
            drain_timeout: Span::from_millis(500),
            heal: Heal::default(),
            arbiter: None,
            fence: false,
            verify_every: Span::from_millis(3_600_000),
            accept: false,
            stall_after: Span::from_millis(5000),
            second_path: false,
            #[cfg(feature = "testing")]
            plant: None,
        }
    }

    /// How long after a heartbeat was sent that the peer heard, this node may serve.
    fn lease(&self) -> Span {
        #[cfg(feature = "testing")]
        if self.plant == Some(crate::testing::Plant::LeaseTooLong) {
            return self.dead_after.scaled(2, 1);
        }
        self.dead_after.scaled(7, 10)
    }

    /// A timer later than this means that the process did not run.
    fn late_after(&self) -> Span {
        self.dead_after.scaled(1, 4)
    }
}

/// What can change while a node runs; see [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How the role goes back to the preferred node.
    pub failback: Failback,
    /// This node is the preferred one.
    pub preferred: bool,
    /// How long the preferred node must have been level before it asks for the role.
    pub failback_delay: Span,
    /// How often a master compares its backup with itself.
    pub verify_every: Span,
}

/// How the role goes back to the preferred node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// By itself, as a planned switchover.
    Auto,
    /// When an operator says so.
    #[default]
    Manual,
    /// Not from this node: only the master can be told to hand it over.
    Never,
}

/// What the state file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The node.
    pub node_id: u128,
    /// The highest epoch it made or saw.
    pub epoch: u64,
    /// The peer it paired with, if it ever did.
    pub peer_id: Option<u128>,
}

/// Why a link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The peer's kernel said so: FIN or RST.
    Closed,
    /// It was lost in another way: a timeout, an error of the network, bytes that are no frame.
    Lost,
    /// A newer connection took its place.
    Replaced,
}

/// What came of [`Output::Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// All of the peer's ports refuse connections.
    Refused,
    /// Its client port gave an application's answer.
    Answers,
    /// Neither.
    Silent,
}

/// What a person, or a signal, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Hand the role to the peer (on a master), or ask for it (on a backup).
    Switchover,
    /// Become master. Without `force` only if nobody is known to be.
    Promote {
        /// Even if the node's copy is incomplete or the peer may be alive.
        force: bool,
    },
    /// Until it is resumed, or the process ends: become master only when told to or when the master
    /// offers it, and hand the role over only when told to here.
    PauseFailover,
    /// The end of [`Operator::PauseFailover`].
    ResumeFailover,
    /// Forget what is here and copy everything from the master.
    Resync,
    /// Compare the backup with this master, and repair what differs ([`crate::verify`]).
    Verify,
    /// Hand the role over if somebody can take it, then stop.
    Shutdown,
}

/// Why the operator's wish cannot be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub &'static str);

/// Who may execute clients' commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateView {
    /// This node, until then.
    Serve {
        /// Past it, the gate is closed.
        until: Mono,
    },
    /// Nobody knows; wait.
    Park,
    /// The peer.
    Forward,
    /// Nobody, with a reason.
    Refuse(&'static str),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this frame, behind everything sent on that link before.
    Send(Link, Frame),
    /// Close the connection of that link; another attempt may follow. Report it down.
    Close(Link, &'static str),
    /// Ask the peer's ports for a sign of life.
    Probe,
    /// Save this before [`Node::handle_persisted`].
    Persist(Saved),
    /// The gate is now so.
    Gate(GateView),
    /// Put this to the arbiter. One question is under way at a time, and each gets one
    /// [`Node::handle_arbiter`] within about half of `dead_after`.
    Arbiter(Ask),
    /// Make sure that the peer serves nobody, and say with [`Node::handle_fenced`] whether that is so.
    Fence,
    /// For the log.
    RoleChanged {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Of the master, if there is one.
        epoch: u64,
        /// The row's reason.
        why: &'static str,
    },
    /// For the log: both nodes changed this key while neither heard of the other.
    Conflict(Vec<u8>),
    /// For the log: what a comparison found, and the key of an item that had diverged.
    Compared(Findings, Option<Vec<u8>>),
    /// Everything is done; the process may end.
    Stopped,
}

/// A node of a pair.
#[cfg_attr(feature = "testing", derive(Clone))]
pub struct Node {
    config: Config,
    store: Arc<dyn Store>,
    backlog: Arc<Backlog>,
    /// 0 or 1, from the order of the node ids; a guess before the peer is known.
    slot: u8,

    role: RoleView,
    claim: Claim,
    /// When this node became master.
    master_since: Mono,
    /// The age of its claim then.
    age_at_first: u32,
    /// The highest epoch made or seen.
    saved: Saved,
    /// Up to which epoch this node may go without forgetting it, once each [`Output::Persist`] that
    /// has no answer yet is done.
    saves: VecDeque<u64>,
    /// The same, as it is on disk.
    epochs_safe: u64,
    /// The last answer was good.
    state_saved: bool,
    /// The epoch this node is master of is not saved: it does not serve yet.
    epoch_unsaved: bool,

    /// This node's own, while it leads (and, until it follows, afterwards).
    history: History,
    /// What the items here are, while another leads. `None` while `history` tells.
    position: Option<Position>,

    control_up: bool,
    data_up: bool,
    second_up: bool,
    peer: Option<Peer>,
    liveness: Liveness,

    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// Numbers [`frame::Follow`]s.
    session: u32,
    /// The epoch that is followed.
    following: u64,
    acknowledged: Option<Position>,
    /// As master: what the follower misses beside what is in the backlog.
    debt: Debt,
    /// As follower: what must not be forgotten until it holds everything.
    unfinished: Unfinished,
    /// As master that did not: items that may be stale go, before anybody is served.
    purge: Option<Walk>,
    /// When the follower asked for its stream.
    walk_since: Mono,
    /// Keys that both nodes changed, told to the log since the follower came.
    conflicts_told: u32,
    /// An acknowledgement is waited for.
    ack_wanted: bool,
    /// One was asked for, and has not come.
    ack_asked: bool,
    /// Changes came of which nothing followed yet.
    unsettled: bool,
    /// As a backup that executes commands: up to where the master has what it did, in its own sequences.
    merged: Option<Vec<u64>>,
    /// When it was promoted: the last of its changes of which the other node may not have heard. They are sent as they have
    /// become since.
    untold: Option<Vec<u64>>,
    /// What such a backup told while this node was not sure to be, or to remain, its master.
    held: VecDeque<Report>,
    /// When something came over the data link last, or nothing had to.
    data_moved: Mono,

    gate: GateView,
    /// No batch is executing that was admitted before the gate closed.
    drained: bool,
    /// The peer could take over if it did not hear this node: serve only while it does.
    guarded: bool,

    /// With an arbiter: what it grants.
    grant: Option<Grant>,
    /// A promotion waits for it.
    needs_grant: bool,
    /// An operator made this node master without asking the arbiter.
    unbound: bool,
    fencing: Fencing,

    /// When a starting node has waited long enough.
    alone_at: Mono,
    /// When the handover under way has taken too long.
    handover_due: Mono,
    /// Numbers handovers.
    handovers: u64,
    /// Since when nothing is known; heartbeats echoed from before prove nothing.
    doubt_since: Mono,
    /// The process shall end as soon as nobody needs it.
    stopping: bool,
    /// See [`Operator::PauseFailover`].
    paused: bool,
    /// The master was seen to be a new process meanwhile: what would follow has yet to.
    restart_held: bool,
    /// The next copy begins from nothing, whatever is here.
    resync: bool,
    /// Since when this node could give the preferred one its role back.
    level_since: Option<Mono>,
    /// Since when the follower is not level.
    lag_since: Option<Mono>,
    /// The last promotions of either node: who goes back and forth waits longer.
    role_changes: VecDeque<Mono>,

    verifying: verify::Verifying,
    load: Load,
    counters: Counters,
    outputs: VecDeque<Output>,
    next_heartbeat: Mono,
    /// When [`Node::handle_timeout`] is due; later means that the process did not run.
    wake_at: Mono,
    #[cfg(feature = "testing")]
    fired: Vec<u64>,
}

/// What is known of the other node.
#[derive(Clone, Debug)]
struct Peer {
    node_id: u128,
    boot_id: u64,
    /// It is told to accept.
    accepts: bool,
    /// The last it said on the link that is up.
    heartbeat: Option<Heartbeat>,
    /// The last it ever said of itself.
    said: Option<(Claim, State)>,
    /// When it sent the last heartbeat, on its clock: to be echoed.
    sent: Option<Mono>,
    /// The latest heartbeat of ours that it heard, on our clock.
    echo: Option<Mono>,
}

impl Node {
    /// A node that begins now. It does nothing before the first [`Node::handle_timeout`].
    pub fn new(config: Config, store: Arc<dyn Store>, backlog: Arc<Backlog>, now: Mono) -> Self {
        backlog.enable();
        let claim = Claim {
            data: Data::Empty,
            age: 0,
            epoch: config.saved.epoch,
            settled: config.settled,
            node_id: config.node_id,
        };
        let slot = match config.saved.peer_id {
            Some(peer_id) => u8::from(config.node_id > peer_id),
            None => (config.node_id & 1) as u8,
        };
        store.set_slot(slot);
        let alone_at = if config.peer_expected { now + config.start_wait } else { now };
        Self {
            store,
            backlog,
            slot,
            role: RoleView { epoch: config.saved.epoch, why: "started", since: now, ..RoleView::default() },
            claim,
            master_since: now,
            age_at_first: 0,
            saved: Saved { node_id: config.node_id, ..config.saved.clone() },
            saves: VecDeque::new(),
            epochs_safe: config.saved.epoch,
            state_saved: true,
            epoch_unsaved: false,
            history: History::default(),
            position: None,
            control_up: false,
            data_up: false,
            second_up: false,
            peer: None,
            liveness: Liveness::new(config.heartbeat, config.dead_after, now),
            sender: None,
            receiver: None,
            session: 0,
            following: 0,
            acknowledged: None,
            debt: Debt::default(),
            unfinished: Unfinished::default(),
            purge: None,
            walk_since: now,
            conflicts_told: 0,
            ack_wanted: false,
            ack_asked: false,
            unsettled: false,
            merged: None,
            untold: None,
            held: VecDeque::new(),
            data_moved: now,
            gate: GateView::Park,
            drained: true,
            guarded: false,
            grant: config.arbiter.map(|lease| Grant::new(lease, config.heartbeat, now)),
            needs_grant: false,
            unbound: false,
            fencing: Fencing::default(),
            alone_at,
            handover_due: Mono::NEVER,
            handovers: 0,
            doubt_since: now,
            stopping: false,
            paused: false,
            restart_held: false,
            resync: false,
            level_since: None,
            lag_since: None,
            role_changes: VecDeque::new(),
            verifying: verify::Verifying::default(),
            load: Load::default(),
            counters: Counters::default(),
            outputs: VecDeque::from([Output::Gate(GateView::Park)]),
            next_heartbeat: now,
            wake_at: now,
            #[cfg(feature = "testing")]
            fired: vec![0; crate::role::ROWS.len()],
            config,
        }
    }

    /// What to say first on a connection for `link`.
    pub fn hello(&self, link: Option<Link>) -> Hello {
        Hello {
            version_min: frame::VERSION_MIN,
            version_max: frame::VERSION,
            features: if self.config.accept { frame::ACCEPTS } else { 0 },
            link,
            node_id: self.config.node_id,
            boot_id: self.config.boot_id,
            epoch: self.saved.epoch,
            client_port: self.config.client_port,
            release: self.config.release.clone(),
        }
    }

    /// A connection for `link` was made and its handshake is over.
    pub fn handle_link_up(&mut self, link: Link, peer: &Hello, now: Mono) {
        self.observe(now);
        if let Err(why) = self.meet(peer, now) {
            self.outputs.push_back(Output::Close(link, why));
            self.settle(now);
            return;
        }
        match link {
            Link::Control => {
                self.control_up = true;
                self.counters.reconnects += 1;
                self.liveness.link_up(now);
                self.forget_heartbeat();
                self.next_heartbeat = now;
            }
            Link::Data => {
                self.data_up = true;
                self.data_moved = now;
                self.drop_stream();
            }
            Link::Heartbeat => {
                (self.second_up, self.config.second_path) = (true, true);
                self.liveness.link_up(now);
                self.next_heartbeat = now;
            }
        }
        self.settle(now);
    }

    /// The connection of `link` is gone.
    pub fn handle_link_down(&mut self, link: Link, why: Down, now: Mono) {
        self.observe(now);
        match link {
            Link::Control if self.control_up && why != Down::Replaced => {
                self.control_up = false;
                self.lose_path(now);
            }
            Link::Heartbeat if self.second_up && why != Down::Replaced => {
                self.second_up = false;
                self.lose_path(now);
            }
            Link::Data if self.data_up && why != Down::Replaced => {
                self.data_up = false;
                self.drop_stream();
            }
            Link::Control | Link::Data | Link::Heartbeat => {}
        }
        self.settle(now);
    }

    /// A frame came.
    pub fn handle_frame(&mut self, link: Link, frame: Frame, now: Mono) {
        self.observe(now);
        let up = match link {
            Link::Control => self.control_up,
            Link::Data => self.data_up,
            Link::Heartbeat => self.second_up && matches!(frame, Frame::Heartbeat(_) | Frame::Goodbye),
        };
        if up {
            if link == Link::Data {
                self.data_moved = now;
            }
            match frame {
                Frame::Heartbeat(heartbeat) => self.hear(link, heartbeat, now),
                Frame::Handover(handover) => self.consider(&handover, now),
                Frame::Declined { number } if number == self.handovers => {
                    self.fire(Trigger::YieldFailed, now);
                }
                Frame::AskSwitchover if self.can_yield() && !self.paused => {
                    self.fire(Trigger::Yield, now);
                }
                Frame::Goodbye => {
                    self.guarded = false;
                    self.liveness.gone();
                }
                Frame::Redial { session } => self.redial(session),
                Frame::Declined { .. } | Frame::AskSwitchover | Frame::Raw { .. } => {}
                stream => self.handle_stream(stream, now),
            }
        }
        self.settle(now);
    }

    /// Changes came, and another frame is behind them: handing that over follows at once, or
    /// [`Node::handle_bytes`] does. What is to be done about all of them is decided then, once.
    pub fn handle_more_to_come(&mut self, changes: Frame, now: Mono) {
        self.observe(now);
        if self.data_up {
            self.data_moved = now;
            self.unsettled = true;
            self.handle_stream(changes, now);
        }
    }

    /// Bytes came over the data connection, and the frames among them were handed over. Of one that is not whole
    /// yet they may be all: long ones take their time over a slow link, and whoever sends them hears that they arrive.
    pub fn handle_bytes(&mut self, now: Mono) {
        if self.unsettled {
            self.settle(now);
        }
        self.data_moved = now;
        let Some(receiver) = self.receiver.as_mut().filter(|receiver| receiver.planned) else { return };
        let due = *receiver.ack_due.get_or_insert(now + self.config.heartbeat);
        self.wake_at = self.wake_at.min(due);
    }

    /// What a probe found.
    pub fn handle_probe(&mut self, probe: Probe, now: Mono) {
        self.observe(now);
        #[cfg(feature = "testing")]
        let probe = if self.planted(crate::testing::Plant::DisbelieveAnswers) && probe == Probe::Answers {
            Probe::Silent
        } else {
            probe
        };
        self.liveness.answered(probe, now);
        self.settle(now);
    }

    /// The moment [`Node::poll_timeout`] named has come (or another; it does no harm).
    pub fn handle_timeout(&mut self, now: Mono) {
        self.observe(now);
        self.settle(now);
    }

    /// A person wants something.
    pub fn handle_operator(&mut self, wish: Operator, now: Mono) -> Result<(), Refusal> {
        self.observe(now);
        let granted = self.grant(wish, now);
        self.settle(now);
        granted
    }

    /// Other settings from now on.
    pub fn handle_tuning(&mut self, tuning: Tuning, now: Mono) {
        self.observe(now);
        let Tuning { failback, preferred, failback_delay, verify_every } = tuning;
        (self.config.failback, self.config.preferred) = (failback, preferred);
        (self.config.failback_delay, self.config.verify_every) = (failback_delay, verify_every);
        // Counted from now.
        self.level_since = None;
        self.count_verification_anew();
        self.settle(now);
    }

    /// What was to be persisted is (`true`), or could not be.
    pub fn handle_persisted(&mut self, saved: bool, now: Mono) {
        self.observe(now);
        let epoch = self.saves.pop_front().unwrap_or_default();
        self.state_saved = saved;
        if saved {
            self.epochs_safe = self.epochs_safe.max(epoch);
        }
        // Availability first: a full disk must not stop a cache. The status says it.
        if self.claim.epoch <= self.epochs_safe || self.saves.is_empty() {
            self.epoch_unsaved = false;
        }
        self.settle(now);
    }

    /// The gate is closed and every batch admitted before has left.
    pub fn handle_drained(&mut self, now: Mono) {
        self.observe(now);
        if !matches!(self.gate, GateView::Serve { .. }) {
            self.drained = true;
        }
        self.settle(now);
    }

    /// What the next heartbeats say of this node.
    pub fn set_load(&mut self, load: Load) {
        self.load = load;
        if self.load.summary.len() > SUMMARY_BYTES_MAX {
            self.load.summary.clear();
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next frame for the data connection, of about `bytes_max`, if there is one. To be called
    /// when the connection can take it, behind every [`Output::Send`] for it.
    pub fn poll_data(&mut self, bytes_max: usize, now: Mono) -> Option<Frame> {
        if !self.data_up {
            return None;
        }
        if self.role.state.follows() {
            return self.poll_report(bytes_max, now);
        }
        let frame = self.with_sender(|sender, means| sender.poll(bytes_max, means));
        if frame.is_some() && self.lag_since.is_none() {
            self.lag_since = Some(now);
        }
        // Whoever hands its role over waits for it, too.
        let wanted = self.ack_wanted || (self.role.state == State::Draining && !self.ack_asked);
        if frame.is_none() && wanted && self.lag_since.is_some() {
            self.ack_wanted = false;
            self.ack_asked = true;
            return Some(Frame::AskAck);
        }
        frame
    }

    /// Somebody waits for what was recorded last to be acknowledged: the backup is asked to do so as
    /// soon as everything is sent.
    pub fn want_ack(&mut self) {
        self.ack_wanted = true;
    }

    /// The backup was asked to acknowledge what was sent and has not answered: whatever is recorded meanwhile
    /// is better sent together, with its answer.
    pub fn expects_ack(&self) -> bool {
        self.ack_asked
    }

    /// As master: a backup that has everything but the latest changes is linked, so that what is
    /// recorded now will be acknowledged soon.
    pub fn is_followed(&self) -> bool {
        self.data_up
            && self.role.state.leads()
            && self.sender.as_ref().is_some_and(|sender| sender.acknowledged().is_some())
    }

    /// When [`Node::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Mono {
        self.wake_at
    }

    /// As master: what the backup has applied of this node's history, if its copy is complete. A
    /// change whose sequence is not above it survives the loss of this node.
    pub fn acknowledged(&self) -> Option<&Position> {
        self.acknowledged.as_ref()
    }

    /// What this node is.
    pub fn role(&self) -> &RoleView {
        &self.role
    }

    /// Everything there is to know.
    pub fn status(&self, now: Mono) -> PairStatus {
        let heartbeat = self.peer.as_ref().and_then(|peer| peer.heartbeat.as_ref());
        let (lag_records, lag_bytes) = self.lag();
        let in_sync = match self.role.state {
            State::Backup => self.is_level(),
            _ => self.can_yield(),
        };
        PairStatus {
            role: self.role.clone(),
            control_up: self.control_up,
            data_up: self.data_up,
            second_up: self.config.second_path.then_some(self.second_up),
            peer_state: heartbeat.map(|heartbeat| heartbeat.state),
            peer_epoch: heartbeat.map_or(0, |heartbeat| heartbeat.epoch),
            peer_load: heartbeat.map(|heartbeat| heartbeat.load.clone()),
            peer_silent: self.liveness.unheard(now),
            peer_verdict: self.peer.as_ref().map(|_| self.liveness.verdict(now)),
            failover_paused: self.paused,
            in_sync,
            verify: self.verify_status(now),
            lag_records,
            lag_bytes,
            lag: self.lag_since.map_or(Span(0), |since| now.since(since)),
            accepts: self.config.accept.then(|| self.accepts()),
            hints: self.backlog.hints(),
            backlog_bytes: self.backlog.bytes(),
            copy: self.progress(now),
            state_saved: self.state_saved,
            arbiter: self.grant.as_ref().map(|grant| ArbiterStatus {
                heard: grant.is_heard(),
                granted: (grant.until() > now).then(|| grant.until().since(now)),
                refused: grant.is_refused(),
            }),
            counters: self.counters,
        }
    }

    /// The same node over another store and backlog, which hold the same.
    #[cfg(feature = "testing")]
    pub fn duplicate(&self, store: Arc<dyn Store>, backlog: Arc<Backlog>) -> Self {
        Self { store, backlog, outputs: self.outputs.clone(), ..self.clone() }
    }

    /// Everything that decides what this node does next, as text: nodes that agree on it behave alike.
    #[cfg(feature = "testing")]
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write as _;
        let Self { role, claim, saved, saves, history, position, peer, liveness, sender, .. } = self;
        let Self { debt, unfinished, purge, merged, held, untold, .. } = self;
        let _ = write!(text, "{:?}{claim:?}{saved:?}{saves:?}{history:?}{position:?}", role.state);
        let _ = write!(text, "{peer:?}{liveness:?}{sender:?}{:?}{:?}", self.receiver, self.acknowledged);
        let _ = write!(text, "{debt:?}{unfinished:?}{purge:?}{merged:?}{held:?}{untold:?}");
        let _ = write!(text, "{}{}", self.paused, self.resync);
        let _ = write!(text, "{:?}{}{}{:?}", self.grant, self.needs_grant, self.unbound, self.fencing);
        let _ = write!(text, "{:?}", self.grant.as_ref().map(|_| role.since));
        let flags = (self.epoch_unsaved, self.control_up, self.data_up, self.second_up);
        let flags = (flags, self.drained, self.guarded);
        let numbers = (self.session, self.following, self.handovers, self.epochs_safe, self.slot);
        let times =
            (self.master_since, self.age_at_first, self.alone_at, self.handover_due, self.doubt_since);
        let timers = (self.next_heartbeat, self.wake_at, self.level_since, self.gate, self.stopping);
        let _ = write!(text, "{flags:?}{numbers:?}{times:?}{timers:?}");
        self.backlog.describe(text);
    }

    /// What was counted so far.
    #[cfg(feature = "testing")]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn progress(&self, now: Mono) -> Option<Progress> {
        let walk = self.sender.as_ref()?.walked(&self.debt)?;
        let items_total = self.store.items();
        Some(Progress {
            items: walk.items.min(items_total),
            items_total,
            bytes: walk.bytes,
            elapsed: now.since(self.walk_since),
            whole: walk.wanted.is_none(),
        })
    }

    /// How often each row of the role table fired.
    #[cfg(feature = "testing")]
    pub fn fired(&self) -> &[u64] {
        &self.fired
    }

    /// It holds, or held before it began to catch up, everything its master had.
    #[cfg(feature = "testing")]
    pub fn is_holder(&self) -> bool {
        self.claim.data == Data::Complete || !self.unfinished.base.is_empty()
    }

    /// The follower's session and the number of the last plan for it.
    #[cfg(feature = "testing")]
    pub fn planned(&self) -> Option<(u32, u32)> {
        self.sender.as_ref().map(Sender::planned)
    }

    /// What this node claims.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    #[cfg(feature = "testing")]
    fn planted(&self, plant: crate::testing::Plant) -> bool {
        self.config.plant == Some(plant)
    }

    /// Over one path nothing comes any more. Only when nothing comes over the other one, either, does that
    /// mean anything.
    fn lose_path(&mut self, now: Mono) {
        #[cfg(feature = "testing")]
        let alone = self.planted(crate::testing::Plant::TrustOnePath);
        #[cfg(not(feature = "testing"))]
        let alone = false;
        if alone || !(self.control_up || self.second_up) {
            self.liveness.link_down(now);
            self.forget_heartbeat();
        }
    }

    fn forget_heartbeat(&mut self) {
        if let Some(peer) = &mut self.peer {
            peer.heartbeat = None;
        }
    }
}
