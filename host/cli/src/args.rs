//! The command line: what was typed (`low`) and what it means ([`Args`]).
//! Nothing else in the binary knows clap.

mod low;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use skep_core::{ListenAddress, Portion, Revision, Strategy, WorkerId};

use crate::exit::Exit;
use crate::print::{ColorChoice, Printer};
use low::LowArgs;

/// The configuration that is used when none is named.
pub(crate) const DEFAULT_FILE: &str = "skep.toml";

/// What the user wants, with no choice left open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// How to find the primary.
    pub(crate) reach: Reach,
    /// When to colour.
    pub(crate) color: ColorChoice,
    /// What to do.
    pub(crate) command: Command,
}

/// What was said of where the primary is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Its control socket, on the command line.
    pub(crate) control: Option<PathBuf>,
    /// Its configuration, for a command that asks a running one.
    pub(crate) config: Option<PathBuf>,
    /// Its control socket, by `SKEP_CONTROL`.
    pub(crate) variable: Option<PathBuf>,
}

impl Reach {
    /// The socket that was named, for commands whose configuration says something else
    /// besides.
    pub(crate) fn named(self) -> Option<PathBuf> {
        self.control.or(self.variable)
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run the primary.
    Serve {
        /// What to serve.
        source: Source,
        /// What the command line changes about it.
        overrides: Overrides,
        /// What ends it besides signals and `skep stop`.
        leash: Leash,
    },
    /// Look for problems.
    Check {
        /// What to check.
        source: Source,
        /// How to say what was found.
        format: Format,
    },
    /// Build a project.
    Build {
        /// The project's directory.
        dir: PathBuf,
    },
    /// Build, serve, watch, build again.
    Dev {
        /// A project's directory or a component.
        target: PathBuf,
        /// Where to serve; the default address when absent.
        listen: Option<ListenAddress>,
    },
    /// Show the fleet.
    Status {
        /// How to show it.
        format: Format,
    },
    /// End the primary.
    Stop {
        /// How gently.
        strength: Strength,
    },
    /// Show one thing with all that is known about it.
    Describe {
        /// A name, or a worker's number.
        what: String,
        /// How to show it.
        format: Format,
    },
    /// Show an app's revisions.
    History {
        /// The app.
        app: String,
        /// How to show them.
        format: Format,
    },
    /// Show events.
    Events {
        /// Whether to wait for those to come.
        follow: bool,
        /// How to show them.
        format: Format,
    },
    /// Delete what of the state directory nothing needs.
    Gc {
        /// Only say what would go.
        dry_run: bool,
        /// How to say it.
        format: Format,
    },
    /// Make a component a new revision.
    Deploy {
        /// The app.
        app: String,
        /// A component, or a project to build first.
        source: PathBuf,
        /// How.
        terms: Terms,
    },
    /// Change something about the fleet.
    Operate(Operation),
    /// Look at this machine.
    Doctor {
        /// How to say what was found.
        format: Format,
    },
    /// Scaffold a project.
    New {
        /// The project's directory, whose last part is its name.
        path: PathBuf,
        /// What to make.
        template: Template,
    },
    /// A command of the specification that this version does not have.
    NotYet(&'static str),
}

/// How to deploy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// In place or by restarting, if that was said.
    pub(crate) strategy: Option<Strategy>,
    /// Share of the requests until it is promoted, if that was said.
    pub(crate) canary: Option<Portion>,
    /// Go on where only a person may want to.
    pub(crate) force: bool,
    /// Stop before the roll-out.
    pub(crate) dry_run: bool,
    /// Do not wait for the end.
    pub(crate) detach: bool,
}

/// What an operator asks of the primary and that needs nothing from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// End an app's canary by giving it all requests.
    Promote {
        /// The app.
        app: String,
    },
    /// Return to an earlier revision.
    Rollback {
        /// The app.
        app: String,
        /// Which one; the one before when absent.
        revision: Option<Revision>,
    },
    /// Read the configuration again.
    Reload,
    /// Replace workers one by one.
    Restart {
        /// The pool; all of them when absent.
        pool: Option<String>,
    },
    /// Change a pool's size.
    Scale {
        /// The pool.
        pool: String,
        /// How many workers it is to have.
        workers: u16,
    },
    /// Replace one worker.
    Rotate {
        /// The worker.
        worker: WorkerId,
    },
    /// Clear breakers.
    Reset {
        /// A pool, or an app for its pool.
        target: String,
    },
    /// Answer 503 for an app.
    Pause {
        /// The app.
        app: String,
    },
    /// Let an app answer again.
    Resume {
        /// The app.
        app: String,
    },
}

/// What to serve or check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `./skep.toml`, because nothing was named.
    DefaultFile,
    /// This configuration.
    File(PathBuf),
    /// This component, without a configuration.
    Component(PathBuf),
}

impl Source {
    /// The file that it is about.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::DefaultFile => Path::new(DEFAULT_FILE),
            Self::File(path) | Self::Component(path) => path,
        }
    }
}

/// What the command line changes about what is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// Where to listen.
    pub(crate) listen: Option<ListenAddress>,
    /// How many workers.
    pub(crate) workers: Option<u16>,
    /// What was built here, for the apps of the configuration that it is the component
    /// of; the file is absolute.
    pub(crate) built: Option<PathBuf>,
}

/// What ends `serve` besides signals and `skep stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leash {
    /// Nothing.
    Off,
    /// The end of stdin: whoever started us is gone, or wants us to be.
    Stdin,
}

/// The shape of data on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How gently to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strength {
    /// Requests in flight are finished.
    Drain,
    /// They are not.
    Now,
}

/// What `skep new` makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Template {
    /// Rust, WASI 0.2
    #[default]
    Rust,
    /// Rust, WASI 0.3: async, and several requests in one instance
    RustP3,
}

/// Why the command line was not understood, or answered by itself.
#[derive(Debug)]
pub(crate) struct Stopped(clap::Error);

impl Stopped {
    /// Prints help on stdout, complaints on stderr.
    pub(crate) fn print(&self) -> Exit {
        let text = self.0.render().to_string();
        let printer = Printer::new(ColorChoice::Auto);
        if self.0.use_stderr() {
            printer.stderr(&text);
            return Exit::Usage;
        }
        match printer.data(&text) {
            Ok(()) => Exit::Done,
            Err(failure) => failure.exit(),
        }
    }
}

/// Reads a command line, the program's name first. `variable` is `SKEP_CONTROL`.
pub(crate) fn parse(
    argv: impl IntoIterator<Item = OsString>,
    variable: Option<OsString>,
) -> Result<Args, Stopped> {
    // Empty, it was meant to be unset.
    let variable = variable.filter(|path| !path.is_empty()).map(PathBuf::from);
    LowArgs::try_parse_from(argv)
        .map(|low| low.resolve(variable))
        .map_err(Stopped)
}

#[cfg(test)]
mod tests;
