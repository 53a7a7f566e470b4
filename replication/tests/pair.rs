//! Two real drivers on loopback, over maps: pair up, stream, die, heal.

mod support;

use std::time::{Duration, Instant};

use support::fault_proxy::{FaultProxy, Faults};
use support::node::{PATIENCE, Place, TestNode, eventually, settled};
use tandem_replication::driver::Config;
use tandem_replication::node::Operator;
use tandem_replication::role::State;
use tandem_replication::store::Store;
use tandem_replication::time::Span;

/// Changes in the burst; a fraction of them fills the backlog.
const BURST: usize = 100_000;

/// Writes `keys`, on whichever node takes writes.
#[track_caller]
fn write_all(nodes: &[&TestNode], prefix: &str, keys: usize) {
    for key in 0..keys {
        let key = format!("{prefix}{key}");
        eventually("somebody takes the write", || nodes.iter().any(|node| node.write(&key, key.as_bytes())));
    }
}

#[track_caller]
fn converged(a: &TestNode, b: &TestNode) {
    eventually("both hold the same", || {
        let (ours, theirs) = (a.store.contents(), b.store.contents());
        !ours.is_empty() && ours == theirs
    });
}

/// A pair whose nodes reach each other through a misbehaving network only.
struct Network {
    to_a: FaultProxy,
    to_b: FaultProxy,
}

impl Network {
    fn pair(change: impl Fn(&mut Config)) -> (Self, TestNode, TestNode) {
        let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
        let network = Self {
            to_a: FaultProxy::start("127.0.0.1", a.address),
            to_b: FaultProxy::start("127.0.0.1", b.address),
        };
        let (via_b, via_a) = (network.to_b.address(), network.to_a.address());
        let a = TestNode::start(a, Some(via_b), &change);
        let b = TestNode::start(b, Some(via_a), &change);
        (network, a, b)
    }

    fn set(&self, faults: &Faults) {
        self.to_a.set_both(faults);
        self.to_b.set_both(faults);
    }

    fn reset(&self) {
        self.to_a.reset();
        self.to_b.reset();
    }

    fn refuse(&self, refuse: bool) {
        self.to_a.refuse(refuse);
        self.to_b.refuse(refuse);
    }
}

#[test]
fn two_nodes_started_together_pair_up_and_stream() {
    let (a, b) = TestNode::pair(|_| {});
    let (master, backup) = settled(a, b);
    assert!(!backup.write("no", b"no"), "a backup executes nothing");
    write_all(&[&master], "key", 5000);
    converged(&master, &backup);
    master.wait("no lag", |status| status.pair.lag_records == 0);
}

#[test]
fn a_node_that_nobody_dials_waits_and_is_dialled() {
    let place = Place::on("127.0.0.2");
    let address = place.address;
    let first = TestNode::start(place, None, |_| {});
    first.wait("it serves alone", |status| status.pair.role.state == State::Master);
    write_all(&[&first], "early", 1000);
    let second = TestNode::start(Place::on("127.0.0.3"), Some(address), |_| {});
    converged(&first, &second);
    let (master, _) = settled(first, second);
    assert_eq!(master.address, address, "who holds the data leads");
}

#[test]
fn the_backup_takes_over_from_a_dead_master_and_the_dead_one_returns() {
    let (a, b) = TestNode::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master], "before", 2000);
    converged(&master, &backup);
    let (dead, peer) = (master.address, backup.address);
    master.kill();
    write_all(&[&backup], "after", 1000);
    assert_eq!(backup.status().pair.counters.promotions, 1);
    let returned = TestNode::start(Place::at(dead), Some(peer), |_| {});
    converged(&backup, &returned);
    let (master, _) = settled(backup, returned);
    assert_eq!(master.address, peer);
    assert_eq!(master.store.contents().len(), 3000);
}

