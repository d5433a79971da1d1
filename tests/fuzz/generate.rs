//! Makes inputs out of valid ones, and out of nothing. Each follows from its seed.

/// Numbers from a seed: SplitMix64, by Steele, Lea and Flood (2014).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to one less than `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    /// A number as decoders fear them: small, at the end of a width, or any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next() % 20,
            1 => (1_u64 << self.below(64)).wrapping_add(self.next() % 3).wrapping_sub(1),
            2 => u64::MAX - self.next() % 3,
            _ => self.next(),
        }
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What a decoder may stumble over, in the middle of anything.
const WORDS: [&[u8]; 22] = [
    b"..",
    b"/",
    b"//",
    b"/../",
    b"\0",
    b"\n",
    b"\x1b[2J",
    b"\xff\xff\xff\xff\x0f",
    b"\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\x0a\x00",
    b"\x12\x00",
    b"\x1a\x00",
    b"[[mount]]\n",
    b"= \"",
    b"'''",
    b"{\"a\":",
    b"[[[[[[[[[[",
    b"trefoil1-",
];

/// One input.
pub(crate) fn input(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    match rng.below(20) {
        0 => {
            let length = rng.below(300);
            rng.bytes(length)
        }
        1 | 2 => message(rng, 4),
        // Many of nothing: what has no length but costs memory.
        3 => {
            let mut bytes = rng.pick(corpus).clone();
            let field = message_key(rng, 2);
            let times = rng.below(4000);
            for _ in 0..times {
                bytes.extend_from_slice(&field);
                bytes.push(0);
            }
            bytes
        }
        _ => {
            let mut bytes = rng.pick(corpus).clone();
            for _ in 0..1 + rng.below(4) {
                mutate(rng, &mut bytes, corpus);
            }
            bytes
        }
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = rng.below(bytes.len() + 1);
    let until = at + rng.below(bytes.len() - at + 1);
    match rng.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        1 if at < bytes.len() => bytes[at] = rng.byte(),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..until.min(at + 16))),
        4 => drop(bytes.splice(at..at, rng.pick(&WORDS).iter().copied())),
        5 => {
            let copy = bytes[at..until].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        6 => {
            let other = rng.pick(corpus);
            let from = rng.below(other.len() + 1);
            drop(bytes.splice(at..until, other[from..].iter().copied()));
        }
        7 => {
            let number = varint(rng.number());
            drop(bytes.splice(at..(at + 1).min(bytes.len()), number));
        }
        8 => bytes.extend(message(rng, 2)),
        _ => {
            let length = rng.below(9);
            let noise = rng.bytes(length);
            drop(bytes.splice(at..(at + length).min(bytes.len()), noise));
        }
    }
    // Repeated doubling would make a few inputs of megabytes, and no others.
    bytes.truncate(64 << 10);
}

/// Protobuf with fields that mean nothing, or by chance something.
fn message(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.below(6) {
        let kind = *rng.pick(&[0, 1, 2, 2, 2, 5]);
        bytes.extend(message_key(rng, kind));
        match kind {
            0 => bytes.extend(varint(rng.number())),
            1 => bytes.extend(rng.number().to_le_bytes()),
            5 => bytes.extend(&rng.number().to_le_bytes()[..4]),
            _ => {
                let inner = match (rng.below(3), depth) {
                    (0, 1..) => message(rng, depth - 1),
                    (1, _) => b"var/a".to_vec(),
                    _ => {
                        let length = *rng.pick(&[0, 1, 8, 16, 32, 33, 200]);
                        rng.bytes(length)
                    }
                };
                let said = if rng.chance(30) { rng.number() } else { inner.len() as u64 };
                bytes.extend(varint(said));
                bytes.extend(inner);
            }
        }
    }
    bytes
}

fn message_key(rng: &mut Rng, kind: u64) -> Vec<u8> {
    let field = if rng.chance(20) { rng.next() % (1 << 29) } else { 1 + rng.next() % 11 };
    varint(field << 3 | kind)
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f | 0x80).to_le_bytes()[0]);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}
