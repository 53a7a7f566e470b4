//! Roles change hands on purpose, under load.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::setup;

/// `incr` shows everything: an error, a lost one, and one that was executed twice.
#[test]
fn a_switchover_under_load_has_no_error_and_counts_exactly() {
    const ROUNDS: u64 = 10;
    let pair = setup().start();
    pair.wait_paired();
    let stop = AtomicBool::new(false);
    let keys: Vec<String> = (0..4).map(|index| format!("counter-{index}")).collect();
    for key in &keys {
        pair.nodes[0].client().set(key, b"0").expect("a set");
    }
    let counted = std::thread::scope(|scope| {
        // Two clients on each node, each with a counter of its own.
        let clients: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(index, key)| {
                let mut client = pair.nodes[index % 2].client();
                let stop = &stop;
                scope.spawn(move || {
                    let mut expected = 0;
                    while !stop.load(Ordering::Relaxed) {
                        expected += 1;
                        let now =
                            client.incr(key, 1).unwrap_or_else(|error| panic!("incr {expected}: {error}"));
                        assert_eq!(now, Some(expected), "lost or executed twice");
                    }
                    expected
                })
            })
            .collect();
        // Whatever fails below, the clients have to end, or the scope would wait for ever.
        let switched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..ROUNDS {
                pair.switch_over(|| {});
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let counted: Vec<u64> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        if let Err(panic) = switched {
            std::panic::resume_unwind(panic);
        }
        counted
    });
    for (key, count) in keys.iter().zip(counted) {
        assert!(count > ROUNDS, "there was load");
        for node in &pair.nodes {
            let value = node.client().get(key).expect("a get").expect("the counter");
            assert_eq!(String::from_utf8_lossy(&value).trim_end(), count.to_string());
        }
    }
    assert!(pair.nodes[0].replicated("switchovers") >= ROUNDS);
}

#[test]
fn a_switchover_is_refused_with_the_reason_while_nobody_could_take_over() {
    let mut pair = setup().pair();
    pair.nodes[0].start();
    pair.nodes[0].wait_role("master");
    let refused = pair.nodes[0].admin().switchover().expect_err("there is no backup");
    assert!(!refused.to_string().is_empty());
    assert_eq!(pair.nodes[0].role(), "master");
    pair.nodes[0].client().set("still", b"served").expect("a set");
}
