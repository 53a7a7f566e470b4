//! Performs what a [`Node`](crate::node::Node) asks for: sockets, timers, the state file, the log.
//!
//! Everything runs on one thread of its own with its own runtime, so that no load on the data path
//! delays a heartbeat. The host (whoever has items and clients) hands over a [`Config`], a store, a
//! backlog and a [`Host`] to call back, and gets a [`Handle`]. Dropping the handle ends the node at
//! once, as a crash would; [`Handle::shutdown`] hands the role over and says goodbye first.
//!
//! The promises: control messages never wait behind bulk; whatever the sockets hold is read before a
//! timer may extend the gate, so a process that was stopped learns what happened before it serves;
//! nothing a stranger, a name server or a disk does delays a heartbeat; every buffer is bounded.

mod connection;
mod copies;
#[cfg(test)]
mod corpus;
mod doors;
mod links;
mod log;
mod run;
mod second;
pub mod witness;

use std::collections::VecDeque;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use crate::arbiter::{Answer, Ask, Asker, Outcome};
use crate::backlog::Backlog;
use crate::channel::Loose;
use crate::handshake::Kind;
use crate::heal::Heal;
use crate::keys::{Keys, SharedKeys};
use crate::node::{self, Failback, GateView, Operator, Saved, Tuning};
use crate::proxy::ProxyTarget;
use crate::role::State;
use crate::state::{StateDirectory, StateError};
use crate::status::{Load, PairStatus};
use crate::store::Store;
use crate::time::Mono;
use crate::transport::PeerAddress;
use crate::wire;

/// How long a stopping node tries to hand over and to say goodbye.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);

/// What the clock reads that the node and its gate live by: microseconds, monotonic, the same for
/// all threads, and it goes on while the machine is suspended.
pub fn now() -> Mono {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Mono(time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000)
}

/// How a node is run.
#[derive(Debug)]
pub struct Config {
    /// Where the peer is; `None` waits for it to dial in.
    pub peer: Option<PeerAddress>,
    /// Where the peer is on another network, for a second path of heartbeats.
    pub heartbeat_peer: Option<PeerAddress>,
    /// Where the peer may dial in; see [`transport::bind`](crate::transport::bind).
    pub listeners: Vec<TcpListener>,
    /// What the nodes prove themselves with.
    pub keys: SharedKeys,
    /// Whom to ask when the peer cannot be asked, and for leases of which length; see [`crate::arbiter`].
    pub arbiter: Option<(Arc<dyn Arbitrate>, Duration)>,
    /// Whoever is silent is fenced ([`Host::fence`]) before it is replaced.
    pub fence: bool,
    /// Where the node keeps what it must not forget; without, it is a new node with every start.
    pub state_dir: Option<PathBuf>,
    /// Where clients are served, for the peer's probes; 0 if they cannot reach it by TCP.
    pub client_port: u16,
    /// The program's version, for people.
    pub release: String,
    /// No frame is longer: the longest item and a batch around it.
    pub payload_bytes_max: usize,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// After so much silence the peer counts as dead.
    pub dead_after: Duration,
    /// How long a starting node looks for its peer before it serves alone.
    pub start_wait: Duration,
    /// Whether it then does.
    pub start_alone: bool,
    /// How the role goes back to the preferred node.
    pub failback: Failback,
    /// This node is the preferred one.
    pub preferred: bool,
    /// How long the preferred node must have been level before it asks for the role.
    pub failback_delay: Duration,
    /// How long a handover may take before the master serves again.
    pub drain_timeout: Duration,
    /// What becomes of keys that both nodes changed while neither heard of the other.
    pub heal: Heal,
    /// How often a master compares its backup with itself.
    pub verify_every: Duration,
    /// If both nodes want it so, a backup that is level executes its clients' commands itself.
    pub accept: bool,
}

