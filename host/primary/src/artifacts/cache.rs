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

use std::collections::BTreeSet;
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
use skep_wire::Flavor;

use super::digest::Digest;

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
}

impl Artifact {
    fn new(component: Digest, flavor: Flavor, size: u64, file: File) -> Self {
        Self {
            component,
            flavor,
            size,
            file: Mutex::new(Arc::new(file.into())),
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
pub(super) struct Key {
    component: Digest,
    fingerprint: String,
}

impl Key {
    /// The key of a component's artifact by the builder of this fingerprint,
    /// which must have passed [`is_fingerprint`].
    pub(super) fn new(component: Digest, fingerprint: &str) -> Self {
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
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache that may be in `state_dir`, to look into; nothing is made.
    pub(super) fn there(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("artifacts"),
        }
    }

    /// Opens the cache in `state_dir`, making it if it is not there.
    ///
    /// # Errors
    ///
    /// A directory that cannot be made or closed to others.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join("artifacts");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Finds and verifies an entry.
    pub(super) fn lookup(&self, key: &Key) -> Lookup {
        let sidecar = match read_capped(&self.path(key, "json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if self.path(key, "cwasm").exists() {
                    Lookup::Broken("it has no sidecar".to_owned())
                } else {
                    Lookup::Absent
                };
            }
            Err(error) => return Lookup::Broken(format!("its sidecar cannot be read: {error}")),
        };
        match self.verify(key, &sidecar) {
            Ok(artifact) => Lookup::Hit(artifact),
            Err(why) => Lookup::Broken(why),
        }
    }

    /// Waits for the right to build an entry; it ends when the file is closed.
    pub(super) fn lock(&self, key: &Key) -> io::Result<File> {
        loop {
            let file = self.lock_file(key)?;
            file.lock()?;
            // Whoever removed the entry meanwhile took the lock's name away,
            // and with it what the lock is worth.
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    /// Deletes what all builders ever made of a component, their locks too, but
    /// for an entry that somebody builds right now. A worker that has an
    /// artifact open keeps it.
    ///
    /// # Errors
    ///
    /// What the file system refused; the rest may still be there.
    pub(super) fn remove_all(&self, component: Digest) -> io::Result<()> {
        let prefix = format!("{component}-");
        let mut fingerprints = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            if let Some((fingerprint, _)) = rest.and_then(|rest| rest.split_once('.'))
                && is_fingerprint(fingerprint)
            {
                fingerprints.insert(fingerprint.to_owned());
            }
        }
        for fingerprint in fingerprints {
            let key = Key::new(component, &fingerprint);
            let lock = self.lock_file(&key)?;
            match lock.try_lock() {
                Ok(()) => self.remove(&key)?,
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Its name last, while it is held.
            fs::remove_file(self.path(&key, "lock"))?;
        }
        Ok(())
    }

    fn lock_file(&self, key: &Key) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path(key, "lock"))
    }

    /// Deletes an entry. Only for the holder of its lock.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        // The sidecar first: without it the rest is nothing.
        for extension in ["json", "cwasm"] {
            match fs::remove_file(self.path(key, extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// An empty file for a builder to write an artifact to, and the only
    /// descriptor that can. Only for the holder of the entry's lock.
    pub(super) fn draft(&self, key: &Key) -> io::Result<(Draft, OwnedFd)> {
        let path = self.path(key, "tmp");
        // Left by a primary that was killed while it held the lock.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
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
        let mut file = File::open(&draft.path).map_err(io_at(&draft.path))?;
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
        Ok(Artifact::new(key.component, built.flavor, size, file))
    }

    fn write_sidecar(&self, key: &Key, sidecar: &Sidecar) -> io::Result<()> {
        let draft = self.path(key, "json.tmp");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(sidecar)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.path(key, "json"))?;
        File::open(&self.dir)?.sync_all()
    }

    fn verify(&self, key: &Key, sidecar: &[u8]) -> Result<Artifact, String> {
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
        let mut file = File::open(self.path(key, "cwasm")).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() != sidecar.size {
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
        let (flavor, size) = (sidecar.flavor, sidecar.size);
        Ok(Artifact::new(key.component, flavor, size, file))
    }

    fn path(&self, key: &Key, extension: &str) -> PathBuf {
        self.dir.join(format!("{key}.{extension}"))
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
    File::open(path)?
        .take(MAX_SIDECAR)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_nobody_needs_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = |of: &[u8]| Digest::of(&mut &*of, 10).unwrap().0;
        let (gone, kept) = (digest(b"gone"), digest(b"kept"));
        let store = |key: &Key| {
            let _lock = cache.lock(key).unwrap();
            let (draft, file) = cache.draft(key).unwrap();
            File::from(file).write_all(b"code").unwrap();
            let built = Built {
                flavor: Flavor::P2,
                imports: Vec::new(),
                digest: digest(b"code").to_string(),
                size: 4,
            };
            cache.store(key, &draft, &built).unwrap();
        };
        let [old, new, other] = [
            Key::new(gone, "0a"),
            Key::new(gone, "0b"),
            Key::new(kept, "0b"),
        ];
        for key in [&old, &new, &other] {
            store(key);
        }
        let being_built = cache.lock(&new).unwrap();
        cache.remove_all(gone).unwrap();
        assert!(matches!(cache.lookup(&old), Lookup::Absent));
        assert!(matches!(cache.lookup(&new), Lookup::Hit(_)));
        drop(being_built);
        cache.remove_all(gone).unwrap();
        assert!(matches!(cache.lookup(&other), Lookup::Hit(_)));
        let left = fs::read_dir(cache.dir()).unwrap().map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.starts_with(&other.to_string()), "{name}");
        });
        assert_eq!(left.count(), 3);
    }

    #[test]
    fn a_lock_whose_name_was_taken_away_is_worth_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let key = Key::new(Digest::of(&mut io::empty(), 1).unwrap().0, "0a");
        let held = cache.lock(&key).unwrap();
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| cache.lock(&key).unwrap());
            fs::remove_file(cache.path(&key, "lock")).unwrap();
            drop(held);
            let got = waits.join().unwrap();
            assert_eq!(got.metadata().unwrap().nlink(), 1);
        });
    }
}
