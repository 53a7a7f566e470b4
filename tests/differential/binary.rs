//! Binary commands, whole and broken.

use crate::generate::{Source, alone, awaited, fresh};
use crate::script::{Command, Part};

/// One command, or a few that belong together.
pub(crate) fn command(source: &mut Source) -> Vec<Command> {
    match source.random.u8(..) {
        0..60 => store(source),
        60..130 => vec![key_only(source, &[0x00, 0x09, 0x0c, 0x0d, 0x00, 0x0c])],
        130..170 => vec![arithmetic(source)],
        170..190 => vec![key_only(source, &[0x04, 0x14])],
        190..205 => vec![touch(source)],
        205..220 => append(source),
        220..226 => vec![flush(source)],
        226..236 => vec![bare(source)],
        236..240 => {
            vec![alone(packet(0x10, source.pick(&[b"foo".as_slice(), b"cachedump", b"detail"]), &[], &[], 7))]
        }
        _ => vec![broken(source)],
    }
}

/// A request of one opcode.
fn packet(opcode: u8, key: &[u8], extras: &[u8], value: &[u8], opaque: u32) -> Command {
    with_unique(opcode, key, extras, value, opaque, Part::Bytes(vec![0; 8]))
}

fn with_unique(opcode: u8, key: &[u8], extras: &[u8], value: &[u8], opaque: u32, unique: Part) -> Command {
    let lengths =
        Lengths { key: key.len(), extras: extras.len(), body: key.len() + extras.len() + value.len() };
    let body = [extras, key, value].concat();
    let mut parts = vec![Part::Bytes(header(opcode, lengths, opaque)), unique, Part::Bytes(body)];
    // One piece where there is no hole: easier to read when it is printed.
    if let [Part::Bytes(head), Part::Bytes(unique), Part::Bytes(body)] = parts.as_slice() {
        parts = vec![Part::Bytes([head.as_slice(), unique, body].concat())];
    }
    Command { parts, begins_round: false, ends_round: false, alone: false }
}

/// Whether memcached knows an opcode, as a server without SASL does.
const fn is_known(opcode: u8) -> bool {
    matches!(opcode, 0x00..=0x1a | 0x1c..=0x1e | 0x23 | 0x24)
}

/// What a header says.
struct Lengths {
    key: usize,
    extras: usize,
    body: usize,
}

/// The sixteen bytes before the CAS unique.
fn header(opcode: u8, lengths: Lengths, opaque: u32) -> Vec<u8> {
    let mut header = vec![0x80, opcode];
    header.extend_from_slice(&(lengths.key as u16).to_be_bytes());
    header.extend_from_slice(&[lengths.extras as u8, 0, 0, 0]);
    header.extend_from_slice(&(lengths.body as u32).to_be_bytes());
    header.extend_from_slice(&opaque.to_be_bytes());
    header
}

fn exptime(source: &mut Source) -> u32 {
    // The field has no sign: what text calls -1 is a far future here.
    u32::try_from(source.exptime()).unwrap_or(0)
}

/// set, add, replace and their quiet twins; with the key's CAS unique at times.
fn store(source: &mut Source) -> Vec<Command> {
    let opcode = source.pick(&[0x01, 0x01, 0x11, 0x02, 0x12, 0x03, 0x13]);
    let (key, opaque) = (source.binary_key(), source.random.u32(..));
    let value = source.value();
    let extras = [source.flags().to_be_bytes(), exptime(source).to_be_bytes()].concat();
    if source.chance(190) {
        return vec![packet(opcode, &key, &extras, &value, opaque)];
    }
    let unique = if source.chance(220) { source.unique(true) } else { source.foreign_unique(true) };
    let look = awaited(packet(0x00, &key, &[], &[], 1));
    vec![look, with_unique(opcode, &key, &extras, &value, opaque, unique)]
}

