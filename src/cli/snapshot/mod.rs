//! `trefoil snapshot`: taking snapshots, and looking into them.
//!
//! Only taking one needs the daemon: the rest reads the repository itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

mod export;
mod fuse;
mod keep;
mod look;
mod mount;
mod verify;

use super::output::Table;
use super::verify::PROGRESS_EVERY;
use super::words::{age, count, seconds, size};
use super::{Failure, Outcome, Output, ask};
use crate::config::Config;
use crate::control::types::{SnapshotProgress, SnapshotRequest};
use crate::model::RelPath;
use crate::snapshot::{Item, Manifest, Node, Repository, SnapshotId, TreeRef, entries, find};

/// How the note of a snapshot begins that is taken before a restore.
pub(super) const SAFETY_NOTE: &str = "before restoring ";

/// Take snapshots of all mounts, and look into them.
///
/// A snapshot is all mounts as they were, kept in this node's repository; what it has in common with
/// others is there once. Put files back with `trefoil restore`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil snapshot create --note 'before the update'
  trefoil snapshot list
  trefoil snapshot ls latest:media/catalog
  trefoil snapshot mount /mnt/snapshots
  trefoil snapshot verify --read-data")]
pub(super) struct SnapshotArgs {
    /// Read this repository instead of that of this node.
    #[arg(long, global = true, value_name = "DIR")]
    repository: Option<PathBuf>,
    #[command(subcommand)]
    command: SnapshotCommand,
}

impl SnapshotArgs {
    /// Whether it runs until it is told to end.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.command, SnapshotCommand::Mount(_))
    }
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(look::ShowArgs),
    Ls(LsArgs),
    Find(look::FindArgs),
    History(look::HistoryArgs),
    Cat(look::CatArgs),
    Diff(look::DiffArgs),
    Export(export::ExportArgs),
    Mount(mount::MountArgs),
    Verify(verify::VerifyArgs),
    Pin(keep::PinArgs),
    Unpin(keep::UnpinArgs),
    Remove(keep::RemoveArgs),
    Undelete(keep::UndeleteArgs),
    Prune(keep::PruneArgs),
    Retention(keep::RetentionArgs),
    RebuildCatalog(keep::RebuildCatalogArgs),
}

/// Take a snapshot now.
///
/// Looks only at what changed since the last one. A file that keeps changing is stored as it was in the
/// snapshot before, and named: the snapshot is partial then. How far it is goes to stderr.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit codes: 0 it was taken; 1 it was not; 3 it was taken, but something could not be stored as it is.")]
struct CreateArgs {
    /// What to say of it in lists.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Keep it, whatever its age.
    #[arg(long)]
    pin: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// List the snapshots of this node, newest first.
#[derive(Debug, Args)]
struct ListArgs {
    /// Print a JSON list.
    #[arg(long)]
    json: bool,
}

/// List what is in a directory of a snapshot.
#[derive(Debug, Args)]
struct LsArgs {
    /// The snapshot, and a path in it that begins with the mount's name: ID[:MOUNT[/PATH]].
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    place: String,
}

pub(super) fn run(
    args: &SnapshotArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let open = || open(args.repository.as_deref(), config);
    let elsewhere = args.repository.is_some();
    match &args.command {
        SnapshotCommand::Create(args) => create(args, config, output),
        SnapshotCommand::List(args) => list(args, &open()?, output),
        SnapshotCommand::Show(args) => look::show(args, &open()?, output),
        SnapshotCommand::Ls(args) => ls(args, &open()?, output),
        SnapshotCommand::Find(args) => look::find(args, &open()?, output),
        SnapshotCommand::History(args) => look::history(args, &open()?, output),
        SnapshotCommand::Cat(args) => look::cat(args, &open()?, output),
        SnapshotCommand::Export(args) => export::export(args, &open()?, output),
        SnapshotCommand::Mount(args) => mount::mount(args, open()?, output),
        SnapshotCommand::Diff(args) => look::diff(args, &open()?, config, output),
        SnapshotCommand::Pin(args) => keep::pin(args.snapshot(), true, &open()?, output),
        SnapshotCommand::Unpin(args) => keep::pin(args.snapshot(), false, &open()?, output),
        SnapshotCommand::Remove(args) => keep::remove(args, &open()?, output),
        SnapshotCommand::Undelete(args) => keep::undelete(args, &open()?, output),
        SnapshotCommand::Prune(args) => keep::prune(args, config, &open()?, output),
        SnapshotCommand::RebuildCatalog(_) => keep::rebuild_catalog(&open()?, output),
        SnapshotCommand::Retention(args) => keep::retention(args, config, output),
        SnapshotCommand::Verify(args) => verify::verify(args, open, config, elsewhere, output),
    }
}

/// The repository of this node, or another one.
pub(super) fn open(repository: Option<&Path>, config: &Config) -> Result<Repository, Failure> {
    let own = config.node.state.join("repository");
    let path = repository.unwrap_or(&own);
    Repository::open(path).map_err(|error| {
        let hint = match repository {
            None => "take a first snapshot with `trefoil snapshot create`",
            Some(_) => "name the folder that has `packs` and `snapshots` in it",
        };
        Failure::with_hint(error, hint)
    })
}

/// The snapshot that a person means: `latest`, a time (the newest not after it), or how an id begins. Those
/// that were taken before a restore are meant by their ids only.
pub(super) fn meant(
    repository: &Repository,
    text: &str,
) -> Result<(SnapshotId, Manifest), Failure> {
    let (mut found, _) = repository.snapshots()?;
    let time = super::words::time(text);
    if text == "latest" || time.is_some() {
        found.retain(|(_, manifest)| !is_safety(manifest));
    }
    if text == "latest" {
        let hint = "take one with `trefoil snapshot create`";
        return found
            .pop()
            .ok_or_else(|| Failure::with_hint(anyhow::anyhow!("there is no snapshot yet"), hint));
    }
    let list = "`trefoil snapshot list` shows them; a time is as \"2026-11-20 06:00\" (UTC) or \"3 hours ago\"";
    if let Some(time) = time {
        let until = u64::try_from(time.as_nanosecond()).unwrap_or_default();
        found.retain(|(_, manifest)| manifest.taken_ns <= until);
        return found.pop().ok_or_else(|| {
            Failure::with_hint(anyhow::anyhow!("no snapshot is as old as {time}"), list)
        });
    }
    found.retain(|(id, _)| id.to_string().starts_with(text));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::with_hint(anyhow::anyhow!("there is no snapshot {text}"), list)),
        n => {
            let error = anyhow::anyhow!("{n} snapshots begin with {text}");
            Err(Failure::with_hint(error, list))
        }
    }
}

