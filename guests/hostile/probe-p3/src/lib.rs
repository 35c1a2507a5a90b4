//! The attack: `probe` by the interfaces of WASI 0.3.
//!
//! The outcome: `ok`, 200, and what it found as JSON. `opened` must be empty,
//! `preopens` too.

use serde_json::json;
use wasip3::cli::environment;
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::filesystem::preopens;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    self, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Probe;

impl wasip3::exports::http::handler::Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let port = target
            .split_once("port=")
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(80);
        let mut opened = Vec::new();
        if connect(port).await.is_ok() {
            opened.push("connect");
        }
        if listen().is_ok() {
            opened.push("listen");
        }
        if udp(port).is_ok() {
            opened.push("udp");
        }
        if resolve_addresses("localhost".to_owned()).await.is_ok() {
            opened.push("resolve");
        }
        let folders: Vec<_> = preopens::get_directories()
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        let environment = environment::get_environment();
        let names: Vec<_> = environment.into_iter().map(|(name, _)| name).collect();
        let found = json!({
            "opened": opened,
            "preopens": folders,
            "environment": names,
            "arguments": environment::get_arguments(),
            "directory": environment::get_initial_cwd(),
            "clocks": {
                "monotonic": monotonic_clock::now(),
                "monotonic_resolution": monotonic_clock::get_resolution(),
                "wall_seconds": system_clock::now().seconds,
            },
        });

        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
        wit_bindgen::spawn(async move {
            body.write_all(found.to_string().into_bytes()).await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Probe);

fn local(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port,
        address: (127, 0, 0, 1),
    })
}

async fn connect(port: u16) -> Result<(), types::ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(local(port)).await
}

fn listen() -> Result<(), types::ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(local(0))?;
    socket.listen().map(drop)
}

fn udp(port: u16) -> Result<(), types::ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(local(0))?;
    socket.connect(local(port))
}
