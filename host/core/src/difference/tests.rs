//! The laws of the difference, and every field of a specification once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::egress::OutboundGrant;
use crate::limits::{
    AppLimits, ConnectionLimits, InstancePolicy, Rate, RateLimit, RatePer, SupervisionSettings,
    TenantLimits,
};
use crate::name::{Generation, TenantName};
use crate::route::RoutePattern;
use crate::spec::{
    AlertSpec, Dispatch, HttpCheck, Isolation, ListenAddress, LogFormat, LogLevel, LogSpec,
    Portion, RolloutSpec, Sandbox, Strategy as RolloutStrategy,
};

/// A value whose every field can be given another value, one at a time.
trait Mutate {
    /// Changes the field with this number, counted through everything below,
    /// and says its path; `Err` with what is left of the number if there are
    /// fewer fields.
    fn mutate(&mut self, number: usize) -> Result<String, usize>;
}

/// A field without fields of its own.
macro_rules! leaves {
    ($($type:ty: |$value:ident| $change:expr;)*) => {$(
        impl Mutate for $type {
            fn mutate(&mut self, number: usize) -> Result<String, usize> {
                let $value = self;
                if number > 0 {
                    return Err(number - 1);
                }
                $change;
                Ok(String::new())
            }
        }
    )*};
}

/// Taken apart without `..`: a field that is missing here does not compile.
macro_rules! structures {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Mutate for $type {
            fn mutate(&mut self, number: usize) -> Result<String, usize> {
                let Self { $($field),* } = self;
                $(let number = match $field.mutate(number) {
                    Ok(path) => return Ok(format!(".{}{path}", stringify!($field))),
                    Err(left) => left,
                };)*
                Err(number)
            }
        }
    )*};
}

leaves! {
    bool: |it| *it = !*it;
    u16: |it| *it = it.wrapping_add(1);
    u32: |it| *it = it.wrapping_add(1);
    u64: |it| *it = it.wrapping_add(1);
    usize: |it| *it = it.wrapping_add(1);
    Duration: |it| *it += Duration::from_millis(1);
    String: |it| it.push('x');
    PathBuf: |it| it.push("x");
    Generation: |it| it.0 += 1;
    Portion: |it| it.0 += 1;
    PoolName: |it| *it = PoolName::new(&format!("{it}-x")).unwrap();
    TenantName: |it| *it = TenantName::new(&format!("{it}-x")).unwrap();
    ListenAddress: |it| *it = ListenAddress::Unix(format!("{it}-x").into());
    LogFormat: |it| *it = match it {
        LogFormat::Text => LogFormat::Json,
        LogFormat::Json => LogFormat::Text,
    };
    LogLevel: |it| *it = match it {
        LogLevel::Error => LogLevel::Warn,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => LogLevel::Error,
    };
    RolloutStrategy: |it| *it = match it {
        RolloutStrategy::Swap => RolloutStrategy::Restart,
        RolloutStrategy::Restart => RolloutStrategy::Swap,
    };
    Vec<RoutePattern>: |it| it.push(RoutePattern::new("/another").unwrap());
    Vec<PoolName>: |it| it.push(PoolName::new("another").unwrap());
    Vec<OutboundGrant>: |it| it.push(OutboundGrant::new("http://another").unwrap());
    Dispatch: |it| *it = match it {
        Dispatch::Balanced => Dispatch::RoundRobin,
        Dispatch::RoundRobin | Dispatch::LeastConnections => Dispatch::Balanced,
    };
    Sandbox: |it| *it = match it {
        Sandbox::BestEffort => Sandbox::Require,
        Sandbox::Require | Sandbox::Off => Sandbox::BestEffort,
    };
    Isolation: |it| *it = match it {
        Isolation::Shared => Isolation::Dedicated,
        Isolation::Dedicated => Isolation::Shared,
    };
    RatePer: |it| *it = match it {
        RatePer::All => RatePer::Client,
        RatePer::Client | RatePer::Header(_) => RatePer::All,
    };
    Vec<String>: |it| it.push("ANOTHER".to_owned());
    Vec<(String, String)>: |it| it.push(("ANOTHER".to_owned(), "x".to_owned()));
    BTreeMap<String, String>: |it| *it.entry("a".to_owned()).or_default() += "x";
}

