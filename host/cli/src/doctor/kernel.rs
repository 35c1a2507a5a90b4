//! What the kernel offers, read from `/proc` and `/sys`.

use std::fs;
use std::path::Path;

use super::Finding;

/// The oldest kernel that has every call we cannot do without: `close_range`
/// with `CLOSE_RANGE_CLOEXEC`.
const OLDEST: (u32, u32) = (5, 11);

/// The first with `PAGEMAP_SCAN`.
const WITH_PAGEMAP_SCAN: (u32, u32) = (6, 7);

pub(super) fn findings() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok();
    vec![
        kernel(read("/proc/sys/kernel/osrelease").as_deref()),
        landlock(
            read("/sys/kernel/security/lsm").as_deref(),
            read("/proc/kallsyms").as_deref(),
        ),
        seccomp(read("/proc/sys/kernel/seccomp/actions_avail").as_deref()),
        cgroup(&Cgroups::read(Path::new("/"))),
        open_files(read("/proc/self/limits").as_deref()),
        somaxconn(read("/proc/sys/net/core/somaxconn").as_deref()),
        overcommit(read("/proc/sys/vm/overcommit_memory").as_deref()),
        user_namespaces(
            read("/proc/sys/user/max_user_namespaces").as_deref(),
            read("/proc/sys/kernel/unprivileged_userns_clone").as_deref(),
            read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref(),
        ),
        watches(read("/proc/sys/fs/inotify/max_user_watches").as_deref()),
    ]
}

const UNREADABLE: &str = "unknown: /proc does not say";

fn number(text: Option<&str>) -> Option<u64> {
    text?.trim().parse().ok()
}

fn kernel(release: Option<&str>) -> Finding {
    const WHAT: &str = "kernel";
    let Some(release) = release.map(str::trim) else {
        return Finding::lacking(WHAT, UNREADABLE, "skep needs Linux 5.11 or newer");
    };
    let mut parts = release
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST {
        Finding::missing(WHAT, release, "skep needs Linux 5.11 or newer")
    } else if version < WITH_PAGEMAP_SCAN {
        Finding::lacking(
            WHAT,
            release,
            "no PAGEMAP_SCAN before Linux 6.7: resetting large instances takes longer",
        )
    } else {
        Finding::ok(WHAT, release)
    }
}

/// securityfs is often not mounted in containers; the kernel's symbols then
/// say whether it could be there.
fn landlock(lsm: Option<&str>, symbols: Option<&str>) -> Finding {
    const WHAT: &str = "landlock";
    const CONSEQUENCE: &str = "workers and builders are not kept from the file system by the kernel, only by wasm and \
         seccomp";
    match lsm {
        Some(lsm) if lsm.trim().split(',').any(|module| module == "landlock") => {
            Finding::ok(WHAT, "active")
        }
        Some(_) => Finding::lacking(
            WHAT,
            "not active (add `lsm=landlock,…` to the kernel's command line)",
            CONSEQUENCE,
        ),
        None if symbols.is_some_and(|symbols| symbols.contains("landlock_create_ruleset")) => {
            Finding::ok(WHAT, "in the kernel; whether it is active is hidden here")
        }
        None => Finding::lacking(WHAT, "not to be seen here", CONSEQUENCE),
    }
}

fn seccomp(actions: Option<&str>) -> Finding {
    const WHAT: &str = "seccomp";
    if actions.is_some_and(|actions| actions.contains("kill_process")) {
        Finding::ok(WHAT, "filters available")
    } else {
        Finding::lacking(
            WHAT,
            "no filters",
            "workers and builders may make any system call that their user may",
        )
    }
}

/// Which memory controller this process could use.
#[derive(Debug, PartialEq, Eq)]
enum Cgroups {
    /// Version 2 with the controller, and whether we may make groups.
    V2 { writable: bool },
    /// Version 2 without it.
    V2WithoutMemory,
    /// Version 1 with the controller.
    V1 { writable: bool },
    /// Nothing is mounted.
    Absent,
}

