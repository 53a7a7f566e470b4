//! The meta protocol, as memcached 1.6.45 speaks it.

use super::Sample::*;
use super::*;

fn dying() -> Hit<'static> {
    Hit { deadline: Deadline(1030), deadline_after: Deadline(1060), ..hit("abc") }
}

fn won() -> Hit<'static> {
    Hit { deadline: Deadline(1030), deadline_after: Deadline(1030), created: true, won: true, ..hit("") }
}

fn stale() -> Hit<'static> {
    Hit { stale: true, win_sent: true, ..hit("abc") }
}

fn stale_and_won() -> Hit<'static> {
    Hit { stale: true, won: true, ..hit("abc") }
}

fn binary() -> Hit<'static> {
    Hit { binary_key: true, fetched: false, ..hit("hi") }
}

#[test]
fn reads() {
    check(&[
        ("mg k\r\n", Found("abc"), "get k Meta", "HD\r\n"),
        ("mg k v\r\n", Found("abc"), "get k Meta", "VA 3\r\nabc\r\n"),
        ("mg k v\r\n", Miss, "get k Meta", "EN\r\n"),
        ("mg k v q\r\nmn\r\n", Miss, "get k Meta", "MN\r\n"),
        ("mg k k O12 v q s\r\n", Found("abc"), "get k Meta", "VA 3 kk O12 s3\r\nabc\r\n"),
        ("mg k O12 s k\r\n", Miss, "get k Meta", "EN O12 kk\r\n"),
        (
            "mg k s t c f l h u P1 Lx\r\n",
            Found("abc"),
            "get k Meta unseen=true",
            "HD s3 t-1 c42 f7 l3 h1\r\n",
        ),
        ("mg k t\r\n", Special(dying), "get k Meta", "HD t30\r\n"),
        ("mg k t T60\r\n", Special(dying), "get k Meta touch=60", "HD t30\r\n"),
        ("mg k T60 t\r\n", Special(dying), "get k Meta touch=60", "HD t60\r\n"),
        ("mg k N30 t v\r\n", Special(won), "get k Meta vivify=30", "VA 0 t30 W\r\n\r\n"),
        ("mg k t N30 v E9\r\n", Special(won), "get k Meta vivify=30 explicit=9", "VA 0 t-1 W\r\n\r\n"),
        ("mg k R30\r\n", Special(stale), "get k Meta recache=30", "HD Z X\r\n"),
        ("mg k c v\r\n", Special(stale_and_won), "get k Meta", "VA 3 c42 X W\r\nabc\r\n"),
        ("mg k v C42\r\n", Found("abc"), "get k Meta", "HD\r\n"),
        ("mg k c v C41\r\n", Found("abc"), "get k Meta", "VA 3 c42\r\nabc\r\n"),
        ("mg k v q\r\n", Refused("no master"), "get k Meta", "SERVER_ERROR no master\r\n"),
    ]);
}

#[test]
fn keys_in_base64() {
    check(&[
        ("mg Zm9v b k v\r\n", Special(binary), "get foo Meta binary=true", "VA 2 kZm9v b\r\nhi\r\n"),
        ("mg Zm9v b k\r\n", Found("hi"), "get foo Meta binary=true", "HD kfoo\r\n"),
        ("mg foo k v\r\n", Special(binary), "get foo Meta", "VA 2 kZm9v b\r\nhi\r\n"),
        ("mg Zm9v k b O1\r\n", Miss, "get foo Meta binary=true", "EN kZm9v b O1\r\n"),
        ("ms Zm9v 2 b k c\r\nhi\r\n", Stored, "set foo 0 0 'hi' binary=true", "HD kZm9v b c43\r\n"),
        ("md Zm9v b k\r\n", Deleted, "delete foo", "HD kZm9v b\r\n"),
        ("ma Zm9v b k\r\n", Number(1), "incr foo 1 binary=true", "HD kZm9v b\r\n"),
        (
            "me Zm9v b\r\n",
            Special(binary),
            "inspect foo",
            "ME Zm9v exp=-1 la=3 cas=42 fetch=no cls=1 size=66\r\n",
        ),
        ("mg !!! b\r\n", Miss, "", "CLIENT_ERROR error decoding key\r\n"),
        ("ms !!! 2 b\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR error decoding key\r\nMN\r\n"),
    ]);
}

