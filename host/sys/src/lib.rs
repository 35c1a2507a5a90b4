//! Every system call and every unsafe block of skep's host.
//!
//! Responsible for turning the kernel's interfaces into owned, typed values:
//! no raw descriptor crosses a function boundary, every received descriptor is
//! close-on-exec, and what the kernel refuses is an error, never a panic. Not
//! responsible for deciding anything: when to fork, whom to signal and what to
//! accept is said by the callers. Nothing here is async; [`watch()`]
//! registers [`Channel`], [`Child`], [`Output`] and [`ExclusiveListener`] with
//! tokio.
//!
//! Linux 5.11 or newer (`close_range` with `CLOSE_RANGE_CLOEXEC` is the newest
//! call that is needed), x86-64 and AArch64.
#![expect(
    unsafe_code,
    reason = "this is the one crate of the host that may: system calls, signal handlers, shared memory"
)]

mod channel;
mod child;
mod connection;
mod exclusive;
mod holder;
mod identity;
mod listener;
mod output;
mod register;
mod scoreboard;
mod sheet;
mod sole;
mod spawn;
mod strangers;
mod terminal;
mod watch;

#[cfg(feature = "attacker")]
pub mod attack;
pub mod cgroup;
pub mod clock;
pub mod confine;
pub mod folder;
pub mod plain;
mod policy;
pub mod process;
pub mod schedule;
pub mod signals;
pub mod ticker;

pub use channel::Channel;
pub use child::{Child, Ended, Signal};
pub use connection::{
    connected_peer, cookie_of, end_writing, is_hung_up, is_nonblocking, local_of, make_nonblocking,
    peek, peer_of, process_of, read_now, wait_for_hang_up, write_now,
};
pub use exclusive::{Accepted, ExclusiveListener, Peer};
pub use holder::Holder;
pub use identity::Identity;
pub use listener::{BindError, Bound, LocalAddress, bind, bind_unix, take_new};
pub use output::Output;
pub use register::{Ending, FINE_BUCKETS, Register, RegisterRow, RowReading, STATUSES, Took};
pub use schedule::Schedule;
pub use scoreboard::{BUCKETS, Board, Cell, OUTCOMES};
pub use sheet::{Count, Counting, Full, Key, Sheet};
pub use sole::Sole;
pub use spawn::{Spawn, spawn};
pub use strangers::reap_strangers;
pub use terminal::columns_of;
pub use ticker::Ticker;
pub use watch::{Watched, keep_event_loop, watch};
