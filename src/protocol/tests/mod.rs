//! The codec as a connection uses it: bytes in, commands and answers out, however the bytes arrive.

mod binary;
mod meta;
mod output;
mod random;
mod regressions;
mod text;

use bytes::Bytes;

use super::*;
use crate::command::{Deadline, Get, Hit, Kept, Now, Op, Outcome, Payload, Value};

/// The clock of these tests.
pub(super) const NOW: Now = Now { secs: 1000, unix_zero: 1_700_000_000, wall_ms: 0 };

/// What the engine is pretended to answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sample {
    Found(&'static str),
    /// Of which flags, deadlines and marks are interesting.
    Special(fn() -> Hit<'static>),
    Miss,
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Number(u64),
    NonNumeric,
    TooLarge,
    OutOfMemory,
    /// The server refuses instead.
    Refused(&'static str),
}

/// A plain item: flags 7, CAS unique 42, never dies.
pub(super) fn hit(value: &'static str) -> Hit<'static> {
    Hit {
        value: Value::Inline(value.as_bytes()),
        flags: 7,
        cas: 42,
        deadline: Deadline::NEVER,
        deadline_after: Deadline::NEVER,
        idle_secs: 3,
        fetched: true,
        binary_key: false,
        won: false,
        stale: false,
        win_sent: false,
        created: false,
        class: 1,
        size: 66,
    }
}

impl Sample {
    fn outcome(self) -> Option<Outcome<'static>> {
        Some(match self {
            Self::Found(value) => Outcome::Hit(hit(value)),
            Self::Special(make) => Outcome::Hit(make()),
            Self::Miss => Outcome::Miss,
            Self::Stored => Outcome::Stored(Kept { cas: 43, len: 9 }),
            Self::NotStored => Outcome::NotStored,
            Self::Exists => Outcome::Exists,
            Self::NotFound => Outcome::NotFound,
            Self::Deleted => Outcome::Deleted(Kept::default()),
            Self::Touched => Outcome::Touched(hit("v")),
            Self::Number(number) => Outcome::Number(number, hit("")),
            Self::NonNumeric => Outcome::NonNumeric,
            Self::TooLarge => Outcome::TooLarge,
            Self::OutOfMemory => Outcome::OutOfMemory,
            Self::Refused(_) => return None,
        })
    }
}

/// A connection without a socket.
pub(super) struct Connection {
    pub(super) codec: Codec,
    buffer: Vec<u8>,
    /// What was decoded, in words.
    pub(super) log: Vec<String>,
    pub(super) out: Output,
    sample: Sample,
    pub(super) closed: Option<&'static str>,
    /// Below this length of the buffer nothing may come out.
    needed: usize,
    /// A large body under way: its head, what was read, lengths of value and trailer.
    body: Option<(Vec<u8>, Vec<u8>, usize, usize)>,
    /// There is no memory for large bodies.
    pub(super) no_memory: bool,
    pub(super) longest_buffer: usize,
    /// How often the short way was compared with the long one.
    compared: usize,
}

/// A million times is more than is needed.
const COMPARED_MOST: usize = 1000;

impl Connection {
    pub(super) fn new(protocol: Protocol, limits: Limits, sample: Sample) -> Self {
        Self {
            codec: Codec::new(protocol, limits),
            buffer: Vec::new(),
            log: Vec::new(),
            out: Output::new(),
            sample,
            closed: None,
            needed: 0,
            body: None,
            no_memory: false,
            longest_buffer: 0,
            compared: 0,
        }
    }

    /// More bytes arrive.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.longest_buffer = self.longest_buffer.max(self.buffer.len());
        while self.closed.is_none() && self.step() {}
    }

    /// One call of the codec; `false` if it needs more.
    fn step(&mut self) -> bool {
        if let Some((head, body, value_len, trailer_len)) = self.body.as_mut() {
            let missing = (*value_len + *trailer_len - body.len()).min(self.buffer.len());
            body.extend(self.buffer.drain(..missing));
            if body.len() < *value_len + *trailer_len {
                return false;
            }
            let (value, trailer) = body.split_at(*value_len);
            // Two chunks, as a real value would have.
            let (first, second) = value.split_at(value.len() / 2);
            let pages = Pages::new([Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)]);
            let request = self.codec.finish_body(head, pages, trailer);
            handle(request, self.sample, &mut self.log, &mut self.out);
            self.body = None;
            return true;
        }
        let buffer = std::mem::take(&mut self.buffer);
        if self.compared < COMPARED_MOST {
            self.compared += 1;
            plain_is_no_other(&self.codec, &buffer, self.sample);
        }
        let early = buffer.len() < self.needed;
        let mut go_on = true;
        let mut drop = 0;
        match self.codec.decode(&buffer) {
            Decoded::Request { request, used } => {
                assert!(!early, "it said that more was needed");
                assert!((1..=buffer.len()).contains(&used), "used {used} of {}", buffer.len());
                handle(request, self.sample, &mut self.log, &mut self.out);
                drop = used;
            }
            Decoded::Skip { used } => {
                assert!(!early, "it said that more was needed");
                assert!((1..=buffer.len()).contains(&used), "skipped {used} of {}", buffer.len());
                drop = used;
            }
            Decoded::Incomplete { more } => {
                assert!(more > 0, "nothing more needed but nothing done");
                self.needed = buffer.len() + more;
                go_on = false;
            }
            Decoded::Body { head_len, value_len, trailer_len } => {
                assert!((1..=buffer.len()).contains(&head_len), "the head is whole");
                assert!(value_len > self.codec.limits.inline_max, "only large bodies are announced");
                assert!(buffer.len() < head_len + value_len + trailer_len, "and only unfinished ones");
                let head = buffer[..head_len].to_vec();
                if self.no_memory {
                    let request = self.codec.refuse_body(&head, Refusal::OutOfMemory);
                    handle(request, self.sample, &mut self.log, &mut self.out);
                } else {
                    self.body = Some((head, Vec::new(), value_len, trailer_len));
                }
                drop = head_len;
            }
            Decoded::Close(reason) => {
                self.closed = Some(reason);
            }
        }
        if go_on {
            self.needed = 0;
        }
        self.buffer = buffer;
        self.buffer.drain(..drop);
        go_on
    }
}

