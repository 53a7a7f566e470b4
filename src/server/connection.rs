//! A client's connection: reads, lets the session eat, writes once per wake-up, and waits.
//!
//! While nothing is under way a connection holds no buffer. Unsent replies stop it from reading, so a
//! client that never reads costs at most one reply beyond `limits::OUTPUT_PAUSE_BYTES`.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::forward::{Planned, Then, plan};
use super::gate::{Answer, Upstream};
use super::session::{Action, Input, Session, UNKNOWN_AFTER_BREAK, refuse};
use super::worker::{Desk, Shared, Stream};
use super::{ConnectionState, Ticket, limits};
use crate::protocol::{Output, Protocol};

/// Serves one client until it leaves.
pub(super) async fn serve(shared: Rc<Shared>, stream: Stream, protocol: Protocol, ticket: Ticket) {
    let session = Session::new(protocol, &shared.service, ticket.info.descriptor);
    let mut connection = Connection { session, stream, ticket, upstream: None, parked_since: None, shared };
    while !connection.shared.draining.get() {
        let Ok(mut desk) = connection.first_bytes().await else { return };
        let busy = Busy::new(&connection.shared);
        let stays = connection.work(&mut desk).await;
        drop(busy);
        connection.shared.give_desk(desk);
        if !stays {
            return;
        }
    }
}

/// Counts a connection that has something under way.
struct Busy(Rc<Shared>);

