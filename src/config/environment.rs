//! Settings from the environment: `TANDEM_` and the flag's name in capitals, with `_` for `-`.

use std::ffi::OsString;

use clap::{Arg, Command};

use super::command_line::nearest;
use super::flags::{self, Kind};
use super::values::{Given, Layer, Origin, switch};
use super::{EXIT_USAGE, Problem};

/// What the variables' names begin with.
const PREFIX: &str = "TANDEM_";

/// The variable of a flag.
pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

/// Reads the variables of all settings.
pub(super) fn read(
    command: &Command,
    env: &impl Fn(&str) -> Option<OsString>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::default();
    for arg in flags::settings(command) {
        let name = variable(arg.get_id().as_str());
        let Some(text) = env(&name) else { continue };
        match values(arg, &text) {
            Ok(values) => {
                layer.insert(arg.get_id().as_str(), Given { values, origin: Origin::Environment(name) });
            }
            Err(remedy) => problems
                .push(Problem::new(EXIT_USAGE, format!("${name} {}: {remedy}", text.to_string_lossy()))),
        }
    }
    layer
}

/// The state directory that systemd made, if it is the service manager.
pub(super) fn of_service_manager(env: &impl Fn(&str) -> Option<OsString>) -> Layer {
    let mut layer = Layer::default();
    let directories = env("STATE_DIRECTORY").and_then(|text| text.into_string().ok());
    if let Some(first) =
        directories.as_deref().and_then(|all| all.split(':').next()).filter(|d| !d.is_empty())
    {
        let given = Given { values: vec![first.to_owned()], origin: Origin::of_service_manager() };
        layer.insert("state-dir", given);
    }
    layer
}

fn values(arg: &Arg, text: &OsString) -> Result<Vec<String>, String> {
    let text = text.to_str().ok_or("it is no text in UTF-8")?;
    // What an orchestrator says of a service called `tandem` is no setting of ours.
    if text.starts_with("tcp://") || text.starts_with("udp://") {
        return Err(
            "this is a Kubernetes service link and no setting: say enableServiceLinks: false in the pod"
                .to_owned(),
        );
    }
    Ok(match flags::kind(arg) {
        Kind::Switch => {
            let on = switch(text).ok_or("takes yes or no")?;
            vec![if on { "yes" } else { "no" }.to_owned()]
        }
        _ => vec![text.to_owned()],
    })
}

/// Variables that look like a setting with a mistake in its name. Others may begin with the same
/// letters without being meant for us.
pub fn mistaken_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let command = flags::definition();
    let known: Vec<String> = flags::settings(&command).map(|arg| variable(arg.get_id().as_str())).collect();
    names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| !known.contains(name))
        .filter_map(|name| {
            let likely = variable(&nearest(name.strip_prefix(PREFIX)?)?);
            Some(format!("${name} is no setting; did you mean ${likely}?"))
        })
        .collect()
}
