//! What repeats is told a few times and then counted: a warning that comes with every connection must
//! neither fill a disk nor hide the line that matters.
//!
//! Each place in the program has a minute of its own, which begins with its first line. When it ends, one
//! line says how many were left out. Only warnings and errors are counted: what is told at `info` happens
//! seldom, and each of it matters.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in a minute.
const LINES_MAX: u32 = 10;
/// The minute.
const WINDOW: Duration = Duration::from_secs(60);

/// Lets events through, or counts them.
#[derive(Debug, Default)]
pub(super) struct Repeats(Arc<Mutex<Places>>);

/// Bounded by the number of places in the program.
#[derive(Debug, Default)]
struct Places {
    windows: HashMap<Identifier, Window>,
    /// Somebody waits for a window to end.
    is_awaited: bool,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    told: u32,
    left_out: u64,
    /// What was said last, to recognise what is counted.
    last: String,
}

/// What an event says.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Places {
    /// Whether this one is told.
    fn tell(&mut self, place: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let fresh = || Window { began: now, told: 0, left_out: 0, last: String::new() };
        let window = self.windows.entry(place).or_insert_with(fresh);
        if window.left_out == 0 && now.duration_since(window.began) >= WINDOW {
            *window = fresh();
        }
        if window.told < LINES_MAX {
            window.told += 1;
            return true;
        }
        if window.left_out == 0 {
            window.last = message();
        }
        window.left_out += 1;
        false
    }

    /// What is to be said of windows that have ended, and when the next one ends.
    fn ended(&mut self, now: Instant) -> (Vec<String>, Option<Instant>) {
        let mut lines = Vec::new();
        let mut next = None;
        self.windows.retain(|_, window| {
            let end = window.began + WINDOW;
            let is_over = end <= now;
            if is_over && window.left_out > 0 {
                lines.push(format!("… {} more in the last minute: {}", window.left_out, window.last));
            } else if window.left_out > 0 {
                next = Some(next.map_or(end, |next: Instant| next.min(end)));
            }
            !is_over
        });
        (lines, next)
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // The lines that count have nothing to be counted by.
        if *metadata.level() > Level::WARN || metadata.target() == COUNTED {
            return true;
        }
        let mut places = lock(&self.0);
        let is_told = places.tell(metadata.callsite(), Instant::now(), || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        });
        if !is_told && !places.is_awaited {
            places.is_awaited = true;
            drop(places);
            let places = Arc::clone(&self.0);
            // Without a thread the count is not told; the lines that matter were.
            let _ = std::thread::Builder::new().name("logs".to_owned()).spawn(move || wait(&places));
        }
        is_told
    }
}

const COUNTED: &str = "counted";

/// Tells counts as windows end, until there is none to wait for.
fn wait(places: &Mutex<Places>) {
    loop {
        let (lines, next) = {
            let mut places = lock(places);
            let ended = places.ended(Instant::now());
            places.is_awaited = ended.1.is_some();
            ended
        };
        for line in lines {
            tracing::warn!(target: COUNTED, "{line}");
        }
        let Some(next) = next else { return };
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite as _;

    use super::*;

    fn place() -> Identifier {
        tracing::callsite! { name: "test", kind: tracing::metadata::Kind::EVENT, fields: message }
            .metadata()
            .callsite()
    }

    #[test]
    fn what_repeats_is_told_a_few_times_and_then_counted() {
        let (mut places, place, began) = (Places::default(), place(), Instant::now());
        let mut tell = |seconds: u64| {
            let now = began + Duration::from_secs(seconds);
            places.tell(place.clone(), now, || format!("as of {seconds}"))
        };
        let told = (0..100).filter(|second| tell(second / 2)).count();
        assert_eq!(told, LINES_MAX as usize);
        let (lines, next) = places.ended(began + Duration::from_secs(59));
        assert_eq!((lines, next), (vec![], Some(began + WINDOW)));
        let (lines, next) = places.ended(began + WINDOW);
        assert_eq!((lines, next), (vec!["… 90 more in the last minute: as of 5".to_owned()], None));
        // And a new minute begins.
        assert!(places.tell(place, began + WINDOW, String::new));
    }

    #[test]
    fn what_comes_seldom_is_always_told() {
        let (mut places, place, began) = (Places::default(), place(), Instant::now());
        for minute in 0..100 {
            assert!(places.tell(place.clone(), began + WINDOW * minute, String::new));
        }
        assert_eq!(places.ended(began + WINDOW * 1000), (vec![], None));
    }
}
