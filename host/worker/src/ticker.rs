//! Uses unsafe code, once: to promise that the engine's tick may run in a
//! signal handler.
#![expect(unsafe_code, reason = "a contract that the compiler cannot check")]

use std::io;
use std::time::Duration;

use skep_sys::Ticker;

/// How long a guest runs before it yields to its neighbours, at first: see
/// [`pace`].
const PERIOD: Duration = Duration::from_millis(1);

/// Starts the ticks of this thread's guests.
pub(crate) fn start() -> io::Result<Ticker> {
    // SAFETY: `start` demands that the function does only what is
    // async-signal-safe. `skep_engine::tick` loads atomics and calls
    // `Engine::increment_epoch`, which wasmtime documents as signal-safe: one
    // atomic addition.
    unsafe { skep_sys::ticker::start(PERIOD, skep_engine::tick) }
}

/// Changes how long a guest runs, which `engine` asks for when tenants begin
/// and cease to compete.
pub(crate) fn pace(period: Duration) {
    skep_sys::ticker::set_period(period);
}
