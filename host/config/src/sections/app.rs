//! `[app.NAME]`: a deployed handler with its routes, limits and environment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_core::route::RoutePattern;
use skep_core::{
    AppLimits, AppName, AppSpec, HttpCheck, InstancePolicy, PoolName, RolloutSpec, TenantName,
};

use crate::document::{Schema, Section, Spanned};
use crate::elements::{
    component, config, count, duration, env, flag, instance, name, require, rollout, route, size,
    validate,
};
use crate::environment::Environment;
use crate::report::Report;
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
        "max_body",
        "instance",
        "env",
        "config",
        "require",
        "validate",
        "rollout",
    ],
    unavailable: &[
        (
            "rate",
            "requests are limited by `concurrency` and `queue` only",
        ),
        ("outbound", "apps cannot make requests of their own"),
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

/// An app that was read; its pool may not exist.
pub(crate) struct DeclaredApp {
    pub(crate) name: Spanned<AppName>,
    pub(crate) component: Option<Spanned<PathBuf>>,
    /// `None` if it was read and is no name.
    pub(crate) pool: Option<Spanned<PoolName>>,
    pub(crate) routes: Vec<Spanned<RoutePattern>>,
    rest: Rest,
}

/// What no other table has to do with.
struct Rest {
    tenant: TenantName,
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
    /// `None` if a part of it has a problem.
    pub(crate) fn into_spec(self) -> Option<(AppName, AppSpec)> {
        let spec = AppSpec {
            component: self.component?.value,
            tenant: self.rest.tenant,
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
            outbound: Vec::new(),
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
        let pool = section
            .get("pool")
            .map(|entry| name::read(&entry, PoolName::new));
        let routes = section.get("routes").map(|entry| route::read(&entry));
        let name = name?;
        let pool = match pool {
            Some(read) => read.ok(),
            None => Some(Spanned {
                value: name::default_pool(),
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
            pool,
            routes,
            rest,
        })
    })
}

fn read_rest(section: &Section<'_>, dir: &Path, environment: &dyn Environment) -> Rest {
    let mut rest = Rest {
        tenant: name::default_tenant(),
        strip_prefix: false,
        limits: read_limits(section),
        instance: InstancePolicy::default(),
        env: Vec::new(),
        require: Vec::new(),
        config: BTreeMap::new(),
        validate: section.read("validate", validate::read),
        rollout: RolloutSpec::default(),
    };
    section.set(&mut rest.tenant, "tenant", |entry| {
        name::read(entry, TenantName::new).map(|name| name.value)
    });
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
    limits
}
