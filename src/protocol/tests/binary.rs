//! The binary protocol: shapes, statuses, quiet rules.

use super::Sample::*;
use super::*;

/// A request, with lengths that may be lies.
#[derive(Clone, Default)]
struct Packet {
    opcode: u8,
    key: &'static str,
    extras: Vec<u8>,
    value: Vec<u8>,
    cas: u64,
    body_len: Option<u32>,
    extras_len: Option<u8>,
    key_len: Option<u16>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let body = [&self.extras, self.key.as_bytes(), &self.value].concat();
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend(self.key_len.unwrap_or(self.key.len() as u16).to_be_bytes());
        bytes.extend([self.extras_len.unwrap_or(self.extras.len() as u8), 0, 0, 0]);
        bytes.extend(self.body_len.unwrap_or(body.len() as u32).to_be_bytes());
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(self.cas.to_be_bytes());
        bytes.extend(body);
        bytes
    }
}

fn plain(opcode: u8, key: &'static str) -> Packet {
    Packet { opcode, key, ..Packet::default() }
}

fn store(opcode: u8, value: &str) -> Packet {
    let extras =
        if matches!(opcode, 0x0e | 0x0f | 0x19 | 0x1a) { vec![] } else { vec![0, 0, 0, 7, 0, 0, 0, 60] };
    Packet { extras, value: value.as_bytes().to_vec(), ..plain(opcode, "k") }
}

fn arith(opcode: u8, expiration: u32) -> Packet {
    let mut extras = [3u64.to_be_bytes(), 9u64.to_be_bytes()].concat();
    extras.extend(expiration.to_be_bytes());
    Packet { extras, ..plain(opcode, "k") }
}

fn touch(opcode: u8) -> Packet {
    Packet { extras: vec![0, 0, 0, 30], ..plain(opcode, "k") }
}

