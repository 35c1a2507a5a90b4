use super::*;

const SETTINGS: Settings = Settings {
    start_timeout: Duration::from_secs(10),
    hang_timeout: Duration::from_secs(5),
    min_uptime: Duration::from_secs(10),
    backoff: Duration::from_millis(100),
    backoff_max: Duration::from_secs(10),
    forks_a_minute: 10,
};

const UNWANTED: Event = Event::Unwanted {
    within: Duration::from_secs(5),
};

const CRASH: Event = Event::Exited(EndStatus::Code(3));

fn at(millis: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(millis))
}

/// One that was wanted at 0 and serves since 100 ms.
fn serving() -> Solo {
    let mut solo = Solo::new(SETTINGS, 7);
    assert_eq!(solo.step(at(0), Event::Wanted), [Action::Spawn]);
    let spawned = [Action::Notice(Notice::Spawned)];
    assert_eq!(solo.step(at(0), Event::Spawned), spawned);
    assert_eq!(solo.state(), State::Starting);
    assert_eq!(solo.deadline(), Some(at(10_000)));
    let after = Duration::from_millis(100);
    let ready = [Action::Notice(Notice::Ready { after })];
    assert_eq!(solo.step(at(100), Event::Ready), ready);
    let hung = Some(at(5_100));
    assert_eq!((solo.state(), solo.deadline()), (State::Serving, hung));
    solo
}

fn exit_of(actions: &[Action]) -> Exit {
    match actions {
        [Action::Notice(Notice::Exited(exit)), ..] => exit.clone(),
        other => panic!("no exit in {other:?}"),
    }
}

#[test]
fn the_first_crash_after_a_stable_time_is_replaced_at_once() {
    let mut solo = serving();
    let actions = solo.step(at(20_000), CRASH);
    let exit = exit_of(&actions);
    assert_eq!(exit.reason, ExitReason::Crash { code: 3 });
    assert!(!exit.voluntary);
    assert_eq!(exit.next, Some(at(20_000)));
    assert_eq!(actions.last(), Some(&Action::Spawn));
    assert_eq!(solo.restarts(), 1);

    // The next one, which was never stable, waits.
    solo.step(at(20_000), Event::Spawned);
    solo.step(at(20_100), Event::Ready);
    let actions = solo.step(at(20_200), Event::Exited(EndStatus::Signal(11)));
    let exit = exit_of(&actions);
    assert_eq!(exit.reason, ExitReason::Signal { signal: 11 });
    assert_eq!(actions.len(), 1);
    assert_eq!(solo.state(), State::Waiting);
    let until = solo.deadline().unwrap();
    assert_eq!(exit.next, Some(until));
    assert!(until <= at(20_400), "{until:?}");
    assert_eq!(solo.step(until, Event::Timer), [Action::Spawn]);
}

#[test]
fn one_that_never_was_stable_waits_from_the_first_crash() {
    let mut solo = serving();
    solo.step(at(9_000), CRASH);
    assert_eq!(solo.state(), State::Waiting);
    assert!(solo.deadline().unwrap() <= at(9_100));
}

#[test]
fn late_is_killed_and_never_ready() {
    let mut solo = Solo::new(SETTINGS, 7);
    solo.step(at(0), Event::Wanted);
    solo.step(at(0), Event::Spawned);
    assert_eq!(solo.step(at(9_999), Event::Timer), []);
    assert_eq!(solo.step(at(10_000), Event::Timer), [Action::Kill]);
    assert_eq!(solo.step(at(10_001), Event::Ready), []);
    let actions = solo.step(at(10_002), Event::Exited(EndStatus::Signal(9)));
    assert_eq!(exit_of(&actions).reason, ExitReason::StartTimeout);
    assert_eq!(solo.state(), State::Waiting);
}

#[test]
fn one_without_a_sign_of_life_is_killed_and_followed() {
    let mut solo = serving();
    for beat in 1..13 {
        assert_eq!(solo.step(at(beat * 1000), Event::Timer), []);
        let at_beat = Event::Beat(at(beat * 1000));
        assert_eq!(solo.step(at(beat * 1000 + 5), at_beat), []);
    }
    // One that claims to have lived later than now has lived now.
    let future = Event::Beat(at(999_000));
    assert_eq!(solo.step(at(12_500), future), []);
    // An older one changes nothing.
    assert_eq!(solo.step(at(12_600), Event::Beat(at(3_000))), []);
    assert_eq!(solo.deadline(), Some(at(17_500)));
    assert_eq!(solo.step(at(17_499), Event::Timer), []);
    assert_eq!(solo.step(at(17_500), Event::Timer), [Action::Kill]);
    // It beats no more, whatever is seen of it.
    assert_eq!(solo.step(at(17_501), Event::Beat(at(17_501))), []);
    assert_eq!((solo.state(), solo.deadline()), (State::Leaving, None));
    let actions = solo.step(at(17_600), Event::Exited(EndStatus::Signal(9)));
    let exit = exit_of(&actions);
    assert_eq!((exit.reason, exit.voluntary), (ExitReason::Hung, false));
    // It was stable, so it is followed at once.
    assert_eq!(exit.next, Some(at(17_600)));
    assert_eq!(actions.last(), Some(&Action::Spawn));

    // One that hangs from the beginning was never stable.
    let mut solo = serving();
    assert_eq!(solo.step(at(30_000), Event::Timer), [Action::Kill]);
    solo.step(at(30_001), Event::Exited(EndStatus::Signal(9)));
    assert_eq!(solo.state(), State::Waiting);

    // One that is not wanted any more is asked to finish, and not watched.
    let mut solo = serving();
    assert_eq!(solo.step(at(200), UNWANTED), [Action::Drain]);
    assert_eq!(solo.deadline(), Some(at(5_200)));
}