/// Whether it was taken before a restore. Who runs one a second time and says `latest` means the same snapshot, not how
/// it was before the first.
fn is_safety(manifest: &Manifest) -> bool {
    manifest.note.as_ref().is_some_and(|note| note.starts_with(SAFETY_NOTE))
}

fn create(args: &CreateArgs, config: &Config, output: &mut Output) -> Result<Outcome, Failure> {
    let request = SnapshotRequest { note: args.note.clone(), pin: args.pin };
    let taken = ask(config, async |client| {
        let mut taken = std::pin::pin!(client.snapshot(&request));
        loop {
            if let Ok(taken) = tokio::time::timeout(PROGRESS_EVERY, &mut taken).await {
                return taken;
            }
            // Progress that cannot be told is no reason to give up.
            if let (false, Ok(Some(progress))) = (args.json, client.snapshot_progress().await) {
                output.note(&progress_line(&progress));
            }
        }
    })?;
    if args.json {
        output.json(&taken)?;
    } else {
        let id = &taken.id[..SnapshotId::SHORT.min(taken.id.len())];
        output.data(&format!(
            "snapshot {id}: {} files, {}, {} new, in {}",
            count(taken.files),
            size(taken.bytes),
            size(taken.added_bytes),
            seconds(taken.took_seconds),
        ))?;
        for path in &taken.changing {
            output.note(&format!("not as it is now: {path}"));
        }
    }
    Ok(if taken.changing_count == 0 { Outcome::Done } else { Outcome::Problems })
}

/// How far it is, how fast it reads, and how long it takes at the rate of until now.
fn progress_line(is: &SnapshotProgress) -> String {
    let mut text = format!(
        "{} of {} files, {} read, {} new",
        count(is.files),
        count(is.files_total),
        size(is.bytes),
        size(is.added_bytes),
    );
    if is.seconds >= 1.0 {
        let elapsed = Duration::try_from_secs_f64(is.seconds).unwrap_or(Duration::MAX);
        let rate = u128::from(is.bytes) * 1000 / elapsed.as_millis().max(1);
        text.push_str(&format!(", {}/s", size(u64::try_from(rate).unwrap_or(u64::MAX))));
        if is.files > 0 && is.files < is.files_total {
            let left = is.seconds * (is.files_total - is.files) as f64 / is.files as f64;
            text.push_str(&format!(", about {} left", seconds(left)));
        }
    }
    text
}

#[derive(Serialize)]
struct Listed {
    id: String,
    taken: Timestamp,
    by: String,
    state: &'static str,
    pinned: bool,
    files: u64,
    bytes: u64,
    note: Option<String>,
    /// When all of its data was last read, and what was wrong then.
    verified: Option<Timestamp>,
    faults: Option<u64>,
}

fn taken(manifest: &Manifest) -> Timestamp {
    moment(manifest.taken_ns)
}

fn moment(ns: u64) -> Timestamp {
    Timestamp::try_from(UNIX_EPOCH + Duration::from_nanos(ns)).unwrap_or_default()
}

