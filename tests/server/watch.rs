//! `watch`, over sockets: memcached's lines.

use std::io::{BufRead as _, BufReader};

use crate::harness::{Client, Node, until};

/// A connection that watches.
fn watcher(node: &Node, kinds: &str) -> Client {
    let mut client = node.client();
    client.ask(format!("watch {kinds}\r\n"), "OK\r\n");
    client
}

/// The next line, without its time and number, which are checked.
#[track_caller]
fn line(watcher: &mut Client) -> String {
    let line = watcher.read_until("\n");
    let words: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
    let (secs, micros) = words[0].strip_prefix("ts=").unwrap().split_once('.').unwrap();
    assert!(secs.parse::<u64>().unwrap() > 1_700_000_000 && micros.parse::<u32>().unwrap() < 1_000_000);
    assert!(words[1].strip_prefix("gid=").unwrap().parse::<u64>().unwrap() > 0);
    words[2].to_owned()
}

/// The descriptor under which `stats conns` knows a client.
fn descriptor(client: &mut Client) -> String {
    let address = format!("tcp:{}", client.0.local_addr().unwrap());
    let rows = client.stats("conns");
    let row = rows.iter().find(|(_, value)| *value == address).unwrap();
    row.0.strip_suffix(":addr").unwrap().to_owned()
}

#[test]
fn watchers_of_sysevents_hear_what_the_crawler_removed() {
    let node = Node::start("");
    let mut watcher = watcher(&node, "sysevents");
    let mut client = node.client();
    for number in 0..50 {
        client.ask(format!("set small{number} 0 3 1\r\nx\r\n"), "STORED\r\n");
        client.ask(format!("set large{number} 0 3 700\r\n{}\r\n", "x".repeat(700)), "STORED\r\n");
    }
    let mut reclaimed = std::collections::BTreeMap::new();
    while reclaimed.values().sum::<u64>() < 100 {
        let line = line(&mut watcher);
        let words = line.strip_prefix("type=lru_crawler crawler=").unwrap().split(' ').map(|word| {
            let (_, number) = word.split_once('=').unwrap_or(("crawler", word));
            number.parse::<u64>().unwrap_or_default()
        });
        let [class, _, 0, 0, since, 0, elapsed, examined, gone] = words.collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert!(line.contains(" lru=cold low_mark=0 next_reclaims=0 since_run="), "{line}");
        assert!(elapsed <= since && examined >= gone && examined > 0, "{line}");
        *reclaimed.entry(class).or_default() += gone;
    }
    let classes: Vec<_> = reclaimed.into_iter().collect();
    assert_eq!(classes, [(1, 50), (11, 50)]);
}

#[test]
fn every_command_is_told_as_memcached_tells_it() {
    let node = Node::start("");
    let mut client = node.client();
    let fd = descriptor(&mut client);
    let mut watcher = watcher(&node, "fetchers mutations deletions");
    let mut check = |request: &str, answer: &str, lines: &[&str]| {
        client.ask(request, answer);
        for expected in lines {
            assert_eq!(line(&mut watcher), expected.replace('$', &fd), "{request:?}");
        }
    };
    let get = "type=item_get key=a status=found clsid=1 cfd=$ size=1";
    let miss = "type=item_get key=a status=not_found clsid=0 cfd=$ size=0";
    let store = |status: &str, cmd: &str, ttl: u32, size: u32| {
        format!("type=item_store key=a status={status} cmd={cmd} ttl={ttl} clsid=1 cfd=$ size={size}")
    };
    check("set a 0 0 1\r\nb\r\n", "STORED\r\n", &[miss, &store("stored", "set", 0, 1)]);
    check("set a 5 100 1\r\nb\r\n", "STORED\r\n", &[get, &store("stored", "set", 100, 1)]);
    check("add a 0 0 1\r\nb\r\n", "NOT_STORED\r\n", &[get, &store("not_stored", "add", 0, 1)]);
    check("cas a 0 0 1 1\r\nb\r\n", "EXISTS\r\n", &[get, &store("exists", "cas", 0, 1)]);
    check("ms a 1 C1\r\nb\r\n", "EX\r\n", &[get, &store("exists", "cas", 0, 1)]);
    let missed = "type=item_get key=none status=not_found clsid=0 cfd=$ size=0";
    check("get a none\r\n", "VALUE a 5 1\r\nb\r\nEND\r\n", &[get, missed]);
    check("mg a v\r\n", "VA 1\r\nb\r\n", &[get]);
    check("touch a 0\r\n", "TOUCHED\r\n", &[get]);
    check("append a 0 9 2\r\ncd\r\n", "STORED\r\n", &[get, &store("stored", "append", 0, 3)]);
    let grown = "type=item_get key=a status=found clsid=1 cfd=$ size=3";
    check("delete a\r\n", "DELETED\r\n", &[grown, "type=deleted key=a cmd=delete clsid=1 size=3"]);
    check("delete a\r\n", "NOT_FOUND\r\n", &[miss]);
    check(
        "ma a N0 J7\r\n",
        "HD\r\n",
        &[miss, miss, "type=item_store key=a status=stored cmd=add ttl=0 clsid=1 cfd=$ size=1"],
    );
    check("incr a 1\r\n", "8\r\n", &[get]);
    check("md a\r\n", "HD\r\n", &[get, "type=deleted key=a cmd=md clsid=1 size=1"]);
    check(
        "set k%\u{1}x 0 0 1\r\nb\r\n",
        "STORED\r\n",
        &[
            "type=item_get key=k%25%01x status=not_found clsid=0 cfd=$ size=0",
            "type=item_store key=k%25%01x status=stored cmd=set ttl=0 clsid=1 cfd=$ size=1",
        ],
    );
    let large = format!("set a 0 0 5000\r\n{}\r\n", "x".repeat(5000));
    check(
        &large,
        "STORED\r\n",
        &[miss, "type=item_store key=a status=stored cmd=set ttl=0 clsid=19 cfd=$ size=5000"],
    );
}

