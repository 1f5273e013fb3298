//! The modification time of an entry.

/// A modification time, before it is clamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mtime {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl Mtime {
    /// Seconds with an optional sign and fraction.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = &fraction[..fraction.len().min(9)];
        let mut nanoseconds: u32 = if digits.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
        for _ in digits.len()..9 {
            nanoseconds *= 10;
        }
        Some(Self {
            seconds,
            nanoseconds,
        })
    }
}
