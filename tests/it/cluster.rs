//! It is longer than 500 lines because all that tests ask of a cluster is here.
//!
//! Real `trefoil` processes on loopback addresses, for tests of whole clusters.
//! ```ignore
//! let mut cluster = Cluster::start(&Setup::new().mount("media").preset("magento"));
//! std::fs::write(cluster.node(1).path("media").join("a"), "text").unwrap();
//! cluster.wait_equal(Duration::from_secs(10));
//! ```
//!
//! A wait looks again when a node logs something, or after a pause that grows. When a test fails,
//! the logs are printed. All processes end with the cluster, by their ids.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

use crate::tree::{describe, differences};

/// The program under test.
const TREFOIL: &str = env!("CARGO_BIN_EXE_trefoil");
/// How long a daemon may take until `status` answers.
const READY: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop after SIGTERM.
const STOP: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
/// Pauses between two looks: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(200)];
/// Lines kept of each node's log.
const LOG_LINES_MAX: usize = 400;

/// Nodes get addresses of their own, so that tests can run side by side.
static NEXT_HOST: AtomicU8 = AtomicU8::new(1);

/// What a cluster is made of.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    nodes: usize,
    mounts: Vec<String>,
    preset: Option<String>,
    node_extra: String,
    mount_extra: String,
    /// Nothing: snapshots by hand only.
    snapshot: Option<String>,
}

impl Setup {
    /// Three nodes, no mounts, no preset.
    pub(crate) fn new() -> Self {
        Self { nodes: 3, ..Self::default() }
    }

    /// Another number of nodes.
    pub(crate) fn nodes(self, nodes: usize) -> Self {
        Self { nodes, ..self }
    }

    /// One mount more, such as `pub/media`.
    pub(crate) fn mount(mut self, name: &str) -> Self {
        self.mounts.push(name.to_owned());
        self
    }

    /// A preset for all mounts.
    pub(crate) fn preset(self, preset: &str) -> Self {
        Self { preset: Some(preset.to_owned()), ..self }
    }

    /// Lines for the node's table, such as `trash_max = "off"`.
    pub(crate) fn node_lines(self, lines: &str) -> Self {
        Self { node_extra: lines.to_owned(), ..self }
    }

    /// Lines for the table of snapshots, such as `schedule = "* * * * *"`.
    pub(crate) fn snapshot_lines(self, lines: &str) -> Self {
        Self { snapshot: Some(lines.to_owned()), ..self }
    }

    /// Lines for each mount's table, such as `watch = "inotify"`.
    pub(crate) fn mount_lines(self, lines: &str) -> Self {
        Self { mount_extra: lines.to_owned(), ..self }
    }

    /// The configuration file of a node that lives in `home`.
    fn config(&self, name: &str, home: &Path, address: &str) -> String {
        let home = home.display();
        let mut text = format!(
            "[node]\nname = \"{name}\"\nstate = \"{home}/state\"\nlisten = \"{address}\"\n\
             advertise = \"{address}\"\n{}\n[control]\nsocket = \"{home}/control.sock\"\n\
             \n[snapshot]\n{}\n",
            self.node_extra,
            self.snapshot.as_deref().unwrap_or("schedule = \"off\""),
        );
        for mount in &self.mounts {
            write!(text, "\n[[mount]]\nname = \"{mount}\"\npath = \"{home}/data/{mount}\"\n")
                .unwrap();
            if let Some(preset) = &self.preset {
                writeln!(text, "preset = \"{preset}\"").unwrap();
            }
            writeln!(text, "{}", self.mount_extra).unwrap();
        }
        text
    }
}

/// Some nodes that know each other.
pub(crate) struct Cluster {
    setup: Setup,
    nodes: Vec<Node>,
    events: Receiver<()>,
    wake: SyncSender<()>,
    folder: TempDir,
}

