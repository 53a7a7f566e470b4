//! Completions and manual pages, from the definitions of the flags.

use std::io::Write as _;
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

/// What no flag says.
const fn more(program: Program) -> &'static str {
    match program {
        Program::Tandemctl => {
            "\
.SH FILES
.TP
\\fI/etc/tandem/pair.key\\fR
The key of the pair, made by \\fBtandemctl genkey\\fR.
.SH SEE ALSO
.BR tandemd (1),
/usr/share/doc/tandemd/operations.md
"
        }
        Program::Tandemd => {
            "\
.SH ENVIRONMENT
Each setting is also a variable: TANDEM_ and the long name in capitals, with _ for \\-, as in TANDEM_MEMORY_LIMIT. A flag
wins over a variable, that over the file, that over the default.
.TP
MEMCACHED_SASL_PWDB
The users of \\fB\\-S\\fR, as lines of user:password.
.TP
STATE_DIRECTORY, JOURNAL_STREAM, NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS
As systemd sets them.
.SH SIGNALS
.TP
SIGTERM, SIGINT
A master hands its role over; then requests are finished and the process ends.
.TP
SIGUSR1
The same, and the items are kept for the next start, with \\fB\\-e\\fR.
.TP
SIGHUP
Settings, certificates, users and the token are read again. What can change does; the log names what waits for a restart.
.SH EXIT STATUS
0 after a signal; 64 wrong settings, 67 unknown user, 71 refused by the system, 1 what memcached ends so.
.SH FILES
.TP
\\fI/etc/default/tandemd\\fR
The flags of the service.
.TP
\\fI/var/lib/tandemd\\fR
The state directory of the service: who the node is and which epoch it has seen.
.SH SEE ALSO
.BR tandemctl (1),
/usr/share/doc/tandemd/getting\\-started.md
"
        }
    }
}

/// Everything a package ships.
pub(crate) fn all(directory: &Path) -> Result<String, Failure> {
    let write = || -> std::io::Result<()> {
        let man = directory.join("man1");
        std::fs::create_dir_all(&man)?;
        for program in [Program::Tandemctl, Program::Tandemd] {
            clap_mangen::generate_to(command(program), &man)?;
            let page = man.join(format!("{}.1", command(program).get_name()));
            std::fs::OpenOptions::new().append(true).open(page)?.write_all(more(program).as_bytes())?;
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
