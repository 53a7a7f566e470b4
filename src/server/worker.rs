//! A worker: a thread, and the connections it owns.
//!
//! What it does nearly always is in `plain`: it waits for sockets and serves them, one after the other.
//! Connections that need to wait for more than their socket, or speak TLS, stand aside: tasks of the
//! worker's runtime, on the same thread. While there is one, the worker waits in the runtime, which
//! watches the plain sockets as one more thing that may become readable; while there is none, the
//! runtime sleeps and costs nothing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::plain::{Home, Plain, Seen};
use super::resting::Client;
use super::session::{Action, Input, Session};
use super::tls::{Secured, Security};
use super::{Attach, PeerIo, Service, Ticket, limits, proxied, udp, uring};
use crate::command::{Command, Now};
use crate::protocol::{Output, Protocol};
use crate::stats::WorkerCell;
use crate::stats::latency::Kind;

/// A worker's thread; dropping waits for it.
#[derive(Debug)]
pub(super) struct Worker {
    inbox: Inbox,
    thread: Option<JoinHandle<()>>,
}

/// Where a worker gets connections from. The number of those on the way is bounded by `-c`.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    sender: Sender<Message>,
    bell: Arc<Bell>,
}

enum Message {
    Serve(Arrival),
    /// From the peer, on behalf of its clients.
    ServePeer(Attach, Ticket),
    Datagrams(std::net::UdpSocket, Protocol),
    Drain,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Serve(_) => "Serve",
            Self::ServePeer(..) => "ServePeer",
            Self::Datagrams(..) => "Datagrams",
            Self::Drain => "Drain",
        })
    }
}

impl Inbox {
    pub(super) fn give(&self, arrival: Arrival) {
        self.send(Message::Serve(arrival));
    }

    pub(super) fn give_peer(&self, attach: Attach, ticket: Ticket) {
        self.send(Message::ServePeer(attach, ticket));
    }

    pub(super) fn give_datagrams(&self, socket: std::net::UdpSocket, protocol: Protocol) {
        self.send(Message::Datagrams(socket, protocol));
    }

    fn send(&self, message: Message) {
        // A worker that is gone serves nobody: the connection closes.
        let _stopping = self.sender.send(message);
        self.bell.ring();
    }
}

/// Wakes a worker that waits for its sockets.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // Each write is heard, and nobody lives to see the counter full.
        let _heard = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection for a worker.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    /// Whether TLS comes first.
    pub(super) security: Security,
    pub(super) ticket: Ticket,
}

/// A socket no runtime knows yet.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Worker {
    pub(super) fn start(index: usize, service: Arc<Service>) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let bell = Arc::new(Bell::new()?);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build()?;
        let inbox = Inbox { sender, bell: Arc::clone(&bell) };
        let (started, outcome) = channel();
        let thread = std::thread::Builder::new().name(format!("tandem-{index}")).spawn(move || {
            let local = tokio::task::LocalSet::new();
            let shared = Rc::new(Shared::new(index, service, bell));
            let (plane, outcome) = match Plane::new(&shared) {
                Ok(plane) => (Some(plane), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever starts workers waits for it.
            let _waits = started.send(outcome);
            let Some(plane) = plane else { return };
            if let Err(error) = local.block_on(&runtime, work(shared, receiver, plane)) {
                tracing::error!(%error, "a worker cannot wait for its connections");
            }
            // What is still open is closed here, with the tasks.
            drop(local);
        })?;
        let worker = Self { inbox, thread: Some(thread) };
        outcome.recv().unwrap_or_else(|_gone| Err(io::Error::other("a worker ended at once")))?;
        Ok(worker)
    }

    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// It looks around, whatever it waits for.
    pub(super) fn wake(&self) {
        self.inbox.bell.ring();
    }

    /// Asks for connections to be closed as soon as they have nothing under way.
    pub(super) fn drain(&self) {
        self.inbox.send(Message::Drain);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.drain();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// How a worker waits for the sockets of connections that need nothing but the engine.
enum Plane {
    Epoll(Box<Plain>),
    Uring(Box<uring::Plane>),
}

impl Plane {
    fn new(shared: &Rc<Shared>) -> io::Result<Self> {
        Ok(if shared.service.on_rings {
            Self::Uring(Box::new(uring::Plane::new(Rc::clone(shared), &shared.bell)?))
        } else {
            Self::Epoll(Box::new(Plain::new(Rc::clone(shared), &shared.bell)?))
        })
    }

    /// What becomes readable when [`Plane::look`] would see something.
    fn descriptor(&self) -> Rc<OwnedFd> {
        match self {
            Self::Epoll(plain) => plain.epoll(),
            Self::Uring(plane) => plane.descriptor(),
        }
    }

    /// How long [`Plane::look`] may wait.
    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Epoll(plain) => plain.patience(),
            Self::Uring(plane) => plane.patience(),
        }
    }

    /// A connection comes to stay.
    fn adopt(&mut self, home: Home) {
        match self {
            Self::Epoll(plain) => plain.adopt(home),
            Self::Uring(plane) => plane.adopt(home),
        }
    }

    /// Waits for something to happen, up to `patience`, and handles it.
    fn look(&mut self, patience: Option<Duration>) -> io::Result<Seen> {
        match self {
            Self::Epoll(plain) => Ok(plain.look(patience)),
            Self::Uring(plane) => plane.look(patience),
        }
    }

    /// The server stops: who has nothing under way goes.
    fn leave_resting(&mut self) {
        match self {
            Self::Epoll(plain) => plain.leave_resting(),
            Self::Uring(plane) => plane.leave_resting(),
        }
    }
}

