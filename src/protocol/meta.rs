//! The meta protocol: `mg ms md ma me`, each with one-letter flags that are answered in their order.
//!
//! Flags are read twice: once to understand the command (and to refuse it before anything happens),
//! once more while the answer is written, because the answer repeats them in the client's order. So
//! the form carries the words as they came and no list is built.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::text::{BAD_FORMAT, NO_MEMORY_STORE, NON_NUMERIC, TOO_LARGE, VALUE_MAX};
use super::words::{count, signed32, split, unsigned};
use super::{Codec, Decoded, Form as AnyForm, Head, Output, form::Kind};
use crate::command::{
    Arith, Command, Deadline, Delete, Exptime, Get, Hit, Now, Op, Outcome, Payload, ReadKind, Refusal,
    Refuse, Store, StoreMode,
};

const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
const INVALID_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
const DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
const INVALID_OR_DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
const BAD_KEY: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
const TOO_MANY: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
const LONG_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";
const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
const BAD_MODE_LENGTH: &[u8] = b"CLIENT_ERROR incorrect length for M token\r\n";
const BAD_STORE_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_ARITH_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";
const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory\r\n";

/// Most words of a line, command and key among them.
const WORDS_MAX: usize = 20;
/// Longest opaque word, its letter included.
const OPAQUE_MAX: usize = 32;
/// Largest base64 text of a key.
const KEY_TEXT_MAX: usize = 344;

/// How a meta command is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'b> {
    command: Verb,
    /// The words behind the key (and the length).
    flags: &'b [u8],
    /// `q`: the expected outcome is not worth an answer.
    quiet: bool,
    /// `v`: with the value.
    value: bool,
    /// `C`: `mg` leaves out a value that the client has.
    compare: bool,
    /// `b`: the key came in base64.
    binary_key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Store,
    Delete,
    Arith,
    Debug,
}

/// What the flags of a command say.
#[derive(Default)]
struct Flags {
    binary_key: bool,
    no_bump: bool,
    quiet: bool,
    value: bool,
    drop_value: bool,
    invalidate: bool,
    /// `N`.
    vivify: Option<Exptime>,
    /// When an item that `N` makes dies: `T` behind it has the last word.
    vivified: Option<Exptime>,
    touch: Option<Exptime>,
    recache: Option<i64>,
    /// T stood before R.
    recache_after_touch: bool,
    client_flags: u32,
    compare: Option<u64>,
    explicit: Option<u64>,
    mode: Option<u8>,
    initial: u64,
    delta: Option<u64>,
}

impl Flags {
    /// Reads the words behind the key. `before` is how many words came so far. A wrong word does not
    /// hide a later unknown or repeated one, as in memcached.
    fn read(&mut self, mut line: &[u8], before: usize) -> Result<(), &'static [u8]> {
        let mut seen = 0u128;
        if before + count(line) > WORDS_MAX {
            return Err(TOO_MANY);
        }
        let mut wrong = None;
        let mut long_opaque = false;
        loop {
            let (word, rest) = split(line);
            line = rest;
            let Some((&letter, token)) = word.split_first() else { break };
            if letter >= 127 {
                return Err(BAD_FORMAT);
            }
            if seen & (1 << letter) != 0 {
                return Err(DUPLICATE_FLAG);
            }
            seen |= 1 << letter;
            long_opaque |= letter == b'O' && word.len() > OPAQUE_MAX;
            if let Err(line) = self.set(letter, token) {
                if line == INVALID_FLAG {
                    return Err(line);
                }
                wrong = Some(line);
            }
        }
        match wrong {
            Some(line) => Err(line),
            None if long_opaque => Err(LONG_OPAQUE),
            None => Ok(()),
        }
    }

    fn set(&mut self, letter: u8, token: &[u8]) -> Result<(), &'static [u8]> {
        let exptime = || signed32(token).map(|at| Exptime(i64::from(at))).ok_or(BAD_TOKEN);
        match letter {
            b'b' => self.binary_key = true,
            b'u' => self.no_bump = true,
            b'q' => self.quiet = true,
            b'v' => self.value = true,
            b'x' => self.drop_value = true,
            b'I' => self.invalidate = true,
            b'N' => {
                self.vivify = Some(exptime()?);
                self.vivified = self.vivify;
            }
            b'T' => {
                self.touch = Some(exptime()?);
                self.vivified = self.vivified.and(self.touch);
            }
            b'R' => {
                self.recache = Some(exptime()?.0);
                self.recache_after_touch = self.touch.is_some();
            }
            b'F' => self.client_flags = unsigned(token).ok_or(BAD_FORMAT)? as u32,
            b'C' => self.compare = Some(unsigned(token).ok_or(BAD_TOKEN)?),
            b'E' => self.explicit = Some(unsigned(token).ok_or(BAD_TOKEN)?),
            b'J' => self.initial = unsigned(token).ok_or(BAD_INITIAL)?,
            b'D' => self.delta = Some(unsigned(token).ok_or(BAD_DELTA)?),
            b'M' => {
                let &[mode] = token else { return Err(BAD_MODE_LENGTH) };
                self.mode = Some(mode);
            }
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'l' => {}
            _ => return Err(INVALID_FLAG),
        }
        Ok(())
    }
}

