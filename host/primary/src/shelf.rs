//! Where workers open their artifacts: a folder for each pool, of which they see
//! no other.
//!
//! Links and unlinks wait for the disk, so a thread of its own does them, one
//! after the other. A message that carries a descriptor which is still to be
//! opened waits for it in its worker's task (`process`); the loop waits for none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use skep_core::PoolName;
use skep_sys::folder;
use tokio::sync::{oneshot, watch};

use crate::artifacts::Digest;

/// The folders of all pools. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    path: Arc<Path>,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// One pool's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// As it is, for what works in it.
    now: Arc<Mutex<Arc<OwnedFd>>>,
    /// What workers are given, who open artifacts in it and nowhere else.
    fd: Descriptor,
    jobs: mpsc::Sender<Job>,
    /// Artifacts that are there, or soon will be.
    opened: BTreeMap<Digest, Opened>,
}

#[derive(Debug)]
struct Opened {
    /// As the cache has it.
    original: Arc<OwnedFd>,
    /// As the pool's workers may open it.
    here: Descriptor,
}

/// A descriptor that goes with a message.
#[derive(Clone, Debug)]
pub(crate) enum Descriptor {
    Open(Arc<OwnedFd>),
    /// It is being opened.
    Opening(watch::Receiver<Option<Arc<OwnedFd>>>),
}

impl From<Arc<OwnedFd>> for Descriptor {
    fn from(fd: Arc<OwnedFd>) -> Self {
        Self::Open(fd)
    }
}

impl Descriptor {
    /// The descriptor, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Self::Open(fd) => Some(Arc::clone(fd)),
            Self::Opening(coming) => coming.borrow().clone(),
        }
    }

    /// Whether it could not be opened, and never will be.
    fn is_lost(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::Opening(coming) => coming.borrow().is_none() && coming.has_changed().is_err(),
        }
    }

    /// Waits until it is open. That is never if its disk does not answer or refuses:
    /// the supervisor ends the worker that waits.
    pub(crate) async fn opened(&mut self) {
        if let Self::Opening(coming) = self
            && coming.wait_for(Option::is_some).await.is_err()
        {
            // Whoever was to open it could not.
            std::future::pending::<()>().await;
        }
    }
}

impl Shelf {
    /// The folders below `path`, and the thread that works in them. What an
    /// earlier primary has left there goes first: nobody has it open by its name.
    pub(crate) fn new(path: PathBuf) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let left = path.clone();
        std::thread::spawn(move || {
            let _ = fs::remove_dir_all(left);
            for job in inbox {
                job();
            }
        });
        Self {
            path: path.into(),
            jobs,
        }
    }

    /// The folder that a pool's workers may open artifacts in.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub(crate) async fn folder(&self, pool: &PoolName) -> io::Result<Folder> {
        let path = self.path.join(pool.as_str());
        let (told, made) = oneshot::channel();
        let wanted = path.clone();
        let job = Box::new(move || {
            // Nobody may wait any more.
            let _ = told.send(create(&wanted));
        });
        let ended = |_| io::Error::other("skep is ending");
        self.jobs.send(job).map_err(|_| ended(()))?;
        let fd = Arc::new(made.await.map_err(|_| ended(()))??);
        Ok(Folder {
            path,
            now: Arc::new(Mutex::new(Arc::clone(&fd))),
            fd: fd.into(),
            jobs: self.jobs.clone(),
            opened: BTreeMap::new(),
        })
    }
}

impl Folder {
    /// The folder itself, for a worker that is born. One that somebody has removed
    /// is made again: workers that run have the old one, and open in it what they
    /// have already.
    pub(crate) fn fd(&mut self) -> Descriptor {
        let gone = match self.fd.get() {
            Some(fd) => folder::is_gone(fd.as_fd()),
            None => self.fd.is_lost(),
        };
        if gone {
            let (told, coming) = watch::channel(None);
            let (path, now) = (self.path.clone(), Arc::clone(&self.now));
            // Without the thread it never is open, and skep is ending.
            let _ = self.jobs.send(Box::new(move || {
                // A worker without it does not start, and the next one tries again.
                if let Ok(fd) = create(&path) {
                    let fd = Arc::new(fd);
                    *locked(&now) = Arc::clone(&fd);
                    let _ = told.send(Some(fd));
                }
            }));
            self.fd = Descriptor::Opening(coming);
            self.opened.clear();
        }
        self.fd.clone()
    }

    /// An artifact, opened in this folder. Where that cannot be it is the one of
    /// the cache: a worker cannot map what is not in its folder, and says so.
    pub(crate) fn open(&mut self, component: Digest, original: Arc<OwnedFd>) -> Descriptor {
        if let Some(found) = self.opened.get(&component)
            && folder::is_same(found.original.as_fd(), original.as_fd())
            && !found.has_failed()
        {
            // Opened again, perhaps: on a disk that cannot be written to what is here
            // is all that there is.
            return found.here.clone();
        }
        let (told, coming) = watch::channel(None);
        let (folder, name) = (Arc::clone(&self.now), name_of(component));
        let source = Arc::clone(&original);
        // Without the thread it never is open, and skep is ending.
        let _ = self.jobs.send(Box::new(move || {
            let folder = Arc::clone(&locked(&folder));
            // Workers are somebody else, and open it by its descriptor.
            let here = folder::make_readable(source.as_fd())
                .and_then(|()| folder::link_and_open(folder.as_fd(), &name, source.as_fd()));
            let _ = told.send(Some(here.map_or(source, Arc::new)));
        }));
        let here = Descriptor::Opening(coming);
        let opened = Opened {
            original,
            here: here.clone(),
        };
        self.opened.insert(component, opened);
        here
    }

