//! The register: shared memory in which one worker counts what the requests of
//! each app came to. The primary alone reads it.
//!
//! Responsible for the memory and its layout. What the numbers mean, and what of
//! them is believed, is said by `skep-core`'s figures; which row is whose, by the
//! primary: a row has the number of the same app's row on the [sheet](crate::Sheet).
//!
//! ```text
//! used │ row 0 │ room │ row 1 │ room │ …       a page each
//! ```
//!
//! There is a register for each worker, so no worker can change what another has
//! counted. All rows that there can be are there from the beginning: an app that
//! comes later is counted by the workers that run. Memory is spent on those pages
//! only that were touched, which is one for each app that had a request. There is
//! no lock, no message and no system call: a counter is a word that the worker's
//! one thread writes, so an increment is a load and a store.
//!
//! The second page of each row is room for counts by revision, which metrics will
//! want.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::scoreboard::{BUCKETS, OUTCOMES};
use crate::sheet::Sheet;

/// Rows, as many as a sheet has.
const ROWS: u32 = Sheet::ROWS;

/// Counters for classes of statuses in a row.
pub const STATUSES: usize = 5;

/// Buckets of a window's latencies; their bounds are the caller's.
pub const FINE_BUCKETS: usize = 256;

const HEAD: usize = size_of::<Head>();
const ROW: usize = size_of::<RegisterRow>();
/// From one row to the next.
const STRIDE: usize = 2 * ROW;
const LENGTH: usize = HEAD + ROWS as usize * STRIDE;

/// A memory that can shrink would kill its readers with SIGBUS, so it must not;
/// nor may anybody lift that.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// How a request ended, as a row counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The index of its outcome.
    pub outcome: usize,
    /// The index of its status' class, if it was answered.
    pub status: Option<usize>,
    /// How long it took, if that is to be counted.
    pub latency: Option<Took>,
}

/// How long a request took, in the two measures that a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Its bucket among [`BUCKETS`].
    pub bucket: usize,
    /// Its bucket among [`FINE_BUCKETS`].
    pub fine: u8,
    /// The number of the window that is open.
    pub window: u64,
}

/// What a row says. Whoever reads it decides what of that to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowReading {
    /// Requests that were begun.
    pub requests: u64,
    /// Requests by outcome.
    pub outcomes: [u64; OUTCOMES],
    /// Responses by class of status.
    pub statuses: [u64; STATUSES],
    /// Requests by latency.
    pub latency: Vec<u64>,
    /// CPU time of guests in nanoseconds.
    pub cpu_nanos: u64,
    /// Requests that wait.
    pub queued: u32,
    /// Instances that live.
    pub instances: u32,
    /// Bytes that those hold.
    pub guest_memory: u64,
    /// Latencies of windows, with the windows' numbers.
    pub windows: [(u64, Vec<u32>); 2],
}

/// What one worker counts for one app. One page; only the worker's one thread
/// writes it.
#[repr(C, align(4096))]
pub struct RegisterRow {
    requests: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES],
    statuses: [AtomicU64; STATUSES],
    latency: [AtomicU64; BUCKETS],
    cpu: AtomicU64,
    guest_memory: AtomicU64,
    queued: AtomicU32,
    instances: AtomicU32,
    windows: [LatencyWindow; 2],
}

/// Latencies of the requests that ended while one window was open.
#[repr(C)]
struct LatencyWindow {
    number: AtomicU64,
    counts: [AtomicU32; FINE_BUCKETS],
}

/// One bit for each row that was written.
#[repr(C, align(4096))]
struct Head {
    used: [AtomicU64; ROWS as usize / 64],
}

const _: () = assert!(ROW == 4096, "a row is a page");
const _: () = assert!(HEAD == 4096, "the head is a page");