impl Cgroups {
    fn read(root: &Path) -> Self {
        let mount = root.join("sys/fs/cgroup");
        if let Ok(controllers) = fs::read_to_string(mount.join("cgroup.controllers")) {
            if !controllers.split_whitespace().any(|name| name == "memory") {
                return Self::V2WithoutMemory;
            }
            let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
            let own = own
                .lines()
                .find_map(|line| line.strip_prefix("0::/"))
                .unwrap_or_default();
            return Self::V2 {
                writable: may_write(&mount.join(own).join("cgroup.subtree_control")),
            };
        }
        let memory = mount.join("memory");
        if memory.join("memory.limit_in_bytes").is_file() {
            return Self::V1 {
                writable: may_write(&memory.join("memory.limit_in_bytes")),
            };
        }
        Self::Absent
    }
}

/// Opens without writing: the system's own answer, whoever we are.
fn may_write(path: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok()
}

fn cgroup(cgroups: &Cgroups) -> Finding {
    const WHAT: &str = "cgroup memory";
    const CONSEQUENCE: &str =
        "a worker's memory is measured and the worker replaced, instead of limited by the kernel";
    match cgroups {
        Cgroups::V2 { writable: true } => Finding::ok(WHAT, "cgroup v2"),
        Cgroups::V1 { writable: true } => Finding::ok(WHAT, "cgroup v1"),
        Cgroups::V2 { writable: false } => {
            Finding::lacking(WHAT, "cgroup v2, not delegated to this user", CONSEQUENCE)
        }
        Cgroups::V1 { writable: false } => {
            Finding::lacking(WHAT, "cgroup v1, not delegated to this user", CONSEQUENCE)
        }
        Cgroups::V2WithoutMemory => {
            Finding::lacking(WHAT, "cgroup v2 without memory controller", CONSEQUENCE)
        }
        Cgroups::Absent => Finding::lacking(WHAT, "no cgroups mounted", CONSEQUENCE),
    }
}

/// Enough for the connections of one busy worker.
const ENOUGH_FILES: u64 = 10_000;

/// skep raises the soft limit to the hard one by itself, so the hard one
/// counts.
fn open_files(limits: Option<&str>) -> Finding {
    const WHAT: &str = "open files";
    let hard = limits
        .and_then(|limits| {
            limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
        })
        .and_then(|line| line.split_whitespace().nth(1));
    match hard.map(|hard| (hard, hard.parse::<u64>())) {
        None => Finding::lacking(WHAT, UNREADABLE, "connections may be few"),
        Some((hard, Ok(limit))) if limit < ENOUGH_FILES => Finding::lacking(
            WHAT,
            format!("at most {hard}"),
            "fewer connections per worker than that (raise it with `ulimit -Hn` or LimitNOFILE=)",
        ),
        Some((hard, _)) => Finding::ok(WHAT, format!("at most {hard}")),
    }
}

/// The backlog that skep asks for.
const BACKLOG: u64 = 4096;

fn somaxconn(text: Option<&str>) -> Finding {
    const WHAT: &str = "somaxconn";
    match number(text) {
        None => Finding::lacking(WHAT, UNREADABLE, "bursts of new connections may be refused"),
        Some(most) if most < BACKLOG => Finding::lacking(
            WHAT,
            most.to_string(),
            format!("of a burst, connections beyond {most} wait for a repeated SYN"),
        ),
        Some(most) => Finding::ok(WHAT, most.to_string()),
    }
}

fn overcommit(text: Option<&str>) -> Finding {
    const WHAT: &str = "overcommit";
    match text.map(str::trim) {
        Some("0") => Finding::ok(WHAT, "heuristic"),
        Some("1") => Finding::ok(WHAT, "always"),
        Some("2") => Finding::lacking(
            WHAT,
            "strict (vm.overcommit_memory=2)",
            "the kernel counts what is reserved and may refuse memory that is free",
        ),
        _ => Finding::lacking(WHAT, UNREADABLE, "reserving address space may fail"),
    }
}

fn user_namespaces(most: Option<&str>, debian: Option<&str>, apparmor: Option<&str>) -> Finding {
    const WHAT: &str = "user namespaces";
    const CONSEQUENCE: &str = "pools get users of their own only where skep is started as root";
    let found = if number(most).unwrap_or(0) == 0 {
        "none"
    } else if number(debian) == Some(0) {
        "for root only (kernel.unprivileged_userns_clone=0)"
    } else if number(apparmor) == Some(1) {
        "restricted by AppArmor"
    } else {
        return Finding::ok(WHAT, "available");
    };
    Finding::lacking(WHAT, found, CONSEQUENCE)
}

