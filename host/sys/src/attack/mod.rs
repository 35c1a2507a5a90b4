//! What somebody does who has taken over a confined process: for tests.
//!
//! Compiled only with the feature `attacker`, into an executable that nobody
//! installs. Each attack is native code within the process that was confined,
//! as an escape from wasm would be, and reports what came of it. Many of them
//! end the process instead: the kernel kills it for the attempt, which is the
//! answer that is wanted.

mod attempts;
mod descriptors;
mod figures;
mod words;

use std::io;

/// What an attack may know of its surroundings. An attacker would have to
/// guess it; the test does not make it harder than it is.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Another process: a sibling worker, or the primary.
    pub pid: u32,
    /// A file that is not ours.
    pub path: String,
    /// A TCP port of loopback where somebody listens.
    pub port: u16,
    /// What to write.
    pub text: String,
}

/// How an attack ended that its process survived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    /// It did what it wanted.
    Succeeded(String),
    /// The kernel refused, with this error's name.
    Refused(String),
    /// There is no attack of that name.
    Unknown,
}

impl From<io::Result<String>> for Result {
    fn from(result: io::Result<String>) -> Self {
        match result {
            Ok(what) => Self::Succeeded(what),
            Err(error) => Self::Refused(match error.raw_os_error() {
                Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
                None => error.to_string(),
            }),
        }
    }
}

/// Names of all attacks.
pub fn names() -> impl Iterator<Item = &'static str> {
    attempts::ALL.iter().map(|(name, _)| *name)
}

/// Makes one attack. May not return.
#[must_use]
pub fn attack(name: &str, target: &Target) -> Result {
    match attempts::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, attempt)) => attempt(target).into(),
        None => Result::Unknown,
    }
}
