//! The classic text protocol, as memcached 1.6.45 speaks it.

use super::Sample::*;
use super::*;

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format\r\n";

fn key(len: usize) -> String {
    "k".repeat(len)
}

#[test]
fn stores() {
    check(&[
        ("set k 5 100 3\r\nabc\r\n", Stored, "set k 5 100 'abc'", "STORED\r\n"),
        ("set k 0 0 0\r\n\r\n", Stored, "set k 0 0 ''", "STORED\r\n"),
        ("set k 0 0 3\nabc\r\n", Stored, "set k 0 0 'abc'", "STORED\r\n"),
        ("set  k  0  0  2  \r\n\r\n\r\n", Stored, "set k 0 0 '\\r\\n'", "STORED\r\n"),
        ("set k +1 +1 +1\r\na\r\n", Stored, "set k 1 1 'a'", "STORED\r\n"),
        ("set k 0 0 1 foo\r\na\r\n", Stored, "set k 0 0 'a'", "STORED\r\n"),
        ("set k 0 0 1 noreply\r\na\r\n", Stored, "set k 0 0 'a'", ""),
        ("set k 0 0 1 foo noreply  \r\na\r\n", Stored, "set k 0 0 'a'", ""),
        ("add k 0 -1 1\r\na\r\n", NotStored, "add k 0 -1 'a'", "NOT_STORED\r\n"),
        ("replace k 0 0 1\r\na\r\n", NotStored, "replace k 0 0 'a'", "NOT_STORED\r\n"),
        ("append k 0 0 1\r\na\r\n", NotStored, "append k 0 0 'a'", "NOT_STORED\r\n"),
        ("prepend k 0 0 1\r\na\r\n", Stored, "prepend k 0 0 'a'", "STORED\r\n"),
        ("cas k 1 2 1 9\r\na\r\n", Stored, "set k 1 2 'a' compare=9", "STORED\r\n"),
        ("cas k 1 2 1 9\r\na\r\n", Exists, "set k 1 2 'a' compare=9", "EXISTS\r\n"),
        ("cas k 1 2 1 9\r\na\r\n", NotFound, "set k 1 2 'a' compare=9", "NOT_FOUND\r\n"),
        ("cas k 1 2 1 0 noreply\r\na\r\n", Exists, "set k 1 2 'a' compare=0", ""),
        (
            "set k 0 0 1\r\na\r\n",
            OutOfMemory,
            "set k 0 0 'a'",
            "SERVER_ERROR out of memory storing object\r\n",
        ),
        (
            "append k 0 0 1\r\na\r\n",
            TooLarge,
            "append k 0 0 'a'",
            "SERVER_ERROR object too large for cache\r\n",
        ),
        ("set k 0 0 1\r\na\r\n", Refused("no master"), "set k 0 0 'a'", "SERVER_ERROR no master\r\n"),
        ("set k 0 0 1 noreply\r\na\r\n", Refused("no master"), "set k 0 0 'a'", ""),
    ]);
}

#[test]
fn numbers_are_cut_as_memcached_cuts_them() {
    check(&[
        ("set k 4294967296 0 1\r\na\r\n", Stored, "set k 0 0 'a'", "STORED\r\n"),
        ("set k 4294967295 0 1\r\na\r\n", Stored, "set k 4294967295 0 'a'", "STORED\r\n"),
        ("set k 0 4294967295 1\r\na\r\n", Stored, "set k 0 -1 'a'", "STORED\r\n"),
    ]);
}

