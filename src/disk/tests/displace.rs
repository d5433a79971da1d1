//! What becomes of displaced files: the second look, the trash, the kept ones.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::OpenOptions;
use std::io::Write;

use rustix::io::Errno;

use super::*;
use crate::disk::displaced::{Fate, Slot};
use crate::disk::fault::{Moment, hook};
use crate::disk::look::Look;

const DAY: u64 = 24 * 60 * 60;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_late_writer_is_found() {
    let _alone = alone();
    let f = fixture();
    for (path, displaced) in [("d/a", Displaced::Drop), ("d/b", Displaced::Trash(note(1)))] {
        f.write(path, b"old");
        let expected = Some(f.entry(path));
        let mut writer = OpenOptions::new().append(true).open(f.path(path)).unwrap();
        let put = put_file(path.as_bytes(), b"new");
        let put = ApplyRequest { expected, even_if_open: true, displaced, ..put };
        f.check_done(put);
        assert!(f.look_again().is_empty(), "not while it is open");
        writer.write_all(b" and more").unwrap();
        drop(writer);
        let late = f.look_again();
        assert_eq!(1, late.len());
        assert_eq!(rel(path), late[0].path);
        assert_eq!(b"old and more".to_vec(), std::fs::read(&late[0].file).unwrap());
        assert_eq!(late, f.look_again(), "until it is taken");
        std::fs::remove_file(&late[0].file).unwrap();
        assert!(f.look_again().is_empty());
    }
    assert!(f.own("displaced").is_empty());
}

#[test]
fn a_displaced_file_that_cannot_be_asked_for_its_writers_stays() {
    let _alone = alone();
    let f = fixture();
    f.write("a", b"old");
    let expected = Some(f.entry("a"));
    let mut writer = OpenOptions::new().append(true).open(f.path("a")).unwrap();
    let put = ApplyRequest { expected, even_if_open: true, ..put_file(b"a", b"new") };
    f.check_done(put);
    let many =
        |label, moment| (label == "open.probe" && moment == Moment::Before).then_some(Errno::MFILE);
    assert!(hook::during(many, || f.look_again()).is_empty());
    writer.write_all(b" and more").unwrap();
    drop(writer);
    assert_eq!(1, f.look_again().len(), "what was written is found");
}

#[test]
fn a_young_displaced_file_is_left_for_later() {
    let f = fixture();
    f.write("a", b"old");
    assert!(done(&f.apply_over(delete(b"a"))));
    assert!(look_again(&f.mount, Duration::from_secs(3600)).is_empty());
    assert_eq!(1, f.own("displaced").len());
}

#[test]
fn the_second_look_works_after_a_restart() {
    let _alone = alone();
    let Fixture { dir, mount } = fixture();
    let f = Fixture { dir, mount };
    let deep = "x/".repeat(200) + "a";
    f.write(&deep, b"old");
    let mut writer = OpenOptions::new().append(true).open(f.path(&deep)).unwrap();
    let path = rel(&deep);
    let look = ReadRequest { path: &path, known: None, moved: None, even_if_open: true };
    let Found::Entry { entry, signature, .. } = read(&f.mount, &look) else { panic!() };
    let expected = Some((entry, signature));
    let gone = f.apply(ApplyRequest { expected, even_if_open: true, ..delete(deep.as_bytes()) });
    assert!(done(&gone), "{gone:?}");
    writer.write_all(b"!").unwrap();
    drop(writer);
    let Fixture { dir, mount } = f;
    drop(mount);
    let options = MountOptions { privileged: is_root(), create: false };
    let f = Fixture { mount: Mount::open(dir.path(), options).unwrap().into(), dir };
    let late = f.look_again();
    assert_eq!(path, late[0].path);
    std::fs::remove_file(&late[0].file).unwrap();
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty(), "its path was noted beside it");
}

