//! What is asked of the pair.

use std::path::PathBuf;
use std::time::Duration;

use tandem_replication::keys::KeyFiles;

use super::HostPort;

/// How this node pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The other node (`-x`); without one this node waits for it to dial in.
    pub peer: Option<HostPort>,
    /// Where the other node is on another network, for heartbeats only.
    pub heartbeat_peer: Option<HostPort>,
    /// Where replication listens here, and at the peer unless `peer` says otherwise (`-X`).
    pub port: u16,
    /// Interfaces replication listens on: those of `-l` unless given.
    pub listen: Vec<HostPort>,
    /// Where epoch, history and node id survive a restart.
    pub state_dir: Option<PathBuf>,
    /// Presets for the two durations below.
    pub profile: Profile,
    /// How often each side says that it is there.
    pub heartbeat_interval: Duration,
    /// Silence after which the peer counts as dead.
    pub dead_after: Duration,
    /// Who hands the master role back after a failover.
    pub failback: Failback,
    /// How long the preferred node must have been caught up before it asks for the role.
    pub failback_delay: Duration,
    /// This node is the one that should be master when both are well.
    pub preferred: bool,
    /// Serve alone if the peer is silent at start.
    pub start_alone: bool,
    /// What a backup does with clients' requests.
    pub backup_requests: BackupRequests,
    /// What becomes of keys that both nodes changed while neither heard of the other.
    pub heal: Heal,
    /// Which writes wait for the backup.
    pub ack: Ack,
    /// How often a master compares its backup with itself.
    pub verify_interval: Duration,
    /// Bytes of recent changes kept for a peer that was away for a moment.
    pub backlog_bytes: u64,
    /// What proves both sides to each other: pre-shared key, certificates.
    pub keys: KeyFiles,
    /// Whom to ask who may serve when the two nodes cannot ask each other.
    pub arbiter: Option<Arbiter>,
    /// Run after every change of this node's role.
    pub on_role_change: Option<PathBuf>,
    /// Must succeed before a peer is replaced because it is silent.
    pub fence_command: Option<PathBuf>,
    /// Listen beyond loopback without a key.
    pub insecure: bool,
}

impl Pair {
    /// Makes one setting, by its flag's name, that of a later configuration.
    pub(super) fn take_over(&mut self, later: &Self, name: &str) {
        match name {
            "preferred" => self.preferred = later.preferred,
            "failback" => self.failback = later.failback,
            "failback-delay" => self.failback_delay = later.failback_delay,
            "verify-interval" => self.verify_interval = later.verify_interval,
            "on-role-change" => self.on_role_change.clone_from(&later.on_role_change),
            "fence-command" => self.fence_command.clone_from(&later.fence_command),
            _ => {}
        }
    }
}

/// See [`tandem_replication::arbiter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arbiter {
    /// Processes started with `--witness`; most of them must agree.
    Witnesses(Vec<HostPort>),
    /// A lease in an etcd, under that name.
    Etcd {
        /// Its members' client ports.
        addresses: Vec<HostPort>,
        /// The pair's.
        name: String,
        /// How they are spoken to.
        access: EtcdAccess,
    },
}

/// What an etcd wants before it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// It speaks TLS (`etcds://`).
    pub tls: bool,
    /// Who signs its members' certificates; whom this system trusts if not said.
    pub authorities: Option<PathBuf>,
    /// The certificate to show to it, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Holds user:password.
    pub user: Option<PathBuf>,
}

impl EtcdAccess {
    /// A flag that was given, by its name, if one was.
    pub(super) fn first_flag(&self) -> Option<&'static str> {
        let flags = [
            ("arbiter-tls-ca", self.authorities.is_some()),
            ("arbiter-tls-cert", self.identity.is_some()),
            ("arbiter-auth-file", self.user.is_some()),
        ];
        flags.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }
}

/// This process is a witness and serves no clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Where it keeps to whom it gave its word.
    pub state_dir: PathBuf,
}

/// Presets of heartbeat and deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// 20 ms and 250 ms.
    Fast,
    /// 100 ms and 1 s.
    #[default]
    Lan,
    /// 500 ms and 5 s.
    Wan,
}

impl Profile {
    /// Heartbeat interval and dead-after.
    pub const fn timing(self) -> (Duration, Duration) {
        match self {
            Self::Fast => (Duration::from_millis(20), Duration::from_millis(250)),
            Self::Lan => (Duration::from_millis(100), Duration::from_millis(1000)),
            Self::Wan => (Duration::from_millis(500), Duration::from_millis(5000)),
        }
    }
}

/// Who hands the master role back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// The preferred node asks for it by itself.
    #[default]
    Auto,
    /// An operator does.
    Manual,
    /// Nobody does.
    Never,
}

/// Which writes are answered only when the backup has them, and how long that may take. Writes that
/// come in by the port for it (`--sync-port`) always are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// All of them.
    pub all: bool,
    /// Those of keys that begin so.
    pub prefixes: Vec<String>,
    /// No longer than this.
    pub timeout: Duration,
    /// Then an error, rather than the answer all the same.
    pub strict: bool,
}

/// What becomes of keys that both nodes changed while neither heard of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heal {
    /// The newer change counts.
    #[default]
    Newest,
    /// What the node did that follows afterwards is undone.
    Winner,
    /// They are deleted on both.
    Invalidate,
}

/// What a backup does with clients' requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackupRequests {
    /// Hands them to the master.
    #[default]
    Proxy,
    /// Answers reads itself, hands the rest to the master.
    LocalReads,
    /// Answers with an error.
    Reject,
    /// Executes them itself, if both nodes are told so, and tells the master.
    Accept,
}
