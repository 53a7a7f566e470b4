//! Who may execute clients' commands on this node, now. The server asks; it does not know why.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// A future in a box, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What to do with a batch of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Execute it here. [`Gate::leave`] must follow.
    Serve,
    /// Nobody serves at this moment; it may change soon: wait for [`Gate::changed`], not longer than
    /// [`Gate::park_limit`].
    Park,
    /// Another node serves: hand the raw requests to [`Gate::upstream`].
    Forward,
    /// Reads may be executed here, everything else is to be treated as `Forward`.
    /// [`Gate::leave`] must follow an execution.
    ServeReads,
    /// Refuse with `SERVER_ERROR` and this reason.
    Refuse(&'static str),
}

/// What a batch recorded: the last sequence of each shard it touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt(Vec<(usize, u64)>);

impl Receipt {
    /// Another change of `shard`; sequences grow.
    pub fn add(&mut self, shard: usize, sequence: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, latest)) => *latest = sequence.max(*latest),
            None => self.0.push((shard, sequence)),
        }
    }

    /// Takes in what a later batch recorded.
    pub fn merge(&mut self, other: &Self) {
        for (shard, sequence) in &other.0 {
            self.add(*shard, *sequence);
        }
    }

    /// Shards and sequences.
    pub fn marks(&self) -> &[(usize, u64)] {
        &self.0
    }

    /// Nothing was recorded.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// How waiting for another node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It has it.
    Confirmed,
    /// It does not, as far as is known; the replies go all the same.
    Degraded,
    /// It does not, as far as is known, and the client is to be told.
    Refused,
}

/// Admission control, consulted once per batch by each worker.
pub trait Gate: Send + Sync + 'static {
    /// May `worker` execute a batch now? With `Serve` the worker counts as inside until it calls
    /// [`Gate::leave`]; a handover waits for everybody to have left.
    fn enter(&self, worker: usize) -> Admission;

    /// The batch was executed. `true`: its replies may be sent. `false`: this node was paused or
    /// deposed in between; nothing of the batch may be acknowledged.
    fn leave(&self, worker: usize) -> bool;

    /// Whether replies that [`Gate::leave`] let go may still be sent. For who sends them later than at
    /// once: the process may have been stopped in between.
    fn still_holds(&self) -> bool;

    /// What the batch that just left recorded, if its replies have to wait until another node has it.
    /// `durable`: the connection wants that of all its writes. Called in the thread that executed it.
    fn receipt(&self, durable: bool) -> Option<Receipt> {
        let _ = durable;
        None
    }

    /// Where `worker` is to be woken when [`Gate::outcome`] may say more than it did. `ring` must only wake.
    fn set_bell(&self, worker: usize, ring: Box<dyn Fn() + Send + Sync>) {
        let _ = (worker, ring);
    }

    /// From now on, until its bell was rung once, `worker` is woken with the next news of the other node.
    fn await_news(&self, worker: usize) {
        let _ = worker;
    }

    /// What became of replies that have waited so long for what the receipt names; `None` while they have to
    /// wait: mostly up to [`Gate::confirm_limit`]. To be asked behind [`Gate::await_news`].
    fn outcome(&self, receipt: &Receipt, waited: std::time::Duration) -> Option<Confirmation> {
        let _ = (receipt, waited);
        Some(Confirmation::Confirmed)
    }

    /// How long replies may wait for another node.
    fn confirm_limit(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// Resolves when another node has what the receipt names, or when it was waited for long enough: for
    /// who can wait, and need not be woken.
    fn confirmed(&self, receipt: Receipt) -> BoxFuture<'_, Confirmation> {
        let _ = receipt;
        Box::pin(std::future::ready(Confirmation::Confirmed))
    }

    /// Whether replies that cannot be confirmed become errors.
    fn is_strict(&self) -> bool {
        false
    }

    /// Whether this node is the one that serves, as far as it knows: for background work that only
    /// that node does. Nobody is counted as inside.
    fn serves(&self) -> bool;

    /// Counts the changes of who serves. A stream to the node that serves is good for one term only.
    fn term(&self) -> u64;

    /// Resolves when the term is another one.
    fn ended(&self, term: u64) -> BoxFuture<'_, ()>;

    /// Resolves when [`Gate::enter`] may answer differently than at the moment of the call.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// How long a request may wait while nobody serves.
    fn park_limit(&self) -> std::time::Duration;

    /// What a request that waited too long is told, behind `SERVER_ERROR `.
    fn park_reason(&self) -> &'static str;

    /// Opens a stream to the node that serves. One per client connection, opened when first needed.
    fn upstream(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Upstream>>>;
}

/// A stream of raw requests to the node that serves. At most one batch is under way at a time.
pub trait Upstream: Send {
    /// Hands over whole requests (raw bytes, as the client sent them). `durable`: writes are to be
    /// answered when another node has them.
    fn send<'a>(&'a mut self, requests: &'a [u8], durable: bool) -> BoxFuture<'a, std::io::Result<()>>;

    /// The next piece of the batch's answer. An error means that the outcome of what has no reply
    /// yet is unknown, and the stream is useless from then on.
    fn receive(&mut self) -> BoxFuture<'_, std::io::Result<Answer>>;
}

/// A piece of an answer from upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Reply bytes for the client, in order.
    Part(Bytes),
    /// The batch is over: that many bytes of its requests were executed and answered. Fewer than all
    /// if that node ceased to serve in between: the rest was not touched and may be tried elsewhere.
    Done(usize),
}

/// The gate of a node without a peer: always open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Gate for Open {
    fn enter(&self, _worker: usize) -> Admission {
        Admission::Serve
    }

    fn leave(&self, _worker: usize) -> bool {
        true
    }

    fn still_holds(&self) -> bool {
        true
    }

    fn serves(&self) -> bool {
        true
    }

    fn term(&self) -> u64 {
        0
    }

    fn ended(&self, _term: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn park_limit(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn park_reason(&self) -> &'static str {
        "not serving"
    }

    fn upstream(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Upstream>>> {
        Box::pin(std::future::ready(Err(std::io::Error::other("this node has no peer"))))
    }
}
