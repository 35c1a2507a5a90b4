//! What `serve` and `check` work on: a configuration, or a component without
//! one, turned into a specification, and the words for what is wrong with it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use skep_config::{Checked, Environment, Problem, Problems, ProcessEnvironment};
use skep_core::{AppName, FleetSpec, ListenAddress};
use skep_primary::{MAX_SOCKET_PATH, StartError};
use skep_wire::Refusal;

use crate::alike::closest;
use crate::args::{DEFAULT_FILE, Overrides, Source};
use crate::control::{DEFAULT_STATE_DIR, SOCKET, chain};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// A specification without problems of its own; its components may have some.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// It was read from a file.
    File {
        /// The file.
        path: PathBuf,
        /// What it says.
        checked: Box<Checked>,
    },
    /// It was made for one component.
    Component {
        /// The component.
        path: PathBuf,
        /// One app with every default.
        spec: Box<FleetSpec>,
    },
}

/// Why there is nothing to serve.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// What was read, or was to be, has problems.
    Problems(Problems),
    /// Something else.
    Failure(Failure),
}

impl Unusable {
    fn problem(message: String, hint: impl Into<String>) -> Self {
        Self::Problems(Problem::without_place(message, Some(hint.into())).into())
    }

    /// As the user reads it.
    pub(crate) fn told(self, printer: Printer) -> Failure {
        match self {
            Self::Problems(problems) => {
                Failure::report(Exit::Configuration, problems.render(printer.color()))
            }
            Self::Failure(failure) => failure,
        }
    }
}

impl From<Problems> for Unusable {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Loaded {
    /// Reads a source.
    ///
    /// # Errors
    ///
    /// All problems of the file, or why the component cannot be read.
    pub(crate) fn read(source: &Source, overrides: Overrides) -> Result<Self, Unusable> {
        let path = match source {
            Source::Component(component) => return Self::alone(component, overrides),
            Source::DefaultFile => Path::new(DEFAULT_FILE),
            Source::File(path) => path,
        };
        if *source == Source::DefaultFile && !path.exists() {
            return Err(Unusable::problem(
                format!("there is no {DEFAULT_FILE} in this directory"),
                "name a configuration with -c, or a component: `skep serve hello.wasm`; `skep dev` \
                 builds and serves a project",
            ));
        }
        let mut checked = match overrides.built.clone() {
            Some(built) => with_built(path, &built)?,
            None => skep_config::load(path, &ProcessEnvironment)?,
        };
        override_file(&mut checked.spec, overrides)?;
        Ok(Self::File {
            path: path.to_owned(),
            checked: Box::new(checked),
        })
    }

    /// Reads a source for somebody who starts to serve it. Components that are missing
    /// are left to the primary, which may have kept them, as long as another is there;
    /// what is to be said of them is returned as well.
    ///
    /// # Errors
    ///
    /// As [`Loaded::read`].
    pub(crate) fn to_serve(
        source: &Source,
        overrides: Overrides,
    ) -> Result<(Self, Option<Unusable>), Unusable> {
        let problems = match Self::read(source, overrides.clone()) {
            Ok(loaded) => return Ok((loaded, None)),
            Err(unusable) => unusable,
        };
        let path = match source {
            Source::Component(_) => return Err(problems),
            Source::DefaultFile => Path::new(DEFAULT_FILE),
            Source::File(path) => path,
        };
        if !matches!(problems, Unusable::Problems(_)) || overrides.built.is_some() {
            return Err(problems);
        }
        let is_there = |loaded: &Self| {
            let mut apps = loaded.spec().apps.values();
            apps.any(|app| app.component.is_file())
        };
        match Self::before_build(path, overrides) {
            Ok(loaded) if is_there(&loaded) => Ok((loaded, Some(problems))),
            Ok(_) | Err(_) => Err(problems),
        }
    }

    /// Reads a source again for somebody who serves it. These components may be missing.
    ///
    /// # Errors
    ///
    /// As [`Loaded::read`].
    pub(crate) fn again(
        source: &Source,
        overrides: Overrides,
        missing: &BTreeSet<PathBuf>,
    ) -> Result<Self, Unusable> {
        let problems = match Self::read(source, overrides.clone()) {
            Err(problems @ Unusable::Problems(_)) if !missing.is_empty() => problems,
            other => return other,
        };
        let path = match source {
            Source::Component(_) => return Err(problems),
            Source::DefaultFile => Path::new(DEFAULT_FILE),
            Source::File(path) => path,
        };
        let Ok(loaded) = Self::before_build(path, overrides) else {
            return Err(problems);
        };
        let mut apps = loaded.spec().apps.values();
        let known = apps.all(|app| app.component.is_file() || missing.contains(&app.component));
        if known { Ok(loaded) } else { Err(problems) }
    }

