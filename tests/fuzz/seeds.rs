//! Valid inputs of each decoder, of every kind that there is.

use std::fmt::Write as _;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use trefoil::model::{
    ContentId, Entry, Incarnation, Kind, Lane, LinkGroup, Meta, Mtime, NodeId, Record, RelPath,
    Sequence, Stamp, Version, VersionVector,
};
use trefoil::net::wire::{
    Announced, EnrolReply, EnrolRequest, Enrolment, FetchReply, Refusal, Request, RpcReply,
    RpcRequest,
};
use trefoil::net::{
    Ack, Announce, ClusterId, ControlMessage, FetchRequest, Hello, LaneHead, MarkerId, Member,
    MemberState, Members, MountHello, MountState, Secret, Ticket, frame,
};

use crate::generate::Rng;

fn name(rng: &mut Rng) -> String {
    (*rng.pick(&["var", "pub/media", "web1", "n", "Ladenöl", "a.b-c_d"])).to_owned()
}

fn hash(rng: &mut Rng) -> [u8; 32] {
    *blake3::hash(&rng.next().to_le_bytes()).as_bytes()
}

fn bounded(rng: &mut Rng) -> u64 {
    rng.number() >> 1
}

fn sequence(rng: &mut Rng) -> Sequence {
    Sequence(bounded(rng))
}

fn rel_path(rng: &mut Rng) -> RelPath {
    RelPath::parse(&path(rng)).unwrap()
}

fn addresses(rng: &mut Rng) -> Vec<String> {
    let all = ["127.0.0.1:7440", "[::1]:1", "web-1.example:65535", "h:7"];
    (0..rng.below(4)).map(|_| (*rng.pick(&all)).to_owned()).collect()
}

/// Valid bytes of a path.
pub(crate) fn path(rng: &mut Rng) -> Vec<u8> {
    let names: [&[u8]; 9] =
        [b"a", b"app", b"etc", b"env.php", b"...", b"\xff\xfe", b"..a", b"new\nline", b"%2e%2e"];
    let names: Vec<&[u8]> = (0..rng.below(6)).map(|_| *rng.pick(&names)).collect();
    names.join(&b'/')
}

fn version(rng: &mut Rng) -> Version {
    let stamp = Stamp { counter: bounded(rng), node: NodeId(rng.next()) };
    let pairs = (0..rng.below(5)).map(|_| (NodeId(rng.next()), bounded(rng))).collect::<Vec<_>>();
    let mut seen = VersionVector::from_pairs(pairs);
    seen.add(stamp);
    let touched = Stamp { counter: bounded(rng), node: NodeId(rng.next()) };
    let mut vector = seen.clone();
    vector.add(touched);
    Version { stamp, seen, vector, weak: rng.chance(2), touched }
}

fn entry(rng: &mut Rng, content: Option<&[u8]>) -> Entry {
    let kind = match (content, rng.below(3)) {
        (None, 0) => Kind::Dir,
        (None, 1) => Kind::Symlink { target: b"../../etc/passwd".as_slice().into() },
        _ => Kind::File {
            size: content.map_or_else(|| rng.number(), |bytes| bytes.len() as u64),
            content: content.map_or_else(|| ContentId([7; 32]), ContentId::of),
            sparse: rng.chance(2),
            group: rng.chance(3).then(|| LinkGroup(rng.next())),
        },
    };
    let xattr = |n: u8| (vec![b'u', b'a' + n].into(), vec![n; 9].into());
    let xattrs = (0..u8::try_from(rng.below(4)).unwrap()).map(xattr).collect();
    let mtime = Mtime { secs: rng.number().cast_signed(), nanos: 999_999_999 };
    let meta = Meta { mode: 0o4755, uid: u32::MAX, gid: 33, mtime, xattrs };
    Entry { kind, meta }
}

fn any_record(rng: &mut Rng, content: Option<&[u8]>) -> Record {
    let live = content.is_some() || rng.chance(2);
    let entry = live.then(|| entry(rng, content));
    Record { path: rel_path(rng), entry, version: version(rng) }
}

pub(crate) fn record(rng: &mut Rng) -> Vec<u8> {
    any_record(rng, None).encode()
}

