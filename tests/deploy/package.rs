//! systemd's unit, the Debian package, and the translation of old configurations.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::harness::{PATIENCE, wait_for};
use crate::machines::{Machines, package};
use crate::support::{ROOT, Service, command, free_port, installed, read, run};

#[test]
fn the_units_are_valid_and_allow_little() {
    if !installed(&["systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    for unit in ["tandemd.service", "tandemd@.service"] {
        // The program is not where the package will put it.
        let text = read(&format!("deploy/systemd/{unit}"))
            .replace("/usr/bin/tandemd", env!("CARGO_BIN_EXE_tandemd"));
        let path = directory.path().join(unit);
        std::fs::write(&path, text).expect("a file");
        let said = run(command("systemd-analyze").args(["verify", "--man=no"]).arg(&path));
        assert!(!said.contains(unit), "{said}");
        // In tenths: 1.2 is what Debian's redis-server has.
        run(command("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=12", "--no-pager"])
            .arg(&path));
    }
}

/// systemd's own program for it holds the port and starts the node when somebody comes.
#[test]
fn a_node_serves_at_the_port_that_the_service_manager_holds() {
    if !installed(&["systemd-socket-activate", "systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    for unit in ["tandemd.service", "tandemd.socket"] {
        let text = read(&format!("deploy/systemd/{unit}"))
            .replace("/usr/bin/tandemd", env!("CARGO_BIN_EXE_tandemd"));
        std::fs::write(directory.path().join(unit), text).expect("a file");
    }
    let said = run(command("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(directory.path().join("tandemd.socket")));
    assert!(!said.contains("tandemd.socket"), "{said}");

    let address = format!("127.0.0.1:{}", free_port());
    let mut holder = command("systemd-socket-activate");
    holder.args(["-l", &address, env!("CARGO_BIN_EXE_tandemd"), "-u", "root", "-m", "16", "-p", "1"]);
    let service = Service::start(&mut holder, directory.path(), "tandemd");
    let version = wait_for("an answer at the port", PATIENCE, || {
        tandemd::bench::client::Client::connect(&address, PATIENCE).ok()?.version().ok()
    });
    assert!(version.contains("tandem"), "{version}");
    assert!(service.log().contains(&format!("serving on {address}")), "{}", service.log());
}

/// The lines that reach the service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn wait(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let mut buffer = [0; 1024];
            let Ok(length) = self.0.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return;
            }
            heard.push(text);
        }
        panic!("the service manager never heard {wanted}, but {heard:?}");
    }
}

#[test]
fn systemd_is_told_of_readiness_role_life_and_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).expect("a socket"));
    manager.0.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let pair = crate::setup().pair();
    let node = &pair.nodes[0];
    let mut tandemd = Command::new(env!("CARGO_BIN_EXE_tandemd"));
    tandemd
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "900000")
        .args(["-u", "root", "-I", "128k", "-m", "16", "-l", &node.host.to_string()])
        .args([
            "-p",
            &node.address().port().to_string(),
            "-X",
            &node.replication_address().port().to_string(),
        ])
        .args(["-x", &node.peer, "--admin", &node.admin_address().to_string()]);
    let service = Service::start(&mut tandemd, directory.path(), "tandemd");
    manager.wait("READY=1");
    node.client().version().expect("a node that is ready answers");
    manager.wait("STATUS=master, epoch");
    for _ in 0..3 {
        manager.wait("WATCHDOG=1");
    }
    let pid = Pid::from_raw(service.pid() as i32).expect("a process id");
    // A process that hangs says nothing; that is what the watchdog is for.
    rustix::process::kill_process(pid, Signal::STOP).expect("our process");
    let mut buffer = [0; 1024];
    while manager.0.recv(&mut buffer).is_ok() {}
    rustix::process::kill_process(pid, Signal::CONT).expect("our process");
    manager.wait("WATCHDOG=1");
    rustix::process::kill_process(pid, Signal::TERM).expect("our process");
    manager.wait("STOPPING=1");
}