fn list(args: &ListArgs, repository: &Repository, output: &mut Output) -> Result<Outcome, Failure> {
    let (found, wrong) = repository.snapshots()?;
    let marks = repository.marks()?;
    let looks = repository.verified();
    let listed = |(id, manifest): (SnapshotId, Manifest)| {
        let (files, bytes) = manifest.size();
        let state = if manifest.is_complete() { "complete" } else { "partial" };
        let pinned = marks.get(&id).is_some_and(|mark| mark.pinned);
        let look = looks.get(&id);
        let (verified, faults) = (look.map(|look| moment(look.at_ns)), look.map(|l| l.faults));
        let (id, taken) = (id.to_string(), taken(&manifest));
        let (by, note) = (manifest.by, manifest.note);
        Listed { id, taken, by, state, pinned, files, bytes, note, verified, faults }
    };
    let listed: Vec<_> = found.into_iter().rev().map(listed).collect();
    if args.json {
        output.json(&listed)?;
    } else {
        let now = Timestamp::now();
        let mut table =
            Table::new(["ID", "TAKEN", "AGE", "BY", "FILES", "SIZE", "VERIFIED", "STATE", "NOTE"]);
        for one in &listed {
            let note = one.note.clone().unwrap_or_default();
            table.row([
                one.id[..SnapshotId::SHORT].to_owned(),
                one.taken.strftime("%F %T").to_string(),
                age(now, one.taken),
                one.by.clone(),
                count(one.files),
                size(one.bytes),
                match (one.verified, one.faults) {
                    (Some(at), Some(0)) => format!("{} ago", age(now, at)),
                    (Some(_), Some(_)) => "DAMAGED".to_owned(),
                    _ => "-".to_owned(),
                },
                format!("{}{}", one.state, if one.pinned { ", pinned" } else { "" }),
                note.escape_debug().to_string(),
            ]);
        }
        output.data(&table.render(""))?;
    }
    for error in &wrong {
        output.note(&format!("no snapshot: {error}"));
    }
    Ok(if wrong.is_empty() { Outcome::Done } else { Outcome::Problems })
}

/// What is at a place in a snapshot.
enum Found {
    /// Its mounts.
    Mounts,
    /// The top of a mount, or a directory.
    Dir(TreeRef),
    /// Something else.
    Node(Node),
}

fn at(repository: &Repository, manifest: &Manifest, path: &str) -> Result<Found, Failure> {
    if path.is_empty() {
        return Ok(Found::Mounts);
    }
    let (mount, rest) = path.split_once('/').unwrap_or((path, ""));
    let Some(tree) = manifest.mount(mount) else {
        let names: Vec<_> = manifest.mounts.iter().map(|mount| &*mount.name).collect();
        let error = anyhow::anyhow!("the snapshot has no mount {mount}");
        return Err(Failure::with_hint(error, format!("it has {}", names.join(", "))));
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() {
        return Ok(Found::Dir(tree.root));
    }
    let below = RelPath::parse(rest.as_bytes()).map_err(Failure::usage)?;
    match find(repository, tree.root, &below)? {
        Some(Node { item: Item::Dir(tree), .. }) => Ok(Found::Dir(tree)),
        Some(node) => Ok(Found::Node(node)),
        None => Err(anyhow::anyhow!("the snapshot has nothing at {path}").into()),
    }
}

fn ls(args: &LsArgs, repository: &Repository, output: &mut Output) -> Result<Outcome, Failure> {
    let (snapshot, path) = args.place.split_once(':').unwrap_or((&args.place, ""));
    let (_, manifest) = meant(repository, snapshot)?;
    let nodes = match at(repository, &manifest, path)? {
        Found::Mounts => {
            let mut table = Table::new(["FILES", "SIZE", "MOUNT"]);
            for mount in &manifest.mounts {
                table.row([count(mount.files), size(mount.bytes), mount.name.clone()]);
            }
            output.data(&table.render(""))?;
            return Ok(Outcome::Done);
        }
        Found::Dir(tree) => entries(repository, tree)?,
        Found::Node(node) => vec![node],
    };
    let mut table = Table::new(["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"]);
    for node in nodes {
        let name =
            RelPath::root().join(&node.name).map_or_else(|_| "?".to_owned(), |p| p.to_string());
        let (kind, bytes, name) = match &node.item {
            Item::Dir(_) => ('d', String::new(), format!("{name}/")),
            Item::File { size: bytes, .. } => ('-', size(*bytes), name),
            Item::Symlink { target } => {
                let target = String::from_utf8_lossy(target).escape_debug().to_string();
                ('l', String::new(), format!("{name} -> {target}"))
            }
        };
        let mtime = Timestamp::from_second(node.meta.mtime.secs).unwrap_or_default();
        table.row([
            format!("{kind}{:04o}", node.meta.mode),
            format!("{}:{}", node.meta.uid.cast_signed(), node.meta.gid.cast_signed()),
            bytes,
            mtime.strftime("%F %T").to_string(),
            name,
        ]);
    }
    output.data(&table.render(""))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_left_once_there_is_a_rate() {
        let mut is = SnapshotProgress { files: 100, files_total: 400, ..Default::default() };
        (is.bytes, is.added_bytes) = (200 << 20, 50 << 20);
        assert_eq!("100 of 400 files, 200.0 MiB read, 50.0 MiB new", progress_line(&is));
        is.seconds = 2.0;
        let told = progress_line(&is);
        assert!(told.ends_with("new, 100.0 MiB/s, about 6.0 s left"), "{told}");
    }
}
