//! `trefoil restore`: files out of a snapshot.
//!
//! It reads the repository itself: neither a daemon nor a cluster is needed, but for the snapshot that is
//! taken before a mount is changed.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::snapshot::{SAFETY_NOTE, meant, open};
use super::words::{count, size};
use super::{Failure, Outcome, Output, ask};
use crate::config::{Config, MagentoTree, Mount, Preset};
use crate::control::types::SnapshotRequest;
use crate::engine::Class;
use crate::model::RelPath;
use crate::snapshot::{
    Change, Choice, InPlace, Manifest, MountTree, Repository, Restored, SnapshotId, restore,
};

/// Failures that are named, and paths of a dry run.
const TOLD: usize = 20;

/// How often is said how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Put files of a snapshot back, into the mounts or into a directory.
///
/// With --to, into a directory outside of the mounts: with --mount, that mount's tree directly into it, without,
/// a folder for each mount. A file that is there and is another one is replaced; nothing is removed.
///
/// With --in-place, into the mounts as they are now, from where it is mirrored like any edit. First it says
/// what will change, and takes a pinned snapshot to go back to. Only what differs is touched. Nothing is deleted
/// without --delete, and then only below the paths that are named. app/etc/env.php is left unless it is named.
///
/// Content, mode, owner, times, attributes, links and holes are as they were. What was cut off goes on when it is
/// run again. Works without the daemon (then with --no-safety), on any machine, from a repository alone
/// (--repository).
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("where").required(true)))]
#[command(after_long_help = "\
Examples:
  trefoil restore latest --mount media catalog/product --in-place --dry-run
  trefoil restore '3 hours ago' --mount media catalog/product --in-place
  trefoil restore latest --to /root/yesterday
  trefoil restore '2026-11-20 06:00' --mount media catalog/product --to /root/media
  trefoil restore 3f2a91bc --repository /mnt/web2/repository --to /srv/shop

Exit codes: 0 all of it is there; 1 nothing was restored; 3 some of it could not be.")]
pub(super) struct RestoreArgs {
    /// How its id begins, `latest`, or a time: the newest snapshot not after it. Those that a restore has taken
    /// first are meant by their ids only.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Only what is at and below these paths of the mount.
    #[arg(value_name = "PATH", requires = "mount")]
    paths: Vec<String>,
    /// Only this mount.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,
    /// Where to: it is made if it is not there. It must not be in a mount.
    #[arg(long, value_name = "DIR", group = "where")]
    to: Option<PathBuf>,
    /// Into the mounts, as they are in use.
    #[arg(long, group = "where")]
    in_place: bool,
    /// Delete what is there and not in the snapshot, at and below the named paths.
    #[arg(long, requires = "in_place")]
    delete: bool,
    /// Leave files that were changed after the snapshot was taken.
    #[arg(long, requires = "in_place")]
    keep_newer: bool,
    /// Read every file that is there, even if size and time say that it is the right one.
    #[arg(long, requires = "in_place")]
    checksum: bool,
    /// Take no snapshot first.
    #[arg(long, requires = "in_place")]
    no_safety: bool,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// From this repository instead of that of this node.
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
}

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
struct Report {
    snapshot: String,
    dry_run: bool,
    safety: Option<String>,
    made: u64,
    replaced: u64,
    touched: u64,
    deleted: u64,
    unchanged: u64,
    extra: u64,
    newer: u64,
    left: u64,
    bytes: u64,
    failed: Vec<String>,
    failed_count: u64,
}

impl Report {
    fn add(&mut self, mount: &str, done: Restored) {
        self.made += done.made;
        self.replaced += done.replaced;
        self.touched += done.touched;
        self.deleted += done.deleted;
        self.unchanged += done.unchanged;
        self.extra += done.extra;
        self.newer += done.newer;
        self.left += done.left;
        self.bytes += done.bytes;
        self.failed_count += done.failed.len() as u64;
        for (path, error) in done.failed {
            if self.failed.len() >= TOLD {
                break;
            }
            let causes: Vec<_> = anyhow::Chain::new(&error).map(ToString::to_string).collect();
            self.failed.push(format!("{mount}/{path}: {}", causes.join(": ")));
        }
    }

    fn changes(&self) -> u64 {
        self.made + self.replaced + self.touched + self.deleted
    }

