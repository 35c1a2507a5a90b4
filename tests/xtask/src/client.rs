//! A client that sends one request at a time and reads the whole answer, so that
//! what a server does for it is the same each time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(120);

/// A connection with one exchange at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Sends a request and reads the whole answer; gives its status.
    ///
    /// # Errors
    ///
    /// The server has gone, or answers without a length.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request)?;
        read(&mut self.stream, &mut self.buffer)
    }

    /// Whether the server has closed its side.
    fn is_at_end(&mut self) -> Result<bool> {
        Ok(self.stream.read(&mut self.buffer)? == 0)
    }
}

/// A request and the answer that it gets.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) head: &'static str,
    /// Bytes of its body.
    pub(crate) body: usize,
    pub(crate) status: u16,
    /// Each on a connection of its own.
    pub(crate) alone: bool,
}

/// Asks so many times.
///
/// # Errors
///
/// The worker cannot be reached or answers something else.
pub(crate) fn ask(address: SocketAddr, ask: &Ask, times: u32) -> Result<()> {
    let request = ask.request();
    let mut kept: Option<Connection> = None;
    for _ in 0..times {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address)?,
        };
        let status = connection.exchange(&request)?;
        ensure!(
            status == ask.status,
            "{} instead of {} to {}",
            status,
            ask.status,
            ask.head
        );
        if ask.alone {
            // The worker closes first: the client's port is free again.
            ensure!(connection.is_at_end()?, "more than was asked for");
        } else {
            kept = Some(connection);
        }
    }
    Ok(())
}

impl Ask {
    fn request(&self) -> Vec<u8> {
        let close = if self.alone {
            "Connection: close\r\n"
        } else {
            ""
        };
        let length = match self.body {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let mut request = format!(
            "{}\r\nHost: localhost:8080\r\nUser-Agent: xtask\r\nAccept: */*\r\n{close}{length}\r\n",
            self.head
        )
        .into_bytes();
        request.resize(request.len() + self.body, b'x');
        request
    }
}

/// Reads one answer; gives its status.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<u16> {
    let mut head = Vec::new();
    let end = loop {
        let read = stream.read(buffer)?;
        ensure!(read > 0, "the server has closed the connection");
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    let status = text.get(9..12).context("a status")?.parse()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let here = head.len() - end;
    if let Some(length) = field("content-length: ") {
        let mut left = length.trim().parse::<usize>()? - here;
        while left > 0 {
            let most = left.min(buffer.len());
            let read = stream.read(&mut buffer[..most])?;
            ensure!(read > 0, "the answer breaks off");
            left -= read;
        }
    } else if field("transfer-encoding: chunked").is_some() {
        let mut tail = head[end..].to_vec();
        while !tail.ends_with(b"0\r\n\r\n") {
            let read = stream.read(buffer)?;
            ensure!(read > 0, "the answer breaks off");
            tail.extend_from_slice(&buffer[..read]);
            tail.drain(..tail.len().saturating_sub(5));
        }
    } else {
        bail!("an answer without a length: {text}");
    }
    Ok(status)
}
