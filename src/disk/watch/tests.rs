//! Both backends on real directories. What happens there is done by other processes, since with
//! fanotify our own changes are none.

use std::collections::BTreeSet;

use super::testing::*;
use super::*;
use crate::disk::tests::start;

/// Runs `script` in a watched directory that `before` has filled; every path of `expected` must be
/// covered, or, given as `Closed a`, be told as exactly that.
#[track_caller]
fn check(before: &str, script: &str, expected: &[&str]) {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, before);
        shell(&watched.root(), script);
        let events = watched.synced();
        for expected in expected {
            let met = match expected.split_once(' ') {
                None => covers(&events, &path(expected)),
                Some((kind, at)) => hints(&events)
                    .iter()
                    .any(|hint| hint.path == path(at) && format!("{:?}", hint.kind) == kind),
            };
            assert!(met, "{wanted:?}: {expected} is not in {events:?}");
        }
    });
}

#[test]
fn a_written_file_is_told_when_it_is_closed() {
    check("", "echo x > a", &["Closed a"]);
    check("mkdir d; echo x > d/a", "echo y >> d/a", &["Closed d/a"]);
    check("echo x > a", ": > a", &["Closed a"]);
    check("echo x > a", "exec 3>>a; echo y >&3; exec 3>&-", &["Closed a"]);
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "echo x > a");
        let mut shell = Shell::start(&watched.root());
        shell.run("exec 3>>a; echo y >&3");
        let open = hints(&watched.synced());
        assert_eq!(vec![Hint { path: path("a"), kind: HintKind::Written, is_dir: false }], open);
        shell.run("exec 3>&-");
        let closed = hints(&watched.synced());
        assert_eq!(vec![Hint { path: path("a"), kind: HintKind::Closed, is_dir: false }], closed);
        shell.end();
    });
}

#[test]
fn a_rename_is_told_under_both_names_the_new_one_first() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "mkdir d; echo x > a");
        shell(&watched.root(), "mv a d/b");
        let hints = hints(&watched.synced());
        let at = |kind, name| {
            hints.iter().position(|hint| hint.kind == kind && hint.path == path(name)).unwrap()
        };
        let (new, old) = (at(HintKind::Moved, "d/b"), at(HintKind::Gone, "a"));
        assert!(new < old || wanted == Wanted::Inotify, "{hints:?}");
    });
    check("mkdir d; echo x > d/a", "mv d e", &["Moved e", "e/a", "Gone d"]);
    check("mkdir -p d/s e; echo x > d/s/a", "mv d e/d", &["e/d/s/a", "Gone d"]);
    check("echo x > a; echo y > b", "mv a b", &["Moved b", "Gone a"]);
}

#[test]
fn what_is_moved_in_or_out_of_the_root_is_told() {
    check("mkdir -p ../out/s; echo x > ../out/s/f", "mv ../out in", &["Moved in", "in/s/f"]);
    check("mkdir d; echo x > d/f", "mv d ../out", &["Gone d"]);
    // What happens to it afterwards, under either name, is told as well or not at all.
    check(
        "mkdir ../out",
        "mv ../out in; echo x > in/f; mkdir in/s; echo x > in/s/g",
        &["in/f", "in/s/g"],
    );
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "mkdir d; echo x > d/f");
        shell(&watched.root(), "echo y > d/f; mv d ../out");
        watched.synced();
        shell(&watched.root(), "echo z > ../out/f; mkdir ../out/s; echo z > ../out/s/g");
        assert_eq!(Vec::<WatchEvent>::new(), watched.synced());
    });
}

#[test]
fn a_burst_in_new_directories_leaves_no_name_out() {
    check(
        "",
        "mkdir -p n/x/y; echo 1 > n/x/f; mv n/x/f n/x/g; mkdir n/x/y/z; echo 2 > n/x/y/z/h; mv n m",
        &["m", "m/x/g", "m/x/y/z/h", "n"],
    );
}

#[test]
fn deleting_is_told() {
    check("mkdir d; echo x > d/a; echo x > b", "rm b; rm -r d", &["Gone b", "Gone d"]);
    check("mkdir d", "rmdir d; echo x > d", &["Moved d"]);
}

