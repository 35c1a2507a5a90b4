//! The attack: `outbound-forbidden` in WASI 0.3, whose requests take another
//! way through the host.
//!
//! The outcome: the same.

use outbound_targets::{Pieces, chosen, name};
use serde_json::{Value, json};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Forbidden;

impl wasip3::exports::http::handler::Guest for Forbidden {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let text = read(request).await;
        let mut tried = Vec::new();
        for url in chosen(&text) {
            tried.push(match get(&url).await {
                Ok(status) => json!({"url": url, "status": status}),
                Err(error) => json!({"url": url, "error": error}),
            });
        }
        let report = Value::from(tried).to_string();

        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
        wit_bindgen::spawn(async move {
            body.write_all(report.into_bytes()).await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Forbidden);

/// The request's body, as text.
async fn read(request: Request) -> String {
    let (verdict, consumed) = wit_future::new(|| Ok(()));
    drop(verdict);
    let (mut source, _trailers) = Request::consume_body(request, consumed);
    let mut text = Vec::new();
    loop {
        let (result, chunk) = source.read(Vec::with_capacity(4096)).await;
        text.extend(chunk);
        if !matches!(result, StreamResult::Complete(_)) {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
}

/// The status that a `GET` was answered with, or what it was refused with.
async fn get(url: &str) -> Result<u16, String> {
    let pieces = Pieces::of(url);
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, None);
    let scheme = match pieces.scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let refused = |piece: &str| format!("invalid-{piece}");
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| refused("scheme"))?;
    request
        .set_authority(Some(pieces.authority))
        .map_err(|()| refused("authority"))?;
    request
        .set_path_with_query(Some(pieces.path))
        .map_err(|()| refused("path"))?;
    let response = client::send(request).await.map_err(|code| name(&code))?;
    Ok(response.get_status_code())
}
