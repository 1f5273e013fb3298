/// Which parts of a sparse file the archive holds; what lies between is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// Offset and length, ascending and disjoint, lengths positive.
    pub(super) parts: Vec<(u64, u64)>,
    /// Size of the file with its holes.
    pub(super) real_size: u64,
}

impl SparseMap {
    /// `None` when parts overlap, are out of order, leave the file, or do not add up to the bytes
    /// that the archive holds for the entry.
    pub(super) fn new(
        parts: impl IntoIterator<Item = (u64, u64)>,
        real_size: u64,
        stored: u64,
    ) -> Option<Self> {
        let mut kept = Vec::new();
        let mut end = 0;
        let mut sum: u64 = 0;
        for (offset, length) in parts {
            // Writers mark the end of the file with a part of no bytes.
            if length == 0 {
                if offset > real_size {
                    return None;
                }
                continue;
            }
            if offset < end {
                return None;
            }
            end = offset.checked_add(length)?;
            sum = sum.checked_add(length)?;
            kept.push((offset, length));
        }
        (end <= real_size && sum == stored).then_some(Self {
            parts: kept,
            real_size,
        })
    }

    /// Bytes that are in no part.
    pub(super) fn hole_bytes(&self) -> u64 {
        self.real_size - self.parts.iter().map(|(_, length)| length).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_ascend_fit_and_add_up() {
        let map = SparseMap::new([(0, 2), (10, 3), (20, 0)], 20, 5).unwrap();
        assert_eq!(map.parts, [(0, 2), (10, 3)]);
        assert_eq!(map.hole_bytes(), 15);
        assert!(SparseMap::new([(5, 2), (0, 2)], 20, 4).is_none());
        assert!(SparseMap::new([(0, 5), (4, 2)], 20, 7).is_none());
        assert!(SparseMap::new([(19, 2)], 20, 2).is_none());
        assert!(SparseMap::new([(0, 2)], 20, 3).is_none());
        assert!(SparseMap::new([(u64::MAX, 2)], u64::MAX, 2).is_none());
    }
}
