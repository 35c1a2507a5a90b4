//! The judgement on latency beside something that keeps every core busy: not a
//! part of the normal run, because it takes as many minutes as there are tries.
//!
//! ```text
//! SKEP_TRIES=20 cargo test --test suite -p skep-tests judgement -- --ignored --nocapture
//! ```
//!
//! `stress-ng --cpu N` is started if it is installed, for `SKEP_STRESS` cores.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::traffic::{Mix, Traffic};
use skep_tests::variant::variant;
use skep_tests::{Skep, guest};

use crate::deploys::{deploy, done, tcp};
use crate::{app, pool};

const WATCHED: &str = "rollout = { observe = \"3s\" }";

/// Something that computes on every core for as long as it lives.
struct Stress(Option<Child>);

impl Stress {
    fn start() -> Self {
        let cores = number("SKEP_STRESS", 2);
        let stress = Command::new("stress-ng")
            .args(["--cpu", &cores.to_string(), "--quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        // Without it the machine is as busy as it is.
        Self(stress.ok())
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        if let Some(stress) = &mut self.0 {
            // It ends its own processes when it is asked to.
            let _ = Command::new("kill").arg(stress.id().to_string()).status();
            let _ = stress.wait();
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn traffic(skep: &Skep) -> Traffic {
    let traffic = Traffic::start(
        tcp(skep),
        Mix {
            kept_alive_h1: 4,
            kept_alive_h2: 4,
            pause: Some(Duration::from_millis(2)),
            ..Mix::default()
        },
    );
    skep_tests::wait_for(
        Duration::from_secs(60),
        "some requests",
        || traffic.ended(),
        |ended| *ended > 200,
    );
    traffic
}

#[test]
#[ignore = "minutes; see the module"]
fn twice_as_slow_goes_every_time_on_a_busy_machine() {
    let _stress = Stress::start();
    let skep = Skep::config(&(pool(2) + &app("a", "hostile-late-20ms", WATCHED)));
    let traffic = traffic(&skep);
    let tries = number("SKEP_TRIES", 20);
    let mut back = 0;
    for number in 0..tries {
        let began = Instant::now();
        // One that was taken back is refused otherwise.
        let said = deploy(&skep, &guest("hostile-late-40ms"), &["--force"]);
        let went = said.code == Some(1) && said.stderr.contains("latency");
        back += u64::from(went);
        println!("{number}: {went} after {:.1?}", began.elapsed());
        if !went {
            println!("{}", said.stderr);
            done(&crate::deploys::operate(&skep, &["rollback", "a"]));
        }
    }
    println!("{back} of {tries} taken back");
    traffic.finish().assert_clean();
    assert_eq!(back, tries);
}

#[test]
#[ignore = "minutes; see the module"]
fn an_equal_one_stays_every_time_on_a_busy_machine() {
    let _stress = Stress::start();
    let skep = Skep::config(&(pool(2) + &app("a", "hostile-late-20ms", WATCHED)));
    let traffic = traffic(&skep);
    let tries = number("SKEP_TRIES", 20);
    let mut back = 0;
    for number in 0..tries {
        let began = Instant::now();
        let equal = variant(&guest("hostile-late-20ms"), number, skep.dir().path());
        let said = deploy(&skep, &equal, &[]);
        let compared = said.stderr.contains("compared side by side");
        let unclear = said.stderr.contains("too noisy");
        println!(
            "{number}: {:?} after {:.1?}{}{}",
            said.code,
            began.elapsed(),
            if compared { ", compared" } else { "" },
            if unclear { ", unclear" } else { "" },
        );
        if said.code != Some(0) {
            back += 1;
            println!("{}", said.stderr);
        }
    }
    println!("{back} of {tries} taken back");
    traffic.finish().assert_clean();
    assert_eq!(back, 0);
}
