//! The classic text protocol: one line, for stores a data block behind it.
//!
//! A line is understood in one pass over its bytes. memcached's rules hold: words are separated by
//! blanks only, a bare LF ends a line too, words too many are ignored, `noreply` is looked for at the
//! end, and a refused store's data is thrown away if its length could be read.

use std::borrow::Cow;

use super::output::Pen;
use super::words::{self, signed, signed32, split, unsigned};
use super::{Batch, Codec, Decoded, Form as AnyForm, Head, Limits, Output, Session, State, form::Kind, meta};
use crate::command::{
    Arith, Command, Delete, Exptime, Get, Op, Outcome, Payload, ReadKind, Refusal, Refuse, Shown, Store,
    StoreMode, Value,
};

pub(super) const ERROR: &[u8] = b"ERROR\r\n";
pub(super) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
pub(super) const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
pub(super) const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
pub(super) const NO_MEMORY_STORE: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
pub(super) const NON_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory\r\n";
const END: &[u8] = b"END\r\n";

/// Shortest line that can hold a command, with its end.
const LINE_MIN: usize = 4;
/// Longest value a line may announce: what is behind it (CRLF) must fit 31 bits too.
pub(super) const VALUE_MAX: i32 = i32::MAX - 2;

/// How a classic command is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    reply: Reply,
    noreply: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// A value, with its CAS unique if asked for, and `END` behind the last one.
    Items { cas: bool, last: bool },
    /// A word: `STORED` and its like, or a number.
    Word,
}

/// A line of keys: how those that follow are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    cas: bool,
    touch: Option<Exptime>,
    /// Whether a key was there already.
    seen: bool,
}

impl Keys {
    fn command<'b>(self, key: &'b [u8], last: bool) -> (Command<'b>, AnyForm<'b>) {
        let op = match self.touch {
            None => Op::Read,
            touch => Op::Get(Get { kind: ReadKind::GetAndTouch, touch, ..Get::default() }),
        };
        let form = Form { reply: Reply::Items { cas: self.cas, last }, noreply: false };
        (Command { key: Cow::Borrowed(key), op }, AnyForm(Kind::Text(form)))
    }

    pub(super) fn resumption(self) -> Vec<u8> {
        let word = match (self.touch, self.cas) {
            (None, false) => "get",
            (None, true) => "gets",
            (Some(_), false) => "gat",
            (Some(_), true) => "gats",
        };
        self.touch.map_or_else(|| word.into(), |at| format!("{word} {}", at.0)).into_bytes()
    }
}

/// A form for what is done without telling the client.
pub(super) const fn silent<'b>() -> AnyForm<'b> {
    AnyForm(Kind::Text(Form { reply: Reply::Word, noreply: true }))
}

/// Takes requests that are as every client writes them; see [`Codec::take_plain`].
#[inline]
pub(super) fn take_plain<'b>(limits: &Limits, input: &'b [u8], batch: &mut Batch<'b>, most: usize) -> usize {
    let mut rest = input;
    while batch.len() < most {
        let taken = match rest {
            [b'g', b'e', b't', b' ', line @ ..] => plain_get(limits, line, batch),
            [b's', b'e', b't', b' ', line @ ..] => plain_set(limits, line, batch),
            _ => None,
        };
        match taken {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    input.len() - rest.len()
}

/// `<key>` and the end of its line. Answers what follows.
#[inline(always)]
fn plain_get<'b>(limits: &Limits, line: &'b [u8], batch: &mut Batch<'b>) -> Option<&'b [u8]> {
    let (key, end) = line.split_at_checked(words::graphic(line))?;
    let behind = end.strip_prefix(b"\r\n")?;
    if key.is_empty() || key.len() > limits.key_max {
        return None;
    }
    let (command, form) = Keys { cas: false, touch: None, seen: true }.command(key, true);
    batch.push(command, form);
    Some(behind)
}

/// `<key> <flags> <exptime> <bytes>` with the whole value behind it. Answers what follows.
#[inline(always)]
fn plain_set<'b>(limits: &Limits, line: &'b [u8], batch: &mut Batch<'b>) -> Option<&'b [u8]> {
    let (key, numbers) = line.split_at_checked(words::graphic(line))?;
    let ([flags, exptime, value_len], head_len) = words::plain_numbers(numbers)?;
    let (value, end) = numbers.get(head_len..)?.split_at_checked(value_len as usize)?;
    let behind = end.strip_prefix(b"\r\n")?;
    if key.is_empty() || key.len() > limits.key_max || limits.too_large(key.len(), value.len(), flags) {
        return None;
    }
    let exptime = Exptime(i64::from(exptime));
    let (command, form) = store_of(key, StoreMode::Set, (flags, exptime), Payload::Bytes(value), None, false);
    batch.push(command, form);
    Some(behind)
}

/// Takes further keys of a line that has begun, as long as single blanks are between them.
pub(super) fn take_keys<'b>(
    codec: &mut Codec,
    how: Keys,
    input: &'b [u8],
    batch: &mut Batch<'b>,
    most: usize,
) -> usize {
    let mut rest = input;
    while batch.len() < most
        && let [b' ', line @ ..] = rest
        && let Some((key, end)) = line.split_at_checked(words::graphic(line))
        && (1..=codec.limits.key_max).contains(&key.len())
    {
        let (last, behind) = match end {
            [b' ', next, ..] if *next > b' ' => (false, end),
            [b'\r', b'\n', behind @ ..] => (true, behind),
            _ => break,
        };
        let (command, form) = how.command(key, last);
        batch.push(command, form);
        rest = behind;
        if last {
            codec.state = State::Idle;
            break;
        }
        codec.state = State::Keys(Keys { seen: true, ..how });
    }
    input.len() - rest.len()
}