/// Adds to a counter that nobody else writes. Cheaper than an atomic addition by
/// an order of magnitude.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl RegisterRow {
    /// Counts a request, which is in flight from now on.
    pub fn request_began(&self) {
        bump(&self.requests, 1);
    }

    /// Counts the end of a request in flight. An index that is out of range is
    /// counted in the last place.
    pub fn request_ended(&self, ending: Ending) {
        bump(&self.outcomes[ending.outcome.min(OUTCOMES - 1)], 1);
        if let Some(status) = ending.status {
            bump(&self.statuses[status.min(STATUSES - 1)], 1);
        }
        if let Some(took) = ending.latency {
            bump(&self.latency[took.bucket.min(BUCKETS - 1)], 1);
            self.windows[usize::from(took.window % 2 == 1)].count(took.window, took.fine);
        }
    }

    /// Counts CPU time that guests have used.
    pub fn add_cpu(&self, nanos: u64) {
        bump(&self.cpu, nanos);
    }

    /// Counts a request that waits, until [`no_longer_queued`](Self::no_longer_queued).
    pub fn queued(&self) {
        let queued = self.queued.load(Relaxed);
        self.queued.store(queued.wrapping_add(1), Relaxed);
    }

    /// A request waits no more.
    pub fn no_longer_queued(&self) {
        let queued = self.queued.load(Relaxed);
        self.queued.store(queued.wrapping_sub(1), Relaxed);
    }

    /// There are so many more instances, or fewer.
    pub fn add_instances(&self, more: i32) {
        let instances = self.instances.load(Relaxed);
        self.instances
            .store(instances.wrapping_add_signed(more), Relaxed);
    }

    /// Instances hold so many bytes more, or fewer.
    pub fn add_guest_memory(&self, more: i64) {
        let bytes = self.guest_memory.load(Relaxed);
        self.guest_memory
            .store(bytes.wrapping_add_signed(more), Relaxed);
    }

    fn read(&self) -> RowReading {
        let all = |counters: &[AtomicU64]| -> Vec<u64> {
            counters.iter().map(|it| it.load(Relaxed)).collect()
        };
        // Before the requests: each that has ended was begun before that.
        let outcomes = std::array::from_fn(|index| self.outcomes[index].load(Relaxed));
        RowReading {
            outcomes,
            statuses: std::array::from_fn(|index| self.statuses[index].load(Relaxed)),
            latency: all(&self.latency),
            cpu_nanos: self.cpu.load(Relaxed),
            queued: self.queued.load(Relaxed),
            instances: self.instances.load(Relaxed),
            guest_memory: self.guest_memory.load(Relaxed),
            windows: std::array::from_fn(|index| {
                let window = &self.windows[index];
                let counts = window.counts.iter().map(|it| it.load(Relaxed));
                (window.number.load(Relaxed), counts.collect())
            }),
            requests: self.requests.load(Relaxed),
        }
    }

    fn clear(&self) {
        let counters = [&self.requests, &self.cpu, &self.guest_memory];
        let counters = counters
            .into_iter()
            .chain(&self.outcomes)
            .chain(&self.statuses)
            .chain(&self.latency);
        for counter in counters {
            counter.store(0, Relaxed);
        }
        self.queued.store(0, Relaxed);
        self.instances.store(0, Relaxed);
        for window in &self.windows {
            window.open(0);
        }
    }
}

