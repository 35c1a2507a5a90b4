//! The component files that apps name: opened once, hashed from the open file,
//! and copied for the builder so that what was hashed is what is compiled.
//! Nothing here looks at a byte's meaning.

use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use skep_sys::plain;
use skep_wire::{MAX_COMPONENT, Refusal};

use super::digest::Digest;

/// A component's file, open, of known content.
#[derive(Debug)]
pub(super) struct Component {
    file: File,
    digest: Digest,
}

impl Component {
    /// Opens and hashes the file at `path`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is none, or is larger than
    /// [`MAX_COMPONENT`].
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        // Asked before opening, for what cannot be opened.
        let before = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        check_kind(path, &before)?;
        let mut file = plain::file(path).map_err(|error| unreadable(path, &error))?;
        let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
        check_kind(path, &metadata)?;
        if metadata.len() > MAX_COMPONENT {
            return Err(too_large(path));
        }
        let (digest, size) =
            Digest::of(&mut file, MAX_COMPONENT).map_err(|error| unreadable(path, &error))?;
        if size > MAX_COMPONENT {
            return Err(too_large(path));
        }
        Ok(Self { file, digest })
    }

    /// The digest of the content.
    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }

    /// A private copy of the content that nobody else can reach or change, in
    /// an unnamed file in `dir`, open for reading only.
    ///
    /// # Errors
    ///
    /// A file that changed since it was hashed, or a copy that cannot be made.
    pub(super) fn private_copy(&mut self, path: &Path, dir: &Path) -> Result<File, Refusal> {
        let uncopied = |error: io::Error| Refusal {
            problem: format!(
                "{} cannot be copied to {}: {error}",
                path.display(),
                dir.display()
            ),
            hint: None,
        };
        let mut copy = tempfile::tempfile_in(dir).map_err(uncopied)?;
        self.file.seek(SeekFrom::Start(0)).map_err(uncopied)?;
        let (digest, _) =
            Digest::of_copy(&mut self.file, &mut copy, MAX_COMPONENT).map_err(uncopied)?;
        if digest != self.digest {
            return Err(Refusal {
                problem: format!("{} changed while it was read", path.display()),
                hint: Some("write it under another name and rename it into place".to_owned()),
            });
        }
        // Through its link in /proc, because a duplicate would be writable and
        // share its position with the original.
        File::open(PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()))).map_err(uncopied)
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), Refusal> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let (kind, hint) = if kind.is_dir() {
        (
            "a directory",
            Some("name the .wasm file that a build leaves in it"),
        )
    } else if kind.is_fifo() {
        ("a fifo", Some("write the component to a file first"))
    } else if kind.is_socket() {
        ("a socket", None)
    } else {
        ("a device", None)
    };
    Err(Refusal {
        problem: format!("{} is {kind}, not a file", path.display()),
        hint: hint.map(str::to_owned),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    let (problem, hint) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("{} does not exist", path.display()),
            Some("build it first, or correct the path"),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("{} may not be read by this user", path.display()),
            Some("its permissions, and those of the directories above it, decide"),
        ),
        _ => (format!("{} cannot be read: {error}", path.display()), None),
    };
    Refusal {
        problem,
        hint: hint.map(str::to_owned),
    }
}

fn too_large(path: &Path) -> Refusal {
    Refusal {
        problem: format!(
            "{} is larger than {} MiB, the most that a component may have",
            path.display(),
            MAX_COMPONENT >> 20
        ),
        hint: Some(
            "build it without debug information, or strip it with `wasm-tools strip`".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_by_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, expected) in [
            (dir.path(), "is a directory, not a file"),
            (&socket, "is a socket, not a file"),
            (Path::new("/dev/zero"), "is a device, not a file"),
            (&dir.path().join("none.wasm"), "does not exist"),
        ] {
            let refusal = Component::open(path).unwrap_err();
            assert!(refusal.problem.ends_with(expected), "{}", refusal.problem);
        }
    }

    #[test]
    fn a_gigantic_file_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_COMPONENT + 1).unwrap();
        let refusal = Component::open(file.path()).unwrap_err();
        assert!(
            refusal.problem.contains("larger than 256 MiB"),
            "{}",
            refusal.problem
        );
    }

    #[test]
    fn a_copy_is_what_was_hashed_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        std::fs::write(&path, "one").unwrap();
        let mut component = Component::open(&path).unwrap();
        let mut copy = component.private_copy(&path, dir.path()).unwrap();
        let mut content = String::new();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, "one");
        assert!(
            io::Write::write(&mut copy, b"x").is_err(),
            "the copy is read-only"
        );

        std::fs::write(&path, "two").unwrap();
        let refusal = component.private_copy(&path, dir.path()).unwrap_err();
        assert!(refusal.problem.ends_with("changed while it was read"));
    }
}
