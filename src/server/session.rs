//! A connection without its socket: bytes in, replies out.
//!
//! [`Session::consume`] eats from an [`Input`], writes into an [`Output`] and says what it waits for.
//! It never blocks and never touches a socket, so the same code runs under any way of doing I/O, and
//! behind the peer's proxy.
//!
//! A turn is: ask the gate, decode a batch, execute it, tell the gate, and only then let the replies
//! go. What is not executed here stays in the input, so whoever serves next finds it whole.

use std::sync::atomic::Ordering;

use super::auth::Entrance;
use super::gate::{Admission, Confirmation, Gate, Receipt};
use super::watch::{Witness, kind};
use super::worker::Shared;
use super::{Service, auth, dispatch, dump::Dump, echo, limits};
use crate::command::{Command, Now, Op, Outcome, Pages, Refusal, Replies};
use crate::engine::Reserved;
use crate::protocol::{Batch, Codec, Decoded, Form, Limits, Output, Protocol, Request, Session as Asked};
use crate::stats::{Counted, Detail};

/// Bytes that arrived and were not eaten yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    eaten: usize,
}

impl Input {
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, eaten: 0 }
    }

    /// What is there.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.eaten..]
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.eaten
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) const fn eat(&mut self, count: usize) {
        self.eaten += count;
        debug_assert!(self.eaten <= self.bytes.len());
    }

    /// The buffer to read into, with room for `room` bytes; what was eaten is gone.
    pub(super) fn room(&mut self, room: usize) -> &mut Vec<u8> {
        if self.is_empty() {
            self.clear();
        } else if self.eaten > 0 {
            self.bytes.drain(..self.eaten);
            self.eaten = 0;
        }
        self.bytes.reserve(room);
        &mut self.bytes
    }

    /// Puts bytes behind what is there.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what is there.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.eaten = 0;
    }

    /// Gives memory back beyond that capacity.
    pub(super) fn shrink(&mut self, capacity: usize) {
        self.bytes.shrink_to(capacity);
    }

    /// Puts bytes back in front.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.bytes.splice(..self.eaten, bytes.iter().copied());
        self.eaten = 0;
    }

    /// The buffer itself, back to where it came from.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a session waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// At least that many more bytes in the input.
    Read(usize),
    /// Bytes of a large value: fill [`Session::body_room`].
    ReadBody,
    /// Its next turn: others come first.
    Again,
    /// Room: replies must be written first.
    Flush,
    /// Somebody who serves.
    Park,
    /// The node that serves: requests are to be handed to it.
    Forward,
    /// To know who serves, before the replies in the output may go.
    Settle,
    /// To know that another node has what was written, before the replies may go: take
    /// [`Session::unconfirmed`], ask the gate, and say so by [`Session::confirm`].
    Confirm,
    /// Nothing more: it is told what happens, of these kinds, until it closes.
    Watch(u32),
    /// Nothing: write what is left, then close.
    Close,
}

impl Action {
    /// Whether it takes more than the connection's own socket, and more than a place to wait at.
    #[inline]
    pub(super) const fn is_about_others(&self) -> bool {
        matches!(self, Self::Park | Self::Forward | Self::Settle | Self::Watch(_))
    }
}

/// One connection's protocol and what it is in the middle of.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) codec: Codec,
    body: Option<Box<Body>>,
    pub(super) dump: Option<Box<Dump>>,
    /// While it has not said yet who it is: what is left to it until then.
    pub(super) entrance: Option<Entrance>,
    /// It was the client who wanted to close.
    pub(super) said_goodbye: bool,
    /// Descriptor, for lines of `-vv` and of watchers.
    descriptor: i32,
    /// All its writes wait until another node has them, whatever the node's policy.
    durable: bool,
    /// Replies in the output that another node has to make true first.
    unconfirmed: Option<Box<Unconfirmed>>,
}

/// Replies that must not go yet.
#[derive(Debug)]
struct Unconfirmed {
    receipt: Receipt,
    /// What the session wanted when it stopped for this.
    next: Option<Action>,
    /// Instead of everything behind `mark`, should the client have to be told.
    refusal: Option<Instead>,
    mark: usize,
}

/// What is said instead of replies that came to nothing.
#[derive(Debug)]
enum Instead {
    /// These.
    Replies(Vec<u8>),
    /// Half an answer can not be taken back.
    Close,
}

