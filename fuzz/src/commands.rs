//! Clients' bytes: decoded, executed and answered as a connection does, by two engines at once.

use std::sync::Arc;

use tandemd::command::{Command, Deadline, Now, Outcome, Pages, Refusal, Replies};
use tandemd::engine::memory::{Geometry, Memory, MemoryConfig};
use tandemd::engine::model::ModelEngine;
use tandemd::engine::{Engine, NoJournal};
use tandemd::protocol::{Codec, Decoded, Form, Limits, Output, Protocol, Request, Session};

/// Items are small, so that large ones are met.
pub const ITEM_SIZE_MAX: usize = 3000;
const INLINE_MAX: usize = 200;
const SEED: u64 = 5;
const SHARDS: usize = 2;

/// The engine of the product, cut small.
pub fn memory() -> Memory {
    let geometry = Geometry {
        shards: SHARDS,
        segment_bytes: 16 << 10,
        inline_max: INLINE_MAX,
        block_buckets: 4,
        chunk_bytes: 512,
    };
    let config = MemoryConfig {
        limit_bytes: 4 << 20,
        item_size_max: ITEM_SIZE_MAX,
        seed: SEED,
        // Eight bits of hash: keys collide.
        hash_mask: !0 << 56,
        geometry: Some(geometry),
        ..MemoryConfig::default()
    };
    Memory::new(config, Arc::new(NoJournal))
}

/// Its oracle.
pub fn model() -> ModelEngine {
    ModelEngine::new(SHARDS, SEED, !0 << 56, ITEM_SIZE_MAX, Arc::new(NoJournal)).with_inline_max(INLINE_MAX)
}

/// The clock at the beginning.
pub const NOW: Now = Now { secs: 1000, unix_zero: 1_700_000_000, wall_ms: 90_000_000_000 };

fn limits() -> Limits {
    Limits {
        item_size_max: ITEM_SIZE_MAX,
        inline_max: INLINE_MAX,
        shutdown_enabled: true,
        ..Limits::default()
    }
}

/// Text and meta commands.
pub fn text(bytes: &[u8]) {
    check(Protocol::Text, bytes);
}

/// Binary packets.
pub fn binary(bytes: &[u8]) {
    check(Protocol::Binary, bytes);
}

fn check(protocol: Protocol, bytes: &[u8]) {
    let whole = answer(protocol, &memory(), bytes, bytes.len().max(1));
    let modelled = answer(protocol, &model(), bytes, bytes.len().max(1));
    assert_eq!(shown(&whole), shown(&modelled), "the engine and its model disagree");
    // Lines that are too long are met before their end if they come in pieces.
    if bytes.len() < 2000 {
        let piece = 1 + bytes.first().copied().map_or(0, usize::from) % 7;
        let pieces = answer(protocol, &memory(), bytes, piece);
        assert_eq!(shown(&whole), shown(&pieces), "it matters how the bytes are cut");
    }
}

fn shown((answer, closed): &(Vec<u8>, bool)) -> (String, bool) {
    (answer.escape_ascii().to_string(), *closed)
}

/// What a connection answers when `bytes` come in pieces of that size, and whether it is closed.
pub fn answer(protocol: Protocol, engine: &dyn Engine, bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut connection = Connection {
        codec: Codec::new(protocol, limits()),
        engine,
        now: NOW,
        buffer: Vec::new(),
        body: None,
        out: Output::new(),
        closed: false,
    };
    for piece in bytes.chunks(piece) {
        connection.buffer.extend_from_slice(piece);
        while !connection.closed && connection.step() {}
    }
    (connection.out.to_vec(), connection.closed)
}

struct Connection<'e> {
    codec: Codec,
    engine: &'e dyn Engine,
    now: Now,
    buffer: Vec<u8>,
    body: Option<Body>,
    out: Output,
    closed: bool,
}

/// A large value on its way.
struct Body {
    head: Vec<u8>,
    came: Vec<u8>,
    value: usize,
    trailer: usize,
}

