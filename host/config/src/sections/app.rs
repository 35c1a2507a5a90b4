//! `[app.NAME]`: a deployed handler with its routes, limits and environment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_core::egress::OutboundGrant;
use skep_core::route::RoutePattern;
use skep_core::{
    AppLimits, AppName, AppSpec, HttpCheck, InstancePolicy, PoolName, RolloutSpec, TenantName,
};

use crate::document::{Schema, Section, Spanned};
use crate::elements::{
    component, config, count, duration, env, flag, instance, name, outbound, rate, require,
    rollout, route, size, validate,
};
use crate::environment::Environment;
use crate::problem::Span;
use crate::report::{Report, Reported};
use crate::sections::{Declared, named};

pub(crate) static SCHEMA: Schema = Schema {
    title: "[app.NAME]",
    keys: &[
        "component",
        "tenant",
        "pool",
        "routes",
        "strip_prefix",
        "timeout",
        "cpu",
        "memory",
        "concurrency",
        "queue",
        "rate",
        "max_body",
        "log_rate",
        "outbound",
        "outbound_connections",
        "instance",
        "env",
        "config",
        "require",
        "validate",
        "rollout",
    ],
    unavailable: &[
        ("keyvalue", "apps have no key-value store"),
        ("mounts", "apps see no files"),
    ],
};

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);
const CPU: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
/// From one page of wasm to what 32-bit wasm can address.
const MEMORY: RangeInclusive<u64> = 64 << 10..=4 << 30;
const CONCURRENCY: RangeInclusive<u32> = 1..=1_000_000;
const QUEUE: RangeInclusive<u32> = 0..=1_000_000;
const BODY: RangeInclusive<u64> = 0..=1 << 40;
/// From a few lines to what would fill a disk within minutes.
const LOG_RATE: RangeInclusive<u64> = 1 << 10..=1 << 30;
const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;

/// An app that was read; its tenant and its pool may not exist.
pub(crate) struct DeclaredApp {
    pub(crate) name: Spanned<AppName>,
    pub(crate) component: Option<Spanned<PathBuf>>,
    /// `None` if it was read and is no name.
    pub(crate) tenant: Option<Spanned<TenantName>>,
    /// The pool that it names, if it does.
    pub(crate) written_pool: Option<Result<Spanned<PoolName>, Reported>>,
    /// The pool that it is in, as soon as its tenant is known; `None` if that
    /// cannot be said.
    pub(crate) pool: Option<Spanned<PoolName>>,
    /// Its own grants; with its tenant's as soon as that is known.
    pub(crate) outbound: Vec<OutboundGrant>,
    pub(crate) routes: Vec<Spanned<RoutePattern>>,
    /// Memory of an instance: where that is written, if it is.
    pub(crate) written_memory: Option<Span>,
    rest: Rest,
}

/// What no other table has to do with.
struct Rest {
    strip_prefix: bool,
    limits: AppLimits,
    instance: InstancePolicy,
    env: Vec<(String, String)>,
    require: Vec<String>,
    config: BTreeMap<String, String>,
    validate: Option<HttpCheck>,
    rollout: RolloutSpec,
}

impl DeclaredApp {
    /// Memory of one instance.
    pub(crate) const fn memory(&self) -> u64 {
        self.rest.limits.memory
    }

    /// Gives its instances less than the default, because they could not have it.
    pub(crate) const fn lower_memory(&mut self, bytes: u64) {
        self.rest.limits.memory = bytes;
    }

    /// `None` if a part of it has a problem.
    pub(crate) fn into_spec(self) -> Option<(AppName, AppSpec)> {
        let spec = AppSpec {
            component: self.component?.value,
            tenant: self.tenant?.value,
            pool: self.pool?.value,
            routes: self.routes.into_iter().map(|route| route.value).collect(),
            strip_prefix: self.rest.strip_prefix,
            limits: self.rest.limits,
            instance: self.rest.instance,
            env: self.rest.env,
            require: self.rest.require,
            config: self.rest.config,
            validate: self.rest.validate,
            rollout: self.rest.rollout,
            outbound: self.outbound,
        };
        Some((self.name.value, spec))
    }
}

