//! `taipan create` and `taipan install`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use rattler_conda_types::{MatchSpec, PackageRecord, PrefixRecord, RepoDataRecord};
use serde::Serialize;
use taipan_channel::{Freshness, RepodataCache, RepodataOptions, SubdirIndex, fetch_index};
use taipan_installer::{
    ChannelMirrors, LinkOptions, LinkPackage, Plan, Prefix, Prepared, Preparer, Summary,
    Transaction, Wanted,
};
use taipan_mirrors::SafeUrl;
use taipan_package::{ExtractLimits, Store};
use taipan_solver::{
    ChannelIndexes, ChannelPriority, Solution, SolveRequest, UpdatePolicy, detect_virtual_packages,
    parse_spec, solve,
};
use taipan_transfer::Engine;

use super::package::PackageLine;
use crate::{
    args::{InstallArgs, Priority},
    context::{Context, Wanted as WantedChannels},
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, bytes, table},
    progress::{Downloads, Links},
    settings::Settings,
};

/// How long the solver may take. Real environments take well under a second.
const SOLVE_TIMEOUT: Duration = Duration::from_mins(5);

/// Runs the command. `creating` tells `create` from `install`.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &InstallArgs,
    creating: bool,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let specs = read_specs(args)?;
    let prefix = Prefix::open(&args.prefix)?;
    check_prefix(&prefix, creating)?;
    let context = interrupt.or(Context::new(settings, WantedChannels::Settings, printer));
    let context = context.await.ok_or(AppError::Interrupted)??;
    let work = Install {
        settings,
        printer,
        args,
        interrupt,
        context,
    };
    let result = work.run(&prefix, specs, creating).await;
    // What was learnt of the mirrors is worth keeping above all when it went wrong.
    work.context.save();
    result
}

struct Install<'a> {
    settings: &'a Settings,
    printer: &'a Arc<Printer>,
    args: &'a InstallArgs,
    interrupt: &'a Interrupt,
    context: Context,
}

/// The specs of the command line and of spec files.
fn read_specs(args: &InstallArgs) -> Result<Vec<MatchSpec>, AppError> {
    let mut specs = Vec::new();
    for text in &args.specs {
        specs.push(parse_spec(text)?);
    }
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|source| AppError::ReadSpecs {
            path: path.clone(),
            source,
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{}:{}: `{line}`", path.display(), number + 1);
            let spec = parse_spec(line);
            specs.push(spec.map_err(|source| AppError::SpecFile {
                place: place(),
                source,
            })?);
        }
    }
    Ok(specs)
}

fn check_prefix(prefix: &Prefix, creating: bool) -> Result<(), AppError> {
    let path = prefix.path();
    match (creating, prefix.is_environment()) {
        (true, true) => Err(AppError::IsEnvironment {
            prefix: path.to_owned(),
        }),
        // What a killed run left is repaired by this one.
        (_, false) if prefix.is_interrupted() => Ok(()),
        (true, false) => {
            let foreign = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.is_ok_and(|entry| entry.file_name() != "conda-meta")
            };
            let occupied = match std::fs::read_dir(path) {
                Ok(mut entries) => entries.any(foreign),
                Err(error) => error.kind() == std::io::ErrorKind::NotADirectory,
            };
            if occupied {
                Err(AppError::NotEmpty {
                    prefix: path.to_owned(),
                })
            } else {
                Ok(())
            }
        }
        (false, true) => Ok(()),
        (false, false) => Err(AppError::NoEnvironment {
            prefix: path.to_owned(),
        }),
    }
}

