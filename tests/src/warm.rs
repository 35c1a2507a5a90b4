//! Artifacts that tests share by copying, so that each guest is compiled once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::build;
use crate::options::sha256;

/// Artifacts larger than this are not worth copying about.
const WARM_MAX: u64 = 16 << 20;

fn dir() -> PathBuf {
    build::target_dir().join("tests-artifacts")
}

/// Copies what there is for a component into a skep's cache.
pub(crate) fn give(component: &Path, cache: &Path) {
    let digest = sha256(&fs::read(component).expect("guests can be read"));
    copy(&dir(), cache, |name| name.starts_with(&digest));
}

/// Copies from a skep's cache what is not there yet.
pub(crate) fn take(cache: &Path) {
    copy(cache, &dir(), |_| true);
}

fn copy(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    let mut names: Vec<String> = fs::read_dir(from)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|data| data.len() <= WARM_MAX))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| wanted(name) && (name.ends_with(".cwasm") || name.ends_with(".json")))
        .collect();
    // The sidecar makes an entry of it: it goes last.
    names.sort();
    for name in names {
        if !to.join(&name).exists() {
            // What cannot be copied is compiled again.
            let _ = whole(&from.join(&name), &to.join(&name));
        }
    }
}

fn whole(from: &Path, to: &Path) -> io::Result<()> {
    let dir = to.parent().expect("it is a file in a directory");
    fs::create_dir_all(dir)?;
    let draft = tempfile::NamedTempFile::new_in(dir)?;
    fs::copy(from, draft.path())?;
    draft.persist(to)?;
    Ok(())
}
