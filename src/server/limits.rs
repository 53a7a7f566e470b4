//! Every limit of the server, with its reason.

use std::time::Duration;

/// Bytes read at once: a pipeline of 16 sets of 100 bytes and more, small enough to stay in cache.
pub const READ_BYTES: usize = 16 * 1024;
/// Reads of one connection before others have a turn, however few requests they hold.
pub const READS_PER_TURN: usize = 16;
/// Sockets that one look may find ready; others are found by the next.
pub const EVENTS: usize = 256;
/// How often connections are looked for that were silent for too long.
pub const SWEEP: Duration = Duration::from_millis(500);
/// Requests decoded and executed together: enough for the engine to hide memory latency.
pub const BATCH_REQUESTS: usize = 32;
/// Unsent reply bytes above which a connection's requests wait, so that a client that never reads
/// holds one large reply and no more.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// Pieces of one vectored write, as many as the kernel takes without a further copy of the list.
pub const WRITE_SLICES: usize = 64;
/// Raw request bytes handed upstream at once: bounds what is kept until its outcome is known.
pub const FORWARD_BYTES: usize = 256 * 1024;
/// Reply bytes from upstream kept back until their batch is complete, so that a broken stream can be
/// answered request by request; longer replies are passed on as they come.
pub const FORWARD_REPLY_BYTES: usize = 256 * 1024;
/// Free buffers a worker keeps for connections that stand aside.
pub const POOL_BUFFERS: usize = 8;
/// A frame of proxied requests from the peer: one item of the largest size and its command line fit.
pub const PROXIED_FRAME_BYTES: usize = (1 << 30) + (1 << 20);
/// How long open connections may take to finish when the server stops.
pub const DRAIN: Duration = Duration::from_secs(2);
/// How long a client may take to say who it is: it does so at once, or never.
pub const ENTRANCE: Duration = Duration::from_secs(5);
/// Bytes a client may send until then, tokens and attempts together: four times the longest user and
/// password there can be. memcached reads tokens of 16 KiB.
pub const ENTRANCE_BYTES: usize = 2 * 1024;
/// Users of an authentication file, as memcached has it.
pub const AUTH_USERS: usize = 8;
/// Bytes of a line of an authentication file, as memcached has it.
pub const AUTH_LINE_BYTES: usize = 255;
/// Bytes of a `stats cachedump` answer, as memcached has it.
pub const CACHEDUMP_BYTES: usize = 2 << 20;
/// Bytes of items a dump looks at under one lock.
pub const DUMP_STEP_BYTES: usize = 64 * 1024;
/// Watchers at once, as memcached has it.
pub const WATCHERS: usize = 20;
/// Bytes of lines kept for a watcher that reads slowly, as memcached has it; what comes beyond is
/// counted as skipped.
pub const WATCHER_BYTES: usize = 256 * 1024;
/// How long a TLS handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes a client may send during a TLS handshake: a chain of certificates fits many times.
pub const HANDSHAKE_BYTES: usize = 64 * 1024;
/// TLS sessions that can be resumed (`ssl_session_cache`).
pub const TLS_SESSIONS: usize = 4096;
/// How long saying goodbye under TLS may take.
pub const TLS_GOODBYE: Duration = Duration::from_secs(1);
/// Largest datagram there is.
pub const DATAGRAM_BYTES: usize = 64 * 1024;
/// Bytes of a datagram with a part of an answer, as memcached has it.
pub const UDP_DATAGRAM_BYTES: usize = 1400;
/// Bytes of an answer over UDP, without frames.
pub const UDP_ANSWER_BYTES: usize = 64 * 1024 - 47 * 8;
/// Bytes a UDP source is sent at once and per second beyond what it sent itself: as an amplifier this
/// node is of no use, and whoever reads much uses TCP.
pub const UDP_SOURCE_BYTES: i64 = 512 * 1024;
/// Requests of one datagram that are handed on to the node that serves, one after the other: others wait
/// meanwhile.
pub const UDP_FORWARDS: usize = 32;
/// UDP sources that are told apart.
pub const UDP_SOURCES: usize = 4096;
/// How often background work is done when there is little.
pub const UPKEEP: Duration = Duration::from_millis(100);
/// Items per shard looked at in one slice of background work.
pub const UPKEEP_ITEMS: usize = 256;
/// Reply bytes in one frame to the peer, which takes no longer ones.
pub const PROXIED_PART_BYTES: usize = 256 * 1024;

/// How long a node that ceased to serve may still answer what it was handed: it finishes a batch in
/// milliseconds, or it hangs.
pub(super) const UPSTREAM_GRACE: Duration = Duration::from_millis(100);