/// The app that serves everything from one component with every default.
pub(crate) fn default(component: PathBuf) -> AppSpec {
    AppSpec {
        component,
        tenant: name::default_tenant(),
        pool: name::default_pool(),
        routes: vec![route::everything()],
        strip_prefix: false,
        limits: AppLimits::default(),
        instance: InstancePolicy::default(),
        env: Vec::new(),
        require: Vec::new(),
        config: BTreeMap::new(),
        validate: None,
        rollout: RolloutSpec::default(),
        outbound: Vec::new(),
    }
}

pub(crate) fn read_all(
    file: &Section<'_>,
    dir: &Path,
    environment: &dyn Environment,
    report: &Report,
) -> Declared<DeclaredApp> {
    named(file, "app", &SCHEMA, AppName::new, |name, section| {
        let rest = read_rest(section, dir, environment);
        let component = section.get("component");
        if let (None, Some(name)) = (&component, &name) {
            report
                .at(
                    &name.span,
                    format!("app `{}` has no `component`", name.value),
                )
                .hint("name its file, as in `component = \"hello.wasm\"`")
                .report();
        }
        let component = component.and_then(|entry| component::read(&entry, dir, environment).ok());
        let tenant = section
            .get("tenant")
            .map(|entry| name::read(&entry, TenantName::new));
        let written_pool = section
            .get("pool")
            .map(|entry| name::read(&entry, PoolName::new));
        let outbound = section
            .get("outbound")
            .map(|entry| outbound::read(&entry))
            .unwrap_or_default();
        let written_memory = section.get("memory").map(|entry| entry.span);
        let routes = section.get("routes").map(|entry| route::read(&entry));
        let name = name?;
        let tenant = match tenant {
            Some(read) => read.ok(),
            None => Some(Spanned {
                value: name::default_tenant(),
                span: name.span.clone(),
            }),
        };
        let routes = routes.unwrap_or_else(|| {
            vec![Spanned {
                value: route::everything(),
                span: name.span.clone(),
            }]
        });
        Some(DeclaredApp {
            name,
            component,
            tenant,
            written_pool,
            pool: None,
            outbound,
            routes,
            written_memory,
            rest,
        })
    })
}

fn read_rest(section: &Section<'_>, dir: &Path, environment: &dyn Environment) -> Rest {
    let mut rest = Rest {
        strip_prefix: false,
        limits: read_limits(section),
        instance: InstancePolicy::default(),
        env: Vec::new(),
        require: Vec::new(),
        config: BTreeMap::new(),
        validate: section.read("validate", validate::read),
        rollout: RolloutSpec::default(),
    };
    section.set(&mut rest.strip_prefix, "strip_prefix", flag::read);
    section.set(&mut rest.instance, "instance", instance::read);
    section.set(&mut rest.config, "config", config::read);
    section.set(&mut rest.rollout, "rollout", rollout::read);
    let env = section
        .get("env")
        .map(|entry| env::read(&entry, dir, environment));
    let env = env.unwrap_or_default();
    if let Some(entry) = section.get("require") {
        rest.require = require::read(&entry, &env);
    }
    rest.env = env.resolved;
    rest
}

fn read_limits(section: &Section<'_>) -> AppLimits {
    let mut limits = AppLimits::default();
    section.set(&mut limits.timeout, "timeout", |entry| {
        duration::read(entry, &TIMEOUT)
    });
    section.set(&mut limits.cpu, "cpu", |entry| duration::read(entry, &CPU));
    section.set(&mut limits.memory, "memory", |entry| {
        size::read(entry, &MEMORY)
    });
    section.set(&mut limits.concurrency, "concurrency", |entry| {
        count::read(entry, &CONCURRENCY)
    });
    section.set(&mut limits.queue, "queue", |entry| {
        count::read(entry, &QUEUE)
    });
    section.set(&mut limits.max_body, "max_body", |entry| {
        size::read(entry, &BODY)
    });
    limits.rate = section.read("rate", rate::read_limit);
    section.set(&mut limits.log_rate, "log_rate", |entry| {
        size::read(entry, &LOG_RATE)
    });
    section.set(
        &mut limits.outbound_connections,
        "outbound_connections",
        |entry| count::read(entry, &CONNECTIONS),
    );
    limits
}
