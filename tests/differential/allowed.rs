//! The written list of what may differ between memcached 1.6.18 (Debian's, the reference) and Tandem.
//!
//! Tandem answers as 1.6.45 does, and a few texts changed between the two. Each entry says which
//! commands it is about, what the answer becomes, and why. A command that an entry is about travels
//! alone, so that nothing else hides behind it; its answer is then compared as strictly as any other,
//! against what the entry makes of the reference's.

use base64::Engine as _;

use crate::exchange::Answer;

/// One allowed difference.
#[derive(Debug)]
pub(crate) struct Allowed {
    /// What it is about.
    pub(crate) what: &'static str,
    /// Why Tandem differs.
    pub(crate) why: &'static str,
    /// Whether it is about this command.
    applies: fn(&Line<'_>) -> bool,
    /// What Tandem has to answer, given the reference's answer.
    becomes: fn(&Line<'_>, &[u8]) -> Vec<u8>,
}

/// The first line of a text command, in words.
pub(crate) struct Line<'a> {
    bytes: &'a [u8],
    words: Vec<&'a [u8]>,
    /// What follows the line.
    body: &'a [u8],
}

impl<'a> Line<'a> {
    fn new(command: &'a [u8]) -> Self {
        let end = command.iter().position(|byte| *byte == b'\n').unwrap_or(command.len());
        let (line, body) = (&command[..end], command.get(end + 1..).unwrap_or_default());
        let bytes = line.strip_suffix(b"\r").unwrap_or(line);
        Self {
            bytes,
            words: bytes.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect(),
            body,
        }
    }

    fn is(&self, names: &[&str]) -> bool {
        self.words.first().is_some_and(|word| names.iter().any(|name| name.as_bytes() == *word))
    }

    /// What is left of the body behind a value that does not end where its line says.
    fn left_over(&self) -> Option<&'a [u8]> {
        let length = if self.is(&STORES) {
            self.words.get(4)?
        } else if self.is(&["ms"]) {
            self.words.get(2)?
        } else {
            return None;
        };
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        let end = self.body.get(length..length.checked_add(2)?)?;
        if end == b"\r\n" || refuses_store(self) || lacks_arguments(self) {
            None
        } else {
            self.body.get(length + 2..)
        }
    }

    fn ends_with_noreply(&self) -> bool {
        self.words.len() > 1 && self.words.last() == Some(&b"noreply".as_slice())
    }
}

const FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";

/// The commands with a value, in classic text.
const STORES: [&str; 6] = ["set", "add", "replace", "append", "prepend", "cas"];

/// The list.
pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        what: "a line that begins with a blank",
        why: "1.6.45 looks at the first byte to find the command; 1.6.18 skipped blanks",
        applies: |line| line.bytes.starts_with(b" ") && !line.words.is_empty(),
        becomes: |line, answer| {
            if line.bytes.len() < 2 { FORMAT.to_vec() } else { error_for_each_line(answer) }
        },
    },
    Allowed {
        what: "a line too short to be a command",
        why: "1.6.45 refuses fewer than four bytes, line end included, as bad format; 1.6.18 as unknown",
        applies: |line| line.bytes.len() < 2,
        becomes: |_, answer| swap_errors(answer),
    },
    Allowed {
        what: "a command without its arguments",
        why: "1.6.45 answers bad format where 1.6.18 answered ERROR",
        applies: lacks_arguments,
        becomes: |line, answer| {
            if line.is(&["gat", "gats"]) { FORMAT.to_vec() } else { swap_first_error(answer) }
        },
    },
    Allowed {
        what: "a store whose line is refused after its length was understood",
        why: "1.6.45 swallows the value; 1.6.18 took it for the next command",
        applies: refuses_store,
        becomes: |line, answer| {
            let answer = swap_errors(answer);
            let lines = answer.split_inclusive(|byte| *byte == b'\n').count();
            if line.ends_with_noreply() || lines > 2 {
                return Vec::new();
            }
            answer.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default().to_vec()
        },
    },
    Allowed {
        what: "a line end behind a value that was too long by one",
        why: "1.6.45 refuses lines of fewer than four bytes as bad format; 1.6.18 as unknown",
        applies: |line| line.left_over().is_some_and(|rest| (1..4).contains(&rest.len())),
        becomes: |_, answer| swap_errors(answer),
    },
    Allowed {
        what: "a meta command with too many flags",
        why: "1.6.45 says it of all meta commands as of mg, and swallows the value of ms",
        applies: |line| line.is(&["ms", "md", "ma"]) && line.words.len() > 19,
        becomes: |_, answer| {
            if answer.starts_with(b"CLIENT_ERROR options flags too long\r\n") {
                b"CLIENT_ERROR options flags are too long\r\n".to_vec()
            } else {
                answer.to_vec()
            }
        },
    },
    Allowed {
        what: "ms of a key that is too long",
        why: "1.6.45 swallows the value; 1.6.18 took it for the next command",
        applies: |line| line.is(&["ms"]) && line.words.len() > 2 && line.words[1].len() > 250,
        becomes: |_, answer| answer.strip_suffix(b"ERROR\r\n").unwrap_or(answer).to_vec(),
    },
    Allowed {
        what: "shutdown without -A",
        why: "1.6.45 says SERVER_ERROR",
        applies: |line| line.is(&["shutdown"]),
        becomes: |_, answer| {
            if answer == b"ERROR: shutdown not enabled\r\n" {
                b"SERVER_ERROR: shutdown not enabled\r\n".to_vec()
            } else {
                answer.to_vec()
            }
        },
    },
];

