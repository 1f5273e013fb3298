//! Chance that is the same each time.

/// A number in `0..1`, never zero, from two numbers (the finaliser of `SplitMix64`).
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
pub(crate) fn uniform(seed: u64, stream: u64) -> f64 {
    ((mix(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03)) >> 11) as f64 + 0.5)
        / (1_u64 << 53) as f64
}

/// A normal variable of mean 0 and variance 1 (Box and Muller).
pub(crate) fn normal(seed: u64, stream: u64) -> f64 {
    let (a, b) = (
        uniform(seed, stream ^ 0xaaaa),
        uniform(seed, stream ^ 0xbbbb),
    );
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A row of draws.
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }
}
