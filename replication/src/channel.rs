//! A socket and what guards it, as one stream of bytes in each direction.
//!
//! Unguarded, bytes go straight through and no byte is read that was not asked for. Guarded, whole
//! records are buffered, one or two at a time. Whoever writes has to flush.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls;

use crate::guard::{Guard, GuardError};

/// Read from the socket at a time.
const READ_BYTES: usize = 16 << 10;
/// Sealed at a time.
const WRITE_BYTES: usize = 64 << 10;
/// What a TLS handshake may take: certificates are long, strangers' are longer.
const TLS_HANDSHAKE_BYTES_MAX: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub struct Channel {
    pub(crate) stream: TcpStream,
    pub(crate) guard: Guard,
    /// From the socket, not a whole record yet.
    pub(crate) wire_in: BytesMut,
    /// From the peer, not read yet.
    pub(crate) plain_in: BytesMut,
    /// For the socket.
    wire_out: BytesMut,
}

/// A channel that no runtime knows, to be handed to another thread.
#[derive(Debug)]
pub struct Loose {
    stream: std::net::TcpStream,
    guard: Guard,
    wire_in: BytesMut,
    plain_in: BytesMut,
}

impl Loose {
    /// The socket, to be looked at.
    pub fn socket(&self) -> &std::net::TcpStream {
        &self.stream
    }

    /// A channel of the runtime it is called in.
    pub fn attach(self) -> io::Result<Channel> {
        let Self { stream, guard, wire_in, plain_in } = self;
        let stream = TcpStream::from_std(stream)?;
        Ok(Channel { stream, guard, wire_in, plain_in, wire_out: BytesMut::new() })
    }
}

impl From<TcpStream> for Channel {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream,
            guard: Guard::Open,
            wire_in: BytesMut::new(),
            plain_in: BytesMut::new(),
            wire_out: BytesMut::new(),
        }
    }
}

impl Channel {
    /// Who is at the other end.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Takes it from its runtime. Everything must have been flushed.
    pub fn loosen(self) -> io::Result<Loose> {
        let Self { stream, guard, wire_in, plain_in, .. } = self;
        Ok(Loose { stream: stream.into_std()?, guard, wire_in, plain_in })
    }

    /// From here on guarded so.
    pub(crate) fn guard_with(&mut self, guard: Guard) {
        self.guard = guard;
    }

    /// Agrees on TLS. The caller bounds the time.
    pub(crate) async fn secure(&mut self, session: rustls::Connection) -> Result<(), SecureError> {
        self.guard = Guard::Tls(Box::new(session));
        let mut left = TLS_HANDSHAKE_BYTES_MAX;
        loop {
            self.guard.seal(&mut BytesMut::new(), &mut self.wire_out)?;
            self.flush().await?;
            if !self.guard.is_handshaking() {
                return Ok(());
            }
            let room = left.min(READ_BYTES) as u64;
            let read = (&mut self.stream).take(room).read_buf(&mut self.wire_in).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            left -= read;
            if let Err(why) = self.guard.open(&mut self.wire_in, &mut self.plain_in) {
                // What is wrong, for the other side; whether it arrives changes nothing.
                let _ = self.guard.seal(&mut BytesMut::new(), &mut self.wire_out);
                let _ = self.flush().await;
                return Err(why.into());
            }
        }
    }

    /// Sends a few bytes at once, or nothing. Only for a socket that nothing was sent to lately.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sealed = self.guard.seal(&mut BytesMut::from(bytes), &mut self.wire_out);
        let wire = self.wire_out.split();
        sealed.is_ok() && self.stream.try_write(&wire).is_ok_and(|written| written == wire.len())
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.wire_out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.wire_out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wire_out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Why there is no TLS with the other end.
#[derive(Debug)]
pub(crate) enum SecureError {
    Io(io::Error),
    Guard(GuardError),
}

impl From<io::Error> for SecureError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

impl From<GuardError> for SecureError {
    fn from(why: GuardError) -> Self {
        Self::Guard(why)
    }
}

fn broken(why: GuardError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.plain_in.is_empty() {
                let taken = this.plain_in.len().min(buffer.remaining());
                buffer.put_slice(&this.plain_in.split_to(taken));
                return Poll::Ready(Ok(()));
            }
            if matches!(this.guard, Guard::Open) {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            this.wire_in.reserve(READ_BYTES);
            let stream = Pin::new(&mut this.stream);
            if ready!(tokio_util::io::poll_read_buf(stream, context, &mut this.wire_in))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.guard.open(&mut this.wire_in, &mut this.plain_in).map_err(broken)?;
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if matches!(this.guard, Guard::Open) {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        ready!(this.poll_drain(context))?;
        let taken = bytes.len().min(WRITE_BYTES);
        this.guard.seal(&mut BytesMut::from(&bytes[..taken]), &mut this.wire_out).map_err(broken)?;
        match this.poll_drain(context) {
            Poll::Ready(Err(why)) => Poll::Ready(Err(why)),
            // What is left goes with the next write or flush.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
