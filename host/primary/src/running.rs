//! Where a running primary is, for an operator who looks for it: `primary.lock` in its
//! state directory says so.
//!
//! ```text
//! 4242                            its process
//! /var/lib/skep/control.sock      its control socket
//! /etc/skep.toml                  its configuration, or nothing
//! ```
//! The file is trusted no further than to find a socket: the process that listens there
//! must be the one that the file names.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::client::{Client, ClientError};

/// The name of the file in a state directory.
pub(crate) const LOCK: &str = "primary.lock";

/// Bytes of the file that are read: a number and two paths of 4096 bytes.
pub(crate) const MAX_LOCK: u64 = 16 << 10;

/// A primary that runs, or ran, as its lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its control socket, absolute.
    pub control: Option<PathBuf>,
    /// The configuration that it was started with, absolute, its directory resolved.
    pub config: Option<PathBuf>,
}

impl Running {
    /// This process.
    pub(crate) fn new(control: &Path, config: Option<&Path>) -> Self {
        Self {
            pid: std::process::id(),
            control: std::path::absolute(control).ok(),
            config: config.map(same_file),
        }
    }

    /// What stands in the lock file of a state directory. Whether that primary still
    /// runs is found out by [`Self::connect`].
    #[must_use]
    pub fn of_state_dir(state_dir: &Path) -> Option<Self> {
        Self::read(&state_dir.join(LOCK))
    }

    /// The primary that was started with this configuration, wherever its state
    /// directory is: among the processes whose open files can be seen, which are those
    /// of the same user, and all of them for root.
    #[must_use]
    pub fn of_config(config: &Path) -> Option<Found> {
        let wanted = same_file(config);
        let ours = fs::metadata("/proc/self").ok()?.uid();
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes
            .filter_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let owner = entry.metadata().ok()?.uid();
                let open = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
                let locks = open.map(|open| open.path()).filter(|open| is_lock(open));
                let running = locks.filter_map(|lock| Self::read(&lock));
                let mut running = running.filter(|running| {
                    running.pid == pid && running.config.as_ref() == Some(&wanted)
                });
                running.next().map(|running| Found {
                    running,
                    is_ours: owner == ours,
                })
            })
            // Another user's says what it likes.
            .max_by_key(|found| found.is_ours)
    }

    /// Connects to its control socket.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoPrimary`] where another process listens there, too.
    pub fn connect(&self) -> Result<Client, ClientError> {
        let path = self.control.as_deref().unwrap_or_else(|| Path::new(""));
        let client = Client::connect(path)?;
        if client.process() == Some(self.pid) {
            return Ok(client);
        }
        Err(ClientError::NoPrimary {
            path: path.to_owned(),
            source: io::Error::other("another process listens there"),
        })
    }

    fn read(lock: &Path) -> Option<Self> {
        // Opening a pipe would wait for its writer.
        fs::metadata(lock).ok().filter(fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        let file = File::open(lock).ok()?;
        file.take(MAX_LOCK).read_to_end(&mut bytes).ok()?;
        Self::decode(&bytes)
    }

    /// The text of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.pid).into_bytes();
        for path in [&self.control, &self.config] {
            let bytes = path.as_deref().map(|path| path.as_os_str().as_bytes());
            // What has more than one line cannot be said.
            text.extend(bytes.filter(|bytes| !bytes.contains(&b'\n')).unwrap_or(b""));
            text.push(b'\n');
        }
        text
    }

    /// Reads the text of the file; earlier versions have written the first line only.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|byte| *byte == b'\n');
        let pid = std::str::from_utf8(lines.next()?).ok()?.trim();
        let mut path = || {
            let line = lines.next().filter(|line| !line.is_empty())?;
            Some(PathBuf::from(std::ffi::OsString::from_vec(line.to_vec())))
        };
        Some(Self {
            pid: pid.parse().ok()?,
            control: path(),
            config: path(),
        })
    }
}

/// A running primary that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The primary.
    pub running: Running,
    /// Whether it is a process of the same user. One of another user may have written
    /// what it liked.
    pub is_ours: bool,
}

/// The name of a file by which it is known again from another directory: absolute, with
/// its directory resolved. The file itself is not: what it links to may change.
fn same_file(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (Some(dir), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return absolute;
    };
    match dir.canonicalize() {
        Ok(dir) => dir.join(name),
        Err(_) => absolute,
    }
}

fn is_lock(open: &Path) -> bool {
    fs::read_link(open).is_ok_and(|file| file.file_name().is_some_and(|name| name == LOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_read_as_it_was_written() {
        let running = Running {
            pid: 42,
            control: Some("/run/a b.sock".into()),
            config: None,
        };
        assert_eq!(Running::decode(&running.encode()), Some(running.clone()));
        let lines = Running {
            control: Some("/a\nb".into()),
            config: Some("/x.toml".into()),
            ..running
        };
        let read = Running::decode(&lines.encode()).unwrap();
        assert_eq!(read.control, None);
        assert_eq!(read.config, lines.config);
        let early = Running::decode(b"42\n").unwrap();
        assert_eq!((early.pid, early.control), (42, None));
        assert_eq!(Running::decode(b""), None);
        assert_eq!(Running::decode(b"x\n"), None);
    }

    #[test]
    fn a_primary_is_found_by_its_configuration_while_its_lock_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("skep.toml");
        let running = Running::new(&dir.path().join("c"), Some(&config));
        let lock = dir.path().join(LOCK);
        fs::write(&lock, running.encode()).unwrap();
        assert_eq!(Running::of_config(&config), None);
        let held = File::open(&lock).unwrap();
        let found = Running::of_config(&config).unwrap();
        assert_eq!((found.running, found.is_ours), (running, true));
        assert_eq!(Running::of_config(&dir.path().join("other.toml")), None);
        drop(held);
    }

    #[test]
    fn only_the_process_that_is_named_is_talked_with() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let running = Running::new(&socket, None);
        assert!(running.connect().is_ok());
        let other = Running { pid: 1, ..running };
        assert!(matches!(
            other.connect(),
            Err(ClientError::NoPrimary { .. })
        ));
    }
}
