//! The binary protocol: packets with a header of 24 bytes.
//!
//! The header says how long the parts of the body are; nothing of that is believed before it was
//! compared with what the opcode may have. A packet of the wrong shape is answered and ends the
//! connection, an unknown opcode is answered and its body thrown away.
//!
//! Quiet opcodes are silent about what is expected (a miss of a read, success of anything else);
//! errors are always sent.

use std::borrow::Cow;

use super::{Codec, Decoded, Form as AnyForm, Head, Output, Request, Session, State, form::Kind};
use crate::command::{
    Arith, Command, Delete, Exptime, Get, Op, Outcome, Payload, ReadKind, Refusal, Refuse, Shown, Store,
    StoreMode,
};

/// First byte of a request.
pub(super) const REQUEST: u8 = 0x80;
/// First byte of an answer.
const RESPONSE: u8 = 0x81;
pub(super) const HEADER: usize = 24;
/// Longest name of a SASL mechanism.
const MECHANISM_MAX: usize = 32;
/// Longest data of a SASL step.
const SASL_DATA_MAX: usize = 16 * 1024;
/// The expiration that tells incr and decr not to create an item.
const NO_CREATION: u32 = u32::MAX;

/// Statuses of answers, as the protocol numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0x00,
    NotFound = 0x01,
    Exists = 0x02,
    TooLarge = 0x03,
    InvalidArguments = 0x04,
    NotStored = 0x05,
    NonNumeric = 0x06,
    AuthError = 0x20,
    UnknownCommand = 0x81,
    OutOfMemory = 0x82,
    TemporaryFailure = 0x86,
}

impl Status {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Ok => b"",
            Self::NotFound => b"Not found",
            Self::Exists => b"Data exists for key.",
            Self::TooLarge => b"Too large.",
            Self::InvalidArguments => b"Invalid arguments",
            Self::NotStored => b"Not stored.",
            Self::NonNumeric => b"Non-numeric server-side value for incr or decr",
            Self::AuthError => b"Auth failure.",
            Self::UnknownCommand => b"Unknown command",
            Self::OutOfMemory => b"Out of memory",
            Self::TemporaryFailure => b"Temporary failure",
        }
    }
}

/// What an opcode asks for, whether quietly, and whether a read answers with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    GetAndTouch,
    Touch,
    Store(StoreMode),
    Delete,
    Arith { increment: bool },
    Quit,
    Flush,
    Noop,
    Version,
    Stat,
    SaslList,
    SaslAuth,
    SaslStep,
}

/// How a packet is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    verb: Verb,
    opcode: u8,
    quiet: bool,
    with_key: bool,
    /// Echoed as it came.
    opaque: [u8; 4],
}

/// A request's header, understood.
#[derive(Clone, Copy, Debug)]
struct Header {
    opcode: u8,
    key_len: usize,
    extras_len: usize,
    body_len: usize,
    opaque: [u8; 4],
    cas: u64,
}

impl Header {
    fn read(input: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = input.first_chunk()?;
        let [_, opcode, k0, k1, extras, _, _, _, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] = *header;
        Some(Self {
            opcode,
            key_len: usize::from(u16::from_be_bytes([k0, k1])),
            extras_len: usize::from(extras),
            body_len: u32::from_be_bytes([b0, b1, b2, b3]) as usize,
            opaque: [o0, o1, o2, o3],
            cas: u64::from_be_bytes(cas),
        })
    }

    /// The CAS unique the item must have, if any.
    fn compare(self) -> Option<u64> {
        (self.cas != 0).then_some(self.cas)
    }

    /// Bytes behind extras and key. Only for a header whose shape was checked.
    const fn value_len(self) -> usize {
        self.body_len.saturating_sub(self.extras_len + self.key_len)
    }

    fn form(self) -> Option<Form> {
        let (verb, quiet, with_key) = verb(self.opcode)?;
        Some(Form { verb, opcode: self.opcode, quiet, with_key, opaque: self.opaque })
    }
}

