//! A DNS server that says what a test wants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// What it answers for one name.
pub(crate) enum Says {
    /// These addresses.
    Always(Vec<IpAddr>),
    /// One of these after the other, and the last one from then on.
    InTurn(Vec<Vec<IpAddr>>),
    /// Nothing at all.
    Silence,
}

#[derive(Default)]
struct Zone {
    names: HashMap<String, Says>,
    /// Questions for IPv4 addresses, in order.
    asked: Vec<String>,
}

/// A server on a port of its own.
#[derive(Clone)]
pub(crate) struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    /// Starts it. It ends with the test's process.
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = Self {
            address: socket.local_addr().unwrap(),
            zone: Arc::default(),
        };
        let zone = Arc::clone(&dns.zone);
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut question).unwrap();
                if let Some(answer) = answer(&question[..length], &mut zone.lock().unwrap()) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        dns
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn say(&self, name: &str, says: Says) {
        self.zone.lock().unwrap().names.insert(name.into(), says);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.zone.lock().unwrap().asked.clone()
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;

/// The answer to one question, if there is to be one.
fn answer(message: &[u8], zone: &mut Zone) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let question = &message[12..at + 5];
    let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    let name = labels.join(".");
    if kind == A {
        zone.asked.push(name.clone());
    }
    let addresses = match zone.names.get_mut(&name) {
        None => None,
        Some(Says::Silence) => return None,
        Some(Says::Always(addresses)) => Some(addresses.clone()),
        Some(Says::InTurn(turns)) => Some(if kind == A && turns.len() > 1 {
            turns.remove(0)
        } else {
            turns[0].clone()
        }),
    };
    let known = addresses.is_some();
    let records: Vec<Vec<u8>> = addresses
        .into_iter()
        .flatten()
        .filter_map(|address| match (kind, address) {
            (A, IpAddr::V4(address)) => Some(address.octets().to_vec()),
            (AAAA, IpAddr::V6(address)) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    // The same number; a response, recursion available, NXDOMAIN if unknown.
    let mut answer = vec![
        message[0],
        message[1],
        0x81,
        if known { 0x80 } else { 0x83 },
    ];
    answer.extend([0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(question);
    for record in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        // Class, and a minute to live: whoever keeps answers is found out.
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        answer.extend(record);
    }
    Some(answer)
}