/// A large value on its way in.
struct Body {
    head: Vec<u8>,
    trailer_len: usize,
    value_len: usize,
    /// Bytes still missing.
    missing: usize,
    /// Chunk that is being filled, and how much of it is.
    chunk: usize,
    filled: usize,
    reserved: Option<Reserved>,
    pages: Option<Pages>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Body {
    /// The room to be filled next.
    fn room(&mut self) -> &mut [u8] {
        let Some(reserved) = &mut self.reserved else { return &mut [] };
        while reserved.chunks.get(self.chunk).is_some_and(|chunk| chunk.len() == self.filled) {
            self.chunk += 1;
            self.filled = 0;
        }
        match reserved.chunks.get_mut(self.chunk) {
            Some(chunk) => {
                let end = chunk.len().min(self.filled + self.missing);
                &mut chunk[self.filled..end]
            }
            None => &mut [],
        }
    }

    fn filled(&mut self, count: usize) {
        self.filled += count;
        self.missing -= count;
    }

    /// Takes what the input has.
    fn fill_from(&mut self, input: &mut Input) {
        while self.missing > 0 && !input.is_empty() {
            let room = self.room();
            let count = room.len().min(input.len());
            if count == 0 {
                return;
            }
            room[..count].copy_from_slice(&input.bytes()[..count]);
            self.filled(count);
            input.eat(count);
        }
    }

    /// The whole value.
    fn pages(&mut self) -> Pages {
        if let Some(reserved) = self.reserved.take() {
            self.pages = Some(reserved.freeze());
        }
        self.pages.clone().unwrap_or_else(|| Pages::new([]))
    }
}

/// What ended a batch.
enum End<'b> {
    /// It is full, or its turn is over.
    Full,
    /// No whole request is left: that many more bytes at least.
    Incomplete(usize),
    /// An answer without an engine.
    Say(std::borrow::Cow<'static, [u8]>),
    /// A request for the server.
    Asked(Asked<'b>, Form<'b>),
    /// A large value begins.
    Body {
        head_len: usize,
        value_len: usize,
        trailer_len: usize,
    },
    Close(&'static str),
}

impl Session {
    pub(super) fn new(
        protocol: Protocol,
        service: &Service,
        descriptor: i32,
        entrance: Option<Entrance>,
    ) -> Self {
        Self {
            codec: Codec::new(protocol, service.protocol_limits()),
            body: None,
            dump: None,
            entrance,
            said_goodbye: false,
            descriptor,
            durable: false,
            unconfirmed: None,
        }
    }

    /// Begins anew for another connection; it has nothing under way.
    #[inline]
    pub(super) fn begin(&mut self, protocol: Protocol, descriptor: i32, durable: bool) {
        debug_assert!(!self.is_midway() && self.entrance.is_none() && self.unconfirmed.is_none());
        self.codec.set_protocol(protocol);
        self.said_goodbye = false;
        self.descriptor = descriptor;
        self.durable = durable;
    }

    /// A session for requests that were checked at their entrance.
    pub(super) fn trusted(service: &Service, descriptor: i32) -> Self {
        Self::new(Protocol::Auto, service, descriptor, None)
    }

    /// All its writes wait until another node has them.
    pub(super) fn made_durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// Whether something is under way that the input does not show.
    pub(super) const fn is_midway(&self) -> bool {
        self.body.is_some() || self.dump.is_some() || self.codec.is_midway()
    }

    /// Whether a large value is on its way in.
    pub(super) const fn holds_body(&self) -> bool {
        self.body.is_some()
    }

    /// Goes over a store that is too large: the node that serves has dropped its victim, what is left
    /// is to throw its body away and to say so.
    pub(super) fn skip_victim(&mut self, input: &mut Input) {
        if let Decoded::Request { request: Request::Item { .. }, used } = self.codec.decode(input.bytes()) {
            input.eat(used);
        }
    }

    /// Forgets in the middle of which request it was.
    pub(super) fn restart(&mut self) {
        self.codec = Codec::new(self.codec.protocol(), *self.codec.limits());
    }

    /// Where bytes of a large value go; see [`Action::ReadBody`].
    pub(super) fn body_room(&mut self) -> &mut [u8] {
        match &mut self.body {
            Some(body) => body.room(),
            None => &mut [],
        }
    }

    /// That many bytes were read into [`Session::body_room`].
    pub(super) fn body_filled(&mut self, count: usize) {
        if let Some(body) = &mut self.body {
            body.filled(count);
        }
    }

    /// A large value that is here whole, as the client sent it: for the node that serves.
    pub(super) fn take_body(&mut self, input: &mut Input) -> Option<Vec<u8>> {
        let mut body = self.body.take()?;
        let pages = body.pages();
        let mut raw = std::mem::take(&mut body.head);
        raw.reserve(pages.len() + body.trailer_len);
        for chunk in pages.chunks() {
            raw.extend_from_slice(chunk);
        }
        let trailer = body.trailer_len.min(input.len());
        raw.extend_from_slice(&input.bytes()[..trailer]);
        input.eat(trailer);
        Some(raw)
    }

    /// Eats what can be eaten. `turn` counts down the requests that others let this connection have.
    #[inline]
    pub(super) fn consume(
        &mut self,
        input: &mut Input,
        out: &mut Output,
        shared: &Shared,
        turn: &mut usize,
    ) -> Action {
        let action = self.advance(input, out, shared, turn);
        match &mut self.unconfirmed {
            Some(unconfirmed) => {
                unconfirmed.next = Some(action).filter(|action| *action != Action::Confirm);
                Action::Confirm
            }
            None => action,
        }
    }

    /// What has to be elsewhere before the replies in the output may go.
    pub(super) fn unconfirmed(&mut self) -> Receipt {
        self.unconfirmed.as_mut().map(|waiting| std::mem::take(&mut waiting.receipt)).unwrap_or_default()
    }

    /// While its replies wait it may take in more, whose replies then wait with them: so many more bytes at least.
    pub(super) fn may_read_on(&self) -> Option<usize> {
        match self.unconfirmed.as_deref()? {
            Unconfirmed { refusal: None, next: Some(Action::Read(more)), .. } => Some(*more),
            _ => None,
        }
    }

    /// It is, or it was waited for long enough. What to do next, if that was decided before.
    pub(super) fn confirm(&mut self, how: Confirmation, out: &mut Output, gate: &dyn Gate) -> Option<Action> {
        let Unconfirmed { next, refusal, mark, .. } = *self.unconfirmed.take()?;
        match how {
            Confirmation::Confirmed => return next,
            // What only this node has rests on its right to serve, as every other reply does.
            Confirmation::Degraded if gate.still_holds() => return next,
            Confirmation::Degraded => {
                out.clear();
                return Some(Action::Close);
            }
            Confirmation::Refused => {}
        }
        match refusal {
            Some(Instead::Replies(replies)) => {
                out.truncate(mark);
                out.extend(&replies);
                next
            }
            Some(Instead::Close) | None => {
                out.truncate(mark);
                Some(Action::Close)
            }
        }
    }

    /// Notes that the replies behind `mark` have to wait, if they have to.
    fn hold(&mut self, service: &Service, mark: usize, refusal: impl FnOnce(&Self) -> Instead) {
        let Some(receipt) = service.gate.receipt(self.durable) else { return };
        let refusal = service.gate.is_strict().then(|| refusal(self));
        match &mut self.unconfirmed {
            Some(waiting) => waiting.receipt.merge(&receipt),
            None => self.unconfirmed = Some(Box::new(Unconfirmed { receipt, next: None, refusal, mark })),
        }
    }

    /// Replies that may have to be taken back are not mixed with later ones.
    fn must_confirm(&self) -> bool {
        self.unconfirmed.as_ref().is_some_and(|waiting| waiting.refusal.is_some())
    }

    fn advance(&mut self, input: &mut Input, out: &mut Output, shared: &Shared, turn: &mut usize) -> Action {
        let service = &*shared.service;
        loop {
            if out.len() > limits::OUTPUT_PAUSE_BYTES {
                return Action::Flush;
            }
            if let Some(dump) = &mut self.dump {
                if dump.step(service, shared.now(), out) {
                    return Action::Again;
                }
                self.dump = None;
            }
            if self.entrance.is_some()
                && let Some(action) = self.unlock(input, out, shared)
            {
                return action;
            }
            if let Some(body) = &mut self.body {
                body.fill_from(input);
                if body.missing > 0 {
                    return Action::ReadBody;
                }
                if input.len() < body.trailer_len {
                    return Action::Read(body.trailer_len - input.len());
                }
            } else if input.is_empty() {
                return Action::Read(1);
            }
            if *turn == 0 {
                return Action::Again;
            }
            let action = match service.gate.enter(shared.index) {
                Admission::Serve => self.serve(input, out, shared, turn),
                other => self.elsewhere(other, input, out, shared, turn),
            };
            if let Some(action) = action {
                return action;
            }
            if self.must_confirm() {
                return Action::Confirm;
            }
        }
    }

    /// The gate is open: executes one batch, and what ended it.
    fn serve(
        &mut self,
        input: &mut Input,
        out: &mut Output,
        shared: &Shared,
        turn: &mut usize,
    ) -> Option<Action> {
        if self.body.is_some() {
            return self.serve_body(input, out, shared, turn);
        }
        let service = &*shared.service;
        let mark = out.total();
        let before = self.codec.is_midway().then(|| self.codec.clone());
        let echoes = service.verbosity.load(Ordering::Relaxed) >= 2;
        let now = shared.now();
        let (eaten, action, holds, retry) = {
            let mut batch = Batch::new();
            let stopwatch = shared.stopwatch();
            let (mut eaten, end) = self.gather(input.bytes(), &mut batch, *turn, echoes);
            *turn -= batch.len();
            self.execute(service, &batch, now, out);
            if let Some(since) = stopwatch {
                shared.measured(since, batch.commands());
            }
            let action = match end {
                End::Full => None,
                End::Incomplete(more) => Some(Action::Read(more)),
                End::Say(line) => {
                    *turn = turn.saturating_sub(1);
                    out.extend(&line);
                    None
                }
                End::Asked(asked, form) => {
                    *turn = turn.saturating_sub(1);
                    dispatch::answer(self, &asked, &form, now, shared, out)
                }
                End::Body { head_len, value_len, trailer_len } => {
                    let head = input.bytes()[eaten..eaten + head_len].to_vec();
                    if echoes && self.codec.protocol() != Protocol::Binary {
                        echo::request(self.descriptor, &head);
                    }
                    eaten += head_len;
                    self.begin_body(head, value_len, trailer_len, now, shared, out);
                    None
                }
                End::Close(reason) => {
                    tracing::debug!(reason, "connection closed");
                    Some(Action::Close)
                }
            };
            // Behind everything that was executed.
            let holds = service.gate.leave(shared.index);
            let retry = !holds && action != Some(Action::Close) && batch.commands().iter().all(is_pure_read);
            (eaten, action, holds, retry)
        };
        shared.cell().turns.add(1);
        if holds {
            if echoes && self.codec.protocol() != Protocol::Binary {
                let unsent = out.to_vec();
                echo::replies(self.descriptor, &unsent[unsent.len() - (out.total() - mark)..]);
            }
            let began_midway = before.is_some();
            self.hold(service, mark, |session| {
                if began_midway || session.codec.is_midway() || session.dump.is_some() {
                    return Instead::Close;
                }
                let mut replies = Output::new();
                refuse(&input.bytes()[..eaten], &session.codec, UNCONFIRMED, &mut replies);
                Instead::Replies(replies.to_vec())
            });
            input.eat(eaten);
            return action;
        }
        out.truncate(mark);
        if retry && self.body.is_none() && self.dump.is_none() && eaten > 0 {
            // Nothing but reads: they are asked again, of whoever serves now.
            match before {
                Some(before) => self.codec = before,
                None => self.restart(),
            }
            return None;
        }
        if before.is_some() || (self.codec.is_midway() && self.codec.resumption().is_some()) {
            return Some(Action::Close);
        }
        refuse(&input.bytes()[..eaten], &self.codec, UNKNOWN_AFTER_PAUSE, out);
        input.eat(eaten);
        Some(Action::Settle)
    }

    /// Decodes requests for the engine until there is a reason to stop.
    #[inline]
    fn gather<'b>(
        &mut self,
        bytes: &'b [u8],
        batch: &mut Batch<'b>,
        turn: usize,
        echoes: bool,
    ) -> (usize, End<'b>) {
        let most = turn.min(Batch::MOST);
        let mut eaten = 0;
        while batch.len() < most {
            if !echoes {
                eaten += self.codec.take_plain(&bytes[eaten..], batch, most);
                if batch.len() == most {
                    break;
                }
            }
            let rest = &bytes[eaten..];
            if rest.is_empty() {
                return (eaten, End::Incomplete(1));
            }
            let begins = echoes && !self.codec.is_midway();
            let decoded = self.codec.decode(rest);
            if begins
                && self.codec.protocol() != Protocol::Binary
                && matches!(decoded, Decoded::Request { .. })
            {
                echo::request(self.descriptor, rest);
            }
            match decoded {
                Decoded::Request { request: Request::Item { command, form }, used } => {
                    eaten += used;
                    batch.push(command, form);
                }
                Decoded::Request { request: Request::Say(line), used } => {
                    return (eaten + used, End::Say(line));
                }
                Decoded::Request { request: Request::Session { what, form }, used } => {
                    return (eaten + used, End::Asked(what, form));
                }
                Decoded::Skip { used } => eaten += used,
                Decoded::Incomplete { more } => return (eaten, End::Incomplete(more)),
                Decoded::Body { head_len, value_len, trailer_len } => {
                    return (eaten, End::Body { head_len, value_len, trailer_len });
                }
                Decoded::Close(reason) => return (eaten, End::Close(reason)),
            }
        }
        (eaten, End::Full)
    }

    #[inline]
    fn execute(&self, service: &Service, batch: &Batch<'_>, now: Now, out: &mut Output) {
        if batch.is_empty() {
            return;
        }
        let detail = &service.stats.detail;
        let detail = detail.on.load(Ordering::Relaxed).then_some(detail);
        if service.watchers.wants(kind::ITEMS) {
            for (command, form) in batch.commands().iter().zip(batch.forms()) {
                self.execute_watched(service, command, form, now, out);
            }
            return;
        }
        let mut formatter = Formatter { commands: batch.commands(), forms: batch.forms(), now, out, detail };
        service.engine.execute(batch.commands(), now, &mut formatter);
    }

    /// Somebody watches: one by one, and watchers are told.
    #[cold]
    fn execute_watched(
        &self,
        service: &Service,
        command: &Command<'_>,
        form: &Form<'_>,
        now: Now,
        out: &mut Output,
    ) {
        let detail = &service.stats.detail;
        let detail = detail.on.load(Ordering::Relaxed).then_some(detail);
        let (commands, forms) = (std::slice::from_ref(command), std::slice::from_ref(form));
        let mut formatter = Formatter { commands, forms, now, out, detail };
        let witness = Witness {
            watchers: &service.watchers,
            engine: &*service.engine,
            descriptor: self.descriptor,
            cas: service.config.cas,
            now,
        };
        witness.execute(command, form.is_meta(), &mut formatter);
    }

    /// Executes a request that stands alone.
    fn execute_one(&self, service: &Service, request: Request<'_>, now: Now, out: &mut Output) {
        match request {
            Request::Item { command, form } => {
                let mut batch = Batch::new();
                batch.push(command, form);
                self.execute(service, &batch, now, out);
            }
            Request::Say(line) => out.extend(&line),
            // A body never belongs to one.
            Request::Session { .. } => {}
        }
    }

    /// A large value follows: memory for it is taken before it is read.
    fn begin_body(
        &mut self,
        head: Vec<u8>,
        value_len: usize,
        trailer_len: usize,
        now: Now,
        shared: &Shared,
        out: &mut Output,
    ) {
        let service = &*shared.service;
        match service.engine.reserve(value_len, now) {
            Ok(reserved) => {
                let reserved = Some(reserved);
                let body = Body {
                    head,
                    trailer_len,
                    value_len,
                    missing: value_len,
                    chunk: 0,
                    filled: 0,
                    reserved,
                    pages: None,
                };
                self.body = Some(Box::new(body));
            }
            Err(_out_of_memory) => {
                let request = self.codec.refuse_body(&head, Refusal::OutOfMemory);
                self.execute_one(service, request, now, out);
            }
        }
    }

    /// The gate is open and a large value is here whole.
    fn serve_body(
        &mut self,
        input: &mut Input,
        out: &mut Output,
        shared: &Shared,
        turn: &mut usize,
    ) -> Option<Action> {
        let service = &*shared.service;
        let mark = out.total();
        if let Some(mut body) = self.body.take() {
            *turn = turn.saturating_sub(1);
            let now = shared.now();
            let pages = body.pages();
            debug_assert_eq!(pages.len(), body.value_len);
            let trailer = &input.bytes()[..body.trailer_len];
            let request = self.codec.finish_body(&body.head, pages, trailer);
            let form = match &request {
                Request::Item { form, .. } => Some(form.clone()),
                _ => None,
            };
            self.execute_one(service, request, now, out);
            let trailer_len = body.trailer_len;
            input.eat(trailer_len);
            shared.cell().turns.add(1);
            let holds = service.gate.leave(shared.index);
            if holds
                && self.codec.protocol() != Protocol::Binary
                && service.verbosity.load(Ordering::Relaxed) >= 2
            {
                let unsent = out.to_vec();
                echo::replies(self.descriptor, &unsent[unsent.len() - (out.total() - mark)..]);
            }
            if !holds {
                out.truncate(mark);
                if let Some(form) = form {
                    form.refuse(UNKNOWN_AFTER_PAUSE, out);
                }
                return Some(Action::Settle);
            }
            self.hold(service, mark, |_| {
                let mut replies = Output::new();
                if let Some(form) = &form {
                    form.refuse(UNCONFIRMED, &mut replies);
                }
                Instead::Replies(replies.to_vec())
            });
        } else {
            service.gate.leave(shared.index);
        }
        None
    }

    /// The gate is not open for everything. Requests that need no engine are answered all the same.
    fn elsewhere(
        &mut self,
        admission: Admission,
        input: &mut Input,
        out: &mut Output,
        shared: &Shared,
        turn: &mut usize,
    ) -> Option<Action> {
        let service = &*shared.service;
        let front = if self.body.is_some() { Front::Write } else { self.front(input.bytes()) };
        match (front, admission) {
            (Front::Local, _) => {
                if admission == Admission::ServeReads {
                    service.gate.leave(shared.index);
                }
                let now = shared.now();
                let (eaten, end) = self.gather_one(input.bytes());
                *turn = turn.saturating_sub(1);
                let action = match end {
                    End::Full | End::Body { .. } => None,
                    End::Incomplete(more) => Some(Action::Read(more)),
                    End::Say(line) => {
                        out.extend(&line);
                        None
                    }
                    End::Asked(asked, form) => dispatch::answer(self, &asked, &form, now, shared, out),
                    End::Close(_) => Some(Action::Close),
                };
                input.eat(eaten);
                action
            }
            (Front::Read, Admission::ServeReads) => {
                let mut one = 1;
                let action = self.serve(input, out, shared, &mut one);
                *turn = turn.saturating_sub(1);
                action
            }
            (_, Admission::Park) => Some(Action::Park),
            (_, Admission::Refuse(reason)) => self.refuse_front(input, reason, out),
            (_, Admission::ServeReads) => {
                service.gate.leave(shared.index);
                Some(Action::Forward)
            }
            (_, Admission::Forward | Admission::Serve) => Some(Action::Forward),
        }
    }

    /// What stands at the front of the input, without moving the codec.
    fn front(&self, bytes: &[u8]) -> Front {
        if self.codec.is_midway() {
            // A body or line that is thrown away needs nobody; keys of a multiget do.
            return if self.codec.resumption().is_some() { Front::Write } else { Front::Local };
        }
        let mut peek = Codec::new(self.codec.protocol(), *self.codec.limits());
        match peek.decode(bytes) {
            Decoded::Request { request: Request::Item { command, .. }, .. } => {
                if is_pure_read(&command) && !peek.is_midway() { Front::Read } else { Front::Write }
            }
            Decoded::Request { request: Request::Session { what: Asked::FlushAll(_), .. }, .. } => {
                Front::Write
            }
            Decoded::Body { .. } => Front::Write,
            _ => Front::Local,
        }
    }

    /// Decodes the one request at the front, which needs no engine.
    fn gather_one<'b>(&mut self, bytes: &'b [u8]) -> (usize, End<'b>) {
        match self.codec.decode(bytes) {
            Decoded::Skip { used } => (used, End::Full),
            Decoded::Request { request: Request::Say(line), used } => (used, End::Say(line)),
            Decoded::Request { request: Request::Session { what, form }, used } => {
                (used, End::Asked(what, form))
            }
            Decoded::Incomplete { more } => (0, End::Incomplete(more)),
            Decoded::Close(reason) => (0, End::Close(reason)),
            // The front was looked at: it is no item.
            Decoded::Request { request: Request::Item { .. }, .. } => (0, End::Full),
            Decoded::Body { head_len, value_len, trailer_len } => {
                (0, End::Body { head_len, value_len, trailer_len })
            }
        }
    }

