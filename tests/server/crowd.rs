//! Very many clients at once: what each of them costs.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::harness::{Client, Node, until};
use crate::process::Running;

/// Bytes of memory that a process holds.
fn resident_bytes(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let row = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    row.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// So many connections, or as many as the machine allows.
fn connect(running: &Running, wanted: usize) -> Vec<Client> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let allowed = usize::try_from(hard).unwrap_or(usize::MAX) - 600;
    (0..wanted.min(allowed)).map(|_| running.client()).collect()
}

#[test]
fn an_idle_connection_costs_little_also_after_it_was_busy() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("-c 9000", directory.path());
    let work = |clients: &mut Vec<Client>| {
        for client in clients {
            client.ask("set k 0 0 1\r\nv\r\nget k\r\n", "STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n");
        }
    };
    // What the first ones make the server allocate is for all.
    let mut first = connect(&running, 100);
    work(&mut first);
    let before = resident_bytes(&running);
    let mut clients = connect(&running, 5_000);
    work(&mut clients);
    let each = resident_bytes(&running).saturating_sub(before) / clients.len() as u64;
    println!("{each} bytes each");
    assert!(each < 600, "{each} bytes");
    // The workers' own: with epoll one buffer each and eight to read ahead into, with io_uring pages that the kernel fills.
    let held = first[0].stat("read_buf_bytes");
    let own = 4 * (16 << 10);
    assert!(held == 9 * own || held >= own + 4 * (256 << 10) && held <= own + 4 * (4 << 20), "{held}");
}

#[test]
fn clients_that_are_ready_together_get_their_own_answers() {
    let node = Node::start("-t 1");
    let mut clients: Vec<Client> = (0..40).map(|_| node.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.ask(format!("set key{at} 0 0 4\r\n{at:04}\r\n"), "STORED\r\n");
    }
    for round in 0..50 {
        // Whole requests, several at once, halves, and more than one read takes.
        for (at, client) in clients.iter_mut().enumerate() {
            match (at + round) % 5 {
                0 | 1 => client.send(format!("get key{at}\r\n")),
                2 => client.send(format!("get key{at}\r\nget nothing\r\n").repeat(3)),
                3 => client.send(format!("get key{at}\r\nget k")),
                _ => client.send(format!("get key{at}\r\n{}", "mn\r\n".repeat(5_000))),
            }
        }
        for (at, client) in clients.iter_mut().enumerate() {
            let value = format!("VALUE key{at} 0 4\r\n{at:04}\r\nEND\r\n");
            match (at + round) % 5 {
                0 | 1 => client.expect(&value),
                2 => client.expect(format!("{value}END\r\n").repeat(3)),
                3 => {
                    client.expect(&value);
                    client.ask(format!("ey{at}\r\n"), &value);
                }
                _ => client.expect(format!("{value}{}", "MN\r\n".repeat(5_000))),
            }
        }
    }
    // Who leaves beside others is noticed.
    for client in &mut clients {
        client.send("quit\r\n");
    }
    clients.iter_mut().for_each(Client::expect_closed);
    let mut last = node.client();
    until("only one is left", || last.stat("curr_connections") == 1);
}

#[test]
fn the_process_stays_near_the_limit_whatever_sizes_values_have() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("-m 128 -c 100", directory.path());
    let mut clients = connect(&running, 4);
    // Up and down, so that whatever kept the memory of one size has to give it to others.
    let sizes = [
        1_000, 100_000, 20_000, 1_000_000, 20_000, 100, 40_000, 5_000, 1_000_000, 33_000, 5_000, 20_000, 100,
        100_000, 10_000, 20_000,
    ];
    for (round, len) in sizes.into_iter().enumerate() {
        let value = "v".repeat(len);
        let stores = ((150 << 20) / (len + 60)).min(160_000) / clients.len();
        for part in 0..4 {
            for (at, client) in clients.iter_mut().enumerate() {
                // Every other round overwrites some of what it stored, in another order.
                let numbers = (part * stores / 4..(part + 1) * stores / 4)
                    .map(|number| if round % 2 == 1 { number * 7919 % stores } else { number });
                for number in numbers {
                    client.send(format!("set {round}:{at}:{number} 0 0 {len} noreply\r\n{value}\r\n"));
                }
                client.ask("mn\r\n", "MN\r\n");
            }
            let held = resident_bytes(&running);
            assert!(held <= (128 + 24) << 20, "{} MiB in round {round}, values of {len}", held >> 20);
        }
        // What is there is also used: a limit that is kept by holding nothing is none.
        let held = resident_bytes(&running);
        assert!(round < 2 || held > 110 << 20, "{} MiB in round {round}, values of {len}", held >> 20);
    }
}

#[test]
fn ten_thousand_half_commands_are_held_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start("-c 12000 -m 64", directory.path());
    let before = resident_bytes(&running);
    let mut clients = connect(&running, 10_000);
    let halves: [&[u8]; 5] = [
        b"get half_of_a_lin",
        b"set key 0 0 100\r\nhalf",
        // Far more than the memory for items, all together.
        b"set key 0 0 500000\r\nhalf",
        b"\x80\x01\x00\x03\x08\x00\x00\x00\x00\x00",
        b"ms key 1000 T30\r\nhal",
    ];
    let mut sent = 0;
    for (client, half) in clients.iter_mut().zip(halves.iter().cycle()) {
        client.send(half);
        sent += half.len() as u64;
    }
    let mut other = running.client();
    until("all halves", || other.stat("bytes_read") >= sent);
    let held = resident_bytes(&running).saturating_sub(before);
    let bound = (64 << 20) + clients.len() as u64 * 4096;
    assert!(held < bound, "{} KiB", held >> 10);
    other.ask("set other 0 0 1\r\nx\r\nget other\r\n", "STORED\r\nVALUE other 0 1\r\nx\r\nEND\r\n");
    // Who goes on gets what it asked for.
    clients[1].send("x".repeat(96) + "\r\n");
    clients[1].expect("STORED\r\n");
    clients[4].send("x".repeat(997) + "\r\n");
    clients[4].expect("HD\r\n");
    drop(clients);
    until("all to have left", || other.stat("curr_connections") == 1);
}
