//! What the primary keeps for one pool: the scoreboard and the sheet, who writes
//! which of their cells, the plan that its workers serve, and the counts of those that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{array, io};

use skep_core::converge::{Convergence, Pace, Step};
use skep_core::{
    HandlerId, LogSpec, Moment, Outcome, Plan, PoolName, PoolSpec, Sandbox, SlotIndex, WorkerId,
};
use skep_sys::{Board, Cell, OUTCOMES, Sheet};
use skep_wire::{ListenerRole, ToWorker};

use crate::artifacts::Digest;
use crate::catalog::{Catalog, Entry};
use crate::figures::{Books, Registered, Total, Whose};
use crate::process::Words;
use crate::rows::{Reused, Rows};
use crate::shelf::{Descriptor, Folder};

/// Cells of a pool: three for each worker of the largest (one that serves and
/// two that are going away), and some for those that go away slowly. Those that
/// were never used cost nothing.
const CELLS: u16 = 3 * 256 + 64;

const _: () = assert!(
    Outcome::ALL.len() <= OUTCOMES,
    "every outcome has a counter"
);
const _: () = assert!(CELLS <= Sheet::CELLS, "every worker has a cell in a row");

/// One pool's belongings.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The checked specification, with the number of workers of now.
    pub(crate) spec: PoolSpec,
    /// What its workers are to serve.
    pub(crate) plan: Box<Plan>,
    /// How far they are with that.
    pub(crate) convergence: Convergence,
    board: Board,
    board_fd: Arc<OwnedFd>,
    sheet: Sheet,
    sheet_fd: Arc<OwnedFd>,
    rows: Rows,
    /// Where its workers may open artifacts.
    folder: Folder,
    /// The writer of each cell, as far as cells were used.
    writers: Vec<Option<WorkerId>>,
    /// What those workers count by app that are to be counted.
    registers: BTreeMap<WorkerId, Registered>,
    gone: Counts,
    last_gone: Option<(WorkerId, u32)>,
}

/// Who a new worker is.
#[derive(Clone, Debug)]
pub(crate) struct Newborn<'a> {
    /// Its unique number.
    pub(crate) worker: WorkerId,
    /// Its pool.
    pub(crate) pool: &'a PoolName,
    /// Its place.
    pub(crate) slot: SlotIndex,
    /// Its cell in the scoreboard.
    pub(crate) cell: u16,
    /// Where it counts by app.
    pub(crate) register: Arc<OwnedFd>,
    /// How it logs.
    pub(crate) log: LogSpec,
    /// What happens where the kernel cannot confine it.
    pub(crate) sandbox: Sandbox,
    /// How long it waits for its handlers to be valid.
    pub(crate) grace: Duration,
    /// Those of them that it does not wait for.
    pub(crate) quarantined: &'a BTreeSet<HandlerId>,
    /// Those without which it does not serve.
    pub(crate) vital: &'a BTreeSet<HandlerId>,
}

/// What workers count, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that were accepted.
    pub(crate) accepted: u64,
    /// Requests that were read.
    pub(crate) requests: u64,
    /// Requests by outcome.
    pub(crate) outcomes: [u64; OUTCOMES],
}

impl Counts {
    /// What a cell says now.
    pub(crate) fn of(cell: &Cell) -> Self {
        Self {
            accepted: cell.accepted(),
            requests: cell.requests(),
            outcomes: cell.outcomes(),
        }
    }

    /// Adds what somebody else counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.requests = self.requests.saturating_add(other.requests);
        self.outcomes =
            array::from_fn(|index| self.outcomes[index].saturating_add(other.outcomes[index]));
    }
}

