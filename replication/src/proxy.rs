//! Raw client requests from a backup to its master, and the answers back.
//!
//! After a handshake of kind [`Kind::Proxy`] the socket carries frames. One batch is under way at a
//! time:
//!
//! ```text
//! request  length u32, its top bit: durable | whole client commands
//! reply    length u32 | flags u8 | [executed u32, in the last part] | reply bytes
//! ```
//!
//! A durable request's writes are answered when another node has them. Numbers are little endian; a length counts what follows it. An answer is any number of parts and
//! a last one that says how many request bytes were executed: all, or fewer when that node ceased to
//! serve in between, and then the rest was not touched and may be tried elsewhere. Whoever loses the
//! connection before the last part does not know the outcome, and nobody retries on its behalf.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::channel::Channel;
use crate::handshake::{Handshake, Kind, Opening, Side};
use crate::keys::SharedKeys;
use crate::transport;

/// The longest batch: the longest item memcached can be told to take, and its command line.
pub const REQUEST_BYTES_MAX: usize = (1 << 30) + (64 << 10);
/// The longest reply part; longer answers come in several.
pub const PART_BYTES_MAX: usize = 256 << 10;

const LENGTH_BYTES: usize = 4;
const EXECUTED_BYTES: usize = 4;
const FLAG_LAST: u8 = 1;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Reply bytes, in order.
    Part(Bytes),
    /// The batch is over: that many bytes of it were executed and answered.
    Done(usize),
}

/// In the length of a request: its writes are to be answered when another node has them.
pub const DURABLE: u32 = 1 << 31;

/// Puts the head of a request frame; the commands follow as they are.
pub fn encode_request_head(length: usize, durable: bool) -> io::Result<[u8; LENGTH_BYTES]> {
    match length {
        1..=REQUEST_BYTES_MAX => Ok((length as u32 | if durable { DURABLE } else { 0 }).to_le_bytes()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a proxied batch of {length} bytes, the limit is {REQUEST_BYTES_MAX}"),
        )),
    }
}

