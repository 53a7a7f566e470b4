//! Takes the product's files as they are, but for the locks and atomics: those are the scheduler's
//! (`crate::sync`). And again with a bug in each, to see that it is found.

use std::path::Path;

/// A file of the product, or the same with one change.
struct Source {
    name: &'static str,
    path: &'static str,
    /// What is replaced by what, if it is to have a bug.
    bug: Option<(&'static str, &'static str)>,
}

const RING: &str = "replication/src/backlog.rs";
const GATE: &str = "src/replica/gate.rs";
const ACKS: &str = "src/replica/receipts.rs";
const BUDGET: &str = "src/engine/budget.rs";

const SOURCES: [Source; 12] = [
    Source { name: "ring", path: RING, bug: None },
    // Whoever went to sleep in between is not woken.
    Source {
        name: "ring_wakes_too_soon",
        path: RING,
        bug: Some((
            "let sequence = self.append(shard, change);\n        self.nudge();",
            "self.nudge();\n        let sequence = self.append(shard, change);",
        )),
    },
    // Two that take a block at the same moment are counted as one.
    Source {
        name: "ring_counts_badly",
        path: RING,
        bug: Some((
            "self.used.fetch_sub(block.cost(), Ordering::Relaxed);\n            spare",
            "self.used.store(self.used.load(Ordering::Relaxed) - block.cost(), Ordering::Relaxed);\n            spare",
        )),
    },
    // One change less than the peer misses.
    Source {
        name: "ring_forgets",
        path: RING,
        bug: Some(("block.changes_behind(acked).for_each(", "block.changes_behind(acked + 1).for_each(")),
    },
    Source { name: "gate", path: GATE, bug: None },
    // The gate may close between the look and the flag.
    Source {
        name: "gate_flag_comes_late",
        path: GATE,
        bug: Some((
            "self.raise(worker, true);\n        let admission = match self.mode.load(Ordering::SeqCst) {\n            SERVE if self.granted() => {\n",
            "let admission = match self.mode.load(Ordering::SeqCst) {\n            SERVE if self.granted() => {\n                self.raise(worker, true);\n",
        )),
    },
    // It may open between the look and the wait.
    Source {
        name: "gate_looks_before_it_listens",
        path: GATE,
        bug: Some((
            "while !self.admits() {\n                if term.changed()",
            "while !self.admits() {\n                term = self.term.subscribe();\n                if term.changed()",
        )),
    },
    Source { name: "acks", path: ACKS, bug: None },
    // Who looks when it is woken sees what was known before.
    Source {
        name: "acks_wake_too_soon",
        path: ACKS,
        bug: Some((
            "self.know(applied, followed);\n        self.wake();",
            "self.wake();\n        self.know(applied, followed);",
        )),
    },
    // A wish that comes between the look and the bell is forgotten.
    Source {
        name: "acks_forget_a_wish",
        path: ACKS,
        bug: Some((
            "&& bell.wanted.swap(false, Ordering::SeqCst)\n                && let Some(ring) = bell.ring.get()\n            {\n                ring();",
            "&& let Some(ring) = bell.ring.get()\n            {\n                ring();\n                bell.wanted.store(false, Ordering::SeqCst);",
        )),
    },
    Source { name: "budget", path: BUDGET, bug: None },
    // Two may take the same bytes.
    Source {
        name: "budget_looks_then_takes",
        path: BUDGET,
        bug: Some((
            "self.used\n            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {\n                used.checked_add(bytes).filter(|&used| used <= limit)\n            })\n            .is_ok()",
            "let fits = self.used().checked_add(bytes).is_some_and(|used| used <= limit);\n        if fits {\n            self.used.fetch_add(bytes, Ordering::AcqRel);\n        }\n        fits",
        )),
    },
];

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo says where");
    for source in &SOURCES {
        let path = Path::new("..").join(source.path);
        println!("cargo::rerun-if-changed={}", path.display());
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let text = text.replace("#[cfg(feature = \"testing\")]", "#[cfg(any())]");
        let mut text = text.replace("use std::sync::", "use crate::sync::");
        if let Some((code, bug)) = source.bug {
            let found = text.matches(code).count();
            assert!(found == 1, "{}, {found} times in {}: {code}", source.name, path.display());
            text = text.replacen(code, bug, 1);
        }
        // What is included may not begin with a module's description.
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("//!")).collect();
        let target = Path::new(&out).join(source.name).with_extension("rs");
        std::fs::write(target, lines.join("\n")).expect("cargo's own directory");
    }
}