#[test]
fn an_exchange_that_a_crash_cut_short_loses_nothing() {
    let f = fixture();
    // As after a crash before the exchange: what lies there was staged, and never visible.
    f.write("mine", b"staged");
    f.write("theirs", b"an edit nobody saw");
    let (_, expected) = f.entry("mine");
    let staged = Look::at(&f.mount.root, b"mine").unwrap().unwrap();
    let slot = Slot::new(&f.mount, Fate::Drop, Some(&staged), &expected, &rel("a")).unwrap();
    let at = f.path(".trefoil/displaced").join(OsStr::from_bytes(&slot.name));
    std::fs::rename(f.path("mine"), at).unwrap();
    drop(slot);
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty());
    // As after a crash before it was put back: it is not what was expected.
    let slot = Slot::new(&f.mount, Fate::Drop, Some(&staged), &expected, &rel("a")).unwrap();
    let at = f.path(".trefoil/displaced").join(OsStr::from_bytes(&slot.name));
    std::fs::rename(f.path("theirs"), at).unwrap();
    assert!(f.look_again().is_empty(), "not while a thread works on it");
    drop(slot);
    let late = f.look_again();
    assert_eq!(b"an edit nobody saw".to_vec(), std::fs::read(&late[0].file).unwrap());
}

#[test]
fn an_inode_number_given_to_the_next_file_does_not_hide_an_edit() {
    let f = fixture();
    f.write("a", b"staged");
    let (_, expected) = f.entry("a");
    let staged = Look::at(&f.mount.root, b"a").unwrap().unwrap();
    // The same inode number, another file: writing in place stands for its second use.
    f.write("a", b"edited");
    let expected = Signature { inode: 0, ..expected };
    let slot = Slot::new(&f.mount, Fate::Drop, Some(&staged), &expected, &rel("a")).unwrap();
    let at = f.path(".trefoil/displaced").join(OsStr::from_bytes(&slot.name));
    std::fs::rename(f.path("a"), at).unwrap();
    drop(slot);
    assert_eq!(1, f.look_again().len());
}

#[test]
fn a_displaced_directory_that_was_filled_gives_its_files_back() {
    let f = fixture();
    f.write("d/sub/file", b"x");
    let nothing = f.entry("d").1;
    let slot = Slot::new(&f.mount, Fate::Drop, None, &nothing, &rel("d")).unwrap();
    let at = f.path(".trefoil/displaced").join(OsStr::from_bytes(&slot.name));
    std::fs::rename(f.path("d"), at).unwrap();
    drop(slot);
    let mut late = Vec::new();
    for _ in 0..3 {
        late = f.look_again();
    }
    assert_eq!(1, late.len());
    assert_eq!(rel("d/sub/file"), late[0].path);
    assert_eq!(b"x".to_vec(), std::fs::read(&late[0].file).unwrap());
}

#[test]
fn the_trash_keeps_what_was_overwritten_and_deleted() {
    let f = fixture();
    f.write("d/a", b"first");
    let trash = |request| ApplyRequest { displaced: Displaced::Trash(note(7)), ..request };
    assert!(done(&f.apply_over(trash(put_file(b"d/a", b"second")))));
    assert!(done(&f.apply_over(trash(delete(b"d/a")))));
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty());
    let day = &f.own("trash")[0];
    let mut kept: Vec<_> = std::fs::read_dir(day).unwrap().map(|e| e.unwrap().path()).collect();
    kept.sort();
    assert!(kept.iter().all(|path| path.to_string_lossy().ends_with("-d%2Fa")));
    let mut contents: Vec<_> = kept.iter().map(|path| std::fs::read(path).unwrap()).collect();
    contents.sort();
    assert_eq!(vec![b"first".to_vec(), b"second".to_vec()], contents);
    assert_eq!(0, expire_trash(&f.mount, now() + 6 * DAY).unwrap());
    assert_eq!(2, expire_trash(&f.mount, now() + 9 * DAY).unwrap());
    assert!(f.own("trash").is_empty());
}

