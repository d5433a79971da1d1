//! The stage: resuming, verifying, copying what is here.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io::Read;

use super::*;

#[test]
fn a_part_is_resumed_and_verified() {
    let f = fixture();
    let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let (content, size) = (ContentId::of(&bytes), bytes.len() as u64);
    let mut staged = Staged::open(&f.mount, content, size).unwrap();
    staged.write(&bytes[..123_456]).unwrap();
    assert!(matches!(Staged::open(&f.mount, content, size), Err(StageError::Busy)));
    drop(staged);
    let Fixture { dir, mount } = f;
    drop(mount);
    let mount = Mount::open(dir.path(), MountOptions::default()).unwrap();
    let f = Fixture { dir, mount: mount.into() };
    let mut staged = Staged::open(&f.mount, content, size).unwrap();
    assert_eq!(123_456, staged.offset());
    staged.write(&bytes[123_456..]).unwrap();
    assert!(matches!(staged.write(b"x"), Err(StageError::TooLong)));
    assert!(!exists_complete(&f.mount, content));
    staged.finish().unwrap();
    assert!(exists_complete(&f.mount, content));
    let mut read = Vec::new();
    open_staged(&f.mount, content).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(bytes, read);
}

#[test]
fn what_was_complete_is_hashed_again_after_a_restart() {
    let f = fixture();
    let content = ContentId::of(b"whole");
    let mut staged = Staged::open(&f.mount, content, 5).unwrap();
    staged.write(b"whole").unwrap();
    staged.finish().unwrap();
    // As after a power cut: the name is there, the bytes are not.
    std::fs::write(&f.own("stage")[0], b"\0\0\0\0\0").unwrap();
    std::fs::write(f.path(".trefoil/stage/new-7"), b"left").unwrap();
    std::fs::create_dir(f.path(".trefoil/stage/new-8")).unwrap();
    let Fixture { dir, mount } = f;
    drop(mount);
    let mount = Mount::open(dir.path(), MountOptions::default()).unwrap();
    let f = Fixture { dir, mount: mount.into() };
    assert!(!exists_complete(&f.mount, content));
    assert_eq!(1, f.own("stage").len());
    let staged = Staged::open(&f.mount, content, 5).unwrap();
    assert_eq!(5, staged.offset());
    assert!(matches!(staged.finish(), Err(StageError::Mismatch)));
    assert!(f.own("stage").is_empty());
}

#[test]
fn wrong_bytes_are_refused_and_missing_ones_awaited() {
    let f = fixture();
    let content = ContentId::of(b"right");
    let mut staged = Staged::open(&f.mount, content, 5).unwrap();
    staged.write(b"wro").unwrap();
    assert!(matches!(staged.finish(), Err(StageError::TooShort)));
    let mut staged = Staged::open(&f.mount, content, 5).unwrap();
    staged.write(b"ng").unwrap();
    assert!(matches!(staged.finish(), Err(StageError::Mismatch)));
    assert_eq!(0, Staged::open(&f.mount, content, 5).unwrap().offset());
}

#[test]
fn a_local_file_is_staged_only_if_it_holds_the_content() {
    let f = fixture();
    f.write("a", b"content");
    let content = ContentId::of(b"content");
    assert!(!stage_from_local(&f.mount, &rel("a"), ContentId::of(b"another"), 7).unwrap());
    assert!(!stage_from_local(&f.mount, &rel("a"), content, 8).unwrap());
    assert!(!stage_from_local(&f.mount, &rel("none"), content, 7).unwrap());
    assert!(f.own("stage").is_empty());
    assert!(stage_from_local(&f.mount, &rel("a"), content, 7).unwrap());
    assert!(exists_complete(&f.mount, content));
    f.check_done(request(b"b", Some(file(b"content", 0o640)), Source::Staged));
}

#[test]
fn unused_content_expires() {
    let f = fixture();
    Staged::open(&f.mount, ContentId::of(b"x"), 1).unwrap();
    assert_eq!(0, expire_stage(&f.mount, Duration::from_secs(3600)).unwrap());
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    let part = std::fs::File::options().write(true).open(&f.own("stage")[0]).unwrap();
    part.set_modified(old).unwrap();
    assert_eq!(1, expire_stage(&f.mount, Duration::from_secs(3600)).unwrap());
    assert!(f.own("stage").is_empty());
}

#[test]
fn content_is_opened_to_be_served() {
    let f = fixture();
    f.write("a", b"served");
    let mut read = String::new();
    open_content(&f.mount, &rel("a")).unwrap().read_to_string(&mut read).unwrap();
    assert_eq!("served", read);
    assert!(matches!(open_content(&f.mount, &rel("none")), Err(DiskError::Missing)));
    assert!(matches!(open_content(&f.mount, &RelPath::root()), Err(DiskError::Reserved)));
}

#[test]
fn content_that_does_not_fit_leaves_the_space_to_others() {
    let f = fixture();
    let content = ContentId::of(b"large");
    let refused = Staged::open(&f.mount, content, u64::MAX);
    assert!(matches!(refused, Err(StageError::Refused(e)) if e.is_no_space()));
    assert!(f.own("stage").is_empty());
    let mut staged = Staged::open(&f.mount, content, 5).unwrap();
    staged.write(b"la").unwrap();
    let no_space = |label, _| (label == "write.stage").then_some(rustix::io::Errno::NOSPC);
    let written = fault::hook::during(no_space, || staged.write(b"rge"));
    assert!(matches!(written, Err(StageError::Refused(e)) if e.is_no_space()));
    assert!(f.own("stage").is_empty());
}

#[test]
fn content_whose_sync_failed_is_not_used() {
    // What could not be written counts as written from then on: a second sync says nothing.
    let f = fixture();
    let bytes = vec![7; 1 << 20];
    let content = ContentId::of(&bytes);
    let failing = |label: &str, _| label.starts_with("sync.").then_some(rustix::io::Errno::IO);
    let mut staged = Staged::open(&f.mount, content, bytes.len() as u64).unwrap();
    staged.write(&bytes).unwrap();
    let finished = fault::hook::during(failing, || staged.finish());
    assert!(matches!(finished, Err(StageError::Refused(_))));
    assert!(f.own("stage").is_empty());
    let mut staged = Staged::open(&f.mount, ContentId::of(b"new"), 3).unwrap();
    staged.write(b"new").unwrap();
    staged.finish().unwrap();
    let put = request(b"a", Some(file(b"new", 0o644)), Source::Staged);
    let outcome = fault::hook::during(failing, || f.apply(put));
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert!(f.own("stage").is_empty());
}

#[test]
fn content_is_put_together_from_a_file_that_is_here_and_what_was_sent() {
    let f = fixture();
    std::fs::write(f.path("old"), b"one two three").unwrap();
    let whole = b"zero two";
    let old = open_content(&f.mount, &rel("old")).unwrap();
    let mut staged = Staged::open(&f.mount, ContentId::of(whole), whole.len() as u64).unwrap();
    staged.write(b"zero").unwrap();
    staged.copy(&old, 3, 4).unwrap();
    assert_eq!(8, staged.offset());
    assert!(matches!(staged.copy(&old, 0, 1), Err(StageError::TooLong)));
    staged.finish().unwrap();
    let mut short = Staged::open(&f.mount, ContentId::of(b"x"), 99).unwrap();
    assert!(matches!(short.copy(&old, 10, 9), Err(StageError::TooShort)), "the file ends before");
}
