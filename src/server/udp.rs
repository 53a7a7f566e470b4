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
//!
//! While another node serves, requests are handed on to it, one at a time and so many of a datagram;
//! while nobody does, the one at the front waits as long as any. What comes meanwhile waits in the
//! socket, whose buffer is bounded.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::auth::Entrance;
use super::forward::{Planned, Then, plan};
use super::gate::{Answer, Gate, Upstream};
use super::limits;
use super::session::{Action, Input, Session, UNKNOWN_AFTER_BREAK, refuse};
use super::worker::Shared;
use crate::protocol::{Output, Protocol};

const HEAD: usize = 8;
/// Bytes that no answer to a command that changes something is longer than.
const SHORT_ANSWER: usize = 2048;
const TOO_LONG: &str = "the answer is too long for UDP; ask over TCP";
const TOO_MANY: &str = "too many requests in one datagram for a node that hands them on; ask over TCP";
const NOT_OVER_UDP: &str = "not over UDP; ask over TCP";

/// Serves a socket for as long as its worker lives.
pub(super) async fn serve(shared: Rc<Shared>, socket: std::net::UdpSocket, protocol: Protocol) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!("-U: nobody is served over UDP: {error}; restart this node"),
    };
    let descriptor = socket.as_raw_fd();
    let mut sources = Sources::default();
    let mut line = None;
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
        let answer = answer(&shared, descriptor, protocol, request, &mut line).await;
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

/// An answer in numbered datagrams.
fn frames(id: u16, answer: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let parts = answer.chunks(limits::UDP_DATAGRAM_BYTES - HEAD);
    let count = parts.len() as u16;
    parts.enumerate().map(move |(number, part)| {
        let mut datagram = Vec::with_capacity(HEAD + part.len());
        for field in [id, number as u16, count, 0] {
            datagram.extend_from_slice(&field.to_be_bytes());
        }
        datagram.extend_from_slice(part);
        datagram
    })
}

/// What one datagram is answered, without a socket and a rate.
pub(super) async fn answered(shared: &Shared, datagram: &[u8]) -> Vec<Vec<u8>> {
    let Some((id, request)) = unframe(datagram) else { return Vec::new() };
    frames(id, &answer(shared, -1, Protocol::Auto, request, &mut None).await).collect()
}

/// Sends an answer. Returns how many bytes went out.
async fn send(shared: &Shared, socket: &UdpSocket, to: SocketAddr, id: u16, answer: &[u8]) -> usize {
    let mut sent = 0;
    for datagram in frames(id, answer) {
        match socket.send_to(&datagram, to).await {
            Ok(bytes) => sent += bytes,
            // Datagrams may be lost; what comes behind a lost one is of no use.
            Err(_) => break,
        }
    }
    shared.cell().bytes_written.add(sent as u64);
    sent
}

/// A stream to the node that serves, and the term it was opened in.
type Line = Option<(u64, Box<dyn Upstream>)>;

