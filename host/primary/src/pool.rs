//! What the primary keeps for one pool: the scoreboard, who writes which of its
//! cells, what its workers load, and the counts of those that are gone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::{array, io};

use skep_core::{
    FleetSpec, Generation, LogSpec, Outcome, PoolName, PoolSpec, Revision, SlotIndex, WorkerId,
};
use skep_sys::{Board, Cell, OUTCOMES};
use skep_wire::{ListenerRole, LoadApp, ToWorker};

use crate::artifacts::{Artifact, Artifacts};

/// Cells beyond two per slot (a worker and its retired predecessor), for slots
/// whose workers go away more slowly than they are replaced.
const SPARE_CELLS: u16 = 8;

/// Every app is at its first revision until apps can be deployed anew.
pub(crate) const FIRST_REVISION: Revision = Revision(1);

const _: () = assert!(
    Outcome::ALL.len() <= OUTCOMES,
    "every outcome has a counter"
);

/// One pool's belongings.
#[derive(Debug)]
pub(crate) struct Pool {
    spec: PoolSpec,
    generation: Generation,
    log: LogSpec,
    board: Board,
    board_fd: Arc<OwnedFd>,
    /// The writer of each cell.
    writers: Vec<Option<WorkerId>>,
    apps: Vec<(Box<LoadApp>, Arc<OwnedFd>)>,
    gone: Counts,
    last_gone: Option<(WorkerId, u32)>,
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
        self.accepted += other.accepted;
        self.requests += other.requests;
        self.outcomes = array::from_fn(|index| self.outcomes[index] + other.outcomes[index]);
    }
}

impl Pool {
    /// Prepares for the workers of a pool.
    ///
    /// # Errors
    ///
    /// No memory or descriptors left for the scoreboard.
    pub(crate) fn new(
        spec: &FleetSpec,
        name: &PoolName,
        artifacts: &Artifacts,
    ) -> io::Result<Self> {
        let pool = &spec.pools[name];
        let cells = pool.workers.saturating_mul(2).saturating_add(SPARE_CELLS);
        let board = Board::create(cells)?;
        let board_fd = Arc::new(board.as_fd().try_clone_to_owned()?);
        let apps = spec
            .apps
            .iter()
            .filter(|(_, app)| app.pool == *name)
            .map(|(app_name, app)| {
                let artifact: &Artifact = &artifacts[app_name];
                let load = LoadApp {
                    app: app_name.clone(),
                    tenant: app.tenant.clone(),
                    revision: FIRST_REVISION,
                    flavor: artifact.flavor,
                    routes: app.routes.clone(),
                    strip_prefix: app.strip_prefix,
                    limits: app.limits.clone(),
                    instance: app.instance.clone(),
                    env: app.env.clone(),
                    config: app.config.clone(),
                };
                (Box::new(load), Arc::clone(&artifact.file))
            })
            .collect();
        Ok(Self {
            spec: pool.clone(),
            generation: spec.generation,
            log: spec.server.log,
            board,
            board_fd,
            writers: vec![None; usize::from(cells)],
            apps,
            gone: Counts::default(),
            last_gone: None,
        })
    }

    /// The checked specification.
    pub(crate) const fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// How many apps its workers serve.
    pub(crate) const fn apps(&self) -> usize {
        self.apps.len()
    }

    /// The cell of a worker that has one.
    pub(crate) fn cell_of(&self, worker: WorkerId) -> Option<&Cell> {
        self.board.cell(self.index_of(worker)?)
    }

    /// Gives a vacant cell to a worker; `None` when so many workers are going
    /// away that there is none.
    pub(crate) fn claim_cell(&mut self, worker: WorkerId) -> Option<u16> {
        let vacant = self.writers.iter().position(Option::is_none)?;
        self.writers[vacant] = Some(worker);
        let index = u16::try_from(vacant).expect("cells are counted in 16 bits");
        self.board
            .cell(index)
            .expect("writers are as many as cells")
            .reset(worker.0);
        Some(index)
    }

    /// Takes a worker's cell back once its process is gone, and keeps what it
    /// counted.
    pub(crate) fn release_cell(&mut self, worker: WorkerId) {
        let Some(index) = self.index_of(worker) else {
            return;
        };
        let cell = self
            .board
            .cell(index)
            .expect("writers are as many as cells");
        self.gone.add(&Counts::of(cell));
        cell.reset(0);
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

    /// What a new worker is told, with the descriptors of each message.
    pub(crate) fn first_words(
        &self,
        worker: WorkerId,
        name: &PoolName,
        slot: SlotIndex,
        cell: u16,
        listeners: &[(ListenerRole, Arc<OwnedFd>)],
    ) -> Vec<(ToWorker, Vec<Arc<OwnedFd>>)> {
        let begin = ToWorker::Begin {
            worker,
            pool: name.clone(),
            slot,
            cell,
            workers: self.spec.workers,
            generation: self.generation,
            log: self.log,
            listeners: listeners.iter().map(|(role, _)| role.clone()).collect(),
            apps: u32::try_from(self.apps.len()).unwrap_or(u32::MAX),
        };
        let sockets = listeners.iter().map(|(_, socket)| Arc::clone(socket));
        let fds = std::iter::once(Arc::clone(&self.board_fd))
            .chain(sockets)
            .collect();
        let mut words = vec![(begin, fds)];
        words.extend(
            self.apps
                .iter()
                .map(|(load, artifact)| (ToWorker::Load(load.clone()), vec![Arc::clone(artifact)])),
        );
        words
    }

    fn index_of(&self, worker: WorkerId) -> Option<u16> {
        let index = self
            .writers
            .iter()
            .position(|writer| *writer == Some(worker))?;
        u16::try_from(index).ok()
    }
}
