//! Random numbers as a function of a seed.

/// An exponential variable of mean one, for one mirror.
pub(crate) fn exponential(seed: u64, index: usize) -> f64 {
    -uniform(seed, index as u64).ln()
}

/// A number in `0..1`, never zero, from two numbers (the finaliser of `SplitMix64`).
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
pub(crate) fn uniform(seed: u64, stream: u64) -> f64 {
    let mut z = seed.wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_never_zero() {
        let mut tenths = [0_u32; 10];
        for seed in 0..10_000 {
            let u = uniform(seed, seed % 7);
            assert!(u > 0.0 && u < 1.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 9"
            )]
            let tenth = (u * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (900..1100).contains(&count)),
            "{tenths:?}"
        );
    }
}
