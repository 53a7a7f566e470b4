//! Notes what happens to the pair, and what it does each second, for those who look later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tandem_replication::driver::{RoleChange, Snapshot};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::admin::AdminSource as _;
use crate::admin::events::unix_ms;
use crate::admin::report::{Event, Node, Sample, Samples, Status};
use crate::replica::report;

use super::view::View;

/// One column each.
const SECOND: Duration = Duration::from_secs(1);
/// Five minutes.
const COLUMNS_KEPT: usize = 300;

/// The last minutes.
#[derive(Debug, Default)]
pub(super) struct Columns(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    first: u64,
    at_ms: u64,
    columns: VecDeque<(Sample, Sample, Option<u64>)>,
}

impl Columns {
    fn add(&self, status: &Status) {
        let empty = Node::default();
        let peer = sample(status.peer.as_ref().unwrap_or(&empty));
        let lag = status.link.as_ref().filter(|link| link.up).map(|link| link.lag_ms);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.columns.len() == COLUMNS_KEPT {
            kept.columns.pop_front();
            kept.first += 1;
        }
        kept.columns.push_back((sample(&status.node), peer, lag));
        kept.at_ms = unix_ms(SystemTime::now());
    }

    pub(super) fn from(&self, from: u64) -> Samples {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = from.clamp(kept.first, kept.first + kept.columns.len() as u64);
        let newest = kept.columns.range((first - kept.first) as usize..);
        let mut samples = Samples { first, at_ms: kept.at_ms, ..Samples::default() };
        for (node, peer, lag_ms) in newest {
            samples.node.push(node.clone());
            samples.peer.push(peer.clone());
            samples.lag_ms.push(*lag_ms);
        }
        samples
    }
}

fn sample(node: &Node) -> Sample {
    Sample {
        role: node.role.clone(),
        reads: node.reads_per_second,
        writes: node.writes_per_second,
        hit_ratio: node.recent_hit_ratio,
        evictions: node.evictions_per_second,
        memory_bytes: node.memory_bytes,
    }
}

/// What was noted last.
#[derive(Debug, Default)]
struct Seen {
    role_changes: u64,
    linked: Option<bool>,
    peer: String,
    copying: bool,
    contradictions: Vec<String>,
    warnings: Vec<String>,
    /// Changes taken over after a split brain and keys that both had changed: as told, and a second ago.
    healed: [(u64, u64); 2],
}

/// Notes for ever.
pub(super) async fn record(view: Arc<View>) {
    let mut pair = view.pair.as_ref().map(|pair| pair.subscribe());
    let mut seen = Seen::default();
    let mut second = tokio::time::interval(SECOND);
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = second.tick() => {
                let status = view.status();
                view.columns.add(&status);
                note_contradictions(&view, &status, &mut seen);
                note_warnings(&view, &status, &mut seen);
                note_healing(&view, &status, &mut seen);
            }
            Some(snapshot) = changed(&mut pair) => note(&view, &snapshot, &mut seen),
        }
    }
}

