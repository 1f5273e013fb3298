//! The command line, as clap parses it. Only this file, `main.rs` and `settings.rs` know clap.

#![expect(
    clippy::doc_markdown,
    reason = "the comments of options are the help, which is not Markdown"
)]

mod auth;
mod publish;
pub(crate) mod sync_file;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::rate_limit::parse_rate_limit;
pub(crate) use auth::{AuthCommand, LoginArgs};
pub(crate) use publish::{
    DestinationArgs, IndexArgs, MirrorPlaceArgs, PruneChoice, SyncArgs, UploadArgs,
};

/// A mirror-aware installer for conda packages.
///
/// taipan downloads packages from HTTP servers, S3 buckets, OCI registries and directories, fails
/// over to another mirror in the middle of a file, verifies everything, and links the packages into
/// an environment that conda can read and change.
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

/// Options of all commands.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Print one JSON object per line to stdout instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print only errors and the requested data
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub(crate) quiet: bool,
    /// Print each request and each failed attempt; -vv: print the log
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Configuration file [env: TAIPAN_CONFIG] [default: taipan/config.toml in the user's
    /// configuration directory]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Directory of downloaded packages and repodata [env: TAIPAN_CACHE_DIR] [default: taipan in the
    /// user's cache directory]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Ignore the configuration files of conda
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_condarc: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an environment
    #[command(override_usage = "taipan create [OPTIONS] --prefix <DIR> [SPEC]...")]
    Create(InstallArgs),
    /// Install packages into an existing environment
    Install(InstallArgs),
    /// List the packages of an environment
    List(ListArgs),
    /// Show the platform, the virtual packages, and the settings with their origins
    Info(InfoArgs),
    /// Download files from mirrors
    ///
    /// An argument is the path of a file below a channel, a URL, or a metalink. A package is verified
    /// by the repodata of its channel, the files of a metalink by its digests, any file by --sha256.
    /// A file that is already present and verified is not downloaded again. A file gets its final
    /// name after verification.
    Fetch(FetchArgs),
    /// Show and measure the mirrors of channels
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Send packages to a channel in a bucket, a registry or a directory
    ///
    /// Each archive is opened and checked first. A package that is there already is not sent again. With
    /// --index the packages are also added to the index; any number of uploads at the same time lose nothing.
    Upload(UploadArgs),
    /// Make or update the index of a channel
    ///
    /// Reads packages that are new or changed since the last time; the records of all others stay as they
    /// are. Writes repodata.json, its zst and zck forms, shards (CEP 16) and run_exports.json of each subdir.
    /// Exits with 6 if a package is left out.
    Index(IndexArgs),
    /// Save, remove and list credentials for registries and web servers
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Demonstrate taipan on six embedded mirrors, one of them down and one corrupt, without network
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Create, extract and compare zchunk files
    #[command(subcommand)]
    Zck(ZckCommand),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Channels and mirrors: options of all commands that fetch.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// Channel: a name such as conda-forge, a URL, or a path; several with commas between them
    /// (repeatable; the first has the highest priority) [env: TAIPAN_CHANNELS, CONDA_CHANNELS] [default:
    /// conda-forge]
    #[arg(short, long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// Mirror list: a mirrors file, a plain list, a metalink, a .condarc, or a configuration file of
    /// rattler or pixi (repeatable) [env: TAIPAN_MIRRORS, separated by ;]
    #[arg(short, long = "mirrors", value_name = "FILE|URL")]
    pub(crate) mirrors: Vec<String>,
    /// Base URL of channels that are given by name [env: TAIPAN_CHANNEL_ALIAS] [default:
    /// https://conda.anaconda.org]
    #[arg(long, value_name = "URL")]
    pub(crate) channel_alias: Option<String>,
}