pub(crate) fn announce(rng: &mut Rng) -> Vec<u8> {
    let announced = |rng: &mut Rng| {
        let length = rng.below(60);
        let content: Option<Arc<[u8]>> = rng.chance(2).then(|| rng.bytes(length).into());
        Announced {
            sequence: sequence(rng),
            record: any_record(rng, content.as_deref()),
            after: rng.chance(3).then(|| sequence(rng)),
            content,
        }
    };
    let records = (0..rng.below(5)).map(|_| announced(rng)).collect();
    Announce { records, progress: sequence(rng), moved: sequence(rng) }.encode()
}

fn members(rng: &mut Rng) -> Members {
    let mut list = Members::new(ClusterId([3; 16]));
    for _ in 0..rng.below(5) {
        list.put(Member {
            id: NodeId(rng.next() | 1),
            name: name(rng),
            addresses: addresses(rng),
            state: if rng.chance(3) { MemberState::Removed } else { MemberState::Active },
            changed: rng.number(),
            key: rng.chance(2).then(|| hash(rng)),
        });
    }
    for _ in 0..rng.below(3) {
        list.put_mount(&name(rng), MarkerId([5; 16]));
    }
    list
}

fn cursors(rng: &mut Rng) -> Vec<(Lane, Sequence)> {
    let lanes = &Lane::ALL[..rng.below(6)];
    lanes.iter().map(|&lane| (lane, sequence(rng))).collect()
}

pub(crate) fn control(rng: &mut Rng) -> Vec<u8> {
    let message = match rng.below(7) {
        0 => ControlMessage::Hello(Hello {
            protocol_min: 1,
            protocol_max: u32::MAX,
            features: rng.number(),
            name: name(rng),
            release: "0.1.0".to_owned(),
        }),
        1 => ControlMessage::Members(members(rng)),
        2 => ControlMessage::MountHello(MountHello {
            mount: name(rng),
            policy: hash(rng),
            incarnation: Incarnation(rng.next() | 1),
            known: Incarnation(rng.number()),
            cursors: cursors(rng),
            arrived: cursors(rng),
            paused: rng.chance(2),
            head: sequence(rng),
            dropped: cursors(rng),
            former: rng.chance(2).then(|| (Incarnation(rng.next() | 1), cursors(rng))),
        }),
        3 => ControlMessage::State(Box::new(MountState {
            mount: name(rng),
            head: sequence(rng),
            fingerprint: hash(rng),
            versions_fingerprint: hash(rng),
            files: rng.number(),
            bytes: rng.number(),
            pending: rng.number(),
            problems: rng.number(),
            held: rng.number(),
            links: (0..rng.below(5)).map(|_| NodeId(rng.next() | 1)).collect(),
            halted: name(rng),
        })),
        4 => ControlMessage::Ack(Ack {
            mount: name(rng),
            incarnation: Incarnation(rng.number()),
            lanes: cursors(rng),
        }),
        5 => ControlMessage::Bye(1),
        _ => ControlMessage::Certificate(rng.number()),
    };
    message.encode()
}

pub(crate) fn lane_head(rng: &mut Rng) -> Vec<u8> {
    LaneHead { mount: name(rng), lane: *rng.pick(&Lane::ALL) }.encode()
}

pub(crate) fn request(rng: &mut Rng) -> Vec<u8> {
    if rng.chance(3) {
        let body = b"{\"mount\":\"var\",\"buckets\":[1,2]}".to_vec();
        return Request::Rpc(RpcRequest { method: "verify.rows".to_owned(), body }).encode();
    }
    let (a, b) = (rng.number(), rng.number());
    let fetch = FetchRequest {
        mount: name(rng),
        path: rel_path(rng),
        content: ContentId(hash(rng)),
        size: a.max(b),
        offset: a.min(b),
        ranges: if rng.chance(2) {
            vec![(a.min(b), (a.max(b) - a.min(b)).max(1))]
        } else {
            Vec::new()
        },
        lane: *rng.pick(&Lane::ALL),
    };
    Request::Fetch(fetch).encode()
}

/// The content's size, and its pieces.
pub(crate) fn recipe(rng: &mut Rng) -> Vec<u8> {
    let lengths: Vec<_> = (0..rng.below(9)).map(|_| (64 << 10) + rng.below(448 << 10)).collect();
    let size: usize = lengths.iter().sum();
    let mut bytes = (size as u64).to_le_bytes().to_vec();
    for length in lengths {
        // Some pieces are alike.
        bytes.extend([u8::from(rng.chance(2)); 16]);
        bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
    }
    bytes
}

