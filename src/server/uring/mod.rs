//! The data plane on io_uring: the same sessions as everywhere, fewer ways into the kernel.
//!
//! Intuition: with epoll a worker asks who is ready and then makes one system call to read and one to
//! write for each. With io_uring it tells the kernel once that it wants whatever comes on a socket, finds
//! the bytes of many sockets in its own memory, and hands over all answers with the call that waits for
//! the next bytes.
//!
//! In reading order: this file (whether it can be had), `ring` (the kernel's queues, and the only `unsafe`),
//! `plane` (connections on a ring).

mod plane;
mod ring;

use std::io;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Io, limits};
use crate::protocol::Output;
use ring::{Event, Ring, Size, Wait};

pub(super) use plane::Plane;

/// Whether workers serve on rings. Says in the log how they do, and why.
pub(super) fn choose(wanted: Io, workers: usize) -> io::Result<bool> {
    if wanted == Io::Epoll {
        tracing::info!("clients are served with epoll, as --io epoll says");
        return Ok(false);
    }
    match probe(workers) {
        Ok(()) => {
            tracing::info!("clients are served with io_uring");
            Ok(true)
        }
        Err(why) if wanted == Io::Auto => {
            tracing::info!("clients are served with epoll: {why}");
            Ok(false)
        }
        Err(why) => Err(io::Error::other(refusal(&why))),
    }
}

/// What `--io uring` says where that cannot be.
pub(super) fn refusal(why: &str) -> String {
    format!("--io uring: {why}; or choose --io epoll")
}

/// Whether this process may use io_uring for so many workers, and this kernel's does all that is needed;
/// why not, otherwise. On a thread of its own: the kernel goes on interrupting a thread that had a ring.
pub(super) fn probe(workers: usize) -> Result<(), String> {
    let test = move || {
        self_test()?;
        (0..workers).map(|_| Ring::new(SERVING)).collect::<io::Result<Vec<_>>>().map(drop)
    };
    let tested = std::thread::Builder::new().name("tandem-probe".to_owned()).spawn(test);
    let tested = tested.and_then(|thread| {
        thread.join().unwrap_or_else(|_panicked| Err(io::Error::other("its test did not come to an end")))
    });
    tested.map_err(|error| explain(&error))
}

/// Why there is no io_uring, and what to do about it.
fn explain(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    explain_with(error, disabled.trim())
}

fn explain_with(error: &io::Error, disabled: &str) -> String {
    const OLD: &str = "this kernel's io_uring is too old; Linux 6.1 or newer is needed";
    match error.kind() {
        io::ErrorKind::PermissionDenied if matches!(disabled, "1" | "2") => format!(
            "io_uring is not allowed here (kernel.io_uring_disabled is {disabled}); `sysctl kernel.io_uring_disabled=0` allows it"
        ),
        io::ErrorKind::PermissionDenied => "io_uring is not allowed here, probably by a seccomp filter as containers have it; let the filter pass io_uring_setup, io_uring_enter and io_uring_register".to_owned(),
        io::ErrorKind::Unsupported => format!("this kernel has no io_uring ({error}); Linux 6.1 or newer is needed"),
        io::ErrorKind::InvalidInput => OLD.to_owned(),
        io::ErrorKind::OutOfMemory => {
            format!("there is not enough memory for io_uring's queues ({error}); raise the limit of locked memory (`ulimit -l`), or lower -t")
        }
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

/// The ring of a worker.
const SERVING: Size = Size {
    submissions: limits::RING_SUBMISSIONS,
    completions: limits::RING_COMPLETIONS,
    buffers: limits::RING_BUFFERS,
    buffers_max: limits::RING_BUFFERS_MAX,
};
/// The ring of the test.
const TEST: Size = Size { submissions: 8, completions: 16, buffers: 2, buffers_max: 2 };
/// How long any one step of the test may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than a socket takes at once.
const TOO_MUCH: usize = 8 << 20;

/// Does with two sockets what the data plane does with thousands.
fn self_test() -> io::Result<()> {
    let mut ring = Ring::new(TEST)?;
    let (ours, mut theirs) = UnixStream::pair()?;
    let old = || io::Error::from(io::ErrorKind::InvalidInput);

    // Bytes come into provided buffers, and reception goes on.
    ring.receive(ours.as_fd(), 0);
    ring.enter(Wait::No)?;
    theirs.write_all(b"ping")?;
    match next(&mut ring)? {
        Event::Received { place: 0, lent, goes_on: true } if ring.bytes(&lent) == b"ping" => {
            ring.take_back(lent);
        }
        _ => return Err(old()),
    }

    // An answer that fits is sent without another word.
    let mut out = Output::new();
    out.extend(b"pong");
    ring.send(ours.as_fd(), 0, &mut out);
    ring.enter(Wait::No)?;
    let mut answer = [0; 4];
    theirs.set_read_timeout(Some(PATIENCE))?;
    theirs.read_exact(&mut answer)?;
    if ring.next_event().is_some() || ring.take_sent_bytes() != 4 {
        return Err(old());
    }

    // One that does not fit comes back at once, and says how much of it was sent.
    out.extend(&vec![0; TOO_MUCH]);
    ring.send(ours.as_fd(), 0, &mut out);
    ring.enter(Wait::No)?;
    match ring.next_event() {
        Some(Event::Unsent { out, sent: Ok(sent), .. }) if sent > 0 && out.len() == TOO_MUCH - sent => Ok(()),
        _ => Err(old()),
    }
}

/// The next event, within the test's patience.
fn next(ring: &mut Ring) -> io::Result<Event> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = ring.next_event() {
            return Ok(event);
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        ring.enter(Wait::For(Duration::from_millis(100)))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_comes_with_its_reason_and_its_remedy() {
        let says = |errno: i32, disabled: &str| explain_with(&io::Error::from_raw_os_error(errno), disabled);
        assert!(says(libc::EPERM, "2").contains("kernel.io_uring_disabled is 2"));
        assert!(says(libc::EPERM, "2").contains("sysctl kernel.io_uring_disabled=0"));
        assert!(says(libc::EPERM, "0").contains("seccomp"));
        assert!(says(libc::EACCES, "").contains("seccomp"));
        assert!(says(libc::ENOSYS, "").contains("Linux 6.1"));
        assert!(says(libc::EINVAL, "").contains("Linux 6.1"));
        assert!(says(libc::ENOMEM, "").contains("ulimit -l"));
        assert!(says(libc::EMFILE, "").contains("Too many open files"));
    }
}
