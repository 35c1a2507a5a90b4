//! The engines of one worker process.

use std::sync::OnceLock;

use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::fault::chain;
use crate::meter::Clock;
use crate::settings::{self, Flavor};

/// Engines cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The pooling allocator cannot reserve its address space. Serving without
    /// it would be ten times slower without a word, so we do not.
    #[error(
        "cannot reserve address space for {instances} instances: {reason}; lower `concurrency`, or \
         lift the limit (`ulimit -v unlimited`, vm.overcommit_memory=0)"
    )]
    NoAddressSpace {
        /// Instances that were asked for.
        instances: u32,
        /// What wasmtime said.
        reason: String,
    },
}

/// How much a worker may hold at a time.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Live instances, idle ones included.
    pub instances: u32,
}

impl Capacity {
    /// Bytes of address space that one engine reserves for it, about.
    #[must_use]
    pub fn address_space(self) -> u64 {
        u64::from(self.instances) * u64::from(MEMORIES) * MEMORY_SLOT
    }
}

/// Address space of one linear memory: wasmtime's defaults for a 32-bit one, 4 GiB
/// and a guard behind it.
const MEMORY_SLOT: u64 = (4 << 30) + (32 << 20);

/// Linear memory that a slot keeps between instances. 1 MiB holds everything
/// that a Rust handler touches; it is reset by copying instead of by system
/// call and page faults.
const KEEP_RESIDENT: usize = 1 << 20;

/// Table bytes that a slot keeps likewise.
const KEEP_TABLE: usize = 64 << 10;

/// Core instances per component: interpreters link a dozen modules together.
const MODULES_PER_COMPONENT: u32 = 16;

/// Elements of one table; `StarlingMonkey` has 20,000 functions or so.
const TABLE_ELEMENTS: usize = 100_000;

/// The engines of one worker, made when the first app needs them: an engine
/// that nothing uses costs a megabyte.
#[derive(Debug)]
pub struct Runtime {
    capacity: Capacity,
    clock: Clock,
    p2: OnceLock<Engine>,
    p3: OnceLock<Engine>,
}

/// The process's runtime, for [`tick`], which runs in a signal handler and
/// can be given no argument.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Advances the epoch of all engines: running guests yield at their next loop
/// or call. Async-signal-safe: atomic loads and increments, nothing else.
pub fn tick() {
    if let Some(runtime) = RUNTIME.get() {
        for engine in [&runtime.p2, &runtime.p3] {
            if let Some(engine) = engine.get() {
                engine.increment_epoch();
            }
        }
    }
}

impl Runtime {
    /// The runtime of this process. The first call decides; a process has one.
    pub fn start(capacity: Capacity, clock: Clock) -> &'static Self {
        RUNTIME.get_or_init(|| Self {
            capacity,
            clock,
            p2: OnceLock::new(),
            p3: OnceLock::new(),
        })
    }

    /// Instances that may live at a time.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Opens this process's page map, by which instances are reset. A process
    /// that is about to be confined cannot later, and its engines would do
    /// without: they find it open.
    pub fn open_page_map(&self) {
        // Whether the kernel has it is the engines' to deal with.
        let _ = PoolingAllocationConfig::is_pagemap_scan_available();
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn engine(&self, flavor: Flavor) -> Result<&Engine, EngineError> {
        let cell = match flavor {
            Flavor::P2 => &self.p2,
            Flavor::P3 => &self.p3,
        };
        if let Some(engine) = cell.get() {
            return Ok(engine);
        }
        let mut config = settings::config(flavor);
        // Workers never compile; this leaves the compiler's state unmade.
        config.enable_compiler(false);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(self.capacity)));
        let engine = Engine::new(&config).map_err(|error| EngineError::NoAddressSpace {
            instances: self.capacity.instances,
            reason: chain(&error),
        })?;
        Ok(cell.get_or_init(|| engine))
    }
}

/// Linear memories that the pool has for each instance.
const MEMORIES: u32 = 2;

/// Tables that the pool has for each instance.
const TABLES: u32 = 4;

/// Instances whose part of the pool one of this component takes: a component may
/// have more memories or tables than there are for each, and must not take those
/// of others unnoticed.
pub(crate) fn seats_of(component: &Component) -> u32 {
    let Some(needs) = component.resources_required() else {
        // Components that import core modules do not link here.
        return 1;
    };
    let memories = needs.num_memories.div_ceil(MEMORIES);
    let tables = needs.num_tables.div_ceil(TABLES);
    memories.max(tables).max(1)
}

fn pool(capacity: Capacity) -> PoolingAllocationConfig {
    let instances = capacity.instances;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        // A count and no reservation: enough for all at their most.
        .total_core_instances(instances.saturating_mul(MODULES_PER_COMPONENT * 4))
        .total_memories(instances.saturating_mul(MEMORIES))
        .total_tables(instances.saturating_mul(TABLES))
        .total_stacks(instances.saturating_mul(2))
        .max_core_instances_per_component(MODULES_PER_COMPONENT * 4)
        .max_memories_per_component(8)
        .max_tables_per_component(MODULES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(instances.min(64))
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_TABLE)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The settings of an engine that compiles but never runs anything.
pub(crate) fn without_pool(config: &mut Config) {
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
}

/// Whether this machine has the address space for the pooling allocator, for
/// `skep doctor`.
///
/// # Errors
///
/// What is missing.
pub fn pooling_available(capacity: Capacity) -> Result<(), EngineError> {
    let mut config = settings::config(Flavor::P2);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(capacity)));
    Engine::new(&config)
        .map(drop)
        .map_err(|error| EngineError::NoAddressSpace {
            instances: capacity.instances,
            reason: chain(&error),
        })
}
