//! One of the pair's two connections: a socket, what came and is not a whole frame yet, and what is
//! still to go out. Never waits: the loop asks when there is something to do.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder};

use crate::channel::Channel;
use crate::frame::{Codec, Frame, FrameError};
use crate::guard::{Guard, GuardError};
use crate::handshake::Side;
use crate::node::Down;

/// Read at a time; also what one turn of the loop takes from the data connection.
const READ_BYTES: usize = 64 << 10;
/// A control connection that does not take this much in time is not alive.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// Why a connection is of no more use, for the node and for the log.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) down: Down,
    pub(super) why: String,
}

impl Broken {
    fn io(why: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let closed = matches!(why.kind(), ConnectionReset | ConnectionAborted | BrokenPipe);
        Self { down: if closed { Down::Closed } else { Down::Lost }, why: why.to_string() }
    }

    fn closed() -> Self {
        Self { down: Down::Closed, why: "the peer closed it".to_string() }
    }
}

impl From<GuardError> for Broken {
    fn from(why: GuardError) -> Self {
        Self { down: Down::Lost, why: format!("{why}: starting over with a new connection") }
    }
}

impl From<FrameError> for Broken {
    fn from(why: FrameError) -> Self {
        Self { down: Down::Lost, why: format!("{why}: starting over with a new connection") }
    }
}

/// What one attempt to read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing more is there now.
    Dry,
    /// There may be more.
    Some,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    guard: Guard,
    codec: Codec,
    /// From the socket, not a whole record yet.
    wire: BytesMut,
    /// Of the peer, not a whole frame yet.
    input: BytesMut,
    /// Frames to be sent, and what they become on the wire.
    frames: BytesMut,
    output: BytesMut,
    /// Who connected.
    pub(super) side: Side,
    /// When its handshake was over.
    pub(super) since: tokio::time::Instant,
}

impl Connection {
    pub(super) fn new(channel: Channel, side: Side, payload_bytes_max: usize) -> Self {
        let Channel { stream, guard, wire_in, plain_in, .. } = channel;
        Self {
            stream,
            guard,
            codec: Codec::new(payload_bytes_max),
            wire: wire_in,
            input: plain_in,
            frames: BytesMut::new(),
            output: BytesMut::new(),
            side,
            since: tokio::time::Instant::now(),
        }
    }

    pub(super) async fn readable(&self) {
        // An error of readiness shows again when reading.
        let _ = self.stream.readable().await;
    }

    pub(super) async fn writable(&self) {
        let _ = self.stream.writable().await;
    }

    /// Keeps the thread until something is there to be read, or for that long.
    pub(super) fn wait_for_bytes(&self, patience: Duration) {
        let limit = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
        // What there is, or is wrong, shows when reading.
        let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&limit));
    }

    /// Reads once, if the runtime knows of something to read.
    pub(super) fn read(&mut self) -> Result<Taken, Broken> {
        let open = self.is_open();
        let target = if open { &mut self.input } else { &mut self.wire };
        target.reserve(READ_BYTES);
        match self.stream.try_read_buf(target) {
            Ok(0) => Err(Broken::closed()),
            Ok(_) => self.opened(),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Dry),
            Err(why) => Err(Broken::io(&why)),
        }
    }

    /// Reads once what the kernel has, whether or not the runtime has noticed it yet. After a pause of
    /// the process the runtime's knowledge is as old as the pause.
    pub(super) fn read_queued(&mut self) -> Result<Taken, Broken> {
        let open = self.is_open();
        let target = if open { &mut self.input } else { &mut self.wire };
        let start = target.len();
        target.resize(start + READ_BYTES, 0);
        let read = (&*SockRef::from(&self.stream)).read(&mut target[start..]);
        target.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Broken::closed()),
            Ok(_) => self.opened(),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Dry),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => Ok(Taken::Some),
            Err(why) => Err(Broken::io(&why)),
        }
    }

    /// Unguarded, frames are cut from what was read as it is.
    fn is_open(&self) -> bool {
        matches!(self.guard, Guard::Open)
    }

    fn opened(&mut self) -> Result<Taken, Broken> {
        if !self.is_open() {
            self.guard.open(&mut self.wire, &mut self.input)?;
        }
        Ok(Taken::Some)
    }

    /// The next whole frame of what was read.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        Ok(self.codec.decode(&mut self.input)?)
    }

    /// How many frames were skipped since this was asked last.
    pub(super) fn take_ignored(&mut self) -> u64 {
        self.codec.take_ignored()
    }

    /// Puts a frame behind everything that waits to go out.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), Broken> {
        self.codec.encode(frame, &mut self.frames)?;
        if self.waiting_bytes() > OUTPUT_BYTES_MAX + READ_BYTES {
            return Err(Broken { down: Down::Lost, why: "the peer does not read".to_string() });
        }
        Ok(())
    }

    /// Is something waiting to go out?
    pub(super) fn is_blocked(&self) -> bool {
        self.waiting_bytes() > 0
    }

    /// Bytes that wait to go out.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.output.len() + self.frames.len()
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        if !self.frames.is_empty() {
            self.guard.seal(&mut self.frames, &mut self.output)?;
        }
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(0) => return Err(Broken::closed()),
                Ok(written) => self.output.advance(written),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(Broken::io(&why)),
            }
        }
        Ok(())
    }

    /// Nothing more will be sent; the peer sees the end once it has read everything.
    pub(super) fn end_output(&self) {
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
    }

    /// Sends everything; for the goodbye.
    pub(super) async fn drain(&mut self) {
        while self.flush().is_ok() && self.is_blocked() {
            self.writable().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn frames_wait_from_when_they_are_pushed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let mut connection = Connection::new(Channel::from(stream), Side::Dialler, 1 << 20);
        let frame = Frame::Changes { shard: 0, first: 1, secs: 2, payload: Bytes::from(vec![0; 1000]) };
        // Whoever fills it stops when that much waits: were it not counted, a long backlog would be too much.
        for pushed in 1..=100 {
            connection.push(&frame).expect("far less than is too much");
            assert!(connection.waiting_bytes() > pushed * 1000 && connection.is_blocked(), "{pushed}");
        }
    }
}