impl Cluster {
    /// Makes the folders and configurations, starts node 1 with `init` and enrols the others.
    #[track_caller]
    pub(crate) fn start(setup: &Setup) -> Self {
        let mut cluster = Self::prepare(setup);
        for n in 1..=setup.nodes {
            cluster.enrol(n);
            cluster.node_mut(n).start();
            cluster.wait_ready(n);
        }
        cluster
    }

    /// Makes the folders and configurations only: tests plant content, then call `enrol` and
    /// `start` themselves.
    pub(crate) fn prepare(setup: &Setup) -> Self {
        // One wake-up is as good as many: the receiver looks at everything.
        let (wake, events) = sync_channel(1);
        let folder = tempfile::Builder::new().prefix("trefoil-it-").tempdir().unwrap();
        let mut cluster = Self { setup: setup.clone(), nodes: Vec::new(), events, wake, folder };
        for n in 1..=setup.nodes {
            cluster.add_node(&format!("n{n}"));
        }
        cluster
    }

    /// Adds a fresh machine under `name`; it is not enrolled yet. Gives its number.
    pub(crate) fn add_node(&mut self, name: &str) -> usize {
        let n = self.nodes.len() + 1;
        let home = self.folder.path().join(format!("{n}-{name}"));
        let address = free_address();
        for mount in &self.setup.mounts {
            fs::create_dir_all(home.join("data").join(mount)).unwrap();
        }
        let config = home.join("trefoil.toml");
        fs::create_dir_all(&home).unwrap();
        fs::write(&config, self.setup.config(name, &home, &address)).unwrap();
        let (name, wake) = (name.to_owned(), self.wake.clone());
        self.nodes.push(Node {
            name,
            home,
            config,
            address,
            wake,
            below: Vec::new(),
            running: None,
            log: Log::default(),
        });
        n
    }

    /// Node `n`, counted from 1.
    pub(crate) fn node(&self, n: usize) -> &Node {
        &self.nodes[n - 1]
    }

    /// Node `n`, counted from 1.
    pub(crate) fn node_mut(&mut self, n: usize) -> &mut Node {
        &mut self.nodes[n - 1]
    }

    /// Makes node `n` a member: node 1 by `init`, another by a ticket of the first that runs.
    #[track_caller]
    pub(crate) fn enrol(&self, n: usize) {
        match self.nodes.iter().find(|node| node.running.is_some()) {
            None => {
                self.node(n).done(&["init"]);
            }
            Some(inviter) => {
                let printed = inviter.done(&["invite"]);
                let ticket = printed.lines().last().expect("`invite` prints a ticket");
                self.node(n).done(&["join", ticket]);
            }
        }
    }

