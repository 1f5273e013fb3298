use std::io::{BufRead, Read};

use serde::Deserialize;

use super::error::{ArchiveError, LimitKind};
use super::tar_extractor::TarExtractor;

/// Real ones have 33 bytes.
const METADATA_BYTES: u64 = 64 << 10;
/// The only version that there is (CEP 35).
const FORMAT_VERSION: u64 = 2;
/// The only method that members may have (CEP 35).
pub(super) const STORED: u16 = 0;

/// What a zip member is to a `.conda`, told by its name (CEP 35).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Metadata,
    Info,
    Package,
    /// Anything else is skipped; a name is never a path here.
    Unknown,
}

impl Role {
    pub(super) fn of(name: &str) -> Self {
        let is_tar = name.ends_with(".tar.zst") && !name.contains('/');
        if name == "metadata.json" {
            Self::Metadata
        } else if is_tar && name.starts_with("info-") {
            Self::Info
        } else if is_tar && name.starts_with("pkg-") {
            Self::Package
        } else {
            Self::Unknown
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Metadata => "metadata.json",
            Self::Info => "info-*.tar.zst",
            Self::Package => "pkg-*.tar.zst",
            Self::Unknown => "of another kind",
        }
    }
}

/// Takes the members of a `.conda` in any order.
pub(super) struct CondaMembers<'u, 'm> {
    pub(super) extractor: &'u mut TarExtractor<'m>,
    seen: Vec<Role>,
}

#[derive(Deserialize)]
struct Metadata {
    conda_pkg_format_version: u64,
}

impl<'u, 'm> CondaMembers<'u, 'm> {
    pub(super) fn new(extractor: &'u mut TarExtractor<'m>) -> Self {
        Self {
            extractor,
            seen: Vec::new(),
        }
    }

    /// Unpacks one member. Reads what it needs of `body`, not more.
    pub(super) fn member(
        &mut self,
        role: Role,
        name: &str,
        body: &mut dyn BufRead,
    ) -> Result<(), ArchiveError> {
        if role == Role::Unknown {
            return Ok(());
        }
        if self.seen.contains(&role) {
            return Err(ArchiveError::RepeatedMember {
                what: role.what(),
                member: name.to_owned(),
            });
        }
        self.seen.push(role);
        if role == Role::Metadata {
            return self.metadata(name, body);
        }
        let decompress = |source| ArchiveError::Decompress {
            member: name.to_owned(),
            source,
        };
        // Several frames, one after the other, are one stream.
        let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(decompress)?;
        let window = self.extractor.meter.limits.zstd_window_log.clamp(10, 31);
        decoder.window_log_max(window).map_err(decompress)?;
        self.extractor.tar(decoder, name)
    }

    /// To be called after the last member.
    pub(super) fn finish(self) -> Result<(), ArchiveError> {
        // `metadata.json` may be missing: it says nothing that the other two do not prove.
        for role in [Role::Info, Role::Package] {
            if !self.seen.contains(&role) {
                return Err(ArchiveError::MissingMember { what: role.what() });
            }
        }
        Ok(())
    }

    fn metadata(&mut self, name: &str, body: &mut dyn BufRead) -> Result<(), ArchiveError> {
        let mut text = Vec::new();
        let meter = self.extractor.meter;
        body.take(METADATA_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|e| {
                meter.explain(e, |source| ArchiveError::Decompress {
                    member: name.to_owned(),
                    source,
                })
            })?;
        if text.len() as u64 > METADATA_BYTES {
            return Err(ArchiveError::Limit {
                member: name.to_owned(),
                what: LimitKind::HeaderBytes,
                limit: METADATA_BYTES,
            });
        }
        // Early writers left the member empty; many such packages are in the channels.
        if text.is_empty() {
            return Ok(());
        }
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|source| ArchiveError::Metadata { source })?;
        if metadata.conda_pkg_format_version != FORMAT_VERSION {
            return Err(ArchiveError::FormatVersion {
                found: metadata.conda_pkg_format_version,
            });
        }
        Ok(())
    }
}

/// Refuses a member that is encrypted or compressed.
pub(super) fn check_stored(name: &str, encrypted: bool, method: u16) -> Result<(), ArchiveError> {
    if encrypted {
        return Err(ArchiveError::EncryptedMember {
            member: name.to_owned(),
        });
    }
    if method != STORED {
        return Err(ArchiveError::CompressedMember {
            member: name.to_owned(),
            method,
        });
    }
    Ok(())
}
