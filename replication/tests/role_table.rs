//! The role table is complete, drawn, and explained: every pair of state and trigger has a row or is
//! ignored on purpose, and README.md shows what the code does.
//!
//! `TANDEM_WRITE_README=1` writes the table and the diagram into README.md.

use std::collections::BTreeSet;

use tandem_replication::role::{Effect, ROWS, State, Trigger, row};

/// Why a trigger means nothing in a state.
const IGNORED: &[(State, &[Trigger], &str)] = {
    use State::{Backup, Boot, Doubt, Draining, Joining, Master, Offered, Stopped};
    use Trigger::{
        Alone, Drained, FellBehind, Forced, Forsaken, LostMaster, OfferReceived, OfferUnanswered, PeerAgrees,
        PeerDead, PeerDeaf, PeerRestarted, Stop, Synced, WasLate, WeakerMaster, WeakerPassive, Yield,
        YieldFailed,
    };
    &[
        (Boot, &[PeerDead, PeerRestarted], "waits for its own time to be over (alone)"),
        (Boot, &[WasLate], "has nothing to lose: the detector starts anew"),
        (Boot, &[PeerAgrees, PeerDeaf], "serves nobody"),
        (Boot, &[Synced, FellBehind, OfferReceived], "follows nobody"),
        (Boot, &[Yield, Drained, YieldFailed, OfferUnanswered], "has no role to give"),
        (Joining, &[Alone, WeakerMaster, WeakerPassive], "follows a master; its end is another trigger"),
        (Joining, &[WasLate], "serves nobody: the detector starts anew"),
        (Joining, &[PeerAgrees, PeerDeaf], "serves nobody"),
        (Joining, &[OfferReceived], "does not hold everything: the offer is declined"),
        (Joining, &[Yield, Drained, YieldFailed, OfferUnanswered], "has no role to give"),
        (Backup, &[Alone, WeakerPassive, Synced], "is what it should be"),
        (Backup, &[WasLate], "serves nobody: the detector starts anew"),
        (Backup, &[PeerAgrees, PeerDeaf], "serves nobody"),
        (Backup, &[Yield, Drained, YieldFailed, OfferUnanswered], "has no role to give"),
        (Master, &[Alone, PeerDead, PeerRestarted], "serves on without a pause"),
        (Master, &[WeakerMaster, WeakerPassive, PeerAgrees], "the other will follow"),
        (Master, &[Synced, FellBehind, OfferReceived, Forced], "follows nobody"),
        (Master, &[Drained, YieldFailed, OfferUnanswered], "hands nothing over"),
        (Draining, &[Alone, WeakerMaster, WeakerPassive, PeerAgrees], "ends by itself, soon"),
        (Draining, &[Synced, FellBehind, OfferReceived], "follows nobody"),
        (Draining, &[Yield, OfferUnanswered, Forced, Stop], "ends by itself, soon"),
        (Offered, &[Alone, WeakerMaster, WeakerPassive, PeerAgrees, PeerDeaf], "ends by itself, soon"),
        (Offered, &[Synced, FellBehind, OfferReceived], "follows nobody"),
        (Offered, &[Yield, Drained, Forced, Stop], "ends by itself, soon"),
        (Doubt, &[Alone, WeakerMaster, WeakerPassive], "waits until the peer is proven to agree, or dead"),
        (Doubt, &[PeerDeaf, WasLate], "doubts already"),
        (Doubt, &[Synced, FellBehind, OfferReceived], "follows nobody"),
        (Doubt, &[Yield, Drained, YieldFailed, OfferUnanswered], "has no role to give"),
        (Boot, &[Forsaken, LostMaster], "is no serving master, and no backup"),
        (Joining, &[Forsaken, LostMaster], "is no serving master, and no backup"),
        (Backup, &[Forsaken], "is not master"),
        (Draining, &[Forsaken, LostMaster], "is no serving master, and no backup"),
        (Offered, &[Forsaken, LostMaster], "is no serving master, and no backup"),
        (Doubt, &[Forsaken, LostMaster], "is no serving master, and no backup"),
        (Master, &[LostMaster], "is no backup"),
        (Stopped, &Trigger::ALL, "has said goodbye"),
    ]
};

