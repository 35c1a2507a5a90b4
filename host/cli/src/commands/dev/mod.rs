//! `skep dev`: build, serve, watch, build again, swap.
//!
//! The primary is a `skep serve` of its own process, held by its stdin: when
//! we are gone, for whatever reason, it drains and ends. It is started with the
//! first good component; those after it are deployed as by `skep deploy`, so no
//! process restarts, no request is lost, and only a good one takes the place
//! of the one before. A project's `skep.toml` says how it is served.
//!
//! ```text
//! Reading ──▶ Building ──built──▶ Starting (the first) ──serves──▶ Watching
//!   ▲   │         │    ──built──▶ Deploying (the others) ──live or refused──▶ │
//!   │   └─broken──┴──────────────────────────────────────────────────────────▶│
//!   └────────────────────────change──────────────────────────────────────────┘
//! ```

mod serving;
mod watch;

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use skep_core::ListenAddress;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::DEFAULT_FILE;
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::project::{Built, Project};
use serving::{Commands, Plan, Serving};
use watch::Watch;

/// Serves a project or a component until a signal comes.
pub(crate) async fn run(
    target: &Path,
    listen: Option<ListenAddress>,
    control: Option<&Path>,
    printer: Printer,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut dev = Dev::new(target, listen, control, printer)?;
    let ended = tokio::select! {
        ended = dev.work() => ended,
        () = signals.next() => Ok(()),
    };
    if let Some(mut serving) = dev.serving.take() {
        printer.note("stopping; once more to stop at once");
        tokio::select! {
            () = serving.drain() => {}
            () = signals.next() => serving.cut().await,
        }
    }
    ended
}

/// What makes the component.
#[derive(Debug)]
enum Origin {
    /// We build it.
    Project(Project),
    /// Somebody else does.
    Component(PathBuf),
}

#[derive(Debug)]
struct Dev {
    origin: Origin,
    commands: Commands,
    watch: Watch,
    serving: Option<Serving>,
    /// Digest of the component that is served.
    seen: Option<String>,
    /// What the project's configuration said when it was served last.
    configured: Option<String>,
    printer: Printer,
}

