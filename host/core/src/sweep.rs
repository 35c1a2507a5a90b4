//! What of a state directory nothing needs.
//!
//! Decided by name, from what histories refer to and what is in use. A name that
//! skep does not give is somebody else's, and stays.

use std::collections::BTreeSet;

/// A directory whose names are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    /// The state directory itself.
    Top,
    /// Histories.
    Revisions,
    /// Components of revisions.
    Components,
    /// Compiled components.
    Artifacts,
    /// Links to artifacts, which workers map.
    Pools,
}

/// What there is a need for.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Digests of the components that a history refers to, or that are in use.
    pub digests: &'a BTreeSet<String>,
    /// The fingerprint of the compiler whose artifacts are used; `None` where it
    /// is not known, and any may be.
    pub fingerprint: Option<&'a str>,
    /// Whether a primary runs, to which some names belong.
    pub running: bool,
    /// Whether what was moved away for a person to look at stays.
    pub keep_aside: bool,
}

/// Why nothing needs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unneeded {
    /// A component that no revision is of which can be returned to.
    Component,
    /// An artifact of such a component, with what belongs to it.
    Artifact,
    /// An artifact of another version of the compiler.
    OtherCompiler,
    /// A lock that is taken only while something is compiled.
    Lock,
    /// Something that was not written to its end.
    Unfinished,
    /// A link for a worker, and no worker is there.
    Link,
    /// A socket that nobody listens at.
    Socket,
    /// A history that could not be read, or something that stood in the place of
    /// a file, and was moved away.
    Aside,
}

impl Unneeded {
    /// Why, for people and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "component of no revision",
            Self::Artifact => "artifact of no revision",
            Self::OtherCompiler => "artifact of another version",
            Self::Lock => "lock",
            Self::Unfinished => "unfinished",
            Self::Link => "link of a pool",
            Self::Socket => "socket",
            Self::Aside => "moved aside",
        }
    }
}

/// The entry of the artifact cache that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The component's digest.
    pub digest: &'a str,
    /// The compiler's fingerprint.
    pub fingerprint: &'a str,
    /// What the file is of the entry.
    pub extension: &'a str,
}

impl<'a> Entry<'a> {
    /// Reads the name of a file of the cache; `None` for any other.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        let (key, extension) = name.split_once('.')?;
        let (digest, fingerprint) = key.split_once('-')?;
        let ours = is_digest(digest) && !fingerprint.is_empty() && is_hexadecimal(fingerprint);
        let known = ["cwasm", "json", "lock", "tmp", "json.tmp"].contains(&extension);
        (ours && known).then_some(Self {
            digest,
            fingerprint,
            extension,
        })
    }
}

/// Why nothing needs the file of this name; `None` if something does, or if it
/// is not skep's.
#[must_use]
pub fn unneeded(folder: Folder, name: &str, needs: &Needs<'_>) -> Option<Unneeded> {
    let aside = name.contains(".broken-") || name.contains(".aside-");
    let why = match folder {
        Folder::Top if aside => Unneeded::Aside,
        Folder::Top => {
            let number = name.strip_prefix('.')?;
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && !needs.running).then_some(Unneeded::Socket)?
        }
        Folder::Revisions | Folder::Components | Folder::Artifacts if is_draft(name) => {
            Unneeded::Unfinished
        }
        Folder::Revisions | Folder::Components | Folder::Artifacts if aside => Unneeded::Aside,
        Folder::Revisions => return None,
        Folder::Components => {
            let digest = name.strip_suffix(".wasm").filter(|it| is_digest(it))?;
            (!needs.digests.contains(digest)).then_some(Unneeded::Component)?
        }
        Folder::Artifacts => {
            let entry = Entry::of(name)?;
            if !needs.digests.contains(entry.digest) {
                Unneeded::Artifact
            } else if needs.fingerprint.is_some_and(|it| it != entry.fingerprint) {
                Unneeded::OtherCompiler
            } else {
                match entry.extension {
                    "lock" => Unneeded::Lock,
                    "tmp" | "json.tmp" => Unneeded::Unfinished,
                    _ => return None,
                }
            }
        }
        Folder::Pools => {
            let digest = name.strip_suffix(".cwasm").filter(|it| is_digest(it));
            (digest.is_some() && !needs.running).then_some(Unneeded::Link)?
        }
    };
    (why != Unneeded::Aside || !needs.keep_aside).then_some(why)
}

