//! Names and numbers of things, each its own type so that none is taken for
//! another.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes. Names end up in metrics, log fields and file
/// names; 63 is the limit of a DNS label and fits all of them.
const MAX_NAME: usize = 63;

/// A name that is not a lower-case DNS-like label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name is the empty string.
    #[error("a name may not be empty")]
    Empty,
    /// The name is longer than 63 bytes.
    #[error("a name may have at most {MAX_NAME} characters")]
    TooLong,
    /// The name contains a character outside `a-z 0-9 - _`.
    #[error("a name may contain only a-z, 0-9, '-' and '_'; '{0}' is none of them")]
    Character(char),
    /// The name starts with something else than a letter or a digit.
    #[error("a name must start with a letter or a digit")]
    Start,
}

fn check(name: &str) -> Result<(), InvalidName> {
    let first = name.chars().next().ok_or(InvalidName::Empty)?;
    if name.len() > MAX_NAME {
        return Err(InvalidName::TooLong);
    }
    if let Some(bad) = name
        .chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-' || *c == '_'))
    {
        return Err(InvalidName::Character(bad));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(InvalidName::Start);
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks that `name` is 1 to 63 of `a-z 0-9 - _` and starts with a
            /// letter or a digit.
            ///
            /// # Errors
            ///
            /// What is wrong with the name.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                check(name).map(|()| Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

names! {
    /// The name of a deployed handler.
    AppName;
    /// The name of a set of workers with one OS identity and one set of limits.
    PoolName;
    /// The name of an owner of apps: the unit of budget and blame.
    TenantName;
    /// The name of a listening address.
    ListenerName;
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($repr:ty);)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

numbers! {
    /// A worker process, unique for the life of the fleet and never reused.
    WorkerId(u64);
    /// A numbered place in a pool; it outlives the workers that fill it. A
    /// guest sees it as `SKEP_WORKER_SLOT`.
    SlotIndex(u16);
    /// A numbered, immutable fleet specification.
    Generation(u64);
    /// A numbered artifact of an app.
    Revision(u32);
    /// A handler: one revision of an app under one set of settings. The
    /// primary numbers them; a number is never given twice.
    HandlerId(u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        assert_eq!(AppName::new("hello-2_x").unwrap().as_str(), "hello-2_x");
        assert_eq!(AppName::new(""), Err(InvalidName::Empty));
        assert_eq!(AppName::new("Hello"), Err(InvalidName::Character('H')));
        assert_eq!(AppName::new("../etc"), Err(InvalidName::Character('.')));
        assert_eq!(AppName::new("-a"), Err(InvalidName::Start));
        assert_eq!(AppName::new(&"a".repeat(64)), Err(InvalidName::TooLong));
    }

    #[test]
    fn a_foreign_name_is_checked_when_it_is_read() {
        assert!(serde_json::from_str::<PoolName>("\"a/b\"").is_err());
        assert_eq!(
            serde_json::from_str::<PoolName>("\"default\"").unwrap(),
            PoolName::new("default").unwrap()
        );
    }
}
