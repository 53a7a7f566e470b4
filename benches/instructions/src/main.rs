//! Does one operation many times, for callgrind to count (`scripts/guard.sh`).
//!
//! From a client's bytes to the reply's bytes, as a session does it, without sockets: decode a batch,
//! execute it, format the outcomes.
#![allow(
    dead_code,
    unused_imports,
    unfulfilled_lint_expectations,
    reason = "the rest of the program is not here"
)]

#[path = "../../../src/command.rs"]
mod command;
#[path = "../../../src/engine/mod.rs"]
mod engine;
#[path = "../../../src/protocol/mod.rs"]
mod protocol;

use std::process::ExitCode;
use std::sync::Arc;

use tandem_replication::backlog::Backlog;
use tandem_replication::change::Change;

use command::{Now, Outcome, Replies};
use engine::memory::{Memory, MemoryConfig};
use engine::{Engine, Journal, NoJournal};
use protocol::{Batch, Codec, Decoded, Limits, Output, Protocol, Request};

/// Different keys, all of them there.
const KEYS: usize = 10_000;
/// Operations that are counted.
const OPERATIONS: usize = 16_000;

const NOW: Now = Now { secs: 100, unix_zero: 1_700_000_000, wall_ms: 90_000_000 };

/// The journal of a node with a peer.
struct Recorder(Backlog);

impl Journal for Recorder {
    fn record(&self, shard: usize, change: &Change<'_>) {
        self.0.record(shard, change);
    }
}

struct Formatter<'x, 'b> {
    batch: &'x Batch<'b>,
    out: &'x mut Output,
}

impl Replies for Formatter<'_, '_> {
    fn reply(&mut self, index: usize, outcome: Outcome<'_>) {
        self.batch.forms()[index].render(&self.batch.commands()[index], outcome, NOW, self.out);
    }
}

/// One read of a connection.
fn serve(codec: &mut Codec, engine: &dyn Engine, input: &[u8], out: &mut Output) {
    let mut at = 0;
    while at < input.len() {
        let mut batch = Batch::new();
        while at < input.len() && batch.len() < Batch::MOST {
            at += codec.take_plain(&input[at..], &mut batch, Batch::MOST);
            if at == input.len() || batch.len() == Batch::MOST {
                break;
            }
            match codec.decode(&input[at..]) {
                Decoded::Request { request: Request::Item { command, form }, used } => {
                    batch.push(command, form);
                    at += used;
                }
                other => panic!("not a request for an item: {other:?}"),
            }
        }
        engine.execute(batch.commands(), NOW, &mut Formatter { batch: &batch, out });
    }
}

/// What is counted.
#[inline(never)]
fn measured(codec: &mut Codec, engine: &dyn Engine, inputs: &[Vec<u8>], out: &mut Output) -> usize {
    let mut bytes = 0;
    for input in inputs {
        serve(codec, engine, input, out);
        bytes += out.len();
        out.clear();
    }
    bytes
}

fn get(key: &str) -> String {
    format!("get {key}\r\n")
}

fn meta_get(key: &str) -> String {
    format!("mg {key} v\r\n")
}

fn set(key: &str) -> String {
    format!("set {key} 0 0 100\r\n{}\r\n", "v".repeat(100))
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let (pipeline, request): (usize, fn(&str) -> String) = match name.as_str() {
        "get" => (1, get),
        "get-pipeline-16" => (16, get),
        "get-16-keys" => (16, |key| format!(" {key}")),
        "meta-get" => (1, meta_get),
        "set" | "set-recorded" => (1, set),
        "set-pipeline-16" | "set-pipeline-16-recorded" => (16, set),
        _ => {
            eprintln!("{name:?} is no operation");
            return ExitCode::FAILURE;
        }
    };
    let journal: Arc<dyn Journal> = if name.ends_with("-recorded") {
        let backlog = Backlog::new(8, 8 << 20);
        backlog.enable();
        Arc::new(Recorder(backlog))
    } else {
        Arc::new(NoJournal)
    };
    let config = MemoryConfig { limit_bytes: 256 << 20, threads: 1, seed: 7, ..MemoryConfig::default() };
    let engine = Memory::new(config, journal);
    let limits = Limits { inline_max: engine.inline_max(), ..Limits::default() };
    let (mut codec, mut out) = (Codec::new(Protocol::Text, limits), Output::new());
    let key = |number: usize| format!("1234567890123456789012{:010}", number % KEYS);
    let fill: Vec<_> = (0..KEYS).map(|number| set(&key(number)).into_bytes()).collect();
    for input in &fill {
        serve(&mut codec, &engine, input, &mut out);
        out.clear();
    }
    let inputs = (0..OPERATIONS).step_by(pipeline).map(|first| {
        // In no order that memory would like.
        let each = (first..first + pipeline).map(|number| request(&key(number.wrapping_mul(2_654_435_761))));
        let requests: String = each.collect();
        if name == "get-16-keys" { format!("get{requests}\r\n") } else { requests }.into_bytes()
    });
    let inputs: Vec<_> = inputs.collect();
    let bytes = measured(&mut codec, &engine, &inputs, &mut out);
    println!("{OPERATIONS} operations, {bytes} bytes of replies");
    ExitCode::SUCCESS
}