/// A file beside its place, as it is named until it is renamed.
fn is_draft(name: &str) -> bool {
    name.starts_with(".tmp") || (name.starts_with('.') && name.ends_with(".tmp"))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && is_hexadecimal(text)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: u8) -> String {
        format!("{of:064x}")
    }

    #[test]
    fn what_nothing_refers_to_goes_and_what_is_not_ours_stays() {
        let digests = BTreeSet::from([digest(1)]);
        let needs = Needs {
            digests: &digests,
            fingerprint: Some("0a"),
            running: false,
            keep_aside: false,
        };
        let (one, two) = (digest(1), digest(2));
        for (folder, name, expected) in [
            (Folder::Components, format!("{one}.wasm"), None),
            (
                Folder::Components,
                format!("{two}.wasm"),
                Some(Unneeded::Component),
            ),
            (
                Folder::Components,
                ".tmpAbC.tmp".into(),
                Some(Unneeded::Unfinished),
            ),
            (Folder::Components, "hello.wasm".into(), None),
            (Folder::Components, format!("{}.wasm", "A".repeat(64)), None),
            (Folder::Artifacts, format!("{one}-0a.cwasm"), None),
            (Folder::Artifacts, format!("{one}-0a.json"), None),
            (
                Folder::Artifacts,
                format!("{one}-0a.lock"),
                Some(Unneeded::Lock),
            ),
            (
                Folder::Artifacts,
                format!("{one}-0a.json.tmp"),
                Some(Unneeded::Unfinished),
            ),
            (
                Folder::Artifacts,
                format!("{one}-0b.json"),
                Some(Unneeded::OtherCompiler),
            ),
            (
                Folder::Artifacts,
                format!("{two}-0a.lock"),
                Some(Unneeded::Artifact),
            ),
            (
                Folder::Artifacts,
                format!("{two}-0a.cwasm"),
                Some(Unneeded::Artifact),
            ),
            (Folder::Artifacts, format!("{two}-0a.md"), None),
            (Folder::Artifacts, "README".into(), None),
            (Folder::Revisions, "hello.json".into(), None),
            (
                Folder::Revisions,
                "hello.json.broken-1".into(),
                Some(Unneeded::Aside),
            ),
            (Folder::Pools, format!("{one}.cwasm"), Some(Unneeded::Link)),
            (Folder::Pools, "notes".into(), None),
            (Folder::Top, ".4711".into(), Some(Unneeded::Socket)),
            (Folder::Top, ".git".into(), None),
            (Folder::Top, ".".into(), None),
            (
                Folder::Top,
                "primary.lock.aside-2".into(),
                Some(Unneeded::Aside),
            ),
            (Folder::Top, "skep.toml".into(), None),
        ] {
            assert_eq!(
                unneeded(folder, &name, &needs),
                expected,
                "{folder:?} {name}"
            );
        }
        let running = Needs {
            fingerprint: None,
            running: true,
            keep_aside: true,
            ..needs
        };
        for (folder, name) in [
            (Folder::Artifacts, format!("{one}-0b.json")),
            (Folder::Revisions, "hello.json.broken-1".into()),
            (Folder::Pools, format!("{one}.cwasm")),
            (Folder::Top, ".4711".into()),
        ] {
            assert_eq!(unneeded(folder, &name, &running), None, "{folder:?} {name}");
        }
    }
}
