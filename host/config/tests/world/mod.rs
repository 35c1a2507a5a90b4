//! The world that the tests' configurations stand in.

use std::io;
use std::path::Path;

use skep_config::Environment;

/// A few files and variables, and 4 cores; nothing of the real machine.
#[derive(Debug)]
pub(crate) struct World;

fn file(path: &Path) -> io::Result<&'static str> {
    let name = path.to_str().unwrap_or_default();
    match name.rsplit('/').next().unwrap_or_default() {
        "hello.wasm" | "other.wasm" | "third.wasm" => Ok(""),
        "secret.key" => Ok("s3cret\n"),
        "crlf.key" => Ok("s3cret\r\n"),
        "two-lines.key" => Ok("a\nb\n\n"),
        "empty.key" => Ok("\n"),
        "nul.key" => Ok("a\0b"),
        "locked.wasm" | "locked.key" => Err(io::ErrorKind::PermissionDenied.into()),
        "folder.wasm" => Err(io::ErrorKind::IsADirectory.into()),
        "binary.key" => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Environment for World {
    fn var(&self, name: &str) -> Option<String> {
        match name {
            "DATABASE_URL" => Some("postgres://db/prod".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        file(path).map(str::to_owned)
    }

    fn readable(&self, path: &Path) -> io::Result<()> {
        file(path).map(|_| ())
    }

    fn names_in(&self, folder: &Path) -> Vec<String> {
        let is_here = folder == Path::new("");
        let names = ["hello.wasm", "other.wasm", "secret.key", "third.wasm"];
        let here = names.into_iter().filter(|_| is_here);
        here.map(str::to_owned).collect()
    }

    fn parallelism(&self) -> u16 {
        4
    }
}
