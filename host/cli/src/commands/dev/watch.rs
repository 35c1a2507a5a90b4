//! Noticing that sources change: which paths count, and when a burst of
//! changes is over.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// Quiet after the last change before a build begins: editors write a file in
/// several steps, and checking out a branch writes many.
const QUIET: Duration = Duration::from_millis(100);

/// The longest that a stream of changes puts a build off.
const LONGEST_BURST: Duration = Duration::from_secs(2);

/// Directories that hold what is made or fetched, not what is written.
const NOT_SOURCES: [&str; 8] = [
    "target",
    "node_modules",
    "dist",
    "build",
    "__pycache__",
    "venv",
    "pkg",
    "out",
];

/// Files looked at for a change, for the same reason.
const MAX_FILES: usize = 50_000;

/// Directories watched at most; a directory tree beyond that is not one
/// project, and the kernel's own limit may be as low as 8192.
const MAX_DIRECTORIES: usize = 4096;

/// Links of a path that are followed at most: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Watches sources or one file.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    changes: Arc<Notify>,
    watched: HashSet<PathBuf>,
    subject: Subject,
    /// The state of each root, or of the file, when it was made into what is served.
    taken: HashMap<PathBuf, u64>,
}

/// What is watched.
#[derive(Debug)]
enum Subject {
    /// Sources in these directories.
    Sources(Vec<PathBuf>),
    /// One file, and every part of its path by which it could become another one.
    File {
        file: PathBuf,
        parts: Arc<Mutex<HashSet<PathBuf>>>,
    },
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches the sources in the directories that are [`Self::add`]ed.
    pub(super) fn sources() -> notify::Result<Self> {
        Self::new(Subject::Sources(Vec::new()), is_source)
    }

    /// Watches one file, which may be replaced or missing for a while, and whose path
    /// may lead through links that are set to something else.
    pub(super) fn file(file: PathBuf) -> notify::Result<Self> {
        let parts = Arc::<Mutex<HashSet<PathBuf>>>::default();
        let counts = {
            let parts = Arc::clone(&parts);
            move |path: &Path| held(&parts).contains(path)
        };
        let dir = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let mut watch = Self::new(Subject::File { file, parts }, counts)?;
        watch.watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        watch.follow();
        Ok(watch)
    }

    fn new(
        subject: Subject,
        counts: impl Fn(&Path) -> bool + Send + 'static,
    ) -> notify::Result<Self> {
        let changes = Arc::new(Notify::new());
        let told = Arc::clone(&changes);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error means that events were lost: better once too often.
            let counts = event.map_or(true, |event| {
                is_change(event.kind) && event.paths.iter().any(|path| counts(path))
            });
            if counts {
                told.notify_one();
            }
        })?;
        Ok(Self {
            watcher,
            changes,
            watched: HashSet::new(),
            subject,
            taken: HashMap::new(),
        })
    }

    /// Watches these directories and what is in them. What was watched before
    /// stays so; directories that are new since then are added.
    pub(super) fn add(&mut self, roots: &[PathBuf]) {
        let Subject::Sources(known) = &mut self.subject else {
            return;
        };
        for root in roots {
            if !known.contains(root) {
                known.push(root.clone());
                self.taken.insert(root.clone(), state_of_tree(root));
            }
        }
        let mut next = known.clone();
        while let Some(dir) = next.pop() {
            if self.watched.len() >= MAX_DIRECTORIES {
                return;
            }
            // A directory that is gone, or the kernel's limit: what is watched
            // already still is, and `skep doctor` speaks of the limit.
            if !self.watched.contains(&dir)
                && self
                    .watcher
                    .watch(&dir, RecursiveMode::NonRecursive)
                    .is_ok()
            {
                self.watched.insert(dir.clone());
            }
            next.extend(directories(&dir));
        }
    }

    /// Watches every directory in which a part of the file's path stands.
    fn follow(&mut self) {
        let Subject::File { file, parts } = &self.subject else {
            return;
        };
        let now = parts_of(file);
        let dirs: HashSet<_> = now.iter().filter_map(|part| part.parent()).collect();
        for dir in dirs {
            // Again, too: it may be another one of the same name. One that cannot be
            // watched, for want of permission, is not ours to change either.
            let _ = self.watcher.watch(dir, RecursiveMode::NonRecursive);
        }
        *held(parts) = now;
    }

    /// Takes what is there now for known: the next change is one from here on.
    pub(super) fn take(&mut self) {
        self.taken = self.states();
    }

    /// Numbers that change with what is watched.
    fn states(&self) -> HashMap<PathBuf, u64> {
        match &self.subject {
            Subject::File { file, .. } => HashMap::from([(file.clone(), state_of_file(file))]),
            Subject::Sources(roots) => {
                let states = roots.iter().map(|root| (root.clone(), state_of_tree(root)));
                states.collect()
            }
        }
    }

    /// Waits for a change of what was [`Self::take`]n, and then for the end of the burst
    /// that it is part of. What a build leaves in passing is none.
    pub(super) async fn changed(&mut self) {
        loop {
            self.changes.notified().await;
            let end = Instant::now() + LONGEST_BURST;
            let burst = async { while timeout(QUIET, self.changes.notified()).await.is_ok() {} };
            let _ = timeout_at(end, burst).await;
            // Directories made in the burst; their first files may be older than
            // the watch on them, but not than the build that follows.
            self.add(&[]);
            self.follow();
            if self.states() != self.taken {
                return;
            }
        }
    }
}

