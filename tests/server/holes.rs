//! Holes that other servers of these protocols had, each by its name, over a socket: what comes back,
//! and that the node serves on with what it held before. (The codec's own are in
//! `src/protocol/tests/regressions.rs`.)

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use tandemd::config::Config;

use crate::forwarding;
use crate::harness::{Client, Node, config, until};
use crate::process::Running;

/// A binary header with these lengths, and `there` bytes of body.
fn packet(opcode: u8, key_len: u16, extras_len: u8, body_len: u32, there: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend(key_len.to_be_bytes());
    bytes.extend([extras_len, 0, 0, 0]);
    bytes.extend(body_len.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend(vec![b'k'; there]);
    bytes
}

/// A whole packet.
fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [extras, key, value].concat();
    let mut bytes = packet(opcode, key.len() as u16, extras.len() as u8, body.len() as u32, 0);
    bytes.extend(body);
    bytes
}

/// Status and body of the next answer.
fn answer(client: &mut Client) -> (u8, u16, Vec<u8>) {
    let mut head = [0; 24];
    client.0.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x81);
    let mut body = vec![0; u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize];
    client.0.read_exact(&mut body).unwrap();
    (head[1], u16::from_be_bytes([head[6], head[7]]), body)
}

/// A node that holds something, and must hold it at the end.
struct Guarded {
    node: Node,
    keeper: Client,
}

impl Guarded {
    fn start(flags: &str) -> Self {
        Self::with(config(flags))
    }

    fn with(config: Config) -> Self {
        let node = Node::start_with(&config);
        let keeper = node.client();
        let mut guarded = Self { node, keeper };
        guarded.keeper.ask("set kept 0 0 4\r\nsafe\r\n", "STORED\r\n");
        guarded
    }

    fn client(&self) -> Client {
        self.node.client()
    }

    /// One error is answered, with this status, and the connection ends.
    #[track_caller]
    fn refuses(&self, bytes: &[u8], status: u16) {
        let mut client = self.client();
        client.send(bytes);
        let (_, said, _) = answer(&mut client);
        assert_eq!(said, status, "{}", bytes[..24].escape_ascii());
        // The end may come as a reset, because part of what was sent is not read.
        let mut rest = Vec::new();
        let _reset = client.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "nothing follows: {}", rest.escape_ascii());
    }

    #[track_caller]
    fn still_serves(&mut self) {
        self.keeper.ask("get kept\r\n", "VALUE kept 0 4\r\nsafe\r\nEND\r\n");
    }
}

#[test]
fn cve_2016_8704_append_and_prepend_with_a_body_shorter_than_the_key() {
    let mut node = Guarded::start("");
    for opcode in [0x0e, 0x0f, 0x19, 0x1a] {
        node.refuses(&packet(opcode, 250, 0, 0, 300), 0x81);
        node.refuses(&packet(opcode, 250, 0, 249, 300), 0x81);
        node.refuses(&packet(opcode, 1, 0, u32::MAX, 300), 4);
    }
    node.still_serves();
}

#[test]
fn cve_2016_8705_updates_whose_lengths_underflow() {
    let mut node = Guarded::start("");
    for opcode in [0x01, 0x02, 0x03, 0x11, 0x12, 0x13] {
        node.refuses(&packet(opcode, 250, 8, 250, 300), 0x81);
        node.refuses(&packet(opcode, 250, 8, 0xffff_ffd0, 300), 4);
    }
    node.still_serves();
}

/// A node whose clients authenticate by SASL.
fn with_sasl() -> (Node, tempfile::NamedTempFile) {
    let mut users = tempfile::NamedTempFile::new().unwrap();
    users.write_all(b"alice:secret\nbob:hunter2\ncarol:s3cr3t\n").unwrap();
    let mut config = config("-S");
    config.process.sasl_file = Some(users.path().to_path_buf());
    (Node::start_with(&config), users)
}

fn sasl(user: &str, password: &str) -> Vec<u8> {
    request(0x21, b"", b"PLAIN", format!("\0{user}\0{password}").as_bytes())
}