    /// Waits until `status` of node `n` answers.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, n: usize) {
        let what = format!("an answer of node {n}");
        self.wait_until(READY, &what, |cluster| cluster.node(n).status().map(drop));
    }

    /// Waits until every mount is the same on all running nodes, by our own comparison.
    #[track_caller]
    pub(crate) fn wait_equal(&mut self, timeout: Duration) {
        self.wait_until(timeout, "equal replicas", |cluster| {
            match cluster.differences().as_slice() {
                [] => Ok(()),
                lines => {
                    Err(lines.iter().take(20).fold(String::new(), |all, line| all + line + "\n"))
                }
            }
        });
    }

    /// Waits until `status` says "in sync" on every running node.
    #[track_caller]
    pub(crate) fn wait_in_sync(&mut self, timeout: Duration) {
        self.wait_until(timeout, "\"in sync\"", |cluster| {
            for node in cluster.nodes.iter().filter(|node| node.running.is_some()) {
                let status = node.status()?;
                if status["in_sync"] != true {
                    return Err(status.to_string());
                }
            }
            Ok(())
        });
    }

    /// A line a difference between the first running node and the others, mount by mount. A tree
    /// that cannot be looked at is a difference too.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let running: Vec<&Node> = self.nodes.iter().filter(|n| n.running.is_some()).collect();
        for mount in &self.setup.mounts {
            let mut trees = running.iter().map(|node| (&node.name, describe(&node.path(mount))));
            let Some((first, reference)) = trees.next() else { break };
            for (name, tree) in trees {
                let found = match (&reference, &tree) {
                    (Ok(a), Ok(b)) => differences(a, b),
                    (Err(e), _) | (_, Err(e)) => vec![e.to_string()],
                };
                lines.extend(found.iter().map(|line| format!("{mount}, {first} / {name}: {line}")));
            }
        }
        lines
    }

    /// Waits until `look` is content; fails the test with what it said last after `timeout`, or
    /// at once if a node ended by itself.
    #[track_caller]
    pub(crate) fn wait_until(
        &mut self,
        timeout: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<(), String>,
    ) {
        let end = Instant::now() + timeout;
        let mut pause = PAUSES[0];
        loop {
            let Err(why) = look(self) else { return };
            for node in &mut self.nodes {
                if let Some(status) = node.ended() {
                    panic!("node {} ended ({status}) while waiting for {what}: {why}", node.name);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} after {timeout:?}: {why}");
            // A log line means that something happened: look at once.
            if self.events.recv_timeout(pause.min(left)).is_err() {
                pause = (pause * 2).min(PAUSES[1]);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in self.nodes.iter().filter(|node| node.running.is_some()) {
                eprintln!(
                    "--- status of {}\n{}",
                    node.name,
                    lossy(&node.trefoil(&["status"]).stdout)
                );
            }
        }
        for node in &mut self.nodes {
            node.kill9();
        }
        if thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- log of {}\n{}", node.name, node.log());
            }
        }
    }
}

/// The last lines a node has printed, in order.
type Log = Arc<Mutex<VecDeque<String>>>;

/// One node: a folder with its configuration, state and mounts, and a daemon unless it is down.
pub(crate) struct Node {
    name: String,
    home: PathBuf,
    config: PathBuf,
    address: String,
    wake: SyncSender<()>,
    below: Vec<String>,
    running: Option<Child>,
    log: Log,
}

impl Node {
    /// Its replica of `mount`.
    pub(crate) fn path(&self, mount: &str) -> PathBuf {
        self.home.join("data").join(mount)
    }

    /// Where its identity, index and conflict store lie.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The address it listens at, with the port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs `trefoil --config FILE` with `args` to its end.
    pub(crate) fn trefoil(&self, args: &[&str]) -> Output {
        self.program().args(args).output().unwrap()
    }

    /// Starts `trefoil --config FILE` with `args`, and gives what it prints as it comes.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.program();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Has the program started by another one from now on, such as `env` or `nsenter`, which has to
    /// become the program itself.
    pub(crate) fn run_below(&mut self, words: &[&str]) {
        self.below = words.iter().map(|&word| word.to_owned()).collect();
    }

    fn program(&self) -> Command {
        let mut words = self.below.iter().map(String::as_str).chain([TREFOIL]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words).arg("--config").arg(&self.config).stdin(Stdio::null());
        command
    }

    /// Runs `trefoil` with `args`, which must succeed. Gives what it printed on stdout.
    #[track_caller]
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.trefoil(args);
        let (name, status) = (&self.name, output.status);
        assert!(status.success(), "{name}: {args:?}: {status}\n{}", lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `trefoil` with `args` and `--json`, which must succeed. Gives its answer.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let printed = self.done(&[args, &["--json"]].concat());
        serde_json::from_str(&printed).unwrap()
    }

    /// What `status --json` says, with problems or without; otherwise why there is no answer.
    pub(crate) fn status(&self) -> Result<serde_json::Value, String> {
        let output = self.trefoil(&["status", "--json"]);
        match output.status.code() {
            Some(0 | 3) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            _ => Err(lossy(&output.stderr)),
        }
    }

