//! What a store holds for its guest.

use std::sync::{Arc, OnceLock};

use http::HeaderName;
use http_body_util::BodyExt as _;
use skep_core::{LogLevel, Outcome};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
};

use crate::blueprint::Blueprint;
use crate::early::EARLY_BODY;
use crate::fault::Verdict;
use crate::head;
use crate::held::Held;
use crate::ledger::{HostMemory, Ledger};
use crate::meter;
use crate::origin::{Origin, Outside};
use crate::outbound::OutboundTimeouts;
use crate::stdio::{LineStream, RequestId, Stream};
use crate::tenants::Seat;
use crate::weigh::{self, BODY_CHUNK, BUFFERED_CHUNKS, MAX_FIELDS, Weighed};

/// Resources (streams, bodies, fields, …) that one instance may hold at a
/// time. A handler holds a dozen, one that answers many calls at once hundreds.
/// What they hold is weighed at every tick, which must not take long.
const MAX_RESOURCES: usize = 4096;

/// Handles that components of one instance may hold of each other's resources,
/// and tasks, streams and futures of WASI 0.3. A handle is some 20 bytes; the
/// others are weighed.
const MAX_HANDLES: usize = 10_000;

/// Bytes that one host call may take from a guest: more than any log record that
/// somebody might mean. Bodies are not taken like that: those of WASI 0.2 go by
/// permits of [`BODY_CHUNK`], those of 0.3 are read where the guest has them. A
/// call that waits holds what it took, unweighed.
const MAX_HOSTCALL: usize = 2 << 20;

/// Bytes of one log record; the rest of a longer one is dropped.
const MAX_RECORD: usize = 8 << 10;

/// Bytes of a log record's context, which names a part of the guest.
const MAX_CONTEXT: usize = 256;

/// Random bytes that one call of the guest may ask for.
const MAX_RANDOM: u64 = 1 << 20;

/// Entries of the tables that may be looked at for one call of the guest. A look
/// at all of them for each call would make a guest with thousands slow; at
/// ticks, all are looked at anyway.
const LOOKS: usize = 64;

/// Calls of the guest after which the tables are looked at, however few entries
/// they have. One call gathers [`MAX_FIELDS`] at most.
const UNWEIGHED: usize = 8;

/// The state of one store.
pub(crate) struct Guest {
    /// Made when the guest first asks for something of `wasi:cli`, clocks,
    /// random or the like: a handler that only speaks HTTP never does.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) ledger: Ledger,
    held: Held,
    /// Tasks, streams and futures of WASI 0.3 when they were last counted.
    concurrent: usize,
    last: LastLook,
    /// Why the instance must end, for those who cannot look in here.
    excess: Arc<OnceLock<Excess>>,
    /// Given back after all the rest.
    _seat: Seat,
}

impl Guest {
    /// A store for one instance made by `blueprint`, first used by `request`; or
    /// why there is none for this tenant now.
    pub(crate) fn store(
        blueprint: &Arc<Blueprint>,
        request: Arc<str>,
    ) -> Result<Store<Self>, Verdict> {
        let tenant = &blueprint.setup.tenant;
        let Some(seat) = tenant.sit(blueprint.setup.flavor, blueprint.seats) else {
            return Err(Verdict {
                outcome: Outcome::InstancesExhausted,
                detail: Some("no instance is left, or none but for other tenants".into()),
            });
        };
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let held = Held::default();
        let guest = Self {
            wasi: None,
            http,
            hooks: Hooks {
                blueprint: Arc::clone(blueprint),
                request: RequestId::new(request),
                headless: false,
                held: held.clone(),
                new_body: false,
            },
            table,
            ledger: Ledger::new(blueprint.setup.memory, &blueprint.share),
            held,
            concurrent: 0,
            last: LastLook::default(),
            excess: Arc::default(),
            _seat: seat,
        };
        let mut store = Store::new(&blueprint.engine, guest);
        store.limiter(|guest| &mut guest.ledger);
        store.set_hostcall_fuel(MAX_HOSTCALL);
        store.set_max_component_handles(MAX_HANDLES);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(MAX_HANDLES);
        }
        store.epoch_deadline_callback(|mut store| {
            weigh(&mut store)?;
            meter::on_tick()
        });
        store.set_epoch_deadline(1);
        Ok(store)
    }

    /// Counts what the host holds for this guest, and takes what the guest has
    /// written to bodies that nobody reads yet.
    fn weigh(&mut self) -> Result<(), Excess> {
        // What was once too much stays so: the call must not depend on when it
        // was looked at.
        if let Some(excess) = self.excess.get() {
            return Err(*excess);
        }
        let Weighed {
            entries,
            bytes,
            early,
        } = weigh::held(&mut self.table, &self.held);
        let bytes = bytes + self.concurrent * weigh::CONCURRENT;
        self.hooks.new_body = false;
        self.last = LastLook {
            entries: entries + self.concurrent,
            loads: self.held.bytes(),
            early: early.is_some(),
            calls: 0,
        };
        let counted = match self.ledger.host_holds(bytes) {
            Ok(()) if early == Some(false) => Err(Excess::EarlyBody),
            Ok(()) => Ok(()),
            Err(memory) => Err(memory.into()),
        };
        if let Err(excess) = counted {
            let _ = self.excess.set(excess);
        }
        counted
    }

    /// Whether the instance may answer another call.
    pub(crate) fn is_reused(&self) -> bool {
        self.hooks.blueprint.setup.instance.reuse > 1
    }

    /// Whether the tables may hold so much more than when they were last weighed
    /// that a guest must not wait with it.
    fn is_due(&self) -> bool {
        // What is written to such a body must be taken out at once.
        self.hooks.new_body || self.last.early || self.is_much()
    }

    /// Whether the tables may hold so much more than when they were last weighed
    /// that a guest must not go on with it.
    fn is_much(&self) -> bool {
        let last = &self.last;
        last.calls > UNWEIGHED + last.entries / LOOKS || self.held.bytes() > last.loads + BODY_CHUNK
    }

    /// Before the guest may wait.
    pub(crate) fn weigh_if_due(&mut self) {
        if self.is_due() {
            // What is wrong is said in `excess`.
            let _ = self.weigh();
        }
    }

    /// Before the guest goes on.
    pub(crate) fn weigh_if_much(&mut self) {
        if self.is_much() {
            // As above.
            let _ = self.weigh();
        }
    }

    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Where it is said that the instance must end, while its store is lent out.
    pub(crate) fn excess(&self) -> Arc<OnceLock<Excess>> {
        Arc::clone(&self.excess)
    }

    fn make_wasi(&self) -> WasiCtx {
        let setup = &self.hooks.blueprint.setup;
        let request = &self.hooks.request;
        let stream = |stream| {
            let held = self.held.clone();
            LineStream::new(stream, request.clone(), Arc::clone(&setup.log), held)
        };
        let mut builder = WasiCtxBuilder::new();
        builder
            .envs(&setup.env)
            .stdout(stream(Stream::Stdout))
            .stderr(stream(Stream::Stderr))
            .max_random_size(MAX_RANDOM)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        builder.build()
    }
}

