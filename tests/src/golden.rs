//! Texts that were reviewed: `tests/goldens`. `SKEP_BLESS=1` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Collects differences, so that one run shows all of them.
#[derive(Debug)]
pub struct Goldens {
    dir: PathBuf,
    bless: bool,
    differences: String,
}

impl Goldens {
    /// The goldens in a directory below `tests/goldens`.
    #[must_use]
    pub fn new(dir: &str) -> Self {
        Self {
            dir: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("goldens")
                .join(dir),
            bless: env::var_os("SKEP_BLESS").is_some(),
            differences: String::new(),
        }
    }

    /// Compares a text with the golden of this name.
    ///
    /// # Panics
    ///
    /// If a golden cannot be written.
    pub fn compare(&mut self, name: &str, actual: &str) {
        let path = self.dir.join(format!("{name}.txt"));
        if self.bless {
            fs::create_dir_all(&self.dir)
                .and_then(|()| fs::write(&path, actual))
                .expect("goldens can be written");
            return;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != actual {
            let _ = writeln!(
                self.differences,
                "== {name}\n-- expected\n{expected}-- actual\n{actual}"
            );
        }
    }

    /// Ends the comparison.
    ///
    /// # Panics
    ///
    /// If anything differed.
    pub fn finish(self) {
        assert!(
            self.differences.is_empty(),
            "differs from what was reviewed (SKEP_BLESS=1 accepts it):\n{}",
            self.differences
        );
    }
}
