//! What an alerter may do: call one webhook, with the system's own resolver
//! and certificates.
//!
//! Its peer is somebody else's server, so what that says is not trusted. But
//! the system's resolver loads libraries and reads what an administrator has
//! configured, so more is open here than in other roles.

use nix::sys::resource::Resource;

use crate::policy::basics::{
    ANSWERED, CALLING, LIVING, Limit, MEMORY, NEW_CODE, PREPARING, READING, SEEKING, TALKING,
    THREADS, THREADS_ANSWERED, WAITING,
};
use crate::policy::seccomp::{Answer, Policy, Refused, Rule, When};

/// Channel, sockets, and what the resolver has open for a moment.
const DESCRIPTORS: u64 = 64;

/// The port of name servers, which answer over TCP what is long.
pub(crate) const DOMAIN: u16 = 53;

/// What it reads: where names are looked up, libraries for that, and
/// certificates, where the systems that we know keep them. All of it is
/// everybody's to read; folders with all beneath.
pub(crate) const FILES: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ld.so.cache",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
];

/// Limits with their soft and hard values. It starts threads, which count as
/// processes of its user, so those are not limited here.
pub(crate) fn resource_limits() -> [Limit; 4] {
    [
        (
            "descriptors",
            Resource::RLIMIT_NOFILE,
            DESCRIPTORS,
            DESCRIPTORS,
        ),
        // The webhook's address is often a secret.
        ("core size", Resource::RLIMIT_CORE, 0, 0),
        ("locked memory", Resource::RLIMIT_MEMLOCK, 0, 0),
        ("message queues", Resource::RLIMIT_MSGQUEUE, 0, 0),
    ]
}

pub(crate) fn policy() -> Policy {
    Policy {
        allowed: vec![
            LIVING, MEMORY, NEW_CODE, WAITING, TALKING, CALLING, PREPARING, READING, SEEKING,
            THREADS, LOOKING,
        ],
        answered: vec![ANSWERED, THREADS_ANSWERED, RESOLVER],
    }
}

/// Finding certificates and the resolver's configuration.
const LOOKING: &[Rule] = &[
    Rule::allow(libc::SYS_getdents64),
    Rule::allow(libc::SYS_readlinkat),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_readlink),
    // How many bytes of an answer wait.
    Rule::allow_when(
        libc::SYS_ioctl,
        When::Is {
            argument: 1,
            value: FIONREAD,
        },
    ),
];

/// The resolver asks caches and the kernel's routes first, and goes on without
/// either.
const RESOLVER: &[Refused] = &[
    Refused::answer_when(libc::SYS_socket, family(libc::AF_UNIX), Answer::Denied),
    Refused::answer_when(libc::SYS_socket, family(libc::AF_NETLINK), Answer::Denied),
];

/// The same on x86-64 and AArch64; its type is not the same in all libcs.
const FIONREAD: u32 = 0x541b;

const fn family(domain: libc::c_int) -> When {
    When::Is {
        argument: 0,
        value: domain.cast_unsigned(),
    }
}
