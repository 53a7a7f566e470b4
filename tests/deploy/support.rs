//! Programs, files and free ports.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// The repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the repository.
pub fn read(path: &str) -> String {
    let path = Path::new(ROOT).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether all these programs are installed; says which is missing.
pub fn installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| find(program).is_none());
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} is not installed; see the list of packages in scripts/test.sh");
    }
    missing.is_none()
}

/// Where a program is. Services are in directories that users do not search.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|file| file.exists())
}

/// A command for an installed program.
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| panic!("{program} is not installed")))
}

/// Runs to the end; what it printed. Fails the test if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} fails with {}:\n{text}", output.status);
    text
}

/// A port of 127.0.0.1 that is free now.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 500) as u16 * 20;
    loop {
        let port = 33_000 - 1 - (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 1_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program that runs beside the test and ends with it.
pub struct Service {
    process: Child,
    log: PathBuf,
}

impl Service {
    /// Starts it; what it says goes into a file there.
    pub fn start(command: &mut Command, directory: &Path, name: &str) -> Self {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).expect("a log file");
        let too = file.try_clone().expect("a log file");
        let process = command.stdin(Stdio::null()).stdout(file).stderr(too).spawn();
        Self { process: process.unwrap_or_else(|error| panic!("{command:?}: {error}")), log }
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
