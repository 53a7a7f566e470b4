//! The servers that are compared, each a process on the first core, or on as many as it has workers; the
//! load comes from the others.

use std::fmt::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use tandemd::bench::client::Client;
use tandemd::bench::plan::Plan;
use tandemd::bench::process::Usage;

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    child: Child,
}

impl Server {
    /// tandemd with one worker and that many megabytes.
    pub(crate) fn tandem(megabytes: u32) -> Self {
        Self::tandem_of(megabytes, 1)
    }

    /// tandemd with that many workers, each with a core.
    pub(crate) fn tandem_of(megabytes: u32, threads: u32) -> Self {
        Self::tandem_on("tandem", "epoll", megabytes, threads)
    }

    /// tandemd with one worker that serves with io_uring.
    pub(crate) fn tandem_on_uring(megabytes: u32) -> Self {
        Self::tandem_on("tandem, io_uring", "uring", megabytes, 1)
    }

    /// Why there is no [`Server::tandem_on_uring`] here; `None` if there is.
    pub(crate) fn why_no_uring() -> Option<String> {
        let chosen = Self::tandem_on("tandem", "auto", 64, 1);
        let settings = chosen.client().stats("settings").expect("an answer");
        if settings.get("io").is_some_and(|io| io == "uring") {
            return None;
        }
        // Now it refuses, and says why.
        let flags = ["--io", "uring", "-l", "127.0.0.1", "-p", "-1"];
        let refused = Command::new(env!("CARGO_BIN_EXE_tandemd")).args(flags).output().expect("tandemd");
        Some(String::from_utf8_lossy(&refused.stderr).trim().to_owned())
    }

    fn tandem_on(name: &'static str, io: &str, megabytes: u32, threads: u32) -> Self {
        Self::memcached_like(name, env!("CARGO_BIN_EXE_tandemd"), &["--io", io], megabytes, threads)
    }

    /// memcached, the same.
    pub(crate) fn memcached(megabytes: u32) -> Self {
        Self::memcached_of(megabytes, 1)
    }

    /// memcached with that many workers.
    pub(crate) fn memcached_of(megabytes: u32, threads: u32) -> Self {
        Self::memcached_like("memcached", &newest("memcached"), &[], megabytes, threads)
    }

    /// Debian's redis-server, which persists nothing.
    pub(crate) fn redis() -> Self {
        Self::redis_with("redis", &[])
    }

    /// The same, following another one.
    pub(crate) fn redis_replica_of(port: u16) -> Self {
        Self::redis_with("redis's replica", &["--replicaof", "127.0.0.1", &port.to_string()])
    }

    fn redis_with(name: &'static str, more: &[&str]) -> Self {
        let flags = [
            &["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--io-threads", "1"][..],
            // What a replica is sent lands in a file first.
            &["--repl-diskless-sync-delay", "0", "--dir", "/tmp"],
            more,
        ];
        Self::start(name, "redis-server", 1, |port| {
            let flags = flags.concat().into_iter().map(str::to_owned);
            flags.chain(["--port".to_owned(), port.to_string()]).collect()
        })
    }

    fn memcached_like(
        name: &'static str,
        program: &str,
        extra: &[&str],
        megabytes: u32,
        threads: u32,
    ) -> Self {
        let server = Self::start(name, program, threads, |port| {
            let fixed = ["-l", "127.0.0.1", "-c", "12000", "-p"];
            let mut flags: Vec<String> = extra.iter().chain(&fixed).map(|&flag| flag.to_owned()).collect();
            flags.extend([port.to_string(), "-m".to_owned(), megabytes.to_string()]);
            flags.extend(["-t".to_owned(), threads.to_string()]);
            if rustix::process::geteuid().is_root() {
                flags.extend(["-u", "root"].map(str::to_owned));
            }
            flags
        });
        server.client().version().expect("an answer");
        server
    }

    fn start(name: &'static str, program: &str, cores: u32, flags: impl Fn(u16) -> Vec<String>) -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("0-{}", cores - 1), program]).args(flags(port));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self { name, port, child: child.unwrap_or_else(|error| panic!("{program}: {error}")) };
        drop(server.client());
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.pid()).expect("a running server")
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client, as soon as the server listens.
    pub(crate) fn client(&self) -> Client {
        for _ in 0..400 {
            if let Ok(client) = Client::connect(self.address(), Duration::from_secs(30)) {
                return client;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("{} does not listen", self.name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The program that `scripts/anchors.sh` fetched, or else the one that is installed.
pub(crate) fn newest(program: &str) -> String {
    let fetched = format!("{}/target/anchors/{program}", env!("CARGO_MANIFEST_DIR"));
    if std::path::Path::new(&fetched).exists() { fetched } else { program.to_owned() }
}

/// Moves a process, threads and all, to a core.
pub(crate) fn pin(pid: u32, core: u32) {
    let output = Command::new("taskset")
        .args(["-acp", &core.to_string(), &pid.to_string()])
        .output()
        .expect("taskset");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A plan from the flags of `tandemctl bench`.
pub(crate) fn plan(address: &str, flags: &str) -> Plan {
    #[derive(Parser)]
    struct Load {
        #[command(flatten)]
        plan: Plan,
    }
    Load::parse_from(["bench", address].into_iter().chain(flags.split_ascii_whitespace())).plan
}

/// CPU microseconds that `pids` use for an operation of the load.
pub(crate) fn cpu_per_operation(plan: &Plan, pids: &[u32]) -> f64 {
    let plan = Plan { server_pid: pids.to_vec(), ..plan.clone() };
    let report = tandemd::bench::run(&plan).expect("a load");
    assert_eq!(report.failures(), 0, "{:?}", report.errors);
    report.servers.iter().map(|server| server.user_us_per_operation + server.system_us_per_operation).sum()
}

/// What was measured where.
pub(crate) fn machine() -> String {
    let said = |program: &str, flags: &[&str]| {
        let output = Command::new(program).args(flags).output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_else(|| format!("no {program}"))
    };
    let file = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let mut text = String::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let _infallible = writeln!(
        text,
        "{}, {cores} core(s) for the load and one for the servers; {} of memory; Linux {}; load average when it began {}.\n",
        file("/proc/cpuinfo", "model name"),
        file("/proc/meminfo", "MemTotal"),
        said("uname", &["-r"]),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?"),
    );
    let _infallible = writeln!(
        text,
        "{}; {}; {}.",
        said(env!("CARGO_BIN_EXE_tandemd"), &["--version"]),
        said(&newest("memcached"), &["--version"]),
        said("redis-server", &["--version"]).split(" sha").next().unwrap_or_default(),
    );
    text
}
