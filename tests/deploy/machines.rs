//! Two machines: each with its own files, users, processes and network, joined by a cable.
//!
//! They see the files of this machine and write into memory of their own; everything is gone with
//! them. Their addresses and names are those of the documentation. systemd does not run in them: a
//! stand-in for `systemctl` starts what the unit says, as the unit's user.

use std::ops::Index;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{PATIENCE, wait_for};
use crate::support::{ROOT, installed, run};

const NAMES: [&str; 2] = ["cache-a", "cache-b"];
const ADDRESSES: [&str; 2] = ["192.0.2.11", "192.0.2.12"];

/// Makes the machine's own view of files, then waits for its end. `$1` is an empty directory.
const BOOT: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/changes" "$1/scratch" "$1/tree"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/scratch" "$1/tree"
mount --rbind /dev "$1/tree/dev"
mount --rbind /sys "$1/tree/sys"
mount -t proc proc "$1/tree/proc"
mount -t tmpfs tmpfs "$1/tree/run"
mkdir -p "$1/tree/run/systemd/system" "$1/tree/run/lock" "$1/tree/run/keepalived"
mount -t tmpfs -o mode=1777 tmpfs "$1/tree/tmp"
touch "$1/tree/run/machine-is-up"
# The first process takes in orphans.
exec chroot "$1/tree" sh -c 'while sleep 1; do :; done'
"#;

/// Stands in for systemd: runs what tandemd.service says, and again when it dies.
const SYSTEMCTL: &str = r#"#!/bin/sh
unit=/usr/lib/systemd/system/tandemd.service
field() { sed -n "s/^$1=//p" "$unit"; }
keep() {
    user=$(field User) state=/var/lib/$(field StateDirectory)
    install -d -o "$user" -g "$user" -m "$(field StateDirectoryMode)" "$state"
    while [ -e /run/tandemd.wanted ]; do
        . "$(field EnvironmentFile | sed 's/^-//')"
        eval "exec setpriv --reuid $user --regid $user --clear-groups $(field ExecStart)" >>/var/log/tandemd.log 2>&1 &
        echo $! >/run/tandemd.pid
        wait $!
        sleep 1
    done
}
stop() {
    rm -f /run/tandemd.wanted
    [ -e /run/tandemd.pid ] || return 0
    kill "$(cat /run/tandemd.pid)" 2>/dev/null
    while kill -0 "$(cat /run/tandemd.pid)" 2>/dev/null; do sleep 0.05; done
    while [ -e /run/tandemd.keeper ] && kill -0 "$(cat /run/tandemd.keeper)" 2>/dev/null; do sleep 0.05; done
}
start() {
    touch /run/tandemd.wanted
    (exec </dev/null >/dev/null 2>&1; keep) &
    echo $! >/run/tandemd.keeper
    sleep 0.1
}
case "$*" in
"start tandemd"*) start ;;
"stop tandemd"*) stop ;;
"restart tandemd"*) stop; start ;;
"kill -s KILL tandemd") kill -9 "$(cat /run/tandemd.pid)" ;;
"daemon-reload" | "enable tandemd.service" | "disable tandemd.service") ;;
*) echo "systemctl $*: the stand-in of the test does not know this" >&2; exit 1 ;;
esac
"#;

/// The files that a process sees.
fn files(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/root"))
}

/// One machine.
pub struct Machine {
    process: Child,
    inside: u32,
}

impl Machine {
    fn start(directory: &Path) -> Self {
        let process = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", BOOT, "sh"])
            .arg(directory)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare, of util-linux");
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let inside = wait_for("the machine is up", PATIENCE, || {
            let inside: u32 = std::fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            files(inside).join("run/machine-is-up").exists().then_some(inside)
        });
        Self { process, inside }
    }

    /// Where one of its files is, seen from here.
    fn file(&self, path: &str) -> PathBuf {
        files(self.inside).join(path.trim_start_matches('/'))
    }

    /// A shell command on this machine.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.inside.to_string(), "-m", "-n", "-p", "-r", "-w"]);
        // Nothing a test does may take longer.
        command.args(["timeout", "-k", "1", "200", "sh", "-ec", script]);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a shell command; what it printed. Fails the test if it fails.
    pub fn sh(&self, script: &str) -> String {
        run(&mut self.command(script))
    }