async fn work(shared: Rc<Shared>, inbox: Receiver<Message>, mut plain: Plane) -> io::Result<()> {
    // Watches the plain sockets for the runtime.
    let mut watch = None;
    let mut bell = true;
    while !bell || read_mail(&shared, &mut plain, &inbox) {
        if !shared.has_tasks() {
            watch = None;
            bell = plain.look(plain.patience())?.bell;
            continue;
        }
        let watch = match &watch {
            Some(watch) => watch,
            None => watch.insert(watched(plain.descriptor())?),
        };
        let seen = plain.look(Some(Duration::ZERO))?;
        bell = seen.bell;
        if seen.anything {
            tokio::task::yield_now().await;
        } else {
            let patience = plain.patience().unwrap_or(Duration::MAX);
            if let Ok(readable) = tokio::time::timeout(patience, watch.readable()).await {
                readable?.clear_ready();
            }
        }
    }
    shared.draining.set(true);
    plain.leave_resting();
    let patience = tokio::time::Instant::now() + limits::DRAIN;
    while shared.busy.get() > 0 && tokio::time::Instant::now() < patience {
        if !plain.look(Some(Duration::ZERO))?.anything {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

/// A descriptor that the runtime watches for something to read.
#[expect(deprecated, reason = "the successor is unsafe, for descriptors that may close; this one is owned")]
fn watched(descriptor: Rc<OwnedFd>) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Takes in what came for this worker. Returns whether it is to go on.
fn read_mail(shared: &Rc<Shared>, plain: &mut Plane, inbox: &Receiver<Message>) -> bool {
    for home in shared.homing.take() {
        plain.adopt(home);
    }
    while let Ok(message) = inbox.try_recv() {
        match message {
            Message::Serve(arrival) => serve(shared, plain, arrival),
            Message::ServePeer(attach, ticket) => {
                // A socket that cannot be registered is closed; its other end sees that.
                if let Ok(peer) = attach() {
                    shared.spawn(proxied::serve(Rc::clone(shared), Stream::Peer(peer), ticket));
                }
            }
            Message::Datagrams(socket, protocol) => {
                shared.spawn(udp::serve(Rc::clone(shared), socket, protocol));
            }
            Message::Drain => return false,
        }
    }
    true
}

fn serve(shared: &Rc<Shared>, plain: &mut Plane, arrival: Arrival) {
    let plainly = arrival.security == Security::Plain && !shared.service.auth.is_required();
    match arrival {
        Arrival { socket, protocol, ticket, .. } if plainly => {
            plain.adopt(Home { ticket, socket, protocol, session: None });
        }
        arrival => {
            if let Ok(client) = Client::arrived(Rc::clone(shared), arrival) {
                shared.spawn(client);
            }
        }
    }
}

/// What a connection has under way.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) session: Session,
    pub(super) input: Input,
    pub(super) out: Output,
    /// What the session waits for, if that was said and not done yet.
    pub(super) awaits: Option<Action>,
}

impl Work {
    /// Nothing yet.
    pub(super) fn new(shared: &Shared) -> Self {
        let session = Session::trusted(&shared.service, -1);
        Self { session, input: Input::default(), out: Output::new(), awaits: None }
    }
}

/// Counts a connection that has something under way, and the bytes it holds meanwhile.
pub(super) struct Busy {
    shared: Rc<Shared>,
    bytes: i64,
}

impl Busy {
    pub(super) fn new(shared: &Rc<Shared>, bytes: usize) -> Self {
        shared.busy.set(shared.busy.get() + 1);
        shared.account(1, bytes as i64);
        Self { shared: Rc::clone(shared), bytes: bytes as i64 }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.busy.set(self.shared.busy.get() - 1);
        self.shared.account(-1, -self.bytes);
    }
}

/// What the connections of one worker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) index: usize,
    pub(super) service: Arc<Service>,
    /// Connections that have something under way.
    pub(super) busy: Cell<usize>,
    /// The server stops: who has nothing under way goes.
    pub(super) draining: Cell<bool>,
    /// Tasks of the worker's runtime.
    aside: Cell<usize>,
    /// Connections that stood aside and come back.
    homing: RefCell<Vec<Home>>,
    bell: Arc<Bell>,
    now: Cell<Now>,
    /// Turns of opening a stream to the node that serves.
    pub(super) opening: tokio::sync::Semaphore,
    buffers: RefCell<Vec<Vec<u8>>>,
    outputs: RefCell<Vec<Output>>,
    /// Batches until the next one is measured.
    unmeasured: Cell<u32>,
    /// Decides how many those are.
    dice: Cell<u32>,
}

impl Shared {
    pub(super) fn new(index: usize, service: Arc<Service>, bell: Arc<Bell>) -> Self {
        let now = Cell::new(service.clock.now());
        Self {
            index,
            service,
            busy: Cell::new(0),
            draining: Cell::new(false),
            aside: Cell::new(0),
            homing: RefCell::default(),
            bell,
            now,
            opening: tokio::sync::Semaphore::new(limits::UPSTREAMS_OPENING),
            buffers: RefCell::default(),
            outputs: RefCell::default(),
            unmeasured: Cell::new(0),
            dice: Cell::new(index as u32 + 1),
        }
    }

    /// What wakes this worker.
    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    pub(super) fn cell(&self) -> &WorkerCell {
        &self.service.stats.cells[self.index]
    }

    /// Reads the clocks for everything that is handled until the next reading.
    pub(super) fn tick(&self) {
        self.now.set(self.service.clock.now());
    }

    /// The last reading of the clocks.
    #[inline]
    pub(super) fn now(&self) -> Now {
        self.now.get()
    }

    /// Whether the worker's runtime has anything to do.
    pub(super) fn has_tasks(&self) -> bool {
        self.aside.get() > 0
    }

    /// Runs a task on the worker's runtime.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let shared = Rc::clone(self);
        shared.aside.set(shared.aside.get() + 1);
        tokio::task::spawn_local(async move {
            task.await;
            shared.aside.set(shared.aside.get() - 1);
        });
    }

    /// A connection that needs more than its socket goes on as a task.
    pub(super) fn set_aside(self: &Rc<Self>, ticket: Ticket, socket: Socket, work: Work) {
        // A socket that cannot be registered is closed; its other end sees that.
        if let Ok(client) = Client::busy(Rc::clone(self), ticket, socket, work) {
            self.spawn(client);
        }
    }

    /// A connection that needs nothing but its socket any more comes back.
    pub(super) fn go_home(&self, home: Home) {
        self.homing.borrow_mut().push(home);
        self.bell.ring();
    }

    /// When a batch began, if it is one of those that are measured: one in thirty-two, at random, so that
    /// no rhythm of requests hides from it.
    #[inline]
    pub(super) fn stopwatch(&self) -> Option<Instant> {
        let left = self.unmeasured.get();
        if left > 0 {
            self.unmeasured.set(left - 1);
            return None;
        }
        // Marsaglia's xorshift.
        let mut dice = self.dice.get();
        dice ^= dice << 13;
        dice ^= dice >> 17;
        dice ^= dice << 5;
        self.dice.set(dice);
        self.unmeasured.set(dice % 64);
        Some(Instant::now())
    }

    /// A measured batch is done.
    #[cold]
    pub(super) fn measured(&self, since: Instant, commands: &[Command<'_>]) {
        let each = since.elapsed() / u32::try_from(commands.len()).unwrap_or(u32::MAX).max(1);
        for kind in commands.iter().filter_map(|command| Kind::of(&command.op)) {
            self.cell().latency.record(kind, each);
        }
    }

    /// An empty read buffer.
    pub(super) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a read buffer back; one that grew is let go.
    pub(super) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() <= limits::READ_BYTES * 2 && buffers.len() < limits::POOL_BUFFERS {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// An empty output.
    pub(super) fn take_output(&self) -> Output {
        self.outputs.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes an output back, unsent replies and all.
    pub(super) fn give_output(&self, mut output: Output) {
        output.clear();
        let mut outputs = self.outputs.borrow_mut();
        if outputs.len() < limits::POOL_BUFFERS {
            outputs.push(output);
        }
    }

    /// Counts buffers that hold something.
    pub(super) fn account(&self, count: i64, bytes: i64) {
        let cell = self.cell();
        let add = |gauge: &std::sync::atomic::AtomicU64, by: i64| {
            gauge.store(gauge.load(Ordering::Relaxed).saturating_add_signed(by), Ordering::Relaxed);
        };
        add(&cell.buffers, count);
        add(&cell.buffer_bytes, bytes);
    }
}

/// A client's socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Secured),
    Peer(Box<dyn PeerIo>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Tls(_) => "Tls",
            Self::Peer(_) => "Peer",
        })
    }
}
