//! What a fleet on this machine would have: cores, address space, its port.

use std::net::Ipv4Addr;

use skep_engine::Capacity;

use skep_sys::schedule;

use super::Finding;

/// The port of the listener that a configuration need not name.
const DEFAULT_PORT: u16 = 8080;

/// Instances that a busy worker holds: the queue of ten apps of default
/// limits.
const INSTANCES: u32 = 1000;

pub(super) fn findings() -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    vec![
        architecture(std::env::consts::ARCH),
        Finding::ok("cores", format!("{cores}, as many workers by default")),
        slices(&schedule::has_slices()),
        address_space(
            skep_engine::pooling_available(Capacity {
                instances: INSTANCES,
            })
            .map_err(|error| crate::control::chain(&error)),
        ),
        port(
            skep_sys::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(), &[])
                .map(drop)
                .map_err(|error| crate::control::chain(&error)),
        ),
    ]
}

fn architecture(name: &str) -> Finding {
    const WHAT: &str = "architecture";
    if matches!(name, "x86_64" | "aarch64") {
        Finding::ok(WHAT, name)
    } else {
        Finding::missing(WHAT, name, "skep knows x86_64 and aarch64 only")
    }
}

fn address_space(reserved: Result<(), String>) -> Finding {
    const WHAT: &str = "address space";
    match reserved {
        Ok(()) => Finding::ok(
            WHAT,
            format!("enough for {INSTANCES} instances in a worker"),
        ),
        Err(reason) => Finding::missing(WHAT, "not enough for the pooling allocator", reason),
    }
}

fn slices(known: &std::io::Result<bool>) -> Finding {
    const WHAT: &str = "time slices";
    match known {
        Ok(true) => Finding::ok(
            WHAT,
            format!("{} µs for who serves", schedule::SHORT.as_micros()),
        ),
        Ok(false) | Err(_) => Finding::lacking(
            WHAT,
            "the kernel's own for all (Linux 6.12 lets a process ask for others)",
            "beside a tenant whose pool of its own computes, other workers wait some milliseconds \
             for each turn",
        ),
    }
}

fn port(bound: Result<(), String>) -> Finding {
    const WHAT: &str = "port 8080";
    match bound {
        Ok(()) => Finding::ok(WHAT, "free"),
        Err(error) => Finding::lacking(
            WHAT,
            error,
            "the default address cannot be had: use --listen or [listener.*]",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Lacking, Missing, Ok as Fine};
    use super::*;

    #[test]
    fn a_kernel_without_slices_lacks_them() {
        assert_eq!(slices(&Ok(true)).verdict, Fine);
        for unknown in [Ok(false), Err(std::io::ErrorKind::Unsupported.into())] {
            assert_eq!(slices(&unknown).verdict, Lacking);
        }
    }

    #[test]
    fn what_serving_cannot_do_without_is_missing() {
        assert_eq!(architecture("x86_64").verdict, Fine);
        assert_eq!(architecture("riscv64").verdict, Missing);
        assert_eq!(address_space(Ok(())).verdict, Fine);
        assert_eq!(address_space(Err("ulimit".into())).verdict, Missing);
        assert_eq!(port(Ok(())).verdict, Fine);
        assert_eq!(
            port(Err("address in use by nginx (pid 7)".into())).verdict,
            Lacking
        );
    }
}
