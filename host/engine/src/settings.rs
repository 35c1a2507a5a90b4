//! The settings that compiled code depends on. What compiles and what loads
//! must agree on every one of them, so they are made in this one place.

use wasmtime::Config;

/// Which of the two engines a component is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// `wasi:http/incoming-handler@0.2`: no component-model concurrency.
    P2,
    /// `wasi:http/handler@0.3`: component-model concurrency.
    P3,
}

/// Stack of a guest's own frames. Deep recursion ends in a trap at this depth;
/// wasmtime's default of 512 KiB is too little for interpreters in wasm.
const MAX_WASM_STACK: usize = 1 << 20;

/// Stack of a fiber: the guest's frames and the host calls on top of them.
const ASYNC_STACK: usize = 2 << 20;

/// The settings of one engine, without its allocator.
pub(crate) fn config(flavor: Flavor) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        // Nobody walks our stacks with a native unwinder, and the tables make
        // artifacts larger.
        .native_unwind_info(false)
        .concurrency_support(flavor == Flavor::P3);
    if flavor == Flavor::P3 {
        config.wasm_component_model_async(true);
    }
    config
}
