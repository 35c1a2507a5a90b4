//! From the components that apps name to artifacts that workers can load.
//!
//! Responsible for compiling each distinct component once, over all apps, all
//! processes and all starts, and for saying of every app that cannot be served
//! why. Compiling itself happens in builders; not a byte of a component or an
//! artifact is interpreted here.

mod builder;
mod cache;
mod component;
mod digest;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use skep_core::{AppName, AppSpec, FleetSpec, LogLevel};
use skep_wire::Refusal;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use self::builder::{Build, BuilderProcesses, COMPILE_DEADLINE};
use self::cache::{Lookup, StoreError, is_fingerprint};
use self::component::Component;
use crate::aside::{Reading, aside};
use crate::log::Log;
use crate::sweep::Sweeper;

pub(crate) use self::cache::{Artifact, Cache, Key};
pub(crate) use self::digest::Digest;

/// Builders at one time. Each may use a core and some GiB of memory, and while
/// they run a fleet may be serving beside them.
const BUILDERS: usize = 2;

/// How long another process may take to build what we need: its compilation
/// and what comes before and after.
const LOCK_DEADLINE: Duration = COMPILE_DEADLINE.saturating_add(Duration::from_secs(30));

/// How long finding or building one artifact may take at most.
pub(crate) const MAKE_DEADLINE: Duration = LOCK_DEADLINE.saturating_add(COMPILE_DEADLINE);

/// The artifact of each app.
pub(crate) type Artifacts = BTreeMap<AppName, Arc<Artifact>>;

/// Why there are no artifacts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactsError {
    /// The cache's directory cannot be used.
    #[error("cannot use the artifact cache in {dir}")]
    Dir {
        /// The state directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Builders do not work at all.
    #[error("{}", .0.problem)]
    Builder(Refusal),
    /// Components cannot be served; every one of them is named.
    #[error("{} components cannot be served", .0.len())]
    Refused(BTreeMap<AppName, Refusal>),
}

/// Where artifacts are found or built, for as long as the primary lives.
pub(crate) type Workshop = Works<BuilderProcesses>;

impl Workshop {
    /// Opens the artifact cache and asks a builder for its fingerprint.
    ///
    /// # Errors
    ///
    /// [`ArtifactsError::Dir`] and [`ArtifactsError::Builder`].
    pub(crate) async fn open(state_dir: &Path, log: &Log) -> Result<Arc<Self>, ArtifactsError> {
        let builder = BuilderProcesses {
            deadline: COMPILE_DEADLINE,
            log: log.clone(),
            others_serve: Arc::default(),
        };
        let cache = Cache::open(state_dir).map_err(unusable(state_dir))?;
        Self::with(builder, cache, log).await
    }

    /// Opens a cache in `dir` that finds what is in that of `state_dir` as well,
    /// and changes nothing there.
    ///
    /// # Errors
    ///
    /// As [`Workshop::open`].
    pub(crate) async fn beside(
        dir: &Path,
        state_dir: &Path,
        log: &Log,
    ) -> Result<Arc<Self>, ArtifactsError> {
        let builder = BuilderProcesses {
            deadline: COMPILE_DEADLINE,
            log: log.clone(),
            others_serve: Arc::new(true.into()),
        };
        let cache = Cache::beside(dir, state_dir).map_err(unusable(dir))?;
        Self::with(builder, cache, log).await
    }

    /// What is built from now on is built while others serve.
    pub(crate) fn others_serve(&self) {
        self.builder.others_serve.store(true, Relaxed);
    }
}

fn unusable(dir: &Path) -> impl FnOnce(io::Error) -> ArtifactsError {
    let dir = dir.to_owned();
    move |source| ArtifactsError::Dir { dir, source }
}

