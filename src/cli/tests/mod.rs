//! What people see: inline snapshots of the views.

mod check;
mod commands;
mod snapshots;

use std::path::Path;

use insta::assert_snapshot;
use jiff::Timestamp;

use super::*;
use crate::{
    config::Surroundings,
    control::types::{
        ConflictStatus, Difference, GuardKind, GuardStatus, KeptSize, MountState, MountStatus,
        NodeStatus, PeerStatus, ProblemStatus, StatusReply, TrashCopy, TrashItem, VerifyMount,
        VerifyNode, VerifyReply, WaitMount, WaitNode, WaitNodes, WaitReply, WorkStatus,
    },
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-09-01T03:12:00Z")
}

fn node(name: &str, this: bool) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        id: format!("00000000000000{name}"),
        this,
        up: true,
        since: Some(at("2026-09-01T00:00:00Z")),
        round_trip_ms: (!this).then_some(0.42),
        release: Some("0.1.0".to_owned()),
        address: (!this).then(|| format!("{name}.internal:7440")),
        error: None,
        certificate_days: Some(780),
    }
}

fn peer(name: &str) -> PeerStatus {
    PeerStatus {
        name: name.to_owned(),
        up: true,
        lag_changes: Some(0),
        lag_seconds: Some(0.0),
        fingerprint: Some("3f2a91bc55aa77ee".to_owned()),
        equal: Some(true),
        heard: Some(at("2026-09-01T03:11:58Z")),
        not_compared_because: None,
    }
}

fn mount(name: &str) -> MountStatus {
    MountStatus {
        name: name.to_owned(),
        path: format!("/srv/{name}"),
        state: MountState::Watching,
        doing: String::new(),
        files: 182_344,
        bytes: 13_000_000_000,
        fingerprint: "3f2a91bc55aa77ee".to_owned(),
        in_sync: true,
        backend: "fanotify".to_owned(),
        pending: 0,
        peers: vec![peer("w2"), peer("w3")],
        problems: Vec::new(),
        problem_count: 0,
        overflows: 0,
        missed_events: 0,
        held: None,
        deploying_until: None,
        verified: None,
        verified_deep: None,
        index_set_aside: false,
        trash_size: None,
        work: WorkStatus::default(),
    }
}

fn status() -> StatusReply {
    StatusReply {
        node: "w1".to_owned(),
        node_id: "00000000000000w1".to_owned(),
        release: "0.1.0".to_owned(),
        cluster_id: "c1".to_owned(),
        started: at("2026-09-01T00:00:00Z"),
        removed: false,
        in_sync: true,
        nodes: vec![node("w1", true), node("w2", false), node("w3", false)],
        mounts: vec![mount("media"), mount("var")],
        conflicts: 0,
        conflicts_size: KeptSize::default(),
        guards: Vec::new(),
        snapshots: Default::default(),
    }
}

