//! What workers had read of connections that they gave back, counted by pool.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// Most bytes that are kept of what the workers of one pool had read: with heads
/// of a kilobyte, those of 4,000 connections that are on their way at one time.
pub(crate) const MOST: usize = 4 << 20;

/// Bytes of a connection's next request that a worker had read.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    bytes: Vec<u8>,
    kept: Kept,
}

/// How many such bytes are kept for one pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Rc<Cell<usize>>);

impl Kept {
    /// Keeps these, or `None` if the pool has too many already.
    pub(crate) fn keep(&self, bytes: Vec<u8>) -> Option<ReadAhead> {
        let all = self.0.get() + bytes.len();
        if !bytes.is_empty() && all > MOST {
            return None;
        }
        self.0.set(all);
        let kept = self.clone();
        Some(ReadAhead { bytes, kept })
    }
}

impl Deref for ReadAhead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.kept.0.set(self.kept.0.get() - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_so_many_bytes_and_then_none() {
        let kept = Kept::default();
        let first = kept.keep(vec![0; MOST - 1]).unwrap();
        let second = kept.keep(vec![0; 1]).unwrap();
        assert!(kept.keep(vec![0; 1]).is_none());
        assert!(kept.keep(Vec::new()).is_some());
        drop(second);
        assert!(kept.keep(vec![0; 2]).is_none());
        assert!(kept.keep(vec![0; 1]).is_some());
        drop(first);
        assert!(kept.keep(vec![0; MOST]).is_some());
        assert_eq!(kept.0.get(), 0);
    }
}