#[test]
fn every_state_and_trigger_has_one_row_or_is_ignored() {
    for state in State::ALL {
        for trigger in Trigger::ALL {
            let rows = ROWS.iter().filter(|row| row.from == state && row.on == trigger).count();
            let ignored =
                IGNORED.iter().filter(|(from, on, _)| *from == state && on.contains(&trigger)).count();
            assert_eq!(rows + ignored, 1, "{state:?} on {trigger:?}: {rows} rows, ignored {ignored} times");
        }
    }
}

#[test]
fn whoever_may_serve_has_earned_it() {
    for row in ROWS {
        let serves = row.effects.contains(&Effect::NewEpoch) || row.effects.contains(&Effect::Resume);
        assert_eq!(row.to == State::Master, serves, "{row:?}");
        if row.effects.contains(&Effect::Resume) {
            assert!(row.from.leads(), "only who was master goes on in its epoch: {row:?}");
        }
        if row.effects.contains(&Effect::NewEpoch) {
            assert!(!row.from.leads() || row.on == Trigger::Forced, "{row:?}");
        }
        assert!(!row.why.is_empty());
    }
}

#[test]
fn every_state_can_be_reached_and_left() {
    let mut reached = BTreeSet::from([State::Boot]);
    for _ in State::ALL {
        let next: Vec<_> = ROWS.iter().filter(|row| reached.contains(&row.from)).map(|row| row.to).collect();
        reached.extend(next);
    }
    assert_eq!(reached, BTreeSet::from(State::ALL));
    for state in State::ALL.into_iter().filter(|state| *state != State::Stopped) {
        assert!(ROWS.iter().any(|row| row.from == state && row.to != state), "{state:?} is a trap");
        let stops = row(state, Trigger::Stop).is_some();
        assert_eq!(stops, !matches!(state, State::Draining | State::Offered), "{state:?}");
    }
}

#[test]
fn the_readme_shows_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let fresh = format!("{head}{BEGIN}\n{}{END}{tail}", drawn());
    if std::env::var_os("TANDEM_WRITE_README").is_some() {
        std::fs::write(path, fresh).unwrap();
    } else {
        assert!(
            text == fresh,
            "README.md is not what role.rs says: run this test with TANDEM_WRITE_README=1"
        );
    }
}

const BEGIN: &str = "<!-- role table: generated -->";
const END: &str = "<!-- end of the role table -->";

fn drawn() -> String {
    let mut text = String::from("\n| from | on | to | does | because |\n|---|---|---|---|---|\n");
    for row in ROWS {
        let effects: Vec<_> = row.effects.iter().map(|effect| format!("{effect:?}")).collect();
        let effects = effects.join(", ");
        let cells = format!("| {:?} | {:?} | {:?} | {effects} | {} |\n", row.from, row.on, row.to, row.why);
        text.push_str(&cells);
    }
    text.push_str("\n```mermaid\nstateDiagram-v2\n    [*] --> Boot\n");
    let mut edges: Vec<(State, State, Vec<String>)> = Vec::new();
    for row in ROWS.iter().filter(|row| row.from != row.to && row.to != State::Stopped) {
        let label = format!("{:?}", row.on);
        match edges.iter_mut().find(|(from, to, _)| (*from, *to) == (row.from, row.to)) {
            Some((_, _, labels)) => labels.push(label),
            None => edges.push((row.from, row.to, vec![label])),
        }
    }
    for (from, to, labels) in edges {
        text.push_str(&format!("    {from:?} --> {to:?}: {}\n", labels.join(", ")));
    }
    text.push_str("```\n");
    text
}