/// What an opcode means: the verb, whether it is quiet, whether the key is answered.
const fn verb(opcode: u8) -> Option<(Verb, bool, bool)> {
    use StoreMode::{Add, Append, Prepend, Replace, Set};
    Some(match opcode {
        0x00 => (Verb::Get, false, false),
        0x09 => (Verb::Get, true, false),
        0x0c => (Verb::Get, false, true),
        0x0d => (Verb::Get, true, true),
        0x01 => (Verb::Store(Set), false, false),
        0x11 => (Verb::Store(Set), true, false),
        0x02 => (Verb::Store(Add), false, false),
        0x12 => (Verb::Store(Add), true, false),
        0x03 => (Verb::Store(Replace), false, false),
        0x13 => (Verb::Store(Replace), true, false),
        0x0e => (Verb::Store(Append), false, false),
        0x19 => (Verb::Store(Append), true, false),
        0x0f => (Verb::Store(Prepend), false, false),
        0x1a => (Verb::Store(Prepend), true, false),
        0x04 => (Verb::Delete, false, false),
        0x14 => (Verb::Delete, true, false),
        0x05 => (Verb::Arith { increment: true }, false, false),
        0x15 => (Verb::Arith { increment: true }, true, false),
        0x06 => (Verb::Arith { increment: false }, false, false),
        0x16 => (Verb::Arith { increment: false }, true, false),
        0x07 => (Verb::Quit, false, false),
        0x17 => (Verb::Quit, true, false),
        0x08 => (Verb::Flush, false, false),
        0x18 => (Verb::Flush, true, false),
        0x0a => (Verb::Noop, false, false),
        0x0b => (Verb::Version, false, false),
        0x10 => (Verb::Stat, false, false),
        0x1c => (Verb::Touch, false, false),
        0x1d => (Verb::GetAndTouch, false, false),
        0x1e => (Verb::GetAndTouch, true, false),
        0x23 => (Verb::GetAndTouch, false, true),
        0x24 => (Verb::GetAndTouch, true, true),
        0x20 => (Verb::SaslList, false, false),
        0x21 => (Verb::SaslAuth, false, false),
        0x22 => (Verb::SaslStep, false, false),
        _ => return None,
    })
}

/// Whether the parts of a packet have lengths that its verb can have.
const fn is_shaped(verb: Verb, header: &Header) -> bool {
    let (key, extras, body) = (header.key_len, header.extras_len, header.body_len);
    match verb {
        Verb::Get | Verb::Delete => key > 0 && extras == 0 && body == key,
        Verb::GetAndTouch | Verb::Touch => key > 0 && extras == 4 && body == key + 4,
        Verb::Store(StoreMode::Append | StoreMode::Prepend) => key > 0 && extras == 0 && body >= key,
        Verb::Store(_) => key > 0 && extras == 8 && body >= key + 8,
        Verb::Arith { .. } => key > 0 && extras == 20 && body == key + 20,
        Verb::Quit | Verb::Noop | Verb::Version | Verb::SaslList => key == 0 && extras == 0 && body == 0,
        Verb::Flush => key == 0 && (extras == 0 || extras == 4) && body == extras,
        Verb::Stat => extras == 0 && body == key,
        Verb::SaslAuth | Verb::SaslStep => {
            extras == 0 && key > 0 && key <= MECHANISM_MAX && body >= key && body - key <= SASL_DATA_MAX
        }
    }
}

