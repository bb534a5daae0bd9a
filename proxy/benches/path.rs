//! What each part of the request path costs: nanoseconds and allocations per call.

use std::time::Duration;

use divan::{AllocProfiler, Bencher, black_box};
use outrigger_proxy::micro;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const ENDPOINTS: [u32; 3] = [3, 100, 10_000];

fn main() {
    divan::main();
}

// Enough calls in a sample that a cold cache and the timer do not count.
#[divan::bench(args = ENDPOINTS, sample_size = 1_000)]
fn pick(bencher: Bencher, endpoints: u32) {
    bencher.bench_local(micro::pick(endpoints));
}

#[divan::bench(args = [1, 10, 100])]
fn route_match(bencher: Bencher, routes: usize) {
    bencher.bench_local(micro::route_match(routes));
}

#[divan::bench]
fn head_read(bencher: Bencher) {
    bencher.bench_local(micro::head_read);
}

#[divan::bench]
fn header_edit(bencher: Bencher) {
    let head = micro::head_read();
    bencher
        .with_inputs(|| head.clone())
        .bench_local_refs(micro::header_edit);
}

#[divan::bench]
fn head_write(bencher: Bencher) {
    let head = micro::head_read();
    let mut text = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        text.clear();
        micro::head_write(black_box(&head), &mut text);
    });
}

#[divan::bench]
fn metrics_record(bencher: Bencher) {
    let record = micro::metrics_record();
    bencher.bench_local(|| record(black_box(Duration::from_micros(730))));
}
