//! Every message reads back as it was written, and no bytes panic.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{
    ContentId, Entry, Incarnation, Kind, Lane, Meta, Mtime, Record, RelPath, Sequence, Stamp,
    Version,
};
use crate::net::members::Members;
use crate::net::members::tests::member_lists;
use crate::net::ticket::Secret;

fn numbers() -> impl Strategy<Value = u64> {
    0..=limits::NUMBER_MAX
}

fn lanes() -> impl Strategy<Value = Lane> {
    prop::sample::select(Lane::ALL.to_vec())
}

fn cursors() -> impl Strategy<Value = Vec<(Lane, Sequence)>> {
    prop::collection::btree_map(lanes(), numbers().prop_map(Sequence), 0..5)
        .prop_map(|map| map.into_iter().collect())
}

fn controls() -> impl Strategy<Value = ControlMessage> {
    let counts = (numbers(), any::<[u64; 4]>());
    let hashes = any::<[[u8; 32]; 2]>();
    let links = prop::collection::vec(1_u64.., 0..5);
    let former = prop::option::of((1_u64.., cursors()))
        .prop_map(|life| life.map(|(id, at)| (Incarnation(id), at)));
    prop_oneof![
        (any::<(u8, u8, u64)>(), "[a-z]{1,9}", "[a-z.]{0,9}").prop_map(
            |((min, more, features), name, release)| {
                let protocol_min = u32::from(min) + 1;
                let protocol_max = protocol_min + u32::from(more);
                ControlMessage::Hello(Hello { protocol_min, protocol_max, features, name, release })
            }
        ),
        member_lists().prop_map(ControlMessage::Members),
        (
            "[a-z/]{1,9}",
            any::<[u8; 32]>(),
            1_u64..,
            (any::<u64>(), any::<bool>(), numbers()),
            (cursors(), cursors(), cursors()),
            former
        )
            .prop_map(
                |(
                    mount,
                    policy,
                    incarnation,
                    (known, paused, head),
                    (cursors, arrived, dropped),
                    former,
                )| {
                    ControlMessage::MountHello(MountHello {
                        mount,
                        policy,
                        incarnation: Incarnation(incarnation),
                        known: Incarnation(known),
                        cursors,
                        arrived,
                        paused,
                        head: Sequence(head),
                        former,
                        dropped,
                    })
                }
            ),
        ("[a-z/]{1,9}", counts, hashes, links, "[a-z ]{0,9}").prop_map(
            |(mount, (head, [files, bytes, pending, problems]), [a, b], links, halted)| {
                ControlMessage::State(Box::new(MountState {
                    mount,
                    head: Sequence(head),
                    fingerprint: a,
                    versions_fingerprint: b,
                    files,
                    bytes,
                    pending,
                    problems,
                    links: links.into_iter().map(NodeId).collect(),
                    halted,
                    held: pending / 2,
                }))
            }
        ),
        ("[a-z/]{1,9}", any::<u64>(), cursors()).prop_map(|(mount, incarnation, lanes)| {
            ControlMessage::Ack(Ack { mount, incarnation: Incarnation(incarnation), lanes })
        }),
        any::<u32>().prop_map(ControlMessage::Bye),
        any::<u64>().prop_map(ControlMessage::Certificate),
    ]
}

