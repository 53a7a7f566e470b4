//! Connections that need nothing but the engine: nearly all of them, nearly always.
//!
//! Intuition: a worker has one desk. Whoever has something under way sits down there with a socket, finds
//! buffers and a session, and leaves when everything is answered. A connection at rest is a few words in
//! a list. Only who must wait in the middle of something takes the papers along ([`Kept`]). And who has to
//! wait for more than the own socket (for the node that serves, for lines to watch) goes aside, to the
//! worker's runtime, and comes back when that is over. Whose replies wait for the other node stays here, held.
//!
//! Promise: a request costs one read, one write and its share of one wait; no allocation, no task, no timer.
//!
//! Where several sockets are ready at once, a few are read before the first of them is served, and the engine
//! hears what they ask for: a request alone would wait for its item's memory, several wait together.
//!
//! Sockets are registered once, edge-triggered, for reading and writing: what [`Place::unread`] says is
//! true until a read comes back short.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::connection::{Gone, kick, write_slices};
use super::gate::Confirmation;
use super::held::{Held, Released, sooner};
use super::places::{Placed, Places};
use super::session::{Action, Input, Session};
use super::watch::Reason;
use super::worker::{Bell, Busy, Shared, Socket, Work};
use super::{ConnectionInfo, ConnectionState, Ticket, limits};
use crate::protocol::{self, Output, Protocol};

/// Sockets that are read before the first of them is served: while one is answered, what the next ones ask for is
/// fetched from memory. More would let the first one wait for longer than it gains.
const AHEAD: usize = 8;

/// What the bell's events carry instead of a place.
const BELL: u64 = u64::MAX;

/// A worker's plain connections.
pub(super) struct Plain {
    shared: Rc<Shared>,
    epoll: Rc<OwnedFd>,
    places: Places<Place>,
    desk: Work,
    /// What was read of connections whose turn at the desk comes soon.
    ahead: [Input; AHEAD],
    /// Who gave way to others with requests left.
    again: Vec<u32>,
    /// Whose replies wait for another node.
    held: Held,
    released: Vec<Released>,
    events: Vec<Event>,
}

/// A connection.
struct Place {
    /// Before the socket, so that its end is told before its descriptor is somebody else's.
    ticket: Ticket,
    socket: Socket,
    /// What it speaks, as far as it is decided.
    protocol: Protocol,
    /// There may be bytes that nobody will tell about again.
    unread: bool,
    /// Nothing will follow what is there: it is read until its end shows.
    ending: bool,
    kept: Option<Box<Kept>>,
}

/// What a connection in the middle of something takes along.
pub(super) struct Kept {
    pub(super) work: Work,
    #[expect(dead_code, reason = "counts as long as it is there")]
    pub(super) busy: Busy,
    /// Under which number it is held ([`Held`]); 0 if it is not.
    pub(super) held: u64,
}

/// A connection at rest, on its way here.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) ticket: Ticket,
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    /// What it is in the middle of, if it is.
    pub(super) session: Option<Box<Session>>,
}

/// What happens to a connection that leaves the desk.
enum Next {
    /// Everything is answered.
    Rest,
    /// Its socket has to do something first.
    Wait(Action),
    /// It goes on when others had their turn.
    Yield(Option<Action>),
    /// It needs more than its socket.
    Aside(Action),
    /// Its replies wait for another node.
    Hold,
    Gone(Reason),
}

/// What a look at the sockets showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) anything: bool,
    /// Somebody rang.
    pub(super) bell: bool,
}

