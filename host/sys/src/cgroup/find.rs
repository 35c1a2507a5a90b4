//! Finding this process's own groups in the tables of `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::Places;

/// Where this process may make groups with a limit of memory. `root` is `/`
/// but in tests.
pub(super) fn places(root: &Path) -> Result<Places, String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mounts = read("proc/self/mountinfo");
    let groups = read("proc/self/cgroup");
    let place = |controller| {
        let path = folder(&mounts, &groups, controller)?;
        Some(root.join(path.strip_prefix("/").unwrap_or(&path)))
    };

    let unified = place(Controller::Unified)
        .map(super::nest::above)
        .filter(|own| has_controller(own, "memory"));
    if let Some(own) = unified {
        return if writable(&own) && writable(&own.join("cgroup.subtree_control")) {
            let pids = has_controller(&own, "pids");
            Ok(Places::V2 { own, pids })
        } else {
            Err(not_ours("cgroup v2"))
        };
    }
    if let Some(memory) = place(Controller::Named("memory")) {
        return if writable(&memory) {
            let pids = place(Controller::Named("pids")).filter(|pids| writable(pids));
            Ok(Places::V1 { memory, pids })
        } else {
            Err(not_ours("cgroup v1"))
        };
    }
    Err(match place(Controller::Unified) {
        Some(_) => "cgroup v2 has no memory controller here; whoever made skep's cgroup must hand \
                    it down (systemd: Delegate=yes)"
            .to_owned(),
        None => "no cgroups are mounted".to_owned(),
    })
}

/// The number after a name, in lines of names and numbers.
pub(super) fn field(lines: &str, name: &str) -> Option<u64> {
    lines.lines().find_map(|line| {
        let (found, number) = line.split_once(' ')?;
        (found == name).then(|| number.trim().parse().ok())?
    })
}

#[derive(Clone, Copy)]
enum Controller {
    /// All of version 2.
    Unified,
    /// One of version 1.
    Named(&'static str),
}

fn not_ours(version: &str) -> String {
    format!(
        "{version} is not delegated to this user; run skep as root, or as a service with \
         Delegate=yes (systemd)"
    )
}

/// The folder of this process's group: where its hierarchy is mounted, and
/// where in there the group is (proc(5), cgroups(7)).
fn folder(mounts: &str, groups: &str, controller: Controller) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let wanted = match controller {
            Controller::Unified => controllers.is_empty(),
            Controller::Named(name) => controllers.split(',').any(|one| one == name),
        };
        wanted.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1)?;
        let wanted = match controller {
            Controller::Unified => kind == "cgroup2",
            Controller::Named(name) => {
                kind == "cgroup" && options.split(',').any(|one| one == name)
            }
        };
        if !wanted {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        let (top, mount) = (before.next()?, before.next()?);
        // A container may have mounted its own part only. A group outside of
        // what is mounted cannot be reached.
        let inside = Path::new(group).strip_prefix(top).ok()?;
        if inside.components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        Some(Path::new(mount).join(inside))
    })
}

fn has_controller(own: &Path, name: &str) -> bool {
    let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|one| one == name)
}

fn writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        36 31 0:34 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        37 31 0:35 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_are_found_in_the_tables() {
        let groups = "8:pids:/docker/abc/x\n4:cpu,memory:/job\n0::/\n";
        let at = |mounts, controller| folder(mounts, groups, controller);
        assert_eq!(
            at(V1, Controller::Named("memory")),
            Some("/sys/fs/cgroup/memory/job".into())
        );
        assert_eq!(
            at(V1, Controller::Named("pids")),
            Some("/sys/fs/cgroup/pids/x".into())
        );
        assert_eq!(at(V1, Controller::Named("io")), None);
        assert_eq!(at(V1, Controller::Unified), None);
        assert_eq!(at(V2, Controller::Unified), Some("/sys/fs/cgroup/".into()));
        let outside = |group| folder(V2, group, Controller::Unified);
        assert_eq!(outside("0::/../other\n"), None);
        assert_eq!(
            folder("nonsense\n", "nonsense\n", Controller::Unified),
            None
        );
    }

    #[test]
    fn counts_are_read() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(field(events, "oom_kill"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(
            places(root.path()).unwrap_err(),
            "no cgroups are mounted".to_owned()
        );
        write("proc/self/mountinfo", V2);
        write("proc/self/cgroup", "0::/service\n");
        write("sys/fs/cgroup/service/cgroup.controllers", "cpu io");
        assert!(
            places(root.path())
                .unwrap_err()
                .contains("no memory controller")
        );
        write(
            "sys/fs/cgroup/service/cgroup.controllers",
            "cpu memory pids\n",
        );
        assert!(places(root.path()).unwrap_err().contains("not delegated"));
        write("sys/fs/cgroup/service/cgroup.subtree_control", "");
        let own = root.path().join("sys/fs/cgroup/service");
        assert_eq!(places(root.path()).unwrap(), Places::V2 { own, pids: true });
        write("proc/self/mountinfo", V1);
        write("proc/self/cgroup", "4:memory:/\n0::/\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1");
        let memory = root.path().join("sys/fs/cgroup/memory/");
        assert_eq!(
            places(root.path()).unwrap(),
            Places::V1 { memory, pids: None }
        );
    }
}