    /// Answers the request at the front with `SERVER_ERROR reason`. Also called when it waited too long.
    pub(super) fn refuse_front(
        &mut self,
        input: &mut Input,
        reason: &str,
        out: &mut Output,
    ) -> Option<Action> {
        if let Some(mut body) = self.body.take() {
            let pages = body.pages();
            let request = self.codec.finish_body(
                &body.head,
                pages,
                &input.bytes()[..body.trailer_len.min(input.len())],
            );
            match request {
                Request::Item { form, .. } => form.refuse(reason, out),
                Request::Say(line) => out.extend(&line),
                Request::Session { .. } => {}
            }
            input.eat(body.trailer_len.min(input.len()));
            return None;
        }
        if self.codec.is_midway() {
            // Half an answer may be out already: its end says that the rest is missing.
            let end = memchr::memchr(b'\n', input.bytes());
            let (Some(end), Some(_)) = (end, self.codec.resumption()) else { return Some(Action::Close) };
            input.eat(end + 1);
            self.restart();
            out.extend(b"SERVER_ERROR ");
            out.extend(reason.as_bytes());
            out.extend(b"\r\n");
            return None;
        }
        let mut codec = Codec::new(self.codec.protocol(), *self.codec.limits());
        match codec.decode(input.bytes()) {
            Decoded::Request { request: Request::Item { .. } | Request::Session { .. }, used } => {
                if codec.is_midway() && codec.resumption().is_none() {
                    // A store that is too large: it is refused whoever serves; its body is thrown away.
                    self.skip_victim(input);
                    return None;
                }
                let whole = if codec.is_midway() {
                    match memchr::memchr(b'\n', &input.bytes()[used..]) {
                        Some(end) => used + end + 1,
                        None => return Some(Action::Close),
                    }
                } else {
                    used
                };
                refuse(&input.bytes()[..whole], &self.codec, reason, out);
                input.eat(whole);
                None
            }
            Decoded::Body { head_len, value_len, trailer_len } => {
                let whole = head_len + value_len + trailer_len;
                if input.len() < whole {
                    return Some(Action::Read(whole - input.len()));
                }
                None
            }
            _ => None,
        }
    }

