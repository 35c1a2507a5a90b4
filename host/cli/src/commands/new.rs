//! `skep new`: a project that builds and serves as it is. The files are in
//! `templates/`; what is written here is their names and the few words that
//! differ between projects.

use std::fs;
use std::path::{Path, PathBuf};

use skep_core::AppName;

use crate::args::Template;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

const README: &str = include_str!("../../templates/README.md.in");
const GITIGNORE: &str = include_str!("../../templates/gitignore.in");
const CONFIGURATION: &str = include_str!("../../templates/skep.toml.in");

/// Makes a project of its own inside somebody else's workspace.
const STANDALONE: &str = "\n# Not a member of the workspace around it.\n[workspace]\n";

impl Template {
    const fn manifest(self) -> &'static str {
        match self {
            Self::Rust => include_str!("../../templates/rust/Cargo.toml.in"),
            Self::RustP3 => include_str!("../../templates/rust-p3/Cargo.toml.in"),
        }
    }

    const fn handler(self) -> &'static str {
        match self {
            Self::Rust => include_str!("../../templates/rust/lib.rs.in"),
            Self::RustP3 => include_str!("../../templates/rust-p3/lib.rs.in"),
        }
    }
}

/// Makes the project.
pub(crate) fn run(path: &Path, template: Template, printer: Printer) -> Result<(), Failure> {
    scaffold(path, template)?;
    let shown = path.display();
    printer.note(&format!(
        "made `{shown}`; `skep dev {shown}` builds and serves it"
    ));
    printer.data(&format!("{shown}\n"))
}

fn scaffold(path: &Path, template: Template) -> Result<(), Failure> {
    let name = project_name(path)?;
    if path
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
        || path.is_file()
    {
        return Err(Failure::new(
            Exit::Failed,
            format!("`{}` exists and is not empty", path.display()),
        )
        .hint("choose another name, or move it away"));
    }
    for (file, text) in files(&name, template, is_in_workspace(path)) {
        write(&path.join(file), &text)?;
    }
    Ok(())
}

/// A name that is good for a directory, a crate and an app alike.
fn project_name(path: &Path) -> Result<String, Failure> {
    let bad = |name: &str, why: &str| {
        Failure::new(
            Exit::Usage,
            format!("`{name}` is no name for a project: {why}"),
        )
        .hint("use a-z, 0-9, '-' and '_', and begin with a letter")
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(bad(
            &path.display().to_string(),
            "it names no directory to make",
        ));
    };
    AppName::new(name).map_err(|why| bad(name, &why.to_string()))?;
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(bad(name, "cargo wants a letter first"));
    }
    if RESERVED.contains(&name) {
        return Err(bad(name, "cargo or Rust has another use for it"));
    }
    Ok(name.to_owned())
}

/// Names that cargo refuses or that make a crate nobody can depend on.
const RESERVED: [&str; 12] = [
    "build",
    "core",
    "crate",
    "deps",
    "examples",
    "incremental",
    "mod",
    "proc_macro",
    "self",
    "std",
    "super",
    "test",
];

/// Whether cargo would look for this project in a workspace above it.
fn is_in_workspace(path: &Path) -> bool {
    std::path::absolute(path).is_ok_and(|path| {
        path.ancestors()
            .skip(1)
            .any(|dir| dir.join("Cargo.toml").is_file())
    })
}

fn files(name: &str, template: Template, in_workspace: bool) -> [(&'static str, String); 5] {
    let fill = |text: &str| {
        text.replace("{name}", name)
            .replace("{file}", &name.replace('-', "_"))
    };
    let mut manifest = fill(template.manifest());
    if in_workspace {
        manifest.push_str(STANDALONE);
    }
    [
        ("Cargo.toml", manifest),
        ("src/lib.rs", template.handler().to_owned()),
        ("skep.toml", fill(CONFIGURATION)),
        ("README.md", fill(README)),
        (".gitignore", GITIGNORE.to_owned()),
    ]
}

fn write(file: &PathBuf, text: &str) -> Result<(), Failure> {
    let dir = file
        .parent()
        .expect("every file of a template is in the project");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(file, text))
        .map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot write `{}`: {error}", file.display()),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_do_for_cargo_and_for_apps() {
        assert_eq!(project_name(Path::new("x/my-api_2")).unwrap(), "my-api_2");
        for bad in [
            "..",
            "/",
            "Hello",
            "2go",
            "-x",
            "a b",
            "test",
            "std",
            &"a".repeat(64),
        ] {
            let failure = project_name(Path::new(bad)).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_project_is_whole_and_its_configuration_holds() {
        let dir = tempfile::tempdir().unwrap();
        for template in [Template::Rust, Template::RustP3] {
            let path = dir.path().join(format!("my-{template:?}").to_lowercase());
            scaffold(&path, template).unwrap();
            let read = |file| fs::read_to_string(path.join(file)).unwrap();
            let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
            let name = manifest["package"]["name"].as_str().unwrap();
            assert!(name.starts_with("my-rust"));
            assert!(!manifest.contains_key("workspace"));
            assert_eq!(manifest["lib"]["crate-type"][0].as_str(), Some("cdylib"));
            assert!(read("src/lib.rs").contains("export!(Handler)"));
            for file in ["Cargo.toml", "skep.toml", "README.md"] {
                let text = read(file);
                assert!(
                    !text.contains("{name}") && !text.contains("{file}"),
                    "{file}"
                );
            }

            // The component that a build leaves is the one the file names.
            let component = path
                .join("target/wasm32-wasip2/release")
                .join(format!("{}.wasm", name.replace('-', "_")));
            fs::create_dir_all(component.parent().unwrap()).unwrap();
            fs::write(&component, "").unwrap();
            let checked =
                skep_config::load(&path.join("skep.toml"), &skep_config::ProcessEnvironment)
                    .unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(checked.spec.apps.len(), 1);

            let failure = scaffold(&path, template).unwrap_err();
            assert!(failure.to_string().contains("not empty"), "{failure}");
        }
    }

    #[test]
    fn inside_a_workspace_a_project_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Cargo.toml"), "[workspace]\n").unwrap();
        let path = dir.path().join("a");
        scaffold(&path, Template::Rust).unwrap();
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(
            manifest
                .parse::<toml::Table>()
                .unwrap()
                .contains_key("workspace")
        );
    }
}
