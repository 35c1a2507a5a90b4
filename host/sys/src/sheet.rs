//! The sheet: shared memory in which the workers of a pool count what they
//! share, so that a limit holds over all of them together.
//!
//! Responsible for the memory, its layout, and for changing it so that every
//! count is right whatever process is killed at whatever instruction. When a
//! window ends and how much fits into it is said by the callers (`skep-core`'s
//! arithmetic); which row is whose, by the primary.
//!
//! ```text
//! head │ row 0 │ row 1 │ …  │ entries of row 0 │ entries of row 1 │ …
//!        ├ window: since, count        ├ (key, since, count)
//!        └ calls of cell 0, cell 1, …  └ …
//! ```
//!
//! There is no lock, so nobody can die with one. A window is one word that
//! changes at once or not at all. A worker's calls in flight are a word that it
//! alone writes while it lives and the primary clears once it is gone; a limit
//! is kept by adding first, looking then, and taking back what was too much.
//!
//! All of it is sparse: memory is spent on those pages only that were touched.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use portable_atomic::AtomicU128;

mod keys;
mod word;

use keys::Entries;
pub use keys::Key;
pub use word::Count;
use word::update;

const ROWS: u32 = Sheet::ROWS;
const CELLS: u16 = Sheet::CELLS;

/// Set in a worker's calls while it has more of them than it may begin.
const WAITING: u32 = 1 << 31;

/// How often a call is tried for that others, who took theirs back at once, may
/// have kept out. Who may wait tries again anyway.
const TRIES: usize = 4;

const HEAD: usize = size_of::<Head>();
const ROW: usize = size_of::<Row>();
const ENTRIES: usize = size_of::<Entries>();
const LENGTH: usize = HEAD + ROWS as usize * (ROW + ENTRIES);

/// A memory that can shrink would kill its readers with SIGBUS, so it must not;
/// nor may anybody lift that.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// What became of something that was to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting<E> {
    /// It was counted.
    Done,
    /// The caller did not want it counted.
    Refused(E),
    /// There is no such row.
    NoPlace,
}

/// A call was not begun, because it would be one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The rows of one pool, mapped into this process.
pub struct Sheet {
    memory: OwnedFd,
    head: NonNull<Head>,
}

// SAFETY: a sheet hands out values only, and all that it reads and writes for
// them are atomics, so the mapping may be used from any thread and from several
// at once; it is unmapped by the drop, which needs the sheet to itself.
unsafe impl Send for Sheet {}
// SAFETY: as above.
unsafe impl Sync for Sheet {}

impl Sheet {
    /// Rows of a sheet: one for each app and each tenant of a pool. A machine
    /// that holds more handlers in one pool runs out of memory long before; the
    /// address space is 16 GiB, of which a process has 8,000 times as much.
    pub const ROWS: u32 = 1 << 14;

    /// Cells of a row, one for each worker that there may be at a time: what
    /// fits on a row's page.
    pub const CELLS: u16 = 1000;

    /// Makes a sheet on which nothing is counted. Its size can never change.
    ///
    /// # Errors
    ///
    /// `Unsupported` on a processor that cannot change 128 bits at once; all of
    /// x86-64 and AArch64 since 2006 can. Otherwise no memory or descriptors
    /// left.
    pub fn create() -> io::Result<Self> {
        let memory = memfd_create(
            c"skep-sheet",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?;
        ftruncate(&memory, i64::try_from(LENGTH).expect("16 GiB"))?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
        let sheet = Self::map(memory)?;
        // Two halves of a key that nobody outside can know: each is made of
        // random numbers of the system's.
        for half in &sheet.head().secret {
            half.store(RandomState::new().hash_one(LENGTH), SeqCst);
        }
        Ok(sheet)
    }

    /// Maps a sheet that another process made.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the memory could be cut away under us or has not a
    /// sheet's size; `Unsupported` as for [`Sheet::create`]; otherwise what the
    /// kernel says.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS)
            .map_err(|_| unfit("not a sheet: its memory cannot be sealed"))?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(unfit("not a sheet: its memory is not sealed"));
        }
        if usize::try_from(fstat(&memory)?.st_size) != Ok(LENGTH) {
            return Err(unfit("not a sheet: its size is wrong"));
        }
        Self::map(memory)
    }

    fn map(memory: OwnedFd) -> io::Result<Self> {
        // Otherwise there would be a lock, and one of this process only.
        if !AtomicU128::is_lock_free() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this processor cannot change 128 bits of memory at once",
            ));
        }
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
        let sheet = Self {
            memory,
            head: mapped.cast(),
        };
        // A core dump would read, and so allocate, every page of it.
        // SAFETY: exactly the range that was just mapped; the advice changes no
        // byte of it.
        unsafe { madvise(mapped, LENGTH, MmapAdvise::MADV_DONTDUMP) }?;
        Ok(sheet)
    }

    /// The memory, to be passed to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a head and is page-aligned, hence
        // aligned for it; it lives as long as `self`, which the result borrows.
        // Any bytes are a valid head, and other processes change them only as
        // atomics do.
        unsafe { self.head.as_ref() }
    }

    fn row(&self, row: u32) -> Option<&Row> {
        // SAFETY: the mapping holds a head and then `ROWS` rows, and `row` is
        // below that; heads and rows are whole pages, so it is aligned. It
        // lives as long as `self`, which the result borrows. Any bytes are a
        // valid row, and other processes change them only as atomics do.
        (row < ROWS).then(|| unsafe { self.head.add(1).cast::<Row>().add(row as usize).as_ref() })
    }

    fn entries(&self, row: u32) -> Option<&Entries> {
        // SAFETY: as for `row`: behind the rows there are as many `Entries`,
        // which are whole pages, too, and made of atomics only.
        (row < ROWS).then(|| unsafe {
            self.head
                .add(1)
                .cast::<Row>()
                .add(ROWS as usize)
                .cast::<Entries>()
                .add(row as usize)
                .as_ref()
        })
    }
}

