//! A content as a list of pieces, so that what of it is here already is not sent again.
//!
//! Pieces are compared by 16 bytes of their BLAKE3 hash: it must never be more than a hint. What is
//! put together by it is hashed as a whole.

use std::collections::HashMap;
use std::io::{self, Read};

use super::pieces::{self, PIECE_BYTES_MAX, PIECE_BYTES_MIN};
use crate::model::limits::{DELTA_BYTES_MAX, FRAME_BYTES_MAX};

/// Bytes of a piece in a message: its id and its length.
const ENCODED_BYTES: usize = 20;

/// What a piece holds, to be told from others.
type PieceId = [u8; 16];

/// The pieces of a content, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe(Vec<(PieceId, u32)>);

/// Where bytes of a content are to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the other content, from this byte on.
    Here(u64),
    /// Nowhere here.
    There,
}

impl Recipe {
    /// Reads a content to its end, and cuts it.
    ///
    /// # Errors
    /// What reading failed with.
    pub fn of(content: impl Read) -> io::Result<Self> {
        let mut pieces = Vec::new();
        pieces::cut(content, |piece| {
            let id = *blake3::hash(piece).as_bytes().first_chunk().expect("16 of 32 bytes");
            pieces.push((id, u32::try_from(piece.len()).expect("a piece is short")));
            Ok::<_, io::Error>(())
        })?;
        Ok(Self(pieces))
    }

