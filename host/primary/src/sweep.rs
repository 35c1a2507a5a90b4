//! Sweeping the state directory: what [`skep_core::sweep`] finds that nothing
//! needs is listed, and deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use skep_core::sweep::{Entry, Folder, Needs, Unneeded, unneeded};
use skep_wire::{SweptFile, SweptFiles};

use crate::artifacts::{Cache, Key};
use crate::running::Running;
use crate::scribe::chain;
use crate::state_dir::{LockError, StateLock};
use crate::store::Store;

/// How far a sweep goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether a primary runs in this process, whose links and sockets stay.
    pub(crate) running: bool,
    /// Whether what was moved aside for a person goes as well.
    pub(crate) aside: bool,
    /// Whether it is only said what would go.
    pub(crate) dry_run: bool,
}

impl Extent {
    /// After an operation.
    pub(crate) const AFTER: Self = Self {
        running: true,
        aside: false,
        dry_run: false,
    };
    /// At a start, when no worker is there yet.
    pub(crate) const START: Self = Self {
        running: false,
        ..Self::AFTER
    };
}

/// What sweeps one state directory.
#[derive(Clone, Debug)]
pub(crate) struct Sweeper {
    /// The artifacts, and which of them are in use.
    pub(crate) cache: Cache,
    /// The fingerprint of the compiler whose artifacts are used, where it is known.
    pub(crate) fingerprint: Option<String>,
}

/// One thing that nothing needs.
#[derive(Debug)]
struct Surplus {
    folder: Folder,
    path: PathBuf,
    bytes: u64,
    why: Unneeded,
}

impl Sweeper {
    /// Sweeps. Only for the holder of the state directory's lock, and not while
    /// somebody writes with the store.
    ///
    /// # Errors
    ///
    /// A history that cannot be read, which might refer to anything, or a
    /// directory that cannot be listed: nothing is deleted then.
    pub(crate) fn sweep(&self, store: &Store, extent: Extent) -> Result<SweptFiles, String> {
        let state_dir = store.state_dir();
        let mut digests = store.needed().map_err(|error| chain(&error))?;
        digests.extend(self.cache.uses().digests().iter().map(ToString::to_string));
        let needs = Needs {
            digests: &digests,
            fingerprint: self.fingerprint.as_deref(),
            running: extent.running,
            keep_aside: !extent.aside,
        };
        let surplus = list(state_dir, &needs)
            .map_err(|(path, error)| format!("cannot read {}: {error}", path.display()))?;
        let mut swept = Swept::new(state_dir, extent.dry_run);
        if extent.dry_run {
            surplus.iter().for_each(|one| swept.gone(one));
        } else {
            self.delete(surplus, &mut swept);
        }
        Ok(swept.files)
    }

    fn delete(&self, surplus: Vec<Surplus>, swept: &mut Swept<'_>) {
        let mut entries: BTreeMap<(String, String), Vec<Surplus>> = BTreeMap::new();
        for one in surplus {
            match key_of(&one) {
                Some(key) => entries.entry(key).or_default().push(one),
                None => match remove(&one.path) {
                    Ok(()) => swept.gone(&one),
                    Err(error) => swept.stays(&one.path, &error),
                },
            }
        }
        for ((digest, fingerprint), files) in entries {
            let Ok(digest) = digest.parse() else { continue };
            let all =
                |one: &Surplus| matches!(one.why, Unneeded::Artifact | Unneeded::OtherCompiler);
            let all = files.iter().any(all);
            match self.cache.sweep(&Key::new(digest, &fingerprint), all) {
                Ok(true) => files.iter().for_each(|one| swept.gone(one)),
                // Somebody uses it by now.
                Ok(false) => {}
                Err(error) => swept.stays(&files[0].path, &error),
            }
        }
    }
}

/// Deletes what nothing needs in the state directory of a primary that does not
/// run, or says what that is.
///
/// # Errors
///
/// Why nothing was done.
pub fn sweep_alone(state_dir: &Path, dry_run: bool) -> Result<SweptFiles, SweepError> {
    if !state_dir.is_dir() {
        return Ok(Swept::new(state_dir, dry_run).files);
    }
    // Nobody can ask it anything.
    let holder = Running::new(&state_dir.join("control.sock"), None);
    let _lock = StateLock::take(state_dir, &holder).map_err(|error| match error {
        LockError::Held { pid } => SweepError::Running { pid },
        LockError::Io { path, source } => {
            SweepError::Failed(format!("{}: {source}", path.display()))
        }
    })?;
    let store = Store::there(state_dir);
    let sweeper = Sweeper {
        cache: Cache::there(state_dir),
        fingerprint: None,
    };
    let extent = Extent {
        running: false,
        aside: true,
        dry_run,
    };
    sweeper.sweep(&store, extent).map_err(SweepError::Failed)
}

/// Why a state directory was not swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A primary uses it, and it is that one which must be asked.
    #[error("a primary uses it{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running {
        /// That primary's process, where it is known.
        pid: Option<u32>,
    },
    /// It cannot be used.
    #[error("{0}")]
    Failed(String),
}

/// What was found, as it is told.
struct Swept<'a> {
    state_dir: &'a Path,
    files: SweptFiles,
}

impl<'a> Swept<'a> {
    fn new(state_dir: &'a Path, dry_run: bool) -> Self {
        let files = SweptFiles {
            state_dir: state_dir.display().to_string(),
            dry_run,
            ..SweptFiles::default()
        };
        Self { state_dir, files }
    }

