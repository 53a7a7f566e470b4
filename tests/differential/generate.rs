//! Makes scenarios from a seed: which connections, how long, how cut. What is said on them is in
//! `text`, `meta` and `binary`; the keys, numbers and values all three draw from are here.

use fastrand::Rng;

use crate::allowed;
use crate::script::{Chop, Command, Part, Scenario, Script, Wire};
use crate::{binary, meta, text};

/// A scenario of about `commands` commands.
pub(crate) fn scenario(seed: u64, commands: usize) -> Scenario {
    let mut random = Rng::with_seed(seed);
    let mut scenario = Vec::new();
    let mut made = 0;
    let delayed_flush = random.u8(..) < 24;
    while made < commands {
        let wire = if random.u8(..) < 90 { Wire::Binary } else { Wire::Text };
        let length = random.usize(1..80);
        let mut source = Source { random: random.fork(), delayed_flush };
        let mut script = Script { wire, chop: chop(&mut random), commands: Vec::with_capacity(length) };
        while script.commands.len() < length {
            let mut commands = match wire {
                Wire::Text if source.chance(90) => meta::command(&mut source),
                Wire::Text => text::command(&mut source),
                Wire::Binary => binary::command(&mut source),
            };
            for command in &mut commands {
                command.ends_round |= random.u8(..) < 40;
                command.alone |= wire == Wire::Text && allowed::is_listed(&command.render(&[]));
            }
            script.commands.append(&mut commands);
        }
        made += script.commands.len();
        scenario.push(script);
    }
    scenario
}

fn chop(random: &mut Rng) -> Chop {
    match random.u8(..) {
        0..150 => Chop::Whole,
        150..180 => Chop::Every(1),
        180..200 => Chop::Every(random.usize(2..40)),
        _ => Chop::Random(random.u64(..)),
    }
}

/// Where the generators draw from.
pub(crate) struct Source {
    /// The seed's stream.
    pub(crate) random: Rng,
    /// In this scenario `flush_all` waits for a far future. In the others it acts at once, because a
    /// delayed one makes 1.6.18 forget an earlier one and bring its items back.
    pub(crate) delayed_flush: bool,
}

