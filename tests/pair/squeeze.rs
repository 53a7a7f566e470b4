//! What a machine may have too little of: memory, file descriptors, room on a disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// A control group of the kernel with a limit of memory; gone when dropped.
pub(crate) struct MemoryLimit {
    group: PathBuf,
}

impl MemoryLimit {
    /// Lets a process have so many bytes more than it has. `None` where the kernel has no such groups, or they are not ours to
    /// make.
    pub(crate) fn new(pid: u32, more: u64) -> Option<Self> {
        let ours = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_of = |line: &str| Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned());
        let first = ours.lines().find(|line| line.split(':').nth(1) == Some("memory")).and_then(path_of);
        let unified = ours.lines().find(|line| line.starts_with("0::")).and_then(path_of);
        // The older hierarchy has one tree for each resource.
        let first =
            first.map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"));
        let unified = unified.map(|path| (Path::new("/sys/fs/cgroup").join(path), "memory.max"));
        [first, unified].into_iter().flatten().find_map(|(parent, file)| {
            let limit = Self { group: parent.join(format!("tandem-{pid}")) };
            std::fs::create_dir(&limit.group).ok()?;
            // What it has stays charged to where it came from.
            std::fs::write(limit.group.join(file), more.to_string()).ok()?;
            std::fs::write(limit.group.join("cgroup.procs"), pid.to_string()).ok()?;
            Some(limit)
        })
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // The process may still be on its way out.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.group).is_ok() || !self.group.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes from a process the right to open anything more than `more` files and sockets; it has it again when dropped.
pub(crate) struct FewDescriptors {
    process: Pid,
    before: Rlimit,
}

impl FewDescriptors {
    pub(crate) fn new(pid: u32, more: u64) -> Self {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").count() as u64;
        let process = Pid::from_raw(pid as i32).expect("a process id");
        let few = Rlimit { current: Some(open + more), maximum: getrlimit(Resource::Nofile).maximum };
        let before = prlimit(Some(process), Resource::Nofile, few).expect("a process of ours");
        Self { process, before }
    }
}

impl Drop for FewDescriptors {
    fn drop(&mut self) {
        // It may be dead.
        let _ = prlimit(Some(self.process), Resource::Nofile, self.before);
    }
}

/// A small file system of its own, unmounted at the end.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None` where only root may mount.
    pub(crate) fn new(path: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

/// Mounts a small file system again with other options.
pub(crate) fn remount(path: &Path, options: &str) -> bool {
    let options = format!("remount,{options}");
    Command::new("mount").args(["-o", &options]).arg(path).status().is_ok_and(|status| status.success())
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The node may still be on its way out.
        for _ in 0..100 {
            if Command::new("umount").arg("-l").arg(&self.0).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
