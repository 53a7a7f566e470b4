//! `tandemctl`: see and steer a pair, move its items, and measure it.
//!
//! Exit codes are for scripts: 0 done, 1 refused or not so in time, 2 wrong usage, 69 nobody there.

mod arguments;
mod generate;
mod genkey;
mod items;
mod settings;
mod status;
mod steer;
mod top;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use arguments::{Arguments, Logs, Verb};
use clap::Parser as _;
use tandemd::admin;
use tandemd::admin::access::read_token;
use tandemd::admin::client::{Client, Error};
use tandemd::bench;

/// Nobody answers (sysexits' EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;
/// Wrong usage.
const USAGE: u8 = 2;
/// Refused, or not so in time.
const FAILED: u8 = 1;

/// What went wrong: exit code and sentence.
type Failure = (u8, String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("tandemctl: {text}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: Arguments) -> Result<String, Failure> {
    let client = Client::new(arguments.server);
    let client = match &arguments.token_file {
        Some(file) => client.with_token(read_token(file).map_err(|text| (USAGE, text))?),
        None => client,
    };
    match arguments.verb {
        Verb::Status { json, watch: None } => status::once(&client, json),
        Verb::Status { json, watch: Some(every) } => status::watch(&client, json, every),
        Verb::Top => top::run(&client),
        Verb::Switchover => steer::act(&client, &admin::Verb::Switchover),
        Verb::Promote { force, sure } => steer::promote(&client, force, sure),
        Verb::Demote => steer::act(&client, &admin::Verb::Demote),
        Verb::Resync(sure) => steer::resync(&client, sure),
        Verb::Verify { timeout } => steer::verify(&client, timeout),
        Verb::PauseFailover(sure) => steer::pause(&client, sure),
        Verb::ResumeFailover => steer::act(&client, &admin::Verb::ResumeFailover),
        Verb::Wait(wait) => steer::wait(&client, &wait),
        Verb::Logs(Logs::Level { level }) => {
            client.act(&admin::Verb::LogLevel(level)).map(|said| said + "\n").map_err(failure)
        }
        Verb::Keys { node, prefix } => items::keys(&node, prefix.as_bytes()),
        Verb::Dump { file, node } => items::dump(&node, &file),
        Verb::Load { file, node, keep } => items::load(&node, &file, keep),
        Verb::Config(what) => settings::run(&what),
        Verb::Genkey { file } => genkey::run(file.as_deref()),
        Verb::Bench { plan, json } => measure(&plan, json),
        Verb::Completions { shell, of } => Ok(generate::completions(shell, of)),
        Verb::Generate { directory } => generate::all(&directory),
    }
}

/// Prints; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err((FAILED, error.to_string())),
        _ => Ok(()),
    }
}

/// Whether colours are welcome.
fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn failure(error: Error) -> Failure {
    let code = match error {
        Error::Unreachable(_) => UNREACHABLE,
        Error::Refused(_) => FAILED,
    };
    (code, error.to_string())
}

fn as_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| (FAILED, error.to_string()))
}

fn measure(plan: &bench::plan::Plan, json: bool) -> Result<String, Failure> {
    plan.check().and_then(|_| plan.access.read()).map_err(|error| (USAGE, error))?;
    let report = bench::run(plan).map_err(|error| (UNREACHABLE, error))?;
    if json { as_json(&report) } else { Ok(format!("{report}\n")) }
}
