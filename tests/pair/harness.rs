//! Two real `tandemd` processes on 127.0.0.2 and 127.0.0.3, and what can befall them.
//!
//! Each test has its own pair: own ports, own directories. Nothing here sleeps for a fixed time to
//! let something happen; everything waits for a condition, with a limit. When a test fails, the
//! nodes' logs are printed; whatever happens, the processes are killed.
#![allow(dead_code, unreachable_pub, reason = "tests, demo and figures share this file, each uses a part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tandemd::admin;
use tandemd::bench::client::{Client, Error};

/// Longer than anything of a healthy pair takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Of the admin ports of nodes that are not on loopback.
const TOKEN: &str = "token-of-these-tests";

/// What to start. Every field has a usable default.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program.
    pub binary: PathBuf,
    /// `--profile`.
    pub profile: &'static str,
    /// Megabytes for items (`-m`).
    pub memory: u32,
    /// Worker threads (`-t`).
    pub threads: u32,
    /// Further flags of both nodes.
    pub flags: Vec<String>,
    /// Where the nodes are.
    pub hosts: [IpAddr; 2],
    /// Network namespaces the nodes run in, if not this one.
    pub namespaces: Option<[String; 2]>,
}

impl Setup {
    /// The usual pair of that program.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            profile: "lan",
            memory: 256,
            threads: 2,
            flags: Vec::new(),
            hosts: [IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3])],
            namespaces: None,
        }
    }

    /// Adds a flag for both nodes.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Two nodes, not started yet.
    pub fn pair(self) -> Pair {
        let directory =
            tempfile::Builder::new().prefix("tandem-pair-").tempdir().expect("a temporary directory");
        // In namespaces of their own, ports are free anyway.
        let ports = if self.namespaces.is_some() { [11211, 11212, 11213] } else { free_ports(&self.hosts) };
        let node = |index: usize| Node {
            name: ["A", "B"][index],
            host: self.hosts[index],
            ports,
            peer: SocketAddr::new(self.hosts[1 - index], ports[1]).to_string(),
            state_dir: directory.path().join(["a", "b"][index]),
            log: directory.path().join(["a.log", "b.log"][index]),
            namespace: self.namespaces.as_ref().map(|names| names[index].clone()),
            flags: self.flags.clone(),
            setup: self.clone(),
            process: None,
            started: None,
        };
        Pair { nodes: [node(0), node(1)], directory, quiet: false }
    }

    /// Two nodes, started at the same moment, that have found each other.
    pub fn start(self) -> Pair {
        let mut pair = self.pair();
        pair.start();
        pair.wait_paired();
        pair
    }
}

/// Three ports that are free on both hosts: clients', replication, admin.
///
/// Below the range from which the kernel takes ports for outgoing connections, and spread by process
/// and by call, so that tests that run at the same time do not meet.
fn free_ports(hosts: &[IpAddr]) -> [u16; 3] {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let free = |port: u16| hosts.iter().all(|&host| TcpListener::bind((host, port)).is_ok());
    for attempt in 0..1000 {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let place = std::process::id().wrapping_mul(7).wrapping_add(call).wrapping_add(attempt * 31) % 5000;
        let base = 12_000 + 4 * place as u16;
        let ports = [base, base + 1, base + 2];
        if ports.into_iter().all(free) {
            return ports;
        }
    }
    panic!("no free ports on {hosts:?}");
}

/// Two nodes.
#[derive(Debug)]
pub struct Pair {
    /// Both of them.
    pub nodes: [Node; 2],
    directory: tempfile::TempDir,
    /// Do not print logs on a failure.
    pub quiet: bool,
}

impl Pair {
    /// Before they start: both get a second client port, see [`Node::sync_address`].
    pub fn with_sync_port(mut self) -> Self {
        for node in &mut self.nodes {
            let port = node.sync_address().port().to_string();
            node.flags.extend(["--sync-port".to_owned(), port]);
        }
        self
    }

    /// Starts both at the same moment.
    pub fn start(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
    }

    /// Waits until one is master and the other its backup; which one is master.
    pub fn wait_paired(&self) -> usize {
        self.wait_paired_within(PATIENCE)
    }

    /// The same, with a limit of one's own.
    pub fn wait_paired_within(&self, limit: Duration) -> usize {
        wait_for("one master and one backup", limit, || self.paired())
    }

    /// Which node is master, if the other is its backup (which says: with all of its items, but for
    /// changes on their way).
    pub fn paired(&self) -> Option<usize> {
        let stats = [self.nodes[0].replication()?, self.nodes[1].replication()?];
        let is = |index: usize, key: &str, value: &str| stats[index].get(key).is_some_and(|is| is == value);
        let linked = is(0, "link", "up") && is(1, "link", "up");
        // Both have heard it from each other, too: until then a switchover would be refused.
        let has = |index: usize, role: &str| is(index, "role", role) && is(1 - index, "peer_role", role);
        (0..2).find(|&one| linked && has(one, "master") && has(1 - one, "backup"))
    }

