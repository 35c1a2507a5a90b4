//! Whether a state directory can be used by who we are, and nobody else can
//! change it.
//!
//! Where that can be put right it is, and said; where it cannot, the error says
//! what to do.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use skep_sys::Identity;

/// Others may write.
const WRITABLE: u32 = 0o002;
const GROUP_OR_OTHERS: u32 = 0o022;

/// Whoever may write may delete only what is theirs, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// The directories that skep makes in it, and nobody else writes to.
const OURS: [&str; 4] = ["revisions", "components", "artifacts", "pools"];

/// Names in a directory that is used for skep and nothing else.
const KNOWN: [&str; 4] = ["control.sock", "primary.lock", "last-worker", "lost+found"];

/// Sees to the directory itself; says what was put right.
///
/// # Errors
///
/// It cannot be used: another user's where we are root, or writable for
/// everybody.
pub(super) fn of_directory(state_dir: &Path) -> io::Result<Option<String>> {
    let found = fs::metadata(state_dir)?;
    let me = Identity::own().uid;
    let shown = state_dir.display();
    if me == 0 && found.uid() != 0 {
        return Err(refused(format!(
            "it belongs to user {0}, who could change what root's processes run: \
             `chown root {shown}`, or start skep as user {0}",
            found.uid()
        )));
    }
    let mode = found.mode() & 0o7777;
    if mode & WRITABLE == 0 {
        return Ok(None);
    }
    if found.uid() != me {
        return Err(refused(format!(
            "everybody may write there (mode {mode:04o}): `chmod go-w {shown}`"
        )));
    }
    if mode & STICKY != 0 && !is_used_alone(state_dir)? {
        return Err(refused(format!(
            "everybody may write there (mode {mode:04o}), and others do: \
             set `state_dir` to a directory of skep's own"
        )));
    }
    let tight = mode & !(GROUP_OR_OTHERS | STICKY);
    fs::set_permissions(state_dir, Permissions::from_mode(tight))?;
    Ok(Some(format!(
        "everybody could write to {shown} (mode {mode:04o}): its mode is {tight:04o} now"
    )))
}

/// Sees to the directories and files that skep makes in it; says what was put
/// right. Only for the holder of its lock.
///
/// # Errors
///
/// They belong to somebody else, and we may not change that.
pub(super) fn of_entries(state_dir: &Path) -> io::Result<Vec<String>> {
    let mut corrected = Vec::new();
    for name in OURS {
        let dir = state_dir.join(name);
        // A link to a directory elsewhere is an operator's doing, and so is who
        // owns that.
        let Ok(found) = fs::symlink_metadata(&dir) else {
            continue;
        };
        if !found.is_dir() {
            continue;
        }
        let mut others = claim(&dir, found.uid())?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let owner = match entry.metadata() {
                Ok(found) => found.uid(),
                // Gone since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // In a directory of ours what can be made again is, and what can be
            // read is enough of a component.
            if name == "revisions" || Identity::own().uid == 0 {
                others += claim(&entry.path(), owner)?;
            }
        }
        if others > 0 {
            corrected.push(format!(
                "{others} of {} belonged to another user: they are root's now",
                dir.display()
            ));
        }
    }
    Ok(corrected)
}

/// Makes one thing ours; returns how many that were not before.
fn claim(path: &Path, owner: u32) -> io::Result<usize> {
    let me = Identity::own();
    if owner == me.uid {
        return Ok(0);
    }
    if me.uid != 0 {
        return Err(refused(format!(
            "{} belongs to user {owner}, and skep runs as user {}: `chown -R {} {}` as root",
            path.display(),
            me.uid,
            me,
            path.display(),
        )));
    }
    lchown(path, Some(0), Some(0))?;
    Ok(1)
}

/// Whether everything in a directory has a name that skep gives.
fn is_used_alone(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !OURS.contains(&&*name) && !KNOWN.contains(&&*name) && !name.starts_with(LOCK_ASIDE) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What was moved away.
const LOCK_ASIDE: &str = "primary.lock.";

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_everybody_writes_to_is_closed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for (before, after) in [
            (0o700, 0o700),
            (0o775, 0o775),
            (0o777, 0o755),
            (0o1777, 0o755),
        ] {
            mode(path, before);
            let said = of_directory(path).unwrap();
            assert_eq!(said.is_some(), before & 0o002 != 0, "{said:?}");
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, after);
        }
        fs::write(path.join("somebody's"), "").unwrap();
        mode(path, 0o1777);
        let error = of_directory(path).unwrap_err().to_string();
        assert!(error.contains("a directory of skep's own"), "{error}");
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn root_takes_what_is_in_its_directory_and_no_directory_of_others() {
        if Identity::own().uid != 0 {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let artifacts = dir.path().join("artifacts");
        fs::create_dir(&artifacts).unwrap();
        fs::write(artifacts.join("x.cwasm"), "").unwrap();
        for path in [&artifacts, &artifacts.join("x.cwasm")] {
            chown(path, Some(4711), Some(4711)).unwrap();
        }
        let said = of_entries(dir.path()).unwrap();
        assert!(said[0].starts_with("2 of "), "{said:?}");
        assert_eq!(fs::metadata(artifacts.join("x.cwasm")).unwrap().uid(), 0);
        assert!(of_entries(dir.path()).unwrap().is_empty());
        chown(dir.path(), Some(4711), Some(4711)).unwrap();
        let error = of_directory(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`chown root"), "{error}");
    }
}