/// The short way leads where the long one does: the same requests, answered alike, from the same bytes, and the
/// same to come.
fn plain_is_no_other(codec: &Codec, input: &[u8], sample: Sample) {
    for most in [1, 3, Batch::MOST] {
        let (mut short, mut long) = (codec.clone(), codec.clone());
        let mut batch = Batch::new();
        let taken = short.take_plain(input, &mut batch, most);
        let (mut ours, mut theirs) = ((Vec::new(), Output::new()), (Vec::new(), Output::new()));
        for (command, form) in batch.commands().iter().zip(batch.forms()) {
            let request = Request::Item { command: command.clone(), form: form.clone() };
            handle(request, sample, &mut ours.0, &mut ours.1);
        }
        let mut at = 0;
        while at < taken {
            let Decoded::Request { request, used } = long.decode(&input[at..]) else { panic!("no request") };
            handle(request, sample, &mut theirs.0, &mut theirs.1);
            at += used;
        }
        assert_eq!((at, batch.len(), &ours.0), (taken, theirs.0.len(), &theirs.0));
        assert_eq!(ours.1.to_vec(), theirs.1.to_vec());
        assert_eq!(short.resumption(), long.resumption());
        assert_eq!((short.is_midway(), batch.len() <= most), (long.is_midway(), true));
    }
}

fn handle(request: Request<'_>, sample: Sample, log: &mut Vec<String>, out: &mut Output) {
    match request {
        Request::Item { command, form } => {
            log.push(describe(&command));
            match (sample.outcome(), sample) {
                (Some(Outcome::Hit(hit)), _) if matches!(command.op, Op::Read) => {
                    form.render(&command, Outcome::Value(hit.shown()), NOW, out);
                }
                (Some(outcome), _) => form.render(&command, outcome, NOW, out),
                (None, Sample::Refused(reason)) => form.refuse(reason, out),
                _ => unreachable!("only a refusal is no outcome"),
            }
        }
        Request::Say(line) => out.extend(&line),
        Request::Session { what, form } => {
            log.push(format!("{what:?}"));
            match what {
                Session::Version => form.version("1.2.3", out),
                Session::Quit => form.goodbye(out),
                Session::Stats(b"") => {
                    form.stat("pid", "1", out);
                    form.stat_end(out);
                }
                Session::Stats(b"reset") => form.done("RESET", out),
                Session::Stats(_) => form.unknown(out),
                Session::FlushForbidden => form.flush_forbidden(out),
                Session::SaslList => form.sasl_mechanisms("PLAIN", out),
                Session::SaslAuth { mechanism: b"PLAIN", .. } => form.authenticated(out),
                Session::SaslAuth { .. } | Session::SaslStep => form.auth_failure(out),
                _ => form.done("OK", out),
            }
        }
    }
}

