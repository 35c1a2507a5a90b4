//! The share law, on a simulated worker: a loop that looks at its sockets,
//! runs what is ready, and lets one guest in line go on at a time.

use proptest::prelude::*;

use super::*;

const MICRO: Duration = Duration::from_micros(1);

/// What the guests of one tenant do.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// So many that never end.
    Hog { calls: usize },
    /// So many clients, each of which sends its next request `think` after the
    /// answer to its last, which takes `cost` (less than a slice).
    Closed {
        clients: usize,
        cost: Duration,
        think: Duration,
    },
}

struct Tenant {
    member: Member,
    load: Load,
    used: Duration,
    /// When the next request of each client is there.
    clients: Vec<Moment>,
    /// Clients whose request is ready, as the sockets were looked at.
    ready: Vec<usize>,
    /// Clients whose request is in line; `None` is a hog's guest.
    line: std::collections::VecDeque<Option<usize>>,
}

struct Worker {
    fair: Fair,
    now: Moment,
    tenants: Vec<Tenant>,
}

/// What a look at the sockets costs.
const LOOK: Duration = Duration::from_micros(3);

impl Worker {
    fn new(loads: &[(Load, u32)]) -> Self {
        let mut fair = Fair::default();
        let now = Moment::after_origin(Duration::from_secs(1000));
        let mut tenants: Vec<_> = loads
            .iter()
            .map(|&(load, weight)| Tenant {
                member: fair.join(NonZeroU32::new(weight).unwrap()),
                load,
                used: Duration::ZERO,
                clients: match load {
                    Load::Hog { .. } => Vec::new(),
                    Load::Closed { clients, .. } => vec![now; clients],
                },
                ready: Vec::new(),
                line: [].into(),
            })
            .collect();
        for tenant in &mut tenants {
            if let Load::Hog { calls } = tenant.load {
                for _ in 0..calls {
                    fair.queue(tenant.member, now);
                    tenant.line.push_back(None);
                }
            }
        }
        Self { fair, now, tenants }
    }

