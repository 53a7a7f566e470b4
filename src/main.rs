//! `tandemd`: flags → [`Config`] → [`App`] → wait for a signal → drain → exit code.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Uid, User, daemon, initgroups, setgid, setuid};
use tandemd::app::{App, Sockets, Witness};
use tandemd::config::{self, Config, EXIT_NO_USER, EXIT_SYSTEM, EXIT_USAGE, Invocation, Process};
use tandemd::logs;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let config = match config::parse(arguments, |name| std::env::var_os(name), Uid::effective().is_root()) {
        Ok(Invocation::Run(config)) => config,
        Ok(Invocation::Print(text)) => {
            let _reader_gone = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("tandemd: {}", problem.text);
            }
            return problems.first().map_or(EXIT_USAGE, |problem| problem.exit).into();
        }
    };
    logs::start(config.process.log_format, logs::level_of_verbosity(config.process.verbosity));
    for mistake in config::mistaken_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("{mistake}");
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("tandemd: {text}");
            code.into()
        }
    }
}

/// An exit code and what to say.
type Failure = (u8, String);

fn run(config: &Config) -> Result<(), Failure> {
    prepare(config)?;
    if config.witness.is_some() {
        return run_witness(config);
    }
    let bound = Sockets::bind(config).map_err(|problems| (EXIT_SYSTEM, problems.join("\ntandemd: ")))?;
    warn_if_open(config, &bound.addresses());
    let process = &config.process;
    if process.daemon {
        // Before any thread exists; clients can connect as soon as the parent is gone.
        daemon(process.core_dumps, process.verbosity > 0)
            .map_err(|error| (EXIT_SYSTEM, format!("-d: cannot run in the background: {error}")))?;
    }
    // Before anybody can know of this process, by its files or as a client: a signal that comes early must not find the
    // default action, which kills.
    let mut signals = Signals::catch()?;
    if process.lock_memory
        && let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
    {
        tracing::warn!("-k: memory cannot be locked: {error}; raise the limit of locked memory");
    }
    if let Some(path) = &process.pid_file
        && let Err(error) = write_by_rename(path, "tmp", &format!("{}\n", std::process::id()))
    {
        let text = format!("-P {}: {error}; choose a writable place", path.display());
        // In the background the file is how the process is found; otherwise its starter knows it.
        if process.daemon {
            return Err((EXIT_SYSTEM, text));
        }
        tracing::warn!("{text}");
    }
    if let Some(path) = &process.port_file {
        write_by_rename(path, "lck", &port_lines(&bound))
            .map_err(|error| (EXIT_SYSTEM, format!("MEMCACHED_PORT_FILENAME {}: {error}", path.display())))?;
    }
    let app =
        App::start(config, bound, Box::new(ask_to_stop)).map_err(|error| (EXIT_USAGE, error.to_string()))?;
    for address in app.addresses() {
        tracing::info!("serving on {address}");
    }
    signals.wait(app, config)?;
    if process.daemon
        && let Some(path) = &process.pid_file
    {
        let _gone_already = std::fs::remove_file(path);
    }
    Ok(())
}

/// A third node that only says who may serve.
fn run_witness(config: &Config) -> Result<(), Failure> {
    let witness = Witness::bind(config).map_err(|problem| (EXIT_SYSTEM, problem))?;
    if config.process.daemon {
        daemon(config.process.core_dumps, config.process.verbosity > 0)
            .map_err(|error| (EXIT_SYSTEM, format!("-d: cannot run in the background: {error}")))?;
    }
    let Signals { runtime, mut interrupt, mut terminate, mut hangup, .. } = Signals::catch()?;
    if let Some(path) = &config.process.pid_file {
        write_by_rename(path, "tmp", &format!("{}\n", std::process::id())).map_err(|error| {
            (EXIT_SYSTEM, format!("-P {}: {error}; choose a writable place", path.display()))
        })?;
    }
    for address in witness.addresses() {
        tracing::info!("a witness on {address}");
    }
    let reload = witness.reload();
    runtime.block_on(async {
        let serve = witness.serve();
        tokio::pin!(serve);
        loop {
            tokio::select! {
                ended = &mut serve => return ended.map_err(|problem| (EXIT_SYSTEM, problem)),
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => reload.again(),
            }
        }
    })
}

/// What concerns the process and must come before sockets: limits, core dumps, user.
fn prepare(config: &Config) -> Result<(), Failure> {
    let process = &config.process;
    if process.core_dumps {
        let raised = getrlimit(Resource::RLIMIT_CORE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, hard, hard));
        raised.map_err(|error| (EXIT_SYSTEM, format!("-r: core dumps cannot be allowed: {error}")))?;
    }
    raise_descriptors(config)?;
    become_user(process)
}