fn append(source: &mut Source) -> Vec<Command> {
    let opcode = source.pick(&[0x0e, 0x0f, 0x19, 0x1a]);
    let (key, opaque) = (source.binary_key(), source.random.u32(..));
    let value = source.value();
    if source.chance(200) {
        return vec![packet(opcode, &key, &[], &value, opaque)];
    }
    let look = awaited(packet(0x00, &key, &[], &[], 1));
    vec![look, with_unique(opcode, &key, &[], &value, opaque, source.unique(true))]
}

fn key_only(source: &mut Source, opcodes: &[u8]) -> Command {
    let opcode = source.pick(opcodes);
    packet(opcode, &source.binary_key(), &[], &[], source.random.u32(..))
}

/// incr and decr; creating, or not.
fn arithmetic(source: &mut Source) -> Command {
    let opcode = source.pick(&[0x05, 0x06, 0x15, 0x16]);
    let exptime = source.pick(&[0, 600, u32::MAX, u32::MAX]);
    let initial = if source.chance(128) { source.delta() } else { 10 };
    let extras = [&source.delta().to_be_bytes()[..], &initial.to_be_bytes(), &exptime.to_be_bytes()].concat();
    fresh(packet(opcode, &source.binary_key(), &extras, &[], source.random.u32(..)))
}

/// touch, gat and their kin.
fn touch(source: &mut Source) -> Command {
    let opcode = source.pick(&[0x1c, 0x1d, 0x1e, 0x23, 0x24]);
    let extras = exptime(source).to_be_bytes();
    packet(opcode, &source.binary_key(), &extras, &[], source.random.u32(..))
}

fn flush(source: &mut Source) -> Command {
    let opcode = source.pick(&[0x08, 0x18]);
    let delay = if source.delayed_flush { 86_400_u32 } else { 0 };
    if source.delayed_flush || source.chance(128) {
        return packet(opcode, &[], &delay.to_be_bytes(), &[], source.random.u32(..));
    }
    packet(opcode, &[], &[], &[], source.random.u32(..))
}

/// No-op, version, and the ends of a connection.
fn bare(source: &mut Source) -> Command {
    let opcode = source.pick(&[0x0a, 0x0a, 0x0b, 0x0b, 0x07, 0x17]);
    let command = packet(opcode, &[], &[], &[], source.random.u32(..));
    if matches!(opcode, 0x07 | 0x17) { alone(command) } else { command }
}

/// Packets whose shape, opcode or magic is wrong; whole, so that the next one is found.
fn broken(source: &mut Source) -> Command {
    let opaque = source.random.u32(..);
    let key = source.binary_key();
    let opcode = match source.random.u8(0..0x28) {
        // Statistics differ, and a flush has to be of the scenario's kind.
        0x10 => 0x0a,
        0x08 | 0x18 => return flush(source),
        opcode => opcode,
    };
    let command = match source.random.u8(0..9) {
        // An opcode that is none, or one that wants another shape.
        0 => packet(source.random.u8(0x25..), &[], &[], b"xx", opaque),
        // Behind an unknown opcode, memcached swallows as many bytes as the body has, even those of key
        // and extras that it took already: only a body without them leaves the next packet whole.
        1..=6 if !is_known(opcode) => packet(opcode, &[], &[], &key, opaque),
        1 => packet(opcode, &key, &[], &[], opaque),
        2 => packet(opcode, &[], &[], &[], opaque),
        3 => packet(opcode, &key, &[0; 4], &[], opaque),
        4 => packet(opcode, &key, &[0; 8], b"value", opaque),
        5 => packet(opcode, &key, &[0; 20], &[], opaque),
        6 => packet(opcode, &vec![b'k'; source.random.usize(251..300)], &[0; 8], b"value", opaque),
        // A key longer than the body that holds it.
        7 => {
            let lengths = Lengths { key: key.len() + 9, extras: 0, body: key.len() };
            Command::plain([header(opcode, lengths, opaque), vec![0; 8], key].concat())
        }
        _ => {
            let lengths = Lengths { key: key.len(), extras: 0, body: key.len() };
            let mut bytes = [header(opcode, lengths, opaque), vec![0; 8], key].concat();
            bytes[0] = source.pick(&[0x81, 0x00, 0xff, b'g']);
            Command::plain(bytes)
        }
    };
    alone(command)
}