#[test]
fn the_package_installs_upgrades_and_purges() {
    if !installed(&["dpkg", "dpkg-shlibdeps", "systemd-sysusers", "systemd-tmpfiles"]) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: dpkg needs root");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    for path in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        std::fs::create_dir_all(root.join(path)).expect("a directory");
    }
    for path in ["status", "available"] {
        std::fs::write(root.join("var/lib/dpkg").join(path), "").expect("a file");
    }
    // Nothing else is in this root, so its dependencies are not either.
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display()));
        dpkg.args(["--force-script-chrootless", "--force-depends", "--log=/dev/null"]).args(arguments);
        run(&mut dpkg)
    };
    let deb = package().to_str().expect("a path");
    let has = |path: &str| root.join(path).exists();

    dpkg(&["--install", deb]);
    let said = run(Command::new(root.join("usr/bin/tandemd")).arg("-V"));
    assert!(said.contains("tandem"), "{said}");
    run(Command::new(root.join("usr/bin/tandemctl")).arg("--version"));
    assert!(has("usr/lib/systemd/system/tandemd.service"));
    assert!(has("usr/lib/systemd/system/tandemd.socket"));
    assert!(has("usr/share/doc/tandemd/getting-started.md"));
    for page in ["tandemd", "tandemctl", "tandemctl-status", "tandemctl-dump"] {
        assert!(has(&format!("usr/share/man/man1/{page}.1.gz")), "no manual page of {page}");
    }
    assert!(has("usr/share/bash-completion/completions/tandemctl"));
    assert!(has("usr/share/zsh/vendor-completions/_tandemd"));
    let example = root.join("usr/share/doc/tandemd/examples/tandem.toml");
    let text = std::fs::read_to_string(&example).expect("the example");
    // The key is on the machine that the example is for.
    let text = text.lines().filter(|line| !line.starts_with("psk-file")).collect::<Vec<_>>().join("\n");
    std::fs::write(&example, text + "\ninsecure-replication = true\n").expect("a file");
    run(Command::new(root.join("usr/bin/tandemctl")).args(["config", "check"]).arg(&example));
    assert!(has("etc/tandem"), "the key's home is made");
    let users = std::fs::read_to_string(root.join("etc/passwd")).expect("users");
    assert!(users.contains("tandemd:"), "{users}");

    // An upgrade keeps what the administrator wrote and what the node remembers.
    let options = root.join("etc/default/tandemd");
    std::fs::write(&options, "TANDEMD_OPTIONS=\"-m 7\"\n").expect("a file");
    let state = root.join("var/lib/tandemd/state");
    std::fs::create_dir_all(state.parent().expect("a directory")).expect("a directory");
    std::fs::write(&state, "x").expect("a file");
    std::fs::write(root.join("etc/tandem/pair.key"), "secret").expect("a file");
    dpkg(&["--install", deb]);
    assert_eq!(std::fs::read_to_string(&options).expect("a file"), "TANDEMD_OPTIONS=\"-m 7\"\n");

    dpkg(&["--remove", "tandemd"]);
    assert!(!has("usr/bin/tandemd"));
    assert!(options.exists() && state.exists(), "removal keeps configuration and state");
    dpkg(&["--purge", "tandemd"]);
    assert!(!options.exists() && !state.exists());
    assert!(has("etc/tandem/pair.key"), "the key is the administrator's");
    assert!(
        !run(Command::new("find").arg(root).args(["-type", "f", "-not", "-path", "*/dpkg/*"]))
            .contains("usr/")
    );
}

/// What repcached's configuration becomes.
#[test]
fn old_configurations_are_translated_flag_by_flag() {
    let translate = |file: &str| {
        let said = run(Command::new(Path::new(ROOT).join("deploy/repcached/translate")).arg(file));
        said.lines().last().expect("a line").to_owned()
    };
    let here = |file: &str| format!("{ROOT}/deploy/repcached/{file}");
    let pair = "--state-dir /var/lib/tandemd --psk-file /etc/tandem/pair.key";
    assert_eq!(
        translate(&here("memcached.conf")),
        format!(
            "TANDEMD_OPTIONS=\"-m 512 -p 11211 -l 0.0.0.0 -c 4096 -x 192.0.2.12 -X 11212 -q 16384 {pair}\""
        )
    );
    assert_eq!(
        translate(&here("sysconfig-memcached")),
        format!("TANDEMD_OPTIONS=\"-p 11211 -c 1024 -m 64 -x 192.0.2.12 -X 11212 {pair}\"")
    );
    assert_eq!(
        translate(&here("container.env")),
        format!("TANDEMD_OPTIONS=\"-p 11300 -U 0 -c 2048 -m 512 -t 4 -x 192.0.2.12 -v {pair}\"")
    );
    let directory = tempfile::tempdir().expect("a directory");
    let plain = directory.path().join("memcached");
    // The variables of a container that runs, piped in; nothing else of its environment counts.
    std::fs::write(
        &plain,
        "HOME=/\nMEMCACHED_PORT=tcp://192.0.2.1:1\nexport SLAVE='192.0.2.13'\nMEMCACHED_USER=alice\nMEMCACHED_PASS=x\n",
    )
    .expect("a file");
    let translate_piped = format!("exec {ROOT}/deploy/repcached/translate - < {}", plain.display());
    let said = run(Command::new("sh").args(["-c", &translate_piped]));
    assert!(said.ends_with(&format!("TANDEMD_OPTIONS=\"-x 192.0.2.13 -S {pair}\"\n")), "{said}");
    assert!(
        said.contains("\nMEMCACHED_SASL_PWDB=/etc/tandem/users\n") && said.contains("alice:PASSWORD"),
        "{said}"
    );
    // Every example is one that tandemd takes.
    let key = directory.path().join("pair.key");
    std::fs::write(&key, "a key that is long enough\n").expect("a file");
    for example in ["memcached.conf", "sysconfig-memcached", "container.env"] {
        let options = translate(&here(example));
        let options = options.trim_start_matches("TANDEMD_OPTIONS=\"").trim_end_matches('"');
        // The key is there on the machine it is written for.
        let options = options.replace("/etc/tandem/pair.key", key.to_str().expect("a path"));
        let words = options.split_whitespace().map(Into::into).chain(["-u".into(), "root".into()]);
        let parsed = tandemd::config::parse(words, |_| None, false);
        assert!(matches!(parsed, Ok(tandemd::config::Invocation::Run(_))), "{options}: {parsed:?}");
    }
    std::fs::write(&plain, "# comment\nENABLE=yes\nOPTIONS='-l 127.0.0.1 -u memcache -P/run/x.pid -vv'\n")
        .expect("a file");
    assert_eq!(translate(plain.to_str().expect("a path")), "TANDEMD_OPTIONS=\"-l 127.0.0.1 -vv\"");
}

/// And a node that is started with it serves.
#[test]
fn a_translated_repcached_configuration_starts() {
    let Some(machines) = Machines::start() else { return };
    machines.install();
    machines[0].write("/etc/tandem/pair.key", "a key for this test only, of enough bytes\n");
    machines[0].sh("chown tandemd /etc/tandem/pair.key
         cd /usr/share/doc/tandemd/examples/repcached
         ./translate memcached.conf > /etc/default/tandemd
         systemctl restart tandemd
         tandemctl wait --role master --timeout 20s");
}
