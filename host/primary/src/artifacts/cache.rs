//! The artifact cache on disk: `STATE_DIR/artifacts`, a directory that only its
//! owner may enter.
//!
//! ```text
//! KEY = sha256 of the component "-" fingerprint of the builder
//! KEY.cwasm  the artifact, mode 0444
//! KEY.json   its sidecar: what the artifact is and its own digest
//! KEY.lock   held (flock) by whoever builds it
//! KEY.tmp, KEY.json.tmp  being written by whoever holds the lock
//! ```
//! An entry is what its sidecar says or it is nothing: the sidecar is renamed
//! into place last, and an artifact is used only after its size and digest were
//! found to be the sidecar's. Everything here blocks; the callers run it on
//! blocking threads.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use skep_sys::Identity;
use skep_sys::plain::{self, Found};
use skep_wire::Flavor;

use super::digest::Digest;
use super::uses::{Use, Uses};
use crate::state_dir::move_aside;

/// The version of the sidecar's format; entries of any other are rebuilt.
const SIDECAR_VERSION: u32 = 1;

/// Most bytes of a sidecar. Imports are a few hundred short names at most.
const MAX_SIDECAR: u64 = 1 << 20;

/// Most bytes of an artifact; compiled code has about four times its
/// component's size, and the largest component has 256 MiB.
const MAX_ARTIFACT: u64 = 4 << 30;

/// What is stored beside an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    version: u32,
    component: String,
    fingerprint: String,
    flavor: Flavor,
    imports: Vec<String>,
    artifact: String,
    size: u64,
}

/// An artifact whose content was verified, open for reading. The open file is
/// what workers get; the path is used again only to verify it again.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// The component that it was compiled from.
    pub(crate) component: Digest,
    /// The engine that it is for.
    pub(crate) flavor: Flavor,
    /// Bytes of the artifact.
    pub(crate) size: u64,
    file: Mutex<Arc<OwnedFd>>,
    /// What keeps it from being swept.
    _use: Use,
}

impl Artifact {
    fn new(flavor: Flavor, size: u64, file: File, (component, using): (Digest, Use)) -> Self {
        Self {
            component,
            flavor,
            size,
            file: Mutex::new(Arc::new(file.into())),
            _use: using,
        }
    }

    /// The artifact itself; shared with the messages that carry it.
    pub(crate) fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.held())
    }

    /// Takes the file of one of the same component that was verified later:
    /// somebody may have written to the one that we have open.
    pub(crate) fn renew(&self, from: &Self) {
        debug_assert_eq!(self.component, from.component, "they are one artifact");
        let file = from.file();
        *self.held() = file;
    }

    fn held(&self) -> MutexGuard<'_, Arc<OwnedFd>> {
        // Whole at every step.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a builder says about the artifact that it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The engine that it is for.
    pub(crate) flavor: Flavor,
    /// The interfaces that the component imports.
    pub(crate) imports: Vec<String>,
    /// SHA-256 of the artifact, lower-case hexadecimal.
    pub(crate) digest: String,
    /// Bytes of the artifact.
    pub(crate) size: u64,
}

/// What the cache has under a key.
#[derive(Debug)]
pub(super) enum Lookup {
    /// A verified artifact.
    Hit(Artifact),
    /// Nothing.
    Absent,
    /// Something that is not what it should be, and why.
    Broken(String),
}

/// Why an artifact could not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The builder's word and its file differ.
    #[error("the compiler's answer does not match the artifact that it wrote")]
    Mismatch,
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// One entry's name.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    component: Digest,
    fingerprint: String,
}

impl Key {
    /// The key of a component's artifact by the builder of this fingerprint,
    /// which must have passed [`is_fingerprint`].
    pub(crate) fn new(component: Digest, fingerprint: &str) -> Self {
        Self {
            component,
            fingerprint: fingerprint.to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.component, self.fingerprint)
    }
}

/// Whether a fingerprint can be part of a file name: lower-case hexadecimal and
/// short enough for the 255 bytes that a name may have.
pub(super) fn is_fingerprint(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The directory of artifacts.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    /// Another one, which is only read.
    beside: Option<PathBuf>,
    uses: Uses,
}