#[test]
fn stores() {
    check(&[
        ("ms k 2\r\nhi\r\n", Stored, "set k 0 0 'hi'", "HD\r\n"),
        ("ms k 2 F5 T60 MS\r\nhi\r\n", Stored, "set k 5 60 'hi'", "HD\r\n"),
        ("ms k 2 q\r\nhi\r\nmn\r\n", Stored, "set k 0 0 'hi'", "MN\r\n"),
        ("ms k 2 s c k O7\r\nhi\r\n", Stored, "set k 0 0 'hi'", "HD s9 c43 kk O7\r\n"),
        ("ms k 2 q ME s c\r\nhi\r\n", NotStored, "add k 0 0 'hi'", "NS s2 c0\r\n"),
        ("ms k 2 MR\r\nhi\r\n", NotStored, "replace k 0 0 'hi'", "NS\r\n"),
        ("ms k 2 MA N30\r\nhi\r\n", Stored, "append k 0 0 'hi' vivify=30", "HD\r\n"),
        ("ms k 2 MP C5 I\r\nhi\r\n", Exists, "prepend k 0 0 'hi' compare=5", "EX\r\n"),
        (
            "ms k 2 C5 I E9 O1\r\nhi\r\n",
            NotFound,
            "set k 0 0 'hi' compare=5 invalidate=true explicit=9",
            "NF O1\r\n",
        ),
        ("ms k 2 C5 MR\r\nhi\r\n", NotFound, "set k 0 0 'hi' compare=5", "NF\r\n"),
        ("ms k 2 C5 ME N3\r\nhi\r\n", NotStored, "add k 0 0 'hi'", "NS\r\n"),
        ("ms k 2 C5 MA q\r\nhi\r\n", NotFound, "append k 0 0 'hi' compare=5", "NS\r\n"),
        ("ms k 2 q\r\nhixx", Stored, "", "CLIENT_ERROR bad data chunk\r\n"),
        (
            "ms k 2 q\r\nhi\r\n",
            OutOfMemory,
            "set k 0 0 'hi'",
            "SERVER_ERROR out of memory storing object\r\n",
        ),
    ]);
    let body = "x".repeat(5000);
    let answer = "SERVER_ERROR object too large for cache\r\nMN\r\n";
    check(&[(&format!("ms k 5000 q ME\r\n{body}\r\nmn\r\n"), TooLarge, "refuse k TooLarge", answer)]);
    let body = "x".repeat(1000);
    check(&[(&format!("ms k 1000 k\r\n{body}\r\nmn\r\n"), Stored, "set k 0 0 '[1000]'", "HD kk\r\nMN\r\n")]);
}

#[test]
fn deletes() {
    check(&[
        ("md k\r\n", Deleted, "delete k", "HD\r\n"),
        ("md k q O1\r\nmn\r\n", Deleted, "delete k", "MN\r\n"),
        ("md k q O1 k\r\n", NotFound, "delete k", "NF O1 kk\r\n"),
        ("md k C5 q\r\n", Exists, "delete k compare=5", "EX\r\n"),
        ("md k I T30 x E9\r\n", Deleted, "delete k invalidate=true touch=30 drop=true explicit=9", "HD\r\n"),
        ("md k\r\n", NotStored, "delete k", "NS\r\n"),
    ]);
}