/// Directories of a project of good size.
const ENOUGH_WATCHES: u64 = 1024;

fn watches(text: Option<&str>) -> Finding {
    const WHAT: &str = "file watches";
    match number(text) {
        Some(most) if most >= ENOUGH_WATCHES => Finding::ok(WHAT, most.to_string()),
        found => Finding::lacking(
            WHAT,
            found.map_or_else(|| "no inotify".to_owned(), |most| most.to_string()),
            "`skep dev` may not notice every change (fs.inotify.max_user_watches)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Lacking, Missing, Ok};
    use super::*;

    #[test]
    fn kernels() {
        for (release, verdict) in [
            ("6.18.5\n", Ok),
            ("6.7.0-rc1", Ok),
            ("6.6.87.2-microsoft-standard-WSL2", Lacking),
            ("5.11-generic", Lacking),
            ("5.10.0-30-amd64", Missing),
            ("4.19", Missing),
        ] {
            assert_eq!(kernel(Some(release)).verdict, verdict, "{release}");
        }
        assert_eq!(kernel(None).verdict, Lacking);
    }

    #[test]
    fn protections() {
        assert_eq!(
            landlock(Some("lockdown,capability,landlock\n"), None).verdict,
            Ok
        );
        assert_eq!(
            landlock(Some("lockdown,capability\n"), None).verdict,
            Lacking
        );
        assert_eq!(
            landlock(None, Some("0 T __do_sys_landlock_create_ruleset")).verdict,
            Ok
        );
        assert_eq!(landlock(None, None).verdict, Lacking);
        assert_eq!(seccomp(Some("kill_process kill_thread trap")).verdict, Ok);
        assert_eq!(seccomp(None).verdict, Lacking);
        assert_eq!(user_namespaces(Some("127\n"), None, None).verdict, Ok);
        assert_eq!(
            user_namespaces(Some("127\n"), Some("0\n"), None).verdict,
            Lacking
        );
        assert_eq!(
            user_namespaces(Some("127\n"), None, Some("1\n")).verdict,
            Lacking
        );
        assert_eq!(user_namespaces(Some("0\n"), None, None).verdict, Lacking);
    }

    #[test]
    fn cgroups_of_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Cgroups::read(dir.path()), Cgroups::Absent);
        let mount = dir.path().join("sys/fs/cgroup");
        let write = |path: &str, text: &str| {
            let path = mount.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory/memory.limit_in_bytes", "1");
        assert_eq!(Cgroups::read(dir.path()), Cgroups::V1 { writable: true });
        write("cgroup.controllers", "cpu io");
        assert_eq!(Cgroups::read(dir.path()), Cgroups::V2WithoutMemory);
        write("cgroup.controllers", "cpu io memory\n");
        assert_eq!(Cgroups::read(dir.path()), Cgroups::V2 { writable: false });
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        fs::write(dir.path().join("proc/self/cgroup"), "0::/user.slice\n").unwrap();
        write("user.slice/cgroup.subtree_control", "");
        assert_eq!(Cgroups::read(dir.path()), Cgroups::V2 { writable: true });
        assert_eq!(cgroup(&Cgroups::Absent).verdict, Lacking);
    }

    #[test]
    fn numbers() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             1                    2                    processes \n\
                      Max open files            1024                 4096                 files     \n";
        let finding = open_files(Some(limits));
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Lacking, "at most 4096")
        );
        assert_eq!(
            open_files(Some(&limits.replace("4096", "unlimited"))).verdict,
            Ok
        );
        assert_eq!(
            open_files(Some(&limits.replace("4096", "1048576"))).verdict,
            Ok
        );
        assert_eq!(somaxconn(Some("4096\n")).verdict, Ok);
        assert_eq!(somaxconn(Some("128\n")).verdict, Lacking);
        assert_eq!(overcommit(Some("0\n")).verdict, Ok);
        assert_eq!(overcommit(Some("2\n")).verdict, Lacking);
        assert_eq!(watches(Some("524288")).verdict, Ok);
        assert_eq!(watches(None).verdict, Lacking);
    }
}
