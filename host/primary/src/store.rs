//! What the primary remembers of its apps, on disk.
//!
//! ```text
//! STATE_DIR/revisions/APP.json           the History of an app
//! STATE_DIR/revisions/APP.json.broken-N  one that could not be read, set aside; what
//!                                        could be made out of it is in the new one
//! STATE_DIR/components/SHA256.wasm       the component of a revision, mode 0444
//! *.tmp                                  being written, or left by a primary that was killed
//! ```
//! Responsible for files that are whole whatever ends the primary: each is
//! written beside its place, synced, renamed, and its directory synced. What a
//! history says is `skep-core`'s, artifacts are the cache's. Both directories
//! are for their owner only. Everything here blocks; the callers, who hold the
//! [`StateLock`](crate::state_dir::StateLock), run it on blocking threads.

mod salvage;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use skep_core::AppName;
use skep_core::history::{History, MAX_WRITTEN};
use skep_sys::plain::{self, Found};
use skep_wire::MAX_COMPONENT;
use tempfile::NamedTempFile;

use crate::artifacts::Digest;
use crate::state_dir::{free_name, move_aside};

/// Most bytes of a history: as many as are ever written.
const MAX_HISTORY: u64 = MAX_WRITTEN as u64;

/// Most bytes of a broken history that are looked through for what is whole.
const MAX_SALVAGED: u64 = 64 << 20;

/// What a file is called while it is written.
const DRAFT: &str = ".tmp";

/// The directories of histories and components.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    state_dir: PathBuf,
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
    /// Something else than a file is in its place; as [`StoreError::Broken`].
    #[error("{path} is {what}, not the history of an app")]
    NoFile {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A component is not the one that was meant.
    #[error("the component changed while it was copied to {path}; deploy it again")]
    Changed {
        /// Where it would have been kept.
        path: PathBuf,
    },
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
        let store = Self::there(state_dir);
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

    /// The store that is in `state_dir`, or is not.
    pub(crate) fn there(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            revisions: state_dir.join("revisions"),
            components: state_dir.join("components"),
        }
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

    /// Writes a small file of the state directory, as [`Self::save`] does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn save_text(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let path = self.state_dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {
                move_aside(&path).map_err(at("move away", &path))?;
            }
            _ => {}
        }
        // Beside histories, where what is left of it is swept.
        let mut draft = Self::draft(&self.revisions)?;
        draft
            .write_all(text.as_bytes())
            .map_err(at("write", &path))?;
        put(draft, &path)
    }

    /// The history of an app; an empty one if none was ever written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Broken`], [`StoreError::TooLarge`] and [`StoreError::NoFile`]
    /// for what is none, [`StoreError::Io`] for what cannot be read.
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
        let aside = free_name(&path, "broken");
        fs::rename(&path, &aside).map_err(at("move away", &path))?;
        sync_dir(&self.revisions)?;
        Ok(aside)
    }

    /// What can be made out of a broken history, if anything.
    pub(crate) fn salvage(&self, broken: &Path) -> Option<History> {
        let file = plain::file(broken).ok()?;
        let mut bytes = Vec::new();
        // What was read until something failed may be enough.
        let _ = file.take(MAX_SALVAGED).read_to_end(&mut bytes);
        History::mended(salvage::pieces(&bytes))
    }

    /// The digests that histories refer to, those of apps that are not configured
    /// now among them.
    ///
    /// # Errors
    ///
    /// A history that cannot be read might refer to anything.
    pub(crate) fn needed(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut needed = BTreeSet::new();
        for name in names(&self.revisions)? {
            let path = self.revisions.join(name);
            if path.extension() == Some(OsStr::new("json"))
                && let Some(history) = read_history(&path)?
            {
                needed.extend(history.needed().map(str::to_owned));
            }
        }
        Ok(needed)
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
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
        match fs::symlink_metadata(&path) {
            Ok(kept) if kept.is_file() && kept.len() == size => return Ok(()),
            // A file is replaced; what is none could not be.
            Ok(kept) if !kept.is_file() => {
                move_aside(&path).map_err(at("move away", &path))?;
            }
            _ => {}
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
    if !dir.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(at("read", dir))
}

fn read_history(path: &Path) -> Result<Option<History>, StoreError> {
    let file = match plain::read(path) {
        Ok(Found::File(file)) => file,
        Ok(Found::Strange(what)) => {
            let path = path.to_owned();
            return Err(StoreError::NoFile { path, what });
        }
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
