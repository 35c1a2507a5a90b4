use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn digest(of: u8) -> String {
    format!("{of:064x}")
}

fn begin(history: &mut History, of: u8) -> Revision {
    history.begin(digest(of), "/srv/app.wasm".into(), 7)
}

fn live(history: &mut History, of: u8) -> Revision {
    let revision = begin(history, of);
    history.live(revision);
    revision
}

fn outcome(history: &History, revision: Revision) -> RevisionOutcome {
    history.get(revision).unwrap().outcome
}

fn start(history: &mut History, of: u8) -> AtStart {
    history.at_start(&digest(of), "/srv/app.wasm".into(), 8)
}

#[test]
fn a_deploy_supersedes_and_a_rollback_returns() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    assert_eq!((one, history.previous()), (Revision(1), None));
    let two = live(&mut history, 2);
    assert_eq!(outcome(&history, one), RevisionOutcome::Superseded);
    assert_eq!(history.previous(), Some(one));

    history.rolled_back(two, Some(one), "5 % of requests fail".into(), true);
    assert_eq!(history.active(), Some(one));
    assert_eq!(outcome(&history, one), RevisionOutcome::Live);
    assert_eq!(outcome(&history, two), RevisionOutcome::RolledBack);
    assert_eq!(history.previous(), None);
    assert_eq!(history.refusal_of(&digest(2)).unwrap().revision, two);

    let forced = live(&mut history, 2);
    assert_eq!(history.refusal_of(&digest(2)), None);
    assert_eq!(history.previous(), Some(one));
    assert_eq!(forced, Revision(3));
}

#[test]
fn a_rollback_returns_to_what_answered_and_not_to_what_was_skipped() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    let two = live(&mut history, 2);
    let three = live(&mut history, 3);
    history.rolled_back(three, Some(one), "by the operator".into(), false);
    assert_eq!(outcome(&history, two), RevisionOutcome::Superseded);
    assert_eq!(history.refusal_of(&digest(3)), None);
    let four = live(&mut history, 4);
    assert_eq!(history.previous(), Some(one));
    history.rolled_back(four, Some(three), "by the operator".into(), false);
    assert_eq!(history.active(), Some(three));
    assert_eq!(history.get(three).unwrap().reason, None);
    assert_eq!(history.previous(), Some(one));
}

#[test]
fn a_canary_is_taken_back_from_under_the_active_one() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    let two = begin(&mut history, 2);
    history.rolled_back(two, Some(one), "twice as slow".into(), true);
    assert_eq!(history.active(), Some(one));
    assert_eq!(outcome(&history, two), RevisionOutcome::RolledBack);
    history.rejected(two, "too late".into());
    history.rejected(one, "it answers".into());
    assert_eq!(outcome(&history, two), RevisionOutcome::RolledBack);
    assert_eq!(outcome(&history, one), RevisionOutcome::Live);
}

#[test]
fn the_first_revision_has_nothing_to_go_back_to() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    history.rolled_back(one, None, "it fails".into(), true);
    assert_eq!((history.active(), history.previous()), (None, None));
    // With nothing else to serve it is tried again rather than refused.
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(2)));
}

#[test]
fn a_start_goes_on_with_the_active_revision_until_the_source_changes() {
    let mut history = History::new();
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(1)));
    history.live(Revision(1));
    assert_eq!(start(&mut history, 1), AtStart::Active(Revision(1)));

    // Deployed by command from elsewhere: the source is still what it was.
    let two = live(&mut history, 2);
    assert_eq!(start(&mut history, 1), AtStart::Active(two));
    assert_eq!(start(&mut history, 3), AtStart::New(Revision(3)));
    history.rejected(Revision(3), "it does not compile".into());
    assert_eq!(start(&mut history, 3), AtStart::Active(two));

    // Deployed by command from the source itself.
    let four = live(&mut history, 4);
    assert_eq!(start(&mut history, 4), AtStart::Active(four));
    assert_eq!(history.revisions().len(), 4);
}

