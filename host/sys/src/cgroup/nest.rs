//! Version 2's rule that only leaves have processes, and what follows from it.
//!
//! A group can hand limits of memory down to groups beneath it only while it has
//! no processes itself. So this process moves into a leaf beneath, and whoever
//! else is in the group (the shell of a container, another service of the same
//! unit) into a second one. They stay within the group whose limits they had, and
//! the leaves have none of their own. When this process is done, all move back.
//!
//! ```text
//! own                            own                      limits as they were
//! ├─ (skep, shell, ...)   ──▶    ├─ skep.LABEL.primary    skep
//!                                ├─ skep.LABEL.others     shell, ...
//!                                └─ skep.LABEL.PID.NAME   a worker, with limits
//! ```

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PRIMARY: &str = "primary";
const OTHERS: &str = "others";

/// Rounds of moving others away: some may fork meanwhile.
const ROUNDS: usize = 8;

/// What is done to groups: to the kernel's, or to a test's.
pub(super) trait Tree: Debug {
    fn read(&self, path: &Path) -> io::Result<String>;
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
    fn create(&self, path: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of what is beneath.
    fn names(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// The kernel's.
#[derive(Debug)]
pub(super) struct Files;

impl Tree for Files {
    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        fs::write(path, text)
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path)?.flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.collect())
    }
}

/// A group whose processes were moved into leaves. Dropping it moves them back,
/// unless there are other groups of skep beneath.
#[derive(Debug)]
pub(super) struct Nest<T: Tree> {
    tree: T,
    own: PathBuf,
    leaves: [PathBuf; 2],
    handed_down: &'static [&'static str],
}

impl<T: Tree> Nest<T> {
    /// Makes it possible to make groups with limits beneath `own`, in which the
    /// process `pid` is. `None` if that is so already.
    ///
    /// # Errors
    ///
    /// Why not, in words; everything is as it was.
    pub(super) fn enter(
        tree: T,
        own: &Path,
        label: &str,
        pid: u32,
        pids: bool,
    ) -> Result<Option<Self>, String> {
        let handed_down: &[&str] = if pids {
            &["memory", "pids"]
        } else {
            &["memory"]
        };
        let enabled = tree.read(&own.join("cgroup.subtree_control"));
        let enabled = enabled.unwrap_or_default();
        let has = |name: &&str| enabled.split_whitespace().any(|word| word == *name);
        if handed_down.iter().all(has) {
            return Ok(None);
        }
        let leaf = |name| own.join(format!("skep.{label}.{name}"));
        let nest = Self {
            tree,
            own: own.to_owned(),
            leaves: [leaf(PRIMARY), leaf(OTHERS)],
            handed_down,
        };
        // From here on dropping it takes back what was done.
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
        let [primary, others] = &nest.leaves;
        nest.make(primary)
            .map_err(|error| failed("make a cgroup", error))?;
        nest.put(&pid.to_string(), primary)
            .map_err(|error| failed("move into a cgroup", error))?;
        let mut handed = nest.hand_down('+');
        if handed.as_ref().is_err_and(is_busy) {
            nest.make(others)
                .map_err(|error| failed("make a cgroup", error))?;
            for _ in 0..ROUNDS {
                nest.move_all(&nest.own, others);
                handed = nest.hand_down('+');
                if !handed.as_ref().is_err_and(is_busy) {
                    break;
                }
            }
        }
        match handed {
            Ok(()) => Ok(Some(nest)),
            Err(error) if is_busy(&error) => Err("other processes are in skep's own cgroup and \
                 cannot be moved; run it as a service of its own (systemd: Delegate=yes)"
                .to_owned()),
            Err(error) => Err(failed("hand down cgroup controllers", error)),
        }
    }

    fn make(&self, leaf: &Path) -> io::Result<()> {
        match self.tree.create(leaf) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn put(&self, pid: &str, group: &Path) -> io::Result<()> {
        self.tree.write(&group.join("cgroup.procs"), pid)
    }

    /// Moves whoever can be moved. A process that has ended is none, and one of
    /// another namespace, which is shown as 0, cannot.
    fn move_all(&self, from: &Path, to: &Path) {
        let processes = self.tree.read(&from.join("cgroup.procs"));
        for pid in processes.unwrap_or_default().split_whitespace() {
            if pid != "0" {
                let _ = self.put(pid, to);
            }
        }
    }

    /// Has controllers handed down, or not any more.
    fn hand_down(&self, sign: char) -> io::Result<()> {
        let words = self.handed_down.iter().map(|name| format!("{sign}{name}"));
        let words = words.collect::<Vec<_>>().join(" ");
        self.tree
            .write(&self.own.join("cgroup.subtree_control"), &words)
    }

    /// Whether nobody but the leaves needs what is handed down.
    fn is_alone(&self) -> bool {
        let is_leaf = |name: &str| self.leaves.iter().any(|leaf| leaf.ends_with(name));
        self.tree
            .names(&self.own)
            .is_ok_and(|names| names.iter().all(|name| is_leaf(name)))
    }
}

impl<T: Tree> Drop for Nest<T> {
    fn drop(&mut self) {
        if !self.is_alone() {
            return;
        }
        // While controllers are handed down, nobody may come back.
        let _ = self.hand_down('-');
        for leaf in &self.leaves {
            for _ in 0..ROUNDS {
                self.move_all(leaf, &self.own);
                match self.tree.remove(leaf) {
                    Err(error) if is_busy(&error) => {}
                    _ => break,
                }
            }
        }
    }
}

/// The group in which a leaf of skep's was made, for who is in one: an earlier
/// skep was killed and could not move it back.
pub(super) fn above(own: PathBuf) -> PathBuf {
    let name = own.file_name().and_then(|name| name.to_str());
    let is_leaf = name.is_some_and(|name| {
        let mut parts = name.split('.');
        parts.next() == Some("skep")
            && parts.next().is_some()
            && matches!(parts.next(), Some(PRIMARY | OTHERS))
            && parts.next().is_none()
    });
    match own.parent() {
        Some(parent) if is_leaf => parent.to_owned(),
        _ => own,
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

#[cfg(test)]
#[path = "nest_tests.rs"]
mod tests;
