//! Socket files, which outlive their sockets unless somebody removes them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A socket file of ours; removed when this is dropped, unless something else
/// has taken its place meanwhile.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Takes charge of the file at `path`.
    pub(crate) fn adopt(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Whether it is still there.
    pub(crate) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            // A file that stays is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = UnixListener::bind(&path).unwrap();
        let file = SocketFile::adopt(&path).unwrap();
        let other = dir.path().join("t");
        let second = UnixListener::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        drop(file);
        assert!(path.exists());
        drop(SocketFile::adopt(&path).unwrap());
        assert!(!path.exists());
        drop((first, second));
    }
}
