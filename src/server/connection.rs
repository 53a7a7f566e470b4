//! A client's connection that stands aside (see `plain`): it speaks TLS, or needs the node that serves,
//! or watches. It reads, lets the session eat, writes once per wake-up, until nothing is under way. What
//! it is then stands in `resting`.
//!
//! Unsent replies stop it from reading, so a
//! client that never reads costs at most one reply beyond `limits::OUTPUT_PAUSE_BYTES`.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;

use super::forward::{Planned, Then, plan};
use super::gate::{Answer, Gate, Upstream};
use super::resting::{Resting, patience};
use super::session::{Action, Input, Session, UNKNOWN_AFTER_BREAK, refuse};
use super::watch::{Reason, Watching};
use super::worker::{Busy, Shared, Stream, Work};
use super::{ConnectionState, Ticket, limits};
use crate::protocol::Output;
use crate::stats::latency::Kind;

/// Goes on with what is under way and handles what follows it, until nothing is; nothing comes back if
/// the connection ends.
pub(super) async fn serve(resting: Resting, work: Work) -> Option<Resting> {
    let Resting { ticket, stream, shared, upstream, .. } = resting;
    let Work { session, input, out, awaits } = work;
    let busy = Busy::new(&shared, limits::READ_BYTES);
    let mut connection = Connection { ticket, session, stream, upstream, parked_since: None, shared };
    let stays = connection.work(input, out, awaits).await;
    drop(busy);
    if stays {
        return Some(connection.rest());
    }
    if matches!(connection.stream, Stream::Tls(_)) {
        Box::pin(connection.stream.say_goodbye()).await;
    }
    None
}

/// A connection that is never done, so nobody waits for it when the server stops.
struct Aside(Rc<Shared>);

impl Aside {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.busy.set(shared.busy.get() - 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() + 1);
    }
}

/// A connection with something under way.
struct Connection {
    ticket: Ticket,
    session: Session,
    stream: Stream,
    /// Opened when first needed.
    /// With the term it was opened in.
    upstream: Option<(u64, Box<dyn Upstream>)>,
    /// Since when the request at the front waits for somebody who serves.
    parked_since: Option<Instant>,
    shared: Rc<Shared>,
}

/// The connection is of no use any more.
#[derive(Debug)]
pub(super) struct Gone(pub(super) Reason);

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self(Reason::Error)
    }
}

impl Connection {
    /// Handles what is under way and what follows it, until nothing is. Returns whether the connection
    /// stays open.
    async fn work(&mut self, mut input: Input, mut out: Output, awaits: Option<Action>) -> bool {
        self.show(ConnectionState::Working);
        let stays = match self.turns(&mut input, &mut out, awaits).await {
            Ok(()) => true,
            Err(Gone(reason)) => {
                self.ticket.reason = reason;
                false
            }
        };
        self.shared.give_buffer(input.into_buffer());
        self.shared.give_output(out);
        stays
    }

    async fn turns(
        &mut self,
        input: &mut Input,
        out: &mut Output,
        mut next: Option<Action>,
    ) -> Result<(), Gone> {
        let mut turn = self.shared.service.config.requests_per_turn;
        loop {
            let action = match next.take() {
                Some(action) => action,
                None => {
                    self.shared.tick();
                    self.session.consume(input, out, &self.shared, &mut turn)
                }
            };
            if !matches!(action, Action::Park | Action::Forward) {
                self.parked_since = None;
            }
            match action {
                Action::Read(more) => {
                    self.flush(out).await?;
                    if input.is_empty() && !self.session.holds_body() {
                        return Ok(());
                    }
                    self.more_bytes(input, more).await?;
                    turn = self.shared.service.config.requests_per_turn;
                }
                Action::ReadBody => {
                    self.flush(out).await?;
                    self.body_bytes().await?;
                }
                Action::Again => {
                    if turn == 0 {
                        self.shared.cell().conn_yields.add(1);
                    }
                    self.flush(out).await?;
                    tokio::task::yield_now().await;
                    turn = self.shared.service.config.requests_per_turn;
                }
                Action::Flush => self.flush(out).await?,
                Action::Park => Box::pin(self.park(input, out)).await?,
                Action::Forward => Box::pin(self.forward(input, out)).await?,
                Action::Confirm => next = Box::pin(self.confirm(out)).await,
                Action::Settle => Box::pin(self.settle()).await,
                Action::Watch(kinds) => Box::pin(self.watch(kinds, out)).await?,
                Action::Close => {
                    self.flush(out).await?;
                    return Err(Gone(if self.session.said_goodbye { Reason::Normal } else { Reason::Error }));
                }
            }
        }
    }

