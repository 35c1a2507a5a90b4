//! What a dispatcher may do: accept connections, look at their first bytes
//! without taking them, and pass them on.

use crate::policy::basics::{
    ANSWERED, LIVING, Limit, MEMORY, NO_FILES, NO_NEW_CODE, NO_THREADS, PREPARING, SERVING,
    TALKING, WAITING, lasting,
};
use crate::policy::seccomp::Policy;

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
            SERVING,
            // Connections come back from workers, whom nobody trusts.
            PREPARING,
        ],
        answered: vec![ANSWERED, NO_FILES, NO_THREADS],
    }
}