fn held(parts: &Mutex<HashSet<PathBuf>>) -> MutexGuard<'_, HashSet<PathBuf>> {
    // Whole at every step.
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Directories of sources in a directory.
fn directories(dir: &Path) -> impl Iterator<Item = PathBuf> {
    entries(dir, std::fs::FileType::is_dir)
}

/// Files of sources in a directory.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    entries(dir, |kind| !kind.is_dir())
}

fn entries(
    dir: &Path,
    wanted: impl Fn(&std::fs::FileType) -> bool,
) -> impl Iterator<Item = PathBuf> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    entries
        .filter(move |entry| entry.file_type().is_ok_and(|kind| wanted(&kind)))
        .map(|entry| entry.path())
        .filter(|path| is_source(path))
}

fn state_of_file(file: &Path) -> u64 {
    let mut state = DefaultHasher::new();
    hash_file(file, &mut state);
    state.finish()
}

/// A number that changes with the names, sizes and times of the sources in a directory.
fn state_of_tree(root: &Path) -> u64 {
    let mut state = DefaultHasher::new();
    let mut left = MAX_FILES;
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        for file in sorted(files(&dir), &mut left) {
            hash_file(&file, &mut state);
        }
        next.extend(sorted(directories(&dir), &mut left));
    }
    state.finish()
}

fn sorted(paths: impl Iterator<Item = PathBuf>, left: &mut usize) -> Vec<PathBuf> {
    let mut paths: Vec<_> = paths.take(*left).collect();
    *left -= paths.len();
    paths.sort_unstable();
    paths
}

fn hash_file(file: &Path, state: &mut impl Hasher) {
    file.hash(state);
    if let Ok(found) = std::fs::metadata(file) {
        (found.dev(), found.ino(), found.len()).hash(state);
        (found.mtime(), found.mtime_nsec()).hash(state);
    }
}

/// Every part of a path, and of the paths that links in it lead to: what is to be
/// looked at to know that the path leads to another file.
fn parts_of(file: &Path) -> HashSet<PathBuf> {
    let mut parts = HashSet::new();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut rest: Vec<_> = file.components().rev().map(owned).collect();
    while let Some(part) = rest.pop() {
        let path = at.join(&part);
        if part == ".." {
            at.pop();
            continue;
        }
        if part == "/" || part == "." {
            at = path;
            continue;
        }
        parts.insert(path.clone());
        match path.read_link() {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                rest.extend(target.components().rev().map(owned));
            }
            _ => at = path,
        }
    }
    parts
}

fn owned(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
        EventKind::Modify(what) => !matches!(
            what,
            // Reading a file changes its access time.
            notify::event::ModifyKind::Metadata(_)
        ),
        EventKind::Access(_) => false,
    }
}

