//! Where the primary's control socket is, and speaking over it.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use skep_primary::{Client, ClientError, Found, Running};
use tokio::sync::oneshot;
use toml::Spanned;
use toml::de::DeTable;

use crate::args::{DEFAULT_FILE, Reach};
use crate::exit::{Exit, Failure};

/// The state directory of a configuration that names none.
pub(crate) const DEFAULT_STATE_DIR: &str = ".skep";

/// The name of the control socket in a state directory.
pub(crate) const SOCKET: &str = "control.sock";

/// The control socket of a primary that may or may not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    path: PathBuf,
    /// The configuration that says so, if one does.
    config: Option<PathBuf>,
}

impl Control {
    /// The socket that was named, or that of the configuration that was named, or the
    /// one of the variable, or that of the primary that was started in this directory.
    ///
    /// # Errors
    ///
    /// The configuration that was named is not there.
    pub(crate) fn find(reach: Reach) -> Result<Self, Failure> {
        let Reach {
            control,
            config,
            variable,
        } = reach;
        if let Some(path) = control {
            return Ok(Self::at(path));
        }
        if let Some(config) = config {
            let text = read(&config).map_err(|error| unreadable(&config, &error))?;
            return Ok(Self::of_config(config, &text));
        }
        if let Some(path) = variable {
            return Ok(Self::at(path));
        }
        let text = read(Path::new(DEFAULT_FILE)).unwrap_or_default();
        Ok(Self::of_config(DEFAULT_FILE.into(), &text))
    }

    /// The socket at this path.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self { path, config: None }
    }

    /// The state directory of the configuration that says where the socket is.
    pub(crate) fn state_dir(&self) -> Option<&Path> {
        self.config.as_ref().and_then(|_| self.path.parent())
    }

    fn of_config(config: PathBuf, text: &str) -> Self {
        let state_dir = state_dir(text).unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let dir = config.parent().unwrap_or_else(|| Path::new(""));
        Self {
            path: dir.join(state_dir).join(SOCKET),
            config: Some(config),
        }
    }

    /// Connects.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        self.client().map_err(|error| self.failed(error))
    }

    /// Connects to the socket, or, where nobody listens there, to the primary that runs
    /// with this configuration all the same: its socket was named when it was started, or
    /// the configuration has named another state directory since then.
    fn client(&self) -> Result<Client, ClientError> {
        let connected = Client::connect(&self.path);
        let Some(config) = &self.config else {
            return connected;
        };
        if !matches!(connected, Err(ClientError::NoPrimary { .. })) {
            return connected;
        }
        let here = self.path.parent().and_then(Running::of_state_dir);
        if let Some(client) = here.and_then(|running| running.connect().ok()) {
            return Ok(client);
        }
        match Running::of_config(config) {
            Some(Found {
                running,
                is_ours: true,
            }) => running.connect().or(connected),
            _ => connected,
        }
    }

    /// Asks on a thread of its own, and waits for the answer. Dropping the
    /// future ends the waiting and nothing else.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let control = self.clone();
        let (answered, answer) = oneshot::channel();
        // Not one of the runtime's threads: those would be waited for.
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let result = control.client().and_then(|mut client| ask(&mut client));
                // Fails where nobody waits any more.
                let _ = answered.send(result);
            })
            .map_err(ClientError::Io)?;
        answer.await.unwrap_or(Err(ClientError::Gone))
    }

    /// What a broken conversation means to the user.
    pub(crate) fn failed(&self, error: ClientError) -> Failure {
        match error {
            ClientError::NoPrimary { path, source } => self.no_primary(&path, &source),
            ClientError::Refused { message, code } => {
                Failure::new(Exit::from_code(i32::from(code)), message)
            }
            ClientError::NotAllowed { .. } => Failure::new(Exit::Refused, error.to_string())
                .hint("ask as the user that the primary was started by, or as root"),
            other => Failure::new(Exit::Failed, chain(&other)),
        }
    }

    fn no_primary(&self, path: &Path, source: &std::io::Error) -> Failure {
        let shown = path.display();
        let failure = |message| Failure::new(Exit::NoPrimary, message);
        if let Ok(found) = std::fs::metadata(path)
            && !found.file_type().is_socket()
        {
            let what = if found.is_dir() {
                "a directory"
            } else {
                "a file"
            };
            let failure = failure(format!("`{shown}` is {what}, not a control socket"));
            let inside = [SOCKET.into(), Path::new(DEFAULT_STATE_DIR).join(SOCKET)]
                .map(|name| path.join(name));
            return match inside.iter().find(|inside| inside.exists()) {
                Some(inside) => failure.hint(format!("did you mean `{}`?", inside.display())),
                None => failure.hint(format!("it is `{SOCKET}` in the state directory")),
            };
        }
        let failure = failure(format!("no primary at `{shown}`: {source}"));
        let foreign = self.config.as_deref().and_then(Running::of_config);
        let foreign = foreign.and_then(|found| Some((found.running.pid, found.running.control?)));
        match foreign {
            Some((pid, control)) => failure.hint(format!(
                "process {pid} says that it serves this configuration; if you trust it, \
                 --control {} reaches it",
                control.display()
            )),
            None => failure.hint(
                "`skep serve` starts one; -c FILE names the configuration of another, --control \
                 or SKEP_CONTROL its socket",
            ),
        }
    }
}