    /// One guest runs.
    fn run(&mut self, at: usize, client: Option<usize>) {
        let slice = if self.fair.wants_short_slices(self.now) {
            Duration::from_micros(250)
        } else {
            Duration::from_millis(1)
        };
        let tenant = &mut self.tenants[at];
        let spent = match tenant.load {
            Load::Hog { .. } => slice,
            Load::Closed { cost, .. } => cost,
        };
        self.now = self.now + spent;
        tenant.used += spent;
        self.fair.charge(tenant.member, self.now, spent);
        match (tenant.load, client) {
            (Load::Closed { think, .. }, Some(client)) => {
                tenant.clients[client] = self.now + think;
            }
            _ => {
                self.fair.queue(tenant.member, self.now);
                tenant.line.push_back(None);
            }
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        self.now = self.now + LOOK;
        self.fair.turn();
        for at in 0..self.tenants.len() {
            let tenant = &mut self.tenants[at];
            for (client, there) in tenant.clients.iter_mut().enumerate() {
                if *there <= self.now {
                    *there = Moment::after_origin(Duration::MAX);
                    tenant.ready.push(client);
                }
            }
            for client in std::mem::take(&mut self.tenants[at].ready) {
                let member = self.tenants[at].member;
                if self.fair.begin(member, self.now) {
                    self.run(at, Some(client));
                } else {
                    self.fair.queue(member, self.now);
                    self.tenants[at].line.push_back(Some(client));
                }
            }
        }
        loop {
            match self.fair.next(self.now) {
                Next::Nobody | Next::HoldBack => return,
                Next::Go(member) => {
                    let tenant = self
                        .tenants
                        .iter()
                        .position(|t| t.member == member)
                        .unwrap();
                    let client = self.tenants[tenant].line.pop_front().unwrap();
                    self.run(tenant, client);
                }
            }
            if self.fair.is_turn_over() {
                return;
            }
        }
    }

    /// What part of the time each tenant used.
    fn shares(&mut self, time: Duration) -> Vec<f64> {
        let until = self.now + time;
        while self.now < until {
            self.turn();
        }
        let used = |tenant: &Tenant| tenant.used.as_secs_f64() / time.as_secs_f64();
        self.tenants.iter().map(used).collect()
    }
}

fn shares(loads: &[(Load, u32)]) -> Vec<f64> {
    Worker::new(loads).shares(Duration::from_secs(2))
}

const fn hello(clients: usize) -> Load {
    Load::Closed {
        clients,
        cost: Duration::from_micros(35),
        think: Duration::from_micros(60),
    }
}

const HOG: Load = Load::Hog { calls: 64 };

#[test]
fn a_tenant_alone_has_all() {
    let alone = shares(&[(HOG, 64)]);
    assert!(alone[0] > 0.99, "{alone:?}");
    let alone = shares(&[(hello(8), 64)]);
    assert!(alone[0] > 0.85, "{alone:?}");
}

#[test]
fn short_calls_keep_their_share_against_a_hog() {
    for clients in [4, 8, 32, 64] {
        let shares = shares(&[(HOG, 64), (hello(clients), 64)]);
        assert!(shares[1] >= 0.4, "{clients} clients: {shares:?}");
        assert!(shares[0] >= 0.45, "{clients} clients: {shares:?}");
    }
}

#[test]
fn a_flood_of_short_calls_does_not_starve_one_that_computes() {
    let flood = Load::Closed {
        clients: 512,
        cost: Duration::from_micros(100),
        think: Duration::ZERO,
    };
    let shares = shares(&[(Load::Hog { calls: 1 }, 64), (flood, 64)]);
    assert!((0.45..0.55).contains(&shares[0]), "{shares:?}");
}

#[test]
fn short_calls_share_with_short_calls() {
    let flood = Load::Closed {
        clients: 512,
        cost: Duration::from_micros(200),
        think: Duration::ZERO,
    };
    let shares = shares(&[(flood, 64), (hello(8), 64)]);
    assert!(shares[1] >= 0.4, "{shares:?}");
}

#[test]
fn one_slow_client_is_not_waited_for_in_vain() {
    let rare = Load::Closed {
        clients: 1,
        cost: Duration::from_micros(35),
        think: Duration::from_millis(3),
    };
    let shares = shares(&[(HOG, 64), (rare, 64)]);
    assert!(shares[0] > 0.9, "{shares:?}");
}

#[test]
fn holding_back_costs_the_one_that_it_is_for() {
    // Comes back just in time, every time, and hardly does anything.
    let tease = Load::Closed {
        clients: 1,
        cost: Duration::from_micros(5),
        think: Duration::from_micros(180),
    };
    let shares = shares(&[(HOG, 64), (tease, 64)]);
    assert!(shares[0] > 0.48, "{shares:?}");
}

#[test]
fn a_pause_gives_no_credit() {
    let mut fair = Fair::default();
    let (hog, sleeper) = (fair.join(EVEN), fair.join(EVEN));
    let mut now = Moment::after_origin(Duration::from_secs(5));
    fair.queue(sleeper, now);
    fair.unqueue(sleeper);
    fair.queue(hog, now);
    for _ in 0..1000 {
        fair.turn();
        assert_ne!(fair.next(now), Next::Nobody);
        now = now + Duration::from_millis(1);
        fair.charge(hog, now, Duration::from_millis(1));
        fair.queue(hog, now);
    }
    fair.queue(sleeper, now);
    let lag = fair
        .virtual_time(hog)
        .saturating_sub(fair.virtual_time(sleeper));
    assert!(lag <= CREDIT + Duration::from_millis(1), "{lag:?}");
}

#[test]
fn who_left_the_line_is_not_let_go_on() {
    let mut fair = Fair::default();
    let one = fair.join(EVEN);
    fair.queue(one, Moment::ORIGIN);
    fair.unqueue(one);
    assert_eq!(fair.next(Moment::ORIGIN), Next::Nobody);
    fair.queue(one, Moment::ORIGIN);
    assert_eq!(fair.next(Moment::ORIGIN), Next::Go(one));
    assert_eq!(fair.next(Moment::ORIGIN), Next::Nobody);
}

#[test]
fn a_number_is_used_again() {
    let mut fair = Fair::default();
    let (one, other) = (fair.join(EVEN), fair.join(EVEN));
    fair.queue(one, Moment::ORIGIN);
    fair.queue(other, Moment::ORIGIN);
    fair.leave(one);
    assert!(!fair.is_contended());
    assert_eq!(fair.join(EVEN), one);
    assert_eq!(fair.next(Moment::ORIGIN), Next::Go(other));
    assert_eq!(fair.next(Moment::ORIGIN), Next::Nobody);
}

fn hogs() -> impl Strategy<Value = Vec<(Load, u32)>> {
    let hog = (1_usize..80, 16_u32..256).prop_map(|(calls, weight)| (Load::Hog { calls }, weight));
    prop::collection::vec(hog, 2..8)
}

fn any_load() -> impl Strategy<Value = Load> {
    prop_oneof![
        (1_usize..80).prop_map(|calls| Load::Hog { calls }),
        (1_usize..100, 1_u32..240, 0_u32..3000).prop_map(|(clients, cost, think)| {
            Load::Closed {
                clients,
                cost: MICRO * cost,
                think: MICRO * think,
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Tenants that always have something to do share as their weights say,
    /// whatever the number of their guests.
    #[test]
    fn hogs_share_by_weight(loads in hogs()) {
        let weights: u32 = loads.iter().map(|(_, weight)| weight).sum();
        let shares = shares(&loads);
        for ((_, weight), share) in loads.iter().zip(&shares) {
            let due = f64::from(*weight) / f64::from(weights);
            prop_assert!((share - due).abs() < 0.02, "{loads:?}: {shares:?}");
        }
    }

    /// Whoever always has something to do gets at least its part, whatever the
    /// others do.
    #[test]
    fn a_hog_is_never_starved(others in prop::collection::vec(any_load(), 1..6)) {
        let mut loads = vec![(Load::Hog { calls: 1 }, EVEN.get())];
        loads.extend(others.into_iter().map(|load| (load, EVEN.get())));
        let shares = shares(&loads);
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let due = 1.0 / loads.len() as f64;
        prop_assert!(shares[0] > 0.85 * due, "{loads:?}: {shares:?}");
    }

    /// Whatever is asked in whatever order, only who is in line is let go on,
    /// and all in line are let go on in the end.
    #[test]
    fn the_line_is_kept(steps in prop::collection::vec((0_u8..5, 0_usize..4, 0_u32..2000), 0..400)) {
        let mut fair = Fair::default();
        let members: Vec<_> = (0..4).map(|_| fair.join(EVEN)).collect();
        let mut line = [0_u32; 4];
        let mut now = Moment::after_origin(Duration::from_secs(1));
        for (step, who, micros) in steps {
            let member = members[who];
            now = now + MICRO * micros;
            match step {
                0 => {
                    fair.queue(member, now);
                    line[who] += 1;
                }
                1 if line[who] > 0 => {
                    fair.unqueue(member);
                    line[who] -= 1;
                }
                2 => fair.charge(member, now, MICRO * micros),
                3 => {
                    fair.begin(member, now);
                    fair.turn();
                }
                _ => if let Next::Go(Member(at)) = fair.next(now) {
                    prop_assert!(line[at] > 0);
                    line[at] -= 1;
                }
            }
        }
        while line.iter().sum::<u32>() > 0 {
            now = now + MICRO * 10;
            match fair.next(now) {
                Next::Go(Member(at)) => line[at] -= 1,
                Next::HoldBack => {}
                Next::Nobody => prop_assert!(false, "left behind: {line:?}"),
            }
        }
    }
}
