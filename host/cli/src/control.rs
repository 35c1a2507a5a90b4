//! Where the primary's control socket is, and speaking over it.

use std::path::{Path, PathBuf};

use skep_primary::{Client, ClientError};
use tokio::sync::oneshot;

use crate::exit::{Exit, Failure};

/// The configuration that is used when none is named.
pub(crate) const DEFAULT_FILE: &str = "skep.toml";

/// The state directory of a configuration that names none.
pub(crate) const DEFAULT_STATE_DIR: &str = ".skep";

/// The name of the control socket in a state directory.
pub(crate) const SOCKET: &str = "control.sock";

/// The control socket of a primary that may or may not be there.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    path: PathBuf,
}

impl Control {
    /// The socket that was named, or the one of the primary that was started
    /// in this directory.
    pub(crate) fn find(named: Option<PathBuf>) -> Self {
        Self::at(named.unwrap_or_else(|| Place::of(None).socket()))
    }

    /// The socket at a path.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Connects.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.path).map_err(|error| self.failed(error))
    }

    /// Asks on a thread of its own, and waits for the answer. Dropping the
    /// future ends the waiting and nothing else.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let path = self.path.clone();
        let (answered, answer) = oneshot::channel();
        // Not one of the runtime's threads: those would be waited for.
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let result = Client::connect(&path).and_then(|mut client| ask(&mut client));
                // Fails where nobody waits any more.
                let _ = answered.send(result);
            })
            .map_err(ClientError::Io)?;
        answer.await.unwrap_or(Err(ClientError::Gone))
    }

    /// What a broken conversation means to the user.
    pub(crate) fn failed(&self, error: ClientError) -> Failure {
        match error {
            ClientError::NoPrimary { path, source } => Failure::new(
                Exit::NoPrimary,
                format!("no primary at `{}`: {source}", path.display()),
            )
            .hint("`skep serve` starts one; --control or SKEP_CONTROL names another's socket"),
            ClientError::Refused { message, code } => {
                Failure::new(Exit::from_code(i32::from(code)), message)
            }
            ClientError::NotAllowed { .. } => Failure::new(Exit::Refused, error.to_string())
                .hint("ask as the user that the primary was started by, or as root"),
            other => Failure::new(Exit::Failed, chain(&other)),
        }
    }
}

/// The causes of an error on one line, its own words first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Where a primary has its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The directory.
    pub(crate) state_dir: PathBuf,
}

impl Place {
    /// That of a primary with this configuration; of `./skep.toml`, which need
    /// not be there, where none is named.
    pub(crate) fn of(config: Option<&Path>) -> Self {
        let file = config.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let named = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| state_dir(&text))
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let dir = file.parent().unwrap_or_else(|| Path::new(""));
        Self {
            state_dir: dir.join(named),
        }
    }

    /// Its control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state_dir.join(SOCKET)
    }
}

/// The state directory that a configuration names. Only that: an operator must
/// reach the primary also while the file has problems.
fn state_dir(text: &str) -> Option<PathBuf> {
    let table: toml::Table = text.parse().ok()?;
    let dir = table.get("server")?.get("state_dir")?.as_str()?;
    Some(PathBuf::from(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_state_directory_of_the_configuration_here() {
        let dir = tempfile::tempdir().unwrap();
        let find = || Place::of(Some(&dir.path().join(DEFAULT_FILE))).socket();
        assert_eq!(find(), dir.path().join(".skep/control.sock"));
        let write = |text| std::fs::write(dir.path().join("skep.toml"), text).unwrap();
        write("[server]\nstate_dir = \"state\"\n[app.x]\nnonsense = 1\n");
        assert_eq!(find(), dir.path().join("state/control.sock"));
        write("[server]\nstate_dir = \"/var/lib/skep\"\n");
        assert_eq!(find(), Path::new("/var/lib/skep/control.sock"));
        for broken in ["[server", "server = 1", "[server]\nstate_dir = 1"] {
            write(broken);
            assert_eq!(find(), dir.path().join(".skep/control.sock"));
        }
        assert_eq!(Control::find(Some("/x".into())).path, Path::new("/x"));
    }
}
