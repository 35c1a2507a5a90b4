//! What operators are told, in words.

use skep_core::rollout::Ending;
use skep_core::{AppName, PoolName, Revision};
use skep_wire::{ControlReply, Refusal};

use super::operation::FAILED;
use crate::control::Asker;

/// What whoever waited for a rollout is told.
pub(super) fn verdict(name: &AppName, to: Revision, ending: &Ending) -> ControlReply {
    let failed = |message| ControlReply::Refused {
        message,
        code: FAILED,
    };
    match ending {
        Ending::Done => ControlReply::Done {
            message: Some(format!("revision {to} of {name} is live")),
        },
        Ending::Checked => ControlReply::Done {
            message: Some(format!(
                "revision {to} of {name} could be rolled out; nothing was changed"
            )),
        },
        Ending::Rejected { step, reason } => failed(format!(
            "revision {to} of {name} was rejected: {step}: {reason}"
        )),
        Ending::RolledBack { step, reason, .. } => failed(format!(
            "revision {to} of {name} was rolled back: {step}: {reason}"
        )),
        Ending::Abandoned => failed("the primary is ending".to_owned()),
    }
}

/// What whoever waited for a rollout is told whose pool has tripped: no worker is there
/// that could fail with it, or serve it.
pub(super) fn unserved(name: &AppName, to: Revision, pool: &PoolName) -> ControlReply {
    ControlReply::Refused {
        message: format!(
            "revision {to} of {name} is the one to serve now, but pool {pool} has tripped; \
             `skep reset {pool}` probes it at once"
        ),
        code: FAILED,
    }
}

/// What whoever ended a rollout before its time is told.
pub(super) fn called_off(name: &AppName, to: Revision, ending: &Ending) -> ControlReply {
    let message = match ending {
        Ending::Rejected { .. } => format!("revision {to} of {name} never was live"),
        Ending::RolledBack { .. } => format!("revision {to} of {name} was rolled back"),
        Ending::Done | Ending::Checked | Ending::Abandoned => return verdict(name, to, ending),
    };
    ControlReply::Done {
        message: Some(message),
    }
}

pub(crate) fn worded(refusal: Refusal) -> String {
    match refusal.hint {
        Some(hint) => format!("{} ({hint})", refusal.problem),
        None => refusal.problem,
    }
}

/// Whoever asked for something that goes on without them.
pub(super) fn detach(asker: Asker, message: String) {
    asker.answer(ControlReply::Done {
        message: Some(message),
    });
}

/// `1 app`, `2 apps`.
pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
