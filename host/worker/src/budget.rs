//! What the apps and tenants of a pool may do over all its workers: rates, and
//! calls of a tenant at one time.
//!
//! Counted on the sheet, which all workers of the pool share, without a message
//! to anybody. An app's own concurrency is not here but in
//! [`admission`](crate::admission): each worker has its share of that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use skep_core::{
    Moment, Outcome, OverRate, PlannedTenant, Rate, RateLimit, RatePer, Refusal, TenantLimits,
    Window,
};
use skep_sys::{Count, Counting, Key, Peer, Register, Sheet, clock};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::admission::{Admission, Share};

/// How often the first of a tenant's requests that wait looks whether a call on
/// another worker has ended: workers send each other no messages. One request
/// per worker looks, however many wait; it takes a microsecond.
const LOOK: Duration = Duration::from_millis(5);

/// Most different values that a request may have in the field by which a rate is
/// counted: more than an honest client sends.
const MAX_VALUES: usize = 4;

/// Where this worker counts by app: its column of the pool's sheet, and its
/// register. Their rows have the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) sheet: Arc<Sheet>,
    pub(crate) cell: u16,
    pub(crate) register: Arc<Register>,
}

/// What one app of a plan may do, together with its tenant's other apps.
#[derive(Debug)]
pub(crate) struct Budget {
    row: u32,
    tenant: Option<Arc<Tenant>>,
}

/// What all apps of a tenant may do.
#[derive(Debug)]
pub(crate) struct Tenant {
    row: u32,
    limits: TenantLimits,
    /// Calls that this worker may begin while others wait for theirs.
    share: u32,
    line: Arc<Line>,
}

/// Requests of a tenant that wait for a call to end. The same from plan to
/// plan.
#[derive(Debug)]
struct Line {
    /// One permit, of the first, for which clients take turns. How many may
    /// wait is bounded by their apps' queues.
    first: Arc<Admission>,
    /// A call on this worker has ended.
    ended: Notify,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            first: Admission::new(Share {
                concurrency: 1,
                queue: u32::MAX,
            }),
            ended: Notify::new(),
        }
    }
}

/// The right of one call of a tenant. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Call {
    on: Column,
    tenant: Arc<Tenant>,
}

/// The client of a connection, for rates per client and clients' shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin([u8; 9]);

impl Origin {
    /// IPv6 clients are networks of 64 bits, because each has so many
    /// addresses; who comes through a unix socket is one client.
    pub(crate) fn of(peer: &Peer) -> Self {
        let mut bytes = [0; 9];
        if let Peer::Tcp(address) = peer {
            // An IPv4 client of a socket for both looks like IPv6.
            match address.ip().to_canonical() {
                IpAddr::V4(ip) => {
                    bytes[0] = 4;
                    bytes[1..5].copy_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes[0] = 6;
                    bytes[1..].copy_from_slice(&ip.octets()[..8]);
                }
            }
        }
        Self(bytes)
    }
}

impl Tenant {
    /// A tenant of a plan for so many workers. `before` is the same tenant in
    /// the plan before.
    pub(crate) fn new(planned: &PlannedTenant, workers: u16, before: Option<&Self>) -> Arc<Self> {
        let workers = u32::from(workers.max(1));
        Arc::new(Self {
            row: planned.row,
            limits: planned.limits.clone(),
            share: planned.limits.concurrency.div_ceil(workers),
            line: before.map_or_else(Arc::default, |before| Arc::clone(&before.line)),
        })
    }

    /// The right of a call, if there is one to be had at once. `None` where
    /// there is no limit.
    fn try_begin(self: &Arc<Self>, on: &Column) -> Result<Option<Call>, Outcome> {
        if self.limits.concurrency == 0 {
            return Ok(None);
        }
        // Requests that wait come first.
        if self.line.first.is_idle() {
            self.begin(on).map(Some)
        } else {
            Err(Outcome::TenantOverBudget)
        }
    }

    fn begin(self: &Arc<Self>, on: &Column) -> Result<Call, Outcome> {
        on.sheet
            .begin_call(self.row, on.cell, self.limits.concurrency, self.share)
            .map_err(|_| Outcome::TenantOverBudget)?;
        Ok(Call {
            on: on.clone(),
            tenant: Arc::clone(self),
        })
    }

