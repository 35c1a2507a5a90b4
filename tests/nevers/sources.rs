//! What sources never say.

use crate::{Offences, code_of, has_word, is_test, rust_files, shown};

/// The longest file; tests may be longer.
const MAX_LINES: usize = 500;

/// The declared exceptions outside of `sys`, one function each.
const UNSAFE_OUTSIDE_SYS: [&str; 2] = [
    "host/engine/src/precompiled.rs",
    "host/worker/src/ticker.rs",
];

/// The one reads which numbers the kernel says an epoll watches, and never uses
/// them as descriptors; the other calls what still takes a number.
const NUMBERS_OF_DESCRIPTORS: [&str; 2] = [
    "host/sys/src/exclusive/registration.rs",
    "host/sys/src/listener.rs",
];

#[test]
fn only_sys_is_unsafe() {
    let mut offences = Offences::default();
    for path in ["host", "guest-sdk", "tests/src", "tests/suite", "benches"]
        .map(rust_files)
        .concat()
    {
        let name = shown(&path);
        if name.starts_with("host/sys/") || UNSAFE_OUTSIDE_SYS.contains(&name.as_str()) {
            continue;
        }
        for (line, code) in code_of(&path) {
            if has_word(&code, "unsafe") {
                offences.add(&path, line, &code);
            }
        }
    }
    for path in rust_files("host").into_iter().filter(|path| {
        let name = shown(path);
        name.ends_with("/src/lib.rs") || name == "host/cli/src/main.rs"
    }) {
        let text = std::fs::read_to_string(&path).unwrap();
        let denies = text.contains("#![deny(unsafe_code)]");
        let name = shown(&path);
        let exception = name.starts_with("host/engine/") || name.starts_with("host/worker/");
        let forbids = text.contains("#![forbid(unsafe_code)]") || (denies && exception);
        if !forbids && !name.starts_with("host/sys/") {
            offences.note(&format!("{name} does not forbid unsafe code"));
        }
    }
    offences.none("somebody but sys writes unsafe");
}

#[test]
fn the_core_reads_no_clock_file_variable_or_socket() {
    let mut offences = Offences::default();
    let words = [
        "Instant::now",
        "SystemTime",
        "std::env",
        "std::fs",
        "std::net::Tcp",
        "std::process",
        "std::thread",
        "std::io",
        "RandomState",
        "async",
        "await",
    ];
    for path in rust_files("host/core/src") {
        if is_test(&path) {
            continue;
        }
        for (line, code) in code_of(&path) {
            for word in words {
                if has_word(&code, word) {
                    offences.add(&path, line, word);
                }
            }
        }
    }
    offences.none("core reads a clock, a file, a variable, a socket or a random source");
}

#[test]
fn messages_are_framed_without_input_or_output() {
    let mut offences = Offences::default();
    for path in rust_files("host/wire/src") {
        for (line, code) in code_of(&path) {
            for word in ["std::fs", "std::io", "std::net", "tokio", "OwnedFd"] {
                if has_word(&code, word) {
                    offences.add(&path, line, word);
                }
            }
        }
    }
    offences.none("wire does input or output");
}

#[test]
fn no_raw_descriptor_crosses_a_function_boundary() {
    let mut offences = Offences::default();
    for path in rust_files("host") {
        if is_test(&path) {
            continue;
        }
        for (line, code) in code_of(&path) {
            let is_trait = code.contains("fn as_raw_fd(&self)");
            let crosses = has_word(&code, "fn") && has_word(&code, "RawFd");
            if crosses && !is_trait && !NUMBERS_OF_DESCRIPTORS.contains(&shown(&path).as_str()) {
                offences.add(&path, line, &code);
            }
        }
    }
    offences.none("a raw descriptor is passed");
}

