//! Both nodes side by side: what `tandemctl status` prints.

use std::fmt::Write as _;

use crate::admin::report::{Arbiter, Link, Node, Status};

/// A name, this node's cell, the peer's.
type Row = (&'static str, String, String);

/// Colours of a terminal.
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// The table; with `colour` for a terminal.
pub fn render(status: &Status, colour: bool) -> String {
    let missing = Node::default();
    let peer = status.peer.as_ref();
    let mut rows: Vec<Row> = vec![("", "this node".to_owned(), "peer".to_owned())];
    let mut row = |name, show: &dyn Fn(&Node) -> Option<String>| {
        let cell = |node: &Node| show(node).unwrap_or_else(|| "–".to_owned());
        rows.push((name, cell(&status.node), cell(peer.unwrap_or(&missing))));
    };
    row("address", &|node| some(&node.address));
    row("role", &|node| some(&node.role));
    row("epoch", &|node| (node.epoch > 0).then(|| node.epoch.to_string()));
    row("in role for", &|node| node.role_for_secs.map(|secs| age(secs as u64)));
    row("items", &|node| node.items.map(grouped));
    row("memory", &memory);
    row("hit ratio", &|node| node.hit_ratio.map(|ratio| format!("{:.1} %", ratio * 100.0)));
    row("reads/s", &|node| node.reads_per_second.map(|rate| grouped(rate.round() as u64)));
    row("writes/s", &|node| node.writes_per_second.map(|rate| grouped(rate.round() as u64)));
    row("evictions/s", &|node| node.evictions_per_second.map(|rate| grouped(rate.round() as u64)));
    row("connections", &|node| node.connections.map(grouped));
    row("uptime", &|node| node.uptime_secs.map(age));
    row("version", &|node| node.version.clone());
    // A row of dashes says nothing.
    rows.retain(|(_, ours, theirs)| ours != "–" || (peer.is_some() && theirs != "–"));
    let width = |pick: fn(&Row) -> &str| rows.iter().map(|row| pick(row).chars().count()).max().unwrap_or(0);
    let (names, ours) = (width(|row| row.0), width(|row| &row.1));
    let paint = |text: String, with: &str| {
        if colour && !with.is_empty() { format!("{with}{text}{PLAIN}") } else { text }
    };
    let mut text = String::new();
    for (name, node, peer_node) in &rows {
        let peer_node = if peer.is_some() { peer_node } else { "" };
        let colour_of = |cell: &str| match *name {
            "" => BOLD,
            "role" => colour_of_role(cell),
            _ => "",
        };
        let pad = if peer_node.is_empty() { 0 } else { ours.saturating_sub(node.chars().count()) };
        let cells = [paint(node.clone(), colour_of(node)), paint(peer_node.to_owned(), colour_of(peer_node))];
        let line = format!("{name:<names$}  {}{:pad$}  {}", cells[0], "", cells[1]);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if let Some(reason) = &status.node.role_reason {
        let _ = writeln!(text, "\n{} because: {reason}", status.node.role);
    }
    if let Some(link) = &status.link {
        let with = match (link.up, link.synced) {
            (false, _) => RED,
            (true, synced) if !synced || link.heartbeat_path_up == Some(false) => YELLOW,
            (true, _) => GREEN,
        };
        let _ = writeln!(text, "link {}", paint(describe(link), with));
    }
    if let Some(arbiter) = &status.arbiter {
        let with = if arbiter.reachable.unwrap_or(false) { GREEN } else { YELLOW };
        let _ = writeln!(text, "arbiter {}", paint(describe_arbiter(arbiter), with));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "{}", paint(format!("warning: {warning}"), YELLOW));
    }
    text
}

fn colour_of_role(role: &str) -> &'static str {
    match role {
        "master" | "backup" | "standalone" => GREEN,
        "" | "–" | "unreachable" => RED,
        _ => YELLOW,
    }
}

/// The arbiter in words.
fn describe_arbiter(arbiter: &Arbiter) -> String {
    let reached = match arbiter.reachable {
        Some(true) => "reachable",
        Some(false) => "NOT reachable",
        None => "not asked yet",
    };
    let grant = match (&*arbiter.grant, arbiter.grant_ms) {
        ("this node", Some(left)) => format!(", this node serves by its word for {} ms", grouped(left)),
        ("the other node", _) => ", its word is the other node's".to_owned(),
        _ => String::new(),
    };
    format!("{}: {reached}{grant}", arbiter.name)
}