#[test]
fn a_source_that_is_put_back_after_a_deploy_from_it_is_new() {
    let mut history = History::new();
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(1)));
    history.live(Revision(1));
    let two = live(&mut history, 2);
    history.was_read(two);
    assert_eq!(start(&mut history, 2), AtStart::Active(two));
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(3)));
    history.live(Revision(3));
    // An operator's return to what was before stays, whatever the source is.
    let four = live(&mut history, 4);
    history.was_read(four);
    history.rolled_back(four, Some(Revision(3)), "no".into(), false);
    assert_eq!(start(&mut history, 4), AtStart::Active(Revision(3)));
}

#[test]
fn a_start_does_not_repeat_what_was_rolled_back() {
    let mut history = History::new();
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(1)));
    history.live(Revision(1));
    let bad = live(&mut history, 2);
    history.rolled_back(bad, Some(Revision(1)), "it fails".into(), true);
    let refused = AtStart::Refused {
        active: Revision(1),
        refused: bad,
    };
    assert_eq!(start(&mut history, 2), refused);
    assert_eq!(start(&mut history, 2), AtStart::Active(Revision(1)));
}

#[test]
fn a_roll_out_that_skep_did_not_outlive_is_rejected_and_tried_again() {
    let mut history = History::new();
    assert_eq!(start(&mut history, 1), AtStart::New(Revision(1)));
    history.live(Revision(1));
    assert_eq!(start(&mut history, 2), AtStart::New(Revision(2)));
    // kill -9
    assert_eq!(start(&mut history, 2), AtStart::New(Revision(3)));
    let two = history.get(Revision(2)).unwrap();
    assert_eq!(two.outcome, RevisionOutcome::Rejected);
    assert_eq!(two.reason.as_deref(), Some(INTERRUPTED));
    assert_eq!(history.active(), Some(Revision(1)));
    // A reload leaves what is on its way alone.
    let again = history.on_reading(&digest(2), "/srv/app.wasm".into(), 9);
    assert_eq!(again, AtStart::Active(Revision(1)));
    assert_eq!(outcome(&history, Revision(3)), RevisionOutcome::Deploying);
}

fn numbers(history: &History) -> Vec<u32> {
    let records = history.revisions().iter();
    records.map(|record| record.revision.0).collect()
}

fn needed(history: &History) -> BTreeSet<&str> {
    history.needed().collect()
}

#[test]
fn the_oldest_are_forgotten_and_rejected_ones_do_not_push_live_ones_out() {
    let mut history = History::new();
    for of in 1..=5 {
        let _ = live(&mut history, of);
    }
    let rejected = u32::try_from(KEPT_REJECTED).unwrap();
    for _ in 0..rejected + 2 {
        let revision = begin(&mut history, 9);
        history.rejected(revision, "no".into());
    }
    history.prune(5, &BTreeSet::new());
    let mut expected: Vec<u32> = (1..=5).chain(8..8 + rejected).collect();
    assert_eq!(numbers(&history), expected);
    history.prune(3, &BTreeSet::from([Revision(1)]));
    expected.retain(|number| ![2, 3].contains(number));
    assert_eq!(numbers(&history), expected);
    history.prune(1, &BTreeSet::new());
    assert_eq!(numbers(&history)[..2], [4, 5]);
    assert_eq!(history.previous(), Some(Revision(4)));
    // A number that was given is not given again.
    assert_eq!(history.next().0, 5 + rejected + 3);
    // Nobody returns to one that never answered.
    assert_eq!(needed(&history), BTreeSet::from([&*digest(4), &*digest(5)]));
}

#[test]
fn an_attempt_that_was_not_built_is_listed_and_its_number_is_gone() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    let two = history.begin(String::new(), "/srv/broken.wasm".into(), 8);
    assert_eq!(needed(&history), BTreeSet::from([&*digest(1)]));
    history.rejected(two, "build: it is no component".into());
    history.built(two, digest(2));
    assert_eq!(history.get(two).unwrap().digest, "");
    let three = history.begin(String::new(), "/srv/good.wasm".into(), 9);
    assert_eq!(three, Revision(3));
    history.built(three, digest(3));
    assert_eq!(history.get(three).unwrap().digest, digest(3));
    assert_eq!(history.active(), Some(one));
    // kill -9
    assert_eq!(start(&mut history, 9), AtStart::New(Revision(4)));
    assert_eq!(outcome(&history, three), RevisionOutcome::Rejected);
}

