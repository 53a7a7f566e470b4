//! Datagrams of strangers, answered by a server without its socket.

use std::sync::{Arc, OnceLock};

use tandemd::app::stats_shape;
use tandemd::config::{Config, Invocation, parse};
use tandemd::engine::Engine;
use tandemd::server::auth::Auth;
use tandemd::server::clock::Clock;
use tandemd::server::gate::Open;
use tandemd::server::{Bound, Parts, Server};
use tandemd::stats::{Detail, Stats};

use crate::commands::{NOW, memory};

/// Bytes of a datagram, and of an answer put together.
const DATAGRAM_MAX: usize = 1400;
const ANSWER_MAX: usize = 64 << 10;

/// One server for all runs, and its engine, which each run empties.
fn server() -> &'static (Server, Arc<dyn Engine>) {
    static SERVER: OnceLock<(Server, Arc<dyn Engine>)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let config = config();
        let engine: Arc<dyn Engine> = Arc::new(memory());
        let stats = Stats::new(stats_shape(&config), Arc::clone(&engine), Detail::new(false, b':'));
        let parts = Parts {
            engine: Arc::clone(&engine),
            gate: Arc::new(Open),
            stats: Arc::new(stats),
            clock: Arc::new(Clock::start()),
            auth: Auth::open(),
            on_shutdown: Box::new(|_| {}),
            verbosity: 0,
        };
        let bound = Bound::bind(&config.server).expect("a free port");
        (bound.start(config.server, parts).expect("threads"), engine)
    })
}

fn config() -> Config {
    let flags = "-u root -l 127.0.0.1 -p -1 -t 1 -A -m 64 -I 1024 -o slab_chunk_max=1";
    match parse(flags.split(' ').map(Into::into), |_| None, false) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{flags}: {other:?}"),
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// A datagram: as it is, or (first byte odd) behind a head that is good. Whatever it says, the answer is
/// framed as memcached frames it, and bounded.
pub fn udp(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let datagram = if mode % 2 == 1 { [b"\x12\x34\0\0\0\x01\0\0", rest].concat() } else { rest.to_vec() };
    let (server, engine) = server();
    let answers = RUNTIME.with(|runtime| runtime.block_on(server.answer_datagram(&datagram)));
    engine.clear(NOW);
    let mut total = 0;
    for (number, answer) in answers.iter().enumerate() {
        let field = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
        assert_eq!(answer[..2], datagram[..2], "the id of the request");
        assert_eq!((usize::from(field(2)), usize::from(field(4)), field(6)), (number, answers.len(), 0));
        assert!(answer.len() > 8 && answer.len() <= DATAGRAM_MAX);
        assert!(number + 1 == answers.len() || answer.len() == DATAGRAM_MAX, "all but the last are full");
        total += answer.len();
    }
    assert!(total <= ANSWER_MAX, "{total} bytes");
    if mode % 2 == 0 && datagram.get(4..6) != Some(&[0, 1]) {
        assert!(answers.is_empty(), "a part of a request");
    }
}
