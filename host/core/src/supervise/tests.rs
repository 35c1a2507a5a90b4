//! What an event costs, and that a pool steps alone.

use std::time::Duration;

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, PoolName, SlotIndex, WorkerId};
use crate::supervise::visits;
use crate::supervise::{
    Action, EndStatus, Event, Notice, Patience, Pool, Supervisor, WorkerIds, WorkerState,
};

fn at(millis: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(millis))
}

fn name(index: usize) -> PoolName {
    PoolName::new(&format!("p{index}")).unwrap()
}

fn add(pool: PoolName, workers: u16) -> Event {
    Event::PoolAdded {
        pool,
        workers,
        settings: SupervisionSettings::default(),
        generation: Generation(1),
    }
}

fn beat(worker: WorkerId, at: Moment) -> Event {
    Event::Beat {
        worker,
        at,
        served: true,
        requests: 1,
        memory: 1,
    }
}

fn spawned(actions: &[Action]) -> Vec<WorkerId> {
    let spawns = actions.iter().filter_map(|action| match action {
        Action::Spawn { worker, .. } => Some(*worker),
        _ => None,
    });
    spawns.collect()
}

/// A supervisor of so many pools of one worker, all of which serve.
fn serving(pools: usize) -> (Supervisor, Vec<WorkerId>) {
    let mut supervisor = Supervisor::new(1);
    let mut workers = Vec::new();
    for index in 0..pools {
        let started = spawned(&supervisor.step(at(0), add(name(index), 1)));
        for worker in started {
            let _ = supervisor.step(at(0), Event::Spawned { worker });
            let _ = supervisor.step(at(10), Event::Ready { worker });
            workers.push(worker);
        }
    }
    (supervisor, workers)
}

/// Steps of pools for each event of a day in the life of one pool of so many.
fn visits_of_one(pools: usize) -> Vec<u64> {
    let (mut supervisor, workers) = serving(pools);
    let (pool, mut worker) = (name(pools / 2), workers[pools / 2]);
    let of_pool = |event: fn(PoolName) -> Event| event(pool.clone());
    let mut counts = Vec::new();
    let mut now = 100;
    let mut step = |supervisor: &mut Supervisor, event: Event| {
        now += 1;
        let before = visits::steps();
        let actions = supervisor.step(at(now), event);
        counts.push(visits::steps() - before);
        actions
    };
    step(&mut supervisor, beat(worker, at(100)));
    // Nothing is due.
    step(&mut supervisor, Event::Timer);
    let status = EndStatus::Signal(9);
    step(&mut supervisor, Event::Exited { worker, status });
    step(&mut supervisor, of_pool(|pool| Event::Reset { pool }));
    worker = supervisor.workers_of(&pool).next().unwrap().id;
    step(&mut supervisor, Event::Ready { worker });
    let patience = Patience::OneTry;
    let workers = Vec::new();
    let roll = Event::Roll {
        pool: pool.clone(),
        workers,
        patience,
    };
    step(&mut supervisor, roll);
    step(
        &mut supervisor,
        of_pool(|pool| Event::RollCancelled { pool }),
    );
    step(
        &mut supervisor,
        of_pool(|pool| Event::Scale { pool, workers: 2 }),
    );
    step(&mut supervisor, of_pool(|pool| Event::PoolRemoved { pool }));
    step(&mut supervisor, Event::Drained { worker });
    let unknown = WorkerId(1 << 40);
    step(&mut supervisor, Event::Ready { worker: unknown });
    counts
}

