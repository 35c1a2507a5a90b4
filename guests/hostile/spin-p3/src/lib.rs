//! The attack: `spin` in WASI 0.3: a loop without end and without host calls,
//! while other requests may be in flight in the same instance. Under `/late`
//! it begins after the response was returned, in a task of its own.
//!
//! The outcome: `cpu-budget`, 504 (`/late`: cut off, the connection closed).

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Spin;

impl wasip3::exports::http::handler::Guest for Spin {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        if request.get_path_with_query().as_deref() != Some("/late") {
            spin();
        }
        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
        wit_bindgen::spawn(async move {
            body.write_all(b"and now".to_vec()).await;
            spin();
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Spin);

fn spin() -> ! {
    let mut turns: u64 = 0;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}
