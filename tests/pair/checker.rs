//! Is a history of requests to one key explained by some order in which each takes effect at one moment
//! between its being sent and its answer?
//!
//! The events are walked in the order of time with the set of all explanations that are still possible:
//! a state, and which of the open requests have taken effect in it. An answer keeps the explanations in
//! which its request has; if none is left, there is no such order. (Lowe, "Testing for linearizability",
//! calls it just-in-time linearization.)

use std::collections::HashSet;
use std::rc::Rc;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    Set(String),
    Add(String),
    /// Only if the value is the one that came with the CAS unique. Values are never written twice.
    Cas {
        seen: String,
        value: String,
    },
    Append(String),
    Incr(u64),
    Delete,
    Touch,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Option<String>),
    /// Stored, deleted, touched.
    Done,
    /// Not stored, not found.
    Not,
    /// There is a value, but another one.
    Exists,
    Number(u64),
    /// Nobody knows whether it took effect.
    Unknown,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) call: Call,
    pub(crate) answer: Answer,
    /// When it was sent and answered, in nanoseconds.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

type State = Option<Rc<str>>;

/// The state after `call` has taken effect in `state`, if that may be answered so.
fn effect(state: &State, call: &Call, answer: &Answer) -> Option<State> {
    let written = |value: &str| Some(Rc::from(value));
    let (next, says) = match (call, state) {
        (Call::Get, _) => (state.clone(), Answer::Value(state.as_deref().map(str::to_owned))),
        (Call::Set(value), _) => (written(value), Answer::Done),
        (Call::Add(value), None) => (written(value), Answer::Done),
        (Call::Add(_), Some(_)) => (state.clone(), Answer::Not),
        (Call::Cas { seen, value }, Some(held)) if **held == **seen => (written(value), Answer::Done),
        (Call::Cas { .. }, Some(_)) => (state.clone(), Answer::Exists),
        (Call::Append(more), Some(held)) => (written(&format!("{held}{more}")), Answer::Done),
        (Call::Incr(delta), Some(held)) => {
            let number = held.parse::<u64>().ok()? + delta;
            (written(&number.to_string()), Answer::Number(number))
        }
        (Call::Delete, Some(_)) => (None, Answer::Done),
        (Call::Touch, Some(_)) => (state.clone(), Answer::Done),
        (Call::Cas { .. } | Call::Append(_) | Call::Incr(_) | Call::Delete | Call::Touch, None) => {
            (None, Answer::Not)
        }
    };
    (*answer == Answer::Unknown || says == *answer).then_some(next)
}

/// `Err` names the answer that nothing explains. The key has no value at first.
pub(crate) fn check(history: &[Request]) -> Result<(), String> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
    for (index, request) in history.iter().enumerate() {
        events.push((request.sent, false, index));
        if request.answer != Answer::Unknown {
            events.push((request.answered, true, index));
        }
    }
    // Sent at the moment of another's answer: they may overlap.
    events.sort_unstable();
    let mut open: Vec<usize> = Vec::new();
    let mut possible: HashSet<(State, Vec<usize>)> = HashSet::from([(None, Vec::new())]);
    for (_, answered, index) in events {
        if !answered {
            open.push(index);
            continue;
        }
        let mut found = HashSet::new();
        let mut seen = HashSet::new();
        let mut rest: Vec<_> = possible.into_iter().collect();
        while let Some((state, taken)) = rest.pop() {
            if taken.contains(&index) {
                let others = taken.into_iter().filter(|other| *other != index).collect();
                found.insert((state, others));
                continue;
            }
            for other in open.iter().filter(|other| !taken.contains(other)) {
                let request = &history[*other];
                let Some(next) = effect(&state, &request.call, &request.answer) else { continue };
                let mut taken = taken.clone();
                taken.push(*other);
                taken.sort_unstable();
                if seen.insert((next.clone(), taken.clone())) {
                    rest.push((next, taken));
                }
            }
        }
        open.retain(|other| *other != index);
        if found.is_empty() {
            return Err(format!("nothing explains {:?}", history[index]));
        }
        possible = found;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(call: Call, answer: Answer, sent: u64, answered: u64) -> Request {
        Request { call, answer, sent, answered }
    }

    fn set(value: &str, sent: u64, answered: u64) -> Request {
        request(Call::Set(value.into()), Answer::Done, sent, answered)
    }

    fn get(value: &str, sent: u64, answered: u64) -> Request {
        request(Call::Get, Answer::Value(Some(value.into())), sent, answered)
    }

    #[test]
    fn what_overlaps_may_take_effect_in_any_order() {
        assert_eq!(check(&[set("a", 0, 10), set("b", 1, 9), get("a", 11, 12), get("a", 13, 14)]), Ok(()));
        assert_eq!(check(&[set("a", 0, 10), set("b", 1, 9), get("b", 11, 12)]), Ok(()));
        let cas = Call::Cas { seen: "a".into(), value: "c".into() };
        assert_eq!(check(&[set("a", 0, 1), set("b", 2, 5), request(cas, Answer::Exists, 3, 6)]), Ok(()));
    }

    #[test]
    fn stale_reads_lost_updates_and_inventions_are_found() {
        assert!(check(&[set("a", 0, 1), set("b", 2, 3), get("a", 4, 5)]).is_err(), "stale");
        assert!(
            check(&[set("a", 0, 10), set("b", 1, 9), get("a", 11, 12), get("b", 13, 14)]).is_err(),
            "back"
        );
        assert!(check(&[get("a", 0, 1)]).is_err(), "invented");
        let incr = |number, sent| request(Call::Incr(1), Answer::Number(number), sent, sent + 1);
        assert!(check(&[set("5", 0, 1), incr(6, 2), incr(6, 4)]).is_err(), "a lost increment");
        let cas = |value: &str, sent| {
            request(Call::Cas { seen: "a".into(), value: value.into() }, Answer::Done, sent, 9)
        };
        assert!(check(&[set("a", 0, 1), cas("b", 2), cas("c", 2)]).is_err(), "both cannot win");
        let add = |sent| request(Call::Add("x".into()), Answer::Done, sent, sent + 1);
        assert!(check(&[add(0), add(2)]).is_err(), "it was there");
    }

    #[test]
    fn what_nobody_knows_may_have_happened_or_not() {
        let lost = request(Call::Set("b".into()), Answer::Unknown, 2, 3);
        assert_eq!(check(&[set("a", 0, 1), lost.clone(), get("a", 4, 5), get("b", 6, 7)]), Ok(()));
        assert!(check(&[set("a", 0, 1), lost, get("b", 4, 5), get("a", 6, 7)]).is_err());
    }
}