/// Whether a path may be a source, by its last part: directories that are
/// none are not watched, so what is in them never gets here.
fn is_source(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return true;
    };
    let is_hidden = name.starts_with('.');
    let is_editors = name.ends_with('~') || name.starts_with('#') || name == "4913";
    let is_made = NOT_SOURCES.contains(&name) || name == "Cargo.lock" || name.ends_with(".wasm");
    !(is_hidden || is_editors || is_made)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_made_is_no_source() {
        for source in [
            "src/lib.rs",
            "wit/world.wit",
            "Cargo.toml",
            "skep.toml",
            "app.py",
            "a",
        ] {
            assert!(is_source(Path::new(source)), "{source}");
        }
        for other in [
            "target",
            ".git",
            ".skep",
            "node_modules",
            "src/.lib.rs.swp",
            "src/lib.rs~",
            "4913",
            "Cargo.lock",
            "app.wasm",
            "__pycache__",
        ] {
            assert!(!is_source(Path::new(other)), "{other}");
        }
    }

    /// Far longer than any event takes; only a failing test waits for it.
    const LONG: Duration = Duration::from_secs(20);

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async { timeout(LONG, future).await.unwrap() })
    }

    #[test]
    fn changes_in_sources_and_in_new_directories_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("src")).unwrap();
        fs::create_dir_all(at("target/deep")).unwrap();
        block_on(async {
            let mut watch = Watch::sources().unwrap();
            watch.add(&[dir.path().to_owned()]);
            watch.take();
            assert_eq!(watch.watched.len(), 2);
            fs::write(at("src/lib.rs"), "1").unwrap();
            watch.changed().await;
            fs::create_dir_all(at("src/deep/er")).unwrap();
            fs::write(at("src/deep/er/x.rs"), "1").unwrap();
            watch.take();
            watch.add(&[]);
            assert_eq!(watch.watched.len(), 4);
            fs::write(at("src/deep/er/x.rs"), "22").unwrap();
            watch.changed().await;
        });
    }

    #[test]
    fn what_a_build_leaves_in_passing_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::write(at("lib.rs"), "1").unwrap();
        block_on(async {
            let mut watch = Watch::sources().unwrap();
            watch.add(&[dir.path().to_owned()]);
            watch.take();
            // As cargo makes its target directory.
            fs::create_dir(at("targetXYZ")).unwrap();
            fs::rename(at("targetXYZ"), at("target")).unwrap();
            assert!(
                timeout(QUIET * 5, watch.changed()).await.is_err(),
                "nothing has changed"
            );
            fs::write(at("lib.rs"), "22").unwrap();
            watch.changed().await;
        });
    }

    #[test]
    fn one_file_is_watched_through_its_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        block_on(async {
            let mut watch = Watch::file(file.clone()).unwrap();
            watch.take();
            fs::write(&file, "1").unwrap();
            watch.changed().await;
            watch.take();
            let new = dir.path().join("new");
            fs::write(&new, "2").unwrap();
            fs::rename(&new, &file).unwrap();
            watch.changed().await;
        });
    }

    #[test]
    fn one_file_is_watched_through_every_link_on_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for version in ["v1", "v2", "v3"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.wasm"), version).unwrap();
        }
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, at("new")).unwrap();
            fs::rename(at("new"), at(name)).unwrap();
        };
        // As Kubernetes has it.
        link("v1", "..data");
        link("..data/a.wasm", "a.wasm");
        block_on(async {
            let mut watch = Watch::file(at("a.wasm")).unwrap();
            for version in ["v2", "v3", "v1"] {
                watch.take();
                link(version, "..data");
                watch.changed().await;
            }
            watch.take();
            // What it leads to now, in its place there.
            fs::write(at("v1/a.wasm"), "another").unwrap();
            watch.changed().await;
            watch.take();
            // The directory itself.
            fs::create_dir(at("other")).unwrap();
            fs::write(at("other/a.wasm"), "other").unwrap();
            fs::rename(at("v1"), at("gone")).unwrap();
            fs::rename(at("other"), at("v1")).unwrap();
            watch.changed().await;
        });
    }
}
