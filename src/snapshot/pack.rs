//! Packs: files of objects that tell by themselves what is in them.
//!
//! A pack is written once, under a name of its own, and gets its place and its name, the hash of all
//! its bytes, when it is finished and synced. Nothing is believed that was not checked: what is written
//! was decoded again and compared, what is read has the hash that was asked for.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use super::object::{Kind, OBJECT_BYTES_MAX, ObjectId};

#[cfg(test)]
mod tests;

/// The first bytes of a pack.
pub(super) const MAGIC: &[u8; 16] = b"trefoil pack v1\n";

/// The first bytes of a record.
const RECORD: &[u8; 4] = b"TOBJ";

/// Bytes of a record before what is stored.
pub(super) const HEAD_BYTES: usize = 56;

/// What of a head is hashed.
const HASHED_BYTES: usize = 48;

/// A pack is finished when it has so many bytes.
pub(super) const PACK_BYTES: u64 = 16 << 20;

/// How hard zstd tries.
const LEVEL: i32 = 3;

/// How objects are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    Raw,
    Zstd,
}

impl Coding {
    const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd].into_iter().find(|coding| coding.number() == number)
    }
}

/// What a record says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub kind: Kind,
    pub id: ObjectId,
    coding: Coding,
    plain: u32,
    pub stored: u32,
    check: [u8; 8],
}

/// An object as it is stored.
pub(super) struct Encoded {
    pub head: Head,
    bytes: Vec<u8>,
}

thread_local! {
    /// Made once for each thread: to make one costs more than to compress a small file.
    static ENCODER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

fn compressed(object: &[u8]) -> io::Result<Vec<u8>> {
    ENCODER.with_borrow_mut(|encoder| {
        let encoder = match encoder {
            Some(encoder) => encoder,
            none => none.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        encoder.compress(object)
    })
}

fn decompressed(stored: &[u8], length: usize) -> io::Result<Vec<u8>> {
    DECODER.with_borrow_mut(|decoder| {
        let decoder = match decoder {
            Some(decoder) => decoder,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        decoder.decompress(stored, length)
    })
}

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not what was written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl Encoded {
    /// Encodes an object, and sees that it can be decoded.
    ///
    /// # Errors
    /// The encoder or the memory is broken: what it made is not the object any more.
    pub(super) fn of(kind: Kind, id: ObjectId, object: &[u8]) -> Result<Self, ReadError> {
        let too_long = || ReadError::Damaged("an object is too long");
        let plain = u32::try_from(object.len()).map_err(|_| too_long())?;
        if object.len() > OBJECT_BYTES_MAX {
            return Err(too_long());
        }
        let most = object.len() - object.len() / 32;
        let packed = compressed(object)?;
        let (coding, bytes) = if packed.len() < most {
            if decompressed(&packed, object.len())? != object {
                return Err(ReadError::Damaged("what was encoded does not decode to the same"));
            }
            (Coding::Zstd, packed)
        } else {
            (Coding::Raw, object.to_vec())
        };
        if ObjectId::of(kind, object) != id {
            return Err(ReadError::Damaged("an object changed while it was encoded"));
        }
        let stored = u32::try_from(bytes.len()).map_err(|_| too_long())?;
        let mut head = Head { kind, id, coding, plain, stored, check: [0; 8] };
        head.check = head.check_of(&bytes);
        Ok(Self { head, bytes })
    }

    /// The record at `offset`, as it is stored.
    pub(super) fn copied(file: &File, offset: u64) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, offset)?;
        let head = Head::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; head.stored as usize];
        file.read_exact_at(&mut bytes, offset + HEAD_BYTES as u64)?;
        if head.check_of(&bytes) != head.check {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { head, bytes })
    }
}

impl Head {
    fn bytes(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(RECORD);
        head[4] = self.kind.number();
        head[5] = self.coding.number();
        head[8..12].copy_from_slice(&self.plain.to_le_bytes());
        head[12..16].copy_from_slice(&self.stored.to_le_bytes());
        head[16..48].copy_from_slice(&self.id.0);
        head[48..].copy_from_slice(&self.check);
        head
    }

    fn check_of(&self, stored: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes()[..HASHED_BYTES]).update(stored);
        *hasher.finalize().as_bytes().first_chunk().expect("8 of 32 bytes")
    }

    /// Nothing if this is no head.
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("4 bytes"));
        let (plain, stored) = (number(8), number(12));
        let most = u32::try_from(OBJECT_BYTES_MAX).expect("it fits");
        if bytes[..4] != *RECORD || bytes[6..8] != [0, 0] || plain > most || stored > plain {
            return None;
        }
        Some(Self {
            kind: Kind::of(bytes[4])?,
            coding: Coding::of(bytes[5])?,
            plain,
            stored,
            id: ObjectId(*bytes[16..].first_chunk().expect("32 bytes")),
            check: *bytes[48..].first_chunk().expect("8 bytes"),
        })
    }

    /// Bytes of the whole record.
    pub(super) fn length(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.stored)
    }
}

