//! `tandemctl`: see and steer a pair, and measure it.
//!
//! Exit codes are for scripts: 0 done, 1 refused or not so in time, 2 wrong usage, 69 nobody there.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use tandemd::admin::access::read_token;
use tandemd::admin::client::{Client, Error};
use tandemd::admin::report::Status;
use tandemd::admin::table;
use tandemd::bench;

/// See and steer a pair of tandemd nodes, and measure any memcached server.
#[derive(Parser, Debug)]
#[command(name = "tandemctl", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused or not so in time, 2 wrong usage, 69 nobody answers.")]
struct Arguments {
    /// Admin port of a node (tandemd's --admin).
    #[arg(long, global = true, default_value = "127.0.0.1:11213", value_name = "ADDR:PORT")]
    server: String,
    /// File with the token of that port, if it has one (tandemd's --admin-token-file).
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Both nodes side by side.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Hand the master role to the other node: no error, no loss.
    Switchover,
    /// Make this node master although it is not its turn.
    Promote {
        /// Even if the peer may be alive or this node's copy is incomplete: data may be lost.
        #[arg(long)]
        force: bool,
    },
    /// Wait until the node has a role, or both nodes hold the same items.
    Wait(Wait),
    /// Make a pre-shared key for --psk-file.
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
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
struct Wait {
    /// Until the node has this role: master, backup or standalone.
    #[arg(long, group = "condition")]
    role: Option<String>,
    /// Until the backup holds everything the master has.
    #[arg(long, group = "condition")]
    synced: bool,
    /// For how long at most.
    #[arg(long, default_value = "5s", value_parser = bench::plan::seconds)]
    timeout: Duration,
}

/// Nobody answers (sysexits' EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;
/// Refused, or not so in time.
const FAILED: u8 = 1;

/// What went wrong: exit code and sentence.
type Failure = (u8, String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let client = match client(arguments.server, arguments.token_file.as_deref()) {
        Ok(client) => client,
        Err(text) => {
            eprintln!("tandemctl: {text}");
            return ExitCode::from(FAILED);
        }
    };
    let result = match arguments.verb {
        Verb::Status { json } => status(&client, json),
        Verb::Switchover => steer(&client, |client| client.switchover()),
        Verb::Promote { force } => steer(&client, |client| client.promote(force)),
        Verb::Wait(wait) => wait_for(&client, &wait),
        Verb::Genkey { file } => genkey(file.as_deref()),
        Verb::Bench { plan, json } => measure(&plan, json),
    };
    match result.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("tandemctl: {text}");
            ExitCode::from(code)
        }
    }
}

fn client(server: String, token_file: Option<&Path>) -> Result<Client, String> {
    let client = Client::new(server);
    match token_file {
        Some(file) => read_token(file).map(|token| client.with_token(token)),
        None => Ok(client),
    }
}

/// Prints; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err((FAILED, error.to_string())),
        _ => Ok(()),
    }
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

fn status(client: &Client, json: bool) -> Result<String, Failure> {
    let status = client.status().map_err(failure)?;
    if json { as_json(&status) } else { Ok(table::render(&status)) }
}

/// Asks for a change of roles and shows what came of it.
fn steer(client: &Client, ask: impl Fn(&Client) -> Result<(), Error>) -> Result<String, Failure> {
    let start = Instant::now();
    ask(client).map_err(failure)?;
    let took = start.elapsed();
    let status = client.status().map_err(failure)?;
    Ok(format!("done in {} ms\n\n{}", took.as_millis(), table::render(&status)))
}

fn wait_for(client: &Client, wait: &Wait) -> Result<String, Failure> {
    let holds = |status: &Status| {
        wait.role.as_ref().is_none_or(|role| *role == status.node.role)
            && (!wait.synced || status.is_synced())
    };
    let deadline = Instant::now() + wait.timeout;
    loop {
        let seen = client.status();
        if seen.as_ref().is_ok_and(holds) {
            return Ok(String::new());
        }
        if Instant::now() >= deadline {
            return Err(match seen {
                Ok(status) => {
                    let synced = if status.is_synced() { "in sync" } else { "not in sync" };
                    let waited = wait.timeout.as_secs_f64();
                    (FAILED, format!("not so after {waited} s: role {}, {synced}", status.node.role))
                }
                Err(error) => failure(error),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// 32 random bytes in hexadecimal: more than the HMAC-SHA-256 it keys can use up.
fn genkey(file: Option<&Path>) -> Result<String, Failure> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|error| (FAILED, format!("the system gives no random bytes: {error}")))?;
    let line = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let Some(file) = file else { return Ok(line) };
    let write = || {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(file)?.write_all(line.as_bytes())
    };
    write().map_err(|error| {
        (
            FAILED,
            format!("{}: {error}; an existing key is never overwritten: name a new file", file.display()),
        )
    })?;
    Ok(format!("wrote {0}: copy it to the other node and start both with --psk-file {0}\n", file.display()))
}

fn measure(plan: &bench::plan::Plan, json: bool) -> Result<String, Failure> {
    plan.check().map_err(|error| (2, error))?;
    let report = bench::run(plan).map_err(|error| (UNREACHABLE, error))?;
    if json { as_json(&report) } else { Ok(format!("{report}\n")) }
}
