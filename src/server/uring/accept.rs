//! Accepting on a ring: one operation that goes on for as long as its listener lives.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ring::{Event, Ring, Size, Wait};
use crate::server::limits;

/// The ring of a listener.
const LISTENING: Size =
    Size { submissions: 2, completions: limits::RING_ACCEPTED, buffers: 0, buffers_max: 1 };

/// Connections that come in at one listener, for the runtime of the thread that accepts. To be dropped before the
/// listener, which stays open as long as the kernel accepts there.
pub(in crate::server) struct Incoming {
    ring: Ring,
    /// Where the ring says that there is something to look at.
    signal: AsyncFd<OwnedFd>,
    /// The kernel accepts.
    accepting: bool,
}

impl Incoming {
    /// To be called by the thread that will accept, in its runtime.
    #[expect(
        deprecated,
        reason = "the successor is unsafe, for descriptors that may close; this one is owned"
    )]
    pub(in crate::server) fn new() -> io::Result<Self> {
        let mut ring = Ring::new(LISTENING)?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.signal(signal.as_fd())?;
        ring.signals(true);
        let signal = AsyncFd::with_interest(signal, Interest::READABLE)?;
        Ok(Self { ring, signal, accepting: false })
    }

    /// The next connection at the listener, which must block and be the same each time; the connection does not.
    /// Or why there is none, after which one may ask again.
    pub(in crate::server) async fn next(&mut self, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        loop {
            match self.ring.next_event() {
                Some(Event::Accepted { socket, goes_on }) => {
                    self.accepting = goes_on;
                    return socket;
                }
                // Nothing else was begun.
                Some(_) => continue,
                None => {}
            }
            if !self.accepting {
                self.accepting = true;
                self.ring.accept(listener);
            } else if self.ring.is_quiet() {
                // What comes from here on is signalled.
                self.signal.readable().await?.clear_ready();
            }
            self.ring.enter(Wait::No)?;
        }
    }
}
