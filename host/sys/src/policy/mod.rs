//! What each confined role may do, as data, and the mechanisms that enforce it.
//!
//! One module per role holds its tables and nothing else, [`basics`] what most
//! of them need; [`seccomp`] and [`landlock`] know no role.

pub(crate) mod admin;
pub(crate) mod alerter;
pub(crate) mod basics;
pub(crate) mod builder;
pub(crate) mod connector;
pub(crate) mod dispatcher;
pub(crate) mod landlock;
pub(crate) mod seccomp;
pub(crate) mod worker;