/// Decodes the request whose line begins `input`.
pub(super) fn decode<'b>(codec: &mut Codec, input: &'b [u8]) -> Decoded<'b> {
    let Some(end) = memchr::memchr(b'\n', input) else { return unfinished(codec, input) };
    let used = end + 1;
    let line = match input.get(..end) {
        Some([line @ .., b'\r']) => line,
        Some(line) => line,
        None => return Decoded::Incomplete { more: 1 },
    };
    let (word, rest) = split(line);
    // memcached's command is what comes before the first blank: a leading blank makes it empty.
    if used < LINE_MIN {
        return Decoded::say(BAD_FORMAT, used);
    }
    if line.first() == Some(&b' ') {
        return Decoded::say(ERROR, used);
    }
    match word {
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => {
            let head = classic_head(codec, word, rest);
            codec.store(head, input, used)
        }
        b"mg" | b"ms" | b"md" | b"ma" | b"me" => meta::decode(codec, input, word, rest, used),
        b"mn" => Decoded::say(b"MN\r\n", used),
        // `bget` was memcached's word for a get over UDP; 1.6.18 still takes it.
        b"get" | b"bget" => keys(codec, line, rest, used, Keys { cas: false, touch: None, seen: true }),
        b"gets" => keys(codec, line, rest, used, Keys { cas: true, touch: None, seen: true }),
        b"gat" => touch_keys(codec, line, rest, used, false),
        b"gats" => touch_keys(codec, line, rest, used, true),
        b"delete" => delete(codec, rest, used),
        b"incr" => arithmetic(codec, rest, used, true),
        b"decr" => arithmetic(codec, rest, used, false),
        b"touch" => touch(codec, rest, used),
        _ => session(codec, word, rest, used),
    }
}

/// A line without an end yet: it may grow to the limit, and beyond if it is a line of keys.
fn unfinished<'b>(codec: &mut Codec, input: &'b [u8]) -> Decoded<'b> {
    if input.len() <= codec.limits.line_max {
        return Decoded::Incomplete { more: 1 };
    }
    let start = input.iter().position(|&byte| byte != b' ').unwrap_or(input.len());
    let text = input.get(start..).unwrap_or_default();
    let cas = text.starts_with(b"gets ");
    if start > 100 || !(cas || text.starts_with(b"get ")) {
        return Decoded::Close("a line is too long");
    }
    if start > 0 {
        // No command begins with a blank; but the rest of the line is none either.
        codec.state = State::Line { then: ERROR };
        return Decoded::Skip { used: input.len() };
    }
    codec.state = State::Keys(Keys { cas, touch: None, seen: false });
    Decoded::Skip { used: if cas { 5 } else { 4 } }
}

