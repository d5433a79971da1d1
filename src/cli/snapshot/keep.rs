//! Which snapshots stay: `remove`, `undelete`, `pin`, `unpin`, `prune` and `retention`.
//!
//! They change the repository themselves, and need no daemon; one that runs tells the other nodes.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{meant, taken};
use crate::cli::words::{age, count, plural, size};
use crate::cli::{Failure, Outcome, Output};
use crate::config::{Config, parse_duration};
use crate::engine::{Schedule, Verdict};
use crate::snapshot::{Collected, KeepError, Repository, SnapshotId, UNDELETE_FOR};

/// Snapshots that a simulation may take: four a day for a hundred years.
const SIMULATED_MAX: i64 = 150_000;

/// Remove a snapshot, on every node.
///
/// For a day it can be brought back with `trefoil snapshot undelete`; then its space is given back. A pinned one,
/// and the last that can be restored, stay.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// How its id begins.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Bring back a snapshot that was removed less than a day ago.
#[derive(Debug, Args)]
pub(super) struct UndeleteArgs {
    /// How its id begins.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Keep a snapshot, whatever its age.
#[derive(Debug, Args)]
pub(super) struct PinArgs {
    /// How its id begins, `latest`, or a time.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Let a pinned snapshot go when its time is over.
#[derive(Debug, Args)]
pub(super) struct UnpinArgs {
    /// How its id begins, `latest`, or a time.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Remove the snapshots whose time is over, and give back the space of those removed a day ago.
///
/// The daemon does so by itself. What stays, and why, is listed.
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Give back the space of what was removed at once, not after a day: it cannot be undeleted then.
    #[arg(long)]
    now: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Make the catalog anew, from the packs alone.
///
/// The catalog is a cache of which object is where; a lost one is made anew whenever a repository is opened.
#[derive(Debug, Args)]
pub(super) struct RebuildCatalogArgs {}

/// See what the configuration keeps.
#[derive(Debug, Args)]
pub(super) struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, Subcommand)]
enum RetentionCommand {
    Simulate(SimulateArgs),
}

/// Say which snapshots there would be, had the schedule run for so long.
#[derive(Debug, Args)]
struct SimulateArgs {
    /// For how long, as in 30d or 52w.
    #[arg(long = "for", value_name = "TIME", default_value = "1y")]
    length: String,
}

fn explained(error: KeepError, id: SnapshotId) -> Failure {
    let id = &id.to_string()[..SnapshotId::SHORT];
    let hint = match &error {
        KeepError::Pinned => format!("trefoil snapshot unpin {id}"),
        KeepError::Last => "take another one first: trefoil snapshot create".to_owned(),
        KeepError::Gone => "`trefoil snapshot list` shows those that are there".to_owned(),
        KeepError::Repository(_) => {
            return anyhow::Error::new(error).context(format!("snapshot {id}")).into();
        }
    };
    Failure::with_hint(anyhow::Error::new(error).context(format!("snapshot {id}")), hint)
}

fn now_ns() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default()
}

pub(super) fn remove(
    args: &RemoveArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (id, _) = meant(repository, &args.snapshot)?;
    let lock = repository.wait_lock()?;
    repository.remove(&lock, id, now_ns()).map_err(|error| explained(error, id))?;
    let id = &id.to_string()[..SnapshotId::SHORT];
    output.data(&format!("snapshot {id} removed; for a day: trefoil snapshot undelete {id}"))?;
    Ok(Outcome::Done)
}

pub(super) fn undelete(
    args: &UndeleteArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let removed = repository.marks()?.into_iter().filter(|(_, mark)| mark.removed);
    let ids: Vec<_> = removed.map(|(id, _)| id).collect();
    let mut found = ids.into_iter().filter(|id| id.to_string().starts_with(&args.snapshot));
    let (Some(id), None) = (found.next(), found.next()) else {
        let error = anyhow::anyhow!("no one removed snapshot begins with {}", args.snapshot);
        return Err(Failure::with_hint(error, "give its id as `remove` told it"));
    };
    let lock = repository.wait_lock()?;
    repository.undelete(&lock, id, now_ns()).map_err(|error| explained(error, id))?;
    output.data(&format!("snapshot {} is back", &id.to_string()[..SnapshotId::SHORT]))?;
    Ok(Outcome::Done)
}

pub(super) fn pin(
    snapshot: &str,
    pinned: bool,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (id, _) = meant(repository, snapshot)?;
    let lock = repository.wait_lock()?;
    repository.pin(&lock, id, pinned, now_ns())?;
    let word = if pinned { "pinned" } else { "not pinned any more" };
    output.data(&format!("snapshot {} is {word}", &id.to_string()[..SnapshotId::SHORT]))?;
    Ok(Outcome::Done)
}

impl PinArgs {
    pub(super) fn snapshot(&self) -> &str {
        &self.snapshot
    }
}

