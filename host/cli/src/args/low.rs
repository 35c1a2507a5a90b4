//! The command line as clap reads it, and its way to what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use skep_core::{ListenAddress, Portion, Revision, Strategy, WorkerId};

use super::values::{canary_share, listen_address, revision, worker};
use super::{
    Args, Command, Format, Leash, Operation, Overrides, Reach, Source, Strength, Template, Terms,
};
use crate::print::ColorChoice;

/// Serve WebAssembly request handlers over HTTP from a supervised fleet of
/// worker processes
#[derive(Debug, Parser)]
#[command(
    name = "skep",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(super) struct LowArgs {
    /// Control socket of the primary [default: that of the -c FILE, then SKEP_CONTROL, then
    /// that of ./skep.toml, or ./.skep/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,
    /// When to colour messages
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorChoice,
    #[command(subcommand)]
    command: LowCommand,
}

#[derive(Debug, Subcommand)]
enum LowCommand {
    /// Scaffold a handler project that builds and serves as it is
    New {
        /// Directory to make; its last part is the project's name
        #[arg(value_name = "NAME")]
        path: PathBuf,
        /// What to make
        #[arg(long, value_enum, default_value_t)]
        template: Template,
    },
    /// Build a handler project to a component and print the component's path
    Build {
        /// The project
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Build, serve, watch, rebuild, swap
    Dev {
        /// The project, or a component
        #[arg(value_name = "DIR|COMPONENT", default_value = ".")]
        target: PathBuf,
        /// Where to serve [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDR", value_parser = listen_address)]
        listen: Option<ListenAddress>,
    },
    /// Run the primary in the foreground
    Serve {
        #[command(flatten)]
        source: LowSource,
        /// Where to listen, such as 127.0.0.1:8080 or unix:PATH
        #[arg(long, value_name = "ADDR", value_parser = listen_address)]
        listen: Option<ListenAddress>,
        /// Worker processes [default: one for each core this process may use]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        workers: Option<u16>,
        /// Drain and end when stdin ends, and do not observe new revisions; how `skep dev`
        /// holds its primary
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
        /// Component that was built for the configuration
        #[arg(long, hide = true, value_name = "FILE")]
        built: Option<PathBuf>,
    },
    /// Show every problem of the configuration and of the components it names; start nothing
    Check {
        #[command(flatten)]
        source: LowSource,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the fleet: pools, workers and apps
    Status {
        #[command(flatten)]
        reach: LowReach,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an app, a pool, a worker or a listener with all that is known about it
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe {
        #[command(flatten)]
        reach: LowReach,
        /// The name of an app, a pool or a listener, or the number of a worker
        what: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the revisions of an app, newest first
    History {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what happened lately; one JSON object a line if stdout is no terminal
    Events {
        #[command(flatten)]
        reach: LowReach,
        /// Go on with those to come, until the primary ends
        #[arg(short, long)]
        follow: bool,
        /// Print JSON on a terminal, too
        #[arg(long)]
        json: bool,
    },
    /// Roll out a new revision of an app, and wait until it is live
    #[command(after_help = DEPLOY_EXAMPLES)]
    Deploy {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
        /// A component, or a project's directory, which is built first
        source: PathBuf,
        /// How workers get it: `swap` puts it beside the old one and switches, `restart`
        /// replaces the processes [default: `rollout` of the app, or swap]
        #[arg(
            long,
            value_enum,
            hide_possible_values = true,
            value_name = "swap|restart"
        )]
        strategy: Option<LowStrategy>,
        /// Give it this share of the requests until `promote` or `rollback`
        #[arg(long, value_name = "N%", value_parser = canary_share)]
        canary: Option<Portion>,
        /// Go on although it was rolled back before, or does not validate
        #[arg(long)]
        force: bool,
        /// Build, check and validate, but roll nothing out
        #[arg(long)]
        dry_run: bool,
        /// Return as soon as it has begun; `events -f` and `status` show the rest
        #[arg(long)]
        detach: bool,
    },
    /// Give an app's canary all requests
    Promote {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
    },
    /// Return to an earlier revision of an app; ends a canary
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
        /// As `history` shows it [default: the one before]
        #[arg(value_parser = revision)]
        revision: Option<Revision>,
    },
    /// Read the configuration again and roll out the difference
    Reload {
        #[command(flatten)]
        reach: LowReach,
    },
    /// Replace workers one by one, each new one ready before the old one goes
    Restart {
        #[command(flatten)]
        reach: LowReach,
        /// The pool [default: all pools]
        pool: Option<String>,
    },
    /// Change the number of workers of a pool
    Scale {
        #[command(flatten)]
        reach: LowReach,
        /// The pool
        pool: String,
        /// How many it is to have
        #[arg(
            value_name = "N",
            value_parser = clap::value_parser!(u16).range(1..=i64::from(skep_config::MAX_WORKERS))
        )]
        workers: u16,
    },
    /// Replace one worker
    Rotate {
        #[command(flatten)]
        reach: LowReach,
        /// Its number, as `status` shows it
        #[arg(value_parser = worker)]
        worker: WorkerId,
    },
    /// Clear the breakers of a pool that crashed too often
    Reset {
        #[command(flatten)]
        reach: LowReach,
        /// The pool, or an app for the pool that it is in
        #[arg(value_name = "POOL|APP")]
        target: String,
    },
    /// Answer 503 for an app
    Pause {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
    },
    /// Let a paused app answer again
    Resume {
        #[command(flatten)]
        reach: LowReach,
        /// The app
        app: String,
    },
    /// Delete what of the state directory nothing needs; says what that was
    Gc {
        #[command(flatten)]
        reach: LowReach,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Drain and end the primary, and wait until it is gone
    Stop {
        #[command(flatten)]
        reach: LowReach,
        /// Cut requests in flight
        #[arg(long)]
        now: bool,
    },
    /// Show what this machine offers and lacks, each with its consequence
    Doctor {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },

    #[command(hide = true)]
    Logs(Ignored),
    #[command(hide = true)]
    Top(Ignored),
    #[command(hide = true)]
    Debug(Ignored),
    #[command(hide = true)]
    Upgrade(Ignored),
}

#[derive(Debug, clap::Args)]
struct LowSource {
    /// Configuration file [default: skep.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "component")]
    config: Option<PathBuf>,
    /// A component to use without a configuration
    component: Option<PathBuf>,
}

/// Which primary a command asks.
#[derive(Debug, clap::Args)]
struct LowReach {
    /// Configuration of the primary: its `state_dir` says where the control socket is
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whatever stands behind a command that does not exist yet: its syntax is
/// not ours to judge.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

/// [`Strategy`], as clap wants it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LowStrategy {
    Swap,
    Restart,
}

const DEPLOY_EXAMPLES: &str = "\
Examples:
  skep deploy hello target/hello.wasm           as soon as it is validated, worker by worker
  skep deploy hello . --canary 10%              build what is here; a tenth of the requests
  skep deploy hello hello.wasm --dry-run        would it be accepted?

^C ends the waiting, not the deployment. `skep rollback hello` undoes it.
Exit code 1: rejected or rolled back, the old revision serves. 5: another operation is under way.";

const ROLLBACK_EXAMPLES: &str = "\
Examples:
  skep rollback hello        to the revision before, or away from a canary
  skep rollback hello 3      to revision 3 of `skep history hello`";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  skep describe hello        the app, and the pool, where both have that name
  skep describe 12           worker 12";

impl LowArgs {
    /// What it means.
    pub(super) fn resolve(mut self, variable: Option<PathBuf>) -> Args {
        Args {
            reach: Reach {
                control: self.control.filter(|path| !path.as_os_str().is_empty()),
                config: self.command.reach().and_then(|reach| reach.config.take()),
                variable,
            },
            color: self.color,
            command: self.command.resolve(),
        }
    }
}

impl LowCommand {
    /// Which primary it asks, if it asks one.
    const fn reach(&mut self) -> Option<&mut LowReach> {
        match self {
            Self::Status { reach, .. }
            | Self::Describe { reach, .. }
            | Self::History { reach, .. }
            | Self::Events { reach, .. }
            | Self::Deploy { reach, .. }
            | Self::Promote { reach, .. }
            | Self::Rollback { reach, .. }
            | Self::Reload { reach }
            | Self::Restart { reach, .. }
            | Self::Scale { reach, .. }
            | Self::Rotate { reach, .. }
            | Self::Reset { reach, .. }
            | Self::Pause { reach, .. }
            | Self::Resume { reach, .. }
            | Self::Gc { reach, .. }
            | Self::Stop { reach, .. } => Some(reach),
            Self::New { .. }
            | Self::Build { .. }
            | Self::Dev { .. }
            | Self::Serve { .. }
            | Self::Check { .. }
            | Self::Doctor { .. }
            | Self::Logs(_)
            | Self::Top(_)
            | Self::Debug(_)
            | Self::Upgrade(_) => None,
        }
    }

