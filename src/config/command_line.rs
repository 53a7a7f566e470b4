//! Flags as words: the command line, and the lines of memcached's configuration files.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

use super::Problem;
use super::flags::{self, Kind};
use super::values::{Given, Layer, Origin};

/// What a line of flags says.
pub(super) struct Line {
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// What it says nevertheless; nothing if it only asks for help.
    pub(super) matches: Option<ArgMatches>,
    /// The help, if it was asked for.
    pub(super) help: Option<String>,
}

/// Reads words (without the program's name). clap stops at the first flag it does not know; taking
/// that one away and reading again finds the rest.
pub(super) fn read(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Line {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut problems = Vec::new();
    loop {
        let line = std::iter::once(OsString::from("tandemd")).chain(arguments.iter().cloned());
        match command.clone().try_get_matches_from(line) {
            Ok(matches) => return Line { problems, matches: Some(matches), help: None },
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                return Line { problems, matches: None, help: Some(error.render().to_string()) };
            }
            Err(error) => {
                let (problem, culprit) = explain(&error);
                problems.push(problem);
                if !remove(&mut arguments, &culprit) {
                    return Line { problems, matches: None, help: None };
                }
            }
        }
    }
}

/// What was given, by name. `-X` becomes the flag it stands for.
pub(super) fn layer(command: &Command, matches: &ArgMatches, origin: &Origin) -> Layer {
    let mut layer = Layer::default();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if matches.value_source(id) != Some(clap::parser::ValueSource::CommandLine) {
            continue;
        }
        let values: Vec<String> = match flags::kind(arg) {
            Kind::Switch => vec!["yes".to_owned()],
            Kind::Count => vec![matches.get_count(id).to_string()],
            _ => matches.get_many::<String>(id).into_iter().flatten().cloned().collect(),
        };
        layer.insert(id, Given { values, origin: origin.clone() });
    }
    if let Some(letter) = layer.remove("replication-port-letter") {
        let name =
            if letter.values.iter().all(String::is_empty) { "disable-dumping" } else { "replication-port" };
        let values = if name == "disable-dumping" { vec!["yes".to_owned()] } else { letter.values };
        if !layer.contains(name) {
            layer.insert(name, Given { values, origin: letter.origin });
        }
    }
    layer
}

/// The known name that is most like this one, if any is.
pub(super) fn nearest(name: &str) -> Option<String> {
    let name = name.replace('_', "-").to_ascii_lowercase();
    let command = flags::definition();
    let known = flags::settings(&command).filter_map(|arg| arg.get_long().map(str::to_owned));
    let (distance, best) =
        known.map(|known| (strsim::damerau_levenshtein(&known, &name), known)).min_by_key(|(far, _)| *far)?;
    (distance <= 1 + best.len() / 4).then_some(best)
}

/// A clap error as a problem, and the flag it is about.
fn explain(error: &clap::Error) -> (Problem, String) {
    let culprit = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    // clap names a flag with its value's name behind it, and letters together with long names.
    let flag = culprit.split([' ', '=']).next().unwrap_or_default().to_owned();
    let text = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!(
            "unrecognized option '{flag}'\nIllegal argument \"?\": there is no flag {flag}; {}",
            nearest(flag.trim_start_matches('-'))
                .map_or_else(|| "see --help".to_owned(), |name| format!("did you mean --{name}?"))
        ),
        ErrorKind::UnknownArgument if flag.starts_with('-') => format!(
            "invalid option -- '{}'\nIllegal argument \"?\": there is no flag {flag}; see --help",
            flag.trim_start_matches('-')
        ),
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => format!(
            "option requires an argument -- '{}'\nIllegal argument \"?\": give {flag} a value; see --help",
            flag.trim_start_matches('-')
        ),
        ErrorKind::TooManyValues => {
            format!("Illegal argument \"?\": {flag} takes no value; remove what stands behind `=`")
        }
        ErrorKind::UnknownArgument => {
            format!("Illegal argument \"?\": {flag} is no flag, and nothing else is taken; see --help")
        }
        _ => format!("Illegal argument \"?\": {}", error.to_string().trim_end()),
    };
    (Problem::new(1, text), flag)
}

/// Takes a flag out of the arguments, also out of a bundle of letters; whether it was there.
fn remove(arguments: &mut Vec<OsString>, flag: &str) -> bool {
    let Some(at) = arguments.iter().position(|argument| {
        let argument = argument.to_string_lossy();
        match flag.strip_prefix("--") {
            Some(_) => argument == flag || argument.starts_with(&format!("{flag}=")),
            None => match flag.strip_prefix('-') {
                Some(letter) => {
                    argument.starts_with('-') && !argument.starts_with("--") && argument[1..].contains(letter)
                }
                None => argument == flag,
            },
        }
    }) else {
        return false;
    };
    let argument = arguments[at].to_string_lossy().into_owned();
    match flag.strip_prefix('-') {
        Some(letter) if !flag.starts_with("--") && argument.len() > 2 => {
            arguments[at] = OsString::from(argument.replacen(letter, "", 1));
        }
        _ => {
            arguments.remove(at);
        }
    }
    true
}
