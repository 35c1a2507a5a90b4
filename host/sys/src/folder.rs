//! Folders of links to verified files.
//!
//! A confined worker opens its artifacts by the path of their descriptors, and
//! Landlock looks at the folder through which a descriptor was opened. So each
//! pool has a folder, and what it may see is linked there and opened through
//! it. The links are to the very files that were verified: no name is trusted
//! on the way.
//!
//! A worker of another user needs no right on the folders above, as it opens
//! descriptors, not paths; but the file itself must be readable for it
//! ([`make_readable`]).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// Everybody reads, nobody writes.
const READABLE: Mode = Mode::from_bits_truncate(0o444);

/// Makes a folder that only this process's user can enter, or takes the one
/// that is there, and opens it. The folder above must exist.
///
/// # Errors
///
/// The path is taken by something else, a symbolic link among it, or belongs to
/// another user; the file system refuses.
pub fn create(path: &Path) -> io::Result<OwnedFd> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = nix::fcntl::open(path, flags, Mode::empty())?;
    if fstat(&folder)?.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to another user", path.display()),
        ));
    }
    fchmod(&folder, Mode::S_IRWXU)?;
    Ok(folder)
}

/// Links an open file into a folder under a name, whatever had that name
/// before, and opens it there, to read. On another file system than the
/// folder's the file is copied, sharing its blocks where that can be.
///
/// The descriptor is of the same file, or of a copy that this process has made
/// of it; never of one that somebody else has put there.
///
/// # Errors
///
/// `InvalidInput` for a name with a slash, or none; the file system refuses.
pub fn link_and_open(
    folder: BorrowedFd<'_>,
    name: &str,
    artifact: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name of a link has no slash and does not begin with a dot",
        ));
    }
    let wanted = fstat(artifact)?;
    match link(folder, name, artifact) {
        // The one that is there may be the one that is wanted.
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) if cannot_link(errno) => return copy(folder, name, artifact),
        Err(errno) => return Err(errno.into()),
    }
    if let Ok(there) = open(folder, name)
        && same(&wanted, &fstat(&there)?)
    {
        return Ok(there);
    }
    remove(folder, name)?;
    match link(folder, name, artifact) {
        Ok(()) => {}
        Err(errno) if cannot_link(errno) => return copy(folder, name, artifact),
        Err(errno) => return Err(errno.into()),
    }
    let there = open(folder, name)?;
    if same(&wanted, &fstat(&there)?) {
        Ok(there)
    } else {
        Err(io::Error::other("somebody else writes to the folder"))
    }
}

/// Removes a name from a folder, or finds it gone. Descriptors stay usable, and
/// what was opened through the folder can still be opened again.
///
/// # Errors
///
/// It is the name of a folder; the file system refuses.
pub fn remove(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether two descriptors are of one file. Files of which that cannot be said are not.
#[must_use]
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => same(&one, &other),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Whether somebody has removed an open folder.
#[must_use]
pub fn is_gone(folder: BorrowedFd<'_>) -> bool {
    fstat(folder).is_ok_and(|stat| stat.st_nlink == 0)
}

/// Lets every user read a file that can be reached, and nobody write to it. The
/// folders above decide who reaches it by its path; who has its descriptor needs
/// none of them.
///
/// # Errors
///
/// The file belongs to another user.
pub fn make_readable(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fchmod(file, READABLE)?)
}

fn link(folder: BorrowedFd<'_>, name: &str, file: BorrowedFd<'_>) -> nix::Result<()> {
    // By its descriptor: AT_EMPTY_PATH would take a privilege.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        nix::fcntl::AT_FDCWD,
        source.as_str(),
        folder,
        name,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
}

/// Another file system, one without links or with too many, somebody else's
/// file, or one whose last name is gone.
fn cannot_link(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EXDEV
            | Errno::EPERM
            | Errno::EACCES
            | Errno::EMLINK
            | Errno::EOPNOTSUPP
            | Errno::ENOENT
    )
}