    /// The right of a call after a wait: clients take turns, and requests of one
    /// go in the order in which they came.
    async fn wait(
        self: &Arc<Self>,
        on: &Column,
        origin: Origin,
        until: Instant,
    ) -> Result<Call, Outcome> {
        let first = self.line.first.admit(origin, until).await;
        let _first = first.map_err(|_| Outcome::TenantOverBudget)?;
        let _waiting = Waiting::say(on, self.row);
        loop {
            let ended = self.line.ended.notified();
            if let Ok(call) = self.begin(on) {
                return Ok(call);
            }
            let now = Instant::now();
            if now >= until {
                return Err(Outcome::TenantOverBudget);
            }
            tokio::select! {
                () = ended => {}
                () = sleep_until(until.min(now + LOOK)) => {}
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.on.sheet.end_call(self.tenant.row, self.on.cell);
        self.tenant.line.ended.notify_one();
    }
}

impl Budget {
    pub(crate) fn new(row: u32, tenant: Option<Arc<Tenant>>) -> Self {
        Self { row, tenant }
    }

    /// Where the app is counted.
    pub(crate) const fn row(&self) -> u32 {
        self.row
    }

    /// Counts a request that has just come in the rates that it is under: the
    /// app's first, so that what it refuses costs the tenant's others nothing.
    pub(crate) fn pass(
        &self,
        sheet: &Sheet,
        rate: Option<&RateLimit>,
        origin: Origin,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let tenant = self.tenant.as_ref();
        let tenants = tenant.and_then(|tenant| Some((tenant.row, tenant.limits.rate?)));
        if rate.is_none() && tenants.is_none() {
            return Ok(());
        }
        let now = Moment::after_origin(clock::monotonic());
        if let Some(limit) = rate {
            let count = |key| count(sheet, self.row, key, limit.rate, now);
            match &limit.per {
                RatePer::All => count(None)?,
                RatePer::Client => count(Some(sheet.key_of(&origin.0, [&origin.0[..]])))?,
                RatePer::Header(name) => {
                    each_value(headers, name, |value| {
                        count(Some(sheet.key_of(&origin.0, value)))
                    })?;
                }
            }
        }
        match tenants {
            Some((row, rate)) => count(sheet, row, None, rate, now),
            None => Ok(()),
        }
    }

    /// The right of a call, if there is one to be had at once.
    pub(crate) fn try_begin(&self, on: &Column) -> Result<Option<Call>, Outcome> {
        match &self.tenant {
            Some(tenant) => tenant.try_begin(on),
            None => Ok(None),
        }
    }

    /// The right of a call after a wait.
    pub(crate) async fn wait(
        &self,
        on: &Column,
        origin: Origin,
        until: Instant,
    ) -> Result<Option<Call>, Outcome> {
        match &self.tenant {
            Some(tenant) => tenant.wait(on, origin, until).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Says on the sheet that somebody waits here, until it is dropped.
struct Waiting<'a> {
    on: &'a Column,
    row: u32,
}

impl<'a> Waiting<'a> {
    fn say(on: &'a Column, row: u32) -> Self {
        on.sheet.set_waiting(row, on.cell, true);
        Self { on, row }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.on.sheet.set_waiting(self.row, self.on.cell, false);
    }
}

/// Has a request counted for each value that it has for a header, without the
/// white space around it, or once for none. A guest reads the first value, the
/// last, or all: whichever it takes for the client's, the request was counted
/// for that.
fn each_value(
    headers: &HeaderMap,
    name: &str,
    count: impl Fn(Option<&[u8]>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut counted = [None; MAX_VALUES];
    for value in headers.get_all(name) {
        let value = value.as_bytes().trim_ascii();
        if counted.contains(&Some(value)) {
            continue;
        }
        let Some(free) = counted.iter_mut().find(|one| one.is_none()) else {
            return Err(Outcome::BadRequest.into());
        };
        *free = Some(value);
        count(Some(value))?;
    }
    if counted[0].is_none() {
        count(None)?;
    }
    Ok(())
}

/// Counts a request in the window of a row or of one of its keys.
fn count(
    sheet: &Sheet,
    row: u32,
    key: Option<Key>,
    rate: Rate,
    now: Moment,
) -> Result<(), Refusal> {
    let is_over = |count| window(count).is_over(now, rate);
    let step = |count| window(count).admit(now, rate).map(counted);
    let counting = match key {
        Some(key) => sheet.count_key(row, key, now.millis(), is_over, step),
        None => sheet.count(row, step),
    };
    match counting {
        Counting::Done => Ok(()),
        Counting::Refused(over) => Err(over.into()),
        // The sheet has no row left: a request that cannot be counted is refused.
        Counting::NoPlace => Err(OverRate(rate.period).into()),
    }
}

fn window(Count { since, count }: Count) -> Window {
    Window { since, count }
}

fn counted(Window { since, count }: Window) -> Count {
    Count { since, count }
}

#[cfg(test)]
mod tests {
    use skep_core::TenantName;

    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(&Peer::Tcp(address.parse().unwrap()))
    }

    fn desktop(sheet: &Arc<Sheet>, cell: u16) -> Column {
        sheet.use_up_to(cell + 1);
        Column {
            sheet: Arc::clone(sheet),
            cell,
            register: Arc::new(Register::create().unwrap()),
        }
    }

    fn tenant(concurrency: u32, rate: Option<Rate>, workers: u16) -> Arc<Tenant> {
        let planned = PlannedTenant {
            tenant: TenantName::new("t").unwrap(),
            limits: TenantLimits {
                concurrency,
                rate,
                ..TenantLimits::default()
            },
            row: 1,
        };
        Tenant::new(&planned, workers, None)
    }

    fn hourly(count: u32) -> Rate {
        Rate {
            count,
            period: Duration::from_hours(1),
        }
    }

    #[test]
    fn clients_are_addresses_and_networks() {
        assert_eq!(origin("192.0.2.1:80"), origin("192.0.2.1:81"));
        assert_ne!(origin("192.0.2.1:80"), origin("192.0.2.2:80"));
        assert_eq!(origin("192.0.2.1:80"), origin("[::ffff:192.0.2.1]:80"));
        assert_eq!(origin("[2001:db8::1]:80"), origin("[2001:db8::2:3]:80"));
        assert_ne!(origin("[2001:db8::1]:80"), origin("[2001:db8:0:1::1]:80"));
        assert_ne!(Origin::of(&Peer::Unix), origin("[::]:80"));
    }

    #[test]
    fn an_apps_rate_is_each_clients_and_its_tenants_is_all_theirs() {
        let sheet = Sheet::create().unwrap();
        let budget = Budget::new(0, Some(tenant(0, Some(hourly(4)), 1)));
        let limit = |per| RateLimit {
            rate: hourly(2),
            per,
        };
        let client = limit(RatePer::Client);
        let none = HeaderMap::new();
        let pass = |who| budget.pass(&sheet, Some(&client), origin(who), &none);
        for who in ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:2"] {
            assert_eq!(pass(who), Ok(()));
        }
        let refused = pass("192.0.2.1:3").unwrap_err();
        assert_eq!(refused.outcome, Outcome::RateLimited);
        let wait = refused.retry_after.unwrap();
        assert!(wait > Duration::from_mins(59) && wait <= Duration::from_hours(1));
        // What the app refused was not counted for the tenant.
        assert_eq!(pass("192.0.2.2:1"), Ok(()));
        assert!(pass("192.0.2.3:1").is_err());

        let budget = Budget::new(2, None);
        let header = limit(RatePer::Header("x-key".into()));
        let ask = |key: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(key) = key {
                headers.insert("x-key", http::HeaderValue::from_static(key));
            }
            let pass = budget.pass(&sheet, Some(&header), Origin::of(&Peer::Unix), &headers);
            pass.is_ok()
        };
        for key in [None, Some("a"), Some("b"), Some("")] {
            assert_eq!(
                [ask(key), ask(key), ask(key)],
                [true, true, false],
                "{key:?}"
            );
        }
        // Whichever of its values a guest takes, with whatever around them.
        let ask = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", http::HeaderValue::from_static(value));
            }
            budget.pass(&sheet, Some(&header), Origin::of(&Peer::Unix), &headers)
        };
        assert_eq!(ask(&["c", "x"]), Ok(()));
        assert_eq!(ask(&["y", "\tc "]), Ok(()));
        for values in [&["c"][..], &["c", "z"], &["z", "c"], &["v", "", "c", "c"]] {
            let refused = ask(values).unwrap_err();
            assert_eq!(refused.outcome, Outcome::RateLimited, "{values:?}");
        }
        assert_eq!(ask(&["d", " d", "d\t", "d", "d"]), Ok(()));
        assert_eq!(ask(&["d"]), Ok(()));
        let many = ask(&["1", "2", "3", "4", "5"]).unwrap_err();
        assert_eq!(many.outcome, Outcome::BadRequest);
        // No row: nobody.
        let budget = Budget::new(u32::MAX, None);
        assert!(
            budget
                .pass(&sheet, Some(&client), origin("192.0.2.1:1"), &none)
                .is_err()
        );
        assert!(
            budget
                .pass(&sheet, None, origin("192.0.2.1:1"), &none)
                .is_ok()
        );
    }