structures! {
    FleetSpec { generation, server, listeners, pools, tenants, apps }
    ServerSpec { state_dir, log, alert, sandbox }
    TenantSpec { isolation, limits }
    TenantLimits { memory, concurrency, rate }
    Rate { count, period }
    RateLimit { rate, per }
    AlertSpec { webhook }
    LogSpec { format, level }
    ListenerSpec { address, pools, limits }
    ConnectionLimits {
        header_timeout, body_timeout, write_timeout, max_head, max_headers, max_connections,
        max_requests_per_connection, max_connection_age
    }
    PoolSpec { workers, dispatch, supervision, user }
    SupervisionSettings {
        start_timeout, min_uptime, crash_window, max_crashes, backoff, backoff_max, hang_timeout,
        drain_timeout, kill_timeout, probe_interval, surge, max_unavailable, max_requests, max_age,
        memory, memory_soft
    }
    AppSpec {
        component, tenant, pool, routes, strip_prefix, limits, instance, env, require, config,
        validate, rollout, outbound
    }
    AppLimits {
        timeout, cpu, memory, concurrency, queue, max_body, rate, log_rate, outbound_connections
    }
    InstancePolicy { reuse, concurrent, idle }
    HttpCheck { path, status, timeout }
    RolloutSpec { strategy, canary, observe, max_error_rate, max_latency, keep }
}

/// What an absent value becomes.
trait Present {
    fn present() -> Self;
}

impl Present for AlertSpec {
    fn present() -> Self {
        Self {
            webhook: "http://127.0.0.1:9000".to_owned(),
        }
    }
}

impl Present for HttpCheck {
    fn present() -> Self {
        Self {
            path: "/ready".to_owned(),
            status: 200,
            timeout: Duration::from_secs(5),
        }
    }
}

impl Present for Rate {
    fn present() -> Self {
        Self {
            count: 100,
            period: Duration::from_secs(1),
        }
    }
}

impl Present for RateLimit {
    fn present() -> Self {
        Self {
            rate: Rate::present(),
            per: RatePer::Client,
        }
    }
}

impl Present for String {
    fn present() -> Self {
        "present".to_owned()
    }
}

impl Present for Portion {
    fn present() -> Self {
        Self::percent(10)
    }
}

impl<T: Mutate + Present> Mutate for Option<T> {
    fn mutate(&mut self, number: usize) -> Result<String, usize> {
        match (number, self.as_mut()) {
            (0, None) => *self = Some(T::present()),
            (0, Some(_)) => *self = None,
            (_, None) => return Err(number - 1),
            (_, Some(value)) => return value.mutate(number - 1),
        }
        Ok("?".to_owned())
    }
}

macro_rules! named {
    ($($name:ident: $spec:ident;)*) => {$(
        impl Mutate for BTreeMap<$name, $spec> {
            fn mutate(&mut self, mut number: usize) -> Result<String, usize> {
                for (name, spec) in self {
                    match spec.mutate(number) {
                        Ok(path) => return Ok(format!(".{name}{path}")),
                        Err(left) => number = left,
                    }
                }
                Err(number)
            }
        }
    )*};
}

named! {
    ListenerName: ListenerSpec;
    PoolName: PoolSpec;
    TenantName: TenantSpec;
    AppName: AppSpec;
}

fn listener(name: &str) -> ListenerName {
    ListenerName::new(name).unwrap()
}

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn a_listener() -> ListenerSpec {
    ListenerSpec {
        address: ListenAddress::Tcp("127.0.0.1:8080".parse().unwrap()),
        pools: vec![pool("default")],
        limits: ConnectionLimits::default(),
    }
}

fn a_pool() -> PoolSpec {
    PoolSpec {
        workers: 2,
        dispatch: Dispatch::default(),
        supervision: SupervisionSettings::default(),
        user: None,
    }
}