/// Options of `create` and `install`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a command line"
)]
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Directory of the environment [default of install: the active one, CONDA_PREFIX]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Packages to install, for example python=3.12 or 'numpy>=2,<3'
    #[arg(value_name = "SPEC")]
    pub(crate) specs: Vec<String>,
    /// Read specs from a file, one per line (repeatable)
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Solve and print the plan, but change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Whether a package may come from a channel other than the first that has its name [env:
    /// TAIPAN_CHANNEL_PRIORITY] [default: strict]
    #[arg(long, value_name = "PRIORITY")]
    pub(crate) channel_priority: Option<Priority>,
    /// Platform to install for [env: TAIPAN_PLATFORM, CONDA_SUBDIR] [default: that of the environment, or
    /// of this machine]
    #[arg(long, value_name = "SUBDIR")]
    pub(crate) platform: Option<String>,
    /// Maximum number of concurrent downloads [env: TAIPAN_JOBS] [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// When no mirror is left, try again for this many seconds [env: TAIPAN_RETRY_FOR] [default: 60, for
    /// mirrors that have responded before]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) retry_for: Option<usize>,
    /// Copy files into the environment instead of linking them
    #[arg(long)]
    pub(crate) always_copy: bool,
    /// Do not compile Python sources to bytecode
    #[arg(long)]
    pub(crate) no_compile: bool,
    /// Do not run the link scripts of packages
    #[arg(long)]
    pub(crate) no_scripts: bool,
    /// Accepted for scripts written for conda: taipan never asks
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Priority {
    /// A package comes only from the first channel that has its name
    Strict,
    /// A later channel is used when the earlier ones have no suitable version
    Flexible,
    /// All channels have the same priority
    Disabled,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Directory of the environment [default: the active one, CONDA_PREFIX]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
    /// List only packages whose name contains this text
    #[arg(value_name = "TEXT")]
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Also show the environment in this directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Create the environment in this directory and keep it [default: a temporary directory, removed
    /// at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// Options of `fetch`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of a command line"
)]
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// Files: a path below a channel, such as conda-forge/noarch/repodata.json.zst, or with --channel
    /// such as noarch/repodata.json.zst; a URL; or a metalink, a file or URL that ends in .meta4 or
    /// .metalink
    #[arg(value_name = "[CHANNEL/]PATH|URL", required = true)]
    pub(crate) arguments: Vec<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Output file, or - for stdout; stdout is written before verification: discard it if taipan exits
    /// with 5
    #[arg(short, long, value_name = "FILE", conflicts_with = "directory")]
    pub(crate) output: Option<PathBuf>,
    /// Output directory [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Expected SHA-256 of the file
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// Expected SHA-512 of the file
    #[arg(long, value_name = "HEX")]
    pub(crate) sha512: Option<String>,
    /// Expected MD5 of the file, used without a stronger digest
    #[arg(long, value_name = "HEX")]
    pub(crate) md5: Option<String>,
    /// Reuse chunks of this local zchunk file (repeatable); an existing output file is always used
    #[arg(long, value_name = "FILE")]
    pub(crate) delta_from: Vec<PathBuf>,
    /// Treat all arguments as metalinks
    #[arg(long, conflicts_with_all = ["sha256", "sha512", "md5"])]
    pub(crate) metalink: bool,
    /// Maximum rate of all downloads together in bytes per second, for example 500k or 2.5M
    #[arg(long, value_name = "RATE", value_parser = parse_rate_limit)]
    pub(crate) limit_rate: Option<u64>,
    /// Maximum number of connections per file [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) connections: Option<u16>,
    /// How often a mirror is tried again after a failure that may pass [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) retry: Option<u32>,
    /// Header of the requests to the servers of the URLs given as arguments, for example 'Authorization:
    /// Bearer TOKEN' (repeatable); never sent to other servers
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// Accept any certificate of a server: use it only with a digest
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,
    /// Do not access the network; file:// mirrors are still used
    #[arg(long)]
    pub(crate) offline: bool,
    /// Do not look up packages in the repodata of their channel
    #[arg(long)]
    pub(crate) no_repodata: bool,
    /// Maximum number of concurrent downloads [env: TAIPAN_JOBS] [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// When no mirror is left, try again for this many seconds [env: TAIPAN_RETRY_FOR] [default: 60, for
    /// mirrors that have responded before]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) retry_for: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// List the mirrors of channels, where each was named, and its measurements
    ///
    /// Without --channel, lists all channels that the mirror lists name. With --verbose, also explains
    /// how each mirror would be considered for the next request. Sends no requests to mirrors.
    List {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Measure and rank the mirrors of channels
    ///
    /// Fetches the same small range of one file from each mirror. The next install uses the
    /// measurements. Exits with 4 if a channel has no usable mirror.
    Probe(ProbeArgs),
    /// Copy a channel to buckets, registries and directories, and keep the copies up to date
    ///
    /// Packages are sent before the index that names them. What cannot be copied is left out of the index,
    /// reported, and tried again by a later run; the exit code is then 6. A run that was stopped is continued
    /// by the next one, on any machine.
    Sync(Box<SyncArgs>),
    /// Look whether all packages that the index of a mirror names are there and right
    Verify(MirrorPlaceArgs),
    /// Show what a mirror knows of itself: its source, its age, what is missing, what waits for deletion
    Status(MirrorPlaceArgs),
}

/// Options of `mirror probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Also measure mirrors that were used successfully within the last ten minutes
    #[arg(long)]
    pub(crate) all: bool,
    /// Timeout per mirror in seconds; a channel takes at most one second more
    #[arg(long, value_name = "SECS", default_value_t = 1.5)]
    pub(crate) timeout: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ZckCommand {
    /// Create a zchunk file
    Create(ZckCreateArgs),
    /// Extract the content of a zchunk file
    Extract {
        /// The zchunk file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Output file, or - for stdout [default: FILE without .zck]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the header of a zchunk file
    Info {
        /// The zchunk file, or a detached header
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Also list the chunks
        #[arg(short, long)]
        chunks: bool,
    },
    /// Show how much must be downloaded to update one file to another
    Delta {
        /// The local file: a zchunk file or a plain file
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The new file: a zchunk file or a detached header
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
}

/// Options of `zck create`.
#[derive(Debug, Args)]
pub(crate) struct ZckCreateArgs {
    /// The file to compress
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Output file [default: FILE.zck]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Compression level of zstd, 1 to 22 [default: level 9 with the strategy of the zck tool]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=22))]
    pub(crate) level: Option<i32>,
    /// Store the content without compression
    #[arg(long, conflicts_with_all = ["level", "dictionary", "train_dictionary"])]
    pub(crate) store: bool,
    /// Checksum of chunks [default: sha512-128, or sha256 with --uncompressed-source]
    #[arg(long, value_name = "KIND")]
    pub(crate) chunk_hash: Option<ChunkHash>,
    /// Also store the checksums of the uncompressed chunks, to find them in files that were
    /// compressed differently
    #[arg(short, long)]
    pub(crate) uncompressed_source: bool,
    /// Use this zstd dictionary
    #[arg(
        short = 'D',
        long,
        value_name = "FILE",
        conflicts_with = "train_dictionary"
    )]
    pub(crate) dictionary: Option<PathBuf>,
    /// Train a zstd dictionary of at most this size on the content
    #[arg(long, value_name = "BYTES")]
    pub(crate) train_dictionary: Option<usize>,
    /// Start a new chunk only before each occurrence of this text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) split: Option<String>,
    /// Also write the detached header to this file
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The words of a command, up to what a shell does with its output. Variables become numbers.
    fn words(command: &str) -> Vec<String> {
        let command = command.replace("${{ matrix.worker }}", "0");
        let is_end =
            |word: &&str| !matches!(*word, "|" | "||" | "&&" | "<" | ">") && !word.starts_with('#');
        let words = command.split_whitespace().take_while(is_end);
        words
            .map(|word| match word.split_once('$') {
                Some((before, _)) => format!("{}0/8", before.trim_matches(['\'', '"'])),
                None => word.trim_matches(['\'', '"']).to_owned(),
            })
            .collect()
    }

    /// The command lines in a text: those behind a prompt, and those of scripts and units.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let text = text.replace("\\\n", " ");
        let lines: Vec<&str> = text.lines().collect();
        let mut found = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            let starts = [
                "$ taipan ",
                "taipan ",
                "ExecStart=/usr/local/bin/taipan ",
                "7,37 * * * * flock -n /tmp/taipan-mirror taipan ",
            ];
            let Some(start) = starts.iter().find_map(|start| line.strip_prefix(start)) else {
                continue;
            };
            // A command goes on in more deeply indented or equally indented lines of options.
            let more = lines[number + 1..].iter().map(|line| line.trim_start());
            let more = more.take_while(|line| line.starts_with("--"));
            let whole = std::iter::once(start)
                .chain(more)
                .collect::<Vec<_>>()
                .join(" ");
            found.push(words(&whole));
        }
        found
    }

    #[test]
    fn the_commands_of_the_documents_are_valid() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let documents = [
            ("README.md", 14),
            ("docs/fetch.md", 10),
            ("docs/mirrors.md", 2),
            ("docs/configuration.md", 2),
            ("docs/publishing.md", 4),
            ("docs/operations/crontab", 1),
            ("docs/operations/slurm.sh", 1),
            ("docs/operations/kubernetes.yaml", 2),
            ("docs/operations/ci.yaml", 1),
            ("docs/operations/taipan-mirror.service", 1),
        ];
        for (document, least) in documents {
            let text = std::fs::read_to_string(root.join(document)).unwrap();
            let is_prose = document.ends_with(".md");
            let all = commands(&text);
            let mut count = 0;
            for command in all {
                // In prose a line may begin with the name of the program.
                let arguments = std::iter::once("taipan".to_owned()).chain(command.iter().cloned());
                match Cli::try_parse_from(arguments) {
                    Ok(_) => count += 1,
                    Err(_) if is_prose && !text.contains(&format!("$ taipan {}", command[0])) => {}
                    Err(error) => panic!("{document}: {command:?}: {error}"),
                }
            }
            assert!(count >= least, "{document}: {count} commands");
        }
    }
}
