//! What guards the link: certificates, keys that are replaced, and somebody who meddles with the bytes.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::fault_proxy::{FaultProxy, Faults};
use support::node::{Place, TestNode, eventually, settled};
use tandem_replication::driver::Config;
use tandem_replication::handshake::{Secret, Secrets};
use tandem_replication::keys::{KeyFiles, Keys, SharedKeys, TlsFiles};
use tandem_replication::role::State;

fn keys(lines: &[&str]) -> Keys {
    let secrets = lines.iter().map(|line| Secret::new(line.as_bytes().to_vec())).collect();
    Keys { secrets: Secrets::new(secrets), tls: None }
}

/// An authority, and certificates it has signed.
struct Authority {
    directory: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).expect("an authority");
        std::fs::write(directory.path().join("ca"), certificate.pem()).expect("written");
        Self { directory, issuer: rcgen::Issuer::new(authority, key) }
    }

    /// Files for a node whose certificate names `name`, and that expects `peer`.
    fn files(&self, name: &str, peer: &str) -> KeyFiles {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_string()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |kind: &str| self.directory.path().join(format!("{name}.{kind}"));
        write(&path("cert"), &certificate.pem());
        write(&path("key"), &key.serialize_pem());
        let authority: PathBuf = self.directory.path().join("ca");
        let tls = TlsFiles { certificate: path("cert"), key: path("key"), authority, name: peer.to_string() };
        KeyFiles { secrets: None, tls: Some(tls) }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

fn read(files: &KeyFiles) -> Keys {
    Keys::read(files).expect("good files")
}

/// Two nodes, each with its keys, that know each other.
fn pair(ours: Keys, theirs: Keys) -> (TestNode, TestNode) {
    let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
    let (at_a, at_b) = (a.address, b.address);
    let a = TestNode::start(a, Some(at_b), |config| config.keys = SharedKeys::new(ours));
    (a, TestNode::start(b, Some(at_a), |config| config.keys = SharedKeys::new(theirs)))
}

#[track_caller]
fn replicates(master: &TestNode, backup: &TestNode, key: &str) {
    eventually("the master takes a write", || master.write(key, b"value"));
    eventually("the backup has it", || backup.store.contents() == master.store.contents());
}

#[test]
fn certificates_of_one_authority_link_and_everything_crosses() {
    let authority = Authority::new();
    let (a, b) = pair(read(&authority.files("a.test", "b.test")), read(&authority.files("b.test", "a.test")));
    let (master, backup) = settled(a, b);
    for key in 0..200 {
        eventually("a write", || master.write(&format!("key{key}"), &vec![b'x'; 10_000]));
    }
    replicates(&master, &backup, "last");
}

#[test]
fn a_certificate_of_another_authority_or_for_another_name_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    for theirs in [other.files("b.test", "a.test"), authority.files("c.test", "a.test")] {
        let (a, b) = pair(read(&authority.files("a.test", "b.test")), read(&theirs));
        // Whoever dials: the first is what became of a's own attempts, the second of b's.
        a.wait("named", |status| {
            status.link_problem.as_ref().is_some_and(|why| why.contains("--replication-tls"))
        });
        a.wait("b's attempts are refused", |status| status.refused > 0);
        assert!(!a.is_linked() && !b.is_linked());
    }
}

#[test]
fn a_node_without_certificates_is_told_what_it_lacks() {
    let authority = Authority::new();
    let (a, b) = pair(read(&authority.files("a.test", "b.test")), Keys::default());
    for node in [&a, &b] {
        node.wait("named", |status| {
            status.link_problem.as_ref().is_some_and(|why| why.contains("--replication-tls"))
        });
        assert!(!node.is_linked());
    }
}

#[test]
fn keys_are_replaced_while_the_link_stays() {
    let (a, b) = pair(keys(&["the old key"]), keys(&["the old key"]));
    let (a, b) = settled(a, b);
    let reconnects = [&a, &b].map(|node| node.status().pair.counters.reconnects);
    for step in [&["the old key", "the new key"][..], &["the new key", "the old key"], &["the new key"]] {
        a.handle.replace_keys(keys(step));
        // A connection is made while one node is a step ahead of the other.
        let target = b.status().proxy.clone().expect("linked");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connect = tandem_replication::proxy::ProxyStream::connect(&target);
        runtime.block_on(connect).unwrap_or_else(|why| panic!("{step:?}: {why}"));
        b.handle.replace_keys(keys(step));
        replicates(&a, &b, step[0]);
    }
    let now = [&a, &b].map(|node| node.status().pair.counters.reconnects);
    assert_eq!(now, reconnects, "the link that was there was not touched");
}

