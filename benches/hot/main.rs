//! Measures the hot paths one by one, in one process: `cargo bench --bench hot -- index` for one
//! group, without a name for all of them, in about two minutes.
//!
//! One file a group. What a group works on is made beforehand and is not measured, nor is clearing it
//! away. `docs/performance.md` has the figures.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod apply;
mod codec;
mod engine;
mod hash;
mod index;
mod made;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // Short: it tells a path that got slow, not one that got slower by some percent.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    hash::measure(&mut criterion);
    index::measure(&mut criterion);
    engine::measure(&mut criterion);
    apply::measure(&mut criterion);
    codec::measure(&mut criterion);
    criterion.final_summary();
}