impl Config {
    /// The `lan` profile, nobody to dial, no listener, no key, no memory.
    pub fn new() -> Self {
        Self {
            peer: None,
            heartbeat_peer: None,
            listeners: Vec::new(),
            keys: SharedKeys::default(),
            arbiter: None,
            fence: false,
            state_dir: None,
            client_port: 0,
            release: env!("CARGO_PKG_VERSION").to_string(),
            payload_bytes_max: crate::frame::PAYLOAD_BYTES_MAX,
            heartbeat: Duration::from_millis(100),
            dead_after: Duration::from_millis(1000),
            start_wait: Duration::from_secs(2),
            start_alone: true,
            failback: Failback::default(),
            preferred: false,
            failback_delay: Duration::from_secs(60),
            drain_timeout: Duration::from_millis(500),
            heal: Heal::default(),
            verify_every: Duration::from_secs(3600),
            accept: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// A future in a box, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An arbiter, as it is asked; see [`crate::arbiter`].
pub trait Arbitrate: std::fmt::Debug + Send + Sync + 'static {
    /// Puts a question to it. May be given up at any time; whatever comes of it then, counts as no
    /// answer.
    fn ask(&self, asker: Asker, ask: Ask) -> BoxFuture<'_, Outcome>;

    /// For people.
    fn name(&self) -> String;
}

/// What the pair calls back. All but the future of [`Host::drained`] must return at once: they are
/// called between two heartbeats.
pub trait Host: Send + Sync + 'static {
    /// Clients' commands are admitted so from now on.
    fn gate(&self, view: GateView);

    /// Resolves when every batch that was admitted before the call has left.
    fn drained(&self) -> BoxFuture<'_, ()>;

    /// The peer opened a stream of raw requests (see [`crate::proxy`]); it has been authenticated.
    fn proxy(&self, channel: Loose);

    /// What the next heartbeat says of this node.
    fn load(&self) -> Load;

    /// Makes sure that the peer serves nobody, in a bounded time; whether that is certain. Only asked
    /// with [`Config::fence`].
    fn fence(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    /// As master: what the backup has applied, per shard, and whether it will acknowledge more; `None`
    /// for a node that leads no more or has begun a new history. Called when it changes.
    fn acknowledged(&self, applied: Option<&[u64]>, followed: bool) {
        let _ = (applied, followed);
    }

    /// Whether somebody waits for what was recorded to be acknowledged. The question settles it.
    fn hurries(&self) -> bool {
        false
    }
}

/// What others see of the node, the pair and the connections between.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The pair.
    pub pair: PairStatus,
    /// This node.
    pub node_id: u128,
    /// The peer as configured or, if it dialled in, its replication address.
    pub peer: Option<String>,
    /// The peer's program, as it introduced itself.
    pub peer_release: Option<String>,
    /// The arbiter, if there is one; see [`Arbitrate::name`].
    pub arbiter: Option<String>,
    /// Why the peer cannot be reached, while it cannot.
    pub link_problem: Option<String>,
    /// What is wrong with the state directory, if something is.
    pub state_problem: Option<String>,
    /// Connections sent away since the process began: strangers, wrong keys, third nodes.
    pub refused: u64,
    /// Frames of a later release that were skipped, as they may be; see [`MAY_IGNORE`](crate::frame::MAY_IGNORE).
    pub ignored_frames: u64,
    /// How to open a stream of raw requests to the peer, while there is one.
    pub proxy: Option<ProxyTarget>,
    /// The last changes of this node's role, oldest first; none is missing between two of them.
    pub role_changes: Arc<VecDeque<RoleChange>>,
}

/// One row of the role table that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// Counts them, from 1.
    pub number: u64,
    /// When, by the wall clock.
    pub at: SystemTime,
    /// What the node was,
    pub from: State,
    /// and became.
    pub to: State,
    /// Of the master, if there is one.
    pub epoch: u64,
    /// The row's reason.
    pub why: &'static str,
}

/// What the loop is told from outside.
#[derive(Debug)]
enum Command {
    Operator(Operator, oneshot::Sender<Result<State, String>>),
    Tune(Tuning),
}

/// What the tasks beside the loop tell it.
#[derive(Debug)]
enum Event {
    Greeted(Box<doors::Greeted>),
    /// An attempt for the control connection, or for the second path.
    Dialled {
        kind: Kind,
        resolver: crate::transport::Resolver,
        result: Result<Box<doors::Greeted>, doors::Unreached>,
    },
    DialledData(Result<Box<doors::Greeted>, String>),
    Arbitrated(Answer),
    Fenced(bool),
    Probed(node::Probe),
    Persisted(Result<(), StateError>),
    Drained(u64),
    /// The process with that boot id can be dialled there.
    Found(u64, std::net::SocketAddr),
    Refused,
}