fn an_app() -> AppSpec {
    AppSpec {
        component: "hello.wasm".into(),
        tenant: TenantName::new("default").unwrap(),
        pool: pool("default"),
        routes: vec![RoutePattern::new("/*").unwrap()],
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

fn a_fleet() -> FleetSpec {
    FleetSpec {
        generation: Generation(1),
        server: ServerSpec {
            state_dir: ".skep".into(),
            log: LogSpec {
                format: LogFormat::Text,
                level: LogLevel::Info,
            },
            alert: None,
            sandbox: Sandbox::default(),
        },
        listeners: BTreeMap::from([(listener("web"), a_listener())]),
        pools: BTreeMap::from([(pool("default"), a_pool())]),
        tenants: BTreeMap::from([(TenantName::new("default").unwrap(), TenantSpec::default())]),
        apps: BTreeMap::from([(app("hello"), an_app())]),
    }
}

/// Every specification that differs from `spec` in one field, with the path of
/// that field.
fn mutations(spec: &FleetSpec) -> Vec<(String, FleetSpec)> {
    let mutate = |number| {
        let mut other = spec.clone();
        let path = other.mutate(number).ok()?;
        Some((path, other))
    };
    (0..).map_while(mutate).collect()
}

/// The names of the lists that are not empty.
fn lists(difference: &Difference) -> BTreeSet<&'static str> {
    let Difference {
        listeners,
        pools,
        tenants,
        apps,
        server,
    } = difference;
    let all = [
        ("listener added", listeners.added.len()),
        ("listener removed", listeners.removed.len()),
        ("listener changed", listeners.changed.len()),
        ("listener rebound", listeners.rebound.len()),
        ("pool added", pools.added.len()),
        ("pool removed", pools.removed.len()),
        ("pool scaled", pools.scaled.len()),
        ("pool restarted", pools.restarted.len()),
        ("tenant added", tenants.added.len()),
        ("tenant removed", tenants.removed.len()),
        ("tenant changed", tenants.changed.len()),
        ("app added", apps.added.len()),
        ("app removed", apps.removed.len()),
        ("app moved", apps.moved.len()),
        ("app sourced", apps.sourced.len()),
        ("app changed", apps.changed.len()),
        ("app rerouted", apps.rerouted.len()),
        ("app settled", apps.settled.len()),
        ("log", usize::from(server.log)),
        ("alert", usize::from(server.alert)),
        ("refused", server.refused.len()),
    ];
    let filled = all.into_iter().filter(|(_, length)| *length > 0);
    filled.map(|(name, _)| name).collect()
}

/// What one other field takes, by the beginning of its path; the first that
/// fits counts.
const EXPECTED: &[(&str, &str)] = &[
    (".server.state_dir", "refused"),
    (".server.log", "log"),
    (".server.alert", "alert"),
    (".server.sandbox", "refused"),
    (".tenants", "tenant changed"),
    (".listeners.web.address", "listener rebound"),
    (".listeners.web", "listener changed"),
    (".pools.default.workers", "pool scaled"),
    (".pools.default", "pool restarted"),
    (".apps.hello.component", "app sourced"),
    (".apps.hello.pool", "app moved"),
    (".apps.hello.routes", "app rerouted"),
    (".apps.hello.rollout", "app settled"),
    (".apps.hello", "app changed"),
];

#[test]
fn every_field_takes_what_it_should_and_nothing_else() {
    let mut spec = a_fleet();
    let mut seen = BTreeSet::new();
    for round in 0..2 {
        for (path, other) in mutations(&spec) {
            let difference = Difference::between(&spec, &other);
            if path == ".generation" {
                assert!(difference.is_empty(), "{difference}");
                continue;
            }
            let (start, expected) = EXPECTED
                .iter()
                .find(|(start, _)| path.starts_with(start))
                .unwrap_or_else(|| panic!("{path}"));
            assert_eq!(lists(&difference), BTreeSet::from([*expected]), "{path}");
            // And the way back takes the same.
            let back = Difference::between(&other, &spec);
            assert_eq!(lists(&back), lists(&difference), "{path}");
            seen.insert((*start, round));
        }
        // Once more with what may be absent.
        spec.server.alert = Some(AlertSpec::present());
        let hello = spec.apps.get_mut("hello").unwrap();
        hello.validate = Some(HttpCheck::present());
        hello.rollout.canary = Some(Portion::present());
    }
    assert_eq!(seen.len(), 2 * EXPECTED.len());
    let paths: BTreeSet<_> = mutations(&spec).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), mutations(&spec).len(), "each field once");
}