    /// Removes the artifacts of all but these components.
    pub(crate) fn keep_only(&mut self, components: &BTreeSet<Digest>) {
        let (folder, jobs) = (&self.now, &self.jobs);
        self.opened.retain(|component, _| {
            let keep = components.contains(component);
            if !keep {
                let (folder, name) = (Arc::clone(folder), name_of(*component));
                let _ = jobs.send(Box::new(move || {
                    let folder = Arc::clone(&locked(&folder));
                    // One that stays there is of no use to anybody.
                    let _ = folder::remove(folder.as_fd(), &name);
                }));
            }
            keep
        });
    }
}

impl Opened {
    fn has_failed(&self) -> bool {
        let here = self.here.get();
        here.is_some_and(|here| Arc::ptr_eq(&here, &self.original))
    }
}

/// Makes a pool's folder, and the one of all pools if that is not there.
fn create(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        folder::create(parent)?;
    }
    folder::create(path)
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole at every step.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(component: Digest) -> String {
    format!("{component}.cwasm")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn digest(byte: char) -> Digest {
        byte.to_string().repeat(64).parse().unwrap()
    }

    async fn folder_in(dir: &Path) -> (Shelf, Folder) {
        let shelf = Shelf::new(dir.join("pools"));
        let folder = shelf.folder(&PoolName::new("p").unwrap()).await.unwrap();
        (shelf, folder)
    }

    fn file_in(dir: &Path, name: &str) -> Arc<OwnedFd> {
        fs::write(dir.join(name), name).unwrap();
        Arc::new(File::open(dir.join(name)).unwrap().into())
    }

    async fn open(descriptor: &mut Descriptor) -> Arc<OwnedFd> {
        timeout(LONG, descriptor.opened()).await.unwrap();
        descriptor.get().unwrap()
    }

    #[tokio::test]
    async fn artifacts_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (_shelf, mut folder) = folder_in(dir.path()).await;
        let (a, b) = (file_in(dir.path(), "a"), file_in(dir.path(), "b"));
        let first = open(&mut folder.open(digest('a'), Arc::clone(&a))).await;
        assert!(!Arc::ptr_eq(&first, &a));
        // The same is opened once, and another one of the same name anew.
        let again = open(&mut folder.open(digest('a'), a)).await;
        assert!(Arc::ptr_eq(&first, &again));
        let other = open(&mut folder.open(digest('a'), Arc::clone(&b))).await;
        assert!(!Arc::ptr_eq(&first, &other));
        let there = dir.path().join("pools/p").join(name_of(digest('a')));
        assert_eq!(fs::read_to_string(&there).unwrap(), "b");
        folder.keep_only(&BTreeSet::new());
        // Done in order, so it is gone once this is there.
        open(&mut folder.open(digest('b'), b)).await;
        assert!(!there.exists());
    }

    #[tokio::test]
    async fn who_needs_what_a_hung_disk_has_waits_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, mut folder) = folder_in(dir.path()).await;
        let (hangs, hung) = mpsc::channel::<()>();
        shelf
            .jobs
            .send(Box::new(move || {
                let _ = hung.recv();
            }))
            .unwrap();
        let mut descriptor = folder.open(digest('a'), file_in(dir.path(), "a"));
        folder.keep_only(&BTreeSet::from([digest('a')]));
        // Asking for it, and for anything else, returned.
        assert!(descriptor.get().is_none());
        drop(hangs);
        open(&mut descriptor).await;
    }

    #[tokio::test]
    async fn a_folder_that_was_removed_is_there_again_for_whoever_is_born() {
        let dir = tempfile::tempdir().unwrap();
        let (_shelf, mut folder) = folder_in(dir.path()).await;
        let before = open(&mut folder.fd()).await;
        let file = file_in(dir.path(), "a");
        open(&mut folder.open(digest('a'), Arc::clone(&file))).await;
        fs::remove_dir_all(dir.path().join("pools")).unwrap();
        let after = open(&mut folder.fd()).await;
        assert!(!Arc::ptr_eq(&before, &after));
        let here = open(&mut folder.open(digest('a'), Arc::clone(&file))).await;
        assert!(!Arc::ptr_eq(&here, &file));
        let there = dir.path().join("pools/p").join(name_of(digest('a')));
        assert!(there.exists());
        let again = open(&mut folder.fd()).await;
        assert!(Arc::ptr_eq(&after, &again));
    }

    #[tokio::test]
    async fn what_cannot_be_linked_is_the_original_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_shelf, mut folder) = folder_in(dir.path()).await;
        let file = file_in(dir.path(), "a");
        let there = dir.path().join("pools/p").join(name_of(digest('a')));
        fs::create_dir(&there).unwrap();
        let here = open(&mut folder.open(digest('a'), Arc::clone(&file))).await;
        assert!(Arc::ptr_eq(&here, &file));
        fs::remove_dir(&there).unwrap();
        let here = open(&mut folder.open(digest('a'), Arc::clone(&file))).await;
        assert!(!Arc::ptr_eq(&here, &file));
    }
}
