//! What validation finds in components, and what cutting a call does, on
//! components small enough to be written here.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::future::{Future as _, poll_fn};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, Once};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Request;
use http::uri::Scheme;
use http_body_util::{BodyExt as _, Empty};
use skep_core::{InstancePolicy, LogLevel, Outcome};
use skep_engine::{
    CallSetup, Capacity, Clock, Ended, GuestLog, Handler, HandlerSetup, Phase, Runtime,
    ShareLimits, Stream, Tenants, ValidateFault, Validation, Witness, compile,
};

const MEMORY: u64 = 4 << 20;

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// A handler with this `validate`, this `handle` and these bytes of memory.
struct Shape<'a> {
    validate: Option<&'a str>,
    handle: &'a str,
    start: &'a str,
    pages: u32,
}

const PLAIN: Shape<'_> = Shape {
    validate: None,
    handle: "",
    start: "",
    pages: 1,
};

impl Shape<'_> {
    fn wat(&self) -> String {
        let startup = if self.validate.is_some() {
            r#"(func $validate (result (result (error string)))
                 (canon lift (core func $guest "validate") (memory $guest "memory")))
               (instance $startup (export "validate" (func $validate)))
               (export "skep:lifecycle/startup@0.1.0" (instance $startup))"#
        } else {
            ""
        };
        let validate = self.validate.unwrap_or("i32.const 0");
        let Self {
            handle,
            start,
            pages,
            ..
        } = self;
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
              (import "wasi:cli/exit@0.2.3" (instance $exit
                (export "exit" (func (param "status" (result))))))
              (import "wasi:http/types@0.2.3" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
              (alias export $types "incoming-request" (type $request))
              (alias export $types "response-outparam" (type $out))
              (core func $block (canon lower (func $poll "[method]pollable.block")))
              (core func $sleep (canon lower (func $clock "subscribe-duration")))
              (core func $exit (canon lower (func $exit "exit")))
              (core module $module
                (import "host" "block" (func $block (param i32)))
                (import "host" "sleep" (func $sleep (param i64) (result i32)))
                (import "host" "exit" (func $exit (param i32)))
                (memory (export "memory") {pages})
                (data (i32.const 64) "the database is away")
                (func (export "handle") (param i32 i32) {handle})
                (func (export "validate") (result i32) {validate})
                {start})
              (core instance $guest (instantiate $module (with "host" (instance
                (export "block" (func $block))
                (export "sleep" (func $sleep))
                (export "exit" (func $exit))))))
              (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $guest "handle")))
              (instance $handler (export "handle" (func $handle)))
              (export "wasi:http/incoming-handler@0.2.3" (instance $handler))
              {startup})"#
        )
    }

    fn load(&self) -> Handler {
        static TICKS: Once = Once::new();
        TICKS.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    skep_engine::tick();
                    // Nobody unparks it: it ticks once a millisecond.
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            });
        });
        let compiled = compile(&wat::parse_str(self.wat()).unwrap()).unwrap();
        let mut artifact = tempfile::NamedTempFile::new().unwrap();
        artifact.write_all(&compiled.artifact).unwrap();
        let artifact: File = artifact.reopen().unwrap();
        let began = Instant::now();
        let runtime = Runtime::start(
            Capacity { instances: 16 },
            Clock {
                // No guest here has a CPU budget that matters.
                thread_cpu: || Duration::ZERO,
                ticks: || {},
            },
        );
        let setup = HandlerSetup {
            flavor: compiled.flavor,
            env: Vec::new(),
            config: [].into(),
            timeout: Duration::from_secs(600),
            cpu: Duration::from_secs(600),
            memory: MEMORY,
            tenant: Tenants::new(runtime.capacity(), |_| {}).join("tests", ShareLimits::default()),
            instance: InstancePolicy::default(),
            log: Arc::new(Silence),
            outbound: None,
        };
        let handler = Handler::load(runtime, artifact.as_fd(), setup).unwrap();
        assert!(began.elapsed() < PATIENCE);
        handler
    }
}

struct Silence;

impl GuestLog for Silence {
    fn line(&self, _: Stream, _: &str, _: &[u8]) {}

    fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
}

