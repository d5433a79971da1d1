//! What the engine takes to decide, with nothing of what it decides carried out.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use trefoil::config::{MagentoTree, Preset};
use trefoil::engine::clock::Now;
use trefoil::engine::{
    Announced, Class, ClassTable, Considered, Engine, Hint, HintKind, Input, Output, Policy, Seen,
    Setup,
};
use trefoil::model::{Found, Lane, NodeId, Sequence, limits};

use crate::made;

/// Files that are decided for.
const FILES: u64 = 1000;

/// This node.
const NODE: NodeId = NodeId(0x11b3_0c5e_6f92_7d48);

const NOW: Now = Now { monotonic_ms: 1000, wall_ns: made::WALL_NS };

pub(crate) fn measure(criterion: &mut Criterion) {
    let rules = Preset::Magento(MagentoTree::Static).rules();
    let policy = Arc::new(Policy::new(rules, ClassTable::default()).unwrap());
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(FILES));
    let paths: Vec<_> = (0..FILES).map(made::path).collect();
    group.bench_function(format!("classes of {FILES} paths"), |bencher| {
        bencher.iter(|| paths.iter().filter(|path| policy.class(path) == Class::Release).count());
    });
    let (hints, seen): (Vec<_>, Vec<_>) = (0..FILES).map(found).unzip();
    group.bench_function(format!("{FILES} files made here"), |bencher| {
        bencher.iter_batched(
            || (engine(&policy), hints.clone(), seen.clone()),
            |(engine, hints, seen)| made_here(engine, hints, seen),
            BatchSize::LargeInput,
        );
    });
    let records: Vec<_> = (0..FILES).map(announced).collect();
    group.bench_function(format!("{FILES} records announced"), |bencher| {
        bencher.iter_batched(
            || (engine(&policy), records.clone()),
            |(engine, records)| until_applied(engine, records),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn engine(policy: &Arc<Policy>) -> Engine {
    let mut engine = Engine::new(Setup {
        node: NODE,
        policy: policy.clone(),
        keeps_owners: true,
        joining: false,
        last_counter: 0,
        counter_step: 0,
        held_classes: Vec::new(),
        share: limits::SHARE_MAX,
    });
    engine.handle(NOW, Input::PeerUp { peer: made::AUTHOR, cursors: Vec::new(), anew: true });
    engine
}

/// The hint of a new file, and what a read of it finds.
fn found(n: u64) -> (Hint, Seen) {
    let (path, entry) = (made::path(n), made::entry(n, 0));
    let seen = Seen {
        path: path.clone(),
        found: Found::Entry { signature: made::signature(n, &entry), entry, content: None },
        ours: None,
        parent_live: true,
        has_children: false,
        group: None,
        elsewhere: false,
        files: FILES,
    };
    (Hint { path, kind: HintKind::Closed }, seen)
}

/// A peer's record of a new file, with its content.
fn announced(n: u64) -> Announced {
    Announced {
        peer: made::AUTHOR,
        lane: Lane::Release,
        sequence: Sequence(1 + n),
        after: None,
        theirs: made::record(n, 0),
        content: true,
        ours: None,
    }
}

/// From the hints to the last record that is to be stored. Gives the engine back, to be cleared away
/// when nothing is measured.
fn made_here(mut engine: Engine, hints: Vec<Hint>, seen: Vec<Seen>) -> Engine {
    let mut seen = seen.into_iter();
    let mut stored = 0;
    engine.handle(NOW, Input::Hinted(hints));
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Read { path, .. } => {
                let seen = seen.next().filter(|seen| seen.path == path);
                engine.handle(NOW, Input::Seen(Box::new(seen.expect("reads are in order"))));
            }
            Output::Store { record, .. } => {
                black_box(record);
                stored += 1;
            }
            _ => {}
        }
    }
    assert_eq!(FILES, stored);
    engine
}

/// From the announcements to the last apply. Gives the engine back, too.
fn until_applied(mut engine: Engine, records: Vec<Announced>) -> Engine {
    let mut applied = 0;
    for announced in records {
        engine.handle(NOW, Input::Announced(Box::new(announced)));
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Consider { path, .. } => {
                    let considered =
                        Considered { path, ours: None, parent_live: true, children: 0 };
                    engine.handle(NOW, Input::Considered(Box::new(considered)));
                }
                Output::Apply { record, .. } => {
                    black_box(record);
                    applied += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(FILES, applied);
    engine
}
