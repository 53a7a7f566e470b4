//! What is sent: commands, and the scripts and scenarios they form.
//!
//! A command is bytes with holes for CAS uniques, because the two servers number them differently.
//! A script is what one connection says; a scenario is the scripts that one pair of fresh servers
//! hears, one connection after the other.

use std::fmt::Write as _;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Classic text and meta.
    Text,
    /// The binary protocol.
    Binary,
}

/// A piece of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The same bytes for both servers.
    Bytes(Vec<u8>),
    /// A CAS unique that each server gave itself: the `back`th last one seen, plus `shift`.
    Cas {
        /// 0 is the last one that was seen.
        back: usize,
        /// Makes it miss: a unique that is just below or above.
        shift: i64,
        /// As eight bytes instead of decimal digits.
        binary: bool,
    },
}

/// One command, its body included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The pieces, in order.
    pub(crate) parts: Vec<Part>,
    /// Everything before it was answered when it is sent.
    pub(crate) begins_round: bool,
    /// Its answer is waited for before the next one is sent.
    pub(crate) ends_round: bool,
    /// Nothing else travels with it: its answer is compared alone, under the list of allowed differences.
    pub(crate) alone: bool,
}

impl Command {
    /// A command without holes.
    pub(crate) fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { parts: vec![Part::Bytes(bytes.into())], begins_round: false, ends_round: false, alone: false }
    }

    /// The bytes for the server that gave out the uniques `seen` (the last one last).
    pub(crate) fn render(&self, seen: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(part) => bytes.extend_from_slice(part),
                Part::Cas { back, shift, binary } => {
                    let known = seen.len().checked_sub(back + 1).map(|at| seen[at]);
                    // Before any was seen: one that neither server gives out.
                    let unique = known.map_or(u64::MAX - 1, |unique| unique.wrapping_add_signed(*shift));
                    if *binary {
                        bytes.extend_from_slice(&unique.to_be_bytes());
                    } else {
                        bytes.extend_from_slice(unique.to_string().as_bytes());
                    }
                }
            }
        }
        bytes
    }
}

/// How the bytes of a round are cut into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chop {
    /// One write.
    Whole,
    /// Writes of this many bytes.
    Every(usize),
    /// Cuts at places that this seed chooses, with pauses at a few of them.
    Random(u64),
}

impl Chop {
    /// The writes that `bytes` become, and whether to pause after each.
    pub(crate) fn cut(self, bytes: &[u8]) -> Vec<(&[u8], bool)> {
        match self {
            // Large rounds are not worth a system call per byte.
            Self::Every(size) if bytes.len() <= 4096 => {
                bytes.chunks(size.max(1)).map(|piece| (piece, false)).collect()
            }
            Self::Whole | Self::Every(_) => vec![(bytes, false)],
            Self::Random(seed) => {
                let mut random = fastrand::Rng::with_seed(seed ^ bytes.len() as u64);
                let mut places: Vec<usize> =
                    (0..random.usize(1..6)).map(|_| random.usize(0..=bytes.len())).collect();
                places.push(bytes.len());
                places.sort_unstable();
                let mut pauses = 2;
                let mut from = 0;
                let mut pieces = Vec::new();
                for place in places {
                    let pause = pauses > 0 && random.u8(..) < 24;
                    pauses -= usize::from(pause);
                    pieces.push((&bytes[from..place], pause));
                    from = place;
                }
                pieces
            }
        }
    }
}

/// What one connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Its protocol.
    pub(crate) wire: Wire,
    /// How its rounds are cut.
    pub(crate) chop: Chop,
    /// What it says.
    pub(crate) commands: Vec<Command>,
}

impl Script {
    /// The commands in rounds: what is sent together before answers are awaited.
    pub(crate) fn rounds(&self) -> Vec<&[Command]> {
        let mut rounds = Vec::new();
        let mut from = 0;
        for (at, command) in self.commands.iter().enumerate() {
            if (command.alone || command.begins_round) && at > from {
                rounds.push(&self.commands[from..at]);
                from = at;
            }
            if command.alone || command.ends_round {
                rounds.push(&self.commands[from..=at]);
                from = at + 1;
            }
        }
        if from < self.commands.len() {
            rounds.push(&self.commands[from..]);
        }
        rounds
    }
}

/// What one pair of fresh servers hears.
pub(crate) type Scenario = Vec<Script>;

/// Commands of a scenario.
pub(crate) fn count(scenario: &[Script]) -> usize {
    scenario.iter().map(|script| script.commands.len()).sum()
}

/// The scenario as lines that `bash` understands: one `printf` for each command.
pub(crate) fn show(scenario: &[Script]) -> String {
    let mut text = String::new();
    for script in scenario {
        let _ = writeln!(text, "# a {:?} connection, writes: {:?}", script.wire, script.chop);
        for round in script.rounds() {
            for command in round {
                text.push_str("printf '");
                for part in &command.parts {
                    match part {
                        Part::Bytes(bytes) => text.push_str(&escape(bytes)),
                        Part::Cas { back, shift, binary } => {
                            let kind = if *binary { "8 bytes of " } else { "" };
                            let _ =
                                write!(text, "<{kind}the cas unique seen {back} before the last, {shift:+}>");
                        }
                    }
                }
                text.push_str("'\n");
            }
            text.push_str("# …the answers are awaited\n");
        }
    }
    text
}

/// Bytes as `printf` takes them; a long run of one byte is written as `{byte × times}`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let run = bytes[at..].iter().take_while(|other| **other == byte).count();
        let one = match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\\' => "\\\\".to_owned(),
            b'\'' => "\\047".to_owned(),
            b'%' => "%%".to_owned(),
            b' '..=b'~' => (byte as char).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        if run > 24 {
            let _ = write!(text, "{{{one} × {run}}}");
            at += run;
        } else {
            text.push_str(&one);
            at += 1;
        }
    }
    text
}