impl Busy {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.busy.set(shared.busy.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

struct Connection {
    session: Session,
    stream: Stream,
    ticket: Ticket,
    /// Opened when first needed.
    upstream: Option<Box<dyn Upstream>>,
    /// Since when the request at the front waits for somebody who serves.
    parked_since: Option<Instant>,
    shared: Rc<Shared>,
}

/// The connection is of no use any more.
#[derive(Debug)]
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Connection {
    /// Waits for bytes without holding a buffer.
    async fn first_bytes(&mut self) -> Result<Box<Desk>, Gone> {
        self.show(ConnectionState::Waiting);
        let Self { stream, shared, .. } = self;
        let wait = poll_fn(|context| shared.poll_desk(stream, context));
        let desk = match shared.service.config.idle_timeout {
            None => wait.await?,
            Some(limit) => match tokio::time::timeout(limit, wait).await {
                Ok(desk) => desk?,
                Err(_elapsed) => return Err(self.kick()),
            },
        };
        self.count_read(desk.input.len());
        Ok(desk)
    }

    /// Handles what was read and what follows it, until nothing is under way. Returns whether the
    /// connection stays open.
    async fn work(&mut self, desk: &mut Desk) -> bool {
        self.show(ConnectionState::Working);
        self.turns(&mut desk.input, &mut desk.out).await.unwrap_or(false)
    }

    async fn turns(&mut self, input: &mut Input, out: &mut Output) -> Result<bool, Gone> {
        let mut turn = self.shared.service.config.requests_per_turn;
        loop {
            let action = self.session.consume(input, out, &self.shared, &mut turn);
            if !matches!(action, Action::Park | Action::Forward) {
                self.parked_since = None;
            }
            match action {
                Action::Read(more) => {
                    self.flush(out).await?;
                    if input.is_empty() && !self.session.holds_body() {
                        return Ok(true);
                    }
                    self.more_bytes(input, more).await?;
                    turn = self.shared.service.config.requests_per_turn;
                }
                Action::ReadBody => {
                    self.flush(out).await?;
                    self.body_bytes().await?;
                }
                Action::Again => {
                    self.flush(out).await?;
                    tokio::task::yield_now().await;
                    turn = self.shared.service.config.requests_per_turn;
                }
                Action::Flush => self.flush(out).await?,
                Action::Park => Box::pin(self.park(input, out)).await?,
                Action::Forward => Box::pin(self.forward(input, out)).await?,
                Action::Settle => Box::pin(self.settle()).await,
                Action::Close => {
                    self.flush(out).await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Reads at least one byte, with room for `more` and a whole read besides.
    async fn more_bytes(&mut self, input: &mut Input, more: usize) -> Result<(), Gone> {
        let stream = &mut self.stream;
        let read = poll_fn(|context| {
            let result = stream.poll_read(context, input.room(more.max(limits::READ_BYTES)));
            if result.is_pending() {
                // Whoever sends half a command and waits holds half a command, not a whole buffer.
                input.shrink();
            }
            result
        });
        let count = within(self.shared.service.config.idle_timeout, read).await;
        let count = count.ok_or_else(|| self.kick())??;
        if count == 0 {
            return Err(Gone);
        }
        input.fill(count);
        self.count_read(count);
        Ok(())
    }

    /// Reads bytes of a large value to where they stay.
    async fn body_bytes(&mut self) -> Result<(), Gone> {
        let (stream, session) = (&mut self.stream, &mut self.session);
        let read = poll_fn(|context| stream.poll_read(context, session.body_room()));
        let count = within(self.shared.service.config.idle_timeout, read).await;
        let count = count.ok_or_else(|| self.kick())??;
        if count == 0 {
            return Err(Gone);
        }
        self.session.body_filled(count);
        self.count_read(count);
        Ok(())
    }

    /// Writes everything.
    async fn flush(&mut self, out: &mut Output) -> Result<(), Gone> {
        while !out.is_empty() {
            match write_some(&self.stream, out) {
                Ok(count) => self.shared.cell().bytes_written.add(count as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.show(ConnectionState::Writing);
                    let writable = pin!(self.stream.writable());
                    within(self.shared.service.config.idle_timeout, writable)
                        .await
                        .ok_or_else(|| self.kick())??;
                    self.show(ConnectionState::Working);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        out.clear();
        Ok(())
    }

    /// Nobody serves: waits for that to change, up to the limit, then says why not.
    async fn park(&mut self, input: &mut Input, out: &mut Output) -> Result<(), Gone> {
        self.flush(out).await?;
        let service = std::sync::Arc::clone(&self.shared.service);
        let gate = &*service.gate;
        let since = *self.parked_since.get_or_insert_with(Instant::now);
        let deadline = since + gate.park_limit();
        let now = Instant::now();
        if now >= deadline {
            return match self.session.refuse_front(input, gate.park_reason(), out) {
                None => {
                    // The next request has waited as long as this one, but may wait anew.
                    self.parked_since = None;
                    Ok(())
                }
                Some(Action::Read(more)) => self.more_bytes(input, more).await,
                Some(_) => {
                    self.flush(out).await?;
                    Err(Gone)
                }
            };
        }
        // The gate may have changed between the question and this wait, so it never lasts long.
        let wait = (deadline - now).min(Duration::from_millis(20));
        let _changed_or_not = tokio::time::timeout(wait, gate.changed()).await;
        Ok(())
    }

    /// Answers about unknown outcomes go out when it is known again who serves.
    async fn settle(&mut self) {
        let service = std::sync::Arc::clone(&self.shared.service);
        let gate = &*service.gate;
        let _changed_or_not = tokio::time::timeout(gate.park_limit(), gate.changed()).await;
    }

    /// Hands requests to the node that serves, and its answers to the client.
    async fn forward(&mut self, input: &mut Input, out: &mut Output) -> Result<(), Gone> {
        if let Some(raw) = self.session.take_body(input) {
            input.put_back(&raw);
        }
        let planned = match plan(&self.session, input) {
            Planned::Send(plan) => plan,
            Planned::Read(more) => {
                self.flush(out).await?;
                return self.more_bytes(input, more).await;
            }
            Planned::Nothing => return Ok(()),
        };
        let service = std::sync::Arc::clone(&self.shared.service);
        let mut upstream = match self.upstream.take() {
            Some(upstream) => upstream,
            None => match service.gate.upstream().await {
                Ok(upstream) => upstream,
                // Nothing was sent: whoever serves next may execute it.
                Err(_) => return self.park(input, out).await,
            },
        };
        self.parked_since = None;
        self.shared.cell().proxied_requests.add(planned.requests);
        let mark = out.total();
        let mut passage = Passage::new(planned.then);
        let mut result = self.exchange(&mut *upstream, &planned.raw, &mut passage, out).await;
        if matches!(result, Err(Broken::Upstream)) && planned.repeatable && !passage.streamed {
            // Reads do no harm twice. A stream may have been cut while it lay idle.
            out.truncate(mark);
            passage = Passage::new(planned.then);
            if let Ok(other) = service.gate.upstream().await {
                upstream = other;
                result = self.exchange(&mut *upstream, &planned.raw, &mut passage, out).await;
            }
        }
        match result {
            Ok(executed) => {
                self.upstream = Some(upstream);
                let whole = executed == planned.raw.len();
                let then = planned.then;
                self.advance(input, then, executed, whole);
                Ok(())
            }
            Err(Broken::Client) => Err(Gone),
            Err(Broken::Upstream) if passage.streamed || planned.then != Then::EatExecuted => {
                // Part of an answer is out and the rest is lost: there is no way to go on.
                if planned.then == Then::Victim && !passage.streamed {
                    self.advance(input, Then::Victim, 0, true);
                    return Ok(());
                }
                self.flush(out).await?;
                Err(Gone)
            }
            Err(Broken::Upstream) => {
                out.truncate(mark);
                refuse(&planned.raw, &self.session.codec, UNKNOWN_AFTER_BREAK, out);
                let count = planned.raw.len();
                input.eat(count);
                Ok(())
            }
        }
    }

    /// Takes out of the input what was executed elsewhere.
    fn advance(&mut self, input: &mut Input, then: Then, executed: usize, whole: bool) {
        match then {
            Then::EatExecuted => input.eat(executed.min(input.len())),
            _ if !whole => {}
            Then::EatLine(count) => {
                input.eat(count);
                self.session.restart();
            }
            Then::EatKeys(count) => input.eat(count),
            Then::Victim => self.session.skip_victim(input),
        }
    }

    /// Sends one batch and passes its answer on.
    async fn exchange(
        &mut self,
        upstream: &mut dyn Upstream,
        raw: &[u8],
        passage: &mut Passage,
        out: &mut Output,
    ) -> Result<usize, Broken> {
        upstream.send(raw).await.map_err(|_| Broken::Upstream)?;
        loop {
            match upstream.receive().await.map_err(|_| Broken::Upstream)? {
                Answer::Part(bytes) => {
                    passage.part(&bytes, out);
                    if out.len() > limits::FORWARD_REPLY_BYTES {
                        passage.streamed = true;
                        self.flush(out).await.map_err(|Gone| Broken::Client)?;
                    }
                }
                Answer::Done(executed) => {
                    passage.done(out);
                    return Ok(executed.min(raw.len()));
                }
            }
        }
    }

    fn count_read(&self, count: usize) {
        self.shared.cell().bytes_read.add(count as u64);
        // The second of the worker's last batch is near enough.
        self.ticket.info.last_command.store(self.shared.secs.get(), Ordering::Relaxed);
    }

    fn show(&self, state: ConnectionState) {
        self.ticket.info.state.store(state as u8, Ordering::Relaxed);
    }

    fn kick(&self) -> Gone {
        self.shared.cell().idle_kicks.add(1);
        Gone
    }
}

/// What broke while requests were elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Client,
    Upstream,
}

/// An answer on its way from upstream to the client.
#[derive(Debug)]
struct Passage {
    then: Then,
    /// Part of it was written to the client.
    streamed: bool,
    /// The last bytes, if they may be an `END` that is not the client's.
    tail: Vec<u8>,
}

impl Passage {
    const END: &[u8] = b"END\r\n";

    const fn new(then: Then) -> Self {
        Self { then, streamed: false, tail: Vec::new() }
    }

    fn part(&mut self, bytes: &[u8], out: &mut Output) {
        match self.then {
            Then::Victim => {}
            Then::EatKeys(_) => {
                self.tail.extend_from_slice(bytes);
                let ready = self.tail.len().saturating_sub(Self::END.len());
                out.extend(&self.tail[..ready]);
                self.tail.drain(..ready);
            }
            Then::EatExecuted | Then::EatLine(_) => out.extend(bytes),
        }
    }

    fn done(&mut self, out: &mut Output) {
        if self.tail != Self::END {
            out.extend(&self.tail);
        }
        self.tail.clear();
    }
}

/// One write of as much as the kernel takes.
pub(super) fn write_some(stream: &Stream, out: &mut Output) -> io::Result<usize> {
    let written = match out.piece() {
        Some(bytes) => stream.try_write(bytes)?,
        None => write_slices(stream, out)?,
    };
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    out.advance(written);
    Ok(written)
}

fn write_slices(stream: &Stream, out: &Output) -> io::Result<usize> {
    let mut slices = [io::IoSlice::new(&[]); limits::WRITE_SLICES];
    let count = out.slices(&mut slices);
    stream.try_write_vectored(&slices[..count])
}

/// The future's value, unless it takes longer than the limit, if there is one.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

impl Stream {
    /// Reads into a slice. Unlike a mere attempt this notes that a short read emptied the socket, so
    /// that the next wait costs no system call.
    #[inline]
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut target = ReadBuf::new(target);
        let polled = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, &mut target),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, &mut target),
        };
        polled.map_ok(|()| target.filled().len())
    }
}