#[test]
fn watching_changes_neither_answers_nor_counters() {
    let node = Node::start("");
    let mut watcher = watcher(&node, "fetchers mutations");
    let mut client = node.client();
    client.ask(
        "set a 0 0 1\r\nb\r\nget a none\r\nincr none 1\r\nmg a v\r\n",
        "STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\nNOT_FOUND\r\nVA 1\r\nb\r\n",
    );
    for (name, count) in [("cmd_get", 3), ("get_hits", 2), ("cmd_set", 1), ("cmd_meta", 0)] {
        assert_eq!(client.stat(name), count, "{name}");
    }
    for _ in 0..6 {
        line(&mut watcher);
    }
    assert_eq!(client.stat("log_watchers"), 1);
    assert_eq!(client.stat("log_worker_written"), 6);
    assert_eq!(client.stat("log_watcher_sent"), 6);
    assert_eq!(client.stat("log_watcher_skipped"), 0);
    drop(watcher);
    until("the watcher to be gone", || client.stat("log_watchers") == 0);
    client.ask("get a\r\n", "VALUE a 0 1\r\nb\r\nEND\r\n");
    assert_eq!(client.stat("log_worker_written"), 6);
}

#[test]
fn connections_are_told_when_they_come_and_why_they_go() {
    let node = Node::start("");
    let mut watcher = watcher(&node, "connevents");
    let mut told = |end: &str, close: &dyn Fn(Client)| {
        let mut client = node.client();
        let port = client.0.local_addr().unwrap().port();
        let fd = descriptor(&mut client);
        assert_eq!(
            line(&mut watcher),
            format!("type=conn_new rip=127.0.0.1 rport={port} transport=tcp cfd={fd}")
        );
        close(client);
        assert_eq!(
            line(&mut watcher),
            format!("type=conn_close rip=127.0.0.1 rport={port} transport=tcp reason={end} cfd={fd}")
        );
    };
    told("normal", &|mut client| client.send("quit\r\n"));
    told("normal", &|client| drop(client));
    told("error", &|mut client| {
        client.send(vec![b'x'; 3000]);
        client.expect_closed();
    });
}

#[test]
fn evictions_are_told() {
    let node = Node::start("-m 4 -I 1m");
    let mut watcher = watcher(&node, "evictions");
    let mut client = node.client();
    let value = "x".repeat(1000);
    for number in 0..8000 {
        client.send(format!("set key{number} 0 1000 1000 noreply\r\n{value}\r\n"));
    }
    client.ask("mn\r\n", "MN\r\n");
    assert!(client.stat("evictions") > 0);
    let told = line(&mut watcher);
    let words: Vec<&str> = told.split(' ').collect();
    assert!(words[1].starts_with("key=key"), "{told}");
    let ttl: u32 = words[3].strip_prefix("ttl=").unwrap().parse().unwrap();
    assert!((900..=1000).contains(&ttl), "{told}");
    assert_eq!((words[0], words[2]), ("type=eviction", "fetch=no"), "{told}");
    assert!(words[4].starts_with("la="), "{told}");
    assert_eq!(words[5..], ["clsid=12", "size=1000"], "{told}");
}

#[test]
fn a_watcher_that_does_not_read_is_told_what_it_missed() {
    let node = Node::start("");
    let watcher = watcher(&node, "fetchers");
    let mut client = node.client();
    let key = "k".repeat(250);
    let requests = format!("get {key}\r\n").repeat(1000) + "mn\r\n";
    let answers = "END\r\n".repeat(1000) + "MN\r\n";
    // Until sockets and the watcher's buffer are full.
    until("lines to be skipped", || {
        client.ask(&requests, &answers);
        client.stat("log_watcher_skipped") > 0
    });
    let mut lines = BufReader::new(watcher.0);
    let mut line = String::new();
    for number in 0.. {
        if number % 1000 == 0 {
            // With room again, the next line says what was missed before it.
            client.ask("get a\r\n", "END\r\n");
        }
        line.clear();
        lines.read_line(&mut line).unwrap();
        if let Some(count) = line.strip_prefix("skipped=") {
            assert!((1..=client.stat("log_watcher_skipped")).contains(&count.trim_end().parse().unwrap()));
            return;
        }
        assert!(line.starts_with("ts="), "{line}");
    }
}

#[test]
fn there_are_twenty_watchers_and_no_more() {
    let node = Node::start("");
    let mut watchers: Vec<_> = (0..20).map(|_| watcher(&node, "")).collect();
    let mut client = node.client();
    client.ask("watch\r\nversion\r\n", "WATCHER_TOO_MANY log watcher limit reached\r\nVERSION");
    client.read_until("\r\n");
    watchers.pop();
    until("a place", || client.stat("log_watchers") == 19);
    client.ask("watch nonsense\r\n", "ERROR\r\n");
    client.ask("watch\r\n", "OK\r\n");
}

#[test]
fn watching_can_be_forbidden() {
    let node = Node::start("-W");
    node.client().ask("watch\r\nmn\r\n", "CLIENT_ERROR watch commands not allowed\r\nMN\r\n");
}
