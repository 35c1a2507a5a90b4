//! The command line: what was typed ([`LowArgs`]) and what it means
//! ([`Args`]). Nothing else in the binary knows clap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use skep_core::ListenAddress;

use crate::control::DEFAULT_FILE;
use crate::exit::Exit;
use crate::print::{ColorChoice, Printer};

/// What the user wants, with no choice left open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// The control socket, if it was named.
    pub(crate) control: Option<PathBuf>,
    /// When to colour.
    pub(crate) color: ColorChoice,
    /// What to do.
    pub(crate) command: Command,
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
    /// Clear a pool's breakers.
    Reset {
        /// The pool.
        pool: String,
    },
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

/// Reads a command line, the program's name first.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Args, Stopped> {
    LowArgs::try_parse_from(argv).map(resolve).map_err(Stopped)
}

/// Serve WebAssembly request handlers over HTTP from a supervised fleet of
/// worker processes
#[derive(Debug, Parser)]
#[command(
    name = "skep",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct LowArgs {
    /// Control socket of the primary [default: control.sock in the state
    /// directory of ./skep.toml, or in ./.skep]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SKEP_CONTROL",
        hide_env_values = true
    )]
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
        /// Drain and end when stdin ends; how `skep dev` holds its primary
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
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
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Drain and end the primary, and wait until it is gone
    Stop {
        /// Cut requests in flight
        #[arg(long)]
        now: bool,
    },
    /// Clear the breakers of a pool
    Reset {
        /// The pool
        pool: String,
    },
    /// Show what this machine offers and lacks, each with its consequence
    Doctor {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },

    #[command(hide = true)]
    Deploy(Ignored),
    #[command(hide = true)]
    Promote(Ignored),
    #[command(hide = true)]
    Rollback(Ignored),
    #[command(hide = true)]
    Reload(Ignored),
    #[command(hide = true)]
    Restart(Ignored),
    #[command(hide = true)]
    Scale(Ignored),
    #[command(hide = true)]
    Rotate(Ignored),
    #[command(hide = true)]
    Pause(Ignored),
    #[command(hide = true)]
    Resume(Ignored),
    #[command(hide = true)]
    Logs(Ignored),
    #[command(hide = true)]
    Events(Ignored),
    #[command(hide = true)]
    Top(Ignored),
    #[command(hide = true)]
    Describe(Ignored),
    #[command(hide = true)]
    History(Ignored),
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

/// Whatever stands behind a command that does not exist yet: its syntax is
/// not ours to judge.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

fn resolve(low: LowArgs) -> Args {
    let format = |json| if json { Format::Json } else { Format::Text };
    let command = match low.command {
        LowCommand::New { path, template } => Command::New { path, template },
        LowCommand::Build { dir } => Command::Build { dir },
        LowCommand::Dev { target, listen } => Command::Dev { target, listen },
        LowCommand::Serve {
            source,
            listen,
            workers,
            until_stdin_ends,
        } => Command::Serve {
            source: source.resolve(),
            overrides: Overrides { listen, workers },
            leash: if until_stdin_ends {
                Leash::Stdin
            } else {
                Leash::Off
            },
        },
        LowCommand::Check { source, json } => Command::Check {
            source: source.resolve(),
            format: format(json),
        },
        LowCommand::Status { json } => Command::Status {
            format: format(json),
        },
        LowCommand::Stop { now } => Command::Stop {
            strength: if now { Strength::Now } else { Strength::Drain },
        },
        LowCommand::Reset { pool } => Command::Reset { pool },
        LowCommand::Doctor { json } => Command::Doctor {
            format: format(json),
        },
        LowCommand::Deploy(_) => Command::NotYet("deploy"),
        LowCommand::Promote(_) => Command::NotYet("promote"),
        LowCommand::Rollback(_) => Command::NotYet("rollback"),
        LowCommand::Reload(_) => Command::NotYet("reload"),
        LowCommand::Restart(_) => Command::NotYet("restart"),
        LowCommand::Scale(_) => Command::NotYet("scale"),
        LowCommand::Rotate(_) => Command::NotYet("rotate"),
        LowCommand::Pause(_) => Command::NotYet("pause"),
        LowCommand::Resume(_) => Command::NotYet("resume"),
        LowCommand::Logs(_) => Command::NotYet("logs"),
        LowCommand::Events(_) => Command::NotYet("events"),
        LowCommand::Top(_) => Command::NotYet("top"),
        LowCommand::Describe(_) => Command::NotYet("describe"),
        LowCommand::History(_) => Command::NotYet("history"),
        LowCommand::Debug(_) => Command::NotYet("debug"),
        LowCommand::Upgrade(_) => Command::NotYet("upgrade"),
    };
    Args {
        // An empty variable is one that was meant to be unset.
        control: low.control.filter(|path| !path.as_os_str().is_empty()),
        color: low.color,
        command,
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

/// An address as in the configuration, and what people type for one: `:8080`
/// and `8080` are this machine only, as is the configuration's default.
fn listen_address(text: &str) -> Result<ListenAddress, skep_config::InvalidAddress> {
    // Unix sockets are relative to where we are.
    let parse = |text: &str| skep_config::parse_address(text, Path::new(""));
    let port = text.strip_prefix(':').unwrap_or(text);
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port {
        return parse(&format!("127.0.0.1:{port}"));
    }
    match text.strip_prefix("localhost:") {
        Some(port) => parse(&format!("127.0.0.1:{port}")),
        None => parse(text),
    }
}

#[cfg(test)]
mod tests;