/// Decodes the packet that begins `input`.
pub(super) fn decode<'b>(codec: &mut Codec, input: &'b [u8]) -> Decoded<'b> {
    if input.first() != Some(&REQUEST) {
        return Decoded::Close("not a binary request");
    }
    let Some(header) = Header::read(input) else {
        return Decoded::Incomplete { more: HEADER.saturating_sub(input.len()).max(1) };
    };
    if header.key_len + header.extras_len > header.body_len {
        return last_words(codec, header, Status::UnknownCommand);
    }
    if header.body_len > codec.limits.packet_max || header.key_len > codec.limits.key_max {
        return last_words(codec, header, Status::InvalidArguments);
    }
    let Some(form) = header.form() else {
        let then = packet(header.opcode, header.opaque, Status::UnknownCommand);
        return codec.refuse(Cow::Owned(then), header.body_len as u64, input, HEADER);
    };
    if !is_shaped(form.verb, &header) {
        return last_words(codec, header, Status::InvalidArguments);
    }
    // Both are bounded by the checks above.
    let head_len = HEADER + header.extras_len + header.key_len;
    let Some(head) = input.get(..head_len) else {
        return Decoded::Incomplete { more: head_len.saturating_sub(input.len()).max(1) };
    };
    if let Verb::Store(mode) = form.verb {
        let store = store_head(codec, head, header, form, mode);
        return codec.store(store, input, head_len);
    }
    let used = HEADER + header.body_len;
    let Some(data) = input.get(head_len..used) else {
        return Decoded::Incomplete { more: used.saturating_sub(input.len()).max(1) };
    };
    let (extras, key) = parts(head, header);
    if form.verb == Verb::Flush && !codec.limits.flush_enabled {
        return Decoded::session(Session::FlushForbidden, AnyForm(Kind::Binary(form)), used);
    }
    request(header, form, extras, key, data, used)
}

/// See [`Codec::refuse_stranger`].
pub(super) fn refuse_stranger(input: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(input).filter(|_| input.first() == Some(&REQUEST))?;
    let verb = verb(header.opcode).map(|(verb, ..)| verb);
    let for_all = matches!(verb, Some(Verb::Version | Verb::SaslList | Verb::SaslAuth | Verb::SaslStep));
    // What makes no sense is told so, whoever says it.
    let makes_sense = header.key_len + header.extras_len <= header.body_len;
    (makes_sense && !for_all).then(|| packet(header.opcode, header.opaque, Status::AuthError))
}

/// An answer behind which the connection ends.
fn last_words<'b>(codec: &mut Codec, header: Header, status: Status) -> Decoded<'b> {
    codec.state = State::Closing("a binary request of the wrong shape");
    let answer = packet(header.opcode, header.opaque, status);
    Decoded::Request { request: Request::Say(Cow::Owned(answer)), used: HEADER }
}

/// Extras and key of a head that is whole.
fn parts(head: &[u8], header: Header) -> (&[u8], &[u8]) {
    head.get(HEADER..).unwrap_or_default().split_at_checked(header.extras_len).unwrap_or_default()
}

/// A big-endian number of four bytes of the extras.
fn word(extras: &[u8], at: usize) -> u32 {
    extras.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A big-endian number of eight bytes of the extras.
fn long(extras: &[u8], at: usize) -> u64 {
    extras.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Expiration times are unsigned here: none is in the past by being negative.
const fn exptime(seconds: u32) -> Exptime {
    Exptime(seconds as i64)
}

/// What a packet asks for that is no store and whose shape was checked.
fn request<'b>(
    header: Header,
    form: Form,
    extras: &[u8],
    key: &'b [u8],
    data: &'b [u8],
    used: usize,
) -> Decoded<'b> {
    let item = |op| Decoded::item(Command { key: Cow::Borrowed(key), op }, AnyForm(Kind::Binary(form)), used);
    let session = |what| Decoded::session(what, AnyForm(Kind::Binary(form)), used);
    match form.verb {
        Verb::Get => item(Op::Read),
        Verb::GetAndTouch => item(Op::Get(Get {
            kind: ReadKind::GetAndTouch,
            touch: Some(exptime(word(extras, 0))),
            ..Get::default()
        })),
        Verb::Touch => item(Op::Touch(exptime(word(extras, 0)))),
        Verb::Delete => item(Op::Delete(Delete { compare: header.compare(), ..Delete::default() })),
        Verb::Arith { increment } => {
            let expiration = word(extras, 16);
            item(Op::Arith(Arith {
                increment,
                delta: long(extras, 0),
                initial: (expiration != NO_CREATION).then(|| (long(extras, 8), exptime(expiration))),
                compare: header.compare(),
                touch: None,
                explicit: None,
                binary_key: false,
            }))
        }
        Verb::Noop => {
            let answer = packet(header.opcode, header.opaque, Status::Ok);
            Decoded::Request { request: Request::Say(Cow::Owned(answer)), used }
        }
        Verb::Quit => session(Session::Quit),
        Verb::Version => session(Session::Version),
        Verb::Flush => session(Session::FlushAll((!extras.is_empty()).then(|| exptime(word(extras, 0))))),
        Verb::Stat => session(Session::Stats(key)),
        Verb::SaslList => session(Session::SaslList),
        Verb::SaslAuth => session(Session::SaslAuth { mechanism: key, data }),
        Verb::SaslStep => session(Session::SaslStep),
        Verb::Store(_) => Decoded::Close("a store without its body"),
    }
}

