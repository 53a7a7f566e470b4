//! Two machines and a cable, as network namespaces, and what befalls a cable.
#![allow(dead_code, unreachable_pub, reason = "tests and figures share this file")]

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Pair, Setup};

/// Two network namespaces with a cable between them and one to us each.
///
/// `10.213.N.1 ── 10.213.N.2` is the cable between the nodes; we reach each node through a cable of
/// its own, so that cutting theirs leaves clients alone.
pub struct Cables {
    id: u32,
    names: [String; 2],
    /// Where clients find the nodes.
    clients: [IpAddr; 2],
    /// Where the nodes find each other.
    nodes: [IpAddr; 2],
    /// Where the nodes find us.
    pub outside: [IpAddr; 2],
}

impl Cables {
    /// `None` where namespaces cannot be made (not root).
    pub fn new() -> Option<Self> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        // Tests of one process lay their own.
        let id = std::process::id() % 1_000_000 * 10 + CALLS.fetch_add(1, Ordering::Relaxed) % 10;
        let net = (id % 60) as u8 * 4;
        let cables = Self {
            id,
            names: [format!("tandem-{id}-a"), format!("tandem-{id}-b")],
            clients: [IpAddr::from([10, 213, net + 1, 2]), IpAddr::from([10, 213, net + 2, 2])],
            nodes: [IpAddr::from([10, 213, net, 1]), IpAddr::from([10, 213, net, 2])],
            outside: [IpAddr::from([10, 213, net + 1, 1]), IpAddr::from([10, 213, net + 2, 1])],
        };
        if !ip(&["netns", "add", &cables.names[0]]) {
            return None;
        }
        let done = ip(&["netns", "add", &cables.names[1]]) && cables.lay(id, net);
        assert!(done, "a namespace could be made but no cable between two: see above");
        Some(cables)
    }

    fn lay(&self, id: u32, net: u8) -> bool {
        let [a, b] = &self.names;
        let between = format!("td{id}p");
        ip(&["link", "add", &between, "netns", a, "type", "veth", "peer", "name", &between, "netns", b])
            && (0..2).all(|index| {
                let name = &self.names[index];
                let [ours, theirs] = [format!("td{id}o{index}"), format!("td{id}i{index}")];
                let ends = [
                    format!("{}/24", self.nodes[index]),
                    format!("{}/24", self.clients[index]),
                    format!("10.213.{}.1/24", net + 1 + index as u8),
                ];
                ip(&["-n", name, "addr", "add", &ends[0], "dev", &between])
                    && ip(&["-n", name, "link", "set", &between, "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
                    && ip(&["link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", name])
                    && ip(&["-n", name, "addr", "add", &ends[1], "dev", &theirs])
                    && ip(&["-n", name, "link", "set", &theirs, "up"])
                    && ip(&["addr", "add", &ends[2], "dev", &ours])
                    && ip(&["link", "set", &ours, "up"])
            })
    }

    /// Drops what a node says to a port of ours.
    pub fn cut_off(&self, node: usize, port: u16) {
        let rules = format!(
            "table inet off {{ chain outward {{ type filter hook output priority 0; tcp dport {port} drop; }}; }}"
        );
        assert!(run("ip", &["netns", "exec", &self.names[node], "nft", &rules]), "nft, of nftables");
    }

    /// Ends [`Cables::cut_off`].
    pub fn let_in(&self, node: usize) {
        assert!(run("ip", &["netns", "exec", &self.names[node], "nft", "delete table inet off"]));
    }

    /// A pair at both ends of the cable; clients come over the other ones.
    pub fn pair(&self, setup: Setup) -> Pair {
        let mut setup = setup.flag("--insecure-replication");
        setup.hosts = self.nodes;
        setup.namespaces = Some(self.names.clone());
        let mut pair = setup.pair();
        for (index, node) in pair.nodes.iter_mut().enumerate() {
            node.flags.extend(["--replication-listen".to_owned(), self.nodes[index].to_string()]);
            node.host = self.clients[index];
        }
        pair
    }

    /// Drops everything between the nodes, in both directions, without a word to either.
    pub fn cut(&self) {
        (0..2).for_each(|from| self.cut_from(from));
    }

    /// Drops everything that this node sends to the other.
    pub fn cut_from(&self, from: usize) {
        self.drop_at(from, "");
    }

    /// Drops so many of a hundred packets, in both directions.
    pub fn lose(&self, percent: u32) {
        (0..2).for_each(|from| self.drop_at(from, &format!("numgen random mod 100 < {percent}")));
    }

    fn drop_at(&self, from: usize, condition: &str) {
        let (name, peer) = (&self.names[from], self.nodes[1 - from]);
        let rules = format!(
            "table inet cut {{ chain outward {{ type filter hook output priority 0; \
             ip daddr {peer} {condition} drop; }}; }}"
        );
        assert!(run("ip", &["netns", "exec", name, "nft", &rules]), "nft, of nftables");
    }

    /// Lets so many bits a second pass, in both directions; `false` where the kernel cannot.
    pub fn narrow(&self, rate: &str) -> bool {
        let between = format!("td{}p", self.id);
        let queue = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "100ms"];
        self.names
            .iter()
            .all(|name| run("tc", &[&["-n", name, "qdisc", "replace", "dev", &between], &queue[..]].concat()))
    }

    /// Everything passes again.
    pub fn mend(&self) {
        let between = format!("td{}p", self.id);
        for name in &self.names {
            let quiet = |program: &str, arguments: &[&str]| {
                let _ = Command::new(program).args(arguments).stderr(Stdio::null()).status();
            };
            quiet("ip", &["netns", "exec", name, "nft", "delete table inet cut"]);
            quiet("tc", &["-n", name, "qdisc", "del", "dev", &between, "root"]);
        }
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        for name in &self.names {
            // Cables go with their namespaces.
            ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}
