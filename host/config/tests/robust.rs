//! No text whatsoever makes the reader panic, and it is fast.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use skep_config::{Environment, MAX_FILE, Problems, ProcessEnvironment, load, parse};
use skep_core::route::HostTable;
use skep_core::{AppSpec, FleetSpec, Isolation};

mod world;

use world::World;

/// Good and broken files, as a stock of plausible text.
const STOCK: &[&str] = &[
    include_str!("valid/everything.toml"),
    include_str!("valid/sub-tables.toml"),
    include_str!("valid/tenants.toml"),
    include_str!("invalid/everything-at-once.toml"),
    include_str!("invalid/address.toml"),
    include_str!("invalid/env-values.toml"),
    include_str!("invalid/non-ascii-columns.toml"),
    include_str!("invalid/routes-invalid.toml"),
    include_str!("invalid/listener-shared-hosts.toml"),
    include_str!("invalid/outbound.toml"),
    include_str!("invalid/rates.toml"),
    include_str!("invalid/tenant-pool-of-its-own.toml"),
];

/// Pieces that mean something to a TOML parser or to ours.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\r\n",
    "#",
    "-",
    "0",
    "99999999999999999999",
    "1e400",
    "nan",
    "\u{feff}",
    "\u{0}",
    "\u{1b}",
    "ẞ",
    "日",
    "\\u0000",
    "\\uD800",
    "[app.a]",
    "[listener.b]",
    "[pool.c]",
    "[tenant.c]",
    "isolation = \"dedicated\"",
    "tenant = \"c\"",
    "rate = \"1/s per client\"",
    "outbound = [\"http://[::]/0:*\"]",
    "pool = \"c\"",
    "routes = [\"/\"]",
    "env.A.from_env = \"B\"",
    "true",
    "1979-05-27",
];

/// Reads a text, and looks at what comes out or at every form of what is wrong
/// with it.
fn digest(text: &str) {
    let problems = match parse(Path::new("a.toml"), text, &World) {
        Ok(checked) => return assert_whole(&checked.spec),
        Err(problems) => problems,
    };
    assert!(!problems.is_empty());
    let plain = problems.render(false);
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    assert!(problems.render(true).len() > plain.len());
    assert_eq!(
        problems.to_json().as_array().unwrap().len(),
        problems.iter().len()
    );
    for problem in &problems {
        assert!(!problem.message().is_empty());
        let positions = problems.iter().filter_map(skep_config::Problem::position);
        assert!(positions.is_sorted());
    }
}