    /// Its bytes, in messages of no more than a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<Vec<u8>> {
        let most = (FRAME_BYTES_MAX / 2) / ENCODED_BYTES;
        let encode = |pieces: &[(PieceId, u32)]| {
            pieces
                .iter()
                .flat_map(|(id, bytes)| id.iter().copied().chain(bytes.to_le_bytes()))
                .collect()
        };
        self.0.chunks(most).map(encode).collect()
    }

    /// The recipe of a content of `size` bytes; nothing if this is none.
    #[must_use]
    pub fn decode(messages: &[Vec<u8>], size: u64) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = size;
        for message in messages {
            let (encoded, []) = message.as_chunks::<ENCODED_BYTES>() else { return None };
            for piece in encoded {
                let (id, bytes) = piece.split_first_chunk::<16>()?;
                let bytes = u32::from_le_bytes(bytes.try_into().ok()?);
                rest = rest.checked_sub(bytes.into())?;
                let least = if rest == 0 { 1 } else { PIECE_BYTES_MIN };
                if !(least..=PIECE_BYTES_MAX).contains(&(bytes as usize)) {
                    return None;
                }
                pieces.push((*id, bytes));
            }
        }
        (rest == 0 && size <= DELTA_BYTES_MAX).then_some(Self(pieces))
    }

    /// How many pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is of an empty content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the bytes from `offset` on are to be had if the content of `here` is at hand: lengths in
    /// order, neighbours in one.
    #[must_use]
    pub fn plan(&self, here: &Self, offset: u64) -> Vec<(Origin, u64)> {
        let mut places = HashMap::with_capacity(here.0.len());
        let mut at = 0;
        for &(id, bytes) in &here.0 {
            places.entry((id, bytes)).or_insert(at);
            at += u64::from(bytes);
        }
        let mut plan: Vec<(Origin, u64)> = Vec::new();
        let mut at = 0;
        for &(id, bytes) in &self.0 {
            let end = at + u64::from(bytes);
            let skipped = offset.saturating_sub(at).min(bytes.into());
            let bytes = u64::from(bytes) - skipped;
            at = end;
            if bytes == 0 {
                continue;
            }
            let key = (id, u32::try_from(bytes + skipped).unwrap_or(u32::MAX));
            let origin =
                places.get(&key).map_or(Origin::There, |&from| Origin::Here(from + skipped));
            match (plan.last_mut(), origin) {
                (Some((Origin::There, length)), Origin::There) => *length += bytes,
                (Some((Origin::Here(from), length)), Origin::Here(next))
                    if *from + *length == next =>
                {
                    *length += bytes;
                }
                _ => plan.push((origin, bytes)),
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no two places have in common.
    fn bytes(seed: u64, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Gives no more than some bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(100_003);
            self.0.read(&mut buffer[..n])
        }
    }

    fn assembled(
        plan: &[(Origin, u64)],
        here: &[u8],
        whole: &[u8],
        offset: usize,
    ) -> (Vec<u8>, u64) {
        let (mut made, mut sent) = (whole[..offset].to_vec(), 0);
        for &(origin, length) in plan {
            let n = usize::try_from(length).unwrap();
            match origin {
                Origin::Here(from) => {
                    let from = usize::try_from(from).unwrap();
                    made.extend_from_slice(&here[from..from + n]);
                }
                Origin::There => {
                    made.extend_from_slice(&whole[made.len()..made.len() + n]);
                    sent += length;
                }
            }
        }
        (made, sent)
    }

    #[test]
    fn pieces_are_the_same_however_they_are_read_and_on_every_node() {
        let content = bytes(1, 20 << 20);
        let recipe = Recipe::of(content.as_slice()).unwrap();
        assert_eq!(recipe, Recipe::of(Slow(&content)).unwrap());
        let lengths: Vec<_> = recipe.0.iter().take(4).map(|piece| piece.1).collect();
        assert_eq!([299_867, 192_085, 192_121, 82_124], *lengths, "nodes must cut alike");
        let all = recipe.0.split_last().unwrap().1;
        let within = |bytes: usize| (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&bytes);
        assert!(all.iter().all(|piece| within(piece.1 as usize)));
    }

    #[test]
    fn what_was_put_in_taken_out_or_changed_is_all_that_is_sent() {
        let old = bytes(1, 30 << 20);
        let put_in = [&old[..8 << 20], &bytes(2, 1 << 20), &old[8 << 20..]].concat();
        let taken_out = [&old[..8 << 20], &old[9 << 20..]].concat();
        let mut changed = old.clone();
        changed[15 << 20..][..4096].copy_from_slice(&bytes(3, 4096));
        let here = Recipe::of(old.as_slice()).unwrap();
        let piece = PIECE_BYTES_MAX as u64;
        for (new, most) in [(put_in, (1 << 20) + 2 * piece), (taken_out, piece), (changed, piece)] {
            let recipe = Recipe::of(new.as_slice()).unwrap();
            for offset in [0, 5 << 20, 8_500_000, new.len()] {
                let plan = recipe.plan(&here, offset as u64);
                let (made, sent) = assembled(&plan, &old, &new, offset);
                assert!(made == new, "from {offset}");
                assert!(sent <= most, "{sent}");
            }
        }
    }

    #[test]
    fn what_shares_nothing_is_sent_as_one() {
        let (old, new) = (bytes(1, 3 << 20), bytes(2, 3 << 20));
        let [old, new] = [old, new].map(|bytes| Recipe::of(bytes.as_slice()).unwrap());
        assert_eq!(vec![(Origin::There, 3 << 20)], new.plan(&old, 0));
        assert_eq!(vec![(Origin::Here(0), 3 << 20)], new.plan(&new, 0));
    }

    #[test]
    fn a_recipe_survives_the_wire_and_what_is_none_is_refused() {
        let content = bytes(1, 5 << 20);
        let recipe = Recipe::of(content.as_slice()).unwrap();
        let messages = recipe.encode();
        assert_eq!(Some(recipe), Recipe::decode(&messages, 5 << 20));
        assert_eq!(None, Recipe::decode(&messages, (5 << 20) + 1));
        assert_eq!(None, Recipe::decode(&messages, (5 << 20) - 1));
        assert_eq!(None, Recipe::decode(&[vec![0; ENCODED_BYTES]], 0), "a piece of nothing");
        let tiny = [[0; 16].as_slice(), &1_u32.to_le_bytes()].concat();
        assert_eq!(None, Recipe::decode(&[tiny.repeat(9)], 9), "pieces without number");
        assert_eq!(None, Recipe::decode(&[vec![1; ENCODED_BYTES - 1]], 0));
        assert_eq!(Some(Recipe::default()), Recipe::decode(&[], 0));
        assert!(Recipe::default().is_empty());
    }
}
