//! What each confined role may do, as data, and the mechanisms that enforce it.
//!
//! One module per role holds its tables and nothing else; [`seccomp`] and
//! [`landlock`] know no role.

pub(crate) mod builder;
pub(crate) mod landlock;
pub(crate) mod seccomp;
