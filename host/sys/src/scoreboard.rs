//! The scoreboard: shared memory in which each worker of a pool counts, and
//! which everybody reads.
//!
//! Responsible for the memory and its layout. What the numbers are good for
//! (fair shares, hang detection, `status`) is decided elsewhere. There is no
//! lock, no message and, once mapped, no system call: every field is an atomic
//! of its own, written by one worker, so a reader may see one field newer than
//! another and nothing worse.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::sole::Sole as _;

/// Counters for outcomes in a cell; the index is the caller's.
pub const OUTCOMES: usize = 24;

/// Buckets of a cell's latency histogram; their bounds are the caller's.
pub const BUCKETS: usize = 63;

const CELL: usize = size_of::<Cell>();
const HEAD: usize = size_of::<Head>();

const fn length_of(cells: u16) -> usize {
    HEAD + cells as usize * CELL
}

/// A memory that can shrink would kill its readers with SIGBUS, so it must not;
/// nor may anybody lift that.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// What one worker counts. On pages of its own, so that workers share no
/// cache line and one mapping can one day be read-only but for one cell.
#[repr(C, align(4096))]
pub struct Cell {
    owner: AtomicU64,
    heartbeat: AtomicU64,
    ready: AtomicU32,
    connections: AtomicU32,
    in_flight: AtomicU32,
    instances: AtomicU32,
    accepted: AtomicU64,
    requests: AtomicU64,
    good: AtomicU64,
    guest_memory: AtomicU64,
    instantiations: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES],
    latency: [AtomicU64; BUCKETS],
}

impl Cell {
    /// The unique number of the worker that writes this cell; 0 is nobody.
    #[must_use]
    pub fn owner(&self) -> u64 {
        self.owner.load(Relaxed)
    }

    /// Clears everything and gives the cell to a worker; 0 makes it vacant.
    /// Only while no worker writes it: before one is told of it, or after its
    /// end.
    pub fn reset(&self, owner: u64) {
        // Nobody may take the old numbers for the new worker's.
        self.owner.store(0, Relaxed);
        for counter in [
            &self.ready,
            &self.connections,
            &self.in_flight,
            &self.instances,
        ] {
            counter.store(0, Relaxed);
        }
        let counters = [
            &self.heartbeat,
            &self.accepted,
            &self.requests,
            &self.good,
            &self.guest_memory,
            &self.instantiations,
        ];
        for counter in counters
            .into_iter()
            .chain(&self.outcomes)
            .chain(&self.latency)
        {
            counter.store(0, Relaxed);
        }
        self.owner.store(owner, Relaxed);
    }

