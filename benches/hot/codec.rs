//! What records cost as bytes: in the index, and in an announcement as it is on the wire.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use data_encoding::HEXLOWER;
use trefoil::model::limits::FRAME_BYTES_MAX;
use trefoil::model::{ContentId, Record, Sequence};
use trefoil::net::frame::{self, FrameHead, HEAD_BYTES};
use trefoil::net::{Announce, Announced};

use crate::made;

/// Records of an announcement.
const RECORDS: u64 = 1000;

/// Bytes of content that comes along, where it does.
const CONTENT_BYTES: usize = 1 << 10;

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(RECORDS));
    let records: Vec<Record> = (0..RECORDS).map(|n| made::record(n, 0)).collect();
    group.bench_function(format!("encode {RECORDS} records"), |bencher| {
        bencher.iter(|| records.iter().for_each(|record| drop(black_box(record.encode()))));
    });
    let encoded: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
    let decode = |bytes: &Vec<u8>| drop(black_box(Record::decode(bytes).unwrap()));
    group.bench_function(format!("decode {RECORDS} records"), |bencher| {
        bencher.iter(|| encoded.iter().for_each(decode));
    });
    for (name, content) in [("without content", false), ("with content", true)] {
        let announce = announce(content);
        group.bench_function(format!("encode an announcement {name}"), |bencher| {
            bencher.iter_with_large_drop(|| to_wire(black_box(&announce)));
        });
        let frame = to_wire(&announce);
        assert_eq!(announce, from_wire(frame.clone()));
        group.bench_function(format!("decode an announcement {name}"), |bencher| {
            bencher.iter_batched(|| frame.clone(), from_wire, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn announce(content: bool) -> Announce {
    let records = (0..RECORDS).map(|n| announced(n, content)).collect();
    Announce { records, progress: Sequence(RECORDS), moved: Sequence(0) }
}

fn announced(n: u64, with_content: bool) -> Announced {
    let mut record = made::record(n, 0);
    let mut content = None;
    if with_content {
        // Half of it is redundant, as of text.
        let text = HEXLOWER.encode(&made::noise(n, CONTENT_BYTES / 2)).into_bytes();
        record.entry = Some(made::file(ContentId::of(&text), text.len() as u64));
        content = Some(Arc::from(text));
    }
    Announced { sequence: Sequence(1 + n), record, after: None, content }
}

fn to_wire(announce: &Announce) -> Vec<u8> {
    frame::encode_compressed(&announce.encode()).unwrap()
}

fn from_wire(mut frame: Vec<u8>) -> Announce {
    let body = frame.split_off(HEAD_BYTES);
    let head = FrameHead::parse(frame.try_into().unwrap(), FRAME_BYTES_MAX).unwrap();
    Announce::decode(&head.open(body, FRAME_BYTES_MAX).unwrap()).unwrap()
}