impl Plain {
    pub(super) fn new(shared: Rc<Shared>, bell: &Bell) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let mut desk = Work::new(&shared);
        let mut ahead: [Input; AHEAD] = Default::default();
        for input in ahead.iter_mut().chain([&mut desk.input]) {
            input.room(limits::READ_BYTES);
            shared.account(1, limits::READ_BYTES as i64);
        }
        Ok(Self {
            desk,
            held: Held::new(Rc::clone(&shared)),
            released: Vec::new(),
            ahead,
            shared,
            epoll: Rc::new(epoll),
            places: Places::new(),
            again: Vec::new(),
            events: Vec::with_capacity(limits::EVENTS),
        })
    }

    /// What becomes readable when [`Plain::look`] would see something.
    pub(super) fn epoll(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.epoll)
    }

    /// How long [`Plain::look`] may wait.
    pub(super) fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = self.shared.service.stats.idle_timeout().map(|_| limits::SWEEP);
        sooner(sweep, self.held.patience())
    }

    /// A connection comes to stay.
    pub(super) fn adopt(&mut self, home: Home) {
        let Home { ticket, socket, protocol, session } = home;
        let data = EventData::new_u64(self.places.next().into());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if epoll::add(&self.epoll, socket.fd(), data, flags).is_err() {
            // It is closed; its other end sees that.
            return;
        }
        let kept = session.map(|session| Kept::new(*session, &self.shared));
        ticket.info.state.store(ConnectionState::Waiting as u8, Ordering::Relaxed);
        let place = Place { ticket, socket, protocol, unread: false, ending: false, kept };
        self.places.put(place);
    }

    /// Waits for something to happen, up to `patience`, and handles it.
    pub(super) fn look(&mut self, patience: Option<Duration>) -> Seen {
        let limit = patience
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        let mut events = mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => unreachable!("an epoll of one's own can be waited for: {error}"),
        }
        let yielded = mem::take(&mut self.again);
        let mut seen = Seen { anything: !events.is_empty() || !yielded.is_empty(), bell: false };
        self.shared.tick();
        for events in events.chunks(AHEAD) {
            seen.bell |= self.happened(events);
        }
        self.events = events;
        for at in yielded {
            self.serve(at, None);
        }
        if seen.bell || self.held.is_due() {
            seen.anything |= self.release();
        }
        self.sweep();
        seen
    }

    /// Lets those go on whose replies need not wait any longer. Whether there were any.
    fn release(&mut self) -> bool {
        let mut released = mem::take(&mut self.released);
        self.held.release(&mut released);
        let any = !released.is_empty();
        for Released { place: at, number, how } in released.drain(..) {
            // Whoever was held there may be gone.
            if let Some(Place { kept: Some(kept), .. }) = self.places.get_mut(at)
                && kept.held == number
            {
                kept.release(how, &self.shared);
                self.serve(at, None);
            }
        }
        self.released = released;
        any
    }

    /// Serves whoever is ready. Returns whether somebody rang.
    #[inline]
    fn happened(&mut self, events: &[Event]) -> bool {
        let mut bell = false;
        let mut ready = ArrayVec::<u32, AHEAD>::new();
        for event in events {
            // Copied out: the kernel's description is packed.
            let (data, flags) = (event.data, event.flags);
            let at = data.u64() as u32;
            if data.u64() == BELL {
                bell = true;
            } else if let Some(place) = self.places.get_mut(at)
                && place.is_ready(flags)
            {
                ready.push(at);
            }
        }
        if ready.len() > 1 {
            self.read_ahead(&ready);
            for (nth, at) in ready.into_iter().enumerate() {
                self.serve(at, Some(nth));
            }
        } else if let Some(&at) = ready.first() {
            self.serve(at, None);
        }
        bell
    }

    /// Reads the sockets of connections that rest, and has the memory of what they ask for fetched.
    fn read_ahead(&mut self, ready: &[u32]) {
        let Self { places, ahead, shared, .. } = self;
        let mut keys = ArrayVec::<&[u8], AHEAD>::new();
        for (input, &at) in ahead.iter_mut().zip(ready) {
            input.clear();
            let Some(place) = places.get_mut(at) else { continue };
            if place.kept.is_some() || place.ending {
                continue;
            }
            match read(input, place, 1) {
                Ok(count @ 1..) => {
                    shared.cell().bytes_read.add(count as u64);
                    keys.extend(protocol::likely_key(input.bytes()));
                }
                // It happens again in its turn, and has its consequences.
                Ok(0) | Err(_) => place.unread = true,
            }
        }
        shared.service.engine.foresee(&keys);
    }

    /// Lets a connection work until it needs something that is not there. What was read of it is in `ahead`, if that
    /// was done before.
    #[inline]
    fn serve(&mut self, at: u32, nth: Option<usize>) {
        let Self { places, desk, shared, ahead, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        if place.is_held() {
            // It had given way to others, and something came before its turn did.
            return;
        }
        match place.kept.take() {
            None => desk.begin(place),
            Some(kept) => desk.resume(kept.work, shared),
        }
        if let Some(input) = nth.and_then(|nth| ahead.get_mut(nth))
            && !input.is_empty()
        {
            mem::swap(&mut desk.input, input);
            desk.awaits = None;
        }
        place.ticket.info.last_command.store(shared.now().secs, Ordering::Relaxed);
        match desk.turns(place, shared) {
            Next::Rest if !shared.draining.get() => {
                place.protocol = desk.session.codec.protocol();
                desk.clear_input();
            }
            Next::Rest => self.close(at, Reason::Shutdown),
            Next::Wait(action) => {
                let state =
                    if desk.out.is_empty() { ConnectionState::Working } else { ConnectionState::Writing };
                place.ticket.info.state.store(state as u8, Ordering::Relaxed);
                place.kept = Some(desk.keep(Some(action), shared));
            }
            Next::Yield(action) => {
                place.kept = Some(desk.keep(action, shared));
                self.again.push(at);
            }
            Next::Aside(action) => self.aside(at, action),
            Next::Hold => self.hold(at),
            Next::Gone(reason) => self.close(at, reason),
        }
    }

    /// A connection's replies wait for another node.
    fn hold(&mut self, at: u32) {
        let Self { places, desk, shared, held, .. } = self;
        let Some(place) = places.get_mut(at) else { return };
        let mut kept = desk.keep(None, shared);
        match held.hold(at, kept.work.session.unconfirmed()) {
            Ok(number) => kept.held = number,
            Err(how) => {
                kept.release(how, shared);
                self.again.push(at);
            }
        }
        place.kept = Some(kept);
    }

    /// A connection goes to where it can wait for more than its socket.
    #[cold]
    fn aside(&mut self, at: u32, action: Action) {
        let kept = self.desk.keep(Some(action), &self.shared);
        let Some(place) = self.places.take(at) else { return };
        // It was added, so it can be removed; and whatever comes would belong to no place.
        let _removed = epoll::delete(&self.epoll, place.socket.fd());
        self.shared.set_aside(place.ticket, place.socket, kept.work);
    }

    fn close(&mut self, at: u32, reason: Reason) {
        if let Some(mut place) = self.places.take(at) {
            place.ticket.reason = reason;
        }
        self.desk.leave();
        self.desk.session = Session::trusted(&self.shared.service, -1);
    }

    /// Closes what was silent for too long.
    fn sweep(&mut self) {
        for at in self.places.silent(&self.shared) {
            if self.places.get(at).is_some_and(|place| !place.is_held()) {
                let Gone(reason) = kick(&self.shared);
                self.close(at, reason);
            }
        }
    }

    /// The server stops: who has nothing under way goes.
    pub(super) fn leave_resting(&mut self) {
        for at in self.places.which(|place| place.kept.is_none()) {
            self.close(at, Reason::Shutdown);
        }
    }
}

