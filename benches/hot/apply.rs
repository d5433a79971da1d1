//! What it takes until a group of small files is visible and durable, on a real mount.
//!
//! Content comes with the request, as most small files come, or lies in the stage. A group of more
//! than two files syncs the whole file system: it waits for what others wrote on it, too.

use std::cell::RefCell;
use std::fs;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use tempfile::TempDir;
use trefoil::disk::{
    ApplyRequest, Displaced, Mount, MountOptions, Outcome, Source, Staged, apply_group,
};
use trefoil::model::{ContentId, RelPath};

use crate::made;

/// Bytes of a file.
const FILE_BYTES: usize = 4 << 10;

/// A mount whose files are new each time.
struct Growing {
    mount: Arc<Mount>,
    /// Of the next file: no two have the same content.
    next: u64,
    folder: TempDir,
}

impl Growing {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let privileged = rustix::process::geteuid().is_root();
        let mount = Mount::open(folder.path(), MountOptions { privileged, create: true }).unwrap();
        Self { mount: Arc::new(mount), next: 0, folder }
    }

    /// Makes a directory, and requests for new files in it.
    fn group(&mut self, files: u64, staged: bool) -> Vec<ApplyRequest> {
        let dir = RelPath::parse(format!("group-{:06}", self.next).as_bytes()).unwrap();
        fs::create_dir(self.folder.path().join(dir.to_string())).unwrap();
        (0..files).map(|_| self.request(&dir, staged)).collect()
    }

    fn request(&mut self, dir: &RelPath, staged: bool) -> ApplyRequest {
        self.next += 1;
        let bytes = made::noise(self.next, FILE_BYTES);
        let (content, size) = (ContentId::of(&bytes), bytes.len() as u64);
        let source = if staged {
            let mut staged = Staged::open(&self.mount, content, size).unwrap();
            staged.write(&bytes).unwrap();
            staged.finish().unwrap();
            Source::Staged
        } else {
            Source::Inline(bytes.into())
        };
        ApplyRequest {
            path: dir.join(format!("part-{:06}.js", self.next).as_bytes()).unwrap(),
            target: Some(made::file(content, size)),
            expected: None,
            source,
            displaced: Displaced::Drop,
            even_if_open: false,
        }
    }
}

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for (name, staged) in [("inline", false), ("staged", true)] {
        for files in [1, 64] {
            group.throughput(Throughput::Elements(files));
            let growing = RefCell::new(Growing::new());
            group.bench_function(format!("{files} {name}"), |bencher| {
                bencher.iter_batched_ref(
                    || growing.borrow_mut().group(files, staged),
                    |requests| apply(&growing.borrow().mount, requests),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn apply(mount: &Mount, requests: &[ApplyRequest]) -> Vec<Outcome> {
    let mut visible = 0;
    let outcomes = apply_group(mount, requests, |_| visible += 1);
    assert_eq!(requests.len(), visible, "{outcomes:?}");
    outcomes
}
