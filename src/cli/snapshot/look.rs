//! Looking into snapshots without restoring: `show`, `find`, `history`, `cat` and `diff`.

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;

use super::{Found, at, meant, taken};
use crate::cli::output::Table;
use crate::cli::words::{age, count, size};
use crate::cli::{Failure, Outcome, Output};
use crate::config::Config;
use crate::engine::{Class, ClassTable, Pattern, Policy};
use crate::model::RelPath;
use crate::snapshot::{
    Change, Choice, InPlace, Item, Kind, Manifest, Node, ObjectId, Objects as _, Repository,
    SnapshotId, Stored, TreeRef, decode_pieces, entries, restore,
};

/// Characters of a content's hash that are shown.
const CONTENT_CHARS: usize = 12;

/// What a snapshot is: when, by whom, what is in it, what could not be stored as it was.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// How its id begins, `latest`, or a time.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Find paths in snapshots by a pattern.
///
/// Patterns are those of the configuration: `*.php` at any depth, `catalog/product/` from the mount on.
/// Each path is told once, with the snapshots that have it.
#[derive(Debug, Args)]
#[command(after_long_help = "Exit codes: 0 something was found; 1 nothing was.")]
pub(super) struct FindArgs {
    /// As in *.jpg or catalog/**/a.jpg.
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Only in this snapshot.
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
}

/// List every version of a path that snapshots have, the newest first.
///
/// A version is told once, with the first and the last snapshot that have it.
#[derive(Debug, Args)]
#[command(after_long_help = "Exit codes: 0 there is one; 1 there is none.")]
pub(super) struct HistoryArgs {
    /// The mount's name and the path: MOUNT/PATH.
    #[arg(value_name = "PATH")]
    path: String,
}

/// Write a file of a snapshot to the standard output.
#[derive(Debug, Args)]
pub(super) struct CatArgs {
    /// The snapshot, the mount's name and the path: ID:MOUNT/PATH.
    #[arg(value_name = "SNAPSHOT:PATH")]
    place: String,
}

/// Say what differs between two snapshots, or between one and the mounts as they are now.
///
/// `+` is only in the second, `-` only in the first, `M` in both and another content, `m` only with other
/// mode, owner or times.
#[derive(Debug, Args)]
#[command(after_long_help = "Exit codes: 0 they are equal; 1 they differ.")]
pub(super) struct DiffArgs {
    /// How its id begins, `latest`, or a time.
    #[arg(value_name = "A")]
    a: String,
    /// The same, or `live`: what is in the mounts now.
    #[arg(value_name = "B")]
    b: String,
}

pub(super) fn show(
    args: &ShowArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (id, manifest) = meant(repository, &args.snapshot)?;
    let mark = repository.mark(id)?;
    let (files, bytes) = manifest.size();
    let when = taken(&manifest);
    let state = if manifest.is_complete() { "complete" } else { "partial" };
    let mut text = format!(
        "id      {id}\ntaken   {} UTC, {} ago\nby      {}\nstate   {state}{}\n",
        when.strftime("%F %T"),
        age(Timestamp::now(), when),
        manifest.by,
        if mark.pinned { ", pinned" } else { "" },
    );
    if let Some(note) = &manifest.note {
        text.push_str(&format!("note    {}\n", note.escape_debug()));
    }
    text.push_str(&format!("files   {}, {}\n", count(files), size(bytes)));
    for mount in &manifest.mounts {
        let (files, bytes) = (count(mount.files), size(mount.bytes));
        text.push_str(&format!("mount   {}: {files} files, {bytes}\n", mount.name));
        for path in &mount.changing {
            text.push_str(&format!("        not as it was: {path}\n"));
        }
    }
    output.data(&text)?;
    Ok(Outcome::Done)
}

