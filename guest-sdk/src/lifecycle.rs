//! `skep:lifecycle`: a handler's say in its own deployment.

#[allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    reason = "generated from wit/lifecycle.wit"
)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "validated",
        pub_export_macro: true,
        export_macro_name: "export_validated",
    });
}

pub use bindings::exports::skep::lifecycle::startup::Guest;

/// Exports a function `fn() -> Result<(), String>` as the component's
/// `skep:lifecycle/startup.validate`: skep calls it before the handler takes
/// traffic, and does not let it serve if it fails.
#[macro_export]
macro_rules! validate {
    ($validate:path) => {
        const _: () = {
            struct Startup;

            impl $crate::lifecycle::Guest for Startup {
                fn validate() -> ::core::result::Result<(), ::std::string::String> {
                    $validate()
                }
            }

            $crate::lifecycle::bindings::export_validated!(
                Startup with_types_in $crate::lifecycle::bindings
            );
        };
    };
}
