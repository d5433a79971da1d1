//! `trefoil demo` as a whole: what it reports, how it fails, and that it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

/// How long a process may take to end once it was killed.
const END: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A running demo, whose temporary folder is made in a folder of its own.
struct Demo {
    child: Child,
    progress: BufReader<std::process::ChildStderr>,
    above: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let above = tempfile::Builder::new().prefix("demo-").tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_trefoil"))
            .arg("demo")
            .args(args)
            .env("TMPDIR", above.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let progress = BufReader::new(child.stderr.take().unwrap());
        Self { child, progress, above }
    }

    /// Reads the progress until a step begins.
    fn wait_begun(&mut self, step: &str) {
        let lines = self.progress.by_ref().lines().map(Result::unwrap);
        let begun = lines.into_iter().any(|line| line.contains(&format!("  {step}: ")));
        assert!(begun, "the step {step} did not begin");
    }

    /// Waits for its end: how it ended, and the report.
    fn end(&mut self) -> (ExitStatus, String) {
        let (mut report, mut progress) = (String::new(), Vec::new());
        self.progress.read_to_end(&mut progress).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        (self.child.wait().unwrap(), report)
    }

    /// Processes whose command line names the demo's folder.
    fn processes(&self) -> Vec<Pid> {
        let folder = self.above.path().as_os_str().as_encoded_bytes();
        let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let names = |path: &PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            line.windows(folder.len()).any(|part| part == folder)
        };
        let pid = |path: PathBuf| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
        entries.filter(names).filter_map(pid).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.above.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(Vec::<Pid>::new(), self.processes());
        assert_eq!(Vec::<PathBuf>::new(), self.folders());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its daemons end with it.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// The marks at the start of the report's lines, by step.
fn marks(report: &str) -> Vec<(&str, &str)> {
    let steps = ["cluster", "shop", "release", "latency", "at once", "conflict", "outage"];
    let steps = steps.into_iter().chain(["disaster", "verify", "stop"]);
    let mark = |step| {
        let parts = report.lines().filter_map(|line| line.split_once(' '));
        let mut of_step = parts.filter(|(_, rest)| rest.trim().starts_with(step));
        (step, of_step.next().map_or("missing", |(mark, _)| mark))
    };
    steps.map(mark).collect()
}

#[test]
fn the_demo_proves_every_step_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    let (status, report) = demo.end();
    assert!(status.success(), "{status}\n{report}");
    assert!(marks(&report).iter().all(|(_, mark)| *mark == "✓"), "{report}");
    assert!(report.contains("all 10 steps proven"), "{report}");
    demo.assert_nothing_left();
}

#[test]
fn a_demo_whose_daemon_dies_fails_and_keeps_the_logs() {
    let mut demo = Demo::start(&[]);
    demo.wait_begun("shop");
    let daemons = demo.processes();
    assert!(!daemons.is_empty());
    for pid in daemons {
        // One that has just ended was a command, and no daemon.
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
    let (status, report) = demo.end();
    assert_eq!(Some(1), status.code(), "{report}");
    let marks = marks(&report);
    assert_eq!([("cluster", "✓"), ("shop", "FAILED")], marks[..2], "{report}");
    assert_eq!(("outage", "skipped"), marks[6], "{report}");
    assert!(report.contains("ended by itself"), "{report}");
    assert_eq!(Vec::<Pid>::new(), demo.processes());
    let [folder] = &demo.folders()[..] else { panic!("the folder was not kept") };
    assert!(report.contains(folder.to_str().unwrap()), "{report}");
    assert!(folder.join("web1/log").exists());
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let mut demo = Demo::start(&[]);
    demo.wait_begun("shop");
    rustix::process::kill_process(Pid::from_child(&demo.child), Signal::INT).unwrap();
    let (status, report) = demo.end();
    assert_eq!(Some(1), status.code(), "{report}");
    assert!(report.contains("interrupted"), "{report}");
    demo.assert_nothing_left();
}

#[test]
fn daemons_end_with_a_demo_that_is_killed() {
    let mut demo = Demo::start(&[]);
    demo.wait_begun("shop");
    let open = |pid: &Pid| rustix::process::pidfd_open(*pid, PidfdFlags::empty()).ok();
    let daemons: Vec<_> = demo.processes().iter().filter_map(open).collect();
    assert!(!daemons.is_empty());
    demo.child.kill().unwrap();
    assert_eq!(Some(9), demo.child.wait().unwrap().signal());
    for daemon in daemons {
        let mut events = [PollFd::new(&daemon, PollFlags::IN)];
        assert_eq!(Ok(1), rustix::event::poll(&mut events, Some(&END)));
    }
}

#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let above = tempfile::tempdir().unwrap();
    fs::write(above.path().join("precious"), "").unwrap();
    let mut demo = Demo::start(&["--keep", path_text(above.path())]);
    let (status, report) = demo.end();
    assert_eq!((Some(2), ""), (status.code(), report.as_str()));
    assert_eq!(1, fs::read_dir(above.path()).unwrap().count());
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}