/// The key as it is stored.
fn key(word: &[u8], binary: bool) -> Option<Cow<'_, [u8]>> {
    if !binary {
        return Some(Cow::Borrowed(word));
    }
    // An empty key would be one that nothing can name.
    BASE64.decode(word).ok().filter(|key| !key.is_empty()).map(Cow::Owned)
}

/// Decodes a meta command; `rest` is what follows its name, `used` the length of its line.
pub(super) fn decode<'b>(
    codec: &mut Codec,
    input: &'b [u8],
    name: &[u8],
    rest: &'b [u8],
    used: usize,
) -> Decoded<'b> {
    if name == b"ms" {
        let head = store_head(codec, rest);
        return codec.store(head, input, used);
    }
    let (word, words) = split(rest);
    if word.is_empty() || word.len() > codec.limits.key_max {
        return Decoded::say(BAD_FORMAT, used);
    }
    if name == b"me" {
        return debug(word, words, used);
    }
    let mut flags = Flags::default();
    match flags.read(words, 2) {
        Ok(()) => {}
        Err(line) if name == b"mg" || line == TOO_MANY || line == LONG_OPAQUE => {
            return Decoded::say(line, used);
        }
        Err(_) => return Decoded::say(INVALID_OR_DUPLICATE_FLAG, used),
    }
    let Some(key) = key(word, flags.binary_key) else {
        return Decoded::say(if name == b"mg" { BAD_KEY } else { INVALID_OR_DUPLICATE_FLAG }, used);
    };
    let (command, op) = match name {
        b"mg" => (Verb::Get, read(&flags)),
        b"md" => (Verb::Delete, delete(&flags)),
        _ => match arithmetic(&flags) {
            Some(op) => (Verb::Arith, op),
            None => return Decoded::say(BAD_ARITH_MODE, used),
        },
    };
    Decoded::item(Command { key, op }, form(command, words, &flags), used)
}

fn form<'b>(command: Verb, words: &'b [u8], flags: &Flags) -> AnyForm<'b> {
    AnyForm(Kind::Meta(Form {
        command,
        flags: words,
        quiet: flags.quiet,
        value: flags.value,
        compare: flags.compare.is_some(),
        binary_key: flags.binary_key,
    }))
}

fn read<'b>(flags: &Flags) -> Op<'b> {
    Op::Get(Get {
        kind: ReadKind::Meta,
        touch: flags.touch,
        vivify: flags.vivified,
        recache: flags.recache,
        recache_after_touch: flags.recache_after_touch,
        explicit: flags.explicit,
        binary_key: flags.binary_key,
        no_bump: flags.no_bump,
    })
}

fn delete<'b>(flags: &Flags) -> Op<'b> {
    Op::Delete(Delete {
        compare: flags.compare,
        invalidate: flags.invalidate,
        touch: flags.touch,
        drop_value: flags.drop_value,
        explicit: flags.explicit,
    })
}

