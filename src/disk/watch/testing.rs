//! For the watcher's tests: a watched directory, other processes that change it, and somebody who
//! looks at what is told.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use tempfile::TempDir;

use super::*;
use crate::disk::tests::start;

pub(super) const LONG: Duration = Duration::from_secs(60);

/// What a test is run for: each backend there is.
pub(super) fn on_each_backend(test: impl Fn(Wanted)) {
    test(Wanted::Inotify);
    let probe = tempfile::tempdir().unwrap();
    match Watcher::start(probe.path(), Wanted::Fanotify, Arc::new(|_| false), Box::new(|| ())) {
        Ok(_) => test(Wanted::Fanotify),
        Err(error) => skipped(&error),
    }
}

fn skipped(error: &WatchError) {
    let cause = std::error::Error::source(error);
    writeln!(io::stderr(), "skipped with fanotify: {error}: {cause:?}").unwrap();
}

/// A watched directory `root` in a temporary one.
pub(super) struct Watched {
    pub(super) base: TempDir,
    pub(super) watcher: Watcher,
    pub(super) woken: Receiver<()>,
}

impl Watched {
    pub(super) fn start(wanted: Wanted, before: &str) -> Self {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("root")).unwrap();
        Self::start_in(base, wanted, before)
    }

    pub(super) fn start_in(base: TempDir, wanted: Wanted, before: &str) -> Self {
        let root = base.path().join("root");
        shell(&root, before);
        let (send, woken) = sync_channel(1);
        let skip = Arc::new(|dir: &RelPath| dir.name() == b"local");
        let wake = Box::new(move || {
            let _waiting = send.try_send(());
        });
        let watcher = Watcher::start(&root, wanted, skip, wake).unwrap();
        assert!(all(&watcher).iter().all(|event| matches!(event, WatchEvent::Hints(_))));
        Self { base, watcher, woken }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    pub(super) fn synced(&self) -> Vec<WatchEvent> {
        self.watcher.sync(LONG).unwrap();
        all(&self.watcher)
    }

    /// The events up to the first that satisfies, waiting for them.
    pub(super) fn until(&self, wanted: impl Fn(&WatchEvent) -> bool) {
        while !all(&self.watcher).iter().any(&wanted) {
            self.woken.recv_timeout(LONG).unwrap();
        }
    }
}

pub(super) fn all(watcher: &Watcher) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    loop {
        let more = watcher.take(7);
        if more.is_empty() {
            return events;
        }
        events.extend(more);
    }
}

pub(super) fn shell(dir: &Path, script: &str) {
    let mut command = Command::new("/bin/sh");
    let mut child = start(command.args(["-ec", script]).current_dir(dir));
    assert!(child.wait().unwrap().success(), "{script}");
}

/// What a script prints.
pub(super) fn ask(dir: &Path, script: &str) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", script]).current_dir(dir).stdout(Stdio::piped());
    let output = start(&mut command).wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

pub(super) fn hints(events: &[WatchEvent]) -> Vec<Hint> {
    let hints = events.iter().filter_map(|event| match event {
        WatchEvent::Hints(hints) => Some(hints.clone()),
        _ => None,
    });
    hints.flatten().collect()
}

/// Whether looking at what the events name, and listing what is to be listed, meets `path`.
pub(super) fn covers(events: &[WatchEvent], path: &RelPath) -> bool {
    events.iter().any(|event| match event {
        WatchEvent::Hints(hints) => hints.iter().any(|hint| {
            hint.path == *path
                || hint.is_dir && hint.kind == HintKind::Moved && path.is_below(&hint.path)
        }),
        WatchEvent::Overflow { below } => below == path || path.is_below(below),
        WatchEvent::Lost { .. } => false,
    })
}