    /// Reads at least one byte, with room for `more` and a whole read besides.
    async fn more_bytes(&mut self, input: &mut Input, more: usize) -> Result<(), Gone> {
        let patience = self.patience();
        let stream = &mut self.stream;
        let read = poll_fn(|context| {
            let buffer = input.room(more.max(limits::READ_BYTES));
            let result = stream.poll_read(context, buffer);
            if result.is_pending() {
                // Whoever sends half a command and waits holds half a command, not a whole buffer.
                buffer.shrink_to_fit();
            }
            result
        });
        let count = within(patience, read).await;
        let count = count.ok_or_else(|| self.kick())?.map_err(|error| broken(&error, &self.shared))?;
        if count == 0 {
            return Err(Gone(Reason::Normal));
        }
        self.count_read(count);
        Ok(())
    }

    /// Reads bytes of a large value to where they stay.
    async fn body_bytes(&mut self) -> Result<(), Gone> {
        let patience = self.patience();
        let (stream, session) = (&mut self.stream, &mut self.session);
        let read = poll_fn(|context| stream.poll_read_slice(context, session.body_room()));
        let count = within(patience, read).await;
        let count = count.ok_or_else(|| self.kick())?.map_err(|error| broken(&error, &self.shared))?;
        if count == 0 {
            return Err(Gone(Reason::Normal));
        }
        self.session.body_filled(count);
        self.count_read(count);
        Ok(())
    }

