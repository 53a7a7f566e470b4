//! A node of a pair: facts in (`handle_*`), things to do out (`poll_*`).
//!
//! The driver's loop: hand over what happened, then take [`Node::poll_output`] until there is none,
//! then send what [`Node::poll_data`] has while the data connection takes it, then sleep until
//! [`Node::poll_timeout`] or until something happens. The node reads no clock and no socket.
//!
//! What the driver promises: frames of a connection come in order, and none of a connection that was
//! reported down, or replaced, comes after that report. Every [`Output::Probe`] gets one
//! [`Node::handle_probe`] within about half of `dead_after`. [`Output::Persist`] gets one
//! [`Node::handle_persisted`]. Whenever the last [`Output::Gate`] was not [`GateView::Serve`] and
//! no batch that was admitted before is still being executed, [`Node::handle_drained`] is called,
//! once for each such closing. [`Backlog::arm`](crate::backlog::Backlog::arm) before `poll_data`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backlog::Backlog;
use crate::frame::{self, Frame, Hello, Link};
use crate::history::Position;
use crate::role::State;
use crate::status::{Load, PairStatus};
use crate::store::Store;
use crate::time::{Mono, Span};

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
}

/// How the role goes back to the preferred node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// By itself, as a planned switchover.
    Auto,
    /// When an operator says so.
    #[default]
    Manual,
    /// Not even then... the operator's `switchover` still works on the master.
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
    /// Everything is done; the process may end.
    Stopped,
}

/// A node of a pair.
pub struct Node {
    config: Config,
}

impl Node {
    /// A node that begins now. It does nothing before the first [`Node::handle_timeout`].
    pub fn new(config: Config, _store: Arc<dyn Store>, _backlog: Arc<Backlog>, _now: Mono) -> Self {
        Self { config }
    }

    /// What to say first on a connection for `link`.
    pub fn hello(&self, link: Option<Link>) -> Hello {
        Hello {
            version_min: frame::VERSION_MIN,
            version_max: frame::VERSION,
            features: 0,
            link,
            node_id: self.config.node_id,
            boot_id: self.config.boot_id,
            epoch: self.config.saved.epoch,
            client_port: self.config.client_port,
            release: self.config.release.clone(),
        }
    }

    /// A connection for `link` was made and its handshake is over.
    pub fn handle_link_up(&mut self, _link: Link, _peer: &Hello, _now: Mono) {}

    /// The connection of `link` is gone.
    pub fn handle_link_down(&mut self, _link: Link, _why: Down, _now: Mono) {}

    /// A frame came.
    pub fn handle_frame(&mut self, _link: Link, _frame: Frame, _now: Mono) {}

    /// What a probe found.
    pub fn handle_probe(&mut self, _probe: Probe, _now: Mono) {}

    /// The moment [`Node::poll_timeout`] named has come (or another; it does no harm).
    pub fn handle_timeout(&mut self, _now: Mono) {}

    /// A person wants something.
    pub fn handle_operator(&mut self, _wish: Operator, _now: Mono) -> Result<(), Refusal> {
        Ok(())
    }

    /// What was to be persisted is (`true`), or could not be.
    pub fn handle_persisted(&mut self, _saved: bool, _now: Mono) {}

    /// The gate is closed and every batch admitted before has left.
    pub fn handle_drained(&mut self, _now: Mono) {}

    /// What the next heartbeats say of this node.
    pub fn set_load(&mut self, _load: Load) {}

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// The next frame for the data connection, of about `bytes_max`, if there is one. To be called
    /// when the connection can take it, behind every [`Output::Send`] for it.
    pub fn poll_data(&mut self, _bytes_max: usize, _now: Mono) -> Option<Frame> {
        None
    }

    /// When [`Node::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Mono {
        Mono::NEVER
    }

    /// As master: what the backup has applied of this node's history, if its copy is complete. A
    /// change whose sequence is not above it survives the loss of this node.
    pub fn acknowledged(&self) -> Option<&Position> {
        None
    }

    /// Everything there is to know.
    pub fn status(&self, _now: Mono) -> PairStatus {
        PairStatus::default()
    }
}
