//! Writes that are answered when the backup has them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tandemd::bench::client::{Client, set_request};

use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

fn pair(flags: &[&str]) -> Pair {
    flags.iter().fold(setup(), |setup, flag| setup.flag(flag)).start()
}

/// The promise of `--ack applied`: an acknowledged write survives the death of the master at any moment.
#[test]
fn what_was_acknowledged_survives_the_master() {
    let mut pair = pair(&["--ack", "applied", "--ack-strict"]);
    let mut total = 0;
    for round in 0..5 {
        let master = pair.wait_paired();
        let survivor = 1 - master;
        pair.nodes[survivor].wait_role("backup");
        let address = pair.nodes[master].address();
        let stop = AtomicBool::new(false);
        let acknowledged: Vec<String> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let stop = &stop;
                    scope.spawn(move || write_until(stop, address, &format!("r{round}w{writer}")))
                })
                .collect();
            // Some hundreds of acknowledgements a round, so that the kill falls among them.
            let kept = pair.nodes[master].replicated("ack_confirmed");
            wait_for("acknowledgements", PATIENCE, || {
                (pair.nodes[master].replicated("ack_confirmed") >= kept + 200).then_some(())
            });
            pair.nodes[master].kill_now();
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
        });
        pair.nodes[master].kill();
        pair.nodes[survivor].wait_role("master");
        let mut reader = pair.nodes[survivor].client();
        let lost: Vec<_> =
            acknowledged.iter().filter(|key| reader.get(key).expect("a get").is_none()).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} lost: {lost:?}", lost.len(), acknowledged.len());
        total += acknowledged.len();
        pair.nodes[master].start();
    }
    assert!(total >= 5 * 200, "only {total} writes were acknowledged: this shows little");
}

/// Pipelines sixteen at a time; the keys that were acknowledged before the connection broke.
fn write_until(stop: &AtomicBool, address: std::net::SocketAddr, name: &str) -> Vec<String> {
    let mut client = Client::connect(address, PATIENCE).expect("a connection to the master");
    let mut acknowledged = Vec::new();
    for batch in 0.. {
        let keys: Vec<String> = (0..16).map(|index| format!("{name}-{batch}-{index}")).collect();
        let requests: Vec<u8> = keys.iter().flat_map(|key| set_request(key, b"v", false)).collect();
        if stop.load(Ordering::Relaxed) || client.send(&requests).is_err() {
            break;
        }
        for key in keys {
            match client.line() {
                Ok(line) if line == "STORED" => acknowledged.push(key),
                // While the pair is whole nothing else is answered; behind the kill nothing is.
                Ok(_) => {}
                Err(_) => return acknowledged,
            }
        }
    }
    acknowledged
}

#[test]
fn a_backup_that_hangs_costs_a_bounded_wait_that_is_counted() {
    let pair = pair(&["--ack", "applied"]);
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    client.set("before", b"v").expect("a set");
    wait_for("a confirmation", PATIENCE, || {
        (pair.nodes[master].replicated("ack_confirmed") > 0).then_some(())
    });
    pair.nodes[1 - master].freeze();
    let degraded = pair.nodes[master].replicated("ack_degraded");
    client.set("during", b"v").expect("an answer all the same");
    assert!(pair.nodes[master].replicated("ack_degraded") > degraded);
    pair.nodes[1 - master].thaw();
    pair.wait_synced();
    assert_eq!(pair.wait_converged(PATIENCE), 2, "what was not waited for arrives nevertheless");
}

