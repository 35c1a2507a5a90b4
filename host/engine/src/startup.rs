//! What a component says of itself before it takes traffic:
//! `skep:lifecycle/startup`, an optional export.
//!
//! Responsible for one instance that is made, asked and thrown away. A
//! component without the export is instantiated all the same, because a start
//! function that traps, or a memory that is larger than the limit, would fail
//! every request. What else a handler must have (variables, a request that it
//! answers) is checked by the worker.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre};
use wasmtime_wasi::I32Exit;

use skep_core::Outcome;

use crate::blueprint::Blueprint;
use crate::fault::{Verdict, verdict};
use crate::guest::Guest;
use crate::meter::Meter;

/// How a validation went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// The component does not validate itself; it can be instantiated.
    NotOffered,
    /// The component's own validation passed.
    Passed,
}

/// When a guest failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// While its instance was made: start functions, memories.
    Start,
    /// In its `validate`.
    Validate,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "at its start",
            Self::Validate => "in its validation",
        })
    }
}

/// Why a handler must not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidateFault {
    /// Its own validation said no; the text is the guest's.
    #[error("its validation failed: {0}")]
    Refused(String),
    /// The guest trapped.
    #[error("it trapped {phase}: {reason}")]
    Trap {
        /// When.
        phase: Phase,
        /// The trap and the innermost frames.
        reason: String,
    },
    /// The guest ended its own instance by `wasi:cli/exit`.
    #[error("it called exit({code}) {phase}")]
    Exit {
        /// When.
        phase: Phase,
        /// What it gave as its exit code.
        code: i32,
    },
    /// The guest did not come to an end.
    #[error("it hung {phase}: no end within {deadline:?}")]
    Hang {
        /// When.
        phase: Phase,
        /// What it was given.
        deadline: Duration,
    },
    /// The guest wanted more memory than an instance may have.
    #[error("it needs more memory {phase} than its limit of {} KiB", .limit / 1024)]
    Memory {
        /// When.
        phase: Phase,
        /// The limit in bytes.
        limit: u64,
    },
    /// The worker holds as many instances as it can. Not the guest's fault.
    #[error("this worker has no room for another instance")]
    NoRoom,
    /// The export is there and is something else.
    #[error("its export {INTERFACE} has no `validate: func() -> result<_, string>`: {0}")]
    Shape(String),
}

/// The export's interface.
const INTERFACE: &str = "skep:lifecycle/startup@0.1.0";

/// What stands for a request id in what the guest says meanwhile.
const REQUEST: &str = "validate";

/// A handler's own validation, where it has one.
#[derive(Clone, Copy)]
pub(crate) struct Startup(Option<ComponentExportIndex>);

impl Startup {
    pub(crate) fn of(component: &Component) -> Self {
        Self(
            component
                .get_export_index(None, INTERFACE)
                .and_then(|interface| component.get_export_index(Some(&interface), "validate")),
        )
    }

    /// Makes one instance, asks it if it can be asked, and drops it.
    pub(crate) async fn validate(
        &self,
        blueprint: &Arc<Blueprint>,
        pre: &InstancePre<Guest>,
        deadline: Duration,
    ) -> Result<Validation, ValidateFault> {
        let limits = &blueprint.setup;
        let mut bounds = Bounds {
            // A validation may compute for as long as it may take: it runs once
            // and not for a client.
            meter: Meter::new(&blueprint.share, blueprint.clock, limits.cpu.max(deadline)),
            until: tokio::time::Instant::now() + deadline,
        };
        let mut store =
            Guest::store(blueprint, REQUEST.into()).map_err(|_| ValidateFault::NoRoom)?;
        let late = |phase| ValidateFault::Hang { phase, deadline };

        let phase = Phase::Start;
        let made = bounds.within(pre.instantiate_async(&mut store)).await;
        let instance = match made.ok_or_else(|| late(phase))? {
            Ok(instance) => instance,
            Err(error) => return Err(fault(phase, &error, store.data(), limits.memory)),
        };
        let Some(export) = self.0 else {
            return Ok(Validation::NotOffered);
        };

        let phase = Phase::Validate;
        let validate = instance
            .get_typed_func::<(), (Result<(), String>,)>(&mut store, export)
            .map_err(|error| ValidateFault::Shape(error.root_cause().to_string()))?;
        let answered = bounds.within(validate.call_async(&mut store, ())).await;
        match answered.ok_or_else(|| late(phase))? {
            Ok((Ok(()),)) => Ok(Validation::Passed),
            Ok((Err(text),)) => Err(ValidateFault::Refused(text)),
            Err(error) => Err(fault(phase, &error, store.data(), limits.memory)),
        }
    }
}

/// The time that a validation has left.
struct Bounds {
    meter: Meter,
    until: tokio::time::Instant,
}

impl Bounds {
    /// What the guest's work comes to, or nothing if it takes too long.
    async fn within<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let metered = std::future::poll_fn(|cx| self.meter.poll(cx, |cx| work.as_mut().poll(cx)));
        tokio::time::timeout_at(self.until, metered).await.ok()
    }
}

fn fault(phase: Phase, error: &wasmtime::Error, guest: &Guest, limit: u64) -> ValidateFault {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let code = exit.0;
        return ValidateFault::Exit { phase, code };
    }
    let Verdict { outcome, detail } = verdict(error, Some(&guest.ledger));
    let reason = detail.unwrap_or_default();
    match outcome {
        Outcome::MemoryBudget => ValidateFault::Memory { phase, limit },
        // It fits once other instances of its tenant have gone.
        Outcome::InstancesExhausted | Outcome::TenantOverBudget => ValidateFault::NoRoom,
        _ => ValidateFault::Trap { phase, reason },
    }
}