fn arithmetic<'b>(flags: &Flags) -> Option<Op<'b>> {
    let increment = match flags.mode {
        None | Some(b'I' | b'+') => true,
        Some(b'D' | b'-') => false,
        Some(_) => return None,
    };
    Some(Op::Arith(Arith {
        increment,
        delta: flags.delta.unwrap_or(1),
        initial: flags.vivified.map(|exptime| (flags.initial, exptime)),
        compare: flags.compare,
        touch: flags.touch,
        explicit: flags.explicit,
        binary_key: flags.binary_key,
    }))
}

/// `me <key> [b]`: other words are ignored.
fn debug<'b>(word: &'b [u8], words: &'b [u8], used: usize) -> Decoded<'b> {
    let flags = Flags { binary_key: split(words).0 == b"b", ..Flags::default() };
    let Some(key) = key(word, flags.binary_key) else { return Decoded::say(BAD_FORMAT, used) };
    Decoded::item(Command { key, op: Op::Inspect }, form(Verb::Debug, words, &flags), used)
}

/// `ms <key> <bytes> <flags>*`.
pub(super) fn store_head<'b>(codec: &Codec, rest: &'b [u8]) -> Head<'b> {
    let (word, rest) = split(rest);
    let (bytes, words) = split(rest);
    let Some(value_len) = signed32(bytes).filter(|len| (0..=VALUE_MAX).contains(len)) else {
        return Head::Bad(BAD_FORMAT);
    };
    let value_len = value_len as usize;
    let refused =
        |line, store| Head::Refused { store, then: Cow::Borrowed(line), body_len: value_len as u64 + 2 };
    if word.len() > codec.limits.key_max {
        return refused(BAD_FORMAT, None);
    }
    let mut flags = Flags::default();
    if let Err(line) = flags.read(words, 3) {
        return refused(line, None);
    }
    let mode = match flags.mode {
        None | Some(b'S') => StoreMode::Set,
        Some(b'E') => StoreMode::Add,
        Some(b'A') => StoreMode::Append,
        Some(b'P') => StoreMode::Prepend,
        Some(b'R') => StoreMode::Replace,
        Some(_) => return refused(BAD_STORE_MODE, None),
    };
    let Some(key) = key(word, flags.binary_key) else { return refused(BAD_KEY, None) };
    let compare = if mode == StoreMode::Add { None } else { flags.compare };
    if codec.limits.too_large(key.len(), value_len, flags.client_flags) {
        let refuse = Refuse { why: Refusal::TooLarge, mode, compares: compare.is_some(), drops: true };
        return refused(TOO_LARGE, Some(Command { key, op: Op::Refuse(refuse) }));
    }
    let appends = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    // A compare says already that the item must be there.
    let mode = if compare.is_some() && mode == StoreMode::Replace { StoreMode::Set } else { mode };
    let store = Store {
        mode,
        flags: flags.client_flags,
        exptime: flags.touch.unwrap_or_default(),
        value: Payload::Bytes(&[]),
        compare,
        invalidate: flags.invalidate && compare.is_some() && !appends,
        vivify: flags.vivify.filter(|_| appends),
        explicit: flags.explicit,
        binary_key: flags.binary_key,
    };
    Head::Store {
        command: Command { key, op: Op::Store(store) },
        form: form(Verb::Store, words, &flags),
        value_len,
    }
}