/// An answer.
fn answer(opcode: u8, status: u16, cas: u64, key: &str, extras: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [extras, key.as_bytes(), value].concat();
    let mut bytes = vec![0x81, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0]);
    bytes.extend(status.to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    bytes.extend(cas.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn error(opcode: u8, status: u16) -> Vec<u8> {
    let text: &[u8] = match status {
        1 => b"Not found",
        2 => b"Data exists for key.",
        3 => b"Too large.",
        4 => b"Invalid arguments",
        5 => b"Not stored.",
        6 => b"Non-numeric server-side value for incr or decr",
        0x20 => b"Auth failure.",
        0x81 => b"Unknown command",
        0x82 => b"Out of memory",
        _ => b"?",
    };
    answer(opcode, status, 0, "", b"", text)
}

fn noop() -> Vec<u8> {
    plain(0x0a, "").bytes()
}

/// Checks one packet, followed by a noop that must be answered too.
#[track_caller]
fn check_packet(packet: &Packet, sample: Sample, commands: &str, expected: &[u8]) {
    let input = [packet.bytes(), noop()].concat();
    let (log, out, closed) = exchange_with(limits(), sample, &input);
    assert_eq!(log.join("; "), commands);
    let expected = [expected, &answer(0x0a, 0, 0, "", b"", b"")].concat();
    assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
    assert!(!closed);
}

const FLAGS: &[u8] = &[0, 0, 0, 7];

#[test]
fn reads() {
    for (opcode, quiet, with_key) in
        [(0x00, false, false), (0x09, true, false), (0x0c, false, true), (0x0d, true, true)]
    {
        let key = if with_key { "k" } else { "" };
        check_packet(
            &plain(opcode, "k"),
            Found("abc"),
            "get k Get",
            &answer(opcode, 0, 42, key, FLAGS, b"abc"),
        );
        let miss = match (quiet, with_key) {
            (true, _) => vec![],
            (false, true) => answer(opcode, 1, 0, "k", b"", b""),
            (false, false) => error(opcode, 1),
        };
        check_packet(&plain(opcode, "k"), Miss, "get k Get", &miss);
    }
    for (opcode, quiet, with_key) in
        [(0x1d, false, false), (0x1e, true, false), (0x23, false, true), (0x24, true, true)]
    {
        let (key, log) = (if with_key { "k" } else { "" }, "get k GetAndTouch touch=30");
        check_packet(&touch(opcode), Found("abc"), log, &answer(opcode, 0, 42, key, FLAGS, b"abc"));
        let miss = match (quiet, with_key) {
            (true, _) => vec![],
            (false, true) => answer(opcode, 1, 0, "k", b"", b""),
            (false, false) => error(opcode, 1),
        };
        check_packet(&touch(opcode), Miss, log, &miss);
    }
    check_packet(&touch(0x1c), Touched, "touch k 30", &answer(0x1c, 0, 42, "", FLAGS, b""));
    check_packet(&touch(0x1c), NotFound, "touch k 30", &error(0x1c, 1));
}

#[test]
fn stores() {
    for (loud, quiet, mode, not_stored) in [
        (0x01, 0x11, "set", 5),
        (0x02, 0x12, "add", 2),
        (0x03, 0x13, "replace", 1),
        (0x0e, 0x19, "append", 5),
        (0x0f, 0x1a, "prepend", 5),
    ] {
        let log = if loud < 0x0e { format!("{mode} k 7 60 'abc'") } else { format!("{mode} k 0 0 'abc'") };
        check_packet(&store(loud, "abc"), Stored, &log, &answer(loud, 0, 43, "", b"", b""));
        check_packet(&store(quiet, "abc"), Stored, &log, b"");
        for opcode in [loud, quiet] {
            check_packet(&store(opcode, "abc"), NotStored, &log, &error(opcode, not_stored));
            check_packet(&store(opcode, "abc"), OutOfMemory, &log, &error(opcode, 0x82));
            check_packet(&store(opcode, "abc"), TooLarge, &log, &error(opcode, 3));
            let refused = answer(opcode, 0x86, 0, "", b"", b"no master");
            check_packet(&store(opcode, "abc"), Refused("no master"), &log, &refused);
            let large = store(opcode, &"x".repeat(5000));
            let drops = if mode == "set" { "refuse k TooLarge" } else { "refuse k TooLarge, which stays" };
            check_packet(&large, TooLarge, drops, &error(opcode, 3));
        }
        let compared = Packet { cas: 9, ..store(loud, "abc") };
        let log = match mode {
            "append" | "prepend" => format!("{mode} k 0 0 'abc' compare=9"),
            _ => "set k 7 60 'abc' compare=9".to_owned(),
        };
        check_packet(&compared, Exists, &log, &error(loud, 2));
        let missing = if loud < 0x0e { 1 } else { 5 };
        check_packet(&compared, NotFound, &log, &error(loud, missing));
        let large = store(loud, &"x".repeat(1000));
        let log =
            if loud < 0x0e { format!("{mode} k 7 60 '[1000]'") } else { format!("{mode} k 0 0 '[1000]'") };
        check_packet(&large, Stored, &log, &answer(loud, 0, 43, "", b"", b""));
    }
    check_packet(&store(0x01, ""), Stored, "set k 7 60 ''", &answer(1, 0, 43, "", b"", b""));
}

#[test]
fn no_memory_for_a_large_store() {
    let mut connection = Connection::new(Protocol::Auto, limits(), OutOfMemory);
    connection.no_memory = true;
    let bytes = store(0x11, &"x".repeat(1000)).bytes();
    connection.feed(&bytes[..40]);
    connection.feed(&bytes[40..]);
    connection.feed(&noop());
    assert_eq!(connection.log, ["refuse k OutOfMemory"]);
    assert_eq!(connection.out.to_vec(), [error(0x11, 0x82), answer(0x0a, 0, 0, "", b"", b"")].concat());
}

#[test]
fn other_item_commands() {
    for opcode in [0x04, 0x14] {
        let done = if opcode == 0x04 { answer(opcode, 0, 0, "", b"", b"") } else { vec![] };
        check_packet(&plain(opcode, "k"), Deleted, "delete k", &done);
        check_packet(&plain(opcode, "k"), NotFound, "delete k", &error(opcode, 1));
        check_packet(
            &Packet { cas: 5, ..plain(opcode, "k") },
            Exists,
            "delete k compare=5",
            &error(opcode, 2),
        );
    }
    for (opcode, verb) in [(0x05, "incr"), (0x15, "incr"), (0x06, "decr"), (0x16, "decr")] {
        let done = if opcode < 0x10 { answer(opcode, 0, 42, "", b"", &12u64.to_be_bytes()) } else { vec![] };
        check_packet(&arith(opcode, 60), Number(12), &format!("{verb} k 3 initial=9@60"), &done);
        check_packet(&arith(opcode, u32::MAX), NotFound, &format!("{verb} k 3"), &error(opcode, 1));
        let compared = Packet { cas: 5, ..arith(opcode, 0) };
        check_packet(&compared, Exists, &format!("{verb} k 3 initial=9@0 compare=5"), &error(opcode, 2));
        check_packet(&arith(opcode, u32::MAX), NonNumeric, &format!("{verb} k 3"), &error(opcode, 6));
    }
}

#[test]
fn sessions() {
    check_packet(&plain(0x0b, ""), Miss, "Version", &answer(0x0b, 0, 0, "", b"", b"1.2.3"));
    check_packet(&plain(0x07, ""), Miss, "Quit", &answer(0x07, 0, 0, "", b"", b""));
    check_packet(&plain(0x17, ""), Miss, "Quit", b"");
    check_packet(&plain(0x08, ""), Miss, "FlushAll(None)", &answer(0x08, 0, 0, "", b"", b""));
    check_packet(&plain(0x18, ""), Miss, "FlushAll(None)", b"");
    let delayed = Packet { extras: vec![0, 0, 0, 9], ..plain(0x08, "") };
    check_packet(&delayed, Miss, "FlushAll(Some(Exptime(9)))", &answer(0x08, 0, 0, "", b"", b""));
    let stats = [answer(0x10, 0, 0, "pid", b"", b"1"), answer(0x10, 0, 0, "", b"", b"")].concat();
    check_packet(&plain(0x10, ""), Miss, "Stats([])", &stats);
    check_packet(
        &plain(0x10, "reset"),
        Miss,
        "Stats([114, 101, 115, 101, 116])",
        &answer(0x10, 0, 0, "", b"", b""),
    );
    check_packet(&plain(0x10, "x"), Miss, "Stats([120])", &error(0x10, 1));
    check_packet(&plain(0x20, ""), Miss, "SaslList", &answer(0x20, 0, 0, "", b"", b"PLAIN"));
    let auth = Packet { value: b"\0u\0p".to_vec(), ..plain(0x21, "PLAIN") };
    let log = "SaslAuth { mechanism: [80, 76, 65, 73, 78], data: [0, 117, 0, 112] }";
    check_packet(&auth, Miss, log, &answer(0x21, 0, 0, "", b"", b"Authenticated"));
    check_packet(&plain(0x22, "PLAIN"), Miss, "SaslStep", &error(0x22, 0x20));
    let off = Limits { flush_enabled: false, ..limits() };
    let (log, out, _) = exchange_with(off, Miss, &plain(0x18, "").bytes());
    assert_eq!((log.join(""), out), ("FlushForbidden".to_owned(), error(0x18, 0x20)));
}

#[test]
fn unknown_opcodes_are_answered_and_their_bodies_thrown_away() {
    for opcode in [0x1b, 0x1f, 0x25, 0x30, 0xff] {
        let packet = Packet { extras: vec![1; 4], value: vec![0x80; 3000], ..plain(opcode, "k") };
        check_packet(&packet, Miss, "", &error(opcode, 0x81));
        check_packet(&plain(opcode, ""), Miss, "", &error(opcode, 0x81));
    }
}

#[test]
fn wrong_shapes_are_answered_and_end_the_connection() {
    let lie =
        |packet: Packet, body_len, extras_len, key_len| Packet { body_len, extras_len, key_len, ..packet };
    let cases = [
        (plain(0x00, ""), 4),
        (touch(0x00), 4),
        (Packet { value: vec![1], ..plain(0x00, "k") }, 4),
        (plain(0x01, "k"), 4),
        (Packet { extras: vec![0; 8], ..plain(0x0e, "k") }, 4),
        (plain(0x05, "k"), 4),
        (plain(0x0a, "k"), 4),
        (plain(0x07, "k"), 4),
        (plain(0x0b, "k"), 4),
        (Packet { extras: vec![0; 8], ..plain(0x08, "") }, 4),
        (Packet { extras: vec![0; 4], ..plain(0x10, "k") }, 4),
        (plain(0x1c, "k"), 4),
        (plain(0x21, ""), 4),
        (plain(0x21, "a mechanism with a name that is too long"), 4),
        (lie(plain(0x21, "PLAIN"), Some(20_000), None, None), 4),
        // Lengths that contradict each other or are absurd: named bugs of older servers.
        (lie(plain(0x00, "k"), Some(0), None, None), 0x81),
        (lie(store(0x01, "v"), Some(8), Some(8), Some(1)), 0x81),
        (lie(store(0x01, "v"), Some(2), Some(255), None), 0x81),
        (lie(store(0x0e, "v"), Some(0xffff_ffff), None, Some(1)), 4),
        (lie(store(0x01, "v"), Some(0x8000_0000), None, None), 4),
        (lie(store(0x01, "v"), Some(0x7fff_ffff), None, None), 4),
        (lie(plain(0x21, "PLAIN"), Some(0xffff_ffff), None, None), 4),
        (lie(plain(0x00, "k"), Some(251), None, Some(251)), 4),
        (lie(plain(0x00, "k"), Some(0xffff), None, Some(0xffff)), 4),
        (lie(plain(0x30, "k"), Some(0xffff_ffff), None, None), 4),
    ];
    for (packet, status) in cases {
        let opcode = packet.opcode;
        let input = packet.bytes();
        let (log, out, closed) = exchange_with(limits(), Miss, &input);
        assert!(log.is_empty() && closed, "{}", input.escape_ascii());
        assert_eq!(out, error(opcode, status), "{}", input.escape_ascii());
    }
}

#[test]
fn a_wrong_first_byte_ends_the_connection() {
    let input = [noop(), b"get k\r\n".to_vec()].concat();
    let (_, out, closed) = exchange_with(limits(), Miss, &input);
    assert_eq!((out, closed), (answer(0x0a, 0, 0, "", b"", b""), true));
}

#[test]
fn pipelines_are_answered_in_order() {
    let input =
        [plain(0x09, "k").bytes(), store(0x11, "a").bytes(), plain(0x0d, "k").bytes(), noop()].concat();
    let (log, out, _) = exchange_with(limits(), Found("x"), &input);
    assert_eq!(log, ["get k Get", "set k 7 60 'a'", "get k Get"]);
    assert!(out.ends_with(&answer(0x0a, 0, 0, "", b"", b"")));
}
