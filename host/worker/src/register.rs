//! What the register is told besides how requests end: what one handler's guests
//! use, and which requests wait.
//!
//! A row of the register is for an app, and an app may have several handlers
//! here at a time. Each adds what has changed since it was last told, and takes
//! its part back in the end; CPU time that was used stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use skep_engine::Usage;
use skep_sys::{Register, RegisterRow};

/// Before a plan has said which row it is.
const NOWHERE: u32 = u32::MAX;

/// What was told of one handler. Written by the worker's one thread only.
#[derive(Debug)]
pub(crate) struct UseTold {
    register: Arc<Register>,
    row: AtomicU32,
    cpu_nanos: AtomicU64,
    memory: AtomicU64,
    instances: AtomicU32,
}

impl UseTold {
    pub(crate) fn new(register: Arc<Register>) -> Self {
        Self {
            register,
            row: AtomicU32::new(NOWHERE),
            cpu_nanos: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            instances: AtomicU32::new(0),
        }
    }

    /// Goes on in this row. What was told in another one is taken back there.
    pub(crate) fn move_to(&self, row: u32) {
        if self.row.load(Relaxed) != row {
            self.tell_of(0, 0);
            self.row.store(row, Relaxed);
        }
    }

    /// Tells what has changed.
    pub(crate) fn tell(&self, usage: Usage) {
        self.tell_cpu(usage.cpu);
        self.tell_of(usage.memory, usage.instances);
    }

    /// The handler is gone, and its instances with it.
    pub(crate) fn end(&self, usage: Usage) {
        self.tell_cpu(usage.cpu);
        self.tell_of(0, 0);
    }

    fn tell_cpu(&self, cpu: Duration) {
        let nanos = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        let more = nanos.wrapping_sub(self.cpu_nanos.load(Relaxed));
        if more != 0
            && let Some(row) = self.register.row(self.row.load(Relaxed))
        {
            row.add_cpu(more);
            self.cpu_nanos.store(nanos, Relaxed);
        }
    }

    fn tell_of(&self, memory: u64, instances: u32) {
        let told = (self.memory.load(Relaxed), self.instances.load(Relaxed));
        if told == (memory, instances) {
            return;
        }
        if let Some(row) = self.register.row(self.row.load(Relaxed)) {
            row.add_guest_memory(memory.wrapping_sub(told.0).cast_signed());
            row.add_instances(instances.wrapping_sub(told.1).cast_signed());
            self.memory.store(memory, Relaxed);
            self.instances.store(instances, Relaxed);
        }
    }
}

/// A request that waits for a permit, as the register counts it, until this is
/// dropped.
pub(crate) struct Queued<'a>(Option<&'a RegisterRow>);

impl<'a> Queued<'a> {
    pub(crate) fn say(register: &'a Register, row: u32) -> Self {
        let row = register.row(row);
        if let Some(row) = row {
            row.queued();
        }
        Self(row)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(row) = self.0 {
            row.no_longer_queued();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu: u64, memory: u64, instances: u32) -> Usage {
        Usage {
            cpu: Duration::from_nanos(cpu),
            memory,
            instances,
        }
    }

    #[test]
    fn handlers_of_an_app_add_up_and_leave_nothing_but_their_cpu_time() {
        let register = Arc::new(Register::create().unwrap());
        let (one, two) = (
            UseTold::new(Arc::clone(&register)),
            UseTold::new(Arc::clone(&register)),
        );
        let told = |row| {
            let read = register.read(row).unwrap_or_default();
            (read.cpu_nanos, read.guest_memory, read.instances)
        };
        // Nobody has said where: it is told later.
        one.tell(usage(5, 100, 1));
        one.move_to(3);
        two.move_to(3);
        assert_eq!(register.read(3), None);
        one.tell(usage(7, 100, 1));
        two.tell(usage(1, 1000, 2));
        assert_eq!(told(3), (8, 1100, 3));
        one.tell(usage(9, 0, 0));
        assert_eq!(told(3), (10, 1000, 2));
        two.move_to(4);
        assert_eq!(told(3), (10, 0, 0));
        two.tell(usage(2, 500, 1));
        assert_eq!(told(4), (1, 500, 1));
        two.end(usage(3, 500, 1));
        assert_eq!(told(4), (2, 0, 0));
    }
}
