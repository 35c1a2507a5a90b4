//! Broken configurations and components: `check` and `serve` say all of it,
//! exit with 3, and nothing was started.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use skep_tests::build::root;
use skep_tests::command::{Said, run};
use skep_tests::golden::Goldens;
use skep_tests::options::directory;
use skep_tests::{Skep, guest};

/// Paths of this run and this machine become words.
fn normalised(text: &str, dir: &Path) -> String {
    let dir = dir.to_string_lossy();
    let real = fs::canonicalize(&*dir).unwrap_or_default();
    text.replace(&*real.to_string_lossy(), "DIR")
        .replace(&*dir, "DIR")
}

fn transcript(command: &str, said: &Said, dir: &Path) -> String {
    let code = said
        .code
        .map_or_else(|| "none".to_owned(), |code| code.to_string());
    // Said only if it takes long.
    let stderr = normalised(&said.stderr, dir).replace("skep: compiling\n", "");
    let stdout = normalised(&said.stdout, dir);
    format!("$ {command}\n{stdout}{stderr}exit code {code}\n")
}

#[test]
fn every_broken_configuration_is_refused_in_full() {
    let dir = directory();
    let source = root().join("host/config/tests/invalid");
    world(dir.path());
    let mut files: Vec<_> = fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|is| is == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 40, "{} configurations", files.len());
    let mut goldens = Goldens::new("configurations");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read(&file).unwrap();
        fs::write(dir.path().join("skep.toml"), text).unwrap();
        let before = listing(dir.path());
        let check = run(dir.path(), ["check"]);
        let serve = run(dir.path(), ["serve"]);
        if check.code != Some(3) || serve.code != Some(3) {
            wrong.push(format!("{name}: {:?} and {:?}", check.code, serve.code));
        }
        if transcript("", &check, dir.path()) != transcript("", &serve, dir.path()) {
            wrong.push(format!("{name}: check and serve differ"));
        }
        if listing(dir.path()) != before {
            wrong.push(format!(
                "{name}: something was made: {:?}",
                listing(dir.path())
            ));
        }
        goldens.compare(&name, &transcript("skep check", &check, dir.path()));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    goldens.finish();
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// What the configurations expect to find around them, as far as every user
/// finds the same: root reads what is locked.
fn world(dir: &Path) {
    for (name, content) in [
        ("hello.wasm", &b""[..]),
        ("other.wasm", b""),
        ("third.wasm", b""),
        ("secret.key", b"s3cret\n"),
        ("crlf.key", b"s3cret\r\n"),
        ("two-lines.key", b"a\nb\n\n"),
        ("empty.key", b"\n"),
        ("nul.key", b"a\0b"),
        ("binary.key", b"\xff\xfe"),
    ] {
        fs::write(dir.join(name), content).unwrap();
    }
    fs::create_dir(dir.join("folder.wasm")).unwrap();
}