/// A pack that is being written.
pub(super) struct PackWriter {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    /// What it has, and where.
    pub records: Vec<(Head, u64)>,
}

impl PackWriter {
    /// Begins a pack in an empty file.
    pub(super) fn begin(mut file: File) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(MAGIC);
        Ok(Self { file, hasher, bytes: MAGIC.len() as u64, records: Vec::new() })
    }

    /// Gives where it is. After an error the pack is of no use.
    pub(super) fn append(&mut self, object: &Encoded) -> io::Result<u64> {
        let head = object.head.bytes();
        self.file.write_all(&head)?;
        self.file.write_all(&object.bytes)?;
        self.hasher.update(&head).update(&object.bytes);
        let offset = self.bytes;
        self.records.push((object.head, offset));
        self.bytes += object.head.length();
        Ok(offset)
    }

    /// An object that it has.
    pub(super) fn read(&self, offset: u64, wanted: (Kind, ObjectId)) -> Result<Vec<u8>, ReadError> {
        read(&self.file, offset, wanted)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= PACK_BYTES
    }

    /// Makes it durable, and gives its name.
    pub(super) fn finish(&self) -> io::Result<[u8; 32]> {
        self.file.sync_all()?;
        Ok(*self.hasher.finalize().as_bytes())
    }
}

/// The object in the record at `offset`, if it is whole.
///
/// # Errors
/// [`ReadError`].
pub(super) fn read(
    file: &File,
    offset: u64,
    wanted: (Kind, ObjectId),
) -> Result<Vec<u8>, ReadError> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, offset).map_err(cut_short)?;
    let head = Head::parse(&head).ok_or(ReadError::Damaged("the head of an object"))?;
    if (head.kind, head.id) != wanted {
        return Err(ReadError::Damaged("another object is in its place"));
    }
    decode(file, offset, &head)
}

fn decode(file: &File, offset: u64, head: &Head) -> Result<Vec<u8>, ReadError> {
    let mut stored = vec![0; head.stored as usize];
    file.read_exact_at(&mut stored, offset + HEAD_BYTES as u64).map_err(cut_short)?;
    if head.check_of(&stored) != head.check {
        return Err(ReadError::Damaged("the bytes of an object"));
    }
    let object = match head.coding {
        Coding::Raw => stored,
        Coding::Zstd => decompressed(&stored, head.plain as usize)
            .map_err(|_| ReadError::Damaged("it cannot be decoded"))?,
    };
    if object.len() != head.plain as usize || ObjectId::of(head.kind, &object) != head.id {
        return Err(ReadError::Damaged("it is not the object of its id"));
    }
    Ok(object)
}

fn cut_short(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Damaged("the pack is cut short"),
        _ => ReadError::Io(error),
    }
}

/// What a scan of a pack found.
#[derive(Default)]
pub(super) struct Scanned {
    /// Heads in order, and where they are.
    pub records: Vec<(Head, u64)>,
    /// Where something was that is no record.
    pub damaged: Vec<u64>,
}

/// Reads the heads of a pack, and every byte if `whole`. Behind damage it goes on at the next record.
///
/// # Errors
/// The operating system refused.
pub(super) fn scan(file: &File, whole: bool) -> io::Result<Scanned> {
    let length = file.metadata()?.len();
    let mut scanned = Scanned::default();
    let mut magic = [0; MAGIC.len()];
    let began = file.read_exact_at(&mut magic, 0).is_ok() && magic == *MAGIC;
    if !began {
        scanned.damaged.push(0);
    }
    let mut at = MAGIC.len() as u64;
    while at < length {
        let mut head = [0; HEAD_BYTES];
        let head = match file.read_exact_at(&mut head, at) {
            Ok(()) => Head::parse(&head).filter(|head| at + head.length() <= length),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let sound = match &head {
            // A head that was looked for behind damage may be a content's.
            Some(head) if whole || !scanned.damaged.is_empty() => match decode(file, at, head) {
                Ok(_) => true,
                Err(ReadError::Io(error)) => return Err(error),
                Err(ReadError::Damaged(_)) => false,
            },
            head => head.is_some(),
        };
        match head {
            Some(head) if sound => {
                scanned.records.push((head, at));
                at += head.length();
            }
            _ => {
                scanned.damaged.push(at);
                at = next_record(file, at + 1, length)?;
            }
        }
    }
    Ok(scanned)
}

/// Where the next bytes are that look like the beginning of a record.
fn next_record(file: &File, mut at: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    while at < length {
        let n = file.read_at(&mut buffer, at)?;
        if n < RECORD.len() {
            break;
        }
        if let Some(found) = buffer[..n].windows(RECORD.len()).position(|bytes| bytes == RECORD) {
            return Ok(at + found as u64);
        }
        at += (n - RECORD.len() + 1) as u64;
    }
    Ok(length)
}
