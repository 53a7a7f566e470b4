//! Which raw bytes are handed to the node that serves, and what becomes of the input afterwards.
//!
//! Only whole requests travel, exactly as the client sent them. Two cases need more: a multiget of
//! which some keys were already answered, or whose line is longer than any buffer, travels as a
//! request of its own made of the keys that are here; and a store that is too large travels as the
//! removal of the item it would have replaced.

use std::borrow::Cow;

use base64::Engine as _;

use super::limits;
use super::session::{Input, Session, is_pure_read};
use crate::command::Op;
use crate::protocol::{Codec, Decoded, Request, Session as Asked};

/// Requests for the node that serves.
#[derive(Debug)]
pub(super) struct Plan<'i> {
    /// What to send.
    pub(super) raw: Cow<'i, [u8]>,
    /// What to do when all of it was executed.
    pub(super) then: Then,
    /// How many requests it holds.
    pub(super) requests: u64,
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
}

/// What becomes of the input when a plan was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// As many bytes as were executed are eaten.
    EatExecuted,
    /// So many bytes are eaten, and a new request begins.
    EatLine(usize),
    /// So many bytes are eaten, and the line goes on: the `END` of the answer is not the client's.
    EatKeys(usize),
    /// The answer is nobody's; the codec goes over the request by itself.
    Victim,
}

/// What can be handed over.
#[derive(Debug)]
pub(super) enum Planned<'i> {
    /// This.
    Send(Plan<'i>),
    /// Nothing yet: that many more bytes are needed.
    Read(usize),
    /// Nothing: the store at the front is too large, and what is there stays as it is.
    Skip,
    /// Nothing: the front of the input needs no other node.
    Nothing,
}

/// Plans what is sent next: at most that many requests.
pub(super) fn plan<'i>(session: &Session, input: &'i Input, most: u64) -> Planned<'i> {
    let bytes = input.bytes();
    match session.codec.resumption() {
        Some(prefix) => rest_of_line(prefix, bytes),
        None => whole_requests(&session.codec, bytes, most),
    }
}

fn rest_of_line(mut raw: Vec<u8>, bytes: &[u8]) -> Planned<'_> {
    raw.push(b' ');
    if let Some(end) = memchr::memchr(b'\n', bytes) {
        raw.extend_from_slice(&bytes[..=end]);
        return Planned::Send(Plan {
            raw: raw.into(),
            then: Then::EatLine(end + 1),
            requests: 1,
            repeatable: false,
        });
    }
    // The line goes on: the keys that are certainly whole.
    match memchr::memrchr(b' ', bytes) {
        Some(blank) if bytes[..blank].iter().any(|&byte| byte != b' ') => {
            raw.extend_from_slice(&bytes[..blank]);
            raw.extend_from_slice(b"\r\n");
            Planned::Send(Plan {
                raw: raw.into(),
                then: Then::EatKeys(blank),
                requests: 1,
                repeatable: false,
            })
        }
        _ => Planned::Read(1),
    }
}

fn whole_requests<'i>(like: &Codec, bytes: &'i [u8], most: u64) -> Planned<'i> {
    let fresh = || Codec::new(like.protocol(), *like.limits());
    let mut codec = fresh();
    let (mut end, mut requests, mut repeatable) = (0, 0, true);
    while end < bytes.len() && end < limits::FORWARD_BYTES && requests < most {
        let front = end == 0;
        match codec.decode(&bytes[end..]) {
            Decoded::Request { request: Request::Item { command, .. }, used } => {
                if codec.resumption().is_some() {
                    let Some(line) = memchr::memchr(b'\n', &bytes[end + used..]) else { break };
                    codec = fresh();
                    end += used + line + 1;
                } else if codec.is_midway() {
                    // A store that is too large.
                    if front && let Op::Refuse(refuse) = command.op {
                        return if refuse.drops {
                            Planned::Send(victim(&command.key))
                        } else {
                            Planned::Skip
                        };
                    }
                    break;
                } else {
                    end += used;
                }
                requests += 1;
                repeatable &= is_pure_read(&command);
            }
            Decoded::Request { request: Request::Session { what: Asked::FlushAll(_), .. }, used } => {
                end += used;
                requests += 1;
                repeatable = false;
            }
            Decoded::Body { head_len, value_len, trailer_len } if front => {
                return Planned::Read(
                    (head_len + value_len + trailer_len).saturating_sub(bytes.len()).max(1),
                );
            }
            Decoded::Incomplete { more } if front => return Planned::Read(more),
            _ => break,
        }
    }
    if end == 0 {
        return Planned::Nothing;
    }
    Planned::Send(Plan { raw: bytes[..end].into(), then: Then::EatExecuted, requests, repeatable })
}

/// Removes the item that a refused store would have replaced; base64 takes any key.
fn victim<'i>(key: &[u8]) -> Plan<'i> {
    let mut raw = String::from("md ");
    base64::engine::general_purpose::STANDARD.encode_string(key, &mut raw);
    raw.push_str(" b\r\n");
    Plan { raw: raw.into_bytes().into(), then: Then::Victim, requests: 1, repeatable: true }
}