pub(crate) fn reply(rng: &mut Rng) -> Vec<u8> {
    if rng.chance(2) {
        return FetchReply { found: rng.chance(2), offset: rng.number() }.encode();
    }
    let length = rng.below(50);
    let error = rng.chance(2).then(|| name(rng));
    RpcReply { error, body: rng.bytes(length), more: rng.chance(2) }.encode()
}

pub(crate) fn enrolment(rng: &mut Rng) -> Vec<u8> {
    match rng.below(3) {
        0 => EnrolRequest {
            secret: Secret(hash(rng)),
            name: name(rng),
            signing_request: rng.bytes(200),
            addresses: addresses(rng),
            port: 7440,
            release: "0.1.0".to_owned(),
        }
        .encode(),
        1 => EnrolReply::Refused(Refusal::Used, name(rng)).encode(),
        _ => EnrolReply::Enrolled(Box::new(Enrolment {
            id: NodeId(rng.next() | 1),
            ca_certificate: rng.bytes(300),
            ca_key: rng.bytes(100),
            certificate: rng.bytes(300),
            members: members(rng),
        }))
        .encode(),
    }
}

pub(crate) fn frame(rng: &mut Rng) -> Vec<u8> {
    let message = announce(rng).repeat(1 + rng.below(20));
    match rng.below(3) {
        0 => frame::encode(&message).unwrap(),
        _ => frame::encode_compressed(&message).unwrap(),
    }
}

/// What a ticket has inside, without prefix and checksum.
pub(crate) fn ticket(rng: &mut Rng) -> Vec<u8> {
    let ticket = Ticket {
        addresses: addresses(rng),
        inviter: NodeId(rng.next() | 1),
        pin: hash(rng),
        secret: Secret(hash(rng)),
        key: hash(rng),
        expires_secs: rng.number(),
    };
    let line = ticket.to_string();
    if rng.chance(4) {
        return line.into_bytes();
    }
    let mut bytes = BASE64URL_NOPAD.decode(&line.as_bytes()["trefoil1-".len()..]).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// The line of a ticket that has these bytes inside, with the right checksum; or the bytes, if they
/// are one already.
pub(crate) fn ticket_line(bytes: &[u8]) -> String {
    if bytes.starts_with(b"trefoil1-") {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let sum = blake3::hash(bytes);
    let whole = [bytes, &sum.as_bytes()[..4]].concat();
    format!("trefoil1-{}", BASE64URL_NOPAD.encode(&whole))
}

pub(crate) fn configuration(rng: &mut Rng) -> Vec<u8> {
    if rng.chance(20) {
        return include_bytes!("../../config/trefoil.toml").to_vec();
    }
    let mut text = "[node]\nname = \"w1\"\nlisten = \"[::]:7440\"\n".to_owned();
    if rng.chance(2) {
        text.push_str("advertise = [\"a.example:7440\", \"[::1]:1\"]\nstate = \"/var/lib/t\"\n");
    }
    if rng.chance(2) {
        text.push_str("[control]\nsocket = \"/run/t.sock\"\nhttp = \"127.0.0.1:7441\"\n");
    }
    for n in 0..1 + rng.below(3) {
        writeln!(text, "[[mount]]\nname = \"m{n}\"\npath = \"/srv/m{n}\"").unwrap();
        if rng.chance(2) {
            text.push_str("preset = \"magento:media\"\n");
        }
        if rng.chance(2) {
            text.push_str("ignore = [\"*.{tmp,[a-z]?}\", \"/x/**\"]\n");
        }
        if rng.chance(2) {
            text.push_str("[[mount.rule]]\nmatch = \"a/*\"\nclass = \"precious\"\n");
        }
    }
    text.into_bytes()
}

pub(crate) fn body(rng: &mut Rng) -> Vec<u8> {
    let bodies = [
        "{\"timeout_ms\":1000}",
        "{\"mount\":\"var\",\"nodes\":\"all\",\"timeout_ms\":18446744073709551615}",
        "{\"mount\":\"var\",\"deep\":true}",
        "{}",
        "{\"mount\":\"var\",\"path_bytes\":\"612f62\"}",
    ];
    rng.pick(&bodies).as_bytes().to_vec()
}