    /// Writes everything.
    async fn flush(&mut self, out: &mut Output) -> Result<(), Gone> {
        let patience = self.patience();
        while !out.is_empty() {
            let Self { stream, ticket, .. } = self;
            let write = poll_fn(|context| {
                let written = stream.poll_write_some(context, out);
                let state =
                    if written.is_pending() { ConnectionState::Writing } else { ConnectionState::Working };
                ticket.info.state.store(state as u8, Ordering::Relaxed);
                written
            });
            let count = within(patience, write).await;
            let count = count.ok_or_else(|| self.kick())??;
            self.shared.cell().bytes_written.add(count as u64);
        }
        if let Stream::Tls(stream) = &mut self.stream {
            let flush = pin!(poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)));
            within(patience, flush).await.ok_or_else(|| self.kick())??;
        }
        out.clear();
        Ok(())
    }

    /// Tells what happens until the client leaves. What it says meanwhile is not heard.
    async fn watch(&mut self, kinds: u32, out: &mut Output) -> Result<(), Gone> {
        let service = std::sync::Arc::clone(&self.shared.service);
        let Some(watching) = service.watchers.add(kinds) else {
            out.extend(b"WATCHER_TOO_MANY log watcher limit reached\r\n");
            return Ok(());
        };
        out.extend(b"OK\r\n");
        self.flush(out).await?;
        self.show(ConnectionState::Watching);
        let _aside = Aside::new(&self.shared);
        self.watch_lines(&watching, out).await
    }

    async fn watch_lines(&mut self, watching: &Watching, out: &mut Output) -> Result<(), Gone> {
        loop {
            let stream = &mut self.stream;
            let mut unheard = [0; 64];
            tokio::select! {
                lines = watching.lines() => {
                    out.extend(&lines);
                    self.flush(out).await?;
                    self.show(ConnectionState::Watching);
                }
                read = poll_fn(|context| stream.poll_read_slice(context, &mut unheard)) => {
                    if read? == 0 {
                        return Err(Gone(Reason::Normal));
                    }
                }
            }
        }
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
                    Err(Gone(Reason::Error))
                }
            };
        }
        // The gate may have changed between the question and this wait, so it never lasts long.
        let wait = (deadline - now).min(Duration::from_millis(20));
        let _changed_or_not = tokio::time::timeout(wait, gate.changed()).await;
        Ok(())
    }

    /// Replies go out when another node has what they promise.
    async fn confirm(&mut self, out: &mut Output) -> Option<Action> {
        let service = std::sync::Arc::clone(&self.shared.service);
        let receipt = self.session.unconfirmed();
        let how = service.gate.confirmed(receipt).await;
        self.session.confirm(how, out, &*service.gate)
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
        let planned = match plan(&self.session, input, u64::MAX) {
            Planned::Send(plan) => plan,
            Planned::Read(more) => {
                self.flush(out).await?;
                return self.more_bytes(input, more).await;
            }
            Planned::Skip => {
                self.session.skip_victim(input);
                return Ok(());
            }
            Planned::Nothing => return Ok(()),
        };
        let shared = Rc::clone(&self.shared);
        let gate = &*shared.service.gate;
        let term = gate.term();
        let mut upstream = match self.upstream.take() {
            Some((opened_in, upstream)) if opened_in == term => upstream,
            _ => match opened(&shared, term).await {
                Some(upstream) => upstream,
                // Nothing was sent: whoever serves next may execute it.
                None => return self.park(input, out).await,
            },
        };
        self.parked_since = None;
        self.shared.cell().proxied_requests.add(planned.requests);
        let mark = out.total();
        let begun = Instant::now();
        let mut passage = Passage::new(planned.then);
        let mut result = self.exchange_in(gate, term, &mut *upstream, &planned.raw, &mut passage, out).await;
        if matches!(result, Err(Broken::Upstream)) && planned.repeatable && !passage.streamed {
            // Reads do no harm twice. A stream may have been cut while it lay idle.
            out.truncate(mark);
            if gate.term() != term {
                return Ok(());
            }
            passage = Passage::new(planned.then);
            if let Some(other) = opened(&shared, term).await {
                upstream = other;
                result = self.exchange_in(gate, term, &mut *upstream, &planned.raw, &mut passage, out).await;
            }
        }
        match result {
            Ok(executed) => {
                self.shared.cell().latency.record(Kind::Forwarded, begun.elapsed());
                self.upstream = Some((term, upstream));
                let whole = executed == planned.raw.len();
                let then = planned.then;
                self.advance(input, then, executed, whole);
                Ok(())
            }
            Err(Broken::Client) => Err(Gone(Reason::Error)),
            Err(Broken::Upstream) if passage.streamed || planned.then != Then::EatExecuted => {
                // Part of an answer is out and the rest is lost: there is no way to go on.
                if planned.then == Then::Victim && !passage.streamed {
                    self.advance(input, Then::Victim, 0, true);
                    return Ok(());
                }
                self.flush(out).await?;
                Err(Gone(Reason::Error))
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

    /// Sends one batch and passes its answer on, as long as the other node is the one that serves, and
    /// a little longer: when the role was handed over it answers at once, when it hangs it never does.
    async fn exchange_in(
        &mut self,
        gate: &dyn Gate,
        term: u64,
        upstream: &mut dyn Upstream,
        raw: &[u8],
        passage: &mut Passage,
        out: &mut Output,
    ) -> Result<usize, Broken> {
        let patience = async {
            gate.ended(term).await;
            tokio::time::sleep(limits::UPSTREAM_GRACE).await;
        };
        tokio::select! {
            biased;
            result = self.exchange(upstream, raw, passage, out) => result,
            () = patience => Err(Broken::Upstream),
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
        upstream.send(raw, self.ticket.info.durable).await.map_err(|_| Broken::Upstream)?;
        loop {
            match upstream.receive().await.map_err(|_| Broken::Upstream)? {
                Answer::Part(bytes) => {
                    passage.part(&bytes, out);
                    if out.len() > limits::FORWARD_REPLY_BYTES {
                        passage.streamed = true;
                        self.flush(out).await.map_err(|_| Broken::Client)?;
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
        count_read(&self.ticket, &self.shared, count);
    }

    fn show(&self, state: ConnectionState) {
        self.ticket.info.state.store(state as u8, Ordering::Relaxed);
    }

    fn patience(&self) -> Option<Duration> {
        patience(Some(&self.session), &self.shared)
    }

    fn kick(&self) -> Gone {
        kick(&self.shared)
    }

    /// Nothing is under way any more.
    fn rest(self) -> Resting {
        let Self { ticket, session, stream, upstream, shared, .. } = self;
        let protocol = session.codec.protocol();
        let is_kept = session.is_midway() || session.entrance.is_some();
        let session = is_kept.then(|| Box::new(session));
        Resting { upstream, ..Resting::new(ticket, stream, shared, session, protocol) }
    }
}

/// Nothing can be read any more. What is no TLS, but should be, is counted.
pub(super) fn broken(error: &io::Error, shared: &Shared) -> Gone {
    if error.kind() == io::ErrorKind::InvalidData {
        shared.service.stats.tls.protocol_errors.fetch_add(1, Ordering::Relaxed);
    }
    Gone(Reason::Error)
}

/// A client sent something.
pub(super) fn count_read(ticket: &Ticket, shared: &Shared, count: usize) {
    shared.cell().bytes_read.add(count as u64);
    ticket.info.last_command.store(shared.service.clock.now().secs, Ordering::Relaxed);
}

/// A client was silent for too long.
pub(super) fn kick(shared: &Shared) -> Gone {
    shared.cell().idle_kicks.add(1);
    Gone(Reason::IdleTimeout)
}

/// A stream to the node that serves, unless that changes before there is one. That node has few places for
/// those who have proven nothing yet, so not all connections knock at once, nor again at once.
async fn opened(shared: &Shared, term: u64) -> Option<Box<dyn Upstream>> {
    let gate = &*shared.service.gate;
    let opening = async {
        let _turn = shared.opening.acquire().await.ok()?;
        let opened = gate.upstream().await.ok();
        if opened.is_none() {
            tokio::time::sleep(limits::UPSTREAM_PAUSE).await;
        }
        opened
    };
    tokio::select! {
        biased;
        upstream = opening => upstream,
        () = gate.ended(term) => None,
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

/// A write of several pieces.
pub(super) fn write_slices<T>(out: &Output, write: impl FnOnce(&[io::IoSlice<'_>]) -> T) -> T {
    let mut slices = [io::IoSlice::new(&[]); limits::WRITE_SLICES];
    let count = out.slices(&mut slices);
    write(&slices[..count])
}

/// The future's value, unless it takes longer than the limit, if there is one.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

impl Stream {
    /// Reads into the buffer's free room. Unlike a mere attempt this notes that a short read emptied
    /// the socket, so that the next wait costs no system call.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => tokio_util::io::poll_read_buf(Pin::new(stream), context, buffer),
            Self::Unix(stream) => tokio_util::io::poll_read_buf(Pin::new(stream), context, buffer),
            Self::Tls(stream) => tokio_util::io::poll_read_buf(Pin::new(stream), context, buffer),
            Self::Peer(stream) => tokio_util::io::poll_read_buf(Pin::new(stream), context, buffer),
        }
    }

    /// Reads into a slice.
    pub(super) fn poll_read_slice(
        &mut self,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut target = ReadBuf::new(target);
        let polled = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, &mut target),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, &mut target),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, &mut target),
            Self::Peer(stream) => Pin::new(stream).poll_read(context, &mut target),
        };
        polled.map_ok(|()| target.filled().len())
    }

    /// One write of as much as the other end takes, at least one byte.
    pub(super) fn poll_write_some(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<io::Result<usize>> {
        let written = loop {
            let result = match self {
                Self::Tcp(stream) => match out.piece() {
                    Some(bytes) => stream.try_write(bytes),
                    None => write_slices(out, |slices| stream.try_write_vectored(slices)),
                },
                Self::Unix(stream) => match out.piece() {
                    Some(bytes) => stream.try_write(bytes),
                    None => write_slices(out, |slices| stream.try_write_vectored(slices)),
                },
                Self::Tls(stream) => {
                    let mut first = [io::IoSlice::new(&[])];
                    out.slices(&mut first);
                    break ready!(Pin::new(stream).poll_write(context, &first[0]))?;
                }
                Self::Peer(stream) => {
                    let mut first = [io::IoSlice::new(&[])];
                    out.slices(&mut first);
                    break ready!(Pin::new(stream).poll_write(context, &first[0]))?;
                }
            };
            match result {
                Ok(written) => break written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(match self {
                    Self::Tcp(stream) => stream.poll_write_ready(context),
                    Self::Unix(stream) => stream.poll_write_ready(context),
                    Self::Tls(_) | Self::Peer(_) => Poll::Ready(Ok(())),
                })?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Says under TLS that nothing more will come, so that the client can tell an end from a cut.
    async fn say_goodbye(&mut self) {
        if let Self::Tls(stream) = self {
            let goodbye = poll_fn(|context| Pin::new(&mut *stream).poll_shutdown(context));
            let _told_or_not = tokio::time::timeout(limits::TLS_GOODBYE, goodbye).await;
        }
    }
}
