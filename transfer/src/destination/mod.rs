//! The interface between the engine and the places that files are sent to.

pub(crate) mod body;
pub(crate) mod content;
pub(crate) mod file;
mod multipart;
pub(crate) mod oci;
pub(crate) mod outlet;
mod request_budget;
pub(crate) mod s3;
pub(crate) mod sending;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{BackendError, Expected, Md5, OciTarget, Sha256, Target};
use content::Content;
use sending::Sending;

/// A file that is to be stored, with what its readers and the server are told of it.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Where it lies.
    pub target: Target,
    /// Its bytes.
    pub content: Content,
    /// The digest of its bytes. A server that stores other bytes is noticed.
    pub sha256: Sha256,
    /// The same, as most buckets return it for an object that was sent with one request.
    pub md5: Option<Md5>,
    /// The media type on web servers and in buckets.
    pub content_type: &'static str,
    /// The value of `Cache-Control` in buckets.
    pub cache_control: Option<&'static str>,
    /// What must hold of the file that is there now.
    pub condition: Condition,
    /// Annotations of the layer in a registry.
    pub annotations: Vec<(String, String)>,
}

impl NewFile {
    /// A file with these bytes, which are read once for their digest.
    pub async fn new(target: Target, content: Content) -> Result<Self, BackendError> {
        let sha256 = content.sha256().await?;
        Ok(Self::known(target, content, sha256, None))
    }

    /// A file whose digests are known.
    pub fn known(target: Target, content: Content, sha256: Sha256, md5: Option<Md5>) -> Self {
        Self {
            target,
            content,
            sha256,
            md5,
            content_type: "application/octet-stream",
            cache_control: None,
            condition: Condition::None,
            annotations: Vec::new(),
        }
    }

    /// Sets the media type and the value of `Cache-Control`.
    #[must_use]
    pub fn with_headers(
        self,
        content_type: &'static str,
        cache_control: Option<&'static str>,
    ) -> Self {
        Self {
            content_type,
            cache_control,
            ..self
        }
    }

    /// Sets what must hold of the file that is there now.
    #[must_use]
    pub fn with_condition(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }
}

/// What must hold of the file that is at a place, so that another replaces it. Only some destinations
/// [honour](Destination::honours_conditions) conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// There is none.
    Absent,
    /// It has this entity tag.
    Unchanged(String),
}

/// How files are stored in a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Whether the manifest keeps its layers of other media types. Without it, the new manifest lists only the
    /// files that are put. Elsewhere files are independent of each other.
    pub keeps_other_layers: bool,
}

/// What a destination has stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The entity tag of the file, for a [`Condition`]; that of the manifest in a registry.
    pub etag: Option<String>,
}

/// What is known of a file at a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its entity tag.
    pub etag: Option<String>,
    /// The digest of its bytes, if it is proved: by what was stored with it, or by reading it.
    pub sha256: Option<Sha256>,
    /// The same.
    pub md5: Option<Md5>,
}

impl Held {
    /// Whether it is the expected file, and that is proved.
    pub fn is(&self, expected: &Expected) -> bool {
        let size = match (self.size, expected.size) {
            (Some(held), Some(expected)) => held == expected,
            _ => true,
        };
        let sha256 = match (self.sha256, expected.sha256) {
            (Some(held), Some(expected)) => Some(held == expected),
            _ => None,
        };
        let md5 = match (self.md5, expected.md5) {
            (Some(held), Some(expected)) => Some(held == expected),
            _ => None,
        };
        size && sha256.or(md5) == Some(true)
    }
}

/// What became of the request to delete a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// It is not there any more.
    Done,
    /// The destination does not delete files.
    Unsupported,
    /// It was refused, for this reason.
    Refused(String),
}

/// One file of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The path below the destination.
    pub path: String,
    /// What is known of it.
    pub held: Held,
}

/// A part of a listing, in the order of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The files.
    pub files: Vec<ListedFile>,
    /// The path after which the next part begins; `None` at the end.
    pub next: Option<String>,
}

/// A place that files are sent to, in its own protocol. A destination does not retry: retries, timeouts and rate limits are
/// up to the engine. Sending the same file again continues what an earlier attempt began, where the
/// protocol allows it.
#[async_trait]
pub trait Destination: std::fmt::Debug + Send + Sync {
    /// What is known of a file; `None` if it is not there. Digests in `expected` tell what is to be proved.
    async fn look(
        &self,
        target: &Target,
        expected: &Expected,
    ) -> Result<Option<Held>, BackendError>;

    /// Stores files, in this order. In a registry they are layers of one manifest, and must have the same repository and
    /// tag.
    async fn put(
        &self,
        files: &[NewFile],
        options: PutOptions,
        sending: &Arc<Sending>,
    ) -> Result<Vec<Stored>, BackendError>;

    /// Deletes files. The result has their order.
    async fn delete(&self, targets: &[Target]) -> Result<Vec<Deletion>, BackendError>;

    /// The files whose path begins with `prefix`, after the path `after`. `None` if the protocol has no listings.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Option<Listing>, BackendError>;

    /// The tags of a repository; `None` if the destination has no repositories.
    async fn tags(&self, repository: &str) -> Result<Option<Vec<String>>, BackendError>;

    /// Whether a [`Condition`] is honoured. It may send requests, once.
    async fn honours_conditions(&self) -> Result<bool, BackendError>;

    /// Ends uploads of ours that began before this many seconds and were not completed. Returns how many.
    async fn sweep(&self, older_than: std::time::Duration) -> Result<usize, BackendError>;

    /// The printable URL of a file.
    fn describe(&self, target: &Target) -> String;
}

/// The common repository and tag of files in a registry.
fn common_image<'f>(files: &'f [NewFile], place: &str) -> Result<&'f OciTarget, BackendError> {
    let bad = |path: &str| BackendError::BadPath {
        path: path.to_owned(),
        place: place.to_owned(),
    };
    let first = files.first().ok_or_else(|| bad(""))?;
    let image = (first.target.oci.as_ref()).ok_or_else(|| bad(&first.target.path))?;
    for file in files {
        let is_same = (file.target.oci.as_ref())
            .is_some_and(|oci| oci.repository == image.repository && oci.tag == image.tag);
        if !is_same {
            return Err(bad(&file.target.path));
        }
    }
    Ok(image)
}
