//! Bytes ⇄ vocabulary. No socket, no engine, no clock.
//!
//! A connection feeds its read buffer to [`Codec::decode`] and gets whole [`Request`]s that borrow
//! from it; item requests carry a [`Form`] that later renders the engine's outcome into the
//! connection's [`Output`]. Three files speak one protocol each: `text` (classic), `meta`, `binary`;
//! `words` holds what text and meta share.

use crate::command::{Command, Exptime};

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Decided by the first byte: 0x80 is binary.
    #[default]
    Auto,
    /// Classic text and meta.
    Text,
    /// Binary.
    Binary,
}

/// A request a connection has to handle.
#[derive(Debug)]
pub enum Request<'b> {
    /// For the engine.
    Item {
        /// What to do.
        command: Command<'b>,
        /// How to answer.
        form: Form<'b>,
    },
    /// Needs no engine: the answer (possibly none) goes out as it is, in its turn.
    Say(std::borrow::Cow<'static, [u8]>),
    /// For the connection, or the server behind it.
    Session {
        /// What to do.
        what: Session<'b>,
        /// How to answer.
        form: Form<'b>,
    },
}

/// Requests that are not about one item.
#[derive(Debug, PartialEq, Eq)]
pub enum Session<'b> {
    /// `version`.
    Version,
    /// `quit`: close, after everything before it was answered.
    Quit,
    /// `stats` and what follows it, without blanks at the ends (may be empty).
    Stats(&'b [u8]),
    /// `flush_all` with its delay.
    FlushAll(Option<Exptime>),
    /// `verbosity N`.
    Verbosity(u8),
    /// `cache_memlimit N`, in megabytes.
    CacheMemlimit(u64),
    /// `shutdown`, or `shutdown graceful` (true).
    Shutdown(bool),
    /// `lru_crawler …`: the words behind it.
    LruCrawler(&'b [u8]),
    /// `slabs …`.
    Slabs(&'b [u8]),
    /// `lru …`.
    Lru(&'b [u8]),
    /// `watch …`.
    Watch(&'b [u8]),
    /// `refresh_certs`.
    RefreshCerts,
    /// Binary SASL: list mechanisms.
    SaslList,
    /// Binary SASL: authenticate, with mechanism and data (PLAIN: `authzid NUL user NUL password`).
    SaslAuth {
        /// Name of the mechanism.
        mechanism: &'b [u8],
        /// Its initial response.
        data: &'b [u8],
    },
    /// Binary SASL: a further step, which PLAIN does not have.
    SaslStep,
}

/// How to answer a request.
#[derive(Clone, Debug)]
pub struct Form<'b>(std::marker::PhantomData<&'b [u8]>);
