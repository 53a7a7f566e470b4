//! Connections on a ring: `plain` with completions instead of readiness.
//!
//! Intuition: bytes arrive by themselves. What a connection needs is decided when they do: its session
//! eats them at the worker's desk, its answer joins all others of this look, and the connection rests. Who
//! is not done waits for the next look. Who must not be heard now (its answers are not taken) is told to
//! the kernel only when something came nevertheless.
//!
//! Promises: one way into the kernel per look, whatever the number of connections in it; the order of a
//! connection's answers is that of its requests, since nothing is begun while an answer is not known to
//! be gone; a socket is closed only when nothing is under way on it.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::SERVING;
use super::ring::{Event, Lent, ReceptionEnd, Ring, SendId, Wait};
use crate::engine::prefetch;
use crate::protocol::{Output, Protocol, likely_key};
use crate::server::connection::{Gone, kick};
use crate::server::gate::Confirmation;
use crate::server::held::{Held, Released, sooner};
use crate::server::places::{Placed, Places};
use crate::server::plain::{Home, Kept, Seen};
use crate::server::session::{Action, Session};
use crate::server::watch::Reason;
use crate::server::worker::{Bell, Busy, Shared, Socket, Work};
use crate::server::{ConnectionInfo, ConnectionState, Ticket, limits};

/// A worker's connections that need nothing but the engine, on a ring.
pub(in crate::server) struct Plane {
    /// Before the places: what is under way ends before its socket is closed.
    ring: Ring,
    shared: Rc<Shared>,
    bell: Arc<Bell>,
    /// What the runtime watches: where the ring says that there is something to look at, and the bell,
    /// since an eventfd does not signal another one reliably.
    watched: Rc<OwnedFd>,
    #[expect(dead_code, reason = "the ring writes to it as long as it is there")]
    signal: OwnedFd,
    places: Places<Box<Place>>,
    desk: Work,
    /// Who goes on with the next look.
    again: Vec<u32>,
    /// Whose answers wait for another node.
    held: Held,
    released: Vec<Released>,
    /// Answers wait that rest on this node's right to serve.
    vouched: bool,
    /// Receive buffers did not suffice in this look.
    starved: bool,
    /// Bytes of receive buffers that are accounted for.
    accounted: usize,
}

/// A connection.
struct Place {
    /// Before the socket, so that its end is told before its descriptor is somebody else's.
    ticket: Ticket,
    socket: Socket,
    /// What it speaks, as far as it is decided.
    protocol: Protocol,
    receiving: Receiving,
    sending: Sending,
    /// It is in the list of those that go on with the next look.
    listed: bool,
    /// Nothing more will come, for this reason.
    ended: Option<Reason>,
    next: Next,
    kept: Option<Box<Kept>>,
}

/// Whether the kernel brings what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    No,
    Yes,
    /// It was told to stop and has not said yet that it did.
    Stopping,
}

/// Whether answers are on their way.
enum Sending {
    No,
    /// In the round of this number: they are gone in the next, unless that is denied.
    Hastily(u64),
    /// Until the kernel says so.
    Patiently(SendId, #[expect(dead_code, reason = "counts as long as it is there")] Busy),
}

/// What a connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It listens, or goes on with what is there.
    Work,
    /// It leaves for the worker's runtime.
    Aside,
    /// It closes when its answers are gone.
    Close,
    /// It closes, answers or not.
    Abort,
}

impl Place {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Writes what the other end takes at once; returns how much that was. For long answers: left in a
    /// place of their own until the end of the look they would push everything else out of the cache.
    #[cold]
    fn write(&self, out: &mut Output) -> Result<usize, Errno> {
        let before = out.len();
        while !out.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); limits::WRITE_SLICES];
            let count = out.slices(&mut slices);
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(self.fd(), &slices[..count], &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => out.advance(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(before - out.len())
    }

    fn show(&self, state: ConnectionState) {
        self.ticket.info.state.store(state as u8, Ordering::Relaxed);
    }

    /// A session begins where this connection rested.
    #[inline]
    fn begin(&self, session: &mut Session) {
        let ConnectionInfo { descriptor, durable, .. } = *self.ticket.info;
        session.begin(self.protocol, descriptor, durable);
    }

    /// Keeps bytes for later.
    fn keep(&mut self, bytes: &[u8], shared: &Rc<Shared>) {
        let (work, held) = match self.kept.take() {
            Some(kept) => (kept.work, kept.held),
            None => {
                let mut work = Work::new(shared);
                self.begin(&mut work.session);
                (work, 0)
            }
        };
        let busy = Busy::new(shared, work.input.len() + work.out.len() + bytes.len());
        let kept = self.kept.insert(Box::new(Kept { busy, work, held }));
        kept.work.input.append(bytes);
    }

    /// Whether its answers wait for another node.
    fn is_held(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.held != 0)
    }

    /// Whether answers are not known to be gone.
    const fn is_sending(&self, round: u64) -> bool {
        match self.sending {
            Sending::No => false,
            Sending::Hastily(begun) => begun == round,
            Sending::Patiently(..) => true,
        }
    }

    /// Whether bytes that come are for the session at once.
    fn listens(&self, round: u64) -> bool {
        matches!(self.next, Next::Work) && !self.listed && !self.is_sending(round) && !self.is_held()
    }
}

