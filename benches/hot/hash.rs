//! What each byte of a file costs: its content id, and the places where a large one is cut.

use std::hint::black_box;
use std::io;

use criterion::{Criterion, SamplingMode, Throughput};
use trefoil::disk::{Recipe, pieces};
use trefoil::model::ContentId;

use crate::made;

/// Bytes of a content that is compared by pieces.
const LARGE_BYTES: usize = 64 << 20;

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for (name, length) in [("4 KiB", 4 << 10), ("1 MiB", 1 << 20)] {
        let bytes = made::noise(1, length);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("content id of {name}"), |bencher| {
            bencher.iter(|| ContentId::of(black_box(&bytes)));
        });
    }
    let bytes = made::noise(2, LARGE_BYTES);
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sampling_mode(SamplingMode::Flat);
    group.bench_function("cut 64 MiB", |bencher| bencher.iter(|| cut(black_box(&bytes))));
    group.bench_function("recipe of 64 MiB", |bencher| {
        bencher.iter(|| Recipe::of(black_box(&bytes[..])).unwrap());
    });
    group.finish();
}

/// Only where the pieces are: what a recipe takes beyond that is hashing them.
fn cut(bytes: &[u8]) -> usize {
    let mut pieces = 0;
    pieces::cut(bytes, |piece| {
        black_box(piece);
        pieces += 1;
        Ok::<_, io::Error>(())
    })
    .unwrap();
    pieces
}