    /// As in "12 to make, 3 to replace".
    fn words(&self, done: bool) -> String {
        let verbs = match done {
            true => ["made", "replaced", "given their mode and times back", "deleted"],
            false => ["to make", "to replace", "to give mode and times back", "to delete"],
        };
        let counts = [self.made, self.replaced, self.touched, self.deleted];
        let changes = counts.into_iter().zip(verbs).filter(|(n, _)| *n > 0);
        let mut words: Vec<_> = changes.map(|(n, verb)| format!("{} {verb}", count(n))).collect();
        if words.is_empty() {
            words.push("nothing to change".to_owned());
        }
        words.push(size(self.bytes));
        let rest = [
            (self.unchanged, "as they should be"),
            (self.extra, "not in the snapshot and left (--delete removes them)"),
            (self.newer, "newer and left"),
            (self.left, "left unless named (env.php)"),
            (self.failed_count, "failed"),
        ];
        let rest = rest.into_iter().filter(|(n, _)| *n > 0);
        words.extend(rest.map(|(n, what)| format!("{} {what}", count(n))));
        words.join(", ")
    }
}

pub(super) fn run(
    args: &RestoreArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    if let Some(to) = &args.to {
        outside_of_mounts(to, config)?;
    }
    let repository = open(args.repository.as_deref(), config)?;
    let (id, manifest) = meant(&repository, &args.snapshot)?;
    let mut only = Vec::new();
    for path in &args.paths {
        only.push(RelPath::parse(path.trim_end_matches('/').as_bytes()).map_err(Failure::usage)?);
    }
    let targets = targets(args, config, &manifest)?;
    let job = Job { args, repository: &repository, manifest: &manifest, only: &only, targets };
    let mut plan = Report::default();
    if args.in_place || args.dry_run {
        plan = job.pass(true, 0, output)?;
        job.check_any(&plan)?;
        output.note(&format!("snapshot {}: {}", short(id), plan.words(false)));
    }
    let mut report = Report::default();
    if args.dry_run {
        report = plan;
    } else {
        if args.in_place && !args.no_safety && plan.changes() > 0 {
            let safety = safety(config, &args.snapshot)?;
            output.note(&format!("safety snapshot {} taken and pinned", &safety[..12]));
            report.safety = Some(safety);
        }
        let safety = report.safety.take();
        report = Report { safety, ..job.pass(false, plan.changes(), output)? };
        job.check_any(&report)?;
    }
    (report.snapshot, report.dry_run) = (id.to_string(), args.dry_run);
    let mut failed = report.failed.iter();
    failed.by_ref().for_each(|text| output.note(&format!("not restored: {text}")));
    if args.json {
        output.json(&report)?;
    } else if !args.dry_run {
        output.data(&format!("restored: {}", report.words(true)))?;
        if let Some(safety) = &report.safety {
            let id = &safety[..12];
            output.data(&format!("to go back: trefoil restore {id} --in-place --delete"))?;
        }
        let commands = if report.changes() > 0 { job.commands(config) } else { Vec::new() };
        for command in commands {
            output.data(&format!("run next, in the shop's folder: {command}"))?;
        }
    }
    Ok(if report.failed_count == 0 { Outcome::Done } else { Outcome::Problems })
}

fn short(id: SnapshotId) -> String {
    id.to_string()[..SnapshotId::SHORT].to_owned()
}

/// A snapshot of how it is now.
fn safety(config: &Config, of: &str) -> Result<String, Failure> {
    let note = Some(format!("{SAFETY_NOTE}{of}"));
    let request = SnapshotRequest { note, pin: true };
    let taken = ask(config, async |client| client.snapshot(&request).await);
    let taken = taken.map_err(|failure| {
        let error = failure.error.context("cannot take the safety snapshot; nothing was changed");
        Failure::with_hint(error, "start the daemon, or say --no-safety to go without")
    })?;
    Ok(taken.id)
}

/// A mount's tree, and where it goes.
struct Target<'a> {
    tree: &'a MountTree,
    to: PathBuf,
    /// As it is configured, if it is restored in place.
    mount: Option<&'a Mount>,
}

fn targets<'a>(
    args: &RestoreArgs,
    config: &'a Config,
    manifest: &'a Manifest,
) -> Result<Vec<Target<'a>>, Failure> {
    let mut trees: Vec<&MountTree> = manifest.mounts.iter().collect();
    if let Some(name) = &args.mount {
        trees.retain(|tree| tree.name == *name);
        if trees.is_empty() {
            let names: Vec<_> = manifest.mounts.iter().map(|mount| &*mount.name).collect();
            let error = anyhow::anyhow!("the snapshot has no mount {name}");
            return Err(Failure::with_hint(error, format!("it has {}", names.join(", "))));
        }
    }
    let target = |tree: &'a MountTree| match &args.to {
        Some(to) if args.mount.is_some() => Ok(Target { tree, to: to.clone(), mount: None }),
        Some(to) => Ok(Target { tree, to: to.join(tree.name.replace('/', "_")), mount: None }),
        None => match config.mount(&tree.name) {
            Some(mount) => Ok(Target { tree, to: mount.path.clone(), mount: Some(mount) }),
            None => {
                let error = anyhow::anyhow!("this node has no mount {}", tree.name);
                let hint = "name another one with --mount, or restore with --to DIR";
                Err(Failure::with_hint(error, hint))
            }
        },
    };
    let targets = trees.into_iter().map(target).collect::<Result<Vec<_>, Failure>>()?;
    match &args.to {
        Some(to) if !args.dry_run => make(to)?,
        _ => {}
    }
    Ok(targets)
}