#[test]
fn cve_2016_8706_sasl_with_a_body_shorter_than_the_key() {
    let (node, _users) = with_sasl();
    for opcode in [0x21, 0x22] {
        for (bytes, status) in [
            (packet(opcode, 32, 0, 1, 40), 0x81),
            (packet(opcode, 33, 0, 40, 40), 4),
            (packet(opcode, 5, 0, 0xffff_fff0, 40), 4),
        ] {
            let mut client = node.client();
            client.send(&bytes);
            assert_eq!(answer(&mut client).1, status);
        }
    }
    let mut client = node.client();
    client.send(sasl("bob", "hunter2"));
    assert_eq!(answer(&mut client).1, 0);
}

#[test]
fn cve_2026_47783_every_user_is_compared_to_the_end() {
    // That a comparison takes one time whatever it finds is in `server::auth`; here: what it finds.
    let (node, _users) = with_sasl();
    for (user, password, good) in [
        ("alice", "secret", true),
        ("bob", "hunter2", true),
        ("carol", "s3cr3t", true),
        ("alice", "hunter2", false),
        ("alice", "secre", false),
        ("alice", "secrets", false),
        ("alice", "", false),
        ("", "secret", false),
        ("alic", "secret", false),
        ("alice", "secret\0", false),
        ("nobody", "secret", false),
    ] {
        let mut early = node.client();
        early.send(request(0, b"", b"kept", b""));
        assert_eq!(answer(&mut early).1, 0x20, "nothing before authentication");
        early.expect_closed();
        let mut client = node.client();
        client.send(sasl(user, password));
        assert_eq!(answer(&mut client).1, if good { 0 } else { 0x20 }, "{user} {password}");
        client.send(request(0, b"", b"kept", b""));
        assert_eq!(answer(&mut client).1, if good { 1 } else { 0x20 }, "{user} {password}");
    }
}