#[test]
fn a_refused_line_swallows_the_data_it_announced() {
    let long = format!("set {} 0 0 3\r\nabc\r\nmn\r\n", key(251));
    check(&[
        ("set k -1 0 3\r\nabc\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 abc 3\r\nabc\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 5abc 0 3\r\nabc\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 5abc 0 3 noreply\r\nabc\r\nmn\r\n", Stored, "", "MN\r\n"),
        ("cas k 0 0 1\r\na\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("cas k 0 0 1 x\r\na\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("cas k 0 0 1 noreply\r\na\r\nmn\r\n", Stored, "", "MN\r\n"),
        (&long, Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
    ]);
}

#[test]
fn a_length_that_is_none_swallows_nothing() {
    check(&[
        ("set k 0 0 -1\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 0 x\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 0 2147483647\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 0 2147483646\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 0 4294967297\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        (
            "set k 0 0 99999999999999999999\r\nmn\r\n",
            Stored,
            "",
            "CLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        ("set k 0 0\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set k 0 0 -1 noreply\r\nmn\r\n", Stored, "", "MN\r\n"),
        ("set k 0 0 noreply\r\nmn\r\n", Stored, "", "MN\r\n"),
        ("set k 0 noreply\r\nmn\r\n", Stored, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        ("set\r\n", Stored, "", BAD_FORMAT),
    ]);
}

#[test]
fn a_bad_data_chunk_takes_its_length_and_no_more() {
    check(&[
        (
            "set k 0 0 1\r\nabc\r\n",
            Stored,
            "",
            "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\n",
        ),
        (
            "set k 0 0 3\r\nabcd\n\r\nmn\r\n",
            Stored,
            "",
            "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        ("set k 0 0 3 noreply\r\nabcdemn\r\n", Stored, "", "MN\r\n"),
    ]);
}

#[test]
fn reads() {
    check(&[
        ("get k\r\n", Found("abc"), "get k Get", "VALUE k 7 3\r\nabc\r\nEND\r\n"),
        ("get k\n", Miss, "get k Get", "END\r\n"),
        ("get  k  \r\n", Found(""), "get k Get", "VALUE k 7 0\r\n\r\nEND\r\n"),
        ("gets k\r\n", Found("abc"), "get k Get", "VALUE k 7 3 42\r\nabc\r\nEND\r\n"),
        (
            "get a  b c \r\nmn\r\n",
            Found("x"),
            "get a Get; get b Get; get c Get",
            "VALUE a 7 1\r\nx\r\nVALUE b 7 1\r\nx\r\nVALUE c 7 1\r\nx\r\nEND\r\nMN\r\n",
        ),
        ("gets a a\r\n", Miss, "get a Get; get a Get", "END\r\n"),
        ("gat 10 k\r\n", Found("x"), "get k GetAndTouch touch=10", "VALUE k 7 1\r\nx\r\nEND\r\n"),
        (
            "gats -1 a b\r\n",
            Found("x"),
            "get a GetAndTouch touch=-1; get b GetAndTouch touch=-1",
            "VALUE a 7 1 42\r\nx\r\nVALUE b 7 1 42\r\nx\r\nEND\r\n",
        ),
        ("get a b\r\n", Refused("x"), "get a Get; get b Get", "SERVER_ERROR x\r\n"),
    ]);
}

#[test]
fn one_bad_key_spoils_the_whole_answer_once() {
    let long = key(251);
    let fits = key(250);
    check(&[
        (&format!("get {long}\r\nmn\r\n"), Miss, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        (&format!("get a b {long} c\r\nmn\r\n"), Miss, "", "CLIENT_ERROR bad command line format\r\nMN\r\n"),
        (&format!("gat 0 a {long}\r\n"), Miss, "", BAD_FORMAT),
        (&format!("get {fits}\r\n"), Miss, &format!("get {fits} Get"), "END\r\n"),
        (&format!("delete {long}\r\n"), Miss, "", BAD_FORMAT),
        (&format!("touch {long} 0\r\n"), Miss, "", BAD_FORMAT),
        (&format!("incr {long} 1 noreply\r\n"), Miss, "", ""),
    ]);
}

#[test]
fn other_item_commands() {
    check(&[
        ("delete k\r\n", Deleted, "delete k", "DELETED\r\n"),
        ("delete k 0\r\n", NotFound, "delete k", "NOT_FOUND\r\n"),
        ("delete k 0 noreply\r\n", Deleted, "delete k", ""),
        ("delete k noreply\r\n", Deleted, "delete k", ""),
        ("delete a b c d e\r\n", Deleted, "", "ERROR\r\n"),
        ("delete k 0 noreply x\r\n", Deleted, "", "ERROR\r\n"),
        ("incr k 5\r\n", Number(15), "incr k 5", "15\r\n"),
        ("decr k 18446744073709551615\r\n", Number(0), "decr k 18446744073709551615", "0\r\n"),
        ("incr k 5 noreply\r\n", Number(15), "incr k 5", ""),
        ("incr k 1\r\n", NotFound, "incr k 1", "NOT_FOUND\r\n"),
        (
            "incr k 1\r\n",
            NonNumeric,
            "incr k 1",
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        ),
        ("incr k 1\r\n", OutOfMemory, "incr k 1", "SERVER_ERROR out of memory\r\n"),
        ("incr k -1\r\n", Miss, "", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr k abc\r\n", Miss, "", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr k 18446744073709551616\r\n", Miss, "", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr k noreply\r\n", Miss, "", ""),
        ("touch k 10\r\n", Touched, "touch k 10", "TOUCHED\r\n"),
        ("touch k 10\r\n", NotFound, "touch k 10", "NOT_FOUND\r\n"),
        ("touch k -1 noreply\r\n", Touched, "touch k -1", ""),
        ("touch k abc\r\n", Miss, "", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("touch k 4294967295\r\n", Miss, "", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("gat abc k\r\n", Miss, "", "CLIENT_ERROR invalid exptime argument\r\n"),
    ]);
}

#[test]
fn lines_that_are_no_commands() {
    for input in [
        "\r\n",
        "\n",
        "a\r\n",
        "mn\n",
        "get\r\n",
        "get \r\n",
        "gets\r\n",
        "gat\r\n",
        "gat 0\r\n",
        "gats 0 \r\n",
        "delete\r\n",
        "incr k\r\n",
        "decr\r\n",
        "touch k\r\n",
        "mg\r\n",
        "ms k\r\n",
        "md\r\n",
        "ma \r\n",
        "me\r\n",
        "verbosity\r\n",
        "verbosity x\r\n",
    ] {
        check(&[(input, Miss, "", BAD_FORMAT)]);
    }
    for input in [
        "foo\r\n",
        "GET k\r\n",
        " get k\r\n",
        "\tget k\r\n",
        "get\tk\r\n",
        "sets k 0 0 1\r\n",
        "mx k\r\n",
        "cache_memlimit\r\n",
        "cache_memlimit x\r\n",
        "\0\0\0\0\r\n",
    ] {
        check(&[(input, Miss, "", "ERROR\r\n")]);
    }
}

#[test]
fn numbers_above_32_bits_are_large_and_not_wrong() {
    check(&[
        ("verbosity 4294967296\r\n", Miss, "Verbosity(2)", "OK\r\n"),
        (
            "cache_memlimit 9999999999\r\n",
            Miss,
            "",
            "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
        ),
    ]);
}

#[test]
fn sessions() {
    check(&[
        ("version\r\n", Miss, "Version", "VERSION 1.2.3\r\n"),
        ("version foo\r\n", Miss, "Version", "VERSION 1.2.3\r\n"),
        ("quit\r\n", Miss, "Quit", ""),
        ("stats\n", Miss, "Stats([])", "STAT pid 1\r\nEND\r\n"),
        ("stats  reset \r\n", Miss, "Stats([114, 101, 115, 101, 116])", "RESET\r\n"),
        ("stats x y\r\n", Miss, "Stats([120, 32, 121])", "ERROR\r\n"),
        ("flush_all\r\n", Miss, "FlushAll(None)", "OK\r\n"),
        ("flush_all \r\n", Miss, "FlushAll(None)", "OK\r\n"),
        ("flush_all noreply\r\n", Miss, "FlushAll(None)", ""),
        ("flush_all 10\r\n", Miss, "FlushAll(Some(Exptime(10)))", "OK\r\n"),
        ("flush_all -1 noreply\r\n", Miss, "FlushAll(Some(Exptime(-1)))", ""),
        ("flush_all abc\r\n", Miss, "", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("verbosity 1\r\n", Miss, "Verbosity(1)", "OK\r\n"),
        ("verbosity 99 noreply\r\n", Miss, "Verbosity(2)", ""),
        ("cache_memlimit 8\r\n", Miss, "CacheMemlimit(8)", "OK\r\n"),
        ("cache_memlimit 7\r\n", Miss, "", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"),
        (
            "cache_memlimit 1000000001\r\n",
            Miss,
            "",
            "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
        ),
        ("shutdown\r\n", Miss, "", "SERVER_ERROR: shutdown not enabled\r\n"),
        ("lru_crawler enable\r\n", Miss, "LruCrawler([101, 110, 97, 98, 108, 101])", "OK\r\n"),
        ("lru a noreply\r\n", Miss, "Lru([97])", ""),
        ("slabs \r\n", Miss, "Slabs([])", "OK\r\n"),
        ("watch\r\n", Miss, "Watch([])", "OK\r\n"),
        ("refresh_certs\r\n", Miss, "RefreshCerts", "OK\r\n"),
        ("mn\r\n", Miss, "", "MN\r\n"),
    ]);
}

#[test]
fn switches() {
    let on = Limits { shutdown_enabled: true, flush_enabled: false, ..limits() };
    check_with(
        on,
        &[
            ("shutdown\r\n", Miss, "Shutdown(false)", "OK\r\n"),
            ("shutdown graceful\r\n", Miss, "Shutdown(true)", "OK\r\n"),
            ("shutdown now\r\n", Miss, "", "CLIENT_ERROR invalid shutdown mode\r\n"),
            ("flush_all\r\n", Miss, "FlushForbidden", "CLIENT_ERROR flush_all not allowed\r\n"),
            ("flush_all 5 noreply\r\n", Miss, "FlushForbidden", ""),
        ],
    );
}

#[test]
fn http_is_hung_up_on() {
    for input in ["GET / HTTP/1.1\r\n", "POST /x HTTP/1.0\n", "foo HTTP/\r\n"] {
        assert_eq!(exchange_with(limits(), Miss, input.as_bytes()), (vec![], vec![], true), "{input:?}");
    }
    check(&[("get HTTP/1.1\r\n", Miss, "get HTTP/1.1 Get", "END\r\n")]);
}

#[test]
fn large_values_are_announced_and_arrive_whole() {
    let value = "v".repeat(1000);
    check(&[
        (&format!("set k 1 2 1000\r\n{value}\r\nmn\r\n"), Stored, "set k 1 2 '[1000]'", "STORED\r\nMN\r\n"),
        (&format!("cas k 1 2 1000 5\n{value}\r\n"), Stored, "set k 1 2 '[1000]' compare=5", "STORED\r\n"),
        (&format!("set k 1 2 1000\r\n{value}xxmn\r\n"), Stored, "", "CLIENT_ERROR bad data chunk\r\nMN\r\n"),
        (&format!("set k 1 2 1000 noreply\r\n{value}xxmn\r\n"), Stored, "", "MN\r\n"),
    ]);
}

#[test]
fn the_size_limit_counts_as_memcached_counts() {
    let limits = Limits { inline_max: usize::MAX, ..Limits::default() };
    for (flags, cas, fits) in [(0, true, 1_048_516), (1, true, 1_048_512), (0, false, 1_048_524)] {
        let limits = Limits { cas, ..limits };
        let mut codec = Codec::new(Protocol::Auto, limits);
        let line = format!("set k {flags} 0 {fits}\r\n");
        assert!(
            matches!(codec.decode(line.as_bytes()), Decoded::Incomplete { more } if more == fits + 2),
            "{line}"
        );
        let line = format!("set k {flags} 0 {}\r\n", fits + 1);
        assert!(matches!(codec.decode(line.as_bytes()), Decoded::Request { .. }), "{line}");
    }
}

#[test]
fn a_set_that_is_too_large_drops_the_old_item_and_any_such_store_its_own_body() {
    let body = "x".repeat(5000);
    let answer = "SERVER_ERROR object too large for cache\r\nMN\r\n";
    check(&[
        (&format!("set k 0 0 5000\r\n{body}\r\nmn\r\n"), TooLarge, "refuse k TooLarge", answer),
        (&format!("set k 0 0 5000 noreply\r\n{body}\r\nmn\r\n"), TooLarge, "refuse k TooLarge", "MN\r\n"),
        (&format!("add k 0 0 5000\r\n{body}\r\nmn\r\n"), TooLarge, "refuse k TooLarge, which stays", answer),
        (
            &format!("append k 0 0 5000\r\n{body}\r\nmn\r\n"),
            TooLarge,
            "refuse k TooLarge, which stays",
            answer,
        ),
        (
            &format!("cas k 0 0 5000 1\r\n{body}\r\nmn\r\n"),
            TooLarge,
            "refuse k TooLarge, which stays",
            answer,
        ),
    ]);
}

#[test]
fn a_body_of_two_gigabytes_is_thrown_away_without_being_kept() {
    let mut connection = Connection::new(Protocol::Auto, limits(), TooLarge);
    connection.feed(b"set k 0 0 2147483645\r\n");
    let chunk = vec![b'x'; 16 << 20];
    let mut left = 2_147_483_645usize + 2;
    while left > 0 {
        let part = left.min(chunk.len());
        assert!(connection.codec.is_midway() && connection.out.is_empty());
        connection.feed(&chunk[..part]);
        left -= part;
    }
    assert!(!connection.codec.is_midway());
    connection.feed(b"mn\r\n");
    assert_eq!(connection.out.to_vec(), b"SERVER_ERROR object too large for cache\r\nMN\r\n");
    assert_eq!(connection.log, ["refuse k TooLarge"]);
}

#[test]
fn a_body_there_is_no_memory_for_is_answered_once_and_thrown_away() {
    for (line, log, answer) in [
        (
            "set k 0 0 1000",
            vec!["refuse k OutOfMemory"],
            "SERVER_ERROR out of memory storing object\r\nMN\r\n",
        ),
        ("set k 0 0 1000 noreply", vec!["refuse k OutOfMemory"], "MN\r\n"),
        (
            "add k 0 0 1000",
            vec!["refuse k OutOfMemory, which stays"],
            "SERVER_ERROR out of memory storing object\r\nMN\r\n",
        ),
        (
            "ms k 1000 q MA",
            vec!["refuse k OutOfMemory"],
            "SERVER_ERROR out of memory storing object\r\nMN\r\n",
        ),
    ] {
        let mut connection = Connection::new(Protocol::Auto, limits(), OutOfMemory);
        connection.no_memory = true;
        connection.feed(format!("{line}\r\n").as_bytes());
        connection.feed(&[b'x'; 1000]);
        connection.feed(b"\r\nmn\r\n");
        assert_eq!(connection.out.to_vec(), answer.as_bytes(), "{line}");
        assert_eq!(connection.log, log, "{line}");
    }
}

#[test]
fn lines_without_end_are_cut_off() {
    let mut connection = Connection::new(Protocol::Auto, limits(), Miss);
    connection.feed(&[b'a'; 2048]);
    assert_eq!(connection.closed, None);
    connection.feed(b"a");
    assert!(connection.closed.is_some());
    for start in ["set ", "gat 0 ", "mg ", "", "\0"] {
        let mut connection = Connection::new(Protocol::Auto, limits(), Miss);
        connection.feed(start.as_bytes());
        connection.feed(&[b'k'; 3000]);
        assert!(connection.closed.is_some(), "{start:?}");
    }
    // A line may be longer if its end is there.
    let line = format!("touch k 5 {}\r\n", "x".repeat(5000));
    assert_eq!(exchange_in(limits(), Touched, line.as_bytes(), &[]).1, b"TOUCHED\r\n");
}

#[test]
fn a_million_keys_in_one_line_need_no_memory() {
    for verb in ["get", "gets"] {
        let mut connection = Connection::new(Protocol::Auto, limits(), Miss);
        let mut line = verb.as_bytes().to_vec();
        let key = "k".repeat(100);
        let (mut sent, mut decoded) = (0usize, 0);
        for number in 0..1_000_000 / if verb == "get" { 1 } else { 50 } {
            line.extend_from_slice(format!(" {number}{key}").as_bytes());
            if line.len() > 16_000 {
                sent += line.len();
                connection.feed(&line);
                line.clear();
                decoded += connection.log.len();
                connection.log.clear();
            }
        }
        line.extend_from_slice(b"\r\nmn\r\n");
        connection.feed(&line);
        decoded += connection.log.len();
        assert_eq!(connection.out.to_vec(), b"END\r\nMN\r\n");
        if verb == "get" {
            assert!(sent > 100_000_000 && decoded == 1_000_000, "{sent} {decoded}");
        }
        assert!(connection.longest_buffer < 20_000, "{}", connection.longest_buffer);
    }
}

#[test]
fn a_streamed_line_ends_wherever_it_is_cut() {
    let keys = "abc ".repeat(600);
    for end in ["\r\nmn\r\n", "  \r\nmn\r\n", "last\r\nmn\r\n", "last  \nmn\r\n", "last \r\nmn\r\n"] {
        let line = format!("get {keys}{end}");
        let count = 600 + usize::from(end.starts_with("last"));
        for cut in line.len() - 12..line.len() {
            let (log, out, closed) = exchange_in(limits(), Miss, line.as_bytes(), &[2100, cut]);
            assert_eq!(
                (log.len(), out.as_slice(), closed),
                (count, &b"END\r\nMN\r\n"[..], false),
                "{end:?} at {cut}"
            );
        }
    }
}

#[test]
fn a_streamed_line_stops_at_a_bad_key() {
    let long = key(251);
    for (line, hits) in [
        (format!("get {}{long} {}\r\nmn\r\n", "abc ".repeat(600), "abc ".repeat(600)), 600),
        (format!("get {}{long}\r\nmn\r\n", "abc ".repeat(600)), 600),
        (format!("get {}{} x\r\nmn\r\n", "abc ".repeat(600), key(10_000)), 600),
        (format!("get {}\r\nmn\r\n", " ".repeat(3000)), 0),
    ] {
        let (log, out, _) = exchange_in(limits(), Miss, line.as_bytes(), &[2100, 2300, 2400, 2500]);
        assert_eq!(log.len(), hits);
        assert_eq!(String::from_utf8_lossy(&out), "CLIENT_ERROR bad command line format\r\nMN\r\n");
    }
    let line = format!("  get {}\r\nmn\r\n", "abc ".repeat(600));
    let (log, out, _) = exchange_in(limits(), Miss, line.as_bytes(), &[2100]);
    assert_eq!((log.len(), out.as_slice()), (0, &b"ERROR\r\nMN\r\n"[..]));
}

#[test]
fn the_rest_of_a_multiget_can_be_resumed_elsewhere() {
    for (line, resumption) in [
        ("get a b c\r\n", "get"),
        ("gets a b c\r\n", "gets"),
        ("gat 5 a b c\r\n", "gat 5"),
        ("gats -1 a b c\r\n", "gats -1"),
    ] {
        let mut codec = Codec::new(Protocol::Auto, limits());
        let Decoded::Request { used, .. } = codec.decode(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(&line[used..], " b c\r\n");
        assert_eq!(codec.resumption().unwrap(), resumption.as_bytes());
        assert!(codec.is_midway());
    }
}

#[test]
fn large_values_are_answered_from_their_pages() {
    let parts = [Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
    let pages = Pages::new(parts);
    let mut codec = Codec::new(Protocol::Auto, limits());
    let Decoded::Request { request: Request::Item { command, form }, .. } = codec.decode(b"gets k\r\n")
    else {
        panic!("a read")
    };
    let mut out = Output::new();
    let mut found = hit("");
    found.value = Value::Pages(&pages);
    form.render(&command, Outcome::Value(found.shown()), NOW, &mut out);
    assert_eq!(out.to_vec(), b"VALUE k 7 6 42\r\nabcdef\r\nEND\r\n");
}

#[test]
fn listeners_may_insist_on_a_protocol() {
    let mut codec = Codec::new(Protocol::Text, limits());
    assert!(matches!(codec.decode(b"\x80\r\n\r\n"), Decoded::Request { request: Request::Say(_), .. }));
    let mut codec = Codec::new(Protocol::Binary, limits());
    assert!(matches!(codec.decode(b"get k\r\n"), Decoded::Close(_)));
}
