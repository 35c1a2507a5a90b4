//! Running a foreign tool and saying what went wrong with it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::exit::{Exit, Failure};

/// A command that ends with whoever waits for it, in the project's directory
/// and without our stdin.
pub(crate) fn command(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// How a tool did not run.
#[derive(Debug)]
pub(crate) enum ToolError {
    /// It is not installed.
    Missing,
    /// The system would not run it.
    Broken(io::Error),
}

impl From<io::Error> for ToolError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Missing
        } else {
            Self::Broken(error)
        }
    }
}

impl ToolError {
    /// The failure to tell, with how to get the tool.
    pub(crate) fn told(self, program: &str, hint: &str) -> Failure {
        match self {
            Self::Missing => {
                Failure::new(Exit::Unavailable, format!("`{program}` is not installed")).hint(hint)
            }
            Self::Broken(error) => {
                Failure::new(Exit::Failed, format!("cannot run `{program}`: {error}"))
            }
        }
    }
}

/// Runs a tool and keeps what it says.
pub(crate) async fn output(mut command: Command) -> Result<Output, ToolError> {
    Ok(command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .await?)
}

/// Runs a tool whose words are the user's to read: on stderr, because stdout
/// is for our own data.
pub(crate) async fn run(mut command: Command, program: &str, hint: &str) -> Result<(), Failure> {
    command.stdout(io::stderr()).stderr(Stdio::inherit());
    let status = command
        .status()
        .await
        .map_err(|error| ToolError::from(error).told(program, hint))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("the build failed: `{program}` ended with {status}"),
    ))
}
