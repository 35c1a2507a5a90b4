//! Regular files, opened so that nothing that stands in the place of one holds
//! anybody up: to open a FIFO waits for its other end.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    /// A regular file, open.
    File(File),
    /// Something else; what it is, with its article.
    Strange(&'static str),
}

/// Opens a regular file to read it.
///
/// # Errors
///
/// What the system said.
pub fn read(path: &Path) -> io::Result<Found> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a regular file to be locked, readable and writable, and makes an empty
/// one of mode 0600 if nothing is there.
///
/// # Errors
///
/// What the system said.
pub fn lockable(path: &Path) -> io::Result<Found> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    open(path, options.mode(0o600))
}

/// Opens a regular file to read it; what is none is an error of kind
/// `InvalidInput`, whose text says what it is.
///
/// # Errors
///
/// What the system said.
pub fn file(path: &Path) -> io::Result<File> {
    match read(path)? {
        Found::File(file) => Ok(file),
        Found::Strange(what) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {what}, not a file"),
        )),
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<Found> {
    // Of no effect on regular files.
    match options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
    {
        Ok(file) => {
            let kind = file.metadata()?.file_type();
            Ok(name_of(kind).map_or(Found::File(file), Found::Strange))
        }
        // Sockets and folders cannot be opened at all.
        Err(error) => match std::fs::metadata(path).map(|found| found.file_type()) {
            Ok(kind) if !kind.is_file() => Ok(Found::Strange(name_of(kind).unwrap_or("a device"))),
            _ => Err(error),
        },
    }
}

/// What something is that is no regular file.
fn name_of(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a fifo")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn nothing_in_the_place_of_a_file_holds_anybody_up() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a fifo"),
            (&socket, "a socket"),
            (dir.path(), "a directory"),
            (Path::new("/dev/null"), "a device"),
        ] {
            for found in [read(path).unwrap(), lockable(path).unwrap()] {
                assert!(
                    matches!(found, Found::Strange(is) if is == what),
                    "{found:?}"
                );
            }
            let error = file(path).unwrap_err();
            assert_eq!(error.to_string(), format!("it is {what}, not a file"));
        }
        let path = dir.path().join("file");
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(matches!(lockable(&path).unwrap(), Found::File(_)));
        assert!(file(&path).is_ok());
    }
}
