//! The control socket's file: bound so that nobody else can connect, and bound anew
//! when somebody has removed it.
//!
//! A socket without its file still listens, and nobody can reach it. Whoever tidies a
//! state directory, or `/run`, takes the operator's way to the primary away, so it is
//! looked at once a second.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::ControlError;
use crate::socket_file::SocketFile;

/// How often it is looked whether the file is still there.
const LOOK: Duration = Duration::from_secs(1);

/// The file of the socket. Clones are of the same; the file goes with [`Self::end`].
#[derive(Clone, Debug)]
pub(super) struct Binding {
    path: PathBuf,
    file: Arc<Mutex<Place>>,
}

/// What is at the path.
#[derive(Debug)]
enum Place {
    /// Our socket, when we looked last.
    Ours(SocketFile),
    /// Nothing of ours.
    Lost,
    /// Nothing of ours, and nothing shall be.
    Ended,
}

impl Binding {
    /// Binds the socket, for its owner only. A socket file that nobody listens at is
    /// replaced.
    pub(super) fn new(path: &Path) -> Result<(Self, UnixListener), ControlError> {
        let (listener, file) = bind(path)?;
        let binding = Self {
            path: path.to_owned(),
            file: Arc::new(Mutex::new(Place::Ours(file))),
        };
        Ok((binding, listener))
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // Whole at every step.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the file, if it is still ours.
    pub(super) fn end(&self) {
        *self.place() = Place::Ended;
    }

    /// Another socket at the path, if ours is not there any more and nothing else is
    /// that must stay. Blocks.
    fn look(&self) -> Option<UnixListener> {
        let mut place = self.place();
        match &*place {
            Place::Ours(file) if file.is_there() => return None,
            Place::Ended => return None,
            // Dropped before another file of ours is there, whose number may be the same.
            Place::Ours(_) | Place::Lost => *place = Place::Lost,
        }
        // What does not work now may work at the next look.
        let (listener, file) = bind(&self.path).ok()?;
        *place = Place::Ours(file);
        Some(listener)
    }

    /// Looks after the file until `closing`, and hands over each socket that takes the
    /// place of the one before.
    pub(super) async fn keep(
        self,
        others: mpsc::Sender<tokio::net::UnixListener>,
        rebound: impl Fn(),
        mut closing: watch::Receiver<bool>,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = async {
                looks.tick().await;
                let binding = self.clone();
                // A disk that does not answer holds up nothing but this.
                spawn_blocking(move || binding.look()).await
            };
            let other = select! {
                other = look => other,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let Ok(Some(other)) = other else { continue };
            // Neither fails with a socket that was just made.
            if let Ok(other) = tokio::net::UnixListener::from_std(other)
                && others.send(other).await.is_ok()
            {
                rebound();
            }
        }
    }
}

/// Binds at a path where nothing is but a socket file that nobody listens at.
fn bind(path: &Path) -> Result<(UnixListener, SocketFile), ControlError> {
    check_vacant(path)?;
    bind_closed_to_others(path).map_err(|source| ControlError::Io {
        path: path.to_owned(),
        source,
    })
}

fn check_vacant(path: &Path) -> Result<(), ControlError> {
    let io_at = |source| ControlError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_at(error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            return Err(io_at(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "exists and is no socket",
            )));
        }
    }
    match UnixStream::connect(path) {
        // A full backlog is somebody's, too.
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ControlError::InUse(path.to_owned()))
        }
        Err(_) => Ok(()),
    }
}

/// Binds under another name, so that nobody can connect before the mode is
/// right, and renames over whatever was there.
fn bind_closed_to_others(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // As short as can be: socket paths have 107 bytes at most.
    let draft = path.with_file_name(format!(".{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    let file = SocketFile::adopt(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    drop(file);
    let file = SocketFile::adopt(path)?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let (binding, _first) = Binding::new(&path).unwrap();
        assert!(binding.look().is_none(), "it is there");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(binding.look().is_none());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        fs::remove_file(&path).unwrap();
        let others = UnixListener::bind(&path).unwrap();
        assert!(binding.look().is_none(), "another process listens there");
        drop(others);
        assert!(binding.look().is_some(), "and does not any more");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        binding.end();
        assert!(!path.exists());
        assert!(binding.look().is_none(), "it has ended");
    }
}