/// The head of a large store again, for [`Codec::finish_body`].
pub(super) fn head<'b>(codec: &Codec, head: &'b [u8]) -> Head<'b> {
    let understood = Header::read(head).and_then(|header| Some((header, header.form()?)));
    match understood {
        Some((header, form)) => match form.verb {
            Verb::Store(mode) => store_head(codec, head, header, form, mode),
            _ => Head::Bad(b""),
        },
        None => Head::Bad(b""),
    }
}

/// Set and its like, with a head that is whole and well shaped.
fn store_head<'b>(codec: &Codec, head: &'b [u8], header: Header, form: Form, mode: StoreMode) -> Head<'b> {
    let (extras, key) = parts(head, header);
    let value_len = header.value_len();
    let flags = word(extras, 0);
    let compare = header.compare();
    if codec.limits.too_large(key.len(), value_len, flags) {
        let drops = mode == StoreMode::Set;
        let refuse = Refuse { why: Refusal::TooLarge, mode, compares: compare.is_some(), drops };
        return Head::Refused {
            store: Some(Command { key: Cow::Borrowed(key), op: Op::Refuse(refuse) }),
            then: Cow::Owned(packet(header.opcode, header.opaque, Status::TooLarge)),
            body_len: value_len as u64,
        };
    }
    let appends = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    let store = Store {
        // A compare says already that the item must be there.
        mode: if compare.is_some() && !appends { StoreMode::Set } else { mode },
        flags,
        exptime: exptime(word(extras, 4)),
        value: Payload::Bytes(&[]),
        compare,
        invalidate: false,
        vivify: None,
        explicit: None,
        binary_key: false,
    };
    Head::Store {
        command: Command { key: Cow::Borrowed(key), op: Op::Store(store) },
        form: AnyForm(Kind::Binary(form)),
        value_len,
    }
}

impl Form {
    /// Quiet packets still hear of errors.
    #[expect(clippy::unused_self, reason = "the three protocols' forms answer the same questions")]
    pub(super) const fn replies(self) -> bool {
        true
    }

    /// Whether the packet was a statistics request.
    pub(super) fn is_stat(self) -> bool {
        self.verb == Verb::Stat
    }

    pub(super) fn render(self, command: &Command<'_>, outcome: &Outcome<'_>, out: &mut Output) {
        match outcome {
            Outcome::Value(shown) => self.value(&command.key, shown, out),
            Outcome::Hit(hit) => self.value(&command.key, &hit.shown(), out),
            Outcome::Touched(hit) => self.header(Status::Ok, 0, 4, 4, hit.cas, out, &hit.flags.to_be_bytes()),
            Outcome::Miss | Outcome::NotFound if self.is_read() => self.miss(&command.key, out),
            Outcome::NotFound if self.appends() => self.fail(Status::NotStored, out),
            Outcome::Miss | Outcome::NotFound => self.fail(Status::NotFound, out),
            Outcome::Stored(_) | Outcome::Deleted(_) | Outcome::Number(..) if self.quiet => {}
            Outcome::Stored(kept) | Outcome::Deleted(kept) => {
                self.header(Status::Ok, 0, 0, 0, kept.cas, out, &[]);
            }
            Outcome::Number(number, hit) => {
                self.header(Status::Ok, 0, 0, 8, hit.cas, out, &number.to_be_bytes());
            }
            Outcome::NotStored => self.fail(
                match self.verb {
                    Verb::Store(StoreMode::Add) => Status::Exists,
                    Verb::Store(StoreMode::Replace) => Status::NotFound,
                    _ => Status::NotStored,
                },
                out,
            ),
            Outcome::Exists => self.fail(Status::Exists, out),
            Outcome::NonNumeric => self.fail(Status::NonNumeric, out),
            Outcome::TooLarge => self.fail(Status::TooLarge, out),
            Outcome::OutOfMemory => self.fail(Status::OutOfMemory, out),
        }
    }

