//! The options of commands that send files somewhere.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    amounts::{parse_bytes, parse_duration, parse_percent, parse_worker},
    rate_limit::parse_rate_limit,
};

/// How destinations are reached.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DestinationArgs {
    /// Endpoint of the S3 service of destinations [env: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL", help_heading = "Destinations")]
    pub(crate) s3_endpoint: Option<String>,
    /// Region of the buckets of destinations [env: AWS_REGION]
    #[arg(long, value_name = "REGION", help_heading = "Destinations")]
    pub(crate) s3_region: Option<String>,
    /// Name buckets in the path of URLs instead of the host; always so with --s3-endpoint
    #[arg(long, help_heading = "Destinations")]
    pub(crate) s3_path_style: bool,
    /// Maximum number of requests per minute to each registry, for registries that count them
    #[arg(long, value_name = "N", help_heading = "Destinations")]
    pub(crate) requests_per_minute: Option<u32>,
    /// How often a file is sent again after a failure that may pass [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Destinations")]
    pub(crate) retry: Option<u32>,
}

/// What `--prune` removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PruneChoice {
    /// Packages that the source does not list; those that it lists as removed stay, because lock files may
    /// name them
    Unlisted,
    /// Also packages that the source lists as removed
    Removed,
}

/// Options of `mirror sync`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a command line"
)]
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// The channel to copy: a name such as conda-forge, a URL, or a path
    #[arg(
        value_name = "SRC",
        required_unless_present = "sync_file",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) source: String,
    /// Where to: s3://bucket/prefix, oci://host/namespace, oci+http://host:port/namespace, or
    /// file:///directory; each package is read once for all of them
    #[arg(value_name = "DEST", required_unless_present = "sync_file")]
    pub(crate) destinations: Vec<String>,
    /// Carry out the syncs that a TOML file describes, one after the other: tables `sync` with source,
    /// destinations, and options by their names, and `defaults` for all
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destinations"])]
    pub(crate) sync_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) places: DestinationArgs,
    /// Mirror list of the source (repeatable) [env: TAIPAN_MIRRORS, separated by ;]
    #[arg(short, long = "mirrors", value_name = "FILE|URL")]
    pub(crate) mirrors: Vec<String>,
    /// Base URL of channels that are given by name [env: TAIPAN_CHANNEL_ALIAS] [default:
    /// https://conda.anaconda.org]
    #[arg(long, value_name = "URL")]
    pub(crate) channel_alias: Option<String>,
    /// Subdir to copy, for example linux-64 (repeatable) [default: all that the channel has]
    #[arg(long = "subdir", value_name = "SUBDIR")]
    pub(crate) subdirs: Vec<String>,
    /// Copy only packages that match this spec (repeatable)
    #[arg(long, value_name = "SPEC", help_heading = "Filters")]
    pub(crate) include: Vec<String>,
    /// Do not copy packages that match this spec (repeatable)
    #[arg(long, value_name = "SPEC", help_heading = "Filters")]
    pub(crate) exclude: Vec<String>,
    /// Read specs to exclude from a file, one per line (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Filters")]
    pub(crate) exclude_file: Vec<PathBuf>,
    /// Copy only packages whose name is in this file, one per line (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Filters")]
    pub(crate) only_names_in: Vec<PathBuf>,
    /// Copy exactly the packages that a lock file names: pixi.lock, conda-lock.yml, or an explicit list
    /// (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Filters")]
    pub(crate) lock: Vec<PathBuf>,
    /// Also copy what the packages of --include and --only-names-in depend on, by name
    #[arg(long, help_heading = "Filters")]
    pub(crate) with_dependencies: bool,
    /// Copy only the newest N versions of each package
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Filters")]
    pub(crate) newest: Option<u32>,
    /// Copy only packages that were made before this date, as YYYY-MM-DD or RFC 3339
    #[arg(long, value_name = "DATE", help_heading = "Filters")]
    pub(crate) exclude_newer: Option<String>,
    /// Delete packages that the source does not list any more, after --grace
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "unlisted")]
    pub(crate) prune: Option<PruneChoice>,
    /// How long a package stays after the last index that lists it, for example 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    pub(crate) grace: std::time::Duration,
    /// Change nothing if the source lists fewer packages than before by more than this, in percent
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = parse_percent)]
    pub(crate) max_delete: f64,
    /// Publish nothing in a subdir of which a package cannot be copied, instead of leaving it out
    #[arg(long)]
    pub(crate) strict: bool,
    /// Try packages that failed before again at once, instead of after a time that grows with each failure
    #[arg(long)]
    pub(crate) retry_failed: bool,
    /// Also publish repodata.json.zck, of which clients fetch only what is new. In all later runs it is kept up to date
    #[arg(long)]
    pub(crate) zck: bool,
    /// Print what would be copied, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also verify one thirtieth of the mirror, another one each time, and send again what is missing
    #[arg(long)]
    pub(crate) verify: bool,
    /// Do one share of the work: I of N, from 0. All N processes, on any machines, have the same
    /// destinations in the same order; the last one that is done publishes
    #[arg(long, value_name = "I/N", value_parser = parse_worker)]
    pub(crate) worker: Option<(u32, u32)>,
    /// Maximum rate of all transfers together in bytes per second, for example 500k or 2.5M
    #[arg(long, value_name = "RATE", value_parser = parse_rate_limit)]
    pub(crate) limit_rate: Option<u64>,
    /// Stop beginning packages after this number of bytes was sent, for example 10G; the next run continues
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) max_bytes: Option<u64>,
    /// Stop beginning packages after this time, for example 5h; the next run continues
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) max_time: Option<std::time::Duration>,
    /// Maximum number of packages that are copied at a time; the number in use adapts to the servers
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: u16,
    /// Write a JSON object per package that was sent, found, deleted or not copied to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the paths of all files that are new at a destination to this file, for transports to networks
    /// without a connection
    #[arg(long, value_name = "FILE")]
    pub(crate) new_files: Option<PathBuf>,
    /// Write metrics to this file in the text format of Prometheus
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// When no mirror of the source is left, try again for this many seconds [env: TAIPAN_RETRY_FOR]
    /// [default: 60, for mirrors that have responded before]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) retry_for: Option<usize>,
}

