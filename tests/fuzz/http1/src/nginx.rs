//! The machine behind nginx: what nginx forwards as one request must be heard as
//! that one, by the machine as by nginx's log.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use skep_http1::{Connection, Next, Piece, Settings, Size, Violation};

use crate::CORPUS;
use crate::in_step::mutate::Mutator;

/// Clients at a time.
const CLIENTS: u64 = 4;

/// How long a client waits for what nginx has to say.
const PATIENCE: Duration = Duration::from_secs(5);

/// The field by which nginx says which request it forwards.
const MARK: &str = "x-nginx";

#[derive(Debug, Default)]
struct Seen {
    /// What the machine heard, by nginx's mark.
    heard: HashMap<String, Vec<(String, Vec<u8>)>>,
    /// What nginx cannot have meant.
    faults: Vec<String>,
    /// How often by which reason, and the first such bytes.
    refused: BTreeMap<String, (u64, String)>,
}

type Shared = Arc<Mutex<Seen>>;

/// nginx, with its folder, until dropped.
struct Nginx {
    child: Child,
    folder: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends so many inputs to an nginx (which must be installed) that forwards to
/// the machine, and compares what both understood.
///
/// # Panics
///
/// They differ, or nginx does not run.
pub fn behind(inputs: u64, seed: u64) {
    let seen = Shared::default();
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let upstream = listener.local_addr().expect("it is bound");
    let server = Arc::clone(&seen);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let seen = Arc::clone(&server);
            thread::spawn(move || serve(client, &seen));
        }
    });
    let (mut nginx, address) = start(upstream);
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut mutator = Mutator::new(Path::new(CORPUS), seed * CLIENTS + client);
                for _ in 0..inputs / CLIENTS {
                    mutator.advance();
                    exchange(address, mutator.text());
                }
            });
        }
    });
    let rate = inputs as f64 / begun.elapsed().as_secs_f64();
    println!("{inputs} exchanges of seed {seed}, {rate:.0} a second");
    // It writes its log as it goes.
    let _ = Command::new("kill")
        .args(["-QUIT", &nginx.child.id().to_string()])
        .status();
    let _ = nginx.child.wait();
    let log = fs::read(nginx.folder.join("access.log")).expect("nginx writes a log");
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    judge(&log, &mut seen);
    for (violation, (times, bytes)) in &seen.refused {
        println!("{times:>8} forwarded by nginx and refused: {violation}, first \"{bytes}\"");
    }
    for fault in seen.faults.iter().take(20) {
        println!("FAULT {fault}");
    }
    assert!(seen.faults.is_empty(), "{} faults", seen.faults.len());
    let _ = fs::remove_dir_all(&nginx.folder);
}

/// Compares nginx's log with what was heard.
fn judge(log: &[u8], seen: &mut Seen) {
    let (mut forwarded, mut requests) = (0_u64, 0_u64);
    for line in log
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        requests += 1;
        let mut parts = line.splitn(5, |byte| *byte == b'\t').map(unescaped);
        let mut next = || parts.next().unwrap_or_default();
        let (mark, status, method, target, body) = (next(), next(), next(), next(), next());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (mark, status) = (text(&mark), text(&status));
        if status.is_empty() || status == "-" {
            continue;
        }
        forwarded += 1;
        // A path that is empty is `/` (RFC 9112 §3.2.1).
        let slash = if target.starts_with(b"?") { "/" } else { "" };
        let request = format!("{} {slash}{}", text(&method), text(&target));
        let heard = seen.heard.remove(&mark).unwrap_or_default();
        let body = if body == b"-" { Vec::new() } else { body };
        // nginx forwards an empty query, but not where it adds the path.
        let request = request.strip_suffix('?').unwrap_or(&request);
        let is_same = |(other, bytes): &(String, Vec<u8>)| {
            other.strip_suffix('?').unwrap_or(other) == request && *bytes == body
        };
        match &*heard {
            [one] if is_same(one) => {}
            // Refused, which is counted by its reason.
            [] if status == "400" => {}
            _ => seen.faults.push(format!(
                "nginx forwarded {request:?} with {:?} ({status}), heard {heard:?}",
                text(&body)
            )),
        }
    }
    for (mark, heard) in seen.heard.drain() {
        seen.faults
            .push(format!("nginx knows nothing of {mark}: {heard:?}"));
    }
    println!("{requests} requests read by nginx, {forwarded} forwarded");
}

/// A value of the log, which is escaped as JSON is.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [kind, behind @ ..] = rest else { break };
        rest = behind;
        bytes.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' if rest.len() >= 4 => {
                let digits = std::str::from_utf8(&rest[..4]).unwrap_or("0");
                rest = &rest[4..];
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => *other,
        });
    }
    bytes
}