#[test]
fn a_directory_renamed_and_made_again_is_told_anew() {
    check(
        "mkdir -p d/s; echo x > d/old; echo x > d/s/old",
        "mv d e; mkdir -p d/s; echo y > d/s/new; echo y > e/s/later",
        &["Moved e", "e/s/later", "Moved d", "d/s/new"],
    );
    on_each_backend(|wanted| {
        // The same across the syncs, when the old name's watches and handles are long known.
        let watched = Watched::start(wanted, "mkdir -p d/s; echo x > d/s/old");
        for round in 0..5 {
            shell(&watched.root(), &format!("echo x > d/s/known; mv d e{round}; mkdir -p d/s"));
            watched.synced();
            shell(&watched.root(), &format!("echo x > e{round}/s/f; echo x > d/s/g"));
            let events = watched.synced();
            assert!(covers(&events, &path(&format!("e{round}/s/f"))), "{events:?}");
            assert!(covers(&events, &path("d/s/g")), "{events:?}");
            assert_eq!(2, hints(&events).len(), "{events:?}");
        }
    });
}

#[test]
fn attributes_and_links_are_told() {
    check("echo x > a", "chmod 600 a", &["Attributes a"]);
    check("mkdir d", "chmod 700 d", &["Attributes d"]);
    check("echo x > a", "touch -d 1999-01-01 a", &["a"]);
    check("", "ln -s nowhere l", &["Created l"]);
    check("ln -s a l", "ln -sfn b l", &["l"]);
    check("mkdir d; echo x > a", "ln a d/b", &["Created d/b"]);
    check("", ": > '.trefoil-not'", &[".trefoil-not"]);
}

#[test]
fn names_are_any_bytes() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "");
        shell(&watched.root(), r#"d="$(printf 'a\nb\377')"; mkdir "$d"; echo x > "$d/$d""#);
        let name = b"a\nb\xff".to_vec();
        let inner = RelPath::parse(&[&name[..], b"/", &name].concat()).unwrap();
        assert!(covers(&watched.synced(), &inner));
        shell(&watched.root(), r#"d="$(printf 'a\nb\377')"; echo y >> "$d/$d""#);
        let told = hints(&watched.synced());
        assert!(told.contains(&Hint { path: inner, kind: HintKind::Closed, is_dir: false }));
    });
}

#[test]
fn exchanged_names_are_both_told() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "mkdir d; echo x > d/f; echo y > a");
        another_process(&watched.root(), "exchange");
        let events = watched.synced();
        let told = hints(&events);
        for name in ["a", "d"] {
            let of = told.iter().find(|hint| hint.path == path(name)).unwrap();
            assert_eq!(HintKind::Moved, of.kind, "{events:?}");
        }
        assert!(covers(&events, &path("a/f")), "{events:?}");
        shell(&watched.root(), "echo z > a/g");
        assert!(covers(&watched.synced(), &path("a/g")));
    });
}

#[test]
fn a_file_linked_into_place_is_told_though_it_is_never_closed() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "");
        another_process(&watched.root(), "tmpfile");
        assert!(covers(&watched.synced(), &path("linked")));
    });
}

#[test]
fn after_a_sync_everything_before_it_is_there() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "");
        let mut shell = Shell::start(&watched.root());
        for n in 0..100 {
            shell.run(&format!("echo x > f{n}; mkdir -p d{n}/s; echo x > d{n}/s/f"));
            let events = watched.synced();
            for name in [format!("f{n}"), format!("d{n}/s/f")] {
                assert!(covers(&events, &path(&name)), "{wanted:?}: {name}: {events:?}");
            }
        }
        shell.end();
        assert_eq!(1, std::fs::read_dir(watched.root().join(".trefoil/cookies")).unwrap().count());
    });
}

#[test]
fn our_own_writes_are_no_news_with_fanotify() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "mkdir d");
        // No file: a child of another test that inherits its descriptor would close it.
        std::os::unix::fs::symlink("x", watched.root().join("mine")).unwrap();
        std::fs::rename(watched.root().join("d"), watched.root().join("e")).unwrap();
        let events = watched.synced();
        assert_eq!(wanted == Wanted::Fanotify, events.is_empty(), "{events:?}");
        // But they are known of.
        shell(&watched.root(), "echo x > e/f");
        assert!(covers(&watched.synced(), &path("e/f")));
    });
}

