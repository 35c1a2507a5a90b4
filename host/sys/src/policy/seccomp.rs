//! System call filters from a role's table.
//!
//! Two filters are stacked, and the kernel takes the stricter verdict: one
//! lets pass what is allowed or answered and kills the process for anything
//! else; the others turn what is answered into its error.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::confine::Support;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// What a role may do; anything else kills its process.
pub(crate) struct Policy {
    /// Calls that are made.
    pub(crate) allowed: &'static [Rule],
    /// Calls that are not made and get an error.
    pub(crate) answered: &'static [(libc::c_long, Answer)],
}

/// One allowed call.
pub(crate) struct Rule {
    pub(crate) syscall: libc::c_long,
    pub(crate) when: When,
}

/// With which arguments a call is allowed; arguments count from 0.
pub(crate) enum When {
    Always,
    /// The 32-bit argument is this.
    Is {
        argument: u8,
        value: u64,
    },
    /// The 64-bit argument is null.
    Zero {
        argument: u8,
    },
    /// The argument is the number of this process.
    OwnPid {
        argument: u8,
    },
}

/// The error of a call that is answered.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Denied,
    NotATerminal,
    Missing,
}

impl Answer {
    const ALL: [Self; 3] = [Self::Denied, Self::NotATerminal, Self::Missing];

    const fn errno(self) -> libc::c_int {
        match self {
            Self::Denied => libc::EACCES,
            Self::NotATerminal => libc::ENOTTY,
            Self::Missing => libc::ENOSYS,
        }
    }
}

impl When {
    fn rules(&self) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        let condition = match *self {
            // No rules at all match every argument.
            Self::Always => return Ok(Vec::new()),
            Self::Is { argument, value } => {
                SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value)
            }
            Self::Zero { argument } => SeccompCondition::new(argument, Qword, SeccompCmpOp::Eq, 0),
            Self::OwnPid { argument } => {
                let pid = u64::from(std::process::id());
                SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, pid)
            }
        };
        Ok(vec![SeccompRule::new(vec![condition?])?])
    }
}

/// Puts the policy in force for the calling thread, for ever.
///
/// # Errors
///
/// The kernel refuses for a reason other than that it has no seccomp.
pub(crate) fn apply(policy: &Policy) -> io::Result<Support> {
    // Compiled before the first is in force: compiling makes system calls.
    for program in compile(policy).map_err(io::Error::other)? {
        match seccompiler::apply_filter(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)) => {
                return match error.raw_os_error() {
                    Some(libc::ENOSYS | libc::EINVAL) => Ok(Support::Absent),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(Support::Full)
}

/// The answers first: once the strict filter is in force no more can be added.
fn compile(policy: &Policy) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut programs = Vec::new();
    for answer in Answer::ALL {
        let calls: BTreeMap<i64, Vec<SeccompRule>> = policy
            .answered
            .iter()
            .filter(|(_, wanted)| *wanted == answer)
            .map(|(syscall, _)| (*syscall, Vec::new()))
            .collect();
        let errno = SeccompAction::Errno(answer.errno().unsigned_abs());
        programs.push(SeccompFilter::new(calls, SeccompAction::Allow, errno, ARCH)?.try_into()?);
    }
    let mut passed: BTreeMap<i64, Vec<SeccompRule>> = policy
        .answered
        .iter()
        .map(|(syscall, _)| (*syscall, Vec::new()))
        .collect();
    for rule in policy.allowed {
        passed
            .entry(rule.syscall)
            .or_default()
            .extend(rule.when.rules()?);
    }
    let strict = SeccompFilter::new(
        passed,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        ARCH,
    )?;
    programs.push(strict.try_into()?);
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::builder;

    #[test]
    fn the_tables_compile_and_do_not_contradict_themselves() {
        let policy = builder::policy();
        assert_eq!(compile(&policy).unwrap().len(), Answer::ALL.len() + 1);
        let answered: BTreeSet<_> = policy.answered.iter().map(|(syscall, _)| syscall).collect();
        assert_eq!(answered.len(), policy.answered.len(), "answered once");
        for rule in policy.allowed {
            assert!(!answered.contains(&rule.syscall), "{}", rule.syscall);
            let twice = policy
                .allowed
                .iter()
                .filter(|other| other.syscall == rule.syscall);
            // A call without conditions beside one with them would be narrowed.
            assert!(
                twice.count() == 1 || !matches!(rule.when, When::Always),
                "{}",
                rule.syscall
            );
        }
    }
}
