//! What the index takes for one transaction, on a real file, and for a look-up.
//!
//! An index that has many rows already. Nothing is synced, as for edits made here.

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use tempfile::TempDir;
use trefoil::index::Index;
use trefoil::model::{Incarnation, Lane, Record, RelPath};

use crate::made;

/// Rows that are there before.
const ROWS: u64 = 16_384;

/// Rows with which it is made anew: it would grow for as long as is measured.
const ROWS_MAX: u64 = 4 * ROWS;

/// An index with rows.
struct Filled {
    index: Index,
    /// Of the next new row.
    next: u64,
    /// How often rows were changed.
    edit: u64,
    _folder: TempDir,
}

impl Filled {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
        let mut filled = Self { index, next: ROWS, edit: 0, _folder: folder };
        filled.store(&(0..ROWS).map(|n| made::record(n, 0)).collect::<Vec<_>>());
        filled
    }

    /// Records of paths that it does not have.
    fn new_records(&mut self, count: u64) -> Vec<Record> {
        if self.next + count > ROWS_MAX {
            *self = Self::new();
        }
        let first = self.next;
        self.next += count;
        (first..self.next).map(|n| made::record(n, 0)).collect()
    }

    /// Newer records of paths that it has, other ones each time.
    fn changed_records(&mut self, count: u64) -> Vec<Record> {
        self.edit += 1;
        let first = self.edit * count;
        (first..first + count).map(|n| made::record(n % ROWS, self.edit)).collect()
    }

    fn store(&mut self, records: &[Record]) {
        self.index.begin().unwrap();
        for record in records {
            // Replaced by a rename: another inode each time.
            let n = record.version.stamp.counter;
            let signature = record.entry.as_ref().map(|entry| made::signature(n, entry));
            let stored = self.index.store(record, signature, Lane::Release, None, made::WALL_NS);
            black_box(stored.unwrap());
        }
        self.index.commit().unwrap();
    }
}

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    for (name, records) in [
        ("new", Filled::new_records as fn(&mut Filled, u64) -> Vec<Record>),
        ("changed", Filled::changed_records),
    ] {
        for count in [1, 64, 1024] {
            let filled = RefCell::new(Filled::new());
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("store {count} {name}"), |bencher| {
                bencher.iter_batched_ref(
                    || records(&mut filled.borrow_mut(), count),
                    |records| filled.borrow_mut().store(records),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    let filled = Filled::new();
    let paths: Vec<RelPath> = (0..ROWS).map(made::path).collect();
    // One far from the other, as what many writers do is.
    let mut at = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("look up a row", |bencher| {
        bencher.iter(|| {
            at = (at + 7919) % paths.len();
            filled.index.row(&paths[at]).unwrap().unwrap()
        });
    });
    group.finish();
}
