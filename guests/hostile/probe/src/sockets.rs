//! What `wasi:sockets` gives.

use serde_json::{Value, json};
use skep_guest::wasip2::sockets::instance_network::instance_network;
use skep_guest::wasip2::sockets::ip_name_lookup::resolve_addresses;
use skep_guest::wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use skep_guest::wasip2::sockets::tcp_create_socket::create_tcp_socket;
use skep_guest::wasip2::sockets::udp_create_socket::create_udp_socket;

/// Tries each kind of socket, and says how each ended.
pub fn probe(port: u16, opened: &mut Vec<String>) -> Value {
    let mut note = |what: &str, result: Result<(), ErrorCode>| match result {
        Ok(()) => {
            opened.push(what.to_owned());
            "open".to_owned()
        }
        Err(code) => code.name().to_owned(),
    };
    json!({
        "connect": note("connect", connect(port)),
        "listen": note("listen", listen()),
        "udp": note("udp", udp(port)),
        "resolve": note("resolve", resolve()),
    })
}

fn local(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port,
        address: (127, 0, 0, 1),
    })
}

fn connect(port: u16) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), local(port))?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn listen() -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), local(0))?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.subscribe().block();
    socket.finish_listen()
}

fn udp(port: u16) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), local(0))?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.stream(Some(local(port))).map(drop)
}

fn resolve() -> Result<(), ErrorCode> {
    let addresses = resolve_addresses(&instance_network(), "localhost")?;
    addresses.subscribe().block();
    addresses.resolve_next_address().map(drop)
}