    /// Lets nobody through who has not said who it is. `None` once that is done.
    fn unlock(&mut self, input: &mut Input, out: &mut Output, shared: &Shared) -> Option<Action> {
        while let Some(entrance) = &self.entrance {
            let left = entrance.bytes;
            if input.is_empty() {
                return Some(if left == 0 { Action::Close } else { Action::Read(1) });
            }
            let before = input.len();
            let action = if shared.service.config.sasl {
                self.sasl_request(left, input, out, shared)
            } else {
                self.token(left, input, out, shared)
            };
            if action.is_some() {
                return action;
            }
            if let Some(entrance) = &mut self.entrance {
                entrance.bytes = left.saturating_sub(before - input.len());
            }
        }
        None
    }

    /// The request at the front: a token or something that is refused.
    fn token(&mut self, left: usize, input: &mut Input, out: &mut Output, shared: &Shared) -> Option<Action> {
        let cell = shared.cell();
        let (used, line): (_, &[u8]) = match auth::first_command(input.bytes(), left) {
            auth::First::Incomplete => return Some(Action::Read(1)),
            auth::First::Close => return Some(Action::Close),
            auth::First::Refused { used, line } => (used, line),
            auth::First::Token { used, token } => {
                let known = auth::user_and_password(token)
                    .map(|(user, password)| shared.service.auth.admits(user, password));
                match known {
                    Some(true) => {
                        self.entrance = None;
                        (used, b"STORED\r\n")
                    }
                    Some(false) => (used, b"CLIENT_ERROR authentication failure\r\n"),
                    None => (used, b"CLIENT_ERROR bad authentication token format\r\n"),
                }
            }
        };
        cell.auth_cmds.add(1);
        if self.entrance.is_some() {
            cell.auth_errors.add(1);
        }
        out.extend(line);
        input.eat(used);
        None
    }