impl Install<'_> {
    async fn run(
        &self,
        prefix: &Prefix,
        specs: Vec<MatchSpec>,
        creating: bool,
    ) -> Result<Exit, AppError> {
        let started = Instant::now();
        // The lock comes first: what is installed must not change between reading and linking,
        // and what a killed run left is repaired now. A dry run writes nothing.
        let locked = if self.args.dry_run {
            None
        } else {
            let (prefix, flag) = (prefix.clone(), Arc::clone(self.interrupt.flag()));
            Some(blocking(move || prefix.lock(&flag)).await?)
        };
        let installed = prefix.records()?;
        let indexes = self.interruptible(self.repodata()).await??;
        let solved = Instant::now();
        let solution = self
            .solve(prefix, &specs, &installed, indexes.clone())
            .await?;
        let solve_time = solved.elapsed();
        let wanted = wanted(&solution, &specs, &installed);
        let plan = Plan::between(&installed, &wanted)?;
        let records: Vec<RepoDataRecord> = plan
            .link
            .iter()
            .map(|planned| planned.record.clone())
            .collect();
        let store = Arc::new(self.store().await?);
        let bringing = |engine: Engine| Preparer {
            engine,
            store: Arc::clone(&store),
            channels: self.context.channels.clone(),
            client: self.context.client.clone(),
            spool_dir: self.settings.cache_dir.value.join("partial"),
            limits: ExtractLimits::default(),
            jobs: self.context.jobs(),
        };
        let silent = bringing(self.context.engine(Arc::new(taipan_transfer::Silent)));
        let (missing, size) = silent.missing(&records);
        self.show_plan(&plan, missing, size, solve_time);
        let Some(locked) = locked else {
            self.printer.say("This was a dry run: nothing was done.");
            return Ok(Exit::Done);
        };

        let downloads = Downloads::new(self.printer, "download and extract", Some(size));
        let engine = self.context.engine(downloads.clone());
        let fetching = Instant::now();
        let prepared = self.interruptible(bringing(engine).prepare(records)).await;
        downloads.finish();
        let prepared = prepared??;
        let fetch_time = fetching.elapsed();

        let linking = Instant::now();
        let transaction = transaction(plan, &prepared, &indexes);
        let summary = self.link(transaction, locked, &specs).await?;
        let times = Times {
            solve: solve_time.as_secs_f64(),
            fetch: fetch_time.as_secs_f64(),
            link: linking.elapsed().as_secs_f64(),
            total: started.elapsed().as_secs_f64(),
        };
        self.show_summary(
            prefix.path(),
            &summary,
            &prepared,
            downloads.received(),
            times,
            creating,
        );
        Ok(Exit::Done)
    }

    /// Runs `work` unless the user wants us to stop first.
    async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, AppError> {
        self.interrupt.or(work).await.ok_or(AppError::Interrupted)
    }

    async fn store(&self) -> Result<Store, AppError> {
        let root = self.settings.cache_dir.value.join("pkgs");
        Ok(blocking(move || Store::open(root)).await?)
    }

    /// The indexes of all channels, fetched at once.
    async fn repodata(&self) -> Result<Vec<ChannelIndexes>, AppError> {
        let downloads = Downloads::new(self.printer, "repodata", None);
        let engine = self.context.engine(downloads.clone());
        let cache = RepodataCache::new(self.settings.cache_dir.value.join("repodata"));
        let platform = self.settings.platform.value.to_string();
        let subdirs: BTreeSet<&str> = [platform.as_str(), "noarch"].into();
        let requests = self.context.channels.iter().flat_map(|place| {
            let (engine, cache) = (&engine, &cache);
            subdirs.iter().map(move |subdir| async move {
                let ChannelMirrors { channel, mirrors } = place;
                let options = RepodataOptions::default();
                fetch_index(engine, mirrors, channel, subdir, cache, options).await
            })
        });
        let fetched = try_join_all(requests).await;
        downloads.finish();
        let mut fetched = fetched?.into_iter();
        let mut indexes = Vec::new();
        for ChannelMirrors { channel, .. } in &self.context.channels {
            let of_channel: Vec<SubdirIndex> = fetched.by_ref().take(subdirs.len()).collect();
            if of_channel
                .iter()
                .all(|subdir| matches!(subdir.freshness, Freshness::Absent))
            {
                return Err(AppError::NoRepodata {
                    channel: channel.to_string(),
                    subdirs: subdirs
                        .iter()
                        .map(|subdir| format!("{channel}/{subdir}"))
                        .collect(),
                });
            }
            for subdir in &of_channel {
                self.show_repodata(channel.name(), subdir);
            }
            indexes.push(ChannelIndexes {
                name: channel.name().to_owned(),
                url: channel.canonical_url(),
                indexes: of_channel.into_iter().map(|subdir| subdir.index).collect(),
            });
        }
        Ok(indexes)
    }

    fn show_repodata(&self, channel: &str, subdir: &SubdirIndex) {
        #[derive(Serialize)]
        struct Repodata<'a> {
            channel: &'a str,
            subdir: &'a str,
            records: usize,
            freshness: &'a str,
            url: &'a str,
        }
        let name = &subdir.subdir;
        let freshness = match &subdir.freshness {
            Freshness::Fetched => "fetched",
            Freshness::Unchanged => "unchanged",
            Freshness::Absent => "absent",
            Freshness::Stale(error) => {
                self.printer.warn(&format!(
                    "the repodata of {channel}/{name} cannot be had, so the cached copy is used, \
                     which may be out of date: {error}"
                ));
                "stale"
            }
        };
        let (records, url) = (subdir.index.len(), subdir.url.as_str());
        self.printer.detail(&format!(
            "  {channel}/{name}: {records} records, {freshness}"
        ));
        let repodata = Repodata {
            channel,
            subdir: name,
            records,
            freshness,
            url,
        };
        self.printer.object("repodata", &repodata);
    }

    async fn solve(
        &self,
        prefix: &Prefix,
        specs: &[MatchSpec],
        installed: &[PrefixRecord],
        channels: Vec<ChannelIndexes>,
    ) -> Result<Solution, AppError> {
        let pins = prefix.pinned()?;
        let pins = pins
            .iter()
            .map(|pin| parse_spec(pin))
            .collect::<Result<Vec<_>, _>>()?;
        // What was asked for earlier still holds, unless it is asked for otherwise now.
        let named: BTreeSet<_> = specs.iter().filter_map(|s| s.name.as_exact()).collect();
        let mut all = specs.to_vec();
        for record in installed {
            let package = &record.repodata_record.package_record;
            if named.contains(&package.name) {
                continue;
            }
            for text in &record.requested_specs {
                // A spec that another tool wrote and that we cannot read asks for the name.
                let spec = parse_spec(text).or_else(|_| parse_spec(package.name.as_normalized()));
                all.extend(spec);
            }
        }
        let request = SolveRequest {
            channels,
            specs: all,
            installed: installed
                .iter()
                .map(|record| record.repodata_record.clone())
                .collect(),
            pins,
            virtual_packages: detect_virtual_packages()?,
            channel_priority: match self.settings.channel_priority.value {
                Priority::Strict => ChannelPriority::Strict,
                Priority::Flexible => ChannelPriority::Flexible,
                Priority::Disabled => ChannelPriority::Disabled,
            },
            update: UpdatePolicy::KeepInstalled,
            timeout: Some(SOLVE_TIMEOUT),
            cancel: Some(Arc::clone(self.interrupt.flag())),
            ..SolveRequest::default()
        };
        Ok(blocking(move || solve(&request)).await?)
    }

    async fn link(
        &self,
        transaction: Transaction,
        locked: taipan_installer::LockedPrefix,
        specs: &[MatchSpec],
    ) -> Result<Summary, AppError> {
        let command = std::env::args()
            .map(|arg| quote(&arg))
            .collect::<Vec<_>>()
            .join(" ");
        let mut options = LinkOptions::default()
            .with_tool("taipan", env!("CARGO_PKG_VERSION"), command)
            .with_run_scripts(!self.args.no_scripts)
            .with_compile_pyc(!self.args.no_compile)
            .with_byte_code_cache(self.settings.cache_dir.value.join("pyc"))
            .with_update_specs(specs.iter().map(ToString::to_string).collect());
        if self.settings.always_copy.value {
            options = options.with_always_copy();
        }
        let links = Links::new(self.printer);
        let (observer, flag) = (Arc::clone(&links), Arc::clone(self.interrupt.flag()));
        let result =
            blocking(move || transaction.execute(&locked, &options, &*observer, &flag)).await;
        links.finish();
        Ok(result?)
    }

    fn show_plan(&self, plan: &Plan, missing: usize, size: u64, solve_time: Duration) {
        #[derive(Serialize)]
        struct Planned<'a> {
            link: Vec<PackageLine<'a>>,
            unlink: Vec<PackageLine<'a>>,
            unchanged: usize,
            download_count: usize,
            download_bytes: u64,
            solve_seconds: f64,
        }
        let mut gone: BTreeMap<&str, &PackageRecord> = plan
            .unlink
            .iter()
            .map(|record| &record.repodata_record.package_record)
            .map(|package| (package.name.as_normalized(), package))
            .collect();
        let mut rows = Vec::new();
        let mut links: Vec<&RepoDataRecord> = plan.link.iter().map(|link| &link.record).collect();
        links.sort_by_key(|record| record.package_record.name.as_normalized());
        for record in links {
            let package = &record.package_record;
            let before = gone.remove(package.name.as_normalized());
            let sign = if before.is_some() { "~" } else { "+" };
            let was = before.map(|old| format!("was {} {}", old.version, old.build));
            rows.push(vec![
                format!("{sign} {}", package.name.as_source()),
                package.version.to_string(),
                package.build.to_string(),
                package.size.map(bytes).unwrap_or_default(),
                was.unwrap_or_default(),
            ]);
        }
        for (name, package) in gone {
            rows.push(vec![
                format!("- {name}"),
                package.version.to_string(),
                package.build.to_string(),
            ]);
        }
        if rows.is_empty() {
            self.printer
                .say("Everything that was asked for is installed.");
        } else {
            self.printer.say(&table(&rows, &[1, 2, 4]));
            self.printer.say(&format!(
                "{} to link, {} to remove, {missing} to download ({}); solved in {:.2} s",
                plan.link.len(),
                plan.unlink.len(),
                bytes(size),
                solve_time.as_secs_f64()
            ));
        }
        let planned = Planned {
            link: plan
                .link
                .iter()
                .map(|link| PackageLine::new(&link.record))
                .collect(),
            unlink: plan
                .unlink
                .iter()
                .map(|record| PackageLine::new(&record.repodata_record))
                .collect(),
            unchanged: plan.keep.len(),
            download_count: missing,
            download_bytes: size,
            solve_seconds: solve_time.as_secs_f64(),
        };
        self.printer.object("plan", &planned);
    }

    fn show_summary(
        &self,
        prefix: &Path,
        summary: &Summary,
        prepared: &[Prepared],
        received: u64,
        times: Times,
        creating: bool,
    ) {
        #[derive(Serialize)]
        struct Done<'a> {
            prefix: &'a Path,
            linked: usize,
            unlinked: usize,
            files: usize,
            downloaded_packages: usize,
            received_bytes: u64,
            seconds: Times,
        }
        super::mirrors::show(self.printer, &self.context.channels);
        let downloaded = prepared
            .iter()
            .filter(|prepared| prepared.fetched.is_some())
            .count();
        let verb = if creating { "Created" } else { "Changed" };
        if summary.linked.is_empty() && summary.unlinked.is_empty() && !creating {
            self.printer.say("Nothing was to be done.");
        } else {
            self.printer.say(&format!(
                "{verb} {}: {} packages and {} files linked, {} removed, {} in {:.1} s",
                prefix.display(),
                summary.linked.len(),
                summary.files,
                summary.unlinked.len(),
                bytes(received),
                times.total
            ));
            self.printer.detail(&format!(
                "  solve {:.2} s, download and extract {:.2} s, link {:.2} s",
                times.solve, times.fetch, times.link
            ));
        }
        let done = Done {
            prefix,
            linked: summary.linked.len(),
            unlinked: summary.unlinked.len(),
            files: summary.files,
            downloaded_packages: downloaded,
            received_bytes: received,
            seconds: times,
        };
        self.printer.object("done", &done);
    }
}