/// A running node.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<Snapshot>>,
    keys: SharedKeys,
    patience: Duration,
    thread: std::thread::JoinHandle<()>,
}

impl Handle {
    /// Everything there is to know, at most some milliseconds old.
    pub fn status(&self) -> Arc<Snapshot> {
        self.status.borrow().clone()
    }

    /// Hears of every change of the status.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.status.clone()
    }

    /// New connections are proven with these keys from now on; those there are stay.
    pub fn replace_keys(&self, keys: Keys) {
        self.keys.replace(keys);
    }

    /// Other settings from now on. Whether the node has heard it: it may be stopping.
    pub fn tune(&self, tuning: Tuning) -> bool {
        self.commands.try_send(Command::Tune(tuning)).is_ok()
    }

    /// A copy that can ask and command but not end the node.
    pub fn remote(&self) -> Remote {
        Remote { commands: self.commands.downgrade(), status: self.status.clone(), patience: self.patience }
    }

    /// See [`Remote::command`].
    pub async fn command(&self, wish: Operator) -> Result<(), String> {
        self.remote().command(wish).await
    }

    /// Hands the role over if this node has it and somebody can take it, says goodbye, and ends.
    /// Takes at most about five seconds.
    pub async fn shutdown(self) {
        // Refused or not, the handle is dropped next, and that ends the node.
        let _ = self.remote().ask(Operator::Shutdown).await;
        let mut status = self.status.clone();
        let ended = async { while status.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(SHUTDOWN_TIME, ended).await;
        drop(self.commands);
        // It drops the status on its last lines; what is left takes no time.
        while status.changed().await.is_ok() {}
        let _ = self.thread.join();
    }
}

/// How long a wish for a switchover waits for the backup to be level.
const LEVEL_SOON: Duration = Duration::from_secs(1);
/// How often it is asked again meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Asks and commands a running node without keeping it running.
#[derive(Clone, Debug)]
pub struct Remote {
    commands: mpsc::WeakSender<Command>,
    status: watch::Receiver<Arc<Snapshot>>,
    patience: Duration,
}

impl Remote {
    /// See [`Handle::status`].
    pub fn status(&self) -> Arc<Snapshot> {
        self.status.borrow().clone()
    }

    /// See [`Handle::subscribe`].
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.status.clone()
    }

    /// Does what a person asks for and returns when it is done, or why it cannot be.
    pub async fn command(&self, wish: Operator) -> Result<(), String> {
        let mut granted = self.ask(wish).await;
        // A peer that has just changed its role is level within a heartbeat: nobody should have to ask twice.
        let until = Instant::now() + LEVEL_SOON;
        while wish == Operator::Switchover
            && granted.is_err()
            && self.status.borrow().pair.control_up
            && Instant::now() < until
        {
            tokio::time::sleep(ASK_AGAIN).await;
            granted = self.ask(wish).await;
        }
        // What it is at the moment of the grant says which way the role goes.
        let gives = matches!(granted?, State::Draining | State::Offered);
        let done = |state: State| match wish {
            Operator::Switchover if gives => matches!(state, State::Joining | State::Backup),
            Operator::Switchover | Operator::Promote { .. } => state == State::Master,
            // Done when granted; a copy takes as long as it takes.
            Operator::PauseFailover | Operator::ResumeFailover | Operator::Resync | Operator::Verify => true,
            Operator::Shutdown => state == State::Stopped,
        };
        let mut status = self.status.clone();
        let waited = status.wait_for(|status| done(status.pair.role.state));
        match tokio::time::timeout(self.patience, waited).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) if wish == Operator::Shutdown => Ok(()),
            Ok(Err(_)) => Err("the node is stopping".to_string()),
            Err(_) => Err(format!(
                "accepted, but not done within {} ms: this node is {}; the log says why",
                self.patience.as_millis(),
                format!("{:?}", self.status.borrow().pair.role.state).to_lowercase()
            )),
        }
    }

    async fn ask(&self, wish: Operator) -> Result<State, String> {
        let stopping = || "the node is stopping".to_string();
        let commands = self.commands.upgrade().ok_or_else(stopping)?;
        let (reply, answer) = oneshot::channel();
        commands.send(Command::Operator(wish, reply)).await.map_err(|_| stopping())?;
        drop(commands);
        answer.await.map_err(|_| stopping())?
    }
}