    /// The packet at the front: one of the few that are for everybody, or the last.
    fn sasl_request(
        &mut self,
        left: usize,
        input: &mut Input,
        out: &mut Output,
        shared: &Shared,
    ) -> Option<Action> {
        let service = &*shared.service;
        let cell = shared.cell();
        if let Some(refusal) = self.codec.refuse_stranger(input.bytes()) {
            out.extend(&refusal);
            return Some(Action::Close);
        }
        let bytes = &input.bytes()[..input.len().min(left)];
        let used = match self.codec.decode(bytes) {
            Decoded::Incomplete { more } if bytes.len() + more > left => return Some(Action::Close),
            Decoded::Incomplete { more } => return Some(Action::Read(more)),
            Decoded::Skip { used } => used,
            Decoded::Request { request: Request::Say(line), used } => {
                out.extend(&line);
                used
            }
            Decoded::Request { request: Request::Session { what, form }, used } => {
                match what {
                    Asked::SaslList => form.sasl_mechanisms("PLAIN", out),
                    Asked::Version => form.version(super::VERSION, out),
                    Asked::SaslAuth { mechanism, data } => {
                        cell.auth_cmds.add(1);
                        let plain = if mechanism == b"PLAIN" { auth::plain(data) } else { None };
                        if plain.is_some_and(|(user, password)| service.auth.admits(user, password)) {
                            self.entrance = None;
                            form.authenticated(out);
                        } else {
                            cell.auth_errors.add(1);
                            form.auth_failure(out);
                        }
                    }
                    _ => {
                        cell.auth_cmds.add(1);
                        cell.auth_errors.add(1);
                        form.auth_failure(out);
                    }
                }
                used
            }
            // Not for strangers: refused above.
            Decoded::Request { request: Request::Item { .. }, .. }
            | Decoded::Body { .. }
            | Decoded::Close(_) => return Some(Action::Close),
        };
        input.eat(used);
        None
    }
}

