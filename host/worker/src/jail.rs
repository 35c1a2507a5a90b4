//! Giving up what a worker does not need, before it touches an artifact.
//!
//! What a confined process cannot do any more is done here, in this order: the
//! event loop is kept, so that listeners can join it later; this process's page
//! map is opened, which engines need.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;
use skep_core::Sandbox;
use skep_engine::Runtime;
use skep_sys::confine::{Confined, Strictness, WorkerConfinement, confine_worker};

/// Descriptors that a worker may have, if the system allows it: twice the most
/// connections that one thread has had.
const DESCRIPTORS: u64 = 1 << 20;

/// Confines this process for good. `artifacts` is the folder of its pool's
/// artifacts.
///
/// # Errors
///
/// It cannot be confined as `sandbox` demands, or not prepared for it. Part of
/// the confinement may be in force then: the process is of no use.
pub(crate) fn enter(
    runtime: &Runtime,
    artifacts: &OwnedFd,
    sandbox: Sandbox,
) -> anyhow::Result<Confined> {
    skep_sys::keep_event_loop().context("cannot keep the event loop")?;
    runtime.open_page_map();
    let strictness = match sandbox {
        Sandbox::Require => Strictness::Require,
        Sandbox::BestEffort => Strictness::BestEffort,
        Sandbox::Off => Strictness::Off,
    };
    let confinement = WorkerConfinement {
        artifacts: Some(artifacts.as_fd()),
        mounts: &[],
        descriptors: DESCRIPTORS,
    };
    confine_worker(&confinement, strictness).context("cannot be confined")
}

/// What the kernel lacks of this, for operators.
pub(crate) fn lacks(confined: &Confined) -> Vec<String> {
    confined.missing().iter().map(ToString::to_string).collect()
}