#[test]
fn the_loser_is_kept_under_its_id() {
    let f = fixture();
    f.write("a", b"loser");
    set_mode(&f.path("a"), 0o640);
    let id = |id: &str| KeptId::parse(id).unwrap();
    let keep =
        |request, name: &str| ApplyRequest { displaced: Displaced::Keep(id(name)), ..request };
    assert!(done(&f.apply_over(keep(put_file(b"a", b"winner"), "one"))));
    std::os::unix::fs::symlink("gone", f.path("l")).unwrap();
    assert!(done(&f.apply_over(keep(delete(b"l"), "two"))));
    // A file that has another name is copied: that name may still change it.
    f.write("x", b"shared");
    std::fs::hard_link(f.path("x"), f.path("y")).unwrap();
    assert!(done(&f.apply_over(keep(delete(b"x"), "three"))));
    std::fs::write(f.path("y"), b"later").unwrap();
    let kept = kept(&f.mount).unwrap();
    assert_eq!(
        vec![id("one"), id("three"), id("two")],
        kept.iter().map(|k| k.0.clone()).collect::<Vec<_>>()
    );
    assert_eq!(b"loser".to_vec(), std::fs::read(&kept[0].1).unwrap());
    assert_eq!(0o640, std::fs::metadata(&kept[0].1).unwrap().mode() & 0o7777);
    assert_eq!(b"shared".to_vec(), std::fs::read(&kept[1].1).unwrap());
    assert_eq!("gone", std::fs::read_link(&kept[2].1).unwrap().to_string_lossy());
    assert!(f.own("displaced").is_empty());
    // An id that is taken does not lose the second file.
    f.write("b", b"second");
    assert!(done(&f.apply_over(keep(delete(b"b"), "one"))));
    assert_eq!(b"loser".to_vec(), std::fs::read(&kept[0].1).unwrap());
    assert_eq!(rel("b"), f.look_again()[0].path);
}

#[test]
fn a_kept_id_is_safe_as_a_file_name() {
    for bad in ["", ".", "..", ".a", "a/b", "a b", "\u{e4}"] {
        assert_eq!(None, KeptId::parse(bad));
    }
    assert_eq!("7f-a_B.1", KeptId::parse("7f-a_B.1").unwrap().as_str());
}

pub(super) fn note(id: u64) -> TrashNote {
    TrashNote { id, by: NodeId(3), keep_secs: 7 * DAY, removed: Some(true) }
}

fn into_trash(f: &Fixture, id: u64, request: ApplyRequest) {
    let displaced = Displaced::Trash(note(id));
    let outcome = f.apply_over(ApplyRequest { displaced, ..request });
    assert!(done(&outcome), "{outcome:?}");
}

#[test]
fn the_trash_tells_the_whole_path_whatever_its_bytes_and_length() {
    let f = fixture();
    let deep = [b"x/".repeat(1500).as_slice(), b"end"].concat();
    let long = "l".repeat(255).into_bytes();
    let paths: [&[u8]; 5] = [b"a", b"d/%2F\n\xff-", b"v2-1-2-3", &long, &deep];
    for (id, path) in (1..).zip(paths) {
        let file = f.path(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, b"bytes").unwrap();
        into_trash(&f, id, delete(path));
    }
    let told = |f: &Fixture| {
        let mut all: Vec<_> = trashed(&f.mount).unwrap().into_iter().collect();
        all.sort_by_key(|trashed| trashed.id);
        all.retain(|trashed| trashed.id < 99);
        all
    };
    // Also before the second look has moved it there, and after the mount is opened anew.
    let before = told(&f);
    assert!(f.look_again().is_empty());
    let Fixture { dir, mount } = f;
    drop(mount);
    let options = MountOptions { privileged: is_root(), create: false };
    let f = Fixture { mount: Mount::open(dir.path(), options).unwrap().into(), dir };
    assert!(f.own("displaced").is_empty());
    for all in [before, told(&f)] {
        let found: Vec<_> = all.iter().map(|one| (one.id, one.is_whole, &*one.path)).collect();
        let wanted: Vec<_> = (1..).zip(paths).map(|(id, path)| (id, true, path)).collect();
        assert_eq!(wanted, found);
        assert!(all.iter().all(|one| one.removed == Some(true) && one.by == Some(NodeId(3))));
        assert!(all.iter().all(|one| one.until_secs == one.secs + 7 * DAY));
    }
    assert_eq!(5, expire_trash(&f.mount, now() + 9 * DAY).unwrap());
    assert!(f.own("trash").is_empty(), "noted paths go with what they were noted for");
}

