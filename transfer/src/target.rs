//! Where a file lies, on every kind of mirror.

/// Where a file lies below the root of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path on web servers, in buckets and in directories: with forward slashes, without a
    /// leading slash, not percent-encoded.
    pub path: String,
    /// Where the file lies in a registry; `None` if registries do not have it.
    pub oci: Option<OciTarget>,
}

impl Target {
    /// A file with a path only.
    pub fn path(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            oci: None,
        }
    }

    /// Whether the path is a sound end of a key in a bucket. A key may have empty segments, but clients resolve `.` and
    /// `..` in it.
    pub(crate) fn is_key(&self) -> bool {
        let sound = |part: &str| !matches!(part, "." | "..") && !part.contains('\0');
        !self.path.is_empty() && self.path.split('/').all(sound)
    }

    /// The segments of the path; `None` if one of them could lead out of the root of a mirror.
    pub(crate) fn segments(&self) -> Option<impl Iterator<Item = &str>> {
        let sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        let parts = || self.path.split('/');
        parts().all(sound).then(parts)
    }

    /// Adds the location in registries.
    #[must_use]
    pub fn with_oci(self, oci: OciTarget) -> Self {
        Self {
            oci: Some(oci),
            ..self
        }
    }
}

/// Where a file lies in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciTarget {
    /// The repository, below the mirror's namespace.
    pub repository: String,
    /// The tag of the manifest that lists the blob.
    pub tag: String,
    /// The media type of the layer that contains the file. With a known digest the blob is
    /// requested at once; the manifest is read only without one, or if the blob is not found.
    pub media_type: String,
}
