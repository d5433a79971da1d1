//! `trefoil restore`: files out of a snapshot.
//!
//! It reads the repository itself: neither a daemon nor a cluster is needed.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::path::{Path, PathBuf};

use clap::Args;

use super::snapshot::{meant, open};
use super::words::{count, size};
use super::{Failure, Outcome, Output};
use crate::config::Config;
use crate::model::RelPath;
use crate::snapshot::{Restored, restore};

/// Failures that are named.
const FAILED_TOLD: usize = 20;

/// Put files of a snapshot into a directory.
///
/// With --mount, that mount's tree is put directly into the directory; without, there is a folder for each
/// mount. Nothing is ever removed; a file that is there and is another one is replaced. Content, mode, owner,
/// times, attributes, links and holes are as they were. What was cut off goes on when it is run again.
/// Works without the daemon, on any machine, from a repository alone (--repository).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil restore latest --to /root/yesterday
  trefoil restore '2026-11-20 06:00' --mount media catalog/product --to /root/media
  trefoil restore 3f2a91bc --repository /mnt/web2/repository --to /srv/shop

Exit codes: 0 all of it is there; 1 nothing was restored; 3 some of it could not be.")]
pub(super) struct RestoreArgs {
    /// How its id begins, `latest`, or a time: the newest snapshot not after it.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Only what is at and below these paths of the mount.
    #[arg(value_name = "PATH", requires = "mount")]
    paths: Vec<String>,
    /// Only this mount.
    #[arg(long, value_name = "MOUNT")]
    mount: Option<String>,
    /// Where to: it is made if it is not there. It must not be in a mount.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// From this repository instead of that of this node.
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
}

pub(super) fn run(
    args: &RestoreArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    outside_of_mounts(&args.to, config)?;
    let repository = open(args.repository.as_deref(), config)?;
    let (_, manifest) = meant(&repository, &args.snapshot)?;
    let mut only = Vec::new();
    for path in &args.paths {
        only.push(RelPath::parse(path.trim_end_matches('/').as_bytes()).map_err(Failure::usage)?);
    }
    let trees: Vec<_> = match &args.mount {
        None => {
            make(&args.to)?;
            let each = manifest.mounts.iter();
            each.map(|mount| (mount, args.to.join(folder(&mount.name)))).collect()
        }
        Some(name) => match manifest.mount(name) {
            Some(mount) => vec![(mount, args.to.clone())],
            None => {
                let names: Vec<_> = manifest.mounts.iter().map(|mount| &*mount.name).collect();
                let error = anyhow::anyhow!("the snapshot has no mount {name}");
                return Err(Failure::with_hint(error, format!("it has {}", names.join(", "))));
            }
        },
    };
    let mut all = Restored::default();
    for (mount, to) in trees {
        let done = restore(&repository, mount.root, &to, &only, &mut |_| {});
        let done = done.map_err(|(path, error)| {
            anyhow::Error::new(error).context(format!("cannot restore to {}", path.display()))
        })?;
        for (path, error) in done.failed.iter().take(FAILED_TOLD) {
            let mut text = format!("not restored: {}/{path}", mount.name);
            for cause in anyhow::Chain::new(error) {
                text.push_str(&format!(": {cause}"));
            }
            output.note(&text);
        }
        all.files += done.files;
        all.bytes += done.bytes;
        all.unchanged += done.unchanged;
        all.failed.extend(done.failed);
    }
    if !only.is_empty() && all.files + all.unchanged == 0 && all.failed.is_empty() {
        return Err(anyhow::anyhow!("the snapshot has nothing at {}", args.paths.join(", ")).into());
    }
    output.data(&format!(
        "restored {} files, {}; {} were there; {} failed",
        count(all.files),
        size(all.bytes),
        count(all.unchanged),
        count(all.failed.len() as u64),
    ))?;
    Ok(if all.failed.is_empty() { Outcome::Done } else { Outcome::Problems })
}

/// A mount's name as one name of a folder.
fn folder(mount: &str) -> String {
    mount.replace('/', "_")
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
            Err(Failure::with_hint(error, "restore to a directory outside, and move what you need"))
        }
    }
}