async fn changed(pair: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Option<Arc<Snapshot>> {
    let Some(receiver) = pair else { return std::future::pending().await };
    match receiver.changed().await {
        Ok(()) => Some(receiver.borrow_and_update().clone()),
        Err(_) => {
            // The pair has ended: the process is about to.
            *pair = None;
            std::future::pending().await
        }
    }
}

fn note(view: &View, snapshot: &Snapshot, seen: &mut Seen) {
    let known = seen.role_changes;
    for change in snapshot.role_changes.iter().filter(|change| change.number > known) {
        view.events.add(change.at, role_event(change));
        seen.role_changes = change.number;
    }
    let now = |event| view.events.add(SystemTime::now(), event);
    let linked = report::linked(snapshot);
    if seen.linked.unwrap_or(false) != linked {
        now(link_event(linked, report::problem(snapshot)));
    }
    seen.linked = Some(linked);
    let pair = &snapshot.pair;
    let peer = match pair.peer_state {
        Some(state) if pair.is_linked() && !report::lost(snapshot) => state.name(),
        _ if seen.peer.is_empty() => "",
        _ => "unreachable",
    };
    // Between two links nobody knows: that is told as the link's.
    if seen.peer != peer && pair.peer_state.is_some() {
        let from = if seen.peer.is_empty() { "unknown" } else { &seen.peer };
        now(Event {
            kind: "peer".to_owned(),
            text: format!("the other node is {peer}"),
            from: from.to_owned(),
            to: peer.to_owned(),
            ..Event::default()
        });
        peer.clone_into(&mut seen.peer);
    }
    if seen.copying != pair.copy.is_some() {
        seen.copying = pair.copy.is_some();
        now(copy_event(pair.copy.map(|copy| (copy.items, copy.items_total)), linked));
    }
}

fn role_event(change: &RoleChange) -> Event {
    Event {
        kind: "role".to_owned(),
        text: change.why.to_owned(),
        from: change.from.name().to_owned(),
        to: change.to.name().to_owned(),
        epoch: change.epoch,
        ..Event::default()
    }
}

fn link_event(up: bool, problem: Option<String>) -> Event {
    let state = |up| if up { "up" } else { "down" }.to_owned();
    let text = match (up, problem) {
        (true, _) => "the nodes are connected".to_owned(),
        (false, None) => "the nodes are not connected any more".to_owned(),
        (false, Some(problem)) => format!("the nodes are not connected any more: {problem}"),
    };
    Event { kind: "link".to_owned(), text, from: state(!up), to: state(up), ..Event::default() }
}

fn copy_event(copy: Option<(u64, u64)>, linked: bool) -> Event {
    let (text, to) = match (copy, linked) {
        (Some((_, all)), _) => {
            (format!("everything is copied to the other node: about {all} items"), "begun")
        }
        (None, true) => ("the copy is complete".to_owned(), "complete"),
        (None, false) => ("the copy was cut off".to_owned(), "cut off"),
    };
    Event { kind: "copy".to_owned(), text, to: to.to_owned(), ..Event::default() }
}

fn note_contradictions(view: &View, status: &Status, seen: &mut Seen) {
    // Without a link nothing is known of the other's settings: that is no agreement.
    if !status.link.as_ref().is_some_and(|link| link.up) {
        return;
    }
    let found = status.contradictions();
    for text in found.iter().filter(|text| !seen.contradictions.contains(text)) {
        tracing::warn!("{text}");
        let event = Event { kind: "warning".to_owned(), text: text.clone(), ..Event::default() };
        view.events.add(SystemTime::now(), event);
    }
    seen.contradictions = found;
}

/// What else an operator should put right, when it begins.
fn note_warnings(view: &View, status: &Status, seen: &mut Seen) {
    let known = status.contradictions();
    let found: Vec<String> = status.warnings.iter().filter(|text| !known.contains(text)).cloned().collect();
    for text in found.iter().filter(|text| !seen.warnings.contains(text)) {
        tracing::warn!("{text}");
        let event = Event { kind: "warning".to_owned(), text: text.clone(), ..Event::default() };
        view.events.add(SystemTime::now(), event);
    }
    seen.warnings = found;
}

/// What became of a split brain, once it does not become more.
fn note_healing(view: &View, status: &Status, seen: &mut Seen) {
    let Some(link) = &status.link else { return };
    let now = (link.heal_merged, link.heal_conflicts);
    let [told, before] = seen.healed;
    seen.healed[1] = now;
    if now != before || now == told {
        return;
    }
    seen.healed[0] = now;
    let (merged, conflicts) = (now.0.saturating_sub(told.0), now.1.saturating_sub(told.1));
    let text = format!(
        "both nodes had served: {merged} changes of the other one were taken over; keys that both had changed: {conflicts}"
    );
    view.events.add(SystemTime::now(), Event { kind: "warning".to_owned(), text, ..Event::default() });
}
