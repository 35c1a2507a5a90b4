//! The world outside the configuration's text, as an interface.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest configuration or secret that is read, in bytes. A thousand apps
/// take a tenth of it; anything larger is a mistake (a log, a device).
pub const MAX_FILE: usize = 4 << 20;

/// Names that are looked at for a hint. A folder with more is no place for components.
pub(crate) const MAX_NAMES: usize = 1000;

/// What a configuration may refer to besides itself.
pub trait Environment {
    /// The value of an environment variable; `None` if it is not set or is not
    /// Unicode.
    fn var(&self, name: &str) -> Option<String>;

    /// The text of a file.
    ///
    /// # Errors
    ///
    /// As the system says; `InvalidData` for text that is not UTF-8,
    /// `FileTooLarge` above [`MAX_FILE`]. What is no regular file is not read: a
    /// pipe would be waited for, and is empty the next time.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Whether there is a regular file that this process may read.
    ///
    /// # Errors
    ///
    /// Why not.
    fn readable(&self, path: &Path) -> io::Result<()>;

    /// Names of files in a folder, for a hint; a thousand at most, and none where it
    /// cannot be listed.
    fn names_in(&self, folder: &Path) -> Vec<String>;

    /// The number of cores that this process may use; at least 1.
    fn parallelism(&self) -> u16;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        self.readable(path)?;
        // One byte more than allowed, in case it grows.
        let read = File::open(path)?
            .take(MAX_FILE as u64 + 1)
            .read_to_string(&mut text);
        if text.len() > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        read.map(|_| text)
    }

    fn readable(&self, path: &Path) -> io::Result<()> {
        // Looked at before it is opened: opening a pipe waits for its writer.
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !kind.is_file() {
            return Err(io::Error::other(
                "it is not a regular file, which is what can be read again and again",
            ));
        }
        File::open(path).map(|_| ())
    }

    fn names_in(&self, folder: &Path) -> Vec<String> {
        let folder = if folder == Path::new("") {
            Path::new(".")
        } else {
            folder
        };
        let entries = folder.read_dir().into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.take(MAX_NAMES).collect();
        names.sort_unstable();
        names
    }

    fn parallelism(&self) -> u16 {
        std::thread::available_parallelism()
            .map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX))
    }
}

/// Why a file could not be used, in words that do not depend on the system.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::NotADirectory => "a part of its path is not a directory".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        io::ErrorKind::FileTooLarge => {
            format!("it is larger than {} MiB", MAX_FILE >> 20)
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_kind_are_read_or_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let kind = |result: io::Result<String>| result.unwrap_err().kind();
        assert_eq!(
            kind(ProcessEnvironment.read(&path)),
            io::ErrorKind::NotFound
        );
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(
            kind(ProcessEnvironment.read(&path)),
            io::ErrorKind::InvalidData
        );
        std::fs::write(&path, vec![b'a'; MAX_FILE]).unwrap();
        assert_eq!(ProcessEnvironment.read(&path).unwrap().len(), MAX_FILE);
        std::fs::write(&path, vec![b'a'; MAX_FILE + 1]).unwrap();
        assert_eq!(
            kind(ProcessEnvironment.read(&path)),
            io::ErrorKind::FileTooLarge
        );
        assert!(ProcessEnvironment.read(Path::new("/dev/zero")).is_err());
        assert!(ProcessEnvironment.readable(&path).is_ok());
        assert!(ProcessEnvironment.readable(dir.path()).is_err());
        assert!(ProcessEnvironment.readable(Path::new("/dev/null")).is_err());
        assert_eq!(ProcessEnvironment.names_in(dir.path()), ["a"]);
        assert!(ProcessEnvironment.names_in(&path).is_empty());
        assert!(ProcessEnvironment.parallelism() >= 1);
    }
}