#[test]
fn cve_2018_1000115_nobody_answers_datagrams_unless_asked_to() {
    let node = Guarded::start("");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(node.node.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(b"\0\x01\0\0\0\x01\0\0stats\r\n").unwrap();
    // Loopback tells at once that nobody listens.
    let error = socket.recv(&mut [0; 2000]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn cve_2020_10931_extras_longer_than_the_body() {
    let mut node = Guarded::start("");
    for opcode in 0..=0xff {
        node.refuses(&packet(opcode, 0, 255, 3, 300), 0x81);
    }
    node.still_serves();
}

#[test]
fn cve_2020_22570_meta_flags_of_any_byte() {
    let mut node = Guarded::start("");
    let mut client = node.client();
    for byte in (1..=255u8).filter(|byte| !matches!(byte, b'\r' | b'\n' | b' ')) {
        client.send([b"mg kept ", &[byte, byte][..], b" ", &[byte], b"\r\nmn\r\n"].concat());
        let mut line = Vec::new();
        let mut one = [0];
        while !line.ends_with(b"MN\r\n") {
            client.0.read_exact(&mut one).unwrap();
            line.extend(one);
        }
        assert!(line.starts_with(b"CLIENT_ERROR "), "{byte}: {}", line.escape_ascii());
    }
    node.still_serves();
}

/// A client of a node that hands everything on to its master.
fn proxied(talk: impl FnOnce(&mut Client)) {
    let (master, backup) = forwarding::proxied_pair("");
    let mut client = backup.client();
    client.ask("set kept 0 0 4\r\nsafe\r\n", "STORED\r\n");
    talk(&mut client);
    backup.client().ask("get kept\r\n", "VALUE kept 0 4\r\nsafe\r\nEND\r\n");
    drop((master, backup));
}

#[test]
fn cve_2023_46852_multigets_with_many_blanks_through_the_proxy() {
    proxied(|client| {
        for blanks in [1, 2, 100, 1000, 1900] {
            let blanks = " ".repeat(blanks);
            client.ask(
                format!("get{blanks}kept{blanks}none\r\n").as_bytes().get(..).unwrap(),
                if blanks.len() < 1000 { "VALUE kept 0 4\r\nsafe\r\nEND\r\n" } else { "" },
            );
            if blanks.len() >= 1000 {
                // However a line that long is treated: the next request is answered as ever.
                client.send("mn\r\n");
                client.read_until("MN\r\n");
            }
        }
    });
}

#[test]
fn cve_2023_46853_lines_that_end_without_a_carriage_return_through_the_proxy() {
    proxied(|client| {
        client.ask("get kept\n", "VALUE kept 0 4\r\nsafe\r\nEND\r\n");
        client.ask("gets\n", "ERROR\r\n".replace("ERROR", "CLIENT_ERROR bad command line format"));
        client.ask("mg kept v\n", "VA 4\r\nsafe\r\n");
        client.ask("mg kept\n\n", "HD\r\n");
        client.expect("CLIENT_ERROR bad command line format\r\n");
        client.ask("set n 0 0 1\nx\r\nget n\n", "STORED\r\nVALUE n 0 1\r\nx\r\nEND\r\n");
        // Cut behind every byte.
        for byte in b"get kept\n" {
            client.send([*byte]);
        }
        client.expect("VALUE kept 0 4\r\nsafe\r\nEND\r\n");
    });
}

#[test]
fn e3b7d33_more_readers_of_one_item_than_sixteen_bits_count() {
    let mut node = Guarded::start("-m 100");
    let mut client = node.client();
    // Large, so that answers share it.
    let value = vec![b'v'; 5_000];
    client.send(request(0x01, &[0; 8], b"shared", &value));
    assert_eq!(answer(&mut client).1, 0);
    // Never read until all were asked for, by a connection that the server stops to read at some point.
    let reader = node.client();
    let mut writer = reader.0.try_clone().unwrap();
    const READERS: usize = 70_000;
    let sender = std::thread::spawn(move || {
        let gets = request(0x00, b"", b"shared", b"").repeat(1000);
        for _ in 0..READERS / 1000 {
            if writer.write_all(&gets).is_err() {
                return;
            }
        }
    });
    let mut reader = reader;
    for nth in 0..READERS {
        let (_, status, body) = answer(&mut reader);
        // In between it is missing.
        assert!(status == 1 || status == 0 && body.len() == 4 + value.len(), "{nth}: {status}");
        if nth == 100 {
            // It goes while replies hold it.
            node.keeper.ask("delete shared\r\n", "DELETED\r\n");
            client.send(request(0x01, &[0; 8], b"shared", &value));
            assert_eq!(answer(&mut client).1, 0);
        }
    }
    sender.join().unwrap();
    node.still_serves();
}

#[test]
fn _229cf41_body_lengths_around_two_to_the_31st() {
    let mut node = Guarded::start("");
    for length in [0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fffe, u32::MAX] {
        for opcode in [0x00, 0x01, 0x04, 0x05, 0x0e, 0x1c, 0x21] {
            node.refuses(&packet(opcode, 1, 0, length, 100), 4);
        }
    }
    for length in
        ["2147483645", "2147483646", "2147483647", "2147483648", "4294967295", "4294967296", "-2147483648"]
    {
        for line in [format!("set k 0 0 {length}\r\n"), format!("ms k {length}\r\n")] {
            let mut client = node.client();
            client.send(line);
            let mut first = [0; 1];
            client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            // An error at once, or only when the body was thrown away; never memory.
            let _said = client.0.read(&mut first);
        }
    }
    assert!(node.keeper.stat("read_buf_bytes") < 1 << 20);
    node.still_serves();
}

#[test]
fn _32ea7d8_every_opcode_with_every_edge_of_lengths() {
    let mut node = Guarded::start("");
    for opcode in 0..=0x2a {
        let mut client = node.client();
        for (key, extras, body) in
            [(0, 0, 0), (1, 0, 1), (250, 0, 250), (1, 20, 21), (1, 8, 300), (251, 0, 251)]
        {
            if client.0.write_all(&packet(opcode, key, extras, body, body as usize)).is_err() {
                break;
            }
        }
        let _whatever = client.0.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        let _reset = client.0.read_to_end(&mut answers);
        // flush_all, quit and the like do what they say; nothing else may.
        node.keeper.ask("set kept 0 0 4\r\nsafe\r\n", "STORED\r\n");
    }
    node.still_serves();
}

/// A node whose text clients show a token first.
fn with_tokens() -> (Node, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"alice:secret\n").unwrap();
    (Node::start(&format!("-Y {}", file.path().display())), file)
}

fn shows_its_token(node: &Node) {
    node.client().ask("set t 0 0 12\r\nalice secret\r\nget k\r\n", "STORED\r\nEND\r\n");
}

#[test]
fn _9981d74_a_huge_token_before_authentication() {
    let (node, _file) = with_tokens();
    for length in [16 * 1024, 1 << 20, (1 << 31) - 3, u64::MAX] {
        let mut client = node.client();
        let mut writer = client.0.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let _cut_off = writer.write_all(format!("set t 0 0 {length}\r\n").as_bytes());
            for _ in 0..64 {
                if writer.write_all(&[b'x'; 16 * 1024]).is_err() {
                    return;
                }
            }
            let _end = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut said = Vec::new();
        let _reset = client.0.read_to_end(&mut said);
        assert!(!said.starts_with(b"STORED"), "{length}: {}", said.escape_ascii());
        sender.join().unwrap();
    }
    shows_its_token(&node);
    // A huge word instead of a command.
    let mut client = node.client();
    let _cut_off = client.0.write_all(&[b'x'; 1 << 20]);
    let mut said = Vec::new();
    let _reset = client.0.read_to_end(&mut said);
    shows_its_token(&node);
}

#[test]
fn af05c93_empty_lines_before_authentication() {
    let (node, _file) = with_tokens();
    for lines in ["\r\n", "\n", "\n\n\n", "\r\n\r\n", " \r\n", "\r\r\n", "\0\r\n"] {
        let mut client = node.client();
        client.send(lines);
        let _end = client.0.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _reset = client.0.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"CLIENT_ERROR"), "{}", said.escape_ascii());
    }
    shows_its_token(&node);
}

