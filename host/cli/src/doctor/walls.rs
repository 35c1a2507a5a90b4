//! What keeps skep's processes in: what `sandbox` in the configuration asks for
//! and this machine has.

use skep_sys::cgroup::{Cgroups, Version};
use skep_sys::confine::{Missing, Offer, offer};

use super::Finding;

pub(super) fn findings() -> Vec<Finding> {
    let offer = offer();
    vec![
        landlock(&offer),
        seccomp(&offer),
        sandbox(&offer),
        users(skep_sys::process::is_root()),
        cgroup(Cgroups::look()),
    ]
}

fn landlock(offer: &Offer) -> Finding {
    const WHAT: &str = "landlock";
    let later: Vec<&str> = offer
        .missing
        .iter()
        .filter_map(|missing| match missing {
            Missing::LandlockRight(right) => Some(*right),
            Missing::Landlock | Missing::Seccomp => None,
        })
        .collect();
    if offer.landlock == 0 {
        Finding::lacking(
            WHAT,
            "not there, or not active (add `lsm=landlock,…` to the kernel's command line)",
            "the kernel does not keep a worker that has escaped wasm from files that its user may \
             open, nor a builder or connector; only seccomp and the user hold it",
        )
    } else if later.is_empty() {
        Finding::ok(WHAT, format!("version {}", offer.landlock))
    } else {
        Finding::lacking(
            WHAT,
            format!("version {}, 6 is complete", offer.landlock),
            format!(
                "not held by it, only by seccomp and the user: {}",
                later.join(", ")
            ),
        )
    }
}

fn seccomp(offer: &Offer) -> Finding {
    const WHAT: &str = "seccomp";
    if offer.seccomp {
        Finding::ok(WHAT, "filters available")
    } else {
        Finding::lacking(
            WHAT,
            "no filters",
            "a worker that has escaped wasm, a builder or a connector may make any system call that \
             their user may",
        )
    }
}

fn sandbox(offer: &Offer) -> Finding {
    const WHAT: &str = "sandbox";
    if offer.missing.is_empty() {
        Finding::ok(WHAT, "`require` and `best-effort` are the same here")
    } else {
        Finding::lacking(
            WHAT,
            "not all that it asks for",
            "with `sandbox = \"require\"` nothing is served; \"best-effort\" goes on with what there is",
        )
    }
}

/// Namespaces of users are not needed, so they are not looked at.
fn users(root: bool) -> Finding {
    const WHAT: &str = "users";
    if root {
        Finding::ok(WHAT, "root, so pools can have users of their own (`user`)")
    } else {
        Finding::lacking(
            WHAT,
            "not root",
            "all processes run as this user, and `user` of a pool cannot be kept: a worker that has \
             escaped wasm has this user's rights as far as Landlock and seccomp leave them",
        )
    }
}

fn cgroup(found: Result<Version, String>) -> Finding {
    const WHAT: &str = "cgroup memory";
    match found {
        Ok(version) => Finding::ok(WHAT, version.to_string()),
        Err(reason) => Finding::lacking(
            WHAT,
            reason,
            "a worker's memory is measured and the worker replaced, instead of limited by the kernel",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Lacking, Ok as Fine};
    use super::*;

    fn kernel(landlock: u32, seccomp: bool, missing: &[Missing]) -> Offer {
        Offer {
            landlock,
            seccomp,
            missing: missing.to_vec(),
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let new = kernel(7, true, &[]);
        assert_eq!(landlock(&new).found, "version 7");
        assert_eq!(landlock(&new).verdict, Fine);
        assert_eq!(seccomp(&new).verdict, Fine);
        assert_eq!(sandbox(&new).verdict, Fine);

        let older = kernel(4, true, &[Missing::LandlockRight("requests to devices")]);
        assert_eq!(landlock(&older).verdict, Lacking);
        let consequence = landlock(&older).consequence.unwrap();
        assert!(
            consequence.ends_with("requests to devices"),
            "{consequence}"
        );
        assert_eq!(sandbox(&older).verdict, Lacking);

        let bare = kernel(0, false, &[Missing::Landlock, Missing::Seccomp]);
        assert_eq!(landlock(&bare).verdict, Lacking);
        assert_eq!(seccomp(&bare).verdict, Lacking);
    }

    #[test]
    fn who_skep_runs_as_has_consequences() {
        assert_eq!(users(true).verdict, Fine);
        assert_eq!(users(false).verdict, Lacking);
        assert_eq!(cgroup(Ok(Version::V1)).found, "cgroup v1");
        let none = cgroup(Err("no cgroups are mounted".into()));
        assert_eq!(none.verdict, Lacking);
        assert_eq!(none.found, "no cgroups are mounted");
    }
}