impl Cache {
    /// Opens the cache in `state_dir`, making it if it is not there.
    ///
    /// # Errors
    ///
    /// A directory that cannot be made or closed to others.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let cache = Self::there(state_dir);
        cache.make()?;
        Ok(cache)
    }

    fn make(&self) -> io::Result<()> {
        let dir = &self.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700))
    }

    /// A cache in `dir` that finds what is in the one of `state_dir` as well, and
    /// changes nothing there.
    ///
    /// # Errors
    ///
    /// As [`Cache::open`].
    pub(super) fn beside(dir: &Path, state_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            beside: Some(Self::there(state_dir).dir),
            ..Self::open(dir)?
        })
    }

    /// The cache that is in `state_dir`, or is not.
    pub(crate) fn there(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("artifacts"),
            beside: None,
            uses: Uses::default(),
        }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What of it this process uses.
    pub(crate) const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Finds and verifies an entry.
    pub(super) fn lookup(&self, key: &Key) -> Lookup {
        let begin = || Some((key.component, self.uses.begin(key.component)?));
        let Some(using) = begin() else {
            return Lookup::Absent;
        };
        let found = Self::look(&self.dir, key, using);
        if let (Lookup::Absent, Some(beside)) = (&found, &self.beside)
            && let Some(using) = begin()
            && let hit @ Lookup::Hit(_) = Self::look(beside, key, using)
        {
            return hit;
        }
        found
    }

    fn look(dir: &Path, key: &Key, using: (Digest, Use)) -> Lookup {
        let sidecar = match read_capped(&path_in(dir, key, "json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if path_in(dir, key, "cwasm").exists() {
                    Lookup::Broken("it has no sidecar".to_owned())
                } else {
                    Lookup::Absent
                };
            }
            Err(error) => return Lookup::Broken(format!("its sidecar cannot be read: {error}")),
        };
        match Self::verify(dir, key, &sidecar, using) {
            Ok(artifact) => Lookup::Hit(artifact),
            Err(why) => Lookup::Broken(why),
        }
    }

    /// Waits for the right to build an entry; it ends when the file is closed.
    pub(super) fn lock(&self, key: &Key) -> io::Result<File> {
        loop {
            let file = match self.lock_file(key) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Somebody has removed the directory.
                    self.make()?;
                    self.lock_file(key)?
                }
                file => file?,
            };
            file.lock()?;
            // Whoever removed the entry meanwhile took the lock's name away,
            // and with it what the lock is worth.
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    /// Deletes what there is of an entry: all of it, or only what is left of its
    /// being built. Returns whether it was deleted: not while somebody builds it,
    /// or, for all of it, uses its component. A worker that has the artifact open
    /// keeps it.
    ///
    /// # Errors
    ///
    /// What the file system refused; the rest may still be there.
    pub(crate) fn sweep(&self, key: &Key, all: bool) -> io::Result<bool> {
        let going = all.then(|| self.uses.go(key.component));
        if matches!(going, Some(None)) {
            return Ok(false);
        }
        let lock = self.lock_file(key)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if lock.metadata()?.nlink() == 0 {
            // Somebody else has swept it.
            return Ok(false);
        }
        if all {
            self.remove(key)?;
        }
        for extension in ["tmp", "json.tmp"] {
            clear(&self.path(key, extension))?;
        }
        // Its name last, while it is held.
        fs::remove_file(self.path(key, "lock"))?;
        // Before the lock: who waits for that finds nothing in its way.
        drop(going);
        Ok(true)
    }

    fn lock_file(&self, key: &Key) -> io::Result<File> {
        let path = self.path(key, "lock");
        match plain::lockable(&path) {
            Ok(Found::File(file)) => return Ok(file),
            // What is none, and another user's, is in the way.
            Ok(Found::Strange(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        clear(&path)?;
        match plain::lockable(&path)? {
            Found::File(file) => Ok(file),
            Found::Strange(what) => Err(io::Error::other(format!("its lock is {what}"))),
        }
    }

    /// Deletes an entry. Only for the holder of its lock.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        // The sidecar first: without it the rest is nothing.
        for extension in ["json", "cwasm"] {
            clear(&self.path(key, extension))?;
        }
        Ok(())
    }

    /// An empty file for a builder to write an artifact to, and the only
    /// descriptor that can. Only for the holder of the entry's lock.
    pub(super) fn draft(&self, key: &Key) -> io::Result<(Draft, OwnedFd)> {
        let path = self.path(key, "tmp");
        // Left by a primary that was killed while it held the lock.
        clear(&path)?;
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        Ok((Draft { path }, file.into()))
    }

    /// Makes a draft that its builder has finished with, and can no longer
    /// write to, into an entry. Only for the holder of the entry's lock.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the entry is absent then.
    pub(super) fn store(
        &self,
        key: &Key,
        draft: &Draft,
        built: &Built,
    ) -> Result<Artifact, StoreError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        let mut file = plain::file(&draft.path).map_err(io_at(&draft.path))?;
        let (digest, size) = Digest::of(&mut file, MAX_ARTIFACT).map_err(io_at(&draft.path))?;
        if digest.to_string() != built.digest || size != built.size {
            return Err(StoreError::Mismatch);
        }
        file.set_permissions(Permissions::from_mode(0o444))
            .and_then(|()| file.sync_all())
            .map_err(io_at(&draft.path))?;

        let sidecar = Sidecar {
            version: SIDECAR_VERSION,
            component: key.component.to_string(),
            fingerprint: key.fingerprint.clone(),
            flavor: built.flavor,
            imports: built.imports.clone(),
            artifact: built.digest.clone(),
            size,
        };
        let artifact_path = self.path(key, "cwasm");
        fs::rename(&draft.path, &artifact_path).map_err(io_at(&artifact_path))?;
        self.write_sidecar(key, &sidecar)
            .map_err(io_at(&self.path(key, "json")))?;
        // A sweep of it waits for the lock that is held here.
        let using = self
            .uses
            .begin(key.component)
            .ok_or_else(|| io_at(&artifact_path)(io::Error::other("it is being swept")))?;
        let using = (key.component, using);
        Ok(Artifact::new(built.flavor, size, file, using))
    }

    fn write_sidecar(&self, key: &Key, sidecar: &Sidecar) -> io::Result<()> {
        let draft = self.path(key, "json.tmp");
        clear(&draft)?;
        let mut file = File::create_new(&draft)?;
        file.write_all(&serde_json::to_vec(sidecar)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.path(key, "json"))?;
        File::open(&self.dir)?.sync_all()
    }

    fn verify(
        dir: &Path,
        key: &Key,
        sidecar: &[u8],
        using: (Digest, Use),
    ) -> Result<Artifact, String> {
        let sidecar: Sidecar = serde_json::from_slice(sidecar)
            .map_err(|error| format!("its sidecar is torn or foreign: {error}"))?;
        if sidecar.version != SIDECAR_VERSION {
            return Err(format!("its sidecar has version {}", sidecar.version));
        }
        if sidecar.component != key.component.to_string() || sidecar.fingerprint != key.fingerprint
        {
            return Err("its sidecar is another entry's".to_owned());
        }
        let unreadable = |error: io::Error| format!("its artifact cannot be read: {error}");
        let mut file = plain::file(&path_in(dir, key, "cwasm")).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.uid() != Identity::own().uid {
            // Nor could it be opened to the users of pools.
            return Err(format!("its artifact belongs to user {}", metadata.uid()));
        }
        if metadata.len() != sidecar.size {
            return Err(format!(
                "its artifact has {} bytes instead of {}",
                metadata.len(),
                sidecar.size
            ));
        }
        let (digest, _) = Digest::of(&mut file, sidecar.size).map_err(unreadable)?;
        if digest.to_string() != sidecar.artifact {
            return Err("its artifact is not the one that was stored".to_owned());
        }
        Ok(Artifact::new(sidecar.flavor, sidecar.size, file, using))
    }

    fn path(&self, key: &Key, extension: &str) -> PathBuf {
        path_in(&self.dir, key, extension)
    }
}

fn path_in(dir: &Path, key: &Key, extension: &str) -> PathBuf {
    dir.join(format!("{key}.{extension}"))
}

/// Deletes a file, or finds it gone. What is a directory is moved away.
fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => move_aside(path).map(drop),
        other => other,
    }
}

/// The file that a builder writes an artifact to; deleted unless it was stored.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Already renamed in the good case; in every other one the next holder
        // of the lock deletes what could not be deleted now.
        let _ = fs::remove_file(&self.path);
    }
}

fn read_capped(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;

    let mut bytes = Vec::new();
    plain::file(path)?
        .take(MAX_SIDECAR)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