#[test]
fn an_instantly_restarted_empty_master_does_not_wipe_its_backup() {
    let (a, b) = TestNode::pair(|_| {});
    let (mut master, mut backup) = settled(a, b);
    write_all(&[&master], "key", 1000);
    converged(&master, &backup);
    for _ in 0..5 {
        let (dead, peer) = (master.address, backup.address);
        master.kill();
        let returned = TestNode::start(Place::at(dead), Some(peer), |_| {});
        (master, backup) = settled(backup, returned);
        converged(&master, &backup);
        assert_eq!(master.store.contents().len(), 1000);
    }
}

#[test]
fn link_resets_heal_without_a_copy() {
    let (network, a, b) = Network::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master, &backup], "first", 100);
    converged(&master, &backup);
    let before = (master.status().pair.counters, backup.status().pair.counters);
    let mut healed = Vec::new();
    for round in 0..20 {
        let reconnects = [&master, &backup].map(|node| node.status().pair.counters.reconnects);
        let began = Instant::now();
        network.reset();
        write_all(&[&master, &backup], &format!("round{round}-"), 50);
        eventually("the backup is a backup again", || {
            let (ours, theirs) = (master.status(), backup.status());
            let again = [&ours, &theirs].map(|status| status.pair.counters.reconnects);
            again.iter().zip(&reconnects).all(|(now, before)| now > before)
                && ours.pair.in_sync
                && ours.pair.data_up
                && theirs.pair.role.state == State::Backup
        });
        healed.push(began.elapsed());
    }
    converged(&master, &backup);
    let after = (master.status().pair.counters, backup.status().pair.counters);
    assert_eq!(master.state(), State::Master, "no reset is a death: {:?}", master.status().pair.role);
    assert_eq!(before.0.full_copies, after.0.full_copies);
    assert_eq!(before.1.full_copies, after.1.full_copies);
    assert!(after.0.partial_resyncs > before.0.partial_resyncs);
    println!("healed within {:?} (longest), {:?} (first)", healed.iter().max(), healed[0]);
}

#[test]
fn a_corrupted_byte_is_noticed_and_healed_by_a_new_connection() {
    let (network, a, b) = Network::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master, &backup], "first", 100);
    converged(&master, &backup);
    for round in 0..10u64 {
        let before = network.to_a.connections() + network.to_b.connections();
        for proxy in [&network.to_a, &network.to_b] {
            proxy.set_both(&Faults { corrupt_after: Some(1 + 97 * round), ..Faults::default() });
        }
        write_all(&[&master, &backup], &format!("round{round}-"), 100);
        eventually("a new connection", || network.to_a.connections() + network.to_b.connections() > before);
        network.set(&Faults::default());
        converged(&master, &backup);
    }
}

#[test]
fn a_slow_network_that_delivers_in_crumbs_loses_nothing() {
    let (network, a, b) = Network::pair(|_| {});
    network.set(&Faults { delay: Duration::from_millis(10), crumbs: Some(100), ..Faults::default() });
    let (master, backup) = settled(a, b);
    write_all(&[&master], "key", 500);
    converged(&master, &backup);
}

#[test]
fn a_black_hole_makes_two_masters_and_its_end_makes_one() {
    let (network, a, b) = Network::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master], "before", 100);
    converged(&master, &backup);
    network.set(&Faults { blackhole: true, ..Faults::default() });
    backup.wait("it takes over", |status| status.pair.role.state == State::Master);
    write_all(&[&backup], "after", 100);
    network.set(&Faults::default());
    network.reset();
    let (master, backup) = settled(master, backup);
    write_all(&[&master], "healed", 100);
    converged(&master, &backup);
}

#[test]
fn a_partition_with_refused_connections_heals_too() {
    let (network, a, b) = Network::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master], "before", 100);
    converged(&master, &backup);
    network.refuse(true);
    network.reset();
    backup.wait("cut off", |status| !status.pair.control_up && status.link_problem.is_some());
    network.refuse(false);
    let (master, backup) = settled(master, backup);
    write_all(&[&master], "after", 100);
    converged(&master, &backup);
}

