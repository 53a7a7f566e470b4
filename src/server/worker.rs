//! A worker: a thread with a runtime of its own, and the connections it owns.
//!
//! Read buffers are lent to connections only while they hold bytes, so an idle connection costs its
//! task and its registration, nothing more.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::resting::Client;
use super::tls::{Secured, Security};
use super::{Attach, PeerIo, Service, Ticket, limits, proxied, udp};
use crate::command::Command;
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
pub(super) struct Inbox(UnboundedSender<Message>);

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
        // A worker that is gone serves nobody: the connection closes.
        let _stopping = self.0.send(Message::Serve(arrival));
    }

    pub(super) fn give_peer(&self, attach: Attach, ticket: Ticket) {
        let _stopping = self.0.send(Message::ServePeer(attach, ticket));
    }

    pub(super) fn give_datagrams(&self, socket: std::net::UdpSocket, protocol: Protocol) {
        let _stopping = self.0.send(Message::Datagrams(socket, protocol));
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
        let (sender, receiver) = unbounded_channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build()?;
        let thread = std::thread::Builder::new().name(format!("tandem-{index}")).spawn(move || {
            let local = tokio::task::LocalSet::new();
            let shared = Rc::new(Shared::new(index, service));
            local.block_on(&runtime, work(Rc::clone(&shared), receiver));
            // What is still open is closed here, with the tasks.
            drop(local);
        })?;
        Ok(Self { inbox: Inbox(sender), thread: Some(thread) })
    }

    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Asks for connections to be closed as soon as they have nothing under way.
    pub(super) fn drain(&self) {
        let _gone_already = self.inbox.0.send(Message::Drain);
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

async fn work(shared: Rc<Shared>, mut inbox: UnboundedReceiver<Message>) {
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Serve(arrival) => {
                serve(&shared, arrival);
            }
            Message::ServePeer(attach, ticket) => {
                // A socket that cannot be registered is closed; its other end sees that.
                if let Ok(peer) = attach() {
                    tokio::task::spawn_local(proxied::serve(Rc::clone(&shared), Stream::Peer(peer), ticket));
                }
            }
            Message::Datagrams(socket, protocol) => {
                tokio::task::spawn_local(udp::serve(Rc::clone(&shared), socket, protocol));
            }
            Message::Drain => break,
        }
    }
    shared.draining.set(true);
    let patience = tokio::time::Instant::now() + limits::DRAIN;
    while shared.busy.get() > 0 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn serve(shared: &Rc<Shared>, arrival: Arrival) {
    if let Ok(client) = Client::new(Rc::clone(shared), arrival) {
        tokio::task::spawn_local(client);
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
    buffers: RefCell<Vec<Vec<u8>>>,
    outputs: RefCell<Vec<Output>>,
    /// Batches until the next one is measured.
    unmeasured: Cell<u32>,
    /// Decides how many those are.
    dice: Cell<u32>,
}

impl Shared {
    fn new(index: usize, service: Arc<Service>) -> Self {
        Self {
            index,
            service,
            busy: Cell::new(0),
            draining: Cell::new(false),
            buffers: RefCell::default(),
            outputs: RefCell::default(),
            unmeasured: Cell::new(0),
            dice: Cell::new(index as u32 + 1),
        }
    }

    pub(super) fn cell(&self) -> &WorkerCell {
        &self.service.stats.cells[self.index]
    }

    /// When a batch began, if it is one of those that are measured: one in sixteen, at random, so that
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
        self.unmeasured.set(dice % 32);
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
        self.account(1, limits::READ_BYTES as i64);
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a read buffer back; one that grew is let go.
    pub(super) fn give_buffer(&self, mut buffer: Vec<u8>) {
        self.account(-1, -(limits::READ_BYTES as i64));
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

    fn account(&self, count: i64, bytes: i64) {
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
