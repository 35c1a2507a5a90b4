//! What a store holds for its guest.

use std::sync::Arc;

use http::HeaderName;
use http_body_util::BodyExt as _;
use skep_core::{LogLevel, Outcome};
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
};

use crate::blueprint::Blueprint;
use crate::fault::Verdict;
use crate::ledger::{HostMemory, Ledger};
use crate::meter;
use crate::origin::{Origin, Outside};
use crate::outbound::OutboundTimeouts;
use crate::stdio::{LineStream, RequestId, Stream};
use crate::tenants::Seat;
use crate::weigh::{self, BODY_CHUNK, MAX_FIELDS};

/// Resources (streams, bodies, fields, …) that one instance may hold at a
/// time. A handler holds a dozen, one that answers many calls at once hundreds.
/// What they hold is weighed at every tick, which must not take long.
const MAX_RESOURCES: usize = 4096;

/// Handles that components of one instance may hold of each other's resources,
/// and tasks, streams and futures of WASI 0.3: tables of the host's that the
/// ledger does not see.
const MAX_HANDLES: usize = 10_000;

/// Bytes that one host call may take from a guest: more than a response body of
/// ordinary size, which may be written at once.
const MAX_HOSTCALL: usize = 16 << 20;

/// Bytes of one log record; the rest of a longer one is dropped.
const MAX_RECORD: usize = 8 << 10;

/// Random bytes that one call of the guest may ask for.
const MAX_RANDOM: u64 = 1 << 20;

/// The state of one store.
pub(crate) struct Guest {
    /// Made when the guest first asks for something of `wasi:cli`, clocks,
    /// random or the like: a handler that only speaks HTTP never does.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) ledger: Ledger,
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
        let guest = Self {
            wasi: None,
            http,
            hooks: Hooks {
                blueprint: Arc::clone(blueprint),
                request: RequestId::new(request),
                headless: false,
            },
            table,
            ledger: Ledger::new(blueprint.setup.memory, tenant),
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
            store.data_mut().weigh()?;
            meter::on_tick()
        });
        store.set_epoch_deadline(1);
        Ok(store)
    }

    /// Counts what the host holds for this guest.
    fn weigh(&mut self) -> Result<(), HostMemory> {
        self.ledger.host_holds(weigh::held(&mut self.table))
    }

    fn make_wasi(&self) -> WasiCtx {
        let setup = &self.hooks.blueprint.setup;
        let request = &self.hooks.request;
        let stream = |stream| LineStream::new(stream, request.clone(), Arc::clone(&setup.log));
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
        let longest = message.floor_char_boundary(MAX_RECORD);
        let log = &self.hooks.blueprint.setup.log;
        log.record(
            level,
            &self.hooks.request.get(),
            context,
            &message[..longest],
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
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// skep's answers to `wasi:http`, and what they are made of.
struct Hooks {
    blueprint: Arc<Blueprint>,
    /// The request that the instance works on.
    request: RequestId,
    /// Whether that is a HEAD.
    headless: bool,
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        // The default allocates a closure per header.
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
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
        let reply = outbound.send(request, timeouts, &self.request.get());
        Box::new(async move {
            let response = reply.await?;
            let response = response.map(|body| Outside::new(body, Origin::Upstream).boxed_unsync());
            // Connections are driven by whoever made them: nothing is left to
            // be done here.
            let io: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((response, io))
        })
    }
}
