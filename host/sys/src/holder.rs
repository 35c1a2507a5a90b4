//! Who holds an address that we wanted.
//!
//! Responsible for a hint in an error message, nothing more: best effort, from
//! `/proc`, within a bound. Other users' processes are not seen without
//! privilege.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// An operator waits for this message, and `/proc` of a machine with tens of
/// thousands of processes takes a second to read.
const SEARCH_TIME: Duration = Duration::from_millis(500);

/// `TCP_LISTEN` as `/proc/net/tcp` writes it.
const LISTENING: &str = "0A";

/// A process that listens on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its short name.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// The process that listens where `address` could not be bound.
pub(crate) fn of_tcp(address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address))
        .collect();
    of_inodes(&inodes)
}

/// The process that has a socket bound to `path`.
pub(crate) fn of_unix(path: &Path) -> Option<Holder> {
    let table = fs::read("/proc/net/unix").ok()?;
    let wanted = path.as_os_str().as_bytes();
    let inodes: Vec<u64> = table
        .split(|byte| *byte == b'\n')
        .filter(|line| {
            line.strip_suffix(wanted)
                .is_some_and(|rest| rest.ends_with(b" "))
        })
        .filter_map(|line| {
            let line = String::from_utf8_lossy(line);
            line.split_ascii_whitespace().nth(6)?.parse().ok()
        })
        .collect();
    of_inodes(&inodes)
}

/// Inodes of the listening sockets of one table that collide with `address`.
fn listening_inodes(table: &str, address: SocketAddr) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let (ip, port) = local.split_once(':')?;
            let collides = *state == LISTENING
                && u16::from_str_radix(port, 16).ok()? == address.port()
                && overlap(parse_ip(ip)?, address.ip());
            if collides { inode.parse().ok() } else { None }
        })
        .collect()
}

fn overlap(held: IpAddr, wanted: IpAddr) -> bool {
    held == wanted || held.is_unspecified() || wanted.is_unspecified()
}

/// The tables print addresses as 32-bit words in the machine's byte order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn of_inodes(inodes: &[u64]) -> Option<Holder> {
    if inodes.is_empty() {
        return None;
    }
    let targets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let start = Instant::now();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        if start.elapsed() > SEARCH_TIME {
            return None;
        }
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| {
                targets
                    .iter()
                    .any(|target| link.as_os_str() == target.as_str())
            })
        });
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(Holder {
                pid,
                command: command.trim_end().to_owned(),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_both_families_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
                  1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        if cfg!(target_endian = "little") {
            let at = |text: &str| listening_inodes(v4, text.parse().unwrap());
            assert_eq!(at("127.0.0.1:8080"), [4711]);
            assert_eq!(at("0.0.0.0:8080"), [4711]);
            assert_eq!(at("127.0.0.2:8080"), [0; 0]);
            assert_eq!(at("127.0.0.1:8081"), [0; 0]);
            assert_eq!(
                parse_ip("00000000000000000000000001000000"),
                Some(Ipv6Addr::LOCALHOST.into())
            );
        }
        assert_eq!(parse_ip("zz"), None);
        assert!(listening_inodes("head\nshort line\n", "127.0.0.1:1".parse().unwrap()).is_empty());
    }
}
