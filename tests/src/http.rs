//! A strict HTTP/1 client on plain sockets: what it sends is what the test
//! wrote, and what it gets it believes only if it is well-formed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub use crate::address::{Address, Failed, Head, Response};
use crate::peer;

/// How long a client waits for bytes before it calls the server hung.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How the body of the response that is being read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    Done,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    buffer: Vec<u8>,
    framing: Framing,
    trailers: Vec<(String, String)>,
    /// Whether a byte of the current response was seen.
    begun: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Failed::Refused`] and what else connecting may give.
    pub fn connect(address: &Address) -> Result<Self, Failed> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let client = Self {
            stream,
            buffer: Vec::new(),
            framing: Framing::Done,
            trailers: Vec::new(),
            begun: false,
        };
        client.patience(PATIENCE)?;
        Ok(client)
    }

    /// Connects from another address of this machine: another client.
    ///
    /// # Errors
    ///
    /// Those of [`Self::connect`].
    pub fn connect_from(address: &Address, from: Ipv4Addr) -> Result<Self, Failed> {
        let stream = Stream::Tcp(peer::connect(address, from)?);
        let client = Self {
            stream,
            buffer: Vec::new(),
            framing: Framing::Done,
            trailers: Vec::new(),
            begun: false,
        };
        client.patience(PATIENCE)?;
        Ok(client)
    }

    /// Changes how long it waits for bytes.
    ///
    /// # Errors
    ///
    /// None that a test can cause.
    pub fn patience(&self, patience: Duration) -> Result<(), Failed> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(patience))?,
            Stream::Unix(stream) => stream.set_read_timeout(Some(patience))?,
        }
        match &self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(patience))?,
            Stream::Unix(stream) => stream.set_write_timeout(Some(patience))?,
        }
        Ok(())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failed> {
        self.stream.write_all(bytes.as_ref())?;
        Ok(())
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn finish_sending(&mut self) -> Result<(), Failed> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// A second handle that can only send, for writing while reading.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn sender(&self) -> Result<impl Write + Send + 'static, Failed> {
        Ok(match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    /// A request without a body, and its response.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn get(&mut self, target: &str) -> Result<Response, Failed> {
        self.send(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"))?;
        self.response()
    }

    /// A request with a body of known length, and its response.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn post(&mut self, target: &str, body: &[u8]) -> Result<Response, Failed> {
        let length = body.len();
        self.send(format!(
            "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        ))?;
        self.send(body)?;
        self.response()
    }

    /// The next response to anything but `HEAD`, whole; interim ones are
    /// passed over.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn response(&mut self) -> Result<Response, Failed> {
        let head = loop {
            let head = self.head()?;
            if head.status >= 200 {
                break head;
            }
        };
        let mut body = Vec::new();
        loop {
            match self.piece() {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => body.extend(piece),
                Err(Failed::Short(_) | Failed::Reset | Failed::Closed) => {
                    return Err(Failed::Short(body));
                }
                Err(other) => return Err(other),
            }
        }
        let trailers = std::mem::take(&mut self.trailers);
        Ok(Response {
            head,
            body,
            trailers,
        })
    }

    /// The head of the next response, an interim one maybe. Its body is to be
    /// read with [`Self::piece`] before the next head.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn head(&mut self) -> Result<Head, Failed> {
        self.begun = !self.buffer.is_empty();
        let text = self.until(b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let malformed = || Failed::Malformed(text.clone());
        let mut lines = text.split("\r\n");
        let status_line = lines.next().ok_or_else(malformed)?;
        let mut words = status_line.splitn(3, ' ');
        let version = words.next().ok_or_else(malformed)?;
        if version != "HTTP/1.1" && version != "HTTP/1.0" {
            return Err(malformed());
        }
        let status = words
            .next()
            .filter(|status| status.len() == 3)
            .and_then(|status| status.parse().ok())
            .ok_or_else(malformed)?;
        let head = Head {
            status,
            headers: fields(lines).ok_or_else(malformed)?,
        };
        self.framing = framing_of(&head).ok_or_else(malformed)?;
        Ok(head)
    }

    /// The response to `HEAD`: a head that may speak of a body that does not
    /// come.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn head_only(&mut self) -> Result<Head, Failed> {
        let head = self.head()?;
        self.framing = Framing::Done;
        Ok(head)
    }

    /// The next piece of the body as it arrives; empty at its end.
    ///
    /// # Errors
    ///
    /// [`Failed::Short`] if the end was cut off.
    pub fn piece(&mut self) -> Result<Vec<u8>, Failed> {
        match self.framing {
            Framing::Done | Framing::Length(0) => {
                self.framing = Framing::Done;
                Ok(Vec::new())
            }
            Framing::Length(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let piece = self.up_to(most)?;
                self.framing = Framing::Length(left - piece.len() as u64);
                Ok(piece)
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && self.fill()? == 0 {
                    self.framing = Framing::Done;
                }
                Ok(std::mem::take(&mut self.buffer))
            }
            Framing::Chunked => self.chunk(),
        }
    }

    fn chunk(&mut self) -> Result<Vec<u8>, Failed> {
        let line = self.until(b"\r\n")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let size = usize::from_str_radix(line.trim_end_matches("\r\n"), 16)
            .map_err(|_| Failed::Malformed(format!("chunk size {line:?}")))?;
        if size == 0 {
            let mut trailers = Vec::new();
            loop {
                let line = self.until(b"\r\n")?;
                if line == b"\r\n" {
                    break;
                }
                let line = String::from_utf8_lossy(&line).into_owned();
                trailers.extend(
                    fields(line.split("\r\n")).ok_or_else(|| Failed::Malformed(line.clone()))?,
                );
            }
            self.trailers = trailers;
            self.framing = Framing::Done;
            return Ok(Vec::new());
        }
        while self.buffer.len() < size + 2 {
            if self.fill()? == 0 {
                return Err(Failed::Short(Vec::new()));
            }
        }
        let mut piece: Vec<u8> = self.buffer.drain(..size + 2).collect();
        if !piece.ends_with(b"\r\n") {
            return Err(Failed::Malformed("a chunk without its line break".into()));
        }
        piece.truncate(size);
        Ok(piece)
    }

    /// Whether the server closes without another byte.
    ///
    /// # Errors
    ///
    /// [`Failed::TimedOut`] if it does nothing.
    pub fn is_closed(&mut self) -> Result<bool, Failed> {
        if !self.buffer.is_empty() {
            return Ok(false);
        }
        match self.read_some() {
            Ok(read) => Ok(read == 0),
            Err(Failed::Reset) => Ok(true),
            Err(other) => Err(other),
        }
    }

    /// Everything until the server closes, as it is.
    ///
    /// # Errors
    ///
    /// [`Failed::TimedOut`] if it never does.
    pub fn rest(&mut self) -> Result<Vec<u8>, Failed> {
        loop {
            match self.read_some() {
                Ok(0) | Err(Failed::Reset) => return Ok(std::mem::take(&mut self.buffer)),
                Ok(_) => {}
                Err(other) => return Err(other),
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut from = 0;
        loop {
            let found = self.buffer[from..]
                .windows(end.len())
                .position(|at| at == end);
            if let Some(at) = found {
                return Ok(self.buffer.drain(..from + at + end.len()).collect());
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            if self.fill()? == 0 {
                return Err(if self.begun {
                    Failed::Short(Vec::new())
                } else {
                    Failed::Closed
                });
            }
        }
    }

    fn up_to(&mut self, most: usize) -> Result<Vec<u8>, Failed> {
        if self.buffer.is_empty() && self.fill()? == 0 {
            return Err(Failed::Short(Vec::new()));
        }
        let used = most.min(self.buffer.len());
        Ok(self.buffer.drain(..used).collect())
    }

    fn fill(&mut self) -> Result<usize, Failed> {
        let read = self.read_some();
        match read {
            Ok(read) => {
                self.begun |= read > 0;
                Ok(read)
            }
            Err(Failed::Reset) if self.begun => Err(Failed::Short(Vec::new())),
            Err(other) => Err(other),
        }
    }

    fn read_some(&mut self) -> Result<usize, Failed> {
        let mut piece = [0; 64 << 10];
        let read = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<(String, String)>> {
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let plain = !name.is_empty() && !name.contains([' ', '\t', '\r', '\n']);
            plain.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// `None` for framing with two readings, which must never be sent.
fn framing_of(head: &Head) -> Option<Framing> {
    if head.status < 200 || head.status == 204 || head.status == 304 {
        return Some(Framing::Done);
    }
    let lengths: Vec<_> = head
        .headers
        .iter()
        .filter(|(name, _)| name == "content-length")
        .map(|(_, value)| value)
        .collect();
    match (head.header("transfer-encoding"), lengths.as_slice()) {
        (Some("chunked"), []) => Some(Framing::Chunked),
        (None, [length]) => length.parse().ok().map(Framing::Length),
        (None, []) => Some(Framing::UntilClose),
        _ => None,
    }
}
