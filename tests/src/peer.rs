//! Where clients come from: all of 127.0.0.0/8 is this machine, so that a test
//! can be several clients.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::http::Address;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection from one of this machine's addresses.
pub(crate) fn connect(address: &Address, from: Ipv4Addr) -> io::Result<TcpStream> {
    let Address::Tcp(address) = address else {
        return Err(io::Error::other("only TCP has addresses"));
    };
    if from.is_loopback() && from != Ipv4Addr::LOCALHOST {
        return bound(*address, from);
    }
    let stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The standard library has no way to choose the address to come from.
fn bound(address: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        tokio::time::timeout(PATIENCE, socket.connect(address)).await?
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