impl Placed for Place {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Kept {
    /// A connection comes back in the middle of something.
    pub(super) fn new(session: Session, shared: &Rc<Shared>) -> Box<Self> {
        let work = Work { session, ..Work::new(shared) };
        Box::new(Self { work, busy: Busy::new(shared, 0), held: 0 })
    }

    /// Its replies need not wait any longer.
    pub(super) fn release(&mut self, how: Confirmation, shared: &Shared) {
        self.held = 0;
        self.work.awaits = self.work.session.confirm(how, &mut self.work.out, &*shared.service.gate);
    }
}

impl Place {
    /// Whether its replies wait for another node.
    fn is_held(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.held != 0)
    }

    /// Notes what the kernel says of it. Returns whether there is something to do.
    #[inline]
    fn is_ready(&mut self, flags: EventFlags) -> bool {
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.ending = true;
            self.unread = true;
        }
        self.unread |= flags.contains(EventFlags::IN);
        self.unread || self.kept.is_some()
    }

    /// Notes what a read of up to `room` bytes says about bytes that are left.
    fn was_read(&mut self, count: usize, room: usize) {
        self.unread = count == room || self.ending;
    }
}

/// Reads at least one byte, with room for `more` and a whole read besides.
#[inline]
fn read(input: &mut Input, place: &mut Place, more: usize) -> Result<usize, Errno> {
    let buffer = input.room(more.max(limits::READ_BYTES));
    let room = buffer.capacity() - buffer.len();
    let (_, count) = recv(place.socket.fd(), spare_capacity(buffer), RecvFlags::empty())?;
    place.was_read(count, room);
    Ok(count)
}

impl Socket {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }
}

impl Work {
    /// Sits down with nothing.
    #[inline]
    fn begin(&mut self, place: &Place) {
        let ConnectionInfo { descriptor, durable, .. } = *place.ticket.info;
        self.session.begin(place.protocol, descriptor, durable);
        self.awaits = Some(Action::Read(1));
    }

    /// Sits down with what was kept.
    pub(super) fn resume(&mut self, kept: Self, shared: &Shared) {
        self.session = kept.session;
        self.awaits = kept.awaits;
        self.input.append(kept.input.bytes());
        if !kept.out.is_empty() {
            shared.give_output(mem::replace(&mut self.out, kept.out));
        }
    }

