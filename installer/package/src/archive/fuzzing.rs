//! Private parsers, for the fuzz targets. Not part of any build without `--cfg fuzzing`.

use super::pax;

/// What an extended header of a tar says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FuzzPax {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// Seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    pub sparse_major: Option<u64>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_real_size: Option<u64>,
    pub sparse_map: Vec<u64>,
}

/// Parses an extended header.
pub fn parse_pax(data: &[u8]) -> Option<FuzzPax> {
    let records = pax::parse_pax(data)?;
    Some(FuzzPax {
        path: records.path,
        linkpath: records.linkpath,
        size: records.size,
        mtime: records.mtime.map(|time| (time.seconds, time.nanoseconds)),
        sparse_major: records.sparse.major,
        sparse_name: records.sparse.name,
        sparse_real_size: records.sparse.real_size,
        sparse_map: records.sparse.map,
    })
}
