//! wasmtime, wrapped: compile, link, limit, and turn one request into one outcome.