    /// Whether a shell command succeeds.
    pub fn succeeds(&self, script: &str) -> bool {
        self.command(script).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.file(path);
        let directory = path.parent().expect("a directory");
        std::fs::create_dir_all(directory).expect("a directory");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Copies a file of this machine's file system into it.
    pub fn put(&self, from: &Path, to: &str) {
        std::fs::copy(from, self.file(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.file("/var/log/tandemd.log"));
            eprintln!("--- tandemd.log ---\n{}", log.unwrap_or_default());
        }
        // Everything inside ends with the first process there.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both of them.
pub struct Machines {
    both: [Machine; 2],
    directory: tempfile::TempDir,
}

impl Index<usize> for Machines {
    type Output = Machine;

    fn index(&self, index: usize) -> &Machine {
        &self.both[index]
    }
}

impl Machines {
    /// Two bare machines that reach each other; nothing where they cannot be made.
    pub fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: machines of their own need root");
            return None;
        }
        if !installed(&["unshare", "nsenter", "setpriv", "ip", "dpkg-shlibdeps", "systemd-sysusers"]) {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("tandem-machines-").tempdir().expect("a directory");
        let both = NAMES.map(|name| {
            let place = directory.path().join(name);
            std::fs::create_dir(&place).expect("a directory");
            Machine::start(&place)
        });
        let [a, b] = both.each_ref().map(|machine| machine.inside.to_string());
        run(Command::new("ip")
            .args(["link", "add", "name", "eth0", "netns", &a, "type", "veth"])
            .args(["peer", "name", "eth0", "netns", &b]));
        for (index, machine) in both.iter().enumerate() {
            // The link is the real one.
            machine.sh("rm -f /usr/bin/systemctl");
            machine.write("/usr/bin/systemctl", SYSTEMCTL);
            let hosts = format!(
                "127.0.0.1 localhost\n{} {}\n{} {}\n",
                ADDRESSES[0], NAMES[0], ADDRESSES[1], NAMES[1]
            );
            machine.sh("rm -f /etc/hosts");
            machine.write("/etc/hosts", &hosts);
            machine.sh(&format!(
                "chmod 755 /usr/bin/systemctl; ip link set lo up; \
                 ip addr add {}/24 dev eth0; ip link set eth0 up",
                ADDRESSES[index]
            ));
        }
        Some(Self { both, directory })
    }

    /// For logs of what runs on them.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts the package where administrators would copy it.
    pub fn copy_package(&self) {
        for machine in &self.both {
            machine.put(package(), &format!("/srv/{}", file_name(package())));
        }
    }

    /// Installs the package.
    pub fn install(&self) {
        self.copy_package();
        for machine in &self.both {
            machine.sh(&format!("dpkg -i /srv/{}", file_name(package())));
        }
    }

    /// Makes them a pair, as administrators do; waits until it is one.
    pub fn pair_up(&self) {
        for (index, machine) in self.both.iter().enumerate() {
            machine.write("/etc/tandem/pair.key", "a key for this test only, of enough bytes\n");
            let options = format!(
                "TANDEMD_OPTIONS=\"-m 16 -I 128k -x {} --state-dir /var/lib/tandemd --psk-file /etc/tandem/pair.key\"\n",
                NAMES[1 - index]
            );
            machine.write("/etc/default/tandemd", &options);
            machine.sh("chown tandemd /etc/tandem/pair.key; systemctl restart tandemd");
        }
        self.both[0].sh("tandemctl wait --synced --timeout 30s");
    }

    /// Which one is master.
    pub fn master(&self) -> usize {
        wait_for("one master", PATIENCE, || {
            let masters =
                [0, 1].map(|index| self.both[index].succeeds("tandemctl wait --role master --timeout 0s"));
            match masters {
                [true, false] => Some(0),
                [false, true] => Some(1),
                _ => None,
            }
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

/// The Debian package of the programs under test, built once.
pub fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let programs = Path::new(env!("CARGO_BIN_EXE_tandemd")).parent().expect("a directory");
        let script = Path::new(ROOT).join("deploy/debian/build.sh");
        let output = Path::new(env!("CARGO_TARGET_TMPDIR"));
        PathBuf::from(run(Command::new(script).arg(programs).arg(output).env("COMPRESSION", "none")).trim())
    })
}