/// A command in words, the same whether its value came in pages or in a buffer.
fn describe(command: &Command<'_>) -> String {
    let key = String::from_utf8_lossy(&command.key);
    match &command.op {
        Op::Read => format!("get {key} Get"),
        Op::Get(Get { kind, touch, vivify, recache, recache_after_touch, explicit, binary_key, no_bump }) => {
            let mut text = format!("get {key} {kind:?}");
            add(&mut text, "touch", touch.map(|at| at.0));
            add(&mut text, "vivify", vivify.map(|at| at.0));
            add(&mut text, "recache", *recache);
            add(&mut text, "after-touch", recache_after_touch.then_some(true));
            add(&mut text, "explicit", *explicit);
            add(&mut text, "binary", binary_key.then_some(true));
            add(&mut text, "unseen", no_bump.then_some(true));
            text
        }
        Op::Store(store) => {
            let value = match &store.value {
                Payload::Bytes(bytes) => bytes.to_vec(),
                Payload::Pages(pages) => pages.chunks().concat(),
            };
            let value = if value.len() > 40 {
                format!("[{}]", value.len())
            } else {
                value.escape_ascii().to_string()
            };
            let mut text = format!("{:?} {key} {} {} '{value}'", store.mode, store.flags, store.exptime.0)
                .to_lowercase();
            add(&mut text, "compare", store.compare);
            add(&mut text, "invalidate", store.invalidate.then_some(true));
            add(&mut text, "vivify", store.vivify.map(|at| at.0));
            add(&mut text, "explicit", store.explicit);
            add(&mut text, "binary", store.binary_key.then_some(true));
            text
        }
        Op::Delete(delete) => {
            let mut text = format!("delete {key}");
            add(&mut text, "compare", delete.compare);
            add(&mut text, "invalidate", delete.invalidate.then_some(true));
            add(&mut text, "touch", delete.touch.map(|at| at.0));
            add(&mut text, "drop", delete.drop_value.then_some(true));
            add(&mut text, "explicit", delete.explicit);
            text
        }
        Op::Arith(arith) => {
            let mut text = format!("{} {key} {}", if arith.increment { "incr" } else { "decr" }, arith.delta);
            add(&mut text, "initial", arith.initial.map(|(number, at)| format!("{number}@{}", at.0)));
            add(&mut text, "compare", arith.compare);
            add(&mut text, "touch", arith.touch.map(|at| at.0));
            add(&mut text, "explicit", arith.explicit);
            add(&mut text, "binary", arith.binary_key.then_some(true));
            text
        }
        Op::Touch(at) => format!("touch {key} {}", at.0),
        Op::Inspect => format!("inspect {key}"),
        Op::Refuse(refuse) if refuse.drops => format!("refuse {key} {:?}", refuse.why),
        Op::Refuse(refuse) => format!("refuse {key} {:?}, which stays", refuse.why),
    }
}

fn add(text: &mut String, name: &str, what: Option<impl std::fmt::Display>) {
    if let Some(what) = what {
        text.push_str(&format!(" {name}={what}"));
    }
}

/// Small limits, so that large things are small.
pub(super) fn limits() -> Limits {
    Limits { item_size_max: 4096, inline_max: 100, ..Limits::default() }
}

/// What a connection decodes and answers when `input` arrives in pieces that end at `cuts`.
pub(super) fn exchange_in(
    limits: Limits,
    sample: Sample,
    input: &[u8],
    cuts: &[usize],
) -> (Vec<String>, Vec<u8>, bool) {
    let mut connection = Connection::new(Protocol::Auto, limits, sample);
    let mut start = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        connection.feed(&input[start..cut]);
        start = cut;
    }
    (connection.log, connection.out.to_vec(), connection.closed.is_some())
}

/// Commands, answer and whether the connection was closed, after checking that it does not matter
/// how the bytes arrive.
pub(super) fn exchange_with(limits: Limits, sample: Sample, input: &[u8]) -> (Vec<String>, Vec<u8>, bool) {
    let whole = exchange_in(limits, sample, input, &[]);
    let shown = || input.escape_ascii().to_string().chars().take(100).collect::<String>();
    for cut in 1..input.len() {
        let cut_once = exchange_in(limits, sample, input, &[cut]);
        assert_eq!(cut_once, whole, "{} cut at {cut}", shown());
    }
    let every: Vec<usize> = (1..input.len()).collect();
    assert_eq!(exchange_in(limits, sample, input, &every), whole, "{} byte by byte", shown());
    whole
}

/// Checks a table of inputs: what is decoded (commands separated by `; `) and answered.
pub(super) fn check(table: &[(&str, Sample, &str, &str)]) {
    check_with(limits(), table);
}

pub(super) fn check_with(limits: Limits, table: &[(&str, Sample, &str, &str)]) {
    for (input, sample, commands, answer) in table {
        let (log, out, closed) = exchange_with(limits, *sample, input.as_bytes());
        assert_eq!(log.join("; "), *commands, "decoded of {input:?}");
        assert_eq!(String::from_utf8_lossy(&out), *answer, "answer to {input:?}");
        assert!(!closed, "{input:?} does not close");
    }
}
