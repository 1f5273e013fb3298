//! Fetches verified files from mirrors.
//!
//! The [`Engine`] takes a [`Job`] (the file, its size and digest), a [`MirrorSet`] and a [`Sink`].
//! It writes the bytes of the file to the sink, or returns an error that lists every attempt.
//! `taipan-mirrors` chooses the mirrors; this crate sends the requests, through [`HttpBackend`],
//! [`S3Backend`], [`OciBackend`] and [`FileBackend`].
//!
//! It knows nothing of packages or package managers: a file has a path on a web server or in a
//! bucket, and optionally a repository in a registry ([`Target`]).
//!
//! ```
//! use std::sync::Arc;
//!
//! use taipan_transfer::{
//!     Engine, EngineOptions, Expected, Job, MemorySink, MirrorSet, Sha256, Silent, Target,
//!     HttpClient, HttpOptions,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # std::fs::create_dir(dir.path().join("music"))?;
//! # std::fs::write(dir.path().join("music/song.ogg"), b"la la la")?;
//! # let url = format!("file://{}", dir.path().display());
//! // `url` is `https://…`, `s3://…`, `oci://…` or `file:///…`. `MirrorSet::new` makes a set of
//! // several mirrors.
//! let client = HttpClient::new(&HttpOptions::default())?;
//! let mirrors = MirrorSet::of_url(&url, &client).expect("the URL is valid");
//! let expected = Expected {
//!     size: Some(8),
//!     sha256: Some(Sha256::of(b"la la la")),
//!     ..Expected::default()
//! };
//! let job = Job::content("the song", Target::path("music/song.ogg"), expected);
//!
//! let engine = Engine::new(EngineOptions::default(), Arc::new(Silent));
//! let mut sink = MemorySink::new(1 << 20);
//! let fetched = engine.fetch(&mirrors, &job, &mut sink).await?;
//!
//! assert_eq!(fetched.wasted, 0);
//! assert_eq!(sink.into_bytes(), b"la la la");
//! # Ok(())
//! # }
//! ```
//!
//! # Large files
//!
//! [`Engine::fetch_file`] fetches a large file in segments from several mirrors at once. A partial
//! survives the end of the process, and the next call resumes it.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use taipan_mirrors::{Location, Mirror, Provenance, SelectorConfig};
//! # use taipan_transfer::{
//! #     Engine, EngineOptions, Expected, HttpClient, HttpOptions, Job, MirrorSet, Silent, Target,
//! # };
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let places = ["https://one.example/pub", "s3://bucket/pub", "file:///mnt/pub"];
//! let mirrors = places
//!     .into_iter()
//!     .map(|place| Ok(Mirror::new(Location::parse(place)?, Provenance::CommandLine)))
//!     .collect::<Result<Vec<_>, taipan_mirrors::LocationError>>()?;
//! let client = HttpClient::new(&HttpOptions::default())?;
//! let set = MirrorSet::new(mirrors, SelectorConfig::default(), &client);
//!
//! let expected = Expected {
//!     sha256: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse()?),
//!     ..Expected::default() // the engine requests the size
//! };
//! let job = Job::content("the image", Target::path("images/large.iso"), expected);
//! let options = EngineOptions {
//!     rate_limit: Some(20_000_000), // bytes per second
//!     ..EngineOptions::default()
//! };
//! let engine = Engine::new(options, Arc::new(Silent));
//! let fetched = engine.fetch_file(&set, &job, Path::new("large.iso")).await?;
//! for report in set.reports() {
//!     println!("{} sent {} bytes", report.location, report.bytes);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # zchunk files
//!
//! [`Engine::fetch_zchunk`] fetches only the chunks that older files do not have.
//!
//! ```no_run
//! # use std::path::Path;
//! # use taipan_transfer::{Engine, Job, MirrorSet, Target};
//! # async fn example(engine: Engine, set: MirrorSet) -> Result<(), Box<dyn std::error::Error>> {
//! let job = Job::metadata("the index", Target::path("index.zck"));
//! let old = ["yesterday.zck".into(), "last-week.zck".into()];
//! let fetched = engine.fetch_zchunk(&set, &job, &old, Path::new("index.zck")).await?;
//! if let Some(delta) = fetched.delta {
//!     println!("{} bytes reused, {} fetched", delta.reused_bytes, delta.fetched_bytes);
//! }
//! # Ok(())
//! # }
//! ```

mod backend;
mod blocking;
mod deliver;
mod destination;
mod digest;
mod duplicates;
mod engine;
mod error;
#[cfg(test)]
mod error_texts;
mod event;
mod exchange;
mod fetch;
mod fetched;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod limits;
mod mirror_set;
mod outage;
mod pace;
mod probe;
mod range;
mod rate_limit;
mod sink;
mod target;
mod wait_budget;

pub use backend::{
    Backend, Body, DuplicateHeaders, GetRequest, GetResponse, Ranges, Validators,
    addressed::AddressedBackend,
    credentials::{Credentials, CredentialsError},
    file::FileBackend,
    http::HttpBackend,
    http_client::{
        ClientCertificate, HttpClient, HttpClientError, HttpOptions, ProxyChoice, ServerHeader,
    },
    netrc::{Netrc, NetrcError},
    oci::OciBackend,
    s3::S3Backend,
};
pub use deliver::DeliveryError;
pub use destination::{
    Condition, Deletion, Destination, Held, ListedFile, Listing, NewFile, PutOptions, Stored,
    content::Content,
    file::FileDestination,
    oci::OciDestination,
    outlet::{Outlet, OutletOptions},
    s3::S3Destination,
    sending::Sending,
};
pub use digest::{Expected, Md5, ParseDigestError, Sha1, Sha256, Sha512, Verifier, VerifyError};
pub use duplicates::FileDuplicates;
pub use engine::{Engine, EngineOptions, Job};
pub use error::{Attempt, BackendError, FetchError, TimeoutPhase};
pub use event::{Event, JobId, Observer, Silent};
pub use fetched::{Delta, Fetched};
pub use mirror_set::{Clock, MirrorSet};
pub use probe::{ProbeDetail, ProbeObserver, ProbeRanking, ProbeRound, Probed};
pub use range::{ByteRange, ContentRange, ParseContentRangeError};
pub use sink::{FileSink, MemorySink, Sink, SinkError};
pub use target::{OciTarget, Target};