impl Source {
    /// True in `of_256` of 256 cases.
    pub(crate) fn chance(&mut self, of_256: u8) -> bool {
        self.random.u8(..) < of_256
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    /// A key that is there often enough.
    pub(crate) fn key(&mut self) -> Vec<u8> {
        match self.random.u8(..) {
            0..200 => self.pick(&["a", "b", "c", "key:1", "key:2", "key:3", "some/longer_key_4"]).into(),
            200..212 => vec![b'x'; 250],
            212..222 => vec![b'y'; 249],
            222..232 => b"\xc3\xa4\xff\x80".to_vec(),
            232..240 => b"ctl\x01\x7f\t".to_vec(),
            240..248 => vec![b'z'; self.random.usize(1..=250)],
            _ => self.pick(&["0", "1", "noreply", "get", "k", "Zm9v"]).into(),
        }
    }

    /// A key for a packet, which may hold any byte. Not for a line: 1.6.18 ends one at a NUL byte.
    pub(crate) fn binary_key(&mut self) -> Vec<u8> {
        if self.chance(12) { b"nul\0 \r\nkey".to_vec() } else { self.key() }
    }

    /// A value: numbers as often as not, because arithmetic has the most edges.
    pub(crate) fn value(&mut self) -> Vec<u8> {
        match self.random.u8(..) {
            0..70 => self.number().into_bytes(),
            70..90 => Vec::new(),
            90..110 => self.pick(&["x\r\n", "END\r\n", "y\n", "z\r", "a\r\nb", "get a\r\n", "x "]).into(),
            110..200 => self.filled(1, 60),
            200..230 => self.filled(60, 600),
            230..246 => self.filled(600, 5_000),
            246..254 => self.filled(5_000, 20_000),
            _ => match self.random.u8(..) {
                0..200 => self.filled(20_000, 120_000),
                200..240 => self.filled(400_000, 900_000),
                // Around the largest value that a one-byte key leaves room for.
                _ => self.filled(1_048_300, 1_048_600),
            },
        }
    }

    /// A value that arithmetic may or may not take, far below 2^63: above, memcached looks for a minus
    /// in whatever its memory holds behind the value. The edges are in `edges`, in fresh memory.
    pub(crate) fn number(&mut self) -> String {
        match self.random.u8(..) {
            0..90 => self.random.u32(0..200).to_string(),
            90..130 => self.pick(&["0", "1", "9", "10", "99", "100", "999"]).to_owned(),
            130..160 => (self.random.u64(..) >> 8).to_string(),
            // What a shorter number and an appended one leave.
            160..170 => self.random.u32(0..2_000).to_string() + &" ".repeat(self.random.usize(1..3_000)),
            170..200 => self.pick(&["4294967295", "4294967296", "9007199254740993", "99999999"]).to_owned(),
            _ => self
                .pick(&[
                    "99999999999999999999",
                    "000000000000000000001",
                    "007",
                    "12 ab",
                    "12ab",
                    " 7",
                    "+5",
                    "",
                    "1.5",
                    "0x10",
                    "5 ",
                    "5  ",
                    "\t5",
                    "5\t",
                ])
                .to_owned(),
        }
    }

    /// The amount of an incr or decr, too small to wrap.
    pub(crate) fn delta(&mut self) -> u64 {
        match self.random.u8(..) {
            0..180 => self.random.u64(0..120),
            180..220 => self.pick(&[1 << 48, 1 << 32, u64::from(u32::MAX), 0]),
            _ => self.random.u64(..) >> 12,
        }
    }

    /// Client flags.
    pub(crate) fn flags(&mut self) -> u32 {
        if self.chance(150) { 0 } else { self.pick(&[1, 5, 42, 65_535, 2_147_483_648, u32::MAX]) }
    }

    /// An expiration time far from now on either side: the clock of the test does not move.
    pub(crate) fn exptime(&mut self) -> i64 {
        if self.chance(170) {
            return 0;
        }
        self.pick(&[
            600,
            1_000,
            100_000,
            2_592_000,
            2_592_001,
            1_000_000_000,
            4_000_000,
            2_147_483_647,
            -1,
            -5,
        ])
    }

    /// The hole for the CAS unique of the key that was asked for just before: the right one, or one
    /// beside it.
    pub(crate) fn unique(&mut self, binary: bool) -> Part {
        let shift = if self.chance(200) { 0 } else { self.pick(&[-1, 1]) };
        Part::Cas { back: 0, shift, binary }
    }

    /// The hole for a CAS unique of some other store. Never beside it: on a server that counts one by
    /// one, the unique beside it may be another key's.
    pub(crate) fn foreign_unique(&mut self, binary: bool) -> Part {
        Part::Cas { back: self.random.usize(0..6), shift: self.pick(&[0, 0, 1 << 40]), binary }
    }

    fn filled(&mut self, from: usize, to: usize) -> Vec<u8> {
        let length = self.random.usize(from..to);
        if length < 200 && self.chance(100) {
            // Any byte but the M that the sentinel owns. Behind a letter, because arithmetic on blanks makes
            // memcached read what its memory held before.
            return std::iter::once(b'x')
                .chain((1..length).map(|_| self.random.u8(..)))
                .map(|byte| match byte {
                    b'M' => b'm',
                    b'-' => b'_',
                    byte => byte,
                })
                .collect();
        }
        let byte = self.random.lowercase() as u8;
        let mut value = vec![byte; length];
        let at = self.random.usize(0..length);
        value[at] = b'0';
        value
    }
}

/// The parts of a text command under construction.
#[derive(Default)]
pub(crate) struct Builder {
    parts: Vec<Part>,
}

impl Builder {
    /// Appends bytes.
    pub(crate) fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        if let Some(Part::Bytes(last)) = self.parts.last_mut() {
            last.extend_from_slice(bytes.as_ref());
        } else {
            self.parts.push(Part::Bytes(bytes.as_ref().to_vec()));
        }
        self
    }

    /// Appends a hole.
    pub(crate) fn part(mut self, part: Part) -> Self {
        match part {
            Part::Bytes(bytes) => self.bytes(bytes),
            hole => {
                self.parts.push(hole);
                self
            }
        }
    }

    /// Appends a line end, and the value and its line end if there is one.
    pub(crate) fn finish(self, value: Option<&[u8]>) -> Command {
        let mut builder = self.bytes("\r\n");
        if let Some(value) = value {
            builder = builder.bytes(value).bytes("\r\n");
        }
        Command { parts: builder.parts, begins_round: false, ends_round: false, alone: false }
    }
}

/// The command's answer is waited for before the next one is sent.
pub(crate) fn awaited(mut command: Command) -> Command {
    command.ends_round = true;
    command
}

/// Everything before the command was answered when it is sent.
///
/// For arithmetic: memcached pads a number that becomes shorter, unless an answer that is not yet
/// written still holds the item, so a read just before it would make the outcome a matter of luck.
pub(crate) fn fresh(mut command: Command) -> Command {
    command.begins_round = true;
    command
}

/// Nothing travels with the command.
pub(crate) fn alone(mut command: Command) -> Command {
    command.alone = true;
    command
}
