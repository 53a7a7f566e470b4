//! HAProxy, keepalived and nutcracker in front of real pairs, with the files of `deploy/`.

use std::net::SocketAddr;
use std::time::Duration;

use tandemd::bench::client::Client;

use crate::harness::{PATIENCE, Pair, wait_for};
use crate::machines::Machines;
use crate::setup;
use crate::support::{Service, command, find, free_port, installed, read, run};

/// `deploy/haproxy/<file>` for this pair, running; and where clients go.
fn haproxy(file: &str, pair: &Pair) -> (Service, SocketAddr) {
    let front = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut text = read(&format!("deploy/haproxy/{file}")).replace("bind :11211", &format!("bind {front}"));
    for (node, name) in pair.nodes.iter().zip(["192.0.2.11:11211", "192.0.2.12:11211"]) {
        assert!(text.contains(name), "{file} names both nodes");
        text = text.replace(name, &node.address().to_string());
    }
    text = text.replace("check port 11213", &format!("check port {}", pair.nodes[0].admin_address().port()));
    let path = pair.directory().join(file);
    std::fs::write(&path, text).expect("a file");
    // Without a master process: it ends when it is killed.
    let service = Service::start(command("haproxy").args(["-db", "-f"]).arg(&path), pair.directory(), file);
    (service, front)
}

/// The process that answers at an address, and its role, as `stats` has it.
fn who(address: SocketAddr) -> Option<(String, String)> {
    let mut stats = Client::connect(address, Duration::from_secs(2)).ok()?.stats("").ok()?;
    Some((stats.remove("pid")?, stats.remove("replication")?))
}

/// New connections at `front` reach that node, which is master.
fn wait_routed(front: SocketAddr, pair: &Pair, node: usize) {
    let expected = (pair.nodes[node].pid().to_string(), "MASTER".to_owned());
    wait_for(&format!("{front} leads to the master"), PATIENCE, || (who(front)? == expected).then_some(()));
}

fn routes_to_the_master_and_follows_it(file: &str) {
    if !installed(&["haproxy"]) {
        return;
    }
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let (_haproxy, front) = haproxy(file, &pair);
    wait_routed(front, &pair, master);
    let mut client = Client::connect(front, PATIENCE).expect("a connection");
    client.set("key", b"before").expect("a set");
    pair.wait_converged(PATIENCE);

    // The master dies: new connections reach the survivor, which has the item.
    pair.nodes[master].kill();
    wait_routed(front, &pair, 1 - master);
    let mut client = Client::connect(front, PATIENCE).expect("a connection");
    assert_eq!(client.get("key").expect("a get").as_deref(), Some(&b"before"[..]));

    // It comes back as a backup and gets no connections, until it is master again.
    pair.nodes[master].start();
    pair.wait_paired();
    wait_routed(front, &pair, 1 - master);
    pair.nodes[1 - master].admin().switchover().expect("a switchover");
    wait_routed(front, &pair, master);
}

#[test]
fn haproxy_asks_for_the_role_in_memcacheds_protocol_and_follows_the_master() {
    routes_to_the_master_and_follows_it("haproxy.cfg");
}

#[test]
fn haproxy_asks_for_the_role_at_the_admin_port_and_follows_the_master() {
    routes_to_the_master_and_follows_it("haproxy-http.cfg");
}

/// While nobody is master, a connection still finds a node, which holds requests back.
#[test]
fn haproxy_refuses_nobody_while_the_role_changes_hands() {
    if !installed(&["haproxy"]) {
        return;
    }
    let pair = setup().start();
    let mut master = pair.wait_paired();
    let (_haproxy, front) = haproxy("haproxy.cfg", &pair);
    wait_routed(front, &pair, master);
    for round in 0..3 {
        pair.nodes[master].admin().switchover().expect("a switchover");
        master = 1 - master;
        for request in 0..20 {
            // A connection may be closed because its node lost the role; the next one is served.
            let stored = (0..3).any(|_| {
                Client::connect(front, PATIENCE)
                    .is_ok_and(|mut client| client.set(&format!("{round}-{request}"), b"x").is_ok())
            });
            assert!(stored, "round {round}, request {request}");
        }
        wait_routed(front, &pair, master);
        pair.wait_paired();
    }
}

