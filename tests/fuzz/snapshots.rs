//! Decoders of what lies in a repository, or comes from another node's: manifests, marks and objects.

use std::convert::Infallible;

use trefoil::model::{ContentId, LinkGroup, Meta, Mtime, RelPath};
use trefoil::snapshot::{
    Item, Kind, Manifest, Mark, MountTree, Node, ObjectId, Stored, TreeRef, decode_index,
    decode_page, decode_pieces, encode_dir,
};

use crate::generate::Rng;
use crate::{assert_contained, fuzz, linear};

fn id(rng: &mut Rng) -> [u8; 32] {
    rng.bytes(32).try_into().unwrap()
}

fn nodes(rng: &mut Rng) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..rng.below(12)).map(|n| node(rng, n)).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    nodes
}

fn node(rng: &mut Rng, n: usize) -> Node {
    let item = match rng.below(4) {
        0 => {
            let kind = *rng.pick(&[Kind::Page, Kind::Index]);
            Item::Dir(TreeRef { kind, id: ObjectId(id(rng)) })
        }
        1 => Item::Symlink { target: b"../to".as_slice().into() },
        which => {
            let stored = match rng.below(3) {
                0 => Stored::Empty,
                1 => Stored::Whole,
                _ => Stored::Pieces(ObjectId(id(rng))),
            };
            let size = if matches!(stored, Stored::Empty) { 0 } else { 1 + rng.next() % 1000 };
            let group = (which == 3).then(|| LinkGroup(rng.next()));
            let (content, sparse) = (ContentId(id(rng)), rng.chance(2));
            Item::File { size, content, stored, sparse, group }
        }
    };
    let xattrs = if rng.chance(3) {
        vec![(b"user.a".as_slice().into(), rng.bytes(3).into())]
    } else {
        Vec::new()
    };
    let mtime = Mtime { secs: 1_700_000_000, nanos: 999_999_999 };
    let (mode, uid, gid) = (0o644, 33, u32::MAX);
    Node {
        name: format!("name-{n}").into_bytes().into(),
        meta: Meta { mode, uid, gid, mtime, xattrs },
        item,
    }
}

/// The pages of a directory, one behind the other.
fn pages(nodes: Vec<Node>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let put = |kind, object: &[u8]| {
        if kind == Kind::Page {
            bytes.extend_from_slice(object);
        }
        Ok::<_, Infallible>(ObjectId::of(kind, object))
    };
    let Ok(_root) = encode_dir(nodes, put);
    bytes
}

#[test]
fn pages_of_directories() {
    let decode = |bytes: &[u8]| match decode_page(bytes) {
        Ok(nodes) => {
            for node in &nodes {
                assert_contained(&RelPath::root().join(&node.name).unwrap());
            }
            assert_eq!(bytes, pages(nodes), "there is one way to say it");
            true
        }
        Err(_) => false,
    };
    fuzz("pages of directories", |rng| pages(nodes(rng)), decode, linear);
}

#[test]
fn indexes_and_pieces() {
    let valid = |rng: &mut Rng| {
        let mut bytes = Vec::new();
        for n in 0..rng.below(6) {
            bytes.extend_from_slice(&6_u16.to_le_bytes());
            bytes.extend_from_slice(format!("name-{n}").as_bytes());
            bytes.extend_from_slice(&id(rng));
        }
        // Or the pieces of a file, behind its size.
        let pieces = rng.below(4);
        let mut file = (pieces as u64 * 70_000).to_le_bytes().to_vec();
        for _ in 0..pieces {
            file.extend_from_slice(&70_000_u32.to_le_bytes());
            file.extend_from_slice(&id(rng));
        }
        if pieces > 0 && rng.chance(2) { file } else { bytes }
    };
    let decode = |bytes: &[u8]| {
        let index = decode_index(bytes).is_ok();
        let pieces = bytes.split_first_chunk().is_some_and(|(size, rest)| {
            let size = u64::from_le_bytes(*size);
            decode_pieces(rest, size).is_ok_and(|pieces| {
                let sum = pieces.iter().map(|(length, _)| u64::from(*length)).sum::<u64>();
                assert_eq!(size, sum);
                true
            })
        });
        index || pieces
    };
    fuzz("indexes and pieces", valid, decode, linear);
}

#[test]
fn manifests_and_marks() {
    let valid = |rng: &mut Rng| {
        if rng.chance(3) {
            let (removed, pinned) = (rng.chance(2), rng.chance(2));
            return Mark { changed_ns: rng.number(), removed, pinned }.encode().into_bytes();
        }
        let mount = |name: &str, rng: &mut Rng| MountTree {
            name: name.to_owned(),
            root: TreeRef { kind: Kind::Page, id: ObjectId(id(rng)) },
            files: rng.number(),
            bytes: rng.number(),
            changing: vec![RelPath::parse(b"a/b\n").unwrap()],
        };
        let mounts = vec![mount("media", rng), mount("var", rng)];
        let note = rng.chance(2).then(|| "50% \u{fc}".to_owned());
        let (taken_ns, by) = (rng.number(), "web1".to_owned());
        Manifest { taken_ns, by, note, mounts }.encode().into_bytes()
    };
    let decode = |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        if let Ok(mark) = Mark::decode(text) {
            assert_eq!(Ok(mark), Mark::decode(&mark.encode()));
            return true;
        }
        let Ok(manifest) = Manifest::decode(text) else { return false };
        assert_eq!(text, manifest.encode(), "there is one way to say it");
        let paths = manifest.mounts.iter().flat_map(|mount| &mount.changing);
        paths.for_each(assert_contained);
        true
    };
    fuzz("manifests and marks", valid, decode, linear);
}
