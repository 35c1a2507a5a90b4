//! What the primary remembers of its apps, on disk.
//!
//! ```text
//! STATE_DIR/revisions/APP.json           the History of an app
//! STATE_DIR/revisions/APP.json.broken-N  one that could not be read, set aside
//! STATE_DIR/components/SHA256.wasm       the component of a revision, mode 0444
//! *.tmp                                  being written, or left by a primary that was killed
//! ```
//! Responsible for files that are whole whatever ends the primary: each is
//! written beside its place, synced, renamed, and its directory synced. What a
//! history says is `skep-core`'s, artifacts are the cache's. Both directories
//! are for their owner only. Everything here blocks; the callers, who hold the
//! [`StateLock`](crate::state_dir::StateLock), run it on blocking threads.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use skep_core::AppName;
use skep_core::history::History;
use skep_wire::MAX_COMPONENT;
use tempfile::NamedTempFile;

use crate::artifacts::Digest;

/// Most bytes of a written history: a record has a few hundred, and a path at
/// most 4 KiB. Far more than is ever kept is a foreign file.
const MAX_HISTORY: u64 = 4 << 20;

/// What a file is called while it is written.
const DRAFT: &str = ".tmp";

/// The directories of histories and components.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    revisions: PathBuf,
    components: PathBuf,
}

/// Why something is not on disk, or does not come from there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file system refused.
    #[error("cannot {doing} {path}; {}", advice(.source))]
    Io {
        /// What we were doing: a verb.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a history that this version of skep has written;
    /// [`Store::set_aside`] makes way for a new one.
    #[error("{path} is not the history of an app; move it away to begin a new one")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file is too large to be a history; as [`StoreError::Broken`].
    #[error("{path} is larger than the history of an app can be; move it away to begin a new one")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A component is not the one that was meant.
    #[error("the component changed while it was copied to {path}; deploy it again")]
    Changed {
        /// Where it would have been kept.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether a history could not be used for what is in its file, so that
    /// [`Store::set_aside`] helps.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::TooLarge { .. })
    }
}