/// Executes the requests of one datagram, one after the other, or has them executed.
async fn answer(
    shared: &Shared,
    descriptor: i32,
    protocol: Protocol,
    request: &[u8],
    line: &mut Line,
) -> Vec<u8> {
    let gate = &*shared.service.gate;
    let entrance = shared.service.auth.is_required().then(Entrance::new);
    let mut session = Session::new(protocol, &shared.service, descriptor, entrance);
    let mut input = Input::new(request.to_vec());
    let mut out = Output::new();
    let (mut parked_until, mut forwards) = (None, 0);
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
            Action::Park if !parked(gate, &mut parked_until).await => break gate.park_reason(),
            Action::Park => {}
            Action::Forward if forwards == limits::UDP_FORWARDS => break TOO_MANY,
            Action::Forward => match hand_on(&mut session, &mut input, &mut out, shared, line).await {
                Handed::On => (parked_until, forwards) = (None, forwards + 1),
                Handed::Nobody if !parked(gate, &mut parked_until).await => break gate.park_reason(),
                Handed::Nobody => {}
                Handed::Half => {
                    out.truncate(mark);
                    return out.to_vec();
                }
                Handed::TooLong => break TOO_LONG,
            },
            Action::Confirm => {
                let how = gate.confirmed(session.unconfirmed()).await;
                // What it wanted next, it wants again; unless there is nothing that could be said.
                if session.confirm(how, &mut out, gate) == Some(Action::Close) {
                    return Vec::new();
                }
            }
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

/// Waits a little for somebody to serve; whether there was time left. It never lasts long, because the
/// gate may have changed just before.
async fn parked(gate: &dyn Gate, until: &mut Option<tokio::time::Instant>) -> bool {
    let now = tokio::time::Instant::now();
    let left = *until.get_or_insert_with(|| now + gate.park_limit()) - now;
    let _changed_or_not = tokio::time::timeout(left.min(Duration::from_millis(20)), gate.changed()).await;
    !left.is_zero()
}

/// What became of a request for the node that serves.
enum Handed {
    /// It was answered, or stands where it stood because nobody took it.
    On,
    /// There is no way to that node now.
    Nobody,
    /// The rest of it never comes.
    Half,
    /// Its answer has no room.
    TooLong,
}

/// Hands the request at the front to the node that serves.
async fn hand_on(
    session: &mut Session,
    input: &mut Input,
    out: &mut Output,
    shared: &Shared,
    line: &mut Line,
) -> Handed {
    if let Some(raw) = session.take_body(input) {
        input.put_back(&raw);
    }
    let planned = match plan(session, input, 1) {
        Planned::Send(plan) => plan,
        Planned::Skip => {
            session.skip_victim(input);
            return Handed::On;
        }
        Planned::Nothing => return Handed::On,
        Planned::Read(_) => return Handed::Half,
    };
    if matches!(planned.then, Then::EatKeys(_)) {
        return Handed::Half;
    }
    let gate = &*shared.service.gate;
    shared.cell().proxied_requests.add(planned.requests);
    let room = limits::UDP_ANSWER_BYTES - out.total();
    let mut result = exchange(gate, line, &planned.raw, room).await;
    if matches!(result, Err(Lost::Broken)) && planned.repeatable {
        // Reads do no harm twice. A stream may have been cut while it lay idle.
        result = exchange(gate, line, &planned.raw, room).await;
    }
    let whole = planned.raw.len();
    match (result, planned.then) {
        (Err(Lost::Nobody), _) => return Handed::Nobody,
        (Err(Lost::TooLong), _) => return Handed::TooLong,
        // Its answer is nobody's; whether or not it was executed, the store is refused.
        (Ok(_) | Err(Lost::Broken), Then::Victim) => session.skip_victim(input),
        (Ok((answer, executed)), _) if executed == whole => {
            out.extend(&answer);
            eat(session, input, planned.then, whole);
        }
        // That node serves no more, and touched nothing.
        (Ok(_), _) => {}
        (Err(Lost::Broken), then) => {
            refuse(&planned.raw, &session.codec, UNKNOWN_AFTER_BREAK, out);
            eat(session, input, then, whole);
        }
    }
    Handed::On
}

/// Takes out of the input what was executed elsewhere.
fn eat(session: &mut Session, input: &mut Input, then: Then, whole: usize) {
    match then {
        Then::EatLine(count) => {
            input.eat(count);
            session.restart();
        }
        _ => input.eat(whole.min(input.len())),
    }
}

/// Why there is no answer.
enum Lost {
    /// There is no stream to the node that serves; nothing was sent.
    Nobody,
    /// The stream broke: nobody knows what was executed.
    Broken,
    /// It is longer than there is room.
    TooLong,
}

/// Sends one request and reads its answer, as long as the other node is the one that serves, and a little
/// longer. Returns it, and how many bytes were executed.
async fn exchange(
    gate: &dyn Gate,
    line: &mut Line,
    raw: &[u8],
    room: usize,
) -> Result<(Vec<u8>, usize), Lost> {
    let term = gate.term();
    let mut upstream = match line.take() {
        Some((opened_in, upstream)) if opened_in == term => upstream,
        _ => tokio::select! {
            biased;
            upstream = gate.upstream() => upstream.map_err(|_| Lost::Nobody)?,
            () = gate.ended(term) => return Err(Lost::Nobody),
        },
    };
    let answered = async {
        upstream.send(raw, false).await.map_err(|_| Lost::Broken)?;
        let mut answer = Vec::new();
        loop {
            match upstream.receive().await.map_err(|_| Lost::Broken)? {
                Answer::Part(bytes) if answer.len() + bytes.len() > room => return Err(Lost::TooLong),
                Answer::Part(bytes) => answer.extend_from_slice(&bytes),
                Answer::Done(executed) => return Ok((answer, executed)),
            }
        }
    };
    let answer = tokio::select! {
        biased;
        answer = answered => answer?,
        () = async {
            gate.ended(term).await;
            tokio::time::sleep(limits::UPSTREAM_GRACE).await;
        } => return Err(Lost::Broken),
    };
    *line = Some((term, upstream));
    Ok(answer)
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
