//! What fetching costs, and so which ranges to ask for.

use std::ops::Range;

/// What a request costs beyond its bytes, in bytes that could have been fetched meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostModel {
    /// One request: latency times bandwidth, and what servers charge for it.
    pub request: u64,
    /// One range in a multipart answer: its boundary and headers.
    pub range: u64,
    /// The most ranges that one request may name; at least 1. Many servers take no more than one.
    pub max_ranges: usize,
    /// Gaps longer than this are never filled, whatever they would save; in bytes.
    pub max_gap: u64,
}

impl Default for CostModel {
    /// One range per request, each worth 4 KiB.
    fn default() -> Self {
        Self {
            request: 4 << 10,
            range: 92,
            max_ranges: 1,
            max_gap: u64::MAX,
        }
    }
}

impl CostModel {
    /// Nothing costs anything but bytes: no gap is filled.
    pub const BYTES_ONLY: Self = Self {
        request: 0,
        range: 0,
        max_ranges: usize::MAX,
        max_gap: 0,
    };

    /// For servers that answer several ranges at once.
    #[must_use]
    pub fn with_max_ranges(mut self, max_ranges: usize) -> Self {
        self.max_ranges = max_ranges;
        self
    }

    /// How many requests so many ranges take.
    pub fn requests(&self, ranges: usize) -> usize {
        ranges.div_ceil(self.max_ranges.max(1))
    }

    /// What it costs to fetch `bytes` in so many ranges.
    pub fn cost(&self, bytes: u64, ranges: usize) -> u64 {
        let requests = self.requests(ranges) as u64;
        // A request for a single range is answered without a multipart envelope.
        let single = if self.max_ranges <= 1 {
            requests
        } else {
            u64::from(ranges == 1)
        };
        let enveloped = ranges as u64 - single.min(ranges as u64);
        bytes
            .saturating_add(self.request.saturating_mul(requests))
            .saturating_add(self.range.saturating_mul(enveloped))
    }

    /// Merges ranges, which must be sorted, must not overlap and must not be empty, into the
    /// cheapest ranges that cover them.
    ///
    /// The cost of a set of ranges depends on nothing but their number and the bytes of the gaps
    /// between those that were joined. So if `k` gaps are filled, the `k` smallest are, and trying
    /// every `k` finds the optimum.
    pub fn merge(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut gaps: Vec<(u64, usize)> = ranges
            .windows(2)
            .enumerate()
            .map(|(i, pair)| (pair[1].start.saturating_sub(pair[0].end), i))
            .filter(|&(gap, _)| gap <= self.max_gap)
            .collect();
        gaps.sort_unstable();
        let mut best = (self.cost(0, ranges.len()), 0);
        let mut filled = 0u64;
        for (k, &(gap, _)) in gaps.iter().enumerate() {
            filled += gap;
            let cost = self.cost(filled, ranges.len() - k - 1);
            // At equal cost fewer ranges are better.
            if cost <= best.0 {
                best = (cost, k + 1);
            }
        }
        let mut join = vec![false; ranges.len()];
        for &(_, i) in &gaps[..best.1] {
            join[i + 1] = true;
        }
        let mut merged: Vec<Range<u64>> = Vec::new();
        for (range, join) in ranges.iter().zip(join) {
            match merged.last_mut() {
                Some(last) if join => last.end = range.end,
                _ => merged.push(range.clone()),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(model: &CostModel, ranges: &[Range<u64>]) -> u64 {
        model.cost(
            ranges.iter().map(|range| range.end - range.start).sum(),
            ranges.len(),
        )
    }

    proptest! {
        #[test]
        fn no_choice_of_gaps_is_cheaper(
            parts in prop::collection::vec((0u64..200, 1u64..50), 1..10),
            request in 0u64..300,
            range in 0u64..100,
            max_ranges in 1usize..5,
            max_gap in prop::sample::select(vec![0, 60, u64::MAX]),
        ) {
            let model = CostModel { request, range, max_ranges, max_gap };
            let mut pos = 0;
            let ranges: Vec<Range<u64>> = parts
                .iter()
                .map(|&(gap, len)| {
                    let start = pos + gap;
                    pos = start + len;
                    start..pos
                })
                .collect();
            let merged = model.merge(&ranges);
            let mut cheapest = u64::MAX;
            for choice in 0..1u32 << (ranges.len() - 1) {
                let mut other: Vec<Range<u64>> = vec![ranges[0].clone()];
                let mut allowed = true;
                for (i, range) in ranges[1..].iter().enumerate() {
                    if choice & (1 << i) != 0 {
                        let last = other.last_mut().unwrap();
                        allowed &= range.start - last.end <= max_gap;
                        last.end = range.end;
                    } else {
                        other.push(range.clone());
                    }
                }
                if allowed {
                    cheapest = cheapest.min(total(&model, &other));
                }
            }
            prop_assert_eq!(total(&model, &merged), cheapest);
            for range in &ranges {
                prop_assert!(merged.iter().any(|m| m.start <= range.start && range.end <= m.end));
            }
        }
    }

    #[test]
    fn without_costs_only_neighbours_are_merged() {
        let merged = CostModel::BYTES_ONLY.merge(&[0..5, 5..9, 10..12]);
        assert_eq!(merged, [0..9, 10..12]);
        assert!(CostModel::default().merge(&[]).is_empty());
    }
}
