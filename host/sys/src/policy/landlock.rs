//! Landlock rule sets.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

use crate::confine::Support;

/// The newest rights that we know of; older kernels enforce what they have.
const KNOWN: ABI = ABI::V6;

/// Forbids the calling thread to open any file, to bind or connect any TCP
/// port, and to signal other processes. What is open stays usable.
///
/// # Errors
///
/// The kernel refuses for a reason other than that it has no Landlock.
pub(crate) fn deny_everything() -> io::Result<Support> {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(match restricted.ruleset {
        RulesetStatus::FullyEnforced => Support::Full,
        RulesetStatus::PartiallyEnforced => Support::Partial,
        RulesetStatus::NotEnforced => Support::Absent,
    })
}
