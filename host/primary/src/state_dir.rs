//! The state directory: made if it is missing, fit to be used by who we are, and
//! held by one primary at a time.

mod fitness;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use skep_sys::plain::{self, Found};

use crate::running::{LOCK, MAX_LOCK, Running};

/// Proof that no other primary uses the state directory; the kernel lets go of
/// it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
    corrected: Vec<String>,
}

/// Why the state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another primary uses it.
    #[error("another primary uses it")]
    Held {
        /// That primary's process, if it has said so.
        pid: Option<u32>,
    },
    /// It cannot be used at all.
    #[error("{path}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said, or what is wrong and what to do.
        source: io::Error,
    },
}

impl StateLock {
    /// Makes the directory, closed to others, takes `primary.lock` in it, says there
    /// who holds it, and puts right who owns what is in it.
    pub(crate) fn take(state_dir: &Path, holder: &Running) -> Result<Self, LockError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(io_at(state_dir))?;
        let mut corrected = Vec::new();
        corrected.extend(fitness::of_directory(state_dir).map_err(io_at(state_dir))?);
        let path = state_dir.join(LOCK);
        let mut file = open(&path, &mut corrected).map_err(io_at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = Vec::new();
                // A holder that has not written its number yet has none.
                let _ = (&file).take(MAX_LOCK).read_to_end(&mut text);
                return Err(LockError::Held {
                    pid: Running::decode(&text).map(|holder| holder.pid),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io_at(&path)(source)),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(&holder.encode()))
            .map_err(io_at(&path))?;
        corrected.extend(fitness::of_entries(state_dir).map_err(io_at(state_dir))?);
        Ok(Self {
            _file: file,
            corrected,
        })
    }

    /// What was not as it should be and was put right, a sentence each.
    pub(crate) fn corrected(&self) -> &[String] {
        &self.corrected
    }
}

/// Opens the lock's file; what stands in its place is moved away.
fn open(path: &Path, corrected: &mut Vec<String>) -> io::Result<File> {
    match plain::lockable(path)? {
        Found::File(file) => return Ok(file),
        Found::Strange(what) => {
            let aside = move_aside(path)?;
            corrected.push(format!(
                "{} was {what} and is now {}",
                path.display(),
                aside.display()
            ));
        }
    }
    match plain::lockable(path)? {
        Found::File(file) => Ok(file),
        Found::Strange(what) => Err(io::Error::other(format!("it is {what} again"))),
    }
}

/// Gives something another name, so that a file can have its place, and returns
/// that. Nothing is lost.
///
/// # Errors
///
/// What the system said.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = free_name(path, "aside");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The first name of this kind that nothing has.
pub(crate) fn free_name(path: &Path, kind: &str) -> PathBuf {
    (1_u64..)
        .map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{kind}-{number}"));
            PathBuf::from(name)
        })
        .find(|name| fs::symlink_metadata(name).is_err())
        .expect("there are more numbers than files")
}

/// Tries until nobody has the lock. A process that another test of this program
/// starts has all its descriptors, locks included, until it executes.
#[cfg(test)]
pub(crate) fn once_free<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let by = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match attempt() {
            Err(error) if is_held(&error) && std::time::Instant::now() < by => {
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_primary_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("a/b");
        let holder = Running::new(&state_dir.join("c"), None);
        let held = StateLock::take(&state_dir, &holder).unwrap();
        assert_eq!(Running::of_state_dir(&state_dir), Some(holder.clone()));
        match StateLock::take(&state_dir, &holder) {
            Err(LockError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        let again = once_free(
            || StateLock::take(&state_dir, &holder),
            |error| matches!(error, LockError::Held { .. }),
        );
        assert!(again.unwrap().corrected().is_empty());
    }

    #[test]
    fn what_stands_in_the_place_of_the_lock_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        fs::create_dir(&path).unwrap();
        let holder = Running::new(&dir.path().join("c"), None);
        let lock = StateLock::take(dir.path(), &holder).unwrap();
        assert!(lock.corrected()[0].contains("was a directory"), "{lock:?}");
        assert!(path.is_file());
        assert!(dir.path().join("primary.lock.aside-1").is_dir());
    }
}
