//! `trefoil snapshot verify`: whether what is stored is there and as it was, and healing what is not.
//!
//! It reads the repository itself. Healing is the daemon's: it has the files, and the other nodes.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::{BTreeSet, HashSet};
use std::io::IsTerminal as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::meant;
use crate::cli::verify::PROGRESS_EVERY;
use crate::cli::words::{count, plural, size};
use crate::cli::{Failure, Outcome, Output, ask};
use crate::config::{Config, SizeLimit};
use crate::control::types::{HealReply, HealRequest, SnapshotObject};
use crate::snapshot::{
    Kind, Manifest, ObjectId, ReadData, Repository, RepositoryError, SnapshotId, Verified,
    verify_tree,
};

/// Paths that are named of those with faults.
const FAULTS_TOLD: usize = 20;

/// Objects that the daemon is asked to heal at a time.
const HEALED_AT_A_TIME: usize = 5000;

/// How often is looked again after healing: what is in a directory that could not be read is seen then.
const ROUNDS_MAX: usize = 100;

/// Look whether everything that the snapshots need is there.
///
/// With --read-data also whether it is still what was stored: every byte is read and hashed, or those of a
/// part of the objects, another part each time. With --heal what is damaged or missing is stored again, from
/// the files of this node or from the repositories of others; the damaged packs stay in the repository's folder
/// `quarantine`, for you to look at or remove.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil snapshot verify
  trefoil snapshot verify --read-data
  trefoil snapshot verify --read-data=5%      each night: all of it in about a month
  trefoil snapshot verify --heal

