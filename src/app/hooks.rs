//! Programs of the operator: one that is told of every change of role, and one that fences the peer.
//!
//! They run as they are, without a shell, in their own time: the pair never waits for the first, and
//! waits for the second only before it replaces a silent peer. Whatever they write goes to the log;
//! whoever takes too long is killed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_replication::driver::{RoleChange, Snapshot};
use tokio::sync::watch;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// As much of what it writes is logged.
const OUTPUT_BYTES_MAX: u64 = 4096;

/// The programs in force; a reload replaces them.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// `--on-role-change`.
    pub(super) on_role_change: Option<PathBuf>,
    /// `--fence-command`.
    pub(super) fence: Option<PathBuf>,
    /// Somebody tells the first of them.
    telling: bool,
}

impl Programs {
    pub(super) const fn new(on_role_change: Option<PathBuf>, fence: Option<PathBuf>) -> Self {
        Self { on_role_change, fence, telling: false }
    }
}

/// [`Programs`], where threads find them.
pub(super) type Shared = Arc<Mutex<Programs>>;

/// Puts other programs in force.
pub(super) fn replace(shared: &Shared, programs: Programs) {
    let mut ours = shared.lock().unwrap_or_else(PoisonError::into_inner);
    *ours = Programs { telling: ours.telling, ..programs };
}

/// Runs the program in force after every change of role, one after the other, until the pair ends; and those
/// that were `told` are not told again. Nothing, while there is no such program: it would be woken for each
/// heartbeat in vain.
pub(super) fn tell_roles(
    programs: &Shared,
    mut status: watch::Receiver<Arc<Snapshot>>,
    told: u64,
) -> std::io::Result<()> {
    let mut ours = programs.lock().unwrap_or_else(PoisonError::into_inner);
    if ours.on_role_change.is_none() || ours.telling {
        return Ok(());
    }
    let programs = Arc::clone(programs);
    let mut told = told;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("role-hook".to_owned()).spawn(move || {
        loop {
            let snapshot = status.borrow_and_update().clone();
            // Those that are forgotten by now happened while the program ran; the last ones are there.
            for change in snapshot.role_changes.iter().filter(|change| change.number > told) {
                let program = programs.lock().unwrap_or_else(PoisonError::into_inner).on_role_change.clone();
                if let Some(program) = program {
                    tell_role(&program, change, snapshot.peer.as_deref().unwrap_or_default());
                }
            }
            told = snapshot.role_changes.back().map_or(told, |change| change.number);
            if runtime.block_on(status.changed()).is_err() {
                return;
            }
        }
    })?;
    ours.telling = true;
    Ok(())
}

fn tell_role(program: &Path, change: &RoleChange, peer: &str) {
    let (role, epoch) = (change.to.name(), change.epoch.to_string());
    let mut command = Command::new(program);
    command.args([role, &epoch, change.why]).envs([
        ("TANDEM_ROLE", role),
        ("TANDEM_ROLE_BEFORE", change.from.name()),
        ("TANDEM_EPOCH", &epoch),
        ("TANDEM_REASON", change.why),
        ("TANDEM_PEER", peer),
    ]);
    if let Err(why) = run(command) {
        tracing::error!("--on-role-change {} for {role}: {why}", program.display());
    }
}

/// Runs the fence command; whether it has succeeded. Blocks for as long as that takes.
pub(super) fn fence(program: &Path, peer: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(peer).env("TANDEM_PEER", peer);
    match run(command) {
        Ok(()) => true,
        Err(why) => {
            tracing::error!("--fence-command {}: {why}", program.display());
            false
        }
    }
}

/// Runs a program to its end, or to the end of patience, and logs what it says.
fn run(mut command: Command) -> Result<(), String> {
    use std::os::unix::process::CommandExt as _;
    // A group of its own, so that what it started ends with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|why| format!("cannot be started: {why}"))?;
    let outputs = [
        child.stdout.take().map(|output| log(name.clone(), output)),
        child.stderr.take().map(|output| log(name, output)),
    ];
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK),
            Ok(None) => break Err(format!("did not end within {} s and was killed", PATIENCE.as_secs())),
            Err(why) => break Err(why.to_string()),
        }
    };
    if status.is_err() {
        let group = nix::unistd::Pid::from_raw(child.id() as i32);
        let _gone_already = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _reaped = child.wait();
    }
    for output in outputs.into_iter().flatten().filter(std::thread::JoinHandle::is_finished) {
        let _panicked = output.join();
    }
    match status? {
        status if status.success() => Ok(()),
        status => Err(format!("ended with {status}")),
    }
}

fn log(name: String, output: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut output = output;
        let mut bytes = Vec::new();
        let _what_came = output.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.trim().is_empty()) {
            tracing::info!("{name}: {line}");
        }
        // The rest, so that nobody waits for room.
        let _rest = std::io::copy(&mut output, &mut std::io::sink());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_succeeds_fails_or_is_not_there() {
        assert!(fence(Path::new("/bin/true"), "peer"));
        assert!(!fence(Path::new("/bin/false"), "peer"));
        assert!(!fence(Path::new("/nonexistent/program"), "peer"));
    }

    #[test]
    fn nothing_of_an_argument_is_understood_by_a_shell() {
        let directory = tempfile::tempdir().expect("a directory");
        let trap = directory.path().join("trap");
        let text = format!("$(touch {0}); `touch {0}`", trap.display());
        let mut command = Command::new("/bin/echo");
        command.arg(text);
        run(command).expect("it writes");
        assert!(!trap.exists());
    }
}
