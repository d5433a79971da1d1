//! `trefoil trash`: its arguments, and the list.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::locate::find_in;
use super::output::Table;
use super::words::{plural, size, until};
use super::{Failure, Outcome, Output, ask, trash_restore};
use crate::config::{Config, parse_duration};
use crate::control::types::{TrashItem, TrashListReply, TrashListRequest, TrashNode};
use crate::engine::{Class, ClassTable, Pattern, Policy};
use crate::model::RelPath;

/// Digits of an id that are shown.
const ID_CHARS: usize = 8;

/// List and bring back files that were deleted or overwritten.
///
/// When a file is deleted or overwritten on one node, every other node keeps what it had there, for
/// as long as the class of the path says (`trash` in the configuration, 7 days unless it says
/// otherwise; some classes keep nothing). So a file lies in the trash of the nodes that it was NOT
/// deleted on. Directories are remembered with their mode and owner.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil trash list media --since 2h
  trefoil trash restore 3f2a91bc
  trefoil trash restore /var/www/shop/pub/media/logo.png
  trefoil trash restore --all-below /var/www/shop/pub/media --since 2h")]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    command: TrashCommand,
}

#[derive(Debug, Subcommand)]
enum TrashCommand {
    List(ListArgs),
    Restore(RestoreArgs),
}

/// List what lies in the trash of all nodes, newest first.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil trash list
  trefoil trash list media --path 'catalog/**/*.jpg' --since 1d
  trefoil trash list --json | jq -r '.items[] | select(.happened == \"removed\") | .path'

Exit code 3: a node did not answer; what only it has is not listed.")]
pub(super) struct ListArgs {
    /// Only of this mount.
    mount: Option<String>,
    /// Only this path and what is below it: absolute, or a pattern as in the configuration's rules.
    #[arg(long, value_name = "PATTERN")]
    path: Option<String>,
    /// Only what came into the trash within this time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Put things back where they were, as ordinary edits, which are mirrored.
///
/// A path stands for what was there last. What is there now is never touched, unless --replace is
/// given: then it goes to the trash itself. Mode, owner, time and attributes are as they were;
/// missing directories are made. If only another node has it, that node puts it back. What is
/// restored stays in the trash until it expires; doing it twice does no harm.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil trash restore 3f2a91bc 77ee01aa
  trefoil trash restore /var/www/shop/app/etc/config.php --replace
  trefoil trash restore 3f2a91bc --to /var/www/shop/pub/media/logo-old.png
  trefoil trash restore --all-below /var/www/shop/pub/media --since 2h

Exit codes: 0 all of it is there; 1 nothing was restored; 3 some of it.")]
pub(super) struct RestoreArgs {
    /// Ids as listed, or how they begin; or paths (`./name` for one that looks like an id).
    #[arg(value_name = "ID|PATH", required_unless_present = "all_below")]
    pub(super) things: Vec<String>,
    /// Everything that was in this directory, and the directory itself.
    #[arg(long, value_name = "DIR", conflicts_with = "things")]
    pub(super) all_below: Option<PathBuf>,
    /// Put it here instead of where it was: a path in a mount.
    #[arg(long, value_name = "PATH")]
    pub(super) to: Option<PathBuf>,
    /// Put it in place of what is there now, which goes to the trash.
    #[arg(long)]
    pub(super) replace: bool,
    /// Only what came into the trash within this time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) since: Option<Duration>,
    /// Print what came of each thing as a JSON list.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(
    args: &TrashArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    match &args.command {
        TrashCommand::List(args) => list(args, config, output),
        TrashCommand::Restore(args) => trash_restore::run(args, config, output),
    }
}

/// Since when, if only what is younger is asked for.
pub(super) fn since(age: Option<Duration>) -> Option<Timestamp> {
    let age = jiff::SignedDuration::try_from(age?).ok()?;
    Timestamp::now().checked_sub(age).ok()
}

fn list(args: &ListArgs, config: &Config, output: &mut Output) -> Result<Outcome, Failure> {
    let mut mount = args.mount.clone();
    let mut below = None;
    let mut pattern = None;
    match &args.path {
        Some(path) if path.starts_with('/') && find_in(path.as_ref(), &config.mounts).is_ok() => {
            let (name, rest) = find_in(path.as_ref(), &config.mounts)?;
            if mount.as_ref().is_some_and(|mount| *mount != name) {
                let error = anyhow::anyhow!("{path} is in mount {name}");
                return Err(Failure::usage(error));
            }
            mount = Some(name);
            below = Some(hex(&rest));
        }
        Some(path) => pattern = Some(filter(path)?),
        None => {}
    }
    let names = match mount {
        Some(mount) => vec![mount],
        None => config.mounts.iter().map(|mount| mount.name.clone()).collect(),
    };
    let mut all = TrashListReply { items: Vec::new(), next_bytes: None, nodes: Vec::new() };
    for mount in names {
        let request = TrashListRequest {
            mount,
            below_bytes: below.clone(),
            since: since(args.since),
            ..TrashListRequest::default()
        };
        pages(config, request, |reply| {
            note_nodes(&mut all.nodes, reply.nodes);
            all.items.extend(reply.items);
            Ok(())
        })?;
    }
    if let Some(pattern) = pattern {
        all.items.retain(|item| matches(&pattern, item));
    }
    all.items
        .sort_by(|a, b| (b.when, &a.mount, &a.path_bytes).cmp(&(a.when, &b.mount, &b.path_bytes)));
    if args.json {
        output.json(&all)?;
    } else {
        output.data(&render(&all.items, Timestamp::now()))?;
    }
    Ok(silent(&all.nodes, output))
}

/// Names the nodes that did not answer.
pub(super) fn silent(nodes: &[TrashNode], output: &mut Output) -> Outcome {
    let mut outcome = Outcome::Done;
    for node in nodes {
        if let Some(error) = &node.error {
            output.note(&format!("warning: what only {} has is missing: {error}", node.name));
            outcome = Outcome::Problems;
        }
    }
    outcome
}

/// Keeps why a node did not answer, if it did not once.
pub(super) fn note_nodes(known: &mut Vec<TrashNode>, nodes: Vec<TrashNode>) {
    for node in nodes {
        match known.iter_mut().find(|other| other.name == node.name) {
            Some(other) => other.error = other.error.take().or(node.error),
            None => known.push(node),
        }
    }
}

/// Asks for one page after the other.
pub(super) fn pages(
    config: &Config,
    mut request: TrashListRequest,
    mut take: impl FnMut(TrashListReply) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let reply = ask(config, async |client| client.trash_list(&request).await)?;
        let next = reply.next_bytes.clone();
        take(reply)?;
        match next {
            Some(next) => request.after_bytes = Some(next),
            None => return Ok(()),
        }
    }
}

