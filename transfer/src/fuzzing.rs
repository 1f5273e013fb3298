//! Private parsers, for the fuzz targets. Not part of any build without `--cfg fuzzing`.

use std::{ops::Range, path::Path};

use crate::{
    Expected, Netrc,
    backend::{byteranges, oci_token},
    fetch::{journal::Key, partial::Partial},
};

/// A challenge of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FuzzChallenge {
    /// `Basic`.
    Basic,
    /// `Bearer`, with its parameters.
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// For which service.
        service: Option<String>,
    },
}

/// The challenges of a `WWW-Authenticate` header.
pub fn challenges(header: &str) -> Vec<FuzzChallenge> {
    oci_token::challenges(header)
        .into_iter()
        .filter_map(|challenge| match challenge {
            oci_token::Challenge::Absent => None,
            oci_token::Challenge::Basic => Some(FuzzChallenge::Basic),
            oci_token::Challenge::Bearer { realm, service } => Some(FuzzChallenge::Bearer {
                realm: realm.into(),
                service,
            }),
        })
        .collect()
}

/// Host, login and password of each machine, in the order of the file.
pub fn netrc_machines(netrc: &Netrc) -> Vec<(Option<String>, String, String)> {
    netrc.machines()
}

/// The boundary in a `Content-Type`.
pub fn boundary(content_type: &str) -> Option<&str> {
    byteranges::boundary(content_type)
}

/// The parts of a body of several ranges.
pub fn parts(
    body: &[u8],
    boundary: &str,
    wanted: &[Range<u64>],
) -> Option<Vec<(u64, Range<usize>)>> {
    byteranges::parts(body, boundary, wanted)
}

/// The ranges that a partial at `path` has, of a file with this length and name; `None` when it
/// cannot be opened.
pub fn partial_ranges(path: &Path, size: u64, name: &str) -> Option<Vec<Range<u64>>> {
    let partial = Partial::open(path, Key::named(name), size, Expected::default()).ok()?;
    let ranges = partial.have().iter().map(|(range, ())| range).collect();
    Some(ranges)
}
