//! A request's body on its way from the connection that reads it to the guest.
//!
//! Nothing is read before the guest wants it: the pipe holds one piece at most,
//! and a full socket stops the client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Why a body has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// The client has gone.
    #[error("the client has gone")]
    Gone,
    /// It makes no sense.
    #[error("the body is malformed")]
    Malformed,
    /// Its trailers are too large.
    #[error("the trailers are too large")]
    TrailersTooLarge,
}

/// The end that the connection writes to.
#[derive(Debug)]
pub(crate) struct PipeIn(Arc<Mutex<Pipe>>);

/// The end that is the request's body.
#[derive(Debug)]
pub(crate) struct PipeOut {
    pipe: Arc<Mutex<Pipe>>,
    /// Bytes that may come at most, and whether they are exact.
    hint: (u64, bool),
}

#[derive(Debug, Default)]
struct Pipe {
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Default)]
enum State {
    /// Nobody has asked.
    #[default]
    Waiting,
    /// The reader wants something.
    Wanted,
    Full(Bytes),
    /// There is no more but these.
    End(Option<HeaderMap>),
    Failed(BodyFault),
    /// One of the two has what it needs, or has gone.
    Closed,
}

/// A pipe for a body of this length, if it is known.
pub(crate) fn pipe(length: Option<u64>) -> (PipeIn, PipeOut) {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    let hint = (length.unwrap_or(0), length.is_some());
    (PipeIn(Arc::clone(&pipe)), PipeOut { pipe, hint })
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    // A panic leaves it consistent.
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PipeIn {
    /// Whether something is wanted. The task is woken when that changes, and
    /// when the reader goes.
    pub(crate) fn is_wanted(&self, cx: &Context<'_>) -> bool {
        let mut pipe = lock(&self.0);
        pipe.writer = Some(cx.waker().clone());
        matches!(pipe.state, State::Wanted)
    }

    /// Whether nobody has a use for the rest.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(lock(&self.0).state, State::Closed)
    }

    /// Hands over what is wanted.
    pub(crate) fn put(&self, bytes: Bytes) {
        self.set(State::Full(bytes));
    }

    pub(crate) fn end(&self, trailers: Option<HeaderMap>) {
        self.set(State::End(trailers));
    }

    pub(crate) fn fail(&self, fault: BodyFault) {
        self.set(State::Failed(fault));
    }

    fn set(&self, state: State) {
        let mut pipe = lock(&self.0);
        if matches!(pipe.state, State::Closed) {
            return;
        }
        pipe.state = state;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for PipeIn {
    fn drop(&mut self) {
        let unfinished = matches!(lock(&self.0).state, State::Waiting | State::Wanted);
        if unfinished {
            self.fail(BodyFault::Gone);
        }
    }
}

impl Drop for PipeOut {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.state = State::Closed;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}

impl Body for PipeOut {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        let mut pipe = lock(&this.pipe);
        match std::mem::take(&mut pipe.state) {
            State::Waiting | State::Wanted => {
                pipe.state = State::Wanted;
                pipe.reader = Some(cx.waker().clone());
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                Poll::Pending
            }
            State::Full(bytes) => {
                this.hint.0 = this.hint.0.saturating_sub(bytes.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            State::End(trailers) => {
                pipe.state = State::Closed;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            State::Failed(fault) => {
                pipe.state = State::Closed;
                Poll::Ready(Some(Err(fault)))
            }
            State::Closed => {
                pipe.state = State::Closed;
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.hint {
            (length, true) => SizeHint::with_exact(length),
            (_, false) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(out: &mut PipeOut) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Pin::new(out).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_piece_passes_at_a_time_and_only_when_it_is_wanted() {
        let cx = Context::from_waker(Waker::noop());
        let (into, mut out) = pipe(Some(3));
        assert!(!into.is_wanted(&cx));
        assert!(poll(&mut out).is_pending());
        assert!(into.is_wanted(&cx));
        into.put(Bytes::from_static(b"abc"));
        assert!(!into.is_wanted(&cx));
        let Poll::Ready(Some(Ok(frame))) = poll(&mut out) else {
            panic!("it was put there");
        };
        assert_eq!(frame.into_data().unwrap(), "abc");
        assert_eq!(out.size_hint().exact(), Some(0));
        assert!(poll(&mut out).is_pending());
        into.end(None);
        assert!(matches!(poll(&mut out), Poll::Ready(None)));
        assert!(matches!(poll(&mut out), Poll::Ready(None)));
        assert!(into.is_closed());
    }

    #[test]
    fn who_is_left_alone_hears_of_it() {
        let (into, mut out) = pipe(None);
        assert!(poll(&mut out).is_pending());
        drop(into);
        assert!(matches!(
            poll(&mut out),
            Poll::Ready(Some(Err(BodyFault::Gone)))
        ));
        let (into, out) = pipe(None);
        drop(out);
        assert!(into.is_closed());
        into.put(Bytes::from_static(b"x"));
        assert!(into.is_closed());
    }
}
