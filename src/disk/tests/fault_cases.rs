//! Applies of every kind, for tests that let each of their calls fail.
//!
//! A case makes what is there before, and says what is to be applied. Nothing here fails calls.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use super::displace::note;
use super::*;
use crate::model::LinkGroup;

/// An apply of one kind.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Makes what is there before.
    pub(super) make: fn(&Fixture),
    /// What is applied then, expecting what was made.
    pub(super) requests: fn(&Fixture) -> Vec<ApplyRequest>,
}

const fn case(
    name: &'static str,
    make: fn(&Fixture),
    requests: fn(&Fixture) -> Vec<ApplyRequest>,
) -> Case {
    Case { name, make, requests }
}

/// Every case.
pub(super) const CASES: &[Case] = &[
    case("create", |_| {}, |_| vec![dressed(b"d/new", Source::Inline((*b"new").into()))]),
    case(
        "create-many",
        |_| {},
        |_| (0..4).map(|n| put_file(format!("d/{n}").as_bytes(), b"x")).collect(),
    ),
    case("create-staged", stage_new, |_| vec![dressed(b"d/new", Source::Staged)]),
    case("create-two-of-one-content", stage_new, |_| {
        vec![dressed(b"d/new", Source::Staged), dressed(b"d/too", Source::Staged)]
    }),
    case("create-sparse", |_| {}, |_| vec![sparse(b"d/new")]),
    case(
        "create-tree",
        |_| {},
        |_| vec![put_dir(b"d/t"), put_dir(b"d/t/u"), put_file(b"d/t/u/f", b"x")],
    ),
    case("create-symlink", |_| {}, |_| vec![request(b"d/l", Some(symlink(b"/x")), Source::None)]),
    case("replace", make_file, |f| vec![over(f, put_file(b"d/f", b"newer"), Displaced::Drop)]),
    case(
        "replace-staged",
        |f| {
            make_file(f);
            stage_new(f);
        },
        |f| vec![over(f, dressed(b"d/f", Source::Staged), Displaced::Trash(note(1)))],
    ),
    case(
        "replace-deep",
        |f| f.write(&deep(), b"old"),
        |f| vec![over(f, put_file(deep().as_bytes(), b"newer"), Displaced::Trash(note(1)))],
    ),
    case("replace-and-keep", make_file, |f| vec![over(f, put_file(b"d/f", b"newer"), keep("a"))]),
    case("replace-and-keep-shared", make_shared, |f| {
        vec![over(f, put_file(b"d/f", b"newer"), keep("a"))]
    }),
    case("remove", make_file, |f| vec![over(f, delete(b"d/f"), Displaced::Drop)]),
    case("remove-to-trash", make_file, |f| {
        vec![over(f, delete(b"d/f"), Displaced::Trash(note(1)))]
    }),
    case("remove-shared-to-trash", make_shared, |f| {
        vec![over(f, delete(b"d/f"), Displaced::Trash(note(1)))]
    }),
    case("remove-and-keep", make_file, |f| vec![over(f, delete(b"d/f"), keep("a"))]),
    case(
        "remove-tree",
        |f| f.write("d/t/f", b"old"),
        |f| {
            vec![
                over(f, delete(b"d/t/f"), Displaced::Drop),
                over(f, delete(b"d/t"), Displaced::Drop),
            ]
        },
    ),
    case("remove-symlink", make_link, |f| vec![over(f, delete(b"d/l"), Displaced::Drop)]),
    case("file-metadata", make_file, |f| vec![metadata(f, b"d/f")]),
    case("directory-metadata", make_dir, |f| vec![metadata(f, b"d/t")]),
    case("symlink-metadata", make_link, |f| vec![metadata(f, b"d/l")]),
    case("root-metadata", |_| {}, |f| vec![metadata(f, b"")]),
    case(
        "many-metadata",
        |f| (0..9).for_each(|n| f.write(&format!("d/{n}"), b"x")),
        |f| (0..9).map(|n| metadata(f, format!("d/{n}").as_bytes())).collect(),
    ),
    case("file-to-directory", make_file, |f| {
        vec![over(f, put_dir(b"d/f"), Displaced::Trash(note(1)))]
    }),
    case("directory-to-file", make_dir, |f| {
        vec![over(f, put_file(b"d/t", b"newer"), Displaced::Drop)]
    }),
    case("file-to-symlink", make_file, |f| {
        vec![over(
            f,
            request(b"d/f", Some(symlink(b"/x")), Source::None),
            Displaced::Trash(note(1)),
        )]
    }),
    case("symlink-to-file", make_link, |f| {
        vec![over(f, put_file(b"d/l", b"newer"), Displaced::Drop)]
    }),
    case("link", make_file, |f| vec![link(f, b"d/new")]),
    case(
        "link-over",
        |f| {
            make_file(f);
            f.write("d/new", b"other");
        },
        |f| vec![over(f, link(f, b"d/new"), Displaced::Trash(note(1)))],
    ),
    case("move", make_file, |f| moved(f, b"d/f", b"d/new")),
    case(
        "move-deep-to-elsewhere",
        |f| {
            f.write(&deep(), OLD);
            set_long_ago(&f.path(deep()));
            f.write("e/other", b"x");
        },
        |f| moved(f, deep().as_bytes(), b"e/new"),
    ),
    case("unlink-from-a-group", make_shared, |f| vec![metadata(f, b"d/f")]),
];

