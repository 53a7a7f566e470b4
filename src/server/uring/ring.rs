//! The kernel's queues behind safe calls. This file, and no other of the server, is allowed `unsafe`.
//!
//! Intuition: an operation is a loan. Memory that the kernel may read or write moves into the [`Ring`]
//! when the operation is begun and comes back with its end; nobody else can reach it in between.
//!
//! Invariants, on which every `unsafe` block below rests:
//!
//! 1. **Receive buffers never leave.** They are one allocation that lives as long as the ring. A buffer
//!    belongs to the kernel from [`Pool::provide`] until a completion names it, and to its [`Lent`] from
//!    then until [`Ring::take_back`]; there is one `Lent` per buffer, and it cannot be copied.
//! 2. **Replies live in the ring while they are sent.** [`Ring::send`] takes the [`Output`] into a slot,
//!    and only the end of the operation empties the slot. What the kernel reads are heap bytes that do
//!    not move when the slot does.
//! 3. **A hasty send is over when the kernel has taken it.** It neither waits nor says that it succeeded:
//!    once its entry was consumed and every completion of that time was looked at, a send that did not
//!    fail is done. `self_test` makes sure that this kernel keeps to it.
//! 4. **The end comes in order.** Dropping a ring cancels what is under way and waits for it. If the
//!    kernel will not let go in time, the memory is leaked rather than freed under its hands.
//!
//! Descriptors are not owned here. An operation on one that was closed meanwhile does no harm to memory;
//! the connections' table closes a socket only when nothing is under way on it.
#![allow(unsafe_code, reason = "queues and buffers are shared with the kernel; this file is the safe form")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use crate::protocol::Output;
use crate::server::limits;

/// The one group of receive buffers.
const GROUP: u16 = 0;
/// How long dropping a ring waits for the kernel to let go.
const LETTING_GO: Duration = Duration::from_secs(2);

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Operations that are begun together.
    pub(super) submissions: u32,
    /// Ends that wait to be looked at; beyond, the kernel keeps them elsewhere, more slowly.
    pub(super) completions: u32,
    /// Receive buffers at first.
    pub(super) buffers: u16,
    /// Receive buffers at most: a power of two.
    pub(super) buffers_max: u16,
}

/// How long [`Ring::enter`] waits for something to end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// Not at all.
    No,
    /// So long.
    For(Duration),
    /// Until something does.
    Forever,
}

/// A receive buffer that holds what came. Give it back with [`Ring::take_back`].
#[derive(Debug)]
pub(super) struct Lent {
    buffer: u16,
    len: usize,
}

/// A send that can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendId(u32);

/// Something ended, or went on.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes came. Without `goes_on` there will be no more until [`Ring::receive`].
    Received { place: u32, lent: Lent, goes_on: bool },
    /// No more bytes until [`Ring::receive`].
    ReceptionEnded { place: u32, why: ReceptionEnd },
    /// A hasty send did not succeed at once; what was not sent is in the output.
    Unsent { place: u32, out: Output, sent: io::Result<usize> },
    /// A patient send ended; what was not sent is in the output.
    Sent { place: u32, out: Output, sent: io::Result<usize> },
    /// What was watched became readable. Without `goes_on` it is watched no more.
    Readable { goes_on: bool },
}

/// Why reception ended.
#[derive(Debug)]
pub(super) enum ReceptionEnd {
    /// The other end said that nothing will follow.
    Closed,
    /// It was cancelled.
    Cancelled,
    /// All buffers were taken; nothing was lost.
    Starved,
    /// The connection broke.
    Broken,
}

