//! One file per kind of value.

pub(crate) mod address;
pub(crate) mod alert;
pub(crate) mod choice;
pub(crate) mod component;
pub(crate) mod config;
pub(crate) mod count;
pub(crate) mod duration;
pub(crate) mod env;
pub(crate) mod flag;
pub(crate) mod instance;
pub(crate) mod name;
pub(crate) mod outbound;
pub(crate) mod path;
pub(crate) mod portion;
pub(crate) mod rate;
pub(crate) mod require;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod size;
pub(crate) mod user;
pub(crate) mod validate;
pub(crate) mod workers;
