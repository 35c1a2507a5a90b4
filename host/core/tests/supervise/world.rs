//! Laws in a fair world: processes that start, serve, wear out, fail and hang
//! as processes do, and operators who want all sorts of things of them. Every
//! roll ends in bounded time, and so does every shutdown.

use std::time::Duration;

use skep_core::SupervisionSettings;
use skep_core::supervise::{Event, Patience, Strength};

use crate::checked::steps;
use crate::sim::{Fate, Manners, Sim, name, secs};

/// Few enough for every run of the tests; `SKEP_SIM_STEPS` asks for more.
const STEPS: u64 = 180_000;

/// Knuth's MMIX generator: enough for dice.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn seconds(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most * 1000))
    }

    fn fate(&mut self, trouble: u64) -> Fate {
        if self.below(100) >= trouble {
            return Fate::Serves {
                ready: self.seconds(3),
                well: true,
                life: None,
                hangs: None,
            };
        }
        match self.below(6) {
            0 => Fate::Unborn,
            1 => Fate::Stillborn {
                after: self.seconds(9),
            },
            2 => Fate::Unfit {
                after: self.seconds(9),
            },
            3 => Fate::Stuck,
            4 => Fate::Serves {
                ready: self.seconds(8),
                well: self.one_in(2),
                life: Some(self.seconds(40)),
                hangs: None,
            },
            _ => Fate::Serves {
                ready: self.seconds(8),
                well: self.one_in(2),
                life: None,
                hangs: Some(self.seconds(40)),
            },
        }
    }

    fn settings(&mut self) -> SupervisionSettings {
        let pick = |wanted, value| if wanted { value } else { 0 };
        SupervisionSettings {
            surge: u16::try_from(self.below(3)).unwrap(),
            max_unavailable: u16::try_from(self.below(3)).unwrap(),
            max_requests: pick(self.one_in(2), 5000),
            max_age: Duration::from_secs(pick(self.one_in(2), 60)),
            memory: pick(self.one_in(2), 1000),
            max_crashes: u32::try_from(self.below(5)).unwrap() + 1,
            drain_timeout: self.seconds(40),
            ..SupervisionSettings::default()
        }
    }
}

fn live(seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..4 {
        dice.below(2);
    }
    let trouble = [0, 10, 40, 100][usize::try_from(dice.below(4)).unwrap()];
    let mut fates = Dice(!seed);
    let mut sim = Sim::new(seed, move |_| fates.fate(trouble));
    sim.checked.set_fair(true);
    sim.usage = |age| {
        let seconds = age.as_secs();
        (100 * seconds, 100 + 10 * seconds)
    };
    let pool = || name("p");
    let (workers, settings) = (dice.below(5), dice.settings());
    sim.add("p", u16::try_from(workers).unwrap(), settings, 1);
    let mut generation = 1;
    for _ in 0..12 {
        let pause = if dice.one_in(3) { 200 } else { 10 };
        sim.run(dice.seconds(pause));
        sim.manners = match dice.below(4) {
            0 => Manners::Busy,
            1 => Manners::Deaf,
            _ => Manners::Polite(dice.seconds(20)),
        };
        let patience = match dice.below(2) {
            0 => Patience::OneTry,
            _ => Patience::UntilTripped,
        };
        let workers = u16::try_from(dice.below(6)).unwrap();
        match dice.below(12) {
            0 => {
                let _ = sim.send(Event::Scale {
                    pool: pool(),
                    workers,
                });
            }
            1 => {
                let _ = sim.send(Event::Reset { pool: pool() });
            }
            2 => {
                let _ = sim.send(Event::RollCancelled { pool: pool() });
            }
            3 => {
                let _ = sim.send(Event::PoolRemoved { pool: pool() });
                sim.run(dice.seconds(60));
                generation += 1;
                sim.add("p", workers, dice.settings(), generation);
            }
            4 => {
                generation += 1;
                sim.add("p", workers, dice.settings(), generation);
                let _ = sim.roll(&[], patience);
            }
            5 | 6 => {
                if let Some(victim) = sim.serving().pop() {
                    let _ = sim.kill(victim);
                }
            }
            7 => {
                if let Some(tired) = sim.serving().first() {
                    let _ = sim.roll(&[tired.0], patience);
                }
            }
            _ => {
                let _ = sim.roll(&[], patience);
            }
        }
    }
    sim.manners = Manners::Polite(dice.seconds(10));
    // By then every roll has ended; that it did is checked at each step.
    sim.run(secs(1200.0));
    sim.finish(Strength::Drain);
}

#[test]
fn laws_hold_in_a_fair_world() {
    let number = |variable| std::env::var(variable).ok()?.parse().ok();
    let wanted: u64 = number("SKEP_SIM_STEPS").unwrap_or(STEPS);
    let mut seed: u64 = number("SKEP_SIM_SEED").unwrap_or(1);
    let begun = steps();
    while steps() - begun < wanted {
        // Tells which world it was if a law is broken.
        let world = std::panic::catch_unwind(|| live(seed));
        assert!(world.is_ok(), "a law is broken in world {seed}");
        seed += 1;
    }
}
