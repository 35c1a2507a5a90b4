//! Python projects: `componentize-py`, by the conventions of its own examples
//! (`app.py`, `wit/`) or as `[tool.skep]` of pyproject.toml says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Built, Failure, made, tool};
use crate::exit::Exit;
use crate::print::Printer;

const TOOL: &str = "componentize-py";
const GET_TOOL: &str = "run `pip install componentize-py`, or in the project: python3 -m venv \
                        .venv && .venv/bin/pip install componentize-py";

/// What matters here of a pyproject.toml.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PyProject {
    tool: Tools,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tools {
    skep: Settings,
}

/// `[tool.skep]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The module to componentize; `app` by default.
    module: Option<String>,
    /// The WIT of its world; `wit` by default.
    wit: Option<PathBuf>,
    /// The world's name; the WIT's only one by default.
    world: Option<String>,
    /// The component to make; MODULE.wasm by default.
    component: Option<PathBuf>,
}

pub(super) async fn build(dir: &Path, printer: Printer) -> Result<Built, Failure> {
    let settings = settings(dir)?;
    let (args, component) = plan(settings);
    printer.note(&format!("running {TOOL} {}", args.join(" ")));
    let mut command = tool::command(program(dir), dir);
    command.args(&args);
    tool::run(command, TOOL, GET_TOOL).await?;
    made(dir, dir.join(component))
}

fn settings(dir: &Path) -> Result<Settings, Failure> {
    let file = dir.join("pyproject.toml");
    let failed = |error: String| {
        Failure::new(
            Exit::Failed,
            format!("cannot read `{}`: {}", file.display(), error.trim_end()),
        )
    };
    match std::fs::read_to_string(&file) {
        Ok(text) => toml::from_str::<PyProject>(&text)
            .map(|project| project.tool.skep)
            .map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The project's own environment first, as an activated one would be.
fn program(dir: &Path) -> PathBuf {
    let own = dir.join(".venv/bin").join(TOOL);
    if own.is_file() { own } else { TOOL.into() }
}

fn plan(settings: Settings) -> (Vec<String>, PathBuf) {
    let module = settings.module.unwrap_or_else(|| "app".to_owned());
    let component = settings
        .component
        .unwrap_or_else(|| PathBuf::from(format!("{module}.wasm")));
    let wit = settings.wit.unwrap_or_else(|| "wit".into());
    let mut args = vec!["-d".to_owned(), wit.display().to_string()];
    if let Some(world) = settings.world {
        args.extend(["-w".to_owned(), world]);
    }
    args.extend([
        "componentize".to_owned(),
        module,
        "-o".to_owned(),
        component.display().to_string(),
    ]);
    (args, component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventions_hold_where_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (args, component) = plan(settings(dir.path()).unwrap());
        assert_eq!(args.join(" "), "-d wit componentize app -o app.wasm");
        assert_eq!(component, Path::new("app.wasm"));
        assert_eq!(program(dir.path()), Path::new(TOOL));

        std::fs::write(
            dir.path().join("pyproject.toml"),
            "[project]\nname = 'x'\n[tool.skep]\nmodule = 'main'\nworld = 'w'\n",
        )
        .unwrap();
        let (args, _) = plan(settings(dir.path()).unwrap());
        assert_eq!(args.join(" "), "-d wit -w w componentize main -o main.wasm");

        std::fs::write(
            dir.path().join("pyproject.toml"),
            "[tool.skep]\nwurld = 1\n",
        )
        .unwrap();
        let failure = settings(dir.path()).unwrap_err();
        assert!(failure.to_string().contains("wurld"), "{failure}");
    }
}
