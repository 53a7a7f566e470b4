//! The log: one line per event on stderr, for people or as JSON, in a form and at a level that can be changed
//! while the node runs. Warnings and errors that repeat are told a few times a minute and then counted.
//!
//! Under systemd (`$JOURNAL_STREAM` names this process's stderr) a line begins with its priority, as
//! journald reads it, instead of a time, which journald has itself.

mod repeats;

use std::fmt;
use std::io::IsTerminal as _;
use std::os::linux::fs::MetadataExt as _;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, Layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use repeats::Repeats;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// How much is told. Each level includes those before it.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Whether lines are objects from now on.
static IS_JSON: AtomicBool = AtomicBool::new(false);
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// The level that `-v` and `verbosity` mean.
pub const fn level_of_verbosity(verbosity: u8) -> Level {
    match verbosity {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Starts the log of this process; once.
pub fn start(style: Style, level: Level) {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    set_style(style);
    let lines = Layer::default().with_writer(std::io::stderr).with_ansi(false).event_format(Lines::new());
    let started = tracing_subscriber::registry().with(filter).with(Repeats::default()).with(lines).try_init();
    if started.is_ok() {
        let _once = LEVEL.set(handle);
    }
}

/// From now on lines look so.
pub fn set_style(style: Style) {
    IS_JSON.store(style == Style::Json, Ordering::Relaxed);
}

/// The level in force; nothing before the log was started.
pub fn level() -> Option<&'static str> {
    let filter = LEVEL.get()?.with_current(|filter| *filter).ok()?;
    let name = filter.to_string();
    LEVELS.into_iter().find(|level| *level == name)
}

/// Changes the level from now on, and says so.
pub fn set_level(level: Level) {
    let Some(handle) = LEVEL.get() else { return };
    let before = handle.with_current(|filter| *filter).ok();
    // It can only fail when the subscriber is gone, and then nobody reads the log.
    let _gone = handle.modify(|filter| *filter = LevelFilter::from_level(level));
    if before != Some(LevelFilter::from_level(level)) {
        tracing::warn!("the log's level is now {}", level.as_str().to_ascii_lowercase());
    }
}

/// As [`set_level`], by name; what would be right, otherwise.
pub fn set_level_by_name(name: &str) -> Result<(), String> {
    if !LEVELS.contains(&name) {
        return Err(format!("there is no level `{name}`: it is one of {}", LEVELS.join(", ")));
    }
    Level::from_str(name).map(set_level).map_err(|error| error.to_string())
}

/// Whether stderr goes to journald.
fn is_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    !std::io::stderr().is_terminal()
        && named.to_str() == Some(&format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}

/// A line as it is wanted at its moment.
#[derive(Debug)]
struct Lines {
    is_journal: bool,
    json: Format<Json>,
    human: Format,
    /// Behind a priority of syslog, without what journald knows itself.
    journal: Format<Full, ()>,
}

impl Lines {
    fn new() -> Self {
        let human = || Format::default().with_target(false).with_ansi(false);
        Self {
            is_journal: is_journal(),
            json: human().json().flatten_event(true).with_current_span(false),
            human: human(),
            journal: human().without_time().with_level(false),
        }
    }
}

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if IS_JSON.load(Ordering::Relaxed) {
            return self.json.format_event(context, writer, event);
        }
        if !self.is_journal {
            return self.human.format_event(context, writer, event);
        }
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.journal.format_event(context, writer, event)
    }
}
