//! `trefoil trash restore`: finds what is meant, and has the nodes that keep it put it back.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::locate::{find, find_in};
use super::trash::{RestoreArgs, hex, note_nodes, pages, silent, since};
use super::words::{count, plural, size};
use super::{Failure, Outcome, Output, ask};
use crate::config::Config;
use crate::control::ClientError;
use crate::control::types::{
    Refusal, RefusalKind, TrashItem, TrashListRequest, TrashNode, TrashOutcome,
    TrashRestoreRequest, TrashRestored, TrashTarget,
};

/// What is asked for in one go.
const ITEMS_MAX: usize = 128;
const REQUEST_BYTES_MAX: usize = 128 << 10;
const CONTENT_BYTES_MAX: u64 = 256 << 20;

/// How often it is said how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Failures told.
const TOLD_MAX: usize = 20;

/// One thing, and where it goes.
#[derive(Clone, Debug)]
struct Pick {
    item: TrashItem,
    to_mount: String,
    to_bytes: String,
}

/// How far it is.
struct Progress {
    begin: Instant,
    told: Instant,
    bytes: u64,
    results: Vec<TrashRestored>,
    /// Which nodes have put something back.
    nodes: Vec<String>,
}

pub(super) fn run(
    args: &RestoreArgs,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let now = Instant::now();
    let (results, nodes) = (Vec::new(), Vec::new());
    let mut progress = Progress { begin: now, told: now, bytes: 0, results, nodes };
    let mut nodes = Vec::new();
    match &args.all_below {
        Some(dir) => all_below(dir, args, config, output, &mut progress, &mut nodes)?,
        None => {
            let picks = things(args, config, &mut nodes)?;
            restore(&picks, args, config, output, &mut progress)?;
        }
    }
    if args.json {
        output.json(&progress.results)?;
    }
    let answered = silent(&nodes, output);
    match summary(&progress, output)? {
        Outcome::Done if args.all_below.is_some() => Ok(answered),
        outcome => Ok(outcome),
    }
}

fn all_below(
    dir: &Path,
    args: &RestoreArgs,
    config: &Config,
    output: &mut Output,
    progress: &mut Progress,
    nodes: &mut Vec<TrashNode>,
) -> Result<(), Failure> {
    let (mount, below) = find_in(dir, &config.mounts)?;
    let to = args.to.as_ref().map(|to| find_in(to, &config.mounts)).transpose()?;
    let request = TrashListRequest {
        mount: mount.clone(),
        below_bytes: Some(hex(&below)),
        since: since(args.since),
        ..TrashListRequest::default()
    };
    pages(config, request, |reply| {
        note_nodes(nodes, reply.nodes);
        let picks = newest(reply.items).into_iter().filter_map(|item| {
            let (to_mount, to_bytes) = match &to {
                None => (mount.clone(), item.path_bytes.clone()),
                Some((to_mount, to)) => (to_mount.clone(), moved(&item, &below, to)?),
            };
            // The mount itself is always there.
            (!to_bytes.is_empty()).then_some(Pick { item, to_mount, to_bytes })
        });
        restore(&picks.collect::<Vec<_>>(), args, config, output, progress)
    })?;
    if progress.results.is_empty() {
        let shown = dir.display();
        return Err(missing(&format!("nothing of {shown} is in the trash"), nodes));
    }
    Ok(())
}

/// Of each path what was there last. The newest come first.
fn newest(items: Vec<TrashItem>) -> Vec<TrashItem> {
    let mut picked: Vec<TrashItem> = Vec::new();
    for item in items.into_iter().filter(|item| item.path_is_whole) {
        if picked.last().is_none_or(|last| last.path_bytes != item.path_bytes) {
            picked.push(item);
        }
    }
    picked
}

/// Where a path goes if what was below `from` goes below `to`.
fn moved(item: &TrashItem, from: &Path, to: &Path) -> Option<String> {
    let rest = item.path_bytes.strip_prefix(&hex(from))?;
    // In hexadecimal, `2f` is a slash.
    let rest = rest.strip_prefix("2f").unwrap_or(rest);
    Some(match (hex(to).as_str(), rest) {
        (to, "") => to.to_owned(),
        ("", rest) => rest.to_owned(),
        (to, rest) => format!("{to}2f{rest}"),
    })
}

