//! Two machines and a cable, as network namespaces, and what befalls a cable.
#![allow(dead_code, unreachable_pub, reason = "tests and figures share this file")]

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Pair, Setup};

/// Two network namespaces with a cable between them and one to us each.
///
/// The cable between the nodes is a network of its own, and we reach each node through another one,
/// so that cutting theirs leaves clients alone.
pub struct Cables {
    slot: u32,
    names: [String; 2],
    /// Where clients find the nodes.
    clients: [IpAddr; 2],
    /// Where the nodes find each other.
    nodes: [IpAddr; 2],
    /// The same over the second cable, if one is laid.
    second: [IpAddr; 2],
    /// Where the nodes find us.
    pub outside: [IpAddr; 2],
}

/// How many of them there can be at once: each takes sixteen addresses of 10.213.0.0/16.
const SLOTS: u32 = 4096;

impl Cables {
    /// `None` where namespaces cannot be made (not root).
    pub fn new() -> Option<Self> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let wanted = std::process::id() + 37 * CALLS.fetch_add(1, Ordering::Relaxed);
        // Whoever makes the first namespace of a slot has its addresses, so that tests which run at the
        // same time, or were killed and left theirs behind, share none.
        (0..SLOTS).find_map(|attempt| {
            let slot = (wanted + attempt) % SLOTS;
            let names = ["a", "b"].map(|end| format!("tandem-{slot}-{end}"));
            match claim(&names[0]) {
                Claim::Taken => None,
                Claim::Forbidden => Some(None),
                Claim::Ours => Some(Some(Self::lay(slot, names))),
            }
        })?
    }

    /// Networks of four addresses: between the nodes, to the first one, to the second one, between them again.
    fn lay(slot: u32, names: [String; 2]) -> Self {
        let base = u32::from_be_bytes([10, 213, 0, 0]) + 16 * slot;
        let address = |network: u32, host: u32| IpAddr::from((base + 4 * network + host).to_be_bytes());
        let cables = Self {
            slot,
            names,
            clients: [address(1, 2), address(2, 2)],
            nodes: [address(0, 1), address(0, 2)],
            second: [address(3, 1), address(3, 2)],
            outside: [address(1, 1), address(2, 1)],
        };
        assert!(cables.lay_all(), "a namespace could be made but no cable between two: see above");
        cables
    }

    fn lay_all(&self) -> bool {
        let ([a, b], slot) = (&self.names, self.slot);
        let between = format!("td{slot}p");
        ip(&["netns", "add", b])
            && ip(&[
                "link", "add", &between, "netns", a, "type", "veth", "peer", "name", &between, "netns", b,
            ])
            && (0..2).all(|index| {
                let name = &self.names[index];
                let [ours, theirs] = [format!("td{slot}o{index}"), format!("td{slot}i{index}")];
                let ends = [self.nodes[index], self.clients[index], self.outside[index]]
                    .map(|address| format!("{address}/30"));
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

    /// The same with a second cable between the nodes, for heartbeats.
    pub fn pair_with_second(&self, setup: Setup) -> Pair {
        let between = format!("td{}q", self.slot);
        let [a, b] = &self.names;
        let laid =
            ip(&["link", "add", &between, "netns", a, "type", "veth", "peer", "name", &between, "netns", b])
                && (0..2).all(|index| {
                    let (name, end) = (&self.names[index], format!("{}/30", self.second[index]));
                    ip(&["-n", name, "addr", "add", &end, "dev", &between])
                        && ip(&["-n", name, "link", "set", &between, "up"])
                });
        assert!(laid, "one cable could be laid but not a second one: see above");
        let mut pair = self.pair(setup);
        for (index, node) in pair.nodes.iter_mut().enumerate() {
            let (own, other) = (self.second[index].to_string(), self.second[1 - index].to_string());
            node.flags.extend(["--replication-listen".to_owned(), own]);
            node.flags.extend(["--heartbeat-peer".to_owned(), other]);
        }
        pair
    }

    /// Drops everything on the second cable, without a word to either.
    pub fn cut_second(&self) {
        for (name, peer) in self.names.iter().zip([self.second[1], self.second[0]]) {
            let rules = format!(
                "table inet second {{ chain outward {{ type filter hook output priority 0; ip daddr {peer} drop; }}; }}"
            );
            assert!(run("ip", &["netns", "exec", name, "nft", &rules]), "nft, of nftables");
        }
    }

    /// Ends [`Cables::cut_second`].
    pub fn mend_second(&self) {
        for name in &self.names {
            assert!(run("ip", &["netns", "exec", name, "nft", "delete table inet second"]));
        }
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
        let between = format!("td{}p", self.slot);
        let queue = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "100ms"];
        self.names
            .iter()
            .all(|name| run("tc", &[&["-n", name, "qdisc", "replace", "dev", &between], &queue[..]].concat()))
    }

    /// Everything passes again.
    pub fn mend(&self) {
        let between = format!("td{}p", self.slot);
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

enum Claim {
    Ours,
    Taken,
    Forbidden,
}

/// Makes a namespace of that name, if nobody has it.
fn claim(name: &str) -> Claim {
    let Ok(output) = Command::new("ip").args(["netns", "add", name]).output() else {
        return Claim::Forbidden;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Claim::Ours,
        false if said.contains("File exists") => Claim::Taken,
        false => {
            eprint!("{said}");
            Claim::Forbidden
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}