#[test]
fn what_an_older_release_put_into_the_trash_is_listed_and_expires() {
    let f = fixture();
    let day = f.path(".trefoil/trash").join((now() / DAY).to_string());
    std::fs::create_dir(&day).unwrap();
    let cut = "y".repeat(200);
    for name in ["1f-d%2Fa", &format!("20-{cut}")] {
        std::fs::write(day.join(name), b"old").unwrap();
    }
    let mut all = trashed(&f.mount).unwrap();
    all.sort_by_key(|trashed| trashed.id);
    let found: Vec<_> = all.iter().map(|one| (one.id, one.is_whole, &*one.path)).collect();
    assert_eq!([(0x1f, true, &b"d/a"[..]), (0x20, false, cut.as_bytes())], *found);
    assert_eq!((None, None), (all[0].removed, all[0].by));
    let place = TrashPlace::parse(&all[0].place.to_bytes()).unwrap();
    assert_eq!(Some(3), peek_trashed(&f.mount, &place).unwrap().map(|peek| peek.bytes));
    assert_eq!(0, expire_trash(&f.mount, now() + 6 * DAY).unwrap());
    assert_eq!(2, expire_trash(&f.mount, now() + 9 * DAY).unwrap());
}

#[test]
fn each_thing_in_the_trash_stays_as_long_as_its_own_note_says() {
    let f = fixture();
    for (id, path, days) in [(1, "short", 1), (2, "long", 30)] {
        f.write(path, b"x");
        let displaced = Displaced::Trash(TrashNote { keep_secs: days * DAY, ..note(id) });
        let request = ApplyRequest { displaced, ..delete(path.as_bytes()) };
        assert!(done(&f.apply_over(request)));
    }
    assert!(f.look_again().is_empty());
    assert_eq!(1, expire_trash(&f.mount, now() + 3 * DAY).unwrap());
    assert_eq!(2, trashed(&f.mount).unwrap()[0].id);
}

#[test]
fn what_is_taken_out_of_the_trash_is_what_went_in() {
    let f = fixture();
    f.write("d/file", b"content");
    set_mode(&f.path("d/file"), 0o640);
    std::os::unix::fs::symlink("target", f.path("d/link")).unwrap();
    set_mode(&f.path("d"), 0o750);
    let before: Vec<_> = ["d/file", "d/link", "d"].map(|path| f.entry(path).0).into();
    for (id, path) in [(1, &b"d/file"[..]), (2, b"d/link"), (3, b"d")] {
        into_trash(&f, id, delete(path));
    }
    assert!(f.look_again().is_empty());
    let mut all = trashed(&f.mount).unwrap();
    all.sort_by_key(|trashed| trashed.id);
    assert_eq!(3, all.len());
    for (trashed, was) in all.iter().zip(&before) {
        let (entry, source) = take_trashed(&f.mount, &trashed.place, &f.mount).unwrap().unwrap();
        assert_eq!(was.kind, entry.kind);
        if !was.is_dir() {
            assert_eq!(was.meta, entry.meta);
        }
        assert_eq!((was.meta.mode, was.meta.uid), (entry.meta.mode, entry.meta.uid));
        assert_eq!(was.content().is_some(), source == Source::Staged);
    }
    assert!(done(&f.apply(put_dir(b"d"))));
    let (entry, source) = take_trashed(&f.mount, &all[0].place, &f.mount).unwrap().unwrap();
    f.check_done(request(b"d/file", Some(entry), source));
    assert_eq!(before[0].meta.mtime, f.entry("d/file").0.meta.mtime);
}

#[test]
fn a_place_in_the_trash_leads_nowhere_else() {
    for bad in ["", "a", "7/../x", "../7/x", "kept/x", "7//x", "/7/x", "7/8/x", "stage/x"] {
        assert_eq!(None, TrashPlace::parse(bad.as_bytes()), "{bad}");
    }
    assert!(TrashPlace::parse(b"7/x").is_some());
}