#[tokio::test]
async fn a_switchover_moves_the_role_and_loses_nothing() {
    let (a, b) = TestNode::pair(|_| {});
    let (mut master, mut backup) = settled(a, b);
    for round in 0..10 {
        write_all(&[&master], &format!("round{round}-"), 100);
        // Alternately asked of the master and of the backup.
        let asked = if round % 2 == 0 { &master } else { &backup };
        asked.handle.command(Operator::Switchover).await.expect("both are there");
        let former = master.address;
        (master, backup) = settled(master, backup);
        assert_ne!(master.address, former);
        converged(&master, &backup);
    }
    assert_eq!(master.store.contents().len(), 1000);
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_its_reason() {
    let lonely = TestNode::start(Place::on("127.0.0.2"), None, |_| {});
    lonely.wait("it serves alone", |status| status.pair.role.state == State::Master);
    let why = lonely.handle.command(Operator::Switchover).await.expect_err("nobody is there");
    assert!(!why.is_empty());
    let remote = lonely.handle.remote();
    lonely.handle.shutdown().await;
    let why = remote.command(Operator::Switchover).await.expect_err("it is gone");
    assert!(why.contains("stopping"), "{why}");
}

#[tokio::test]
async fn a_stopping_master_hands_over_first_and_every_write_survives() {
    let (a, b) = TestNode::pair(|_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master], "key", 2000);
    let store = master.store.clone();
    master.handle.shutdown().await;
    backup.wait("it took over", |status| status.pair.role.state == State::Master);
    assert_eq!(backup.status().pair.counters.switchovers, 1, "a handover, not a failover");
    assert_eq!(backup.store.contents(), store.contents());
}

#[test]
fn the_epoch_outlives_the_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let with_state = |config: &mut Config| config.state_dir = Some(dir.path().to_path_buf());
    let node = TestNode::start(Place::on("127.0.0.2"), None, with_state);
    node.wait("it serves", |status| status.pair.role.state == State::Master && status.pair.state_saved);
    let first = node.status();
    node.kill();
    let mut again = None;
    eventually("the directory is free again", || {
        // The thread of the first one may still be ending.
        std::fs::File::open(dir.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok())
    });
    let node = again.insert(TestNode::start(Place::on("127.0.0.2"), None, with_state));
    node.wait("it serves", |status| status.pair.role.state == State::Master && status.pair.state_saved);
    let second = node.status();
    assert_eq!(second.node_id, first.node_id);
    assert!(second.pair.role.epoch > first.pair.role.epoch);
    assert_eq!(second.state_problem, None);
}

#[test]
fn a_damaged_state_is_named_and_the_node_serves_all_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in [("torn", &b"TANDEMst\x01"[..]), ("foreign", b"hello"), ("empty", b"")] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("writable");
        std::fs::write(path.join("node.state"), bytes).expect("writable");
        let node =
            TestNode::start(Place::on("127.0.0.2"), None, |config| config.state_dir = Some(path.clone()));
        node.wait("it serves", |status| status.pair.role.state == State::Master);
        let problem = node.status().state_problem.clone().expect("named");
        assert!(problem.contains("node.state") && problem.contains("delete it"), "{problem}");
        assert_eq!(std::fs::read(path.join("node.state")).expect("there"), bytes, "left for the operator");
    }
    let path = dir.path().join("file");
    std::fs::write(&path, b"in the way").expect("writable");
    let node = TestNode::start(Place::on("127.0.0.2"), None, |config| config.state_dir = Some(path));
    node.wait("it serves", |status| status.pair.role.state == State::Master);
    assert!(node.status().state_problem.is_some());
}

#[test]
fn a_state_directory_that_is_lost_on_the_way_stops_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
    let (at_a, at_b) = (a.address, b.address);
    let state = |name: &str| {
        let path = dir.path().join(name);
        move |config: &mut Config| config.state_dir = Some(path)
    };
    let a = TestNode::start(a, Some(at_b), state("a"));
    let b = TestNode::start(b, Some(at_a), state("b"));
    let (master, backup) = settled(a, b);
    // A save that is under way may put a file back.
    eventually("the directory is gone", || std::fs::remove_dir_all(dir.path()).is_ok());
    master.kill();
    write_all(&[&backup], "key", 10);
    backup.wait("the reason", |status| {
        !status.pair.state_saved
            && status.state_problem.as_ref().is_some_and(|why| why.contains("cannot write"))
    });
}

