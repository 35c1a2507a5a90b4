//! The whole way from a file to a checked specification.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use skep_core::{AppName, FleetSpec, Generation};
use toml_edit::Document;

use crate::across;
use crate::document::{Section, quotable};
use crate::environment::{Environment, MAX_FILE, reason};
use crate::problem::{Mark, Place, Problem, Problems, Source, Span};
use crate::report::Report;
use crate::sections::{self, app, listener, pool, server, tenant};

/// A configuration without problems.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it asks for, with generation 1.
    pub spec: FleetSpec,
    /// Where parts of it stand.
    pub places: Places,
}

/// Where parts of a configuration stand, for problems that are found later.
#[derive(Clone, Debug)]
pub struct Places {
    source: Arc<Source>,
    components: BTreeMap<AppName, Span>,
}

impl Checked {
    /// A problem of the component of `app`, at the place that names it; an app
    /// that the file does not have gives a problem without a place.
    #[must_use]
    pub fn component_problem(
        &self,
        app: &AppName,
        message: String,
        hint: Option<String>,
    ) -> Problem {
        let mut problem = Problem::without_place(message, hint);
        problem.place = self.places.components.get(app).map(|span| Place {
            source: Arc::clone(&self.places.source),
            mark: Some(Mark {
                span: span.clone(),
                label: String::new(),
            }),
            others: Vec::new(),
        });
        problem
    }
}

/// Reads and checks a file.
///
/// # Errors
///
/// All problems of the file, or the one that it cannot be read.
pub fn load(path: &Path, env: &dyn Environment) -> Result<Checked, Problems> {
    let text = env.read(path).map_err(|error| {
        let hint = (error.kind() == std::io::ErrorKind::NotFound).then(|| {
            "name the file with -c, or serve a component without one: `skep serve COMPONENT`"
                .to_owned()
        });
        let shown = quotable(&path.to_string_lossy());
        let message = format!(
            "cannot read the configuration `{shown}`: {}",
            reason(&error)
        );
        Problem::without_place(message, hint)
    })?;
    parse(path, &text, env)
}

/// Checks the text of a file. Relative paths in it are relative to the
/// directory of `path`, which need not exist.
///
/// # Errors
///
/// All problems of the text; a text that is not TOML has exactly one.
pub fn parse(path: &Path, text: &str, env: &dyn Environment) -> Result<Checked, Problems> {
    if text.len() > MAX_FILE {
        let shown = quotable(&path.to_string_lossy());
        let message = format!(
            "the configuration `{shown}` is larger than {} MiB",
            MAX_FILE >> 20
        );
        return Err(Problem::without_place(message, None).into());
    }
    let source = Arc::new(Source {
        path: path.to_owned(),
        text: text.to_owned(),
    });
    let report = Report::new(Arc::clone(&source));
    let dir = path.parent().unwrap_or_else(|| Path::new(""));
    let read = match Document::parse(text) {
        Ok(document) => read(&document, dir, env, &report),
        Err(error) => {
            let span = error.span().unwrap_or(text.len()..text.len());
            report_syntax(&report, &span, error.message(), text);
            None
        }
    };
    match (report.into_problems(), read) {
        (None, Some((spec, components))) => Ok(Checked {
            spec,
            places: Places { source, components },
        }),
        (problems, _) => Err(problems.expect("a configuration is refused for a reported problem")),
    }
}

/// Everything that one file says, or `None` if a problem was reported.
fn read(
    document: &Document<&str>,
    dir: &Path,
    env: &dyn Environment,
    report: &Report,
) -> Option<(FleetSpec, BTreeMap<AppName, Span>)> {
    let parallelism = env.parallelism();
    let file = Section::open(
        document.as_table(),
        &sections::FILE,
        sections::FILE.title,
        report,
    );
    let server = server::read(&file, dir);
    let pools = pool::read_all(&file, parallelism);
    let listeners = listener::read_all(&file, dir);
    let tenants = tenant::read_all(&file);
    let mut apps = app::read_all(&file, dir, env, report);
    let unwritten = across::settle(&listeners, &pools, &tenants, &mut apps, report);

    let components = apps
        .list
        .iter()
        .filter_map(|app| Some((app.name.value.clone(), app.component.as_ref()?.span.clone())))
        .collect();
    let mut spec = FleetSpec {
        generation: Generation(1),
        server,
        listeners: BTreeMap::new(),
        pools: pools
            .list
            .into_iter()
            .map(|pool| (pool.name, pool.spec))
            .collect(),
        tenants: tenants
            .list
            .into_iter()
            .filter_map(tenant::DeclaredTenant::into_spec)
            .collect(),
        apps: BTreeMap::new(),
    };
    for listener in listeners.list {
        spec.listeners.extend(listener.into_spec(&unwritten));
    }
    for app in apps.list {
        spec.apps.extend(app.into_spec());
    }
    let no_listener = listeners.names.is_empty();
    across::fill_in(&mut spec, no_listener, &unwritten, parallelism);
    Some((spec, components))
}

fn report_syntax(report: &Report, span: &Span, message: &str, text: &str) {
    let found = text.get(span.clone()).unwrap_or_default();
    // What the parser expects after `key =` is not what a person forgot there.
    let message = match message {
        "string values must be quoted, expected literal string" if found.trim().is_empty() => {
            "a value is missing"
        }
        "string values must be quoted, expected literal string" => "strings must be quoted",
        message => message,
    };
    let draft = report.at(span, format!("not valid TOML: {message}"));
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':');
    if message.starts_with("duplicate key") {
        draft.hint("a key or a table may be written once").report();
    } else if message.contains("must be quoted") && !found.is_empty() && found.chars().all(bare) {
        draft
            .hint(format!("write \"{}\"", quotable(found)))
            .report();
    } else {
        draft.report();
    }
}
