//! The command line, as clap sees it. Nothing beyond this file and `settings.rs` knows clap.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are the help, which is no Markdown"
)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A mirror-aware installer for conda packages.
///
/// taipan fetches packages from whichever mirror gives them (HTTP servers, S3 buckets, OCI
/// registries, directories), carries on elsewhere when one fails in the middle, and links them
/// into an environment that conda itself can read.
#[derive(Debug, Parser)]
#[command(
    name = "taipan",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Print one JSON object per line to stdout instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print nothing but errors and what was asked for
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub(crate) quiet: bool,
    /// Say more; twice: log every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// The configuration file [default: taipan/config.toml in the user's configuration directory]
    #[arg(
        long,
        global = true,
        env = "TAIPAN_CONFIG",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Where packages and repodata are kept [default: taipan in the user's cache directory]
    #[arg(
        long,
        global = true,
        env = "TAIPAN_CACHE_DIR",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) cache_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an environment
    Create(InstallArgs),
    /// Install packages into an existing environment
    Install(InstallArgs),
    /// List the packages of an environment
    List(ListArgs),
    /// Show what taipan sees: platform, virtual packages, settings and where each comes from
    Info(InfoArgs),
    /// Fetch files from whichever mirror gives them
    ///
    /// A file is named by its path in a channel, by a URL, or by a metalink. Packages are verified by
    /// the repodata of their channel, what a metalink lists by its digests, anything by --sha256. A
    /// file that is there and right is not fetched again, and nothing wrong gets the final name.
    Fetch(FetchArgs),
    /// Show and measure the mirrors of channels
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Show what taipan does, with mirrors of its own and no network: six of them, of which one
    /// is dead and one serves wrong bytes
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Make, unpack and compare zchunk files
    #[command(subcommand)]
    Zck(ZckCommand),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Where files come from: what all commands take that ask mirrors.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// A channel: a name such as conda-forge, a URL, or a path; the first has priority
    #[arg(short, long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// A list of mirrors, of any kind: a mirrors file, a plain list, a metalink, a .condarc, or
    /// the configuration of rattler or pixi [env: TAIPAN_MIRRORS, several divided by ;]
    #[arg(short, long = "mirrors", value_name = "FILE|URL")]
    pub(crate) mirrors: Vec<String>,
    /// Where channels without a URL lie [default: https://conda.anaconda.org]
    #[arg(long, env = "TAIPAN_CHANNEL_ALIAS", value_name = "URL")]
    pub(crate) channel_alias: Option<String>,
}

