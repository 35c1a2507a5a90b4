"""Answers "Hello from Python!", and reflects what is posted to /echo."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

# What `blocking-write-and-flush` takes in one call.
CHUNK = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = (request.path_with_query() or "").split("?")[0]
        if isinstance(request.method(), Method_Post) and path == "/echo":
            types = request.headers().get("content-type") or [b"text/plain"]
            respond(response_out, types[0], body_of(request))
        else:
            respond(response_out, b"text/plain", [b"Hello from Python!\n"])


def body_of(request: IncomingRequest):
    """The chunks of the request's body, as they arrive."""
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(CHUNK)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return
                raise


def respond(response_out: ResponseOutparam, content_type: bytes, chunks) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", content_type)]))
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for chunk in chunks:
            stream.blocking_write_and_flush(chunk)
    OutgoingBody.finish(body, None)