    /// Reads a configuration whose components may be missing.
    pub(super) fn before_build(path: &Path, overrides: Overrides) -> Result<Self, Unusable> {
        let mut checked = skep_config::load(path, &BeforeTheBuild)?;
        override_file(&mut checked.spec, overrides)?;
        Ok(Self::File {
            path: path.to_owned(),
            checked: Box::new(checked),
        })
    }

    /// What is served of a component that is not there yet.
    pub(super) fn without_component(listen: Option<ListenAddress>) -> Result<Self, Unusable> {
        let path = Path::new("app.wasm");
        let state_dir = DEFAULT_STATE_DIR.into();
        let spec = skep_config::for_component(path, listen, None, state_dir, &BeforeTheBuild)?;
        Ok(Self::Component {
            path: path.to_owned(),
            spec: Box::new(spec),
        })
    }

    fn alone(component: &Path, overrides: Overrides) -> Result<Self, Unusable> {
        let shown = component.display();
        if component.is_dir() {
            return Err(Unusable::problem(
                format!("`{shown}` is a directory, not a component"),
                format!(
                    "`skep dev {shown}` builds and serves a project, `skep build {shown}` builds it"
                ),
            ));
        }
        if component
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            return Err(Unusable::problem(
                format!("`{shown}` is a configuration, not a component"),
                format!("name it with -c: `skep serve -c {shown}`, `skep check -c {shown}`"),
            ));
        }
        if !component.exists() {
            let hint = similar(component).map_or_else(
                || "`skep build DIR` makes one and prints its path".to_owned(),
                |other| format!("did you mean `{}`?", other.display()),
            );
            return Err(Unusable::problem(
                format!("there is no component `{shown}`"),
                hint,
            ));
        }
        let spec = skep_config::for_component(
            component,
            overrides.listen,
            overrides.workers,
            DEFAULT_STATE_DIR.into(),
            &ProcessEnvironment,
        )?;
        Ok(Self::Component {
            path: component.to_owned(),
            spec: Box::new(spec),
        })
    }

    /// The specification.
    pub(crate) fn spec(&self) -> &FleetSpec {
        match self {
            Self::File { checked, .. } => &checked.spec,
            Self::Component { spec, .. } => spec,
        }
    }

    /// What was read, for people.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Component { path, .. } => path,
        }
    }

    /// The configuration that was read, if there is one.
    pub(crate) fn config(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Component { .. } => None,
        }
    }

    /// Where the control socket is to be: where it was `named`, or in the state
    /// directory.
    ///
    /// # Errors
    ///
    /// The path is longer than the kernel takes.
    pub(crate) fn control(&self, named: Option<PathBuf>) -> Result<PathBuf, Unusable> {
        let hint = match named {
            Some(_) => "--control or SKEP_CONTROL names a shorter one",
            None => {
                "set `state_dir` in [server] to a shorter path, or name a socket elsewhere with \
                 --control or SKEP_CONTROL; a relative path counts as it is written"
            }
        };
        let control = named.unwrap_or_else(|| self.spec().server.state_dir.join(SOCKET));
        let length = control.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let message = format!(
                "the control socket would be `{}`, whose path has {length} bytes; \
                 {MAX_SOCKET_PATH} is the most",
                control.display()
            );
            return Err(Unusable::problem(message, hint));
        }
        Ok(control)
    }

    /// What the primary says about components, each where it is named.
    pub(super) fn component_problems(&self, refused: BTreeMap<AppName, Refusal>) -> Problems {
        refused
            .into_iter()
            .map(|(app, refusal)| self.component_problem(&app, refusal))
            .collect()
    }

    fn component_problem(&self, app: &AppName, refusal: Refusal) -> Problem {
        let Refusal { problem, hint } = refusal;
        match self {
            Self::File { checked, .. } => {
                checked.component_problem(app, format!("app {app}: {problem}"), hint)
            }
            Self::Component { path, .. } => Problem::without_place(
                format!("cannot serve `{}`: {problem}", path.display()),
                hint,
            ),
        }
    }
}