fn open(folder: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn copy(folder: BorrowedFd<'_>, name: &str, artifact: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Not to be opened before it is whole, and not to be mistaken for a link.
    let part = format!(".{name}.part");
    remove(folder, &part)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut target = File::from(openat(folder, part.as_str(), flags, Mode::S_IWUSR)?);
    let written = write(artifact, &mut target)
        .and_then(|()| Ok(renameat(folder, part.as_str(), folder, name)?));
    if let Err(error) = written {
        // It is of no use, and the next copy removes it as well.
        let _ = remove(folder, &part);
        return Err(error);
    }
    let there = open(folder, name)?;
    let (made, found) = (fstat(&target)?, fstat(&there)?);
    if same(&made, &found)
        && SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
    {
        Ok(there)
    } else {
        Err(io::Error::other("somebody else writes to the folder"))
    }
}

fn write(artifact: BorrowedFd<'_>, target: &mut File) -> io::Result<()> {
    // A descriptor of its own position: others may read this one.
    let path = format!("/proc/self/fd/{}", artifact.as_raw_fd());
    let mut source = File::open(path)?;
    io::copy(&mut source, target)?;
    target.set_permissions(Permissions::from_mode(READABLE.bits()))?;
    if fstat(artifact)?.st_size == fstat(target.as_fd())?.st_size {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn text(fd: OwnedFd) -> String {
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn links_are_to_the_very_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pool");
        let folder = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::write(home.path().join("a"), "first").unwrap();
        let file = File::open(home.path().join("a")).unwrap();
        let linked = link_and_open(folder.as_fd(), "x", file.as_fd()).unwrap();
        let there = fs::metadata(path.join("x")).unwrap();
        assert_eq!(there.ino(), file.metadata().unwrap().ino());
        assert_eq!(there.nlink(), 2);
        assert_eq!(text(linked), "first");
        make_readable(file.as_fd()).unwrap();
        assert_eq!(fs::metadata(path.join("x")).unwrap().mode() & 0o777, 0o444);

        // Again, and over something else, even a symbolic link.
        link_and_open(folder.as_fd(), "x", file.as_fd()).unwrap();
        remove(folder.as_fd(), "x").unwrap();
        remove(folder.as_fd(), "x").unwrap();
        std::os::unix::fs::symlink(home.path().join("a"), path.join("x")).unwrap();
        fs::write(home.path().join("b"), "second").unwrap();
        let other = File::open(home.path().join("b")).unwrap();
        for _ in 0..2 {
            let linked = link_and_open(folder.as_fd(), "x", other.as_fd()).unwrap();
            assert_eq!(text(linked), "second");
        }
        assert_eq!(fs::read(home.path().join("a")).unwrap(), b"first");
        drop(create(&path).unwrap());
    }

    #[test]
    fn what_cannot_be_linked_is_copied() {
        let home = tempfile::tempdir().unwrap();
        let folder = create(&home.path().join("pool")).unwrap();
        // No name is left to link to.
        let path = home.path().join("gone");
        fs::write(&path, "verified").unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let copied = link_and_open(folder.as_fd(), "x", file.as_fd()).unwrap();
            assert_eq!(text(copied), "verified");
        }
        let names: Vec<_> = fs::read_dir(home.path().join("pool")).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(
            fs::metadata(home.path().join("pool/x")).unwrap().mode() & 0o777,
            0o444
        );
    }

    #[test]
    fn bad_names_and_folders_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = create(&home.path().join("pool")).unwrap();
        let file = tempfile::tempfile().unwrap();
        for name in ["", ".", "..", ".x", "a/b", "/a"] {
            let error = link_and_open(folder.as_fd(), name, file.as_fd()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        std::os::unix::fs::symlink("/tmp", home.path().join("link")).unwrap();
        assert!(create(&home.path().join("link")).is_err());
        fs::write(home.path().join("file"), "").unwrap();
        assert!(create(&home.path().join("file")).is_err());
        assert!(create(&home.path().join("no/folder")).is_err());
    }
}
