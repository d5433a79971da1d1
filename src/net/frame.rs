//! Frames: how one message lies in a stream.
//!
//! `u32 LE length of the body | u8 flags | body`. In: a message's bytes. Out: a frame, and back.
//! Pure, but for zstd's contexts, which are kept; no length that a peer sends is believed before it is
//! checked against its bound.

use std::sync::{Mutex, PoisonError};

use zstd::bulk::{Compressor, Decompressor};

use crate::model::limits::FRAME_BYTES_MAX;

/// Bytes before the body.
pub const HEAD_BYTES: usize = 5;

/// The body is compressed with zstd.
const FLAG_ZSTD: u8 = 1;

/// Bodies up to this many bytes are not worth compressing: they fit one packet anyway.
const COMPRESS_BYTES_MIN: usize = 1 << 10;

/// The fastest regular level: a link of 1 Gbit/s is not slowed down by it.
const ZSTD_LEVEL: i32 = 1;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than this stream allows.
    #[error("frame of {0} bytes is too long")]
    TooLong(usize),
    /// A flag that this release does not know.
    #[error("frame has unknown flags {0:#04x}")]
    Flags(u8),
    /// Not zstd, or longer than allowed when decompressed.
    #[error("frame does not decompress to an allowed length")]
    Compression,
    /// The stream ended within a frame.
    #[error("frame is cut short")]
    Truncated,
}

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the body as they lie in the stream.
    pub length: usize,
    compressed: bool,
}

impl FrameHead {
    /// Parses the first bytes of a frame; bodies longer than `bytes_max` are refused.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] or [`FrameError::Flags`].
    pub fn parse(head: [u8; HEAD_BYTES], bytes_max: usize) -> Result<Self, FrameError> {
        let [a, b, c, d, flags] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if flags & !FLAG_ZSTD != 0 {
            return Err(FrameError::Flags(flags));
        }
        if length > bytes_max {
            return Err(FrameError::TooLong(length));
        }
        Ok(Self { length, compressed: flags & FLAG_ZSTD != 0 })
    }

    /// The message in `body`, whose length is [`FrameHead::length`]. At most `bytes_max` bytes are
    /// allocated, whatever the body says of itself.
    ///
    /// # Errors
    /// [`FrameError::Compression`] or [`FrameError::Truncated`].
    pub fn open(self, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, FrameError> {
        if body.len() != self.length {
            return Err(FrameError::Truncated);
        }
        if !self.compressed {
            return Ok(body);
        }
        let made = DECOMPRESSORS.take(Decompressor::new);
        let mut decompressor = made.map_err(|_| FrameError::Compression)?;
        let message = decompressor.decompress(&body, bytes_max);
        DECOMPRESSORS.put(decompressor);
        message.map_err(|_| FrameError::Compression)
    }
}

/// The frame of a message, uncompressed.
///
/// # Errors
/// [`FrameError::TooLong`], beyond [`FRAME_BYTES_MAX`].
pub fn encode(message: &[u8]) -> Result<Vec<u8>, FrameError> {
    if message.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(message.len()));
    }
    Ok(build(message, 0))
}

/// The frame of a message, compressed if it is longer than 1 KiB and that saves a tenth.
///
/// # Errors
/// [`FrameError::TooLong`], when the message is longer than [`FRAME_BYTES_MAX`].
pub fn encode_compressed(message: &[u8]) -> Result<Vec<u8>, FrameError> {
    if message.len() > COMPRESS_BYTES_MIN
        && message.len() <= FRAME_BYTES_MAX
        && let Ok(small) = compress(message)
        && small.len() < message.len() - message.len() / 10
    {
        return Ok(build(&small, FLAG_ZSTD));
    }
    encode(message)
}

fn compress(message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = COMPRESSORS.take(|| Compressor::new(ZSTD_LEVEL))?;
    let small = compressor.compress(message);
    COMPRESSORS.put(compressor);
    small
}

/// Contexts of zstd that are used again: to make one, with more than a megabyte of tables, costs as much
/// as to use it on a frame of usual length. One for each thread would be many: any thread that may block
/// makes frames.
struct Pool<T>(Mutex<Vec<T>>);

/// Contexts that are kept while nobody uses them.
const POOL_MAX: usize = 2;

static COMPRESSORS: Pool<Compressor<'static>> = Pool(Mutex::new(Vec::new()));
static DECOMPRESSORS: Pool<Decompressor<'static>> = Pool(Mutex::new(Vec::new()));

impl<T> Pool<T> {
    fn take(&self, make: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(make, Ok)
    }

    fn put(&self, context: T) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < POOL_MAX {
            kept.push(context);
        }
    }
}

fn build(body: &[u8], flags: u8) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a body has at most FRAME_BYTES_MAX bytes");
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(flags);
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(frame: &[u8], bytes_max: usize) -> Result<Vec<u8>, FrameError> {
        let (head, body) = frame.split_first_chunk().ok_or(FrameError::Truncated)?;
        FrameHead::parse(*head, bytes_max)?.open(body.to_vec(), bytes_max)
    }

    proptest! {
        #[test]
        fn a_decoded_frame_is_the_encoded_message(
            message in prop::collection::vec(any::<u8>(), 0..5000),
            repeat in 1_usize..20,
        ) {
            let message = message.repeat(repeat);
            for frame in [encode(&message).unwrap(), encode_compressed(&message).unwrap()] {
                prop_assert_eq!(&message, &decode(&frame, FRAME_BYTES_MAX).unwrap());
            }
        }

        #[test]
        fn any_bytes_are_a_frame_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes, FRAME_BYTES_MAX));
            let mut compressed = vec![0, 0, 0, 0, FLAG_ZSTD];
            compressed[0] = u8::try_from(bytes.len()).unwrap();
            compressed.extend(&bytes);
            drop(decode(&compressed, FRAME_BYTES_MAX));
        }
    }

    #[test]
    fn a_body_longer_than_allowed_is_refused_by_its_head_alone() {
        let head = [0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(Err(FrameError::TooLong(0xffff_ffff)), FrameHead::parse(head, FRAME_BYTES_MAX));
        assert_eq!(Err(FrameError::TooLong(9)), FrameHead::parse([9, 0, 0, 0, 0], 8));
        assert_eq!(Err(FrameError::Flags(2)), FrameHead::parse([0, 0, 0, 0, 2], 8));
    }

    #[test]
    fn a_zstd_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; FRAME_BYTES_MAX + 1], 19).unwrap();
        let frame = build(&bomb, FLAG_ZSTD);
        assert!(frame.len() < 4096);
        assert_eq!(Err(FrameError::Compression), decode(&frame, FRAME_BYTES_MAX));
        // A stream that does not state its length at the start.
        let unsized_bomb = zstd::stream::encode_all(std::io::repeat(0).take(64 << 20), 1).unwrap();
        let frame = build(&unsized_bomb, FLAG_ZSTD);
        assert_eq!(Err(FrameError::Compression), decode(&frame, FRAME_BYTES_MAX));
    }

    use std::io::Read as _;

    #[test]
    fn what_does_not_get_smaller_is_sent_as_it_is() {
        let noise: Vec<u8> =
            (0..100_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        assert_eq!(0, encode_compressed(&noise).unwrap()[4]);
        assert_eq!(FLAG_ZSTD, encode_compressed(&[7; 2000]).unwrap()[4]);
        assert_eq!(0, encode_compressed(&[7; 1000]).unwrap()[4]);
    }
}
