//! What travels over a link.

use super::*;
use crate::model::{
    ContentId, Entry, Incarnation, Kind, Meta, Mtime, Record, RelPath, Stamp, Version,
};

fn message(n: u64) -> ControlMessage {
    let lanes = vec![(Lane::Normal, Sequence(n))];
    ControlMessage::Ack(Ack { mount: "var".to_owned(), incarnation: Incarnation(n + 1), lanes })
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// A file with content that does not compress.
fn announced(sequence: u64, bytes: usize) -> Announced {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&sequence.to_le_bytes()).finalize_xof().fill(&mut content);
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
    let (size, id) = (bytes as u64, ContentId::of(&content));
    let kind = Kind::File { size, content: id, sparse: false, group: None };
    let version = Version::edit(Stamp { counter: sequence, node: NodeId(1) }, None);
    let record = Record { path: path("some/file"), entry: Some(Entry { kind, meta }), version };
    Announced { sequence: Sequence(sequence), record, after: None, content: Some(content.into()) }
}

#[tokio::test]
async fn three_nodes_are_linked_and_talk_both_ways() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, ba) = linked(&mut a, &mut b).await;
    let mut c = b.invite_and_start("c").await;
    let (bc, cb) = linked(&mut b, &mut c).await;
    let ac = a.up(c.id).await;
    for (n, link) in (0..).zip([&ab, &ba, &bc, &cb, &ac]) {
        link.send_control(message(n)).unwrap();
        let urgent = announce_of(vec![announced(n, 10)], n);
        link.lane("var", Lane::Urgent).try_send(urgent.clone()).unwrap();
        let receiver = [&mut a, &mut b, &mut c].into_iter().find(|node| node.id == link.peer());
        let receiver = receiver.unwrap();
        let (mut control, mut announce) = (None, None);
        while control.is_none() || announce.is_none() {
            match receiver.wait(Some).await {
                NetEvent::Control { message, .. } => control = Some(message),
                NetEvent::Announce { announce: records, .. } => announce = Some(records),
                _ => {}
            }
        }
        assert_eq!((Some(message(n)), Some(urgent)), (control, announce));
    }
}

#[tokio::test]
async fn a_full_announcement_arrives_as_it_was_sent() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let whole = announce_of((1..=60).map(|n| announced(n, 60 << 10)).collect(), 60);
    let lane = ab.lane("pub/media", Lane::Derived);
    lane.try_send(whole.clone()).unwrap();
    lane.try_send(announce_of(Vec::new(), 61)).unwrap();
    assert_eq!(("pub/media".to_owned(), Lane::Derived, whole), b.announce().await);
    assert_eq!(Sequence(61), b.announce().await.2.progress);
}

#[tokio::test]
async fn a_stuck_backlog_delays_neither_control_nor_urgent_lanes_nor_fetches() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, ba) = linked(&mut a, &mut b).await;
    b.gate.send_replace(false);
    // More than all windows hold, on more lanes than would fit into the link's without them.
    let backlog = announce_of((1..=32).map(|n| announced(n, 60 << 10)).collect(), 32);
    let (room, mut rooms) = mpsc::channel(100);
    let mut lanes = Vec::new();
    for mount in 0..12 {
        for lane in [Lane::Release, Lane::Normal, Lane::Derived, Lane::Forward] {
            let sender = ab.lane(&format!("m{mount}"), lane);
            let room = room.clone();
            sender.on_capacity(move || {
                room.try_send(()).ok();
            });
            lanes.push(sender);
        }
    }
    let mut sent = 0;
    for lane in &lanes {
        while lane.try_send(backlog.clone()).is_ok() {
            sent += 1;
        }
    }
    // One round trip of each kind, both ways, while all of them are stuck.
    for n in 0..20 {
        ab.send_control(message(n)).unwrap();
        assert_eq!(message(n), b.control().await);
        ba.send_control(message(n)).unwrap();
        assert_eq!(message(n), a.control().await);
        let urgent = announce_of(vec![announced(n, 100)], n);
        ab.lane("m0", Lane::Urgent).try_send(urgent.clone()).unwrap();
        assert_eq!(urgent, b.announce().await.2);
        fetch(&ba, "here", 0, content().len() as u64).await.0.unwrap();
    }
    b.gate.send_replace(true);
    for _ in 0..sent {
        assert_eq!(backlog, b.announce().await.2);
    }
    tokio::time::timeout(PATIENCE, rooms.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_stops_in_the_middle_of_bulk_says_so() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let bulk = announce_of((1..=32).map(|n| announced(n, 60 << 10)).collect(), 32);
    for mount in 0..8 {
        let lane = ab.lane(&format!("m{mount}"), Lane::Normal);
        while lane.try_send(bulk.clone()).is_ok() {}
    }
    b.announce().await;
    a.net.shutdown().await;
    assert_eq!("the peer stops", b.down(a.id).await);
}

