//! What happens to groups of version 2, against a tree that keeps the kernel's
//! rules: a group with processes hands nothing down, one that hands down takes
//! no processes, and one that is in use is not removed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::*;

#[derive(Debug, Default)]
struct Group {
    pids: BTreeSet<u32>,
    enabled: BTreeSet<String>,
}

/// Groups by path. `stuck` is who cannot be moved, `forks` who is born whenever
/// somebody is moved.
#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<PathBuf, Group>,
    stuck: BTreeSet<u32>,
    forks: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Fake(Rc<RefCell<State>>);

const OWN: &str = "/sys/fs/cgroup/service";

impl Fake {
    fn new(pids: &[u32]) -> Self {
        let fake = Self::default();
        fake.group(OWN, pids);
        fake
    }

    fn group(&self, path: &str, pids: &[u32]) {
        let group = Group {
            pids: pids.iter().copied().collect(),
            ..Group::default()
        };
        self.0.borrow_mut().groups.insert(path.into(), group);
    }

    fn pids(&self, path: &str) -> Option<Vec<u32>> {
        let state = self.0.borrow();
        let group = state.groups.get(Path::new(path))?;
        Some(group.pids.iter().copied().collect())
    }

    fn enabled(&self) -> Vec<String> {
        let state = self.0.borrow();
        state.groups[Path::new(OWN)]
            .enabled
            .iter()
            .cloned()
            .collect()
    }

    fn enter(&self) -> Result<Option<Nest<Self>>, String> {
        Nest::enter(self.clone(), Path::new(OWN), "x", 7, true)
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Tree for Fake {
    fn read(&self, path: &Path) -> io::Result<String> {
        let state = self.0.borrow();
        let group = state.groups.get(path.parent().unwrap());
        let group = group.ok_or_else(|| errno(libc::ENOENT))?;
        Ok(if path.ends_with("cgroup.procs") {
            group.pids.iter().map(|pid| format!("{pid}\n")).collect()
        } else {
            let words: Vec<&str> = group.enabled.iter().map(String::as_str).collect();
            words.join(" ")
        })
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let folder = path.parent().unwrap();
        if !state.groups.contains_key(folder) {
            return Err(errno(libc::ENOENT));
        }
        if path.ends_with("cgroup.procs") {
            let pid: u32 = text.parse().unwrap();
            if state.stuck.contains(&pid) {
                return Err(errno(libc::EACCES));
            }
            if !state.groups[folder].enabled.is_empty() {
                return Err(errno(libc::EBUSY));
            }
            let lives = state
                .groups
                .values_mut()
                .any(|group| group.pids.remove(&pid));
            if !lives {
                return Err(errno(libc::ESRCH));
            }
            state.groups.get_mut(folder).unwrap().pids.insert(pid);
            if pid != 7
                && let Some(born) = state.forks.pop()
            {
                state
                    .groups
                    .get_mut(Path::new(OWN))
                    .unwrap()
                    .pids
                    .insert(born);
            }
            return Ok(());
        }
        let group = state.groups.get_mut(folder).unwrap();
        for word in text.split_whitespace() {
            let (sign, name) = word.split_at(1);
            if sign == "+" {
                if !group.pids.is_empty() {
                    return Err(errno(libc::EBUSY));
                }
                group.enabled.insert(name.to_owned());
            } else {
                group.enabled.remove(name);
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        if self.0.borrow().groups.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        self.group(path.to_str().unwrap(), &[]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        match state.groups.get(path) {
            None => Err(errno(libc::ENOENT)),
            Some(group) if !group.pids.is_empty() => Err(errno(libc::EBUSY)),
            Some(_) => {
                state.groups.remove(path);
                Ok(())
            }
        }
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        let beneath = state.groups.keys().filter(|one| one.parent() == Some(path));
        Ok(beneath
            .map(|one| one.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }
}

const PRIMARY_LEAF: &str = "/sys/fs/cgroup/service/skep.x.primary";
const OTHERS_LEAF: &str = "/sys/fs/cgroup/service/skep.x.others";

#[test]
fn alone_it_needs_one_leaf_and_leaves_nothing() {
    let tree = Fake::new(&[7]);
    let nest = tree.enter().unwrap().unwrap();
    assert_eq!(tree.pids(PRIMARY_LEAF), Some(vec![7]));
    assert_eq!(tree.pids(OTHERS_LEAF), None);
    assert_eq!(tree.enabled(), ["memory", "pids"]);
    drop(nest);
    assert_eq!(tree.pids(OWN), Some(vec![7]));
    assert_eq!(tree.pids(PRIMARY_LEAF), None);
    assert!(tree.enabled().is_empty());
}

#[test]
fn others_in_the_group_are_moved_aside_and_back() {
    let tree = Fake::new(&[1, 7, 40]);
    // And what they start while that goes on.
    tree.0.borrow_mut().forks = vec![41, 42];
    let nest = tree.enter().unwrap().unwrap();
    assert_eq!(tree.pids(OWN), Some(vec![]));
    assert_eq!(tree.pids(PRIMARY_LEAF), Some(vec![7]));
    assert_eq!(tree.pids(OTHERS_LEAF), Some(vec![1, 40, 41, 42]));
    assert_eq!(tree.enabled(), ["memory", "pids"]);
    drop(nest);
    assert_eq!(tree.pids(OWN), Some(vec![1, 7, 40, 41, 42]));
    assert_eq!(tree.0.borrow().groups.len(), 1);
}

#[test]
fn where_one_cannot_be_moved_all_is_as_it_was_and_that_is_said() {
    let tree = Fake::new(&[1, 7, 40]);
    tree.0.borrow_mut().stuck.insert(1);
    let reason = tree.enter().unwrap_err();
    assert!(reason.contains("other processes"), "{reason}");
    assert_eq!(tree.pids(OWN), Some(vec![1, 7, 40]));
    assert_eq!(tree.0.borrow().groups.len(), 1);
    // Nor one of which only its being there is known.
    let tree = Fake::new(&[0, 7]);
    assert!(tree.enter().is_err());
    assert_eq!(tree.pids(OWN), Some(vec![0, 7]));
}

#[test]
fn a_group_that_hands_down_already_is_left_alone() {
    let tree = Fake::new(&[]);
    tree.write(
        &Path::new(OWN).join("cgroup.subtree_control"),
        "+memory +pids",
    )
    .unwrap();
    assert!(tree.enter().unwrap().is_none());
    assert_eq!(tree.0.borrow().groups.len(), 1);
}

#[test]
fn limits_of_others_are_not_taken_away_at_the_end() {
    let tree = Fake::new(&[7]);
    let nest = tree.enter().unwrap().unwrap();
    tree.group("/sys/fs/cgroup/service/skep.y.9.worker-1", &[90]);
    drop(nest);
    assert_eq!(tree.enabled(), ["memory", "pids"]);
    assert_eq!(tree.pids(PRIMARY_LEAF), Some(vec![7]));
}

#[test]
fn who_was_left_in_a_leaf_makes_groups_beside_it() {
    let at = |path: &str| above(path.into());
    assert_eq!(at(PRIMARY_LEAF), Path::new(OWN));
    assert_eq!(at(OTHERS_LEAF), Path::new(OWN));
    for other in [
        OWN,
        "/skep.x.primary.y",
        "/a/skep.primary",
        "/a/skep.x.12.others",
    ] {
        assert_eq!(at(other), Path::new(other));
    }
}
