//! `wasi:logging` for guests: records with a level, beside the lines of stdout
//! and stderr.

use skep_core::LogLevel;
use wasmtime::component::{HasSelf, Linker};

use crate::guest::Guest;

// The macro's output has no documentation of its own.
#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasi:logging/imports",
    });
}

use bindings::wasi::logging::logging::{self, Level};

/// Offers the interface to guests.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}

impl logging::Host for Guest {
    fn log(&mut self, level: Level, context: String, message: String) {
        let level = match level {
            Level::Trace | Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error | Level::Critical => LogLevel::Error,
        };
        self.log_record(level, &context, &message);
    }
}
