//! `wasi:io`, on a guest's table alone: what it holds is weighed before it may wait.
//!
//! wasmtime's own linking of these interfaces goes by the guest's whole WASI
//! context, which a handler that only speaks HTTP never needs, and does not tell
//! a call that may wait from one that cannot. Only the former has to weigh: a guest
//! must not wait with more than it may hold, nor for room in a body that nobody
//! reads yet ([`early`](crate::early)).

use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi_io::bindings::wasi::io::{error, poll, streams};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, Error, StreamError, StreamResult,
};

use crate::guest::Guest;

/// A guest as these interfaces see it.
pub(crate) struct Io<'a>(&'a mut Guest);

struct HasIo;

impl HasData for HasIo {
    type Data<'a> = Io<'a>;
}

/// Offers the interfaces to guests, instead of those that are there.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    error::add_to_linker::<_, HasIo>(linker, |guest| Io(guest))?;
    poll::add_to_linker::<_, HasIo>(linker, |guest| Io(guest))?;
    streams::add_to_linker::<_, HasIo>(linker, |guest| Io(guest))?;
    // None of ours has work in the background that is waited for, and what may wait
    // costs a call of its own.
    let mut interface = linker.instance(STREAMS)?;
    let output = ResourceType::host::<DynOutputStream>();
    interface.resource("output-stream", output, |mut store, number| {
        let stream = Resource::<DynOutputStream>::new_own(number);
        drop(Io(store.data_mut()).table().delete(stream)?);
        Ok(())
    })?;
    let input = ResourceType::host::<DynInputStream>();
    interface.resource("input-stream", input, |mut store, number| {
        let stream = Resource::<DynInputStream>::new_own(number);
        drop(Io(store.data_mut()).table().delete(stream)?);
        Ok(())
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The interface as wasmtime names it; guests of all of 0.2 are linked with it.
const STREAMS: &str = "wasi:io/streams@0.2.12";

impl Io<'_> {
    /// For a call that cannot wait.
    fn table(&mut self) -> &mut ResourceTable {
        self.0.weigh_if_much();
        self.0.table()
    }

    /// For a call that may wait.
    fn waiting(&mut self) -> &mut ResourceTable {
        self.0.weigh_if_due();
        self.0.table()
    }
}

impl error::Host for Io<'_> {}

impl error::HostError for Io<'_> {
    fn drop(&mut self, error: Resource<Error>) -> Result<()> {
        error::HostError::drop(self.table(), error)
    }

    fn to_debug_string(&mut self, error: Resource<Error>) -> Result<String> {
        self.table().to_debug_string(error)
    }
}

impl poll::Host for Io<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        self.waiting().poll(pollables).await
    }
}

impl poll::HostPollable for Io<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        self.waiting().block(pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        // Whoever asks again and again waits, too.
        self.waiting().ready(pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        poll::HostPollable::drop(self.table(), pollable)
    }
}

impl streams::Host for Io<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        self.table().convert_stream_error(error)
    }
}

impl streams::HostOutputStream for Io<'_> {
    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        streams::HostOutputStream::drop(self.table(), stream).await
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        let same = Resource::new_borrow(stream.rep());
        match self.table().check_write(stream)? {
            // It waits next, or asks again.
            0 => self.waiting().check_write(same),
            permit => Ok(permit),
        }
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.table().write(stream, bytes)
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(self.table(), stream)
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.waiting().blocking_write_and_flush(stream, bytes).await
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        length: u64,
    ) -> StreamResult<()> {
        let table = self.waiting();
        table.blocking_write_zeroes_and_flush(stream, length).await
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, length: u64) -> StreamResult<()> {
        self.table().write_zeroes(stream, length)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.table().flush(stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.waiting().blocking_flush(stream).await
    }

    fn splice(
        &mut self,
        into: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        length: u64,
    ) -> StreamResult<u64> {
        // Whether there is room is not said before.
        self.waiting().splice(into, from, length)
    }

    async fn blocking_splice(
        &mut self,
        into: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        length: u64,
    ) -> StreamResult<u64> {
        self.waiting().blocking_splice(into, from, length).await
    }
}

impl streams::HostInputStream for Io<'_> {
    async fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        streams::HostInputStream::drop(self.table(), stream).await
    }

    fn read(&mut self, stream: Resource<DynInputStream>, length: u64) -> StreamResult<Vec<u8>> {
        self.table().read(stream, length)
    }

    async fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        length: u64,
    ) -> StreamResult<Vec<u8>> {
        self.waiting().blocking_read(stream, length).await
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, length: u64) -> StreamResult<u64> {
        self.table().skip(stream, length)
    }

    async fn blocking_skip(
        &mut self,
        stream: Resource<DynInputStream>,
        length: u64,
    ) -> StreamResult<u64> {
        self.waiting().blocking_skip(stream, length).await
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        streams::HostInputStream::subscribe(self.table(), stream)
    }
}
