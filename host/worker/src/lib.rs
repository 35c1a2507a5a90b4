//! The worker process: accept, HTTP, route, admit, call, drain.