/// The link in words.
pub fn describe(link: &Link) -> String {
    let mut words = vec![if link.up { "up".to_owned() } else { "DOWN".to_owned() }];
    match (link.up, link.heartbeat_path_up) {
        (false, Some(true)) => words.push("the peer is heard over the heartbeat path".to_owned()),
        (true, Some(false)) => words.push("heartbeat path DOWN".to_owned()),
        (false, Some(false) | None) | (true, Some(true) | None) => {}
    }
    match (link.copy, link.synced) {
        (Some((done, all)), _) => {
            let percent = (done * 100).checked_div(all).unwrap_or(100);
            let left = link.copy_seconds_left.map_or(String::new(), |left| format!(", {} left", age(left)));
            words.push(format!(
                "copying, {} of about {} items, {percent} %{left}",
                grouped(done),
                grouped(all)
            ))
        }
        (None, true) => words.push("in sync".to_owned()),
        (None, false) => words.push("not in sync".to_owned()),
    }
    if link.lag_records > 0 {
        words.push(format!("lag {} changes, {} ms", grouped(link.lag_records), link.lag_ms));
    }
    match link.silent_ms {
        Some(silent) if !link.up => words.push(format!("peer silent for {}", age(silent / 1000))),
        None if !link.up => words.push("peer never heard".to_owned()),
        _ => {}
    }
    words.extend(link.problem.clone());
    words.join(", ")
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn memory(node: &Node) -> Option<String> {
    let mib = |bytes: u64| grouped(bytes >> 20);
    match (node.memory_bytes, node.memory_limit_bytes) {
        (Some(used), Some(limit)) => Some(format!("{} of {} MiB", mib(used), mib(limit))),
        (Some(used), None) => Some(format!("{} MiB", mib(used))),
        _ => None,
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds in words.
pub fn age(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86400 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86400, secs % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_nodes_stand_side_by_side() {
        let node = |address: &str, role: &str, items| Node {
            address: address.to_owned(),
            role: role.to_owned(),
            epoch: 7,
            items: Some(items),
            ..Node::default()
        };
        let status = Status {
            node: Node {
                role_reason: Some("lost the master".to_owned()),
                ..node("a:11211", "master", 1_234_567)
            },
            peer: Some(node("b:11211", "backup", 12)),
            link: Some(Link { up: true, synced: true, lag_records: 3, lag_ms: 4, ..Link::default() }),
            warnings: vec!["failovers are paused".to_owned()],
            ..Status::default()
        };
        let expected = [
            "         this node  peer",
            "address  a:11211    b:11211",
            "role     master     backup",
            "epoch    7          7",
            "items    1,234,567  12",
            "",
            "master because: lost the master",
            "link up, in sync, lag 3 changes, 4 ms",
            "warning: failovers are paused",
        ];
        assert_eq!(render(&status, false).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_node_without_a_peer_has_one_column() {
        let node = Node { role: "standalone".to_owned(), ..Node::default() };
        assert_eq!(
            render(&Status { node, ..Status::default() }, false),
            "      this node\nrole  standalone\n"
        );
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let node = |role: &str| Node { role: role.to_owned(), items: Some(5), ..Node::default() };
        let link = Some(Link { up: true, ..Link::default() });
        let status = Status { node: node("master"), peer: Some(node("joining")), link, ..Status::default() };
        let coloured = render(&status, true);
        assert!(coloured.contains("\x1b[32mmaster\x1b[0m") && coloured.contains("\x1b[33mjoining"));
        let mut plain = coloured;
        for colour in [GREEN, YELLOW, RED, BOLD, PLAIN] {
            plain = plain.replace(colour, "");
        }
        assert_eq!(plain, render(&status, false));
    }

    #[test]
    fn a_dead_peer_is_shown_as_such() {
        let link = Link {
            silent_ms: Some(61_000),
            problem: Some("connection refused".to_owned()),
            ..Link::default()
        };
        assert_eq!(describe(&link), "DOWN, not in sync, peer silent for 1 min 1 s, connection refused");
    }

    #[test]
    fn the_arbiter_is_named_and_whom_it_lets_serve() {
        let mut arbiter = Arbiter { name: "witness w1:11214".to_owned(), ..Arbiter::default() };
        assert_eq!(describe_arbiter(&arbiter), "witness w1:11214: not asked yet");
        (arbiter.reachable, arbiter.grant, arbiter.grant_ms) =
            (Some(true), "this node".to_owned(), Some(2340));
        let expected = "witness w1:11214: reachable, this node serves by its word for 2,340 ms";
        assert_eq!(describe_arbiter(&arbiter), expected);
        (arbiter.reachable, arbiter.grant, arbiter.grant_ms) =
            (Some(false), "the other node".to_owned(), None);
        let expected = "witness w1:11214: NOT reachable, its word is the other node's";
        assert_eq!(describe_arbiter(&arbiter), expected);
    }

    #[test]
    fn each_path_is_named_when_it_is_down() {
        let mut link = Link { synced: true, heartbeat_path_up: Some(true), ..Link::default() };
        link.silent_ms = Some(90);
        let expected = "DOWN, the peer is heard over the heartbeat path, in sync, peer silent for 0 s";
        assert_eq!(describe(&link), expected);
        (link.up, link.heartbeat_path_up) = (true, Some(false));
        assert_eq!(describe(&link), "up, heartbeat path DOWN, in sync");
    }
}
