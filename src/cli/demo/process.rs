//! Child processes that never outlive the demo.
//!
//! In: arguments for this very program. Out: how it ended and what it printed. A [`Process`] is killed
//! and waited for when it is dropped, and a daemon is tied to the demo by the kernel besides: it
//! dies with the demo even if that is killed.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::interrupt::Interrupt;
use crate::cli::Failure;

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// How long a wait for a process ignores an interruption at most.
const SLICE: Duration = Duration::from_millis(50);

/// A running child process.
struct Process {
    child: Child,
    /// Becomes readable when it has ended.
    ended: OwnedFd,
}

/// What a command printed, and how it ended.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// A daemon that runs, or not.
pub(super) struct Daemon {
    name: String,
    config: PathBuf,
    log: PathBuf,
    running: Option<Process>,
}

impl Process {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        // A group of its own: what the terminal sends at Ctrl-C is the demo's to deal with.
        let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        // Not waited for yet, so the id is still its own.
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => Ok(Self { child, ended }),
            Err(error) => {
                child.kill().and_then(|()| child.wait())?;
                Err(error.into())
            }
        }
    }

    /// Waits until it has ended; nothing, if it has not in this time.
    fn wait(
        &mut self,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            interrupt.pause(Duration::ZERO)?;
            let left = end.saturating_duration_since(Instant::now());
            let slice = Timespec::try_from(left.min(SLICE))?;
            let mut events = [PollFd::new(&self.ended, PollFlags::IN)];
            match rustix::event::poll(&mut events, Some(&slice)) {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(Some(self.child.wait()?)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has been waited for already.
        self.kill().ok();
    }
}

/// Runs `trefoil --config FILE` with `args` to its end.
///
/// # Errors
/// If it cannot be started, takes too long, or the demo was told to stop: it is killed then.
pub(super) fn command(
    config: &Path,
    args: &[&str],
    interrupt: &Interrupt,
) -> anyhow::Result<Finished> {
    let shown = || format!("`trefoil {}`", args.join(" "));
    let capture = || rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).map(File::from);
    let (mut stdout, mut stderr) = (capture()?, capture()?);
    let mut command = trefoil(config)?;
    command.args(args).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut process =
        Process::spawn(&mut command).with_context(|| format!("cannot run {}", shown()))?;
    let Some(status) = process.wait(COMMAND, interrupt)? else {
        bail!("{} did not end in {COMMAND:?}", shown());
    };
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let stderr = String::from_utf8_lossy(&read(&mut stderr)?).trim().to_owned();
    Ok(Finished { status, stdout: read(&mut stdout)?, stderr })
}

fn trefoil(config: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(program);
    // A service manager shall not take a demo's daemon for the one it started.
    command.arg("--config").arg(config).env_remove("NOTIFY_SOCKET");
    Ok(command)
}

impl Daemon {
    /// One that does not run yet.
    pub(super) fn new(name: &str, config: &Path, log: &Path) -> Self {
        let (config, log) = (config.to_owned(), log.to_owned());
        Self { name: name.to_owned(), config, log, running: None }
    }

    /// Starts it; it is not ready yet. Nothing happens if it runs.
    ///
    /// Must be called on the thread that ends with the demo: the kernel ends what was started by a
    /// thread with that thread.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        let mut command = trefoil(&self.config)?;
        command.args(["demo", "--daemon-of", &std::process::id().to_string()]);
        command.stdout(Stdio::null()).stderr(log);
        let process = Process::spawn(&mut command);
        self.running = Some(process.with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Whether it was started and not stopped or killed by the demo since.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Fails if it should be running and has ended, also the next time.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let Some(process) = &mut self.running else { return Ok(()) };
        let Some(status) = process.child.try_wait()? else { return Ok(()) };
        bail!("the daemon of {} ended by itself: {status}", self.name)
    }

    /// Ends it as a crash would: SIGKILL. Nothing happens if it does not run.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.running.take() {
            process.kill().with_context(|| format!("cannot kill {}", self.name))?;
        }
        Ok(())
    }

    /// Asks it to stop, with SIGTERM.
    pub(super) fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        self.check()?;
        if let Some(process) = &self.running {
            rustix::process::pidfd_send_signal(&process.ended, Signal::TERM)?;
        }
        Ok(())
    }

    /// Waits until it has stopped, which must be in time and without an error.
    pub(super) fn wait_stopped(
        &mut self,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let Some(mut process) = self.running.take() else { return Ok(()) };
        let name = &self.name;
        match process.wait(limit, interrupt)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{name} stopped with {status}"),
            None => bail!("{name} did not stop within {limit:?} after SIGTERM"),
        }
    }
}

/// Becomes `trefoil daemon`, which the kernel kills as soon as the demo with this process id ends.
/// Returns only if that is not possible.
pub(super) fn become_daemon(config: &Path, demo: u32) -> Failure {
    let tie = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if parent.and_then(|id| u32::try_from(id).ok()) != Some(demo) {
            return Err(anyhow!("the demo has ended"));
        }
        Err(trefoil(config)?.arg("daemon").exec().into())
    };
    let Err(error): anyhow::Result<std::convert::Infallible> = tie();
    error.context("cannot start the demo's daemon").into()
}