    /// Leaves with what is needed to go on, and no more.
    pub(super) fn keep(&mut self, awaits: Option<Action>, shared: &Rc<Shared>) -> Box<Kept> {
        let fresh = Session::trusted(&shared.service, -1);
        let session = mem::replace(&mut self.session, fresh);
        let input = Input::new(self.input.bytes().to_vec());
        let out = match self.out.is_empty() {
            true => Output::new(),
            false => mem::replace(&mut self.out, shared.take_output()),
        };
        let busy = Busy::new(shared, input.len() + out.len());
        self.leave();
        Box::new(Kept { work: Self { session, input, out, awaits }, busy, held: 0 })
    }

    /// Leaves nothing behind but the session.
    pub(super) fn leave(&mut self) {
        self.clear_input();
        self.out.clear();
    }

    #[inline]
    pub(super) fn clear_input(&mut self) {
        self.input.clear();
        self.input.shrink(limits::READ_BYTES * 2);
    }

    /// Goes on until something is needed that is not there.
    #[inline]
    fn turns(&mut self, place: &mut Place, shared: &Shared) -> Next {
        let mut turn = shared.service.config.requests_per_turn;
        let mut reads = limits::READS_PER_TURN;
        let mut next = self.awaits.take();
        loop {
            let action = match next.take() {
                Some(action) => action,
                None => self.session.consume(&mut self.input, &mut self.out, shared, &mut turn),
            };
            if action.is_about_others() {
                return Next::Aside(action);
            }
            if action == Action::Confirm {
                if reads > 0 && self.reads_on(place, shared) {
                    reads -= 1;
                    continue;
                }
                return Next::Hold;
            }
            match self.flush(place, shared) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return Next::Wait(action),
                Err(_) => return Next::Gone(Reason::Error),
            }
            let read = match action {
                Action::Read(_) | Action::ReadBody if !place.unread => Err(Errno::AGAIN),
                Action::Read(_) | Action::ReadBody if reads == 0 => return Next::Yield(Some(action)),
                Action::Read(more) => read(&mut self.input, place, more),
                Action::ReadBody => self.read_body(place),
                Action::Again => {
                    if turn == 0 {
                        shared.cell().conn_yields.add(1);
                    }
                    return Next::Yield(None);
                }
                Action::Close if self.session.said_goodbye => return Next::Gone(Reason::Normal),
                Action::Close => return Next::Gone(Reason::Error),
                // Written, so there is room.
                _ => continue,
            };
            match read {
                Ok(0) => return Next::Gone(Reason::Normal),
                Ok(count) => shared.cell().bytes_read.add(count as u64),
                Err(Errno::AGAIN) => {
                    place.unread = false;
                    let rests = self.input.is_empty() && !self.session.is_midway();
                    return if rests { Next::Rest } else { Next::Wait(action) };
                }
                Err(Errno::INTR) => next = Some(action),
                Err(_) => return Next::Gone(Reason::Error),
            }
            reads -= 1;
        }
    }

    /// While replies wait: what is there already joins them. Whether there was something.
    fn reads_on(&mut self, place: &mut Place, shared: &Shared) -> bool {
        let Some(more) = self.session.may_read_on() else { return false };
        if !place.unread || self.out.len() > limits::OUTPUT_PAUSE_BYTES {
            return false;
        }
        match read(&mut self.input, place, more) {
            Ok(count) if count > 0 => {
                shared.cell().bytes_read.add(count as u64);
                return true;
            }
            Err(Errno::AGAIN) => place.unread = false,
            // An end or an error shows again when the replies are gone.
            _ => place.unread = true,
        }
        false
    }

    /// Reads bytes of a large value to where they stay.
    fn read_body(&mut self, place: &mut Place) -> Result<usize, Errno> {
        let room = self.session.body_room();
        let length = room.len();
        let (_, count) = recv(place.socket.fd(), room, RecvFlags::empty())?;
        self.session.body_filled(count);
        place.was_read(count, length);
        Ok(count)
    }

    /// Writes everything.
    #[inline]
    fn flush(&mut self, place: &Place, shared: &Shared) -> Result<(), Errno> {
        if self.out.is_empty() {
            return Ok(());
        }
        while !self.out.is_empty() {
            let fd = place.socket.fd();
            let written = match self.out.piece() {
                Some(bytes) => send(fd, bytes, SendFlags::NOSIGNAL),
                None => write_slices(&self.out, |slices| rustix::io::writev(fd, slices)),
            };
            match written {
                Ok(0) => return Err(Errno::PIPE),
                Ok(count) => {
                    shared.cell().bytes_written.add(count as u64);
                    self.out.advance(count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        Ok(())
    }
}