/// Why the primary did not start, in the user's terms.
pub(super) fn started(loaded: &Loaded, error: StartError) -> Unusable {
    let failure = match error {
        StartError::Components(refused) => return loaded.component_problems(refused).into(),
        StartError::AlreadyRunning { path, pid } => {
            let who = pid.map_or_else(String::new, |pid| format!(", pid {pid},"));
            Failure::new(
                Exit::Unavailable,
                format!("another primary{who} already uses `{}`", path.display()),
            )
            .hint("`skep status` shows it and `skep stop` ends it; another needs a state_dir of its own")
        }
        StartError::Listeners(failures) => {
            let lines: Vec<_> = failures.iter().map(|failure| chain(failure)).collect();
            Failure::new(Exit::Unavailable, lines.join("; "))
                .hint("--listen, or `address` of the listener, chooses another address")
        }
        StartError::Problems(problems) => Failure::new(Exit::Configuration, problems.join("; ")),
        StartError::Builder(Refusal { problem, hint }) => {
            let failure = Failure::new(
                Exit::Unavailable,
                format!("nothing can be compiled here: {problem}"),
            );
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure.hint("`skep doctor` shows what this machine lacks"),
            }
        }
        StartError::System { .. } => Failure::new(Exit::Unavailable, chain(&error)),
    };
    failure.into()
}

/// The environment of this process, in which a component may be missing.
struct BeforeTheBuild;

impl Environment for BeforeTheBuild {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnvironment.var(name)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        ProcessEnvironment.read(path)
    }

    fn readable(&self, path: &Path) -> io::Result<()> {
        match ProcessEnvironment.readable(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn names_in(&self, folder: &Path) -> Vec<String> {
        ProcessEnvironment.names_in(folder)
    }

    fn parallelism(&self) -> u16 {
        ProcessEnvironment.parallelism()
    }
}

/// A configuration whose apps have what was built for them, wherever the build has left
/// it: those that name it, or the only app.
fn with_built(path: &Path, built: &Path) -> Result<Checked, Unusable> {
    let mut checked = skep_config::load(path, &BeforeTheBuild)?;
    let same = |component: &Path| match (component.canonicalize(), built.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => std::path::absolute(component).is_ok_and(|component| component == *built),
    };
    let is_alone = checked.spec.apps.len() == 1;
    let mut any = false;
    for app in checked.spec.apps.values_mut() {
        if is_alone || same(&app.component) {
            built.clone_into(&mut app.component);
            any = true;
        }
    }
    if !any {
        return Err(Unusable::problem(
            format!(
                "{} names no app whose component is `{}`, which is what is built here",
                path.display(),
                built.display()
            ),
            "set `component` of the app that this project is to that path",
        ));
    }
    // The others must be there.
    let missing = checked.spec.apps.iter().filter_map(|(name, app)| {
        let missing = app.component != built && !app.component.exists();
        let problem = format!(
            "app {name}: there is no component `{}`",
            app.component.display()
        );
        let hint = "build it first: only the project is built here".to_owned();
        missing.then(|| checked.component_problem(name, problem, Some(hint)))
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        Ok(checked)
    } else {
        Err(missing.into_iter().collect::<Problems>().into())
    }
}

/// `--listen` and `--workers` say which listener and which pool they mean only
/// where there is one.
fn override_file(spec: &mut FleetSpec, overrides: Overrides) -> Result<(), Failure> {
    let ambiguous = |option: &str, what: &str, count: usize| {
        Failure::new(
            Exit::Usage,
            format!("{option} says not which of the {count} {what} it means"),
        )
        .hint("change the configuration instead")
    };
    if let Some(address) = overrides.listen {
        let count = spec.listeners.len();
        match spec.listeners.values_mut().next() {
            Some(listener) if count == 1 => listener.address = address,
            _ => return Err(ambiguous("--listen", "listeners", count)),
        }
    }
    if let Some(workers) = overrides.workers {
        let count = spec.pools.len();
        match spec.pools.values_mut().next() {
            Some(_) if workers > skep_config::MAX_WORKERS => {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("a pool has at most {} workers", skep_config::MAX_WORKERS),
                ));
            }
            Some(pool) if count == 1 => pool.workers = workers,
            _ => return Err(ambiguous("--workers", "pools", count)),
        }
    }
    Ok(())
}

/// A component with a similar name beside the missing one, or the only one.
pub(super) fn similar(component: &Path) -> Option<PathBuf> {
    let dir = component.parent().unwrap_or_else(|| Path::new(""));
    let listed = if dir == Path::new("") {
        Path::new(".")
    } else {
        dir
    };
    let wanted = component.file_name()?.to_str()?;
    let mut names: Vec<_> = listed
        .read_dir()
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    names.sort();
    if let [only] = names.as_slice() {
        return Some(dir.join(only));
    }
    closest(wanted, names.iter().map(String::as_str)).map(|name| dir.join(name))
}

#[cfg(test)]
mod tests;
