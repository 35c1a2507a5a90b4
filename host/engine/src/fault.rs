//! From wasmtime's errors to outcomes.

use skep_core::Outcome;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;

use crate::ledger::{Ledger, Refused};
use crate::meter::CpuExhausted;

/// How a guest's run ended, and why in words for its owner.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) detail: Option<String>,
}

impl Verdict {
    pub(crate) const OK: Self = Self {
        outcome: Outcome::Ok,
        detail: None,
    };

    pub(crate) fn trap(detail: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Trap,
            detail: Some(detail.into()),
        }
    }

    pub(crate) fn no_response(detail: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::NoResponse,
            detail: Some(detail.into()),
        }
    }
}

/// What an error of the guest's run means. Total: what we do not know is a
/// trap.
pub(crate) fn verdict(error: &wasmtime::Error, ledger: Option<&Ledger>) -> Verdict {
    let outcome = if error.downcast_ref::<CpuExhausted>().is_some() {
        Outcome::CpuBudget
    } else if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        Outcome::InstancesExhausted
    } else {
        match ledger.and_then(Ledger::refused) {
            Some(Refused::Instance) => Outcome::MemoryBudget,
            Some(Refused::Tenant) => Outcome::TenantOverBudget,
            None => Outcome::Trap,
        }
    };
    Verdict {
        outcome,
        detail: Some(describe(error)),
    }
}

fn describe(error: &wasmtime::Error) -> String {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return format!("the guest called exit({})", exit.0);
    }
    let cause = error
        .downcast_ref::<Trap>()
        .map_or_else(|| error.root_cause().to_string(), ToString::to_string);
    // The innermost frames say where; the whole backtrace would fill the log.
    match error.downcast_ref::<wasmtime::WasmBacktrace>() {
        Some(trace) => {
            let frames: Vec<_> = trace
                .frames()
                .iter()
                .filter_map(wasmtime::FrameInfo::func_name)
                .take(4)
                .map(str::to_owned)
                .collect();
            if frames.is_empty() {
                cause
            } else {
                format!("{cause} in {}", frames.join(" < "))
            }
        }
        None => cause,
    }
}

/// The error and its causes on one line.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause.trim());
    }
    text
}