/// How long each part took, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    solve: f64,
    fetch: f64,
    link: f64,
    total: f64,
}

/// The complete environment, with the specs by which its packages were asked for now.
fn wanted(solution: &Solution, specs: &[MatchSpec], installed: &[PrefixRecord]) -> Vec<Wanted> {
    let mut requested: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for spec in specs {
        if let Some(name) = spec.name.as_exact() {
            requested
                .entry(name.as_normalized())
                .or_default()
                .push(spec.to_string());
        }
    }
    solution
        .records
        .iter()
        .map(|record| {
            let name = record.package_record.name.as_normalized();
            // What is installed keeps the record that it was installed by, so that a channel that
            // has since rewritten its metadata causes no work.
            let kept = installed
                .iter()
                .map(|installed| &installed.repodata_record)
                .find(|old| {
                    old.package_record.name == record.package_record.name
                        && old.package_record.version == record.package_record.version
                        && old.package_record.build == record.package_record.build
                        && old.package_record.sha256 == record.package_record.sha256
                });
            let mut wanted = Wanted::new(kept.unwrap_or(record).clone());
            wanted.requested_specs = requested.remove(name);
            wanted
        })
        .collect()
}

/// Pairs what is to be linked with where it was unpacked.
fn transaction(plan: Plan, prepared: &[Prepared], indexes: &[ChannelIndexes]) -> Transaction {
    let mut prepared = prepared.iter();
    let result = Transaction::new(plan, |planned| {
        // They were prepared from the plan, in its order.
        let package = prepared
            .next()
            .expect("each package of the plan was prepared");
        let record = &planned.record;
        let file = record.identifier.to_file_name();
        let mut link = LinkPackage::new(record.clone(), &package.dir);
        // Where conda would have the archive. It is not kept, but the field is part of a record.
        link.package_tarball_full_path = Some(package.dir.with_file_name(&file));
        // Keys that only the repodata knows stay in the record.
        let listed = indexes
            .iter()
            .filter(|channel| record.url.as_str().starts_with(channel.url.as_str()))
            .flat_map(|channel| &channel.indexes)
            .filter(|index| index.subdir() == record.package_record.subdir)
            .find_map(|index| index.fields(&record.package_record.name, &file));
        link.extra = listed.unwrap_or_default();
        Ok::<_, std::convert::Infallible>(link)
    });
    match result {
        Ok(transaction) => transaction,
        Err(never) => match never {},
    }
}

/// An argument as a shell would take it, for the history.
fn quote(argument: &str) -> String {
    // A password in a URL is not for posterity.
    let is_url = argument.contains("://");
    let masked = is_url.then(|| argument.parse::<SafeUrl>().ok().map(|url| url.to_string()));
    let masked = masked.flatten();
    let argument = masked.as_deref().unwrap_or(argument);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''").replace('\n', " "))
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