impl Pool {
    /// Prepares for the workers of a pool.
    ///
    /// # Errors
    ///
    /// No memory or descriptors left for the scoreboard or the sheet.
    pub(crate) fn new(spec: PoolSpec, mut plan: Plan, folder: Folder) -> io::Result<Self> {
        let board = Board::create(CELLS)?;
        let board_fd = Arc::new(board.as_fd().try_clone_to_owned()?);
        let sheet = Sheet::create()?;
        let sheet_fd = Arc::new(sheet.as_fd().try_clone_to_owned()?);
        let mut rows = Rows::default();
        let _ = rows.give(&mut plan);
        Ok(Self {
            spec,
            convergence: Convergence::new(plan.number, plan.handlers()),
            plan: Box::new(plan),
            board,
            board_fd,
            sheet,
            sheet_fd,
            rows,
            folder,
            writers: Vec::new(),
            registers: BTreeMap::new(),
            gone: Counts::default(),
            last_gone: None,
        })
    }

    /// Has the workers come to another plan; says what they are to be told. What
    /// was counted in rows that are given to others goes into the `books`.
    pub(crate) fn come_to(
        &mut self,
        mut plan: Plan,
        pace: Pace,
        (books, now): (&mut Books, Moment),
    ) -> Vec<Step> {
        if self.convergence.is_settled() {
            let sheet = &self.sheet;
            self.rows.settled(|row| sheet.clear_row(row).is_ok());
        }
        for Reused { row, former } in self.rows.give(&mut plan) {
            let closed = self.registers.values_mut();
            for total in closed.filter_map(|registered| registered.close(row, now)) {
                books.keep(&former, &total, now);
            }
        }
        let steps = self.convergence.want(plan.number, plan.handlers(), pace);
        *self.plan = plan;
        steps
    }

    /// The cell of a worker that has one.
    pub(crate) fn cell_of(&self, worker: WorkerId) -> Option<&Cell> {
        self.board.cell(self.index_of(worker)?)
    }

    /// The number of a worker's cell, if it has one.
    pub(crate) fn cell_index(&self, worker: WorkerId) -> Option<u16> {
        self.index_of(worker)
    }

