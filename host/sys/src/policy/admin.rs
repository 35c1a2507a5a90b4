//! What an admin process may do: accept connections, read the scoreboard, and
//! ask the primary. The scoreboard is open.

use crate::policy::basics::{
    ANSWERED, LIVING, Limit, MEMORY, NO_FILES, NO_NEW_CODE, NO_THREADS, SERVING, TALKING, WAITING,
    lasting,
};
use crate::policy::seccomp::Policy;

pub(crate) fn resource_limits(descriptors: u64) -> [Limit; 5] {
    lasting(descriptors)
}

pub(crate) fn policy() -> Policy {
    Policy {
        allowed: vec![LIVING, MEMORY, NO_NEW_CODE, WAITING, TALKING, SERVING],
        answered: vec![ANSWERED, NO_FILES, NO_THREADS],
    }
}
