//! A connection that stands aside and has nothing under way at this moment.
//!
//! Intuition: while it rests, its task is a few words by itself: a socket and what must not be forgotten.
//! Only while something is under way does it own a session, a buffer and the state of its work, in a box
//! that is given back with the last answer. Whoever needs nothing but a plain socket from here on goes
//! back to the worker's own connections.
//!
//! Promise: a resting connection costs its registration, its line in `stats conns` and a task of two
//! cache line pairs.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use super::auth::Entrance;
use super::connection::{self, Gone};
use super::gate::Upstream;
use super::plain::Home;
use super::session::{Input, Session};
use super::tls::Security;
use super::watch::Reason;
use super::worker::{Arrival, Shared, Socket, Stream, Work};
use super::{ConnectionState, Ticket, limits};
use crate::protocol::Protocol;

/// A connection's task.
pub(super) struct Client(State);

enum State {
    Resting(Resting),
    Busy(Pin<Box<dyn Future<Output = Option<Resting>>>>),
    Gone,
}

/// What is kept while nothing is under way.
pub(super) struct Resting {
    /// Before the socket, so that its end is told before its descriptor is somebody else's.
    pub(super) ticket: Ticket,
    pub(super) stream: Stream,
    pub(super) shared: Rc<Shared>,
    /// Opened when first needed, with the term it was opened in.
    pub(super) upstream: Option<(u64, Box<dyn Upstream>)>,
    /// What it is in the middle of, if it is: a body that is thrown away, a line of keys, or saying who it is.
    pub(super) session: Option<Box<Session>>,
    /// When its patience ends (`idle_timeout`).
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// What it speaks, as far as it is decided.
    pub(super) protocol: Protocol,
}

impl Client {
    /// The task of a connection that just arrived and speaks TLS, or has to say who it is.
    pub(super) fn arrived(shared: Rc<Shared>, arrival: Arrival) -> io::Result<Self> {
        let Arrival { socket, protocol, security, mut ticket, .. } = arrival;
        let rest = move |stream, shared: Rc<Shared>, ticket: Ticket| {
            let session = shared.service.auth.is_required().then(|| {
                let entrance = Some(Entrance::new());
                let session = Session::new(protocol, &shared.service, ticket.info.descriptor, entrance);
                Box::new(session.made_durable(ticket.info.durable))
            });
            Resting::new(ticket, stream, shared, session, protocol)
        };
        let stream = match socket.registered()? {
            Stream::Tcp(stream) if security != Security::Plain => {
                let handshake = async move {
                    let service = &shared.service;
                    let secured = match &service.tls {
                        Some(tls) => tls.accept(security, stream, &service.stats.tls).await,
                        // No listener is like that.
                        None => None,
                    };
                    if secured.is_none() {
                        ticket.reason = Reason::Error;
                    }
                    Some(rest(Stream::Tls(secured?), shared, ticket))
                };
                return Ok(Self(State::Busy(Box::pin(handshake))));
            }
            stream => stream,
        };
        Ok(Self(State::Resting(rest(stream, shared, ticket))))
    }

    /// The task of a connection that has something under way which needs more than its socket.
    pub(super) fn busy(shared: Rc<Shared>, ticket: Ticket, socket: Socket, work: Work) -> io::Result<Self> {
        let protocol = work.session.codec.protocol();
        let resting = Resting::new(ticket, socket.registered()?, shared, None, protocol);
        Ok(Self(State::Busy(Box::pin(connection::serve(resting, work)))))
    }
}

