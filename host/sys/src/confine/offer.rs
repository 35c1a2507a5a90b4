//! What this kernel offers for confinement, in words.

use std::fmt;
use std::fs;

use crate::policy::landlock;

/// Something that this kernel cannot forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Landlock as a whole: files and ports.
    Landlock,
    /// What a later version of Landlock forbids.
    LandlockRight(&'static str),
    /// System call filters.
    Seccomp,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Landlock => f.write_str("opening files and TCP ports (no Landlock)"),
            Self::LandlockRight(right) => write!(f, "{right} (an older Landlock)"),
            Self::Seccomp => f.write_str("other system calls (no seccomp)"),
        }
    }
}

/// What this kernel offers, whether or not it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Version of Landlock; 0 is none, or not enabled.
    pub landlock: u32,
    /// Whether there are system call filters.
    pub seccomp: bool,
    /// What cannot be forbidden here, for people.
    pub missing: Vec<Missing>,
}

/// Asks the kernel. Confines nothing.
#[must_use]
pub fn offer() -> Offer {
    let landlock = landlock::version();
    let seccomp = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
        .is_ok_and(|actions| actions.contains("kill_process"));
    Offer {
        landlock,
        seccomp,
        missing: missing(landlock, seccomp),
    }
}

/// What cannot be forbidden with this version of Landlock, and with seccomp or
/// without.
pub(super) fn missing(landlock: u32, seccomp: bool) -> Vec<Missing> {
    let mut missing = Vec::new();
    if landlock == 0 {
        missing.push(Missing::Landlock);
    } else {
        let later = landlock::ADDED
            .iter()
            .filter(|(version, _)| *version > landlock);
        missing.extend(later.map(|(_, right)| Missing::LandlockRight(right)));
    }
    if !seccomp {
        missing.push(Missing::Seccomp);
    }
    missing
}

pub(super) fn in_words(missing: &[Missing]) -> String {
    let words: Vec<String> = missing.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_words() {
        assert_eq!(missing(6, true), []);
        assert_eq!(missing(9, true), []);
        assert_eq!(
            in_words(&missing(4, true)),
            "requests to devices (an older Landlock), \
             abstract sockets and signals to other processes (an older Landlock)"
        );
        assert_eq!(missing(0, false), [Missing::Landlock, Missing::Seccomp]);
    }

    #[test]
    fn this_kernel_answers() {
        let offer = offer();
        assert_eq!(offer.missing, missing(offer.landlock, offer.seccomp));
    }
}