#[test]
fn what_it_says_is_its_reason() {
    let mut solo = Solo::new(SETTINGS, 7);
    solo.step(at(0), Event::Wanted);
    solo.step(at(0), Event::Spawned);
    let message = "no seccomp".to_owned();
    let unfit = Event::Unfit {
        message: message.clone(),
    };
    assert_eq!(solo.step(at(1), unfit), []);
    let actions = solo.step(at(2), CRASH);
    let reason = ExitReason::ValidationFailed { message };
    assert_eq!(exit_of(&actions).reason, reason);
}

#[test]
fn a_failed_fork_is_an_exit() {
    let mut solo = Solo::new(SETTINGS, 7);
    solo.step(at(0), Event::Wanted);
    let message = "no memory".to_owned();
    let failed = Event::SpawnFailed {
        message: message.clone(),
    };
    let actions = solo.step(at(0), failed);
    let reason = ExitReason::SpawnFailed { message };
    assert_eq!(exit_of(&actions).reason, reason);
    assert_eq!(solo.state(), State::Waiting);
}

#[test]
fn it_never_gives_up_and_forks_are_bounded() {
    for seed in 0..50 {
        let mut solo = Solo::new(SETTINGS, seed);
        let mut forks = Vec::new();
        let mut now = at(0);
        let mut actions = solo.step(now, Event::Wanted);
        while now < at(3_600_000) {
            if actions.contains(&Action::Spawn) {
                forks.push(now);
                solo.step(now, Event::Spawned);
                // It is ready at once and dies in a millisecond.
                solo.step(now, Event::Ready);
                now = now + Duration::from_millis(1);
                actions = solo.step(now, CRASH);
            } else {
                let next = solo.deadline().expect("it never gives up");
                now = now.max(next);
                actions = solo.step(now, Event::Timer);
            }
        }
        assert!(forks.len() > 300, "{}", forks.len());
        for (index, first) in forks.iter().enumerate() {
            let within = forks[index..]
                .iter()
                .take_while(|at| at.since(*first) < MINUTE);
            assert!(within.count() <= 10, "seed {seed}: {forks:?}");
        }
        let pending = usize::from(actions.contains(&Action::Spawn));
        assert_eq!(solo.restarts() + 1, (forks.len() + pending) as u64);
    }
}

#[test]
fn stable_ones_that_crash_are_within_the_bound_as_well() {
    let settings = Settings {
        min_uptime: Duration::ZERO,
        ..SETTINGS
    };
    let mut solo = Solo::new(settings, 1);
    let mut actions = solo.step(at(0), Event::Wanted);
    for _ in 0..10 {
        assert_eq!(actions.last(), Some(&Action::Spawn));
        solo.step(at(5), Event::Spawned);
        solo.step(at(5), Event::Ready);
        actions = solo.step(at(5), CRASH);
    }
    assert_eq!(actions.len(), 1);
    assert_eq!(solo.deadline(), Some(at(60_000)));
}

#[test]
fn one_that_is_not_wanted_finishes_or_is_killed() {
    let mut solo = serving();
    assert_eq!(solo.step(at(200), UNWANTED), [Action::Drain]);
    assert!(!solo.is_wanted());
    let mut late = solo.clone();
    let actions = solo.step(at(300), Event::Exited(EndStatus::Code(0)));
    let exit = exit_of(&actions);
    assert_eq!((exit.reason, exit.voluntary), (ExitReason::Requested, true));
    assert_eq!((solo.state(), exit.next), (State::Absent, None));
    assert_eq!(actions.len(), 1);

    assert_eq!(late.step(at(250), UNWANTED), []);
    assert_eq!(late.deadline(), Some(at(5_200)));
    assert_eq!(late.step(at(5_200), Event::Timer), [Action::Kill]);
    assert_eq!(late.deadline(), None);
    let actions = late.step(at(5_300), Event::Exited(EndStatus::Signal(9)));
    assert_eq!(exit_of(&actions).reason, ExitReason::DrainTimeout);
    assert_eq!(late.state(), State::Absent);
}

#[test]
fn one_that_is_wanted_again_is_followed_at_once() {
    let mut solo = serving();
    solo.step(at(200), UNWANTED);
    assert_eq!(solo.step(at(250), Event::Wanted), []);
    assert!(solo.is_wanted());
    let actions = solo.step(at(300), Event::Exited(EndStatus::Code(0)));
    assert!(exit_of(&actions).voluntary);
    assert_eq!(actions.last(), Some(&Action::Spawn));
}

#[test]
fn the_end_kills_and_nothing_follows() {
    let mut solo = serving();
    assert_eq!(solo.step(at(200), Event::Ended), [Action::Kill]);
    assert_eq!(solo.step(at(201), Event::Ended), []);
    let actions = solo.step(at(202), Event::Exited(EndStatus::Signal(9)));
    assert_eq!(exit_of(&actions).reason, ExitReason::Requested);
    assert_eq!(solo.state(), State::Absent);

    let mut waiting = serving();
    waiting.step(at(200), CRASH);
    assert_eq!(waiting.step(at(201), UNWANTED), []);
    assert_eq!(waiting.state(), State::Absent);
    assert_eq!(waiting.step(at(90_000), Event::Timer), []);
}
