//! A guest's stdout and stderr as log lines.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use skep_core::LogLevel;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use crate::held::{Held, Load};

/// Which of a guest's streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where a guest's lines go. Must not block: it is called from within calls.
pub trait GuestLog: Send + Sync {
    /// Takes one line without its newline. `request` is the request that the
    /// instance works on, or empty where it works on several.
    fn line(&self, stream: Stream, request: &str, line: &[u8]);

    /// Takes one record of `wasi:logging`.
    fn record(&self, level: LogLevel, request: &str, context: &str, message: &str);
}

/// The longest line; a longer one is cut into several. Log collectors reject
/// much longer ones.
const MAX_LINE: usize = 8 << 10;

/// Names the request that an instance works on: set with each call, read with
/// each line.
#[derive(Clone)]
pub(crate) struct RequestId(Arc<Mutex<Arc<str>>>);

impl RequestId {
    pub(crate) fn new(request: Arc<str>) -> Self {
        Self(Arc::new(Mutex::new(request)))
    }

    pub(crate) fn set(&self, request: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }

    pub(crate) fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One stream of one instance.
#[derive(Clone)]
pub(crate) struct LineStream {
    stream: Stream,
    request: RequestId,
    log: Arc<dyn GuestLog>,
    held: Held,
}

impl LineStream {
    pub(crate) fn new(
        stream: Stream,
        request: RequestId,
        log: Arc<dyn GuestLog>,
        held: Held,
    ) -> Self {
        Self {
            stream,
            request,
            log,
            held,
        }
    }
}

impl IsTerminal for LineStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines::new(self.clone()))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines::new(self.clone()))
    }
}

/// Cuts what is written into lines. What has no newline at the end is given
/// out when the stream goes.
struct Lines {
    to: LineStream,
    partial: Vec<u8>,
    /// A guest may have many streams, each with a line that has no end yet.
    load: Load,
}

impl Lines {
    fn new(to: LineStream) -> Self {
        let load = to.held.load(size_of::<Self>());
        Self {
            to,
            partial: Vec::new(),
            load,
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            self.give();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// Never holds more than one line, however much comes without a newline.
    fn keep(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let (now, later) = bytes.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(now);
            self.give();
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
        self.load.set(size_of::<Self>() + self.partial.capacity());
    }

    fn give(&mut self) {
        self.to
            .log
            .line(self.to.stream, &self.to.request.get(), &self.partial);
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.give();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(MAX_LINE)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl GuestLog for Kept {
        fn line(&self, _: Stream, _: &str, line: &[u8]) {
            self.0
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(line).into_owned());
        }

        fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
    }

    #[test]
    fn writes_become_lines() {
        let kept = Arc::new(Kept::default());
        let held = Held::default();
        let request = RequestId::new("".into());
        let to = LineStream::new(Stream::Stdout, request, kept.clone(), held.clone());
        let mut lines = Lines::new(to);
        lines.take(b"one\ntw");
        lines.take(b"o\n\nthree");
        lines.take(&vec![b'x'; MAX_LINE]);
        let least = lines.partial.len();
        assert!(held.bytes() >= least && held.bytes() <= 2 * MAX_LINE);
        drop(lines);
        assert_eq!(held.bytes(), 0);
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept[..3], ["one", "two", ""]);
        assert_eq!(kept[3].len(), MAX_LINE);
        assert_eq!(kept[4], "xxxxx");
    }
}