/// What the ids and paths stand for.
fn things(
    args: &RestoreArgs,
    config: &Config,
    nodes: &mut Vec<TrashNode>,
) -> Result<Vec<Pick>, Failure> {
    let mut picks = Vec::new();
    for thing in &args.things {
        let is_id = !thing.is_empty() && thing.len() <= 16;
        let item = match is_id && thing.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => by_id(thing, args, config, nodes)?,
            false => by_path(thing.as_ref(), args, config, nodes)?,
        };
        let (to_mount, to_bytes) = match &args.to {
            Some(_) if args.things.len() > 1 => {
                let error = anyhow::anyhow!("--to takes one thing, or --all-below");
                return Err(Failure::usage(error));
            }
            Some(to) => {
                let (mount, below) = find(to, &config.mounts)?;
                (mount, hex(&below))
            }
            None if !item.path_is_whole => {
                let error = anyhow::anyhow!("of {} only the end of its path is known", item.id);
                return Err(Failure::with_hint(error, "say where it goes with --to PATH"));
            }
            None => (item.mount.clone(), item.path_bytes.clone()),
        };
        picks.push(Pick { item, to_mount, to_bytes });
    }
    Ok(picks)
}

fn by_id(
    id: &str,
    args: &RestoreArgs,
    config: &Config,
    nodes: &mut Vec<TrashNode>,
) -> Result<TrashItem, Failure> {
    let mut found: BTreeMap<String, TrashItem> = BTreeMap::new();
    for mount in &config.mounts {
        let request = TrashListRequest {
            mount: mount.name.clone(),
            id: Some(id.to_ascii_lowercase()),
            since: since(args.since),
            ..TrashListRequest::default()
        };
        pages(config, request, |reply| {
            note_nodes(nodes, reply.nodes);
            found.extend(reply.items.into_iter().map(|item| (item.id.clone(), item)));
            Ok(())
        })?;
    }
    let several = found.len() > 1;
    match found.pop_first() {
        None => Err(missing(&format!("nothing in the trash has the id {id}"), nodes)),
        Some((_, item)) if !several => Ok(item),
        Some((first, _)) => {
            let ids: Vec<_> = std::iter::once(first).chain(found.into_keys()).take(9).collect();
            let error = anyhow::anyhow!("several ids begin with {id}: {}", ids.join(", "));
            Err(Failure::with_hint(error, "give more of its digits"))
        }
    }
}

fn by_path(
    path: &Path,
    args: &RestoreArgs,
    config: &Config,
    nodes: &mut Vec<TrashNode>,
) -> Result<TrashItem, Failure> {
    let (mount, below) = find(path, &config.mounts)?;
    let wanted = hex(&below);
    let request = TrashListRequest {
        mount,
        below_bytes: Some(wanted.clone()),
        since: since(args.since),
        ..TrashListRequest::default()
    };
    let (mut found, mut others) = (None, 0);
    pages(config, request, |reply| {
        note_nodes(nodes, reply.nodes);
        let (at, inside): (Vec<_>, Vec<_>) =
            reply.items.into_iter().partition(|item| item.path_bytes == wanted);
        // The newest comes first.
        found = found.take().or_else(|| at.into_iter().next());
        others += inside.len();
        Ok(())
    })?;
    let shown = path.display();
    match found {
        Some(item) if item.kind != "directory" || others == 0 => Ok(item),
        None if others == 0 => Err(missing(&format!("{shown} is not in the trash"), nodes)),
        _ => {
            let error =
                anyhow::anyhow!("{shown} was a directory, {} in it", plural(others, "thing"));
            Err(Failure::with_hint(error, format!("trefoil trash restore --all-below {shown}")))
        }
    }
}

fn missing(error: &str, nodes: &[TrashNode]) -> Failure {
    let silent: Vec<_> = nodes.iter().filter(|node| node.error.is_some()).collect();
    let refusal = Refusal::new(RefusalKind::NotFound, error);
    let hint = match silent.first() {
        Some(node) => format!("{} did not answer; what only it has is not known", node.name),
        None => "see `trefoil trash list`; the node where it was deleted has no copy, and some \
                 classes keep none"
            .to_owned(),
    };
    ClientError::from(refusal.with_hint(hint)).into()
}

/// Has them put back, in their order, as many at a time as one node takes.
fn restore(
    picks: &[Pick],
    args: &RestoreArgs,
    config: &Config,
    output: &mut Output,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut rest = picks;
    while let Some(first) = rest.first() {
        let Some(node) = first.item.copies.first().map(|copy| copy.node.clone()) else {
            rest = &rest[1..];
            continue;
        };
        let (mut bytes, mut content) = (0, 0);
        let fits = |pick: &&Pick| {
            bytes += pick.to_bytes.len() + 1024;
            content += pick.item.bytes;
            pick.item.copies.iter().any(|copy| copy.node == node)
                && (&pick.item.mount, &pick.to_mount) == (&first.item.mount, &first.to_mount)
                && bytes <= REQUEST_BYTES_MAX
                && content <= CONTENT_BYTES_MAX
        };
        let most = rest.iter().take(ITEMS_MAX).take_while(fits).count().max(1);
        let (chunk, after) = rest.split_at(most);
        rest = after;
        let request = TrashRestoreRequest {
            node: node.clone(),
            mount: first.item.mount.clone(),
            to_mount: first.to_mount.clone(),
            replace: args.replace,
            items: chunk.iter().map(|pick| target(pick, &node)).collect(),
        };
        let reply = ask(config, async |client| client.trash_restore(&request).await);
        let reply = reply.map_err(|failure| run_there(failure, &node, args))?;
        progress.note(&node, chunk, reply.results);
        if progress.told.elapsed() >= PROGRESS_EVERY {
            progress.told = Instant::now();
            let (things, bytes) = (progress.results.len(), size(progress.bytes));
            output.note(&format!("restored so far: {} ({bytes})", count(things as u64)));
        }
    }
    Ok(())
}