impl LatencyWindow {
    fn count(&self, number: u64, bucket: u8) {
        if self.number.load(Relaxed) != number {
            self.open(number);
        }
        let count = &self.counts[usize::from(bucket)];
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Begins with nothing. A reader that comes in between finds no window of
    /// that number yet.
    fn open(&self, number: u64) {
        self.number.store(u64::MAX, Relaxed);
        for count in &self.counts {
            count.store(0, Relaxed);
        }
        self.number.store(number, Relaxed);
    }
}

impl fmt::Debug for RegisterRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRow")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// The rows of one worker, mapped into this process.
pub struct Register {
    memory: OwnedFd,
    head: NonNull<Head>,
}

// SAFETY: a register hands out nothing but values and `&RegisterRow`, and a row
// is made of atomics only, so the mapping may be used from any thread and from
// several at once; it is unmapped by the drop, which needs the register to itself.
unsafe impl Send for Register {}
// SAFETY: as above.
unsafe impl Sync for Register {}

impl Register {
    /// Makes a register in which nothing is counted. Its size can never change.
    ///
    /// # Errors
    ///
    /// No memory, address space or descriptors left.
    pub fn create() -> io::Result<Self> {
        let memory = memfd_create(
            c"skep-register",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?;
        ftruncate(&memory, i64::try_from(LENGTH).expect("128 MiB"))?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
        Self::map(memory)
    }

    /// Maps a register that another process made.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the memory could be cut away under us or has not a
    /// register's size; otherwise what the kernel says.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS)
            .map_err(|_| unfit("not a register: its memory cannot be sealed"))?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(unfit("not a register: its memory is not sealed"));
        }
        if usize::try_from(fstat(&memory)?.st_size) != Ok(LENGTH) {
            return Err(unfit("not a register: its size is wrong"));
        }
        Self::map(memory)
    }

    fn map(memory: OwnedFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(LENGTH).expect("there are rows");
        // SAFETY: mmap without MAP_FIXED chooses fresh addresses, so it changes
        // no memory that exists. The file is `LENGTH` long and sealed against
        // shrinking, so no access within raises SIGBUS.
        let mapped = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &memory,
                0,
            )
        }?;
        let register = Self {
            memory,
            head: mapped.cast(),
        };
        // A core dump would read, and so allocate, every page of it.
        // SAFETY: exactly the range that was just mapped; the advice changes no
        // byte of it.
        unsafe { madvise(mapped, LENGTH, MmapAdvise::MADV_DONTDUMP) }?;
        Ok(register)
    }

    /// The memory, to be passed to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// A row to count in, or `None` beyond the last.
    #[must_use]
    pub fn row(&self, row: u32) -> Option<&RegisterRow> {
        let found = self.find(row)?;
        let (word, bit) = self.used(row);
        // Said before anything is counted, so that nothing is overlooked.
        let used = word.load(Relaxed);
        if used & bit == 0 {
            word.store(used | bit, Relaxed);
        }
        Some(found)
    }

    /// What a row says; `None` where nothing was ever counted in it. Looking at
    /// such a row would spend memory on it.
    #[must_use]
    pub fn read(&self, row: u32) -> Option<RowReading> {
        let found = self.find(row)?;
        let (word, bit) = self.used(row);
        (word.load(Relaxed) & bit != 0).then(|| found.read())
    }

    /// Clears a row, for another app. Only while the worker does not count in it.
    pub fn clear(&self, row: u32) {
        let Some(found) = self.find(row) else { return };
        let (word, bit) = self.used(row);
        if word.load(Relaxed) & bit != 0 {
            // The bit stays: it is the worker's to write.
            found.clear();
        }
    }

    fn used(&self, row: u32) -> (&AtomicU64, u64) {
        let row = row as usize;
        (&self.head().used[row / 64], 1 << (row % 64))
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a head and is page-aligned, hence
        // aligned for it; it lives as long as `self`, which the result borrows.
        // Any bytes are a valid head, and other processes change them only as
        // atomics do.
        unsafe { self.head.as_ref() }
    }

    fn find(&self, row: u32) -> Option<&RegisterRow> {
        // SAFETY: the mapping holds a head and then `ROWS` times a row and a page
        // of room, and `row` is below that; all of them are pages, so it is
        // aligned. It lives as long as `self`, which the result borrows. Any
        // bytes are a valid row, and other processes change them only as atomics
        // do.
        (row < ROWS).then(|| unsafe {
            self.head
                .add(1)
                .cast::<RegisterRow>()
                .add(row as usize * (STRIDE / ROW))
                .as_ref()
        })
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` got from mmap, unmapped once;
        // every reference borrowed from this register has ended.
        let unmapped = unsafe { munmap(self.head.cast(), LENGTH) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