/// `gat` and `gats`: an exptime before the keys.
fn touch_keys<'b>(codec: &mut Codec, line: &'b [u8], rest: &'b [u8], used: usize, cas: bool) -> Decoded<'b> {
    let (exptime, rest) = split(rest);
    if split(rest).0.is_empty() {
        return Decoded::say(BAD_FORMAT, used);
    }
    let Some(exptime) = signed32(exptime) else { return Decoded::say(BAD_EXPTIME, used) };
    let touch = Some(Exptime(i64::from(exptime)));
    keys(codec, line, rest, used, Keys { cas, touch, seen: true })
}

/// The first key of a line that is whole; `rest` is its end. The others come one by one.
#[inline]
fn keys<'b>(codec: &mut Codec, line: &'b [u8], rest: &'b [u8], used: usize, how: Keys) -> Decoded<'b> {
    let (key, others) = split(rest);
    if key.is_empty() || key.len() > codec.limits.key_max {
        return Decoded::say(BAD_FORMAT, used);
    }
    // One bad key spoils the whole answer, so all are looked at before the first is answered.
    if words::any_longer(others, codec.limits.key_max) {
        return Decoded::say(BAD_FORMAT, used);
    }
    let last = others.iter().all(|&byte| byte == b' ');
    let (command, form) = how.command(key, last);
    if last {
        return Decoded::item(command, form, used);
    }
    codec.state = State::Keys(how);
    Decoded::item(command, form, line.len() - others.len())
}

/// The next key of a line whose beginning was decoded.
pub(super) fn next_key<'b>(codec: &mut Codec, how: Keys, input: &'b [u8]) -> Decoded<'b> {
    let start = input.iter().position(|&byte| byte != b' ').unwrap_or(input.len());
    let text = input.get(start..).unwrap_or_default();
    if text.is_empty() {
        return Decoded::Skip { used: input.len() };
    }
    let Some(len) = memchr::memchr2(b' ', b'\n', text) else {
        // A key may be followed by the CR of its line's end.
        if text.len() <= codec.limits.key_max + 1 {
            return Decoded::Incomplete { more: 1 };
        }
        codec.state = State::Line { then: BAD_FORMAT };
        return Decoded::Skip { used: input.len() };
    };
    let (key, behind) = text.split_at(len);
    let end = start + len;
    let line_ends = behind.first() == Some(&b'\n');
    let key = match key {
        [key @ .., b'\r'] if line_ends => key,
        _ => key,
    };
    if key.is_empty() {
        codec.state = State::Idle;
        return Decoded::say(if how.seen { END } else { BAD_FORMAT }, end + 1);
    }
    if key.len() > codec.limits.key_max {
        if line_ends {
            codec.state = State::Idle;
            return Decoded::say(BAD_FORMAT, end + 1);
        }
        codec.state = State::Line { then: BAD_FORMAT };
        return Decoded::Skip { used: end };
    }
    // It is the last one if nothing but blanks comes before the line's end. Within reason that is
    // waited for, because the last one's form ends the answer, whatever becomes of it.
    let blanks = behind.iter().position(|&byte| byte != b' ').unwrap_or(behind.len());
    let line_end = match behind.get(blanks..) {
        Some([b'\n', ..]) => 1,
        Some([b'\r', b'\n', ..]) => 2,
        Some([] | [b'\r']) if blanks < codec.limits.line_max => return Decoded::Incomplete { more: 1 },
        _ => 0,
    };
    let last = line_end != 0;
    let (command, form) = how.command(key, last);
    codec.state = if last { State::Idle } else { State::Keys(Keys { seen: true, ..how }) };
    Decoded::item(command, form, if last { end + blanks + line_end } else { end })
}

/// The head of a large store again, for [`Codec::finish_body`].
pub(super) fn head<'b>(codec: &Codec, head: &'b [u8]) -> Head<'b> {
    let line = match head {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
        _ => head,
    };
    let (word, rest) = split(line);
    if word == b"ms" { meta::store_head(codec, rest) } else { classic_head(codec, word, rest) }
}

