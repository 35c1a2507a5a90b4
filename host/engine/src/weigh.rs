//! What the host holds for a guest besides its memories: an estimate from
//! above, made whenever the guest meets a tick, so that nothing can be gathered
//! for longer than a slice without being counted.
//!
//! An estimate, because wasmtime's resources do not say what they hold. It takes
//! microseconds for the dozen resources of an ordinary handler; the number of
//! resources is bounded, and so is the look at each.

use std::any::Any;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};

use crate::stdio::MAX_LINE;

/// Bytes of one set of header fields that a guest may build: four times what a
/// client may send.
pub(crate) const MAX_FIELDS: usize = 128 << 10;

/// Bytes that a guest writes to a body at a time. One such piece, and another one
/// on its way, is what the host keeps of it.
pub(crate) const BODY_CHUNK: usize = 64 << 10;

/// Bytes of any resource: its entry in the table, its box, its handle.
const ENTRY: usize = 256;

/// Header fields that are looked at one by one; a larger set counts as full.
const COUNTED_FIELDS: usize = 16;

/// Bytes of a header field besides its text.
const FIELD: usize = 128;

/// Bytes that the host holds at most for the resources of `table`.
pub(crate) fn held(table: &mut ResourceTable) -> usize {
    table.iter_mut().map(|entry| ENTRY + held_by(entry)).sum()
}

fn held_by(entry: &dyn Any) -> usize {
    if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        held_by_fields(fields)
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        held_by_fields(&response.headers) + 2 * BODY_CHUNK
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        held_by_fields(&request.headers) + 2 * BODY_CHUNK
    } else if entry.is::<HostOutgoingBody>() {
        2 * BODY_CHUNK
    } else if entry.is::<DynOutputStream>() {
        MAX_LINE
    } else {
        0
    }
}

fn held_by_fields(fields: &FieldMap) -> usize {
    if fields.len() > COUNTED_FIELDS {
        return MAX_FIELDS;
    }
    let text = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    text.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_weigh_what_is_in_them_and_many_weigh_most() {
        let mut fields = http::HeaderMap::new();
        let weight = |fields: &http::HeaderMap| {
            let mut table = ResourceTable::new();
            let mut hooks = NoHooks;
            table
                .push(FieldMap::new_immutable(&mut hooks, fields.clone()))
                .unwrap();
            held(&mut table)
        };
        assert_eq!(weight(&fields), ENTRY);
        fields.insert("a", http::HeaderValue::from_bytes(&[b'x'; 60_000]).unwrap());
        assert!((60_000..61_000).contains(&weight(&fields)));
        for _ in 0..COUNTED_FIELDS {
            fields.append("b", http::HeaderValue::from_static("y"));
        }
        assert_eq!(weight(&fields), ENTRY + MAX_FIELDS);
    }

    struct NoHooks;

    impl wasmtime_wasi_http::WasiHttpHooks for NoHooks {
        fn send_request(
            &mut self,
            _: http::Request<wasmtime_wasi_http::WasiBody>,
            _: Option<wasmtime_wasi_http::RequestOptions>,
            _: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
        ) -> Box<
            dyn Future<
                    Output = Result<
                        (
                            http::Response<wasmtime_wasi_http::WasiBody>,
                            Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
                        ),
                        wasmtime_wasi_http::Error,
                    >,
                > + Send,
        > {
            unreachable!("no request is made")
        }
    }
}
