//! Manifests: what a snapshot is, as text. Pure; `docs/repository-format.md` has the lines.

use std::fmt::{self, Write as _};

use super::object::{Kind, ObjectId};
use super::tree::{FormatError, TreeRef};
use crate::model::RelPath;

const FIRST: &str = "trefoil snapshot 1";

/// Bytes of a manifest, at most.
pub(super) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Names a snapshot: the hash of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 32]);

impl SnapshotId {
    /// Digits of an id that people are shown.
    pub const SHORT: usize = 12;

    /// The id that is written as 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// When, in nanoseconds since 1970.
    pub taken_ns: u64,
    /// The name of the node that took it.
    pub by: String,
    /// What a person said of it.
    pub note: Option<String>,
    /// Ordered by name, each once.
    pub mounts: Vec<MountTree>,
}

/// One mount in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountTree {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub root: TreeRef,
    /// Files and links.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Paths that could not be stored as they were, ordered.
    pub changing: Vec<RelPath>,
}

impl Manifest {
    /// Whether everything was stored as it was.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.mounts.iter().all(|mount| mount.changing.is_empty())
    }

    /// Whether it is worth to be kept as what a shop is restored from: all of it, or all but one part in a
    /// hundred, was stored as it was.
    #[must_use]
    pub fn is_restorable(&self) -> bool {
        let changing: usize = self.mounts.iter().map(|mount| mount.changing.len()).sum();
        u64::try_from(changing).is_ok_and(|changing| changing * 100 <= self.size().0)
    }

    /// Files and links, and bytes of files, of all mounts.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let add = |(files, bytes), mount: &MountTree| (files + mount.files, bytes + mount.bytes);
        self.mounts.iter().fold((0, 0), add)
    }

    /// The tree of a mount.
    #[must_use]
    pub fn mount(&self, name: &str) -> Option<&MountTree> {
        self.mounts.iter().find(|mount| mount.name == name)
    }

    /// Its text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn fmt::Display| {
            writeln!(text, "{name} {value}").expect("a string takes it");
        };
        line("trefoil", &"snapshot 1");
        line("taken", &self.taken_ns);
        line("by", &escaped(self.by.as_bytes()));
        line("state", &if self.is_complete() { "complete" } else { "partial" });
        if let Some(note) = &self.note {
            line("note", &escaped(note.as_bytes()));
        }
        for mount in &self.mounts {
            line("mount", &escaped(mount.name.as_bytes()));
            line("root", &format_args!("{} {}", mount.root.kind.number(), mount.root.id));
            line("files", &mount.files);
            line("bytes", &mount.bytes);
            for path in &mount.changing {
                line("changing", &escaped(path.as_bytes()));
            }
        }
        text
    }

    /// Its id, which names its file.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        SnapshotId(*blake3::hash(self.encode().as_bytes()).as_bytes())
    }

    /// What a text says.
    ///
    /// # Errors
    /// [`FormatError`]; also for what says the same in another way.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        const WRONG: FormatError = FormatError("a line of a manifest");
        let mut lines = Lines(text.lines());
        if lines.0.next() != Some(FIRST) {
            return Err(FormatError("the first line of a manifest"));
        }
        let taken_ns = lines.next("taken").and_then(|text| text.parse().ok()).ok_or(WRONG)?;
        let by = lines.next("by").and_then(text_of).ok_or(WRONG)?;
        let _follows_from_the_rest = lines.next("state").ok_or(WRONG)?;
        let note = lines.next("note").map(|text| text_of(text).ok_or(WRONG)).transpose()?;
        let mut mounts = Vec::new();
        while let Some(name) = lines.next("mount") {
            let name = text_of(name).ok_or(WRONG)?;
            let root = lines.next("root").and_then(tree_of).ok_or(WRONG)?;
            let files = lines.next("files").and_then(|text| text.parse().ok()).ok_or(WRONG)?;
            let bytes = lines.next("bytes").and_then(|text| text.parse().ok()).ok_or(WRONG)?;
            let mut changing = Vec::new();
            while let Some(path) = lines.next("changing") {
                let path = unescaped(path).and_then(|path| RelPath::parse(&path).ok());
                changing.push(path.ok_or(WRONG)?);
            }
            mounts.push(MountTree { name, root, files, bytes, changing });
        }
        let manifest = Self { taken_ns, by, note, mounts };
        let ordered = manifest.mounts.is_sorted_by(|a, b| a.name < b.name);
        if !ordered || manifest.encode() != text {
            return Err(WRONG);
        }
        Ok(manifest)
    }
}