/// What stands at the front of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// Something any node answers.
    Local,
    /// A read without side effects.
    Read,
    /// Anything else.
    Write,
}

/// Told to clients whose writes were executed here and are not known to be on the other node.
const UNCONFIRMED: &str =
    "not confirmed by the backup in time: it is stored here, and lost if this node is lost now";
/// Told to clients whose requests were executed while this node did not know that it no longer serves.
pub(super) const UNKNOWN_AFTER_PAUSE: &str =
    "outcome unknown: this node was paused while it executed the request; read before writing again";
/// Told to clients whose requests were under way to the node that serves when the stream broke.
pub(super) const UNKNOWN_AFTER_BREAK: &str =
    "outcome unknown: the connection to the serving node broke; read before writing again";

/// Whether a command changes nothing but statistics and recency.
pub(super) const fn is_pure_read(command: &Command<'_>) -> bool {
    match &command.op {
        Op::Read | Op::Inspect => true,
        Op::Get(get) => get.touch.is_none() && get.vivify.is_none() && get.recache.is_none(),
        _ => false,
    }
}

/// Answers every whole request in `raw` with `SERVER_ERROR reason`, once each.
pub(super) fn refuse(raw: &[u8], like: &Codec, reason: &str, out: &mut Output) {
    let mut codec = Codec::new(like.protocol(), *like.limits());
    let mut at = 0;
    while at < raw.len() {
        match codec.decode(&raw[at..]) {
            Decoded::Request { request, used } => {
                at += used;
                match request {
                    // Of a line of keys only the last one's form says it.
                    Request::Item { form, .. } | Request::Session { form, .. } => form.refuse(reason, out),
                    Request::Say(line) => out.extend(&line),
                }
            }
            Decoded::Skip { used } => at += used,
            Decoded::Incomplete { .. } | Decoded::Body { .. } | Decoded::Close(_) => return,
        }
    }
}