/// Windows.
impl Sheet {
    /// Changes a row's count as `step` says, at once or not at all. `step` may
    /// be asked more than once: what it is told then is newer.
    pub fn count<E>(&self, row: u32, step: impl Fn(Count) -> Result<Count, E>) -> Counting<E> {
        match self.row(row).map(|row| update(&row.window, 0, step)) {
            Some(Ok(_)) => Counting::Done,
            Some(Err(refused)) => Counting::Refused(refused),
            None => Counting::NoPlace,
        }
    }

    /// Changes the count of one of a row's keys, which [`Sheet::key_of`] made.
    /// Counts for which `is_over` says so are as good as none, and may be taken
    /// for other keys. `now` is since when something is counted that begins.
    ///
    /// Each key has a choice of 16 places of 65,536. If all are taken by others
    /// one of those makes room: one of a client with more keys there, or the one
    /// that was counted least.
    ///
    /// A key that keeps its place never gets more than `step` allows: where two
    /// processes begin a count of the same key at the same time, whoever comes
    /// later counts in both, and is let in only by both. One that had to make
    /// room goes on about where it was; it is only when other clients' keys need
    /// the place of a client with many that it begins anew.
    pub fn count_key<E>(
        &self,
        row: u32,
        key: Key,
        now: u64,
        is_over: impl Fn(Count) -> bool,
        step: impl Fn(Count) -> Result<Count, E>,
    ) -> Counting<E> {
        match self.entries(row) {
            Some(entries) => entries.count(key, now, &is_over, &step),
            None => Counting::NoPlace,
        }
    }

    /// What stands for some bytes that a client brought in this sheet. It
    /// depends on a secret of the sheet's, so that nobody can choose bytes that
    /// stand for the same.
    #[must_use]
    pub fn key_of<'a>(&self, client: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
        keys::key(&self.head().secret, client, parts)
    }
}

/// Calls.
impl Sheet {
    /// Begins a call of a worker, unless all workers together would then have
    /// more than `limit`. Where another worker waits that has less than `share`
    /// itself, one that has `share` or more leaves the place to it.
    ///
    /// # Errors
    ///
    /// There would be too many, or the row or the cell does not exist.
    pub fn begin_call(&self, row: u32, cell: u16, limit: u32, share: u32) -> Result<(), Full> {
        let calls = self.calls_of(row)?;
        let own = calls.get(usize::from(cell)).ok_or(Full)?;
        self.mark(row);
        for _ in 0..TRIES {
            // Added before the others are looked at: of two who do this at the
            // same time at least one sees the other, so there are never too
            // many, though perhaps one less than there could be.
            let mine = (own.fetch_add(1, SeqCst) & !WAITING) + 1;
            let used = usize::from(self.used_cells());
            let (mut all, mut needy) = (u64::from(mine), false);
            for (index, other) in calls
                .iter()
                .enumerate()
                .take(used.max(usize::from(cell) + 1))
            {
                if index != usize::from(cell) {
                    let other = other.load(SeqCst);
                    all += u64::from(other & !WAITING);
                    needy |= other & WAITING != 0 && other & !WAITING < share;
                }
            }
            if all <= u64::from(limit) && !(needy && mine > share) {
                return Ok(());
            }
            take_one(own);
            // Full without me: then nobody's attempt was in the way.
            if needy || all - 1 > u64::from(limit) {
                return Err(Full);
            }
        }
        Err(Full)
    }

