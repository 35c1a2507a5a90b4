//! What the kernel says of a process, and what a process asks for itself.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Memory that a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident bytes, shared pages among them.
    pub rss_bytes: u64,
}

/// The memory of a process, or `None` once it is gone.
#[must_use]
pub fn memory(pid: u32) -> Option<MemoryUse> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(MemoryUse {
        rss_bytes: pages * configured(SysconfVar::PAGE_SIZE)?,
    })
}

/// CPU time of a process's own threads, in user and kernel mode together, to
/// the kernel's tick of 10 ms; `None` once it is gone.
#[must_use]
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = parse_cpu_ticks(&stat)?;
    let per_second = configured(SysconfVar::CLK_TCK)?;
    Some(Duration::from_millis(
        ticks.saturating_mul(1000) / per_second,
    ))
}

/// `utime` + `stime`. The name before them may contain anything, spaces and
/// parentheses among it.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Children of a process, zombies among them: to prove that none is left
/// behind. Empty once the process is gone.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut children: Vec<u32> = lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    children.sort_unstable();
    children
}

/// Raises the soft limit of open descriptors to the hard one, and returns it.
///
/// # Errors
///
/// A security module forbids it.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many descriptors this process may have.
///
/// # Errors
///
/// A security module forbids to ask.
pub fn nofile_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// Gives the process the short name that `ps` and `top` show; the kernel cuts
/// it to 15 bytes. After an exec of `/proc/self/exe` it would be `exe`. Called
/// by the main thread.
///
/// # Errors
///
/// `InvalidInput` for a name with a NUL.
pub fn set_title(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    prctl::set_name(&name)?;
    Ok(())
}

/// Nothing that this process executes gains privileges it has not; Landlock
/// and seccomp need that. For ever.
///
/// # Errors
///
/// None that the kernel documents.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Gives up all capabilities of the calling thread, for ever if it cannot gain
/// privileges: then root may do what root's files allow, and nothing that only
/// root may.
///
/// # Errors
///
/// None that the kernel documents.
pub fn drop_capabilities() -> io::Result<()> {
    // linux/capability.h: version 3, for the calling thread, and twice 32 bits
    // of effective, permitted and inheritable ones.
    const VERSION: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: capset reads a header of two words and, for this version, two
    // entries of three words; both arrays live in this frame.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

/// No core file of this process is written, and processes of the same user
/// may not look into it: it may hold secrets of guests.
///
/// # Errors
///
/// None that the kernel documents.
pub fn set_not_dumpable() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// This process and all that it will start use pages of the base size only.
///
/// An allocator that asks for huge pages keeps up to 2 MiB for each that it
/// touches: three quarters of an idle worker's own memory. And an instance's
/// memory is reset page by page.
///
/// # Errors
///
/// None that the kernel documents.
pub fn without_huge_pages() -> io::Result<()> {
    Ok(prctl::set_thp_disable(true)?)
}

/// The user that this process acts as; 0 is root.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether this process acts as root.
#[must_use]
pub fn is_root() -> bool {
    effective_uid() == 0
}

/// How many threads this process has.
///
/// # Errors
///
/// `/proc` is not there.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

fn configured(variable: SysconfVar) -> Option<u64> {
    sysconf(variable).ok()??.try_into().ok()
}

/// Whether this process has so many bytes of address space left in one piece. What
/// is reserved to find out is given back, and takes no memory.
#[must_use]
pub fn has_address_space(bytes: u64) -> bool {
    let Some(length) = usize::try_from(bytes).ok().and_then(NonZeroUsize::new) else {
        return bytes == 0;
    };
    // SAFETY: mmap without MAP_FIXED chooses fresh addresses, so it changes no memory
    // that is in use.
    let reserved = unsafe {
        mmap_anonymous(
            None,
            length,
            ProtFlags::PROT_NONE,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        )
    };
    let Ok(reserved) = reserved else {
        return false;
    };
    // SAFETY: exactly the range that mmap has just given, which nobody uses.
    let gone = unsafe { munmap(reserved, length.get()) };
    debug_assert!(gone.is_ok(), "a range that was mapped is valid");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_space_has_an_end() {
        assert!(has_address_space(0) && has_address_space(1 << 32));
        assert!(!has_address_space(1 << 62));
    }

    #[test]
    fn a_process_sees_itself() {
        let me = std::process::id();
        assert!(memory(me).unwrap().rss_bytes > 100 << 10);
        assert!(cpu(me).unwrap() < Duration::from_secs(3600));
        assert_eq!(memory(u32::MAX), None);
        assert_eq!(cpu(u32::MAX), None);
        assert!(children(u32::MAX).is_empty());
        assert!(threads().unwrap() >= 1);
    }

    #[test]
    fn names_do_not_confuse_the_parser() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 1 2 3";
        assert_eq!(parse_cpu_ticks(stat), Some(200));
        assert_eq!(parse_cpu_ticks("7 (x) S 1"), None);
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn the_descriptor_limit_goes_to_the_hard_one() {
        let hard = raise_nofile_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