Exit code 1: something is damaged or missing, and was not healed; it is named.")]
pub(super) struct VerifyArgs {
    /// Only this snapshot.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Read all data, or so much of it: a part such as 5%, or a size such as 10GiB.
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    read_data: Option<SizeLimit>,
    /// Store again what is damaged or missing; reads all data, unless --read-data says how much.
    #[arg(long)]
    heal: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found, as JSON.
#[derive(Serialize)]
struct Report {
    snapshots: usize,
    objects_looked_for: u64,
    faults: u64,
    /// The first of them, in words.
    damaged: Vec<String>,
    repository_objects: u64,
    repository_bytes: u64,
    healed: Option<HealReply>,
}

/// One look at all that is meant.
#[derive(Default)]
struct Look {
    told: Vec<String>,
    faults: u64,
    /// Snapshots, and what is wrong with each.
    snapshots: Vec<(SnapshotId, u64)>,
    objects: BTreeSet<(u8, ObjectId)>,
    seen: HashSet<(Kind, ObjectId)>,
}

impl Look {
    fn fault(&mut self, text: impl FnOnce() -> String) {
        if self.told.len() < FAULTS_TOLD {
            self.told.push(text());
        }
        self.faults += 1;
    }
}

fn how_much(
    part: Option<SizeLimit>,
    heal: bool,
    repository: &Repository,
) -> Result<ReadData, Failure> {
    let of_a_million = match part {
        None if heal => 1_000_000,
        None => return Ok(ReadData::Nothing),
        Some(SizeLimit::Percent(percent)) => u64::from(percent) * 10_000,
        Some(SizeLimit::Bytes(bytes)) => {
            let (_, all) = repository.totals()?;
            let part = u128::from(bytes) * 1_000_000 / u128::from(all.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        }
    };
    if of_a_million >= 1_000_000 {
        return Ok(ReadData::All);
    }
    let of_a_million = u32::try_from(of_a_million).unwrap_or(u32::MAX);
    let salt = getrandom::u64().map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(ReadData::Part { salt, of_a_million })
}

fn look(
    args: &VerifyArgs,
    repository: &Repository,
    data: ReadData,
    output: &mut Output,
) -> Result<Look, Failure> {
    let mut look = Look::default();
    let snapshots: Vec<(SnapshotId, Manifest)> = match &args.snapshot {
        Some(text) => vec![meant(repository, text)?],
        None => {
            let (snapshots, wrong) = repository.snapshots()?;
            for error in wrong {
                look.fault(|| error.to_string());
            }
            for path in repository.damaged_packs()? {
                look.fault(|| format!("{}: something in it is no object", path.display()));
            }
            snapshots
        }
    };
    let progress = !args.json && std::io::stderr().is_terminal();
    let mut said = Instant::now();
    for (n, (id, manifest)) in snapshots.iter().enumerate() {
        let short = &id.to_string()[..SnapshotId::SHORT];
        let before = look.faults;
        for mount in &manifest.mounts {
            for (path, error) in verify_tree(repository, mount.root, data, &mut look.seen)? {
                look.fault(|| format!("{short}:{}/{path}: {error}", mount.name));
                look.objects.extend(error.object().map(|(kind, id)| (kind.number(), id)));
            }
        }
        look.snapshots.push((*id, look.faults - before));
        if progress && said.elapsed() > PROGRESS_EVERY {
            said = Instant::now();
            let (done, all) = (count(n as u64 + 1), count(snapshots.len() as u64));
            output.note(&format!(
                "{done} of {all} snapshots, {} objects",
                count(look.seen.len() as u64)
            ));
        }
    }
    Ok(look)
}

pub(super) fn verify(
    args: &VerifyArgs,
    open: impl Fn() -> Result<Repository, Failure>,
    config: &Config,
    elsewhere: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    if args.heal && elsewhere {
        let error = anyhow::anyhow!("only the repository of this node can be healed");
        return Err(Failure::with_hint(error, "leave --repository out: the daemon does it"));
    }
    let mut repository = open()?;
    let data = how_much(args.read_data, args.heal, &repository)?;
    let mut found = look(args, &repository, data, output)?;
    let healed = if args.heal && found.faults > 0 {
        if !args.json {
            tell(&found, output);
        }
        let mut done = HealReply::default();
        for _ in 0..ROUNDS_MAX {
            let now = heal(&found, config)?;
            let progress = now.from_files + now.from_nodes + now.packs + now.manifests;
            done.packs += now.packs;
            done.manifests += now.manifests;
            done.from_files += now.from_files;
            done.from_nodes += now.from_nodes;
            (done.lost, done.reason, done.quarantine) = (now.lost, now.reason, now.quarantine);
            repository = open()?;
            found = look(args, &repository, data, output)?;
            if found.faults == 0 || progress == 0 {
                break;
            }
        }
        Some(done)
    } else {
        None
    };
    note(&repository, data, &found, output);
    let (objects, bytes) = repository.totals()?;
    if args.json {
        output.json(&Report {
            snapshots: found.snapshots.len(),
            objects_looked_for: found.seen.len() as u64,
            faults: found.faults,
            damaged: found.told.clone(),
            repository_objects: objects,
            repository_bytes: bytes,
            healed,
        })?;
    } else {
        if let Some(done) = &healed {
            output.data(&healed_text(done))?;
        }
        tell(&found, output);
        let looked = match data {
            ReadData::Nothing => "looked for".to_owned(),
            ReadData::All => "read".to_owned(),
            ReadData::Part { of_a_million, .. } => {
                format!("looked for, {:.1} % of the data read", f64::from(of_a_million) / 10_000.0)
            }
        };
        output.data(&format!(
            "{}, {} objects {looked}, {}; the repository has {} objects, {}",
            plural(found.snapshots.len(), "snapshot"),
            count(found.seen.len() as u64),
            plural(usize::try_from(found.faults).unwrap_or(usize::MAX), "fault"),
            count(objects),
            size(bytes),
        ))?;
        if found.faults > 0 && !args.heal && !elsewhere {
            output.note("hint: `trefoil snapshot verify --heal` stores again what is damaged");
        }
    }
    Ok(if found.faults == 0 { Outcome::Done } else { Outcome::Differs })
}

fn tell(found: &Look, output: &mut Output) {
    found.told.iter().for_each(|text| output.note(&format!("damaged: {text}")));
    let more = found.faults - found.told.len() as u64;
    if more > 0 {
        output.note(&format!("and {} more", count(more)));
    }
}

fn healed_text(done: &HealReply) -> String {
    let many =
        |number: u64, noun: &str| plural(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let mut text = format!(
        "healed: {} stored again from files of this node, {} from other nodes",
        many(done.from_files, "object"),
        count(done.from_nodes),
    );
    if done.packs + done.manifests > 0 {
        let files = many(done.packs + done.manifests, "damaged file");
        text.push_str(&format!("; {files} now in {}", done.quarantine));
    }
    if done.manifests > 0 {
        text.push_str("; a manifest that another node has comes by itself");
    }
    if done.lost > 0 {
        let reason = done.reason.as_deref().unwrap_or("no node has them");
        text.push_str(&format!("\nNOT healed: {}: {reason}", many(done.lost, "object")));
    }
    text
}

fn heal(found: &Look, config: &Config) -> Result<HealReply, Failure> {
    let some = found.objects.iter().take(HEALED_AT_A_TIME);
    let object = |&(kind, id): &(u8, ObjectId)| SnapshotObject { kind, id: id.to_string() };
    let request = HealRequest { objects: some.map(object).collect() };
    ask(config, async |client| client.heal(&request).await)
}

/// Has it in lists and in monitoring that the data was read. Who may not write there has still read it.
fn note(repository: &Repository, data: ReadData, found: &Look, output: &mut Output) {
    if data != ReadData::All {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    // What two share is looked at once: with a fault anywhere, who has none of its own may share one.
    let sure = |&(_, faults): &(SnapshotId, u64)| faults > 0 || found.faults == 0;
    let looks = found.snapshots.iter().copied().filter(sure);
    let looks = looks.map(|(id, faults)| (id, Verified { at_ns, faults }));
    let noted = repository.wait_lock().and_then(|lock| repository.note_verified(&lock, looks));
    match noted {
        Ok(()) => {}
        Err(error @ RepositoryError::Busy(_)) => output.note(&format!("not noted: {error}")),
        Err(error) => output.note(&format!("not noted that it was read: {error}")),
    }
}