impl UnpinArgs {
    pub(super) fn snapshot(&self) -> &str {
        &self.snapshot
    }
}

#[derive(Serialize)]
struct Judged {
    id: String,
    taken: Timestamp,
    kept_because: Vec<String>,
}

#[derive(Serialize)]
struct Pruned {
    dry_run: bool,
    kept: Vec<Judged>,
    removed: Vec<Judged>,
    packs: u64,
    freed_bytes: u64,
}

pub(super) fn prune(
    args: &PruneArgs,
    config: &Config,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let lock = repository.wait_lock()?;
    repository.settle(&lock)?;
    let (mut kept, mut removed) = (Vec::new(), Vec::new());
    for (id, manifest, verdict) in repository.judge(&config.snapshot.retention, now_ns())? {
        let (short, taken) = (id.to_string()[..SnapshotId::SHORT].to_owned(), taken(&manifest));
        match verdict {
            Verdict::Keep(reasons) => {
                let kept_because = reasons.iter().map(ToString::to_string).collect();
                kept.push(Judged { id: short, taken, kept_because });
            }
            Verdict::Remove => {
                if !args.dry_run {
                    let done = repository.remove(&lock, id, now_ns());
                    done.map_err(|error| explained(error, id))?;
                }
                removed.push(Judged { id: short, taken, kept_because: Vec::new() });
            }
        }
    }
    let day = if args.now { u64::try_from(UNDELETE_FOR.as_nanos()).unwrap_or(u64::MAX) } else { 0 };
    let at = now_ns().saturating_add(day);
    let Collected { packs, freed_bytes, .. } = repository.collect(&lock, at, args.dry_run)?;
    let pruned = Pruned { dry_run: args.dry_run, kept, removed, packs, freed_bytes };
    if args.json {
        output.json(&pruned)?;
        return Ok(Outcome::Done);
    }
    let mut table = crate::cli::output::Table::new(["ID", "TAKEN", "AGE", "STAYS BECAUSE"]);
    let now = Timestamp::now();
    for one in pruned.kept.iter().chain(&pruned.removed) {
        let why = match one.kept_because.join(", ") {
            why if why.is_empty() && args.dry_run => "would be removed".to_owned(),
            why if why.is_empty() => "removed".to_owned(),
            why => why,
        };
        let taken = one.taken.strftime("%F %T").to_string();
        table.row([one.id.clone(), taken, age(now, one.taken), why]);
    }
    output.data(&table.render(""))?;
    let would = if args.dry_run { "would be " } else { "" };
    let until = if args.now { "" } else { "; what was removed can be undeleted for a day" };
    output.data(&format!(
        "{} kept, {} {would}removed, {} {would}given back{until}",
        count(pruned.kept.len() as u64),
        count(pruned.removed.len() as u64),
        size(freed_bytes),
    ))?;
    Ok(Outcome::Done)
}

pub(super) fn rebuild_catalog(
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let lock = repository.wait_lock()?;
    repository.rebuild_catalog(&lock)?;
    let (objects, bytes) = repository.totals()?;
    output.data(&format!("the catalog has {} objects, {}", count(objects), size(bytes)))?;
    Ok(Outcome::Done)
}

pub(super) fn retention(
    args: &RetentionArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let RetentionCommand::Simulate(args) = &args.command;
    let text = match args.length.strip_suffix('y').and_then(|years| years.parse::<u32>().ok()) {
        Some(years) => format!("{}d", years.saturating_mul(365)),
        None => args.length.clone(),
    };
    let length = parse_duration(&text).map_err(Failure::usage)?;
    let length = SignedDuration::try_from(length).map_err(Failure::usage)?;
    let keep = &config.snapshot.retention;
    let schedule = match &config.snapshot.schedule {
        Some(schedule) => schedule.clone(),
        None => Schedule::parse(crate::config::DEFAULT_SCHEDULE, None).map_err(Failure::usage)?,
    };
    let now = Timestamp::now();
    let from = now.checked_sub(length).map_err(Failure::usage)?;
    let (mut at, mut taken) = (from, 0_i64);
    while let Some(next) = schedule.next_after(at).filter(|next| *next <= now) {
        (at, taken) = (next, taken + 1);
        if taken > SIMULATED_MAX {
            let error = anyhow::anyhow!("more than {SIMULATED_MAX} snapshots");
            return Err(Failure::with_hint(error, "simulate a shorter time"));
        }
    }
    let left = keep.simulate(&schedule, from, length);
    output.data(&format!("schedule \"{schedule}\": {}", keep.describe()))?;
    for taken in left.iter().rev() {
        let line = format!("{}  {}", taken.strftime("%F %H:%M"), age(now, *taken));
        output.data(&line)?;
    }
    let number = plural(left.len(), "snapshot");
    output.data(&format!("{number} left of {}", count(taken.unsigned_abs())))?;
    Ok(Outcome::Done)
}
