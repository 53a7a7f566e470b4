//! Settings from a file, in either of two forms, told apart by looking.
//!
//! TOML has the flags' long names, `name = value`, without sections. memcached's form, as in
//! `/etc/memcached.conf`, has flags as on a command line, a few to a line, `#` before comments; its
//! `logfile` lines are for the script that starts memcached and mean nothing here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::command_line::{self, nearest};
use super::flags::{self, Kind};
use super::values::{Given, Layer, Origin};
use super::{EXIT_USAGE, Problem};

/// A longer file is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a file of either form.
pub(super) fn read(command: &Command, path: &Path, problems: &mut Vec<Problem>) -> Layer {
    let text = match load(path) {
        Ok(text) => text,
        Err(why) => {
            let text = format!("--config {}: {why}; name a file that this user may read", path.display());
            problems.push(Problem::new(EXIT_USAGE, text));
            return Layer::default();
        }
    };
    let mut file =
        File { command, path: Arc::new(path.to_owned()), text: &text, layer: Layer::default(), problems };
    if is_lines_of_flags(&text) {
        file.flags()
    } else {
        file.toml()
    }
    file.layer
}

fn load(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("it has {size} bytes, and no configuration is longer than {FILE_BYTES_MAX}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())
}

/// No name in TOML begins with a dash.
fn is_lines_of_flags(text: &str) -> bool {
    text.lines().any(|line| line.trim_start().starts_with('-'))
}

/// A line of memcached's form as words: blanks between them, quotes around blanks.
fn words(line: &str) -> Vec<OsString> {
    let (mut words, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    for character in line.chars() {
        match (quote, character) {
            (None, '#') if !inside => break,
            (None, ' ' | '\t' | '\r') => {
                if inside {
                    words.push(OsString::from(std::mem::take(&mut word)));
                }
                inside = false;
            }
            (None, '"' | '\'') => (quote, inside) = (Some(character), true),
            (Some(open), _) if character == open => quote = None,
            _ => {
                word.push(character);
                inside = true;
            }
        }
    }
    if inside {
        words.push(OsString::from(word));
    }
    words
}

/// A file while it is read.
struct File<'a> {
    command: &'a Command,
    path: Arc<PathBuf>,
    text: &'a str,
    layer: Layer,
    problems: &'a mut Vec<Problem>,
}

impl File<'_> {
    fn flags(&mut self) {
        for (index, line) in self.text.lines().enumerate() {
            let words = words(line);
            let is_log_file = words.first().is_some_and(|word| word == "logfile");
            if words.is_empty() || is_log_file {
                continue;
            }
            let read = command_line::read(self.command, words);
            for problem in read.problems {
                self.problem(index + 1, problem.exit, &problem.text);
            }
            let Some(matches) = read.matches else { continue };
            let layer = command_line::layer(self.command, &matches, &self.origin(index + 1));
            for (name, given) in layer.names() {
                let arg = self.command.get_arguments().find(|arg| arg.get_id() == name);
                if arg.is_some_and(|arg| flags::kind(arg) == Kind::List) {
                    self.layer.append(name, given.clone());
                } else {
                    self.layer.insert(name, given.clone());
                }
            }
        }
    }

    fn toml(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let line = self.line(error.span().map_or(0, |span| span.start));
            self.problem(line, EXIT_USAGE, error.message());
        }
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let line = self.line(name.span().start);
            if let Err(text) = self.entry(name.get_ref(), value, line) {
                self.problem(line, EXIT_USAGE, &text);
            }
        }
    }

    fn entry(&mut self, name: &str, value: &Spanned<DeValue<'_>>, line: usize) -> Result<(), String> {
        let Some(arg) = flags::settings(self.command).find(|arg| arg.get_id() == name) else {
            if let DeValue::Table(_) = value.get_ref() {
                return Err(format!("[{name}]: there are no sections; write the names in it at the top"));
            }
            return Err(format!("{name}: there is no such setting; {}", self.remedy(name)));
        };
        if name == "config" {
            return Err("config: a file names no other; put everything into one".to_owned());
        }
        let values = values(arg, value.get_ref()).map_err(|takes| format!("{name}: takes {takes}"))?;
        self.layer.insert(name, Given { values, origin: self.origin(line) });
        Ok(())
    }

    /// What to do about an unknown name.
    fn remedy(&self, name: &str) -> String {
        let mut letter = name.chars();
        let by_letter = match (letter.next(), letter.next()) {
            (Some(letter), None) => flags::settings(self.command)
                .find(|arg| arg.get_short() == Some(letter))
                .and_then(Arg::get_long),
            _ => None,
        };
        match (by_letter, nearest(name)) {
            (Some(long), _) => format!("the name of -{name} is {long}"),
            (None, Some(likely)) => format!("did you mean {likely}?"),
            (None, None) => "`tandemd --help` lists the names".to_owned(),
        }
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line }
    }

    /// The line of a position, from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn problem(&mut self, line: usize, exit: u8, text: &str) {
        self.problems.push(Problem::new(exit, format!("{}: {text}", self.origin(line))));
    }
}

/// A TOML value as a flag takes it; otherwise what it would take.
fn values(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let yes_no = |on: bool| vec![if on { "yes" } else { "no" }.to_owned()];
    let kind = flags::kind(arg);
    let wanted = match kind {
        Kind::Switch => "true or false",
        Kind::Count => "a number",
        Kind::YesNo => "true or false (or \"yes\" or \"no\")",
        Kind::Value => "a text in quotes, or a number",
        Kind::List => "a text in quotes, or a list of them",
    };
    let refuse = || format!("{wanted}, not {}", describe(value));
    Ok(match (kind, value) {
        (Kind::Switch | Kind::YesNo, DeValue::Boolean(on)) => yes_no(*on),
        (Kind::YesNo | Kind::Value | Kind::List, DeValue::String(text)) => vec![text.to_string()],
        (Kind::Count | Kind::Value, _) => vec![number(value).ok_or_else(refuse)?],
        (Kind::List, DeValue::Array(elements)) => elements
            .iter()
            .map(|element| match element.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(refuse()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(refuse()),
    })
}

fn number(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list with something else in it".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}
