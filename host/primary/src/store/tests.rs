use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_core::Revision;

use super::*;
use crate::state_dir::once_free;

/// Tells the test executable, started again, where to save without end.
const SAVE_IN: &str = "SKEP_TEST_SAVE_IN";

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

/// A history with so many revisions, of a component each.
fn history(revisions: u32) -> History {
    let mut history = History::new();
    for of in 1..=revisions {
        let revision = history.begin(format!("{of:064x}"), "/srv/hello.wasm".into(), of.into());
        history.live(revision);
    }
    history
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(&mut &*content, u64::MAX).unwrap().0
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = names(dir)
        .unwrap()
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("revisions")), 0o700);
    assert_eq!(mode(&dir.path().join("components")), 0o700);
    assert_eq!(store.load(&app("hello")).unwrap(), History::new());
    store.save(&app("hello"), &history(3)).unwrap();
    store.save(&app("hello"), &history(2)).unwrap();
    store.save(&app("other"), &history(1)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load(&app("hello")).unwrap(), history(2));
    assert_eq!(
        files(&dir.path().join("revisions")),
        ["hello.json", "other.json"]
    );
}

#[test]
fn a_broken_history_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let path = dir.path().join("revisions/hello.json");
    let whole = serde_json::to_string(&history(2)).unwrap();
    let torn = &whole[..whole.len() / 2];
    let newer = whole.replacen("\"version\":1", "\"version\":2", 1);
    for (number, text, why) in [
        (1, torn, "EOF while parsing"),
        (2, newer.as_str(), "version 2, expected 1"),
        (3, "", "EOF while parsing"),
    ] {
        fs::write(&path, text).unwrap();
        let error = store.load(&app("hello")).unwrap_err();
        assert!(error.to_string().contains("hello.json"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(why), "{source}");
        let aside = store.set_aside(&app("hello")).unwrap();
        assert!(aside.ends_with(format!("hello.json.broken-{number}")));
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
        assert_eq!(store.load(&app("hello")).unwrap(), History::new());
    }
    File::create(&path)
        .unwrap()
        .set_len(MAX_HISTORY + 1)
        .unwrap();
    assert!(matches!(
        store.load(&app("hello")),
        Err(StoreError::TooLarge { .. })
    ));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = store.load(&app("hello")).unwrap_err().to_string();
    assert!(error.contains("is a directory, not"), "{error}");
    store.set_aside(&app("hello")).unwrap();
    let fifo = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(fifo.success());
    let error = store.load(&app("hello")).unwrap_err().to_string();
    assert!(error.contains("is a fifo, not"), "{error}");
}

#[test]
fn what_is_left_of_a_broken_history_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let path = dir.path().join("revisions/hello.json");
    // As an earlier version has written it: with texts of any length.
    let mut whole = serde_json::to_value(history(2)).unwrap();
    whole["revisions"][0]["outcome"] = "rolled-back".into();
    whole["revisions"][0]["reason"] = "x".repeat(5 << 20).into();
    whole["trail"] = serde_json::json!([]);
    fs::write(&path, whole.to_string()).unwrap();
    let error = store.load(&app("hello")).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }));
    let aside = store.set_aside(&app("hello")).unwrap();
    let salvaged = store.salvage(&aside).unwrap();
    assert_eq!(
        (salvaged.active(), salvaged.next()),
        (Some(Revision(2)), Revision(3))
    );
    assert!(salvaged.revisions()[0].reason.as_ref().unwrap().len() <= 4096);
    store.save(&app("hello"), &salvaged).unwrap();
    assert_eq!(store.load(&app("hello")).unwrap(), salvaged);
}

#[test]
fn what_stands_in_the_place_of_a_component_is_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"component").unwrap();
    let kept = store.component_path(digest(b"component"));
    fs::create_dir(&kept).unwrap();
    store.keep_component(&file, digest(b"component")).unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"component");
}