/// Puts 100,000 bytes into the trash as if that had been so many days ago.
fn plant(f: &Fixture, unique: u64, days_ago: u64) {
    let secs = now() - days_ago * DAY;
    let day = f.path(".trefoil/trash").join((secs / DAY).to_string());
    std::fs::create_dir_all(&day).unwrap();
    let note = TrashNote { keep_secs: 30 * DAY, ..note(unique) }.encode();
    std::fs::write(day.join(format!("v2-{unique:x}-{secs:x}-{note}f")), [7; 100_000]).unwrap();
}

#[test]
fn a_trash_that_is_too_large_loses_the_oldest_and_nothing_young() {
    let f = fixture();
    for (unique, days_ago) in [(1, 20), (2, 20), (3, 10), (4, 5), (5, 1), (6, 0)] {
        plant(&f, unique, days_ago);
    }
    let left = || {
        let mut ids: Vec<_> = trashed(&f.mount).unwrap().iter().map(|one| one.id).collect();
        ids.sort_unstable();
        ids
    };
    let limit = |bytes_max, days_ago| {
        let before = Duration::from_secs(now() - days_ago * DAY);
        limit_trash(&f.mount, bytes_max, before).unwrap()
    };
    let all = limit(u64::MAX, 0);
    assert_eq!((6, 0), (left().len(), all.removed));
    assert!(all.bytes >= 600_000, "{all:?}");
    assert_eq!(TrashSize { bytes: all.bytes, removed: 0 }, limit(all.bytes, 0));
    // As few as do: three of six.
    let half = limit(all.bytes / 2, 3);
    assert_eq!((vec![4, 5, 6], 3), (left(), half.removed));
    assert!(half.bytes <= all.bytes / 2 && half.bytes >= 300_000, "{half:?}");
    let young = limit(0, 3);
    assert_eq!((vec![5, 6], 1), (left(), young.removed));
    assert!(young.bytes >= 200_000, "what is too much and stays is told: {young:?}");
    // Empty days go with what has expired.
    assert_eq!(0, expire_trash(&f.mount, now()).unwrap());
    assert_eq!(2, f.own("trash").len());
}

#[test]
fn a_loser_is_taken_out_of_the_conflict_store_with_all_that_it_had() {
    let (f, folder) = (fixture(), tempfile::tempdir().unwrap());
    f.write("a", b"loser");
    if !set_xattr(&f.path("a"), "user.a", b"1") {
        return;
    }
    set_xattr(&f.path("a"), "system.posix_acl_access", &acl(0o640, 1234));
    let was = f.entry("a").0;
    let displaced = Displaced::Keep(KeptId::parse("one").unwrap());
    assert!(done(&f.apply_over(ApplyRequest { displaced, ..delete(b"a") })));
    let kept = folder.path().join("one");
    move_out(&f.path(".trefoil/kept/one"), &kept).unwrap();
    let (entry, source) = take_kept(&kept, &f.mount).unwrap().unwrap();
    assert_eq!(was, entry);
    f.check_done(request(b"a", Some(entry), source));
    assert_eq!(None, take_kept(&folder.path().join("two"), &f.mount).unwrap());
}

#[test]
fn a_loser_keeps_its_attributes_on_its_way_to_another_file_system() {
    let f = fixture();
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let (from, to) = (f.path("a"), folder.path().join("a"));
    f.write("a", b"loser");
    let takes = |path: &Path| set_xattr(path, "user.a", b"1");
    std::fs::write(&to, b"").unwrap();
    if device(&from) == device(&to) || !takes(&from) || !takes(&to) {
        return;
    }
    std::fs::remove_file(&to).unwrap();
    set_mode(&from, 0o640);
    let was = f.entry("a").0;
    move_out(&from, &to).unwrap();
    assert_eq!(was, take_kept(&to, &f.mount).unwrap().unwrap().0);
    assert!(from.symlink_metadata().is_err());
}

fn device(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().dev()
}
