//! Typed, versioned messages between skep's processes, and their framing.
//!
//! No I/O happens here: bytes and counts of file descriptors in, messages out,
//! and the reverse. One message enum per direction and privilege, so that a
//! worker cannot say what only a builder may say.
//!
//! | channel | to | from |
//! |---|---|---|
//! | primary ↔ worker (fd 3) | [`ToWorker`] | [`FromWorker`] |
//! | primary ↔ builder (fd 3) | [`ToBuilder`] | [`FromBuilder`] |
//! | primary ↔ alerter (fd 3) | [`ToAlerter`] | [`FromAlerter`] |
//! | primary ↔ dispatcher (fd 3) | [`ToDispatcher`] | [`FromDispatcher`] |
//! | dispatcher ↔ worker ([`Peer::Dispatcher`]) | [`FromAcceptor`] | [`ToAcceptor`] |
//! | primary ↔ connector (fd 3) | [`ToConnector`] | [`FromConnector`] |
//! | worker ↔ connector ([`Peer::Connector`]) | [`ToOpener`] | [`FromOpener`] |
//! | CLI ↔ primary (control socket) | [`ControlRequest`] | [`ControlReply`] |
#![forbid(unsafe_code)]

mod alerter;
mod builder;
mod bytes;
mod connector;
mod control;
mod dispatcher;
mod frame;
mod ids;
mod status;
mod text;
mod worker;

pub use alerter::{FromAlerter, ToAlerter};
pub use builder::{Flavor, FromBuilder, MAX_COMPONENT, Refusal, ToBuilder};
pub use connector::{AppGrants, FromConnector, FromOpener, ToConnector, ToOpener};
pub use control::{
    AppHistory, ControlReply, ControlRequest, MAX_LINE, RevisionStatus, SweptFile, SweptFiles,
    decode_line, encode_line, encode_reply,
};
pub use dispatcher::{
    DispatchCounts, FromAcceptor, FromDispatcher, Handout, Spoken, ToAcceptor, ToDispatcher,
};
pub use frame::{Decoder, FrameError, MAX_FDS, MAX_PLAN, VERSION, encode};
pub use ids::MAX_IDS;
pub use status::{
    AppLimitsStatus, AppState, AppStatus, BreakerStatus, DispatcherStatus, FiguresStatus,
    FleetStatus, GrantsStatus, LastExit, LatencyStatus, ListenerStatus, PoolStatus, SoloStatus,
    TenantLimitsStatus, TenantStatus, WorkerStatus,
};
pub use text::MAX_TEXT;
pub use worker::{FromWorker, HandlerTally, ListenerRole, LoadApp, Peer, ToWorker};

/// What every message has.
pub trait Message: serde::Serialize + serde::de::DeserializeOwned {
    /// Most bytes of one message, as JSON: what an honest process has to say,
    /// with room to spare. A process that may have been taken over makes its
    /// reader look through no more than that at a time.
    const MOST: usize;

    /// The stable name, for logs.
    fn name(&self) -> &'static str;

    /// How many file descriptors travel with it.
    fn fds(&self) -> usize;
}
