//! `snapshot mount`: all snapshots as directories, for as long as it runs.
//!
//! It mounts, waits for a signal or for somebody who unmounts, and leaves no mount behind. It takes no lock: like
//! every reader it finds objects again that were moved, and whoever prunes does not wait for it.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use fuser::{BackgroundSession, MountOption, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{getegid, geteuid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::fuse::Fuse;
use super::{is_safety, taken};
use crate::cli::{Failure, Outcome, Output};
use crate::snapshot::{Browser, Manifest, Repository, SnapshotId, View};

/// The kernel's side of it.
const DEVICE: &str = "/dev/fuse";

/// Threads that answer: most of the work is to decompress and to hash.
const THREADS_MAX: usize = 4;

/// Show all snapshots as directories, to look around in and to copy from.
///
/// Below DIR, which must be empty, each snapshot has a directory with its time (UTC) and id, with the mounts in it;
/// `latest` leads to the newest. Nothing can be written. New snapshots appear, and those that are removed
/// disappear, within a second or two. It runs until Ctrl-C is pressed or DIR is unmounted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mkdir -p /mnt/snapshots && trefoil snapshot mount /mnt/snapshots
  ls /mnt/snapshots/latest/media/catalog
  cp -a /mnt/snapshots/2026-11-29T06-00-00Z-1a2b3c4d5e6f/media/logo.png /tmp/

What cannot be read is an input/output error there, and named here.")]
pub(super) struct MountArgs {
    /// An empty directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Let other users in as well.
    ///
    /// Each may read what owners, modes and ACLs of files and directories let through. Those of a mount's own top
    /// directory are in no snapshot: a mount that only its top closes is open here.
    #[arg(long)]
    allow_other: bool,
}

pub(super) fn mount(
    args: &MountArgs,
    repository: Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let dir = empty_dir(&args.dir)?;
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    drop(device.map_err(without_device)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    // Before there is a mount that a signal could leave behind.
    let signals = {
        let _entered = runtime.enter();
        signals().context("cannot watch for signals")?
    };
    let (ended, end) = oneshot::channel();
    let owner = (geteuid().as_raw(), getegid().as_raw());
    let view = View { name, may_be_latest: |manifest| !is_safety(manifest), owner };
    let browser = Browser::new(Box::new(repository), view);
    let session = fuser::spawn_mount(Fuse::new(browser, ended), &dir, &options(args));
    let session = session.map_err(|error| not_mounted(&args.dir, error))?;
    let shown = args.dir.display();
    let umount = umount();
    output.data(&format!(
        "snapshots are at {shown}; press Ctrl-C, or run `{umount} {shown}`, to end"
    ))?;
    if runtime.block_on(is_unmounted(end, signals)) {
        // It would unmount DIR once more, and there may be another mount by now.
        std::mem::forget(session);
    } else if unmount(&dir, session).with_context(|| format!("cannot unmount {shown}"))? {
        output.note(&format!("{shown} is in use: what is open there cannot be read any more"));
    }
    Ok(Outcome::Done)
}

/// Those that end it. Who has started it with `nohup` wants it to outlast the terminal.
fn signals() -> io::Result<Vec<Signal>> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The first bit is SIGHUP's.
    let hangup = (ignored & 1 == 0).then(SignalKind::hangup);
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup);
    kinds.map(signal).collect()
}

/// As the lists have it: the time in UTC, then the id. It sorts by time, and needs no quotes.
fn name(id: SnapshotId, manifest: &Manifest) -> String {
    let id = &id.to_string()[..SnapshotId::SHORT];
    format!("{}-{id}", taken(manifest).strftime("%Y-%m-%dT%H-%M-%SZ"))
}

/// The directory, if something can be mounted there without hiding anything.
fn empty_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let shown = dir.display();
    let cannot = |error: anyhow::Error, hint: String| {
        Failure::with_hint(error.context(format!("cannot mount on {shown}")), hint)
    };
    let looked = fs::read_dir(dir).and_then(|mut found| found.next().transpose());
    match looked.and_then(|first| Ok((first, dir.canonicalize()?))) {
        Ok((None, dir)) => Ok(dir),
        Ok((Some(_), _)) => {
            let error = anyhow::anyhow!("it is not empty");
            Err(cannot(
                error,
                "name an empty directory: what is in this one would be hidden".into(),
            ))
        }
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound => format!("make it: mkdir -p {shown}"),
                ErrorKind::PermissionDenied => "run this as root".to_owned(),
                // Whoever answered there was killed.
                ErrorKind::NotConnected => {
                    format!("unmount what is left there: {} {shown}", umount())
                }
                _ => "name an empty directory".to_owned(),
            };
            Err(cannot(error.into(), hint))
        }
    }
}

fn without_device(error: io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "run this as root; a container has to be given the device",
        _ => "load the kernel's module: modprobe fuse; a container has to be given the device",
    };
    Failure::with_hint(anyhow::Error::new(error).context(format!("cannot use {DEVICE}")), hint)
}

fn not_mounted(dir: &Path, error: io::Error) -> Failure {
    let said = error.to_string();
    let mut hint = match geteuid().is_root() {
        true => "root needs the capability CAP_SYS_ADMIN for it, which a container has to be given",
        false => "run this as root, or install fusermount3 (Debian: fuse3)",
    };
    let error = match error.kind() {
        _ if said.contains("user_allow_other") => {
            hint = "run this as root, or without --allow-other";
            anyhow::anyhow!("{}", said.trim_end())
        }
        // The directory and the device were looked at: it is the program that may mount for others than root.
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            anyhow::Error::new(error).context("cannot start fusermount3")
        }
        _ => anyhow::anyhow!("{}", said.trim_end()),
    };
    Failure::with_hint(error.context(format!("cannot mount on {}", dir.display())), hint)
}

/// The command that unmounts it.
fn umount() -> &'static str {
    if geteuid().is_root() { "umount" } else { "fusermount3 -u" }
}

fn options(args: &MountArgs) -> fuser::Config {
    let mut options = fuser::Config::default();
    options.mount_options = vec![
        MountOption::FSName("trefoil".to_owned()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    options.acl = if args.allow_other { SessionACL::All } else { SessionACL::Owner };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    options.n_threads = Some(threads.min(THREADS_MAX));
    options
}

/// Waits until somebody else has unmounted it, or until this is told to.
async fn is_unmounted(mut end: oneshot::Receiver<()>, mut signals: Vec<Signal>) -> bool {
    std::future::poll_fn(move |context| {
        if std::pin::Pin::new(&mut end).poll(context).is_ready() {
            return std::task::Poll::Ready(true);
        }
        let mut told = signals.iter_mut().map(|signal| signal.poll_recv(context).is_ready());
        if told.any(|told| told) { std::task::Poll::Ready(false) } else { std::task::Poll::Pending }
    })
    .await
}

/// Unmounts it, also if somebody is in it; says whether somebody was.
fn unmount(dir: &Path, session: BackgroundSession) -> io::Result<bool> {
    let unmount = |flags| rustix::mount::unmount(dir, flags | UnmountFlags::NOFOLLOW);
    match unmount(UnmountFlags::empty()) {
        // It does so by the program that may.
        Err(Errno::PERM) => {
            drop(session);
            Ok(false)
        }
        // It was unmounted just now.
        Ok(()) | Err(Errno::INVAL) => {
            std::mem::forget(session);
            Ok(false)
        }
        Err(Errno::BUSY) => {
            unmount(UnmountFlags::DETACH)?;
            std::mem::forget(session);
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}
