//! A real worker process, told by this one what the primary would tell it.
//!
//! No harness: this executable is the worker, too, when it is started as one.
//! Its guests are written here and give no response, so every request that
//! reaches one is a 500; which of them it reached is told by the tallies.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use skep_core::{
    AppLimits, AppName, ConnectionLimits, Generation, HandlerId, HttpCheck, InstancePolicy,
    ListenerName, LogFormat, LogLevel, LogSpec, Plan, PlannedApp, PoolName, Portion, Revision,
    Sandbox, SlotIndex, TenantName, WorkerId,
};
use skep_sys::{Board, Channel, Child, Ended, Register, Sheet, Spawn};
use skep_wire::{
    Decoder, Flavor, FromWorker, HandlerTally, ListenerRole, LoadApp, Message as _, ToWorker,
    encode,
};

const ROLE: &str = "as-the-worker";

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long retired handlers may take here.
const DRAIN: Duration = Duration::from_millis(400);

/// How long a worker waits for its first handlers here.
const GRACE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(ROLE) {
        return skep_worker::run();
    }
    handlers_come_and_go_while_requests_do();
    handlers_that_are_not_valid_are_refused();
    what_is_not_valid_at_the_start_is_in_quarantine();
    a_plan_of_unknown_handlers_is_the_end();
    ExitCode::SUCCESS
}