#[test]
fn nutcracker_spreads_keys_over_pairs_and_survives_a_switchover() {
    if !installed(&["nutcracker"]) {
        return;
    }
    let pairs = [setup().start(), setup().start()];
    let masters = pairs.each_ref().map(Pair::wait_paired);
    let front = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut text = read("deploy/nutcracker/nutcracker.yml").replace("127.0.0.1:22121", &front.to_string());
    for (pair, name) in pairs.iter().zip(["192.0.2.10:11211", "192.0.2.20:11211"]) {
        assert!(text.contains(name), "nutcracker.yml names both pairs");
        // One address per pair: any of its nodes.
        text = text.replace(name, &pair.nodes[0].address().to_string());
    }
    let path = pairs[0].directory().join("nutcracker.yml");
    std::fs::write(&path, text).expect("a file");
    run(command("nutcracker").arg("-t").arg("-c").arg(&path));
    let mut nutcracker = command("nutcracker");
    nutcracker.arg("-c").arg(&path).args(["-a", "127.0.0.1", "-s", &free_port().to_string()]);
    let _nutcracker = Service::start(&mut nutcracker, pairs[0].directory(), "nutcracker");

    let mut client = wait_for("nutcracker listens", PATIENCE, || Client::connect(front, PATIENCE).ok());
    for key in 0..300 {
        if key == 150 {
            pairs[0].nodes[masters[0]].admin().switchover().expect("a switchover");
        }
        client.set(&format!("key-{key}"), b"x").expect("a set through nutcracker");
    }
    for key in 0..300 {
        assert!(client.get(&format!("key-{key}")).expect("a get through nutcracker").is_some(), "key-{key}");
    }
    let counts = pairs.each_ref().map(|pair| pair.wait_converged(PATIENCE));
    assert_eq!(counts[0] + counts[1], 300);
    assert!(counts.iter().all(|&count| count > 50), "keys are spread: {counts:?}");
}

/// Two machines as in the file, with its addresses and its interface: only installed, not changed.
#[test]
fn the_virtual_address_of_keepalived_follows_the_master() {
    if !installed(&["keepalived", "nc"]) {
        return;
    }
    let Some(machines) = Machines::start() else { return };
    machines.install();
    machines.pair_up();
    let conf = read("deploy/keepalived/keepalived.conf");
    let swapped =
        conf.replace("192.0.2.11", "X").replace("192.0.2.12", "192.0.2.11").replace('X', "192.0.2.12");
    let keepalived = find("keepalived").expect("keepalived").display().to_string();
    let mut running = Vec::new();
    for (index, conf) in [conf, swapped].iter().enumerate() {
        let machine = &machines[index];
        machine.write("/etc/keepalived/keepalived.conf", conf);
        machine.sh("cd /usr/share/doc/tandemd/examples/keepalived && \
             install -m 755 check-master notify /etc/keepalived/");
        let script = format!("exec {keepalived} -n -l -D");
        running.push(Service::start(
            &mut machine.command(&script),
            machines.directory(),
            &format!("keepalived-{index}"),
        ));
    }
    let holder = || -> Option<usize> {
        let has = |index: usize| machines[index].sh("ip -4 -o addr show dev eth0").contains("192.0.2.10/");
        match [has(0), has(1)] {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        }
    };
    let wait_follows = |master: usize| {
        wait_for("the virtual address is on the master", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(100));
            (holder() == Some(master)).then_some(())
        });
    };
    let master = machines.master();
    wait_follows(master);
    machines[1 - master]
        .sh(r"printf 'set vip 0 0 2\r\nok\r\nquit\r\n' | nc -w 5 192.0.2.10 11211 | grep STORED");

    machines[master].sh("tandemctl switchover");
    wait_follows(1 - master);

    machines[1 - master].sh("systemctl stop tandemd");
    wait_follows(master);
    machines[1 - master].sh(r"printf 'get vip\r\nquit\r\n' | nc -w 5 192.0.2.10 11211 | grep ok");
}
