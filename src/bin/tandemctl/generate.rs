//! Completions and manual pages, from the definitions of the flags.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::arguments::{Arguments, Program};
use crate::{FAILED, Failure};

fn command(program: Program) -> Command {
    match program {
        Program::Tandemctl => Arguments::command(),
        // Its short help is all of it.
        Program::Tandemd => tandemd::config::flags::definition(),
    }
}

pub(crate) fn completions(shell: Shell, of: Program) -> String {
    let mut command = command(of);
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Everything a package ships.
pub(crate) fn all(directory: &Path) -> Result<String, Failure> {
    let write = || -> std::io::Result<()> {
        let man = directory.join("man1");
        std::fs::create_dir_all(&man)?;
        for program in [Program::Tandemctl, Program::Tandemd] {
            clap_mangen::generate_to(command(program), &man)?;
            for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
                let folder = directory.join(name);
                std::fs::create_dir_all(&folder)?;
                clap_complete::generate_to(
                    shell,
                    &mut command(program),
                    command(program).get_name(),
                    folder,
                )?;
            }
        }
        Ok(())
    };
    write().map_err(|error| (FAILED, format!("{}: {error}", directory.display())))?;
    Ok(String::new())
}
