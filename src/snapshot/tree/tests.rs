//! Encoding and decoding, and that nothing dangerous comes out.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// Objects as they are put.
#[derive(Default)]
struct Store(BTreeMap<(Kind, ObjectId), Vec<u8>>);

impl Store {
    fn dir(&mut self, nodes: Vec<Node>) -> TreeRef {
        let put = |kind, bytes: &[u8]| {
            let id = ObjectId::of(kind, bytes);
            self.0.insert((kind, id), bytes.to_vec());
            Ok::<_, Infallible>(id)
        };
        encode_dir(nodes, put).unwrap()
    }

    fn nodes(&self, tree: TreeRef) -> Vec<Node> {
        let bytes = &self.0[&(tree.kind, tree.id)];
        match tree.kind {
            Kind::Index => {
                let pages = decode_index(bytes).unwrap();
                let page = |(first, id): (Box<[u8]>, ObjectId)| {
                    let nodes = decode_page(&self.0[&(Kind::Page, id)]).unwrap();
                    assert_eq!(first, nodes[0].name);
                    nodes
                };
                pages.into_iter().flat_map(page).collect()
            }
            _ => decode_page(bytes).unwrap(),
        }
    }
}

fn meta() -> Meta {
    let mtime = Mtime { secs: -1, nanos: 999_999_999 };
    Meta { mode: 0o4755, uid: 33, gid: u32::MAX, mtime, xattrs: Vec::new() }
}

fn link(name: &str) -> Node {
    let item = Item::Symlink { target: (*b"../elsewhere").into() };
    Node { name: name.as_bytes().into(), meta: meta(), item }
}

fn node() -> impl Strategy<Value = Node> {
    let name = prop::collection::vec(prop::num::u8::ANY, 1..20);
    let name = name.prop_map(|mut name| {
        name.iter_mut().filter(|b| **b == 0 || **b == b'/').for_each(|b| *b = b'x');
        if name.iter().all(|&b| b == b'.') {
            name.push(b'x');
        }
        name.into_boxed_slice()
    });
    let xattr = (prop::collection::vec(1_u8.., 1..9), prop::collection::vec(any::<u8>(), 0..40));
    let xattrs = prop::collection::btree_map(xattr.0, xattr.1, 0..3).prop_map(|map| {
        let pair = |(name, value): (Vec<u8>, Vec<u8>)| (name.into(), value.into());
        map.into_iter().map(pair).collect::<Vec<_>>()
    });
    let numbers = (0_u32..0o10000, any::<u32>(), any::<u32>(), any::<i64>(), 0_u32..1_000_000_000);
    let meta = (numbers, xattrs).prop_map(|((mode, uid, gid, secs, nanos), xattrs)| Meta {
        mode,
        uid,
        gid,
        mtime: Mtime { secs, nanos },
        xattrs,
    });
    let id = any::<[u8; 32]>().prop_map(ObjectId);
    let tree = (prop::bool::ANY, id.clone()).prop_map(|(page, id)| {
        Item::Dir(TreeRef { kind: if page { Kind::Page } else { Kind::Index }, id })
    });
    let stored = prop_oneof![
        Just((0, Stored::Empty)),
        (1_u64..9999).prop_map(|size| (size, Stored::Whole)),
        (1_u64.., id).prop_map(|(size, id)| (size, Stored::Pieces(id))),
    ];
    let group = prop::option::of(any::<u64>().prop_map(LinkGroup));
    let file = (stored, any::<[u8; 32]>(), prop::bool::ANY, group).prop_map(
        |((size, stored), content, sparse, group)| Item::File {
            size,
            content: ContentId(content),
            stored,
            sparse,
            group,
        },
    );
    let target = prop::collection::vec(1_u8.., 1..40);
    let symlink = target.prop_map(|target| Item::Symlink { target: target.into() });
    (name, meta, prop_oneof![tree, file, symlink]).prop_map(|(name, meta, item)| Node {
        name,
        meta,
        item,
    })
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(nodes in prop::collection::vec(node(), 0..40)) {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        let nodes: Vec<_> = nodes.into_values().collect();
        let mut store = Store::default();
        let tree = store.dir(nodes.clone());
        prop_assert_eq!(nodes, store.nodes(tree));
    }

    #[test]
    fn what_is_damaged_is_refused_or_still_in_order(
        nodes in prop::collection::vec(node(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        let mut page = Vec::new();
        nodes.values().for_each(|node| encode_node(&mut page, node));
        let at = at.index(page.len());
        page[at] = byte;
        if let Ok(nodes) = decode_page(&page) {
            let mut again = Vec::new();
            nodes.iter().for_each(|node| encode_node(&mut again, node));
            prop_assert_eq!(page, again);
        }
    }
}

#[test]
fn a_large_directory_has_pages_and_a_change_touches_one() {
    let names = |n: u32| (0..n).map(|n| format!("file-{n:06}.jpg"));
    let mut store = Store::default();
    let whole = store.dir(names(20_000).map(|name| link(&name)).collect());
    assert_eq!(Kind::Index, whole.kind);
    assert_eq!(20_000, store.nodes(whole).len());
    let before: Vec<_> = store.0.keys().copied().collect();
    let pages = decode_index(&store.0[&(whole.kind, whole.id)]).unwrap().len();
    assert!((20..80).contains(&pages), "{pages} pages");
    let less = store.dir(names(20_000).filter(|n| !n.contains("9999")).map(|n| link(&n)).collect());
    let new = store.0.keys().filter(|key| !before.contains(key)).count();
    assert!(new <= 4, "two pages and an index, {new}");
    assert_ne!(whole, less);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0"] {
        let mut page = Vec::new();
        encode_node(&mut page, &link(name));
        assert_eq!(Err(FormatError("a name")), decode_page(&page).map(drop), "{name:?}");
    }
    let mut page = Vec::new();
    ["b", "a"].into_iter().for_each(|name| encode_node(&mut page, &link(name)));
    assert!(decode_page(&page).is_err(), "they are out of order");
}

#[test]
fn pieces_add_up_to_the_file() {
    let id = ObjectId([7; 32]);
    let bytes = encode_pieces(&[(5, id), (6, id)]);
    assert_eq!(Ok(vec![(5, id), (6, id)]), decode_pieces(&bytes, 11));
    assert!(decode_pieces(&bytes, 12).is_err());
    assert!(decode_pieces(&bytes[..71], 11).is_err());
}