#[test]
fn _93b5e10_a_refused_meta_set_gives_its_memory_back() {
    let mut node = Guarded::start("-m 64");
    let mut client = node.client();
    // Announced as large, so that memory is taken before the body; then refused in every way.
    let value = "x".repeat(500_000);
    for nth in 0..300 {
        match nth % 4 {
            0 => client.ask(
                format!("ms leak{nth} 500000 MZ\r\n{value}\r\nmn\r\n"),
                "CLIENT_ERROR invalid mode for ms M token\r\nMN\r\n",
            ),
            1 => client.ask(format!("ms leak{nth} 500000\r\n{value}xx"), "CLIENT_ERROR bad data chunk\r\n"),
            2 => client.ask(format!("ms none 500000 MR\r\n{value}\r\n"), "NS\r\n"),
            _ => {
                // In the middle of it the client is gone.
                let mut gone = node.client();
                gone.send(format!("ms leak{nth} 500000\r\n{}", &value[..250_000]));
            }
        }
    }
    // 300 leaks of half a megabyte would be twice the limit: this item would not survive.
    node.still_serves();
    for nth in 0..40 {
        client.ask(format!("ms fill{nth} 500000\r\n{value}\r\n"), "HD\r\n");
    }
    assert!(client.stat("curr_items") >= 41);
    node.still_serves();
}

#[test]
fn _0240dde_slabs_commands_with_any_numbers() {
    let mut node = Guarded::start("");
    let mut client = node.client();
    for words in [
        "reassign -1 -1",
        "reassign 0 0",
        "reassign 1 64",
        "reassign 63 1",
        "reassign 255 256",
        "reassign 99999 1",
        "reassign 2147483648 1",
        "reassign -2147483648 2147483647",
        "reassign a b",
        "reassign 1",
        "reassign",
        "automove 3",
        "automove -1",
        "automove",
        "automove 99999999999999999999",
        "nonsense",
        "",
    ] {
        client.send(format!("slabs {words}\r\nmn\r\n"));
        let said = client.read_until("MN\r\n");
        assert!(said.lines().count() <= 2, "{words}: {said}");
    }
    for words in ["tune 0 0 0 0", "tune 101 101 99999 -1", "mode", "temp_ttl -99999999999", "temp_ttl x", ""]
    {
        client.send(format!("lru {words}\r\nmn\r\n"));
        client.read_until("MN\r\n");
    }
    node.still_serves();
}

