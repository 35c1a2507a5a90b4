//! Every file in `tests/invalid` gives exactly the text beside it, every file
//! in `tests/valid` exactly the specification beside it. `SKEP_BLESS=1`
//! rewrites what is beside them; read the difference like code.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use skep_config::parse;

mod world;

use world::World;

fn cases(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    cases.sort();
    cases
}

fn run(folder: &str, extension: &str, produce: impl Fn(&Path, &str) -> String) -> usize {
    let bless = std::env::var_os("SKEP_BLESS").is_some();
    let mut different = Vec::new();
    let cases = cases(folder);
    for path in &cases {
        let text = std::fs::read_to_string(path).unwrap();
        // Problems name the file alone, so that goldens do not depend on where
        // the repository is.
        let found = produce(Path::new(path.file_name().unwrap()), &text);
        let beside = path.with_extension(extension);
        if bless {
            std::fs::write(&beside, &found).unwrap();
        } else if std::fs::read_to_string(&beside).unwrap_or_default() != found {
            different.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} differ; SKEP_BLESS=1 accepts what was found:\n\n{}",
        different.len(),
        cases.len(),
        different.join("\n")
    );
    cases.len()
}

#[test]
fn broken_files_give_their_problems() {
    let cases = run("invalid", "err", |path, text| {
        match parse(path, text, &World) {
            Ok(_) => panic!("{} is valid", path.display()),
            Err(problems) => {
                assert_columns_agree(&problems);
                problems.render(false)
            }
        }
    });
    assert!(cases >= 45, "only {cases} broken files");
}

#[test]
fn good_files_give_their_specification() {
    let cases = run("valid", "json", |path, text| {
        match parse(path, text, &World) {
            Ok(checked) => {
                let mut json = serde_json::to_string_pretty(&checked.spec).unwrap();
                json.push('\n');
                json
            }
            Err(problems) => panic!("{problems}"),
        }
    });
    assert!(cases >= 5, "only {cases} good files");
}

/// Not a golden: the suite reads those on machines with any number of cores.
#[test]
fn auto_is_a_number_before_anything_is_compared_with_it() {
    let file = |missing: u16| {
        format!(
            "[pool.default]\nmax_unavailable = {missing}\n[app.a]\ncomponent = \"hello.wasm\"\n"
        )
    };
    assert!(parse(Path::new("a.toml"), &file(3), &World).is_ok());
    let problems = parse(Path::new("a.toml"), &file(4), &World).unwrap_err();
    let problem = problems.iter().next().unwrap();
    assert_eq!(
        problem.message(),
        "`max_unavailable` must be less than the 4 workers of the pool, not 4"
    );
}

#[test]
fn grants_are_bounded_in_number() {
    let file = |count: u16| {
        let grants: Vec<String> = (0..count)
            .map(|index| format!("\"https://a{index}.example\""))
            .collect();
        let list = grants.join(",");
        format!("[app.a]\ncomponent = \"hello.wasm\"\noutbound = [{list}]\n")
    };
    let checked = parse(Path::new("a.toml"), &file(256), &World).unwrap();
    assert_eq!(
        checked.spec.apps.values().next().unwrap().outbound.len(),
        256
    );
    let problems = parse(Path::new("a.toml"), &file(257), &World).unwrap_err();
    assert_eq!(
        problems.iter().next().unwrap().message(),
        "`outbound` may have at most 256 grants, not 257"
    );
}

#[test]
fn listeners_of_a_pool_are_bounded_in_number() {
    let file = |count: usize| {
        let listeners: Vec<String> = (0..count)
            .map(|index| {
                format!(
                    "[listener.l{index}]\naddress = \"127.0.0.1:{}\"\n",
                    9000 + index
                )
            })
            .collect();
        format!(
            "{}[app.a]\ncomponent = \"hello.wasm\"\n",
            listeners.concat()
        )
    };
    let most = skep_core::MAX_LISTENERS;
    assert!(parse(Path::new("a.toml"), &file(most), &World).is_ok());
    let problems = parse(Path::new("a.toml"), &file(most + 1), &World).unwrap_err();
    assert_eq!(problems.len(), 1);
    let message = problems.iter().next().unwrap().message();
    assert!(message.contains("more than 128 listeners"), "{message}");
}

/// What programs read and what people read must name the same place.
fn assert_columns_agree(problems: &skep_config::Problems) {
    for problem in problems {
        let (Some(path), Some((line, column))) = (problem.path(), problem.position()) else {
            continue;
        };
        let text = problem.render(false);
        let place = format!("{}:{line}:{column}\n", path.display());
        assert!(text.contains(&place), "{place} is not in\n{text}");
        let json = problem.to_json();
        assert_eq!(json["line"], line);
        assert_eq!(json["column"], column);
        assert!(json["end_column"].is_u64());
        // Colours change nothing but colours.
        let coloured = problem.render(true);
        assert!(coloured.contains('\u{1b}') && !text.contains('\u{1b}'));
    }
}
