//! `snapshot export`: a tar stream of a snapshot.
//!
//! Everything that tar can hold is in it: nanoseconds and extended attributes as PAX records, names of one
//! file as links. It writes to the standard output only.

use std::collections::HashMap;
use std::io::{self, Read};

use clap::Args;

use super::{Found, at, meant};
use crate::cli::{Failure, Outcome, Output};
use crate::model::{LinkGroup, RelPath};
use crate::snapshot::{
    Item, Kind, Node, ObjectId, Objects as _, Repository, Stored, TreeRef, decode_pieces, entries,
};

/// Write a snapshot to the standard output, as a tar stream.
///
/// Paths in it begin with the mount's name. With a path, only what is at and below it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  trefoil snapshot export latest | zstd > shop.tar.zst
  trefoil snapshot export latest media/catalog | tar -x -C /tmp/look")]
pub(super) struct ExportArgs {
    /// How its id begins, `latest`, or a time.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Begins with the mount's name: MOUNT[/PATH].
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

pub(super) fn export(
    args: &ExportArgs,
    repository: &Repository,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let (_, manifest) = meant(repository, &args.snapshot)?;
    let mut tar = Tar { repository, to: tar::Builder::new(output.bytes()), links: HashMap::new() };
    tar.to.mode(tar::HeaderMode::Complete);
    let done = match args.path.as_deref().map(|path| path.trim_end_matches('/')) {
        None => manifest.mounts.iter().try_for_each(|mount| {
            let top = RelPath::parse(mount.name.as_bytes()).map_err(io::Error::other)?;
            tar.dir(&top, mount.root)
        }),
        Some(path) => {
            let top = RelPath::parse(path.as_bytes()).map_err(Failure::usage)?;
            match at(repository, &manifest, path)? {
                Found::Mounts => Ok(()),
                Found::Dir(tree) => tar.dir(&top, tree),
                Found::Node(node) => tar.node(&top, &node),
            }
        }
    };
    match done.and_then(|()| tar.to.finish()) {
        Err(error) if !crate::cli::output::is_unread(&error) => {
            Err(anyhow::Error::new(error).context("cannot write the tar stream").into())
        }
        _ => Ok(Outcome::Done),
    }
}

struct Tar<'a, W: io::Write> {
    repository: &'a Repository,
    to: tar::Builder<W>,
    /// The first name of each group of hard links.
    links: HashMap<LinkGroup, RelPath>,
}

impl<W: io::Write> Tar<'_, W> {
    fn dir(&mut self, path: &RelPath, tree: TreeRef) -> io::Result<()> {
        for node in entries(self.repository, tree).map_err(io::Error::other)? {
            let Ok(below) = path.join(&node.name) else { continue };
            self.node(&below, &node)?;
            if let Item::Dir(tree) = node.item {
                self.dir(&below, tree)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, path: &RelPath, node: &Node) -> io::Result<()> {
        let meta = &node.meta;
        let mut header = tar::Header::new_gnu();
        header.set_mode(meta.mode);
        // Owners that are not known are root's, as with any tar that cannot tell.
        let owner = |id: u32| u64::from(if id == u32::MAX { 0 } else { id });
        header.set_uid(owner(meta.uid));
        header.set_gid(owner(meta.gid));
        header.set_mtime(u64::try_from(meta.mtime.secs).unwrap_or_default());
        let time = format!("{}.{:09}", meta.mtime.secs, meta.mtime.nanos);
        let mut more = vec![("mtime".to_owned(), time.into_bytes())];
        for (name, value) in &meta.xattrs {
            let name = format!("SCHILY.xattr.{}", String::from_utf8_lossy(name));
            more.push((name, value.to_vec()));
        }
        self.to.append_pax_extensions(more.iter().map(|(name, value)| (&**name, &**value)))?;
        let name = as_path(path.as_bytes());
        match &node.item {
            Item::Dir(_) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                self.to.append_data(&mut header, name, io::empty())
            }
            Item::Symlink { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                self.to.append_link(&mut header, name, as_path(target))
            }
            Item::File { size, content, stored, group, .. } => {
                let first = group.and_then(|group| self.links.get(&group));
                if let Some(first) = first {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_size(0);
                    return self.to.append_link(&mut header, name, as_path(first.as_bytes()));
                }
                if let Some(group) = group {
                    self.links.insert(*group, path.clone());
                }
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(*size);
                let objects = match stored {
                    Stored::Empty => Vec::new(),
                    Stored::Whole => vec![ObjectId::from(*content)],
                    Stored::Pieces(id) => {
                        let pieces = self.repository.get(Kind::Pieces, *id);
                        let pieces = pieces.map_err(io::Error::other)?;
                        let pieces = decode_pieces(&pieces, *size).map_err(io::Error::other)?;
                        pieces.into_iter().map(|(_, id)| id).collect()
                    }
                };
                let repository = self.repository;
                let content =
                    Content { repository, objects: objects.into_iter(), now: Vec::new(), at: 0 };
                self.to.append_data(&mut header, name, content)
            }
        }
    }
}

fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A file's bytes, one object at a time.
struct Content<'a> {
    repository: &'a Repository,
    objects: std::vec::IntoIter<ObjectId>,
    now: Vec<u8>,
    at: usize,
}

impl Read for Content<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.now.len() {
            let Some(id) = self.objects.next() else { return Ok(0) };
            self.now = self.repository.get(Kind::Data, id).map_err(io::Error::other)?;
            self.at = 0;
        }
        let bytes = to.len().min(self.now.len() - self.at);
        to[..bytes].copy_from_slice(&self.now[self.at..self.at + bytes]);
        self.at += bytes;
        Ok(bytes)
    }
}