pub(super) fn find(
    args: &FindArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    // A rule of its own tells whether a path matches, as the configuration's do.
    let pattern = Pattern::parse(&args.pattern).map_err(Failure::usage)?;
    let rules = vec![(pattern, Class::Flag)];
    let rules = Policy::new(rules, ClassTable::default()).map_err(Failure::usage)?;
    let snapshots = match &args.snapshot {
        Some(text) => vec![meant(repository, text)?],
        None => repository.snapshots()?.0,
    };
    let mut found: BTreeMap<(String, RelPath), Vec<SnapshotId>> = BTreeMap::new();
    // What directories that several snapshots share have below them.
    let mut known: BTreeMap<(ObjectId, RelPath), Vec<RelPath>> = BTreeMap::new();
    for (id, manifest) in &snapshots {
        for mount in &manifest.mounts {
            let mut dirs = vec![(RelPath::root(), mount.root)];
            while let Some((path, dir)) = dirs.pop() {
                let key = (dir.id, path.clone());
                let nodes = entries(repository, dir)?;
                let matching = known.entry(key).or_insert_with(|| {
                    let below = nodes.iter().filter_map(|node| path.join(&node.name).ok());
                    below.filter(|below| rules.class(below) == Class::Flag).collect()
                });
                for below in matching.iter() {
                    found.entry((mount.name.clone(), below.clone())).or_default().push(*id);
                }
                for node in nodes {
                    if let (Item::Dir(tree), Ok(below)) = (&node.item, path.join(&node.name)) {
                        dirs.push((below, *tree));
                    }
                }
            }
        }
    }
    for ((mount, path), ids) in &found {
        let ids: Vec<_> =
            ids.iter().map(|id| id.to_string()[..SnapshotId::SHORT].to_owned()).collect();
        output.data(&format!("{mount}/{path}  {}", ids.join(" ")))?;
    }
    Ok(if found.is_empty() { Outcome::Differs } else { Outcome::Done })
}

pub(super) fn history(
    args: &HistoryArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (mount, path) = args.path.split_once('/').unwrap_or((&args.path, ""));
    let path = RelPath::parse(path.trim_end_matches('/').as_bytes()).map_err(Failure::usage)?;
    let mut versions: Vec<(Node, Vec<(SnapshotId, Timestamp)>)> = Vec::new();
    for (id, manifest) in repository.snapshots()?.0 {
        let Some(tree) = manifest.mount(mount) else { continue };
        let Some(node) = crate::snapshot::find(repository, tree.root, &path)? else { continue };
        let at = (id, taken(&manifest));
        match versions.last_mut() {
            Some((last, ids)) if *last == node => ids.push(at),
            _ => versions.push((node, vec![at])),
        }
    }
    let mut table = Table::new(["MODIFIED", "SIZE", "CONTENT", "FROM", "UNTIL", "SNAPSHOTS"]);
    for (node, ids) in versions.iter().rev() {
        let (bytes, content) = match &node.item {
            Item::File { size: bytes, content, .. } => {
                (size(*bytes), content.to_string().chars().take(CONTENT_CHARS).collect())
            }
            Item::Dir(_) => (String::new(), "directory".to_owned()),
            Item::Symlink { target } => {
                (String::new(), String::from_utf8_lossy(target).escape_debug().to_string())
            }
        };
        let modified = Timestamp::from_second(node.meta.mtime.secs).unwrap_or_default();
        let short = |at: Option<&(SnapshotId, Timestamp)>| {
            at.map_or_else(String::new, |(id, taken)| {
                format!("{} {}", &id.to_string()[..SnapshotId::SHORT], taken.strftime("%F %H:%M"))
            })
        };
        let modified = modified.strftime("%F %T").to_string();
        let (from, until) = (short(ids.first()), short(ids.last()));
        table.row([modified, bytes, content, from, until, count(ids.len() as u64)]);
    }
    output.data(&table.render(""))?;
    Ok(if versions.is_empty() { Outcome::Differs } else { Outcome::Done })
}