    fn gone(&mut self, one: &Surplus) {
        self.files.count += 1;
        self.files.bytes += one.bytes;
        if self.files.files.len() < SweptFiles::MOST {
            self.files.files.push(SweptFile {
                path: self.shown(&one.path),
                bytes: one.bytes,
                why: one.why.name().to_owned(),
            });
        }
    }

    fn stays(&mut self, path: &Path, error: &io::Error) {
        if self.files.failed.len() < SweptFiles::MOST_FAILED {
            let shown = self.shown(path);
            self.files.failed.push(format!("{shown}: {error}"));
        }
    }

    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(self.state_dir).unwrap_or(path);
        path.display().to_string()
    }
}

/// What nothing needs, in all directories.
fn list(state_dir: &Path, needs: &Needs<'_>) -> Result<Vec<Surplus>, (PathBuf, io::Error)> {
    let mut surplus = Vec::new();
    let mut look = |folder, dir: &Path| {
        of_folder(folder, dir, needs, &mut surplus).map_err(|error| (dir.to_owned(), error))
    };
    look(Folder::Top, state_dir)?;
    look(Folder::Revisions, &state_dir.join("revisions"))?;
    look(Folder::Components, &state_dir.join("components"))?;
    let artifacts = state_dir.join("artifacts");
    // A link to a cache that others may share.
    if !artifacts.is_symlink() {
        look(Folder::Artifacts, &artifacts)?;
    }
    let pools = state_dir.join("pools");
    for pool in names(&pools).map_err(|error| (pools.clone(), error))? {
        let pool = pools.join(pool);
        if pool.is_dir() && !pool.is_symlink() {
            look(Folder::Pools, &pool)?;
        }
    }
    Ok(surplus)
}

fn of_folder(
    folder: Folder,
    dir: &Path,
    needs: &Needs<'_>,
    surplus: &mut Vec<Surplus>,
) -> io::Result<()> {
    for name in names(dir)? {
        let Some(why) = name.to_str().and_then(|name| unneeded(folder, name, needs)) else {
            continue;
        };
        let path = dir.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(found) => surplus.push(Surplus {
                folder,
                path,
                // What has another name as well takes no room here.
                bytes: if found.nlink() > 1 { 0 } else { found.len() },
                why,
            }),
            // Gone since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names in a directory, in order; none if it is not there.
fn names(dir: &Path) -> io::Result<BTreeSet<std::ffi::OsString>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

fn key_of(one: &Surplus) -> Option<(String, String)> {
    let name = one.path.file_name()?.to_str()?;
    let entry = Entry::of(name).filter(|_| one.folder == Folder::Artifacts)?;
    Some((entry.digest.to_owned(), entry.fingerprint.to_owned()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // What was moved aside may be one, and is deleted only if it is empty.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use skep_core::AppName;
    use skep_core::history::History;

    use super::*;
    use crate::state_dir::once_free;

    #[test]
    fn a_state_directory_is_swept_of_what_nothing_needs() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path();
        let store = Store::open(state_dir).unwrap();
        let digest = |of: u8| format!("{of:064x}");
        let mut history = History::new();
        let one = history.begin(digest(1), "/x".into(), 1);
        history.live(one);
        let two = history.begin(digest(2), "/x".into(), 1);
        history.rejected(two, "no".into());
        store.save(&AppName::new("a").unwrap(), &history).unwrap();
        let put = |name: String| {
            let path = state_dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [7; 100]).unwrap();
        };
        for of in [1, 2, 3] {
            put(format!("components/{}.wasm", digest(of)));
            for extension in ["cwasm", "json", "lock"] {
                put(format!("artifacts/{}-0a.{extension}", digest(of)));
            }
            put(format!("pools/default/{}.cwasm", digest(of)));
        }
        put("components/.tmpX.tmp".to_owned());
        put("components/hello.wasm".to_owned());
        put("revisions/a.json.broken-1".to_owned());
        put("artifacts/.tmpX".to_owned());

        let alone = |dry_run| {
            once_free(
                || sweep_alone(state_dir, dry_run),
                |error| matches!(error, SweepError::Running { .. }),
            )
        };
        let found = alone(true).unwrap();
        assert_eq!((found.count, found.bytes), (2 * 4 + 1 + 3 + 3, 1500));
        assert!(found.dry_run && found.failed.is_empty(), "{found:?}");
        let gone = alone(false).unwrap();
        assert_eq!((gone.count, gone.bytes), (found.count, found.bytes));
        assert_eq!(alone(false).unwrap().count, 0);
        let left = [
            format!("components/{}.wasm", digest(1)),
            "components/hello.wasm".to_owned(),
            format!("artifacts/{}-0a.cwasm", digest(1)),
            format!("artifacts/{}-0a.json", digest(1)),
            "revisions/a.json".to_owned(),
        ];
        for name in &left {
            assert!(state_dir.join(name).exists(), "{name}");
        }
        let count = |name: &str| names(&state_dir.join(name)).unwrap().len();
        assert_eq!((count("components"), count("artifacts")), (2, 2));

        // What might refer to anything keeps everything.
        put(format!("components/{}.wasm", digest(3)));
        fs::write(state_dir.join("revisions/b.json"), "{").unwrap();
        assert!(matches!(alone(false), Err(SweepError::Failed(_))));
        assert_eq!(count("components"), 3);
        let none = dir.path().join("none");
        assert_eq!(sweep_alone(&none, false).unwrap().count, 0);
        assert!(!none.exists());
    }
}
