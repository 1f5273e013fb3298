//! The values of options that are amounts: bytes, times, shares.

use std::time::Duration;

/// Parses bytes, such as `500k`, `2.5M` or `10G`; the suffixes are powers of 1000.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is not a number of bytes: write for example 500M or 10G");
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        Some((at, 't' | 'T')) => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    let bytes = number.parse::<f64>().map_err(|_| invalid())? * factor;
    if !(1.0..=1e18).contains(&bytes) {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Ok(bytes as u64)
}

/// Parses a time, such as `90s`, `12h` or `7d`; without a suffix, seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("`{text}` is not a time: write for example 90s, 30m, 12h or 7d");
    let (number, factor) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        Some((at, 'd')) => (&text[..at], 86_400.0),
        Some((at, 'w')) => (&text[..at], 604_800.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().map_err(|_| invalid())? * factor;
    if !(0.0..=1e10).contains(&seconds) {
        return Err(invalid());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses a share from 0 to 100, with or without `%`.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let share = number.parse::<f64>().ok();
    let share = share.filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share: write 0 to 100, for example 5"))
}

/// Parses the share of a worker, such as `0/3`.
pub(crate) fn parse_worker(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once('/').and_then(|(index, count)| {
        let (index, count) = (index.trim().parse().ok()?, count.trim().parse().ok()?);
        Some((index, count))
    });
    let numbers = numbers.filter(|(index, count): &(u32, u32)| index < count && *count <= 1000);
    numbers.ok_or_else(|| format!("`{text}` is no share: write I/N with I from 0, for example 0/3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_usual_suffixes() {
        assert_eq!(parse_bytes("1.5k"), Ok(1500));
        assert_eq!(parse_bytes("2T"), Ok(2_000_000_000_000));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_hours(168)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_percent("5%"), Ok(5.0));
        for text in ["", "x", "-1", "1y", "nan", "inf"] {
            assert!(parse_bytes(text).is_err(), "{text}");
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "-1", "101", "nan"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
