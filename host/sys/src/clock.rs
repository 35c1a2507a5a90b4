//! The clocks that the processes of a fleet share.
//!
//! Responsible for reading them; what a moment means is `skep-core`'s.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: time since some point before the machine's start, the
/// same in all its processes. Does not enter the kernel.
#[must_use]
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time that the calling thread has used. A system call.
#[must_use]
pub fn thread_cpu() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock)
        .expect("every Linux has this clock")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (wall, cpu) = (monotonic(), thread_cpu());
        while thread_cpu() == cpu {
            std::hint::spin_loop();
        }
        assert!(monotonic() > wall);
        assert!(thread_cpu() - cpu <= monotonic() - wall + Duration::from_millis(1));
    }
}
