//! Mirror lists, the health of mirrors, and the choice among them.
//!
//! The crate is pure. It opens no socket, reads no clock and draws no random number: the caller gives
//! the time and a seed with each request, and reports observations. So every decision can be replayed
//! and simulated.
//!
//! Lists are mirrors files and the configuration files of other programs ([`MirrorsFile`]), plain
//! lists ([`MirrorList`]), metalinks ([`Metalink`], RFC 5854) and `Link` headers ([`Duplicates`],
//! RFC 6249). [`MirrorSource`] recognises the kind of a file, and [`merge`] merges lists.
//!
//! It must not know how bytes are transferred, nor what they are: of protocols it knows the form of a
//! [`Location`], of package managers the configuration files that name mirrors.
//!
//! # A request
//!
//! ```
//! use std::time::Duration;
//! use taipan_mirrors::{
//!     Choice, Class, Location, Mirror, Observation, Provenance, Request, Selector, SelectorConfig, Time,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mirrors = ["https://one.example/pub", "https://two.example/pub"]
//!     .into_iter()
//!     .map(|url| Ok(Mirror::new(Location::parse(url)?, Provenance::CommandLine)))
//!     .collect::<Result<Vec<_>, taipan_mirrors::LocationError>>()?;
//! let mut selector = Selector::new(mirrors, SelectorConfig::default());
//!
//! let now = Time::from_unix(Duration::from_secs(1_800_000_000));
//! let request = Request::content("dir/file.bin").with_bytes(40_000).with_seed(7);
//! let Choice::Use(pick) = selector.choose(&request, now) else { unreachable!() };
//! selector.started(&pick, now);
//! // … the caller fetches, hashes and verifies the body …
//! let took = Duration::from_millis(80);
//! selector.finished(
//!     pick.mirror,
//!     &Observation::new(now + took, "dir/file.bin", Class::Ok)
//!         .with_bytes(40_000)
//!         .with_first_byte(Duration::from_millis(30))
//!         .with_duration(took),
//! );
//! # Ok(())
//! # }
//! ```

mod freshness;
mod lists;
mod location;
mod mirror;
mod probe_plan;
mod safe_url;
mod segment_plan;
mod selector;
mod time;

pub use freshness::{Freshness, Version, judge_freshness};
pub use lists::condarc::Condarc;
pub use lists::link_header::{Duplicates, digests_of_header};
pub use lists::list_error::{ListError, ListProblem, SkipReason, Skipped};
pub use lists::listed_digest::ListedDigest;
pub use lists::metalink::{FileVersion, Metalink, MetalinkFile};
pub use lists::mirror_list::MirrorList;
pub use lists::mirror_source::MirrorSource;
pub use lists::mirrors_file::{CollectionMirrors, MirrorsFile};
pub use lists::text::{DecodeError, decode_text};
pub use location::{Location, LocationError, OciLocation, S3Location, distinct_texts};
pub use mirror::{Mirror, MirrorId, Provenance, merge};
pub use probe_plan::{
    ProbeConfig, ProbeKind, ProbePlan, ProbeResult, ProbeSample, ProbeStep, Verdict,
};
pub use safe_url::{SafeUrl, mask_text, masked_in, without_credentials, without_credentials_in};
pub use segment_plan::{SegmentConfig, SegmentId, SegmentPlan, SegmentStep};
pub use selector::Selector;
pub use selector::config::SelectorConfig;
pub use selector::observation::{Class, Observation, Progress};
pub use selector::report::{Circuit, ClassCounts, LastOutcome, MirrorReport};
pub use selector::request::{Choice, Kind, Pick, Request};
pub use selector::state::{SavedState, StateWarning};
pub use selector::tried::Tried;
pub use selector::why::{DemotionReason, Why};
pub use time::Time;