    #[test]
    fn who_waits_is_let_in_by_an_end_here_or_on_another_worker_or_not_at_all() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let sheet = Arc::new(Sheet::create().unwrap());
            let (here, there) = (desktop(&sheet, 0), desktop(&sheet, 1));
            let both = tenant(2, None, 2);
            let other = tenant(2, None, 2);
            let first = both.try_begin(&here).unwrap().unwrap();
            let second = other.try_begin(&there).unwrap().unwrap();
            assert!(both.try_begin(&here).is_err());

            let soon = || Instant::now() + Duration::from_secs(20);
            for one in [first, second] {
                let waits = both.wait(&here, Origin::of(&Peer::Unix), soon());
                let mut waits = std::pin::pin!(waits);
                let not_yet = tokio::time::timeout(Duration::from_millis(20), &mut waits).await;
                assert!(not_yet.is_err());
                drop(one);
                let call = waits.await.unwrap();
                assert_eq!(sheet.calls(1), 2);
                std::mem::forget(call);
            }
            let late = Instant::now() + Duration::from_millis(20);
            let late = both.wait(&here, Origin::of(&Peer::Unix), late);
            assert!(late.await.is_err());
            assert_eq!(sheet.calls(1), 2);
            // The one with a thousand requests and the one with one.
            let line = &both.line.first;
            let first = line.try_admit(Origin::of(&Peer::Unix)).unwrap();
            assert_eq!(
                both.try_begin(&here).unwrap_err(),
                Outcome::TenantOverBudget
            );
            drop(first);
            // A limit of none.
            assert!(tenant(0, None, 2).try_begin(&here).unwrap().is_none());
        });
    }
}
