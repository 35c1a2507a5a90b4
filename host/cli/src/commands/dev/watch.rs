//! Noticing that sources change: which paths count, and when a burst of
//! changes is over.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// Directories watched at most; a directory tree beyond that is not one
/// project, and the kernel's own limit may be as low as 8192.
const MAX_DIRECTORIES: usize = 4096;

/// Watches sources or one file.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    changes: Arc<Notify>,
    watched: HashSet<PathBuf>,
    roots: Vec<PathBuf>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches the sources in the directories that are [`Self::add`]ed.
    pub(super) fn sources() -> notify::Result<Self> {
        Self::new(is_source)
    }

    /// Watches one file, which may be replaced or missing for a while.
    pub(super) fn file(file: PathBuf) -> notify::Result<Self> {
        let dir = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let mut watch = Self::new(move |path| path == file)?;
        watch.watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        Ok(watch)
    }

    fn new(counts: impl Fn(&Path) -> bool + Send + 'static) -> notify::Result<Self> {
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
            roots: Vec::new(),
        })
    }

    /// Watches these directories and what is in them. What was watched before
    /// stays so; directories that are new since then are added.
    pub(super) fn add(&mut self, roots: &[PathBuf]) {
        for root in roots {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
            }
        }
        let mut next = self.roots.clone();
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
            let entries = dir.read_dir().into_iter().flatten().flatten();
            next.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path())
                    .filter(|path| is_source(path)),
            );
        }
    }

    /// Waits for a change, and then for the end of the burst that it is part
    /// of. Changes since the last call count.
    pub(super) async fn changed(&mut self) {
        self.changes.notified().await;
        let end = Instant::now() + LONGEST_BURST;
        let burst = async { while timeout(QUIET, self.changes.notified()).await.is_ok() {} };
        let _ = timeout_at(end, burst).await;
        // Directories made in the burst; their first files may be older than
        // the watch on them, but not than the build that follows.
        self.add(&[]);
    }
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
            assert_eq!(watch.watched.len(), 2);
            fs::write(at("src/lib.rs"), "1").unwrap();
            watch.changed().await;
            fs::create_dir_all(at("src/deep/er")).unwrap();
            watch.changed().await;
            assert_eq!(watch.watched.len(), 4);
            fs::write(at("src/deep/er/x.rs"), "1").unwrap();
            watch.changed().await;
        });
    }

    #[test]
    fn one_file_is_watched_through_its_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        block_on(async {
            let mut watch = Watch::file(file.clone()).unwrap();
            fs::write(&file, "1").unwrap();
            watch.changed().await;
            let new = dir.path().join("new");
            fs::write(&new, "2").unwrap();
            fs::rename(&new, &file).unwrap();
            watch.changed().await;
        });
    }
}