/// Options of `upload`.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Packages: .conda or .tar.bz2 files
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Where to: the channel at s3://bucket/prefix, oci://host/namespace, oci+http://host:port/namespace, or
    /// file:///directory
    #[arg(long, value_name = "DEST")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) places: DestinationArgs,
    /// Subdir of packages that do not say for which they are; an error for others that are for another
    #[arg(long, value_name = "SUBDIR")]
    pub(crate) subdir: Option<String>,
    /// Skip packages whose name is taken, even by other content
    #[arg(long, conflicts_with = "force")]
    pub(crate) skip_existing: bool,
    /// Replace packages of the same name and other content
    #[arg(long)]
    pub(crate) force: bool,
    /// Also add the packages to the index of the channel
    #[arg(long)]
    pub(crate) index: bool,
    /// Maximum rate of all transfers together in bytes per second, for example 500k or 2.5M
    #[arg(long, value_name = "RATE", value_parser = parse_rate_limit)]
    pub(crate) limit_rate: Option<u64>,
}

/// Options of `index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// The channel: a directory, or s3://bucket/prefix
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) places: DestinationArgs,
    /// Subdir, for example linux-64 (repeatable) [default: all that have packages, and noarch]
    #[arg(long = "subdir", value_name = "SUBDIR")]
    pub(crate) subdirs: Vec<String>,
    /// Print what would change, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Options of `mirror verify` and `mirror status`.
#[derive(Debug, Args)]
pub(crate) struct MirrorPlaceArgs {
    /// The mirror: s3://bucket/prefix, oci://host/namespace, or file:///directory
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) places: DestinationArgs,
    /// Subdir, for example linux-64 (repeatable) [default: all that the mirror has]
    #[arg(long = "subdir", value_name = "SUBDIR")]
    pub(crate) subdirs: Vec<String>,
}