struct Job<'a> {
    args: &'a RestoreArgs,
    repository: &'a Repository,
    manifest: &'a Manifest,
    only: &'a [RelPath],
    targets: Vec<Target<'a>>,
}

impl Job<'_> {
    /// Restores, or with `dry` only says what would change. `expected` is how much is to be changed, if
    /// that is known.
    fn pass(&self, dry: bool, expected: u64, output: &mut Output) -> Result<Report, Failure> {
        let mut report = Report::default();
        let (mut changed, mut bytes, mut told) = (0_u64, 0_u64, Instant::now());
        let mut listed = 0;
        for Target { tree, to, mount } in &self.targets {
            let stage = to.join(".trefoil/restore");
            let leave = |path: &RelPath| mount.is_some_and(|mount| self.is_left(mount, path));
            let in_place = mount.is_some().then(|| InPlace {
                stage: &stage,
                delete: self.args.delete,
                keep_newer_than: self.args.keep_newer.then_some(self.manifest.taken_ns),
                read: self.args.checksum,
                leave: &leave,
            });
            if dry && !to.exists() && mount.is_none() {
                continue;
            }
            let choice = Choice { only: self.only, in_place, dry };
            let mut each = |path: &RelPath, change: Change, of: u64| {
                (changed, bytes) = (changed + 1, bytes + of);
                if dry && self.args.dry_run && !self.args.json && listed < TOLD {
                    listed += 1;
                    output.note(&format!("{} {}/{path}", word(change), tree.name));
                } else if !dry && told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    let of = if expected == 0 {
                        String::new()
                    } else {
                        format!(" of {}", count(expected))
                    };
                    output.note(&format!("{}{of} done, {}", count(changed), size(bytes)));
                }
            };
            let done = restore(self.repository, tree.root, to, &choice, &mut each);
            let done = done.map_err(|(path, error)| {
                anyhow::Error::new(error).context(format!("cannot restore to {}", path.display()))
            })?;
            report.add(&tree.name, done);
        }
        if dry && self.args.dry_run && !self.args.json && changed > listed as u64 {
            output.note(&format!("and {} more", count(changed - listed as u64)));
        }
        Ok(report)
    }

    /// Paths that are not mirrored are not the snapshot's; the shop's own settings differ from node to node.
    fn is_left(&self, mount: &Mount, path: &RelPath) -> bool {
        let own = path.components().next() == Some(b".trefoil");
        let settings = mount.path.join(path.to_string()).ends_with("app/etc/env.php");
        own || mount.policy.class(path) == Class::Local || settings && !self.only.contains(path)
    }

    fn check_any(&self, report: &Report) -> Result<(), Failure> {
        let any = report.changes() + report.unchanged + report.newer + report.left + report.extra;
        if self.only.is_empty() || any + report.failed_count > 0 {
            return Ok(());
        }
        let paths = self.args.paths.join(", ");
        Err(anyhow::anyhow!("the snapshot has nothing at {paths}").into())
    }

    /// What a Magento shop needs to see what was restored.
    fn commands(&self, config: &Config) -> Vec<&'static str> {
        let trees = self.targets.iter().filter_map(|target| target.mount?.preset);
        let trees: Vec<_> = trees.map(|Preset::Magento(tree)| tree).collect();
        let mut commands = Vec::new();
        if config.mounts.is_empty() || trees.is_empty() {
            return commands;
        }
        if trees.contains(&MagentoTree::AppEtc) {
            commands.push("bin/magento app:config:import");
        }
        if trees.contains(&MagentoTree::Media) {
            commands.push("bin/magento catalog:images:resize");
        }
        commands.push("bin/magento cache:flush");
        commands
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Made => "make   ",
        Change::Replaced => "replace",
        Change::Touched => "touch  ",
        Change::Deleted => "delete ",
        Change::Extra => "extra  ",
    }
}

fn make(to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot make {}", to.display())).into()
    })
}

/// What is restored is no edit of an application: it would be mirrored as one, file by file.
fn outside_of_mounts(to: &Path, config: &Config) -> Result<(), Failure> {
    let at = std::path::absolute(to).map_err(anyhow::Error::new)?;
    match config.mounts.iter().find(|mount| at.starts_with(&mount.path)) {
        None => Ok(()),
        Some(mount) => {
            let error = anyhow::anyhow!("{} is in mount {}", to.display(), mount.name);
            Err(Failure::with_hint(error, "say --in-place, or restore to a directory outside"))
        }
    }
}
