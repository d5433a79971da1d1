//! Identity, containment and boundaries of a mount.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use super::*;

const ID: MarkerId = MarkerId([7; 16]);

#[test]
fn a_mount_is_known_by_its_marker() {
    let f = fixture();
    assert!(matches!(f.mount.check_identity(ID), Err(MountError::NoMarker)));
    Mount::create_marker(f.dir.path(), ID, "pub/media").unwrap();
    Mount::create_marker(f.dir.path(), ID, "pub/media").unwrap();
    f.mount.check_identity(ID).unwrap();
    let found = Mount::read_marker(f.dir.path()).unwrap();
    assert_eq!(Some((ID, "pub/media".to_owned())), found);
    let other = MarkerId([8; 16]);
    let refused = Mount::create_marker(f.dir.path(), other, "x");
    assert!(matches!(refused, Err(MountError::OtherMarker { found }) if found == ID));
    let refused = f.mount.check_identity(other);
    assert!(matches!(refused, Err(MountError::OtherMarker { found }) if found == ID));
}

#[test]
fn a_note_stays_beside_the_files_until_another_takes_its_place() {
    let f = fixture();
    assert_eq!(None, f.mount.note().unwrap());
    for text in ["first", "", "the last"] {
        f.mount.set_note(text.as_bytes()).unwrap();
        assert_eq!(Some(text.as_bytes()), f.mount.note().unwrap().as_deref());
    }
}

#[test]
fn another_directory_at_the_root_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (root, aside) = (dir.path().join("root"), dir.path().join("aside"));
    std::fs::create_dir(&root).unwrap();
    Mount::create_marker(&root, ID, "m").unwrap();
    let mount = Mount::open(&root, MountOptions::default()).unwrap();
    mount.check_identity(ID).unwrap();
    std::fs::rename(&root, &aside).unwrap();
    assert!(mount.check_identity(ID).is_err());
    std::fs::create_dir(&root).unwrap();
    assert!(matches!(mount.check_identity(ID), Err(MountError::Moved)));
}

#[test]
fn a_directory_without_trefoils_own_is_no_mount() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Mount::open(dir.path(), MountOptions::default());
    assert!(matches!(refused, Err(MountError::NoMarker)));
    assert_eq!(None, Mount::read_marker(dir.path()).unwrap());
}

#[test]
fn a_mount_is_opened_once_at_a_time() {
    let f = fixture();
    let options = MountOptions { privileged: false, create: true };
    assert!(matches!(Mount::open(f.dir.path(), options), Err(MountError::InUse)));
}

#[test]
fn opening_leaves_the_time_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let before = mtime(dir.path());
    let _mount = Mount::open(dir.path(), MountOptions { create: true, privileged: false }).unwrap();
    assert_eq!(before, mtime(dir.path()));
    let own = std::fs::metadata(dir.path().join(".trefoil")).unwrap();
    assert_eq!(0o700, own.mode() & 0o7777);
}

#[test]
fn a_planted_symlink_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let f = fixture();
    std::os::unix::fs::symlink(outside.path(), f.path("way")).unwrap();
    assert_eq!(Found::Absent, f.look("way/secret"));
    assert_eq!(None, list(&f.mount, &rel("way")).unwrap());
    assert!(matches!(open_content(&f.mount, &rel("way/secret")), Err(DiskError::Missing)));
    assert_eq!(Outcome::ParentMissing, f.apply(put_file(b"way/new", b"x")));
    assert!(!outside.path().join("new").exists());
    let link = request(b"stolen", Some(file(b"secret", 0o644)), Source::LinkTo(rel("way/secret")));
    assert_eq!(Outcome::ContentMissing, f.apply(link));
}

#[test]
fn trefoils_own_directory_is_out_of_reach() {
    let f = fixture();
    assert!(matches!(f.look(".trefoil/marker"), Found::Special(_)));
    for path in [&b".trefoil"[..], b".trefoil/marker", b".trefoil/stage/x"] {
        assert!(matches!(f.apply(put_file(path, b"x")), Outcome::Failed { .. }));
    }
    assert!(matches!(open_content(&f.mount, &rel(".trefoil/lock")), Err(DiskError::Reserved)));
    assert!(list(&f.mount, &RelPath::root()).unwrap().unwrap().is_empty());
    // Only at the root is the name taken.
    f.check_done(put_dir(b"a"));
    f.check_done(put_file(b"a/.trefoil", b"x"));
}

#[test]
fn a_file_system_mounted_below_is_a_boundary() {
    let f = fixture();
    f.write("below/x", b"x");
    let at = f.path("below");
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", &at, "tmpfs", flags, None::<&std::ffi::CStr>).is_err() {
        return; // not allowed here
    }
    let found = (f.look("below"), f.look("below/x"));
    let listed = list(&f.mount, &RelPath::root()).unwrap().unwrap();
    let inside = list(&f.mount, &rel("below"));
    let applied = f.apply(put_file(b"below/y", b"y"));
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    let special = Found::Special("a mount point");
    assert_eq!((special.clone(), special), found);
    assert!(!listed[0].is_dir);
    assert!(matches!(inside, Err(DiskError::MountPoint)));
    assert!(matches!(applied, Outcome::Failed { .. }));
}

#[test]
fn free_space_is_known() {
    let (free, total) = fixture().mount.free_space().unwrap();
    assert!(free <= total && total > 0);
}