#[test]
fn what_is_outside_or_not_mirrored_is_not_told() {
    on_each_backend(|wanted| {
        let before = "mkdir -p ../root2 ../other local/deep .trefoil/stage";
        let watched = Watched::start(wanted, before);
        let script = "echo x > ../root2/f; echo x > ../other/f; mkdir ../other/d; mv ../other ../o; \
                      echo x > local/f; mkdir local/new; echo x > local/new/f; \
                      echo x > local/deep/f; echo x > .trefoil/stage/f; chmod 700 .trefoil";
        shell(&watched.root(), script);
        assert_eq!(Vec::<WatchEvent>::new(), watched.synced());
        shell(&watched.root(), "mv .trefoil/stage/f f; mv local/deep moved; echo x > moved/g");
        let events = watched.synced();
        assert!(covers(&events, &path("f")) && covers(&events, &path("moved/g")), "{events:?}");
        shell(&watched.root(), "chmod 700 local");
        assert!(covers(&watched.synced(), &path("local")));
    });
}

#[test]
fn two_watchers_on_one_file_system_see_their_own_trees() {
    on_each_backend(|wanted| {
        let (one, two) = (Watched::start(wanted, ""), Watched::start(wanted, ""));
        shell(&one.root(), "echo x > a");
        shell(&two.root(), "echo x > b");
        let (first, second) = (hints(&one.synced()), hints(&two.synced()));
        assert!(first.iter().all(|hint| hint.path == path("a")) && !first.is_empty());
        assert!(second.iter().all(|hint| hint.path == path("b")) && !second.is_empty());
        // Two on one tree, too.
        let again = Watched::start_in(one.base, wanted, "");
        shell(&again.root(), "echo x > c");
        assert!(covers(&again.synced(), &path("c")));
        one.watcher.sync(LONG).unwrap();
        assert!(covers(&all(&one.watcher), &path("c")));
    });
}

#[test]
fn a_root_that_is_removed_or_moved_is_lost() {
    for script in ["rm -r root", "mv root moved", "mv root moved; mkdir root"] {
        on_each_backend(|wanted| {
            let watched = Watched::start(wanted, "mkdir d");
            shell(watched.base.path(), script);
            watched.until(|event| matches!(event, WatchEvent::Lost { .. }));
            assert!(all(&watched.watcher).is_empty());
            assert!(watched.watcher.sync(LONG).is_err());
        });
    }
}

#[test]
fn a_root_that_is_unmounted_is_lost() {
    on_each_backend(|wanted| {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("root")).unwrap();
        let mount = "mount -t tmpfs none root 2>/dev/null && echo mounted || :";
        if ask(base.path(), mount) != "mounted\n" {
            return;
        }
        let watched = Watched::start_in(base, wanted, "");
        shell(watched.base.path(), "umount -l root");
        watched.until(|event| matches!(event, WatchEvent::Lost { .. }));
    });
}

#[test]
fn the_owner_is_woken_when_something_is_there_and_when_something_is_left() {
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, "");
        while watched.woken.try_recv().is_ok() {}
        shell(&watched.root(), "echo x > a; echo x > b; echo x > c");
        let mut told = BTreeSet::new();
        while told.len() < 3 {
            watched.woken.recv_timeout(LONG).unwrap();
            told.extend(hints(&watched.watcher.take(1)).into_iter().map(|hint| hint.path));
        }
    });
}

/// The longest queue there is by default, and some more.
const STORM_FILES: usize = 17_000;

#[test]
fn a_storm_while_the_reader_is_stalled_is_covered() {
    on_each_backend(|wanted| {
        let base = tempfile::tempdir().unwrap();
        let gate = Arc::new(Mutex::new(()));
        let stall = gate.clone();
        let wake = Box::new(move || drop(stall.lock().unwrap()));
        let watcher = Watcher::start(base.path(), wanted, Arc::new(|_| false), wake).unwrap();
        assert!(all(&watcher).is_empty());
        let stalled = gate.lock().unwrap();
        let script = format!(
            "i=0; while [ $i -lt {STORM_FILES} ]; do : > f$i; i=$((i+1)); done; mkdir d; : > d/f"
        );
        shell(base.path(), &script);
        drop(stalled);
        watcher.sync(LONG).unwrap();
        let events = all(&watcher);
        let names: BTreeSet<RelPath> = hints(&events).into_iter().map(|hint| hint.path).collect();
        let whole = events.contains(&WatchEvent::Overflow { below: RelPath::root() });
        for name in (0..STORM_FILES).map(|n| format!("f{n}")).chain(["d".into()]) {
            assert!(whole || names.contains(&path(&name)), "{wanted:?}: {name}");
        }
        assert_eq!(whole, watcher.stats().overflows > 0);
        // What appeared while events were lost is watched.
        shell(base.path(), "echo x > d/g");
        watcher.sync(LONG).unwrap();
        assert!(covers(&all(&watcher), &path("d/g")));
    });
}