/// Reads a configuration. It may have any problem but to be no file.
fn read(config: &Path) -> std::io::Result<String> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(config)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let bytes = std::fs::read(config)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(config: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Configuration,
        format!(
            "cannot read the configuration `{}`: {error}",
            config.display()
        ),
    );
    match Running::of_config(config).and_then(|found| found.running.control) {
        Some(control) => failure.hint(format!(
            "the primary that was started with it listens at --control {}",
            control.display()
        )),
        None => failure.hint("--control names the socket of a primary"),
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

/// The state directory that a configuration names. Only that: an operator must
/// reach the primary also while the file has problems.
fn state_dir(text: &str) -> Option<PathBuf> {
    // What is not TOML is passed over, as far as the rest can be told from it.
    let (table, _) = DeTable::parse_recoverable(text);
    let server = table.get_ref().get("server").map(Spanned::get_ref);
    let named = server
        .and_then(|server| server.get("state_dir")?.get_ref().as_str())
        .map(str::to_owned)
        .or_else(|| state_dir_by_line(text));
    named.filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// The same of a file in which a bracket that was not closed has swallowed the section.
fn state_dir_by_line(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("[server]"))?;
    let mut section = lines.take_while(|line| !line.starts_with('['));
    let line = section.find(|line| line.starts_with("state_dir"))?;
    let (table, _) = DeTable::parse_recoverable(line);
    Some(
        table
            .get_ref()
            .get("state_dir")?
            .get_ref()
            .as_str()?
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_config(config: &Path) -> PathBuf {
        let text = read(config).unwrap_or_default();
        Control::of_config(config.to_owned(), &text).path
    }

    #[test]
    fn the_socket_is_in_the_state_directory_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skep.toml");
        let find = || of_config(&file);
        assert_eq!(find(), dir.path().join(".skep/control.sock"));
        let write = |text| std::fs::write(&file, text).unwrap();
        write("[server]\nstate_dir = \"state\"\n[app.x]\nnonsense = 1\n");
        assert_eq!(find(), dir.path().join("state/control.sock"));
        write("[server]\nstate_dir = \"/var/lib/skep\"\n");
        assert_eq!(find(), Path::new("/var/lib/skep/control.sock"));
        write("server = { state_dir = \"x\" }\n");
        assert_eq!(find(), dir.path().join("x/control.sock"));
        for broken in [
            "[server",
            "server = 1",
            "[server]\nstate_dir = 1",
            "[server]\nstate_dir = \"\"",
        ] {
            write(broken);
            assert_eq!(find(), dir.path().join(".skep/control.sock"));
        }
    }

    #[test]
    fn what_is_wrong_elsewhere_in_the_file_locks_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skep.toml");
        for text in [
            "[server]\nstate_dir = \"state\"\n[app.x\ncomponent = \n",
            "[app.x]\nroutes = [\"/a\", \n[server]\nstate_dir = \"state\"\n",
            "[app.x]\na = 1\na = 2\n[server]\nlog = nonsense\nstate_dir = \"state\"\n",
            "\u{feff}[server]\nstate_dir = \"state\"\n\u{0}",
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(
                of_config(&file),
                dir.path().join("state/control.sock"),
                "{text}"
            );
        }
        let bytes = b"[server]\nstate_dir = \"state\" # \xff\n";
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(of_config(&file), dir.path().join("state/control.sock"));
    }

    #[test]
    fn the_command_line_comes_first_and_the_file_that_it_names_before_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skep.toml");
        std::fs::write(&file, "").unwrap();
        let reach = Reach {
            control: Some("/x".into()),
            config: Some(file.clone()),
            variable: Some("/y".into()),
        };
        assert_eq!(Control::find(reach.clone()), Ok(Control::at("/x".into())));
        let reach = Reach {
            control: None,
            ..reach
        };
        let found = Control::find(reach.clone()).unwrap();
        assert_eq!(found.path, dir.path().join(".skep/control.sock"));
        let reach = Reach {
            config: None,
            ..reach
        };
        assert_eq!(Control::find(reach.clone()), Ok(Control::at("/y".into())));
        // Where tests run there is no configuration.
        let found = Control::find(Reach::default()).unwrap();
        assert_eq!(found.path, Path::new(".skep/control.sock"));
        let missing = Reach {
            config: Some(dir.path().join("missing.toml")),
            ..reach
        };
        let failure = Control::find(missing).unwrap_err();
        assert_eq!(failure.exit(), Exit::Configuration, "{failure}");
    }

    #[test]
    fn what_is_no_socket_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| {
            let failure = Control::at(path.to_owned()).connect().unwrap_err();
            assert_eq!(failure.exit(), Exit::NoPrimary);
            format!("{:?}", failure.words())
        };
        assert!(said(dir.path()).contains("is a directory, not a control socket"));
        let file = dir.path().join("control.sock");
        std::fs::write(&file, "").unwrap();
        assert!(said(&file).contains("is a file, not a control socket"));
        assert!(said(dir.path()).contains("/control.sock`?"));
        assert!(said(Path::new("/nowhere")).contains("no primary at"));
    }
}