/// Makes broken components, each under a name that says how.
fn broken_components(dir: &Path) -> Vec<&'static str> {
    let hello = fs::read(guest("hello")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    put("truncated.wasm", &hello[..hello.len() / 2]);
    put("header-only.wasm", &hello[..8]);
    put("half-a-header.wasm", &hello[..5]);
    put("empty.wasm", b"");
    put("text.wasm", b"(component)\n");
    put("words.wasm", b"This is not a component at all.\n");
    put("elf.wasm", &fs::read("/proc/self/exe").unwrap()[..4096]);
    // The smallest core module, and one that looks like the output of a
    // compiler that does not know components.
    put("core-module.wasm", b"\0asm\x01\0\0\0");
    put("future.wasm", b"\0asm\x0e\0\x01\0");
    let mut flipped = hello.clone();
    for byte in flipped.iter_mut().skip(200).step_by(97) {
        *byte ^= 0x55;
    }
    put("garbled.wasm", &flipped);
    let mut state = 88_172_645_463_325_252_u64;
    let random: Vec<u8> = (0..100_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    put("random.wasm", &random);
    put(
        "random-behind-a-header.wasm",
        &[&hello[..8], &random[..]].concat(),
    );
    fs::copy(
        guest("hostile-unknown-import"),
        dir.join("unknown-import.wasm"),
    )
    .unwrap();
    fs::copy(guest("hostile-wrong-world"), dir.join("wrong-world.wasm")).unwrap();
    fs::create_dir(dir.join("directory.wasm")).unwrap();
    fs::File::create(dir.join("gigantic.wasm"))
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    vec![
        "truncated.wasm",
        "header-only.wasm",
        "half-a-header.wasm",
        "empty.wasm",
        "text.wasm",
        "words.wasm",
        "elf.wasm",
        "core-module.wasm",
        "future.wasm",
        "garbled.wasm",
        "random.wasm",
        "random-behind-a-header.wasm",
        "unknown-import.wasm",
        "wrong-world.wasm",
        "directory.wasm",
        "gigantic.wasm",
        "missing.wasm",
    ]
}

#[test]
fn every_broken_component_is_refused_by_name() {
    let dir = directory();
    let mut goldens = Goldens::new("components");
    let mut wrong = Vec::new();
    for name in broken_components(dir.path()) {
        let check = run(dir.path(), ["check", name]);
        let serve = run(dir.path(), ["serve", name, "--listen", "127.0.0.1:0"]);
        for said in [&check, &serve] {
            if said.code != Some(3) {
                wrong.push(format!("{name}: {said:?}"));
            }
            if said.stderr.contains("panicked") || said.stderr.contains("worker.spawned") {
                wrong.push(format!("{name}: {}", said.stderr));
            }
        }
        if name == "garbled.wasm" {
            // What is wrong first depends on the guests' compiler too.
            assert!(
                check.stderr.contains("the component is damaged: "),
                "{check:?}"
            );
            continue;
        }
        goldens.compare(
            name.trim_end_matches(".wasm"),
            &transcript(&format!("skep check {name}"), &check, dir.path()),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    goldens.finish();
}

#[test]
fn all_broken_components_of_a_configuration_are_named_at_once() {
    let dir = directory();
    let mut text = String::new();
    for (index, name) in broken_components(dir.path()).into_iter().enumerate() {
        // What the configuration itself refuses has its own tests.
        if !["missing.wasm", "directory.wasm", "garbled.wasm"].contains(&name) {
            text += &format!("[app.a{index}]\ncomponent = \"{name}\"\nroutes = [\"/{index}\"]\n\n");
        }
    }
    text += &format!(
        "[app.good]\ncomponent = \"{}\"\nroutes = [\"/\"]\n",
        guest("hello").display()
    );
    fs::write(dir.path().join("skep.toml"), text).unwrap();
    let check = run(dir.path(), ["check"]);
    assert_eq!(check.code, Some(3), "{check:?}");
    let mut goldens = Goldens::new("components");
    goldens.compare(
        "many-at-once",
        &transcript("skep check", &check, dir.path()),
    );
    goldens.finish();
    let serve = run(dir.path(), ["serve"]);
    assert_eq!(serve.code, Some(3));
    assert!(!serve.stderr.contains("worker.spawned"), "{}", serve.stderr);
}

#[test]
fn an_unreadable_component_is_refused() {
    let dir = directory();
    let path = dir.path().join("secret.wasm");
    fs::copy(guest("hello"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&path).is_ok() {
        println!("skipped: this user reads everything");
        return;
    }
    let said = run(dir.path(), ["check", "secret.wasm"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(
        said.stderr.contains("may not be read by this user"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_good_component_passes() {
    let dir = directory();
    let component = guest("hello-p3");
    let said = run(dir.path(), ["check".as_ref(), component.as_os_str()]);
    // What takes long is said to.
    let stderr = said.stderr.trim_start_matches("skep: compiling\n");
    assert_eq!((said.code, stderr), (Some(0), ""), "{said:?}");
    assert!(
        said.stdout.contains("ok (1 app, 1 pool, 1 listener)"),
        "{said:?}"
    );
}

#[test]
fn an_address_in_use_names_its_holder() {
    let dir = directory();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let component = guest("hello");
    let said = run(
        dir.path(),
        [
            "serve".as_ref(),
            component.as_os_str(),
            "--listen".as_ref(),
            address.as_ref(),
        ],
    );
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(said.stderr.contains(&address), "{}", said.stderr);
    assert!(said.stderr.contains("in use"), "{}", said.stderr);
    assert!(
        said.stderr.contains(&std::process::id().to_string()),
        "it says that we hold it: {}",
        said.stderr
    );
    assert!(!said.stderr.contains("worker.spawned"), "{}", said.stderr);
}

#[test]
fn an_address_of_another_skep_is_told_so() {
    let first = Skep::component(&guest("hello"), 1);
    let skep_tests::http::Address::Tcp(address) = first.address() else {
        panic!("not TCP")
    };
    let dir = directory();
    let component = guest("hello");
    let said = run(
        dir.path(),
        [
            "serve".as_ref(),
            component.as_os_str(),
            "--listen".as_ref(),
            address.to_string().as_ref(),
        ],
    );
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(
        said.stderr.contains(&first.pid().to_string()),
        "{}",
        said.stderr
    );
}