struct Lines<'a>(std::str::Lines<'a>);

impl<'a> Lines<'a> {
    /// What follows this name in the next line; nothing if that has another one.
    fn next(&mut self, name: &str) -> Option<&'a str> {
        let mut ahead = self.0.clone();
        let value = ahead.next()?.strip_prefix(name)?.strip_prefix(' ')?;
        self.0 = ahead;
        Some(value)
    }
}

fn tree_of(text: &str) -> Option<TreeRef> {
    let (kind, id) = text.split_once(' ')?;
    let kind = Kind::of(kind.parse().ok()?)?;
    let id = data_encoding::HEXLOWER.decode(id.as_bytes()).ok()?;
    let is_dir = matches!(kind, Kind::Page | Kind::Index);
    is_dir.then_some(TreeRef { kind, id: ObjectId(id.try_into().ok()?) })
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'%' | ..32 | 127.. => write!(text, "%{byte:02X}").expect("a string takes it"),
            byte => text.push(byte.into()),
        }
    }
    text
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            bytes.extend(data_encoding::HEXUPPER.decode(digits).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn text_of(text: &str) -> Option<String> {
    String::from_utf8(unescaped(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let root = TreeRef { kind: Kind::Index, id: ObjectId([0xab; 32]) };
        let path = |bytes: &[u8]| RelPath::parse(bytes).unwrap();
        let tree = |name: &str, changing| MountTree {
            name: name.to_owned(),
            root,
            files: 3,
            bytes: 1 << 40,
            changing,
        };
        Manifest {
            taken_ns: 1_796_450_400_123_456_789,
            by: "web1".to_owned(),
            note: Some("100 % größer\nmount x".to_owned()),
            mounts: vec![
                tree("etc", Vec::new()),
                tree("media", vec![path(b"a\xff\n"), path(b"b c")]),
            ],
        }
    }

    #[test]
    fn a_manifest_comes_back() {
        let manifest = manifest();
        let text = manifest.encode();
        assert_eq!(Ok(manifest.clone()), Manifest::decode(&text));
        assert!(
            text.contains("\nstate partial\nnote 100 %25 gr%C3%B6%C3%9Fer%0Amount x\n"),
            "{text}"
        );
        assert!(text.ends_with("\nchanging a%FF%0A\nchanging b c\n"));
        assert_eq!((6, 1 << 41), manifest.size());
        assert_eq!(Some(manifest.id()), SnapshotId::parse(&manifest.id().to_string()));
        let plain = Manifest { note: None, mounts: Vec::new(), ..manifest };
        assert_eq!(Ok(plain.clone()), Manifest::decode(&plain.encode()));
    }

    #[test]
    fn what_is_changed_is_refused() {
        let text = manifest().encode();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            if let Ok(other) = Manifest::decode(&changed) {
                assert_ne!(manifest().id(), other.id(), "{changed}");
            }
        }
        for wrong in ["", "trefoil snapshot 2\n", &text[..text.len() - 1], &format!("{text}more\n")]
        {
            assert!(Manifest::decode(wrong).is_err(), "{wrong}");
        }
        let swapped = text.replace("mount etc", "mount zzz");
        assert!(Manifest::decode(&swapped).is_err(), "mounts are ordered");
    }
}