    /// The scoreboard, for those who read it.
    pub(crate) fn board_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.board_fd)
    }

    /// Gives a vacant cell to a worker; `None` when so many workers are going
    /// away that there is none.
    pub(crate) fn claim_cell(&mut self, worker: WorkerId) -> Option<u16> {
        let used = self.writers.len();
        let vacant = self.writers.iter().position(Option::is_none);
        let vacant = vacant.or_else(|| (used < usize::from(CELLS)).then_some(used))?;
        self.writers.resize(used.max(vacant + 1), None);
        self.writers[vacant] = Some(worker);
        let index = u16::try_from(vacant).expect("cells are counted in 16 bits");
        self.board.use_up_to(index + 1);
        self.sheet.use_up_to(index + 1);
        self.board
            .cell(index)
            .expect("there are no more writers than cells")
            .reset(worker.0);
        Some(index)
    }

    /// Counts what a worker of this pool counts by app, from its birth on.
    pub(crate) fn count_by(&mut self, worker: WorkerId, registered: Registered) {
        self.registers.insert(worker, registered);
    }

    /// Adds what workers have counted for each app. `memory` is the most bytes
    /// that an instance of an app may have.
    pub(crate) fn add_totals(
        &mut self,
        totals: &mut BTreeMap<Whose, Total>,
        memory: impl Fn(&Whose) -> u64,
        now: Moment,
    ) {
        for (whose, row) in self.rows.of_apps() {
            for registered in self.registers.values_mut() {
                if let Some(total) = registered.read(row, memory(whose), now) {
                    let sum = totals.entry(whose.clone()).or_default();
                    sum.add(&total, now);
                }
            }
        }
    }

    /// Takes a worker's cell back once its process is gone, and keeps what it
    /// counted: what it counted by app in the `books`.
    pub(crate) fn release_cell(&mut self, worker: WorkerId, books: &mut Books, now: Moment) {
        if let Some(mut registered) = self.registers.remove(&worker) {
            for (whose, row) in self.rows.of_apps() {
                if let Some(total) = registered.close(row, now) {
                    books.keep(whose, &total, now);
                }
            }
        }
        let Some(index) = self.index_of(worker) else {
            return;
        };
        let cell = self
            .board
            .cell(index)
            .expect("there are no more writers than cells");
        self.gone.add(&Counts::of(cell));
        cell.reset(0);
        self.sheet.clear_cell(index);
        self.writers[usize::from(index)] = None;
    }

    /// Remembers the process of the worker that exited last.
    pub(crate) const fn remember_gone(&mut self, worker: WorkerId, pid: u32) {
        self.last_gone = Some((worker, pid));
    }

    /// The process of a worker that has exited, if it was the last.
    pub(crate) fn pid_of_gone(&self, worker: WorkerId) -> Option<u32> {
        self.last_gone
            .and_then(|(gone, pid)| (gone == worker).then_some(pid))
    }

    /// What the pool's workers counted, those that are gone among them.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.gone;
        for (cell, writer) in self.board.iter().zip(&self.writers) {
            if writer.is_some() {
                counts.add(&Counts::of(cell));
            }
        }
        counts
    }

    /// What a new worker is told, with the descriptors of each message. It
    /// `meets` others before it could be ready.
    pub(crate) fn first_words(
        &mut self,
        newborn: &Newborn<'_>,
        plan: Box<Plan>,
        catalog: &Catalog,
        listeners: &[(ListenerRole, Arc<OwnedFd>)],
        meets: Vec<Words>,
    ) -> Vec<Words> {
        let handlers = plan.handlers();
        let begin = ToWorker::Begin {
            worker: newborn.worker,
            pool: newborn.pool.clone(),
            slot: newborn.slot,
            cell: newborn.cell,
            workers: plan.workers,
            generation: plan.generation,
            log: newborn.log,
            sandbox: newborn.sandbox,
            drain_timeout: self.spec.supervision.drain_timeout,
            grace: newborn.grace,
            listeners: listeners.iter().map(|(role, _)| role.clone()).collect(),
            loads: u32::try_from(handlers.len()).unwrap_or(u32::MAX),
        };
        let sockets = listeners.iter().map(|(_, socket)| socket);
        let folder = self.folder.fd();
        let fds = [&self.board_fd, &self.sheet_fd, &newborn.register]
            .into_iter()
            .map(|fd| Descriptor::from(Arc::clone(fd)))
            .chain([folder])
            .chain(sockets.map(|fd| Descriptor::from(Arc::clone(fd))))
            .collect();
        let mut words = vec![(begin, fds)];
        words.extend(meets);
        words.extend(
            handlers
                .into_iter()
                .map(|handler| (handler, self.load(catalog.entry(handler))))
                .map(|(handler, (mut message, fds))| {
                    if let ToWorker::Load(load) = &mut message {
                        load.quarantined = newborn.quarantined.contains(&handler);
                        load.vital = newborn.vital.contains(&handler);
                    }
                    (message, fds)
                }),
        );
        words.push((ToWorker::Serve(plan), Vec::new()));
        words
    }

    /// The message that makes a worker of this pool load a handler, with its
    /// descriptor.
    pub(crate) fn load(&mut self, entry: &Entry) -> Words {
        let message = ToWorker::Load(entry.load.clone());
        let artifact = &entry.artifact;
        let file = self.folder.open(artifact.component, artifact.file());
        (message, vec![file])
    }

    /// Removes the artifacts of all but these components from its folder.
    pub(crate) fn forget_artifacts(&mut self, but: &BTreeSet<Digest>) {
        self.folder.keep_only(but);
    }

    fn index_of(&self, worker: WorkerId) -> Option<u16> {
        let index = self
            .writers
            .iter()
            .position(|writer| *writer == Some(worker))?;
        u16::try_from(index).ok()
    }
}
