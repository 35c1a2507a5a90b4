//! Users that processes run as.

use std::fmt;
use std::io;

use nix::unistd::{Gid, Uid, User};

/// A user and its group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user; 0 is root.
    pub uid: u32,
    /// The one group that the process is in.
    pub gid: u32,
}

impl Identity {
    /// The user of this name with its own group, or `None` when the system
    /// does not know it. `1234` and `1234:5678` are taken as numbers, the group
    /// being that of the user where it is not said and the system knows it,
    /// else of the same number.
    ///
    /// # Errors
    ///
    /// The system's list of users cannot be read.
    pub fn of_user(name: &str) -> io::Result<Option<Self>> {
        let (user, group) = match name.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (name, None),
        };
        if let Ok(uid) = user.parse() {
            let gid = match group {
                Some(group) => group.parse().ok(),
                None => {
                    let known = User::from_uid(Uid::from_raw(uid))?;
                    Some(known.map_or(uid, |user| user.gid.as_raw()))
                }
            };
            return Ok(gid.map(|gid| Self { uid, gid }));
        }
        if group.is_some() {
            return Ok(None);
        }
        Ok(User::from_name(name)?.map(|user| Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }))
    }

    /// What this process acts as.
    #[must_use]
    pub fn own() -> Self {
        Self {
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_and_number() {
        let of = |name| Identity::of_user(name).unwrap();
        let root = Identity { uid: 0, gid: 0 };
        assert_eq!(of("root"), Some(root));
        assert_eq!(of("0"), Some(root));
        let numbers = Identity { uid: 7654, gid: 8 };
        assert_eq!(of("7654:8"), Some(numbers));
        assert_eq!(
            Identity::of_user(&numbers.to_string()).unwrap(),
            Some(numbers)
        );
        assert_eq!(
            of("987654"),
            Some(Identity {
                uid: 987_654,
                gid: 987_654
            })
        );
        for nobody in [
            "no-such-user-anywhere",
            "",
            "7:",
            ":7",
            "7:x",
            "root:0",
            "-1",
        ] {
            assert_eq!(of(nobody), None, "{nobody}");
        }
    }
}
