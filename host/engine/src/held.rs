//! What the host holds for a guest outside of its tables: requests that are
//! under way, lines that have no end yet, bodies that nobody takes yet. Whoever
//! holds such a thing keeps a [`Load`] with it; [`weigh`](crate::weigh) adds the
//! loads to what it finds in the tables.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, WasiBody};

/// The sum of the loads of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    /// Bytes of all loads now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts so many bytes until the load is dropped.
    pub(crate) fn load(&self, bytes: usize) -> Load {
        self.0.fetch_add(bytes, Relaxed);
        Load {
            held: self.clone(),
            bytes,
        }
    }
}

/// Bytes that are counted while this lives.
#[derive(Debug)]
pub(crate) struct Load {
    held: Held,
    bytes: usize,
}

impl Load {
    /// It is so many bytes from now on.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.held.0.fetch_add(bytes, Relaxed);
            self.held.0.fetch_sub(self.bytes, Relaxed);
            self.bytes = bytes;
        }
    }

    /// The body, which is counted while it lives.
    pub(crate) fn on(self, body: WasiBody) -> WasiBody {
        Loaded { body, _load: self }.boxed_unsync()
    }
}

/// A body that is counted.
struct Loaded {
    body: WasiBody,
    _load: Load,
}

impl Body for Loaded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_add_up_and_go() {
        let held = Held::default();
        let mut one = held.load(10);
        let two = held.load(5);
        one.set(3);
        assert_eq!(held.bytes(), 8);
        drop((one, two));
        assert_eq!(held.bytes(), 0);
    }
}
