//! Handler projects: what kind one is, and how it becomes a component. The
//! project's own tools do the work; nothing here reads wasm.

mod cargo;
mod js;
mod python;
pub(crate) mod tool;

use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// A handler project on disk.
#[derive(Debug)]
pub(crate) struct Project {
    dir: PathBuf,
    kind: Kind,
}

/// Which tools build it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cargo,
    JavaScript,
    Python,
}

/// What a build made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The component.
    pub(crate) component: PathBuf,
    /// Directories whose changes ask for another build; the project's own is
    /// the first.
    pub(crate) sources: Vec<PathBuf>,
}

impl Project {
    /// The project in a directory.
    ///
    /// # Errors
    ///
    /// No such directory, or nothing in it that we know how to build.
    pub(crate) fn find(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        let dir = std::path::absolute(dir)
            .and_then(|dir| dir.read_dir().map(|_| dir))
            .map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot build `{shown}`: {error}"))
                    .hint("name a project's directory; `skep new NAME` makes one")
            })?;
        let has = |name: &str| dir.join(name).is_file();
        // Rust first: a Rust project may well carry a package.json for its
        // web pages, hardly the other way round.
        let kind = if has("Cargo.toml") {
            Kind::Cargo
        } else if has("package.json") {
            Kind::JavaScript
        } else if has("pyproject.toml") || has("app.py") {
            Kind::Python
        } else {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "`{shown}` is no project: it has no Cargo.toml, package.json or pyproject.toml"
                ),
            )
            .hint("`skep new NAME` makes a project that builds and serves as it is"));
        };
        Ok(Self { dir, kind })
    }

    /// The project's directory, absolute.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Builds the project. The tools' own words go to stderr as they come.
    ///
    /// # Errors
    ///
    /// A missing tool, a broken build, or a build that made no component.
    /// Dropping the future ends the tools.
    pub(crate) async fn build(&self, printer: Printer) -> Result<Built, Failure> {
        match self.kind {
            Kind::Cargo => cargo::build(&self.dir, printer).await,
            Kind::JavaScript => js::build(&self.dir, printer).await,
            Kind::Python => python::build(&self.dir, printer).await,
        }
    }
}

/// Checks that the tools left the component where it was to be.
fn made(dir: &Path, component: PathBuf) -> Result<Built, Failure> {
    if !component.is_file() {
        return Err(Failure::new(
            Exit::Failed,
            format!("the build ended well but made no `{}`", component.display()),
        ));
    }
    Ok(Built {
        component,
        sources: vec![dir.to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_in_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Project::find(dir.path()).unwrap_err();
        assert!(failure.to_string().contains("is no project"), "{failure}");
        for (file, kind) in [
            ("app.py", Kind::Python),
            ("package.json", Kind::JavaScript),
            ("Cargo.toml", Kind::Cargo),
        ] {
            std::fs::write(dir.path().join(file), "").unwrap();
            assert_eq!(Project::find(dir.path()).unwrap().kind, kind);
        }
        let failure = Project::find(&dir.path().join("none")).unwrap_err();
        assert!(failure.to_string().contains("No such file"), "{failure}");
        let file = dir.path().join("app.py");
        assert!(Project::find(&file).is_err());
    }
}