impl Plane {
    /// To be called by the thread that will look.
    pub(in crate::server) fn new(shared: Rc<Shared>, bell: &Arc<Bell>) -> io::Result<Self> {
        let mut ring = Ring::new(SERVING)?;
        ring.watch(bell.as_fd());
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.signal(signal.as_fd())?;
        let watched = epoll::create(CreateFlags::CLOEXEC)?;
        for eventfd in [signal.as_fd(), bell.as_fd()] {
            epoll::add(&watched, eventfd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        }
        let mut desk = Work::new(&shared);
        desk.input.room(limits::READ_BYTES);
        shared.account(1, limits::READ_BYTES as i64);
        Ok(Self {
            ring,
            held: Held::new(Rc::clone(&shared)),
            released: Vec::new(),
            shared,
            bell: Arc::clone(bell),
            watched: Rc::new(watched),
            signal,
            places: Places::new(),
            desk,
            again: Vec::new(),
            vouched: false,
            starved: false,
            accounted: 0,
        })
    }

    /// What becomes readable when [`Plane::look`] would see something.
    pub(in crate::server) fn descriptor(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.watched)
    }

    /// How long [`Plane::look`] may wait.
    pub(in crate::server) fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = self.shared.service.stats.idle_timeout().map(|_| limits::SWEEP);
        sooner(sweep, self.held.patience())
    }

    /// A connection comes to stay.
    pub(in crate::server) fn adopt(&mut self, home: Home) {
        let Home { ticket, socket, protocol, session } = home;
        // The kernel waits for a socket's bytes only if the socket would.
        if socket.set_nonblocking(false).is_err() {
            return;
        }
        let kept = session.map(|session| Kept::new(*session, &self.shared));
        let place = Box::new(Place {
            ticket,
            socket,
            protocol,
            receiving: Receiving::Yes,
            sending: Sending::No,
            listed: false,
            ended: None,
            next: Next::Work,
            kept,
        });
        place.show(ConnectionState::Waiting);
        self.ring.receive(place.fd(), self.places.next());
        self.places.put(place);
    }

    /// Waits for something to happen, up to `patience`, and handles it.
    pub(in crate::server) fn look(&mut self, patience: Option<Duration>) -> io::Result<Seen> {
        let wait = match patience {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::No,
            Some(limit) => Wait::For(limit),
        };
        self.vouch();
        // Before anything is brought, so that whatever comes behind it is told.
        self.ring.signals(self.shared.has_tasks());
        if !matches!(wait, Wait::No) || !self.ring.is_quiet() {
            self.ring.enter(wait)?;
        }
        self.shared.tick();
        let mut seen = Seen::default();
        let mut listed = mem::take(&mut self.again);
        let mut window = ArrayVec::<Event, { limits::RING_WINDOW }>::new();
        loop {
            while !window.is_full()
                && let Some(event) = self.ring.next_event()
            {
                window.push(event);
            }
            if window.is_empty() {
                break;
            }
            seen.anything = true;
            self.foresee(&window);
            for event in window.drain(..) {
                match event {
                    Event::Readable { goes_on } => {
                        seen.bell = true;
                        if !goes_on {
                            self.ring.watch(self.bell.as_fd());
                        }
                    }
                    Event::Received { place, lent, goes_on } => self.received(place, lent, goes_on),
                    Event::ReceptionEnded { place, why } => self.reception_ended(place, &why),
                    // The kernel waits until it can go.
                    Event::Unsent { place, out, sent } => self.sent(place, out, sent),
                    Event::Sent { place, out, sent } => self.sent(place, out, sent),
                }
            }
        }
        if self.ring.overflows() {
            // Some failures of this round are not told yet: nobody may go on as if there were none.
            self.again.append(&mut listed);
        }
        for at in listed.drain(..) {
            seen.anything = true;
            if let Some(place) = self.places.get_mut(at) {
                place.listed = false;
                self.go_on(at);
            }
        }
        if self.again.is_empty() {
            // Its memory is used again.
            self.again = listed;
        }
        if seen.bell || self.held.is_due() {
            seen.anything |= self.release();
        }
        self.shared.cell().bytes_written.add(self.ring.take_sent_bytes());
        self.tend_buffers();
        self.sweep();
        Ok(seen)
    }

    /// Lets those go on whose answers need not wait any longer. Whether there were any.
    fn release(&mut self) -> bool {
        let mut released = mem::take(&mut self.released);
        self.held.release(&mut released);
        let any = !released.is_empty();
        for Released { place: at, number, how } in released.drain(..) {
            // Whoever was held there may be gone.
            if let Some(place) = self.places.get_mut(at)
                && let Some(kept) = place.kept.as_mut().filter(|kept| kept.held == number)
            {
                kept.release(how, &self.shared);
                self.vouched |= how == Confirmation::Degraded;
                self.go_on(at);
            }
        }
        self.released = released;
        any
    }

    /// A connection's answers wait for another node.
    fn hold(&mut self, at: u32) {
        let Self { places, desk, shared, held, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        let mut kept = desk.keep(None, shared);
        match held.hold(at, kept.work.session.unconfirmed()) {
            Ok(number) => {
                kept.held = number;
                place.kept = Some(kept);
            }
            Err(how) => {
                kept.release(how, shared);
                place.kept = Some(kept);
                self.list(at);
            }
        }
    }

    /// Has the memory fetched that serving these will need: of the connections, and of the items that their
    /// requests seem to be about.
    fn foresee(&self, events: &[Event]) {
        let mut keys = ArrayVec::<&[u8], { limits::RING_WINDOW }>::new();
        let received = || {
            events.iter().filter_map(|event| match event {
                Event::Received { place, lent, .. } => Some((self.places.get(*place)?, lent)),
                _ => None,
            })
        };
        for (place, lent) in received() {
            prefetch(&**place);
            let bytes = self.ring.bytes(lent);
            if bytes.len() <= limits::RING_FORESEEN_BYTES {
                keys.extend(likely_key(bytes));
            }
        }
        // Nobody waits for what is needed at once.
        if events.len() > 1 {
            self.shared.service.engine.foresee(&keys);
            for (place, _) in received() {
                prefetch(&*place.ticket.info);
            }
        }
    }

    /// Looks once more whether this node may acknowledge what was executed since the last look: if the
    /// process was stopped in between, it may not, and nobody is told anything.
    fn vouch(&mut self) {
        if mem::take(&mut self.vouched) && !self.shared.service.gate.still_holds() {
            for at in self.ring.withdraw() {
                if let Some(place) = self.places.get_mut(at) {
                    place.sending = Sending::No;
                    self.abort(at, Reason::Error);
                }
            }
        }
    }

    /// Bytes came.
    #[inline]
    fn received(&mut self, at: u32, lent: Lent, goes_on: bool) {
        let Self { places, ring, desk, shared, .. } = self;
        let Some(place) = places.get_mut(at) else {
            ring.take_back(lent);
            return;
        };
        if !goes_on {
            place.receiving = Receiving::No;
        }
        let bytes = ring.bytes(&lent);
        shared.cell().bytes_read.add(bytes.len() as u64);
        place.ticket.info.last_command.store(shared.now().secs, Ordering::Relaxed);
        let listens = place.listens(ring.round());
        match place.next {
            _ if listens => {
                desk.sit_down(place, shared);
                desk.input.append(bytes);
            }
            Next::Work | Next::Aside => place.keep(bytes, shared),
            // Nobody hears it any more.
            Next::Close | Next::Abort => {}
        }
        ring.take_back(lent);
        if listens {
            self.serve(at);
        } else {
            self.came_early(at);
        }
    }

    /// Bytes came that cannot be eaten now.
    #[cold]
    fn came_early(&mut self, at: u32) {
        let Self { places, ring, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        match place.next {
            Next::Work => {
                let waiting = place.kept.as_ref().map_or(0, |kept| kept.work.input.len());
                if waiting > limits::READ_BYTES && place.receiving == Receiving::Yes {
                    place.receiving = Receiving::Stopping;
                    ring.stop_receiving(at);
                }
                // Who waits for the other end goes on when that has taken its answers, or has what they promise.
                if !place.is_held() && !matches!(place.sending, Sending::Patiently(..)) {
                    self.list(at);
                }
            }
            Next::Aside | Next::Close | Next::Abort => self.leave(at),
        }
    }

    /// No more bytes come.
    fn reception_ended(&mut self, at: u32, why: &ReceptionEnd) {
        let Some(place) = self.places.get_mut(at) else { return };
        place.receiving = Receiving::No;
        match why {
            ReceptionEnd::Closed => place.ended = Some(Reason::Normal),
            ReceptionEnd::Broken => place.ended = Some(Reason::Error),
            ReceptionEnd::Starved => self.starved = true,
            ReceptionEnd::Cancelled => {}
        }
        if !place.listed {
            self.go_on(at);
        }
    }

    /// Some of an answer is gone, or nothing more will be.
    fn sent(&mut self, at: u32, out: Output, sent: io::Result<usize>) {
        let Self { places, ring, shared, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        place.sending = Sending::No;
        match sent {
            Ok(count) => {
                shared.cell().bytes_written.add(count as u64);
                place.ticket.info.last_command.store(shared.now().secs, Ordering::Relaxed);
            }
            Err(_) => {
                ring.recycle(out);
                self.abort(at, Reason::Error);
                return;
            }
        }
        if !out.is_empty() && place.next != Next::Abort {
            place.show(ConnectionState::Writing);
            let busy = Busy::new(shared, out.len());
            place.sending = Sending::Patiently(ring.send_patiently(place.fd(), at, out), busy);
            return;
        }
        ring.recycle(out);
        place.show(ConnectionState::Waiting);
        if !place.listed {
            self.go_on(at);
        }
    }

    /// Goes on with the next look.
    fn list(&mut self, at: u32) {
        if let Some(place) = self.places.get_mut(at)
            && !mem::replace(&mut place.listed, true)
        {
            self.again.push(at);
        }
    }

    /// Does what can be done now. Whoever waits for an end comes here again with it.
    fn go_on(&mut self, at: u32) {
        let Self { places, ring, desk, shared, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        if place.is_sending(ring.round()) {
            if matches!(place.sending, Sending::Hastily(_)) {
                self.list(at);
            }
            return;
        }
        match place.next {
            Next::Work if place.is_held() => {}
            Next::Work if place.kept.is_some() => {
                desk.sit_down(place, shared);
                self.serve(at);
            }
            Next::Work => self.listen(at),
            Next::Aside | Next::Close | Next::Abort => self.leave(at),
        }
    }

    /// Lets a connection, whose work is on the desk, work until it needs something that is not there.
    #[inline]
    fn serve(&mut self, at: u32) {
        let Self { places, ring, desk, shared, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        let mut turn = shared.service.config.requests_per_turn;
        let batches = shared.cell().turns.value();
        let action = match desk.awaits.take() {
            // Its answers had to wait, and now they go before anything else is done.
            Some(Action::Read(_) | Action::ReadBody) if !desk.input.is_empty() => Action::Flush,
            Some(action) => action,
            None => desk.session.consume(&mut desk.input, &mut desk.out, shared, &mut turn),
        };
        self.vouched |= batches != shared.cell().turns.value();
        // What is to be settled or confirmed must not go before it is.
        if !desk.out.is_empty() && !matches!(action, Action::Settle | Action::Confirm) {
            if desk.out.len() <= limits::RING_ANSWER_BYTES && desk.out.piece().is_some() {
                ring.send(place.fd(), at, &mut desk.out);
                place.sending = Sending::Hastily(ring.round());
            } else {
                match place.write(&mut desk.out) {
                    Ok(count) => shared.cell().bytes_written.add(count as u64),
                    Err(_) => {
                        desk.leave();
                        desk.session = Session::trusted(&shared.service, -1);
                        self.abort(at, Reason::Error);
                        return;
                    }
                }
                if !desk.out.is_empty() {
                    place.show(ConnectionState::Writing);
                    let busy = Busy::new(shared, desk.out.len());
                    let rest = ring.swap(&mut desk.out);
                    place.sending = Sending::Patiently(ring.send_patiently(place.fd(), at, rest), busy);
                }
                desk.out.clear();
            }
        }
        match action {
            Action::Read(_) | Action::ReadBody => {
                if desk.input.is_empty() && !desk.session.is_midway() {
                    place.protocol = desk.session.codec.protocol();
                    desk.clear_input();
                    if shared.draining.get() {
                        self.close(at, Reason::Shutdown);
                        return;
                    }
                } else {
                    place.kept = Some(desk.keep(None, shared));
                }
                if place.receiving != Receiving::Yes {
                    self.hear_again(at);
                }
            }
            Action::Close => {
                let reason = if desk.session.said_goodbye { Reason::Normal } else { Reason::Error };
                desk.leave();
                desk.session = Session::trusted(&shared.service, -1);
                self.close(at, reason);
            }
            Action::Confirm => self.hold(at),
            action if action.is_about_others() => {
                place.kept = Some(desk.keep(Some(action), shared));
                place.next = Next::Aside;
                self.leave(at);
            }
            // Its turn is over, or its answers must go first.
            _ => {
                if matches!(action, Action::Again) && turn == 0 {
                    shared.cell().conn_yields.add(1);
                }
                place.kept = Some(desk.keep(None, shared));
                if !matches!(place.sending, Sending::Patiently(..)) {
                    self.list(at);
                }
            }
        }
    }

    /// Everything is eaten, and nothing is brought any more.
    #[cold]
    fn hear_again(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at) else { return };
        match place.sending {
            // With the end of that.
            Sending::Patiently(..) => {}
            Sending::Hastily(round) if round == self.ring.round() && place.ended.is_some() => self.list(at),
            _ => self.listen(at),
        }
    }

    /// Hears what comes, unless nothing will.
    fn listen(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at) else { return };
        if let Some(reason) = place.ended {
            self.abort(at, reason);
        } else if place.receiving == Receiving::No {
            place.receiving = Receiving::Yes;
            self.ring.receive(place.fd(), at);
        }
    }

    /// A connection is to close when its answers are gone.
    fn close(&mut self, at: u32, reason: Reason) {
        let Some(place) = self.places.get_mut(at) else { return };
        place.ticket.reason = reason;
        place.next = Next::Close;
        self.leave(at);
    }

    /// A connection is to close whatever is not gone yet.
    fn abort(&mut self, at: u32, reason: Reason) {
        let Some(place) = self.places.get_mut(at) else { return };
        place.ticket.reason = reason;
        place.next = Next::Abort;
        place.kept = None;
        if let Sending::Patiently(id, _) = &place.sending {
            self.ring.stop_sending(at, *id);
        }
        self.leave(at);
    }

    /// Takes a connection away as soon as nothing is under way on its socket.
    fn leave(&mut self, at: u32) {
        let Self { places, ring, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        if place.receiving == Receiving::Yes {
            place.receiving = Receiving::Stopping;
            ring.stop_receiving(at);
        }
        if place.is_sending(ring.round()) {
            if matches!(place.sending, Sending::Hastily(_)) {
                self.list(at);
            }
            return;
        }
        if place.receiving != Receiving::No || place.listed {
            return;
        }
        let Some(place) = places.take(at) else { return };
        if place.next == Next::Aside {
            self.set_aside(*place);
        }
    }

    /// A connection goes to where it can wait for more than its socket.
    #[cold]
    fn set_aside(&self, place: Place) {
        let Place { ticket, socket, kept: Some(kept), .. } = place else { return };
        if socket.set_nonblocking(true).is_ok() {
            self.shared.set_aside(ticket, socket, kept.work);
        }
    }

    /// Gives the kernel more buffers if they did not suffice, and accounts for them.
    fn tend_buffers(&mut self) {
        if mem::take(&mut self.starved) {
            self.ring.grow();
        }
        let bytes = self.ring.buffer_bytes();
        if bytes != self.accounted {
            let more = bytes as i64 - self.accounted as i64;
            self.shared.account(more / limits::RING_BUFFER_BYTES as i64, more);
            self.accounted = bytes;
        }
    }

    /// Closes what was silent for too long.
    fn sweep(&mut self) {
        for at in self.places.silent(&self.shared) {
            let leaves = self
                .places
                .get(at)
                .is_some_and(|place| !place.listed && !place.is_held() && place.next != Next::Abort);
            if leaves {
                let Gone(reason) = kick(&self.shared);
                self.abort(at, reason);
            }
        }
    }

    /// The server stops: who has nothing under way goes.
    pub(in crate::server) fn leave_resting(&mut self) {
        let resting = self.places.which(|place| {
            place.kept.is_none() && !matches!(place.sending, Sending::Patiently(..)) && !place.listed
        });
        for at in resting {
            self.close(at, Reason::Shutdown);
        }
    }
}

impl Placed for Box<Place> {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Work {
    /// Sits down with what was kept, or with nothing.
    #[inline]
    fn sit_down(&mut self, place: &mut Place, shared: &Shared) {
        match place.kept.take() {
            Some(kept) => self.resume(kept.work, shared),
            None => place.begin(&mut self.session),
        }
    }
}
