//! What fuzzing begins with: what the tests send, and one good example of everything.

use bytes::{BufMut, BytesMut};
use tandem_replication::change::{Bits, Bytes, Change, Put};
use tandem_replication::frame::{Codec, Frame, Handover, Report};
use tandem_replication::handshake::{Handshake, Kind, Opening, Secret};
use tandem_replication::history::Position;
use tandem_replication::state::{FILE, StateDirectory};
use tandemd::engine::Engine as _;
use tokio_util::codec::Encoder;

use crate::commands::{NOW, memory};

/// The tests that speak of clients' bytes.
const TESTS: &[&str] = &[
    include_str!("../../src/protocol/tests/text.rs"),
    include_str!("../../src/protocol/tests/meta.rs"),
    include_str!("../../src/protocol/tests/regressions.rs"),
    include_str!("../../tests/server/classic.rs"),
    include_str!("../../tests/server/table.rs"),
    include_str!("../../tests/server/limits.rs"),
    include_str!("../../tests/server/statistics.rs"),
    include_str!("../../tests/server/holes.rs"),
];

/// The seeds of a target.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "text" | "meta" => commands(),
        "binary" => packets(),
        "udp" => datagrams(),
        "change" => [changes(), recorded("change-", b"")].concat(),
        "frame" => [frames(), recorded("frame-", &[0])].concat(),
        "handshake" => handshakes(),
        "planner" => plans(),
        "proxy" => vec![b"\x05\0\0\0get k".to_vec(), b"\x01\0\0\0x".to_vec(), vec![0; 4]],
        "repcached" => repcached(),
        "snapshot" => snapshots(),
        "state" => [states(), recorded("state-", b"")].concat(),
        "auth" => [&b"alice:secret\n"[..], b"a:b\r\nc:d\r\n", b":\n", b"no colon\n", b"\n\n", &[b'x'; 300]]
            .map(<[u8]>::to_vec)
            .into(),
        other => panic!("no target is called {other}"),
    }
}

/// String literals of the tests that are lines of the protocol, alone and in a row.
fn commands() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = TESTS.iter().flat_map(|text| literals(text)).collect();
    all.retain(|text| text.ends_with(b"\r\n") && text.len() < 1000);
    all.sort();
    all.dedup();
    let rows: Vec<Vec<u8>> = all.chunks(8).map(<[Vec<u8>]>::concat).collect();
    all.extend(rows);
    let session = "set k 7 0 3\r\nabc\r\ngets k\r\nappend k 0 0 1\r\nd\r\ncas k 0 2 1 1\r\nx\r\nincr n 1\r\nset n 0 0 2\r\n99\r\nincr n 1\r\ndecr n 200\r\n\
        ms m 2 T30 F5 E77\r\nok\r\nmg m s v t f c k q O12\r\nmg vivid N30 v t c\r\nms m 1 C1 I\r\nz\r\nma n N0 J13 q\r\nma n D5 v t c\r\nmd m I T5\r\nmg m v c\r\nmd m x\r\nmn\r\n\
        mg Zm9v b k v\r\nms Zm9v 1 b\r\nq\r\nme k\r\ntouch k 5\r\ngat 9 k n\r\nflush_all 3\r\nflush_all\r\nstats\r\nverbosity 1\r\nquit\r\n";
    all.push(session.as_bytes().to_vec());
    all.push(
        format!(
            "set large 0 0 1000\r\n{}\r\nprepend large 0 0 300\r\n{0:.300}\r\nget large\r\n",
            "x".repeat(1000)
        )
        .into(),
    );
    all
}

/// Writes, deletes, honest and dishonest questions, in rows.
fn plans() -> Vec<Vec<u8>> {
    let writes: Vec<u8> = (0..60).flat_map(|nth| [nth % 3, 3 * nth]).collect();
    let rows: [&[u8]; 8] = [
        &[4, 0],
        &[4, 0, 6, 0, 3, 5, 4, 0],
        &[4, 0, 6, 0, 7, 5, 9, 9, 9, 4, 0],
        &[4, 0, 5, 3, 4, 0, 6, 0],
        &[9, 1, 2, 3, 3, 3, 3, 9, 1, 1, 1, 1, 1, 1],
        &[9, 5, 2, 3, 3, 3, 3, 1, 1, 9, 1, 1, 1],
        &[9, 2, 1, 255, 3, 3, 3, 3, 2, 210, 210, 210],
        &[8, 0, 1, 0, 0, 0, 0, 9, 1, 2, 3, 3],
    ];
    let rows = rows.iter().enumerate();
    rows.map(|(nth, row)| [&[17 * nth as u8][..], &writes, row, &writes, row].concat()).collect()
}

/// What clients say, behind a head, and a few heads that are none.
fn datagrams() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        commands().into_iter().chain(packets()).map(|said| [&b"\x01"[..], &said].concat()).collect();
    for head in [&b"\0\x01\0\0\0\x01\0\0"[..], b"\0\x01\0\0\0\x02\0\0", b"\0\x01\0\0", b""] {
        all.push([&b"\0"[..], head, b"get a\r\nset a 0 0 1\r\nx\r\n"].concat());
    }
    all.push([&b"\x01"[..], &b"get a b c\r\n".repeat(200)].concat());
    all
}