/// `set` and its like: `<key> <flags> <exptime> <bytes> [<cas unique>] [noreply]`.
fn classic_head<'b>(codec: &Codec, word: &[u8], rest: &'b [u8]) -> Head<'b> {
    let (key, rest) = split(rest);
    let (flags, rest) = split(rest);
    let (exptime, rest) = split(rest);
    let (bytes, rest) = split(rest);
    let noreply = if rest.is_empty() { bytes == b"noreply" } else { words::last(rest) == b"noreply" };
    let Some(value_len) = signed32(bytes).filter(|len| (0..=VALUE_MAX).contains(len)) else {
        return Head::Bad(if noreply { b"" } else { BAD_FORMAT });
    };
    let value_len = value_len as usize;
    let refused = |line: &'static [u8], store| Head::Refused {
        store,
        then: Cow::Borrowed(if noreply { b"" } else { line }),
        body_len: value_len as u64 + 2,
    };
    let compare = if word == b"cas" {
        let Some(unique) = unsigned(split(rest).0) else { return refused(BAD_FORMAT, None) };
        Some(unique)
    } else {
        None
    };
    // Both are wider on the line than in the item: memcached cuts them.
    let (Some(flags), Some(exptime)) = (unsigned(flags), signed(exptime)) else {
        return refused(BAD_FORMAT, None);
    };
    let (flags, exptime) = (flags as u32, i64::from(exptime as i32));
    if key.len() > codec.limits.key_max {
        return refused(BAD_FORMAT, None);
    }
    let mode = match word {
        b"add" => StoreMode::Add,
        b"replace" => StoreMode::Replace,
        b"append" => StoreMode::Append,
        b"prepend" => StoreMode::Prepend,
        _ => StoreMode::Set,
    };
    if codec.limits.too_large(key.len(), value_len, flags) {
        let refuse =
            Refuse { why: Refusal::TooLarge, mode, compares: compare.is_some(), drops: word == b"set" };
        return refused(TOO_LARGE, Some(Command { key: Cow::Borrowed(key), op: Op::Refuse(refuse) }));
    }
    // The value comes later.
    let value = Payload::Bytes(&[]);
    let (command, form) = store_of(key, mode, (flags, Exptime(exptime)), value, compare, noreply);
    Head::Store { command, form, value_len }
}

/// A good store.
#[inline]
fn store_of<'b>(
    key: &'b [u8],
    mode: StoreMode,
    (flags, exptime): (u32, Exptime),
    value: Payload<'b>,
    compare: Option<u64>,
    noreply: bool,
) -> (Command<'b>, AnyForm<'b>) {
    let store = Store {
        mode,
        flags,
        exptime,
        value,
        compare,
        invalidate: false,
        vivify: None,
        explicit: None,
        binary_key: false,
    };
    let form = AnyForm(Kind::Text(Form { reply: Reply::Word, noreply }));
    (Command { key: Cow::Borrowed(key), op: Op::Store(store) }, form)
}

/// What becomes of a store that is refused. Plain sets, as in memcached, and every `ms` drop what they
/// would have replaced.
pub(super) fn refusal<'b>(command: &Command<'b>, form: &AnyForm<'_>, why: Refusal) -> Option<Command<'b>> {
    let drops = match (&command.op, &form.0) {
        (_, Kind::Meta(_)) => true,
        (Op::Store(store), Kind::Text(_)) => store.mode == StoreMode::Set && store.compare.is_none(),
        (Op::Store(store), Kind::Binary(_)) => store.mode == StoreMode::Set,
        _ => false,
    };
    let Op::Store(Store { mode, compare, .. }) = command.op else { return None };
    let refuse = Refuse { why, mode, compares: compare.is_some(), drops };
    Some(Command { key: command.key.clone(), op: Op::Refuse(refuse) })
}

/// `<key> [0] [noreply]`.
fn delete<'b>(codec: &Codec, rest: &'b [u8], used: usize) -> Decoded<'b> {
    let (key, rest) = split(rest);
    if key.is_empty() {
        return Decoded::say(BAD_FORMAT, used);
    }
    let noreply = noreply(rest);
    if key.len() > codec.limits.key_max {
        return say_unless(noreply, BAD_FORMAT, used);
    }
    if !rest.is_empty() && words::count(rest) > 2 {
        // More than any client means: older servers and conformance tools refuse it.
        return say_unless(noreply, ERROR, used);
    }
    word_command(key, Op::Delete(Delete::default()), noreply, used)
}

