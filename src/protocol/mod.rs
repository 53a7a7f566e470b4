//! Bytes ⇄ vocabulary. No socket, no engine, no clock.
//!
//! A connection feeds its read buffer to [`Codec::decode`] and gets whole [`Request`]s that borrow
//! from it; item requests carry a [`Form`] that later renders the engine's outcome into the
//! connection's [`Output`]. Three files speak one protocol each: `text` (classic), `meta`, `binary`;
//! `words` holds what text and meta share, `foresight` guesses keys.
//!
//! What a client may announce is never believed: a body longer than [`Limits::inline_max`] is handed
//! to the connection in pieces ([`Decoded::Body`]), one that is refused is thrown away as it comes
//! ([`Decoded::Skip`]), and a line of a million keys is decoded key by key. So the connection's buffer
//! never needs to hold more than a line, or a small body with its head.

use std::borrow::Cow;

use crate::command::{Command, Exptime, Pages, Refusal};

mod batch;
mod binary;
mod foresight;
mod form;
mod meta;
mod output;
mod text;
mod words;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use foresight::likely_key;
pub use form::Form;
pub use output::Output;

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

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest item in bytes by memcached's accounting (`-I`): header, key, flags, value, CRLF.
    pub item_size_max: usize,
    /// Longest value that is handed over in the connection's buffer; longer ones become
    /// [`Decoded::Body`] unless they are in the buffer already.
    pub inline_max: usize,
    /// Bytes without an end of line after which only a `get` may go on.
    pub line_max: usize,
    /// Longest key in bytes.
    pub key_max: usize,
    /// Longest body of a binary packet that is read at all: a longer one ends the connection.
    pub packet_max: usize,
    /// Whether items have CAS uniques (they count in an item's size; off with `-C`).
    pub cas: bool,
    /// Whether `flush_all` is allowed (off with `-F`).
    pub flush_enabled: bool,
    /// Whether `shutdown` is allowed (on with `-A`).
    pub shutdown_enabled: bool,
}

impl Default for Limits {
    /// memcached's defaults.
    fn default() -> Self {
        Self {
            item_size_max: 1024 * 1024,
            inline_max: 2048,
            line_max: 2048,
            key_max: 250,
            packet_max: 1024 * 1024 * 1024,
            cas: true,
            flush_enabled: true,
            shutdown_enabled: false,
        }
    }
}