#[test]
fn a_refused_attempt_does_not_lift_the_refusal() {
    let mut history = History::new();
    let one = live(&mut history, 1);
    let bad = live(&mut history, 2);
    history.rolled_back(bad, Some(one), "it fails".into(), true);
    let again = begin(&mut history, 2);
    history.rejected(again, "check: it was rolled back before".into());
    assert_eq!(history.refusal_of(&digest(2)).unwrap().revision, bad);
}

fn pretty(history: &History) -> String {
    serde_json::to_string_pretty(history).unwrap()
}

#[test]
fn texts_are_cut_when_they_go_in() {
    let mut history = History::new();
    let long = "\u{1}ä".repeat(1 << 19);
    let one = history.begin("d".repeat(1000), long.clone().into(), 7);
    history.rejected(one, long.clone());
    let record = history.get(one).unwrap();
    assert_eq!(record.digest.len(), 64);
    let (source, reason) = (record.source.to_str().unwrap(), record.reason.as_ref());
    for text in [source, reason.unwrap()] {
        assert!(text.ends_with('…'), "it says that it was cut");
        assert!((4000..=4096).contains(&text.len()));
    }
    let two = history.begin(digest(2), "x".into(), 8);
    history.rolled_back(two, None, long, true);
    assert!(history.get(two).unwrap().reason.as_ref().unwrap().len() <= MAX_REASON);
}

#[test]
fn what_is_written_can_be_read_again_whatever_was_said() {
    let mut history = History::new();
    let _ = live(&mut history, 1);
    for number in 0..300_u32 {
        // Six bytes each as JSON, and a new one each time.
        let reason = format!("{number}{}", "\u{1}".repeat(1 << 16));
        let revision = begin(&mut history, 2);
        history.rejected(revision, reason);
        if number % 2 == 0 {
            let revision = live(&mut history, 3);
            history.rolled_back(revision, Some(Revision(1)), "\u{1}".repeat(9000), true);
        }
    }
    let text = pretty(&history);
    assert!(text.len() <= MAX_WRITTEN, "{} bytes", text.len());
    assert!(history.revisions().len() > 50, "as many as fit are kept");
    assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    assert_eq!(history.active(), Some(Revision(1)));
    assert_eq!(history.next(), Revision(452));
}

#[test]
fn what_is_left_of_a_history_is_taken_over() {
    let mut history = History::new();
    for of in 1..=3 {
        let _ = live(&mut history, of);
    }
    let four = begin(&mut history, 4);
    history.set_paused(true);
    let records = history.revisions().to_vec();
    let whole = Pieces {
        next: Some(history.next()),
        active: history.active(),
        paused: true,
        read: None,
        trail: vec![Revision(1), Revision(2), Revision(2), Revision(9)],
        revisions: records.iter().rev().cloned().collect(),
    };
    let mended = History::mended(whole.clone()).unwrap();
    history.rejected(four, "its history was damaged".into());
    assert_eq!(mended, history);

    // Without its head: the numbers and the one that was live are in the records.
    let headless = Pieces {
        revisions: records[1..].to_vec(),
        ..Pieces::default()
    };
    let mended = History::mended(headless).unwrap();
    assert_eq!(
        (mended.next(), mended.active()),
        (Revision(5), Some(Revision(3)))
    );

    // Without its records: the numbers that were given are not given again.
    let torn = Pieces {
        revisions: Vec::new(),
        ..whole
    };
    let mended = History::mended(torn).unwrap();
    assert_eq!((mended.next(), mended.active()), (Revision(5), None));
    assert!(mended.paused());
    assert_eq!(History::mended(Pieces::default()), None);
    for mended in [u32::MAX, 0, 1 << 31] {
        let next = Some(Revision(mended));
        let pieces = Pieces {
            next,
            ..Pieces::default()
        };
        assert_eq!(History::mended(pieces), None);
    }
}

