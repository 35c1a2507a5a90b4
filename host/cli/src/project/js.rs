//! JavaScript projects: the project's own `build` script, or `jco componentize`
//! as the `skep` table of its package.json says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Built, Failure, made, tool};
use crate::exit::Exit;
use crate::print::Printer;

const GET_NODE: &str = "install Node.js, which brings npm and npx: https://nodejs.org";

/// What matters here of a package.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Package {
    name: Option<String>,
    scripts: Scripts,
    skep: Option<Settings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Scripts {
    build: Option<String>,
}

/// The `skep` table of a package.json.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The component that the build makes.
    component: Option<PathBuf>,
    /// The module to componentize.
    entry: Option<PathBuf>,
    /// The WIT of its world.
    wit: Option<PathBuf>,
    /// The world's name.
    world: Option<String>,
    /// More arguments for `jco componentize`.
    args: Vec<String>,
}

/// How one project is built.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    program: &'static str,
    args: Vec<String>,
    component: PathBuf,
}

pub(super) async fn build(dir: &Path, printer: Printer) -> Result<Built, Failure> {
    let file = dir.join("package.json");
    let failed = |error: String| {
        Failure::new(
            Exit::Failed,
            format!("cannot read `{}`: {error}", file.display()),
        )
    };
    let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
    let package: Package =
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let plan = plan(package)?;
    if !dir.join("node_modules").is_dir() {
        return Err(Failure::new(
            Exit::Unavailable,
            "the project's packages are not installed",
        )
        .hint(format!("run `npm install` in {}", dir.display())));
    }
    let component = dir.join(&plan.component);
    if let Some(parent) = component.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot make `{}`: {error}", parent.display()),
            )
        })?;
    }
    printer.note(&format!("running {} {}", plan.program, plan.args.join(" ")));
    let mut command = tool::command(plan.program, dir);
    command.args(&plan.args);
    tool::run(command, plan.program, GET_NODE).await?;
    made(dir, component)
}

fn plan(package: Package) -> Result<Plan, Failure> {
    let name = package.name.unwrap_or_else(|| "app".to_owned());
    // A scoped package's name is a path; its last part is the name.
    let name = name.rsplit('/').next().unwrap_or("app").to_owned();
    let settings = package.skep.unwrap_or_default();
    let component = settings
        .component
        .unwrap_or_else(|| PathBuf::from(format!("dist/{name}.wasm")));
    if let Some(entry) = settings.entry {
        let path = |path: PathBuf| path.display().to_string();
        let mut args = vec![
            "--no-install".to_owned(),
            "jco".to_owned(),
            "componentize".to_owned(),
            path(entry),
            "--wit".to_owned(),
            path(settings.wit.unwrap_or_else(|| "wit".into())),
        ];
        if let Some(world) = settings.world {
            args.extend(["--world-name".to_owned(), world]);
        }
        args.extend(settings.args);
        args.extend(["--out".to_owned(), path(component.clone())]);
        return Ok(Plan {
            program: "npx",
            args,
            component,
        });
    }
    if package.scripts.build.is_some() {
        return Ok(Plan {
            program: "npm",
            args: vec!["run".to_owned(), "build".to_owned()],
            component,
        });
    }
    Err(Failure::new(
        Exit::Failed,
        "package.json does not say how to build a component",
    )
    .hint(
        "add a script \"build\" that makes dist/NAME.wasm, or \"skep\": { \"entry\": \"app.js\", \
         \"wit\": \"wit\", \"world\": \"NAME\" } for jco (npm install --save-dev \
         @bytecodealliance/jco @bytecodealliance/componentize-js)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Plan, Failure> {
        plan(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_skep_table_is_for_jco_and_a_build_script_for_npm() {
        let plan = read(
            r#"{"name":"@me/hi","scripts":{"build":"x"},
                "skep":{"entry":"app.js","world":"hi","args":["--disable","fetch-event"]}}"#,
        )
        .unwrap();
        assert_eq!(plan.program, "npx");
        assert_eq!(
            plan.args.join(" "),
            "--no-install jco componentize app.js --wit wit --world-name hi --disable fetch-event \
             --out dist/hi.wasm"
        );
        let plan = read(r#"{"scripts":{"build":"x"},"skep":{"component":"out/a.wasm"}}"#).unwrap();
        assert_eq!(
            (plan.program, plan.args.join(" ")),
            ("npm", "run build".into())
        );
        assert_eq!(plan.component, Path::new("out/a.wasm"));
    }

    #[test]
    fn a_package_that_says_nothing_is_told_what_to_say() {
        let failure = read(r#"{"name":"hi"}"#).unwrap_err();
        assert!(format!("{failure:?}").contains("componentize-js"));
        assert!(serde_json::from_str::<Package>(r#"{"skep":{"entri":"x"}}"#).is_err());
    }
}