async fn fetch(
    link: &LinkHandle,
    name: &str,
    offset: u64,
    size: u64,
) -> (Result<(), FetchError>, Vec<u8>) {
    let request = FetchRequest {
        mount: "var".to_owned(),
        path: path(name),
        content: ContentId([0; 32]),
        size,
        offset,
        ranges: Vec::new(),
        lane: Lane::Normal,
    };
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (done, result) = oneshot::channel();
    let sink = taken.clone();
    link.fetch(
        request,
        move |bytes| {
            sink.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        },
        move |result| done.send(result).unwrap(),
    );
    let result = tokio::time::timeout(PATIENCE, result).await.unwrap().unwrap();
    let taken = taken.lock().unwrap().clone();
    (result, taken)
}

#[tokio::test]
async fn content_is_fetched_from_any_offset() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let whole = content();
    let size = whole.len() as u64;
    for offset in [0, 1, 700_000, size] {
        let (result, taken) = fetch(&ab, "here", offset, size).await;
        result.unwrap();
        assert!(whole[usize::try_from(offset).unwrap()..] == taken, "from {offset}");
    }
    assert!(matches!(fetch(&ab, "gone", 0, 5).await.0, Err(FetchError::NotFound)));
    assert!(matches!(fetch(&ab, "short", 0, 11).await.0, Err(FetchError::Different)));
    assert!(matches!(fetch(&ab, "broken", 0, 2 << 20).await.0, Err(FetchError::Unreadable)));
    // Never more than was asked for.
    let (result, taken) = fetch(&ab, "here", 0, 1000).await;
    result.unwrap();
    assert_eq!(1000, taken.len());
}

#[tokio::test]
async fn many_fetches_at_once_all_end() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let size = content().len() as u64;
    let fetches: Vec<_> = (0..60)
        .map(|n| {
            let link = ab.clone();
            tokio::spawn(async move { fetch(&link, "here", n * 20_000, size).await.0 })
        })
        .collect();
    for fetch in fetches {
        fetch.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_sink_that_refuses_ends_its_fetch_only() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let request = FetchRequest {
        mount: "var".to_owned(),
        path: path("here"),
        content: ContentId([0; 32]),
        size: content().len() as u64,
        offset: 0,
        ranges: Vec::new(),
        lane: Lane::Urgent,
    };
    let (done, result) = oneshot::channel();
    ab.fetch(request, |_| Err(io::Error::other("disk full")), |r| done.send(r).unwrap());
    assert!(matches!(result.await.unwrap(), Err(FetchError::Sink(_))));
    fetch(&ab, "here", 0, 1000).await.0.unwrap();
}

#[tokio::test]
async fn calls_are_answered_or_refused() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let pieces = ab.rpc("echo", vec![7; 3 << 20]).await.unwrap();
    assert_eq!(vec![vec![7; 3 << 20], a.id.to_string().into_bytes()], pieces);
    let refused = ab.rpc("nonsense", Vec::new()).await;
    assert!(matches!(refused, Err(RpcError::Refused(why)) if why == "no method nonsense"));
    let refused = ab.rpc("echo", vec![0; 5 << 20]).await;
    assert!(matches!(refused, Err(RpcError::TooLong)));
}
