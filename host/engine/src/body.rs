//! A response's body: the guest's bytes, and the guest that makes them.
//!
//! The guest runs when the body is polled, and hyper polls it when the
//! connection can take more: back-pressure without a queue. When the client
//! goes, hyper drops the body, and with it the guest.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use skep_core::Outcome;
use wasmtime_wasi_http::WasiBody;

use crate::call::{Ended, Run, Witness};

/// The guest failed after its headers were sent; the connection must not end
/// as if the response were whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response was cut short ({})", .0.name())]
pub struct CutShort(pub Outcome);

/// The body of a guest's response.
pub struct GuestBody<W: Witness> {
    /// Frames that were taken from `stream` ahead of time.
    ready: VecDeque<Frame<Bytes>>,
    /// The rest, or `None` once it has ended.
    stream: Option<WasiBody>,
    run: Progress,
    status: StatusCode,
    /// Bytes that the guest announced.
    expected: Option<u64>,
    delivered: u64,
    witness: Option<W>,
}

/// What becomes of a guest that goes on when its response is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterBody {
    /// It finishes what it does, within its limits, and only then has ended.
    Finish,
    /// Its instance has other calls and goes on anyway; this one has ended.
    Leave,
}

enum Progress {
    Running(Run, AfterBody),
    Ended(Ended),
    Told,
}

impl<W: Witness> std::fmt::Debug for GuestBody<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBody")
            .field("expected", &self.expected)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

impl<W: Witness> GuestBody<W> {
    /// The body of a response whose guest has ended well. Takes what is there,
    /// so that a short response is sent at once, with its length.
    pub(crate) fn whole(
        stream: WasiBody,
        (status, expected): (StatusCode, Option<u64>),
        ended: Ended,
        witness: W,
        cx: &mut Context<'_>,
    ) -> Self {
        let mut body = Self {
            ready: VecDeque::new(),
            stream: Some(stream),
            run: Progress::Ended(ended),
            status,
            expected,
            delivered: 0,
            witness: Some(witness),
        };
        // A guest that has ended has at most a few frames in its channel.
        while let Some(stream) = body.stream.as_mut() {
            match Pin::new(stream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => body.ready.push_back(frame),
                Poll::Ready(None) => {
                    body.stream = None;
                    body.tell();
                }
                // Remembered, because after an error the stream ends as if all
                // were well.
                Poll::Ready(Some(Err(_))) => {
                    body.unfinished(std::time::Duration::ZERO);
                    break;
                }
                Poll::Pending => break,
            }
        }
        body
    }

    /// The body of a response whose guest goes on.
    pub(crate) fn running(
        stream: WasiBody,
        (status, expected): (StatusCode, Option<u64>),
        run: Run,
        after: AfterBody,
        witness: W,
    ) -> Self {
        Self {
            ready: VecDeque::new(),
            stream: Some(stream),
            run: Progress::Running(run, after),
            status,
            expected,
            delivered: 0,
            witness: Some(witness),
        }
    }

    /// Tells the witness how a run ended that is no more.
    fn tell(&mut self) {
        if let Progress::Ended(mut ended) = std::mem::replace(&mut self.run, Progress::Told)
            && let Some(witness) = self.witness.take()
        {
            ended.status = Some(self.status);
            witness.ended(ended);
        }
    }

    /// The guest gave its body up, or wrote another length than it announced.
    fn unfinished(&mut self, cpu: std::time::Duration) {
        self.run = Progress::Ended(Ended {
            outcome: Outcome::Trap,
            detail: Some("the guest did not finish its response body".into()),
            cpu,
            status: None,
        });
    }

    /// The response is whole but the guest has more to do: it does that
    /// without a client, within its limits.
    fn detach(&mut self) {
        if let Progress::Running(run, after) = std::mem::replace(&mut self.run, Progress::Told)
            && let Some(witness) = self.witness.take()
        {
            let status = Some(self.status);
            match after {
                AfterBody::Finish => drop(tokio::spawn(async move {
                    witness.ended(Ended {
                        status,
                        ..run.await
                    });
                })),
                AfterBody::Leave => witness.ended(Ended {
                    outcome: Outcome::Ok,
                    detail: None,
                    cpu: std::time::Duration::ZERO,
                    status,
                }),
            }
        }
    }

    fn is_whole(&self) -> bool {
        (self.stream.is_none() && self.ready.is_empty()) || self.expected == Some(self.delivered)
    }

    fn cut(&mut self, outcome: Outcome) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        self.stream = None;
        self.ready.clear();
        self.tell();
        Poll::Ready(Some(Err(CutShort(outcome))))
    }

    fn deliver(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if let Some(bytes) = frame.data_ref() {
            self.delivered += bytes.len() as u64;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl<W: Witness> Body for GuestBody<W> {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = &mut *self;
        if let Some(frame) = this.ready.pop_front() {
            return this.deliver(frame);
        }
        if let Progress::Running(run, _) = &mut this.run
            && let Poll::Ready(ended) = Pin::new(run).poll(cx)
        {
            this.run = Progress::Ended(ended);
        }
        let Some(stream) = this.stream.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(stream).poll_frame(cx) {
            Poll::Pending => match &this.run {
                // A guest that failed holds no writer that could still write,
                // but a 0.3 stream notices that only by being dropped.
                Progress::Ended(ended) if ended.outcome != Outcome::Ok => {
                    let outcome = ended.outcome;
                    this.cut(outcome)
                }
                _ => Poll::Pending,
            },
            Poll::Ready(Some(Ok(frame))) => this.deliver(frame),
            Poll::Ready(Some(Err(_))) => {
                // The guest gave its body up, or wrote another length than it
                // announced.
                let (outcome, cpu) = match &this.run {
                    Progress::Ended(ended) if ended.outcome != Outcome::Ok => {
                        (ended.outcome, ended.cpu)
                    }
                    _ => (Outcome::Trap, std::time::Duration::ZERO),
                };
                if outcome == Outcome::Trap {
                    this.unfinished(cpu);
                }
                this.cut(outcome)
            }
            Poll::Ready(None) => {
                match &this.run {
                    // wasmtime ends the stream cleanly when its writer is
                    // dropped with the store; the client must see the cut.
                    Progress::Ended(ended) if ended.outcome != Outcome::Ok => {
                        let outcome = ended.outcome;
                        return this.cut(outcome);
                    }
                    Progress::Ended(_) => this.tell(),
                    Progress::Running(..) => this.detach(),
                    Progress::Told => {}
                }
                this.stream = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none() && self.ready.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_none() && self.ready.iter().all(Frame::is_data) {
            let rest = self.ready.iter().filter_map(Frame::data_ref);
            SizeHint::with_exact(rest.map(|bytes| bytes.len() as u64).sum())
        } else {
            SizeHint::default()
        }
    }
}

impl<W: Witness> Drop for GuestBody<W> {
    fn drop(&mut self) {
        // hyper drops a body without polling it to its end when the announced
        // length is reached. Otherwise the client has gone, and the witness is
        // dropped with the guest.
        match &self.run {
            Progress::Running(..) if self.is_whole() => self.detach(),
            Progress::Ended(ended) if ended.outcome != Outcome::Ok || self.is_whole() => {
                self.tell();
            }
            _ => {}
        }
    }
}
