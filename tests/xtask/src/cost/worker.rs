//! One worker process, told by this one what the primary would tell it, with any
//! program around it: under valgrind a whole skep would be measured with it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use skep_core::{
    AppLimits, AppName, ConnectionLimits, Generation, HandlerId, InstancePolicy, ListenerName,
    LogFormat, LogLevel, LogSpec, Plan, PlannedApp, PoolName, Revision, Sandbox, SlotIndex,
    TenantName, WorkerId,
};
use skep_sys::{Board, Channel, Register, Sheet};
use skep_wire::{
    Decoder, Flavor, FromBuilder, FromWorker, ListenerRole, LoadApp, Message, ToBuilder, ToWorker,
    encode,
};

/// A worker under valgrind takes fifty times its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What runs the worker: nothing, or a program that is given its command line.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    pub(super) command: Vec<String>,
    /// Whether the worker is confined, as it is in service.
    pub(super) confined: bool,
}

/// What it serves.
pub(super) struct Serves<'a> {
    pub(super) artifact: &'a Path,
    pub(super) flavor: Flavor,
    pub(super) instance: InstancePolicy,
}

/// One of skep's own processes, and this end of its channel.
struct Process<M> {
    child: Child,
    channel: Channel,
    socket: UnixStream,
    decoder: Decoder<OwnedFd>,
    hears: PhantomData<M>,
}

impl<M: Message> Process<M> {
    fn start(program: &Path, role: &str, around: &Around) -> Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let socket = UnixStream::from(channel.as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Its channel is descriptor 3.
        let child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 </dev/null"#, "sh"])
            .args(&around.command)
            .arg(program)
            .arg(role)
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        Ok(Self {
            child,
            channel,
            socket,
            decoder: Decoder::default(),
            hears: PhantomData,
        })
    }

    fn tell(&self, message: &impl Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let frame = encode(message)?;
        let sent = self.channel.send(&frame, fds)?;
        // What is left of a long message.
        (&self.socket).write_all(&frame[sent..])?;
        Ok(())
    }

    fn hear(&mut self) -> Result<M> {
        loop {
            if let Some((message, _)) = self.decoder.message()? {
                return Ok(message);
            }
            let mut buffer = [0; 4096];
            let read = (&self.socket).read(&mut buffer)?;
            ensure!(read > 0, "it has gone");
            self.decoder.push(&buffer[..read], []);
        }
    }

    fn end(&mut self) -> Result<()> {
        let ended: ExitStatus = self.child.wait()?;
        ensure!(ended.success(), "it ended: {ended}");
        Ok(())
    }
}

impl<M> Drop for Process<M> {
    fn drop(&mut self) {
        // It has ended, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles a component for the processor that `around` makes the program see.
///
/// # Errors
///
/// It does not compile.
pub(super) fn compile(
    program: &Path,
    around: &Around,
    component: &Path,
    artifact: &Path,
) -> Result<()> {
    let mut builder = Process::<FromBuilder>::start(program, "builder", around)?;
    let (from, into) = (File::open(component)?, File::create(artifact)?);
    builder.tell(&ToBuilder::Compile, &[from.as_fd(), into.as_fd()])?;
    match builder.hear().context("the builder")? {
        FromBuilder::Built { .. } => builder.end(),
        other => bail!("the builder says {other:?}"),
    }
}

/// A worker that serves one app.
pub(super) struct Worker {
    process: Process<FromWorker>,
    listener: TcpListener,
    /// What is shared with it.
    memory: (Board, Sheet, Register),
}

impl Worker {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It does not start, or says that it cannot serve.
    pub(super) fn start(program: &Path, around: &Around, serves: &Serves<'_>) -> Result<Self> {
        let process = Process::start(program, "worker", around)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let (board, sheet, register) = (Board::create(1)?, Sheet::create()?, Register::create()?);
        board.cell(0).context("the board has one cell")?.reset(1);
        board.use_up_to(1);
        let artifact = File::open(serves.artifact)?;
        let folder = File::open(serves.artifact.parent().context("an artifact's folder")?)?;
        let mut worker = Self {
            process,
            listener,
            memory: (board, sheet, register),
        };
        let (board, sheet, register) = &worker.memory;
        let fds = [
            board.as_fd(),
            sheet.as_fd(),
            register.as_fd(),
            folder.as_fd(),
            worker.listener.as_fd(),
        ];
        let process = &mut worker.process;
        process.tell(&begin(around.confined)?, &fds)?;
        let load = ToWorker::Load(Box::new(load(serves)?));
        process.tell(&load, &[artifact.as_fd()])?;
        process.tell(&ToWorker::Serve(Box::new(plan()?)), &[])?;
        loop {
            match process.hear().context("the worker")? {
                FromWorker::Confined { .. } => {}
                FromWorker::Ready { late } if late.is_empty() => return Ok(worker),
                FromWorker::Unfit { message } | FromWorker::Refused { message, .. } => {
                    bail!("the worker cannot serve: {message}")
                }
                other => bail!("the worker says {} instead of ready", other.name()),
            }
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Of the process itself, where nothing is around it but what executes it.
    pub(super) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Stops it, and waits for its end.
    ///
    /// # Errors
    ///
    /// It had gone, or does not end well.
    pub(super) fn stop(mut self) -> Result<()> {
        self.process.tell(&ToWorker::Stop, &[])?;
        self.process.end().context("the worker")
    }
}

fn begin(confined: bool) -> Result<ToWorker> {
    Ok(ToWorker::Begin {
        worker: WorkerId(1),
        pool: PoolName::new("default")?,
        slot: SlotIndex(0),
        cell: 0,
        workers: 1,
        generation: Generation(1),
        log: LogSpec {
            format: LogFormat::Text,
            level: LogLevel::Warn,
        },
        sandbox: if confined {
            Sandbox::Require
        } else {
            Sandbox::Off
        },
        drain_timeout: PATIENCE,
        grace: PATIENCE,
        listeners: vec![ListenerRole {
            name: ListenerName::new("web")?,
            limits: ConnectionLimits::default(),
        }],
        loads: 1,
    })
}

fn load(serves: &Serves<'_>) -> Result<LoadApp> {
    Ok(LoadApp {
        handler: HandlerId(1),
        app: AppName::new("a")?,
        tenant: TenantName::new("default")?,
        revision: Revision(1),
        flavor: serves.flavor,
        strip_prefix: false,
        limits: AppLimits {
            timeout: PATIENCE,
            cpu: PATIENCE,
            // Valgrind has address space for few instances.
            concurrency: 3,
            ..AppLimits::default()
        },
        instance: serves.instance.clone(),
        env: Vec::new(),
        config: [].into(),
        require: Vec::new(),
        check: None,
        validate_timeout: PATIENCE,
        outbound: Vec::new(),
        quarantined: false,
        vital: false,
    })
}

fn plan() -> Result<Plan> {
    Ok(Plan {
        number: 1,
        generation: Generation(1),
        workers: 1,
        apps: vec![PlannedApp {
            app: AppName::new("a")?,
            tenant: TenantName::new("default")?,
            row: 0,
            routes: vec!["/app/*".parse()?],
            paused: false,
            stable: Some(HandlerId(1)),
            canary: None,
            standby: None,
            observed: false,
        }],
        tenants: Vec::new(),
    })
}