#[test]
fn nothing_sleeps_to_let_something_happen() {
    let mut offences = Offences::default();
    for path in ["host", "tests/suite", "guest-sdk/src"]
        .map(rust_files)
        .concat()
    {
        for (line, code) in code_of(&path) {
            if code.contains("thread::sleep") {
                offences.add(&path, line, &code);
            }
        }
    }
    offences.none("a sleep synchronises");
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    let mut offences = Offences::default();
    for path in ["host", "guest-sdk/src", "tests/xtask/src"]
        .map(rust_files)
        .concat()
    {
        if is_test(&path) && !shown(&path).starts_with("tests/xtask") {
            continue;
        }
        for (line, code) in code_of(&path) {
            for word in [
                ".unwrap()",
                ".unwrap_err()",
                "todo!",
                "unimplemented!",
                "dbg!",
            ] {
                if code.contains(word) {
                    offences.add(&path, line, word);
                }
            }
        }
    }
    offences.none("an unwrap outside of tests");
}

#[test]
fn only_print_prints() {
    let mut offences = Offences::default();
    for path in rust_files("host") {
        if is_test(&path) || shown(&path) == "host/cli/src/print.rs" {
            continue;
        }
        for (line, code) in code_of(&path) {
            for word in ["println!", "eprintln!", "print!", "eprint!"] {
                if has_word(&code, word.trim_end_matches('!')) && code.contains(word) {
                    offences.add(&path, line, word);
                }
            }
        }
    }
    offences.none("somebody but print prints");
}

#[test]
fn no_file_is_long() {
    let mut offences = Offences::default();
    for path in ["host", "guest-sdk", "guests", "tests", "benches"]
        .map(rust_files)
        .concat()
    {
        let name = shown(&path);
        // The harness is held to it, the suites are not.
        if is_test(&path) && !name.starts_with("tests/src/") && !name.starts_with("tests/xtask/") {
            continue;
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        if lines > MAX_LINES {
            offences.add(&path, lines, "is longer than 500 lines");
        }
    }
    offences.none("a file is over 500 lines");
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut offences = Offences::default();
    for path in ["host", "guest-sdk/src", "guests", "tests"]
        .map(rust_files)
        .concat()
    {
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        let exempt = path
            .file_name()
            .is_some_and(|name| name == "build.rs" || name == "tests.rs")
            || is_test(&path) && shown(&path).starts_with("host/");
        if !first.starts_with("//!") && !exempt {
            offences.add(&path, 1, "has no module documentation");
        }
    }
    offences.none("a module without a word about itself");
}

/// The words of a name, `CamelCase` or `snake_case`, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for char in name.chars() {
        if char == '_' || char == '-' || char.is_uppercase() {
            words.push(String::new());
        }
        if char.is_alphanumeric() {
            words
                .last_mut()
                .expect("there is one")
                .extend(char.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn names_say_what_they_name() {
    let never = [
        "manager", "helper", "helpers", "util", "utils", "common", "master", "slave",
    ];
    let bare = ["context", "info", "data"];
    let mut offences = Offences::default();
    for path in ["host", "guest-sdk/src", "tests/src", "tests/xtask/src"]
        .map(rust_files)
        .concat()
    {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut names = vec![(0, stem, true)];
        for (line, code) in code_of(&path) {
            // What a foreign trait calls its types is not ours to name.
            if code.starts_with("    type ") {
                continue;
            }
            let code = code.trim_start();
            for item in ["struct", "enum", "trait", "type", "mod", "fn", "union"] {
                let Some((before, after)) = code.split_once(&format!("{item} ")) else {
                    continue;
                };
                if !before.split_whitespace().all(|word| {
                    word.starts_with("pub") || ["const", "async", "unsafe", "in"].contains(&word)
                }) {
                    continue;
                }
                let name: String = after
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                names.push((line, name, item != "fn"));
            }
        }
        for (line, name, is_thing) in names {
            let words = words(&name);
            let banned = words.iter().any(|word| never.contains(&word.as_str()));
            let says_nothing = is_thing && words.len() == 1 && bare.contains(&words[0].as_str());
            if banned || says_nothing {
                offences.add(&path, line, &name);
            }
        }
    }
    offences.none("a name that says nothing");
}