/// Submission and completion queue, receive buffers, and replies on their way.
pub(super) struct Ring {
    uring: IoUring,
    pool: Pool,
    sends: Sends,
    /// Operations whose end is still to come. Hasty sends are not among them.
    under_way: usize,
    /// Answers that go with the next [`Ring::enter`], unless they are withdrawn: slot and entry.
    staged: Vec<(u32, squeue::Entry)>,
    /// What found no room in the submission queue.
    backlog: VecDeque<squeue::Entry>,
    round: u64,
    /// Bytes that hasty sends have sent.
    sent_bytes: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for the calling thread, and for no other: the kernel knows it from now on.
    pub(super) fn new(size: Size) -> io::Result<Self> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(size.completions)
            .build(size.submissions)?;
        if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut pool = Pool::new(size.buffers_max);
        // SAFETY: the list is page-aligned, has that many entries, and lives in `pool`, which is dropped
        // after `uring` is closed or quiet (invariant 4; fields are dropped in order).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                pool.list.as_ptr() as u64,
                size.buffers_max,
                GROUP,
                0,
            )?;
        }
        pool.provide_up_to(size.buffers);
        Ok(Self {
            uring,
            pool,
            sends: Sends::default(),
            under_way: 0,
            staged: Vec::new(),
            backlog: VecDeque::new(),
            round: 0,
            sent_bytes: 0,
        })
    }

    /// Writes to an eventfd whenever there is something for [`Ring::enter`] to bring, while
    /// [`Ring::signals`] says so.
    pub(super) fn signal(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.signals(false);
        self.uring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// See [`Ring::signal`].
    pub(super) fn signals(&mut self, on: bool) {
        let queue = self.uring.completion();
        if on { queue.enable_eventfd() } else { queue.disable_eventfd() }
    }

    /// Receives from a socket until told otherwise. The socket must block.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, place: u32) {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.under_way += 1;
        self.push(entry.user_data(Tag::new(Kind::Receive, 0, place).0));
    }

    /// Ends [`Ring::receive`]; that it ended is told as any other end.
    pub(super) fn stop_receiving(&mut self, place: u32) {
        self.push(Self::cancelling(Tag::new(Kind::Receive, 0, place)));
    }

    /// Tells when something becomes readable, again and again.
    pub(super) fn watch(&mut self, descriptor: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.under_way += 1;
        self.push(entry.user_data(Tag::new(Kind::Watch, 0, 0).0));
    }

    /// Sends everything in `out`, which is in one piece and empty afterwards. It is submitted with the next
    /// [`Ring::enter`] and may be withdrawn until then. Its success is not told: from the next
    /// [`Ring::round`] on it is done, unless [`Event::Unsent`] says otherwise.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, place: u32, out: &mut Output) {
        debug_assert!(out.piece().is_some(), "sent patiently otherwise");
        let replies = self.swap(out);
        let id = self.sends.put(place, true, replies);
        // All of it at once or an error; an error is told, success is not.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let entry = self.sends.entry(id, Fd(socket.as_raw_fd()), flags);
        self.staged.push((id, entry.flags(Flags::SKIP_SUCCESS).user_data(Tag::new(Kind::Send, id, place).0)));
    }

    /// The output, for an empty one.
    pub(super) fn swap(&mut self, out: &mut Output) -> Output {
        std::mem::replace(out, self.sends.empty_output())
    }

    /// Takes back every answer that was not submitted yet; returns whose they were.
    pub(super) fn withdraw(&mut self) -> Vec<u32> {
        let staged = std::mem::take(&mut self.staged);
        let mut places = Vec::new();
        for (id, entry) in staged {
            let tag = Tag(entry.get_user_data());
            if tag.kind() != Kind::Send {
                self.staged.push((id, entry));
            } else if let Some(sending) = self.sends.take(id, tag.place()) {
                self.under_way -= usize::from(!sending.hasty);
                places.push(tag.place());
            }
        }
        places
    }

    /// Sends some of `out`, as soon as the other end takes it: [`Event::Sent`] follows.
    pub(super) fn send_patiently(&mut self, socket: BorrowedFd<'_>, place: u32, out: Output) -> SendId {
        let id = self.sends.put(place, false, out);
        let entry = self.sends.entry(id, Fd(socket.as_raw_fd()), libc::MSG_NOSIGNAL);
        self.under_way += 1;
        self.staged.push((id, entry.user_data(Tag::new(Kind::Send, id, place).0)));
        SendId(id)
    }

    /// Ends a patient send; that it ended is told as any other end.
    pub(super) fn stop_sending(&mut self, place: u32, send: SendId) {
        // Behind the send itself, if that is not submitted yet.
        let entry = Self::cancelling(Tag::new(Kind::Send, send.0, place));
        self.staged.push((send.0, entry));
    }

    /// Hands everything that was begun to the kernel and waits for something to end.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.pool.publish();
        self.push_backlog();
        let mut staged = std::mem::take(&mut self.staged);
        for (_, entry) in staged.drain(..) {
            self.push(entry);
        }
        self.staged = staged;
        let submitter = self.uring.submitter();
        let result = match wait {
            Wait::No => submitter.submit(),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::For(limit) => {
                let limit = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        if self.uring.submission().is_empty() && self.backlog.is_empty() {
            self.round += 1;
            self.sends.submitted = self.sends.hasty.len();
        }
        match result {
            Ok(_) => Ok(()),
            // A signal, the end of patience, or a kernel that wants its ends looked at first.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether [`Ring::enter`] would neither hand over nor bring anything.
    pub(super) fn is_quiet(&mut self) -> bool {
        let queue = self.uring.submission();
        let nothing = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        nothing && self.backlog.is_empty() && self.staged.is_empty() && self.sends.hasty.is_empty()
    }

    /// What ended next; `None` when everything was looked at.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        loop {
            let Some(entry) = self.uring.completion().next() else {
                self.settle();
                return None;
            };
            if let Some(event) = self.event(&entry) {
                return Some(event);
            }
        }
    }

    /// Counts the times that everything begun was handed over.
    pub(super) const fn round(&self) -> u64 {
        self.round
    }

    /// Whether there are ends that wait outside the queue, so that what did not fail yet still may.
    pub(super) fn overflows(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    /// What a buffer holds.
    pub(super) fn bytes(&self, lent: &Lent) -> &[u8] {
        self.pool.bytes(lent)
    }

    /// Takes a receive buffer back.
    pub(super) fn take_back(&mut self, lent: Lent) {
        self.pool.provide(lent.buffer);
    }

    /// More receive buffers, if there may be: called when they did not suffice.
    pub(super) fn grow(&mut self) {
        self.pool.provide_up_to(self.pool.provided.saturating_mul(2));
    }

    /// Bytes that receive buffers may hold.
    pub(super) fn buffer_bytes(&self) -> usize {
        usize::from(self.pool.provided) * limits::RING_BUFFER_BYTES
    }

    /// Bytes that hasty sends have sent since the last call.
    pub(super) fn take_sent_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }

    fn cancelling(what: Tag) -> squeue::Entry {
        let entry = opcode::AsyncCancel::new(what.0).build().flags(Flags::SKIP_SUCCESS);
        entry.user_data(Tag::new(Kind::Cancel, 0, 0).0)
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.push_now(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.push_now(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        if self.uring.submission().is_full() {
            self.pool.publish();
            // What is not taken now is taken later.
            let _taken_or_not = self.uring.submit();
        }
        // SAFETY: entries are made in this file only. They point to nothing, or to an output in a slot of
        // `sends`, which stays there until the operation is over (invariants 2 and 3).
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    fn event(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let tag = Tag(entry.user_data());
        let (result, goes_on) = (entry.result(), cqueue::more(entry.flags()));
        match tag.kind() {
            Kind::Receive => {
                self.under_way -= usize::from(!goes_on);
                Some(self.received(tag.place(), result, goes_on, cqueue::buffer_select(entry.flags())))
            }
            Kind::Send => Some(self.sent(tag, result)),
            Kind::Watch => {
                self.under_way -= usize::from(!goes_on);
                Some(Event::Readable { goes_on })
            }
            Kind::Cancel => None,
        }
    }

    fn received(&mut self, place: u32, result: i32, goes_on: bool, buffer: Option<u16>) -> Event {
        let lent = buffer.map(|buffer| self.pool.lend(buffer, result));
        match (result, lent) {
            (1.., Some(lent)) => Event::Received { place, lent, goes_on },
            (_, lent) => {
                if let Some(lent) = lent {
                    self.take_back(lent);
                }
                let why = match result {
                    0 => ReceptionEnd::Closed,
                    _ if -result == libc::ECANCELED => ReceptionEnd::Cancelled,
                    _ if -result == libc::ENOBUFS => ReceptionEnd::Starved,
                    _ => ReceptionEnd::Broken,
                };
                Event::ReceptionEnded { place, why }
            }
        }
    }

    fn sent(&mut self, tag: Tag, result: i32) -> Event {
        let place = tag.place();
        let Some(mut sending) = self.sends.take(tag.id(), place) else {
            // It failed after all, later than this kernel should (invariant 3): the connection is lost.
            let sent = Err(io::ErrorKind::BrokenPipe.into());
            return Event::Unsent { place, out: Output::new(), sent };
        };
        let hasty = sending.hasty;
        self.under_way -= usize::from(!hasty);
        let sent = match usize::try_from(result) {
            Ok(count) => {
                sending.out.advance(count);
                Ok(count)
            }
            Err(_) if hasty && -result == libc::EAGAIN => Ok(0),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let out = self.sends.unpack(sending);
        if hasty { Event::Unsent { place, out, sent } } else { Event::Sent { place, out, sent } }
    }

    /// Every completion was looked at: what was submitted hastily and did not fail is done.
    fn settle(&mut self) {
        if self.sends.submitted > 0 && !self.overflows() {
            self.sent_bytes += self.sends.settle();
        }
    }

    /// Takes back an output that was looked at.
    pub(super) fn recycle(&mut self, out: Output) {
        self.sends.recycle(out);
    }

    /// Whether the kernel has nothing of ours.
    fn is_idle(&self) -> bool {
        self.under_way == 0 && self.sends.hasty.is_empty() && self.backlog.is_empty()
    }

    /// Cancels everything and waits for its end; whether it came.
    fn let_go(&mut self) -> bool {
        if self.is_idle() {
            return true;
        }
        let everything = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        let entry = everything.flags(Flags::SKIP_SUCCESS).user_data(Tag::new(Kind::Cancel, 0, 0).0);
        let deadline = Instant::now() + LETTING_GO;
        loop {
            self.push(entry.clone());
            let entered = self.enter(Wait::For(Duration::from_millis(10)));
            while let Some(event) = self.next_event() {
                if let Event::Received { lent, .. } = event {
                    self.take_back(lent);
                }
            }
            if self.is_idle() {
                return true;
            }
            if entered.is_err() || Instant::now() > deadline {
                return false;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.let_go() {
            tracing::warn!("the kernel did not end all operations; their memory is given up");
            std::mem::forget(std::mem::take(&mut self.sends));
            self.pool.leaks = true;
        }
    }
}

/// What an operation was for, in the number that the kernel gives back with its end.
#[derive(Clone, Copy, Debug)]
struct Tag(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Receive = 1,
    Send = 2,
    Watch = 3,
    Cancel = 4,
}

impl Tag {
    const ID_BITS: u32 = 24;

    fn new(kind: Kind, id: u32, place: u32) -> Self {
        debug_assert!(id < 1 << Self::ID_BITS);
        Self((kind as u64) << 56 | u64::from(id) << 32 | u64::from(place))
    }

    const fn kind(self) -> Kind {
        match self.0 >> 56 {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Watch,
            _ => Kind::Cancel,
        }
    }

    const fn id(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << Self::ID_BITS) - 1)
    }

    const fn place(self) -> u32 {
        self.0 as u32
    }
}

/// Receive buffers, and the list through which the kernel is given them.
struct Pool {
    /// Shared with the kernel: entries, and in the first one's last word how far they are filled.
    list: NonNull<BufRingEntry>,
    /// All buffers, one after the other; the kernel writes into those that it has.
    memory: NonNull<u8>,
    /// Entries of the list, a power of two; as many buffers at most.
    entries: u16,
    /// Buffers with a lower number are in use.
    provided: u16,
    /// Where the next entry goes.
    tail: u16,
    /// The kernel may still write: nothing is freed.
    leaks: bool,
}

// SAFETY: the pointers are to allocations of the pool's own; nothing in it belongs to a thread.
unsafe impl Send for Pool {}

impl Pool {
    const PAGE: usize = 4096;

    fn new(entries: u16) -> Self {
        assert!(entries.is_power_of_two() && entries <= 1 << 15, "the kernel wants a power of two");
        let zeroed = |layout: Layout| {
            // SAFETY: the layouts below are not empty.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
        };
        let (list, memory) = Self::layouts(entries);
        let (list, memory) = (zeroed(list).cast(), zeroed(memory));
        Self { list, memory, entries, provided: 0, tail: 0, leaks: false }
    }

    fn layouts(entries: u16) -> (Layout, Layout) {
        let of =
            |bytes: usize| Layout::from_size_align(bytes, Self::PAGE).expect("a size far from the largest");
        (
            of(usize::from(entries) * size_of::<BufRingEntry>()),
            of(usize::from(entries) * limits::RING_BUFFER_BYTES),
        )
    }

    fn address(&self, buffer: u16) -> NonNull<u8> {
        debug_assert!(buffer < self.entries);
        // SAFETY: there are `entries` buffers in the allocation, and no number is larger.
        unsafe { self.memory.add(usize::from(buffer) * limits::RING_BUFFER_BYTES) }
    }

    /// Gives a buffer to the kernel, as of the next [`Pool::publish`]. Nobody else has it: it is new, or
    /// its `Lent` was just given up.
    fn provide(&mut self, buffer: u16) {
        let place = usize::from(self.tail & (self.entries - 1));
        let address = self.address(buffer).as_ptr() as u64;
        // SAFETY: `place` is below `entries`, and the kernel does not look at entries behind the
        // published tail. There are never more buffers than entries, so none that it may still read is
        // overwritten. The tail, which shares the first entry, is no part of what is set here.
        let entry = unsafe { &mut *self.list.as_ptr().add(place) };
        entry.set_addr(address);
        entry.set_len(limits::RING_BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Buffers with lower numbers than `count` are in use from now on.
    fn provide_up_to(&mut self, count: u16) {
        let count = count.min(self.entries);
        for buffer in self.provided..count {
            self.provide(buffer);
        }
        self.provided = self.provided.max(count);
    }

    /// Lets the kernel see what was provided.
    fn publish(&mut self) {
        // SAFETY: the list is the base that was registered; its tail is an aligned word in it, written by
        // this side only and read by the kernel at any time, hence the atomic access.
        let tail = unsafe { &*BufRingEntry::tail(self.list.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// A completion named this buffer: the kernel has written `result` bytes and is done with it.
    fn lend(&self, buffer: u16, result: i32) -> Lent {
        let len = usize::try_from(result).unwrap_or(0);
        assert!(buffer < self.provided && len <= limits::RING_BUFFER_BYTES, "a buffer that was provided");
        Lent { buffer, len }
    }

    fn bytes(&self, lent: &Lent) -> &[u8] {
        // SAFETY: `lend` checked number and length; the memory was zeroed when it was allocated, and the
        // kernel does not write there before the buffer is provided again, which takes the `Lent`.
        unsafe { std::slice::from_raw_parts(self.address(lent.buffer).as_ptr(), lent.len) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaks {
            return;
        }
        let (list, memory) = Self::layouts(self.entries);
        // SAFETY: allocated in `new` with these layouts, and freed once. The kernel uses neither any more:
        // nothing is under way (invariant 4), and the ring that knew the list is closed, since a ring's
        // first field is dropped before its pool.
        unsafe {
            dealloc(self.list.as_ptr().cast(), list);
            dealloc(self.memory.as_ptr(), memory);
        }
    }
}

/// Replies on their way.
#[derive(Default)]
struct Sends {
    slots: Vec<Option<Sending>>,
    free: Vec<u32>,
    /// Hasty ones that are not known to be done, in the order in which they were begun.
    hasty: Vec<u32>,
    /// How many of those were handed over.
    submitted: usize,
    /// Outputs and headers to be used again.
    outputs: Vec<Output>,
    #[expect(clippy::vec_box, reason = "the kernel has their addresses while they are in use")]
    messages: Vec<Box<Message>>,
}

struct Sending {
    out: Output,
    place: u32,
    hasty: bool,
    /// For replies in several pieces.
    message: Option<Box<Message>>,
}

/// A header for several pieces, and their list.
struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; limits::WRITE_SLICES],
}

// SAFETY: the pointers in it are to replies in the same `Sending`, or stale and never followed.
unsafe impl Send for Message {}

impl Sends {
    fn put(&mut self, place: u32, hasty: bool, out: Output) -> u32 {
        let sending = Some(Sending { out, place, hasty, message: None });
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = sending;
                id
            }
            None => {
                self.slots.push(sending);
                self.slots.len() as u32 - 1
            }
        };
        if hasty {
            self.hasty.push(id);
        }
        id
    }

    fn sending(&mut self, id: u32) -> &mut Sending {
        self.slots[id as usize].as_mut().expect("asked for right after it was put there")
    }

    /// What sends the replies in a slot, or as many as fit in a message.
    fn entry(&mut self, id: u32, socket: Fd, flags: i32) -> squeue::Entry {
        if let Some(piece) = self.sending(id).out.piece() {
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            return opcode::Send::new(socket, piece.as_ptr(), len).flags(flags).build();
        }
        let mut message = self.messages.pop().unwrap_or_default();
        let sending = self.sending(id);
        let mut slices = [IoSlice::new(&[]); limits::WRITE_SLICES];
        let count = sending.out.slices(&mut slices);
        for (piece, slice) in message.slices.iter_mut().zip(&slices[..count]) {
            piece.iov_base = slice.as_ptr().cast_mut().cast();
            piece.iov_len = slice.len();
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        let message = sending.message.insert(message);
        opcode::SendMsg::new(socket, &raw const message.header).flags(flags as u32).build()
    }

    fn take(&mut self, id: u32, place: u32) -> Option<Sending> {
        let slot = self.slots.get_mut(id as usize)?;
        let sending = slot.take_if(|sending| sending.place == place)?;
        if sending.hasty {
            // Few fail, and those that do are among the first.
            if let Some(at) = self.hasty.iter().position(|other| *other == id) {
                self.hasty.remove(at);
                self.submitted = self.submitted.saturating_sub(usize::from(at < self.submitted));
            }
        }
        self.free.push(id);
        Some(sending)
    }

    fn unpack(&mut self, sending: Sending) -> Output {
        if let Some(message) = sending.message
            && self.messages.len() < limits::RING_OUTPUTS
        {
            self.messages.push(message);
        }
        sending.out
    }

    /// What was handed over and did not fail is done. Returns how many bytes it was.
    fn settle(&mut self) -> u64 {
        let mut bytes = 0;
        let mut done = std::mem::take(&mut self.hasty);
        for id in done.drain(..self.submitted) {
            let Some(sending) = self.slots[id as usize].take() else { continue };
            self.free.push(id);
            bytes += sending.out.len() as u64;
            let out = self.unpack(sending);
            self.recycle(out);
        }
        self.hasty = done;
        self.submitted = 0;
        bytes
    }

    fn empty_output(&mut self) -> Output {
        self.outputs.pop().unwrap_or_default()
    }

    fn recycle(&mut self, mut out: Output) {
        if self.outputs.len() < limits::RING_OUTPUTS {
            out.clear();
            self.outputs.push(out);
        }
    }
}

impl Default for Message {
    fn default() -> Self {
        // SAFETY: a message header and a list of pieces may be all zeroes: null pointers and no lengths.
        unsafe { std::mem::zeroed() }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