/// The string literals of a Rust file, with their escapes resolved.
fn literals(text: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                at += bytes[at..].iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len() - at);
            }
            b'\'' if bytes.get(at + 2) == Some(&b'\'') => at += 3,
            b'\'' if bytes.get(at + 1) == Some(&b'\\') => at += 4,
            b'"' => {
                let (literal, end) = literal(&bytes[at + 1..]);
                all.push(literal);
                at += end + 2;
            }
            _ => at += 1,
        }
    }
    all
}

/// One literal and its length as written.
fn literal(bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut literal, mut at) = (Vec::new(), 0);
    while at < bytes.len() && bytes[at] != b'"' {
        if bytes[at] == b'\\' {
            at += 1;
            match bytes.get(at) {
                Some(b'r') => literal.push(b'\r'),
                Some(b'n') => literal.push(b'\n'),
                Some(b'0') => literal.push(0),
                Some(b'x') => {
                    let digits =
                        bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
                    literal.extend(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()));
                    at += 2;
                }
                Some(b'\n') => {
                    while bytes.get(at + 1).is_some_and(u8::is_ascii_whitespace) {
                        at += 1;
                    }
                }
                Some(&other) => literal.push(other),
                None => {}
            }
        } else {
            literal.push(bytes[at]);
        }
        at += 1;
    }
    (literal, at)
}

/// One packet of every opcode, and sessions of several.
fn packets() -> Vec<Vec<u8>> {
    let packet = |opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64| {
        let mut bytes = vec![0x80, opcode];
        bytes.put_u16(key.len() as u16);
        bytes.put_slice(&[extras.len() as u8, 0, 0, 0]);
        bytes.put_u32((extras.len() + key.len() + value.len()) as u32);
        bytes.put_u32(0xfeed);
        bytes.put_u64(cas);
        bytes.put_slice(&[extras, key, value].concat());
        bytes
    };
    let extras = |opcode: u8| match opcode {
        0x01..=0x03 | 0x11..=0x13 => vec![0, 0, 0, 7, 0, 0, 0, 9],
        0x05 | 0x06 | 0x15 | 0x16 => {
            [[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1].as_slice(), &[0, 0, 0, 9]].concat()
        }
        0x08 | 0x18 | 0x1b | 0x1c..=0x1e | 0x23 | 0x24 => vec![0, 0, 0, 9],
        _ => Vec::new(),
    };
    let takes_value =
        |opcode: u8| matches!(opcode, 0x01..=0x03 | 0x0e | 0x0f | 0x11..=0x13 | 0x19 | 0x1a | 0x21 | 0x22);
    let keyless = |opcode: u8| matches!(opcode, 0x07 | 0x08 | 0x0a | 0x0b | 0x17 | 0x18 | 0x1b | 0x20);
    let mut all = Vec::new();
    for opcode in 0..=0x26 {
        let key: &[u8] = if keyless(opcode) {
            b""
        } else if opcode == 0x21 {
            b"PLAIN"
        } else {
            b"key"
        };
        let value: &[u8] = if opcode == 0x21 {
            b"\0alice\0secret"
        } else if takes_value(opcode) {
            b"12"
        } else {
            b""
        };
        all.push(packet(opcode, &extras(opcode), key, value, 0));
        all.push(packet(opcode, &extras(opcode), key, value, 1));
    }
    let session: Vec<u8> = all.concat();
    all.extend(session.chunks(700).map(<[u8]>::to_vec));
    all.push([packet(1, &extras(1), b"large", &[b'x'; 900], 0), packet(0, &[], b"large", b"", 0)].concat());
    all
}

fn changes() -> Vec<Vec<u8>> {
    let value = [bytes::Bytes::from_static(b"va"), bytes::Bytes::from_static(b"lue")];
    let put = |key, version, deadline, explicit, stale| {
        Change::Put(Put {
            key,
            value: Bytes::Chunks(&value),
            flags: 9,
            deadline,
            version,
            explicit,
            bits: Bits { stale, win_sent: stale, binary_key: stale },
        })
    };
    let all = [
        put(b"key", 1 << 40, 0, None, false),
        put(b"key", 2 << 40, 2000, Some(77), true),
        put(b"k", 3 << 40, 900, None, false),
        Change::Touch { key: b"key", deadline: 5000, version: 2 << 40 },
        Change::Delete { key: b"k", version: 4 << 40 },
        Change::FlushAt { deadline: 1001 },
        Change::Flush { floor: 2 << 40 },
    ];
    let mut encoded: Vec<Vec<u8>> = all
        .iter()
        .map(|change| {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            bytes
        })
        .collect();
    encoded.push(encoded.concat());
    encoded
}