/// What the other parts of skep rely on.
fn assert_whole(spec: &FleetSpec) {
    let pool_of = |app: &AppSpec| app.pool.clone();
    for app in spec.apps.values() {
        assert!(spec.pools.contains_key(&app.pool), "{spec:?}");
        assert!(spec.tenants.contains_key(&app.tenant), "{spec:?}");
        let mut served = spec.listeners.values();
        assert!(served.any(|listener| listener.pools.contains(&app.pool)));
    }
    for listener in spec.listeners.values() {
        assert!(!listener.pools.is_empty());
        assert!(listener.pools.iter().all(|p| spec.pools.contains_key(p)));
        let apps = spec.apps.values();
        let mine = apps.filter(|app| listener.pools.contains(&app.pool));
        let routes = mine.flat_map(|app| app.routes.iter().map(|route| (route, &app.pool)));
        assert!(HostTable::hosts(routes).is_ok(), "{spec:?}");
    }
    for (name, tenant) in &spec.tenants {
        let (own, others): (Vec<_>, Vec<_>) =
            spec.apps.values().partition(|app| app.tenant == *name);
        let pools: BTreeSet<_> = own.into_iter().map(pool_of).collect();
        if tenant.isolation == Isolation::Dedicated {
            assert!(pools.iter().all(|pool| pool.as_str() == name.as_str()));
            let mut strangers = others.into_iter().map(pool_of);
            assert!(!strangers.any(|pool| pool.as_str() == name.as_str()));
        }
        if tenant.limits.concurrency > 0 || tenant.limits.rate.is_some() {
            assert!(pools.len() <= 1, "{spec:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Remove {
        from: prop::sample::Index,
        length: usize,
    },
    Insert {
        at: prop::sample::Index,
        piece: &'static str,
    },
    Double {
        from: prop::sample::Index,
        length: usize,
    },
    Truncate {
        at: prop::sample::Index,
    },
}

impl Mutation {
    fn apply(&self, text: &mut Vec<char>) {
        let end = |from: usize, length: usize, text: &[char]| (from + length).min(text.len());
        match self {
            Self::Remove { from, length } => {
                let from = from.index(text.len() + 1);
                text.drain(from..end(from, *length, text));
            }
            Self::Insert { at, piece } => {
                let at = at.index(text.len() + 1);
                text.splice(at..at, piece.chars());
            }
            Self::Double { from, length } => {
                let from = from.index(text.len() + 1);
                let copy = text[from..end(from, *length, text)].to_vec();
                text.splice(from..from, copy);
            }
            Self::Truncate { at } => text.truncate(at.index(text.len() + 1)),
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 1_usize..20).prop_map(|(from, length)| Mutation::Remove { from, length }),
        (index(), prop::sample::select(PIECES))
            .prop_map(|(at, piece)| Mutation::Insert { at, piece }),
        (index(), 1_usize..60).prop_map(|(from, length)| Mutation::Double { from, length }),
        index().prop_map(|at| Mutation::Truncate { at }),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        digest(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_pieces_never_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        digest(&pieces.join(" "));
        digest(&pieces.concat());
    }

    #[test]
    fn mutated_files_never_panic(
        stock in prop::sample::select(STOCK),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let mut text: Vec<char> = stock.chars().collect();
        for mutation in &mutations {
            mutation.apply(&mut text);
        }
        digest(&text.into_iter().collect::<String>());
    }
}

#[test]
fn a_file_of_problems_is_read_to_its_end_and_told_in_brief() {
    let mut text = String::new();
    for index in 0..50_000 {
        writeln!(text, "{}banana{index} = 1", "x".repeat(40)).unwrap();
    }
    let problems = parse(Path::new("a.toml"), &text, &World).unwrap_err();
    // And the one that there is no app.
    assert_eq!(problems.len(), 50_001);
    let rendered = problems.render(false);
    assert!(
        rendered.ends_with("… and 49001 more problems\n"),
        "{}",
        rendered.len()
    );
}

#[test]
fn a_brief_text_keeps_to_its_limit_and_counts_the_rest() {
    let mut text = String::new();
    for index in 0..3000 {
        writeln!(text, "banana{index} = 1").unwrap();
    }
    let problems = parse(Path::new("a.toml"), &text, &World).unwrap_err();
    for limit in [2000, 4096, 64 << 10] {
        let brief = problems.brief(limit);
        assert!(brief.len() <= limit, "{} of {limit}", brief.len());
        assert!(
            brief.len() + 1000 > limit,
            "only {} of {limit}",
            brief.len()
        );
        let told = brief.matches("error: ").count();
        let rest = format!("\n… and {} more problems\n", problems.len() - told);
        assert!(brief.ends_with(&rest), "{brief}");
        let whole = problems.render(false);
        assert!(whole.starts_with(brief.strip_suffix(&rest).unwrap()));
    }
    assert_eq!(problems.brief(usize::MAX), problems.render(false));

    // Where not even the first fits, it is told in one line.
    assert_eq!(
        problems.brief(50),
        "a.toml:1:1: unknown key `banana0` in the file\n\n… and 3000 more problems\n"
    );
    let one = parse(Path::new("a.toml"), "", &World).unwrap_err();
    assert_eq!(one.brief(0), "a.toml: there is no app to serve\n");
}

#[test]
fn deep_nesting_and_huge_files_are_refused() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{ a = ".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("{} = 1", "a".repeat(1_000_000)),
        "x".repeat(MAX_FILE + 1),
    ] {
        let problems = parse(Path::new("a.toml"), &text, &World).unwrap_err();
        assert!(problems.render(false).len() < 10_000);
    }
}

#[test]
fn an_unreadable_file_is_one_problem_without_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let one = |problems: Problems| {
        assert_eq!(problems.len(), 1);
        let problem = problems.iter().next().unwrap().clone();
        assert_eq!(problem.position(), None);
        problem.message().to_owned()
    };
    let missing = dir.path().join("skep.toml");
    let message = one(load(&missing, &ProcessEnvironment).unwrap_err());
    assert!(message.ends_with("there is no such file"), "{message}");
    let message = one(load(dir.path(), &ProcessEnvironment).unwrap_err());
    assert!(message.ends_with("it is a directory"), "{message}");
    std::fs::write(&missing, b"\xff").unwrap();
    let message = one(load(&missing, &ProcessEnvironment).unwrap_err());
    assert!(message.ends_with("it is not UTF-8 text"), "{message}");
    let message = one(load(Path::new("/dev/zero"), &ProcessEnvironment).unwrap_err());
    assert!(message.contains("not a regular file"), "{message}");
    std::fs::write(&missing, vec![b'#'; (4 << 20) + 1]).unwrap();
    let message = one(load(&missing, &ProcessEnvironment).unwrap_err());
    assert!(message.ends_with("it is larger than 4 MiB"), "{message}");
}

#[test]
fn a_file_on_disk_is_loaded_with_paths_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("skep.toml");
    std::fs::write(&path, "[app.hello]\ncomponent = \"hello.wasm\"\n").unwrap();
    assert!(load(&path, &ProcessEnvironment).is_err());
    std::fs::write(dir.path().join("hello.wasm"), b"").unwrap();
    let checked = load(&path, &ProcessEnvironment).unwrap();
    assert_eq!(checked.spec.server.state_dir, dir.path().join(".skep"));
    let (name, app) = checked.spec.apps.first_key_value().unwrap();
    assert_eq!(app.component, dir.path().join("hello.wasm"));
    assert!(checked.spec.pools[&app.pool].workers <= ProcessEnvironment.parallelism());

    // A problem found later stands at the place that names the component.
    let hint = Some("build it again".to_owned());
    let problem = checked.component_problem(name, "it is a core module".to_owned(), hint);
    assert_eq!(problem.position(), Some((2, 13)));
    let text = problem.render(false);
    assert!(text.contains("2 | component = \"hello.wasm\""), "{text}");
    assert!(text.ends_with("hint: build it again"), "{text}");
}

#[test]
fn a_thousand_apps_take_no_time() {
    let mut text = String::new();
    for index in 0..1000 {
        writeln!(
            text,
            "[app.app-{index}]\ncomponent = \"hello.wasm\"\nroutes = [\"/app/{index}/*\", \"a{index}.example/*\"]\ntimeout = \"5s\"\nmemory = \"64MiB\"\nenv = {{ MODE = \"prod\", KEY = {{ from_file = \"secret.key\" }} }}\nrequire = [\"KEY\"]"
        )
        .unwrap();
    }
    let fastest = (0..5)
        .map(|_| {
            let start = Instant::now();
            let checked = parse(Path::new("a.toml"), &text, &World).unwrap();
            assert_eq!(checked.spec.apps.len(), 1000);
            start.elapsed()
        })
        .min()
        .unwrap();
    // 100 ms is the promise for a release build; a debug build is several
    // times slower, and machines of tests are loaded.
    let allowed = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 100 });
    assert!(fastest < allowed, "{fastest:?}");
}
