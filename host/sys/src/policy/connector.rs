//! What a connector may do: look names up, connect, and pass the connections
//! to workers, which cannot do so themselves.

use crate::policy::basics::{
    ANSWERED, CALLING, LIVING, Limit, MEMORY, NO_NEW_CODE, NO_THREADS, PREPARING, READING, SEEKING,
    TALKING, WAITING, lasting,
};
use crate::policy::seccomp::{Answer, Policy, Refused};

/// What its resolver reads. Files that take their places later are not these
/// any more, and stay unread.
pub(crate) const FILES: &[&str] = &["/etc/resolv.conf", "/etc/hosts"];

pub(crate) fn resource_limits(descriptors: u64) -> [Limit; 5] {
    lasting(descriptors)
}

pub(crate) fn policy() -> Policy {
    Policy {
        allowed: vec![
            LIVING,
            MEMORY,
            NO_NEW_CODE,
            WAITING,
            TALKING,
            CALLING,
            // Its sockets are its own until it passes them.
            PREPARING,
            READING,
            SEEKING,
        ],
        answered: vec![ANSWERED, NO_THREADS, NO_LINKS],
    }
}

/// Nothing reads links but libraries that go on without.
const NO_LINKS: &[Refused] = &[
    Refused::answer(libc::SYS_readlinkat, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_readlink, Answer::Denied),
];
