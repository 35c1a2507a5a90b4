//! What the kernel offers, read from `/proc` and `/sys`.

use std::fs;

use super::Finding;

/// The oldest kernel that has every call we cannot do without: `close_range`
/// with `CLOSE_RANGE_CLOEXEC`.
const OLDEST: (u32, u32) = (5, 11);

/// The first with `PAGEMAP_SCAN`.
const WITH_PAGEMAP_SCAN: (u32, u32) = (6, 7);

pub(super) fn findings() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok();
    vec![
        kernel(read("/proc/sys/kernel/osrelease").as_deref()),
        open_files(read("/proc/self/limits").as_deref()),
        somaxconn(read("/proc/sys/net/core/somaxconn").as_deref()),
        overcommit(read("/proc/sys/vm/overcommit_memory").as_deref()),
        watches(read("/proc/sys/fs/inotify/max_user_watches").as_deref()),
    ]
}

const UNREADABLE: &str = "unknown: /proc does not say";

fn number(text: Option<&str>) -> Option<u64> {
    text?.trim().parse().ok()
}

fn kernel(release: Option<&str>) -> Finding {
    const WHAT: &str = "kernel";
    let Some(release) = release.map(str::trim) else {
        return Finding::lacking(WHAT, UNREADABLE, "skep needs Linux 5.11 or newer");
    };
    let mut parts = release
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST {
        Finding::missing(WHAT, release, "skep needs Linux 5.11 or newer")
    } else if version < WITH_PAGEMAP_SCAN {
        Finding::lacking(
            WHAT,
            release,
            "no PAGEMAP_SCAN before Linux 6.7: resetting large instances takes longer",
        )
    } else {
        Finding::ok(WHAT, release)
    }
}

/// Enough for the connections of one busy worker.
const ENOUGH_FILES: u64 = 10_000;

/// skep raises the soft limit to the hard one by itself, so the hard one
/// counts.
fn open_files(limits: Option<&str>) -> Finding {
    const WHAT: &str = "open files";
    let hard = limits
        .and_then(|limits| {
            limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
        })
        .and_then(|line| line.split_whitespace().nth(1));
    match hard.map(|hard| (hard, hard.parse::<u64>())) {
        None => Finding::lacking(WHAT, UNREADABLE, "connections may be few"),
        Some((hard, Ok(limit))) if limit < ENOUGH_FILES => Finding::lacking(
            WHAT,
            format!("at most {hard}"),
            "fewer connections per worker than that (raise it with `ulimit -Hn` or LimitNOFILE=)",
        ),
        Some((hard, _)) => Finding::ok(WHAT, format!("at most {hard}")),
    }
}

/// The backlog that skep asks for.
const BACKLOG: u64 = 4096;

fn somaxconn(text: Option<&str>) -> Finding {
    const WHAT: &str = "somaxconn";
    match number(text) {
        None => Finding::lacking(WHAT, UNREADABLE, "bursts of new connections may be refused"),
        Some(most) if most < BACKLOG => Finding::lacking(
            WHAT,
            most.to_string(),
            format!("of a burst, connections beyond {most} wait for a repeated SYN"),
        ),
        Some(most) => Finding::ok(WHAT, most.to_string()),
    }
}

fn overcommit(text: Option<&str>) -> Finding {
    const WHAT: &str = "overcommit";
    match text.map(str::trim) {
        Some("0") => Finding::ok(WHAT, "heuristic"),
        Some("1") => Finding::ok(WHAT, "always"),
        Some("2") => Finding::lacking(
            WHAT,
            "strict (vm.overcommit_memory=2)",
            "the kernel counts what is reserved and may refuse memory that is free",
        ),
        _ => Finding::lacking(WHAT, UNREADABLE, "reserving address space may fail"),
    }
}

/// Directories of a project of good size.
const ENOUGH_WATCHES: u64 = 1024;

fn watches(text: Option<&str>) -> Finding {
    const WHAT: &str = "file watches";
    match number(text) {
        Some(most) if most >= ENOUGH_WATCHES => Finding::ok(WHAT, most.to_string()),
        found => Finding::lacking(
            WHAT,
            found.map_or_else(|| "no inotify".to_owned(), |most| most.to_string()),
            "`skep dev` may not notice every change (fs.inotify.max_user_watches)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Lacking, Missing, Ok};
    use super::*;

    #[test]
    fn kernels() {
        for (release, verdict) in [
            ("6.18.5\n", Ok),
            ("6.7.0-rc1", Ok),
            ("6.6.87.2-microsoft-standard-WSL2", Lacking),
            ("5.11-generic", Lacking),
            ("5.10.0-30-amd64", Missing),
            ("4.19", Missing),
        ] {
            assert_eq!(kernel(Some(release)).verdict, verdict, "{release}");
        }
        assert_eq!(kernel(None).verdict, Lacking);
    }

    #[test]
    fn numbers() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             1                    2                    processes \n\
                      Max open files            1024                 4096                 files     \n";
        let finding = open_files(Some(limits));
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Lacking, "at most 4096")
        );
        assert_eq!(
            open_files(Some(&limits.replace("4096", "unlimited"))).verdict,
            Ok
        );
        assert_eq!(
            open_files(Some(&limits.replace("4096", "1048576"))).verdict,
            Ok
        );
        assert_eq!(somaxconn(Some("4096\n")).verdict, Ok);
        assert_eq!(somaxconn(Some("128\n")).verdict, Lacking);
        assert_eq!(overcommit(Some("0\n")).verdict, Ok);
        assert_eq!(overcommit(Some("2\n")).verdict, Lacking);
        assert_eq!(watches(Some("524288")).verdict, Ok);
        assert_eq!(watches(None).verdict, Lacking);
    }
}
