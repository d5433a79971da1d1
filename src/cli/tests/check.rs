//! What monitoring is told, and with which exit code.

use insta::assert_snapshot;

use super::*;
use crate::cli::check::testing::says;
use crate::control::types::VerifiedStatus;

fn check(arguments: &str, status: &StatusReply) -> String {
    says(arguments, status, now())
}

#[test]
fn all_checks_are_ok_on_one_line_when_all_is_well() {
    assert_snapshot!(check("replication", &status()), @r#"
    TREFOIL REPLICATION OK: 2 mounts identical on 3 nodes, compared 2 s ago | lag=0s;60;300 lag_changes=0 problems=0 conflicts=0 mounts_in_sync=2 mounts=2
    0
    "#);
    assert_snapshot!(check("cluster", &status()), @r#"
    TREFOIL CLUSTER OK: 3 of 3 nodes up, release 0.1.0 | nodes_down=0;0;1 nodes=3 certificate_days=780;60:;14: round_trip=0.42ms
    0
    "#);
    assert_snapshot!(check("integrity", &status()), @r#"
    TREFOIL INTEGRITY OK: 2 mounts, never compared deeply | missed_events=0c;0 overflows=0c conflicts=0
    0
    "#);
    let mut alone = status();
    alone.nodes.truncate(1);
    alone.mounts.iter_mut().for_each(|mount| mount.peers.clear());
    assert!(check("replication", &alone).contains("OK: 2 mounts identical on the only node |"));
}

#[test]
fn lag_is_held_against_the_ranges() {
    let mut status = status();
    status.in_sync = false;
    let media = &mut status.mounts[0];
    media.in_sync = false;
    media.peers[1] = PeerStatus {
        lag_changes: Some(1213),
        lag_seconds: Some(61.5),
        equal: Some(false),
        ..peer("w3")
    };
    assert_snapshot!(check("replication", &status), @r#"
    TREFOIL REPLICATION WARNING: mount media: w3 is 1 213 changes and 61.5 s behind | lag=61.5s;60;300 lag_changes=1213 problems=0 conflicts=0 mounts_in_sync=1 mounts=2
    1
    "#);
    let state = |arguments: &str| check(arguments, &status).lines().last().unwrap().to_owned();
    assert_eq!("0", state("replication -w 90"));
    assert_eq!("2", state("replication -w 30 -c ~:61"));
    assert_eq!("1", state("replication -w 90 --warning-changes 1000"));
    assert_eq!("2", state("replication -w 90 --critical-changes @1000:2000"));
    assert_eq!("0", state("replication --mount var"));
}

#[test]
fn a_halt_and_a_lasting_difference_are_critical_and_lesser_trouble_a_warning() {
    let mut trouble = status();
    trouble.in_sync = false;
    trouble.conflicts = 2;
    trouble.mounts[1].problem_count = 3;
    trouble.mounts[1].problems.push(ProblemStatus {
        path: "a|b".to_owned(),
        reason: "cannot write: no space left on device".to_owned(),
        since: at("2026-09-01T03:10:00Z"),
        next_retry: None,
    });
    assert_snapshot!(check("replication -v", &trouble), @r#"
    TREFOIL REPLICATION WARNING: 3 problems, such as a/b in var: cannot write: no space left on device (and 1 more) | lag=0s;60;300 lag_changes=0 problems=3 conflicts=2 mounts_in_sync=2 mounts=2
    2 mounts identical on 3 nodes, compared 2 s ago
    WARNING: 3 problems, such as a/b in var: cannot write: no space left on device
    WARNING: 2 conflicts kept; see `trefoil conflicts list`
    1
    "#);
    let mut paused = status();
    paused.mounts[0].state = MountState::Paused;
    assert!(
        check("replication", &paused)
            .starts_with("TREFOIL REPLICATION WARNING: mount media is paused")
    );
    trouble.guards.push(GuardStatus {
        mount: "media".to_owned(),
        kind: GuardKind::Mount,
        reason: "the root is not the directory it was".to_owned(),
        hint: "mount the right file system".to_owned(),
    });
    trouble.mounts[0].state = MountState::Halted;
    trouble.mounts[1].peers[0].equal = Some(false);
    assert_snapshot!(check("replication -v", &trouble), @r#"
    TREFOIL REPLICATION CRITICAL: mount media is halted: the root is not the directory it was; mount the right file system (and 3 more) | lag=0s;60;300 lag_changes=0 problems=3 conflicts=2 mounts_in_sync=2 mounts=2
    2 mounts identical on 3 nodes, compared 2 s ago
    CRITICAL: mount media is halted: the root is not the directory it was; mount the right file system
    CRITICAL: mount var differs on w2 and nothing is on its way; `trefoil verify --mount var`
    WARNING: 3 problems, such as a/b in var: cannot write: no space left on device
    WARNING: 2 conflicts kept; see `trefoil conflicts list`
    2
    "#);
    assert!(check("replication --mount var", &trouble).contains("mount var differs on w2"));
    trouble.mounts[1].pending = 1;
    assert!(!check("replication --mount var", &trouble).contains("differs"), "it is on its way");
}

#[test]
fn deletions_that_are_held_are_critical() {
    let mut status = status();
    status.in_sync = false;
    status.mounts[0].in_sync = false;
    status.guards.push(GuardStatus {
        mount: "media".to_owned(),
        kind: GuardKind::Deletions,
        reason: "30 deletions made on this node are held".to_owned(),
        hint: "decide".to_owned(),
    });
    let said = check("replication", &status);
    let expected =
        "TREFOIL REPLICATION CRITICAL: mount media: 30 deletions made on this node are held";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn a_cluster_lacks_nodes_releases_or_certificates() {
    let mut status = status();
    status.nodes[2].up = false;
    status.nodes[2].since = Some(at("2026-09-01T03:00:00Z"));
    status.nodes[2].error = Some("cannot connect: timed out".to_owned());
    status.nodes[1].release = Some("0.2.0".to_owned());
    status.nodes[0].certificate_days = Some(13);
    assert_snapshot!(check("cluster -v", &status), @r#"
    TREFOIL CLUSTER CRITICAL: the certificate of w1 ends in 13 days (and 2 more) | nodes_down=1;0;1 nodes=3 certificate_days=13;60:;14: round_trip=0.42ms
    2 of 3 nodes up, release 0.1.0, 0.2.0
    CRITICAL: the certificate of w1 ends in 13 days
    WARNING: down: w3 for 12 min (cannot connect: timed out)
    WARNING: nodes run different releases: 0.1.0, 0.2.0
    2
    "#);
    status.nodes[0].certificate_days = Some(40);
    assert!(check("cluster", &status).ends_with("\n1"));
    assert!(check("cluster -c 0", &status).ends_with("\n2"));
    status.removed = true;
    assert_snapshot!(check("cluster", &status), @r#"
    TREFOIL CLUSTER CRITICAL: this node was removed from the cluster; nothing is mirrored
    2
    "#);
}

#[test]
fn integrity_tells_what_comparisons_found_and_how_old_they_are() {
    let mut status = status();
    let verified = |when: &str, differences| VerifiedStatus {
        when: at(when),
        equal: differences == 0,
        difference_count: differences,
        not_compared: Vec::new(),
    };
    assert!(check("integrity -w 8", &status).starts_with("TREFOIL INTEGRITY WARNING: not every"));
    for mount in &mut status.mounts {
        mount.verified_deep = Some(verified("2026-08-30T03:12:00Z", 0));
    }
    assert_snapshot!(check("integrity -w 8 -c 30", &status), @r#"
    TREFOIL INTEGRITY OK: 2 mounts, every file compared 2.0 days ago | verified_days=2;8;30 missed_events=0c;0 overflows=0c conflicts=0
    0
    "#);
    assert!(check("integrity -w 1 -c 30", &status).ends_with("\n1"));
    // A quick comparison that is equal does not settle a deep one that was not.
    status.mounts[1].verified_deep = Some(verified("2026-08-31T03:12:00Z", 3));
    status.mounts[1].verified = Some(verified("2026-09-01T03:00:00Z", 0));
    status.mounts[0].missed_events = 2;
    status.mounts[0].index_set_aside = true;
    assert_snapshot!(check("integrity -v", &status), @r#"
    TREFOIL INTEGRITY CRITICAL: mount var: 3 differences when compared 24 h ago; `trefoil verify --deep --mount var` (and 2 more) | verified_days=2 missed_events=2c;0 overflows=0c conflicts=0
    2 mounts, every file compared 2.0 days ago
    CRITICAL: mount var: 3 differences when compared 24 h ago; `trefoil verify --deep --mount var`
    WARNING: an index of mount media could not be used and was set aside; when it is understood, remove index/media.db.unusable in the state folder
    WARNING: 2 changes missed by the watcher, found by a scan
    2
    "#);
}

#[test]
fn what_cannot_be_checked_is_unknown() {
    assert_snapshot!(check("replication --mount other", &status()), @r#"
    TREFOIL REPLICATION UNKNOWN: there is no mount "other"; there are media, var
    3
    "#);
}

#[test]
fn what_is_kept_aside_and_is_too_large_is_a_warning() {
    let mut large = status();
    large.conflicts_size = KeptSize { bytes: 5 << 30, bytes_max: Some(5 << 30) };
    assert!(check("replication", &large).contains("REPLICATION OK"));
    large.conflicts_size.bytes = 6 << 30;
    large.mounts[0].trash_size = Some(KeptSize { bytes: 3 << 20, bytes_max: Some(2 << 20) });
    assert_snapshot!(check("replication -v", &large), @r#"
    TREFOIL REPLICATION WARNING: the conflict store takes up 6.0 GiB, more than the 5.0 GiB of `conflicts_max`; what is younger than 7 days stays (and 1 more) | lag=0s;60;300 lag_changes=0 problems=0 conflicts=0 mounts_in_sync=2 mounts=2
    2 mounts identical on 3 nodes, compared 2 s ago
    WARNING: the conflict store takes up 6.0 GiB, more than the 5.0 GiB of `conflicts_max`; what is younger than 7 days stays
    WARNING: the trash of mount media takes up 3.0 MiB, more than the 2.0 MiB of `trash_max`; what is younger than 3 days stays
    1
    "#);
    assert!(!check("replication --mount var -v", &large).contains("trash_max"));
}

#[test]
fn a_missed_snapshot_warns_a_second_one_or_none_at_all_is_critical() {
    let mut status = status();
    let of = |status: &StatusReply| check("snapshots", status);
    assert!(of(&status).starts_with("TREFOIL SNAPSHOTS UNKNOWN: the daemon has just started"));
    let good = crate::control::types::SnapshotsStatus {
        schedule: Some("0 */6 * * *".to_owned()),
        count: 27,
        newest: Some("a".repeat(64)),
        newest_taken: Some(now() - jiff::SignedDuration::from_hours(2)),
        newest_copies: 3,
        nodes: 3,
        bytes: 1 << 30,
        free_bytes: 50 << 30,
        looked: Some(now()),
        ..Default::default()
    };
    status.snapshots = good.clone();
    assert_snapshot!(of(&status), @r"
    TREFOIL SNAPSHOTS OK: 27 snapshots, the newest is on 3 of 3 nodes, 2 h old | missed=0;0;1 age=7200s copies=3 faults=0 free=50;1: snapshots=27 stored=1073741824B
    0
    ");
    let mut says = |change: &dyn Fn(&mut crate::control::types::SnapshotsStatus)| {
        status.snapshots = good.clone();
        change(&mut status.snapshots);
        let said = of(&status);
        let state = said.lines().last().unwrap().to_owned();
        let found = said.split(": ").nth(1).unwrap().split(" |").next().unwrap().to_owned();
        format!("{state} {found}")
    };
    let said = [
        says(&|is| is.missed = 1),
        says(&|is| is.missed = 2),
        says(&|is| is.newest_copies = 2),
        says(&|is| (is.newest, is.newest_taken) = (None, None)),
        says(&|is| is.error = Some("cannot take a snapshot: no space".to_owned())),
        says(&|is| is.free_bytes = 1 << 29),
        says(&|is| is.schedule = None),
        says(&|is| is.faults = 2),
    ];
    assert_snapshot!(said.join("\n"), @r"
    1 1 run missed
    2 2 runs missed
    1 the newest is on 2 of 3 nodes
    2 there is no snapshot that can be restored
    1 cannot take a snapshot
    1 0.5 GiB are free for snapshots
    1 none is taken by itself
    2 2 damaged objects in snapshots
    ");
    status.snapshots.verified = Some(now() - jiff::SignedDuration::from_hours(72));
    status.snapshots.faults = 0;
    status.snapshots.schedule = good.schedule.clone();
    assert!(of(&status).contains(" verified=3d "), "{}", of(&status));
    let said = check("snapshots --verified-warning 2", &status);
    assert!(said.contains("WARNING: all data was last read 3 days ago"), "{said}");
}