impl Limits {
    /// Whether an item of this shape is larger than allowed, by memcached's accounting: 48 bytes of
    /// header, key and NUL, CAS unique, non-zero flags, value and CRLF.
    fn too_large(&self, key_len: usize, value_len: usize, flags: u32) -> bool {
        let fixed = 48 + 1 + 2 + if self.cas { 8 } else { 0 } + if flags == 0 { 0 } else { 4 };
        key_len.saturating_add(value_len).saturating_add(fixed) > self.item_size_max
    }
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
    Say(Cow<'static, [u8]>),
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
    /// `version`. Answer with [`Form::version`].
    Version,
    /// `quit`: close, after everything before it was answered and [`Form::goodbye`] was said.
    Quit,
    /// `stats` and what follows it, without blanks at the ends (may be empty).
    Stats(&'b [u8]),
    /// `flush_all` with its delay. Answer with [`Form::done`].
    FlushAll(Option<Exptime>),
    /// `flush_all` although it is switched off: counts, and is answered by [`Form::flush_forbidden`].
    FlushForbidden,
    /// `verbosity N`, at most 2.
    Verbosity(u8),
    /// `cache_memlimit N`, in megabytes, 8 to 1,000,000,000.
    CacheMemlimit(u64),
    /// `shutdown`, or `shutdown graceful` (true); only if enabled.
    Shutdown(bool),
    /// `lru_crawler …`: the words behind it, like those of the next three without blanks at the ends
    /// and without `noreply`.
    LruCrawler(&'b [u8]),
    /// `slabs …`.
    Slabs(&'b [u8]),
    /// `lru …`.
    Lru(&'b [u8]),
    /// `watch …`.
    Watch(&'b [u8]),
    /// `refresh_certs`.
    RefreshCerts,
    /// Binary SASL: list mechanisms. Answer with [`Form::sasl_mechanisms`].
    SaslList,
    /// Binary SASL: authenticate, with mechanism and data (PLAIN: `authzid NUL user NUL password`).
    /// Answer with [`Form::authenticated`] or [`Form::auth_failure`].
    SaslAuth {
        /// Name of the mechanism.
        mechanism: &'b [u8],
        /// Its initial response.
        data: &'b [u8],
    },
    /// Binary SASL: a further step, which PLAIN does not have.
    SaslStep,
}

/// What a codec made of the bytes at the front of a buffer.
#[derive(Debug)]
pub enum Decoded<'b> {
    /// A request, which takes the first `used` bytes.
    Request {
        /// What is asked.
        request: Request<'b>,
        /// Bytes it takes, at least one.
        used: usize,
    },
    /// The first `used` bytes (at least one) are of no interest: drop them and call again.
    Skip {
        /// Bytes to drop.
        used: usize,
    },
    /// Not a whole request yet: read at least `more` bytes behind what there is, and call again.
    Incomplete {
        /// Bytes that are certainly missing, at least one.
        more: usize,
    },
    /// A large store whose head is whole. Its value is better read straight into pages:
    ///
    /// 1. copy the first `head_len` bytes (they are few),
    /// 2. reserve `value_len` bytes; if that fails, drop the head, handle the request that
    ///    [`Codec::refuse_body`] makes, and go on decoding behind the head,
    /// 3. read `value_len` bytes into the pages (part of them may be in the buffer already) and then
    ///    `trailer_len` bytes,
    /// 4. handle the request that [`Codec::finish_body`] makes, and go on decoding behind the trailer.
    Body {
        /// Bytes of the head, all of them in the buffer.
        head_len: usize,
        /// Bytes of the value.
        value_len: usize,
        /// Bytes behind the value: 2 for text (CRLF), 0 for binary.
        trailer_len: usize,
    },
    /// Nothing sensible can follow: answer what came before, then close, for this reason.
    Close(&'static str),
}

impl<'b> Decoded<'b> {
    const fn say(line: &'static [u8], used: usize) -> Self {
        Self::Request { request: Request::Say(Cow::Borrowed(line)), used }
    }

    const fn item(command: Command<'b>, form: Form<'b>, used: usize) -> Self {
        Self::Request { request: Request::Item { command, form }, used }
    }

    const fn session(what: Session<'b>, form: Form<'b>, used: usize) -> Self {
        Self::Request { request: Request::Session { what, form }, used }
    }
}

/// A store's line or head, understood: what is to become of it and of the body behind it.
#[derive(Debug)]
enum Head<'b> {
    /// A good store, waiting for its value.
    Store {
        /// With an empty value.
        command: Command<'b>,
        form: Form<'b>,
        value_len: usize,
    },
    /// Refused before its body was looked at: the body is thrown away, then this is said.
    Refused {
        /// What is counted, if it would have been a store.
        store: Option<Command<'b>>,
        then: Cow<'static, [u8]>,
        body_len: u64,
    },
    /// Refused without a body to throw away.
    Bad(&'static [u8]),
}

/// Decodes one connection's bytes. Keeps a few words of state, never bytes of requests. A clone stands
/// where the original stands, for whoever may have to go back.
#[derive(Clone, Debug)]
pub struct Codec {
    protocol: Protocol,
    limits: Limits,
    state: State,
}

/// What the bytes at the front of the buffer belong to.
#[derive(Clone, Debug)]
enum State {
    /// A new request.
    Idle,
    /// A line of keys of which some were decoded.
    Keys(text::Keys),
    /// A body of which `left` bytes (at least one) are still to be thrown away before this is said.
    Body { left: u64, then: Cow<'static, [u8]> },
    /// A line that is thrown away up to its end before this is said.
    Line { then: &'static [u8] },
    /// Nothing: the last words were said.
    Closing(&'static str),
}

impl Codec {
    /// A codec for a fresh connection.
    pub const fn new(protocol: Protocol, limits: Limits) -> Self {
        Self { protocol, limits, state: State::Idle }
    }

    /// What this connection speaks, as far as it is decided.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// From now on it decodes what another connection sends. Nothing is under way.
    #[inline]
    pub const fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// The limits it works with.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the next bytes belong to a request that began before them: another key of a multiget,
    /// or a body that is being thrown away.
    pub const fn is_midway(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// In the middle of a multiget: what has to be put before the remaining bytes of its line to make
    /// them a request of their own (`get`, or `gat 60`), for whoever hands them to another server.
    pub fn resumption(&self) -> Option<Vec<u8>> {
        match &self.state {
            State::Keys(keys) => Some(keys.resumption()),
            _ => None,
        }
    }

    /// Takes requests off the front of `input` as long as they are what most requests are (`get` and `set` as
    /// every client writes them, whole; further keys of a multiget), up to `most` in the batch. Returns how
    /// many bytes they were; what follows is for [`Codec::decode`], which understands these too.
    #[inline(always)]
    pub fn take_plain<'b>(&mut self, input: &'b [u8], batch: &mut Batch<'b>, most: usize) -> usize {
        match (&self.state, self.protocol) {
            (State::Idle, Protocol::Text) => text::take_plain(&self.limits, input, batch, most),
            (State::Keys(keys), _) => text::take_keys(self, *keys, input, batch, most),
            _ => 0,
        }
    }

    /// Decodes the request at the front of `input`. To be called again for what is behind it, until it
    /// answers [`Decoded::Incomplete`] or [`Decoded::Close`] (which may come for an empty rest too).
    pub fn decode<'b>(&mut self, input: &'b [u8]) -> Decoded<'b> {
        if let State::Closing(reason) = self.state {
            return Decoded::Close(reason);
        }
        let Some(&first) = input.first() else { return Decoded::Incomplete { more: 1 } };
        match self.state {
            State::Idle | State::Closing(_) => {}
            State::Keys(keys) => return text::next_key(self, keys, input),
            State::Body { .. } | State::Line { .. } => return self.throw_away(input),
        }
        match self.protocol {
            Protocol::Text => text::decode(self, input),
            Protocol::Binary => binary::decode(self, input),
            Protocol::Auto if first == binary::REQUEST => {
                self.protocol = Protocol::Binary;
                binary::decode(self, input)
            }
            Protocol::Auto => {
                self.protocol = Protocol::Text;
                text::decode(self, input)
            }
        }
    }

    /// The answer to a binary request that is not for those who have not said who they are, if one
    /// begins `input`; its body need not be there. Nothing may follow it.
    pub fn refuse_stranger(&self, input: &[u8]) -> Option<Vec<u8>> {
        let begins = matches!(self.state, State::Idle) && self.protocol == Protocol::Binary;
        begins.then(|| binary::refuse_stranger(input)).flatten()
    }

    /// Makes the request of a [`Decoded::Body`] whose value was read. `head` is the bytes that were
    /// its head, `trailer` those that came behind the value.
    pub fn finish_body<'b>(&mut self, head: &'b [u8], pages: Pages, trailer: &[u8]) -> Request<'b> {
        let binary = self.protocol == Protocol::Binary;
        let understood = if binary { binary::head(self, head) } else { text::head(self, head) };
        match understood {
            Head::Store { .. } if !binary && trailer != b"\r\n" => match understood {
                Head::Store { form, .. } if !form.replies() => Request::Say(Cow::Borrowed(b"")),
                _ => Request::Say(Cow::Borrowed(text::BAD_CHUNK)),
            },
            Head::Store { mut command, form, .. } => {
                if let crate::command::Op::Store(store) = &mut command.op {
                    store.value = crate::command::Payload::Pages(pages);
                }
                Request::Item { command, form }
            }
            Head::Refused { then, .. } => Request::Say(then),
            Head::Bad(line) => Request::Say(Cow::Borrowed(line)),
        }
    }

    /// Makes the request of a [`Decoded::Body`] that there is no memory for: it drops the item that
    /// would have been replaced and is not answered; the answer comes when the body was thrown away.
    pub fn refuse_body<'b>(&mut self, head: &'b [u8], why: Refusal) -> Request<'b> {
        let binary = self.protocol == Protocol::Binary;
        let understood = if binary { binary::head(self, head) } else { text::head(self, head) };
        match understood {
            Head::Store { command, form, value_len } => {
                let trailer_len = if binary { 0 } else { 2 };
                let then = form.store_refusal(why);
                self.state = State::Body { left: value_len as u64 + trailer_len, then };
                match text::refusal(&command, &form, why) {
                    Some(command) => Request::Item { command, form: text::silent() },
                    None => Request::Say(Cow::Borrowed(b"")),
                }
            }
            Head::Refused { then, .. } => Request::Say(then),
            Head::Bad(line) => Request::Say(Cow::Borrowed(line)),
        }
    }

    /// What becomes of a store whose head is understood and takes `head_len` bytes of `input`.
    #[inline]
    fn store<'b>(&mut self, head: Head<'b>, input: &'b [u8], head_len: usize) -> Decoded<'b> {
        match head {
            Head::Store { mut command, form, value_len } => {
                let trailer_len = if self.protocol == Protocol::Binary { 0 } else { 2 };
                // A head is in memory and a value at most 4 GiB: no overflow on 64 bits; checked anyway.
                let Some(value_end) = head_len.checked_add(value_len) else {
                    return Decoded::Close("a length overflows");
                };
                let Some(used) = value_end.checked_add(trailer_len) else {
                    return Decoded::Close("a length overflows");
                };
                let (Some(value), Some(trailer)) =
                    (input.get(head_len..value_end), input.get(value_end..used))
                else {
                    if value_len > self.limits.inline_max {
                        return Decoded::Body { head_len, value_len, trailer_len };
                    }
                    return Decoded::Incomplete { more: used.saturating_sub(input.len()) };
                };
                if trailer_len != 0 && trailer != b"\r\n" {
                    let line = if form.replies() { text::BAD_CHUNK } else { b"" };
                    return Decoded::say(line, used);
                }
                if let crate::command::Op::Store(store) = &mut command.op {
                    store.value = crate::command::Payload::Bytes(value);
                }
                Decoded::item(command, form, used)
            }
            Head::Refused { store: Some(command), then, body_len } => {
                if body_len == 0 {
                    // Nothing to wait for; the answer still needs a byte of its own to hang on.
                    return Decoded::Request { request: Request::Say(then), used: head_len };
                }
                self.state = State::Body { left: body_len, then };
                Decoded::item(command, text::silent(), head_len)
            }
            Head::Refused { store: None, then, body_len } => self.refuse(then, body_len, input, head_len),
            Head::Bad(line) => Decoded::say(line, head_len),
        }
    }

    /// Says `then` once the `body_len` bytes behind the head were thrown away.
    fn refuse<'b>(
        &mut self,
        then: Cow<'static, [u8]>,
        body_len: u64,
        input: &[u8],
        head_len: usize,
    ) -> Decoded<'b> {
        let there = input.len().saturating_sub(head_len) as u64;
        if body_len <= there {
            // It is all in memory, so it fits a usize.
            return Decoded::Request { request: Request::Say(then), used: head_len + body_len as usize };
        }
        self.state = State::Body { left: body_len - there, then };
        Decoded::Skip { used: input.len() }
    }

    /// Goes on throwing away.
    fn throw_away<'b>(&mut self, input: &[u8]) -> Decoded<'b> {
        match &mut self.state {
            State::Body { left, then } => {
                if *left > input.len() as u64 {
                    *left -= input.len() as u64;
                    return Decoded::Skip { used: input.len() };
                }
                let used = *left as usize;
                let then = std::mem::take(then);
                self.state = State::Idle;
                Decoded::Request { request: Request::Say(then), used }
            }
            State::Line { then } => match memchr::memchr(b'\n', input) {
                Some(end) => {
                    let then = *then;
                    self.state = State::Idle;
                    Decoded::say(then, end + 1)
                }
                None => Decoded::Skip { used: input.len() },
            },
            State::Idle | State::Keys(_) | State::Closing(_) => Decoded::Skip { used: input.len() },
        }
    }
}