    /// Runs `trefoil` with `args`, which must end with `code`. Gives stdout and stderr, joined.
    #[track_caller]
    pub(crate) fn ends(&self, args: &[&str], code: i32) -> String {
        let output = self.trefoil(args);
        let said = lossy(&output.stdout) + &lossy(&output.stderr);
        assert_eq!(Some(code), output.status.code(), "{}: {args:?}:\n{said}", self.name);
        said
    }

    /// The running daemon's process id.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("the node is running").id()
    }

    /// Starts the daemon; it is not ready yet.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the daemon with faults, as `src/disk/fault.rs` tells; none are none.
    pub(crate) fn start_with(&mut self, faults: &[&str]) {
        assert!(self.running.is_none(), "node {} is running already", self.name);
        let mut command = self.program();
        if !faults.is_empty() {
            command.env("TREFOIL_FAULT", faults.join(","));
        }
        let mut child =
            command.arg("daemon").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (log, wake) = (Arc::clone(&self.log), self.wake.clone());
        // Ends with the pipe, which is when the last process that inherited it has ended.
        drop(thread::spawn(move || read_log(lines, &log, &wake)));
        self.running = Some(child);
    }

    /// Ends the daemon as a crash would: SIGKILL. Nothing happens if it is down.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the daemon to stop with SIGTERM; it must do so in time and without an error.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.signal(Signal::TERM);
        let status = self.wait_end();
        assert!(status.success(), "node {} stopped with {status}\n{}", self.name, self.log());
    }

    /// Waits until the daemon has ended by itself, and kills it if it does not.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.running.take().expect("the node is running");
        let pid = Pid::from_child(&child);
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut events = [PollFd::new(&ended, PollFlags::IN)];
        if rustix::event::poll(&mut events, Some(&STOP)).unwrap() == 0 {
            child.kill().unwrap();
        }
        child.wait().unwrap()
    }

    /// Sends a signal to the running daemon, such as HUP, STOP or CONT.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.running.as_ref().expect("the node is running");
        rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// What the daemon printed, over all its starts.
    pub(crate) fn log(&self) -> String {
        let lines = self.log.lock().unwrap();
        lines.iter().fold(String::new(), |all, line| all + line + "\n")
    }

    /// The exit status, if the daemon should be running and has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.try_wait().unwrap()
    }
}

/// Keeps the last lines and wakes who waits, until the process has closed the pipe.
fn read_log(lines: impl BufRead, log: &Mutex<VecDeque<String>>, wake: &SyncSender<()>) {
    for line in lines.split(b'\n') {
        let Ok(line) = line else { return };
        let mut kept = log.lock().unwrap();
        if kept.len() == LOG_LINES_MAX {
            kept.pop_front();
        }
        kept.push_back(lossy(&line));
        drop(kept);
        // Full means that a wake-up is pending; closed that the cluster is gone.
        let (Ok(()) | Err(_)) = wake.try_send(());
    }
}

/// A loopback address of its own with a port that is free. As each process has a network 127.x.y.0
/// by its id, nothing else is likely to take the port before the daemon does.
fn free_address() -> String {
    let [high, low, ..] = (std::process::id() % 64_000 + 1_000).to_be_bytes()[2..] else {
        unreachable!("two bytes are left of four")
    };
    let host = NEXT_HOST.fetch_add(1, Ordering::Relaxed).max(1);
    let ip = IpAddr::V4(Ipv4Addr::new(127, high, low, host));
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_node_has_an_address_of_its_own_and_each_mount_its_preset() {
    assert_ne!(free_address(), free_address());
    let setup = Setup::new().mount("var").mount("pub/media").preset("magento");
    let text = setup.config("n1", Path::new("/home"), "127.0.0.1:1");
    let config: toml::Table = text.parse().unwrap();
    assert_eq!("/home/state", config["node"]["state"].as_str().unwrap());
    assert_eq!("/home/control.sock", config["control"]["socket"].as_str().unwrap());
    assert_eq!("/home/data/pub/media", config["mount"][1]["path"].as_str().unwrap());
    assert_eq!("magento", config["mount"][1]["preset"].as_str().unwrap());
}
