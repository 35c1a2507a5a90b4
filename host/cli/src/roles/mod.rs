//! What this executable is when the primary starts it: a worker, a
//! builder, a dispatcher, an alerter or a connector. The role is the first
//! argument; the channel to the primary is fd 3.

mod alerter;
mod builder;
mod connector;
mod dispatcher;
mod talk;

use std::process::ExitCode;

/// Plays the role that the first argument names, if it names one.
pub(crate) fn enter() -> Option<ExitCode> {
    let role = std::env::args_os().nth(1)?;
    match role.to_str()? {
        "worker" => Some(skep_worker::run()),
        "builder" => Some(builder::run()),
        "dispatcher" => Some(dispatcher::run()),
        "alerter" => Some(alerter::run()),
        "connector" => Some(connector::run()),
        _ => None,
    }
}