impl Guest {
    /// Hands a record of the guest's to its app's log.
    pub(crate) fn log_record(&self, level: LogLevel, context: &str, message: &str) {
        let log = &self.hooks.blueprint.setup.log;
        log.record(
            level,
            &self.hooks.request.get(),
            &context[..context.floor_char_boundary(MAX_CONTEXT)],
            &message[..message.floor_char_boundary(MAX_RECORD)],
        );
    }

    /// What the guest writes and sends from now on is for this request, or for
    /// nobody knows which if it is empty.
    pub(crate) fn set_request(&mut self, request: Arc<str>) {
        self.hooks.request.set(request);
    }

    /// Says whether the current request is a HEAD, whose answer has no content.
    pub(crate) fn set_headless(&mut self, headless: bool) {
        self.hooks.headless = headless;
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.hooks.headless
    }

    /// Handles, streams, tasks and the like that the host has for the guest.
    pub(crate) fn resources(store: &mut Store<Self>) -> usize {
        let concurrent = store.concurrent_resource_table();
        let concurrent = concurrent.map_or(0, |table| table.iter_mut().count());
        store.data_mut().table.iter_mut().count() + concurrent
    }

    pub(crate) fn config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(&self.hooks.blueprint.config)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.weigh_if_much();
        if self.wasi.is_none() {
            self.wasi = Some(self.make_wasi());
        }
        WasiCtxView {
            ctx: self.wasi.as_mut().expect("was made above"),
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.last.calls += 1;
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// The guest made the host hold what it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Excess {
    /// More than its limit.
    #[error(transparent)]
    Memory(#[from] HostMemory),
    /// A body that nobody can take yet.
    #[error(
        "more than {} KiB of a body were written before its head: call response-outparam.set (or \
         outgoing-handler.handle) first, then write",
        EARLY_BODY >> 10
    )]
    EarlyBody,
}

/// What was found when a guest's tables were last weighed.
#[derive(Default)]
struct LastLook {
    /// Entries of the tables.
    entries: usize,
    /// What was held outside of them.
    loads: usize,
    /// Whether there were bodies that nobody reads yet.
    early: bool,
    /// Calls of `wasi:http` since, or turns of a guest of WASI 0.3.
    calls: usize,
}

/// Weighs the tables before a guest of WASI 0.3 waits, if they may hold more.
pub(crate) fn weigh_if_due(store: &mut StoreContextMut<'_, Guest>) -> Result<(), Excess> {
    let guest = store.data_mut();
    guest.last.calls += 1;
    if guest.is_due() { weigh(store) } else { Ok(()) }
}

/// Counts what the host holds for a guest, tasks of WASI 0.3 included.
pub(crate) fn weigh(store: &mut StoreContextMut<'_, Guest>) -> Result<(), Excess> {
    let table = store.concurrent_resource_table();
    let concurrent = table.map_or(0, |table| table.iter_mut().count());
    let guest = store.data_mut();
    guest.concurrent = concurrent;
    guest.weigh()
}

/// skep's answers to `wasi:http`, and what they are made of.
struct Hooks {
    blueprint: Arc<Blueprint>,
    /// The request that the instance works on.
    request: RequestId,
    /// Whether that is a HEAD.
    headless: bool,
    held: Held,
    /// Whether a body was made that was not looked at yet.
    new_body: bool,
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        // Asked for whenever a body is made.
        self.new_body = true;
        BUFFERED_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        // The default allocates a closure per header.
        head::FORBIDDEN.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| head::FORBIDDEN.contains(name))
    }

    fn set_host_header(&mut self) -> bool {
        // Whoever sends the request makes it, from what was checked.
        false
    }

    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        // Absent means denied.
        let Some(outbound) = &self.blueprint.setup.outbound else {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        };
        let options = options.unwrap_or_default();
        let timeouts = OutboundTimeouts {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        head::leaving(request.headers_mut());
        let held = self.held.clone();
        let load = held.load(weigh::of_request(&request));
        let reply = outbound.send(request, timeouts, &self.request.get());
        Box::new(async move {
            let response = reply.await?;
            drop(load);
            let load = held.load(weigh::of_response(&response));
            let response =
                response.map(|body| Outside::new(load.on(body), Origin::Upstream).boxed_unsync());
            // Connections are driven by whoever made them: nothing is left to
            // be done here.
            let io: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((response, io))
        })
    }
}
