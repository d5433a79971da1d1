//! How far this node's last look went in each index, and what tree it gave: where the next one begins.
//!
//! It stays beside the repository because its trees are needed as those of snapshots are. If it is lost, or
//! its trees are gone, the next look is at everything.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::manifest::MountTree;
use super::object::{Kind, ObjectId};
use super::repository::{Lock, Repository, RepositoryError};
use super::tree::TreeRef;
use crate::model::RelPath;

const FILE: &str = "cuts";

/// The last look at a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The life of the index.
    pub life: u64,
    /// Its last sequence then.
    pub head: u64,
    /// What there was.
    pub tree: MountTree,
}

/// A look, as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    life: u64,
    head: u64,
    kind: u8,
    root: String,
    files: u64,
    bytes: u64,
    changing: Vec<String>,
}

impl Line {
    fn of(cut: &Cut) -> Self {
        let MountTree { root, files, bytes, changing, .. } = &cut.tree;
        let hex = |path: &RelPath| data_encoding::HEXLOWER.encode(path.as_bytes());
        Self {
            life: cut.life,
            head: cut.head,
            kind: root.kind.number(),
            root: root.id.to_string(),
            files: *files,
            bytes: *bytes,
            changing: changing.iter().map(hex).collect(),
        }
    }

    fn cut(self, name: String) -> Option<Cut> {
        let bytes = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let root = TreeRef {
            kind: Kind::of(self.kind)?,
            id: ObjectId(bytes(&self.root)?.try_into().ok()?),
        };
        let path = |text: &String| RelPath::parse(&bytes(text)?).ok();
        let changing = self.changing.iter().map(path).collect::<Option<_>>()?;
        let (files, bytes) = (self.files, self.bytes);
        let tree = MountTree { name, root, files, bytes, changing };
        Some(Cut { life: self.life, head: self.head, tree })
    }
}

impl Repository {
    /// The last looks, by mount: those whose trees are there.
    #[must_use]
    pub fn cuts(&self) -> BTreeMap<String, Cut> {
        let text = fs::read(self.path().join(FILE)).unwrap_or_default();
        let lines: BTreeMap<String, Line> = serde_json::from_slice(&text).unwrap_or_default();
        let cut = |(name, line): (String, Line)| Some((name.clone(), line.cut(name)?));
        let there = |cut: &Cut| self.has(cut.tree.root.kind, cut.tree.root.id).unwrap_or(false);
        lines.into_iter().filter_map(cut).filter(|(_, cut)| there(cut)).collect()
    }

    /// Notes the last looks.
    ///
    /// # Errors
    /// [`RepositoryError::Io`]: those of before are noted.
    pub fn save_cuts(
        &self,
        lock: &Lock,
        cuts: &BTreeMap<String, Cut>,
    ) -> Result<(), RepositoryError> {
        let lines: BTreeMap<_, _> = cuts.iter().map(|(name, cut)| (name, Line::of(cut))).collect();
        let text = serde_json::to_vec(&lines).unwrap_or_default();
        self.replace(lock, &text, &self.path().join(FILE))
    }
}
