//! Configurations: no text panics, and every problem can be shown.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use skep_config::Environment;

/// A machine on which every file is there and no variable is set.
struct Nowhere;

impl Environment for Nowhere {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Ok("text\n".into())
    }

    fn readable(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn names_in(&self, _: &Path) -> Vec<String> {
        Vec::new()
    }

    fn parallelism(&self) -> u16 {
        2
    }
}

fuzz_target!(|text: &str| {
    if let Err(problems) = skep_config::parse(Path::new("skep.toml"), text, &Nowhere) {
        assert!(!problems.is_empty());
        assert!(!problems.render(false).is_empty());
    }
});
