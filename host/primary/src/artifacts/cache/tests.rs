use super::*;
use crate::state_dir::once_free;

fn held() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

#[test]
fn a_component_that_nobody_needs_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let digest = |of: &[u8]| Digest::of(&mut &*of, 10).unwrap().0;
    let (gone, kept) = (digest(b"gone"), digest(b"kept"));
    let store = |key: &Key| {
        let _lock = cache.lock(key).unwrap();
        let (draft, file) = cache.draft(key).unwrap();
        File::from(file).write_all(b"code").unwrap();
        let built = Built {
            flavor: Flavor::P2,
            imports: Vec::new(),
            digest: digest(b"code").to_string(),
            size: 4,
        };
        cache.store(key, &draft, &built).unwrap();
    };
    let [old, new, other] = [
        Key::new(gone, "0a"),
        Key::new(gone, "0b"),
        Key::new(kept, "0b"),
    ];
    for key in [&old, &new, &other] {
        store(key);
    }
    let being_built = cache.lock(&new).unwrap();
    // A process that another test starts has all locks until it executes.
    let sweep = |key: &Key, all| {
        let swept = once_free(
            || {
                cache
                    .sweep(key, all)
                    .and_then(|swept| swept.then_some(()).ok_or_else(held))
            },
            |error| error.kind() == io::ErrorKind::WouldBlock,
        );
        swept.unwrap();
    };
    sweep(&old, true);
    assert!(!cache.sweep(&new, true).unwrap());
    assert!(matches!(cache.lookup(&old), Lookup::Absent));
    let used = cache.lookup(&new);
    assert!(matches!(used, Lookup::Hit(_)));
    drop(being_built);
    assert!(!cache.sweep(&new, true).unwrap(), "it is in use");
    drop(used);
    sweep(&new, true);
    fs::write(cache.path(&other, "json.tmp"), "{").unwrap();
    sweep(&other, false);
    assert!(matches!(cache.lookup(&other), Lookup::Hit(_)));
    let left = fs::read_dir(cache.dir()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with(&other.to_string()), "{name}");
    });
    assert_eq!(
        left.count(),
        2,
        "its lock and what was not finished are gone"
    );
}

#[test]
fn a_lock_whose_name_was_taken_away_is_worth_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let key = Key::new(Digest::of(&mut io::empty(), 1).unwrap().0, "0a");
    let held = cache.lock(&key).unwrap();
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| cache.lock(&key).unwrap());
        fs::remove_file(cache.path(&key, "lock")).unwrap();
        drop(held);
        let got = waits.join().unwrap();
        assert_eq!(got.metadata().unwrap().nlink(), 1);
    });
}

#[test]
fn what_stands_in_the_place_of_its_files_holds_nobody_up_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let digest = |of: &[u8]| Digest::of(&mut &*of, 10).unwrap().0;
    let key = Key::new(digest(b"x"), "0a");
    for extension in ["json", "cwasm", "lock", "tmp", "json.tmp"] {
        let path = cache.path(&key, extension);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
    }
    assert!(matches!(cache.lookup(&key), Lookup::Broken(_)));
    let lock = cache.lock(&key).unwrap();
    cache.remove(&key).unwrap();
    fs::create_dir(cache.path(&key, "cwasm")).unwrap();
    assert!(matches!(cache.lookup(&key), Lookup::Broken(_)));
    cache.remove(&key).unwrap();
    let (draft, file) = cache.draft(&key).unwrap();
    File::from(file).write_all(b"code").unwrap();
    let built = Built {
        flavor: Flavor::P2,
        imports: Vec::new(),
        digest: digest(b"code").to_string(),
        size: 4,
    };
    cache.store(&key, &draft, &built).unwrap();
    drop(lock);
    assert!(matches!(cache.lookup(&key), Lookup::Hit(_)));
    let aside = dir
        .path()
        .join("artifacts")
        .join(format!("{key}.cwasm.aside-1"));
    assert!(aside.is_dir(), "a directory is nobody's to delete");
}

#[test]
fn a_cache_beside_another_finds_what_is_there_and_changes_nothing() {
    let (dir, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let digest = |of: &[u8]| Digest::of(&mut &*of, 10).unwrap().0;
    let key = Key::new(digest(b"x"), "0a");
    let store = |cache: &Cache| {
        let _lock = cache.lock(&key).unwrap();
        let (draft, file) = cache.draft(&key).unwrap();
        File::from(file).write_all(b"code").unwrap();
        let built = Built {
            flavor: Flavor::P2,
            imports: Vec::new(),
            digest: digest(b"code").to_string(),
            size: 4,
        };
        cache.store(&key, &draft, &built).unwrap();
    };
    let state_dir = dir.path().join("state");
    let beside = Cache::beside(own.path(), &state_dir).unwrap();
    assert!(matches!(beside.lookup(&key), Lookup::Absent));
    assert!(!state_dir.exists());
    store(&Cache::open(&state_dir).unwrap());
    assert!(matches!(beside.lookup(&key), Lookup::Hit(_)));
    fs::remove_file(state_dir.join(format!("artifacts/{key}.cwasm"))).unwrap();
    assert!(matches!(beside.lookup(&key), Lookup::Absent));
}
