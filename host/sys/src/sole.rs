//! Counters that one thread writes and many read.
//!
//! A read-modify-write that is atomic costs some twenty cycles even where nobody else
//! writes; a load and a store cost none. Only the thread whose counter it is may call
//! these: of two that do at the same time one is lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A counter of the calling thread's own.
pub trait Sole<N> {
    /// Counts so many more, and wraps around.
    fn add(&self, more: N);

    /// Counts so many fewer, and wraps around. Gives what it was before.
    fn sub(&self, fewer: N) -> N;
}

macro_rules! sole {
    ($atomic:ty, $number:ty) => {
        impl Sole<$number> for $atomic {
            fn add(&self, more: $number) {
                self.store(self.load(Relaxed).wrapping_add(more), Relaxed);
            }

            fn sub(&self, fewer: $number) -> $number {
                let before = self.load(Relaxed);
                self.store(before.wrapping_sub(fewer), Relaxed);
                before
            }
        }
    };
}

sole!(AtomicU32, u32);
sole!(AtomicU64, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_up_and_down() {
        let counter = AtomicU32::new(1);
        counter.add(2);
        assert_eq!(counter.sub(3), 3);
        assert_eq!(counter.load(Relaxed), 0);
    }
}