/// `<key> <delta> [noreply]`.
fn arithmetic<'b>(codec: &Codec, rest: &'b [u8], used: usize, increment: bool) -> Decoded<'b> {
    let (key, rest) = split(rest);
    let (delta, rest) = split(rest);
    if delta.is_empty() {
        return Decoded::say(BAD_FORMAT, used);
    }
    // In the place of the delta `noreply` counts as both.
    let noreply = noreply(rest) || (delta == b"noreply" && split(rest).0.is_empty());
    if key.len() > codec.limits.key_max {
        return say_unless(noreply, BAD_FORMAT, used);
    }
    let Some(delta) = unsigned(delta) else { return say_unless(noreply, BAD_DELTA, used) };
    let arith = Arith {
        increment,
        delta,
        initial: None,
        compare: None,
        touch: None,
        explicit: None,
        binary_key: false,
    };
    word_command(key, Op::Arith(arith), noreply, used)
}

/// `<key> <exptime> [noreply]`.
fn touch<'b>(codec: &Codec, rest: &'b [u8], used: usize) -> Decoded<'b> {
    let (key, rest) = split(rest);
    let (exptime, rest) = split(rest);
    if exptime.is_empty() {
        return Decoded::say(BAD_FORMAT, used);
    }
    let noreply = noreply(rest) || (exptime == b"noreply" && split(rest).0.is_empty());
    if key.len() > codec.limits.key_max {
        return say_unless(noreply, BAD_FORMAT, used);
    }
    let Some(exptime) = signed32(exptime) else { return say_unless(noreply, BAD_EXPTIME, used) };
    word_command(key, Op::Touch(Exptime(i64::from(exptime))), noreply, used)
}

/// Whether the words behind a command's arguments end in `noreply`.
#[inline]
fn noreply(rest: &[u8]) -> bool {
    !rest.is_empty() && words::last(rest) == b"noreply"
}

fn word_command<'b>(key: &'b [u8], op: Op<'b>, noreply: bool, used: usize) -> Decoded<'b> {
    let form = AnyForm(Kind::Text(Form { reply: Reply::Word, noreply }));
    Decoded::item(Command { key: Cow::Borrowed(key), op }, form, used)
}

fn say_unless<'b>(noreply: bool, line: &'static [u8], used: usize) -> Decoded<'b> {
    Decoded::say(if noreply { b"" } else { line }, used)
}

/// Commands that are not about an item.
#[cold]
fn session<'b>(codec: &Codec, word: &[u8], rest: &'b [u8], used: usize) -> Decoded<'b> {
    let all = words::trim(rest);
    let noreply = words::last(all) == b"noreply";
    // The arguments without `noreply`.
    let arguments =
        if noreply { words::trim(all.get(..all.len() - b"noreply".len()).unwrap_or_default()) } else { all };
    let (first, _) = split(arguments);
    let (what, noreply) = match word {
        b"version" => (Session::Version, false),
        b"quit" => (Session::Quit, false),
        b"stats" => (Session::Stats(all), false),
        b"watch" => (Session::Watch(all), false),
        b"flush_all" if !codec.limits.flush_enabled => (Session::FlushForbidden, noreply),
        b"flush_all" if first.is_empty() => (Session::FlushAll(None), noreply),
        b"flush_all" => match signed32(first) {
            Some(delay) => (Session::FlushAll(Some(Exptime(i64::from(delay)))), noreply),
            None => return say_unless(noreply, BAD_EXPTIME, used),
        },
        b"verbosity" => match unsigned(first) {
            // At most 2, so it fits.
            Some(level) => (Session::Verbosity(level.min(2) as u8), noreply),
            None => return say_unless(noreply, BAD_FORMAT, used),
        },
        b"cache_memlimit" => match unsigned(first) {
            Some(0..8) => {
                let line = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n";
                return say_unless(noreply, line, used);
            }
            Some(megabytes @ 8..=1_000_000_000) => (Session::CacheMemlimit(megabytes), noreply),
            Some(_) => {
                let line = b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n";
                return say_unless(noreply, line, used);
            }
            None => return say_unless(noreply, ERROR, used),
        },
        b"shutdown" if !codec.limits.shutdown_enabled => {
            return Decoded::say(b"SERVER_ERROR: shutdown not enabled\r\n", used);
        }
        b"shutdown" => match all {
            b"" => (Session::Shutdown(false), false),
            b"graceful" => (Session::Shutdown(true), false),
            _ => return Decoded::say(b"CLIENT_ERROR invalid shutdown mode\r\n", used),
        },
        b"lru_crawler" => (Session::LruCrawler(arguments), noreply),
        b"slabs" => (Session::Slabs(arguments), noreply),
        b"lru" => (Session::Lru(arguments), noreply),
        b"refresh_certs" => (Session::RefreshCerts, noreply),
        _ if words::last(all).starts_with(b"HTTP/") => return Decoded::Close("an HTTP request"),
        _ => return Decoded::say(ERROR, used),
    };
    Decoded::session(what, AnyForm(Kind::Text(Form { reply: Reply::Word, noreply })), used)
}