/// The bytes of a path in hexadecimal.
pub(super) fn hex(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    data_encoding::HEXLOWER.encode(path.as_os_str().as_bytes())
}

fn filter(pattern: &str) -> Result<Policy, Failure> {
    let wrong = |error| {
        Failure::usage(anyhow::Error::new(error).context(format!("cannot use --path {pattern}")))
    };
    let parsed = Pattern::parse(pattern).map_err(wrong)?;
    Policy::new(vec![(parsed, Class::Local)], ClassTable::default()).map_err(wrong)
}

fn matches(pattern: &Policy, item: &TrashItem) -> bool {
    let bytes = data_encoding::HEXLOWER.decode(item.path_bytes.as_bytes()).ok();
    let path = bytes.and_then(|bytes| RelPath::parse(&bytes).ok());
    path.is_some_and(|path| pattern.class(&path) == Class::Local)
}

/// The first digits of an id: enough to name it, as a rule.
pub(super) fn short(id: &str) -> &str {
    id.get(..ID_CHARS).unwrap_or(id)
}

/// The list, in words.
pub(super) fn render(items: &[TrashItem], now: Timestamp) -> String {
    if items.is_empty() {
        return "nothing in the trash\n".to_owned();
    }
    let heading = ["ID", "WHEN", "WHAT", "BY", "SIZE", "ON", "EXPIRES IN", "MOUNT", "PATH"];
    let mut table = Table::new(heading);
    for item in items {
        let nodes: Vec<_> = item.copies.iter().map(|copy| copy.node.as_str()).collect();
        let (what, bytes) = match item.kind.as_str() {
            "file" => (item.happened.clone(), size(item.bytes)),
            kind => (format!("{kind} {}", item.happened), "-".to_owned()),
        };
        table.row([
            short(&item.id).to_owned(),
            format!("{:.0}", item.when),
            what,
            item.by.clone().unwrap_or_else(|| "-".to_owned()),
            bytes,
            nodes.join(","),
            until(now, item.expires),
            item.mount.clone(),
            item.path.clone(),
        ]);
    }
    let things = plural(items.len(), "thing");
    format!("{things} in the trash\n\n{}", table.render(""))
}