fn frames() -> Vec<Vec<u8>> {
    let payload = bytes::Bytes::from(changes().concat());
    let position = Position { history: 7, applied: vec![1, 2] };
    let frames = [
        Frame::Goodbye,
        Frame::AskSwitchover,
        Frame::Declined { number: 3 },
        Frame::Handover(Handover { epoch: 2, number: 1, position, echo: None }),
        Frame::Changes { shard: 1, first: 2, secs: 3, payload: payload.clone() },
        Frame::Chunk { shard: 1, cursor: 9, secs: 4, payload: payload.clone() },
        Frame::CopyEnd { target: vec![5, 6] },
        Frame::Ack { session: 1, plan: 2, applied: vec![7, 8], complete: true },
        Frame::Report(Report {
            plan: 2,
            compare: false,
            secs: 4,
            applied: vec![7, 8],
            payload: payload.clone(),
        }),
        Frame::Answer { plan: 2, secs: 4, payload },
    ];
    let mut all = Vec::new();
    for frame in &frames {
        let mut bytes = BytesMut::new();
        Codec::default().encode(frame, &mut bytes).expect("a frame");
        all.push([&[0], &bytes[..]].concat());
        // The same for the mode with made checksums: the fields, a length, the payload.
        let payload = &bytes[28..];
        let short = &payload[..payload.len().min(255)];
        all.push([&[1], &bytes[8..24], &[short.len() as u8], short].concat());
    }
    all
}

/// What earlier releases wrote, each behind the byte that says how the target takes it.
fn recorded(prefix: &str, mode: &[u8]) -> Vec<Vec<u8>> {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../replication/tests/corpus/v1");
    let files = std::fs::read_dir(place).expect("the corpus").map(|file| file.expect("a file").path());
    let named = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut files: Vec<_> = files.filter(named).collect();
    files.sort();
    files.iter().map(|path| [mode, &std::fs::read(path).expect("a file")].concat()).collect()
}

fn handshakes() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for mode in [0u8, 1, 2, 3, 4, 5, 255, 254] {
        // What the other side says when both have no key, with the nonces of the target.
        let kind = if mode & 2 == 0 { Kind::Control } else { Kind::Data };
        let opening = Opening::new(kind, u64::from(mode), [mode; 32]);
        let secret = || Secret::new(if mode & 4 == 0 { Vec::new() } else { b"secret".to_vec() });
        let mut dialler = Handshake::dialler(secret().into(), opening, b"hello".to_vec());
        let mut acceptor = Handshake::acceptor(secret().into(), opening, b"hello".to_vec());
        let (mut from_dialler, mut from_acceptor) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let said = dialler.take_output();
            from_dialler.extend_from_slice(&said);
            let mut rest = &said[..];
            while !rest.is_empty() && acceptor.wants() > 0 {
                let (now, later) = rest.split_at(acceptor.wants().min(rest.len()));
                acceptor.handle(now).expect("they fit");
                rest = later;
            }
            let said = acceptor.take_output();
            from_acceptor.extend_from_slice(&said);
            let mut rest = &said[..];
            while !rest.is_empty() && dialler.wants() > 0 {
                let (now, later) = rest.split_at(dialler.wants().min(rest.len()));
                dialler.handle(now).expect("they fit");
                rest = later;
            }
        }
        all.push([&[mode], &(if mode & 1 == 0 { from_dialler } else { from_acceptor })[..]].concat());
    }
    all
}

fn repcached() -> Vec<Vec<u8>> {
    [
        "rep t 0 1795164435 1 1\r\nv\r\n",
        "rep k -2147483648 0 3 -5\r\nabc\r\nmarugoto_end\r\ndelete k\r\n",
        "flush_all \r\nflush_all 1795164346\r\nflush_all 1\r\n",
        "rep a b 1 2 0 4\r\n\r\ndelete a b\r\n",
        "rep x 0 0 4000 1\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([format!("rep large 1 0 1000 9\r\n{}\r\nmarugoto_end\r\n", "x".repeat(1000)).into_bytes()])
    .collect()
}

fn snapshots() -> Vec<Vec<u8>> {
    let engine = memory();
    for change in Change::decode_all(&changes().concat()) {
        engine.apply(&change.expect("our own"), NOW);
    }
    let (file, _) = tandemd::snapshot::write(Vec::new(), &engine, NOW).expect("a vector takes it");
    let mut all = vec![[&[0], &file[..]].concat()];
    for changes in changes() {
        let items =
            Change::decode_all(&changes).filter(|change| matches!(change, Ok(Change::Put(_)))).count();
        all.push([&[1, 232, 3, 0, 0, 10, 0, items as u8], &changes[..]].concat());
    }
    all
}

fn states() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut all = vec![Vec::new(), b"TANDEMst".to_vec()];
    for content in [&b""[..], b"something", &[7; 100]] {
        let state = StateDirectory::open(directory.path()).expect("a directory of our own");
        state.save(content).expect("a file");
        all.push(std::fs::read(directory.path().join(FILE)).expect("a file"));
    }
    all
}
