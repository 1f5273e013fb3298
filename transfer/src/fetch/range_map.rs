//! A map from ranges of bytes to values.

use std::{collections::BTreeMap, ops::Range};

/// Values for ranges of bytes. Ranges never overlap, and neighbours with the same value are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeMap<V>(BTreeMap<u64, (u64, V)>);

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Copy + PartialEq> RangeMap<V> {
    /// Sets the value of a range, and replaces those that it had.
    pub(crate) fn insert(&mut self, range: Range<u64>, value: V) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &(touching, same))) = self.0.range(..start).next_back()
            && touching == start
            && same == value
        {
            self.0.remove(&before);
            start = before;
        }
        if let Some(&(after, same)) = self.0.get(&end)
            && same == value
        {
            self.0.remove(&end);
            end = after;
        }
        self.0.insert(start, (end, value));
    }

    /// Removes a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<(u64, u64, V)> = self.overlapping(range.clone()).collect();
        for (start, end, value) in touched {
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, (range.start, value));
            }
            if end > range.end {
                self.0.insert(range.end, (end, value));
            }
        }
    }

    /// The entries that have a byte in common with a range, by start.
    fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        let first = self.0.range(..=range.start).next_back();
        let first = first.map_or(range.start, |(&start, _)| start);
        self.0
            .range(first..range.end)
            .map(|(&start, &(end, value))| (start, end, value))
            .filter(move |&(_, end, _)| end > range.start)
    }

    /// How many bytes of a range have a value.
    pub(crate) fn covered(&self, range: Range<u64>) -> u64 {
        self.overlapping(range.clone())
            .map(|(start, end, _)| end.min(range.end) - start.max(range.start))
            .sum()
    }

    /// How many bytes have a value.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(start, (end, _))| end - start).sum()
    }

    /// How many bytes have a value without a gap from byte 0 on.
    pub(crate) fn front(&self) -> u64 {
        let mut front = 0;
        for (&start, &(end, _)) in &self.0 {
            if start > front {
                break;
            }
            front = end;
        }
        front
    }

    /// The ranges without a value, up to `size`.
    pub(crate) fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut from = 0;
        for (&start, &(end, _)) in &self.0 {
            if start >= size {
                break;
            }
            if start > from {
                gaps.push(from..start);
            }
            from = from.max(end);
        }
        if from < size {
            gaps.push(from..size);
        }
        gaps
    }

    /// All ranges with their values, by start.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<u64>, V)> + '_ {
        self.0
            .iter()
            .map(|(&start, &(end, value))| (start..end, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A vector with one value per byte is the model.
        #[test]
        fn a_map_agrees_with_one_value_per_byte(
            steps in prop::collection::vec((0_u64..64, 0_u64..20, prop::option::of(0_u8..3)), 0..60),
        ) {
            let mut map = RangeMap::default();
            let mut model = [None; 100];
            for (start, length, value) in steps {
                let range = start..start + length;
                let cells = usize::try_from(start).unwrap()..usize::try_from(range.end).unwrap();
                let had = model[cells.clone()].iter().flatten().count();
                prop_assert_eq!(map.covered(range.clone()), had as u64);
                match value {
                    Some(value) => map.insert(range, value),
                    None => map.remove(range),
                }
                model[cells].fill(value);
                let mut bytes = [None; 100];
                let mut last: Option<(u64, u8)> = None;
                for (range, value) in map.iter() {
                    prop_assert!(!range.is_empty());
                    prop_assert!(last.is_none_or(|(end, of)| end < range.start || (end == range.start && of != value)));
                    last = Some((range.end, value));
                    bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].fill(Some(value));
                }
                prop_assert_eq!(bytes, model);
                prop_assert_eq!(map.total(), model.iter().flatten().count() as u64);
                let front = model.iter().take_while(|value| value.is_some()).count();
                prop_assert_eq!(map.front(), front as u64);
                let gaps: u64 = map.gaps(100).iter().map(|gap| gap.end - gap.start).sum();
                prop_assert_eq!(gaps, 100 - map.total());
                for gap in map.gaps(100) {
                    prop_assert_eq!(map.covered(gap), 0);
                }
            }
        }
    }
}
