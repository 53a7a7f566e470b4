//! The `stats` families over a socket.

use crate::harness::Node;

#[test]
fn plain_stats_have_exactly_memcacheds_keys() {
    let count = |flags: &str| Node::start(flags).client().stats("").len();
    assert_eq!(count(""), 93);
    assert_eq!(count("-o no_lru_crawler,no_lru_maintainer"), 84);
    assert_eq!(count("-o idle_timeout=100"), 94);
}

#[test]
fn values_have_the_types_that_exporters_parse() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nb\r\nget a\r\nget b\r\n", "STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\nEND\r\n");
    for (name, value) in client.stats("") {
        assert!(!name.contains(':'), "{name}");
        match name.as_str() {
            "version" | "libevent" => {}
            "rusage_user" | "rusage_system" => {
                let (seconds, micros) = value.split_once('.').unwrap();
                assert!(seconds.parse::<u64>().is_ok() && micros.len() == 6 && micros.parse::<u64>().is_ok());
            }
            _ => assert!(value.parse::<u64>().is_ok(), "{name} {value}"),
        }
    }
    for (name, value) in [
        ("get_hits", 1),
        ("get_misses", 1),
        ("cmd_get", 2),
        ("cmd_set", 1),
        ("curr_items", 1),
        ("curr_connections", 1),
        ("threads", 2),
    ] {
        assert_eq!(client.stat(name), value, "{name}");
    }
    assert!(client.stat("uptime") >= 2);
    assert!(client.stat("bytes_read") > 30 && client.stat("bytes_written") > 30);
}

#[test]
fn reset_zeroes_counters_and_keeps_items() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask(
        "set a 0 0 1\r\nb\r\nget a\r\nstats reset\r\n",
        "STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\nRESET\r\n",
    );
    assert_eq!(client.stat("cmd_get"), 0);
    assert_eq!(client.stat("curr_items"), 1);
    assert_eq!(client.stat("curr_connections"), 1);
    assert!(client.stat("bytes_written") > 0);
}

#[test]
fn a_small_item_is_in_class_one() {
    let node = Node::start("-o track_sizes");
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nb\r\n", "STORED\r\n");
    assert!(client.stats("items").contains(&("items:1:number".into(), "1".into())));
    let slabs = client.stats("slabs");
    assert!(slabs.contains(&("1:chunk_size".into(), "96".into())));
    assert!(slabs.contains(&("1:used_chunks".into(), "1".into())));
    assert!(slabs.iter().any(|(name, _)| name == "total_malloced"));
    client.ask("stats cachedump 1 100\r\n", "ITEM a [1 b; 0 s]\r\nEND\r\n");
    client.ask("stats cachedump 1\r\n", "CLIENT_ERROR bad command line\r\n");
    client.ask("stats cachedump 99 0\r\n", "CLIENT_ERROR Illegal slab id\r\n");
    client.ask("stats sizes\r\n", "STAT 64 1\r\nEND\r\n");
}

#[test]
fn a_node_without_items_still_shows_a_class() {
    let node = Node::start("");
    let slabs = node.client().stats("slabs");
    assert!(slabs.contains(&("1:cmd_set".into(), "0".into())), "{slabs:?}");
    assert_eq!(node.client().stats("sizes"), [("sizes_status".to_owned(), "disabled".to_owned())]);
}

#[test]
fn settings_follow_the_flags_and_what_changed_since() {
    let node = Node::start("--io epoll -c 77 -o idle_timeout=9,hash_algorithm=jenkins");
    let mut client = node.client();
    client.ask("verbosity 1\r\ncache_memlimit 100\r\nstats detail on\r\n", "OK\r\nOK\r\nOK\r\n");
    let settings = client.stats("settings");
    // memcached's, and how the workers wait.
    assert_eq!(settings.len(), 78);
    for (name, value) in [
        ("maxconns", "77"),
        ("idle_timeout", "9"),
        ("hash_algorithm", "jenkins"),
        ("verbosity", "1"),
        ("maxbytes", "104857600"),
        ("detail_enabled", "yes"),
        ("evictions", "on"),
        ("io", "epoll"),
    ] {
        assert!(settings.contains(&(name.into(), value.into())), "{name} {value}: {settings:?}");
    }
}

#[test]
fn a_node_by_itself_says_so() {
    let node = Node::start("");
    assert_eq!(node.client().stats("replication"), [("role".to_owned(), "standalone".to_owned())]);
}

#[test]
fn connections_are_shown_while_they_last() {
    let node = Node::start("");
    let (mut client, other) = (node.client(), node.client());
    let address = format!("tcp:{}", other.0.local_addr().unwrap());
    let shown = |client: &mut crate::harness::Client| {
        client.stats("conns").iter().any(|(_, value)| *value == address)
    };
    crate::harness::until("the connection", || shown(&mut client));
    drop(other);
    crate::harness::until("its end", || !shown(&mut client));
}

#[test]
fn prefixes_are_counted_when_asked_for() {
    let node = Node::start("-D :");
    let mut client = node.client();
    client.ask(
        "set u:1 0 0 1\r\nx\r\nget u:1 u:2 plain\r\ndelete u:1\r\n",
        "STORED\r\nVALUE u:1 0 1\r\nx\r\nEND\r\nDELETED\r\n",
    );
    client.ask("stats detail dump\r\n", "PREFIX u get 2 hit 1 set 1 del 1\r\nEND\r\n");
    client.ask(
        "stats detail off\r\nstats detail\r\n",
        "OK\r\nCLIENT_ERROR usage: stats detail on|off|dump\r\n",
    );
}

#[test]
fn all_keys_can_be_listed_while_others_are_served() {
    let node = Node::start("");
    let mut client = node.client();
    let mut request = String::new();
    for n in 0..5_000 {
        request += &format!("set key%{n} 1 0 1 noreply\r\nx\r\n");
    }
    client.ask(request + "mn\r\n", "MN\r\n");
    client.send("lru_crawler metadump all\r\nversion\r\n");
    let dump = client.read_until("END\r\nVERSION");
    assert_eq!(dump.lines().filter(|line| line.starts_with("key=key%25")).count(), 5_000);
    assert!(dump.contains(" flags=1 \nkey="));
    client.read_until("\r\n");
    client.send("lru_crawler mgdump all\r\n");
    let dump = client.read_until("EN\r\n");
    assert_eq!(dump.lines().filter(|line| line.starts_with("mg key%")).count(), 5_000);
    let closed = Node::start("--disable-dumping");
    closed.client().ask(
        "lru_crawler metadump all\r\nstats cachedump 1 0\r\n",
        "ERROR metadump not allowed\r\nCLIENT_ERROR stats cachedump not allowed\r\n",
    );
}
