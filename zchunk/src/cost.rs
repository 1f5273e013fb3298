//! The cost of requests, and the ranges to fetch by it.

use std::ops::Range;

/// The cost of a request beyond its bytes, in bytes that could be fetched in the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostModel {
    /// Per request: latency times throughput, and the price of a request.
    pub request: u64,
    /// Per range in a multipart response: its boundary and headers.
    pub range: u64,
    /// The maximum number of ranges per request; at least 1. Many servers support only one.
    pub max_ranges: usize,
    /// Gaps longer than this are never filled; in bytes.
    pub max_gap: u64,
}

impl Default for CostModel {
    /// One range per request, at a cost of 4 KiB each.
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
    /// Only bytes have a cost: no gap is filled.
    pub const BYTES_ONLY: Self = Self {
        request: 0,
        range: 0,
        max_ranges: usize::MAX,
        max_gap: 0,
    };

    /// For servers that support several ranges per request.
    #[must_use]
    pub fn with_max_ranges(mut self, max_ranges: usize) -> Self {
        self.max_ranges = max_ranges;
        self
    }

    /// The number of requests for a number of ranges.
    pub fn requests(&self, ranges: usize) -> usize {
        ranges.div_ceil(self.max_ranges.max(1))
    }

    /// The cost of fetching `bytes` in a number of ranges.
    pub fn cost(&self, bytes: u64, ranges: usize) -> u64 {
        let requests = self.requests(ranges) as u64;
        // The response to a single range is not multipart.
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
    /// The cost of a set of ranges depends only on their number and the sizes of the filled gaps. So the
    /// best `k` gaps to fill are the `k` smallest, and trying every `k` finds the optimum.
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
