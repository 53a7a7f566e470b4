//! Requests in datagrams, for `-U`: memcached's frame around any of the protocols.
//!
//! ```text
//! id u16 | number of this datagram u16 | how many there are u16 | 0 u16 | bytes
//! ```
//!
//! Numbers are big endian. A request comes in one datagram; its answer goes out in as many as it takes.
//! The other end cannot prove who it is, so what it can make this node send is bounded: an answer by
//! [`limits::UDP_ANSWER_BYTES`], and all answers to one source by what it sent itself and a rate
//! beyond. Whoever is over the rate is not answered and nothing is executed for it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::limits;
use super::session::{Action, Input, Session, refuse};
use super::worker::Shared;
use crate::protocol::{Output, Protocol};

const HEAD: usize = 8;
/// Bytes that no answer to a command that changes something is longer than.
const SHORT_ANSWER: usize = 2048;
const TOO_LONG: &str = "the answer is too long for UDP; ask over TCP";
const NOT_HERE: &str = "this node does not serve over UDP now; ask over TCP";
const NOT_OVER_UDP: &str = "not over UDP; ask over TCP";

/// Serves a socket for as long as its worker lives.
pub(super) async fn serve(shared: Rc<Shared>, socket: std::net::UdpSocket, protocol: Protocol) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "UDP does not work"),
    };
    let descriptor = socket.as_raw_fd();
    let mut sources = Sources::default();
    let mut datagram = vec![0; limits::DATAGRAM_BYTES];
    while !shared.draining.get() {
        let (length, source) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        shared.cell().bytes_read.add(length as u64);
        let Some((id, request)) = unframe(&datagram[..length]) else { continue };
        let now = Instant::now();
        if !sources.may_ask(source.ip(), now) {
            continue;
        }
        let answer = answer(&shared, descriptor, protocol, request);
        let sent = send(&shared, &socket, source, id, &answer).await;
        sources.charge(source.ip(), sent.saturating_sub(length));
    }
}

/// A request's id and its bytes, unless it is no request or only a part of one.
fn unframe(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (head, request) = datagram.split_first_chunk::<HEAD>()?;
    let [id, id_low, _, _, parts, parts_low, ..] = *head;
    (u16::from_be_bytes([parts, parts_low]) == 1).then(|| (u16::from_be_bytes([id, id_low]), request))
}

/// Sends an answer in numbered datagrams. Returns how many bytes went out.
async fn send(shared: &Shared, socket: &UdpSocket, to: SocketAddr, id: u16, answer: &[u8]) -> usize {
    let parts = answer.chunks(limits::UDP_DATAGRAM_BYTES - HEAD);
    let count = parts.len() as u16;
    let mut sent = 0;
    for (number, part) in parts.enumerate() {
        let mut datagram = Vec::with_capacity(HEAD + part.len());
        for field in [id, number as u16, count, 0] {
            datagram.extend_from_slice(&field.to_be_bytes());
        }
        datagram.extend_from_slice(part);
        match socket.send_to(&datagram, to).await {
            Ok(bytes) => sent += bytes,
            // Datagrams may be lost; what comes behind a lost one is of no use.
            Err(_) => break,
        }
    }
    shared.cell().bytes_written.add(sent as u64);
    sent
}

