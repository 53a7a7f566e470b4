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
/// Bytes of a receive buffer of io_uring: a page, so that what came on a thousand sockets at once fits in
/// the memory of a thousand pages.
pub const RING_BUFFER_BYTES: usize = 4 * 1024;
/// Receive buffers that a worker's ring begins with.
pub const RING_BUFFERS: u16 = 64;
/// Receive buffers of a worker's ring when that many connections were ready at once.
pub const RING_BUFFERS_MAX: u16 = 1024;
/// Operations that a worker begins at once; more are begun in several steps.
pub const RING_SUBMISSIONS: u32 = 512;
/// Connections whose memory is fetched together before the first of them is served: more would push each
/// other out of the cache's first level.
pub const RING_WINDOW: usize = 16;
/// Bytes of requests up to which their memory is fetched ahead: longer ones are several requests, which are
/// executed together, and hide each other's waiting.
pub const RING_FORESEEN_BYTES: usize = 512;
/// Bytes of an answer that waits for the end of a look; longer ones are written at once.
pub const RING_ANSWER_BYTES: usize = 8 * 1024;
/// Free outputs that a worker's ring keeps: as many as answers of one look, mostly.
pub const RING_OUTPUTS: usize = 128;
/// Ends that a worker's ring holds; more cost the kernel an allocation each.
pub const RING_COMPLETIONS: u32 = 4096;
/// Unsent reply bytes above which a connection's requests wait, so that a client that never reads
/// holds one large reply and no more.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// Pieces of one vectored write, as many as the kernel takes without a further copy of the list.
pub const WRITE_SLICES: usize = 64;
/// How often those are looked at whose replies wait for another node longer than they should, because nobody knows
/// whether this node still serves.
pub const HELD_LONGER: Duration = Duration::from_millis(5);
/// Raw request bytes handed upstream at once: bounds what is kept until its outcome is known.
pub const FORWARD_BYTES: usize = 256 * 1024;
/// Reply bytes from upstream kept back until their batch is complete, so that a broken stream can be
/// answered request by request; longer replies are passed on as they come.
pub const FORWARD_REPLY_BYTES: usize = 256 * 1024;
/// Streams to the node that serves that a worker opens at a time: that node has sixteen places for those who
/// have not proven their key.
pub const UPSTREAMS_OPENING: usize = 2;
/// How long after one that failed the next is tried.
pub const UPSTREAM_PAUSE: Duration = Duration::from_millis(5);
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