impl Store {
    /// Opens the store in `state_dir`, making it if it is not there, and
    /// removes what a primary that was killed had not finished writing. Only
    /// for the holder of the state directory's lock.
    ///
    /// # Errors
    ///
    /// A directory that cannot be made, closed to others or read.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let store = Self {
            revisions: state_dir.join("revisions"),
            components: state_dir.join("components"),
        };
        for dir in [&store.revisions, &store.components] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o700)))
                .map_err(at("make", dir))?;
            for entry in names(dir)? {
                let path = dir.join(&entry);
                if path.extension() == Some(OsStr::new(&DRAFT[1..])) {
                    fs::remove_file(&path).map_err(at("remove", &path))?;
                }
            }
        }
        // The directories themselves are to outlive a loss of power.
        sync_dir(state_dir)?;
        Ok(store)
    }

    /// Writes the history of an app. When this returns it is on disk; when it
    /// fails, or the process ends within it, the one before is. Not for two
    /// writers of one app at a time: the last to come would win.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn save(&self, app: &AppName, history: &History) -> Result<(), StoreError> {
        let path = self.history_path(app);
        let text = serde_json::to_vec_pretty(history)
            .map_err(io::Error::from)
            .map_err(at("write", &path))?;
        let mut draft = Self::draft(&self.revisions)?;
        draft.write_all(&text).map_err(at("write", &path))?;
        put(draft, &path)
    }

    /// The history of an app; an empty one if none was ever written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Broken`] and [`StoreError::TooLarge`] for what is none
    /// ([`StoreError::is_broken`]), [`StoreError::Io`] for what cannot be read.
    pub(crate) fn load(&self, app: &AppName) -> Result<History, StoreError> {
        read_history(&self.history_path(app)).map(Option::unwrap_or_default)
    }

    /// Moves a broken history out of the way, so that a new one can be written,
    /// and returns where it is now, for the record of it. Nothing is lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn set_aside(&self, app: &AppName) -> Result<PathBuf, StoreError> {
        let path = self.history_path(app);
        let aside = (1_u64..)
            .map(|number| self.revisions.join(format!("{app}.json.broken-{number}")))
            .find(|aside| !aside.exists())
            .expect("there are more numbers than files");
        fs::rename(&path, &aside).map_err(at("move away", &path))?;
        sync_dir(&self.revisions)?;
        Ok(aside)
    }

    /// Keeps a copy of a component, so that a rollback does not need its
    /// source. Reads `from` from its beginning, wherever its position is, and
    /// leaves that alone. Does nothing if a file of that digest and size is
    /// there already; who uses it later verifies it then.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`] if the content has another digest, and
    /// [`StoreError::Io`].
    pub(crate) fn keep_component(&self, from: &File, digest: Digest) -> Result<(), StoreError> {
        let path = self.component_path(digest);
        let size = from.metadata().map_err(at("copy to", &path))?.len();
        if fs::metadata(&path).is_ok_and(|kept| kept.is_file() && kept.len() == size) {
            return Ok(());
        }
        let mut draft = Self::draft(&self.components)?;
        let mut reader = FromStart { file: from, at: 0 };
        let (copied, size) = Digest::of_copy(&mut reader, &mut draft, MAX_COMPONENT)
            .map_err(at("copy to", &path))?;
        if copied != digest || size > MAX_COMPONENT {
            return Err(StoreError::Changed { path });
        }
        draft
            .as_file()
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(at("protect", &path))?;
        put(draft, &path)
    }

    /// Where the component of a digest is, if it is kept.
    pub(crate) fn component_path(&self, digest: Digest) -> PathBuf {
        self.components.join(format!("{digest}.wasm"))
    }

    /// Deletes a component, if it is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn remove_component(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.component_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes those of the components that no history on disk refers to, an
    /// app's that is not configured now among them, and returns the digests of
    /// those deleted, whose artifacts can go as well. `digests` is what
    /// [`History::prune`] returned, once the pruned history was saved; what is
    /// no digest is passed over. No deploy may be between keeping its component
    /// and saving its history meanwhile.
    ///
    /// # Errors
    ///
    /// A history that cannot be read might refer to anything: nothing is
    /// deleted then. [`StoreError::Io`] also for what cannot be deleted.
    pub(crate) fn remove_unreferenced(
        &self,
        digests: &[String],
    ) -> Result<Vec<Digest>, StoreError> {
        let mut unreferenced: BTreeSet<&str> = digests.iter().map(String::as_str).collect();
        if unreferenced.is_empty() {
            return Ok(Vec::new());
        }
        for name in names(&self.revisions)? {
            let path = self.revisions.join(name);
            if path.extension() == Some(OsStr::new("json"))
                && let Some(history) = read_history(&path)?
            {
                unreferenced.retain(|digest| !history.refers_to(digest));
            }
        }
        let gone: Vec<Digest> = unreferenced
            .into_iter()
            .filter_map(|digest| digest.parse().ok())
            .collect();
        for digest in &gone {
            self.remove_component(*digest)?;
        }
        Ok(gone)
    }

    fn history_path(&self, app: &AppName) -> PathBuf {
        self.revisions.join(format!("{app}.json"))
    }

    /// A new file of mode 0600; deleted when it is dropped.
    fn draft(dir: &Path) -> Result<NamedTempFile, StoreError> {
        tempfile::Builder::new()
            .suffix(DRAFT)
            .tempfile_in(dir)
            .map_err(at("write in", dir))
    }
}

/// A file from its beginning, whatever its position.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(piece, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Puts a finished draft into its place for good.
fn put(draft: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    draft.as_file().sync_all().map_err(at("write", path))?;
    draft
        .persist(path)
        .map_err(|refused| at("write", path)(refused.error))?;
    let dir = path
        .parent()
        .expect("files of the store are in directories");
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at("sync", dir))
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>, StoreError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(at("read", dir))
}

fn read_history(path: &Path) -> Result<Option<History>, StoreError> {
    // Looked at before it is opened: opening a pipe waits for its writer.
    let opened = fs::metadata(path).and_then(|found| {
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        File::open(path)
    });
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_HISTORY + 1)
        .read_to_end(&mut text)
        .map_err(at("read", path))?;
    let path = path.to_owned();
    if text.len() as u64 > MAX_HISTORY {
        return Err(StoreError::TooLarge { path });
    }
    match serde_json::from_slice(&text) {
        Ok(history) => Ok(Some(history)),
        Err(source) => Err(StoreError::Broken { path, source }),
    }
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}

/// What to do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "free space on its file system",
        io::ErrorKind::QuotaExceeded => "free space, or raise the quota of skep's user",
        io::ErrorKind::ReadOnlyFilesystem => "set `state_dir` to a place that can be written",
        io::ErrorKind::PermissionDenied => "let skep's user read and write there",
        io::ErrorKind::NotFound => "do not move `state_dir` while skep runs",
        _ => "look after its file system, or set `state_dir` to another one",
    }
}

#[cfg(test)]
mod tests;
