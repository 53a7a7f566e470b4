//! What happened lately, for those who come later and for those who wait.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::admin::report::Event;

/// So many events are remembered.
pub const EVENTS_KEPT: usize = 256;

/// The last events, oldest first.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    /// Id of the newest.
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        // Ids of a process are above those of the one before, so that a page that stays open over a
        // restart is told what it does not know.
        Self { kept: Mutex::default(), newest: watch::channel(unix_ms(SystemTime::now())).0 }
    }
}

impl EventLog {
    /// Remembers an event and tells those who wait. Its id is given here.
    pub fn add(&self, at: SystemTime, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        let id = *self.newest.borrow() + 1;
        kept.push_back(Event { id, at_ms: unix_ms(at), ..event });
        self.newest.send_replace(id);
    }

    /// Those that are newer than `after`.
    pub fn newer(&self, after: u64) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|event| event.id > after).cloned().collect()
    }

    /// Hears the id of each new event.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// Unix milliseconds.
pub fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_ids_grow() {
        let log = EventLog::default();
        for number in 0..EVENTS_KEPT + 10 {
            log.add(UNIX_EPOCH, Event { text: number.to_string(), ..Event::default() });
        }
        let all = log.newer(0);
        assert_eq!(all.len(), EVENTS_KEPT);
        assert_eq!(all.first().unwrap().text, "10");
        assert!(all.windows(2).all(|pair| pair[0].id + 1 == pair[1].id));
        assert_eq!(log.newer(all[all.len() - 3].id).len(), 2);
        assert_eq!(*log.subscribe().borrow(), all.last().unwrap().id);
    }
}
