//! Lines that something outside can provoke, at a bounded rate.

use std::time::Duration;

use tokio::time::Instant;

/// Lets one line of each topic through per period and counts the rest.
#[derive(Debug)]
pub(super) struct Throttle {
    period: Duration,
    topics: Vec<(&'static str, Instant, u64)>,
}

impl Throttle {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, topics: Vec::new() }
    }

    /// Calls `line` with what to append, or not at all.
    pub(super) fn say(&mut self, topic: &'static str, line: impl FnOnce(&str)) {
        let now = Instant::now();
        let Some((_, last, silenced)) = self.topics.iter_mut().find(|(known, ..)| *known == topic) else {
            self.topics.push((topic, now, 0));
            return line("");
        };
        if now.duration_since(*last) < self.period {
            *silenced += 1;
            return;
        }
        let more = match *silenced {
            0 => String::new(),
            silenced => format!(" ({silenced} more like this since the last line)"),
        };
        (*last, *silenced) = (now, 0);
        line(&more);
    }
}