#[test]
fn what_goes_together_is_told_together() {
    let old = a_fleet();
    let mut new = old.clone();
    let hello = new.apps.get_mut("hello").unwrap();
    hello.routes.push(RoutePattern::new("/x").unwrap());
    hello.rollout.keep = 3;
    let settings = new.pools.get_mut("default").unwrap();
    settings.workers = 4;
    settings.supervision.surge = 2;
    let difference = Difference::between(&old, &new);
    assert_eq!(difference.apps.rerouted, [app("hello")]);
    assert_eq!(difference.apps.settled, [app("hello")]);
    assert!(!difference.apps.needs_handler(&app("hello")));
    assert_eq!(difference.pools.scaled, [(pool("default"), 4)]);
    assert_eq!(difference.pools.restarted, [pool("default")]);

    // With another handler come its routes and its rules.
    let hello = new.apps.get_mut("hello").unwrap();
    hello.pool = pool("other");
    hello.component = "other.wasm".into();
    hello.limits.queue = 1;
    let apps = Difference::between(&old, &new).apps;
    let expected = AppChanges {
        moved: vec![app("hello")],
        sourced: vec![app("hello")],
        changed: vec![app("hello")],
        ..AppChanges::default()
    };
    assert_eq!(apps, expected);
    assert!(apps.needs_handler(&app("hello")));

    // Another path alone may lead to the same bytes.
    let mut new = old.clone();
    new.apps.get_mut("hello").unwrap().component = "other.wasm".into();
    let apps = Difference::between(&old, &new).apps;
    assert_eq!(apps.sourced, [app("hello")]);
    assert!(!apps.needs_handler(&app("hello")));
}

#[test]
fn another_name_is_another_listener() {
    let old = a_fleet();
    let mut new = old.clone();
    let spec = new.listeners.remove("web").unwrap();
    new.listeners.insert(listener("public"), spec);
    let listeners = Difference::between(&old, &new).listeners;
    assert_eq!(listeners.added, [listener("public")]);
    assert_eq!(listeners.removed, [listener("web")]);
    assert_eq!(
        listeners.to_bind().collect::<Vec<_>>(),
        [&listener("public")]
    );
}

#[test]
fn a_summary_is_one_line() {
    let mut old = a_fleet();
    assert_eq!(Difference::between(&old, &old).summary(), "nothing changed");
    old.apps.insert(app("second"), an_app());
    old.pools.insert(pool("gone"), a_pool());
    let mut new = old.clone();
    for app in new.apps.values_mut() {
        app.limits.queue = 5;
    }
    new.apps.insert(app("third"), an_app());
    new.listeners.insert(listener("local"), a_listener());
    new.pools.remove("gone");
    let settings = new.pools.get_mut("default").unwrap();
    settings.workers = 4;
    settings.supervision.max_crashes = 1;
    new.server.alert = Some(AlertSpec {
        webhook: "http://secret/".to_owned(),
    });
    assert_eq!(
        Difference::between(&old, &new).to_string(),
        "app third added, 2 apps changed, listener local added, pool gone removed, pool default \
         scaled to 4, pool default restarted, alert settings changed"
    );
    new.server.state_dir = "/var/lib/skep".into();
    let difference = Difference::between(&old, &new);
    assert_eq!(
        difference.server.refused,
        [
            "`state_dir` cannot change from `.skep` to `/var/lib/skep` while skep runs; change it \
          back, or stop skep and start it again"
        ]
    );
    assert!(difference.summary().contains("refused: `state_dir`"));
}

