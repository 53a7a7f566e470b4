//! What `tandemctl` is asked for.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use tandemd::bench;
use tandemd::dial::Access;

/// See and steer a pair of tandemd nodes, move its items, and measure any memcached server.
#[derive(Parser, Debug)]
#[command(name = "tandemctl", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused or not so in time, 2 wrong usage, 69 nobody answers.")]
pub(crate) struct Arguments {
    /// Admin port of a node (tandemd's --admin); it knows of both.
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:11213",
        value_name = "ADDR:PORT",
        value_parser = admin_port,
        env = "TANDEM_ADMIN",
        hide_env_values = true,
        help_heading = "Admin port"
    )]
    pub(crate) server: String,
    /// File with the token that the node asks for before it changes anything (tandemd's --admin-token-file).
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TANDEM_ADMIN_TOKEN_FILE",
        hide_env_values = true,
        help_heading = "Admin port"
    )]
    pub(crate) token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Both nodes side by side.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        /// Again and again, every so many seconds, until interrupted.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = bench::plan::seconds)]
        watch: Option<Duration>,
    },
    /// Both nodes on a full screen: rates, lag and roles over time; q quits, s switches over.
    Top,
    /// Hand the master role to the other node: no error, no loss.
    Switchover,
    /// Make this node master although it is not its turn.
    Promote {
        /// Even if the peer may be alive or this node's copy is incomplete: data may be lost.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        sure: Sure,
    },
    /// Hand the role over if this node is master, as before its maintenance: no error, no loss.
    Demote,
    /// Let a backup drop what it holds and copy everything from the master.
    Resync(Sure),
    /// Compare all items of the backup with this master's, and send anew what differs.
    Verify {
        /// How long that may take.
        #[arg(long, value_name = "TIME", default_value = "600s", value_parser = bench::plan::seconds)]
        timeout: Duration,
    },
    /// Keep roles as they are, whatever happens to the other node, until resume-failover.
    PauseFailover(Sure),
    /// End pause-failover.
    ResumeFailover,
    /// Wait until the node has a role, or both nodes hold the same items.
    Wait(Wait),
    /// What the node logs.
    #[command(subcommand)]
    Logs(Logs),
    /// The names of all items, one per line; bytes other than letters, digits and -._~ as %XX.
    Keys {
        #[command(flatten)]
        node: Node,
        /// Only names that begin with this.
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// All items into a file: names, values, flags and remaining times.
    Dump {
        /// Where to; - is standard output.
        file: PathBuf,
        #[command(flatten)]
        node: Node,
    },
    /// All items of such a file into a server; those that it has already are overwritten.
    Load {
        /// Where from; - is standard input.
        file: PathBuf,
        #[command(flatten)]
        node: Node,
        /// Keep the items that the server has already.
        #[arg(long)]
        keep: bool,
    },
    /// Settings of a node, in a file of either form, as `tandemd --config FILE` would take them.
    #[command(subcommand)]
    Config(Settings),
    /// Make a pre-shared key for --psk-file, or a token for --admin-token-file.
    Genkey {
        /// Where to write it, readable by its owner only; standard output if not given.
        file: Option<PathBuf>,
    },
    /// Put load on any memcached server; print throughput, latencies, errors and CPU time.
    Bench {
        #[command(flatten)]
        plan: Box<bench::plan::Plan>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Completions for a shell, to be sourced or installed.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
        /// Of which program.
        #[arg(long, value_enum, default_value_t = Program::Tandemctl)]
        of: Program,
    },
    /// Manual pages and completions of both programs, for packages.
    #[command(hide = true)]
    Generate {
        /// The directory they are written to: man1/, bash/, zsh/, fish/.
        directory: PathBuf,
    },
}

/// Before something that can lose data or protection.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Sure {
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Node {
    /// The server's port for clients.
    #[arg(long, default_value = "127.0.0.1:11211", value_name = "HOST:PORT")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) access: Access,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Program {
    Tandemctl,
    Tandemd,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Logs {
    /// From now on log this much, until the node ends: error, warn, info, debug or trace.
    Level {
        /// The level.
        #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
        level: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Settings {
    /// Say nothing, or everything that is wrong.
    Check(File),
    /// Print every setting, its value and where it comes from.
    Show(File),
}

#[derive(Args, Debug)]
pub(crate) struct File {
    /// The file; without one, only $TANDEM_… and the defaults.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group = ArgGroup::new("condition").args(["role", "synced"]).required(true).multiple(true))]
pub(crate) struct Wait {
    /// Until the node has this role.
    #[arg(long, value_parser = ["master", "backup", "standalone"])]
    pub(crate) role: Option<String>,
    /// Until the backup holds everything the master has.
    #[arg(long)]
    pub(crate) synced: bool,
    /// For how long at most.
    #[arg(long, default_value = "5s", value_parser = bench::plan::seconds)]
    pub(crate) timeout: Duration,
}

/// Where an admin port is: a host and a port, or a host alone and the usual port.
fn admin_port(text: &str) -> Result<String, String> {
    const USUAL: u16 = 11213;
    let wrong = || "takes HOST:PORT of an admin port, such as 127.0.0.1:11213".to_owned();
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]:{USUAL}"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (text, USUAL),
    };
    let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    if is_host && port > 0 { Ok(format!("{host}:{port}")) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_port_may_be_left_out_and_what_is_none_is_refused() {
        let good = [
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("cache-a", "cache-a:11213"),
            ("::1", "[::1]:11213"),
            ("[::1]", "[::1]:11213"),
            ("[::1]:7", "[::1]:7"),
        ];
        for (text, address) in good {
            assert_eq!(admin_port(text).as_deref(), Ok(address));
        }
        for text in ["", ":5", "a b", "a:0", "a:70000", "a:x", "http://a:11213"] {
            assert!(admin_port(text).is_err_and(|why| why.contains("127.0.0.1:11213")), "{text}");
        }
    }

    #[test]
    fn who_waits_says_for_what() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).map(|_| ());
        for line in ["wait --synced", "wait --role master", "wait --role backup --synced --timeout 2s"] {
            assert!(parse(&format!("tandemctl {line}")).is_ok(), "{line}");
        }
        // To wait for nothing would be over at once, and a script would go on.
        for line in ["wait", "wait --timeout 2s", "wait --role king"] {
            assert!(parse(&format!("tandemctl {line}")).is_err(), "{line}");
        }
    }
}