pub(super) fn look(root: &Path, event: &WatchEvent, known: &mut BTreeSet<RelPath>) {
    let hints = match event {
        WatchEvent::Hints(hints) => hints.clone(),
        WatchEvent::Overflow { below } => {
            vec![Hint { path: below.clone(), kind: HintKind::Moved, is_dir: true }]
        }
        WatchEvent::Lost { reason } => panic!("{reason}"),
    };
    for hint in hints {
        let found = std::fs::symlink_metadata(absolute(root, &hint.path));
        let is_dir = found.as_ref().is_ok_and(std::fs::Metadata::is_dir);
        if !is_dir || matches!(hint.kind, HintKind::Moved | HintKind::Gone) {
            known.retain(|path| !path.is_below(&hint.path));
        }
        if found.is_err() {
            known.remove(&hint.path);
        } else if !hint.path.is_root() {
            known.insert(hint.path.clone());
        }
        if is_dir && matches!(hint.kind, HintKind::Moved | HintKind::Gone) {
            list(root, &hint.path, known);
        }
    }
}

/// Adds what is below `dir`.
pub(super) fn list(root: &Path, dir: &RelPath, found: &mut BTreeSet<RelPath>) {
    let Ok(entries) = std::fs::read_dir(absolute(root, dir)) else { return };
    for entry in entries.flatten() {
        let below = dir.join(entry.file_name().as_bytes()).unwrap();
        if below == path(".trefoil") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(root, &below, found);
        }
        found.insert(below);
    }
}

fn absolute(root: &Path, path: &RelPath) -> PathBuf {
    root.join(std::ffi::OsString::from_vec(path.as_bytes().to_vec()))
}

/// A shell that answers each line when it has done it.
pub(super) struct Shell {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Shell {
    pub(super) fn start(dir: &Path) -> Self {
        let mut command = Command::new("/bin/sh");
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start(&mut command);
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    pub(super) fn run(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}; echo done").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!("done\n", answer);
    }

    pub(super) fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

const ACT: &str = "TREFOIL_TEST_ACT";

/// This test binary again, to do what a shell cannot.
pub(super) fn acting(dir: &Path, act: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--quiet", "disk::watch::testing::the_other_process_acts"])
        .env(ACT, act)
        .current_dir(dir)
        .stdout(Stdio::null());
    command
}

pub(super) fn another_process(dir: &Path, act: &str) {
    assert!(start(&mut acting(dir, act)).wait().unwrap().success(), "{act}");
}

#[test]
fn the_other_process_acts() {
    let Ok(act) = std::env::var(ACT) else { return };
    match act.split_once(' ') {
        None if act == "exchange" => {
            rustix::fs::renameat_with(CWD, "a", CWD, "d", RenameFlags::EXCHANGE).unwrap();
        }
        None if act == "tmpfile" => {
            let flags = OFlags::TMPFILE | OFlags::WRONLY;
            let file = rustix::fs::open(".", flags, Mode::RUSR).unwrap();
            rustix::io::write(&file, b"x").unwrap();
            let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            rustix::fs::linkat(CWD, magic, CWD, "linked", AtFlags::SYMLINK_FOLLOW).unwrap();
            std::process::exit(0);
        }
        Some(("random", seed)) => random_changes(seed.parse().unwrap()),
        _ => panic!("{act}"),
    }
}

fn random_changes(mut seed: u64) {
    let mut below = |n: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(seed >> 33).expect("31 bits") % n
    };
    for n in 0..3000 {
        let mut name = || {
            let depth = 1 + below(4);
            (0..depth).map(|_| ["a", "b", "c"][below(3) as usize]).collect::<Vec<_>>().join("/")
        };
        let (one, two) = (name(), name());
        // Most fail, since the names clash; that is the point.
        let _attempt: Result<(), io::Error> = match below(10) {
            0..=3 => std::fs::create_dir_all(&one),
            4 => std::fs::write(format!("{one}/f{}", n % 5), "x"),
            5 => std::fs::write(&one, "x"),
            6 | 7 => std::fs::rename(&one, &two),
            8 => std::fs::remove_dir_all(&one),
            _ => std::fs::remove_file(&one),
        };
    }
}