impl Socket {
    /// The same, known to the runtime.
    fn registered(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Future for Client {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let state = &mut self.get_mut().0;
        loop {
            match mem::replace(state, State::Gone) {
                State::Resting(mut resting) => match resting.poll_first_bytes(context) {
                    Poll::Pending => {
                        *state = State::Resting(resting);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(buffer)) => {
                        let work = resting.work(buffer);
                        *state = State::Busy(Box::pin(connection::serve(resting, work)));
                    }
                    Poll::Ready(Err(Gone(reason))) => resting.ticket.reason = reason,
                },
                State::Busy(mut work) => match work.as_mut().poll(context) {
                    Poll::Pending => {
                        *state = State::Busy(work);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(resting)) if !resting.shared.draining.get() => {
                        if let Some(stays) = resting.or_home() {
                            *state = State::Resting(stays);
                        }
                    }
                    Poll::Ready(_) => {}
                },
                State::Gone => return Poll::Ready(()),
            }
        }
    }
}

impl Resting {
    pub(super) fn new(
        ticket: Ticket,
        stream: Stream,
        shared: Rc<Shared>,
        session: Option<Box<Session>>,
        protocol: Protocol,
    ) -> Self {
        ticket.info.state.store(ConnectionState::Waiting as u8, Ordering::Relaxed);
        Self { ticket, stream, shared, upstream: None, session, timer: None, protocol }
    }

    /// Sends a connection home that needs nothing but its socket; others stay.
    fn or_home(mut self) -> Option<Self> {
        // A stream to a node that served in another term is of no use any more.
        let term = self.shared.service.gate.term();
        self.upstream.take_if(|(opened_in, _)| *opened_in != term);
        let stranger = self.session.as_ref().is_some_and(|session| session.entrance.is_some());
        if self.upstream.is_some() || stranger {
            return Some(self);
        }
        let socket = match self.stream {
            Stream::Tls(_) | Stream::Peer(_) => return Some(self),
            Stream::Tcp(stream) => stream.into_std().map(Socket::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Socket::Unix),
        };
        // A socket that cannot be told from its registration is closed.
        if let Ok(socket) = socket {
            let Self { ticket, shared, session, protocol, .. } = self;
            shared.go_home(Home { ticket, socket, protocol, session });
        }
        None
    }

    /// What these first bytes put under way.
    fn work(&mut self, buffer: Vec<u8>) -> Work {
        connection::count_read(&self.ticket, &self.shared, buffer.len());
        let descriptor = self.ticket.info.descriptor;
        let session = match self.session.take() {
            Some(session) => *session,
            None => Session::new(self.protocol, &self.shared.service, descriptor, None)
                .made_durable(self.ticket.info.durable),
        };
        Work { session, input: Input::new(buffer), out: self.shared.take_output(), awaits: None }
    }

    /// Waits for bytes without holding a buffer.
    fn poll_first_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Gone>> {
        let mut buffer = self.shared.take_buffer();
        buffer.reserve(limits::READ_BYTES);
        let read = self.stream.poll_read(context, &mut buffer);
        if let Poll::Ready(Ok(1..)) = read {
            self.timer = None;
            return Poll::Ready(Ok(buffer));
        }
        self.shared.give_buffer(buffer);
        match read {
            // No bytes and no error: the client closed.
            Poll::Ready(Ok(_)) => Poll::Ready(Err(Gone(Reason::Normal))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(connection::broken(&error, &self.shared))),
            Poll::Pending => self.poll_patience(context),
        }
    }

    fn poll_patience<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Gone>> {
        let Some(limit) = patience(self.session.as_deref(), &self.shared) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(context).map(|()| Err(connection::kick(&self.shared)))
    }
}

/// How long a client may still be silent, if there is a limit.
pub(super) fn patience(session: Option<&Session>, shared: &Shared) -> Option<Duration> {
    let idle = shared.service.stats.idle_timeout();
    let Some(entrance) = session.and_then(|session| session.entrance.as_ref()) else { return idle };
    let left = entrance.closes.saturating_duration_since(Instant::now());
    Some(idle.map_or(left, |idle| idle.min(left)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ConnectionInfo;

    #[test]
    fn a_resting_connection_is_small() {
        // With this the runtime's task takes 256 bytes, as its registration does.
        assert!(size_of::<Client>() <= 120, "{}", size_of::<Client>());
        assert!(size_of::<ConnectionInfo>() <= 56, "{}", size_of::<ConnectionInfo>());
    }
}
