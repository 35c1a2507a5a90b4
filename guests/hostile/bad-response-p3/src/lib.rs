//! The attack: `bad-response` in WASI 0.3, whose bodies take another way
//! through the host.
//!
//! | path | the response | the outcome |
//! |---|---|---|
//! | `/split` | a header value with a line break and a header of its own | refused by the host, seen by the guest: `trap`, 500 |
//! | `/transfer-encoding` | a `transfer-encoding` of the guest's choice | the same |
//! | `/status/99` | no status | the same |
//! | `/status/1NN` | an interim status as the final one, 101 among them | `trap`, 500 |
//! | `/short` | fewer bytes than `content-length` says | cut off, the connection closed |
//! | `/long` | more bytes than `content-length` says | the connection is closed, at the latest after what was announced |
//! | `/two-lengths` | two different `content-length`s | never both sent: 500, or closed |
//! | `/not-a-length` | a `content-length` that is no number | never sent: 500, or closed |
//! | `/error` | no trailers but an error at the end of the body | cut off, the connection closed |

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct BadResponse;

impl wasip3::exports::http::handler::Guest for BadResponse {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        Ok(match path.as_str() {
            "/split" => respond(200, &[("x-split", "a\r\nset-cookie: b=c")], "ok", true),
            "/transfer-encoding" => respond(
                200,
                &[("transfer-encoding", "chunked")],
                "2\r\nok\r\n",
                true,
            ),
            "/short" => respond(200, &[("content-length", "10")], "short", true),
            "/long" => respond(200, &[("content-length", "2")], "long", true),
            "/two-lengths" => {
                let lengths = [("content-length", "2"), ("content-length", "4")];
                respond(200, &lengths, "four", true)
            }
            "/not-a-length" => respond(200, &[("content-length", "two")], "ok", true),
            "/error" => respond(200, &[], "not all of it", false),
            other => match other.rsplit_once('/') {
                Some(("/status", status)) => {
                    let status = status.parse().expect("a status is a number");
                    respond(status, &[], "ok", true)
                }
                _ => respond(200, &[], "a good response\n", true),
            },
        })
    }
}

wasip3::http::service::export!(BadResponse);

/// Sends what it is given, and panics where the host tells that it is wrong.
fn respond(status: u16, headers: &[(&str, &str)], content: &'static str, good: bool) -> Response {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let headers = Fields::from_list(&headers).expect("the host refuses the headers");
    let (mut body, contents) = wit_stream::new();
    let (trailers, end) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), end);
    response
        .set_status_code(status)
        .expect("the host refuses the status");
    wit_bindgen::spawn(async move {
        body.write_all(content.as_bytes().to_vec()).await;
        drop(body);
        if !good {
            // Whether the host still wants to know is all the same.
            let _ = trailers.write(Err(ErrorCode::InternalError(None))).await;
        }
    });
    response
}