#[test]
fn an_event_steps_its_own_pool_and_no_other_however_many_there_are() {
    let of_one = visits_of_one(1);
    assert_eq!(of_one, [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    for pools in [2, 10, 1000] {
        assert_eq!(visits_of_one(pools), of_one, "{pools} pools");
    }
}

#[test]
fn a_timer_steps_the_pools_that_are_due() {
    let (mut supervisor, workers) = serving(100);
    // These hang; all others beat.
    let hung = [7, 11, 13];
    for (index, worker) in workers.iter().enumerate() {
        if !hung.contains(&index) {
            let _ = supervisor.step(at(9000), beat(*worker, at(9000)));
        }
    }
    // All are stable, or hung.
    let before = visits::steps();
    let killed = supervisor.step(at(10_010), Event::Timer);
    assert_eq!(visits::steps() - before, 100);
    let kills = killed.iter().filter_map(|action| match action {
        Action::Kill { worker } => Some(*worker),
        _ => None,
    });
    // In the order of the names of their pools.
    let hanging = [11, 13, 7].map(|index| workers[index]);
    assert_eq!(kills.collect::<Vec<_>>(), hanging, "{killed:?}");
    // From now on they are due when they would hang.
    let due: Vec<PoolName> = supervisor.due(at(15_010)).cloned().collect();
    assert_eq!(due.len(), 3);
    let before = visits::steps();
    let _ = supervisor.step(at(15_010), Event::Timer);
    assert_eq!(visits::steps() - before, 3);
}

#[test]
fn pools_whose_workers_beat_need_no_timer() {
    let (mut supervisor, workers) = serving(10);
    let mut timers = 0;
    for second in 1..=100 {
        for worker in &workers {
            let _ = supervisor.step(at(second * 1000), beat(*worker, at(second * 1000)));
        }
        while supervisor.deadline().unwrap() <= at(second * 1000) {
            timers += 1;
            assert_eq!(supervisor.step(at(second * 1000), Event::Timer), []);
        }
    }
    // When they are stable.
    assert_eq!(timers, 1);
    assert_eq!(supervisor.pool(&name(3)).unwrap().serving, 1);
}

#[test]
fn a_pool_steps_alone_and_is_what_it_was_when_it_is_read_back() {
    let mut ids = WorkerIds::default();
    let mut pool = Pool::new(name(1), 7);
    assert!(pool.is_over());
    let started = spawned(&pool.step(at(0), add(name(1), 2), &mut ids));
    let [one, other] = started[..] else {
        panic!("{started:?}");
    };
    assert!(!pool.is_over());
    assert_eq!(pool.deadline(), Some(at(10_000)));
    let _ = pool.step(at(5), Event::Ready { worker: one }, &mut ids);
    let status = EndStatus::Code(1);
    let exited = Event::Exited {
        worker: other,
        status,
    };
    let _ = pool.step(at(6), exited, &mut ids);

    let written = serde_json::to_string(&pool).unwrap();
    let mut again: Pool = serde_json::from_str(&written).unwrap();
    assert_eq!(again.name(), pool.name());
    assert_eq!(again.deadline(), pool.deadline());
    assert_eq!(again.view(at(6)), pool.view(at(6)));
    assert_eq!(again.worker(one).unwrap().state, WorkerState::Serving);
    assert!(again.workers().eq(pool.workers()));
    let mut theirs = ids.clone();
    for _ in 0..5 {
        let due = pool.deadline().unwrap();
        let actions = pool.step(due, Event::Timer, &mut ids);
        assert_eq!(again.step(due, Event::Timer, &mut theirs), actions);
        assert_eq!(again.deadline(), pool.deadline());
        assert_eq!(serde_json::to_string(&again).unwrap(), {
            serde_json::to_string(&pool).unwrap()
        });
    }
    let exits = |actions: Vec<Action>| {
        let exit = |action: &Action| matches!(action, Action::Notice(Notice::Exited { .. }));
        actions.iter().filter(|action| exit(action)).count()
    };
    let status = EndStatus::Signal(11);
    let exited = |worker| Event::Exited { worker, status };
    assert_eq!(exits(again.step(at(60_000), exited(one), &mut theirs)), 1);
    assert_eq!(exits(again.step(at(60_000), exited(one), &mut theirs)), 0);
}

#[test]
fn one_worker_or_one_pool_is_found_without_the_others() {
    let (supervisor, workers) = serving(3);
    let pool = supervisor.pool(&name(1)).unwrap();
    assert_eq!((pool.name, pool.serving), (name(1), 1));
    assert_eq!(supervisor.pool(&name(9)), None);
    let worker = supervisor.worker(workers[2]).unwrap();
    assert_eq!((worker.pool, worker.slot), (name(2), SlotIndex(0)));
    assert_eq!(supervisor.worker(WorkerId(99)), None);
    let of_pool: Vec<_> = supervisor.workers_of(&name(0)).collect();
    assert_eq!(of_pool.len(), 1);
    assert_eq!(of_pool[0].id, workers[0]);
}
