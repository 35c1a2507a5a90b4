//! The host of the first stream of an HTTP/2 connection by prior knowledge.
//!
//! A server of the h2 crate reads the bytes and is thrown away; what it would
//! answer goes nowhere. It also knows its limits: a header list that unfolds
//! to more than it may be is refused.
//!
//! A client that was greeted acknowledges that before its first stream or
//! afterwards. Who has not greeted it finds no meaning in that, so it is left out.

use std::borrow::Cow;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::HOST;
use skep_core::ConnectionLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Heard;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame before its payload.
const FRAME: usize = 9;

const SETTINGS: u8 = 4;

const ACK: u8 = 1;

/// `greeted`: the client was sent SETTINGS.
pub(super) fn hear(bytes: &[u8], limits: &ConnectionLimits, greeted: bool) -> Heard {
    if bytes.len() < PREFACE.len() {
        return Heard::NeedMore;
    }
    let bytes = if greeted {
        Cow::Owned(without_acknowledgement(bytes))
    } else {
        Cow::Borrowed(bytes)
    };
    let mut cx = Context::from_waker(Waker::noop());
    let handshake = h2::server::Builder::new()
        .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
        .handshake::<_, Bytes>(Script(&bytes));
    let mut connection = match pin!(handshake).poll(&mut cx) {
        Poll::Pending => return Heard::NeedMore,
        Poll::Ready(Err(_)) => return Heard::Bad,
        Poll::Ready(Ok(connection)) => connection,
    };
    match connection.poll_accept(&mut cx) {
        Poll::Pending => Heard::NeedMore,
        Poll::Ready(Some(Ok((request, _)))) => {
            let authority = request.uri().authority();
            let host = match (authority, request.headers().get(HOST)) {
                (Some(authority), _) => Some(authority.as_str().to_owned()),
                (None, Some(host)) => match host.to_str() {
                    Ok(host) => Some(host.to_owned()),
                    Err(_) => return Heard::Bad,
                },
                (None, None) => return Heard::Bad,
            };
            Heard::Host(host)
        }
        Poll::Ready(None | Some(Err(_))) => Heard::Bad,
    }
}

/// The bytes without the first acknowledgement of settings.
fn without_acknowledgement(bytes: &[u8]) -> Vec<u8> {
    let mut at = PREFACE.len();
    while let Some(frame) = bytes.get(at..at + FRAME) {
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        if length == 0 && frame[3] == SETTINGS && frame[4] & ACK != 0 {
            return [&bytes[..at], &bytes[at + FRAME..]].concat();
        }
        at += FRAME + length;
    }
    bytes.to_vec()
}

/// A connection over which these bytes come, then nothing, and which takes
/// everything.
struct Script<'a>(&'a [u8]);

impl AsyncRead for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
