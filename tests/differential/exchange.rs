//! One question to one server: write the pieces, read until the sentinel's answer.
//!
//! Every round ends with a command whose answer nobody can mistake: `mn` for text, a no-op with an
//! opaque of its own for binary. Writing and reading run at once, so that a server that answers
//! more than its socket holds does not block the test.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::script::{Chop, Wire};

/// How long a server may be silent before the round counts as unanswered.
const SILENCE: Duration = Duration::from_secs(4);

/// The opaque of the binary sentinel.
const SENTINEL_OPAQUE: [u8; 4] = *b"\xfe\xed!~";

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the sentinel's answer: everything was answered.
    Complete,
    /// The server closed the connection.
    Closed,
    /// The server said nothing more.
    Silent,
}

/// What a server answered to a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The bytes, without the sentinel's.
    pub(crate) bytes: Vec<u8>,
    /// How it ended.
    pub(crate) end: End,
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("a server that was just listening");
    stream.set_nodelay(true).expect("TCP_NODELAY on a fresh socket");
    stream
}

/// The command that marks the end of a round.
pub(crate) fn sentinel(wire: Wire) -> Vec<u8> {
    match wire {
        Wire::Text => b"mn\r\n".to_vec(),
        Wire::Binary => {
            let mut frame = vec![0; 24];
            frame[0] = 0x80;
            frame[1] = 0x0a;
            frame[12..16].copy_from_slice(&SENTINEL_OPAQUE);
            frame
        }
    }
}

/// Sends `bytes` and the sentinel, cut as `chop` says, and reads what comes back. `marks` is how many of
/// the commands are themselves `mn`.
pub(crate) async fn ask(
    stream: &mut TcpStream,
    wire: Wire,
    chop: Chop,
    mut bytes: Vec<u8>,
    marks: usize,
) -> Answer {
    bytes.extend_from_slice(&sentinel(wire));
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for (piece, pause) in chop.cut(&bytes) {
            // A server that closed shows in what is read.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            if pause {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let read = async {
        let mut end = EndFinder::new(wire, marks + 1);
        let mut answer = Vec::with_capacity(4096);
        loop {
            let got = match tokio::time::timeout(SILENCE, reader.read_buf(&mut answer)).await {
                Err(_) => return Answer { bytes: answer, end: End::Silent },
                Ok(Ok(got)) => got,
                Ok(Err(error)) if is_closed(error.kind()) => 0,
                Ok(Err(error)) => panic!("cannot read from the server: {error}"),
            };
            if got == 0 {
                return Answer { bytes: answer, end: End::Closed };
            }
            if let Some(length) = end.find(&answer) {
                answer.truncate(length);
                return Answer { bytes: answer, end: End::Complete };
            }
        }
    };
    tokio::pin!(read);
    tokio::select! {
        biased;
        answer = &mut read => answer,
        () = write => read.await,
    }
}

/// Whether an error means that the other side closed.
fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// Finds where an answer ends in bytes that grow.
struct EndFinder {
    wire: Wire,
    marks: usize,
    from: usize,
}

impl EndFinder {
    const fn new(wire: Wire, marks: usize) -> Self {
        Self { wire, marks, from: 0 }
    }

    /// The length of the answer without its sentinel, if the sentinel is there.
    fn find(&mut self, answer: &[u8]) -> Option<usize> {
        match self.wire {
            Wire::Text => self.find_text(answer),
            Wire::Binary => self.find_binary(answer),
        }
    }

    /// No value and no key holds a capital M, so `MN` is the sentinel's wherever it stands.
    fn find_text(&mut self, answer: &[u8]) -> Option<usize> {
        const MARK: &[u8] = b"MN\r\n";
        while let Some(at) = answer[self.from..].windows(MARK.len()).position(|window| window == MARK) {
            let at = self.from + at;
            self.from = at + MARK.len();
            self.marks -= 1;
            if self.marks == 0 {
                return Some(at);
            }
        }
        self.from = self.from.max(answer.len().saturating_sub(MARK.len() - 1));
        None
    }

    fn find_binary(&mut self, answer: &[u8]) -> Option<usize> {
        while let Some(header) = answer.get(self.from..self.from + 24) {
            if header[0] == 0x81 && header[1] == 0x0a && header[12..16] == SENTINEL_OPAQUE {
                return Some(self.from);
            }
            let body = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            self.from += 24 + body as usize;
        }
        None
    }
}
