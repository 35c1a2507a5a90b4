//! Resolving a component's imports against what skep offers.

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::{p2, p3};

use crate::guest::Guest;
use crate::p2::let_empty_answers_have_lengths;
use crate::settings::Flavor;
use crate::{io, logging};

/// A component whose imports are resolved.
pub(crate) enum Linked {
    P2(p2::bindings::ProxyPre<Guest>),
    P3(p3::bindings::ServicePre<Guest>),
}

impl Linked {
    pub(crate) fn new(
        engine: &Engine,
        flavor: Flavor,
        component: &Component,
    ) -> wasmtime::Result<Self> {
        // A linker with all of WASI is a megabyte or two; it is needed for no
        // longer than this.
        let mut linker = Linker::<Guest>::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        io::add_to_linker(&mut linker)?;
        p2::add_only_http_to_linker_async(&mut linker)?;
        let_empty_answers_have_lengths(&mut linker)?;
        wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
        logging::add_to_linker(&mut linker)?;
        if flavor == Flavor::P3 {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            p3::add_to_linker(&mut linker)?;
        }
        let pre = linker.instantiate_pre(component)?;
        Ok(match flavor {
            Flavor::P2 => Self::P2(p2::bindings::ProxyPre::new(pre)?),
            Flavor::P3 => Self::P3(p3::bindings::ServicePre::new(pre)?),
        })
    }
}