fn announced() -> impl Strategy<Value = Announced> {
    let content = prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
    let counts = (numbers(), prop::option::of(numbers()), numbers(), any::<u64>());
    ("[a-z]{1,20}", content, any::<bool>(), counts).prop_map(
        |(path, content, live, (sequence, after, counter, node))| {
            let meta =
                Meta { mode: 0o644, uid: 1, gid: 2, mtime: Mtime::default(), xattrs: Vec::new() };
            let bytes = content.clone().unwrap_or_default();
            let (size, content_id) = (bytes.len() as u64, ContentId::of(&bytes));
            let kind = Kind::File { size, content: content_id, sparse: false, group: None };
            let stamp = Stamp { counter, node: NodeId(node) };
            Announced {
                sequence: Sequence(sequence),
                record: Record {
                    path: RelPath::parse(path.as_bytes()).unwrap(),
                    entry: live.then_some(Entry { kind, meta }),
                    version: Version::edit(stamp, None),
                },
                after: after.map(Sequence),
                content: content.filter(|_| live).map(Arc::from),
            }
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let sizes = any::<(u64, u64)>().prop_map(|(a, b)| (a.max(b), a.min(b)));
    prop_oneof![
        ("[a-z/]{1,9}", "[a-z]{1,20}", any::<[u8; 32]>(), sizes, lanes()).prop_map(
            |(mount, path, content, (size, offset), lane)| {
                let path = RelPath::parse(path.as_bytes()).unwrap();
                let content = ContentId(content);
                // Every other of as many pieces as fit.
                let step = (size - offset) / 9;
                let ranges = (0..if step > 1 { 4 } else { 0 })
                    .map(|n| (offset + 2 * n * step, step))
                    .collect();
                Request::Fetch(FetchRequest { mount, path, content, size, offset, ranges, lane })
            }
        ),
        ("[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(method, body)| Request::Rpc(RpcRequest { method, body })),
    ]
}

fn only_progress(progress: u64) -> Announce {
    Announce { records: Vec::new(), progress: Sequence(progress), moved: Sequence(0) }
}

proptest! {
    #[test]
    fn a_decoded_message_is_the_encoded_one(
        control in controls(),
        records in prop::collection::vec(announced(), 0..5),
        (progress, moved) in (numbers(), numbers()),
        request in requests(),
        lane in lanes(),
        reply in (any::<bool>(), any::<u64>()),
        rpc in (prop::option::of("[a-z ]{0,20}"), any::<Vec<u8>>(), any::<bool>()),
    ) {
        prop_assert_eq!(ControlMessage::decode(&control.encode()).unwrap(), Some(control));
        let (progress, moved) = (Sequence(progress), Sequence(moved));
        let announce = Announce { records, progress, moved };
        prop_assert_eq!(&announce, &Announce::decode(&announce.encode()).unwrap());
        prop_assert_eq!(Request::decode(&request.encode()).unwrap(), Some(request));
        let head = LaneHead { mount: "pub/media".to_owned(), lane };
        prop_assert_eq!(LaneHead::decode(&head.encode()).unwrap(), Some(head));
        let reply = FetchReply { found: reply.0, offset: reply.1 };
        prop_assert_eq!(reply, FetchReply::decode(&reply.encode()).unwrap());
        let reply = RpcReply { error: rpc.0, body: rpc.1, more: rpc.2 };
        prop_assert_eq!(&reply, &RpcReply::decode(&reply.encode()).unwrap());
    }

    #[test]
    fn a_decoded_enrolment_is_the_encoded_one(
        secret in any::<[u8; 32]>(),
        ders in any::<[[u8; 40]; 3]>(),
        members in member_lists(),
        id in 1_u64..,
        port in any::<u16>(),
    ) {
        let request = EnrolRequest {
            secret: Secret(secret),
            name: "node-1".to_owned(),
            signing_request: ders[0].to_vec(),
            addresses: vec!["[::1]:5".to_owned()],
            port,
            release: "0.1.0".to_owned(),
        };
        prop_assert_eq!(&request, &EnrolRequest::decode(&request.encode()).unwrap());
        let [ca_certificate, ca_key, certificate] = ders.map(|der| der.to_vec());
        let id = NodeId(id);
        let enrolment = Enrolment { id, ca_certificate, ca_key, certificate, members };
        let reply = EnrolReply::Enrolled(Box::new(enrolment));
        prop_assert_eq!(&reply, &EnrolReply::decode(&reply.encode()).unwrap());
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(ControlMessage::decode(&bytes));
        drop(Announce::decode(&bytes));
        drop(LaneHead::decode(&bytes));
        drop(Request::decode(&bytes));
        drop(FetchReply::decode(&bytes));
        drop(RpcReply::decode(&bytes));
        drop(EnrolRequest::decode(&bytes));
        drop(EnrolReply::decode(&bytes));
        drop(decode_ticket(&bytes));
    }

    #[test]
    fn damaged_messages_are_messages_or_refused(
        control in controls(),
        records in prop::collection::vec(announced(), 1..5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = control.encode();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        drop(ControlMessage::decode(&bytes));
        let mut bytes = Announce { records, ..only_progress(1) }.encode();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        drop(Announce::decode(&bytes));
        drop(Announce::decode(&bytes[..index]));
    }
}

#[test]
fn every_refusal_travels() {
    use Refusal::{Expired, Full, NameUp, Request, Unable, Unknown, Used};
    for refusal in [Unknown, Expired, Used, NameUp, Full, Request, Unable] {
        let reply = EnrolReply::Refused(refusal, "because".to_owned());
        assert_eq!(reply, EnrolReply::decode(&reply.encode()).unwrap());
    }
}

#[test]
fn messages_of_later_releases_are_skipped() {
    // Field 15, length 1.
    let unknown = [0x7a, 1, 0];
    assert_eq!(None, ControlMessage::decode(&unknown).unwrap());
    assert_eq!(None, Request::decode(&unknown).unwrap());
    assert_eq!(None, LaneHead::decode(&unknown).unwrap());
    assert!(EnrolReply::decode(&unknown).is_err());
    let mut announce = only_progress(7).encode();
    announce.extend(unknown);
    assert_eq!(Sequence(7), Announce::decode(&announce).unwrap().progress);
}

#[test]
fn a_frame_full_of_empty_records_is_refused_before_they_are_made() {
    let empty = [0x0a, 0].repeat(limits::ANNOUNCE_RECORDS_MAX + 1);
    assert!(matches!(Announce::decode(&empty), Err(WireError::Field(_))));
    let mut long = vec![0x0a];
    prost::encoding::encode_varint(RECORD_BYTES_MAX as u64 + 1, &mut long);
    long.resize(long.len() + RECORD_BYTES_MAX + 1, 0);
    assert!(matches!(Announce::decode(&long), Err(WireError::Field(_))));
}

#[test]
fn a_list_of_a_million_members_is_refused_before_they_are_made() {
    let empty = [0x12, 0].repeat(400_000);
    let mut message = vec![0x12];
    prost::encoding::encode_varint(empty.len() as u64, &mut message);
    message.extend(empty);
    let refused = ControlMessage::decode(&message);
    assert!(matches!(refused, Err(WireError::Field("number of messages"))), "{refused:?}");
}

#[test]
fn content_that_is_not_as_long_as_its_record_says_is_neither_sent_nor_taken() {
    let path = RelPath::parse(b"a").unwrap();
    let meta = Meta { mode: 0, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
    let kind = Kind::File { size: 3, content: ContentId([1; 32]), sparse: false, group: None };
    let version = Version::edit(Stamp { counter: 1, node: NodeId(1) }, None);
    let record = Record { path, entry: Some(Entry { kind, meta }), version };
    let announce = |content: &[u8]| {
        let (sequence, record) = (Sequence(1), record.clone());
        let announced = Announced { sequence, record, after: None, content: Some(content.into()) };
        Announce { records: vec![announced], ..only_progress(1) }.encode()
    };
    let content = |bytes: &[u8]| Announce::decode(bytes).unwrap().records[0].content.clone();
    assert_eq!(None, content(&announce(b"abcd")));
    let mut bytes = announce(b"abc");
    assert_eq!(Some(b"abc".as_slice()), content(&bytes).as_deref());
    // Field 4 comes last but for the progress: the same bytes, said to be one less.
    let at = bytes.windows(5).position(|w| w == [0x22, 3, b'a', b'b', b'c']).unwrap();
    bytes.splice(at..at + 5, [0x22, 2, b'a', b'b']);
    bytes[1] -= 1;
    assert!(matches!(Announce::decode(&bytes), Err(WireError::Field("content"))));
}

#[test]
fn a_lane_twice_in_a_list_of_cursors_is_refused() {
    let lanes = vec![(Lane::Normal, Sequence(1)), (Lane::Normal, Sequence(2))];
    let ack = Ack { mount: "m".to_owned(), incarnation: Incarnation(1), lanes };
    assert!(ControlMessage::decode(&ControlMessage::Ack(ack).encode()).is_err());
}

#[test]
fn the_longest_member_list_fits_into_a_message() {
    use crate::net::members::{ADDRESSES_MAX, ClusterId, MEMBERS_MAX, Member, MemberState};
    let mut members = Members::new(ClusterId([1; 16]));
    for id in 1..=MEMBERS_MAX as u64 {
        members.put(Member {
            id: NodeId(id),
            name: "n".repeat(LABEL_BYTES_MAX),
            addresses: vec![format!("{}:7440", "h".repeat(253)); ADDRESSES_MAX],
            state: MemberState::Active,
            changed: id,
            key: Some([1; 32]),
        });
        if id > limits::NODES_MAX as u64 {
            members.remove(NodeId(id), id);
        }
    }
    let message = ControlMessage::Members(members);
    assert_eq!(ControlMessage::decode(&message.encode()).unwrap(), Some(message));
}

#[track_caller]
fn check_bytes(expected: &str, message: &[u8]) {
    assert_eq!(expected, data_encoding::HEXLOWER.encode(message));
}

/// What `docs/protocol.md` says, and other releases rely on.
#[test]
fn messages_have_the_documented_bytes() {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 2,
        features: 0,
        name: "a".to_owned(),
        release: "0".to_owned(),
    };
    check_bytes("0a0a080110022201612a0130", &ControlMessage::Hello(hello).encode());
    let lanes = vec![(Lane::Normal, Sequence(5))];
    let ack = Ack { mount: "v".to_owned(), incarnation: Incarnation(1), lanes };
    check_bytes("2a120a01761101000000000000001a0408021005", &ControlMessage::Ack(ack).encode());
    check_bytes("32020801", &ControlMessage::Bye(1).encode());
    check_bytes("3a020805", &ControlMessage::Certificate(5).encode());
    let head = LaneHead { mount: "var".to_owned(), lane: Lane::Forward };
    check_bytes("0a070a037661721004", &head.encode());
    check_bytes("1007", &only_progress(7).encode());
    let request = FetchRequest {
        mount: "v".to_owned(),
        path: RelPath::parse(b"a").unwrap(),
        content: ContentId([0x11; 32]),
        size: 9,
        offset: 3,
        ranges: vec![(4, 1), (6, 3)],
        lane: Lane::Release,
    };
    let fetch = format!("0a340a01761201611a20{}2009280330013a0404010603", "11".repeat(32));
    check_bytes(&fetch, &Request::Fetch(request).encode());
    check_bytes("08011003", &FetchReply { found: true, offset: 3 }.encode());
    let reply = RpcReply { error: None, body: vec![1], more: true };
    check_bytes("1201011801", &reply.encode());
    let refused = EnrolReply::Refused(Refusal::Used, "x".to_owned());
    check_bytes("12050803120178", &refused.encode());
}