/// Starts a node on a thread of its own. Fails, with what to do about it, only on what an operator
/// has to put right first; a peer that cannot be reached or a state that cannot be read are no such
/// things: the status and the log tell of them.
pub fn start(
    config: Config,
    store: Arc<dyn Store>,
    backlog: Arc<Backlog>,
    host: Arc<dyn Host>,
) -> Result<Handle, String> {
    let identity = Identity::find(config.state_dir.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Name resolution and the state file; nothing else blocks.
        .max_blocking_threads(4)
        .thread_name("pair-blocking")
        .build()
        .map_err(|why| format!("cannot start the pair's runtime: {why}"))?;
    let (commands, inbox) = mpsc::channel(16);
    let (publisher, status) = watch::channel(Arc::new(Snapshot::default()));
    let patience = config.drain_timeout + 2 * config.dead_after + Duration::from_secs(1);
    let keys = config.keys.clone();
    let parts = run::Parts { config, identity, keys: keys.clone(), store, backlog, host, inbox, publisher };
    let thread = std::thread::Builder::new()
        .name("pair".to_string())
        .spawn(move || {
            runtime.block_on(run::run(parts));
            // A name server that does not answer must not keep the process.
            runtime.shutdown_background();
        })
        .map_err(|why| format!("cannot start the pair's thread: {why}"))?;
    Ok(Handle { commands, status, keys, patience, thread })
}

/// Who this node is, and what it remembers.
#[derive(Debug)]
struct Identity {
    saved: Saved,
    boot_id: u64,
    /// Where to keep it. `None` without a state directory, or with one that cannot be used.
    directory: Option<Arc<StateDirectory>>,
    /// What is wrong with the state directory.
    problem: Option<String>,
}

impl Identity {
    fn find(path: Option<&PathBuf>) -> Result<Self, String> {
        let nonce = crate::transport::nonce().map_err(|why| why.to_string())?;
        let (first, second) = nonce.split_at(16);
        let node_id = u128::from_le_bytes(first.try_into().unwrap_or_default()).max(1);
        let boot_id = u64::from_le_bytes(second[..8].try_into().unwrap_or_default()).max(1);
        let fresh = Saved { node_id, ..Saved::default() };
        let provisional = |why: StateError| {
            let problem = why.to_string();
            tracing::error!(
                "{problem}. Until then this node runs provisionally: it forgets who it was with every restart, and loses elections"
            );
            Self { saved: fresh.clone(), boot_id, directory: None, problem: Some(problem) }
        };
        let Some(path) = path else {
            return Ok(Self { saved: fresh, boot_id, directory: None, problem: None });
        };
        let directory = match StateDirectory::open(path) {
            Ok(directory) => directory,
            Err(why @ StateError::InUse(_)) => return Err(why.to_string()),
            Err(why) => return Ok(provisional(why)),
        };
        let saved = match Self::load(&directory, path) {
            Ok(Some(saved)) => saved,
            Ok(None) => {
                if let Err(why) = directory.save(&wire::encode(&fresh).unwrap_or_default()) {
                    return Ok(provisional(why));
                }
                fresh
            }
            Err(why) => return Ok(provisional(why)),
        };
        Ok(Self { saved, boot_id, directory: Some(Arc::new(directory)), problem: None })
    }

    fn load(directory: &StateDirectory, path: &std::path::Path) -> Result<Option<Saved>, StateError> {
        let Some(bytes) = directory.load()? else { return Ok(None) };
        let damaged = |what| StateError::Corrupt(path.join(crate::state::FILE), what);
        let saved: Saved = wire::decode(&bytes).map_err(|_| damaged("its content makes no sense"))?;
        match saved.node_id {
            0 => Err(damaged("it names no node")),
            _ => Ok(Some(saved)),
        }
    }
}