impl<B: Build + Send + Sync + 'static> Works<B> {
    async fn with(builder: B, cache: Cache, log: &Log) -> Result<Arc<Self>, ArtifactsError> {
        let fingerprint = builder
            .fingerprint()
            .await
            .map_err(ArtifactsError::Builder)?;
        if !is_fingerprint(&fingerprint) {
            return Err(ArtifactsError::Builder(Refusal {
                problem: "the compiler's fingerprint is none".to_owned(),
                hint: None,
            }));
        }
        Ok(Arc::new(Self {
            cache,
            builder,
            fingerprint,
            builders: Semaphore::new(BUILDERS),
            log: log.clone(),
        }))
    }

    /// Finds or builds the artifact of one component.
    ///
    /// # Errors
    ///
    /// Why it cannot be served.
    pub(crate) async fn make(&self, path: PathBuf) -> Result<Arc<Artifact>, Refusal> {
        let file = path.clone();
        let component = read(&path, move || Component::open(&file)).await?;
        self.obtain(component, &path).await.map(Arc::new)
    }

    /// Verifies the artifact of a component again, and builds it again from one
    /// of `sources` if it is not what it should be. Says whether it did.
    ///
    /// # Errors
    ///
    /// Why it cannot be built.
    pub(crate) async fn verify(
        &self,
        component: Digest,
        sources: Vec<PathBuf>,
    ) -> Result<(Arc<Artifact>, bool), Refusal> {
        let key = Key::new(component, &self.fingerprint);
        if let Lookup::Hit(artifact) = self.lookup(&key).await {
            return Ok((Arc::new(artifact), false));
        }
        let mut refusal = Refusal {
            problem: "its component is not kept".to_owned(),
            hint: None,
        };
        for source in sources {
            match self.make(source).await {
                Ok(artifact) if artifact.component == component => return Ok((artifact, true)),
                // Another component has its place by now.
                Ok(_) => {}
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    /// What sweeps what is not needed of its artifacts any more. Workers that have
    /// one loaded keep it.
    pub(crate) fn sweeper(&self) -> Sweeper {
        Sweeper {
            cache: self.cache.clone(),
            fingerprint: Some(self.fingerprint.clone()),
        }
    }

    /// Finds or builds the artifacts of the components of these apps, each
    /// distinct component once. Nothing is left running.
    pub(crate) async fn make_all(self: &Arc<Self>, wanted: &BTreeMap<AppName, PathBuf>) -> Made {
        let sources = open_all(wanted.values()).await;
        let mut jobs = JoinSet::new();
        let mut components = BTreeMap::new();
        for (path, opened) in &sources.by_path {
            if let Ok(digest) = opened {
                components.entry(*digest).or_insert_with(|| path.clone());
            }
        }
        for (digest, component) in sources.distinct {
            let works = self.clone();
            let path = components[&digest].clone();
            jobs.spawn(async move { (digest, works.obtain(component, &path).await) });
        }
        let mut artifacts = BTreeMap::new();
        while let Some(done) = jobs.join_next().await {
            let (digest, artifact) = done.expect("jobs do not panic and are not aborted");
            artifacts.insert(digest, artifact.map(Arc::new));
        }

        let mut made = Made::default();
        for (name, component) in wanted {
            let artifact = match &sources.by_path[component] {
                Ok(digest) => artifacts[digest].clone(),
                Err(refusal) => Err(refusal.clone()),
            };
            match artifact {
                Ok(artifact) => drop(made.artifacts.insert(name.clone(), artifact)),
                Err(refusal) => drop(made.refused.insert(name.clone(), refusal)),
            }
        }
        made
    }
}

/// What came of the components of several apps.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Those that can be served.
    pub(crate) artifacts: Artifacts,
    /// Those that cannot, and why.
    pub(crate) refused: BTreeMap<AppName, Refusal>,
}

impl Made {
    /// The artifacts, if all can be served.
    ///
    /// # Errors
    ///
    /// [`ArtifactsError::Refused`].
    pub(crate) fn all(self) -> Result<Artifacts, ArtifactsError> {
        if self.refused.is_empty() {
            Ok(self.artifacts)
        } else {
            Err(ArtifactsError::Refused(self.refused))
        }
    }
}

/// The component that each app names.
pub(crate) fn components_of(spec: &FleetSpec) -> BTreeMap<AppName, PathBuf> {
    let component = |(name, app): (&AppName, &AppSpec)| (name.clone(), app.component.clone());
    spec.apps.iter().map(component).collect()
}

/// The components of a specification, each read once.
struct Sources {
    by_path: BTreeMap<PathBuf, Result<Digest, Refusal>>,
    distinct: BTreeMap<Digest, Component>,
}

async fn open_all(wanted: impl Iterator<Item = &PathBuf>) -> Sources {
    let mut sources = Sources {
        by_path: BTreeMap::new(),
        distinct: BTreeMap::new(),
    };
    for component in wanted {
        if sources.by_path.contains_key(component) {
            continue;
        }
        let path = component.clone();
        let opened = read(&path.clone(), move || Component::open(&path)).await;
        let digest = opened.map(|component| {
            let digest = component.digest();
            sources.distinct.entry(digest).or_insert(component);
            digest
        });
        sources.by_path.insert(component.clone(), digest);
    }
    sources
}

/// What all jobs share.
#[derive(Debug)]
pub(crate) struct Works<B> {
    cache: Cache,
    builder: B,
    fingerprint: String,
    builders: Semaphore,
    log: Log,
}

impl<B: Build> Works<B> {
    async fn obtain(&self, component: Component, path: &Path) -> Result<Artifact, Refusal> {
        let key = Key::new(component.digest(), &self.fingerprint);
        // Without the lock first: the common case waits for nobody.
        if let Lookup::Hit(artifact) = self.lookup(&key).await {
            return Ok(artifact);
        }
        let _permit = self
            .builders
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let lock = {
            let (cache, key) = (self.cache.clone(), key.clone());
            timeout(LOCK_DEADLINE, spawn_blocking(move || cache.lock(&key))).await
        };
        let _lock = match lock {
            Ok(locked) => locked
                .expect("locking does not panic")
                .map_err(|error| unstorable(self.cache.dir(), &error))?,
            Err(_) => {
                return Err(Refusal {
                    problem: format!(
                        "another process has been compiling it for more than {} s",
                        LOCK_DEADLINE.as_secs()
                    ),
                    hint: None,
                });
            }
        };
        match self.lookup(&key).await {
            Lookup::Hit(artifact) => return Ok(artifact),
            Lookup::Absent => {}
            Lookup::Broken(why) => {
                self.log.record(LogLevel::Warn, "artifact.rebuilding", |r| {
                    r.text("component", &path.to_string_lossy())
                        .text("reason", &why)
                });
                self.cache
                    .remove(&key)
                    .map_err(|error| unstorable(self.cache.dir(), &error))?;
            }
        }
        self.build(&key, component, path).await
    }

    async fn lookup(&self, key: &Key) -> Lookup {
        let (cache, key) = (self.cache.clone(), key.clone());
        blocking(move || cache.lookup(&key)).await
    }

    /// Builds an entry. Only while its lock is held.
    async fn build(
        &self,
        key: &Key,
        mut component: Component,
        path: &Path,
    ) -> Result<Artifact, Refusal> {
        let started = Instant::now();
        self.log.record(LogLevel::Info, "artifact.compiling", |r| {
            r.text("component", &path.to_string_lossy())
        });
        let (dir, source) = (self.cache.dir().to_owned(), path.to_owned());
        let copy = read(path, move || component.private_copy(&source, &dir)).await?;
        let (draft, file) = self
            .cache
            .draft(key)
            .map_err(|error| unstorable(self.cache.dir(), &error))?;
        let built = self.builder.compile(copy.into(), file).await?;

        let (cache, key) = (self.cache.clone(), key.clone());
        let artifact = blocking(move || cache.store(&key, &draft, &built))
            .await
            .map_err(|error| match error {
                StoreError::Mismatch => Refusal {
                    problem: error.to_string(),
                    hint: None,
                },
                StoreError::Io { path, source } => unstorable(&path, &source),
            })?;
        self.log.record(LogLevel::Info, "artifact.compiled", |r| {
            r.text("component", &path.to_string_lossy())
                .number("bytes", artifact.size)
                .text("after", &format!("{:.1?}", started.elapsed()))
        });
        Ok(artifact)
    }
}

/// Reads a component, which may be on a disk that does not answer.
async fn read<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    aside(Reading::Component, work)
        .await
        .unwrap_or_else(|stuck| {
            Err(Refusal {
                problem: format!("{}: {stuck}", path.display()),
                hint: None,
            })
        })
}

/// Runs file operations where they hold up nothing else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work)
        .await
        .expect("file operations do not panic, and nothing aborts them")
}

fn unstorable(path: &Path, error: &io::Error) -> Refusal {
    Refusal {
        problem: format!("its artifact cannot be kept in {}: {error}", path.display()),
        hint: None,
    }
}
