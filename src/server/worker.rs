//! A worker: a thread with a runtime of its own, and the connections it owns.
//!
//! Read buffers are lent to connections only while they hold bytes, so an idle connection costs its
//! task and its registration, nothing more.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::session::Input;
use super::tls::{Secured, Security};
use super::watch::Reason;
use super::{Service, Ticket, connection, limits, proxied};
use crate::command::Now;
use crate::protocol::{Output, Protocol};
use crate::stats::WorkerCell;

/// A worker's thread; dropping waits for it.
#[derive(Debug)]
pub(super) struct Worker {
    inbox: Inbox,
    thread: Option<JoinHandle<()>>,
}

/// Where a worker gets connections from. The number of those on the way is bounded by `-c`.
#[derive(Clone, Debug)]
pub(super) struct Inbox(UnboundedSender<Message>);

#[derive(Debug)]
enum Message {
    Serve(Arrival),
    Drain,
}

impl Inbox {
    pub(super) fn give(&self, arrival: Arrival) {
        // A worker that is gone serves nobody: the connection closes.
        let _stopping = self.0.send(Message::Serve(arrival));
    }
}

/// A connection for a worker.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    /// Whether TLS comes first.
    pub(super) security: Security,
    /// From the peer, on behalf of its clients.
    pub(super) proxied: bool,
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
                tokio::task::spawn_local(serve(Rc::clone(&shared), arrival));
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

async fn serve(shared: Rc<Shared>, arrival: Arrival) {
    let Arrival { socket, protocol, security, proxied, mut ticket } = arrival;
    let stream = match socket {
        Socket::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
        Socket::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
    };
    // A socket that cannot be registered is closed; its client sees that.
    let Ok(stream) = stream else { return };
    let stream = match (stream, security, &shared.service.tls) {
        (stream, Security::Plain, _) => stream,
        (Stream::Tcp(stream), security, Some(tls)) => {
            let counts = &shared.service.stats.tls;
            match Box::pin(tls.accept(security, stream, counts)).await {
                Some(secured) => Stream::Tls(secured),
                None => {
                    ticket.reason = Reason::Error;
                    return;
                }
            }
        }
        // No listener is like that.
        _ => return,
    };
    if proxied {
        proxied::serve(shared, stream, ticket).await;
    } else {
        connection::serve(shared, stream, protocol, ticket).await;
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
    /// The second of the last reading of the clocks.
    pub(super) secs: Cell<u32>,
    #[expect(clippy::vec_box, reason = "a desk is handed over without being copied")]
    desks: RefCell<Vec<Box<Desk>>>,
}

/// What a connection needs while something is under way: what was read, and what is to be written.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) input: Input,
    pub(super) out: Output,
}

impl Shared {
    fn new(index: usize, service: Arc<Service>) -> Self {
        Self {
            index,
            service,
            busy: Cell::new(0),
            draining: Cell::new(false),
            secs: Cell::new(Now::FIRST),
            desks: RefCell::default(),
        }
    }

    /// Reads the clocks, for one batch.
    #[inline]
    pub(super) fn read_clock(&self) -> Now {
        let now = self.service.clock.now();
        self.secs.set(now.secs);
        now
    }

    #[inline]
    pub(super) fn cell(&self) -> &WorkerCell {
        &self.service.stats.cells[self.index]
    }

    /// A desk with what `stream` has sent on it, or none at its end. While nothing comes it holds none.
    #[inline]
    pub(super) fn poll_desk(
        &self,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Box<Desk>>>> {
        let mut desks = self.desks.borrow_mut();
        // On top lies the one that was used last: its memory is in the processor's cache.
        let mut desk = desks.pop().unwrap_or_default();
        let polled = stream.poll_read(context, desk.input.room(limits::READ_BYTES));
        match polled {
            Poll::Ready(Ok(count)) if count > 0 => {
                desk.input.fill(count);
                self.account(1, limits::READ_BYTES as i64);
                Poll::Ready(Ok(Some(desk)))
            }
            Poll::Ready(Ok(_end)) => Poll::Ready(Ok(None)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                desks.push(desk);
                Poll::Pending
            }
        }
    }

    /// Takes a desk back, unsent replies and all; a read buffer that grew is let go.
    #[inline]
    pub(super) fn give_desk(&self, mut desk: Box<Desk>) {
        self.account(-1, -(limits::READ_BYTES as i64));
        let mut desks = self.desks.borrow_mut();
        if desks.len() < limits::POOL_BUFFERS {
            desk.input.clear(limits::READ_BYTES * 2);
            desk.out.clear();
            desks.push(desk);
        }
    }

    fn account(&self, count: i64, bytes: i64) {
        let cell = self.cell();
        let add = |gauge: &std::sync::atomic::AtomicU64, by: i64| {
            gauge.store(gauge.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
        };
        add(&cell.buffers, count);
        add(&cell.buffer_bytes, bytes);
    }
}

/// A client's socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Secured),
}