#[test]
fn a_path_too_long_for_the_kernel_to_name_is_covered_by_what_is_above() {
    let name = "n".repeat(250);
    let script =
        format!("i=0; while [ $i -lt 20 ]; do mkdir {name}; cd -P {name}; i=$((i+1)); done");
    on_each_backend(|wanted| {
        let watched = Watched::start(wanted, &script);
        shell(&watched.root(), &format!("{}echo x > f", format!("cd -P {name}; ").repeat(20)));
        let events = watched.synced();
        let deep = RelPath::parse(&[&format!("{name}/").repeat(20), "f"].concat().into_bytes());
        let deep = deep.unwrap();
        assert!(covers(&events, &deep), "{events:?}");
        let above = |below: &RelPath| deep.is_below(below) && below.as_bytes().len() > 3000;
        for event in &events {
            match event {
                WatchEvent::Overflow { below } => assert!(above(below), "{below}"),
                WatchEvent::Hints(hints) => assert!(hints.iter().all(|h| above(&h.path))),
                WatchEvent::Lost { reason } => panic!("{reason}"),
            }
        }
    });
}

#[test]
fn what_is_too_deep_to_be_watched_is_told_at_each_sync_until_it_is_gone() {
    let name = "n".repeat(250);
    let script =
        format!("i=0; while [ $i -lt 20 ]; do mkdir {name}; cd -P {name}; i=$((i+1)); done");
    let watched = Watched::start(Wanted::Inotify, "mkdir sub");
    assert!(watched.synced().is_empty());
    shell(&watched.root(), &format!("cd sub; {script}"));
    watched.synced();
    let told = hints(&watched.synced());
    let [deep] = &told[..] else { panic!("{told:?}") };
    assert!(deep.is_dir && deep.kind == HintKind::Moved && deep.path.as_bytes().len() > 3000);
    shell(&watched.root(), "mv sub moved");
    watched.synced();
    let told = hints(&watched.synced());
    let [moved] = &told[..] else { panic!("{told:?}") };
    assert!(moved.path.is_below(&path("moved")), "{}", moved.path);
    shell(&watched.root(), "rm -r moved");
    watched.synced();
    // That a directory is gone may be told once more, when the kernel lets go of it: not at each sync.
    let told = (0..20).map(|_| hints(&watched.synced())).find(|told| {
        assert!(told.iter().all(|hint| hint.kind == HintKind::Gone), "{told:?}");
        told.is_empty()
    });
    assert!(told.is_some(), "it is gone, and told at each sync");
}

#[test]
fn what_cannot_be_watched_is_refused_and_auto_takes_what_works() {
    let base = tempfile::tempdir().unwrap();
    let missing = base.path().join("missing");
    for wanted in [Wanted::Auto, Wanted::Fanotify, Wanted::Inotify] {
        let skip: Skip = Arc::new(|_| false);
        assert!(Watcher::start(&missing, wanted, skip, Box::new(|| ())).is_err());
    }
    let watched = Watched::start(Wanted::Auto, "mkdir d");
    let stats = watched.watcher.stats();
    match watched.watcher.backend() {
        Backend::Fanotify => assert_eq!(1, stats.watches),
        Backend::Inotify => assert_eq!(3, stats.watches),
    }
}

/// Random changes on few names, so that they clash, with somebody looking at each path when its
/// turn comes: in the end the looker knows exactly the names there are.
#[test]
fn whoever_looks_at_what_is_told_knows_the_tree() {
    for seed in 1..=4_u64 {
        on_each_backend(|wanted| {
            let watched = Watched::start(wanted, "");
            let mut known = BTreeSet::new();
            let mut child = start(&mut acting(&watched.root(), &format!("random {seed}")));
            loop {
                let done = child.try_wait().unwrap();
                let events = match done {
                    Some(_) => watched.synced(),
                    None => {
                        let _woken = watched.woken.recv_timeout(Duration::from_millis(5));
                        all(&watched.watcher)
                    }
                };
                for event in events {
                    look(&watched.root(), &event, &mut known);
                }
                if let Some(status) = done {
                    assert!(status.success());
                    break;
                }
            }
            let mut real = BTreeSet::new();
            list(&watched.root(), &RelPath::root(), &mut real);
            assert_eq!(real, known, "{wanted:?}, seed {seed}");
        });
    }
}
