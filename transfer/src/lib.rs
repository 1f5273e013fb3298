//! Verified bytes from any mirror.
//!
//! Give the [`Engine`] a [`Job`] (which file, how long, which digest), a [`MirrorSet`] and a
//! [`Sink`], and it delivers those bytes or says exactly why nobody could. Which mirror is asked
//! when is decided by `taipan-mirrors`; this crate carries the decision out over [`HttpBackend`],
//! [`S3Backend`], [`OciBackend`] and [`FileBackend`].
//!
//! It knows nothing of packages or package managers: a file has a path on a web server or in a
//! bucket, and optionally a repository in a registry ([`Target`]).

mod backend;
mod digest;
mod engine;
mod error;
mod event;
mod file;
mod http;
mod mirror_set;
mod oci;
mod oci_token;
mod pace;
mod range;
mod s3;
mod sink;
mod target;

pub use backend::{Backend, Body, GetRequest, GetResponse, Validators};
pub use digest::{Expected, Md5, ParseDigestError, Sha256, Verifier, VerifyError};
pub use engine::{Engine, EngineOptions, Fetched, Job};
pub use error::{Attempt, BackendError, FetchError};
pub use event::{Event, JobId, Observer, Silent};
pub use file::FileBackend;
pub use http::{HttpBackend, HttpOptions, http_client};
pub use mirror_set::{Clock, MirrorSet};
pub use oci::OciBackend;
pub use range::{ByteRange, ContentRange, ParseContentRangeError};
pub use s3::S3Backend;
pub use sink::{FileSink, MemorySink, Sink, SinkError};
pub use target::{OciTarget, Target};