fn target(pick: &Pick, node: &str) -> TrashTarget {
    let copy = pick.item.copies.iter().find(|copy| copy.node == node);
    TrashTarget {
        place: copy.map_or_else(String::new, |copy| copy.place.clone()),
        path_bytes: pick.to_bytes.clone(),
        kind: pick.item.kind.clone(),
        bytes: pick.item.bytes,
        modified: pick.item.modified,
    }
}

/// A node that could not be asked can still be told on the spot.
fn run_there(failure: Failure, node: &str, args: &RestoreArgs) -> Failure {
    let quoted =
        |path: &PathBuf| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let mut command = "trefoil trash restore".to_owned();
    for thing in &args.things {
        command.push_str(&format!(" {}", quoted(&thing.into())));
    }
    let options = [("--all-below", &args.all_below), ("--to", &args.to)];
    for (option, path) in options.into_iter().filter_map(|(o, path)| Some((o, path.as_ref()?))) {
        command.push_str(&format!(" {option} {}", quoted(path)));
    }
    if let Some(since) = args.since {
        command.push_str(&format!(" --since {}", crate::config::format_duration(since)));
    }
    command.push_str(if args.replace { " --replace" } else { "" });
    Failure { hint: Some(format!("run this on {node}: {command}")), ..failure }
}

impl Progress {
    fn note(&mut self, node: &str, chunk: &[Pick], results: Vec<TrashRestored>) {
        for (pick, result) in chunk.iter().zip(&results) {
            if result.outcome == TrashOutcome::Restored {
                self.bytes += pick.item.bytes;
                if !self.nodes.iter().any(|other| other == node) {
                    self.nodes.push(node.to_owned());
                }
            }
        }
        self.results.extend(results);
    }

    fn count(&self, outcome: TrashOutcome) -> usize {
        self.results.iter().filter(|result| result.outcome == outcome).count()
    }
}

/// Says what came of it.
fn summary(progress: &Progress, output: &mut Output) -> Result<Outcome, Failure> {
    let (restored, same) =
        (progress.count(TrashOutcome::Restored), progress.count(TrashOutcome::Same));
    let bad = |result: &&TrashRestored| {
        !matches!(result.outcome, TrashOutcome::Restored | TrashOutcome::Same)
    };
    let failed: Vec<_> = progress.results.iter().filter(bad).collect();
    let because = |result: &TrashRestored| match (&result.reason, result.outcome) {
        (Some(reason), _) => reason.clone(),
        (None, TrashOutcome::Gone) => "it is not in the trash any more".to_owned(),
        (None, _) => "something else is there".to_owned(),
    };
    let hint = match failed.iter().any(|result| result.outcome == TrashOutcome::Exists) {
        true => "--replace puts it in place of what is there, --to PATH somewhere else",
        false => "see `trefoil trash list`, and the daemon's log",
    };
    if let ([only], 0, 0) = (&failed[..], restored, same) {
        let error = anyhow::anyhow!("cannot restore {}: {}", only.path, because(only));
        return Err(Failure::with_hint(error, hint));
    }
    for result in failed.iter().take(TOLD_MAX) {
        output.note(&format!("error: cannot restore {}: {}", result.path, because(result)));
    }
    if failed.len() > TOLD_MAX {
        output.note(&format!("error: and {} more", count((failed.len() - TOLD_MAX) as u64)));
    }
    let took = progress.begin.elapsed().as_secs_f64();
    let mut text = match (restored, &progress.results[..]) {
        (1, [only]) => format!("restored {}", only.path),
        _ => format!(
            "restored {} ({}) in {took:.1} s",
            plural(restored, "thing"),
            size(progress.bytes)
        ),
    };
    if same > 0 {
        text.push_str(&format!("; {} there already", count(same as u64)));
    }
    output.note(&text);
    if !failed.is_empty() {
        output.note(&format!("hint: {hint}"));
    } else if restored > 0 {
        let nodes = progress.nodes.join(", ");
        output.note(&format!(
            "hint: it was put back on {nodes}, and is mirrored from there; `trefoil wait` there tells when \
             it is everywhere"
        ));
    }
    match (failed.is_empty(), restored + same) {
        (true, _) => Ok(Outcome::Done),
        (false, 0) => Err(Failure::with_hint(anyhow::anyhow!("nothing was restored"), hint)),
        (false, _) => Ok(Outcome::Problems),
    }
}