#[test]
fn a_status_in_sync_says_so_first() {
    assert_snapshot!(status_view::render(&status(), now()), @r"
    in sync: 2 mounts identical on 3 nodes

    node w1 (00000000000000w1), release 0.1.0, up 3 h, cluster c1

    NODE       STATE  SINCE  ROUND TRIP  RELEASE  CERTIFICATE  ADDRESS
    w1 (this)  up     3 h    -           0.1.0    780 d        -
    w2         up     3 h    0.4 ms      0.1.0    780 d        w2.internal:7440
    w3         up     3 h    0.4 ms      0.1.0    780 d        w3.internal:7440

    MOUNT  STATE     FILES    SIZE      PENDING  WATCH     FINGERPRINT   ON w2  ON w3
    media  watching  182 344  12.1 GiB  0        fanotify  3f2a91bc55aa  equal  equal
    var    watching  182 344  12.1 GiB  0        fanotify  3f2a91bc55aa  equal  equal
    ");
}

#[test]
fn a_certificate_that_was_not_renewed_is_said_with_what_helps() {
    let step = |days| {
        let mut status = status();
        status.nodes[1].certificate_days = days;
        let text = status_view::render(&status, now());
        text.lines().find(|line| line.contains("certificate of")).map(str::to_owned)
    };
    assert_eq!((None, None), (step(None), step(Some(60))));
    let remedy = "restart its daemon, which renews it; if it is right there, a clock is wrong";
    let ends = format!("  the certificate of node w2 ends in 59 days: {remedy}");
    assert_eq!(Some(ends), step(Some(59)));
    let over = format!("  the certificate of node w2 has ended: {remedy}");
    assert_eq!(Some(over), step(Some(-1)));
}

#[test]
fn a_status_while_catching_up_says_how_far() {
    let mut status = status();
    status.in_sync = false;
    status.nodes[2].up = false;
    status.nodes[2].since = Some(at("2026-09-01T03:00:00Z"));
    status.nodes[2].round_trip_ms = None;
    status.nodes[2].error = Some("cannot connect: timed out".to_owned());
    let media = &mut status.mounts[0];
    media.in_sync = false;
    media.state = MountState::Syncing;
    media.doing = "sending to w2".to_owned();
    media.pending = 1213;
    media.peers[0] = PeerStatus {
        lag_changes: Some(1213),
        lag_seconds: Some(2.34),
        equal: Some(false),
        ..peer("w2")
    };
    let down = PeerStatus { up: false, lag_changes: Some(7), equal: None, ..peer("w3") };
    media.peers[1] = PeerStatus { lag_seconds: Some(720.0), ..down };
    status.mounts[1].in_sync = false;
    status.mounts[1].state = MountState::Paused;
    status.mounts[1].peers[1] =
        PeerStatus { up: false, lag_changes: None, lag_seconds: None, equal: None, ..peer("w3") };
    assert_snapshot!(status_view::render(&status, now()), @r"
    NOT in sync: 2 of 2 mounts (media, var)
      node w3 is down for 12 min: cannot connect: timed out
      mount media: sending to w2, 1 213 pending
      mount var is paused; go on with `trefoil resume var`

    node w1 (00000000000000w1), release 0.1.0, up 3 h, cluster c1

    NODE       STATE  SINCE   ROUND TRIP  RELEASE  CERTIFICATE  ADDRESS
    w1 (this)  up     3 h     -           0.1.0    780 d        -
    w2         up     3 h     0.4 ms      0.1.0    780 d        w2.internal:7440
    w3         DOWN   12 min  -           0.1.0    780 d        w3.internal:7440

    MOUNT  STATE    FILES    SIZE      PENDING  WATCH     FINGERPRINT   ON w2                ON w3
    media  syncing  182 344  12.1 GiB  1 213    fanotify  3f2a91bc55aa  1 213 behind, 2.3 s  down, 7 behind, 12 min
    var    paused   182 344  12.1 GiB  0        fanotify  3f2a91bc55aa  equal                down
    ");
}

#[test]
fn a_status_says_why_a_mount_is_not_compared() {
    let mut status = status();
    status.in_sync = false;
    let media = &mut status.mounts[0];
    media.in_sync = false;
    media.peers.iter_mut().for_each(|peer| peer.equal = None);
    assert_eq!(
        Some("  mount media: not compared with w2, w3 yet"),
        status_view::render(&status, now()).lines().nth(1)
    );
    let because = Some("stopped there: paused".to_owned());
    status.mounts[0].peers[1].not_compared_because = because;
    assert_eq!(
        Some("  mount media: not compared with w2, w3 (stopped there: paused)"),
        status_view::render(&status, now()).lines().nth(1)
    );
}

#[test]
fn a_status_with_trouble_says_what_to_do() {
    let mut status = status();
    status.in_sync = false;
    status.conflicts = 2;
    status.conflicts_size = KeptSize { bytes: 6 << 30, bytes_max: Some(5 << 30) };
    status.mounts[1].trash_size = Some(KeptSize { bytes: 3 << 20, bytes_max: Some(2 << 20) });
    status.guards.push(GuardStatus {
        mount: "media".to_owned(),
        kind: GuardKind::Mount,
        reason: "the root is not the directory it was".to_owned(),
        hint: "mount the right file system at /srv/media".to_owned(),
    });
    status.mounts[0].in_sync = false;
    status.mounts[0].state = MountState::Halted;
    status.mounts[0].peers.iter_mut().for_each(|peer| peer.equal = None);
    let var = &mut status.mounts[1];
    var.in_sync = false;
    var.peers[0].equal = Some(false);
    var.problem_count = 3;
    var.overflows = 1;
    var.missed_events = 12;
    for (path, retry) in [("pipe\\x0a1", None), ("big", Some(at("2026-09-01T03:12:30Z")))] {
        var.problems.push(ProblemStatus {
            path: path.to_owned(),
            reason: "cannot write: no space left on device".to_owned(),
            since: at("2026-09-01T03:10:00Z"),
            next_retry: retry,
        });
    }
    assert_snapshot!(status_view::render(&status, now()), @r"
    NOT in sync: 2 of 2 mounts (media, var)
      mount media is held: the root is not the directory it was; mount the right file system at /srv/media
      mount var differs on w2; find out with `trefoil verify --mount var`
      3 paths have problems; see below
      2 conflicts are kept; see `trefoil conflicts list`
      the conflict store takes up 6.0 GiB, more than the 5.0 GiB of `conflicts_max`; what is younger than 7 days stays
      the trash of mount var takes up 3.0 MiB, more than the 2.0 MiB of `trash_max`; what is younger than 3 days stays

    node w1 (00000000000000w1), release 0.1.0, up 3 h, cluster c1

    NODE       STATE  SINCE  ROUND TRIP  RELEASE  CERTIFICATE  ADDRESS
    w1 (this)  up     3 h    -           0.1.0    780 d        -
    w2         up     3 h    0.4 ms      0.1.0    780 d        w2.internal:7440
    w3         up     3 h    0.4 ms      0.1.0    780 d        w3.internal:7440

    MOUNT  STATE     FILES    SIZE      PENDING  WATCH     FINGERPRINT   ON w2         ON w3
    media  halted    182 344  12.1 GiB  0        fanotify  3f2a91bc55aa  not compared  not compared
    var    watching  182 344  12.1 GiB  0        fanotify  3f2a91bc55aa  DIFFERS       equal
    mount var: events lost by the kernel: 1, changes that only a scan found: 12

    PROBLEM IN  SINCE  NEXT RETRY  PATH       REASON
    var         2 min  on change   pipe\x0a1  cannot write: no space left on device
    var         2 min  in 30 s     big        cannot write: no space left on device
    and 1 more
    ");
}

#[test]
fn a_lonely_node_is_in_sync_with_itself() {
    let mut status = status();
    status.nodes.truncate(1);
    status.mounts.iter_mut().for_each(|mount| mount.peers.clear());
    assert_snapshot!(status_view::render(&status, now()), @r"
    in sync: 2 mounts on the only node

    node w1 (00000000000000w1), release 0.1.0, up 3 h, cluster c1

    NODE       STATE  SINCE  ROUND TRIP  RELEASE  CERTIFICATE  ADDRESS
    w1 (this)  up     3 h    -           0.1.0    780 d        -

    MOUNT  STATE     FILES    SIZE      PENDING  WATCH     FINGERPRINT
    media  watching  182 344  12.1 GiB  0        fanotify  3f2a91bc55aa
    var    watching  182 344  12.1 GiB  0        fanotify  3f2a91bc55aa
    ");
}

#[test]
fn what_was_waited_for_in_vain_is_named() {
    let mut reply = WaitReply { done: true, waited_ms: 123, mounts: Vec::new() };
    assert_snapshot!(wait::render(&reply, WaitNodes::All), @"durable on all nodes after 0.12 s");
    reply.done = false;
    let far = |name: &str, up, missing, paths: &[&str]| WaitNode {
        name: name.to_owned(),
        done: false,
        up,
        missing,
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
    };
    reply.mounts = vec![
        WaitMount {
            name: "media".to_owned(),
            done: false,
            reason: None,
            nodes: vec![
                far("w2", true, Some(1213), &["a.jpg", "b.jpg"]),
                far("w3", false, None, &[]),
            ],
        },
        WaitMount {
            name: "var".to_owned(),
            done: false,
            reason: Some("paused".to_owned()),
            nodes: Vec::new(),
        },
    ];
    assert_snapshot!(wait::render(&reply, WaitNodes::Quorum), @r"
    error: cannot wait any longer: not durable after 0.12 s

    MOUNT  NODE       MISSING  WHY            SUCH AS
    media  w2         1 213    not there yet  a.jpg b.jpg
    media  w3         -        node is down
    var    this node  -        paused

    hint: see `trefoil status`
    ");
}

#[test]
fn what_differs_is_named() {
    let replica = |name: &str, fingerprint: Option<&str>| VerifyNode {
        name: name.to_owned(),
        files: fingerprint.map(|_| 3),
        bytes: fingerprint.map(|_| 2048),
        fingerprint: fingerprint.map(str::to_owned),
        read_files: None,
        error: fingerprint.is_none().then(|| "node is down".to_owned()),
    };
    let mut mount = VerifyMount {
        name: "var".to_owned(),
        equal: true,
        nodes: vec![replica("w1", Some("aa")), replica("w2", Some("aa"))],
        differences: Vec::new(),
        difference_count: 0,
    };
    let mut reply = VerifyReply { equal: true, deep: false, mounts: vec![mount.clone()] };
    assert_snapshot!(verify::render(&reply), @r"
    equal: 1 mount identical on all nodes; fingerprints compared

    mount var: equal
      NODE  FILES  SIZE     FINGERPRINT  NOT COMPARED BECAUSE
      w1    3      2.0 KiB  aa
      w2    3      2.0 KiB  aa
    ");
    mount.equal = false;
    mount.nodes = vec![replica("w1", Some("aa")), replica("w2", Some("bb")), replica("w3", None)];
    mount.differences = vec![Difference {
        path: "a b".to_owned(),
        node: "w2".to_owned(),
        what: "content".to_owned(),
    }];
    mount.difference_count = 1001;
    reply = VerifyReply { equal: false, deep: true, mounts: vec![mount] };
    assert_snapshot!(verify::render(&reply), @r"
    NOT equal: 1 of 1 mount; every file read and hashed

    mount var: NOT equal
      NODE  FILES  SIZE     FINGERPRINT  NOT COMPARED BECAUSE
      w1    3      2.0 KiB  aa
      w2    3      2.0 KiB  bb
      w3    -      -        -            node is down
      DIFFERENCE  NODE  PATH
      content     w2    a b
      and 1 000 more
    ");
}

#[test]
fn conflicts_are_listed_and_explained() {
    let conflict = ConflictStatus {
        id: "k7".to_owned(),
        mount: "app-etc".to_owned(),
        path: "config.php".to_owned(),
        origin: "w2".to_owned(),
        kind: "file".to_owned(),
        bytes: 4096,
        modified: at("2026-09-01T03:00:00.5Z"),
        kept: at("2026-09-01T03:00:01.25Z"),
        expires: Some(at("2026-09-08T03:00:01Z")),
        reason: "edited on w1 and w2 at once".to_owned(),
    };
    assert_snapshot!(conflicts::render_list(&[], now()), @"no conflicts");
    assert_snapshot!(conflicts::render_list(std::slice::from_ref(&conflict), now()), @r"
    1 conflict

    ID  KEPT                  FROM  SIZE     MODIFIED              EXPIRES IN  MOUNT    PATH
    k7  2026-09-01T03:00:01Z  w2    4.0 KiB  2026-09-01T03:00:00Z  6 d         app-etc  config.php
    ");
    assert_snapshot!(conflicts::render(&conflict), @r"
    conflict k7
    mount     app-etc
    path      config.php
    kept      file, 4.0 KiB, modified 2026-09-01T03:00:00Z, from w2
    why       edited on w1 and w2 at once
    since     2026-09-01T03:00:01Z
    expires   2026-09-08T03:00:01Z

    to see it         trefoil conflicts show k7 --content
    to bring it back  trefoil conflicts restore k7
    to drop it        trefoil conflicts discard k7
    ");
}

#[test]
fn the_configuration_is_explained() {
    let text = "[node]\nname = \"w1\"\nlisten = \"127.0.0.1:7440\"\n\
        [class.flag]\ntrash = \"1d\"\ndelete_budget = 100\n\
        [[mount]]\nname = \"var\"\npath = \"/srv/var\"\nignore = \"*.swp\"\n\
        [[mount.rule]]\nmatch = \"/import/**\"\nclass = \"precious\"\n";
    let around = Surroundings {
        file: Path::new("/etc/trefoil/trefoil.toml"),
        host_name: "",
        resolve: &Path::to_owned,
    };
    let config = Config::parse(text, &around).unwrap();
    assert_snapshot!(config::render(&config), @r"
    /etc/trefoil/trefoil.toml is valid

    node w1
      state       /var/lib/trefoil
      listens     127.0.0.1:7440 (UDP)
      advertises  127.0.0.1:7440
      control     /run/trefoil/control.sock
      HTTP        none
      conflicts   at most 10% of the disk
      trash       at most 20% of the disk of each mount
      snapshots   at 0 */6 * * * (UTC)
      retention   keeps all up to 3 days old, one a day up to 6 days old, one a week up to 6 weeks old, one every two weeks up to 12 weeks old, one a month up to 22 weeks old; always what is pinned and the last that can be restored

    mount var: /srv/var
      no preset, watch auto
      MATCH            CLASS     FROM
      *.swp            local     ignore
      /import/**       precious  rule
      everything else  normal    default

    what a class means
      CLASS     SETTLE        CONFLICT     TRASH  EMPTIED HOLD  DELETE BUDGET
      config    50ms          keep         7d     5s            0
      flag      50ms          keep         1d     off           100
      barrier   50ms          keep         off    off           off
      release   200ms         keep         off    off           off
      precious  1s            keep         7d     off           50 or 1%
      normal    1s            keep         7d     off           1000 or 20%
      derived   1s            last-writer  off    off           off
      local     not mirrored
    ");
}

#[test]
fn the_trash_is_listed() {
    let item = |id: &str, path: &str, kind: &str, happened: &str| TrashItem {
        id: id.to_owned(),
        mount: "media".to_owned(),
        path: path.to_owned(),
        path_bytes: String::new(),
        path_is_whole: true,
        kind: kind.to_owned(),
        bytes: 4096,
        modified: at("2026-08-01T00:00:00Z"),
        happened: happened.to_owned(),
        by: (happened != "unknown").then(|| "w1".to_owned()),
        when: at("2026-09-01T03:00:01Z"),
        expires: at("2026-09-08T03:00:01Z"),
        copies: ["w2", "w3"]
            .map(|node| TrashCopy { node: node.to_owned(), place: String::new() })
            .into(),
    };
    assert_snapshot!(trash::render(&[], now()), @r#"
    nothing in the trash
    "#);
    let items = [
        item("3f2a91bc55aa77ee", "catalog/logo.png", "file", "removed"),
        item("77ee01aa00000000", "catalog", "directory", "removed"),
        item("0000000000000001", "…og/x.png", "file", "unknown"),
    ];
    assert_snapshot!(trash::render(&items, now()), @r#"
    3 things in the trash

    ID        WHEN                  WHAT               BY  SIZE     ON     EXPIRES IN  MOUNT  PATH
    3f2a91bc  2026-09-01T03:00:01Z  removed            w1  4.0 KiB  w2,w3  6 d         media  catalog/logo.png
    77ee01aa  2026-09-01T03:00:01Z  directory removed  w1  -        w2,w3  6 d         media  catalog
    00000000  2026-09-01T03:00:01Z  unknown            -   4.0 KiB  w2,w3  6 d         media  …og/x.png
    "#);
}