#[test]
fn arithmetic() {
    check(&[
        ("ma k\r\n", Number(5), "incr k 1", "HD\r\n"),
        ("ma k v t c k O1\r\n", Number(15), "incr k 1", "VA 2 t-1 c42 kk O1\r\n15\r\n"),
        ("ma k MD D7\r\n", Number(5), "decr k 7", "HD\r\n"),
        ("ma k M- D7\r\n", Number(5), "decr k 7", "HD\r\n"),
        ("ma k M+ T9 C8 E7\r\n", Number(5), "incr k 1 compare=8 touch=9 explicit=7", "HD\r\n"),
        ("ma k N90 J7 v\r\n", Number(7), "incr k 1 initial=7@90", "VA 1\r\n7\r\n"),
        ("ma k N90\r\n", Number(0), "incr k 1 initial=0@90", "HD\r\n"),
        ("ma k q\r\nmn\r\n", Number(7), "incr k 1", "MN\r\n"),
        ("ma k N9 T5\r\n", Number(7), "incr k 1 initial=0@5 touch=5", "HD\r\n"),
        ("ma k T5 N9\r\n", Number(7), "incr k 1 initial=0@9 touch=5", "HD\r\n"),
        ("ma k q O1 k\r\n", NotFound, "incr k 1", "NF O1 kk\r\n"),
        ("ma k C1\r\n", Exists, "incr k 1 compare=1", "EX\r\n"),
        (
            "ma k q\r\n",
            NonNumeric,
            "incr k 1",
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        ),
        ("ma k q\r\n", OutOfMemory, "incr k 1", "SERVER_ERROR out of memory\r\n"),
        ("ma k Mx\r\n", Miss, "", "CLIENT_ERROR invalid mode for ma M token\r\n"),
        ("ma k Mi\r\n", Miss, "", "CLIENT_ERROR invalid mode for ma M token\r\n"),
        ("ma k Dx\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ("ma k q q\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ]);
}

#[test]
fn looking() {
    check(&[
        ("me k\r\n", Special(dying), "inspect k", "ME k exp=-30 la=3 cas=42 fetch=yes cls=1 size=66\r\n"),
        ("me k x y\r\n", Miss, "inspect k", "EN\r\n"),
    ]);
}

#[test]
fn wrong_flags() {
    let long = "k".repeat(251);
    let opaque = "O12345678901234567890123456789012";
    check(&[
        (&format!("mg {long}\r\n"), Miss, "", "CLIENT_ERROR bad command line format\r\n"),
        (&format!("ms {long} 2\r\nhi\r\nmn\r\n"), Miss, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("mg k Tx\r\n", Miss, "", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k N\r\n", Miss, "", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k R5000000000\r\n", Miss, "", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k C-1\r\n", Miss, "", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k E\r\n", Miss, "", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k Fx\r\n", Miss, "", "CLIENT_ERROR bad command line format\r\n"),
        ("mg k Jx\r\n", Miss, "", "CLIENT_ERROR invalid numeric initial value\r\n"),
        ("mg k Dx\r\n", Miss, "", "CLIENT_ERROR invalid numeric delta value\r\n"),
        ("mg k !\r\n", Miss, "", "CLIENT_ERROR invalid flag\r\n"),
        ("mg k Tx z\r\n", Miss, "", "CLIENT_ERROR invalid flag\r\n"),
        ("mg k v q v\r\n", Miss, "", "CLIENT_ERROR duplicate flag\r\n"),
        ("mg k \u{e9}\r\n", Miss, "", "CLIENT_ERROR bad command line format\r\n"),
        (&format!("mg k {}\r\n", &opaque[..33]), Miss, "", "CLIENT_ERROR opaque token too long\r\n"),
        (&format!("md k {}\r\n", &opaque[..33]), Miss, "", "CLIENT_ERROR opaque token too long\r\n"),
        (&format!("mg k {}\r\n", &opaque[..32]), Miss, "get k Meta", &format!("EN {}\r\n", &opaque[..32])),
        (
            "mg k s t c f v h l u k O1 q b N0 T0 R0 P L E1 C1\r\n",
            Miss,
            "",
            "CLIENT_ERROR options flags are too long\r\n",
        ),
        (
            "ms k 2 s t c f v h l u k O1 q b N0 T0 R0 P L E1\r\nhi\r\nmn\r\n",
            Miss,
            "",
            "CLIENT_ERROR options flags are too long\r\nMN\r\n",
        ),
        ("ms k 2 z\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR invalid flag\r\nMN\r\n"),
        ("ms k 2 c c\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR duplicate flag\r\nMN\r\n"),
        ("ms k 2 Mx\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR invalid mode for ms M token\r\nMN\r\n"),
        ("ms k 2 M\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR incorrect length for M token\r\nMN\r\n"),
        ("ms k 2 Mset\r\nhi\r\nmn\r\n", Miss, "", "CLIENT_ERROR incorrect length for M token\r\nMN\r\n"),
        ("mg k Mset\r\n", Miss, "", "CLIENT_ERROR incorrect length for M token\r\n"),
        ("ma k Mincr\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ("ms k x\r\nmn\r\n", Miss, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("ms k -1\r\nmn\r\n", Miss, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("md !!! b\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ("ma !!! b\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ("md k z\r\n", Miss, "", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ]);
}

#[test]
fn the_longest_base64_key_comes_back_whole() {
    let text = "QUJD".repeat(62);
    let (log, out, _) = exchange_with(limits(), Miss, format!("mg {text} b k\r\n").as_bytes());
    assert_eq!(log, [format!("get {} Meta binary=true", "ABC".repeat(62))]);
    assert_eq!(out, format!("EN k{text} b\r\n").into_bytes());
}