impl Form<'_> {
    /// Quiet commands still hear what they do not expect.
    #[expect(clippy::unused_self, reason = "the three protocols' forms answer the same questions")]
    pub(super) const fn replies(&self) -> bool {
        true
    }

    pub(super) fn render(&self, command: &Command<'_>, outcome: &Outcome<'_>, now: Now, out: &mut Output) {
        match outcome {
            Outcome::Hit(hit) if self.command == Verb::Debug => debug_line(command, hit, now, out),
            Outcome::Hit(hit) => self.hit(command, hit, now, out),
            Outcome::Miss if self.command == Verb::Debug => out.extend(b"EN\r\n"),
            Outcome::Miss if self.quiet => {}
            Outcome::Miss => self.status(b"EN", command, None, out),
            Outcome::Stored(_) | Outcome::Deleted(_) | Outcome::Touched(_) if self.quiet => {}
            Outcome::Stored(kept) => self.status(b"HD", command, Some((kept.cas, kept.len)), out),
            Outcome::Deleted(_) | Outcome::Touched(_) | Outcome::Value(_) => {
                self.status(b"HD", command, None, out);
            }
            // A number that had to be made is worth an answer even so.
            Outcome::Number(_, hit) if self.quiet && !hit.created => {}
            Outcome::Number(number, hit) => self.number(command, *number, hit, now, out),
            Outcome::NotStored => self.failure(b"NS", command, out),
            Outcome::Exists => self.failure(b"EX", command, out),
            // With or without `C`, there is nothing to append to.
            Outcome::NotFound if appends(command) => self.failure(b"NS", command, out),
            Outcome::NotFound => self.failure(b"NF", command, out),
            Outcome::NonNumeric => out.extend(NON_NUMERIC),
            Outcome::TooLarge => out.extend(TOO_LARGE),
            Outcome::OutOfMemory if self.command == Verb::Store => out.extend(NO_MEMORY_STORE),
            Outcome::OutOfMemory => out.extend(NO_MEMORY),
        }
    }

    /// `VA <bytes> <flags>*` and the data block, or `HD <flags>*`.
    fn hit(&self, command: &Command<'_>, hit: &Hit<'_>, now: Now, out: &mut Output) {
        let value = self.value && !(self.compare && self.has(hit.cas));
        out.reserve(64 + self.flags.len() + command.key.len() * 2);
        if value {
            out.extend(b"VA ");
            out.number(hit.value.len() as u64);
        } else {
            out.extend(b"HD");
        }
        // Deadlines are told as they are at that point of the line: `t T30` is not `T30 t`.
        let mut deadline = first_deadline(hit);
        self.each(|letter, word| match letter {
            b'T' => deadline = hit.deadline_after,
            b'N' if hit.created => deadline = hit.deadline_after,
            b's' => labelled(b's', hit.value.len() as u64, out),
            b't' => ttl(deadline, now, out),
            b'c' => labelled(b'c', hit.cas, out),
            b'f' => labelled(b'f', u64::from(hit.flags), out),
            b'l' => labelled(b'l', u64::from(hit.idle_secs), out),
            b'h' => labelled(b'h', u64::from(hit.fetched), out),
            b'O' => opaque(word, out),
            b'k' => key_flag(&command.key, hit.binary_key, out),
            _ => {}
        });
        if hit.win_sent {
            out.extend(b" Z");
        }
        if hit.stale {
            out.extend(b" X");
        }
        if hit.won {
            out.extend(b" W");
        }
        out.extend(b"\r\n");
        if value {
            out.value(&hit.value);
            out.extend(b"\r\n");
        }
    }

    /// A store or delete that was not done. A store still shows what it was asked to.
    fn failure(&self, code: &[u8], command: &Command<'_>, out: &mut Output) {
        let kept = match &command.op {
            Op::Store(store) => Some((0, store.value.len())),
            _ => None,
        };
        self.status(code, command, kept, out);
    }

    /// A code with the flags that any command can answer; `kept` is a store's CAS unique and size.
    fn status(&self, code: &[u8], command: &Command<'_>, kept: Option<(u64, usize)>, out: &mut Output) {
        out.extend(code);
        self.each(|letter, word| match (letter, kept) {
            (b'O', _) => opaque(word, out),
            (b'k', _) => key_flag(&command.key, self.binary_key, out),
            (b'c', Some((cas, _))) => labelled(b'c', cas, out),
            (b's', Some((_, len))) => labelled(b's', len as u64, out),
            _ => {}
        });
        out.extend(b"\r\n");
    }

    /// The answer of `ma`.
    fn number(&self, command: &Command<'_>, number: u64, hit: &Hit<'_>, now: Now, out: &mut Output) {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(number).as_bytes();
        if self.value {
            out.extend(b"VA ");
            out.number(text.len() as u64);
        } else {
            out.extend(b"HD");
        }
        let mut deadline = first_deadline(hit);
        self.each(|letter, word| match letter {
            b'T' => deadline = hit.deadline_after,
            b'N' if hit.created => deadline = hit.deadline_after,
            b't' => ttl(deadline, now, out),
            b'c' => labelled(b'c', hit.cas, out),
            b'O' => opaque(word, out),
            b'k' => key_flag(&command.key, self.binary_key, out),
            _ => {}
        });
        out.extend(b"\r\n");
        if self.value {
            out.extend(text);
            out.extend(b"\r\n");
        }
    }

    /// Calls `visit` with the letter and the whole word of each flag, in the client's order.
    fn each(&self, mut visit: impl FnMut(u8, &[u8])) {
        let mut line = self.flags;
        loop {
            let (word, rest) = split(line);
            let Some(&letter) = word.first() else { return };
            visit(letter, word);
            line = rest;
        }
    }

    /// Whether `C` names this CAS unique.
    fn has(&self, cas: u64) -> bool {
        let mut same = false;
        self.each(|letter, word| {
            if letter == b'C' {
                same = unsigned(word.get(1..).unwrap_or_default()) == Some(cas);
            }
        });
        same
    }
}