/// Takes the next whole request out of `buffer`; `None`: read more. `most` is the longest request
/// this node takes; whether it is durable is for who reads the head. Space is made as bytes arrive, never ahead on the word of a length.
pub fn decode_request(buffer: &mut BytesMut, most: usize) -> io::Result<Option<Bytes>> {
    let Some(length) = peek_length(buffer).map(|length| length & !(DURABLE as usize)) else {
        return Ok(None);
    };
    if length == 0 || length > most.min(REQUEST_BYTES_MAX) {
        return Err(invalid(format!("a proxied request of {length} bytes, the limit is {most}")));
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Puts reply bytes, in as many parts as it takes.
pub fn encode_part(bytes: &[u8], output: &mut BytesMut) {
    for part in bytes.chunks(PART_BYTES_MAX) {
        output.put_u32_le(part.len() as u32 + 1);
        output.put_u8(0);
        output.put_slice(part);
    }
}

/// Puts the end of an answer: how many bytes of the request were executed.
pub fn encode_done(executed: usize, output: &mut BytesMut) {
    output.put_u32_le(1 + EXECUTED_BYTES as u32);
    output.put_u8(FLAG_LAST);
    output.put_u32_le(executed as u32);
}

/// Takes the next reply out of `buffer`; `None`: read more. A last part that carries reply bytes,
/// too, comes as two replies through `ended`.
pub(crate) fn decode_reply(buffer: &mut BytesMut, ended: &mut Option<usize>) -> io::Result<Option<Reply>> {
    if let Some(executed) = ended.take() {
        return Ok(Some(Reply::Done(executed)));
    }
    let Some(length) = peek_length(buffer) else { return Ok(None) };
    if length == 0 || length > 1 + EXECUTED_BYTES + PART_BYTES_MAX {
        return Err(invalid(format!("a reply part of {length} bytes, the limit is {PART_BYTES_MAX}")));
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    let mut part = buffer.split_to(length).freeze();
    match part.get_u8() {
        0 => Ok(Some(Reply::Part(part))),
        FLAG_LAST if part.len() >= EXECUTED_BYTES => {
            let executed = part.get_u32_le() as usize;
            if part.is_empty() {
                return Ok(Some(Reply::Done(executed)));
            }
            *ended = Some(executed);
            Ok(Some(Reply::Part(part)))
        }
        flags => Err(invalid(format!("a reply part with flags {flags:#x} in {length} bytes"))),
    }
}

fn peek_length(buffer: &BytesMut) -> Option<usize> {
    let head = buffer.get(..LENGTH_BYTES)?;
    Some(u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How a proxy connection to the master is opened: where it listens and who we are.
#[derive(Clone, Debug)]
pub struct ProxyTarget {
    /// The master's replication address.
    pub address: SocketAddr,
    /// What this node proves itself with.
    pub keys: SharedKeys,
    /// This node's encoded introduction.
    pub hello: Vec<u8>,
    /// How long connecting may take.
    pub patience: Duration,
    /// How long silence on unacknowledged bytes is borne.
    pub dead_after: Duration,
}

/// The backup's end of a proxy connection.
#[derive(Debug)]
pub struct ProxyStream {
    channel: Channel,
    input: BytesMut,
    ended: Option<usize>,
    /// Request bytes of the batch under way.
    pending: usize,
}

impl ProxyStream {
    /// Connects and proves who we are.
    pub async fn connect(target: &ProxyTarget) -> io::Result<Self> {
        let stream = transport::connect(target.address, None, target.patience).await?;
        transport::tune(&stream, target.dead_after)?;
        let mut channel = Channel::from(stream);
        let keys = target.keys.now();
        let opening = Opening::new(Kind::Proxy, 0, transport::nonce()?);
        let handshake = Handshake::dialler(keys.secrets.clone(), opening, target.hello.clone());
        let failed = |why: transport::GreetError| {
            io::Error::new(io::ErrorKind::ConnectionRefused, format!("proxying to {}: {why}", target.address))
        };
        transport::greet(&mut channel, Side::Dialler, &keys, handshake).await.map_err(failed)?;
        transport::await_verdict(&mut channel).await.map_err(failed)?;
        Ok(Self { channel, input: BytesMut::new(), ended: None, pending: 0 })
    }

    /// Hands over whole commands. [`ProxyStream::receive`] must have told the end of the batch before.
    pub async fn send(&mut self, requests: &[u8], durable: bool) -> io::Result<()> {
        let head = encode_request_head(requests.len(), durable)?;
        self.pending = requests.len();
        // Small batches, the rule, go out in one packet.
        if requests.len() <= 4096 {
            let mut frame = BytesMut::with_capacity(head.len() + requests.len());
            frame.put_slice(&head);
            frame.put_slice(requests);
            self.channel.write_all(&frame).await?;
            return self.channel.flush().await;
        }
        self.channel.write_all(&head).await?;
        self.channel.write_all(requests).await?;
        self.channel.flush().await
    }

    /// The next piece of the answer. May be dropped and called again without losing anything.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = decode_reply(&mut self.input, &mut self.ended)? {
                if let Reply::Done(executed) = reply {
                    if executed > self.pending {
                        return Err(invalid(format!("{executed} bytes executed of {}", self.pending)));
                    }
                    self.pending = 0;
                }
                return Ok(reply);
            }
            if self.channel.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the serving node closed the connection",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_out_as_they_went_in() {
        let mut buffer = BytesMut::new();
        for batch in [&b"get a\r\n"[..], b"set b 0 0 1\r\nx\r\nmn\r\n"] {
            buffer.put_slice(&encode_request_head(batch.len(), false).expect("short"));
            buffer.put_slice(batch);
        }
        let whole = buffer.clone();
        let first = decode_request(&mut buffer, 100).expect("valid").expect("whole");
        let second = decode_request(&mut buffer, 100).expect("valid").expect("whole");
        assert_eq!((&first[..], &second[..]), (&b"get a\r\n"[..], &b"set b 0 0 1\r\nx\r\nmn\r\n"[..]));
        assert_eq!(decode_request(&mut buffer, 100).expect("valid"), None);
        for cut in 0..LENGTH_BYTES + first.len() {
            let mut torn = BytesMut::from(&whole[..cut]);
            assert_eq!(decode_request(&mut torn, 100).expect("valid so far"), None);
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_their_bytes_arrive() {
        for length in [0u32, 101, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_le_bytes()[..]);
            decode_request(&mut buffer, 100).expect_err("out of bounds");
        }
        encode_request_head(0, false).expect_err("nothing to do");
        encode_request_head(REQUEST_BYTES_MAX + 1, true).expect_err("too long");
        let mut buffer = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        decode_reply(&mut buffer, &mut None).expect_err("out of bounds");
    }

    #[test]
    fn answers_arrive_whole_and_in_order() {
        let long = vec![b'v'; 2 * PART_BYTES_MAX + 1];
        let mut buffer = BytesMut::new();
        encode_part(b"STORED\r\n", &mut buffer);
        encode_part(&long, &mut buffer);
        encode_part(b"", &mut buffer);
        encode_done(42, &mut buffer);
        let (mut bytes, mut ended) = (Vec::new(), None);
        loop {
            match decode_reply(&mut buffer, &mut ended).expect("valid").expect("whole") {
                Reply::Part(part) => bytes.extend_from_slice(&part),
                Reply::Done(executed) => break assert_eq!(executed, 42),
            }
        }
        assert_eq!(bytes, [&b"STORED\r\n"[..], &long].concat());
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_last_part_may_carry_reply_bytes() {
        let mut buffer = BytesMut::new();
        buffer.put_u32_le(1 + 4 + 3);
        buffer.put_u8(FLAG_LAST);
        buffer.put_u32_le(7);
        buffer.put_slice(b"END");
        let mut ended = None;
        let first = decode_reply(&mut buffer, &mut ended).expect("valid");
        assert_eq!(first, Some(Reply::Part(Bytes::from_static(b"END"))));
        assert_eq!(decode_reply(&mut buffer, &mut ended).expect("valid"), Some(Reply::Done(7)));
        assert_eq!(decode_reply(&mut buffer, &mut ended).expect("valid"), None);
    }
}
