//! Clients that mean no good.

use std::io::{Read as _, Write as _};

use crate::harness::{Client, Node, until};

#[test]
fn lengths_that_lie_are_refused() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask("set a 0 0 2147483647\r\n", "CLIENT_ERROR bad command line format\r\n");
    client.ask("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\r\n");
    client.ask("set a 0 0 99999999999999999999\r\n", "CLIENT_ERROR bad command line format\r\n");
    client.ask("version\r\n", "VERSION");
}

#[test]
fn a_store_that_is_too_large_is_swallowed_and_its_old_value_goes() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client.send("set a 0 0 3000000\r\n");
    client.send(vec![b'y'; 3_000_000]);
    client.ask("\r\nget a\r\n", "SERVER_ERROR object too large for cache\r\nEND\r\n");
}

#[test]
fn every_store_that_is_too_large_is_counted_and_only_a_set_drops_what_was_there() {
    let node = Node::start("");
    let (master, backup) = crate::forwarding::proxied_pair("");
    for client in [&mut node.client(), &mut backup.client()] {
        client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
        let value = "y".repeat(2_000_000);
        for word in ["add", "replace", "append", "prepend", "cas"] {
            let unique = if word == "cas" { " 1" } else { "" };
            client.send(format!("{word} a 0 0 2000000{unique}\r\n{value}\r\n"));
            client.ask("get a\r\n", "SERVER_ERROR object too large for cache\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        }
        client.send(format!("ms a 2000000 MA\r\n{value}\r\n"));
        client.ask("get a\r\n", "SERVER_ERROR object too large for cache\r\nEND\r\n");
    }
    assert_eq!(node.client().stat("store_too_large"), 6);
    drop((master, backup));
}

#[test]
fn a_line_without_an_end_is_cut_off() {
    let node = Node::start("");
    let mut client = node.client();
    client.send(vec![b'x'; 3_000]);
    client.expect_closed();
}

#[test]
fn a_million_keys_in_one_get_are_answered_in_bounded_memory() {
    let node = Node::start("");
    let mut client = node.client();
    client.ask("set hit 0 0 1\r\nx\r\n", "STORED\r\n");
    let mut writer = client.0.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        writer.write_all(b"get").unwrap();
        let keys = " missing_key_of_some_length".repeat(1000);
        for _ in 0..1000 {
            writer.write_all(keys.as_bytes()).unwrap();
        }
        writer.write_all(b" hit\r\n").unwrap();
    });
    client.expect("VALUE hit 0 1\r\nx\r\nEND\r\n");
    sender.join().unwrap();
    assert!(node.client().stat("read_buf_bytes") < 1 << 20);
}

#[test]
fn a_client_that_never_reads_stops_being_read() {
    let node = Node::start("");
    let mut client = node.client();
    client.send(format!("set big 0 0 1000000\r\n{}\r\n", "x".repeat(1_000_000)));
    client.expect("STORED\r\n");
    // Asks for far more than sockets buffer, until the server takes no more.
    let silent = node.client();
    silent.0.set_nonblocking(true).unwrap();
    let requests = "get big\r\n".repeat(10_000);
    let mut sent = 0;
    until("the server to stop reading", || {
        for _ in 0..1_000 {
            match (&silent.0).write(requests.as_bytes()) {
                Ok(count) => sent += count,
                Err(_) => return true,
            }
        }
        false
    });
    assert!(sent < 64 << 20);
    // Others are served meanwhile, and the value it holds is counted, not copied.
    client.ask("get none\r\n", "END\r\n");
    assert!(client.stat("response_obj_bytes") < 8 << 20);
    // When it reads after all, it gets what it asked for.
    let mut silent = silent;
    silent.0.set_nonblocking(false).unwrap();
    silent.expect("VALUE big 0 1000000\r\n");
    silent.0.read_exact(&mut vec![0; 5_000_000]).unwrap();
}