impl Connection<'_> {
    /// One call of the codec; `false` if it needs more.
    fn step(&mut self) -> bool {
        let buffer = std::mem::take(&mut self.buffer);
        let (used, go_on) = match self.body.take() {
            Some(body) => self.body(body, &buffer),
            None => self.decode(&buffer),
        };
        self.buffer = buffer;
        self.buffer.drain(..used);
        go_on
    }

    fn body(&mut self, mut body: Body, buffer: &[u8]) -> (usize, bool) {
        let missing = (body.value + body.trailer - body.came.len()).min(buffer.len());
        body.came.extend_from_slice(&buffer[..missing]);
        if body.came.len() < body.value + body.trailer {
            self.body = Some(body);
            return (missing, false);
        }
        let (value, trailer) = body.came.split_at(body.value);
        let request = match self.pages(value) {
            Some(pages) => self.codec.finish_body(&body.head, pages, trailer),
            None => self.codec.refuse_body(&body.head, Refusal::OutOfMemory),
        };
        handle(self.engine, &mut self.now, request, &mut self.out, &mut self.closed);
        (missing, true)
    }

    fn pages(&self, value: &[u8]) -> Option<Pages> {
        let mut reserved = self.engine.reserve(value.len(), self.now).ok()?;
        let mut rest = value;
        for chunk in &mut reserved.chunks {
            let (now, later) = rest.split_at(chunk.len());
            chunk.copy_from_slice(now);
            rest = later;
        }
        assert!(rest.is_empty(), "a reservation is as long as was asked for");
        Some(reserved.freeze())
    }

    fn decode(&mut self, buffer: &[u8]) -> (usize, bool) {
        match self.codec.decode(buffer) {
            Decoded::Request { request, used } => {
                assert!((1..=buffer.len()).contains(&used));
                handle(self.engine, &mut self.now, request, &mut self.out, &mut self.closed);
                (used, true)
            }
            Decoded::Skip { used } => {
                assert!((1..=buffer.len()).contains(&used));
                (used, true)
            }
            Decoded::Incomplete { more } => {
                assert!(more > 0);
                (0, false)
            }
            Decoded::Body { head_len, value_len, trailer_len } => {
                assert!(value_len > INLINE_MAX && value_len <= ITEM_SIZE_MAX && head_len <= buffer.len());
                let head = buffer[..head_len].to_vec();
                self.body = Some(Body { head, came: Vec::new(), value: value_len, trailer: trailer_len });
                (head_len, true)
            }
            Decoded::Close(_) => {
                self.closed = true;
                (0, false)
            }
        }
    }
}

fn handle(engine: &dyn Engine, now: &mut Now, request: Request<'_>, out: &mut Output, closed: &mut bool) {
    match request {
        Request::Say(line) => out.extend(&line),
        Request::Item { command, form } => {
            // Time passes with every command, so that items expire.
            now.secs += 1;
            now.wall_ms += 1000;
            let commands = [command];
            let mut render = Render { commands: &commands, form, now: *now, out, answered: 0 };
            engine.execute(&commands, *now, &mut render);
            assert_eq!(render.answered, 1, "one outcome for one command");
            engine.maintain(*now, 8, true);
        }
        Request::Session { what, form } => session(engine, *now, what, form, out, closed),
    }
}

fn session(
    engine: &dyn Engine,
    now: Now,
    what: Session<'_>,
    form: Form<'_>,
    out: &mut Output,
    closed: &mut bool,
) {
    match what {
        Session::FlushAll(exptime) => {
            let at = exptime.map(|exptime| exptime.deadline(now)).filter(|at| *at > Deadline(now.secs));
            engine.flush(at.map(|at| at.0), now);
            form.done("OK", out);
        }
        Session::Quit => {
            form.goodbye(out);
            *closed = true;
        }
        Session::Version => form.version("1.2.3", out),
        Session::Stats(b"reset") => {
            engine.reset_stats();
            form.done("RESET", out);
        }
        Session::Stats(b"") => {
            let stats = engine.stats();
            // Not how many items: an expired one counts until somebody notices.
            form.stat("cmd_set", &stats.commands.cmd_set.to_string(), out);
            form.stat("cmd_get", &stats.commands.cmd_get.to_string(), out);
            form.stat_end(out);
        }
        Session::Stats(_) => form.unknown(out),
        Session::FlushForbidden => form.flush_forbidden(out),
        Session::SaslList => form.sasl_mechanisms("PLAIN", out),
        Session::SaslAuth { .. } => form.authenticated(out),
        Session::SaslStep => form.auth_failure(out),
        _ => form.done("OK", out),
    }
}

struct Render<'a, 'b> {
    commands: &'a [Command<'b>; 1],
    form: Form<'b>,
    now: Now,
    out: &'a mut Output,
    answered: usize,
}

impl Replies for Render<'_, '_> {
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        self.answered += 1;
        self.form.render(&self.commands[index], outcome, self.now, self.out);
    }
}

/// Every item, in order of keys, encoded.
pub fn content(engine: &dyn Engine, now: Now) -> Vec<String> {
    let mut all = Vec::new();
    for shard in 0..engine.shards() {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = engine.scan(shard, from, 1 << 16, now, &mut |change| {
                let mut bytes = Vec::new();
                change.encode(&mut bytes);
                all.push(bytes.escape_ascii().to_string());
            });
        }
    }
    all.sort();
    all
}
