//! The attack: traps in WASI 0.3, where other requests may be in flight in the
//! same instance.
//!
//! | path | when | the outcome |
//! |---|---|---|
//! | `/` | before the response | `trap`, 500 |
//! | `/late` | in a task of its own, after a part of the body | `trap`, cut off, the connection closed |
//! | `/task` | in a task of its own, before the body begins | `trap`, 500 or cut off |
//! | `/calm` | never, after 200 ms | `ok`, 200, unless it shares the instance of one that traps |

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

const CALM: u64 = 200_000_000;

struct Trap;

impl wasip3::exports::http::handler::Guest for Trap {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        if path == "/" {
            core::arch::wasm32::unreachable();
        }
        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
        wit_bindgen::spawn(async move {
            match path.as_str() {
                "/calm" => monotonic_clock::wait_for(CALM).await,
                "/late" => {
                    body.write_all(b"a part of it, and then".to_vec()).await;
                    core::arch::wasm32::unreachable();
                }
                _ => core::arch::wasm32::unreachable(),
            }
            body.write_all(b"calm\n".to_vec()).await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Trap);