/// Descriptors for all connections, and some for the rest.
fn raise_descriptors(config: &Config) -> Result<(), Failure> {
    const FOR_THE_REST: u64 = 128;
    let wanted = config.server.connections_max as u64 + 8 * config.server.threads as u64 + FOR_THE_REST;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| (EXIT_SYSTEM, format!("failed to getrlimit number of files: {error}")))?;
    if soft >= wanted {
        return Ok(());
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_ok()
        || setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() && hard >= wanted
    {
        return Ok(());
    }
    Err((
        EXIT_SYSTEM,
        format!(
            "failed to set rlimit for open files: -c {} needs {wanted}, {hard} are allowed; start as root or request smaller maxconns value",
            config.server.connections_max
        ),
    ))
}

fn become_user(process: &Process) -> Result<(), Failure> {
    let Some(name) = &process.user else { return Ok(()) };
    let user = User::from_name(name)
        .ok()
        .flatten()
        .ok_or_else(|| (EXIT_NO_USER, format!("can't find the user {name} to switch to")))?;
    if user.uid.is_root() {
        return Ok(());
    }
    let c_name = std::ffi::CString::new(name.as_str()).unwrap_or_default();
    initgroups(&c_name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|error| (EXIT_SYSTEM, format!("failed to assume identity of user {name}: {error}")))
}

fn warn_if_open(config: &Config, addresses: &[SocketAddr]) {
    let guarded = config.server.auth_file.is_some() || config.server.sasl;
    if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback())
        && !guarded
    {
        tracing::warn!(
            "everybody who reaches {address} can read and change all items: let a firewall admit your clients only, choose interfaces with -l, or ask for passwords with -Y or -S"
        );
    }
}

/// Lines that test rigs read to find the ports.
fn port_lines(bound: &Sockets) -> String {
    let line = |transport: &str, address: &SocketAddr| {
        format!("{transport} {}: {}\n", if address.is_ipv6() { "INET6" } else { "INET" }, address.port())
    };
    let tcp = bound.addresses();
    let udp = bound.udp_addresses();
    let tcp = tcp.iter().map(|address| line("TCP", address));
    tcp.chain(udp.iter().map(|address| line("UDP", address))).collect()
}

/// Readers see the whole file or none.
fn write_by_rename(path: &Path, suffix: &str, text: &str) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".");
    draft.push(suffix);
    File::create(&draft)?.write_all(text.as_bytes())?;
    std::fs::rename(&draft, path)
}

/// A client said `shutdown`.
fn ask_to_stop(graceful: bool) {
    let signal = if graceful { Signal::SIGUSR1 } else { Signal::SIGINT };
    if let Err(error) = raise(signal) {
        tracing::error!("a client's shutdown cannot be delivered: {error}");
    }
}

/// SIGHUP: certificates and users are read again, and so are the settings. What can change does.
fn reload(app: &App, running: &mut Config) {
    app.reload();
    let later = match config::parse_again(running, std::env::args_os().skip(1), |name| std::env::var_os(name))
    {
        Ok(later) => later,
        Err(problems) => {
            for problem in problems {
                tracing::error!("{}", problem.text);
            }
            return tracing::error!("the settings are wrong; those of before stay in force");
        }
    };
    let (at_once, later_only): (Vec<_>, Vec<_>) =
        running.changes(&later).into_iter().partition(config::Change::is_at_once);
    for config::Change { name, before, after } in at_once {
        if name == "conn-limit"
            && let Err((_, why)) = raise_descriptors(&later)
        {
            tracing::error!("conn-limit stays {before}: {why}");
            continue;
        }
        tracing::info!("{name} is {after} now; it was {before}");
        running.take_over(&later, &name);
        app.apply(running, &name);
    }
    for config::Change { name, before, after } in later_only {
        tracing::warn!("{name} is {after} in the settings and stays {before} until a restart");
    }
    tracing::info!("the settings were read again");
}

/// The signals a node listens to, and the runtime that hears them.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: Caught,
    terminate: Caught,
    graceful: Caught,
    hangup: Caught,
}

type Caught = tokio::signal::unix::Signal;

impl Signals {
    /// From here on none of them kills.
    fn catch() -> Result<Self, Failure> {
        let caught = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt())?;
            let terminate = signal(SignalKind::terminate())?;
            let graceful = signal(SignalKind::user_defined1())?;
            let hangup = signal(SignalKind::hangup())?;
            drop(inside);
            Ok(Self { runtime, interrupt, terminate, graceful, hangup })
        };
        caught()
            .map_err(|error: std::io::Error| (EXIT_SYSTEM, format!("signals cannot be waited for: {error}")))
    }

    /// Serves until somebody asks for an end.
    fn wait(&mut self, app: App, config: &Config) -> Result<(), Failure> {
        let Self { runtime, interrupt, terminate, graceful, hangup } = self;
        let mut config = config.clone();
        let (reason, keep) = runtime.block_on(async {
            tokio::spawn(app.notify());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return ("interrupted", false),
                    _ = terminate.recv() => return ("terminated", false),
                    _ = graceful.recv() => return ("asked for a graceful stop", true),
                    _ = hangup.recv() => reload(&app, &mut config),
                }
            }
        });
        tracing::info!("{reason}: handing over and finishing what is under way");
        if keep {
            return runtime.block_on(app.stop_gracefully()).map_err(|problem| (EXIT_SYSTEM, problem));
        }
        runtime.block_on(app.stop());
        Ok(())
    }
}