impl Dev {
    fn new(
        target: &Path,
        listen: Option<ListenAddress>,
        control: Option<&Path>,
        printer: Printer,
    ) -> Result<Self, Failure> {
        let origin = if target.is_file() {
            Origin::Component(absolute(target)?)
        } else {
            Origin::Project(Project::find(target)?)
        };
        let (home, watch) = match &origin {
            Origin::Project(project) => (project.dir(), Watch::sources()),
            Origin::Component(file) => (
                file.parent().unwrap_or_else(|| Path::new("/")),
                Watch::file(file.clone()),
            ),
        };
        let commands = Commands::new(
            home,
            listen.map(unambiguous).transpose()?,
            control.map(absolute).transpose()?,
        )?;
        // As our children: a socket's path is short only from here.
        std::env::set_current_dir(home).map_err(|error| cannot("enter", home, &error))?;
        Ok(Self {
            watch: watch.map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot watch for changes: {error}"))
                    .hint("fs.inotify.max_user_watches and max_user_instances limit it")
            })?,
            origin,
            commands,
            serving: None,
            seen: None,
            configured: None,
            printer,
        })
    }

    /// Never ends well: only a signal does that, or the primary's own end.
    async fn work(&mut self) -> Result<(), Failure> {
        loop {
            if let Err(failure) = self.refresh().await {
                if !matches!(failure.exit(), Exit::Failed | Exit::Configuration) {
                    return Err(failure);
                }
                match self.serving.as_mut().map(Serving::runs) {
                    // It has said itself why it ended.
                    Some(false) => {}
                    Some(true) => {
                        self.printer.failure(&failure);
                        self.printer
                            .note("still serving what was built before; waiting for a change");
                    }
                    None => {
                        self.printer.failure(&failure);
                        self.printer.note("waiting for a change");
                    }
                }
            }
            let Some(serving) = &mut self.serving else {
                self.watch.changed().await;
                continue;
            };
            tokio::select! {
                () = self.watch.changed() => {}
                exit = serving.ended() => {
                    self.serving = None;
                    return match exit {
                        Exit::Done => Ok(()),
                        exit => Err(Failure::said(exit)),
                    };
                }
            }
        }
    }

    /// The project's configuration, if it has one; relative, as short as paths of sockets
    /// want it.
    fn config(&self) -> Option<PathBuf> {
        let is_project = matches!(self.origin, Origin::Project(_));
        let file = PathBuf::from(DEFAULT_FILE);
        (is_project && file.exists()).then_some(file)
    }

    /// Builds, and serves or swaps, as far as there is anything new.
    async fn refresh(&mut self) -> Result<(), Failure> {
        let config = self.config();
        let text = config
            .as_deref()
            .and_then(|file| std::fs::read_to_string(file).ok());
        if let Origin::Project(project) = &self.origin {
            // Watched already while it is built for the first time.
            self.watch.add(&[project.dir().to_owned()]);
        }
        self.watch.take();
        if self.serving.is_none() {
            // What stands in the way of serving is known before a build of minutes.
            self.commands.is_vacant(config.as_deref(), self.printer)?;
        }
        let built = match &self.origin {
            Origin::Project(project) => {
                self.printer
                    .note(&format!("building {}", project.dir().display()));
                project.build(self.printer).await?
            }
            Origin::Component(file) => Built {
                component: file.clone(),
                sources: Vec::new(),
            },
        };
        self.watch.add(&built.sources);
        let component = absolute(&built.component)?;
        let digest = digest(&component)?;
        let plan = self
            .commands
            .plan(config.as_deref(), &component, self.printer)?;
        let Some(serving) = &mut self.serving else {
            return self.start(&plan, digest, text).await;
        };
        let is_built = self.seen.as_ref() == Some(&digest);
        let is_configured = self.configured == text;
        if !is_configured {
            self.printer.note(&format!("reloading {DEFAULT_FILE}"));
            serving.reload(self.printer).await?;
            self.configured = text;
        }
        if !is_built {
            self.printer.note("swapping");
            serving.deploy(&plan, self.printer).await?;
            self.seen = Some(digest);
        } else if is_configured {
            self.printer.note("nothing has changed in the component");
        }
        Ok(())
    }

    /// Starts a primary, and has it serve what was built.
    async fn start(
        &mut self,
        plan: &Plan,
        digest: String,
        configured: Option<String>,
    ) -> Result<(), Failure> {
        let serving = self.serving.insert(self.commands.serve(plan)?);
        match serving.serves(plan, &digest).await {
            Ok(true) => {}
            Ok(false) => serving.deploy(plan, self.printer).await?,
            Err(failure) => {
                return match serving.has_ended() {
                    // It has said itself why, and the next change may mend it.
                    Some(exit) => {
                        self.serving = None;
                        Err(Failure::said(exit))
                    }
                    None => Err(failure),
                };
            }
        }
        self.seen = Some(digest);
        self.configured = configured;
        Ok(())
    }
}

/// As the primary writes it.
fn digest(component: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(component).map_err(|error| cannot("read", component, &error))?;
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(&bytes) {
        digest.push_str(&format!("{byte:02x}"));
    }
    Ok(digest)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| cannot("find", path, &error))
}

/// An address that means the same in whatever directory.
fn unambiguous(address: ListenAddress) -> Result<ListenAddress, Failure> {
    match address {
        ListenAddress::Unix(path) => Ok(ListenAddress::Unix(absolute(&path)?)),
        other => Ok(other),
    }
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("cannot {verb} `{}`: {error}", path.display()),
    )
}

/// The signals that end us.
#[derive(Debug)]
struct Signals([Signal; 4]);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot listen to signals: {error}"))
            })
        };
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::quit())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, quit, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_mean_the_same_elsewhere() {
        let ListenAddress::Unix(path) = unambiguous(ListenAddress::Unix("a.sock".into())).unwrap()
        else {
            panic!("a path stays one");
        };
        assert!(path.is_absolute());
    }

    #[test]
    fn a_digest_is_written_as_the_primary_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(
            digest(&file).unwrap(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