impl Form {
    pub(super) const fn replies(self) -> bool {
        !self.noreply
    }

    /// Whether an error may be said here: a multiget that fails says so once, at its end.
    pub(super) const fn may_fail(self) -> bool {
        !self.noreply && !matches!(self.reply, Reply::Items { last: false, .. })
    }

    #[inline]
    pub(super) fn render(self, command: &Command<'_>, outcome: Outcome<'_>, out: &mut Output) {
        if self.noreply {
            return;
        }
        if let Reply::Items { cas, last } = self.reply {
            let shown = match outcome {
                Outcome::Value(shown) => shown,
                Outcome::Hit(hit) => hit.shown(),
                _ if last => return out.extend(END),
                _ => return,
            };
            return value(&command.key, &shown, cas, last, out);
        }
        let line: &[u8] = match outcome {
            // Of a length that is known here.
            Outcome::Stored(_) => return out.extend(b"STORED\r\n"),
            Outcome::NotStored => b"NOT_STORED\r\n",
            Outcome::Exists => b"EXISTS\r\n",
            Outcome::NotFound | Outcome::Miss => b"NOT_FOUND\r\n",
            Outcome::Deleted(_) => b"DELETED\r\n",
            Outcome::Touched(_) | Outcome::Value(_) | Outcome::Hit(_) => b"TOUCHED\r\n",
            Outcome::Number(number, _) => {
                out.number(number);
                b"\r\n"
            }
            Outcome::NonNumeric => NON_NUMERIC,
            Outcome::TooLarge => TOO_LARGE,
            Outcome::OutOfMemory if matches!(command.op, Op::Arith(_)) => NO_MEMORY,
            Outcome::OutOfMemory => NO_MEMORY_STORE,
        };
        out.extend(line);
    }
}

/// `VALUE <key> <flags> <bytes> [<cas unique>]`, the data block, and `END` behind the last one.
#[inline]
fn value(key: &[u8], shown: &Shown<'_>, cas: bool, last: bool, out: &mut Output) {
    const LINE_END: &[u8] = b"\r\n";
    const LAST_END: &[u8] = b"\r\nEND\r\n";
    match shown.value {
        Value::Inline(value) => {
            let mut pen = out.pen(VALUE_LINE_MAX + key.len() + value.len() + LAST_END.len());
            value_line(key, shown, value.len(), cas, &mut pen);
            pen.put(value);
            // Of a length each that is known here.
            if last { pen.put(LAST_END) } else { pen.put(LINE_END) }
        }
        Value::Pages(pages) => {
            value_line(key, shown, pages.len(), cas, &mut out.pen(VALUE_LINE_MAX + key.len()));
            out.pages(pages);
            out.extend(if last { LAST_END } else { LINE_END });
        }
    }
}

/// Numbers of at most 10, 10 and 20 digits, and what is around.
const VALUE_LINE_MAX: usize = 56;

#[inline(always)]
fn value_line(key: &[u8], shown: &Shown<'_>, len: usize, cas: bool, pen: &mut Pen<'_>) {
    pen.put(b"VALUE ");
    pen.put(key);
    // As most lines end.
    if shown.flags == 0 && !cas && pen.zero_and_number(len as u64) {
        return;
    }
    if shown.flags == 0 {
        pen.put(b" 0 ");
    } else {
        pen.put(b" ");
        pen.number(u64::from(shown.flags));
        pen.put(b" ");
    }
    pen.number(len as u64);
    if cas {
        pen.put(b" ");
        pen.number(shown.cas);
    }
    pen.put(b"\r\n");
}