    const fn is_read(self) -> bool {
        matches!(self.verb, Verb::Get | Verb::GetAndTouch)
    }

    const fn appends(self) -> bool {
        matches!(self.verb, Verb::Store(StoreMode::Append | StoreMode::Prepend))
    }

    fn value(self, key: &[u8], shown: &Shown<'_>, out: &mut Output) {
        let key = if self.with_key { key } else { b"" };
        let body_len = 4 + key.len() + shown.value.len();
        self.header(Status::Ok, key.len(), 4, body_len, shown.cas, out, &shown.flags.to_be_bytes());
        out.extend(key);
        out.value(&shown.value);
    }

    fn miss(self, key: &[u8], out: &mut Output) {
        if self.quiet {
        } else if self.with_key {
            self.header(Status::NotFound, key.len(), 0, key.len(), 0, out, key);
        } else {
            self.fail(Status::NotFound, out);
        }
    }

    fn fail(self, status: Status, out: &mut Output) {
        self.error(status, status.text(), out);
    }

    /// An error with its text.
    pub(super) fn error(self, status: Status, text: &[u8], out: &mut Output) {
        self.header(status, 0, 0, text.len(), 0, out, text);
    }

    /// A successful answer with key and value.
    pub(super) fn success(self, key: &[u8], value: &[u8], out: &mut Output) {
        self.header(Status::Ok, key.len(), 0, key.len() + value.len(), 0, out, key);
        out.extend(value);
    }

    /// An empty successful answer, unless it is not wanted.
    pub(super) fn done(self, out: &mut Output) {
        if !self.quiet {
            self.success(b"", b"", out);
        }
    }

    /// What a refused store is told once its body was thrown away.
    pub(super) fn store_refusal(self, why: Refusal) -> Vec<u8> {
        let status = match why {
            Refusal::TooLarge => Status::TooLarge,
            Refusal::OutOfMemory => Status::OutOfMemory,
        };
        packet(self.opcode, self.opaque, status)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn header(
        self,
        status: Status,
        key_len: usize,
        extras_len: u8,
        body_len: usize,
        cas: u64,
        out: &mut Output,
        front: &[u8],
    ) {
        out.reserve(HEADER + front.len());
        out.extend(&header(self.opcode, self.opaque, status, key_len, extras_len, body_len, cas));
        out.extend(front);
    }
}

/// The header of an answer. Keys are at most 250 bytes and values well below 4 GiB.
fn header(
    opcode: u8,
    opaque: [u8; 4],
    status: Status,
    key_len: usize,
    extras_len: u8,
    body_len: usize,
    cas: u64,
) -> [u8; HEADER] {
    let [k0, k1] = (key_len as u16).to_be_bytes();
    let [s0, s1] = (status as u16).to_be_bytes();
    let [b0, b1, b2, b3] = (body_len as u32).to_be_bytes();
    let [o0, o1, o2, o3] = opaque;
    let [c0, c1, c2, c3, c4, c5, c6, c7] = cas.to_be_bytes();
    [
        RESPONSE, opcode, k0, k1, extras_len, 0, s0, s1, b0, b1, b2, b3, o0, o1, o2, o3, c0, c1, c2, c3, c4,
        c5, c6, c7,
    ]
}

/// A whole answer that is known while decoding.
fn packet(opcode: u8, opaque: [u8; 4], status: Status) -> Vec<u8> {
    let text = status.text();
    let mut packet = header(opcode, opaque, status, 0, 0, text.len(), 0).to_vec();
    packet.extend_from_slice(text);
    packet
}
