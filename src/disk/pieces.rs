//! Where large contents are cut: the same places in the mirror and in the repository.
//!
//! FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based
//! Storage Systems", 2020): where the bytes themselves say, so that bytes that were put in or taken
//! out change the pieces around them only. The places are part of the repository's format.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

/// Bytes of a piece, at least; the last one of a content may be shorter.
pub const PIECE_BYTES_MIN: usize = 64 << 10;

/// Bytes of a piece, about.
const PIECE_BYTES: usize = 128 << 10;

/// Bytes of a piece, at most.
pub const PIECE_BYTES_MAX: usize = 512 << 10;

/// Bytes read at a time: several contents may be cut at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Reads a content to its end, and gives it in pieces.
///
/// # Errors
/// What reading, or `each`, fails with.
pub fn cut<E: From<io::Error>>(
    mut content: impl Read,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let n = content.read(&mut buffer[filled..])?;
        filled += n;
        if filled < buffer.len() && n > 0 {
            continue;
        }
        let last = n == 0;
        let cut = cut_buffer(&buffer[..filled], last, &mut each)?;
        if last {
            return Ok(());
        }
        buffer.copy_within(cut..filled, 0);
        filled -= cut;
    }
}

/// Cuts what is in the buffer; the last piece only if nothing follows it. Gives up to where.
fn cut_buffer<E>(
    buffer: &[u8],
    last: bool,
    each: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<usize, E> {
    let cutter = FastCDC::new(buffer, PIECE_BYTES_MIN, PIECE_BYTES, PIECE_BYTES_MAX);
    let mut at = 0;
    while at < buffer.len() {
        let rest = buffer.len() - at;
        if !last && rest < PIECE_BYTES_MAX {
            break;
        }
        let (_, end) = cutter.cut(at, rest);
        each(&buffer[at..end])?;
        at = end;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3 of nothing, extended to 4 MiB. If this fails, old repositories and new ones have
    /// nothing in common any more: the crate cuts otherwise, or a constant was changed.
    #[test]
    fn contents_are_cut_where_they_always_were() {
        let mut bytes = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut lengths = Vec::new();
        cut(&bytes[..], |piece| {
            lengths.push(piece.len());
            Ok::<_, io::Error>(())
        })
        .unwrap();
        assert_eq!(4 << 20, lengths.iter().sum::<usize>());
        assert_eq!([149_670, 381_545, 93_777, 200_647, 305_508, 145_656], lengths[..6]);
    }
}
