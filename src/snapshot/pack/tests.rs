//! What is written can be read, and nothing else is.

use super::*;

fn objects() -> Vec<(Kind, Vec<u8>)> {
    let mut noise = vec![0; 5000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    vec![
        (Kind::Data, b"<?php return ['key' => 'value'];".repeat(40)),
        (Kind::Data, noise),
        (Kind::Page, Vec::new()),
        // A content may look like a record.
        (
            Kind::Data,
            Encoded::of(Kind::Page, ObjectId::of(Kind::Page, b"x"), b"x")
                .unwrap()
                .head
                .bytes()
                .to_vec(),
        ),
    ]
}

fn pack() -> (File, Vec<(Head, u64)>) {
    let file = tempfile::tempfile().unwrap();
    let mut pack = PackWriter::begin(file.try_clone().unwrap()).unwrap();
    for (kind, bytes) in objects() {
        let object = Encoded::of(kind, ObjectId::of(kind, &bytes), &bytes).unwrap();
        pack.append(&object).unwrap();
    }
    let name = pack.finish().unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(*blake3::hash(&bytes).as_bytes(), name);
    (file, pack.records)
}

#[test]
fn objects_come_back_as_they_were() {
    let (file, records) = pack();
    for ((head, offset), (kind, bytes)) in records.iter().zip(objects()) {
        assert_eq!(bytes, read(&file, *offset, (kind, head.id)).unwrap());
    }
    assert!(records[0].0.stored < 100, "it was compressed");
    assert_eq!(5000, records[1].0.stored, "it would not have become smaller");
    let scanned = scan(&file, true).unwrap();
    assert_eq!((records, Vec::<u64>::new()), (scanned.records, scanned.damaged));
}

#[test]
fn every_byte_that_is_changed_is_found_and_costs_one_object() {
    let (file, records) = pack();
    let length = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        file.write_all_at(&[byte ^ 0x10], at as u64).unwrap();
        let scanned = scan(&file, true).unwrap();
        assert!(!scanned.damaged.is_empty(), "byte {at}");
        let lost = records.iter().filter(|record| !scanned.records.contains(record));
        let lost: Vec<_> = lost.collect();
        assert!(lost.len() <= 1, "byte {at} costs {}", lost.len());
        assert!(scanned.records.iter().all(|record| records.contains(record)), "byte {at}");
        for (head, offset) in lost {
            let range = *offset..offset + head.length();
            assert!(range.contains(&(at as u64)));
            assert!(read(&file, *offset, (head.kind, head.id)).is_err());
        }
        file.write_all_at(&[byte], at as u64).unwrap();
    }
}

#[test]
fn a_pack_that_is_cut_short_has_what_is_left() {
    let (file, records) = pack();
    let (last, offset) = *records.last().unwrap();
    file.set_len(offset + 20).unwrap();
    let scanned = scan(&file, false).unwrap();
    assert_eq!(records.len() - 1, scanned.records.len());
    assert_eq!(vec![offset], scanned.damaged);
    assert!(matches!(
        read(&file, offset, (last.kind, last.id)),
        Err(ReadError::Damaged("the pack is cut short"))
    ));
}
