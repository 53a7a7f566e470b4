//! One conversation, row by row: what is sent, what is answered. It begins with an empty cache, and
//! holds whatever carries it: `transports` runs it over each of them.

/// A row.
pub(crate) struct Row {
    pub(crate) sent: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

/// Text and meta commands; the first of them empties the cache.
pub(crate) fn text() -> Vec<Row> {
    let rows = [("flush_all\r\n", "OK\r\n")].iter().chain(CLASSIC).chain(META);
    rows.map(|(sent, answer)| Row { sent: (*sent).into(), answer: (*answer).into() }).collect()
}

/// Binary packets; the first of them empties the cache. The CAS uniques of answers count as 0.
pub(crate) fn binary() -> Vec<Row> {
    const OK: u16 = 0;
    const MISSING: u16 = 1;
    const EXISTS: u16 = 2;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let set = |opcode, key, value| ask(opcode, &words(&[7, 0]), key, value);
    let get = |opcode, key| ask(opcode, b"", key, "");
    let add_to =
        |opcode, key, delta, initial, exptime| ask(opcode, &words(&[0, delta, 0, initial, exptime]), key, "");
    let number =
        |opcode, number: u8| said(opcode, OK, b"", "", &format!("{}{}", "\0".repeat(7), number as char));
    let hit = |opcode, key, value| said(opcode, OK, &[0, 0, 0, 7], key, value);
    let done = |opcode| said(opcode, OK, b"", "", "");
    let missing = |opcode| said(opcode, MISSING, b"", "", "Not found");
    let noop = ask(0x0a, b"", "", "");
    let row = |sent: &[Vec<u8>], answer: &[Vec<u8>]| Row { sent: sent.concat(), answer: answer.concat() };
    vec![
        row(&[get(0x08, "")], &[done(0x08)]),
        row(&[get(0x00, "k")], &[missing(0x00)]),
        row(&[set(0x01, "k", "value")], &[done(0x01)]),
        row(&[get(0x00, "k"), get(0x0c, "k")], &[hit(0x00, "", "value"), hit(0x0c, "k", "value")]),
        // Quiet reads say nothing of what is not there; a no-op ends them.
        row(
            &[get(0x09, "none"), get(0x0d, "k"), get(0x0d, "none"), noop.clone()],
            &[hit(0x0d, "k", "value"), done(0x0a)],
        ),
        row(&[get(0x0c, "none")], &[said(0x0c, MISSING, b"", "none", "")]),
        row(&[set(0x02, "k", "x")], &[said(0x02, EXISTS, b"", "", "Data exists for key.")]),
        row(&[set(0x03, "none", "x")], &[missing(0x03)]),
        row(
            &[set(0x11, "q", "x"), set(0x12, "q", "x"), noop.clone()],
            &[said(0x12, EXISTS, b"", "", "Data exists for key."), done(0x0a)],
        ),
        row(
            &[ask(0x0e, b"", "k", "+"), ask(0x0f, b"", "k", "-"), get(0x00, "k")],
            &[done(0x0e), done(0x0f), hit(0x00, "", "-value+")],
        ),
        row(&[ask(0x0e, b"", "none", "+")], &[said(0x0e, 5, b"", "", "Not stored.")]),
        row(
            &[ask(0x19, b"", "k", "!"), ask(0x1a, b"", "k", "!"), get(0x00, "k")],
            &[hit(0x00, "", "!-value+!")],
        ),
        row(
            &[add_to(0x05, "n", 1, 10, 0), add_to(0x05, "n", 5, 0, 0), add_to(0x06, "n", 3, 0, 0)],
            &[number(0x05, 10), number(0x05, 15), number(0x06, 12)],
        ),
        row(&[add_to(0x05, "none", 1, 10, u32::MAX)], &[missing(0x05)]),
        row(
            &[add_to(0x05, "k", 1, 0, 0)],
            &[said(0x05, 6, b"", "", "Non-numeric server-side value for incr or decr")],
        ),
        row(
            &[add_to(0x15, "n", 1, 0, 0), add_to(0x16, "n", 3, 0, 0), add_to(0x05, "n", 0, 0, 0)],
            &[number(0x05, 10)],
        ),
        row(&[ask(0x1c, &words(&[100]), "k", "")], &[said(0x1c, OK, &[0, 0, 0, 7], "", "")]),
        row(
            &[ask(0x1d, &words(&[0]), "k", ""), ask(0x23, &words(&[0]), "k", "")],
            &[hit(0x1d, "", "!-value+!"), hit(0x23, "k", "!-value+!")],
        ),
        row(&[ask(0x1e, &words(&[0]), "none", ""), noop.clone()], &[done(0x0a)]),
        row(
            &[get(0x04, "k"), get(0x04, "k"), get(0x14, "n"), noop],
            &[done(0x04), missing(0x04), done(0x0a)],
        ),
        row(&[ask(0x10, b"", "nonsense", "")], &[missing(0x10)]),
        row(&[ask(0x1b, b"", "", "")], &[said(0x1b, 0x81, b"", "", "Unknown command")]),
        row(&[get(0x20, "")], &[said(0x20, 0x81, b"", "", "Unknown command")]),
        row(&[get(0x0b, "")], &[said(0x0b, OK, b"", "", tandemd::server::VERSION)]),
        row(&[ask(0x18, &words(&[0]), "", ""), get(0x00, "q")], &[missing(0x00)]),
    ]
}

fn ask(opcode: u8, extras: &[u8], key: &str, value: &str) -> Vec<u8> {
    packet(0x80, opcode, 0, extras, key, value)
}

fn said(opcode: u8, status: u16, extras: &[u8], key: &str, value: &str) -> Vec<u8> {
    packet(0x81, opcode, status, extras, key, value)
}

fn packet(magic: u8, opcode: u8, status: u16, extras: &[u8], key: &str, value: &str) -> Vec<u8> {
    let body = extras.len() + key.len() + value.len();
    let mut bytes = vec![magic, opcode, 0, key.len() as u8, extras.len() as u8, 0];
    bytes.extend(status.to_be_bytes());
    bytes.extend((body as u32).to_be_bytes());
    bytes.extend(*b"mark");
    bytes.extend([0; 8]);
    bytes.extend(extras);
    bytes.extend(key.as_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

const CLASSIC: &[(&str, &str)] = &[
    ("set a 7 0 1\r\nb\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 7 1\r\nb\r\nEND\r\n"),
    ("get a nothing a\n", "VALUE a 7 1\r\nb\r\nVALUE a 7 1\r\nb\r\nEND\r\n"),
    ("add a 0 0 1\r\nc\r\nadd b 0 0 1\r\nc\r\n", "NOT_STORED\r\nSTORED\r\n"),
    ("replace a 0 0 2\r\ncc\r\nreplace none 0 0 1\r\nc\r\n", "STORED\r\nNOT_STORED\r\n"),
    (
        "append a 0 0 1\r\nx\r\nprepend a 0 0 1\r\ny\r\nappend none 0 0 1\r\nx\r\n",
        "STORED\r\nSTORED\r\nNOT_STORED\r\n",
    ),
    ("get a\r\n", "VALUE a 0 4\r\nyccx\r\nEND\r\n"),
    ("cas a 0 0 1 1\r\nz\r\ncas none 0 0 1 1\r\nz\r\n", "EXISTS\r\nNOT_FOUND\r\n"),
    ("gat 100 a\r\n", "VALUE a 0 4\r\nyccx\r\nEND\r\n"),
    ("touch a 0\r\ntouch none 0\r\n", "TOUCHED\r\nNOT_FOUND\r\n"),
    ("delete a\r\ndelete a\r\ndelete b 0\r\n", "DELETED\r\nNOT_FOUND\r\nDELETED\r\n"),
    ("set n 0 0 1\r\n9\r\nincr n 1\r\ndecr n 3\r\nincr none 1\r\n", "STORED\r\n10\r\n7\r\nNOT_FOUND\r\n"),
    (
        "set n 0 0 1\r\nx\r\nincr n 1\r\n",
        "STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("set q 0 0 1 noreply\r\nq\r\ndelete n noreply\r\nget q n\r\n", "VALUE q 0 1\r\nq\r\nEND\r\n"),
    ("set t 0 -1 1\r\nt\r\nget t\r\n", "STORED\r\nEND\r\n"),
    ("version\r\n", concat!("VERSION 1.6.45-tandem-", env!("CARGO_PKG_VERSION"), "\r\n")),
    ("verbosity 0\r\nverbosity\r\n", "OK\r\nCLIENT_ERROR bad command line format\r\n"),
    ("shutdown\r\n", "SERVER_ERROR: shutdown not enabled\r\n"),
    (
        "cache_memlimit 64\r\ncache_memlimit 1\r\n",
        "OK\r\nMEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
    ),
    ("slabs automove 1\r\nslabs reassign 1 1\r\n", "OK\r\nSAME src and dst class are identical\r\n"),
    (
        "lru mode segmented\r\nlru_crawler enable\r\nlru_crawler sleep 2000000\r\n",
        "OK\r\nOK\r\nCLIENT_ERROR sleep must be one second or less\r\n",
    ),
    ("flush_all\r\nget q\r\n", "OK\r\nEND\r\n"),
    (
        "flush_all abc\r\nflush_all 0\r\nflush_all noreply\r\n",
        "CLIENT_ERROR invalid exptime argument\r\nOK\r\n",
    ),
    ("GET a\r\nnonsense\r\n a\r\n", "ERROR\r\nERROR\r\nERROR\r\n"),
    (
        "get\r\nset a 0 0\r\ntouch a\r\n",
        "CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    // What is left over is a command of its own.
    ("set a 0 0 1\r\nxy\r\n", "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\n"),
    ("set a -1 0 1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("stats nonsense\r\n", "ERROR\r\n"),
    ("mn\r\n", "MN\r\n"),
];

const META: &[(&str, &str)] = &[
    ("mg none\r\nmg none v k Oabc\r\n", "EN\r\nEN knone Oabc\r\n"),
    ("ms a 2 T0 F5\r\nhi\r\n", "HD\r\n"),
    ("mg a v f t s k Oxy\r\n", "VA 2 f5 t-1 s2 ka Oxy\r\nhi\r\n"),
    ("mg a\r\n", "HD\r\n"),
    ("mg none q v\r\nmg a q v\r\nmn\r\n", "VA 2\r\nhi\r\nMN\r\n"),
    ("ms a 1 MA\r\n!\r\nmg a v\r\n", "HD\r\nVA 3\r\nhi!\r\n"),
    ("ms a 1 ME\r\nx\r\nms none 1 MR\r\nx\r\n", "NS\r\nNS\r\n"),
    (
        "ms n 1\r\n5\r\nma n v\r\nma n D10 v\r\nma n MD v\r\n",
        "HD\r\nVA 1\r\n6\r\nVA 2\r\n16\r\nVA 2\r\n15\r\n",
    ),
    ("ma fresh N0 J13 v\r\nma fresh v\r\n", "VA 2\r\n13\r\nVA 2\r\n14\r\n"),
    ("md a\r\nmd a\r\nmd a q\r\nmn\r\n", "HD\r\nNF\r\nNF\r\nMN\r\n"),
    ("ms Zm9v 1 b\r\nx\r\nmg foo v\r\n", "HD\r\nVA 1\r\nx\r\n"),
    ("mg Zm9v b k\r\n", "HD kZm9v b\r\n"),
    ("mg a v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("ms a 1 MZ\r\nx\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
    ("mg\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mg recache N30 v t\r\nmg recache v\r\n", "VA 0 t30 W\r\n\r\nVA 0 Z\r\n\r\n"),
    // What memcached learnt after 1.6.18: CAS uniques of the client's choice, a compare that saves the
    // value, a deletion of the value alone, creating by appending.
    (
        "ms e 1 E77\r\nx\r\nmg e c v\r\nmg e C77 v\r\nmg e C78 v c\r\n",
        "HD\r\nVA 1 c77\r\nx\r\nHD\r\nVA 1 c77\r\nx\r\n",
    ),
    ("ms e 1 C76 E90\r\ny\r\nms e 1 C77 E90\r\ny\r\nmg e c v\r\n", "EX\r\nHD\r\nVA 1 c90\r\ny\r\n"),
    (
        "ms e 1 E1000\r\n5\r\nma e v c E1001\r\nma e C1000 v\r\nma e C1001 v\r\n",
        "HD\r\nVA 1 c1001\r\n6\r\nEX\r\nVA 1\r\n7\r\n",
    ),
    ("ms e 2 F5 T60\r\nhi\r\nmd e x E99\r\nmg e c s f v\r\n", "HD\r\nHD\r\nVA 0 c99 s0 f0\r\n\r\n"),
    ("ms e 2 F5 s\r\nhi\r\nmd e C1\r\nmd e q\r\nmn\r\n", "HD s2\r\nEX\r\nMN\r\n"),
    (
        "ms grown 1 MA N0\r\na\r\nms grown 1 MA N0\r\nb\r\nms grown2 1 MP\r\nb\r\nmg grown v\r\n",
        "HD\r\nHD\r\nNS\r\nVA 2\r\nab\r\n",
    ),
];
