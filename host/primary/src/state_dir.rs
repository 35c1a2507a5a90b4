//! The state directory: made if it is missing, and held by one primary at a
//! time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::running::{LOCK, MAX_LOCK, Running};

/// Proof that no other primary uses the state directory; the kernel lets go of
/// it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
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
        /// What the system said.
        source: io::Error,
    },
}

impl StateLock {
    /// Makes the directory, closed to others, takes `primary.lock` in it, and says there
    /// who holds it.
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
        let path = state_dir.join(LOCK);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_at(&path))?;
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
        Ok(Self { _file: file })
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
        StateLock::take(&state_dir, &holder).unwrap();
    }
}