fn start(upstream: SocketAddr) -> (Nginx, SocketAddr) {
    let folder = std::env::temp_dir().join(format!("skep-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("there is room");
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there is a port");
    let here = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log crit;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
           log_format all escape=json \
             \"$request_id\\t$upstream_status\\t$request_method\\t$request_uri\\t$request_body\";\n\
           access_log {here}/access.log all;\n\
           client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
           fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
           client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s;\n\
           client_body_buffer_size 64k; merge_slashes off;\n\
           upstream machine {{ server {upstream}; keepalive 4; }}\n\
           server {{\n\
             listen {address};\n\
             location / {{\n\
               proxy_pass http://machine; proxy_http_version 1.1;\n\
               proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
               proxy_set_header X-Nginx $request_id;\n\
               proxy_ignore_client_abort on; proxy_next_upstream off;\n\
             }}\n\
           }}\n\
         }}\n"
    );
    fs::write(folder.join("nginx.conf"), config).expect("there is room");
    let child = Command::new("nginx")
        .arg("-c")
        .arg(folder.join("nginx.conf"))
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed");
    let nginx = Nginx { child, folder };
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nginx does not listen");
        thread::yield_now();
    }
    (nginx, address)
}

/// A client that says this, and hears what there is to hear.
fn exchange(address: SocketAddr, bytes: &[u8]) {
    let mut client = TcpStream::connect(address).expect("nginx listens");
    let _ = client.set_read_timeout(Some(PATIENCE));
    // nginx may have closed in the meantime.
    let _ = client.write_all(bytes);
    let _ = client.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut client, &mut std::io::sink());
}

/// Serves nginx.
fn serve(mut client: TcpStream, seen: &Shared) {
    let settings = Settings {
        max_head: 64 << 10,
        max_fields: 100,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
        max_requests: 0,
    };
    let now = Instant::now();
    let mut machine = Connection::new(settings, now);
    let mut input = BytesMut::new();
    let mut out = BytesMut::new();
    let mut read = Vec::new();
    loop {
        read.clear();
        let mut client = Recorded(&mut client, &mut read);
        let answered = match hear(&mut client, &mut machine, &mut input, now) {
            Ok(Some((mark, request, body))) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match &*mark {
                    [mark] => seen
                        .heard
                        .entry(mark.clone())
                        .or_default()
                        .push((request, body)),
                    _ => seen
                        .faults
                        .push(format!("{request:?} {body:?} by {mark:?}")),
                }
                StatusCode::OK
            }
            Ok(None) => return,
            Err(violation) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let of_it = seen.refused.entry(violation.to_string()).or_default();
                of_it.0 += 1;
                if of_it.0 == 1 {
                    of_it.1 = client.1.escape_ascii().to_string();
                }
                machine.drop_body(now);
                StatusCode::BAD_REQUEST
            }
        };
        let head = (answered, &HeaderMap::new());
        machine
            .answer(head, Size::Exact(0), 0, b"today", &mut out)
            .expect("it can be sent");
        machine.finish(None, &mut out, now).expect("all was said");
        if client.0.write_all(&out).is_err() || machine.next(&input, now) != Next::Again {
            return;
        }
        out.clear();
    }
}

type Heard = (Vec<String>, String, Vec<u8>);

/// The next request; `None` if there is none.
fn hear(
    client: &mut Recorded<'_>,
    machine: &mut Connection,
    input: &mut BytesMut,
    now: Instant,
) -> Result<Option<Heard>, Violation> {
    let head = loop {
        match machine.head(input, now)? {
            Some(head) => break head,
            None if read(client, input) => {}
            None => return Ok(None),
        }
    };
    let request = head.request;
    let marks = request.headers().get_all(MARK).iter();
    let marks = marks
        .map(|mark| mark.to_str().unwrap_or_default().to_owned())
        .collect();
    // Not as it was parsed: as it came.
    let line = head
        .raw
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let line = line
        .rsplit_once(' ')
        .map_or("", |(line, _)| line)
        .to_owned();
    let mut body = Vec::new();
    while !machine.has_whole_body() {
        match machine.body(input)? {
            Some(Piece::Bytes(bytes)) => body.extend_from_slice(&bytes),
            Some(Piece::End(_)) => break,
            None if read(client, input) => {}
            None => return Ok(None),
        }
    }
    Ok(Some((marks, line, body)))
}

/// A client, and what it said of the newest request.
struct Recorded<'a>(&'a mut TcpStream, &'a mut Vec<u8>);

fn read(client: &mut Recorded<'_>, input: &mut BytesMut) -> bool {
    let mut bytes = [0; 8192];
    match client.0.read(&mut bytes) {
        Ok(some) if some > 0 => {
            client.1.extend_from_slice(&bytes[..some]);
            input.extend_from_slice(&bytes[..some]);
            true
        }
        _ => false,
    }
}
