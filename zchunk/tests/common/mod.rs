//! Inputs that the tests make themselves.

#![allow(dead_code, reason = "every test binary uses a part")]

use std::fmt::Write as _;

/// A small generator: the same numbers everywhere and for ever.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .take(len)
            .collect()
    }
}

/// A JSON document of at least `len` bytes that looks like an index of something.
pub(crate) fn json(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = String::from("{\n  \"items\": {\n");
    let mut n = 0u64;
    while text.len() < len {
        n += 1;
        let (a, b) = (random.next(), random.next());
        let size = a % 1_000_000;
        writeln!(
            text,
            "    \"item-{n:06}\": {{\"digest\": \"{a:016x}{b:016x}\", \"size\": {size}, \
             \"needs\": [\"item-{:06}\", \"base >={}.{}\"]}},",
            b % n,
            a % 7,
            b % 13,
        )
        .unwrap();
    }
    text.push_str("    \"end\": {}\n  }\n}\n");
    text.into_bytes()
}

/// Inputs of every kind that is known to be awkward.
pub(crate) fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let mut repeats = Vec::new();
    for n in 0..40_000u32 {
        repeats.extend_from_slice(if n % 1000 == 0 {
            b"a break "
        } else {
            b"the same again. "
        });
    }
    vec![
        ("empty", Vec::new()),
        ("one-byte", vec![b'x']),
        ("short", b"hello, chunks".to_vec()),
        ("window", vec![7; 48]),
        ("constant", vec![0; 700_000]),
        ("random", Random(1).bytes(900_000)),
        ("json", json(1_500_000, 2)),
        ("repeats", repeats),
    ]
}