/// Few names and values, so that two fleets have much in common.
fn fleets() -> impl Strategy<Value = FleetSpec> {
    let names = || prop::sample::select(vec!["a", "b", "c"]);
    let listeners = prop::collection::btree_map(names(), (0..3_u16, names(), 0..2_u32), 0..3);
    let pools = prop::collection::btree_map(names(), (1..4_u16, 0..2_u16), 0..3);
    let apps = prop::collection::btree_map(names(), (names(), 0..32_u8), 0..4);
    let server = (any::<bool>(), any::<bool>(), any::<bool>());
    (listeners, pools, apps, server).prop_map(|(listeners, pools, apps, server)| {
        let mut fleet = a_fleet();
        fleet.server.log.format = if server.0 {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        fleet.server.alert = server.1.then(AlertSpec::present);
        fleet.server.state_dir = if server.2 { "a" } else { "b" }.into();
        fleet.listeners = listeners
            .into_iter()
            .map(|(name, (port, of, connections))| {
                let mut spec = a_listener();
                spec.address = ListenAddress::Tcp(([127, 0, 0, 1], port).into());
                spec.pools = vec![pool(of)];
                spec.limits.max_connections = connections;
                (listener(name), spec)
            })
            .collect();
        fleet.pools = pools
            .into_iter()
            .map(|(name, (workers, surge))| {
                let mut spec = a_pool();
                spec.workers = workers;
                spec.supervision.surge = surge;
                (pool(name), spec)
            })
            .collect();
        fleet.apps = apps
            .into_iter()
            .map(|(name, (of, bits))| {
                let mut spec = an_app();
                spec.pool = pool(of);
                let bit = |number: u8| bits >> number & 1;
                spec.component = format!("{}.wasm", bit(0)).into();
                spec.routes = vec![RoutePattern::new(&format!("/{}", bit(1))).unwrap()];
                spec.limits.queue = bit(2).into();
                spec.rollout.keep = bit(3).into();
                spec.validate = (bit(4) == 1).then(HttpCheck::present);
                (app(name), spec)
            })
            .collect();
        fleet
    })
}

proptest! {
    #[test]
    fn nothing_leads_from_a_fleet_to_itself(fleet in fleets()) {
        let difference = Difference::between(&fleet, &fleet);
        prop_assert!(difference.is_empty());
        prop_assert_eq!(lists(&difference), BTreeSet::new());
    }

    #[test]
    fn every_field_of_any_fleet_counts(fleet in fleets()) {
        for (path, other) in mutations(&fleet) {
            let difference = Difference::between(&fleet, &other);
            prop_assert_eq!(difference.is_empty(), path == ".generation", "{}", path);
            prop_assert_eq!(lists(&difference).len(), usize::from(path != ".generation"));
        }
    }

    #[test]
    fn two_fleets_differ_where_the_lists_say(old in fleets(), new in fleets()) {
        let difference = Difference::between(&old, &new);
        prop_assert_eq!(difference.is_empty(), old == new);
        prop_assert_eq!(difference.summary() == "nothing changed", old == new);
        prop_assert!(!difference.summary().contains('\n'));

        // Doing what the lists say, and no more, makes the new one of the old.
        let Difference { listeners, pools, tenants, apps, server } = &difference;
        let mut made = old.clone();
        for name in &listeners.removed {
            prop_assert!(made.listeners.remove(name).is_some());
        }
        for name in listeners.to_bind() {
            let before = made.listeners.insert(name.clone(), new.listeners[name].clone());
            prop_assert_eq!(before.is_none(), listeners.added.contains(name));
        }
        for name in &pools.removed {
            prop_assert!(made.pools.remove(name).is_some());
        }
        for name in pools.added.iter().chain(&pools.restarted) {
            let workers = made.pools.get(name).map_or(new.pools[name].workers, |pool| pool.workers);
            let spec = PoolSpec { workers, ..new.pools[name].clone() };
            made.pools.insert(name.clone(), spec);
        }
        for (name, workers) in &pools.scaled {
            made.pools.get_mut(name).unwrap().workers = *workers;
        }
        for name in &tenants.removed {
            prop_assert!(made.tenants.remove(name).is_some());
        }
        for name in tenants.added.iter().chain(&tenants.changed) {
            made.tenants.insert(name.clone(), new.tenants[name].clone());
        }
        for name in &apps.removed {
            prop_assert!(made.apps.remove(name).is_some());
        }
        let handled = [&apps.added, &apps.moved, &apps.sourced, &apps.changed];
        for name in handled.into_iter().flatten() {
            made.apps.insert(name.clone(), new.apps[name].clone());
            prop_assert!(!apps.rerouted.contains(name) && !apps.settled.contains(name));
        }
        for name in &apps.rerouted {
            made.apps.get_mut(name).unwrap().routes = new.apps[name].routes.clone();
        }
        for name in &apps.settled {
            made.apps.get_mut(name).unwrap().rollout = new.apps[name].rollout.clone();
        }
        prop_assert_eq!(server.refused.is_empty(), old.server.state_dir == new.server.state_dir);
        made.server = new.server.clone();
        prop_assert_eq!(made, new);
    }

    #[test]
    fn the_way_back_undoes(old in fleets(), new in fleets()) {
        let there = Difference::between(&old, &new);
        let back = Difference::between(&new, &old);
        prop_assert_eq!(&there.listeners.added, &back.listeners.removed);
        prop_assert_eq!(&there.pools.added, &back.pools.removed);
        prop_assert_eq!(&there.apps.added, &back.apps.removed);
        prop_assert_eq!(&there.listeners.rebound, &back.listeners.rebound);
        prop_assert_eq!(&there.pools.restarted, &back.pools.restarted);
        prop_assert_eq!(&there.apps.changed, &back.apps.changed);
        prop_assert_eq!(&there.apps.rerouted, &back.apps.rerouted);
    }
}