    /// The node that says it is master, if exactly one does.
    pub fn master(&self) -> Option<usize> {
        let masters: Vec<usize> = (0..2).filter(|&index| self.nodes[index].role() == "master").collect();
        match masters[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Waits until both nodes count the same items and nothing is on its way; that count. Only for
    /// pairs without load.
    pub fn wait_converged(&self, limit: Duration) -> u64 {
        wait_for("both nodes hold the same items", limit, || {
            let master = self.paired()?;
            let level = self.nodes[master].replication()?.get("lag_records")? == "0";
            let [one, other] = [self.nodes[0].items()?, self.nodes[1].items()?];
            (level && one == other).then_some(one)
        })
    }

    /// Waits until the backup has caught up with what the master holds at this moment, load or not.
    pub fn wait_caught_up(&self, limit: Duration) {
        let master = self.wait_paired_within(limit);
        let items = wait_for("the master's items", limit, || self.nodes[master].items());
        wait_for("the backup has caught up", limit, || {
            (self.nodes[1 - master].items()? >= items).then_some(())
        });
    }

    /// Waits until the master knows that its backup could take over; which one is master. What
    /// `tandemctl wait --synced` does before a switchover.
    pub fn wait_synced(&self) -> usize {
        wait_for("the backup could take over", PATIENCE, || {
            let master = self.paired()?;
            self.nodes[master].admin().status().is_ok_and(|status| status.is_synced()).then_some(master)
        })
    }

    /// Hands the master role to the other node, which is master afterwards; `begin` is called before
    /// the request that is granted. A new master that has not heard from its backup yet refuses, which
    /// changes nothing: then it is asked again.
    pub fn switch_over(&self, mut begin: impl FnMut()) -> usize {
        let master = self.wait_synced();
        wait_for("a switchover is granted", PATIENCE, || {
            begin();
            self.nodes[master].admin().switchover().ok()
        });
        wait_for("the other node is master", PATIENCE, || self.paired().filter(|&now| now != master))
    }

    /// Resets every connection between the nodes, as a router that lost its state would; how many.
    pub fn reset_links(&self) -> usize {
        let port = self.nodes[0].ports[1];
        let filter = format!("( sport = :{port} or dport = :{port} )");
        // It complains about sockets that are gone already; what it lists, it killed.
        let output =
            Command::new("ss").args(["-K", "-t", "-H", "-n", &filter]).output().expect("ss, of iproute2");
        String::from_utf8_lossy(&output.stdout).lines().count()
    }

    /// Where state directories and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves processes, logs and directories behind.
    pub fn keep(mut self) -> PathBuf {
        for node in &mut self.nodes {
            node.process = None;
        }
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if std::thread::panicking() && !self.quiet {
                eprintln!("--- log of {} ({}) ---\n{}", node.name, node.host, node.log_tail(60));
                eprintln!("--- what {} says of the pair ---\n{:?}", node.name, node.replication());
            }
            node.kill();
        }
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// `A` or `B`.
    pub name: &'static str,
    /// Its address.
    pub host: IpAddr,
    /// Clients', replication and admin port.
    pub ports: [u16; 3],
    /// What `-x` says.
    pub peer: String,
    /// What `--state-dir` says.
    pub state_dir: PathBuf,
    /// Further flags of this node.
    pub flags: Vec<String>,
    log: PathBuf,
    namespace: Option<String>,
    setup: Setup,
    process: Option<Child>,
    started: Option<Instant>,
}

impl Node {
    /// Starts the process; it may not listen yet.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        // A test may have put something else there, on purpose.
        let _ = std::fs::create_dir_all(&self.state_dir);
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = match &self.namespace {
            None => Command::new(&self.setup.binary),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.setup.binary);
                command
            }
        };
        let [client, replication, admin] = self.ports;
        let host = self.host;
        command
            .args(["-l", &host.to_string(), "-p", &client.to_string(), "-X", &replication.to_string()])
            .args(["-x", &self.peer, "--admin", &SocketAddr::new(host, admin).to_string()])
            .args(["-m", &self.setup.memory.to_string(), "-t", &self.setup.threads.to_string(), "-c", "4096"])
            .args(["--profile", self.setup.profile, "--state-dir"])
            .arg(&self.state_dir);
        // `TANDEM_IO=epoll` or `uring` runs these tests on that way of doing I/O.
        if let Ok(io) = std::env::var("TANDEM_IO") {
            command.args(["--io", &io]);
        }
        command.args(&self.flags);
        if !host.is_loopback() {
            command.arg("--admin-token-file").arg(self.token_file());
        }
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        let log_too = log.try_clone().expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(log_too).spawn();
        self.started = Some(Instant::now());
        self.process = Some(child.unwrap_or_else(|error| panic!("{}: {error}", self.setup.binary.display())));
    }

    /// Where the admin port's token is, on a node that needs one.
    fn token_file(&self) -> PathBuf {
        let path = self.log.with_file_name("token");
        std::fs::write(&path, TOKEN).expect("a token file");
        path
    }

    /// When it was started last.
    pub fn started(&self) -> Instant {
        self.started.expect("a node that was started")
    }

    /// kill -9, and waits until the kernel has taken everything from it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGKILL without waiting: how a failure looks from outside.
    pub fn kill_now(&mut self) {
        self.signal(Signal::KILL);
    }

    /// SIGTERM, and waits for the end; the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("a running process");
        let ended = wait_for("the end of the process", PATIENCE, || process.try_wait().expect("wait"));
        ended.code()
    }

    /// SIGSTOP: the process hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        // The signal stops one thread after the other; until the last one has stopped, the node is
        // merely slow and what it acknowledges is not behind a pause.
        wait_for("every thread is stopped", PATIENCE, || self.is_stopped().then_some(()));
    }

    fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        let state = |path: PathBuf| {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T'))
        };
        threads.flatten().all(|thread| state(thread.path()).unwrap_or(true))
    }

    /// SIGCONT: it wakes up.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends it to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("a process of ours");
    }

    /// The process id; that of the node, not of a wrapper around it (`ip netns exec` becomes it).
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running process").id()
    }

    /// Whether the process lives.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Where clients are served whose writes wait for the backup, if any are: ports are handed out in
    /// fours, and this is the fourth.
    pub fn sync_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.ports[0] + 3)
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.ports[0])
    }

    /// Where the peer goes.
    pub fn replication_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.ports[1])
    }

    /// Where operators go.
    pub fn admin_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.ports[2])
    }

    /// A client's connection; fails the test if there is none.
    pub fn client(&self) -> Client {
        let mut last = None;
        wait_for("a client's connection", PATIENCE, || {
            Client::connect(self.address(), PATIENCE).map_err(|error| last = Some(error)).ok()
        })
    }

    /// The admin port's client.
    pub fn admin(&self) -> admin::client::Client {
        admin::client::Client::new(self.admin_address().to_string()).with_token(TOKEN)
    }

    /// `stats <what>`, if the node answers.
    pub fn stats(&self, what: &str) -> Option<BTreeMap<String, String>> {
        // A stopped process accepts connections and says nothing.
        let limit = Duration::from_secs(2);
        Client::connect(self.address(), limit).ok()?.stats(what).ok()
    }

    /// `stats replication`, if the node answers.
    pub fn replication(&self) -> Option<BTreeMap<String, String>> {
        self.stats("replication")
    }

    /// A number of `stats replication`; fails the test if the node does not tell it.
    pub fn replicated(&self, key: &str) -> u64 {
        let stats = self.replication().unwrap_or_else(|| panic!("{} does not answer", self.name));
        let value = stats.get(key).unwrap_or_else(|| panic!("no `{key}` in stats replication: {stats:?}"));
        value.parse().unwrap_or_else(|_| panic!("stats replication: {key} is {value}, not a number"))
    }

    /// `master`, `backup`, … or nothing if it does not answer.
    pub fn role(&self) -> String {
        self.replication().and_then(|mut stats| stats.remove("role")).unwrap_or_default()
    }

    /// Waits for a role.
    pub fn wait_role(&self, role: &str) {
        wait_for(&format!("{} is {role}", self.name), PATIENCE, || (self.role() == role).then_some(()));
    }

    /// Items in this node's own memory.
    pub fn items(&self) -> Option<u64> {
        self.stats("")?.get("curr_items")?.parse().ok()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let from = log.lines().count().saturating_sub(lines);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }

    /// All of its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Waits until something is so; fails the test if it takes too long.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < limit, "not so after {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The time until a `set` through that address is acknowledged, from `since` on, by trying without
/// pause: what a client that insists sees of a failover.
pub fn first_write(address: SocketAddr, key: &str, since: Instant, limit: Duration) -> Duration {
    let mut client: Option<Client> = None;
    loop {
        assert!(since.elapsed() < limit, "no write acknowledged by {address} within {limit:?}");
        let Some(connected) = &mut client else {
            client = Client::connect(address, Duration::from_secs(2)).ok();
            continue;
        };
        match connected.set(key, b"first") {
            Ok(()) => return since.elapsed(),
            Err(Error::Server(_)) => {}
            Err(Error::Io(_)) => client = None,
        }
    }
}
