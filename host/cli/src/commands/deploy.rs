//! `skep deploy`: a component, or a project that is built to one, becomes a
//! new revision of an app. Everything but the build is the primary's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use skep_primary::Deployment;

use super::operate::{self, Words, interrupted};
use super::source::similar;
use crate::args::Terms;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::project::Project;
use crate::table::bytes;

/// Builds if there is something to build, deploys, and waits.
pub(super) async fn run(
    control: &Control,
    app: &str,
    source: &Path,
    terms: Terms,
    printer: Printer,
) -> Result<(), Failure> {
    // Whether there is such an app is found out before a build of minutes.
    let apps = control
        .ask(|client| Ok(client.status()?.apps))
        .await
        .map_err(|error| control.failed(error))?;
    let names: Vec<_> = apps.iter().map(|app| app.name.as_str()).collect();
    if !names.contains(&app) {
        return Err(unknown(app, &names));
    }
    let given = source.display().to_string();
    let source = tokio::select! {
        component = component(source, printer) => {
            component.map_err(|failure| failure.while_doing(&rejected(app)))?
        }
        interrupted = interrupted() => {
            interrupted?;
            return Err(Failure::new(Exit::Failed, "interrupted; nothing was deployed"));
        }
    };
    let deployment = Deployment {
        app: app.to_owned(),
        source,
        strategy: terms.strategy,
        canary: terms.canary,
        force: terms.force,
        dry_run: terms.dry_run,
        detach: terms.detach,
    };
    printer.note(&format!("deploying {}", sized(&deployment.source, &given)));
    operate::wait(
        control,
        &words(app, terms),
        printer,
        move |client, progress| client.deploy(deployment, |said| progress.step(said)),
    )
    .await
    .map_err(|failure| failure.while_doing(&format!("deploy of `{given}`")))
}

/// A component as the user named it, or the project that it was built of, and its size.
fn sized(component: &Path, given: &str) -> String {
    match fs::metadata(component) {
        Ok(found) => format!("`{given}` ({})", bytes(found.len())),
        Err(_) => format!("`{given}`"),
    }
}

/// The component's file, absolute, built if need be.
async fn component(source: &Path, printer: Printer) -> Result<PathBuf, Failure> {
    if source.is_dir() {
        return Ok(Project::find(source)?.build(printer).await?.component);
    }
    let shown = source.display();
    // The primary opens it again, but knows nothing about this directory. Looked at
    // before it is opened: opening a pipe waits for its writer.
    let opened = fs::metadata(source).and_then(|found| {
        let is_file = found.is_file();
        is_file.then(|| File::open(source)).transpose()
    });
    match opened {
        Ok(None) => Err(Failure::new(
            Exit::Failed,
            format!("`{shown}` is not a regular file: a component is read more than once"),
        )
        .hint("write it to a file first, and name that")),
        Ok(Some(_)) => std::path::absolute(source)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot find `{shown}`: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let failure = Failure::new(Exit::Failed, format!("there is no component `{shown}`"));
            Err(match similar(source) {
                Some(other) => failure.hint(format!("did you mean `{}`?", other.display())),
                None => failure.hint("`skep build DIR` makes one and prints its path"),
            })
        }
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("cannot read `{shown}`: {error}"),
        )),
    }
}

/// As the primary says it of the steps that are its own.
fn rejected(app: &str) -> String {
    format!("deploy of {app} rejected: build")
}

fn unknown(app: &str, names: &[&str]) -> Failure {
    let failure = Failure::new(Exit::Usage, format!("there is no app `{app}`"));
    match crate::alike::closest(app, names.iter().copied()) {
        Some(other) => failure.hint(format!("did you mean `{other}`?")),
        None => failure.hint("`skep status` shows the apps; the configuration adds one"),
    }
}

fn words(app: &str, terms: Terms) -> Words {
    if terms.dry_run {
        return Words {
            done: format!("app {app}: it would be accepted; nothing was rolled out"),
            goes_on: "the primary ends the check; nothing is rolled out".to_owned(),
            then: "`skep events` shows what came of it".to_owned(),
        };
    }
    Words {
        done: if terms.detach {
            format!("the deployment of {app} has begun")
        } else {
            format!("app {app} is deployed")
        },
        goes_on: format!("the deployment of {app} goes on in the primary"),
        then: format!("`skep status` follows it, `skep rollback {app}` undoes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Words as Said;
    use crate::print::ColorChoice;

    fn find(source: &Path) -> Result<PathBuf, Failure> {
        let printer = Printer::new(ColorChoice::Never);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(component(source, printer))
    }

    #[test]
    fn a_missing_component_names_the_step() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hello.wasm"), "").unwrap();
        let missing = dir.path().join("helo.wasm");
        let failure = find(&missing).unwrap_err().while_doing(&rejected("hello"));
        assert_eq!(failure.exit(), Exit::Failed);
        let Said::Message { message, hint } = failure.words() else {
            panic!("{failure:?}");
        };
        assert_eq!(
            *message,
            format!(
                "deploy of hello rejected: build: there is no component `{}`",
                missing.display()
            )
        );
        assert!(hint.as_ref().unwrap().ends_with("hello.wasm`?"), "{hint:?}");
        let failure = find(dir.path()).unwrap_err();
        assert!(failure.to_string().contains("is no project"), "{failure}");
        assert_eq!(failure.exit(), Exit::Failed);
    }

    #[test]
    fn what_can_be_read_only_once_is_no_component() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let _listener = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/null")] {
            let failure = find(path).unwrap_err();
            let Said::Message { message, hint } = failure.words() else {
                panic!("{failure:?}");
            };
            assert!(message.contains("is not a regular file"), "{message}");
            assert!(hint.as_ref().unwrap().contains("to a file first"));
        }
    }

    #[test]
    fn a_component_is_told_with_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(12_700_000).unwrap();
        assert_eq!(sized(file.path(), "shop.wasm"), "`shop.wasm` (12 MiB)");
        assert_eq!(sized(Path::new("/nowhere"), "shop.wasm"), "`shop.wasm`");
    }

    #[test]
    fn the_primary_gets_an_absolute_path() {
        // Where tests run.
        assert!(find(Path::new("Cargo.toml")).unwrap().is_absolute());
    }

    #[test]
    fn an_unknown_app_is_guessed() {
        let failure = unknown("helo", &["hello", "other"]);
        assert_eq!(failure.exit(), Exit::Usage);
        let Said::Message { hint, .. } = failure.words() else {
            panic!("{failure:?}");
        };
        assert_eq!(hint.as_deref(), Some("did you mean `hello`?"));
    }

    #[test]
    fn a_dry_run_promises_nothing_to_roll_back() {
        let terms = Terms {
            dry_run: true,
            ..Terms::default()
        };
        assert!(!words("hello", terms).then.contains("rollback"));
        assert!(
            words("hello", Terms::default())
                .then
                .contains("skep rollback hello")
        );
    }
}