/// Writes outcomes straight into the output.
struct Formatter<'x, 'b> {
    commands: &'x [Command<'b>],
    forms: &'x [Form<'b>],
    now: Now,
    out: &'x mut Output,
    detail: Option<&'x Detail>,
}

impl Replies for Formatter<'_, '_> {
    #[inline]
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        let command = &self.commands[index];
        if let Some(detail) = self.detail {
            count_prefix(detail, command, &outcome);
        }
        self.forms[index].render(command, outcome, self.now, self.out);
    }
}

#[cold]
fn count_prefix(detail: &Detail, command: &Command<'_>, outcome: &Outcome<'_>) {
    let what = match &command.op {
        Op::Read | Op::Get(_) => Counted::Get(matches!(outcome, Outcome::Value(_) | Outcome::Hit(_))),
        Op::Store(_) | Op::Arith(_) => Counted::Set,
        Op::Delete(_) => Counted::Delete,
        Op::Inspect | Op::Touch(_) | Op::Refuse(_) => return,
    };
    detail.count(&command.key, what);
}

impl Service {
    /// What this server's clients may ask for.
    pub(super) fn protocol_limits(&self) -> Limits {
        Limits {
            item_size_max: self.config.item_size_max,
            inline_max: self.engine.inline_max(),
            cas: self.config.cas,
            flush_enabled: self.config.flush_enabled,
            shutdown_enabled: self.config.shutdown_enabled,
            ..Limits::default()
        }
    }
}
