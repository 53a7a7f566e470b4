//! Ways of doing I/O: which one is chosen, and that those that are promised behave as one.
//!
//! All tests run on what `--io auto` chooses, or on what `TANDEM_IO` says (scripts/test.sh runs them on epoll too).

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::harness::{Client, Node, until};
use crate::process::Running;

/// Runs what follows under a seccomp filter that refuses to set up io_uring, as containers have it.
const WITHOUT_URING: &str = r#"
import ctypes, os, struct, sys
SETUP, ALLOW, REFUSE, EPERM = 425, 0x7fff0000, 0x00050000, 1
code = [
    (0x20, 0, 0, 0),                  # the system call's number
    (0x15, 0, 1, SETUP),              # is it io_uring_setup?
    (0x06, 0, 0, REFUSE | EPERM),
    (0x06, 0, 0, ALLOW),
]
program = b"".join(struct.pack("HBBI", *line) for line in code)
buffer = ctypes.create_string_buffer(program)
class Fprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
fprog = Fprog(len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0   # no new privileges
assert libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn under_a_filter(flags: &str) -> Command {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        WITHOUT_URING,
        env!("CARGO_BIN_EXE_tandemd"),
        "-u",
        "root",
        "-l",
        "127.0.0.1",
        "-p",
        "-1",
    ]);
    command.args(flags.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Whether this machine lets anybody use io_uring; says so if not.
fn is_allowed() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("--io auto", directory.path());
    let allowed = io_of(&mut running.client()) == "uring";
    if !allowed {
        println!("skipped: there is no io_uring here");
    }
    allowed
}

fn io_of(client: &mut Client) -> String {
    let settings = client.stats("settings");
    settings.into_iter().find(|(name, _)| name == "io").unwrap().1
}

#[test]
fn where_a_filter_forbids_io_uring_epoll_serves_and_one_line_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ports");
    let mut child = under_a_filter("--io auto").env("MEMCACHED_PORT_FILENAME", &file).spawn().unwrap();
    until("the port file", || file.exists());
    let text = std::fs::read_to_string(&file).unwrap();
    let port: u16 = text.strip_prefix("TCP INET: ").unwrap().trim_end().parse().unwrap();
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.ask("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    assert_eq!(io_of(&mut client), "epoll");
    child.kill().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    child.wait().unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("io_uring")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("clients are served with epoll: io_uring is not allowed here"), "{log}");
}

#[test]
fn who_insists_on_io_uring_is_told_why_it_cannot_be() {
    let output = under_a_filter("--io uring").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("--io uring: io_uring is not allowed here"), "{said}");
    assert!(said.contains("or choose --io epoll"), "{said}");
}

#[test]
fn the_flag_chooses_and_the_settings_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("--io epoll", directory.path());
    assert_eq!(io_of(&mut running.client()), "epoll");
    if is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let running = Running::start("--io uring", directory.path());
        assert_eq!(io_of(&mut running.client()), "uring");
    }
}

/// A dialogue that passes through everything a connection can be in the middle of.
fn dialogue(client: &mut Client, name: &str) {
    let large = "v".repeat(300_000);
    for piece in [&format!("set {name} 0 0 300000\r\n"), &large[..100_000], &large[100_000..], "\r\nget "] {
        client.send(piece);
    }
    client.expect("STORED\r\n");
    client.ask(format!("{name}\r\n"), format!("VALUE {name} 0 300000\r\n{large}\r\nEND\r\n"));
    // More answers than any socket takes at once, asked for before one of them is read.
    let many = 40;
    client.send(format!("get {name}\r\n").repeat(many));
    client.send("mn\r\n");
    for _ in 0..many {
        client.expect(format!("VALUE {name} 0 300000\r\n{large}\r\nEND\r\n"));
    }
    client.expect("MN\r\n");
    // Requests without answers, far more than a turn has, and one with.
    client.send(format!("incr {name}.n 1 noreply\r\n").repeat(5_000));
    client.ask("version\r\n", "VERSION ");
    client.read_until("\r\n");
}

#[test]
fn crowded_workers_lose_no_byte_and_keep_the_order() {
    for io in ["epoll", "uring"] {
        if io == "uring" && !is_allowed() {
            continue;
        }
        let node = Node::start(&format!("--io {io} -t 2 -m 256 -R 5"));
        std::thread::scope(|scope| {
            for number in 0..12 {
                let node = &node;
                scope.spawn(move || dialogue(&mut node.client(), &format!("key{number}")));
            }
        });
        let mut client = node.client();
        assert!(client.stat("conn_yields") > 0, "{io}: nobody gave way");
        until("all to have left", || client.stat("curr_connections") == 1);
        until("their buffers to be given back", || {
            let held = client.stat("read_buf_bytes");
            held <= 2 * (16 << 10) + 2 * (4 << 20)
        });
    }
}