/// The file comes at the new path as it is, and goes from the old one.
pub(super) fn moved(f: &Fixture, from: &[u8], to: &[u8]) -> Vec<ApplyRequest> {
    let removed = over(f, delete(from), Displaced::Trash(note(1)));
    let was = removed.expected.clone().unwrap();
    let target = was.0.clone();
    let source = Moved { from: rel(from), was, displaced: removed.displaced.clone() };
    vec![request(to, Some(target), Source::Moved(Box::new(source))), removed]
}

/// Long enough that its name beside the label does not fit, short enough for plain calls.
pub(super) fn deep() -> String {
    format!("d/{}/f", "x".repeat(240))
}

/// What is in files that are replaced, removed or moved.
pub(super) const OLD: &[u8] = b"old";

fn set_long_ago(path: &Path) {
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
}

pub(super) fn make_file(f: &Fixture) {
    f.write("d/f", OLD);
    set_mode(&f.path("d/f"), 0o600);
    set_xattr(&f.path("d/f"), "user.old", b"1");
    set_long_ago(&f.path("d/f"));
}

fn make_shared(f: &Fixture) {
    make_file(f);
    std::fs::hard_link(f.path("d/f"), f.path("d/other-name")).unwrap();
}

fn make_dir(f: &Fixture) {
    std::fs::create_dir(f.path("d/t")).unwrap();
}

fn make_link(f: &Fixture) {
    std::os::unix::fs::symlink("old", f.path("d/l")).unwrap();
}

/// Stages the content `new`.
pub(super) fn stage_new(f: &Fixture) {
    let mut staged = Staged::open(&f.mount, ContentId::of(b"new"), 3).unwrap();
    staged.write(b"new").unwrap();
    staged.finish().unwrap();
}

/// A file `new` with metadata of every kind.
fn dressed(path: &[u8], source: Source) -> ApplyRequest {
    let mut entry = file(b"new", 0o4751);
    dress(&mut entry);
    request(path, Some(entry), source)
}

fn dress(entry: &mut Entry) {
    entry.meta.mtime = Mtime { secs: -5, nanos: 5 };
    if is_root() {
        (entry.meta.uid, entry.meta.gid) = (1234, 2345);
    }
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        entry.meta.xattrs = vec![((*b"user.new").into(), (*b"2").into())];
    }
}

fn sparse(path: &[u8]) -> ApplyRequest {
    let mut bytes = vec![0; 64 << 10];
    bytes[50_000] = 1;
    let mut entry = file(&bytes, 0o644);
    let Kind::File { sparse, .. } = &mut entry.kind else { unreachable!() };
    *sparse = true;
    request(path, Some(entry), Source::Inline(bytes.into()))
}

fn over(f: &Fixture, request: ApplyRequest, displaced: Displaced) -> ApplyRequest {
    let expected = Some(f.entry(request.path.as_bytes()));
    ApplyRequest { expected, displaced, ..request }
}

fn keep(id: &str) -> Displaced {
    Displaced::Keep(KeptId::parse(id).unwrap())
}

/// Changes nothing but metadata, all of it.
fn metadata(f: &Fixture, path: &[u8]) -> ApplyRequest {
    let mut entry = f.entry(path).0;
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        entry.meta.mode = 0o751;
    }
    dress(&mut entry);
    over(f, request(path, Some(entry), Source::None), Displaced::Drop)
}

/// A further name of `d/f`.
fn link(f: &Fixture, path: &[u8]) -> ApplyRequest {
    let mut entry = f.entry("d/f").0;
    let Kind::File { group, .. } = &mut entry.kind else { unreachable!() };
    *group = Some(LinkGroup(1));
    request(path, Some(entry), Source::LinkTo(rel("d/f")))
}