const fn appends(command: &Command<'_>) -> bool {
    matches!(&command.op, Op::Store(Store { mode: StoreMode::Append | StoreMode::Prepend, .. }))
}

/// The deadline at the beginning of the line: `N` and `T` have not been read yet.
const fn first_deadline(hit: &Hit<'_>) -> Deadline {
    if hit.created { Deadline::NEVER } else { hit.deadline }
}

/// ` <letter><number>`.
#[inline]
fn labelled(letter: u8, number: u64, out: &mut Output) {
    out.extend(&[b' ', letter]);
    out.number(number);
}

/// ` t<seconds>`, or ` t-1` for an item that does not die.
fn ttl(deadline: Deadline, now: Now, out: &mut Output) {
    match deadline.left(now) {
        Some(left) => labelled(b't', u64::from(left), out),
        None => out.extend(b" t-1"),
    }
}

/// ` O<token>`, as it came.
fn opaque(word: &[u8], out: &mut Output) {
    out.extend(b" ");
    out.extend(word);
}

/// ` k<key>`, or ` k<base64> b`.
fn key_flag(key: &[u8], binary: bool, out: &mut Output) {
    out.extend(b" k");
    if binary {
        key_text(key, out);
        out.extend(b" b");
    } else {
        out.extend(key);
    }
}

fn key_text(key: &[u8], out: &mut Output) {
    let mut buffer = [0; KEY_TEXT_MAX];
    // A key has at most 250 bytes, for which the buffer is long enough.
    let len = BASE64.encode_slice(key, &mut buffer).unwrap_or(0);
    out.extend(buffer.get(..len).unwrap_or_default());
}

/// `ME <key> exp=.. la=.. cas=.. fetch=.. cls=.. size=..`.
fn debug_line(command: &Command<'_>, hit: &Hit<'_>, now: Now, out: &mut Output) {
    out.extend(b"ME ");
    if hit.binary_key {
        key_text(&command.key, out);
    } else {
        out.extend(&command.key);
    }
    out.extend(b" exp=");
    // memcached subtracts the wrong way round, and tools know it: seconds left are negative.
    match hit.deadline.left(now) {
        Some(0) => out.extend(b"0"),
        Some(left) => {
            out.extend(b"-");
            out.number(u64::from(left));
        }
        None => out.extend(b"-1"),
    }
    for (name, number) in [(" la=", u64::from(hit.idle_secs)), (" cas=", hit.cas)] {
        out.extend(name.as_bytes());
        out.number(number);
    }
    out.extend(if hit.fetched { b" fetch=yes" } else { b" fetch=no" });
    for (name, number) in [(" cls=", u64::from(hit.class)), (" size=", hit.size as u64)] {
        out.extend(name.as_bytes());
        out.number(number);
    }
    out.extend(b"\r\n");
}