/// The backup is killed while many connections wait for it: nobody waits for the limit, and nobody is forgotten.
#[test]
fn replies_that_wait_when_the_backup_dies_go_at_once() {
    const WAITING: usize = 40;
    let mut pair = pair(&["--ack", "applied", "--ack-timeout", "10s"]);
    let master = pair.wait_paired();
    pair.nodes[1 - master].freeze();
    let mut clients: Vec<Client> = (0..WAITING).map(|_| pair.nodes[master].client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(&set_request(&format!("waits-{index}"), b"v", false)).expect("a request");
    }
    // One after the other, so that all wait by then.
    wait_for("all sets", PATIENCE, || (pair.nodes[master].items()? >= WAITING as u64).then_some(()));
    let begun = Instant::now();
    pair.nodes[1 - master].kill();
    for client in &mut clients {
        assert_eq!(client.line().expect("an answer"), "STORED");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(pair.nodes[master].replicated("ack_degraded") >= WAITING as u64);
}

#[test]
fn a_switchover_while_writes_wait_shows_no_error() {
    let pair = pair(&["--ack", "applied"]);
    let mut master = pair.wait_paired();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (stop, node) = (&stop, &pair.nodes[writer % 2]);
                scope.spawn(move || {
                    let mut client = node.client();
                    let mut counted = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let key = key_of(writer);
                        let requests: Vec<u8> = (0..16)
                            .flat_map(|index| {
                                set_request(&key, format!("{}", counted + index).as_bytes(), false)
                            })
                            .collect();
                        client.send(&requests).expect("an open connection");
                        for _ in 0..16 {
                            assert_eq!(client.line().expect("an answer"), "STORED", "writer {writer}");
                        }
                        counted += 16;
                    }
                    (key_of(writer), counted - 1)
                })
            })
            .collect();
        // Whatever fails below, the clients have to end, or the scope would wait for ever.
        let switched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..3 {
                let kept = pair.nodes[master].replicated("ack_confirmed");
                wait_for("acknowledgements", PATIENCE, || {
                    (pair.nodes[master].replicated("ack_confirmed") >= kept + 100).then_some(())
                });
                master = pair.switch_over(|| {});
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = switched {
            std::panic::resume_unwind(panic);
        }
        let mut reader = pair.nodes[master].client();
        for writer in writers {
            let (key, last) = writer.join().expect("a writer");
            let value = reader.get(&key).expect("a get").expect("a value");
            assert_eq!(value, last.to_string().into_bytes(), "{key}");
        }
    });
}

fn key_of(writer: usize) -> String {
    format!("w{writer}")
}

#[test]
fn with_strict_a_client_is_told_what_the_backup_did_not_confirm() {
    let mut setup = setup();
    setup.flags.extend(["--ack", "applied", "--ack-strict", "-I", "4m"].map(str::to_owned));
    let pair = setup.start();
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    client.set("known", b"v").expect("a set");
    pair.nodes[1 - master].freeze();
    let large = vec![b'x'; 3 << 20];
    let mut requests =
        b"get known\r\nset a 0 0 1\r\na\r\nset b 0 0 1 noreply\r\nb\r\nincr nothing 1\r\n".to_vec();
    requests.extend(set_request("large", &large, false));
    requests.extend(b"mn\r\n");
    client.send(&requests).expect("the requests");
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "MN") {
        lines.push(client.line().expect("an answer to each"));
    }
    let refused = lines.iter().filter(|line| line.starts_with("SERVER_ERROR not confirmed")).count();
    assert!(refused >= 2, "{lines:?}");
    assert!(!lines.iter().any(|line| line == "STORED"), "{lines:?}");
    pair.nodes[1 - master].thaw();
    pair.wait_synced();
    // What was not confirmed is on its way: that may take longer than one set waits.
    wait_for("a set that is confirmed", PATIENCE, || client.set("after", b"v").ok());
    assert_eq!(client.get("large").expect("a get").map(|value| value.len()), Some(3 << 20));
}

#[test]
fn only_the_keys_that_were_named_wait() {
    let pair = pair(&["--ack-prefix", "cart:,session:"]);
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    let confirmed = || pair.nodes[master].replicated("ack_confirmed");
    client.set("page:1", b"v").expect("a set");
    client.get("cart:1").expect("a get");
    assert_eq!(confirmed(), 0);
    client.set("cart:1", b"v").expect("a set");
    client.delete("session:7").expect("a delete");
    assert_eq!(confirmed(), 2);
    // The same through the backup.
    let mut client = pair.nodes[1 - master].client();
    client.set("page:2", b"v").expect("a set");
    client.set("cart:2", b"v").expect("a set");
    assert_eq!(confirmed(), 3);
}

#[test]
fn only_the_clients_of_the_sync_port_wait() {
    let mut pair = setup().pair().with_sync_port();
    pair.start();
    let master = pair.wait_paired();
    let confirmed = || pair.nodes[master].replicated("ack_confirmed");
    pair.nodes[master].client().set("a", b"v").expect("a set");
    assert_eq!(confirmed(), 0);
    for (through, expected) in [(master, 1), (1 - master, 2)] {
        let address = pair.nodes[through].sync_address();
        let mut client = Client::connect(address, Duration::from_secs(10)).expect("the sync port");
        client.set("b", b"v").expect("a set");
        assert_eq!(confirmed(), expected, "through {}", pair.nodes[through].name);
        assert_eq!(client.get("b").expect("a get").as_deref(), Some(&b"v"[..]));
        assert_eq!(confirmed(), expected, "a read waits for nobody");
    }
}
