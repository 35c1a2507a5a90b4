//! System call filters from a role's table.
//!
//! Two filters are stacked, and the kernel takes the stricter verdict: one
//! lets pass what is allowed or answered and kills the process for anything
//! else; the others turn what is answered into its error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
    pub(crate) allowed: Vec<&'static [Rule]>,
    /// Calls that are not made and get an error.
    pub(crate) answered: Vec<&'static [Refused]>,
}

/// One allowed call.
pub(crate) struct Rule {
    pub(crate) syscall: libc::c_long,
    pub(crate) when: When,
}

/// One call that gets an error.
pub(crate) struct Refused {
    pub(crate) syscall: libc::c_long,
    pub(crate) when: When,
    pub(crate) answer: Answer,
}

/// With which arguments a rule applies; arguments count from 0.
#[derive(Clone, Copy)]
pub(crate) enum When {
    Always,
    /// The 32-bit argument is this.
    Is {
        argument: u8,
        value: u32,
    },
    /// Of the 32-bit argument, the bits of `mask` are those of `value`.
    Bits {
        argument: u8,
        mask: u32,
        value: u32,
    },
    /// The 64-bit argument is null.
    Zero {
        argument: u8,
    },
    /// The argument is the number of this process.
    OwnPid {
        argument: u8,
    },
    /// A new socket, for `socket`.
    Socket {
        domain: libc::c_int,
        kind: libc::c_int,
        protocol: libc::c_int,
    },
    /// Bytes that go where the socket is connected to and open no connection
    /// themselves, for `sendto`.
    Connected,
}

/// The error of a call that is answered.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Denied,
    NotATerminal,
    Missing,
}

/// The bits of a socket's kind without its flags (`SOCK_CLOEXEC` and such).
const SOCKET_KIND: u32 = 0xf;

impl Rule {
    /// Any arguments.
    pub(crate) const fn allow(syscall: libc::c_long) -> Self {
        Self {
            syscall,
            when: When::Always,
        }
    }

    pub(crate) const fn allow_when(syscall: libc::c_long, when: When) -> Self {
        Self { syscall, when }
    }
}

impl Refused {
    /// Any arguments.
    pub(crate) const fn answer(syscall: libc::c_long, answer: Answer) -> Self {
        Self {
            syscall,
            when: When::Always,
            answer,
        }
    }

    pub(crate) const fn answer_when(syscall: libc::c_long, when: When, answer: Answer) -> Self {
        Self {
            syscall,
            when,
            answer,
        }
    }
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
    /// What must hold of the arguments, all of it.
    fn conditions(self) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
        let is = |argument, value: u32| {
            let value = u64::from(value);
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        };
        let bits = |argument, mask: u32, value: u32| {
            let masked = SeccompCmpOp::MaskedEq(u64::from(mask));
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, value.into())
        };
        let zero = |argument| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
        };
        Ok(match self {
            Self::Always => Vec::new(),
            Self::Is { argument, value } => vec![is(argument, value)?],
            Self::Bits {
                argument,
                mask,
                value,
            } => vec![bits(argument, mask, value)?],
            Self::Zero { argument } => vec![zero(argument)?],
            Self::OwnPid { argument } => vec![is(argument, std::process::id())?],
            Self::Socket {
                domain,
                kind,
                protocol,
            } => vec![
                is(0, domain.cast_unsigned())?,
                bits(1, SOCKET_KIND, kind.cast_unsigned())?,
                is(2, protocol.cast_unsigned())?,
            ],
            Self::Connected => vec![bits(3, FAST_OPEN, 0)?, zero(4)?],
        })
    }
}

/// `MSG_FASTOPEN` connects while it sends, past every check of `connect`.
pub(crate) const FAST_OPEN: u32 = libc::MSG_FASTOPEN.cast_unsigned();

/// Rules for each call; none at all match any arguments.
#[derive(Default)]
struct Calls(BTreeMap<i64, Vec<SeccompRule>>);

impl Calls {
    fn add(&mut self, syscall: libc::c_long, when: When) -> Result<(), seccompiler::BackendError> {
        let conditions = when.conditions()?;
        if conditions.is_empty() {
            self.0.insert(syscall, Vec::new());
            return Ok(());
        }
        let rule = SeccompRule::new(conditions)?;
        match self.0.entry(syscall) {
            Entry::Vacant(vacant) => {
                vacant.insert(vec![rule]);
            }
            // Any arguments are allowed already.
            Entry::Occupied(always) if always.get().is_empty() => {}
            Entry::Occupied(mut some) => some.get_mut().push(rule),
        }
        Ok(())
    }
}

/// A policy that a thread can take.
pub(crate) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// # Errors
    ///
    /// None, for tables that pass the tests.
    pub(crate) fn new(policy: &Policy) -> io::Result<Self> {
        compile(policy).map(Self).map_err(io::Error::other)
    }

    /// Puts the policy in force for the calling thread, for ever.
    ///
    /// # Errors
    ///
    /// The kernel refuses for a reason other than that it has no seccomp.
    pub(crate) fn apply(&self) -> io::Result<Support> {
        for program in &self.0 {
            match seccompiler::apply_filter(program) {
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
}

/// The answers first: once the strict filter is in force no more can be added.
fn compile(policy: &Policy) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let answered = || policy.answered.iter().copied().flatten();
    let mut programs = Vec::new();
    for answer in Answer::ALL {
        let mut calls = Calls::default();
        for refused in answered().filter(|refused| refused.answer == answer) {
            calls.add(refused.syscall, refused.when)?;
        }
        if calls.0.is_empty() {
            continue;
        }
        let errno = SeccompAction::Errno(answer.errno().unsigned_abs());
        programs.push(SeccompFilter::new(calls.0, SeccompAction::Allow, errno, ARCH)?.try_into()?);
    }
    let mut passed = Calls::default();
    for refused in answered() {
        passed.add(refused.syscall, refused.when)?;
    }
    for rule in policy.allowed.iter().copied().flatten() {
        passed.add(rule.syscall, rule.when)?;
    }
    let strict = SeccompFilter::new(
        passed.0,
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
    use crate::policy::{admin, alerter, builder, connector, dispatcher, worker};

    #[test]
    fn the_tables_compile_and_do_not_contradict_themselves() {
        for (role, policy) in [
            ("builder", builder::policy()),
            ("worker", worker::policy(worker::Mounts::None)),
            ("worker that reads", worker::policy(worker::Mounts::Read)),
            ("worker that writes", worker::policy(worker::Mounts::Write)),
            ("dispatcher", dispatcher::policy()),
            ("connector", connector::policy()),
            ("alerter", alerter::policy()),
            ("admin", admin::policy()),
        ] {
            let programs = compile(&policy).unwrap();
            assert!(programs.len() > 1, "{role}");
            // BPF_MAXINSNS
            assert!(programs.iter().all(|program| program.len() < 4096));
            let always = |when| matches!(when, When::Always);
            let answered: Vec<_> = policy.answered.iter().copied().flatten().collect();
            let refused: BTreeSet<_> = answered
                .iter()
                .filter(|refused| always(refused.when))
                .map(|refused| refused.syscall)
                .collect();
            let without = answered.iter().filter(|refused| always(refused.when));
            assert_eq!(without.count(), refused.len(), "{role}: answered once");
            for rule in policy.allowed.iter().copied().flatten() {
                assert!(!refused.contains(&rule.syscall), "{role}: {}", rule.syscall);
            }
        }
    }
}
