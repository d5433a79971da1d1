//! A hostile member against real daemons: what it sends goes nowhere, costs a bounded amount of memory
//! and one line of the log, and the other nodes go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trefoil::model::limits::SHARE_MAX;
use trefoil::model::{
    ContentId, Entry, Kind, Lane, Meta, Mtime, NodeId, Record, RelPath, Sequence, Stamp, Version,
};
use trefoil::net::Announced;
use trefoil::net::frame::HEAD_BYTES;

use crate::cluster::{Cluster, Setup};
use crate::rogue::{Answer, Rogue, Sent, announce, announced};

const MOUNT: &str = "var";
const PATIENCE: Duration = Duration::from_secs(30);

/// Memory that a daemon may have had at most while it was attacked: an idle one has some 20 MiB, and
/// frames of 4 MiB come in by eight.
const RSS_KIB_MAX: u64 = 120 << 10;

/// Two nodes, of which the second, the victim, has an id that is higher than half of all: a rogue needs a
/// lower one, and takes what it gets.
fn cluster() -> Cluster {
    loop {
        let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
        cluster.wait_in_sync(PATIENCE);
        let status = cluster.node(2).status().unwrap();
        let id = u64::from_str_radix(status["node_id"].as_str().unwrap(), 16).unwrap();
        if id > u64::MAX / 2 {
            return cluster;
        }
    }
}

fn record(path: &str, counter: u64, kind: Option<Kind>) -> Record {
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
    let entry = kind.map(|kind| Entry { kind, meta });
    let version = Version::edit(Stamp { counter, node: NodeId(99) }, None);
    Record { path: RelPath::parse(path.as_bytes()).unwrap(), entry, version }
}

fn file(size: u64, content: ContentId) -> Option<Kind> {
    Some(Kind::File { size, content, sparse: false, group: None })
}

