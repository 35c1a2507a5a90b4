//! Fetches `?url=U` in WASI 0.3 and passes the answer on as it comes, with its
//! status. What cannot be fetched is `502` and the name of the error.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Fetch;

impl wasip3::exports::http::handler::Guest for Fetch {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let url = target.split_once("url=").map_or("", |(_, url)| url);
        match fetch(url).await {
            Ok(response) => Ok(pass(response)),
            Err(why) => Ok(text(502, format!("{why}\n"))),
        }
    }
}

wasip3::http::service::export!(Fetch);

async fn fetch(url: &str) -> Result<Response, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no url")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, None);
    let odd = |()| format!("odd url {url}");
    request.set_scheme(Some(&scheme)).map_err(odd)?;
    request.set_authority(Some(authority)).map_err(odd)?;
    request.set_path_with_query(Some(path)).map_err(odd)?;
    client::send(request)
        .await
        .map_err(|error| format!("{error:?}"))
}

/// The answer as our own.
fn pass(response: Response) -> Response {
    let status = response.get_status_code();
    let (verdict, consumed) = wit_future::new(|| Ok(()));
    drop(verdict);
    let (source, trailers) = Response::consume_body(response, consumed);
    let (answer, _sent) = Response::new(Fields::new(), Some(source), trailers);
    answer
        .set_status_code(status)
        .expect("it was a status before");
    answer
}

fn text(status: u16, body: String) -> Response {
    let (mut sink, contents) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
    response
        .set_status_code(status)
        .expect("the status is valid");
    wit_bindgen::spawn(async move {
        sink.write_all(body.into_bytes()).await;
    });
    response
}