    /// Ends a call that was begun.
    pub fn end_call(&self, row: u32, cell: u16) {
        if let Ok(calls) = self.calls_of(row)
            && let Some(own) = calls.get(usize::from(cell))
        {
            take_one(own);
        }
    }

    /// Says whether a worker has more calls than it may begin.
    pub fn set_waiting(&self, row: u32, cell: u16, waiting: bool) {
        if let Ok(calls) = self.calls_of(row)
            && let Some(own) = calls.get(usize::from(cell))
        {
            self.mark(row);
            if waiting {
                own.fetch_or(WAITING, SeqCst);
            } else {
                own.fetch_and(!WAITING, SeqCst);
            }
        }
    }

    /// Calls that are in flight on all workers.
    #[must_use]
    pub fn calls(&self, row: u32) -> u32 {
        let used = usize::from(self.used_cells());
        self.calls_of(row).map_or(0, |calls| {
            let calls = calls.iter().take(used);
            calls.map(|calls| calls.load(SeqCst) & !WAITING).sum()
        })
    }

    /// Says that cells up to `count` are given to workers. Only whoever gives
    /// cells away says so, and before a worker is told of its cell.
    pub fn use_up_to(&self, count: u16) {
        self.head().cells.fetch_max(u32::from(count), SeqCst);
    }

    /// Gives back all calls of a worker. Only once its process is gone.
    pub fn clear_cell(&self, cell: u16) {
        for (index, word) in self.head().called.iter().enumerate() {
            let mut rows = word.load(SeqCst);
            while rows != 0 {
                let bit = rows.trailing_zeros();
                rows &= rows - 1;
                let row = u32::try_from(index).expect("rows are counted in 32 bits") * 64 + bit;
                if let Ok(calls) = self.calls_of(row)
                    && let Some(calls) = calls.get(usize::from(cell))
                {
                    calls.store(0, SeqCst);
                }
            }
        }
    }

    /// Clears a row and gives its memory back. Only while nobody counts in it.
    ///
    /// # Errors
    ///
    /// What the kernel says; the row must not be used for somebody else then.
    pub fn clear_row(&self, row: u32) -> io::Result<()> {
        if row >= ROWS {
            return Ok(());
        }
        let punch = |offset: usize, length: usize| {
            fallocate(
                &self.memory,
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                i64::try_from(offset).expect("within 16 GiB"),
                i64::try_from(length).expect("a megabyte"),
            )
        };
        let index = row as usize;
        punch(HEAD + index * ROW, ROW)?;
        punch(HEAD + ROWS as usize * ROW + index * ENTRIES, ENTRIES)?;
        self.head().called[index / 64].fetch_and(!(1 << (row % 64)), SeqCst);
        Ok(())
    }

    fn used_cells(&self) -> u16 {
        let used = u16::try_from(self.head().cells.load(SeqCst)).unwrap_or(CELLS);
        used.min(CELLS)
    }

    fn calls_of(&self, row: u32) -> Result<&[AtomicU32; CELLS as usize], Full> {
        self.row(row).map(|row| &row.calls).ok_or(Full)
    }

    /// Has the row looked at when a worker is gone. Before anything is counted
    /// in it.
    fn mark(&self, row: u32) {
        let word = &self.head().called[row as usize / 64];
        let bit = 1 << (row % 64);
        if word.load(SeqCst) & bit == 0 {
            word.fetch_or(bit, SeqCst);
        }
    }
}

impl Drop for Sheet {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` got from mmap, unmapped once;
        // every reference borrowed from this sheet has ended.
        let unmapped = unsafe { munmap(self.head.cast(), LENGTH) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

impl fmt::Debug for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sheet")
            .field("cells", &self.used_cells())
            .finish_non_exhaustive()
    }
}

/// What is known of the sheet as a whole.
#[repr(C, align(4096))]
struct Head {
    /// Cells that were ever given to a worker.
    cells: AtomicU32,
    /// What keys are made with.
    secret: [AtomicU64; 2],
    /// One bit for each row that may have calls.
    called: [AtomicU64; ROWS as usize / 64],
}

/// One page.
#[repr(C, align(4096))]
struct Row {
    window: AtomicU128,
    calls: [AtomicU32; CELLS as usize],
}

const _: () = assert!(ROW == 4096, "a row is a page");

fn take_one(calls: &AtomicU32) {
    // Never below nothing: the row may have been given to somebody else.
    let _ = calls.fetch_update(SeqCst, SeqCst, |calls| {
        (calls & !WAITING > 0).then(|| calls - 1)
    });
}

#[cfg(test)]
mod tests;