pub(super) fn cat(
    args: &CatArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let Some((snapshot, path)) = args.place.rsplit_once(':').filter(|(_, path)| !path.is_empty())
    else {
        let error = anyhow::anyhow!("{} names no file", args.place);
        return Err(Failure::usage(error.context("as in latest:media/logo.png")));
    };
    let (_, manifest) = meant(repository, snapshot)?;
    let Found::Node(Node { item: Item::File { size, content, stored, .. }, .. }) =
        at(repository, &manifest, path)?
    else {
        return Err(anyhow::anyhow!("{path} is no file in the snapshot").into());
    };
    let mut write = |bytes: &[u8]| match output.bytes().write_all(bytes) {
        Err(error) if !crate::cli::output::is_unread(&error) => {
            Err(Failure::from(anyhow::Error::new(error).context("cannot write")))
        }
        _ => Ok(()),
    };
    match stored {
        Stored::Empty => {}
        Stored::Whole => write(&repository.get(Kind::Data, content.into())?)?,
        Stored::Pieces(id) => {
            let pieces = repository.get(Kind::Pieces, id)?;
            for (_, id) in decode_pieces(&pieces, size).map_err(anyhow::Error::new)? {
                write(&repository.get(Kind::Data, id)?)?;
            }
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn diff(
    args: &DiffArgs,
    repository: &Repository,
    config: &Config,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (_, a) = meant(repository, &args.a)?;
    let lines = if args.b == "live" {
        live(repository, config, &a)?
    } else {
        between(repository, &a, &meant(repository, &args.b)?.1)?
    };
    for line in &lines {
        output.data(line)?;
    }
    Ok(if lines.is_empty() { Outcome::Done } else { Outcome::Differs })
}

/// What a restore in place would do, read the other way.
fn live(repository: &Repository, config: &Config, a: &Manifest) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for mount in &a.mounts {
        let Some(place) = config.mount(&mount.name) else {
            lines.push(format!("- {}/", mount.name));
            continue;
        };
        let leave = |path: &RelPath| {
            path.components().next() == Some(b".trefoil")
                || place.policy.class(path) == Class::Local
        };
        let stage = place.path.join(".trefoil/restore");
        let in_place = InPlace {
            stage: &stage,
            delete: false,
            keep_newer_than: None,
            read: false,
            leave: &leave,
        };
        let choice = Choice { only: &[], in_place: Some(in_place), dry: true };
        let mut each = |path: &RelPath, change, _| {
            let sign = match change {
                Change::Made => '-',
                Change::Replaced => 'M',
                Change::Touched => 'm',
                Change::Deleted | Change::Extra => '+',
            };
            lines.push(format!("{sign} {}/{path}", mount.name));
        };
        let done = restore(repository, mount.root, &place.path, &choice, &mut each);
        let done = done.map_err(|(path, error)| {
            anyhow::Error::new(error).context(format!("cannot look at {}", path.display()))
        })?;
        let failed = done.failed.into_iter().map(|(path, _)| format!("M {}/{path}", mount.name));
        lines.extend(failed);
    }
    Ok(lines)
}

fn between(repository: &Repository, a: &Manifest, b: &Manifest) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let names = a.mounts.iter().chain(&b.mounts).map(|mount| &mount.name);
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        match (a.mount(name), b.mount(name)) {
            (Some(a), Some(b)) => trees(repository, name, (a.root, b.root), &mut lines)?,
            (Some(_), None) => lines.push(format!("- {name}/")),
            _ => lines.push(format!("+ {name}/")),
        }
    }
    Ok(lines)
}

/// Directories that are equal are not read.
fn trees(
    repository: &Repository,
    mount: &str,
    roots: (TreeRef, TreeRef),
    lines: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut dirs = vec![(RelPath::root(), roots)];
    while let Some((path, (a, b))) = dirs.pop() {
        if a == b {
            continue;
        }
        let mut ours: BTreeMap<_, _> = BTreeMap::new();
        for (side, dir) in [a, b].into_iter().enumerate() {
            for node in entries(repository, dir)? {
                let both: &mut [Option<Node>; 2] = ours.entry(node.name.clone()).or_default();
                both[side] = Some(node);
            }
        }
        for (name, both) in ours {
            let Ok(below) = path.join(&name) else { continue };
            let slash = |node: &Node| if matches!(node.item, Item::Dir(_)) { "/" } else { "" };
            match both {
                [Some(a), Some(b)] => match (&a.item, &b.item) {
                    (Item::Dir(one), Item::Dir(other)) => dirs.push((below, (*one, *other))),
                    (one, other) if one != other => lines.push(format!("M {mount}/{below}")),
                    _ if a.meta != b.meta => lines.push(format!("m {mount}/{below}")),
                    _ => {}
                },
                [Some(a), None] => lines.push(format!("- {mount}/{below}{}", slash(&a))),
                [None, Some(b)] => lines.push(format!("+ {mount}/{below}{}", slash(&b))),
                [None, None] => {}
            }
        }
    }
    lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
    Ok(())
}
