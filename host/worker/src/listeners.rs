//! The listeners that this worker accepts from, which may come and go while it
//! serves.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use skep_core::{ListenerName, LogLevel};
use skep_sys::ExclusiveListener;
use skep_wire::ListenerRole;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accept::{self, ListenerCommand, Terms};
use crate::desk::Desk;
use crate::intake::Intake;

/// Descriptors that a worker has besides those of its clients: channels,
/// artifacts, and connections of its guests.
const OTHER_DESCRIPTORS: u64 = 64;

/// The listeners of one worker. Connections live on without them.
pub(crate) struct Listeners {
    desk: Arc<Desk>,
    open: BTreeMap<ListenerName, Open>,
    /// Those of which a dispatcher hands the connections out.
    intakes: BTreeMap<ListenerName, Intake>,
}

struct Open {
    commands: watch::Sender<ListenerCommand>,
    task: JoinHandle<()>,
}

impl Listeners {
    pub(crate) fn new(desk: &Arc<Desk>) -> Self {
        Self {
            desk: Arc::clone(desk),
            open: BTreeMap::new(),
            intakes: BTreeMap::new(),
        }
    }

    /// Accepts from this socket, or, if the listener is known, on these terms
    /// from now on.
    pub(crate) fn listen(&mut self, role: ListenerRole, socket: OwnedFd) {
        self.warn_of_few_descriptors(&role);
        let command = ListenerCommand::Accept(Terms::new(role.limits));
        if let Some(open) = self.open.get(&role.name) {
            open.commands.send_replace(command);
            return;
        }
        let listener = match ExclusiveListener::new(socket).and_then(skep_sys::watch) {
            Ok(listener) => listener,
            Err(error) => {
                let what = format!("cannot watch the listener {}", role.name);
                return accept::complain(&self.desk, &what, &error);
            }
        };
        let (commands, received) = watch::channel(command);
        let desk = Arc::clone(&self.desk);
        let accepting = desk.accepting();
        let task = tokio::spawn(accept::accept(desk, listener, received, accepting));
        self.open.insert(role.name, Open { commands, task });
    }

    /// Logs if this process cannot have as many connections as the listener
    /// allows, before load shows it.
    fn warn_of_few_descriptors(&self, role: &ListenerRole) {
        let Ok(limit) = skep_sys::process::nofile_limit() else {
            return;
        };
        let most = role.limits.max_connections;
        if u64::from(most) + OTHER_DESCRIPTORS <= limit {
            return;
        }
        if let Some(record) = self.desk.log.record(LogLevel::Warn, "listener.limited") {
            let reason = format!(
                "max_connections is {most}, and this process may have {limit} descriptors: raise \
                 its limit (LimitNOFILE=, ulimit -Hn) or lower max_connections"
            );
            let record = record.text("listener", role.name.as_str());
            self.desk.log.write(record.text("reason", &reason));
        }
    }

    /// Takes connections from the dispatcher at the other end of this channel,
    /// instead of the one before.
    pub(crate) fn meet(&mut self, role: ListenerRole, channel: OwnedFd) {
        self.warn_of_few_descriptors(&role);
        let intake = self.intakes.entry(role.name);
        let intake = intake.or_insert_with(|| Intake::begin(&self.desk));
        intake.meet(Terms::new(role.limits), channel);
    }

    /// Takes what waits there and then accepts nothing more. What a dispatcher hands
    /// out is taken as before: it may be there instead, and ends with its channel.
    pub(crate) async fn unlisten(&mut self, names: &[ListenerName]) {
        let closed: Vec<_> = names
            .iter()
            .filter_map(|name| self.open.remove(name))
            .collect();
        for open in &closed {
            open.commands.send_replace(ListenerCommand::Close);
        }
        for open in closed {
            // The task accepts what waits and ends, which takes no time. If it
            // panics, it accepts nothing either.
            let _ = open.task.await;
        }
    }

    /// Who is accepted from, in order.
    pub(crate) fn names(&self) -> Vec<ListenerName> {
        self.open.keys().cloned().collect()
    }
}