#[test]
fn the_written_form_stays() {
    let mut history = History::new();
    let one = begin(&mut history, 1);
    history.rejected(one, "it does not compile".into());
    let _ = start(&mut history, 2);
    history.live(Revision(2));
    history.set_paused(true);
    let expected = serde_json::json!({
        "version": 1,
        "next": 3,
        "active": 2,
        "paused": true,
        "read": digest(2),
        "trail": [],
        "revisions": [
            {
                "revision": 1, "digest": digest(1), "source": "/srv/app.wasm", "unix_millis": 7,
                "outcome": "rejected", "reason": "it does not compile", "automatic": false,
            },
            {
                "revision": 2, "digest": digest(2), "source": "/srv/app.wasm", "unix_millis": 8,
                "outcome": "live", "reason": null, "automatic": false,
            },
        ],
    });
    assert_eq!(serde_json::to_value(&history).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<History>(expected).unwrap(),
        history
    );
}

#[test]
fn what_is_no_history_is_refused() {
    let mut history = History::new();
    let _ = live(&mut history, 1);
    let _ = live(&mut history, 2);
    let good = serde_json::to_value(&history).unwrap();
    for (pointer, value, complaint) in [
        ("/version", 2.into(), "version 2, expected 1"),
        ("/next", 2.into(), "revision 2 is out of order"),
        (
            "/next",
            u32::MAX.into(),
            "revision 4294967295 is out of order",
        ),
        (
            "/revisions/1/revision",
            1.into(),
            "revision 1 is out of order",
        ),
        ("/active", 1.into(), "revision 1 is live and not active"),
        ("/active", serde_json::Value::Null, "revision 2 is live"),
        ("/trail/0", 9.into(), "revision 9 has no record"),
        (
            "/revisions/0/outcome",
            "deployed".into(),
            "unknown variant `deployed`",
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let error = serde_json::from_value::<History>(bad).unwrap_err();
        assert!(error.to_string().contains(complaint), "{pointer}: {error}");
    }
    let mut bad = good;
    bad["hue"] = 1.into();
    assert!(serde_json::from_value::<History>(bad).is_err());
}

#[derive(Clone, Debug)]
enum Op {
    Begin(u8),
    Live(u32),
    Rejected(u32),
    RolledBack(u32, Option<u32>, bool),
    Rollback,
    Start(u8),
    Reading(u8),
    Pause(bool),
    Prune(usize, BTreeSet<u32>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let number = || 0_u32..24;
    let of = || 0_u8..5;
    let op = prop_oneof![
        4 => of().prop_map(Op::Begin),
        6 => number().prop_map(Op::Live),
        2 => number().prop_map(Op::Rejected),
        2 => (number(), prop::option::of(number()), any::<bool>())
            .prop_map(|(from, to, automatic)| Op::RolledBack(from, to, automatic)),
        2 => Just(Op::Rollback),
        1 => of().prop_map(Op::Start),
        1 => of().prop_map(Op::Reading),
        1 => any::<bool>().prop_map(Op::Pause),
        2 => (0_usize..6, prop::collection::btree_set(number(), 0..3))
            .prop_map(|(keep, in_use)| Op::Prune(keep, in_use)),
    ];
    prop::collection::vec(op, 0..60)
}

/// A history, and what it may be held to.
#[derive(Default)]
struct Checked {
    history: History,
    given: BTreeSet<Revision>,
    was_live: BTreeSet<Revision>,
}

impl Checked {
    fn given(&mut self, revision: Revision) {
        assert!(self.given.insert(revision), "{revision} was given before");
        assert_eq!(self.given.last(), Some(&revision), "numbers go up");
    }

    fn started(&mut self, start: AtStart) {
        match start {
            AtStart::New(revision) => {
                self.given(revision);
                assert_eq!(outcome(&self.history, revision), RevisionOutcome::Deploying);
            }
            AtStart::Active(active) => assert_eq!(self.history.active(), Some(active)),
            AtStart::Refused { active, refused } => {
                assert_eq!(self.history.active(), Some(active));
                assert!(self.history.get(refused).unwrap().automatic);
            }
        }
    }

    fn apply(&mut self, op: Op) {
        let history = &mut self.history;
        match op {
            Op::Begin(of) => {
                let revision = begin(history, of);
                self.given(revision);
            }
            Op::Live(revision) => history.live(Revision(revision)),
            Op::Rejected(revision) => history.rejected(Revision(revision), "no".into()),
            Op::RolledBack(from, to, automatic) => {
                history.rolled_back(
                    Revision(from),
                    to.map(Revision),
                    "taken back".into(),
                    automatic,
                );
            }
            Op::Rollback => {
                if let (Some(active), Some(to)) = (history.active(), history.previous()) {
                    history.rolled_back(active, Some(to), "by the operator".into(), false);
                    assert_eq!(history.active(), Some(to));
                }
            }
            Op::Start(of) => {
                let begun = start(history, of);
                let mut on_their_way = history
                    .revisions()
                    .iter()
                    .filter(|r| r.outcome == RevisionOutcome::Deploying)
                    .map(|r| r.revision);
                match begun {
                    AtStart::New(new) => assert!(on_their_way.eq([new])),
                    _ => assert_eq!(on_their_way.next(), None),
                }
                self.started(begun);
            }
            Op::Reading(of) => {
                let begun = history.on_reading(&digest(of), "/srv/app.wasm".into(), 9);
                self.started(begun);
            }
            Op::Pause(paused) => history.set_paused(paused),
            Op::Prune(keep, in_use) => self.prune(keep, in_use),
        }
    }

    fn prune(&mut self, keep: usize, in_use: BTreeSet<u32>) {
        let in_use: BTreeSet<Revision> = in_use.into_iter().map(Revision).collect();
        let before = self.history.clone();
        self.history.prune(keep, &in_use);
        assert_eq!(self.history.active(), before.active());
        assert_eq!(self.history.previous(), before.previous());
        let mut removed = 0;
        for record in before.revisions() {
            if self.history.get(record.revision) == Some(record) {
                continue;
            }
            assert_eq!(self.history.get(record.revision), None);
            assert_ne!(Some(record.revision), before.active());
            assert_ne!(record.outcome, RevisionOutcome::Deploying);
            assert!(!in_use.contains(&record.revision));
            removed += usize::from(record.outcome != RevisionOutcome::Rejected);
        }
        let rejected = |record: &&RevisionRecord| record.outcome == RevisionOutcome::Rejected;
        let of = |history: &History| history.revisions().iter().filter(rejected).count();
        let excess = (before.revisions().len() - of(&before)).saturating_sub(keep);
        assert!(removed <= excess, "more was forgotten than asked");
        assert!(of(&before) - of(&self.history) <= of(&before).saturating_sub(KEPT_REJECTED));
    }

    fn laws(&mut self) {
        let history = &self.history;
        self.was_live.extend(history.active());
        for record in history.revisions() {
            assert!(self.given.contains(&record.revision));
            let live = record.outcome == RevisionOutcome::Live;
            assert_eq!(live, history.active() == Some(record.revision));
            let is_bad = matches!(
                record.outcome,
                RevisionOutcome::Rejected | RevisionOutcome::RolledBack
            );
            assert_eq!(record.reason.is_some(), is_bad);
            assert!(!record.automatic || record.outcome == RevisionOutcome::RolledBack);
        }
        if let Some(active) = history.active() {
            assert!(history.get(active).is_some());
        }
        if let Some(previous) = history.previous() {
            assert_ne!(history.active(), Some(previous));
            assert!(self.was_live.contains(&previous));
            assert_eq!(outcome(history, previous), RevisionOutcome::Superseded);
        }
        for of in 0..5 {
            if let Some(record) = history.refusal_of(&digest(of)) {
                assert_eq!(record.digest, digest(of));
                assert_ne!(history.active(), Some(record.revision));
            }
        }
        let written = serde_json::to_string(history).unwrap();
        assert_eq!(&serde_json::from_str::<History>(&written).unwrap(), history);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Under any sequence: numbers go up, exactly the active revision is live
    /// and it is never forgotten, what a rollback returns to exists and
    /// answered once, and what is written is what is read.
    #[test]
    fn the_laws_hold_under_any_sequence(ops in ops()) {
        let mut checked = Checked::default();
        for op in ops {
            checked.apply(op);
            checked.laws();
        }
    }
}