#[test]
fn _7eeac6e_a_dump_for_a_client_that_does_not_read() {
    let mut node = Guarded::start("");
    let mut client = node.client();
    for n in 0..5000 {
        client.send(format!("set {}{n} 0 0 1 noreply\r\nx\r\n", "k".repeat(200)));
    }
    client.ask("mn\r\n", "MN\r\n");
    let sleepers: Vec<Client> = (0..5)
        .map(|_| {
            let mut sleeper = node.client();
            sleeper.send("lru_crawler metadump all\r\n");
            sleeper
        })
        .collect();
    // Others are served, and may go away in the middle.
    node.still_serves();
    let mut sleepers = sleepers.into_iter();
    drop(sleepers.next());
    drop(sleepers.next());
    node.still_serves();
    let mut last = sleepers.next().unwrap();
    let dump = last.read_until("END\r\n");
    assert!(dump.lines().count() > 5000, "it is whole when it is read after all");
    node.still_serves();
}

#[test]
fn cve_2021_32675_many_announcements_before_authentication_take_no_memory() {
    let (node, _file) = with_tokens();
    let clients: Vec<Client> = (0..50)
        .map(|n| {
            let mut client = node.client();
            let line = match n % 4 {
                0 => format!("get{}", " k".repeat(900)),
                1 => "set k 0 0 1000000\r\n".to_owned(),
                2 => "ms k 1000000\r\n".to_owned(),
                _ => "k".repeat(2000),
            };
            client.send(line);
            client
        })
        .collect();
    shows_its_token(&node);
    let mut inside = node.client();
    inside.ask("set t 0 0 12\r\nalice secret\r\n", "STORED\r\n");
    until("all to have arrived", || inside.stat("total_connections") >= 52);
    assert!(inside.stat("read_buf_bytes") < 4 << 20);
    assert_eq!(inside.stat("curr_items"), 0);
    drop(clients);
    shows_its_token(&node);
}

#[test]
fn m4_a_stranger_at_the_replication_port_gets_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let flags = format!("-x 127.0.0.1:1 -X {} --admin off", address.port());
    let node = Node::start(&flags);
    // repcached's own, a client's, a browser's.
    for bytes in [
        &b"rep kept 0 0 3 1\r\nbad\r\n"[..],
        b"flush_all \r\n",
        b"get kept\r\nstats\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x10\0\0\0\0\0\0",
        b"",
    ] {
        let mut stranger = Client::connect(address);
        stranger.send(bytes);
        let _done = stranger.0.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _reset = stranger.0.read_to_end(&mut said);
        assert!(said.is_empty(), "{}: {}", bytes.escape_ascii(), said.escape_ascii());
    }
    drop(node);
}

#[test]
fn ten_thousand_half_commands_are_held_in_bounded_memory() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Each end of a connection is a descriptor, in a process of its own.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(12_000);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    let count = usize::try_from(wanted - 1500).unwrap().min(10_000);
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start_logging(
        &format!("-m 64 -c {}", count + 100),
        directory.path(),
        &directory.path().join("log"),
    );
    let mut other = running.client();
    other.ask("set kept 0 0 4\r\nsafe\r\n", "STORED\r\n");
    let before = resident_kib(&running);
    let halves =
        ["set key 0 0 100\r\nhalf", "get key", "ms key 100 T", "mg ", "set key 0 0 900000\r\nhalf", "\u{0}"];
    let mut clients: Vec<Client> = (0..count).map(|_| running.client()).collect();
    for (client, half) in clients.iter_mut().zip(halves.iter().cycle()) {
        client.send(half);
    }
    let sent: usize = (0..count).map(|nth| halves[nth % halves.len()].len()).sum();
    until("all to have arrived", || other.stat("bytes_read") as usize > sent);
    // Announced bodies come out of the limit for items, everything else is a few kilobytes each.
    let grown = resident_kib(&running).saturating_sub(before);
    assert!(grown < (64 << 10) + 4 * count as u64, "{grown} KiB for {count} connections");
    other.ask("set new 0 0 3\r\nnew\r\nget new\r\n", "STORED\r\nVALUE new 0 3\r\nnew\r\nEND\r\n");
}

fn resident_kib(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