    /// The worker's last sign of life, as [`clock::monotonic`](crate::clock::monotonic)
    /// counts; zero when there was none yet.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_nanos(self.heartbeat.load(Relaxed))
    }

    /// Gives a sign of life.
    pub fn beat(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.heartbeat.store(nanos, Relaxed);
    }

    /// Whether the worker takes connections, so that its load counts for the
    /// fair shares of the pool.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) != 0
    }

    /// Says whether the worker takes connections.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(u32::from(ready), Relaxed);
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Connections that were ever accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Counts an accepted connection, which is open from now on.
    pub fn connection_opened(&self) {
        self.accepted.add(1);
        self.connections.add(1);
    }

    /// Counts the end of an open connection.
    pub fn connection_closed(&self) {
        let before = self.connections.sub(1);
        debug_assert!(before > 0, "only open connections are closed");
    }

    /// Requests whose head was ever read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Requests that are being worked on.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests that ended well.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.good.load(Relaxed)
    }

    /// Counts a request, which is in flight from now on.
    pub fn request_started(&self) {
        self.requests.add(1);
        self.in_flight.add(1);
    }

    /// Counts the end of a request in flight: its outcome, the latency bucket
    /// of its duration, and whether it ended well. An index that is out of
    /// range is counted in the last place.
    pub fn request_ended(&self, outcome: usize, bucket: usize, good: bool) {
        self.outcomes[outcome.min(OUTCOMES - 1)].add(1);
        self.latency[bucket.min(BUCKETS - 1)].add(1);
        if good {
            self.good.add(1);
        }
        let before = self.in_flight.sub(1);
        debug_assert!(before > 0, "only requests in flight end");
    }

    /// Requests by outcome.
    #[must_use]
    pub fn outcomes(&self) -> [u64; OUTCOMES] {
        std::array::from_fn(|index| self.outcomes[index].load(Relaxed))
    }

    /// Requests by latency bucket.
    #[must_use]
    pub fn latency(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|index| self.latency[index].load(Relaxed))
    }

    /// Bytes of memory that guests hold.
    #[must_use]
    pub fn guest_memory(&self) -> u64 {
        self.guest_memory.load(Relaxed)
    }

    /// Says how many bytes of memory guests hold.
    pub fn set_guest_memory(&self, bytes: u64) {
        self.guest_memory.store(bytes, Relaxed);
    }

    /// Instances that live.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.instances.load(Relaxed)
    }

    /// Says how many instances live.
    pub fn set_instances(&self, instances: u32) {
        self.instances.store(instances, Relaxed);
    }

    /// Instances that were ever made.
    #[must_use]
    pub fn instantiations(&self) -> u64 {
        self.instantiations.load(Relaxed)
    }

    /// Says how many instances were ever made.
    pub fn set_instantiations(&self, instantiations: u64) {
        self.instantiations.store(instantiations, Relaxed);
    }

    /// Counts an instance that was made.
    pub fn count_instantiation(&self) {
        self.instantiations.add(1);
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell")
            .field("owner", &self.owner())
            .field("ready", &self.is_ready())
            .field("connections", &self.connections())
            .field("requests", &self.requests())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What is known of the board as a whole. On a page of its own, before the
/// cells.
#[repr(C, align(4096))]
struct Head {
    used: AtomicU32,
}

/// The cells of one pool, mapped into this process.
///
/// There may be many more cells than workers: only those up to [`Board::used`]
/// are looked at, and memory is spent on no others.
pub struct Board {
    memory: OwnedFd,
    head: NonNull<Head>,
    cells: u16,
}

// SAFETY: a board hands out nothing but `&Cell`, and a cell is made of atomics
// only, so the mapping may be used from any thread and from several at once;
// it is unmapped by the drop, which needs the board to itself.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Makes a board whose cells are all vacant. Its size can never change.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for no cells; otherwise no memory or descriptors left.
    pub fn create(cells: u16) -> io::Result<Self> {
        if cells == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let memory = memfd_create(
            c"skep-scoreboard",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?;
        let length = length_of(cells);
        ftruncate(&memory, i64::try_from(length).expect("at most 257 MiB"))?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
        Self::map(memory, cells)
    }

    /// Maps a board that another process made.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the memory could be cut away under us or has not a
    /// size that a board can have; otherwise what the kernel says.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS)
            .map_err(|_| unfit("not a scoreboard: its memory cannot be sealed"))?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(unfit("not a scoreboard: its memory is not sealed"));
        }
        let size = usize::try_from(fstat(&memory)?.st_size).unwrap_or(0);
        let cells = u16::try_from(size.saturating_sub(HEAD) / CELL).unwrap_or(0);
        if cells == 0 || size != length_of(cells) {
            return Err(unfit("not a scoreboard: its size is wrong"));
        }
        Self::map(memory, cells)
    }

    fn map(memory: OwnedFd, cells: u16) -> io::Result<Self> {
        let length = NonZeroUsize::new(length_of(cells)).expect("there are cells");
        // SAFETY: mmap without MAP_FIXED chooses fresh addresses, so it changes
        // no memory that exists. The file is at least `length` long and sealed
        // against shrinking, so no access within raises SIGBUS.
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
        Ok(Self {
            memory,
            head: mapped.cast(),
            cells,
        })
    }

    /// The memory, to be passed to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// How many cells there are.
    #[must_use]
    pub const fn cells(&self) -> u16 {
        self.cells
    }

    /// One cell, or `None` beyond the end.
    #[must_use]
    pub fn cell(&self, index: u16) -> Option<&Cell> {
        // SAFETY: the mapping holds a head and then `cells` cells, and index is
        // below that; it is page-aligned and a head is a page, hence aligned
        // for a cell; it lives as long as `self`, which the result borrows. Any
        // bytes are a valid cell, and other processes change them only as
        // atomics do.
        (index < self.cells).then(|| unsafe {
            self.head
                .add(1)
                .cast::<Cell>()
                .add(usize::from(index))
                .as_ref()
        })
    }

    /// How many cells, from the first, were ever given to a worker.
    #[must_use]
    pub fn used(&self) -> u16 {
        let used = u16::try_from(self.head().used.load(Relaxed)).unwrap_or(u16::MAX);
        used.min(self.cells)
    }

    /// Says that cells up to `count` are given to workers. Only whoever gives
    /// cells away says so, and before a worker is told of its cell.
    pub fn use_up_to(&self, count: u16) {
        self.head().used.fetch_max(u32::from(count), Relaxed);
    }

    /// The cells that were ever used, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Cell> {
        (0..self.used()).filter_map(|index| self.cell(index))
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a head and is page-aligned, hence
        // aligned for it; it lives as long as `self`, which the result borrows.
        // Any bytes are a valid head, and other processes change them only as
        // atomics do.
        unsafe { self.head.as_ref() }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` got from mmap, unmapped once;
        // every reference borrowed from this board has ended.
        let unmapped = unsafe { munmap(self.head.cast(), length_of(self.cells)) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("cells", &self.cells)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_mapping_counts_another_reads() {
        let board = Board::create(3).unwrap();
        let other = Board::open(board.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.cells(), 3);
        assert!(other.cell(3).is_none());

        assert_eq!(other.iter().count(), 0);
        board.use_up_to(3);
        board.use_up_to(1);
        assert_eq!((other.used(), other.iter().count()), (3, 3));
        let cell = board.cell(2).unwrap();
        cell.reset(7);
        cell.beat(Duration::from_secs(5));
        cell.set_ready(true);
        cell.connection_opened();
        cell.request_started();
        cell.request_started();
        cell.request_ended(0, 4, true);
        cell.request_ended(99, 99, false);
        cell.connection_closed();
        cell.connection_opened();
        cell.set_guest_memory(1 << 40);

        let seen = other.cell(2).unwrap();
        assert_eq!(seen.owner(), 7);
        assert_eq!(seen.heartbeat(), Duration::from_secs(5));
        assert!(seen.is_ready());
        assert_eq!((seen.connections(), seen.accepted()), (1, 2));
        assert_eq!((seen.requests(), seen.in_flight(), seen.good()), (2, 0, 1));
        assert_eq!((seen.outcomes()[0], seen.outcomes()[OUTCOMES - 1]), (1, 1));
        assert_eq!((seen.latency()[4], seen.latency()[BUCKETS - 1]), (1, 1));
        assert_eq!(seen.guest_memory(), 1 << 40);
        assert_eq!(other.iter().filter(|cell| cell.owner() != 0).count(), 1);

        other.cell(2).unwrap().reset(0);
        assert_eq!(
            (cell.owner(), cell.requests(), cell.outcomes()[0]),
            (0, 0, 0)
        );
        assert!(!cell.is_ready());
    }

    #[test]
    fn memory_that_is_no_board_is_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Board::open(file.into()).is_err());

        let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(Board::open(unsealed).is_err());

        let odd = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&odd, 4097).unwrap();
        fcntl(&odd, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(Board::open(odd).is_err());

        assert!(Board::create(0).is_err());
    }

    #[test]
    fn the_size_is_final() {
        let board = Board::create(1).unwrap();
        assert!(ftruncate(board.as_fd(), 0).is_err());
        assert!(ftruncate(board.as_fd(), 1 << 20).is_err());
    }
}
