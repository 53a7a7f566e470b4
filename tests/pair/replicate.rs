//! Whatever changes an item on the master changes it on the backup.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

/// Both nodes answer reads from their own memory.
fn pair() -> Pair {
    setup().flag("--backup-requests").flag("local-reads").start()
}

/// Sends lines to the master, then asks both nodes; their answers must be those expected.
fn check(pair: &Pair, requests: &[(&str, &str)], questions: &[(&str, &str)]) {
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    for (request, answer) in requests {
        client.send(format!("{request}\r\n").as_bytes()).expect("the request");
        for line in answer.lines() {
            assert_eq!(client.line().expect("an answer"), line, "{request}");
        }
    }
    // In step: everything before this has been executed.
    client.version().expect("the version");
    pair.wait_converged(PATIENCE);
    for node in &pair.nodes {
        let mut client = node.client();
        for (question, answer) in questions {
            client.send(format!("{question}\r\n").as_bytes()).expect("the question");
            for line in answer.lines() {
                assert_eq!(client.line().expect("an answer"), line, "{question} on {}", node.name);
            }
        }
    }
}

#[test]
fn a_datagram_at_the_backup_reaches_the_master() {
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let pair = setup().flag("-U").flag(&port.to_string()).start();
    let master = pair.wait_paired();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect((pair.nodes[1 - master].host, port)).expect("an address");
    let answer = wait_for("an answer", PATIENCE, || {
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        socket.send(b"\0\x01\0\0\0\x01\0\0set d 0 0 1\r\nx\r\nget d\r\n").expect("a datagram");
        let mut answer = [0; 1400];
        let length = socket.recv(&mut answer).ok()?;
        Some(answer[8..length].to_vec())
    });
    assert_eq!(answer.escape_ascii().to_string(), r"STORED\r\nVALUE d 0 1\r\nx\r\nEND\r\n");
    assert_eq!(pair.nodes[master].client().get("d").expect("an answer").as_deref(), Some(&b"x"[..]));
}

#[test]
fn text_commands_replicate_with_and_without_noreply() {
    check(
        &pair(),
        &[
            ("set a 7 0 1\r\na", "STORED"),
            ("set b 4294967295 0 1 noreply\r\nb", ""),
            ("add c 0 0 1\r\nc", "STORED"),
            ("add c 0 0 1\r\nx", "NOT_STORED"),
            ("replace c 1 0 2\r\ncc", "STORED"),
            ("append c 0 0 1\r\n>", "STORED"),
            ("prepend c 0 0 1 noreply\r\n<", ""),
            ("set n 0 0 2\r\n41", "STORED"),
            ("incr n 1", "42"),
            ("set m 0 0 2\r\n10", "STORED"),
            ("decr m 1 noreply", ""),
            ("set gone 0 0 1\r\nx", "STORED"),
            ("delete gone", "DELETED"),
            ("set late 0 0 1\r\nx", "STORED"),
            ("touch late -1", "TOUCHED"),
            ("set negative 0 -1 1\r\nx", "STORED"),
        ],
        &[
            ("get a", "VALUE a 7 1\na\nEND"),
            ("get b", "VALUE b 4294967295 1\nb\nEND"),
            ("get c", "VALUE c 1 4\n<cc>\nEND"),
            ("get n m", "VALUE n 0 2\n42\nVALUE m 0 2\n9 \nEND"),
            ("get gone late negative", "END"),
        ],
    );
}

#[test]
fn meta_commands_replicate_with_all_they_remember() {
    check(
        &pair(),
        &[
            ("ms a 2 F5 T1000\r\nhi", "HD"),
            ("ms q 1 q\r\nx\r\nmn", "MN"),
            ("ms n 1\r\n5", "HD"),
            ("ma n D10", "HD"),
            ("ms e 1 E1234\r\nx", "HD"),
            ("ms s 1\r\nx", "HD"),
            ("md s I T500", "HD"),
            ("ms gone 1\r\nx", "HD"),
            ("md gone", "HD"),
            ("mg viv N300 v", "VA 0 W\n\n"),
        ],
        &[
            ("mg a v f", "VA 2 f5\nhi"),
            ("mg q v", "VA 1\nx"),
            ("mg n v", "VA 2\n15"),
            ("mg e c", "HD c1234"),
            ("mg gone v", "EN"),
        ],
    );
}

/// A token taken on the master still works after the failover, and an old one still does not.
#[test]
fn cas_tokens_outlive_the_master() {
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    let token = |client: &mut tandemd::bench::client::Client| {
        let line = client.ask("gets k").expect("gets");
        let token = line.rsplit(' ').next().expect("a token").to_owned();
        client.bytes(3).and_then(|_| client.line()).expect("value and END");
        token
    };
    client.set("k", b"1").expect("a set");
    let old = token(&mut client);
    client.set("k", b"2").expect("a set");
    let new = token(&mut client);
    pair.wait_converged(PATIENCE);
    pair.nodes[master].kill();
    pair.nodes[1 - master].wait_role("master");
    let mut client = pair.nodes[1 - master].client();
    assert_eq!(client.ask(&format!("cas k 0 0 1 {old}\r\n3")).expect("cas"), "EXISTS");
    assert_eq!(client.ask(&format!("cas k 0 0 1 {new}\r\n3")).expect("cas"), "STORED");
}

#[test]
fn flush_all_empties_both_now_and_later() {
    let pair = pair();
    let requests = [("set k 0 0 1\r\nx", "STORED"), ("flush_all", "OK"), ("set new 0 0 1\r\nx", "STORED")];
    check(&pair, &requests, &[("get k new", "VALUE new 0 1\nx\nEND")]);
    let master = pair.wait_paired();
    pair.nodes[master].client().ask("flush_all 1").expect("flush_all");
    for node in &pair.nodes {
        let mut client = node.client();
        wait_for("the delayed flush", PATIENCE, || client.get("new").expect("a get").is_none().then_some(()));
    }
}

/// A key that one node has evicted may live on the other: its deletion must not be forgotten there.
#[test]
fn a_delete_that_found_nothing_replicates_too() {
    let pair = pair();
    let master = pair.wait_paired();
    let before = pair.nodes[master].replicated("changes_sent");
    let answer = pair.nodes[master].client().ask("delete nobody").expect("a delete");
    assert_eq!(answer, "NOT_FOUND");
    wait_for("the change is sent", PATIENCE, || {
        (pair.nodes[master].replicated("changes_sent") > before).then_some(())
    });
}

/// Any client may be connected to any node.
#[test]
fn a_backup_serves_everything_by_handing_it_on() {
    let pair = setup().start();
    let master = pair.wait_paired();
    let mut client = pair.nodes[1 - master].client();
    let mut requests = Vec::new();
    for index in 0..1000 {
        requests.extend(format!("set k{index} 0 0 1\r\nx\r\nincr n 1\r\nget k{index}\r\n").bytes());
    }
    client.set("n", b"0").expect("a set");
    let mut sender = client.sender().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut sender, &requests).expect("pipelined requests"));
        for index in 0..1000 {
            let expected = ["STORED".to_owned(), (index + 1).to_string(), format!("VALUE k{index} 0 1")];
            for line in expected {
                assert_eq!(client.line().expect("an answer"), line);
            }
            assert_eq!(client.line().expect("the value"), "x");
            assert_eq!(client.line().expect("the end"), "END");
        }
    });
    assert!(pair.nodes[1 - master].replicated("proxied_requests") > 0);
    assert_eq!(pair.nodes[master].client().get("n").expect("a get").as_deref(), Some(&b"1000"[..]));
}