/// The most memory that the daemon of node `n` ever had, in KiB.
fn peak_kib(cluster: &Cluster, n: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(n).pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the honest nodes write reaches each other.
#[track_caller]
fn assert_goes_on(cluster: &mut Cluster, name: &str) {
    for (from, to) in [(1, 2), (2, 1)] {
        let name = format!("{name}-{from}");
        fs::write(cluster.node(from).path(MOUNT).join(&name), &name).unwrap();
        let file = cluster.node(to).path(MOUNT).join(&name);
        cluster.wait_until(PATIENCE, &name, |_| match fs::read_to_string(&file) {
            Ok(text) if text == name => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// The same, and nobody took much memory.
#[track_caller]
fn assert_unaffected(cluster: &mut Cluster, name: &str) {
    assert_goes_on(cluster, name);
    for n in [1, 2] {
        let kib = peak_kib(cluster, n);
        assert!(kib < RSS_KIB_MAX, "node {n} had {kib} KiB in memory");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn records_below_a_symbolic_link_are_applied_nowhere() {
    let mut cluster = cluster();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "untouched").unwrap();
    fs::create_dir(outside.path().join("folder")).unwrap();
    let target = outside.path().as_os_str().as_encoded_bytes().into();
    // One link that the rogue makes, and one that a user made before.
    symlink(outside.path(), cluster.node(2).path(MOUNT).join("old")).unwrap();
    let content = b"planted".as_slice();
    let planted = || file(7, ContentId::of(content));
    let mut records = vec![announced(1, record("door", 1, Some(Kind::Symlink { target })), None)];
    let mut sequence = 1;
    for link in ["door", "old"] {
        for (name, kind, inline) in [
            ("planted", planted(), Some(content)),
            ("secret", planted(), Some(content)),
            ("secret", None, None),
            ("folder", None, None),
            ("folder/deep", planted(), Some(content)),
            ("made", Some(Kind::Dir), None),
        ] {
            sequence += 1;
            let path = format!("{link}/{name}");
            records.push(announced(sequence, record(&path, sequence, kind), inline));
        }
    }
    records.push(announced(sequence + 1, record("fine", 99, planted()), Some(content)));
    let mut messages = vec![announce(records)];
    let script = move |_| messages.pop().map(|m| Sent::Announce(Lane::Normal, m));
    let rogue = Rogue::start(&mut cluster, (2, MOUNT), Answer::Wrong, Box::new(script));
    let fine = cluster.node(2).path(MOUNT).join("fine");
    cluster.wait_until(PATIENCE, "the harmless file", |_| {
        fs::read(&fine).map(drop).map_err(|error| error.to_string())
    });
    assert_unaffected(&mut cluster, "after");
    drop(rogue);
    assert_eq!(vec!["folder", "secret"], names(outside.path()));
    assert_eq!("untouched", fs::read_to_string(outside.path().join("secret")).unwrap());
    assert!(names(&outside.path().join("folder")).is_empty());
}

#[test]
fn content_with_a_wrong_hash_or_without_an_end_is_never_visible() {
    for answer in [Answer::Wrong, Answer::Endless] {
        let mut cluster = cluster();
        let promised = |n: u8| ContentId::of(&[n]);
        let records = vec![
            announced(1, record("fetched", 1, file(3 << 20, promised(1))), None),
            announced(2, record("inline", 2, file(5, promised(2))), Some(b"other")),
            announced(3, record("huge", 3, file(1 << 20, promised(3))), None),
        ];
        let mut messages = vec![announce(records)];
        let script = move |_| messages.pop().map(|m| Sent::Announce(Lane::Normal, m));
        let rogue = Rogue::start(&mut cluster, (2, MOUNT), answer, Box::new(script));
        cluster.wait_until(PATIENCE, "the problems", |cluster| {
            let status = cluster.node(2).status()?;
            let problems = status["mounts"][0]["problem_count"].as_u64();
            if problems == Some(3) { Ok(()) } else { Err(status.to_string()) }
        });
        assert_unaffected(&mut cluster, "after");
        for n in [1, 2] {
            for name in ["fetched", "inline", "huge"] {
                let path = cluster.node(n).path(MOUNT).join(name);
                assert!(!path.exists(), "{answer:?}: {}", path.display());
            }
        }
        drop(rogue);
    }
}

#[test]
fn a_bomb_costs_the_connection_little_memory_and_one_line_of_the_log() {
    let mut cluster = cluster();
    // 2 GiB of zeros, in a frame that is allowed.
    let body =
        zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 2 << 30), 1).unwrap();
    let mut bomb = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bomb.push(1);
    assert_eq!(HEAD_BYTES, bomb.len());
    bomb.extend(body);
    let script = move |n| (n < 20).then(|| Sent::Control(bomb.clone()));
    let rogue = Rogue::start(&mut cluster, (2, MOUNT), Answer::Wrong, Box::new(script));
    let reason = rogue.closed(PATIENCE);
    assert!(reason.contains("decompress") || reason.contains("too long"), "{reason}");
    assert_unaffected(&mut cluster, "after");
    let log = cluster.node(2).log();
    let said = log.lines().filter(|line| line.contains("refused for a while")).count();
    assert_eq!(1, said, "{log}");
}

/// Sends for that long without a pause what `next` makes of a number, while the honest nodes write.
fn flood(seconds: u64, next: impl Fn(u64) -> Sent + Send + 'static) -> Cluster {
    let mut cluster = cluster();
    let end = Instant::now() + Duration::from_secs(seconds);
    let script = move |n| (Instant::now() < end).then(|| next(n));
    let rogue = Rogue::start(&mut cluster, (2, MOUNT), Answer::Wrong, Box::new(script));
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        assert_unaffected(&mut cluster, &format!("during-{round}"));
    }
    drop(rogue);
    assert_unaffected(&mut cluster, "after");
    eprintln!("flooded: {} KiB, {round} rounds", peak_kib(&cluster, 2));
    cluster
}

/// Message `n` of an endless list of paths that were never there.
fn deletions(lane: Lane, n: u64) -> Sent {
    let numbers = (1..=1024).map(|k| n * 1024 + k);
    let records = numbers.map(|k| announced(k, record(&format!("gone-{k}"), k, None), None));
    Sent::Announce(lane, announce(records.collect()))
}

#[test]
fn an_endless_stream_of_records_costs_little_memory_and_delays_nobody_for_long() {
    flood(4, |n| deletions(Lane::Normal, n));
}

#[test]
fn an_endless_stream_of_urgent_records_costs_little_memory() {
    flood(4, |n| deletions(Lane::Urgent, n));
}

#[test]
fn an_endless_stream_of_messages_costs_little_memory() {
    flood(4, |n| {
        let lanes = vec![(Lane::Normal, Sequence(n))];
        let ack = trefoil::net::Ack {
            mount: MOUNT.to_owned(),
            incarnation: trefoil::model::Incarnation(n + 1),
            lanes,
        };
        let message = trefoil::net::ControlMessage::Ack(ack).encode();
        let frame = trefoil::net::frame::encode(&message).unwrap();
        Sent::Control(frame.repeat(200))
    });
}

/// Records of a member who hoards, in messages of this many.
const HOARD: u64 = 100_000;
const TOGETHER: u64 = 500;

/// Memory that a daemon may have had at most for that: less than half of what all of it would take.
const HOARD_KIB_MAX: u64 = 200 << 10;

/// A rogue announces records that can never be finished, message after message; what node 1 writes
/// reaches node 2 all the same. Waits at first until node 2 has taken all of them, or has not for
/// want of room.
fn hoarded(
    answer: Answer,
    all: bool,
    hoard: impl Fn(u64) -> (Lane, Vec<Announced>) + Send + 'static,
) {
    let mut cluster = cluster();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let script = move |n| {
        count.store(n * TOGETHER, Ordering::Relaxed);
        let (lane, records) = hoard(n);
        (n < HOARD / TOGETHER).then(|| Sent::Announce(lane, announce(records)))
    };
    let rogue = Rogue::start(&mut cluster, (2, MOUNT), answer, Box::new(script));
    cluster.wait_until(PATIENCE, "as much as the rogue has room for", |cluster| {
        let status = cluster.node(2).status()?;
        let pending = status["mounts"][0]["pending"].as_u64().unwrap_or_default();
        let sent = sent.load(Ordering::Relaxed);
        let full = pending >= SHARE_MAX as u64 && (!all || sent >= HOARD);
        if full { Ok(()) } else { Err(format!("{sent} sent, {status}")) }
    });
    for round in 0..3 {
        assert_goes_on(&mut cluster, &format!("during-{round}"));
        // Too large to come with its announcement.
        let large = vec![round; 1 << 20];
        let name = format!("large-{round}");
        fs::write(cluster.node(1).path(MOUNT).join(&name), &large).unwrap();
        let file = cluster.node(2).path(MOUNT).join(&name);
        cluster.wait_until(PATIENCE, &name, |_| match fs::read(&file) {
            Ok(bytes) if bytes == large => Ok(()),
            other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
        });
    }
    let (sent, kib) = (sent.load(Ordering::Relaxed), peak_kib(&cluster, 2));
    eprintln!("hoarded: {sent} records, {kib} KiB");
    assert_eq!(all, sent >= HOARD, "{sent}");
    assert!(kib < HOARD_KIB_MAX, "{kib} KiB in memory");
    drop(rogue);
}

#[test]
fn contents_that_are_never_given_keep_no_other_file_from_coming() {
    hoarded(Answer::Silent, false, |n| {
        let files = (1..=TOGETHER).map(|k| n * TOGETHER + k).map(|k| {
            let kind = file(1 << 20, ContentId::of(&k.to_le_bytes()));
            announced(k, record(&format!("never-{k}"), k, kind), None)
        });
        (Lane::Normal, files.collect())
    });
}

#[test]
fn records_that_wait_for_what_never_comes_keep_no_other_file_from_coming() {
    hoarded(Answer::Wrong, true, |n| {
        let lanes = [Lane::Urgent, Lane::Release, Lane::Normal, Lane::Derived];
        let (lane, ordered) = (lanes[usize::try_from(n % 4).unwrap()], n % 8 < 4);
        let files = (1..=TOGETHER).map(|k| n * TOGETHER + k).map(|k| {
            let content = k.to_le_bytes();
            let name = if ordered { format!("ordered-{k}") } else { format!("no/dir/{k}") };
            let record = record(&name, k, file(8, ContentId::of(&content)));
            let after = ordered.then_some(Sequence(1 << 40));
            Announced { after, ..announced(k, record, Some(&content)) }
        });
        (lane, files.collect())
    });
}
