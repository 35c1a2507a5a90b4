//! The server name that a TLS client asks for.

use rustls::server::Acceptor;

use super::Heard;

/// The type of the records in which a handshake comes. No request of HTTP
/// begins with it.
pub(super) const HANDSHAKE: u8 = 0x16;

pub(super) fn hear(mut bytes: &[u8]) -> Heard {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        // From memory; it fails only when its own buffer is full.
        match acceptor.read_tls(&mut bytes) {
            Ok(0) | Err(_) => return Heard::Bad,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Heard::Host(name);
            }
            Err(_) => return Heard::Bad,
        }
    }
    Heard::NeedMore
}
