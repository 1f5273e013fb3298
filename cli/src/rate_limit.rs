//! The value of `--limit-rate`.

/// Parses bytes per second, such as `500k`, `2.5M` or `1G`; the suffixes are powers of 1000.
pub(crate) fn parse_rate_limit(text: &str) -> Result<u64, String> {
    let invalid =
        || format!("`{text}` is not a rate: use bytes per second, for example 500k or 2.5M");
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let rate = number.parse::<f64>().map_err(|_| invalid())? * factor;
    if !(1.0..=1e15).contains(&rate) {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Ok(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_a_thousand() {
        let rates = ["1", "500k", "2.5M", "1G"].map(|text| parse_rate_limit(text).unwrap());
        assert_eq!(rates, [1, 500_000, 2_500_000, 1_000_000_000]);
        for text in ["", "k", "-1", "0", "1T", "inf", "nan"] {
            assert!(
                parse_rate_limit(text)
                    .unwrap_err()
                    .contains("is not a rate"),
                "{text}"
            );
        }
    }
}