    fn resolve(self) -> Command {
        let format = |json| if json { Format::Json } else { Format::Text };
        match self {
            Self::New { path, template } => Command::New { path, template },
            Self::Build { dir } => Command::Build { dir },
            Self::Dev { target, listen } => Command::Dev { target, listen },
            Self::Serve {
                source,
                listen,
                workers,
                until_stdin_ends,
                built,
            } => Command::Serve {
                source: source.resolve(),
                overrides: Overrides {
                    listen,
                    workers,
                    built,
                },
                leash: if until_stdin_ends {
                    Leash::Stdin
                } else {
                    Leash::Off
                },
            },
            Self::Check { source, json } => Command::Check {
                source: source.resolve(),
                format: format(json),
            },
            Self::Status { json, .. } => Command::Status {
                format: format(json),
            },
            Self::Gc { dry_run, json, .. } => Command::Gc {
                dry_run,
                format: format(json),
            },
            Self::Stop { now, .. } => Command::Stop {
                strength: if now { Strength::Now } else { Strength::Drain },
            },
            Self::Describe { what, json, .. } => Command::Describe {
                what,
                format: format(json),
            },
            Self::History { app, json, .. } => Command::History {
                app,
                format: format(json),
            },
            Self::Events { follow, json, .. } => Command::Events {
                follow,
                format: format(json),
            },
            Self::Deploy {
                app,
                source,
                strategy,
                canary,
                force,
                dry_run,
                detach,
                ..
            } => Command::Deploy {
                app,
                source,
                terms: Terms {
                    strategy: strategy.map(LowStrategy::resolve),
                    canary,
                    force,
                    dry_run,
                    detach,
                },
            },
            Self::Promote { app, .. } => Command::Operate(Operation::Promote { app }),
            Self::Rollback { app, revision, .. } => {
                Command::Operate(Operation::Rollback { app, revision })
            }
            Self::Reload { .. } => Command::Operate(Operation::Reload),
            Self::Restart { pool, .. } => Command::Operate(Operation::Restart { pool }),
            Self::Scale { pool, workers, .. } => {
                Command::Operate(Operation::Scale { pool, workers })
            }
            Self::Rotate { worker, .. } => Command::Operate(Operation::Rotate { worker }),
            Self::Reset { target, .. } => Command::Operate(Operation::Reset { target }),
            Self::Pause { app, .. } => Command::Operate(Operation::Pause { app }),
            Self::Resume { app, .. } => Command::Operate(Operation::Resume { app }),
            Self::Doctor { json } => Command::Doctor {
                format: format(json),
            },
            Self::Logs(_) => Command::NotYet("logs"),
            Self::Top(_) => Command::NotYet("top"),
            Self::Debug(_) => Command::NotYet("debug"),
            Self::Upgrade(_) => Command::NotYet("upgrade"),
        }
    }
}

impl LowSource {
    fn resolve(self) -> Source {
        match (self.config, self.component) {
            (_, Some(component)) => Source::Component(component),
            (Some(file), None) => Source::File(file),
            (None, None) => Source::DefaultFile,
        }
    }
}

impl LowStrategy {
    const fn resolve(self) -> Strategy {
        match self {
            Self::Swap => Strategy::Swap,
            Self::Restart => Strategy::Restart,
        }
    }
}