#[test]
fn over_the_limit_of_connections_one_hears_why() {
    let node = Node::start("-c 3");
    let mut clients: Vec<_> = (0..3).map(|_| node.client()).collect();
    clients[0].ask("version\r\n", "VERSION");
    until("three connections", || {
        node.app().stats().connections.curr_connections.load(std::sync::atomic::Ordering::Relaxed) == 3
    });
    let mut refused = node.client();
    refused.expect("ERROR Too many open connections\r\n");
    refused.expect_closed();
    clients.pop();
    until("room again", || {
        let mut client = node.client();
        client.0.write_all(b"version\r\n").is_ok() && {
            let mut first = [0; 7];
            client.0.read_exact(&mut first).is_ok() && &first == b"VERSION"
        }
    });
    assert!(clients[1].stat("rejected_connections") >= 1);
}

#[test]
fn without_maxconns_fast_one_waits_for_room() {
    let node = Node::start("-c 1 -o no_maxconns_fast");
    let mut first = node.client();
    first.ask("version\r\n", "VERSION");
    // To be full is not yet to turn somebody away.
    assert_eq!(first.stat("listen_disabled_num"), 0);
    let mut second = node.client();
    second.send("get none\r\n");
    until("the listener to be disabled", || {
        node.app().stats().connections.listen_disabled.load(std::sync::atomic::Ordering::Relaxed)
    });
    drop(first);
    second.expect("END\r\n");
    assert_eq!(second.stat("listen_disabled_num"), 1);
    assert!(second.stat("time_in_listen_disabled_us") > 0);
    assert_eq!(second.stat("accepting_conns"), 1);
}

#[test]
fn several_listeners_that_wait_for_room_are_disabled_once_and_refuse_nobody() {
    let node = Node::start("-c 2 -o no_maxconns_fast -l 127.0.0.2");
    let other_address = node.app().addresses()[1];
    let mut first = node.client();
    first.ask("mn\r\n", "MN\r\n");
    let mut second = Client::connect(other_address);
    second.ask("mn\r\n", "MN\r\n");
    let mut waiting = [node.client(), Client::connect(other_address)];
    for client in &mut waiting {
        client.send("mn\r\n");
    }
    until("the listeners to be disabled", || first.stat("accepting_conns") == 0);
    drop((first, second));
    for client in &mut waiting {
        client.expect("MN\r\n");
    }
    assert_eq!(waiting[0].stat("listen_disabled_num"), 1);
}

#[test]
fn an_idle_connection_is_closed_when_asked_for() {
    let node = Node::start("-o idle_timeout=1");
    let mut client = node.client();
    client.expect_closed();
    let mut half = node.client();
    half.send("set a 0 0 10\r\nhal");
    half.expect_closed();
    assert_eq!(node.client().stat("idle_kicks"), 2);
}

#[test]
fn one_busy_connection_yields_to_others() {
    let node = Node::start("-R 1 -t 1");
    let mut client = node.client();
    client.ask("get a\r\n".repeat(100), "END\r\n".repeat(100));
    assert!(client.stat("conn_yields") >= 90);
}

#[test]
fn many_clients_with_half_a_command_hold_half_a_command_each() {
    let node = Node::start("-c 2000");
    let mut clients: Vec<_> = (0..500).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send("set key 0 0 100\r\nhalf");
    }
    let mut other = node.client();
    until("all to have arrived", || other.stat("bytes_read") > 500 * 21);
    other.ask("get key\r\n", "END\r\n");
    for client in &mut clients {
        client.send(format!("{}\r\n", "y".repeat(96)));
    }
    for client in &mut clients {
        client.expect("STORED\r\n");
    }
}

#[test]
fn garbage_is_answered_or_hung_up_on_and_hurts_nobody() {
    let node = Node::start("");
    let mut seed = 7u64;
    for _ in 0..200 {
        let mut client = node.client();
        let bytes: Vec<u8> = (0..300)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .collect();
        client.send(&bytes);
    }
    node.client().ask("version\r\n", "VERSION");
}