#[test]
fn certificates_are_replaced_while_the_link_stays() {
    let authority = Authority::new();
    let files = [authority.files("a.test", "b.test"), authority.files("b.test", "a.test")];
    let (a, b) = pair(read(&files[0]), read(&files[1]));
    let (a, b) = settled(a, b);
    let reconnects = a.status().pair.counters.reconnects;
    // New ones of the same authority, under the same names.
    for (node, (name, peer)) in [(&a, ("a.test", "b.test")), (&b, ("b.test", "a.test"))] {
        node.handle.replace_keys(read(&authority.files(name, peer)));
    }
    replicates(&a, &b, "after");
    assert_eq!(a.status().pair.counters.reconnects, reconnects);
}

/// Whichever node dialled which connection: if their ends are gone there, and not at the other node, both
/// are made anew.
#[test]
fn a_pair_whose_connections_are_open_at_one_end_only_links_again() {
    for slow in 0..2 {
        let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
        let wires = [a.address, b.address].map(|address| FaultProxy::start("127.0.0.1", address));
        let [to_a, to_b] = [&wires[0], &wires[1]].map(FaultProxy::address);
        // One node's first connection comes late, and may take the place of the other's.
        wires[slow].set_both(&Faults { delay: Duration::from_millis(100), ..Faults::default() });
        let a = TestNode::start(a, Some(to_b), |_| {});
        let b = TestNode::start(b, Some(to_a), |_| {});
        let (a, b) = settled(a, b);
        wires[slow].set_both(&Faults::default());
        for round in 0..4 {
            // By then a link counts as a good one: it is dialled again without a pause.
            std::thread::sleep(Duration::from_millis(250));
            wires.iter().for_each(FaultProxy::half_open);
            let key = format!("key{round}");
            eventually("the master takes a write", || a.write(&key, b"value") || b.write(&key, b"value"));
            eventually("both have it", || {
                a.store.get(&key).is_some() && a.store.contents() == b.store.contents()
            });
        }
    }
}

#[test]
fn a_meddler_changes_nothing_and_the_pair_goes_on() {
    let authority = Authority::new();
    let sealed = [keys(&["a key of the pair"]), keys(&["a key of the pair"])];
    let tls = [read(&authority.files("a.test", "b.test")), read(&authority.files("b.test", "a.test"))];
    for [ours, theirs] in [sealed, tls] {
        let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
        let (to_a, to_b) =
            (FaultProxy::start("127.0.0.1", a.address), FaultProxy::start("127.0.0.1", b.address));
        let a = TestNode::start(a, Some(to_b.address()), |config| config.keys = SharedKeys::new(ours));
        let b = TestNode::start(b, Some(to_a.address()), |config| config.keys = SharedKeys::new(theirs));
        let (master, backup) = settled(a, b);
        let before = to_a.connections() + to_b.connections();
        for proxy in [&to_a, &to_b] {
            proxy.set_both(&Faults { corrupt_after: Some(3_000), ..Faults::default() });
        }
        for key in 0..400 {
            master.write(&format!("key{key}"), &[b'v'; 200]);
        }
        eventually("a link was given up", || {
            master.write("more", b"bytes");
            to_a.connections() + to_b.connections() > before
        });
        for proxy in [&to_a, &to_b] {
            proxy.set_both(&Faults::default());
        }
        let (master, backup) = settled(master, backup);
        replicates(&master, &backup, "last");
        assert_eq!(backup.state(), State::Backup);
    }
}

/// Something between the two swallows what goes over the data connection, and even that one end has closed it.
#[test]
fn a_data_link_that_leads_nowhere_is_made_anew_and_nothing_is_copied() {
    let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
    let proxy = FaultProxy::start("127.0.0.4", b.address);
    let lan = |config: &mut Config| {
        (config.heartbeat, config.dead_after) = (Duration::from_millis(100), Duration::from_secs(1));
    };
    // Only the backup dials: the master, who notices, cannot make the new connection itself.
    let master = TestNode::start(b, None, lan);
    master.wait("it serves alone", |status| status.pair.role.state == State::Master);
    let backup = TestNode::start(a, Some(proxy.address()), lan);
    backup.wait("it follows", |status| status.pair.role.state == State::Backup);
    replicates(&master, &backup, "before");
    master.wait("it knows", |status| status.pair.in_sync && status.pair.counters.full_copies == 1);
    let before = master.status().pair.counters;

    proxy.swallow_data();
    eventually("the master takes a write", || master.write("meanwhile", b"value"));
    master.wait("it is noticed", |status| status.pair.counters.stalls > before.stalls);
    replicates(&master, &backup, "after");
    assert_eq!(master.status().pair.counters.full_copies, before.full_copies, "nothing was copied");
}
