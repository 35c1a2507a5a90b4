//! A response's body on its way out of the guest, held to what its head says.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::{Frame, SizeHint};
use skep_core::Outcome;
use wasmtime_wasi_http::WasiBody;

use crate::fault::Verdict;
use crate::head;
use crate::origin::{self, Origin};

/// What a response's head says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It has none, whatever the guest writes and announces (RFC 9110 §6.4.1).
    None,
    /// So many bytes.
    Sized(u64),
    /// As much as comes.
    Streamed,
}

impl Content {
    /// What follows such a head. `headless` says that the request was a HEAD.
    pub(crate) fn of(headless: bool, status: StatusCode, headers: &HeaderMap) -> Self {
        if headless || has_none(status) {
            return Self::None;
        }
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        length.map_or(Self::Streamed, Self::Sized)
    }
}

/// Whether responses of this status have no content, whatever was asked.
pub(crate) fn has_none(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

/// What comes next of a body.
pub(crate) enum Piece {
    Frame(Frame<Bytes>),
    End,
    /// It is not what its head said, or was given up.
    Broken(Verdict),
}

/// What is left of a body whose guest has returned.
pub(crate) enum Rest {
    /// A few frames, which are here.
    Here,
    /// Somebody outside goes on with it.
    Outside,
    /// Nobody does.
    Broken(Verdict),
}

/// What was found of a body before its client wanted it.
pub(crate) enum Ahead {
    Nothing,
    Some,
    Broken(Verdict),
}

/// The body of one response.
pub(crate) struct Flow {
    content: Content,
    /// Frames that were taken from `stream` ahead of time.
    ready: VecDeque<Frame<Bytes>>,
    /// The rest, or `None` once it has ended.
    stream: Option<WasiBody>,
    /// Bytes that the guest wrote.
    written: u64,
    /// Bytes that the client was given.
    given: u64,
}

impl Flow {
    pub(crate) fn new(stream: WasiBody, content: Content) -> Self {
        Self {
            content,
            ready: VecDeque::new(),
            stream: Some(stream),
            written: 0,
            given: 0,
        }
    }

    /// The next piece for the client.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let piece = match self.ready.pop_front() {
            Some(frame) => Poll::Ready(Piece::Frame(frame)),
            None => self.poll_stream(cx).0,
        };
        if let Poll::Ready(Piece::Frame(frame)) = &piece {
            self.given += length(frame);
        }
        piece
    }

    /// Takes the next frame before the client wants it, if none was taken and it
    /// is there. Says what was found.
    pub(crate) fn take_ahead(&mut self, cx: &mut Context<'_>) -> Ahead {
        if !self.ready.is_empty() || self.stream.is_none() {
            return Ahead::Nothing;
        }
        match self.poll_stream(cx).0 {
            Poll::Pending => Ahead::Nothing,
            Poll::Ready(Piece::Broken(verdict)) => Ahead::Broken(verdict),
            Poll::Ready(Piece::End) => Ahead::Some,
            Poll::Ready(Piece::Frame(frame)) => {
                self.ready.push_back(frame);
                Ahead::Some
            }
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> (Poll<Piece>, Option<Origin>) {
        let Some(stream) = &mut self.stream else {
            return (Poll::Ready(Piece::End), None);
        };
        let (polled, origin) = origin::poll_frame(stream, cx);
        let piece = match polled {
            Poll::Pending => return (Poll::Pending, origin),
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    head::leaving(trailers);
                }
                self.written += length(&frame);
                match self.content {
                    Content::Sized(length) if self.written > length => self.mismatch(),
                    _ => Piece::Frame(frame),
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.stream = None;
                Piece::Broken(match origin {
                    Some(Origin::Client) => Verdict {
                        outcome: Outcome::ClientGone,
                        detail: None,
                    },
                    Some(Origin::Upstream) => Verdict::trap(format!(
                        "the body that the guest handed on broke off: {error}"
                    )),
                    None => unfinished(),
                })
            }
            Poll::Ready(None) => match self.content {
                Content::Sized(length) if self.written != length => self.mismatch(),
                _ => {
                    self.stream = None;
                    Piece::End
                }
            },
        };
        (Poll::Ready(piece), origin)
    }

    fn mismatch(&mut self) -> Piece {
        self.stream = None;
        let Content::Sized(length) = self.content else {
            return Piece::End;
        };
        let written = self.written;
        let relation = if written < length {
            "shorter"
        } else {
            "longer"
        };
        Piece::Broken(Verdict::trap(format!(
            "the response body is {relation} than its content-length: {written} bytes of {length}"
        )))
    }

    /// Takes what a guest that has returned left in its channels, a few frames at
    /// most. While its store is still there: a channel that ends by the store's
    /// end looks like one that was finished. `None` where more may come by itself:
    /// the store's event loop is not quiet, or was only because there was no room for
    /// the next frame.
    pub(crate) fn drain(&mut self, is_quiet: bool) -> Option<Rest> {
        let mut has_taken = false;
        loop {
            // What tokio lets a task do at a time must not look like a pause.
            let polled = tokio::task::unconstrained(std::future::poll_fn(|cx| {
                Poll::Ready(self.poll_stream(cx))
            }));
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready((piece, origin)) = pin!(polled).poll(&mut cx) else {
                return Some(Rest::Outside);
            };
            match piece {
                Poll::Ready(Piece::Frame(frame)) => {
                    self.ready.push_back(frame);
                    has_taken = true;
                }
                Poll::Ready(Piece::End) => return Some(Rest::Here),
                Poll::Ready(Piece::Broken(verdict)) => return Some(Rest::Broken(verdict)),
                Poll::Pending if origin.is_none() && is_quiet && !has_taken => {
                    self.stream = None;
                    return Some(Rest::Broken(unfinished()));
                }
                Poll::Pending if origin.is_none() => return None,
                Poll::Pending => {}
            }
            if origin.is_some() {
                return Some(Rest::Outside);
            }
        }
    }

    /// Forgets what is left of it.
    pub(crate) fn close(&mut self) {
        self.ready.clear();
        self.stream = None;
    }

    /// Whether it is known that nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.stream.is_none() && self.ready.is_empty()
    }

    /// Whether the client has all that it was told to expect.
    pub(crate) fn is_given(&self) -> bool {
        let nothing = |frame: &Frame<Bytes>| frame.is_data() && length(frame) == 0;
        self.content == Content::Sized(self.given)
            || (self.stream.is_none() && self.ready.iter().all(nothing))
    }

    pub(crate) fn has_content(&self) -> bool {
        self.content != Content::None
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.stream.is_none() && self.ready.iter().all(Frame::is_data) {
            SizeHint::with_exact(self.ready.iter().map(length).sum())
        } else {
            SizeHint::default()
        }
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |bytes| bytes.len() as u64)
}

fn unfinished() -> Verdict {
    Verdict::trap("the guest did not finish its response body")
}
