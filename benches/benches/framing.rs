//! Messages between skep's processes: on the path of every start of a worker,
//! once for each of its apps.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use skep_core::{AppLimits, AppName, HandlerId, InstancePolicy, Revision, TenantName};
use skep_wire::{Decoder, Flavor, FromWorker, LoadApp, Message, ToWorker, encode};

/// Variables of one app: none, as many as most have, and a large environment.
const VARIABLES: [usize; 3] = [0, 20, 1000];

/// Bytes that one read from a channel delivers at most.
const READ: usize = 16 << 10;

fn load(variables: usize) -> ToWorker {
    let variable = |number| {
        (
            format!("VARIABLE_{number}"),
            "a value of usual length".to_owned(),
        )
    };
    ToWorker::Load(Box::new(LoadApp {
        handler: HandlerId(7),
        app: AppName::new("hello").expect("the name is valid"),
        tenant: TenantName::new("acme").expect("the name is valid"),
        revision: Revision(7),
        flavor: Flavor::P2,
        strip_prefix: false,
        limits: AppLimits::default(),
        instance: InstancePolicy::default(),
        env: (0..variables).map(variable).collect(),
        config: [("greeting".to_owned(), "hei".to_owned())].into(),
        require: Vec::new(),
        check: None,
        validate_timeout: Duration::from_secs(10),
        outbound: Vec::new(),
        quarantined: false,
        vital: false,
    }))
}

fn frame(message: &impl Message) -> Vec<u8> {
    encode(message).expect("the message is within its limits")
}

fn decode<M: Message>(decoder: &mut Decoder<()>, bytes: &[u8], fds: usize) -> Option<M> {
    let mut fds = vec![(); fds];
    for piece in bytes.chunks(READ) {
        decoder.push(piece, fds.drain(..));
    }
    let (message, _) = decoder.message().expect("the message is ours")?;
    Some(message)
}

fn framing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    group.bench_function("encode/ready", |bencher| {
        bencher.iter(|| frame(black_box(&FromWorker::Ready { late: Vec::new() })));
    });
    let ready = frame(&FromWorker::Ready { late: Vec::new() });
    group.bench_function("decode/ready", |bencher| {
        let mut decoder = Decoder::default();
        bencher.iter(|| decode::<FromWorker>(&mut decoder, black_box(&ready), 0));
    });
    for variables in VARIABLES {
        let message = load(variables);
        let bytes = frame(&message);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("encode/load", variables), |bencher| {
            bencher.iter(|| frame(black_box(&message)));
        });
        group.bench_function(BenchmarkId::new("decode/load", variables), |bencher| {
            let mut decoder = Decoder::default();
            bencher.iter(|| decode::<ToWorker>(&mut decoder, black_box(&bytes), message.fds()));
        });
    }
    group.finish();
}

criterion_group!(benches, framing);
criterion_main!(benches);