/// What `create` and `install` take.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a command line"
)]
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The environment's directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: PathBuf,
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// What to install, e.g. python=3.12 or 'numpy>=2,<3'
    #[arg(value_name = "SPEC")]
    pub(crate) specs: Vec<String>,
    /// A file with one spec per line
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Solve and show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Whether a package may come from a channel other than the first that has its name
    /// [default: strict]
    #[arg(long, env = "TAIPAN_CHANNEL_PRIORITY", value_name = "HOW")]
    pub(crate) channel_priority: Option<Priority>,
    /// The platform to install for [default: this machine's]
    #[arg(long, env = "TAIPAN_PLATFORM", value_name = "SUBDIR")]
    pub(crate) platform: Option<String>,
    /// How many packages are fetched at a time [default: 16]
    #[arg(long, env = "TAIPAN_JOBS", value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Copy files into the environment instead of linking them
    #[arg(long)]
    pub(crate) always_copy: bool,
    /// Do not compile Python sources to bytecode
    #[arg(long)]
    pub(crate) no_compile: bool,
    /// Do not run the link scripts of packages
    #[arg(long)]
    pub(crate) no_scripts: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Priority {
    /// The first channel that has a name is the only one for it
    Strict,
    /// Later channels serve what earlier ones cannot
    Flexible,
    /// All channels are as one
    Disabled,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The environment's directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: PathBuf,
    /// Only packages whose name contains this
    #[arg(value_name = "TEXT")]
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Also show this environment
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the environment and make it here [default: a temporary directory that is removed]
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// What `fetch` takes.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// What to fetch: a path below a channel, as in conda-forge/noarch/repodata.json.zst; with -c
    /// the path alone; a URL; or a file or URL that ends in .meta4 or .metalink
    #[arg(value_name = "[CHANNEL/]PATH|URL", required = true)]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// Where the file goes; - is stdout, to which it goes while it arrives, so that wrong bytes are
    /// known as such, by exit code 5, only after them
    #[arg(short, long, value_name = "FILE", conflicts_with = "directory")]
    pub(crate) output: Option<PathBuf>,
    /// Where files go [default: here]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// The SHA-256 of the file
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// Fetch of a zchunk file only what this older one, or this other one, does not have; a file
    /// that is at the output's place serves, too
    #[arg(long, value_name = "FILE")]
    pub(crate) delta_from: Vec<PathBuf>,
    /// Take the arguments for metalinks, whatever they are called
    #[arg(long, conflicts_with = "sha256")]
    pub(crate) metalink: bool,
    /// The most bytes per second of all files together, such as 500k or 2.5M
    #[arg(long, value_name = "RATE", value_parser = crate::fetch_target::parse_rate)]
    pub(crate) limit_rate: Option<u64>,
    /// The most connections for one file [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) connections: Option<u16>,
    /// Ask no server: only what lies on this machine is used
    #[arg(long)]
    pub(crate) offline: bool,
    /// Do not look up packages in the repodata of their channel
    #[arg(long)]
    pub(crate) no_repodata: bool,
    /// How many files are fetched at a time [default: 16]
    #[arg(long, env = "TAIPAN_JOBS", value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Show the mirrors of channels, who named each, and what earlier runs learnt of it
    ///
    /// Without -c it shows all channels that the lists of mirrors name. With -v it also says how
    /// each mirror stands to the next request.
    List {
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Measure the mirrors of channels now, and rank them
    ///
    /// Each mirror is asked for the same small part of a file that all have. What is learnt serves
    /// the next install. The exit code is 4 when no mirror of a channel serves.
    Probe(ProbeArgs),
}

/// What `mirror probe` takes.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// Also measure mirrors that served a little while ago
    #[arg(long)]
    pub(crate) all: bool,
    /// How long one mirror may take; all of a channel take a second more
    #[arg(long, value_name = "SECS", default_value_t = 1.5)]
    pub(crate) timeout: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ZckCommand {
    /// Make a zchunk file
    Create(ZckCreateArgs),
    /// Unpack a zchunk file
    Extract {
        /// The zchunk file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where its content goes; - is stdout [default: FILE without .zck]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the header of a zchunk file
    Info {
        /// The zchunk file, or a detached header
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Also list its chunks
        #[arg(short, long)]
        chunks: bool,
    },
    /// Show what must be fetched to get from one file to another
    Delta {
        /// What there is: a zchunk file, or a plain file
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// What is wanted: a zchunk file, or a detached header
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
}

/// What `zck create` takes.
#[derive(Debug, Args)]
pub(crate) struct ZckCreateArgs {
    /// The file to pack
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The zchunk file [default: FILE.zck]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The level of compression, 1 to 22 [default: as zck, level 9 with its strategy]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=22))]
    pub(crate) level: Option<i32>,
    /// Do not compress
    #[arg(long, conflicts_with_all = ["level", "dictionary", "train_dictionary"])]
    pub(crate) store: bool,
    /// The checksum of chunks [default: sha512-128, or sha256 with --uncompressed-source]
    #[arg(long, value_name = "KIND")]
    pub(crate) chunk_hash: Option<ChunkHash>,
    /// Also store the checksums of the chunks' content, so that they can be found in files that
    /// were compressed otherwise
    #[arg(short, long)]
    pub(crate) uncompressed_source: bool,
    /// A dictionary for zstd
    #[arg(
        short = 'D',
        long,
        value_name = "FILE",
        conflicts_with = "train_dictionary"
    )]
    pub(crate) dictionary: Option<PathBuf>,
    /// Train a dictionary of at most this many bytes from the chunks
    #[arg(long, value_name = "BYTES")]
    pub(crate) train_dictionary: Option<usize>,
    /// Begin a chunk before each occurrence of this text, and nowhere else
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) split: Option<String>,
    /// Also write the detached header
    #[arg(long, value_name = "FILE")]
    pub(crate) detached_header: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ChunkHash {
    Sha1,
    Sha256,
    Sha512,
    #[value(name = "sha512-128")]
    Sha512_128,
}
