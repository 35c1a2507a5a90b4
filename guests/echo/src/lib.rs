//! Reflects requests, and answers what tests of a host ask about it.
//!
//! | request | answer |
//! |---|---|
//! | `/info` | JSON: method, `path_with_query`, scheme, authority, headers, env, args, identity |
//! | `/upload` | JSON: how many bytes the body had, and its trailers |
//! | `/download?bytes=N` | N bytes |
//! | `/trailers` | a body, then two trailers |
//! | `/status/NNN` | that status |
//! | `/headers?count=N` | N headers of its own (64 by default), two of them of one name |
//! | `/log` | a line on stdout and one on stderr; `?text=T` chooses it |
//! | `/slow?ms=N` | answers after N milliseconds |
//! | `/counter` | how many requests this instance has answered, this one included |
//! | `/pid` | the id of the worker (`SKEP_WORKER`) |
//! | anything else | the request body, unchanged, as it arrives |

mod json;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Headers, Identity, Request, Response};

use json::Json;

skep_guest::handler!(handle);

/// Kept for as long as the instance is: 1 on every request where instances
/// are fresh.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

fn handle(request: Request) -> Response {
    let answered = ANSWERED.fetch_add(1, Ordering::Relaxed) + 1;
    match request.path() {
        "/info" => info(&request),
        "/upload" => upload(request),
        "/download" => download(&request),
        "/trailers" => trailers(),
        "/headers" => headers(&request),
        "/log" => log(&request),
        "/slow" => slow(&request),
        "/counter" => Response::text(format!("{answered}\n")),
        "/pid" => match Identity::current() {
            Some(identity) => Response::text(format!("{}\n", identity.worker)),
            None => Response::text("no worker\n"),
        },
        path => match path.strip_prefix("/status/") {
            Some(status) => status_of(status),
            None => reflect(request),
        },
    }
}

fn reflect(request: Request) -> Response {
    let mut headers = Headers::new();
    if let Some(content_type) = request.headers().get("content-type") {
        headers.append("content-type", content_type);
    }
    let mut body = request.into_body();
    Response::stream(200, headers, move |writer| {
        io::copy(&mut body, writer).map(drop)
    })
}

fn info(request: &Request) -> Response {
    let headers = request.headers();
    let headers = headers.iter().map(|(name, value)| {
        Json::array([
            Json::string(name),
            Json::string(&String::from_utf8_lossy(value)),
        ])
    });
    let env = std::env::vars().map(|(name, value)| (name, Json::string(&value)));
    let identity = Identity::current().map_or_else(Json::null, |identity| {
        Json::object([
            ("app", Json::string(&identity.app)),
            ("revision", Json::string(&identity.revision)),
            ("pool", Json::string(&identity.pool)),
            ("worker", Json::string(&identity.worker)),
            ("worker_slot", Json::number(u64::from(identity.worker_slot))),
        ])
    });
    json_response(&Json::object([
        ("method", Json::string(request.method())),
        ("path_with_query", Json::string(request.path_with_query())),
        ("scheme", Json::optional_string(request.scheme())),
        ("authority", Json::optional_string(request.authority())),
        ("headers", Json::array(headers)),
        ("env", Json::object(env)),
        (
            "args",
            Json::array(std::env::args().map(|arg| Json::string(&arg))),
        ),
        ("identity", identity),
    ]))
}

fn upload(request: Request) -> Response {
    let mut body = request.into_body();
    let received = count(&mut body).and_then(|bytes| Ok((bytes, body.finish()?)));
    match received {
        Ok((bytes, trailers)) => {
            let trailers = trailers.iter().map(|(name, value)| {
                (
                    name.to_owned(),
                    Json::string(&String::from_utf8_lossy(value)),
                )
            });
            json_response(&Json::object([
                ("bytes", Json::number(bytes)),
                ("trailers", Json::object(trailers)),
            ]))
        }
        Err(error) => bad_request(&format!("the body broke off: {error}")),
    }
}

/// Counts what `body` holds with a buffer large enough that the number of
/// host calls does not show in a large upload's time.
fn count(body: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn download(request: &Request) -> Response {
    let Ok(bytes) = number(request, "bytes", 0) else {
        return bad_request("bytes is not a number");
    };
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        ("content-length", bytes.to_string()),
    ];
    Response::stream(200, headers, move |writer| {
        io::copy(&mut Letters::default().take(bytes), writer).map(drop)
    })
}

/// The alphabet over and over: cheap to make, and a shifted, repeated or
/// missing piece shows.
#[derive(Default)]
struct Letters {
    next: u8,
}

impl Read for Letters {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            *byte = b'a' + self.next;
            self.next = (self.next + 1) % 26;
        }
        Ok(buffer.len())
    }
}

fn trailers() -> Response {
    let headers = [
        ("content-type", "text/plain"),
        ("trailer", "x-checksum, x-count"),
    ];
    Response::stream(200, headers, |writer| {
        writer.write_all(b"body before trailers\n")?;
        writer.set_trailers([("x-checksum", "c0ffee"), ("x-count", "21")]);
        Ok(())
    })
}

fn headers(request: &Request) -> Response {
    let Ok(count) = number(request, "count", 64) else {
        return bad_request("count is not a number");
    };
    let mut response = Response::text("many headers\n")
        .with_header("x-twice", "first")
        .with_header("x-twice", "second");
    for index in 2..count {
        response = response.with_header(format!("x-header-{index}"), index.to_string());
    }
    response
}

fn log(request: &Request) -> Response {
    let text = request.query_value("text").unwrap_or("logged");
    println!("stdout: {text}");
    eprintln!("stderr: {text}");
    Response::text("logged\n")
}

fn slow(request: &Request) -> Response {
    let Ok(milliseconds) = number(request, "ms", 0) else {
        return bad_request("ms is not a number");
    };
    let nanoseconds = milliseconds.saturating_mul(1_000_000);
    monotonic_clock::subscribe_duration(nanoseconds).block();
    Response::text(format!("waited {milliseconds} ms\n"))
}

fn status_of(status: &str) -> Response {
    match status.parse() {
        Ok(status @ (204 | 304)) => Response::new(status),
        Ok(status @ 200..=599) => Response::new(status)
            .with_header("content-type", "text/plain")
            .with_body(format!("{status}\n")),
        _ => bad_request("not a status"),
    }
}

/// The number under `name` in the query, or `default` where there is none.
fn number(request: &Request, name: &str, default: u64) -> Result<u64, std::num::ParseIntError> {
    request.query_value(name).map_or(Ok(default), str::parse)
}

fn json_response(body: &Json) -> Response {
    Response::new(200)
        .with_header("content-type", "application/json")
        .with_body(format!("{body}\n"))
}

fn bad_request(reason: &str) -> Response {
    Response::new(400)
        .with_header("content-type", "text/plain")
        .with_body(format!("{reason}\n"))
}
