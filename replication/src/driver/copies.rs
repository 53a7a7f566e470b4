//! What the log says of copies and resumptions: one line when the backup begins to be made a copy anew, one
//! when it is complete, one when that broke off.

use crate::role::State;
use crate::status::PairStatus;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Copies {
    copies: u64,
    resumptions: u64,
    under_way: bool,
}

/// A line and whether somebody should look at it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    is_trouble: bool,
    text: String,
}

impl Copies {
    /// Tells what became different.
    pub(super) fn tell(&mut self, pair: &PairStatus) {
        for line in self.lines(pair) {
            match line.is_trouble {
                true => tracing::warn!("{}", line.text),
                false => tracing::info!("{}", line.text),
            }
        }
    }

    fn lines(&mut self, pair: &PairStatus) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut say = |is_trouble, text: String| lines.push(Line { is_trouble, text });
        let counters = &pair.counters;
        if counters.full_copies > self.copies {
            self.under_way = true;
            let what = match (pair.role.state, pair.copy) {
                (State::Master, Some((_, items))) => format!("all items go to the peer, about {items}"),
                (State::Master, None) => "all items go to the peer".to_owned(),
                _ => "all items come from the master".to_owned(),
            };
            say(false, format!("copy: {what}; until it is complete there is no second copy"));
        } else if counters.partial_resyncs > self.resumptions {
            say(false, "copy: not needed, only what was missed is sent".to_owned());
        }
        (self.copies, self.resumptions) = (counters.full_copies, counters.partial_resyncs);
        if self.under_way && pair.in_sync && pair.copy.is_none() {
            self.under_way = false;
            say(false, "copy: complete; either node can be lost now".to_owned());
        } else if self.under_way && !(pair.control_up && pair.data_up) {
            self.under_way = false;
            let text = "copy: broken off, because the link was lost; it begins again when the link is back";
            say(true, text.to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_when_it_begins_and_when_it_ends() {
        let mut copies = Copies::default();
        let mut pair = PairStatus { control_up: true, data_up: true, ..PairStatus::default() };
        let texts = |copies: &mut Copies, pair: &PairStatus| -> Vec<String> {
            copies.lines(pair).into_iter().map(|line| line.text).collect()
        };
        assert!(copies.lines(&pair).is_empty());
        pair.role.state = State::Master;
        (pair.counters.full_copies, pair.copy) = (1, Some((0, 7)));
        let begun = "copy: all items go to the peer, about 7; until it is complete there is no second copy";
        assert_eq!(texts(&mut copies, &pair), [begun]);
        pair.copy = Some((5, 7));
        assert!(copies.lines(&pair).is_empty());
        pair.data_up = false;
        let broken = copies.lines(&pair);
        assert!(broken[0].is_trouble && broken[0].text.contains("begins again"), "{broken:?}");
        assert!(copies.lines(&pair).is_empty());
        // One that was over before anybody looked.
        (pair.data_up, pair.copy, pair.in_sync, pair.counters.full_copies) = (true, None, true, 2);
        let told = texts(&mut copies, &pair);
        assert_eq!(told[1], "copy: complete; either node can be lost now");
        pair.counters.partial_resyncs = 1;
        assert_eq!(texts(&mut copies, &pair), ["copy: not needed, only what was missed is sent"]);
    }
}