/// Whether an entry is about a text command, or only memcached counts it: then it travels alone.
pub(crate) fn is_listed(command: &[u8]) -> bool {
    entry(command).is_some() || miscounted(command).is_some()
}

/// What Tandem has to answer where the reference answered `reference`.
pub(crate) fn expected(command: &[u8], reference: &Answer) -> Answer {
    let Some(entry) = entry(command) else { return reference.clone() };
    Answer { bytes: (entry.becomes)(&Line::new(command), &reference.bytes), end: reference.end }
}

/// The counter that memcached raises for a command before it looks whether the command makes sense;
/// Tandem counts what can happen.
pub(crate) fn miscounted(command: &[u8]) -> Option<&'static str> {
    let line = Line::new(command);
    if line.left_over().is_some() {
        return Some("cmd_set");
    }
    let delay = line.words.get(1).filter(|word| **word != b"noreply" || line.words.len() > 2);
    let bad_delay = delay.is_some_and(|word| {
        std::str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok()).is_none()
    });
    (line.is(&["flush_all"]) && bad_delay).then_some("cmd_flush")
}

/// The words of a meta answer as Tandem has to give them.
///
/// An item whose key was sent in base64 shows it so (`k` and `b`). memcached forgets that when another
/// command makes the item anew: `mg` with `N`, `ms` that appends or prepends, `ma` that lets the number
/// grow. Tandem remembers.
pub(crate) fn remember_base64<'a>(words: &mut Vec<&'a [u8]>, tandem: &[&'a [u8]]) {
    for at in 1..words.len().min(tandem.len()) {
        let (Some((b'k', plain)), Some((b'k', encoded))) =
            (words[at].split_first(), tandem[at].split_first())
        else {
            continue;
        };
        let marked = tandem.get(at + 1) == Some(&b"b".as_slice());
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
        if marked && words.get(at + 1) != Some(&b"b".as_slice()) && decoded.is_ok_and(|key| key == plain) {
            words[at] = tandem[at];
            words.insert(at + 1, b"b");
            return;
        }
    }
}

/// The entry that is about a text command.
pub(crate) fn entry(command: &[u8]) -> Option<&'static Allowed> {
    let line = Line::new(command);
    ALLOWED.iter().find(|entry| (entry.applies)(&line))
}

/// 1.6.18's plain ERROR for a known command is 1.6.45's bad format.
fn swap_errors(answer: &[u8]) -> Vec<u8> {
    let mut swapped = Vec::with_capacity(answer.len());
    for line in answer.split_inclusive(|byte| *byte == b'\n') {
        swapped.extend_from_slice(if line == b"ERROR\r\n" { FORMAT } else { line });
    }
    swapped
}

/// As [`swap_errors`], of the first line only: the rest answers a value that was taken for a command.
fn swap_first_error(answer: &[u8]) -> Vec<u8> {
    answer.strip_prefix(b"ERROR\r\n").map_or_else(|| answer.to_vec(), |rest| [FORMAT, rest].concat())
}

fn error_for_each_line(answer: &[u8]) -> Vec<u8> {
    if answer.is_empty() { Vec::new() } else { b"ERROR\r\n".to_vec() }
}

fn lacks_arguments(line: &Line<'_>) -> bool {
    let least = match line.words.first().copied() {
        Some(b"get" | b"gets" | b"delete" | b"mg" | b"ms" | b"md" | b"ma" | b"me" | b"verbosity") => 2,
        Some(b"gat" | b"gats" | b"touch" | b"incr" | b"decr") => 3,
        Some(b"set" | b"add" | b"replace" | b"append" | b"prepend") => 5,
        Some(b"cas") => 6,
        _ => return false,
    };
    line.words.len() < least
}

fn refuses_store(line: &Line<'_>) -> bool {
    if !line.is(&STORES) || line.words.len() < 5 {
        return false;
    }
    let signed = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<i64>().ok();
    let bad_length = signed(line.words[4]).is_none_or(|length| !(0..=2_147_483_645).contains(&length));
    if bad_length {
        return false;
    }
    let bad_flags =
        std::str::from_utf8(line.words[2]).ok().and_then(|word| word.parse::<u64>().ok()).is_none();
    let bad_exptime = signed(line.words[3]).is_none();
    let bad_unique = line.is(&["cas"])
        && line.words.get(5).is_none_or(|word| {
            std::str::from_utf8(word).ok().and_then(|word| word.parse::<u64>().ok()).is_none()
        });
    line.words[1].len() > 250 || bad_flags || bad_exptime || bad_unique
}