#[test]
fn a_component_is_kept_as_it_was_meant_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let source = dir.path().join("hello.wasm");
    fs::write(&source, b"component").unwrap();
    let mut file = File::open(&source).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    let meant = digest(b"component");
    let kept = store.component_path(meant);

    let other = store.keep_component(&file, digest(b"another")).unwrap_err();
    assert!(matches!(other, StoreError::Changed { .. }));
    assert!(files(&dir.path().join("components")).is_empty());

    store.keep_component(&file, meant).unwrap();
    assert_eq!(file.stream_position().unwrap(), 5);
    assert_eq!(fs::read(&kept).unwrap(), b"component");
    assert_eq!(mode(&kept), 0o444);

    let before = fs::metadata(&kept).unwrap().modified().unwrap();
    store.keep_component(&file, meant).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);

    // Cut short by something that is not us.
    fs::remove_file(&kept).unwrap();
    fs::write(&kept, b"compo").unwrap();
    store.keep_component(&file, meant).unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"component");
}

#[test]
fn what_a_killed_primary_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save(&app("hello"), &history(1)).unwrap();
    fs::write(dir.path().join("revisions/.x.tmp"), "half").unwrap();
    fs::write(dir.path().join("components/.y.tmp"), "half").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(files(&dir.path().join("revisions")), ["hello.json"]);
    assert!(files(&dir.path().join("components")).is_empty());
    assert_eq!(store.load(&app("hello")).unwrap(), history(1));
}

/// Not a test of its own: what the next one starts, and kills.
#[test]
fn saves_without_end_when_told_to() {
    let Some(dir) = std::env::var_os(SAVE_IN) else {
        return;
    };
    let store = Store::open(Path::new(&dir)).unwrap();
    let saved = store.load(&app("hello")).unwrap();
    let mut count = u32::try_from(saved.revisions().len()).unwrap();
    loop {
        count += 1;
        store.save(&app("hello"), &history(count)).unwrap();
        // A whole line at once, past the harness, which may hold it back.
        fs::write("/proc/self/fd/2", format!("saved {count}\n")).unwrap();
    }
}

#[test]
fn a_primary_that_is_killed_leaves_a_whole_history() {
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let mut moments = 0x9e37_79b9_7f4a_7c15_u64;
    let mut last = 0;
    for _ in 0..50 {
        let mut child = Command::new(&this)
            .args(["store::tests::saves_without_end_when_told_to", "--exact"])
            .args(["--nocapture", "--test-threads=1"])
            .env(SAVE_IN, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One save at least, and then some part of the next ones.
        let mut words = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut heard = || {
            let line = words.next().unwrap().unwrap();
            line.strip_prefix("saved ")
                .unwrap_or_else(|| panic!("{line}"))
                .parse::<u32>()
                .unwrap()
        };
        moments = moments.wrapping_mul(6_364_136_223_846_793_005) ^ (moments >> 29);
        let mut acknowledged = heard();
        for _ in 0..moments % 3 {
            acknowledged = heard();
        }
        let moment = Instant::now() + Duration::from_micros((moments >> 8) % 3000);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::open(dir.path()).unwrap();
        let loaded = store.load(&app("hello")).unwrap();
        let count = u32::try_from(loaded.revisions().len()).unwrap();
        assert!(count >= acknowledged && count > last, "a save was lost");
        assert_eq!(loaded, history(count));
        assert_eq!(loaded.active(), Some(Revision(count)));
        assert_eq!(files(&dir.path().join("revisions")), ["hello.json"]);
        last = count;
    }
}

/// A file system of a few pages; gone when it is dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "skep-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(dir))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_keeps_what_was_there_and_is_told_with_advice() {
    let Some(disk) = Tiny::mount() else {
        eprintln!("skipped: a full disk needs the right to mount a small one");
        return;
    };
    let store = Store::open(disk.0.path()).unwrap();
    store.save(&app("hello"), &history(1)).unwrap();
    let error = store.save(&app("hello"), &history(1000)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("revisions"), "{text}");
    assert!(text.ends_with("free space on its file system"), "{text}");
    assert_eq!(store.load(&app("hello")).unwrap(), history(1));

    let mut component = tempfile::tempfile().unwrap();
    component.write_all(&[7; 100 << 10]).unwrap();
    let large = digest(&[7; 100 << 10]);
    let error = store.keep_component(&component, large).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&large.to_string()), "{text}");
    assert!(text.ends_with("free space on its file system"), "{text}");
    assert!(files(&disk.0.path().join("components")).is_empty());
    // What was deleted is gone once nobody has it open: a process that another test
    // starts has all descriptors until it executes.
    once_free(|| store.save(&app("hello"), &history(2)), |_| true).unwrap();
    assert_eq!(store.load(&app("hello")).unwrap(), history(2));
}