#[test]
fn a_burst_neither_parts_the_pair_nor_delays_its_heartbeats() {
    // The default profile: on a machine whose cores are all busy the quick one is too quick.
    let (a, b) = TestNode::pair(|config| {
        config.heartbeat = Duration::from_millis(100);
        config.dead_after = Duration::from_millis(1000);
    });
    let (master, backup) = settled(a, b);
    let before = master.status().pair.counters;
    let value = [b'v'; 100];
    let began = Instant::now();
    let mut silence = Span(0);
    for key in 0..BURST {
        // Far more than the backlog holds, without a pause.
        let asked = Instant::now();
        while !master.write(&format!("key{key}"), &value) {
            assert!(asked.elapsed() < PATIENCE, "the master does not serve");
        }
        if key % 1000 == 0 {
            silence = silence.max(backup.status().pair.peer_silent.unwrap_or_default());
        }
    }
    let written = began.elapsed();
    eventually("everything is there", || {
        let status = backup.status();
        silence = silence.max(status.pair.peer_silent.unwrap_or_default());
        status.pair.in_sync && backup.store.items() == master.store.items()
    });
    converged(&master, &backup);
    println!(
        "{BURST} writes in {written:?}, converged after {:?}; longest silence {} ms",
        began.elapsed(),
        silence.as_millis()
    );
    assert_eq!(backup.state(), State::Backup);
    let after = master.status().pair.counters;
    assert_eq!(after.reconnects, before.reconnects);
    assert_eq!(after.promotions, before.promotions);
}

#[test]
fn a_promotion_waits_for_no_timer() {
    // Once a node without a state directory opened its gate only at its next heartbeat.
    let node = TestNode::start(Place::on("127.0.0.2"), None, |config| {
        config.heartbeat = 10 * PATIENCE;
        config.dead_after = 40 * PATIENCE;
    });
    write_all(&[&node], "key", 1);
}

#[test]
fn a_pair_speaks_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return println!("this machine has no IPv6");
    }
    let (a, b) = (Place::on("::1"), Place::on("::1"));
    let (at_a, at_b) = (a.address, b.address);
    let a = TestNode::start(a, Some(at_b), |_| {});
    let b = TestNode::start(b, Some(at_a), |_| {});
    let (master, backup) = settled(a, b);
    write_all(&[&master], "key", 10);
    converged(&master, &backup);
}

/// The promise of the comparison: whatever made the backup differ, it is found and repaired, and what
/// clients write meanwhile is no difference.
#[test]
fn a_backup_that_differs_is_found_and_repaired() {
    let (a, b) = TestNode::pair(|config| config.verify_every = Duration::from_millis(300));
    let (master, backup) = settled(a, b);
    write_all(&[&master], "key", 3000);
    converged(&master, &backup);
    master.wait("a comparison", |status| status.pair.verify.last.is_some_and(|last| last.items == 3000));
    assert_eq!(master.status().pair.counters.diverged, 0);

    // What no change of the master made.
    let version = backup.store.contents()[&b"key7"[..]].1;
    backup.store.put(b"key7", b"wrong", version);
    backup.store.put(b"key8", b"from nowhere", u64::MAX >> 8);
    eventually("the difference is repaired", || {
        write_all(&[&master], "busy", 10);
        master.status().pair.counters.diverged >= 2
            && backup.store.get("key7").as_deref() == Some(b"key7")
            && backup.store.get("key8").as_deref() == Some(b"key8")
    });
    converged(&master, &backup);
    assert_eq!(master.status().pair.counters.diverged, 2, "and nothing else was touched");
}