/// Executes the requests of one datagram, one after the other.
fn answer(shared: &Shared, descriptor: i32, protocol: Protocol, request: &[u8]) -> Vec<u8> {
    let mut session = Session::new(protocol, &shared.service, descriptor, shared.service.auth.is_required());
    let mut input = Input::new(request.to_vec());
    let mut out = Output::new();
    // Where the request under way began, in the datagram and in the answer.
    let (mut start, mut mark) = (0, 0);
    let reason = loop {
        if !session.is_midway() {
            (start, mark) = (request.len() - input.len(), out.total());
            // What is executed must be answered, so there must be room for that.
            if mark > 0 && mark + SHORT_ANSWER > limits::UDP_ANSWER_BYTES {
                break TOO_LONG;
            }
        }
        let mut turn = 1;
        shared.tick();
        let action = session.consume(&mut input, &mut out, shared, &mut turn);
        if out.total() > limits::UDP_ANSWER_BYTES {
            break TOO_LONG;
        }
        if session.dump.is_some() {
            break NOT_OVER_UDP;
        }
        match action {
            Action::Again => {}
            Action::Read(_) | Action::ReadBody => {
                if session.is_midway() || !input.is_empty() {
                    // The rest of the request never comes.
                    out.truncate(mark);
                }
                return out.to_vec();
            }
            Action::Flush => break TOO_LONG,
            Action::Watch(_) => break NOT_OVER_UDP,
            Action::Park | Action::Forward => break NOT_HERE,
            // Nobody knows what became of it: so says silence.
            Action::Settle => return Vec::new(),
            Action::Close => return out.to_vec(),
        }
    };
    out.truncate(mark);
    let mut refusal = Output::new();
    refuse(&request[start..], &session.codec, reason, &mut refusal);
    let mut answer = out.to_vec();
    if answer.len() + refusal.len() <= limits::UDP_ANSWER_BYTES {
        answer.extend_from_slice(&refusal.to_vec());
    }
    answer
}

/// What sources may still make this node send. Sources that share a bucket share its bound.
struct Sources {
    hasher: RandomState,
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Bytes; below zero after an answer that was longer than what was left.
    left: i64,
    /// When it was filled last.
    filled: Option<Instant>,
}

impl Default for Sources {
    fn default() -> Self {
        let full = Bucket { left: limits::UDP_SOURCE_BYTES, filled: None };
        Self { hasher: RandomState::new(), buckets: vec![full; limits::UDP_SOURCES] }
    }
}

impl Sources {
    fn bucket(&mut self, source: IpAddr) -> &mut Bucket {
        // Whoever has one IPv6 address has its whole network.
        let network = match source {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        let at = self.hasher.hash_one(network) as usize % self.buckets.len();
        &mut self.buckets[at]
    }

    /// Whether a source is to be answered now.
    fn may_ask(&mut self, source: IpAddr, now: Instant) -> bool {
        let bucket = self.bucket(source);
        if let Some(filled) = bucket.filled {
            let elapsed = now.saturating_duration_since(filled).as_millis().min(1 << 20) as i64;
            bucket.left =
                (bucket.left + elapsed * limits::UDP_SOURCE_BYTES / 1000).min(limits::UDP_SOURCE_BYTES);
        }
        bucket.filled = Some(now);
        bucket.left > 0
    }

    /// An answer was that much longer than its request.
    fn charge(&mut self, source: IpAddr, bytes: usize) {
        self.bucket(source).left -= bytes as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_requests_are_taken() {
        assert_eq!(unframe(b"\0\x07\0\0\0\x01\0\0mn\r\n"), Some((7, &b"mn\r\n"[..])));
        assert_eq!(unframe(b"\0\x07\0\0\0\x02\0\0mn\r\n"), None);
        assert_eq!(unframe(b"\0\x07\0\0\0\0\0\0mn\r\n"), None);
        assert_eq!(unframe(b"\0\x07\0\0\0\x01\0"), None);
    }

    #[test]
    fn a_source_gets_its_rate_and_others_theirs() {
        let mut sources = Sources::default();
        let (one, now) = (IpAddr::from([10, 0, 0, 1]), Instant::now());
        let answer = limits::UDP_ANSWER_BYTES;
        let mut answers = 0;
        for _ in 0..1000 {
            if sources.may_ask(one, now) {
                sources.charge(one, answer);
                answers += answer as i64;
            }
        }
        assert!(answers < limits::UDP_SOURCE_BYTES + answer as i64, "{answers}");
        let others = (0..200).filter(|last| sources.may_ask([10, 0, 1, *last].into(), now)).count();
        assert!(others > 190, "{others}");
        // What is owed is paid off before anything is given again.
        assert!(!sources.may_ask(one, now + Duration::from_millis(1)));
        assert!(sources.may_ask(one, now + Duration::from_secs(2)));
        assert_eq!(sources.bucket(one).left, limits::UDP_SOURCE_BYTES);
    }
}