/// What a guest does with a request, and in its validation.
fn component(handle: &str, validate: &str) -> String {
    format!(
        r#"(component
          (import "wasi:io/poll@0.2.3" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
          (alias export $poll "pollable" (type $pollable))
          (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
            (alias outer 1 $pollable (type $p))
            (export "pollable" (type $pollable (eq $p)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
          (import "wasi:http/types@0.2.3" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $out))
          (core func $block (canon lower (func $poll "[method]pollable.block")))
          (core func $sleep (canon lower (func $clock "subscribe-duration")))
          (core module $module
            (import "host" "block" (func $block (param i32)))
            (import "host" "sleep" (func $sleep (param i64) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "the database is away")
            (func (export "handle") (param i32 i32) {handle})
            (func (export "validate") (result i32) {validate}))
          (core instance $guest (instantiate $module (with "host" (instance
            (export "block" (func $block))
            (export "sleep" (func $sleep))))))
          (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $guest "handle")))
          (instance $handler (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.3" (instance $handler))
          (func $validate (result (result (error string)))
            (canon lift (core func $guest "validate") (memory $guest "memory")))
          (instance $startup (export "validate" (func $validate)))
          (export "skep:lifecycle/startup@0.1.0" (instance $startup)))"#
    )
}

const GOOD: &str = "i32.const 0";
const REFUSES: &str = "(i32.store8 (i32.const 0) (i32.const 1))
    (i32.store (i32.const 4) (i32.const 64)) (i32.store (i32.const 8) (i32.const 20))
    i32.const 0";
const SLEEPS: &str = "(call $block (call $sleep (i64.const 600000000000)))";

fn artifact(handle: &str, validate: &str) -> File {
    let bytes = wat::parse_str(component(handle, validate)).unwrap();
    let compiled = skep_engine::compile(&bytes).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&compiled.artifact).unwrap();
    file.reopen().unwrap()
}

fn app() -> AppName {
    AppName::new("a").unwrap()
}

fn web() -> ListenerName {
    ListenerName::new("web").unwrap()
}

fn load(handler: u64) -> LoadApp {
    LoadApp {
        handler: HandlerId(handler),
        app: app(),
        tenant: TenantName::new("t").unwrap(),
        revision: Revision(1),
        flavor: Flavor::P2,
        strip_prefix: false,
        limits: AppLimits {
            timeout: Duration::from_secs(600),
            ..AppLimits::default()
        },
        instance: InstancePolicy::default(),
        env: vec![("SET".into(), String::new())],
        config: [].into(),
        require: Vec::new(),
        check: None,
        validate_timeout: PATIENCE,
        outbound: Vec::new(),
        quarantined: false,
        vital: false,
    }
}

fn plan(number: u64, stable: u64) -> Plan {
    let app = PlannedApp {
        app: app(),
        tenant: TenantName::new("t").unwrap(),
        row: 0,
        routes: vec!["/*".parse().unwrap()],
        paused: false,
        stable: Some(HandlerId(stable)),
        canary: None,
        standby: None,
        observed: false,
    };
    Plan {
        number,
        generation: Generation(1),
        workers: 1,
        apps: vec![app],
        tenants: Vec::new(),
    }
}

fn role() -> ListenerRole {
    ListenerRole {
        name: web(),
        limits: ConnectionLimits::default(),
    }
}

/// A worker and this end of its channel.
struct Worker {
    child: Child,
    channel: Channel,
    decoder: Decoder<OwnedFd>,
    board: Board,
    sheet: Sheet,
    listener: TcpListener,
}

impl Worker {
    fn begin(loads: u32) -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        // Reads and writes wait, for so long at most. The settings are the
        // socket's, so a duplicate will do.
        let socket = UnixStream::from(channel.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = skep_sys::spawn(Spawn {
            role: ROLE,
            title: "worker",
            channel: theirs,
            output: None,
            identity: None,
            schedule: skep_sys::Schedule::default(),
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let worker = Self {
            child,
            channel,
            decoder: Decoder::default(),
            board: Board::create(1).unwrap(),
            sheet: Sheet::create().unwrap(),
            listener,
        };
        worker.board.cell(0).unwrap().reset(1);
        let begin = ToWorker::Begin {
            worker: WorkerId(1),
            pool: PoolName::new("p").unwrap(),
            slot: SlotIndex(0),
            cell: 0,
            workers: 1,
            generation: Generation(1),
            log: LogSpec {
                format: LogFormat::Text,
                level: LogLevel::Error,
            },
            sandbox: Sandbox::BestEffort,
            drain_timeout: DRAIN,
            grace: GRACE,
            listeners: vec![role()],
            loads,
        };
        // Where `artifact` puts them.
        let folder = File::open(std::env::temp_dir()).unwrap();
        let register = Register::create().unwrap();
        let fds = [
            worker.board.as_fd(),
            worker.sheet.as_fd(),
            register.as_fd(),
            folder.as_fd(),
            worker.listener.as_fd(),
        ];
        worker.tell(&begin, &fds);
        worker
    }

    /// One that serves handler 1.
    fn ready() -> Self {
        let mut worker = Self::begin(1);
        worker.load(load(1), &artifact("", GOOD));
        worker.serve(plan(1, 1));
        assert_eq!(worker.verdict(), FromWorker::Ready { late: vec![] });
        worker
    }

    fn tell(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        let frame = encode(message).unwrap();
        let sent = self.channel.send(&frame, fds).unwrap();
        assert_eq!(sent, frame.len());
    }

    fn load(&self, load: LoadApp, artifact: &File) {
        self.tell(&ToWorker::Load(Box::new(load)), &[artifact.as_fd()]);
    }

    fn serve(&self, plan: Plan) {
        self.tell(&ToWorker::Serve(Box::new(plan)), &[]);
    }

    fn hear(&mut self) -> FromWorker {
        loop {
            if let Some((message, _)) = self.decoder.message().unwrap() {
                return message;
            }
            let mut buffer = [0; 4096];
            let read = self.channel.recv(&mut buffer, &mut Vec::new()).unwrap();
            assert!(read > 0, "the worker has gone");
            self.decoder.push(&buffer[..read], []);
        }
    }

    /// What is said first, besides how far the worker is confined.
    fn verdict(&mut self) -> FromWorker {
        match self.hear() {
            FromWorker::Confined { .. } => self.hear(),
            other => other,
        }
    }

    /// What is said next that is no tally.
    fn answer(&mut self) -> FromWorker {
        loop {
            match self.hear() {
                FromWorker::Tallies(_) => {}
                other => return other,
            }
        }
    }

    fn loaded(&mut self, handler: u64, artifact: &File) {
        self.load(load(handler), artifact);
        let handler = HandlerId(handler);
        assert_eq!(self.answer(), FromWorker::Loaded { handler });
    }

    /// Serves another plan; gives what was counted under the one before.
    fn serves(&mut self, plan: Plan) -> Vec<HandlerTally> {
        let number = plan.number;
        self.serve(plan);
        let mut tallies = Vec::new();
        loop {
            match self.hear() {
                FromWorker::Tallies(last) => tallies = last,
                FromWorker::Serving { plan } => {
                    assert_eq!(plan, number);
                    return tallies;
                }
                other => panic!("{} while switching", other.name()),
            }
        }
    }

    fn retired(&mut self) -> (u64, u32) {
        match self.answer() {
            FromWorker::Retired { handler, cut, .. } => (handler.0, cut),
            other => panic!("{} instead of retired", other.name()),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Sends a request.
    fn ask(&self) -> TcpStream {
        self.ask_for("/")
    }

    fn ask_for(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        self.ask_for(path).read_to_string(&mut text).unwrap();
        text
    }

    fn status(&self) -> u16 {
        status(self.ask())
    }

    /// Waits until so many requests are in flight.
    fn in_flight(&self, wanted: u32) {
        let began = Instant::now();
        while self.board.cell(0).unwrap().in_flight() != wanted {
            assert!(began.elapsed() < PATIENCE, "never {wanted} in flight");
            std::thread::yield_now();
        }
    }

    fn exit(mut self) -> Ended {
        let began = Instant::now();
        loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                return ended;
            }
            assert!(began.elapsed() < PATIENCE, "the worker does not exit");
            std::thread::yield_now();
        }
    }
}

fn status(mut stream: TcpStream) -> u16 {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.get(9..12).unwrap_or(&text).parse().unwrap()
}

/// Handlers with what they counted: requests and errors.
fn counted(tallies: &[HandlerTally]) -> Vec<(u64, u64, u64)> {
    let counted = |tally: &HandlerTally| {
        assert_eq!(tally.total, tally.recent, "it was all just now");
        (tally.handler.0, tally.total.requests, tally.total.errors)
    };
    tallies.iter().map(counted).collect()
}

fn handlers_come_and_go_while_requests_do() {
    let mut worker = Worker::ready();
    let good = artifact("", GOOD);
    assert_eq!(worker.status(), 500);
    assert_eq!(worker.status(), 500);

    // A swap: the handler that nobody needs is gone at once.
    worker.loaded(2, &artifact(SLEEPS, GOOD));
    assert_eq!(counted(&worker.serves(plan(2, 2))), [(1, 2, 2)]);
    assert_eq!(worker.retired(), (1, 0));

    // One with a request in flight ends it, and is cut if that takes too long.
    let slow = worker.ask();
    worker.in_flight(1);
    worker.loaded(3, &good);
    let began = Instant::now();
    worker.serves(plan(3, 3));
    assert_eq!(worker.status(), 500);
    assert_eq!(worker.retired(), (2, 1));
    assert!(began.elapsed() >= DRAIN, "{:?}", began.elapsed());
    assert_eq!(status(slow), 504);

    // A paused app says so.
    let mut paused = plan(4, 3);
    paused.apps[0].paused = true;
    worker.serves(paused);
    assert_eq!(worker.status(), 503);

    // A canary gets its share, and is reported without being asked for.
    worker.loaded(4, &good);
    let mut canary = plan(5, 3);
    canary.apps[0].canary = Some((HandlerId(4), Portion::percent(25)));
    canary.apps[0].observed = true;
    worker.serves(canary);
    for _ in 0..8 {
        assert_eq!(worker.status(), 500);
    }
    let mut seen = [(0, 0); 2];
    while seen != [(7, 7), (2, 2)] {
        let FromWorker::Tallies(tallies) = worker.hear() else {
            panic!("only tallies are due; so far {seen:?}");
        };
        for (handler, requests, errors) in counted(&tallies) {
            seen[usize::try_from(handler).unwrap() - 3] = (requests, errors);
        }
    }

    // Back; the canary stays loaded.
    let mut back = plan(6, 3);
    back.apps[0].standby = Some(HandlerId(4));
    worker.serves(back);
    assert_eq!(worker.status(), 500);

    // Listeners come and go, and what waits there is served.
    let unlisten = ToWorker::Unlisten {
        listeners: vec![web()],
    };
    worker.tell(&unlisten, &[]);
    let listening = |listeners| FromWorker::Listening { listeners };
    assert_eq!(worker.answer(), listening(vec![]));
    let waits = worker.ask();
    let listen = ToWorker::Listen {
        listeners: vec![role()],
    };
    worker.tell(&listen, &[worker.listener.as_fd()]);
    assert_eq!(worker.answer(), listening(vec![web()]));
    assert_eq!(status(waits), 500);

    worker.tell(&ToWorker::Drain, &[]);
    assert_eq!(worker.answer(), FromWorker::Drained);
    assert_eq!(worker.exit(), Ended::Code(0));
}

fn handlers_that_are_not_valid_are_refused() {
    let mut worker = Worker::ready();
    let good = artifact("", GOOD);
    let refused = |worker: &mut Worker, load: LoadApp, artifact: &File| {
        let id = load.handler;
        worker.load(load, artifact);
        match worker.answer() {
            FromWorker::Refused { handler, message } if handler == id => message,
            other => panic!("{} instead of refused", other.name()),
        }
    };
    let why = refused(&mut worker, load(2), &artifact("", REFUSES));
    assert_eq!(why, "its validation failed: the database is away");

    let hangs = LoadApp {
        validate_timeout: Duration::from_millis(50),
        ..load(3)
    };
    let why = refused(
        &mut worker,
        hangs,
        &artifact("", "(loop (br 0)) i32.const 0"),
    );
    assert_eq!(why, "it hung in its validation: no end within 50ms");

    let checked = |handler, timeout| LoadApp {
        check: Some(HttpCheck {
            path: "/ready".into(),
            status: 200,
            timeout,
        }),
        ..load(handler)
    };
    let why = refused(&mut worker, checked(4, PATIENCE), &good);
    assert!(
        why.starts_with("the check `GET /ready` failed (no-response): "),
        "{why}"
    );
    let short = checked(5, Duration::from_millis(50));
    let why = refused(&mut worker, short, &artifact(SLEEPS, GOOD));
    assert_eq!(
        why,
        "the check `GET /ready` had no whole answer within 50ms"
    );

    // At most three of an app, and a fourth waits only for one that leaves.
    worker.loaded(6, &artifact(SLEEPS, GOOD));
    worker.loaded(7, &good);
    let why = refused(&mut worker, load(8), &good);
    assert_eq!(why, "3 handlers of a are loaded already, and none leaves");
    let mut all = plan(2, 6);
    all.apps[0].canary = Some((HandlerId(7), Portion(0)));
    all.apps[0].standby = Some(HandlerId(1));
    worker.serves(all.clone());
    let slow = worker.ask();
    worker.in_flight(1);
    all.apps[0].stable = Some(HandlerId(1));
    worker.serves(all);
    worker.load(load(9), &good);
    assert_eq!(worker.retired(), (6, 1));
    let handler = HandlerId(9);
    assert_eq!(worker.answer(), FromWorker::Loaded { handler });
    assert_eq!(status(slow), 504);

    worker.tell(&ToWorker::Stop, &[]);
    assert_eq!(worker.exit(), Ended::Code(0));
}

/// A plan of three apps: `/*` is handler 1's, and `/2`, `/3` those of 2 and 3.
fn three(number: u64) -> Plan {
    let mut three = plan(number, 1);
    for handler in [2, 3] {
        let mut other = plan(number, handler).apps.remove(0);
        other.app = AppName::new(&format!("b{handler}")).unwrap();
        other.routes = vec![format!("/{handler}").parse().unwrap()];
        three.apps.push(other);
    }
    three
}

fn what_is_not_valid_at_the_start_is_in_quarantine() {
    let named = |handler: u64| LoadApp {
        app: AppName::new(&format!("b{handler}")).unwrap(),
        ..load(handler)
    };
    let mut worker = Worker::begin(3);
    worker.load(load(1), &artifact("", GOOD));
    worker.load(named(2), &artifact("", REFUSES));
    worker.load(named(3), &artifact("", &format!("{SLEEPS} {GOOD}")));
    worker.serve(three(1));
    let refused = |message: &str| FromWorker::Refused {
        handler: HandlerId(2),
        message: message.into(),
    };
    let why = "its validation failed: the database is away";
    assert_eq!(worker.verdict(), refused(why));
    let late = vec![HandlerId(3)];
    assert_eq!(worker.answer(), FromWorker::Ready { late });
    // The guest of 1 answers nothing, which is 500.
    assert_eq!(worker.status(), 500);
    for path in ["/2", "/3"] {
        let answer = worker.get(path);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 5\r\n"), "{answer}");
        let outcomes = worker.board.cell(0).unwrap().outcomes();
        assert!(outcomes[skep_core::Outcome::Quarantined as usize] > 0);
    }
    // It is tried again, by itself.
    assert_eq!(worker.answer(), refused(why));
    // A plan that names it is served without it, one that does not forgets it.
    worker.serves(three(2));
    assert!(worker.get("/2").starts_with("HTTP/1.1 503 "));
    worker.load(named(4), &artifact("", GOOD));
    let handler = HandlerId(4);
    assert_eq!(worker.answer(), FromWorker::Loaded { handler });
    let mut mended = three(3);
    mended.apps[1].stable = Some(handler);
    worker.serves(mended);
    assert!(worker.get("/2").starts_with("HTTP/1.1 500 "));
    worker.tell(&ToWorker::Stop, &[]);
    assert_eq!(worker.exit(), Ended::Code(0));

    let mut worker = Worker::begin(1);
    let require = vec!["SET".to_owned()];
    worker.load(LoadApp { require, ..load(2) }, &artifact("", GOOD));
    worker.serve(plan(1, 2));
    assert_eq!(
        worker.verdict(),
        refused("the variable SET is required and empty")
    );
    assert_eq!(worker.answer(), FromWorker::Ready { late: vec![] });
    assert_eq!(worker.status(), 503);
    // Told to load it again it does so at once.
    worker.load(load(2), &artifact("", GOOD));
    let handler = HandlerId(2);
    assert_eq!(worker.answer(), FromWorker::Loaded { handler });
    assert_eq!(worker.status(), 500);
    worker.tell(&ToWorker::Stop, &[]);
    assert_eq!(worker.exit(), Ended::Code(0));

    // What a rollout brings is not served without.
    let mut worker = Worker::begin(2);
    worker.load(load(1), &artifact("", GOOD));
    let vital = true;
    worker.load(LoadApp { vital, ..named(2) }, &artifact("", REFUSES));
    worker.serve(plan(1, 1));
    assert_eq!(worker.verdict(), refused(why));
    let message = why.into();
    assert_eq!(worker.answer(), FromWorker::Unfit { message });
    assert_eq!(worker.exit(), Ended::Code(78));
}

fn a_plan_of_unknown_handlers_is_the_end() {
    let mut worker = Worker::ready();
    worker.serve(plan(2, 9));
    let FromWorker::Unfit { message } = worker.answer() else {
        panic!("it is not served");
    };
    assert_eq!(message, "plan 2 names handler 9, which is not loaded");
    assert_eq!(worker.exit(), Ended::Code(78));
}
