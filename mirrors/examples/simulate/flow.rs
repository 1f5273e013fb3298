//! One attempt under way.

use crate::world::Fate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting for the header.
    Opening,
    Body,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Distinguishes it from others that had its place.
    pub(crate) serial: u64,
    pub(crate) client: usize,
    pub(crate) slot: usize,
    pub(crate) mirror: usize,
    pub(crate) started: f64,
    pub(crate) header_at: Option<f64>,
    pub(crate) stage: Stage,
    pub(crate) fate: Fate,
    /// Where in the file it began.
    pub(crate) offset: f64,
    /// Bytes that it was asked for.
    pub(crate) wanted: f64,
    pub(crate) got: f64,
    pub(crate) rate: f64,
    pub(crate) stall: f64,
    pub(crate) stalled_since: Option<f64>,
    /// Bytes after each second, to judge the pace by.
    pub(crate) marks: Vec<f64>,
    /// How much of it was had when another attempt was sent after the same bytes.
    pub(crate) raced_from: Option<f64>,
    pub(crate) retry_after: Option<f64>,
}

impl Flow {
    /// The bytes after which something happens.
    pub(crate) fn target(&self) -> f64 {
        match self.fate {
            Fate::Reset(share) | Fate::Stall(share) => (self.wanted * share).min(self.wanted),
            _ => self.wanted,
        }
    }

    /// Whether it will never go on.
    pub(crate) fn is_stuck(&self) -> bool {
        matches!(self.fate, Fate::Stall(_)) && self.got >= self.target() - 0.5
    }

    pub(crate) fn wasted(&self) -> f64 {
        self.raced_from.map_or(0.0, |from| self.got - from)
    }
}