fn validate(shape: &Shape<'_>, deadline: Duration) -> Result<Validation, ValidateFault> {
    runtime().block_on(shape.load().validate(deadline))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn handlers_without_a_validation_are_instantiated() {
    assert_eq!(validate(&PLAIN, PATIENCE), Ok(Validation::NotOffered));
    let trap = Shape {
        start: "(func $start unreachable) (start $start)",
        ..PLAIN
    };
    let fault = validate(&trap, PATIENCE).unwrap_err();
    assert!(
        matches!(
            fault,
            ValidateFault::Trap {
                phase: Phase::Start,
                ..
            }
        ),
        "{fault}"
    );
    let large = Shape { pages: 65, ..PLAIN };
    assert_eq!(
        validate(&large, PATIENCE),
        Err(ValidateFault::Memory {
            phase: Phase::Start,
            limit: MEMORY
        })
    );
    let hangs = Shape {
        start: "(func $start (loop (br 0))) (start $start)",
        ..PLAIN
    };
    let deadline = Duration::from_millis(100);
    assert_eq!(
        validate(&hangs, deadline),
        Err(ValidateFault::Hang {
            phase: Phase::Start,
            deadline
        })
    );
}

#[test]
fn every_way_a_validation_can_end_is_told_apart() {
    let asked = |validate| Shape {
        validate: Some(validate),
        ..PLAIN
    };
    assert_eq!(
        validate(&asked("i32.const 0"), PATIENCE),
        Ok(Validation::Passed)
    );

    let refuses = "(i32.store8 (i32.const 0) (i32.const 1))
                   (i32.store (i32.const 4) (i32.const 64))
                   (i32.store (i32.const 8) (i32.const 20))
                   i32.const 0";
    let fault = validate(&asked(refuses), PATIENCE).unwrap_err();
    assert_eq!(fault, ValidateFault::Refused("the database is away".into()));
    assert_eq!(
        fault.to_string(),
        "its validation failed: the database is away"
    );

    let fault = validate(&asked("unreachable"), PATIENCE).unwrap_err();
    let text = fault.to_string();
    assert!(
        text.starts_with("it trapped in its validation: wasm trap: "),
        "{text}"
    );

    let exits = "(call $exit (i32.const 1)) unreachable";
    let fault = validate(&asked(exits), PATIENCE).unwrap_err();
    let phase = Phase::Validate;
    assert_eq!(fault, ValidateFault::Exit { phase, code: 1 });

    let grows = "(drop (memory.grow (i32.const 64))) unreachable";
    let fault = validate(&asked(grows), PATIENCE).unwrap_err();
    let limit = MEMORY;
    assert_eq!(fault, ValidateFault::Memory { phase, limit });

    let deadline = Duration::from_millis(100);
    let waits = "(call $block (call $sleep (i64.const 60000000000))) i32.const 0";
    for hangs in ["(loop (br 0)) unreachable", waits] {
        let fault = validate(&asked(hangs), deadline).unwrap_err();
        assert_eq!(fault, ValidateFault::Hang { phase, deadline });
    }
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Ended>>>);

impl Witness for Told {
    fn ended(self, ended: Ended) {
        self.0.lock().unwrap().push(ended);
    }
}

#[test]
fn a_cut_ends_the_calls_that_wait_and_those_that_come() {
    let sleepy = Shape {
        handle: "(call $block (call $sleep (i64.const 600000000000)))",
        ..PLAIN
    };
    let handler = sleepy.load();
    let told = Told::default();
    let call = || {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get("http://localhost/").body(body).unwrap();
        let setup = CallSetup {
            scheme: Scheme::HTTP,
            request_id: "id".into(),
            patience: PATIENCE,
        };
        handler.call(request, setup, told.clone())
    };
    let ends = async {
        let mut waits = Box::pin(call());
        let at_once = poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await;
        assert!(at_once.is_pending(), "it sleeps");
        handler.retire();
        handler.cut();
        assert_eq!(waits.await.err(), Some(Outcome::Deadline));
        assert_eq!(call().await.err(), Some(Outcome::Deadline));
    };
    runtime()
        .block_on(async { tokio::time::timeout(PATIENCE, ends).await })
        .unwrap();
    let told = told.0.lock().unwrap();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|ended| ended.status.is_none()));
}
