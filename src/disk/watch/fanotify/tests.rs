//! The reader, turn by turn, on a file system where nobody else writes.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::disk::watch::WatchEvent;
use crate::disk::watch::testing::{ask, hints, path, shell};

const FILES: u64 = 50;

/// A file system of its own with `root`, which is watched, and `other`, which is not.
struct Alone {
    base: TempDir,
    drain: Drain,
}

impl Alone {
    /// Nothing if this process may not mount, or not use fanotify.
    fn start() -> Option<Self> {
        let base = tempfile::tempdir().unwrap();
        let script = "mkdir fs; mount -t tmpfs none fs 2>/dev/null && echo mounted || :";
        if ask(base.path(), script) != "mounted\n" {
            return None;
        }
        shell(base.path(), "mkdir fs/root fs/other");
        let shared = Shared::new(Arc::new(Box::new(|| ())), b"cookie-".to_vec());
        let root = base.path().join("fs/root");
        match Drain::new(&root, Arc::new(|_| false), Arc::new(shared)) {
            Ok(drain) => Some(Self { base, drain }),
            Err(_) => {
                shell(base.path(), "umount -l fs");
                None
            }
        }
    }

    /// Events noted and left out so far.
    fn counts(&self) -> (u64, u64) {
        let shared = &self.drain.shared;
        (shared.events.load(Ordering::Relaxed), shared.ignored.load(Ordering::Relaxed))
    }

    fn taken(&self) -> Vec<WatchEvent> {
        self.drain.shared.lock().pending.take(usize::MAX)
    }

    /// What a daemon does when it applies entries. No files: a descriptor that a child of another
    /// test inherits is closed by that child, and the kernel tells of a stranger.
    fn write_own(&self) {
        let root = self.base.path().join("fs/root");
        for n in 0..FILES {
            symlink("x", root.join("staged")).unwrap();
            fs::rename(root.join("staged"), root.join(format!("own{n}"))).unwrap();
        }
    }

    fn write_foreign(&self, file: &str) {
        shell(&self.base.path().join("fs"), &format!("echo x > {file}"));
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        shell(self.base.path(), "umount -l fs");
    }
}

#[test]
fn our_own_events_are_skipped_by_pid_and_let_gather() {
    let Some(mut alone) = Alone::start() else { return };
    alone.write_own();
    assert_eq!(Ok(Turn::Gathered), alone.drain.turn());
    let (events, ignored) = alone.counts();
    assert_eq!(0, events);
    // The kernel makes one of what happens to one name.
    assert!(ignored >= FILES, "one read took {ignored}");
    assert_eq!(0, alone.drain.handles.remembered(), "no handle was resolved");
    assert!(alone.taken().is_empty());
}

#[test]
fn events_outside_the_root_gather_and_its_own_do_not() {
    let Some(mut alone) = Alone::start() else { return };
    alone.write_foreign("other/a");
    assert_eq!(Ok(Turn::Gathered), alone.drain.turn());
    alone.write_foreign("root/a");
    assert_eq!(Ok(Turn::Noted), alone.drain.turn());
    alone.write_own();
    alone.write_foreign("root/b");
    assert_eq!(Ok(Turn::Noted), alone.drain.turn(), "one event of interest is enough");
    let told: Vec<_> = hints(&alone.taken()).into_iter().map(|hint| hint.path).collect();
    assert_eq!([path("a"), path("b")], *told);
}

#[test]
fn the_reader_stops_when_it_is_told() {
    let Some(mut alone) = Alone::start() else { return };
    alone.write_own();
    rustix::io::write(&*alone.drain.stop, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(Ok(Turn::Stopped), alone.drain.turn());
    assert_eq!((0, 0), alone.counts());
}
