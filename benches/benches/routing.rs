//! Finding a request's app: on the path of every request, so it must not grow
//! with the number of routes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use skep_core::route::{RoutePattern, RouteTable};

/// Apps of one pool: one, many, and very many.
const SIZES: [usize; 3] = [1, 200, 1000];

fn table(routes: impl Iterator<Item = String>) -> RouteTable<usize> {
    let patterns = routes.map(|route| RoutePattern::new(&route).expect("the route is valid"));
    RouteTable::build(patterns.enumerate().map(|(index, route)| (route, index)))
        .expect("the routes differ")
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for size in SIZES {
        let last = size - 1;

        let paths = table((0..size).map(|app| format!("/app-{app}/*")));
        let path = format!("/app-{last}/users/42?x=1");
        group.bench_function(BenchmarkId::new("by-path", size), |bencher| {
            bencher.iter(|| paths.find(black_box(Some("localhost:8080")), black_box(&path)));
        });

        let hosts = table((0..size).map(|app| format!("app-{app}.example.com/*")));
        let host = format!("app-{last}.example.com");
        group.bench_function(BenchmarkId::new("by-host", size), |bencher| {
            bencher.iter(|| hosts.find(black_box(Some(&host)), black_box("/users/42")));
        });

        // The costliest answer: each less specific host is asked in turn.
        let wildcards = table((0..size).map(|app| format!("*.app-{app}.example.com/only")));
        let below = format!("a.b.app-{last}.example.com");
        group.bench_function(BenchmarkId::new("no-route", size), |bencher| {
            bencher.iter(|| wildcards.find(black_box(Some(&below)), black_box("/other")));
        });
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route-table");
    for size in SIZES {
        let routes: Vec<_> = (0..size)
            .map(|app| format!("app-{app}.example.com/api/*"))
            .map(|route| RoutePattern::new(&route).expect("the route is valid"))
            .collect();
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter(|| RouteTable::build(routes.iter().cloned().map(|route| (route, ()))));
        });
    }
    group.finish();
}

criterion_group!(benches, find, build);
criterion_main!(benches);
