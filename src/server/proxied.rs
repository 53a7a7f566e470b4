//! A connection from the peer that carries its clients' requests.
//!
//! ```text
//! request  length u32, its top bit: durable | whole client commands
//! reply    length u32 | flags u8 | [executed u32, in the last part] | reply bytes
//! ```
//!
//! Numbers are little endian; a length counts what follows it. One batch is under way at a time. An
//! answer is any number of parts and a last one (flag 1) that says how many request bytes were executed. If this
//! node ceases to serve in between, it says how far it came and touches nothing of the rest: it never
//! hands a request on, so two nodes cannot pass one back and forth.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use super::session::{Action, Input, Session};
use super::worker::{Shared, Stream};
use super::{Ticket, limits};
use crate::protocol::Output;

const HEAD: usize = 4;
const LAST: u8 = 1;

/// Serves the peer until it leaves.
pub(super) async fn serve(shared: Rc<Shared>, mut stream: Stream, ticket: Ticket) {
    let mut input = Input::default();
    let mut wire = Output::new();
    while !shared.draining.get() {
        if !read_frame(&mut stream, &mut input, &shared).await {
            break;
        }
        let (length, durable) = head(input.bytes()).unwrap_or_default();
        // Each frame is taken by itself: it holds whole requests, of text or binary clients.
        let mut frame = Input::new(input.bytes()[HEAD..HEAD + length].to_vec());
        input.eat(HEAD + length);
        let session = Session::trusted(&shared.service, ticket.info.descriptor).made_durable(durable);
        shared.busy.set(shared.busy.get() + 1);
        let answered = answer(&shared, &mut stream, session, &mut frame, &mut wire).await;
        shared.busy.set(shared.busy.get() - 1);
        if !answered {
            break;
        }
        if input.is_empty() {
            input = Input::default();
        }
        wire = Output::new();
    }
    drop(ticket);
}

/// A frame's length, and whether what it writes is to be answered when another node has it.
fn head(bytes: &[u8]) -> Option<(usize, bool)> {
    const DURABLE: u32 = 1 << 31;
    let [a, b, c, d, ..] = bytes else { return None };
    let word = u32::from_le_bytes([*a, *b, *c, *d]);
    Some(((word & !DURABLE) as usize, word & DURABLE != 0))
}

/// Reads until a whole frame is there. Space is made as bytes arrive, not on the word of a length.
async fn read_frame(stream: &mut Stream, input: &mut Input, shared: &Shared) -> bool {
    loop {
        if let Some((length, _)) = head(input.bytes()) {
            if length == 0 || length > limits::PROXIED_FRAME_BYTES {
                tracing::warn!(
                    length,
                    "the peer sent a request of an impossible length; its connection is closed, it makes a new one"
                );
                return false;
            }
            if input.len() >= HEAD + length {
                return true;
            }
        }
        let read = poll_fn(|context| {
            let room = limits::READ_BYTES.max(input.len());
            stream.poll_read(context, input.room(room))
        });
        match read.await {
            Ok(count) if count > 0 => shared.cell().bytes_read.add(count as u64),
            _ => return false,
        }
    }
}

/// Executes what it may and sends the answer. Returns whether the connection is still good.
async fn answer(
    shared: &Rc<Shared>,
    stream: &mut Stream,
    mut session: Session,
    frame: &mut Input,
    wire: &mut Output,
) -> bool {
    let service = std::sync::Arc::clone(&shared.service);
    let whole = frame.len();
    let mut out = Output::new();
    let parked_until = Instant::now() + service.gate.park_limit();
    // Where the request under way began, in the frame and in the replies not sent yet.
    let (mut request_start, mut reply_start) = (0, 0);
    let mut turn = service.config.requests_per_turn;
    let mut next = None;
    loop {
        if !session.is_midway() {
            (request_start, reply_start) = (whole - frame.len(), out.total());
        }
        let action = match next.take() {
            Some(action) => action,
            None => {
                shared.tick();
                session.consume(frame, &mut out, shared, &mut turn)
            }
        };
        match action {
            Action::Read(_) | Action::ReadBody if frame.is_empty() => break,
            Action::Read(_) | Action::ReadBody => {
                tracing::warn!("the peer sent half a request; its connection is closed, it makes a new one");
                return false;
            }
            Action::Again => {
                if turn == 0 {
                    shared.cell().conn_yields.add(1);
                }
                turn = service.config.requests_per_turn;
                tokio::task::yield_now().await;
            }
            Action::Flush => {
                if !send_parts(shared, stream, &mut out, wire).await {
                    return false;
                }
                // What was sent of a request cannot be taken back.
                reply_start = 0;
                continue;
            }
            Action::Park if Instant::now() < parked_until => {
                let _changed_or_not =
                    tokio::time::timeout(Duration::from_millis(20), service.gate.changed()).await;
                continue;
            }
            Action::Park | Action::Forward => {
                let executed = if session.is_midway() {
                    out.truncate(reply_start);
                    request_start
                } else {
                    whole - frame.len()
                };
                return send_last(shared, stream, &mut out, wire, executed).await;
            }
            Action::Settle => {
                let _changed_or_not =
                    tokio::time::timeout(service.gate.park_limit(), service.gate.changed()).await;
            }
            Action::Confirm => {
                let receipt = session.unconfirmed();
                let how = service.gate.confirmed(receipt).await;
                next = session.confirm(how, &mut out, &*service.gate);
                if next == Some(Action::Close) {
                    // There is no answer to give, or half of one: whoever asked finds out elsewhere.
                    return false;
                }
            }
            // Clients watch the node they are connected to.
            Action::Watch(_) => out.extend(b"ERROR\r\n"),
            Action::Close => break,
        }
    }
    let executed = whole - frame.len();
    send_last(shared, stream, &mut out, wire, executed).await
}

/// Moves replies into parts and writes them.
async fn send_parts(shared: &Shared, stream: &mut Stream, out: &mut Output, wire: &mut Output) -> bool {
    let replies = out.to_vec();
    out.clear();
    for part in replies.chunks(limits::PROXIED_PART_BYTES) {
        wire.extend(&(part.len() as u32 + 1).to_le_bytes());
        wire.extend(&[0]);
        wire.extend(part);
    }
    write(shared, stream, wire).await
}

async fn send_last(
    shared: &Shared,
    stream: &mut Stream,
    out: &mut Output,
    wire: &mut Output,
    executed: usize,
) -> bool {
    if out.len() > limits::PROXIED_PART_BYTES && !send_parts(shared, stream, out, wire).await {
        return false;
    }
    let replies = out.to_vec();
    wire.extend(&(replies.len() as u32 + 5).to_le_bytes());
    wire.extend(&[LAST]);
    wire.extend(&(executed as u32).to_le_bytes());
    wire.extend(&replies);
    write(shared, stream, wire).await
}

async fn write(shared: &Shared, stream: &mut Stream, wire: &mut Output) -> bool {
    while !wire.is_empty() {
        match poll_fn(|context| stream.poll_write_some(context, wire)).await {
            Ok(count) => shared.cell().bytes_written.add(count as u64),
            Err(_) => return false,
        }
    }
    wire.clear();
    match stream {
        Stream::Peer(peer) => poll_fn(|context| Pin::new(&mut *peer).poll_flush(context)).await.is_ok(),
        _ => true,
    }
}
